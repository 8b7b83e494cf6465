"""PQN: Q(lambda) from rollouts, without a replay and without a target network.

Source: Gallici et al. 2024 (arXiv 2407.04811), algorithm 1. Normalised layers keep it stable; set `encoder.norm`.
"""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int

from engram.agents.rollout import Examples, Steps, mean, sure, taken
from engram.agents.rollout_learning import RolloutSpec
from engram.losses.returns import lambda_returns
from engram.registry import register
from engram.specs import spec
from engram.types import Decision, Metrics


class KnownValue(NamedTuple):
    """What acting knew of an action."""

    value: Float[Array, "*batch"]  # Q of the preferred action, with an external memory's share in it


@register("agent", "pqn")
@spec
class PQNSpec(RolloutSpec):
    """Q of every action is drawn to the lambda-return of the action taken.

    What came next is worth its greatest Q, as the network held when it acted. An external memory has its share in that.
    Of a distribution the target is that one number: what is learned is its spread over visits, not over what follows.
    """

    rests_on_norm = True

    def check(self) -> None:
        super().check()
        self.check_values()

    @property
    def metrics(self) -> tuple[str, ...]:
        return "loss", "q_mean"

    def known(self, decision: Decision, action: Int[Array, ""]) -> KnownValue:
        return KnownValue(decision.value)

    def targets(self, steps: Steps) -> Float[Array, "time envs"]:
        return lambda_returns(steps.reward, steps.discount, steps.following, steps.ends, self.trace)

    def loss_of(self, decision: Decision, rows: Examples) -> tuple[Float[Array, ""], Metrics]:
        returns = taken(decision, rows)
        each = jax.vmap(self.loss)(returns, sure(rows.target))
        return mean(rows, each), {"q_mean": mean(rows, returns.mean)}
