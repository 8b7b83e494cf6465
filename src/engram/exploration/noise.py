"""`parameter-noise`: a value function that is disturbed once for each episode."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from engram.bits import hashed, uniform
from engram.exploration.exploration import any_of, falling
from engram.ranges import Log, Times
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Decision


@register("exploration", "parameter-noise")
@spec
class ParameterNoiseSpec:
    """The best action of a value function that was disturbed once for the whole episode.

        argmax_a Q(s, a) + scale * e_a . f(s),     e_a drawn anew for each episode, each entry -1 or 1

    f has length 1: one half is the encoder's output, one half the memory's, each scaled to the same length. So the
    noise has the same standard deviation, `scale`, at every step. Steps with similar embeddings get similar noise, so
    an episode explores consistently. That matters most where one wrong step spoils an episode, as in a long corridor.

    With `random_opening`, an episode may begin with a few random actions before its noise decides. Consistent noise
    alone never does one thing first and another in the same situation later.

    Sources: Plappert et al. 2018 (arXiv 1706.01905), here for a linear layer beside the head and without adapting the
    scale; Osband et al. 2016 (arXiv 1402.0635) for values that are randomised by episode.
    """

    scale: float = setting(
        0.3, "standard deviation of the noise at step 0, in units of return", low=0, search=Log(0.05, 2)
    )
    final_scale: float = setting(
        0.02, "standard deviation from `steps` on, in units of return", low=0, search=Log(0.005, 0.2)
    )
    steps: int = setting(5_000, "environment steps over which it falls", low=1, search=Times(0.2, 5))
    random_opening: float = setting(
        0.0, "chance, however late, that an episode begins with a random action, and that another follows each",
        low=0, high=0.99,
    )  # fmt: skip

    by_episode = True

    @property
    def settled(self) -> int:
        """The step from which the schedule stays at its end."""
        return self.steps

    def chance(self, step: int) -> float | None:
        """None: the action depends on Q."""
        return None

    def at(self, step: int | Array) -> float | Array:
        """The standard deviation at a global step. Works on integers and on arrays."""
        return falling(self.scale, self.final_scale, self.steps, step)

    def report(self, step: int) -> dict[str, float]:
        """What a line of metrics says of exploration."""
        return {"noise": float(self.at(step))}

    def kept(
        self,
        episode: UInt32[Array, "2"],
        is_first: Bool[Array, ""],
        bits: UInt32[Array, "2"],
        fresh: UInt32[Array, "2"],
    ) -> UInt32[Array, "2"]:
        """The bits of the running episode at this step: zeros while its actions are random, then those of its noise."""
        opens = is_first | (episode == 0).all()
        return jnp.where(opens, jnp.where(uniform(bits[0]) < self.random_opening, jnp.uint32(0), fresh), episode)

    def choose(
        self,
        decision: Decision,
        bits: UInt32[Array, "2"],
        episode: UInt32[Array, "2"],
        step: int | Int[Array, ""],
    ) -> Int[Array, ""]:
        """The action; `episode` stays the same from the first step of an episode to its last; see `kept`."""
        features = jnp.concatenate([_direction(decision.encoding.embedding), _direction(decision.working.vector)])
        actions = decision.returns.q.shape[-1]
        signs = hashed(episode, actions * features.shape[0]).reshape(actions, -1) >> 31
        noise = (1.0 - 2.0 * signs.astype(jnp.float32)) @ features * 0.5**0.5
        action = (decision.preference + self.at(step) * noise).argmax()
        if self.random_opening:
            action = jnp.where((episode == 0).all(), any_of(decision, bits[1]), action)
        return action.astype(jnp.int32)


def _direction(features: Float[Array, "features"]) -> Float[Array, "features"]:
    return features * jax.lax.rsqrt(jnp.maximum((features**2).sum(), 1e-12))
