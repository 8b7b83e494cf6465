"""Find pairs among cards that lie face down."""

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt32

from engram.envs.device import DeviceStep, register_device, uniforms
from engram.envs.tasks.cards import COLOURS, DECK, RANKS, at_level, check_level, draw, without
from engram.spaces import MultiDiscrete

NONE = -1  # no card


class ConcentrationState(NamedTuple):
    """The table. The kind of a card is drawn when it is first turned; see cards.py."""

    cards: Int[Array, "places"]  # the kind of each card that was ever turned; NONE for the others
    paired: Bool[Array, "places"]  # lies face up for good
    first: Int[Array, ""]  # the place of the card that was turned and waits for a second; NONE if there is none
    left: Int[Array, "kinds"]  # cards of each kind that were never turned
    steps: Int[Array, ""]  # actions taken in this episode


@register_device("engram/Concentration-v0")
@dataclass(frozen=True)
class Concentration:
    """Turn two cards, one after the other. Two of a kind stay face up; else both are turned down again.

    `popgym-Concentration<Level>-v0` of popgym 1.0.7, step for step. Cards: one deck, told apart by colour (easy); two
    decks by colour (medium); one deck by rank (hard).
    Observation: for each place the kind of the card that lies face up there, or the number of kinds where it lies face
    down (MultiDiscrete: 52, 104 or 52 places with 3, 3 or 14 values). A card that was turned second is seen once. A
    card turned again, or one that lay face up already, cannot be told from the observation: the agent should be given
    its previous action.
    Actions: the place to turn. Reward: 2/places for a pair; -2/steps for two cards that are none, the same card twice
    included; where a card is turned that already lay face up, the turn is over and costs 1/steps for each of its cards;
    0 for the first card of a turn. `steps` is the limit, 104, 208 or 104 steps, at which the episode is truncated.
    Terminated when all cards lie face up; both flags may come together.
    The best return is 1, with luck in every turn. A policy that forgets no card and turns known pairs first gets
    0.81, 0.81 or 0.70 (easy, medium, hard) in the mean, random actions -0.19, -0.19 or -0.83. Correlation horizon: the
    whole episode.

    `reset` does not read its key. Source: Morad et al. 2023, "POPGym" (arXiv 2303.01859).
    """

    level: str = "easy"

    def __post_init__(self):
        check_level(self.level)

    @property
    def places(self) -> int:
        """How many cards lie on the table."""
        return DECK * at_level(self.level, 1, 2, 1)

    @property
    def kinds(self) -> int:
        """How many kinds of cards are told apart."""
        return at_level(self.level, COLOURS, COLOURS, RANKS)

    @property
    def max_steps(self) -> int:
        """The step that truncates, by popgym's formula."""
        return ceil(2 * self.places - self.places / (2 * self.places - 1))

    @property
    def observation_space(self) -> MultiDiscrete:
        return MultiDiscrete((self.kinds + 1,) * self.places)

    @property
    def actions(self) -> int:
        return self.places

    def reset(self, key: UInt32[Array, "2"]) -> tuple[ConcentrationState, Int[Array, "places"]]:
        state = ConcentrationState(
            jnp.full(self.places, NONE, jnp.int32),
            jnp.zeros(self.places, bool),
            jnp.int32(NONE),
            jnp.full(self.kinds, self.places // self.kinds, jnp.int32),
            jnp.int32(0),
        )
        return state, jnp.full(self.places, self.kinds, jnp.int32)

    def step(
        self, state: ConcentrationState, action: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[ConcentrationState, DeviceStep]:
        here, there = jnp.arange(self.places) == action, jnp.arange(self.places) == state.first
        cards, left = self._turn(state, here, key)
        shown = jnp.where(state.paired | here | there, cards, self.kinds)

        second, already = state.first != NONE, (here & state.paired).any()
        alike = jnp.where(here, cards, 0).sum() == jnp.where(there, cards, 0).sum()
        pair = second & ~already & alike & (action != state.first)
        paired, steps = state.paired | (pair & (here | there)), state.steps + 1
        failed = (already | second) & ~pair
        cost = jnp.where(failed, (1.0 + second) / self.max_steps, 0.0)
        reward = jnp.where(pair, 2 / self.places, -cost)
        first = jnp.where(second | already, NONE, action).astype(jnp.int32)
        following = ConcentrationState(cards, paired, first, left, steps)
        return following, DeviceStep(shown, reward, pair & paired.all(), steps >= self.max_steps)

    def _turn(
        self, state: ConcentrationState, here: Bool[Array, "places"], key: UInt32[Array, "2"]
    ) -> tuple[Int[Array, "places"], Int[Array, "kinds"]]:
        """The known cards, and the rest, after the card `here` is seen."""
        new = here & (state.cards == NONE)
        kind = draw(state.left, uniforms(key, 1)[0])
        return jnp.where(new, kind, state.cards), jnp.where(new.any(), without(state.left, kind), state.left)
