"""A corridor that ends in a fork. The arm to take was shown once, long before.

              up    y = 1
    o--s......j     y = 0
              down  y = -1

`s` is where an episode starts, `j` the junction, `length` fields further on, and `o` the oracle, which shows the cue.
In the passive maze s is o itself: the cue comes first, and the agent only has to keep it. In the active maze s lies one
field to the right of o: the agent has to go back for the cue.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from engram.envs.device import DeviceStep, at_least, register_device, uniforms
from engram.spaces import Box

RIGHT, UP, LEFT, DOWN = range(4)


class TMazeState(NamedTuple):
    """Where the agent is, where it should go, and when it was told."""

    place: Int[Array, ""]  # fields to the right of the oracle
    arm: Int[Array, ""]  # 1 up, -1 down, 0 in the corridor or at the junction
    goal: Int[Array, ""]  # the arm that pays, 1 or -1
    cue: Int[Array, ""]  # the step of the episode whose observation shows the goal; -1 while that is not known
    steps: Int[Array, ""]  # actions taken in this episode


@register_device("engram/PassiveTMaze-v0", oracle=0)
@register_device("engram/ActiveTMaze-v0", oracle=1, cue_at="start")
@dataclass(frozen=True)
class TMaze:
    """Walk down the corridor, then turn into the arm that the cue named.

    Observation: two numbers. In the corridor (0, cue), where the cue is 1 (up) or -1 (down) in one observation of the
    episode and 0 in all others; at the junction (1, 0); in an arm (1, 1) or (1, -1). Nothing tells how far it is.
    Actions: 0 right, 1 up, 2 left, 3 down; a move into a wall does nothing. An episode has as many steps as the
    shortest way needs, length + 1 in the passive maze and length + 3 in the active one; the last is a true end
    (`terminated`).
    Reward: at the last step 1 in the right arm, else 0; at every step before -1/length if the agent is further back
    than had it lost no time since the oracle, else 0. The best return is 1, and any other is 0 or less: *success is a
    return of 1*. Standing still costs 1, and so do random actions. A policy that walks well and guesses the arm gets
    1/2 in the mean. Correlation horizon: length + 1 observations, the cue's and the junction's included (active: length
    + 2).

    Args:
      length: fields from the start to the junction.
      oracle: fields from the oracle to the start; the id decides.
      cue_at: "start", where the agent first stands on the oracle; or "random" (passive maze only, ours): at a step that
        is drawn for each episode, uniformly from the first half of the corridor, so that looking at a fixed step fails.
        Which it was can be read off an episode: the one step whose observation is (0, 1) or (0, -1).

    `step` does not read its key. Source: Bakker 2001; the penalty and the number of steps are those of Ni et al. 2023
    (arXiv 2307.03864) and of their published environment, whose moves, observations, rewards and ends these are,
    written anew.
    """

    oracle: int
    length: int = 10
    cue_at: Literal["start", "random"] = "start"

    observation_space = Box((2,))
    actions = 4

    def __post_init__(self):
        at_least(self, "length", 1)

    @property
    def max_steps(self) -> int:
        """Steps in every episode."""
        return self.length + 2 * self.oracle + 1

    def reset(self, key: UInt32[Array, "2"]) -> tuple[TMazeState, Float[Array, "2"]]:
        side, moment = uniforms(key, 2)
        goal = jnp.where(side < 0.5, jnp.int32(1), jnp.int32(-1))
        if self.oracle:
            cue = jnp.int32(-1)
        else:
            latest = (self.length + 1) // 2 if self.cue_at == "random" else 1
            cue = jnp.floor(moment * latest).astype(jnp.int32)
        state = TMazeState(jnp.int32(self.oracle), jnp.int32(0), goal, cue, jnp.int32(0))
        return state, self._observe(state)

    def step(self, state: TMazeState, action: Int[Array, ""], key: UInt32[Array, "2"]) -> tuple[TMazeState, DeviceStep]:
        junction = self.oracle + self.length
        along = (action == RIGHT).astype(jnp.int32) - (action == LEFT)
        aside = (action == UP).astype(jnp.int32) - (action == DOWN)
        place = jnp.where(state.arm == 0, jnp.clip(state.place + along, 0, junction), state.place)
        arm = jnp.where(state.place == junction, jnp.clip(state.arm + aside, -1, 1), 0)
        steps = state.steps + 1
        cue = jnp.where((state.cue < 0) & (place == 0), steps, state.cue)
        over = steps >= self.max_steps
        late = place < steps - self.oracle
        reward = jnp.where(over, arm == state.goal, jnp.where(late, jnp.float32(-1 / self.length), 0.0))
        following = TMazeState(place, arm, state.goal, cue, steps)
        return following, DeviceStep(self._observe(following), reward.astype(jnp.float32), over, jnp.bool_(False))

    def relevant_step(self, state: TMazeState) -> Int[Array, ""]:
        """At the junction the step that showed the cue; -1 in the corridor, in an arm, and where no cue was seen."""
        fork = (state.place == self.oracle + self.length) & (state.arm == 0)
        return jnp.where(fork, state.cue, -1)

    def _observe(self, state: TMazeState) -> Float[Array, "2"]:
        far = state.place == self.oracle + self.length
        shown = jnp.where(state.steps == state.cue, state.goal, 0)
        return jnp.stack([far.astype(jnp.int32), jnp.where(far, state.arm, shown)]).astype(jnp.float32)
