"""Bandits with recurring contexts: each context is a random picture, with one arm that pays.

An episode draws new pictures and, for each, the arm that pays. Every picture is shown several times. Each showing (an
*exposure*) allows a few pulls. Weights cannot know the pictures. So an agent that does better at the second exposure
than at the first has stored the arm of a picture in its memory, within the episode (meta-learning).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from engram.envs.device import DeviceStep, at_least, register_device, uniforms
from engram.errors import SpecError
from engram.spaces import Box


class ContextBanditState(NamedTuple):
    """The pictures and arms of this episode, and the clock."""

    pictures: Float[Array, "contexts width"]  # entries 1 or -1
    arms: Int[Array, "contexts"]  # the arm that pays
    order: Int[Array, "exposures contexts"]  # which context is shown when, a round of all of them in each row
    told: Int[Array, "contexts"]  # the first step of the episode whose action was the arm that pays; -1 before
    steps: Int[Array, ""]  # actions taken in this episode


@register_device("engram/ContextBandit-v0")
@dataclass(frozen=True)
class ContextBandit:
    """Find the arm that pays for each picture, and know it when the picture comes back.

    Observation: `width` numbers, each 1 or -1: the picture of the current context, the same in all pulls of an
    exposure. Neither the number of the context nor that of the exposure is shown. Pictures, arms and order are drawn
    anew for each episode; with the default width a picture out of 2^32 hardly ever comes twice, so *every episode's
    pictures are new*, those of an evaluation included.
    Actions: the arms. Reward: 1 for the arm that pays, else 0, each turned into the other with probability `noise`.
    An agent must be given its previous action and reward to learn within the episode.
    An episode has `exposures` rounds; in each every context is shown once, in random order, for `pulls` steps. It ends
    (`terminated`) after contexts x exposures x pulls steps.
    The best policy without noise tries the arms one after another at the first exposure. It then misses k times, k
    uniform in 0..arms - 1 but at most `pulls`, and never misses later if `pulls` is at least arms - 1. With the
    defaults its mean return is 48 - 4 x 1.5 = 42 of 48 steps. Random actions get 48/4 = 12.
    *Regret* of an exposure: pulls that did not take the arm that pays; 1.5 at the first and 0 later for the best,
    3 throughout for random actions, 1.5 throughout for who searches well and forgets.

    Args:
      contexts: pictures in an episode.
      arms: actions.
      exposures: showings of each picture, 2 or more.
      pulls: actions at each showing.
      width: numbers in a picture.
      noise: probability, 0..1/2, that a reward is turned.

    Source: the shape of the task is that of Ritter et al. 2018 (arXiv 1805.09692), contextual bandits with recurring
    contexts; here written anew, with one arm that pays and rounds in place of free recurrence.
    """

    contexts: int = 4
    arms: int = 4
    exposures: int = 3
    pulls: int = 4
    width: int = 32
    noise: float = 0.0

    def __post_init__(self):
        for name, smallest in (("contexts", 1), ("arms", 2), ("exposures", 2), ("pulls", 1), ("width", 1)):
            at_least(self, name, smallest)
        if not 0 <= self.noise <= 0.5:
            raise SpecError(f"noise = {self.noise!r} for ContextBandit; give a number in 0..0.5")

    @property
    def observation_space(self) -> Box:
        return Box((self.width,))

    @property
    def actions(self) -> int:
        return self.arms

    @property
    def max_steps(self) -> int:
        """Steps in every episode."""
        return self.contexts * self.exposures * self.pulls

    def reset(self, key: UInt32[Array, "2"]) -> tuple[ContextBanditState, Float[Array, "width"]]:
        counts = (self.contexts * self.width, self.contexts, self.exposures * self.contexts)
        drawn = uniforms(key, sum(counts))
        sides, arms, places = drawn[: counts[0]], drawn[counts[0] : -counts[2]], drawn[-counts[2] :]
        state = ContextBanditState(
            jnp.where(sides < 0.5, 1.0, -1.0).reshape(self.contexts, self.width),
            jnp.floor(arms * self.arms).astype(jnp.int32),
            _ranks(places.reshape(self.exposures, self.contexts)),
            jnp.full(self.contexts, -1, jnp.int32),
            jnp.int32(0),
        )
        return state, self._observe(state)

    def step(
        self, state: ContextBanditState, action: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[ContextBanditState, DeviceStep]:
        context = self.context(state)
        right = action == state.arms[context]
        paid = right ^ (uniforms(key, 1)[0] < self.noise)
        first = right & (state.told[context] < 0) & (jnp.arange(self.contexts) == context)
        following = state._replace(told=jnp.where(first, state.steps, state.told), steps=state.steps + 1)
        over = following.steps >= self.max_steps
        return following, DeviceStep(self._observe(following), paid.astype(jnp.float32), over, jnp.bool_(False))

    def context(self, state: ContextBanditState) -> Int[Array, ""]:
        """Which of the episode's contexts is shown; after the end, the last one."""
        shown = jnp.minimum(state.steps // self.pulls, self.contexts * self.exposures - 1)
        return state.order.reshape(-1)[shown]

    def exposure(self, state: ContextBanditState) -> Int[Array, ""]:
        """How often this context was shown before: 0 at its first exposure."""
        return jnp.minimum(state.steps // (self.pulls * self.contexts), self.exposures - 1)

    def best(self, state: ContextBanditState) -> Int[Array, ""]:
        """The arm that pays now."""
        return state.arms[self.context(state)]

    def relevant_step(self, state: ContextBanditState) -> Int[Array, ""]:
        """The step that first took this context's right arm; -1 while none has, and nothing is to be known."""
        return state.told[self.context(state)]

    def _observe(self, state: ContextBanditState) -> Float[Array, "width"]:
        return state.pictures[self.context(state)]


def _ranks(chances: Float[Array, "rows items"]) -> Int[Array, "rows items"]:
    """A random order of the items for each row: the places that their chances have among each other.

    Counted, not sorted: a reset runs at every step, and sorting is slow on a processor.
    """
    items = jnp.arange(chances.shape[1])
    one, other = chances[:, :, None], chances[:, None, :]
    before = (other < one) | ((other == one) & (items[None, None, :] < items[None, :, None]))
    return before.sum(-1, dtype=jnp.int32)
