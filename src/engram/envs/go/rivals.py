"""Whom an agent is matched with on a board of Go: simple players, and engines that speak GTP."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from engram.envs.go.gtp import Engine, gnu_go
from engram.envs.go.players import PLAYERS
from engram.errors import SpecError

NAMES = (*PLAYERS, "gnugo:LEVEL")
ENGINES = 4  # that play side by side


class SimplePlayers:
    """A player of `players.PLAYERS`, in all games at once."""

    at_once = 1 << 20

    def __init__(self, env: Any, name: str, seed: int):
        self._choose = jax.jit(jax.vmap(env.player(name)))
        self._seed, self._games, self._time = seed, np.zeros(0, np.uint32), 0

    def begin(self, games: Sequence[int]) -> None:
        self._games, self._time = np.array(games, np.uint32), 0

    def choose(self, states: PyTree, observation: PyTree, turn: np.ndarray, side: np.ndarray) -> np.ndarray:
        del observation, turn, side
        self._time += 1
        drawn = np.random.default_rng([self._seed, 0x60, self._time, int(self._games[0])])
        bits = drawn.integers(0, 1 << 32, (len(self._games), 2), np.uint32)
        return np.asarray(self._choose(states.game, jnp.asarray(bits)))

    def hear(self, turn: np.ndarray, side: np.ndarray, action: np.ndarray) -> None: ...

    def close(self) -> None: ...


class Engines:
    """An engine for each game that is played side by side. `command`: of one with a seed."""

    at_once = ENGINES

    def __init__(self, env: Any, command: Any, seed: int):
        self._size, self._komi, self._command, self._seed = env.size, env.points_to_white, command, seed
        self._engines: list[Engine] = []

    def begin(self, games: Sequence[int]) -> None:
        self.close()  # a seed is for one process
        for game in games:
            self._engines.append(Engine(self._command(seed=self._seed * 100_003 + game)))
            self._engines[-1].begin(self._size, self._komi)

    def choose(self, states: PyTree, observation: PyTree, turn: np.ndarray, side: np.ndarray) -> np.ndarray:
        del states, observation
        chosen = np.zeros(len(turn), np.int32)
        for game in np.flatnonzero(turn):  # all think at once
            self._engines[game].think(int(side[game]))
        for game in np.flatnonzero(turn):
            chosen[game] = self._engines[game].chosen()
        return chosen

    def hear(self, turn: np.ndarray, side: np.ndarray, action: np.ndarray) -> None:
        for game in np.flatnonzero(turn):
            self._engines[game].play(int(side[game]), int(action[game]))

    def close(self) -> None:
        for engine in self._engines:
            engine.close()
        self._engines = []


def rival(env: Any, name: str, seed: int) -> Any:
    """The rival of that name; None for none. Raises SpecError for a level of GNU Go that is none."""
    if name in PLAYERS:
        return SimplePlayers(env, name, seed)
    engine, _, level = name.partition(":")
    if engine != "gnugo":
        return None
    if not level.isdecimal():
        raise SpecError(f"{name!r} was given; write gnugo:LEVEL with a level from 0 to 10, as in gnugo:1")
    gnu_go(int(level))  # so that one that is missing is noticed before anything is played
    return Engines(env, partial(gnu_go, int(level)), seed)
