"""What every exploration is: how an action is chosen while training. One decision in, one action out.

    @register("exploration", "mine")
    @spec
    class MySpec:
        by_episode = False
        settled = 0

        def chance(self, step): return None
        def report(self, step): return {}
        def choose(self, decision, bits, episode, step): ...

`engram.testing.check_exploration` holds an exploration of your own to this page.
"""

from math import prod
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from engram.bits import below, uniform
from engram.registry import declare
from engram.types import Decision

# Whether actions have the probabilities softmax(preference), which a policy gradient needs; and whether it chooses
# among actions whose returns are decoupled.
declare("exploration", samples=False, decouples=False)


class ExplorationSpec(Protocol):
    """What was chosen about exploration; it has no learned weights, so the spec itself acts.

    Every number is a function of the global step: environment steps so far, over all environments.
    """

    by_episode: bool  # whether it keeps random bits for as long as an episode lasts

    @property
    def settled(self) -> int:
        """The global step from which it no longer changes: `predict(deterministic=False)` explores as from there."""
        ...

    def chance(self, step: int) -> float | None:
        """The probability of a uniformly random action, where that is all the exploring there is; else None.

        Kinds that give a number may be played by a runner without a compiled call.
        """
        ...

    def report(self, step: int) -> dict[str, float]:
        """What a line of metrics says of exploration."""
        ...

    def kept(
        self,
        episode: UInt32[Array, "2"],
        is_first: Bool[Array, ""],
        bits: UInt32[Array, "2"],
        fresh: UInt32[Array, "2"],
    ) -> UInt32[Array, "2"]:
        """The bits of the running episode at this step, from those of the step before; only kinds `by_episode` have it.

        `bits` and `fresh` are new at every step.
        """
        ...

    def choose(
        self,
        decision: Decision,
        bits: UInt32[Array, "2"],
        episode: UInt32[Array, "2"],
        step: int | Int[Array, ""],
    ) -> Int[Array, ""]:
        """An allowed action.

        Args:
          bits: random words, new at every step.
          episode: those that `kept` gave, for kinds `by_episode`; the same as `bits` for the others.
          step: the global step.
        """
        ...


def any_of(decision: Decision, word: UInt32[Array, ""]) -> Int[Array, ""]:
    """Any of the actions that are allowed."""
    allowed = decision.allowed
    if allowed is None:
        return below(word, prod(decision.returns.sizes) if decision.returns.sizes else decision.preference.shape[0])
    return (jnp.cumsum(allowed) > below(word, jnp.maximum(allowed.sum(), 1))).argmax()


def sampled(
    logits: Float[Array, "actions"], allowed: Bool[Array, "actions"] | None, word: UInt32[Array, ""]
) -> Int[Array, ""]:
    """An action with the probabilities softmax(logits); a forbidden one, whose logit is minus infinity, has none."""
    weights = jax.nn.softmax(logits)
    passed = jnp.cumsum(weights) > uniform(word) * weights.sum()
    possible = passed if allowed is None else passed & allowed
    # Rounding may leave no action above the drawn number; the preferred one is then as good as any.
    return jnp.where(possible.any(), possible.argmax(), logits.argmax()).astype(jnp.int32)


def falling(start: float, end: float, steps: int, step: int | Array) -> float | Array:
    """A number that falls linearly from `start` at step 0 to `end` at `steps`, and stays there."""
    left = 1.0 - step / float(steps)  # as a float: in a compiled program an integer is one of 32 bits
    return end + (start - end) * (left * (left > 0))
