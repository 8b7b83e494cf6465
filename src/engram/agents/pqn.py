"""PQN: Q(lambda) from rollouts, without a replay and without a target network.

Source: Gallici et al. 2024 (arXiv 2407.04811), algorithm 1. Normalised layers keep it stable; set `encoder.norm`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from engram.agents.rollout import Examples, Steps
from engram.agents.rollout_learning import RolloutSpec
from engram.losses.returns import lambda_returns
from engram.registry import register
from engram.specs import spec
from engram.types import Decision, Distribution, Metrics


class KnownValue(NamedTuple):
    """What acting knew of an action."""

    value: Float[Array, "*batch"]  # Q of the preferred action, with an external memory's share in it


@register("agent", "pqn")
@spec
class PQNSpec(RolloutSpec):
    """Q of every action is drawn to the lambda-return of the action taken.

    What came next is worth its greatest Q, as the network held when it acted. An external memory has its share in that.
    """

    def check(self) -> None:
        super().check()
        self._check_values()

    @property
    def metrics(self) -> tuple[str, ...]:
        return "loss", "q_mean"

    def known(self, decision: Decision, action: Int[Array, ""]) -> KnownValue:
        return KnownValue(decision.value)

    def targets(self, steps: Steps) -> Float[Array, "time envs"]:
        return lambda_returns(steps.reward, steps.discount, steps.following, steps.ends, self.trace)

    def loss_of(self, decision: Decision, rows: Examples) -> tuple[Float[Array, ""], Metrics]:
        returns = jax.vmap(lambda each, action: each.of(action))(decision.returns, rows.action)
        each = jax.vmap(self.loss)(returns, sure(rows.target))
        count = jnp.maximum(rows.weight.sum(), 1.0)
        return (rows.weight * each).sum() / count, {"q_mean": (rows.weight * returns.mean).sum() / count}


def sure(value: Float[Array, "rows"]) -> Distribution:
    """Numbers as distributions of one atom each."""
    return Distribution(value[:, None], jnp.ones((len(value), 1)))
