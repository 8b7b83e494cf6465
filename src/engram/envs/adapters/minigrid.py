"""MiniGrid's observations as a board: one plane for each thing that a tile can be.

MiniGrid shows each tile in view as three codes (object, colour, state), and the direction that the agent looks in as a
fourth. The size of a code means nothing, so codes become planes of zeros and ones: one array of rows x columns x
planes, which every encoder for boards can read.

Few ones stand in a board, because what they say must not drown in what is everywhere. Code 0 has no plane: most tiles
are not seen, and what has neither colour nor state has 0 for both, so a one says that something is there. Nothing is
lost by it: 0 is where none of the other codes is. And the direction stands in the agent's own tile alone.

The mission is left out. MiniGrid declares neither its length nor its characters, without which a text cannot be stored;
and in most tasks it is the same in every episode. Where it is not (most of BabyAI), the agent is not told what to do.

Worker processes import this file, so it imports no JAX; MiniGrid is imported only when one of its tasks is made.
"""

from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces as gym_spaces
from gymnasium.envs.registration import EnvSpec

from engram.envs.adapters import plain
from engram.envs.adapters.adapter import Adapter
from engram.errors import EnvironmentFault

DIRECTIONS = 4
_SEEN = "a board of planes for objects, colours, states and direction; the mission's text left out"


class Tiles(gym_spaces.Box):
    """Boards [rows, columns, planes] of bool, made of the codes of MiniGrid's observations.

    Args:
      rows, columns: tiles in view. sizes: how many codes there are for objects, colours and states.

    The planes are those of all objects but code 0, then of the colours, the states (the same), and the four directions.
    """

    def __init__(self, rows: int, columns: int, sizes: tuple[int, ...]):
        self.sizes = np.array(sizes)
        self.begins = np.cumsum(self.sizes - 1) - self.sizes  # where the plane of a kind's code 0 would be
        super().__init__(0, 1, (rows, columns, int((self.sizes - 1).sum()) + DIRECTIONS), np.bool_)  # type: ignore[arg-type]

    def translated(self, observation: Any) -> Any:
        """See `TranslatingSpace`: the board of MiniGrid's own observation, one or a batch; any other as it is."""
        if isinstance(observation, dict) and {"image", "direction"} <= set(observation):
            return self.board(observation)
        return observation

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
        wrong = ((tiles < 0) | (tiles >= self.sizes)).any(-1)
        if wrong.any() or ((direction < 0) | (direction >= DIRECTIONS)).any():
            said = f"a tile of {tiles[wrong][0].tolist()}" if wrong.any() else f"direction {direction.tolist()}"
            raise EnvironmentFault(
                f"{said} was given; expected an object, a colour and a state below {self.sizes.tolist()}, and a "
                f"direction below {DIRECTIONS}"
            )
        board = np.zeros((*tiles.shape[:-1], planes), np.bool_)
        where = np.nonzero(tiles)
        board[(*where[:-1], tiles[where] + self.begins[where[-1]])] = True
        # MiniGrid's first axis runs from left to right, and the agent stands in the middle of the nearest row.
        board[..., rows // 2, columns - 1, planes - DIRECTIONS :] = direction[..., None] == np.arange(DIRECTIONS)
        return board


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


def make(spec: EnvSpec, env_args: dict[str, Any]) -> gymnasium.Env:
    """The environment, seen as boards where it shows MiniGrid's view."""
    env = plain.make(spec, env_args)
    return Board(env) if is_minigrid(env) else env


def describe(spec: EnvSpec, env_args: dict[str, Any]) -> str:
    """The id, its arguments, and what is seen. Raises SpecError for a wrong argument."""
    return f"{plain.describe(spec, env_args)}: {_SEEN}"


ADAPTER = Adapter(("MiniGrid-", "BabyAI-"), module="minigrid", extra="memory", make=make, describe=describe)
