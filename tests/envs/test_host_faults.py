"""Environments that break their contract: each is named with index, episode, step and field, nothing is returned."""

import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from support.bad_envs import Broken, FailsInWorkers, Walk, die, explode, hang, leave

from engram.envs.host.make import HostEnvs, convert_observation, make_host
from engram.errors import EXIT_DATA, EnvironmentFault, SpecError

SEED, INDEX, EPISODE, STEP = 7, 1, 1, 2
Spoil = Callable[..., Any]


def two(spoil: Spoil, step: int = STEP, **settings: Any) -> HostEnvs:
    """Two environments, of which the second breaks in its second episode."""
    return make_host(partial(Broken, spoil, SEED, INDEX, EPISODE, step), envs=2, seed=SEED, **settings)


def play(envs: HostEnvs, steps: int = 8) -> None:
    envs.reset()
    for _ in range(steps):
        envs.step(np.zeros(envs.envs, np.int64))


def changed(place: int, value: Any) -> Spoil:
    """A step's result with one of its five values replaced."""
    return lambda *result: (*result[:place], value, *result[place + 1 :])


def raises(error: BaseException) -> Spoil:
    def spoil(*_: Any) -> None:
        raise error

    return spoil


class Textless(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)


BAD_STEPS = {
    "nan observation": (changed(0, np.array([np.nan, 0], np.float32)), r"observation holds nan at \[0\]"),
    "infinite observation": (changed(0, np.array([0, -np.inf], np.float32)), r"observation holds -inf at \[1\]"),
    "too large": (changed(0, np.array([1e300, 0])), r"observation holds inf at \[0\], .* float32 can hold"),
    "wrong shape": (
        changed(0, np.zeros(3, np.float32)),
        r"observation has shape \(3,\), expected float32 of shape \(2,\)",
    ),
    "scalar": (changed(0, 1.0), r"observation has shape \(\), expected float32 of shape \(2,\)"),
    "ragged": (changed(0, [[1.0], [1.0, 2.0]]), r"observation is list .*, expected float32 of shape \(2,\)"),
    "text": (changed(0, np.array(["a", "b"])), r"observation holds <U1, expected float32"),
    "complex": (changed(0, np.array([1j, 0])), r"observation holds complex128, expected float32"),
    "no observation": (changed(0, None), r"observation has shape \(\), expected float32"),
    "another structure": (changed(0, {"a": 1}), r"observation has shape \(\), expected float32"),
    "no reward": (changed(1, None), r"reward is NoneType None, expected one finite number"),
    "text reward": (changed(1, "1.0"), r"reward is str '1.0', expected one finite number"),
    "nan reward": (changed(1, float("nan")), r"reward is nan, expected one finite number"),
    "infinite reward": (changed(1, np.float64("inf")), r"reward is inf, expected one finite number"),
    "huge reward": (changed(1, 1e39), r"reward is 1e\+39, expected one finite number that float32 can hold"),
    "reward vector": (changed(1, np.ones(1)), r"reward is ndarray array\(\[1.\]\), expected one finite number"),
    "terminated 1": (changed(2, 1), r"terminated is int 1, expected True or False"),
    "terminated none": (changed(2, None), r"terminated is NoneType None, expected True or False"),
    "truncated 0": (changed(3, 0), r"truncated is int 0, expected True or False"),
    "truncated text": (changed(3, "no"), r"truncated is str 'no', expected True or False"),
    "truncated vector": (
        changed(3, np.array([True])),
        r"truncated is ndarray array\(\[ True\]\), expected True or False",
    ),
    "old gym": (lambda *result: result[:3] + result[4:], r"step returned a tuple of 4, expected .* gym < 0.26"),
    "nothing": (lambda *result: None, r"step returned NoneType None, expected"),
    "exception": (raises(KeyError("wheel")), r"step raised KeyError: 'wheel'; mend the environment"),
    "silent assertion": (raises(AssertionError()), r"step raised AssertionError; mend the environment"),
    "exit": (raises(SystemExit(0)), r"step raised SystemExit: 0; report a problem by an ordinary exception"),
    "generator's exit": (raises(GeneratorExit()), r"step raised GeneratorExit; report a problem by"),
    "text that raises": (raises(Textless()), r"step raised Textless; mend the environment"),
    "long text": (raises(ValueError("x" * 10_000)), r"step raised ValueError: x{300}\.\.\.; mend the environment$"),
    "text that steers a terminal": (raises(ValueError("\x1b[31m")), r"step raised ValueError: \\x1b\[31m; mend"),
}
BAD_RESETS = {
    "observation only": (
        lambda observation, info: observation,
        r"reset returned ndarray .*, expected \(observation, info\)",
    ),
    "no info": (lambda observation, info: (observation, None), r"reset returned a tuple of 2, .* with info a dict"),
    "nan observation": (lambda observation, info: (observation * np.nan, info), r"observation holds nan at \[0\]"),
    "exception": (raises(RuntimeError("no  more\nlevels")), r"reset\(seed=\d+\) raised RuntimeError: no more levels"),
    "exit": (raises(SystemExit(3)), r"reset\(seed=\d+\) raised SystemExit: 3; report a problem by"),
}


@pytest.mark.parametrize("name", BAD_STEPS)
def test_a_bad_step_is_named(name: str):
    spoil, said = BAD_STEPS[name]
    with pytest.raises(EnvironmentFault, match=rf"^environment 1, episode 1, step 2: {said}") as caught:
        play(two(spoil))
    assert caught.value.exit_code == EXIT_DATA
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, KeyboardInterrupt])
def test_a_worker_whose_environment_exits_names_it_too(error: type[BaseException]):
    """It would else end, with an exit code that may say that all is well."""
    with pytest.raises(EnvironmentFault, match=rf"^environment 1, episode 1, step 2: step raised {error.__name__}"):
        play(two(partial(leave, error), asynchronous=True))


def test_a_keyboard_interrupt_is_the_users_only_while_the_keyboard_can_raise_it():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            play(two(raises(KeyboardInterrupt())))
        signal.signal(signal.SIGINT, lambda *_: None)  # as while a run learns
        with pytest.raises(EnvironmentFault, match="step raised KeyboardInterrupt; report a problem by"):
            play(two(raises(KeyboardInterrupt())))
    finally:
        signal.signal(signal.SIGINT, before)


class Leaves(Walk):
    """Exits where it is told to."""

    def __init__(self, where: str):
        self.where = where
        self.leave("__init__")
        super().__init__()

    def leave(self, here: str) -> None:
        if here == self.where:
            sys.exit(0)

    def reset(self, **_: Any) -> Any:
        self.leave("reset")
        return super().reset(**_)

    def close(self) -> None:
        self.leave("close")


class Stuck(Walk):
    """Never comes back, or ends its process, where it is told to."""

    def __init__(self, where: str, way: Callable[..., Any]):
        self.where, self.way = where, way
        self.stick("__init__")
        super().__init__()

    def stick(self, here: str) -> None:
        if here == self.where:
            self.way()

    def reset(self, **_: Any) -> Any:
        self.stick("reset")
        return super().reset(**_)

    def close(self) -> None:
        self.stick("close")


@pytest.mark.parametrize("where", ["__init__", "reset"])
@pytest.mark.parametrize(("way", "said"), [(hang, "did not answer within 6 s"), (die, r"died \(.*exit code 3")])
def test_what_hangs_or_ends_before_the_workers_start_does_so_in_none_but_a_worker(where: str, way: Any, said: str):
    with pytest.raises(EnvironmentFault, match=rf"environment 0's worker {said}.*worker_timeout"):
        make_host(partial(Stuck, where, way), envs=2, seed=0, asynchronous=True, worker_timeout=6)


def test_an_environment_that_hangs_in_close_is_ended_all_the_same():
    play(envs := make_host(partial(Stuck, "close", hang), seed=0, asynchronous=True), 3)
    envs.close()
    assert multiprocessing.active_children() == []


def test_an_exit_while_an_environment_is_made_or_closed_ends_nothing_in_silence():
    with pytest.raises(SpecError, match="could not be built: SystemExit: 0"):
        make_host(partial(Leaves, "__init__"), seed=0)
    with pytest.raises(EnvironmentFault, match="raised SystemExit: 0"):
        play(make_host(partial(Leaves, "reset"), seed=0))
    with pytest.warns(UserWarning, match="failed to close: SystemExit: 0"):
        make_host(partial(Leaves, "close"), seed=0).close()


@pytest.mark.parametrize("name", BAD_RESETS)
def test_a_bad_reset_is_named(name: str):
    spoil, said = BAD_RESETS[name]
    with pytest.raises(EnvironmentFault, match=rf"^environment 1, episode 1, step 0 \(reset\): {said}"):
        play(two(spoil, step=0))


def test_the_environments_own_exception_is_kept_as_the_cause():
    error = KeyError("wheel")
    with pytest.raises(EnvironmentFault) as caught:
        play(two(raises(error)))
    assert caught.value.__cause__ is error


class Refuses(Walk):
    """A reset written for an older interface."""

    def reset(self):  # pyright: ignore
        return np.zeros(2), {}


def test_a_reset_that_takes_no_seed_is_named():
    with pytest.raises(
        EnvironmentFault, match=r"environment 0, episode 0, step 0 \(reset\): reset\(seed=\d+\) raised TypeError"
    ):
        make_host(Refuses(), seed=0).reset()


GOOD_STEPS = {
    "list": changed(0, [1.0, 2]),
    "integers": changed(0, np.array([1, 2])),
    "double": changed(0, np.array([1.0, 2.0])),
    "large but finite": changed(0, np.array([3e38, -3e38], np.float32)),
    "strided": changed(0, np.ones(4, np.float32)[::2]),
    "integer reward": changed(1, 3),
    "numpy reward": changed(1, np.float32(0.5)),
    "array reward": changed(1, np.array(2)),
    "numpy flags": lambda *result: (*result[:2], np.bool_(True), np.bool_(False), {}),
    "array flag": changed(3, np.array(False)),
}


@pytest.mark.parametrize("name", GOOD_STEPS)
def test_what_only_looks_odd_is_accepted_without_a_warning(name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        play(two(GOOD_STEPS[name]))


@pytest.mark.parametrize(
    ("space", "value", "said"),
    [
        (spaces.Discrete(3), 3, r"observation is 3, expected one integer in 0..2"),
        (spaces.Discrete(3, start=5), 4, r"observation is 4, expected one integer in 5..7"),
        (spaces.Discrete(3), 1.0, r"observation is float 1.0, expected one integer in 0..2"),
        (spaces.Discrete(3), np.zeros(1, int), r"observation is ndarray array\(\[0\]\), expected one integer"),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 3]), r"observation holds 3 at \[1\], expected 0..2 there"),
        (
            spaces.MultiDiscrete([2, 3]),
            np.array([1.0, 0.0]),
            r"observation holds float64 of shape \(2,\), expected integers",
        ),
        (spaces.MultiBinary(2), np.array([1, 300]), r"observation holds 300, which int8 cannot store"),
        (spaces.Box(0, 255, (1,), np.uint8), np.array([256]), r"observation holds 256, which uint8 cannot store"),
        (spaces.Box(0, 255, (1,), np.uint8), np.array([0.5]), r"observation holds float64, expected uint8"),
        (spaces.Box(0, 2**40, (1,), np.int64), np.array([2**31]), r"observation holds 2147483648, which int32 cannot"),
        (
            spaces.Text(3, charset="abc"),
            "abcd",
            r"observation is a text of 4 characters, expected at most 3 \(its max_len",
        ),
        (
            spaces.Text(3, charset="abc"),
            "aB",
            r"observation holds the character 'B', which is none of its 3 \(its charset",
        ),
        (spaces.Text(3, charset="abc"), 3, r"observation is int 3, expected a text"),
        (spaces.Text(3, charset="abc"), b"abc", r"observation is bytes b'abc', expected a text"),
        (spaces.Tuple([spaces.Discrete(2)]), (0, 0), r"observation has 2 parts, expected a tuple of 1 parts"),
        (spaces.Tuple([spaces.Discrete(2)]), 0, r"observation has int 0, expected a tuple"),
        (spaces.Dict(a=spaces.Discrete(2)), {"b": 0}, r"observation has keys \['b'\], expected a dict of \['a'\]"),
        (spaces.Dict(a=spaces.Tuple([spaces.Discrete(2)])), {"a": (5,)}, r"observation 'a.0' is 5, expected"),
        (
            spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2))),
            {"a": 1},
            r"observation.a has int 1, expected a dict of \['b'\]",
        ),
    ],
)
def test_an_observation_outside_its_space_is_named(space: gymnasium.Space, value: Any, said: str):
    with pytest.raises(EnvironmentFault, match=said):
        convert_observation(space, value)


# Workers.


def test_a_fault_in_a_worker_is_the_same_sentence_and_ends_the_others():
    before = multiprocessing.active_children()
    envs = two(explode, asynchronous=True)
    with pytest.raises(
        EnvironmentFault, match=r"^environment 1, episode 1, step 2: step raised Odd: 1 and 2"
    ) as caught:
        play(envs)
    assert "in explode" in caught.value.__notes__[0]
    assert multiprocessing.active_children() == before
    with pytest.raises(EnvironmentFault, match="the environments are closed, after a fault .*Odd: 1 and 2"):
        envs.step(np.zeros(2, np.int64))


def test_a_worker_that_dies_is_named_and_the_others_are_ended():
    before = multiprocessing.active_children()
    with pytest.raises(EnvironmentFault, match=r"^environment 1's worker died \(call: step; exit code 3\); the other"):
        play(two(die, asynchronous=True))
    assert multiprocessing.active_children() == before


def test_a_worker_that_hangs_is_named_and_ended():
    before = multiprocessing.active_children()
    with pytest.raises(
        EnvironmentFault,
        match=r"^environment 1's worker did not answer within 2 s \(call: step\); .* \(--worker-timeout\)",
    ):
        play(two(hang, asynchronous=True, worker_timeout=2))
    assert multiprocessing.active_children() == before


def test_an_environment_that_workers_cannot_make_is_named():
    with pytest.raises(SpecError, match=r"^the function .* could not be built: RuntimeError: no display"):
        make_host(FailsInWorkers, seed=0, asynchronous=True)


SIGNALLED = """
import signal
import numpy as np
from support.bad_envs import Walk
from engram.envs.host.make import make_host

if __name__ == "__main__":
    heard = []
    signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    envs = make_host(Walk, envs=2, seed=0, asynchronous=True)
    envs.reset()
    print("ready", flush=True)
    while not heard:
        signal.pause()
    envs.step(np.zeros(2, np.int64))
    print(envs.capture()[0]["levels"], flush=True)
    {end}
"""


@pytest.mark.parametrize("end", ["envs.close()", "pass"])
def test_sigterm_to_the_group_leaves_the_workers_to_the_main_process(tmp_path: Path, end: str):
    """The second case leaves the environments open at exit, which must end all the same."""
    script = tmp_path / "script.py"
    script.write_text(SIGNALLED.replace("{end}", end))
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGTERM)
        said, _ = process.communicate(timeout=20)  # the workers hold this pipe too: it ends when they have
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert (said, process.returncode) == ("['replayed', 'replayed']\n", 0)


# Saving after a fault.


@pytest.mark.parametrize("spoil", [die, explode])
def test_after_a_workers_fault_every_environment_is_saved_at_its_boundary(spoil: Spoil):
    envs = two(spoil, asynchronous=True)
    with pytest.raises(EnvironmentFault):
        play(envs)
    meta, arrays = envs.capture()
    assert (meta["levels"], [each["episode"] for each in meta["environments"]]) == (["boundary"] * 2, [1, 1])
    again = make_host(Walk, envs=2, seed=SEED)
    again.restore(meta, arrays)
    assert again.anew.all()
    assert [each["episode"] for each in again.capture()[0]["environments"]] == [2, 2]
    envs.close()
    with pytest.raises(EnvironmentFault, match=r"closed, by close\(\)"):
        envs.capture()


def test_a_worker_found_dead_by_a_capture_is_saved_all_the_same():
    envs = two(lambda *result: result, asynchronous=True)
    envs.reset()
    worker = envs._vector.processes[1]  # pyright: ignore
    worker.kill()
    worker.join()
    assert envs.capture()[0]["levels"] == ["boundary"] * 2
    with pytest.raises(
        EnvironmentFault, match=r"after a fault \(environment 1's worker died \(call: apply; exit code -9"
    ):
        envs.step(np.zeros(2, np.int64))


@pytest.mark.parametrize(("index", "levels"), [(0, ["boundary", "replayed"]), (1, ["boundary", "boundary"])])
def test_after_a_fault_here_only_untouched_environments_are_saved_within_their_episode(index: int, levels: list[str]):
    """A step that raised reached nobody: an environment that took it is no longer where the agent saw it."""
    envs = make_host(partial(Broken, raises(KeyError("wheel")), SEED, index, 0, 2), envs=2, seed=SEED)
    envs.reset()
    seen = envs.step(np.zeros(2, np.int64)).observation
    with pytest.raises(EnvironmentFault):
        envs.step(np.zeros(2, np.int64))
    meta, arrays = envs.capture()
    assert meta["levels"] == levels
    again = make_host(Walk, envs=2, seed=SEED)
    restored = again.restore(meta, arrays)
    assert again.anew.tolist() == [level == "boundary" for level in levels]
    assert [bool((restored[n] == seen[n]).all()) for n in range(2)] == [level == "replayed" for level in levels]


def test_a_failed_reset_can_be_saved():
    envs = make_host(Refuses(), seed=0)
    with pytest.raises(EnvironmentFault):
        envs.reset()
    assert envs.capture()[0]["environments"] == [{"level": "boundary", "episode": 0}]
