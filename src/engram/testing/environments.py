"""`check_env`: what a host environment should be, held against one of a user's own before it is trained in."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces as gym_spaces
from gymnasium.vector import VectorEnv

from engram.envs.device import is_device
from engram.envs.host.build import builder_of
from engram.envs.host.capture import tried_out
from engram.envs.host.episodes import Episodes
from engram.errors import EngramError, SpecError
from engram.spaces import MASK

SLOW = 5e-3  # seconds a step, from which other processes are worth their cost
FAR = 1e4  # between the sizes of the largest and the smallest feature, from which learning suffers


class Finding(NamedTuple):
    """One thing that was found: a `fault`, which breaks training or misleads it, or `advice`."""

    kind: Literal["fault", "advice"]
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def check_env(
    env: str | gymnasium.Env | Callable[[], gymnasium.Env],
    *,
    steps: int = 200,
    seed: int = 0,
    action_bins: int | None = None,
    show: bool = True,
) -> list[Finding]:
    """Plays `steps` random steps in a Gymnasium environment, and says what should be mended.

    Looks at spaces, types, bounds, NaN, ends of episodes, masks, arrays that change later, seeding, global generators,
    sizes of numbers, and the time of a step. An object is played in and left open. `show` prints each finding.
    Returns what was found; an empty list is the best answer. SpecError for what is no host environment.
    For an environment in JAX see `check_device_env`.
    """
    if isinstance(env, str) and is_device(env):
        raise SpecError(f"{env!r} runs on the device; check it with engram.check_device_env")
    found: list[Finding] = []
    made = builder_of(env, {}).made()
    try:
        if isinstance(made, VectorEnv) or not isinstance(made, gymnasium.Env):
            raise SpecError(f"{type(made).__name__} was given; expected one gymnasium.Env")
        _look(made, steps, seed, action_bins, found)
    finally:
        if made is not env:
            with _failures(found):
                made.close()
    if show:
        for finding in found:
            print(finding)
        if not found:
            print(f"nothing to mend was found in {steps} steps")
    return found


@contextmanager
def _failures(found: list[Finding]) -> Iterator[None]:
    """What the environment raises within is a fault that was found, and not the end of the look."""
    try:
        yield
    except EngramError as problem:
        found.append(Finding("fault", str(problem)))
    except Exception as problem:
        found.append(Finding("fault", f"the environment raised {type(problem).__name__}: {problem}"))


def _look(env: gymnasium.Env, steps: int, seed: int, action_bins: int | None, found: list[Finding]) -> None:
    watched, ends = _Watched(env), None
    with _failures(found):
        episodes = Episodes(watched, index=0, seed=seed, action_bins=action_bins)
        episodes.accept_missing()  # `watched` tells of a NaN, and what comes after it is looked at too
        repeats, _, drawn = tried_out(episodes)
        watched.forget()
        _judge_seeds(repeats, drawn, found)
        ends = _play(episodes, steps, np.random.default_rng(seed))
        _judge_beginnings(episodes, repeats, found)
    found += [Finding("fault", text) for text in watched.faults.values()]
    found += [Finding("advice", text) for text in (*watched.advice.values(), *watched.sizes())]
    if ends == 0:
        found.append(
            Finding(
                "advice",
                f"no episode ended in {steps} steps; a task that goes on for ever needs a limit on steps: "
                f"max_episode_steps=N (--max-episode-steps N)",
            )
        )
    if watched.seconds and (slow := float(np.median(watched.seconds))) > SLOW:
        found.append(
            Finding(
                "advice",
                f"a step takes {slow * 1e3:.0f} ms, so at most {1 / slow:,.0f} steps a second; several processes may "
                f"help: envs=4, asynchronous=True (--envs 4 --async)",
            )
        )


def _play(episodes: Episodes, steps: int, generator: np.random.Generator) -> int:
    """Random allowed actions; returns how many episodes ended."""
    ends = 0
    episodes.begin(0)
    for _ in range(steps):
        *_, done = episodes.step(episodes.allowed(int(generator.integers(episodes.actions))))
        if done:
            ends += 1
            episodes.begin()
    return ends


def _judge_seeds(repeats: bool | None, drawn: list[str], found: list[Finding]) -> None:
    if repeats is False:
        where = f"it draws from {' and '.join(drawn)}" if drawn else "it draws from a generator that no seed reaches"
        found.append(
            Finding(
                "fault",
                f"two episodes from one seed differed: {where}; call super().reset(seed=seed) and draw from "
                f"self.np_random",
            )
        )
    elif drawn:
        found.append(
            Finding(
                "fault",
                f"reset seeds {' and '.join(drawn)}, which other environments and your program share; draw from "
                f"self.np_random",
            )
        )


def _judge_beginnings(episodes: Episodes, repeats: bool | None, found: list[Finding]) -> None:
    firsts = [[np.array(each) for each in episodes.begin_with(seed)] for seed in (1, 2)]
    same = all(np.array_equal(*pair, equal_nan=pair[0].dtype.kind == "f") for pair in zip(*firsts, strict=True))
    if same and repeats and episodes.observer.parts[0].dtype.kind == "f":
        found.append(
            Finding(
                "advice",
                "two seeds gave the same first observation; if beginnings should differ, draw them from self.np_random",
            )
        )


class _Watched(gymnasium.Wrapper):
    """Notes what passes by. A later sentence about the same thing is not a second one."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.forget()

    def forget(self) -> None:
        """As before the first step."""
        self.faults: dict[str, str] = {}
        self.advice: dict[str, str] = {}
        self.seconds: list[float] = []
        self._masked: set[bool] = set()
        self._shown: list[tuple[str, np.ndarray, np.ndarray]] = []  # path, the array as it was given, and a copy
        self._largest: dict[str, np.ndarray] = {}
        self._reward = 0.0

    def reset(self, **given: Any) -> Any:
        result = self.env.reset(**given)
        if isinstance(result, tuple) and len(result) == 2:
            self._see(result[0], result[1], "reset")
        return result

    def step(self, action: Any) -> Any:
        began = time.perf_counter()
        result = self.env.step(action)
        self.seconds.append(time.perf_counter() - began)
        if isinstance(result, tuple) and len(result) == 5:
            self._see(result[0], result[4], "step")
            if isinstance(result[1], int | float | np.number):
                self._reward = max(self._reward, abs(float(result[1])))
        return result

    def sizes(self) -> list[str]:
        """About numbers that are too large, or too different, to learn from as they are."""
        told = []
        for path, sizes in self._largest.items():
            present = sizes[sizes > 0]
            if present.size and present.max() / present.min() > FAR:
                told.append(
                    f"the numbers of {path} differ in size, from {present.min():.2g} to {present.max():.2g}; scale "
                    f"them in the environment, or train with observation.normalize=true"
                )
        if self._reward > FAR:
            told.append(f"rewards reach {self._reward:.3g}; scale them, or train with reward.normalize=true")
        return told

    def _see(self, observation: Any, info: Any, call: str) -> None:
        for path, given, copy in self._shown:
            if not np.array_equal(given, copy, equal_nan=given.dtype.kind == "f"):
                self.advice["aliased"] = (
                    f"{path} is one array that the environment changes later; Engram copies it, other programs may "
                    f"not: return a copy"
                )
        self._shown = []
        self._compare(self.env.observation_space, observation, "the observation", call)
        self._masked.add(isinstance(info, dict) and MASK in info)
        if len(self._masked) == 2:
            self.faults["mask"] = f"info[{MASK!r}] was given at some steps only; return it from every reset and step"

    def _compare(self, space: gym_spaces.Space, value: Any, path: str, call: str) -> None:
        """What is shown against its space; what `Episodes` refuses is not repeated here."""
        if isinstance(space, gym_spaces.Dict) and isinstance(value, dict):
            for name, part in space.spaces.items():
                if name in value:
                    self._compare(part, value[name], f"{path} {name!r}", call)
        elif isinstance(space, gym_spaces.Tuple) and isinstance(value, tuple):
            for index, (part, each) in enumerate(zip(space.spaces, value, strict=False)):
                self._compare(part, each, f"{path} {index}", call)
        elif isinstance(space, gym_spaces.Box):
            self._compare_box(space, value, path, call)

    def _compare_box(self, space: gym_spaces.Box, value: Any, path: str, call: str) -> None:
        try:
            array = np.asarray(value)
        except Exception:  # `Episodes` says what it is
            return
        if array.shape != space.shape or array.dtype.kind not in "biuf":
            return
        if isinstance(value, np.ndarray):
            self._shown.append((path, value, value.copy()))
        if array.dtype != space.dtype:
            self.advice[f"dtype {path}"] = (
                f"{path} is {array.dtype} where its space says {space.dtype}; it is converted at each step: return "
                f"{space.dtype}"
            )
        with np.errstate(invalid="ignore"):
            outside = (array < space.low) | (array > space.high)
        if outside.any():
            place = tuple(int(axis) for axis in np.argwhere(outside)[0])
            self.faults[f"bounds {path}"] = (
                f"{path} holds {array[place]:.6g} at {list(place)} after {call}, outside of its bounds "
                f"{space.low[place]:.6g} to {space.high[place]:.6g}; widen the space or clip the value"
            )
        if array.dtype.kind == "f" and array.size:
            self._see_missing(array, path, call)
            self._largest[path] = np.fmax(self._largest.get(path, np.zeros(array.shape)), np.abs(array))

    def _see_missing(self, array: np.ndarray, path: str, call: str) -> None:
        missing = np.argwhere(np.isnan(array))
        if len(missing):
            self.faults[f"missing {path}"] = (
                f"{path} holds nan at {missing[0].tolist()} after {call}, which ends a run; return a number, or train "
                f"with observation.missing=mask"
            )
