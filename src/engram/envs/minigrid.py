"""MiniGrid's observations as a board: one plane for each thing that a tile can be.

MiniGrid shows each tile in view as three codes (object, colour, state), and the direction that the agent looks in as a
fourth. The size of a code means nothing, so codes become planes of zeros and ones, and the direction four planes that
are the same in every tile: one array of rows x columns x planes, which every encoder for boards can read.

The mission is left out. MiniGrid declares neither its length nor its characters, without which a text cannot be stored;
and in most tasks it is the same in every episode. Where it is not (most of BabyAI), the agent is not told what to do.

Worker processes import this file, so it imports no JAX; MiniGrid is imported only when one of its tasks is made.
"""

from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces as gym_spaces

from engram.errors import EnvironmentFault

DIRECTIONS = 4
SEEN = "a board of planes for objects, colours, states and direction; the mission's text left out"


class Tiles(gym_spaces.Box):
    """Boards [rows, columns, planes] of bool, made of the codes of MiniGrid's observations.

    Args:
      rows, columns: tiles in view. sizes: how many codes there are for objects, colours and states.

    The planes are those of all objects, then all colours, states and directions. Each tile has a one in one of each.
    """

    def __init__(self, rows: int, columns: int, sizes: tuple[int, ...]):
        self.sizes = np.array((*sizes, DIRECTIONS))
        self.begins = np.cumsum(self.sizes) - self.sizes  # the first plane of each kind
        super().__init__(0, 1, (rows, columns, int(self.sizes.sum())), np.bool_)

    def board(self, observation: dict[str, Any]) -> np.ndarray:
        """The board of one observation as MiniGrid gives it, or those of a batch with leading axes in every array.

        Raises EnvironmentFault for arrays of another form, and for a code that no plane stands for.
        """
        tiles, direction = np.asarray(observation["image"]), np.asarray(observation["direction"])
        rows, columns, planes = self.shape
        if tiles.shape != (*direction.shape, rows, columns, 3) or {tiles.dtype.kind, direction.dtype.kind} - set("iu"):
            raise EnvironmentFault(
                f"a view of {tiles.dtype} {tiles.shape} and a direction of {direction.dtype} {direction.shape} were "
                f"given; expected integer codes of shape {(rows, columns, 3)} and one direction"
            )
        codes = np.empty((*tiles.shape[:-1], self.sizes.size), np.int64)
        codes[..., :3], codes[..., 3] = tiles, direction[..., None, None]
        wrong = (codes < 0) | (codes >= self.sizes)
        if wrong.any():
            raise EnvironmentFault(
                f"a tile holds {codes[wrong.any(-1)][0].tolist()} for its object, colour, state and direction; "
                f"expected codes from 0, below {self.sizes.tolist()}"
            )
        board = np.zeros(codes[..., 0].size * planes, np.bool_)
        board[np.arange(0, board.size, planes)[:, None] + (codes + self.begins).reshape(-1, self.sizes.size)] = True
        return board.reshape(*codes.shape[:-1], planes)


class Board(gymnasium.ObservationWrapper):
    """An environment of MiniGrid, seen as the boards of `Tiles`."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        constants = import_module("minigrid.core.constants")
        names = (constants.OBJECT_TO_IDX, constants.COLOR_TO_IDX, constants.STATE_TO_IDX)
        rows, columns, _ = env.observation_space["image"].shape  # type: ignore[index]
        self.observation_space = self._tiles = Tiles(rows, columns, tuple(max(each.values()) + 1 for each in names))

    def observation(self, observation: dict[str, Any]) -> np.ndarray:
        """See `Tiles.board`."""
        return self._tiles.board(observation)


def is_minigrid(env: gymnasium.Env) -> bool:
    """Whether what an environment shows is MiniGrid's view: codes of tiles, and a direction."""
    parts = env.observation_space
    if not isinstance(parts, gym_spaces.Dict) or not {"image", "direction"} <= set(parts.spaces):
        return False
    shape = parts["image"].shape
    return isinstance(parts["direction"], gym_spaces.Discrete) and shape is not None and shape[2:] == (3,)
