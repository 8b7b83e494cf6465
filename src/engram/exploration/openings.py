"""`openings`: for games. Random first moves, a random move now and then, and the last action rarely among these."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt32

from engram.bits import below, uniform
from engram.exploration.greedy import EpsilonGreedySpec
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Decision


@register("exploration", "openings")
@spec
class OpeningsSpec(EpsilonGreedySpec):
    """Epsilon-greedy with random openings, so that two deterministic sides do not play one game for ever.

    A share of the episodes begins with 1 to `opening` random actions. Of random actions the last one, such as a pass,
    has a weight of its own: passes drawn like all others end games before anything is decided.
    """

    start: float = setting(0.2, "epsilon at step 0", low=0, high=1)
    opening: int = setting(2, "the most random actions that an episode begins with; 0 for none", low=0)
    opening_share: float = setting(0.5, "share of the episodes that begin with some", low=0, high=1)
    last_weight: float = setting(
        0.05, "chance of the last action among random ones, relative to that of any other", above=0, high=1
    )

    by_episode = True
    decouples = False

    def chance(self, step: int) -> float | None:
        """None: the actions of an opening, and the last one, are drawn otherwise."""
        return None

    def kept(
        self,
        episode: UInt32[Array, "2"],
        is_first: Bool[Array, ""],
        bits: UInt32[Array, "2"],
        fresh: UInt32[Array, "2"],
    ) -> UInt32[Array, "2"]:
        """How many random actions of the opening are left, this one included; and nothing."""
        del bits
        if not self.opening:
            return jnp.zeros_like(episode)
        opens = uniform(fresh[0]) < self.opening_share
        drawn = jnp.where(opens, 1 + below(fresh[1], self.opening), 0).astype(jnp.uint32)
        left = jnp.where(is_first, drawn, jnp.maximum(episode[0], 1) - 1)
        return jnp.stack([left, jnp.uint32(0)])

    def choose(
        self,
        decision: Decision,
        bits: UInt32[Array, "2"],
        episode: UInt32[Array, "2"],
        step: int | Int[Array, ""],
    ) -> Int[Array, ""]:
        """The preferred action, or a random one in the opening and with probability epsilon."""
        explored = (uniform(bits[0]) < self.epsilon(step)) | (episode[0] > 0)
        return jnp.where(explored, self._any_of(decision, bits[1]), decision.preference.argmax()).astype(jnp.int32)

    def _any_of(self, decision: Decision, word: UInt32[Array, ""]) -> Int[Array, ""]:
        """Any of the actions that are allowed, the last one rarely."""
        count = decision.preference.shape[0]
        allowed = jnp.ones(count, bool) if decision.allowed is None else decision.allowed
        weights = allowed * jnp.where(jnp.arange(count) == count - 1, self.last_weight, 1.0)
        # Rounding may leave none above the drawn number; the last allowed one is then meant.
        passed = (jnp.cumsum(weights) > uniform(word) * weights.sum()) & allowed
        return jnp.where(passed.any(), passed.argmax(), count - 1 - allowed[::-1].argmax())
