"""Shuffled decks and three levels, for the tasks after POPGym.

POPGym shuffles at the reset. Here a deck is a count of each kind left in it, and a card is drawn when it is dealt or
turned. The cards have the same distribution. A reset runs at every step of every environment, where a shuffle would
cost more than the step.
"""

from typing import TypeVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from engram.errors import SpecError, hint

T = TypeVar("T")

SUITS = 4
COLOURS = 2
RANKS = 13
DECK = 52  # cards in one deck
LEVELS = ("easy", "medium", "hard")


def draw(left: Int[Array, "kinds"], chance: Float[Array, ""]) -> Int[Array, ""]:
    """The kind of the next card of a well shuffled deck.

    Args:
      left: cards of each kind that are still in the deck, at least one in all.
      chance: uniform in [0, 1), a multiple of 2⁻²⁴: the probability of a kind is off by 2⁻²⁴ at most.
    """
    kinds = jnp.arange(left.size)
    ends = jnp.where(kinds[None, :] <= kinds[:, None], left[None, :], 0).sum(1)
    place = jnp.floor(chance * ends[-1]).astype(jnp.int32)
    return (place >= ends).sum(dtype=jnp.int32)


def without(left: Int[Array, "kinds"], kind: Int[Array, ""]) -> Int[Array, "kinds"]:
    """The deck without one card of that kind."""
    return left - (jnp.arange(left.size) == kind)


def check_level(level: str) -> None:
    """SpecError, with the nearest name, unless there is such a level."""
    if level not in LEVELS:
        raise SpecError(f"no level is called {level!r}; {hint(level, LEVELS)}")


def at_level(level: str, easy: T, medium: T, hard: T) -> T:
    """The value for a level."""
    return (easy, medium, hard)[LEVELS.index(level)]
