"""`epsilon-greedy`: a random action now and then, the preferred one otherwise."""

import jax.numpy as jnp
from jaxtyping import Array, Int, UInt32

from engram.bits import uniform
from engram.exploration.exploration import any_of, falling
from engram.ranges import Log, Times
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Decision


@register("exploration", "epsilon-greedy")
@spec
class EpsilonGreedySpec:
    """A random action with a probability that falls linearly with the global step."""

    start: float = setting(1.0, "epsilon at step 0", low=0, high=1)
    end: float = setting(0.02, "epsilon from `steps` on", low=0, high=1, search=Log(0.01, 0.2))
    steps: int = setting(5_000, "environment steps over which epsilon falls", low=1, search=Times(0.2, 5))

    by_episode = False
    decouples = True

    @property
    def settled(self) -> int:
        """The step from which the schedule stays at its end."""
        return self.steps

    def chance(self, step: int) -> float | None:
        """The probability of a random action, which is all the exploring there is."""
        return float(self.epsilon(step))

    def epsilon(self, step: int | Array) -> float | Array:
        """The probability of a random action at a global step. Works on integers and on arrays."""
        return falling(self.start, self.end, self.steps, step)

    def report(self, step: int) -> dict[str, float]:
        """What a line of metrics says of exploration."""
        return {"epsilon": float(self.epsilon(step))}

    def choose(
        self,
        decision: Decision,
        bits: UInt32[Array, "2"],
        episode: UInt32[Array, "2"],
        step: int | Int[Array, ""],
    ) -> Int[Array, ""]:
        """An action: the preferred one, or with probability epsilon any of those allowed."""
        explored = uniform(bits[0]) < self.epsilon(step)
        return jnp.where(explored, any_of(decision, bits[1]), decision.best).astype(jnp.int32)
