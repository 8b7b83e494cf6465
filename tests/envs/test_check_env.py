"""`check_env` finds what is wrong with an environment, each in a sentence, and nothing in one that is sound."""

import re
import time
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from support.bad_envs import Aliased, Masked, Unseeded, Walk

import engram
from engram.errors import SpecError


def changed(**changes: Any) -> type:
    return type("Changed", (Walk,), changes)


def shows(value: Any) -> type:
    return changed(show=lambda self: value(self))


def both(self: Walk) -> np.ndarray:
    return Walk.show(self)


class Bounded(Walk):
    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(-1, 3, (2,), np.float32)


class Forgetful(Walk):
    """A mask at resets only."""

    def reset(self, **given: Any) -> Any:
        observation, _ = super().reset(**given)
        return observation, {"action_mask": np.ones(2, np.int8)}


class Slow(Walk):
    def step(self, action: Any) -> Any:
        time.sleep(0.008)
        return super().step(action)


class Actionless(Walk):
    def __init__(self):
        super().__init__()
        del self.action_space


class Globally(Walk):
    def show(self) -> np.ndarray:
        return np.array([np.random.random(), self.steps], np.float32)  # noqa: NPY002


class Seeding(Globally):
    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        np.random.seed(seed)  # noqa: NPY002
        return super().reset(seed=seed)


@pytest.mark.parametrize(
    ("env", "kind", "said"),
    [
        (Bounded, "fault", r"the observation holds .* outside of its bounds -1 to 3; widen the space or clip"),
        (Aliased, "advice", "the observation is one array that the environment changes later"),
        (Unseeded, "fault", "two episodes from one seed differed: it draws from a generator that no seed reaches"),
        (Globally, "fault", r"two episodes from one seed differed: it draws from NumPy's global generator"),
        (Seeding, "fault", r"reset seeds NumPy's global generator \(np.random\), which other environments"),
        (Forgetful, "fault", "action_mask"),
        (Slow, "advice", r"a step takes \d+ ms, so at most .*--envs 4 --async"),
        (lambda: Walk(10**6), "advice", r"no episode ended in 200 steps; .*--max-episode-steps N"),
        (shows(lambda self: both(self).astype(np.float64)), "advice", "is float64 where its space says float32"),
        (shows(lambda self: np.array([np.nan, 0], np.float32)), "fault", r"holds nan at \[0\]"),
        (shows(lambda self: np.array([1e6, 1e-2], np.float32)), "advice", "differ in size, from 0.01 to 1e\\+06"),
        (shows(lambda self: np.zeros(2, np.float32)), "advice", "two seeds gave the same first observation"),
        (changed(step=lambda self, action: (both(self), 1.0, False, {})), "fault", "a tuple of 4, expected"),
        (changed(step=lambda self, action: (both(self), "1", False, False, {})), "fault", "reward is str '1'"),
        (Actionless, "fault", "lacks a space"),
    ],
)
def test_what_is_wrong_is_a_sentence(env: Any, kind: str, said: str):
    found = engram.check_env(env, show=False)
    assert [one for one in found if one.kind == kind and re.search(said, one.text)], found


class Gapped(Forgetful):
    """A NaN at every reset, numbers that differ in size, and a mask at resets only."""

    def show(self) -> np.ndarray:
        return np.array([np.nan if self.steps == 0 else 1e6, 1e-2], np.float32)


class Breaks(Bounded):
    """Numbers outside of their bounds from the first step on, and an error later."""

    def step(self, action: Any) -> Any:
        if self.steps == 2:
            raise ValueError("a pipe burst")
        return super().step(action)

    def show(self) -> np.ndarray:
        return np.array([7, self.steps], np.float32)


class Unseedable(Walk):
    """Fails at a reset with one of the seeds that are tried last."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        if seed == 2:
            raise KeyError("no level 2")
        return super().reset(seed=seed)

    def close(self) -> None:
        raise OSError("closed already")


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (shows(lambda self: np.array([np.nan, 1], np.float32)), ["holds nan at [0]", "two seeds gave the same first"]),
        (Gapped, ["holds nan at [0]", "action_mask", "differ in size"]),
        (Breaks, ["a pipe burst", "outside of its bounds"]),
        (Unseedable, ["no level 2", "closed already"]),
    ],
)
def test_what_is_found_first_hides_nothing(env: Any, said: list[str]):
    found = [str(one) for one in engram.check_env(env, show=False)]
    assert all(any(word in text for text in found) for word in said), found


@pytest.mark.parametrize("env", ["CartPole-v1", "MiniGrid-MemoryS7-v0", Walk, Masked])
def test_nothing_is_found_in_what_is_sound(env: Any, capsys: pytest.CaptureFixture[str]):
    assert engram.check_env(env) == []
    assert capsys.readouterr().out == "nothing to mend was found in 200 steps\n"


def test_findings_are_printed_and_an_object_is_left_open(capsys: pytest.CaptureFixture[str]):
    class Watched(Aliased):
        closed = False

        def close(self) -> None:
            self.closed = True

    env = Watched()
    (finding,) = engram.check_env(env)
    assert capsys.readouterr().out == f"{finding}\n"
    assert str(finding).startswith("advice: the observation is one array")
    assert not env.closed


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ("engram/CartPole-v1", "check it with engram.check_device_env"),
        (lambda: gymnasium.make_vec("CartPole-v1", 2, "sync"), "SyncVectorEnv was given; expected one gymnasium.Env"),
    ],
)
def test_what_is_no_single_host_environment_is_named(env: Any, said: str):
    with pytest.raises(SpecError, match=said):
        engram.check_env(env)
