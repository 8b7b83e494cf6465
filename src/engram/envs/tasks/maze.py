"""A maze with one reward, at its goal: the smallest task with a sparse reward.

    s . # . . .
    # . # . # .        s start, g goal, # wall
    . . . . # g

Values have to travel all the way back from the goal, and two walks that meet in a cell know more together than either
does: what memories of experience are tried on.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from engram.envs.device import DeviceStep, at_least, register_device, uniforms
from engram.errors import SpecError
from engram.spaces import Box

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left, as (rows, columns)
OPENED = 0.15  # share of the walls between two fields that a maze is opened by, so that there is more than one way


class SparseGridState(NamedTuple):
    """Where the agent is."""

    place: Int[Array, ""]  # row * size + column
    steps: Int[Array, ""]  # actions taken in this episode


class Plan(NamedTuple):
    """A maze as plain numbers, cells counted row by row."""

    free: tuple[bool, ...]
    following: tuple[tuple[int, ...], ...]  # [cells, actions]: where a move leads; a wall leads nowhere, to itself
    far: tuple[int, ...]  # moves to the goal; -1 for a wall
    goal: int


@register_device("engram/SparseGrid-v0")
@dataclass(frozen=True)
class SparseGrid:
    """Walk to the goal, which is the cell that is furthest from the upper left corner.

    The maze has walls and, with few exceptions, several ways; its `layout` decides it, so every episode of every run
    with that layout is in the same one.
    Actions: 0 up, 1 right, 2 down, 3 left; into a wall or off the board, one stays. Moves are certain.
    Reward: 1 for the step onto the goal, which ends the episode (`terminated`); every other 0. After `max_steps`
    actions an episode is cut (`truncated`). The best return is 1 and the worst 0; what tells good walks apart is the
    discounted return, discount^(n - 1) for n steps; `distance` of them are the least from the corner.
    Observation: "position", a vector of size x size with a 1 where the agent is; or "board", yes-or-no channels of
    walls, agent and goal on size x size cells.

    Args:
      size: cells along a side, an odd number, 3 or more.
      layout: 0 or more, the maze's number.
      start: "fixed", the upper left corner; or "random", each episode any free cell but the goal.
      view: what is observed.
      max_steps: actions after which an episode is cut.

    Ours. `step` does not read its key.
    """

    size: int = 9
    layout: int = 0
    start: Literal["fixed", "random"] = "fixed"
    view: Literal["position", "board"] = "position"
    max_steps: int = 200

    actions = len(MOVES)

    def __post_init__(self):
        for name, smallest in (("size", 3), ("layout", 0), ("max_steps", 1)):
            at_least(self, name, smallest)
        if self.size % 2 == 0:
            raise SpecError(f"size = {self.size} is even for SparseGrid; give {self.size + 1}, or another odd number")

    @property
    def observation_space(self) -> Box:
        side = self.size
        return Box((side * side,)) if self.view == "position" else Box((side, side, 3), "bool")

    @property
    def plan(self) -> Plan:
        """The maze."""
        return _plan(self.size, self.layout)

    @property
    def distance(self) -> int:
        """The fewest steps from the upper left corner to the goal."""
        return self.plan.far[0]

    def reset(self, key: UInt32[Array, "2"]) -> tuple[SparseGridState, Array]:
        place = jnp.int32(0)
        if self.start == "random":
            cells = jnp.array(self.starts, jnp.int32)
            place = cells[jnp.floor(uniforms(key, 1)[0] * len(self.starts)).astype(jnp.int32)]
        state = SparseGridState(place, jnp.int32(0))
        return state, self.observe(place)

    def step(
        self, state: SparseGridState, action: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[SparseGridState, DeviceStep]:
        place, steps = jnp.array(self.plan.following, jnp.int32)[state.place, action], state.steps + 1
        there = place == self.plan.goal
        step = DeviceStep(self.observe(place), there.astype(jnp.float32), there, steps >= self.max_steps)
        return SparseGridState(place, steps), step

    def observe(self, place: Int[Array, ""]) -> Float[Array, "cells"] | Bool[Array, "side side 3"]:
        """What is seen in a cell."""
        here = jnp.arange(self.size**2) == place
        if self.view == "position":
            return here.astype(jnp.float32)
        walls = ~jnp.array(self.plan.free)
        goal = jnp.arange(self.size**2) == self.plan.goal
        return jnp.stack([walls, here, goal], -1).reshape(self.size, self.size, 3)

    @property
    def starts(self) -> list[int]:
        """The cells that one can act in: the free ones without the goal."""
        return [cell for cell, free in enumerate(self.plan.free) if free and cell != self.plan.goal]

    def optimal(self, discount: float) -> Float[np.ndarray, "cells actions"]:
        """Q of every cell and action, by value iteration; 0 for walls and the goal, where nobody acts.

        The time limit does not count. SpecError if the discount is not in 0..1.
        """
        if not 0 <= discount <= 1:
            raise SpecError(f"discount = {discount!r}; give a number in 0..1")
        following, goal = np.array(self.plan.following), self.plan.goal
        acting = np.isin(np.arange(self.size**2), self.starts)[:, None]
        q = np.zeros((self.size**2, self.actions))
        while True:
            backed = np.where(following == goal, 1.0, discount * q.max(1)[following]) * acting
            if np.array_equal(backed, q):
                return q
            q = backed


@cache
def _plan(size: int, layout: int) -> Plan:
    """A maze by depth-first carving of the fields with even row and column, opened at some more walls.

    Every free cell can be reached from every other.
    """
    generator = np.random.default_rng([layout, size])
    free = np.zeros((size, size), bool)
    free[0, 0] = True
    path = [(0, 0)]
    while path:
        row, column = path[-1]
        ways = [(row + 2 * down, column + 2 * right, row + down, column + right) for down, right in MOVES]
        ways = [way for way in ways if 0 <= way[0] < size and 0 <= way[1] < size and not free[way[:2]]]
        if not ways:
            path.pop()
            continue
        way = ways[generator.integers(len(ways))]
        free[way[:2]] = free[way[2:]] = True
        path.append(way[:2])
    between = np.add.outer(np.arange(size), np.arange(size)) % 2 == 1  # a wall with a field on two sides
    free |= between & (generator.random((size, size)) < OPENED)
    following = []
    for row, column in np.ndindex(size, size):
        ends = [(row + down, column + right) for down, right in MOVES]
        inside = [0 <= r < size and 0 <= c < size and bool(free[r, c]) for r, c in ends]
        following.append(
            tuple(r * size + c if ok else row * size + column for (r, c), ok in zip(ends, inside, strict=True))
        )
    goal = int(np.argmax(_far(following, 0, free.ravel())))
    far = _far(following, goal, free.ravel())
    return Plan(tuple(map(bool, free.ravel())), tuple(following), tuple(far), goal)


def _far(following: list[tuple[int, ...]], cell: int, free: Bool[np.ndarray, "cells"]) -> list[int]:
    """Moves between each cell and the given one, which are the same in both directions; -1 for walls."""
    far = [-1] * len(following)
    far[cell], edge = 0, [cell]
    for now in edge:
        for there in following[now]:
            if free[there] and far[there] < 0:
                far[there] = far[now] + 1
                edge.append(there)
    return far
