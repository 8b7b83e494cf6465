"""Environments for the tests of host environments: sound ones, and some that break where they are told to.

Worker processes import this file, so it imports no JAX.
"""

import multiprocessing
import os
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from engram.envs.host.episodes import episode_seed

LENGTH = 4  # steps of an episode of Walk


class Walk(gymnasium.Env):
    """A random walk. It shows (position, steps); the reward is the position; it terminates or, at odd ends, truncates.

    All randomness comes from the episode's seed, so that it can be replayed.
    """

    def __init__(self, length: int = LENGTH):
        self.length = length
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.position, self.steps, self.given_seed = 0.0, 0, -1

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        self.given_seed = -1 if seed is None else seed
        self.position, self.steps = float(self.np_random.normal()), 0
        return self.show(), {}

    def step(self, action: Any) -> Any:
        self.position += float(self.np_random.normal()) + 10 * int(action)
        self.steps += 1
        over = self.steps >= self.length
        odd = self.given_seed % 2 == 1
        return self.show(), self.position, over and not odd, over and odd, {}

    def show(self) -> np.ndarray:
        return np.array([self.position, self.steps], np.float32)


class Aliased(Walk):
    """Shows one buffer that it overwrites, as some simulators do."""

    def __init__(self):
        super().__init__()
        self.buffer = np.zeros(2, np.float32)

    def show(self) -> np.ndarray:
        self.buffer[:] = self.position, self.steps
        return self.buffer


class Unseeded(Walk):
    """Draws from a generator of its own, whatever seed it is given."""

    def __init__(self):
        super().__init__()
        self.own = np.random.default_rng()

    def show(self) -> np.ndarray:
        return np.array([self.own.random(), self.steps], np.float32)


class Registered(Walk):
    """Walk, with one attribute of every kind that can be saved."""

    def __init__(self, wind: float = 0.5):
        super().__init__()
        self.wind = wind
        self.more: Any = None

    def step(self, action: Any) -> Any:
        kinds = {"list": [1, 2.5], "array": np.arange(3, dtype=np.int16), "scalar": np.float32(0.1), "none": None}
        self.more = (self.steps, "text", True, kinds)
        return super().step(action)


class FailsInWorkers(Walk):
    """Can be made in the main process only."""

    def __init__(self):
        super().__init__()
        if multiprocessing.parent_process() is not None:
            raise RuntimeError("no display")


class Broken(Walk):
    """Sound but for one action of one episode of one environment of a run, where `spoil` changes what step returns."""

    def __init__(self, spoil: Any, seed: int, index: int, episode: int, step: int):
        super().__init__()
        self.spoil, self.at = spoil, (episode_seed(seed, index, episode), step)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        result = super().reset(seed=seed)
        return self.spoil(*result) if self.at == (seed, 0) else result

    def step(self, action: Any) -> Any:
        result = super().step(action)
        return self.spoil(*result) if self.at == (self.given_seed, self.steps) else result


class Masked(Walk):
    """Walk with three actions, of which `info` forbids one at each step, another each time. A forbidden one raises.

    Where an episode terminates nothing is allowed. `spoil` changes the info of one step of one episode, as in `Broken`.
    """

    def __init__(self, spoil: Any = None, seed: int = 0, index: int = 0, episode: int = 0, step: int = 0):
        super().__init__()
        self.action_space = spaces.Discrete(3)
        self.spoil, self.at = spoil, (episode_seed(seed, index, episode), step)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        observation, _ = super().reset(seed=seed)
        return observation, self.info(False)

    def step(self, action: Any) -> Any:
        if not self.mask()[action]:
            raise ValueError(f"action {action} is forbidden")
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, self.info(terminated)

    def info(self, terminated: bool) -> Any:
        info = {"action_mask": np.zeros(3, np.int8) if terminated else self.mask()}
        return self.spoil(info) if self.spoil is not None and self.at == (self.given_seed, self.steps) else info

    def mask(self) -> np.ndarray:
        return (np.arange(3) != self.steps % 3).astype(np.int8)


def die(*_: Any) -> None:
    os._exit(3)


def leave(error: type[BaseException], *_: Any) -> None:
    raise error


def hang(*_: Any) -> None:
    time.sleep(600)


class Odd(Exception):
    """Cannot be made again from what pickling keeps of it."""

    def __init__(self, one: int, two: int):
        super().__init__(f"{one} and {two}")


def explode(*_: Any) -> None:
    raise Odd(1, 2)
