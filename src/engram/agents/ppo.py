"""PPO: a policy and its value from rollouts; A2C is its case of one epoch and one minibatch.

Source: Schulman et al. 2017 (arXiv 1707.06347); details after Huang et al. 2022, "The 37 implementation details of
PPO".
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from engram.agents.rollout import Examples, Steps, mean, sure, taken
from engram.agents.rollout_learning import RolloutSpec
from engram.errors import SpecError
from engram.losses.policy import clipped_surrogate, entropy, standardized
from engram.losses.returns import advantages
from engram.ranges import Linear, Log
from engram.registry import name_of, register
from engram.specs import setting, spec
from engram.types import Decision, Metrics


class KnownChoice(NamedTuple):
    """What acting knew of an action."""

    value: Float[Array, "*batch"]  # of the observation, with an external memory's share in it
    log_probability: Float[Array, "*batch"]  # of the action


class Taught(NamedTuple):
    """What a step is taught."""

    advantage: Float[Array, "*batch"]
    returned: Float[Array, "*batch"]  # the lambda-return, for the value


@register("agent", "ppo")
@spec
class PPOSpec(RolloutSpec):
    """A clipped policy gradient with generalised advantages, the value by `loss`, and an entropy bonus."""

    clip: float = setting(0.2, "the ratio of probabilities counts within 1 +- this", above=0, search=Linear(0.1, 0.3))
    value_weight: float = setting(0.5, "weight of the value's loss", low=0, search=Linear(0.25, 1.0))
    value_clip: float = setting(
        0.0, "the value moves within +- this of what acting held, where that is the worse; 0 for no limit", low=0
    )
    entropy_weight: float = setting(0.01, "weight of the policy's entropy", low=0, search=Log(1e-4, 0.1))
    standardize: bool = setting(True, "advantages of a minibatch have mean 0 and deviation 1")

    def check(self) -> None:
        super().check()
        self._check_head()
        self.check_samples()
        if self.symmetry != "off":
            raise SpecError(
                f"symmetry = {self.symmetry} turns examples, and agent=ppo compares how likely an action is with how "
                f"likely it was before it was turned; set symmetry=off, or use --preset go"
            )
        if self.value_clip and self.head.predicts != "number":
            raise SpecError(
                f"value_clip = {self.value_clip} bounds a value that is one number; set head.returns=scalar, or "
                f"value_clip=0"
            )
        if self.value_clip and self.has_external:
            raise SpecError(
                f"value_clip = {self.value_clip} holds the network's value near what acting held, in which external="
                f"{name_of('external', type(self.external))} has a share; set value_clip=0, or external=none"
            )

    def check_minibatch(self, steps: int) -> None:
        if self.standardize and steps == 1:
            raise SpecError(
                "standardize = true makes the advantage of a minibatch of one step 0, so no policy would be learned; "
                "raise rollout.steps or envs, lower rollout.minibatches, or set standardize=false"
            )

    def _check_head(self) -> None:
        """A policy and one value."""
        head = name_of("head", type(self.head))
        if not self.head.has_policy:
            raise SpecError(
                f"agent=ppo needs a head with a policy, which head={head} has not; set head=actor-critic, or use "
                f"--preset ppo"
            )
        if self.head.has_twins:
            raise SpecError(
                f"agent=ppo learns one value, but head={head} has two estimates of Q and a temperature, which are for "
                f"agent=sac; set head=actor-critic, or use --preset ppo"
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        return "loss", "policy_loss", "value_loss", "entropy", "clipped"

    def known(self, decision: Decision, action: Int[Array, ""]) -> KnownChoice:
        return KnownChoice(decision.value, jax.nn.log_softmax(decision.preference)[action])

    def targets(self, steps: Steps) -> Taught:
        value = steps.known.value
        gain = advantages(steps.reward, steps.discount, value, steps.following, steps.ends, self.trace)
        return Taught(gain, gain + value)

    def loss_of(self, decision: Decision, rows: Examples) -> tuple[Float[Array, ""], Metrics]:
        logs = jax.nn.log_softmax(decision.preference)
        log = jnp.take_along_axis(logs, rows.action[:, None], -1)[:, 0]
        gain = rows.target.advantage
        gain = standardized(gain, rows.weight) if self.standardize else gain
        policy = mean(rows, clipped_surrogate(log, rows.known.log_probability, gain, self.clip))
        value, spread = mean(rows, self._value_loss(decision, rows)), mean(rows, entropy(logs))
        outside = jnp.abs(jnp.exp(log - rows.known.log_probability) - 1) > self.clip
        loss = policy + self.value_weight * value - self.entropy_weight * spread
        return loss, {"policy_loss": policy, "value_loss": value, "entropy": spread, "clipped": mean(rows, outside)}

    def _value_loss(self, decision: Decision, rows: Examples) -> Float[Array, "rows"]:
        """The distance of each value to its target. Source of the clipped one: Huang et al. 2022, detail 9."""
        returns, target = taken(decision, rows), sure(rows.target.returned)
        each = jax.vmap(self.loss)(returns, target)
        if not self.value_clip:
            return each
        held = rows.known.value[:, None]
        moved = held + (returns.atoms - held).clip(-self.value_clip, self.value_clip)
        return jnp.maximum(each, jax.vmap(self.loss)(returns._replace(atoms=moved), target))
