"""Keep bits for a while, then name the one that is asked for: bsuite's memory_len and memory_size.

`engram/MemoryLength-v0` asks how long one bit can be kept, `engram/MemorySize-v0` how many can be kept for a moment.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from engram.envs.device import DeviceStep, at_least, register_device, uniforms
from engram.spaces import Box


class MemoryChainState(NamedTuple):
    """The bits to remember, and the clock."""

    context: Int[Array, "size"]  # the bits, 0 or 1
    query: Int[Array, ""]  # which of them is asked for
    steps: Int[Array, ""]  # actions taken in this episode


@register_device("engram/MemoryLength-v0", size=1)
@register_device("engram/MemorySize-v0", length=2)
@dataclass(frozen=True)
class MemoryChain:
    """`length` + 1 steps; only the action at the last counts, and it must be the queried bit.

    Observation: the time left, from 1 down to 0; the number of the bit that is asked for, in the last observation that
    is acted on, else 0; then `size` bits as 1 and -1, in the first observations, else 0.
    Actions: 0 and 1. Reward: at the last step, a true end, 1 if the action is the queried bit and -1 if it is not; 0
    before. The best return is 1; random actions get 0. Correlation horizon: `length` observations.

    As in bsuite, whose clock starts with the first action, observation 1 repeats observation 0: the bits are seen
    twice. bsuite's memory_len has one bit and lengths 1-10, 12, 14, 17, 20, 25, 30, 40 .. 100; its memory_size has
    length 2 and 1-10, 12, 14, 17, 20, 25, 30, 40 bits. The observation is a vector here, a matrix of one row there.

    Args:
      length: steps over which the bits must be kept, 1 or more.
      size: number of bits, 1 or more.

    `step` does not read its key. Source: Osband et al. 2020, "Behaviour Suite for Reinforcement Learning"
    (arXiv 1908.03568); bsuite 0.3.6.
    """

    length: int = 10
    size: int = 10

    actions = 2

    def __post_init__(self):
        at_least(self, "length", 1)
        at_least(self, "size", 1)

    @property
    def observation_space(self) -> Box:
        return Box((self.size + 2,))

    def reset(self, key: UInt32[Array, "2"]) -> tuple[MemoryChainState, Float[Array, "numbers"]]:
        chances = uniforms(key, self.size + 1)
        context = (chances[1:] < 0.5).astype(jnp.int32)
        query = jnp.floor(chances[0] * self.size).astype(jnp.int32)
        state = MemoryChainState(context, query, jnp.int32(0))
        return state, self._observe(state)

    def step(
        self, state: MemoryChainState, action: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[MemoryChainState, DeviceStep]:
        over = state.steps >= self.length
        bit = jnp.where(jnp.arange(self.size) == state.query, state.context, 0).sum()
        reward = jnp.where(over, jnp.where(action == bit, 1.0, -1.0), 0.0)
        following = state._replace(steps=state.steps + 1)
        return following, DeviceStep(self._observe(following), reward, over, jnp.bool_(False))

    def relevant_step(self, state: MemoryChainState) -> Int[Array, ""]:
        """0 for the last decision (step 1 shows the same), -1 for the others, which do not count."""
        return jnp.where(state.steps >= self.length, 0, -1)

    def _observe(self, state: MemoryChainState) -> Float[Array, "numbers"]:
        clock = jnp.maximum(state.steps - 1, 0)
        left = 1 - clock / self.length
        asked = jnp.where(clock == self.length - 1, state.query, 0)
        shown = jnp.where(clock == 0, 2 * state.context - 1, 0)
        return jnp.concatenate([left[None], asked[None], shown]).astype(jnp.float32)
