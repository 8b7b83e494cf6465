"""Repeat, recite and count cards: four tasks of POPGym whose best policy is known and needs nothing but memory.

| id                        | the action must name                           | rewarded decisions   |
|---------------------------|------------------------------------------------|----------------------|
| `engram/RepeatFirst-v0`   | the first suit of the episode                  | all                  |
| `engram/RepeatPrevious-v0`| the suit `gap` observations back               | from the `gap`-th on |
| `engram/Autoencode-v0`    | the suits in reverse order, after the last one | the second half      |
| `engram/CountRecall-v0`   | how often the queried kind has been dealt      | all                  |

Each is `popgym-<Name><Level>-v0` of popgym 1.0.7, step for step: observations, rewards and ends. A right answer pays
as much as a wrong one costs, scaled so that the best return is 1 and the worst -1. The number of cards decides the
length of an episode. It ends by termination, never by truncation.

`relevant_step(state)` names the step of the episode (0: the first observation) that shows what the decision in `state`
has to know, and is -1 where no answer is asked for. A decision's own observation is a step like any other.

Source: Morad et al. 2023, "POPGym" (arXiv 2303.01859).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from engram.envs.device import DeviceStep, register_device, uniforms
from engram.envs.tasks.cards import COLOURS, DECK, RANKS, SUITS, at_level, check_level, draw, without
from engram.spaces import Discrete, MultiDiscrete, Tuple


def _paid(right: Bool[Array, ""], scale: float) -> Float[Array, ""]:
    return jnp.where(right, jnp.float32(scale), jnp.float32(-scale))


def _suits(cards: int) -> Int[Array, "4"]:
    return jnp.full(SUITS, cards // SUITS, jnp.int32)


class RepeatFirstState(NamedTuple):
    """The suit to remember, and the rest of the deck."""

    first: Int[Array, ""]  # the suit dealt first
    left: Int[Array, "4"]  # cards of each suit still in the deck
    steps: Int[Array, ""]  # actions taken in this episode


@register_device("engram/RepeatFirst-v0")
@dataclass(frozen=True)
class RepeatFirst:
    """Name the first suit of the episode, again and again, while other cards are dealt.

    Observation: the suit of the card just dealt (Discrete 4). Actions: the four suits. Reward: 1/n for the right suit,
    -1/n for a wrong one, with n decisions: one less than cards, which are 52 (easy), 416 (medium) or 832 (hard).
    The best return is 1; random actions get -1/2. Correlation horizon: the whole episode, n observations.
    """

    level: str = "easy"

    observation_space = Discrete(SUITS)
    actions = SUITS

    def __post_init__(self):
        check_level(self.level)

    @property
    def cards(self) -> int:
        """How many cards are dealt in an episode."""
        return DECK * at_level(self.level, 1, 8, 16)

    def reset(self, key: UInt32[Array, "2"]) -> tuple[RepeatFirstState, Int[Array, ""]]:
        left = _suits(self.cards)
        suit = draw(left, uniforms(key, 1)[0])
        return RepeatFirstState(suit, without(left, suit), jnp.int32(0)), suit

    def step(
        self, state: RepeatFirstState, action: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[RepeatFirstState, DeviceStep]:
        decisions = self.cards - 1
        suit, steps = draw(state.left, uniforms(key, 1)[0]), state.steps + 1
        reward = _paid(action == state.first, 1 / decisions)
        following = RepeatFirstState(state.first, without(state.left, suit), steps)
        return following, DeviceStep(suit, reward, steps >= decisions, jnp.bool_(False))

    def relevant_step(self, state: RepeatFirstState) -> Int[Array, ""]:
        """Always 0."""
        return jnp.int32(0)


class RepeatPreviousState(NamedTuple):
    """The suits that may still be asked for, and the rest of the deck."""

    recent: Int[Array, "gap"]  # the last suits dealt, the newest first; 0 before there were as many
    left: Int[Array, "4"]  # cards of each suit still in the deck
    steps: Int[Array, ""]  # actions taken in this episode


@register_device("engram/RepeatPrevious-v0")
@dataclass(frozen=True)
class RepeatPrevious:
    """Name the oldest of the last `gap` suits, while more cards are dealt.

    Observation: the suit of the card just dealt (Discrete 4). Actions: the four suits. `gap` is 4 (easy), 32 (medium)
    or 64 (hard), and counts the decision's own observation: the answer was shown gap - 1 steps before. Reward: 1/n for
    the right suit, -1/n for a wrong one, 0 while fewer than `gap` cards are dealt; n is the number of cards (52, 104,
    156) less `gap`, and an episode has one decision less than cards. The best return is 1; random actions get -1/2.
    Correlation horizon: `gap` observations.
    """

    level: str = "easy"

    observation_space = Discrete(SUITS)
    actions = SUITS

    def __post_init__(self):
        check_level(self.level)

    @property
    def cards(self) -> int:
        """How many cards are dealt in an episode."""
        return DECK * at_level(self.level, 1, 2, 3)

    @property
    def gap(self) -> int:
        """How many of the last observations have to be remembered, the newest included."""
        return at_level(self.level, 4, 32, 64)

    def reset(self, key: UInt32[Array, "2"]) -> tuple[RepeatPreviousState, Int[Array, ""]]:
        left = _suits(self.cards)
        suit = draw(left, uniforms(key, 1)[0])
        recent = jnp.zeros(self.gap, jnp.int32).at[0].set(suit)
        return RepeatPreviousState(recent, without(left, suit), jnp.int32(0)), suit

    def step(
        self, state: RepeatPreviousState, action: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[RepeatPreviousState, DeviceStep]:
        asked = state.steps >= self.gap - 1
        reward = jnp.where(asked, _paid(action == state.recent[-1], 1 / (self.cards - self.gap)), 0.0)
        suit, steps = draw(state.left, uniforms(key, 1)[0]), state.steps + 1
        recent = jnp.concatenate([suit[None], state.recent[:-1]])
        following = RepeatPreviousState(recent, without(state.left, suit), steps)
        return following, DeviceStep(suit, reward, steps >= self.cards - 1, jnp.bool_(False))

    def relevant_step(self, state: RepeatPreviousState) -> Int[Array, ""]:
        """gap - 1 steps before the decision; -1 where fewer than `gap` cards are dealt."""
        return jnp.maximum(state.steps - (self.gap - 1), -1)


class AutoencodeState(NamedTuple):
    """The suits dealt, and the rest of the deck."""

    suits: Int[Array, "cards"]  # in the order in which they are dealt; 0 where none is yet
    left: Int[Array, "4"]  # cards of each suit still in the deck
    steps: Int[Array, ""]  # actions taken in this episode


@register_device("engram/Autoencode-v0")
@dataclass(frozen=True)
class Autoencode:
    """Watch all the cards of 1 (easy), 2 (medium) or 3 (hard) decks, then name their suits from the last to the first.

    Observation: (1 while watching, 0 when asked; the suit of the card just dealt, 0 once an answer was given). The last
    card comes with the first question. Actions: the four suits. Reward: 0 while watching, then 1/n for the right suit
    and -1/n for a wrong one, with n cards (52, 104, 156) and 2n - 1 decisions. The best return is 1; random actions get
    -1/2. Correlation horizon: the whole episode, 2n - 1 observations, for its last answer.
    """

    level: str = "easy"

    observation_space = Tuple((Discrete(2), Discrete(SUITS)))
    actions = SUITS

    def __post_init__(self):
        check_level(self.level)

    @property
    def cards(self) -> int:
        """How many cards are dealt in an episode."""
        return DECK * at_level(self.level, 1, 2, 3)

    def reset(self, key: UInt32[Array, "2"]) -> tuple[AutoencodeState, tuple[Int[Array, ""], Int[Array, ""]]]:
        left = _suits(self.cards)
        suit = draw(left, uniforms(key, 1)[0])
        suits = jnp.zeros(self.cards, jnp.int32).at[0].set(suit)
        return AutoencodeState(suits, without(left, suit), jnp.int32(0)), (jnp.int32(1), suit)

    def step(
        self, state: AutoencodeState, action: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[AutoencodeState, DeviceStep]:
        watching, steps = state.steps < self.cards - 1, state.steps + 1
        places = jnp.arange(self.cards)
        answer = jnp.where(places == self.relevant_step(state), state.suits, 0).sum()
        reward = jnp.where(watching, 0.0, _paid(action == answer, 1 / self.cards))
        suit = jnp.where(watching, draw(state.left, uniforms(key, 1)[0]), 0)
        following = AutoencodeState(
            jnp.where(watching & (places == steps), suit, state.suits),
            jnp.where(watching, without(state.left, suit), state.left),
            steps,
        )
        observation = ((steps < self.cards - 1).astype(jnp.int32), suit)
        return following, DeviceStep(observation, reward, steps >= 2 * self.cards - 1, jnp.bool_(False))

    def relevant_step(self, state: AutoencodeState) -> Int[Array, ""]:
        """As many steps before the last card as answers were given; -1 while watching."""
        return jnp.where(state.steps >= self.cards - 1, 2 * self.cards - 2 - state.steps, -1)


class CountRecallState(NamedTuple):
    """Counts of the cards dealt and of the queries, by kind."""

    counts: Int[Array, "kinds"]  # cards dealt, the newest included
    queries: Int[Array, "kinds"]  # queries made, the newest included
    query: Int[Array, ""]  # the kind asked for now
    steps: Int[Array, ""]  # actions taken in this episode


@register_device("engram/CountRecall-v0")
@dataclass(frozen=True)
class CountRecall:
    """Say how many cards of the queried kind have been dealt in this episode, the newest included.

    Observation: the kind of the card just dealt, and the kind that is asked for (MultiDiscrete); queries come from a
    second deck of the same size. Kinds: the 2 colours of one deck (easy), the 4 suits of two (medium), the 13 ranks of
    four (hard). Actions: the numbers from 0 up to the cards of one kind, 26, 26 or 16. Reward: 1/n for the right
    number, -1/n for a wrong one, with n decisions: one less than cards (52, 104, 208). The best return is 1; random
    actions get 2/27 - 1 (easy, medium) or 2/17 - 1 (hard). Correlation horizon: the whole episode, n observations, in
    any order.
    """

    level: str = "easy"

    def __post_init__(self):
        check_level(self.level)

    @property
    def cards(self) -> int:
        """How many cards are dealt in an episode."""
        return DECK * at_level(self.level, 1, 2, 4)

    @property
    def kinds(self) -> int:
        """How many kinds of cards are told apart."""
        return at_level(self.level, COLOURS, SUITS, RANKS)

    @property
    def observation_space(self) -> MultiDiscrete:
        return MultiDiscrete((self.kinds, self.kinds))

    @property
    def actions(self) -> int:
        return self.cards // self.kinds + 1

    def reset(self, key: UInt32[Array, "2"]) -> tuple[CountRecallState, Int[Array, "2"]]:
        nothing = jnp.zeros(self.kinds, jnp.int32)
        return self._deal(nothing, nothing, jnp.int32(0), key)

    def step(
        self, state: CountRecallState, action: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[CountRecallState, DeviceStep]:
        decisions = self.cards - 1
        right = action == jnp.where(jnp.arange(self.kinds) == state.query, state.counts, 0).sum()
        following, observation = self._deal(state.counts, state.queries, state.steps + 1, key)
        over = following.steps >= decisions
        return following, DeviceStep(observation, _paid(right, 1 / decisions), over, jnp.bool_(False))

    def _deal(
        self, counts: Int[Array, "kinds"], queries: Int[Array, "kinds"], steps: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[CountRecallState, Int[Array, "2"]]:
        each, chances = self.cards // self.kinds, uniforms(key, 2)
        kind, query = draw(each - counts, chances[0]), draw(each - queries, chances[1])
        kinds = jnp.arange(self.kinds)
        state = CountRecallState(counts + (kinds == kind), queries + (kinds == query), query, steps)
        return state, jnp.stack([kind, query])
