"""A run that is stopped and taken up again, as often as one likes, is bit for bit the run that never stopped.

What is compared is the digest of the whole state (parameters, optimizer, replay, environments, generators, counters)
and every line of metrics, apart from the clock.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from support.bad_envs import Walk

import engram.run.trainer
import engram.runners.acting
from engram.checkpoint.store import CheckpointStore, Loaded
from engram.cli.commands import main
from engram.envs.host.make import register_exact
from engram.errors import EngramError, Interrupted
from engram.run.metrics import METRICS_FILE
from engram.run.plan import RUN_FILE, info
from engram.run.stop import StopRequest
from engram.run.trainer import Trainer
from engram.runners.acting import CompiledActor, NumpyActor
from engram.runners.host import HostRunner

AGENT = dict(
    preset="dqn", encoder__widths=(16,), replay__capacity=300, replay__start=60, replay__batch_size=16,
    target__every=6, exploration__end=0.1, exploration__steps=200, n_step=2,
)  # fmt: skip
# Priorities, noise, a distribution: whatever an agent keeps besides.
RAINBOW = {
    "preset": "rainbow", "head__width": 8, "head__returns__atoms": 11, "anneal__updates": 100, "reward__rescale": True,
}  # fmt: skip
# A policy that is drawn from, and a temperature.
SAC = {
    **{name: value for name, value in AGENT.items() if not name.startswith("exploration")}, "preset": "sac",
    "draw": "prioritized", "target__every": 1,
}  # fmt: skip
CLOCK = {"seconds", "steps_per_second"}


class StopAt(StopRequest):
    """Asks a trainer to stop at a step, as a signal would."""

    def __init__(self, trainer: Trainer, step: int | None):
        super().__init__()
        self.trainer, self.step = trainer, step

    def __call__(self) -> bool:
        return self.step is not None and self.trainer.steps >= self.step


def metrics(folder: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, (folder / METRICS_FILE).read_text().splitlines())
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]


def played(folder: Path, env: Any, stops: list[int], **options: Any) -> tuple[str, list[dict[str, Any]], list[Loaded]]:
    """Digest and metrics of a whole run that is stopped at `stops`, and the checkpoints of the stops."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for stop in stops:
            with taken_up(folder, env, options) as trainer:
                patch.setattr(
                    engram.run.trainer, "StopRequest", lambda trainer=trainer, stop=stop: StopAt(trainer, stop)
                )
                with pytest.raises(Interrupted):
                    trainer.learn()
            found.append(CheckpointStore(folder / "checkpoints").load())
    with taken_up(folder, env, options) as trainer:
        trainer.learn()
        digest = trainer.state_digest()
    assert info(folder)["state_digest"] == digest
    return digest, metrics(folder), found


def taken_up(folder: Path, env: Any, options: dict[str, Any]) -> Trainer:
    """A new trainer for the run from where it is."""
    if (folder / RUN_FILE).exists():
        return Trainer(None if isinstance(env, str) else env, run=folder, resume=True)
    return Trainer(env, run=folder, **options)


# -- the host runner -----------------------------------------------------------------------------------------

# Episodes of Walk take 4 steps and 5 rows, so that 300 rows are full at step 240.
STOPS = {
    "before learning": 30,
    "at the first update": 60,
    "inside an episode": 70,
    "at a target update": 80,
    "inside a cycle": 101,
    "when the ring is full": 240,
    "after the ring wrapped": 245,
}
STEPS = 330
HOST = {
    "numpy, exact": ("CartPole-v1", NumpyActor, "exact", {}),
    "numpy, exact, two of them": ("CartPole-v1", NumpyActor, "exact", {"envs": 2, "group": 3, "observation__stack": 2}),
    "compiled, exact": ("Taxi-v4", CompiledActor, "exact", {}),
    "rainbow": ("CartPole-v1", CompiledActor, "exact", RAINBOW),
    "numpy, replayed": (Walk, NumpyActor, "replayed", {"group": 1}),
    "numpy, replayed, four of them": (Walk, NumpyActor, "replayed", {"envs": 4, "head": "dueling"}),
}


@pytest.mark.parametrize("kind", HOST)
def test_a_host_run_with_stops_is_the_run_without(tmp_path: Path, kind: str):
    env, actor, level, options = HOST[kind]
    options = {**AGENT, "steps": STEPS, "log_every": 50, "save_every": 130, **options}
    plain = played(tmp_path / "plain", env, [], **options)
    stopped = played(tmp_path / "stopped", env, list(STOPS.values()), **options)
    assert stopped[:2] == plain[:2]
    with Trainer(env, **options) as trainer:
        assert type(trainer.runner.collector.actor) is actor
        assert trainer.runner.collector.envs.level == level


@pytest.mark.parametrize("where", ["host", "device"])
def test_a_soft_actor_critic_with_stops_is_the_one_without(tmp_path: Path, where: str):
    """Stopped inside an episode, when the ring is full, and after it wrapped."""
    env, stops, options = "CartPole-v1", [70, 240, 245], {**SAC, "steps": STEPS, "log_every": 50, "save_every": 130}
    if where == "device":
        env, stops = "engram/CartPole-v1", [84, 280, 308]
        options |= {**SHORT, "target__every": 1, "envs": 2, "seeds": 2, "log_every": 40, "save_every": 28}
    plain = played(tmp_path / "plain", env, [], **options)
    *stopped, found = played(tmp_path / "stopped", env, stops, **options)
    assert stopped == list(plain[:2])
    first, *_, last = (each.arrays["agent.learner.params.head.log_temperature"] for each in found)
    assert (first != last).all(), "the temperature is learned, and saved"


def test_the_stops_are_what_they_are_called(tmp_path: Path):
    options = {**AGENT, "steps": STEPS, "group": 1}
    at = dict(zip(STOPS, played(tmp_path, Walk, list(STOPS.values()), **options)[2], strict=True))
    assert [loaded.step for loaded in at.values()] == list(STOPS.values())
    updates = {name: int(loaded.arrays["agent.learner.updates"]) for name, loaded in at.items()}
    assert updates["before learning"] == 0
    assert updates["at the first update"] == 1
    assert at["inside an episode"].arrays["episodes.running_length"].tolist() == [2]
    arrays = at["at a target update"].arrays
    assert updates["at a target update"] == AGENT["target__every"]
    online, target = (arrays[f"agent.learner.{name}.head.linear.bias"] for name in ("params", "target"))
    np.testing.assert_array_equal(target, online)
    assert at["inside a cycle"].meta["state"]["phase"] == 1
    assert at["when the ring is full"].cursors.tolist() == [AGENT["replay__capacity"]]
    assert at["after the ring wrapped"].cursors.tolist() == [AGENT["replay__capacity"] + 5]


@pytest.mark.slow
def test_environments_in_processes_of_their_own_resume_exactly(tmp_path: Path):
    options = {**AGENT, "steps": 160, "envs": 2, "asynchronous": True}
    plain = played(tmp_path / "plain", "CartPole-v1", [], **options)
    assert played(tmp_path / "stopped", "CartPole-v1", [30, 102], **options)[:2] == plain[:2]


class Drifting(Walk):
    """Starts from a number that no seed decides: it cannot be replayed."""

    made = 0

    def reset(self, **arguments: Any) -> Any:
        Drifting.made += 1
        _, extra = super().reset(**arguments)
        self.position = float(Drifting.made)
        return self.show(), extra


def test_an_environment_that_cannot_be_restored_finishes_its_episode_first(tmp_path: Path):
    """Asked to stop at step 30, inside the episode of steps 28 to 32."""
    _, _, (loaded,) = played(tmp_path, Drifting, [30], **AGENT, steps=80)
    assert loaded.step == 32
    assert loaded.meta["state"]["env"]["levels"] == ["boundary"]
    assert loaded.arrays["episodes.running_length"].tolist() == [0]
    assert info(tmp_path)["environment_state"] == "boundary"


# -- the device runner ---------------------------------------------------------------------------------------

# Episodes take 7 steps and 8 rows, so that 320 rows are full at step 280. Stops fall on lines of metrics and on
# checkpoints, that is on multiples of 40 and of 28: before learning (28), at its start (56), at the 7th update and so
# at a change of the target (80), between two lines of metrics (84, 112), when the ring is full (280) and later.
SHORT = {"env_args": {"max_steps": 7}, "replay__capacity": 320, "replay__start": 56, "target__every": 7}
DEVICE_STOPS = [28, 56, 80, 84, 112, 280, 308]
SEVERAL = "two environments, three seeds"
DEVICE = {
    "one": ("engram/CartPole-v1", {}),
    SEVERAL: ("engram/CartPole-v1", {"envs": 2, "seeds": 3, "observation__stack": 2}),
    "rainbow": ("engram/CartPole-v1", {"envs": 2, "seeds": 3, **RAINBOW}),
    "memory": ("engram/CartPole-v1", {
        "envs": 2, "seeds": 3, "working": "lru", "working__hidden_size": 8, "working__state": 4, "replay__window": 6,
        "replay__stored_carry": True, "observation__previous_action": True, "observation__previous_reward": True,
    }),
}  # fmt: skip


@pytest.mark.parametrize("kind", DEVICE)
def test_a_device_run_with_stops_is_the_run_without(tmp_path: Path, kind: str):
    env, options = DEVICE[kind]
    options = {**AGENT, **SHORT, "steps": 360, "log_every": 40, "save_every": 28, **options}
    plain = played(tmp_path / "plain", env, [], **options)
    *stopped, found = played(tmp_path / "stopped", env, DEVICE_STOPS, **options)
    assert stopped == list(plain[:2])
    assert [loaded.step for loaded in found] == DEVICE_STOPS
    full = found[DEVICE_STOPS.index(280)]
    assert (full.cursors == full.capacity).all()


@pytest.mark.slow
def test_a_game_on_the_device_resumes_exactly(tmp_path: Path):
    options = {**AGENT, "encoder__width": 16, "steps": 360, "log_every": 40, "save_every": 28}
    del options["encoder__widths"]
    plain = played(tmp_path / "plain", "minatar-breakout", [], **options)
    assert played(tmp_path / "stopped", "minatar-breakout", [28, 84, 280], **options)[:2] == plain[:2]


# -- processes -----------------------------------------------------------------------------------------------

COMMAND = ["train", "CartPole-v1", "--steps", "8000", "--log-every", "250", "--save-every", "1000"]
SETTINGS = ["encoder.widths=16", "replay.capacity=3000", "replay.start=500", "replay.batch_size=16", "learn_every=8"]


@pytest.mark.parametrize(
    ("stop", "code"), [(signal.SIGTERM, 75), pytest.param(signal.SIGKILL, -signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_a_stopped_process_goes_on_in_another(tmp_path: Path, capsys, stop: signal.Signals, code: int):
    """At any moment after the first line of metrics; a killed one goes on from its last checkpoint."""
    stopped, plain = tmp_path / "stopped", tmp_path / "plain"
    words = [*COMMAND, *SETTINGS]
    with started([*words, "--run", str(stopped)]) as process:
        wait_for(stopped, METRICS_FILE if stop is signal.SIGTERM else "checkpoints/step-*", process)
        time.sleep(0.3 * np.random.default_rng().random())
        process.send_signal(stop)
        said = process.communicate(timeout=120)[1]
        assert process.returncode == code, said
    with started(["train", "--run", str(stopped), "--resume"]) as process:
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 0, said
    assert main([*words, "--run", str(plain)]) == 0
    assert metrics(stopped) == metrics(plain)
    capsys.readouterr()
    assert digest_told(stopped, capsys) == digest_told(plain, capsys)


def started(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "engram", *words], stderr=subprocess.PIPE, text=True)


def wait_for(folder: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    """Until something in the folder matches and is more than an empty file."""
    deadline = time.monotonic() + 300
    while not any(path.stat().st_size for path in folder.glob(pattern)):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def digest_told(folder: Path, capsys) -> str:
    assert main(["info", str(folder), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["state_digest"]


# -- every field of the state is needed ----------------------------------------------------------------------


class Wander(gymnasium.Env):
    """Draws at every step, whole numbers and others, and remembers things of several kinds.

    It has many actions, so that a small change of the network or of what it sees makes another one the best.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(50)

    def __init__(self):
        self.places, self.pushed, self.count = np.zeros(2), None, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.places, self.pushed, self.count = self.np_random.normal(size=2), None, 0
        return self.show(), {}

    def step(self, action: Any) -> Any:
        drift = (
            self.np_random.normal(size=2)
            + self.np_random.integers(2**32, dtype=np.uint32) / 2**32
            + (self.pushed or 0.0)
        )
        self.pushed, self.count = int(action) / 50, self.count + 1
        self.places = 0.9 * self.places + drift + self.pushed
        return self.show(), float(self.places[0]), self.count >= 42, False, {}

    def show(self) -> np.ndarray:
        return self.places.astype(np.float32)


register_exact(Wander, ("places", "pushed", "count"))
# Wander's second episode ends inside the block of steps 81 to 96, and so before the stop; its third outlasts the run.
# CartPole ends every 7 steps.
GREEDY = {
    **AGENT, "observation__stack": 2, "exploration__start": 0.0, "exploration__end": 0.0, "replay__start": 40,
    "learn_every": 8, "group": 2,
}  # fmt: skip
# All that only agents with a working memory keep.
REMEMBERING = {
    **{name: value for name, value in GREEDY.items() if name not in ("exploration__start", "exploration__end")},
    "working": "gru", "working__hidden_size": 8, "replay__window": 6, "replay__stored_carry": True,
    "observation__previous_action": True, "observation__previous_reward": True, "group": 1,
    "exploration": "parameter-noise", "exploration__scale": 5.0, "exploration__final_scale": 5.0,
}  # fmt: skip
# Environment, options, step of the stop, and which fields (the compiled actor differs only in its own).
NEEDED = {
    "numpy": (Wander, GREEDY, 89, NumpyActor, ""),
    "compiled": (Wander, GREEDY, 89, CompiledActor, "actor."),
    "device": (DEVICE[SEVERAL][0], {**AGENT, **SHORT, **DEVICE[SEVERAL][1]}, 92, None, ""),
    "memory": (Wander, REMEMBERING, 89, CompiledActor, ("actor.", "reward", "block.noted")),
    "rainbow": (
        Wander,
        {**GREEDY, **RAINBOW},
        89,
        CompiledActor,
        ("agent.replay.drawing", "agent.learner.params.head", "agent.learner.annealed", "agent.learner.statistics"),
    ),
}
# What makes no difference to a run: `engram info` tells the level; restoring reads that of each environment.
TOLD = {"env.levels.0 left out", "env.levels.0 changed"}
# The reward of the last step, which every agent is given and only one with `previous_reward` reads.
UNREAD = {"numpy": {"reward changed"}, "device": {"seen.reward changed"}}


@pytest.mark.parametrize("kind", NEEDED)
def test_a_state_without_one_of_its_fields_is_refused_or_goes_another_way(tmp_path: Path, kind: str, monkeypatch):
    """Each array, and each value beside them, is left out, and then set to something else."""
    env, options, stop, actor, fields = NEEDED[kind]
    if actor is CompiledActor:
        monkeypatch.setattr(engram.runners.acting, "SMALL", 0)
    options = {"steps": 116, "log_every": 58, "save_every": 92, **options}
    with Trainer(env, **options) as fresh:
        assert not isinstance(fresh.runner, HostRunner) or type(fresh.runner.collector.actor) is actor
    *whole, (saved,) = played(tmp_path / "whole", env, [stop], **options)
    stopped = shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    continued = Continued(env, stopped, stop)
    assert continued(lambda arrays, meta: None) == whole
    survivors = {
        f"{name} {how}"
        for name, ways in changes(saved)
        if name.startswith(fields)
        for how, change in ways.items()
        if continued(change) == whole
    }
    assert survivors == {name for name in TOLD if name.startswith(fields)} | UNREAD.get(kind, set())


Change = Callable[[dict[str, Any], dict[str, Any]], None]  # of arrays and the values beside them, in place


def changes(saved: Loaded) -> Iterator[tuple[str, dict[str, Change]]]:
    """Every field of a checkpoint, and two ways to lose it."""
    for name, array in saved.arrays.items():
        yield name, {"left out": array_to(name, ...), "changed": array_to(name, changed_array(array))}
    meta = saved.meta["state"]
    for path in leaves(meta):
        other = changed(at(meta, path))
        yield ".".join(map(str, path)), {"left out": value_to(path, ...), "changed": value_to(path, other)}


def array_to(name: str, new: Any) -> Change:
    """Sets an array; leaves it out if the new one is an ellipsis."""

    def change(arrays: dict[str, Any], meta: dict[str, Any]) -> None:
        if new is ...:
            del arrays[name]
        else:
            arrays[name] = new

    return change


def value_to(path: tuple[Any, ...], new: Any) -> Change:
    """Sets a value; leaves it out if the new one is an ellipsis."""

    def change(arrays: dict[str, Any], meta: dict[str, Any]) -> None:
        inner = at(meta, path[:-1])
        if new is ...:
            del inner[path[-1]]
        else:
            inner[path[-1]] = new

    return change


class Continued:
    """What becomes of a stopped run if its newest checkpoint is changed before it is read."""

    def __init__(self, env: Any, folder: Path, stop: int):
        self.env, self.folder = None if isinstance(env, str) else env, folder
        self.number = 0
        self.load = CheckpointStore.load
        for path in (folder / "checkpoints").glob("step-*"):
            if not path.name.startswith(f"step-{stop:09d}"):
                shutil.rmtree(path)

    def __call__(self, change: Change) -> Any:
        self.number += 1
        folder = shutil.copytree(self.folder, self.folder.parent / f"copy{self.number}")

        def load(store: CheckpointStore) -> Loaded:
            loaded = self.load(store)
            arrays, meta = dict(loaded.arrays), deepcopy(loaded.meta)
            change(arrays, meta["state"])
            return replace(loaded, arrays=arrays, meta=meta)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CheckpointStore, "load", load)
            try:
                with Trainer(self.env, run=folder, resume=True) as trainer:
                    patch.undo()
                    trainer.learn()
                    return [trainer.state_digest(), metrics(folder)]
            except EngramError as error:
                return type(error).__name__
            finally:
                shutil.rmtree(folder)


def changed_array(array: np.ndarray) -> np.ndarray:
    """An array of the same kind and far from the one given."""
    if array.dtype.kind == "f":
        return -100 * array - 1
    return ~array if array.dtype == bool else array + array.dtype.type(1)


def changed(value: Any) -> Any:
    """A value of the same kind; for the digits of a float, or a hash, only another text."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return "boundary" if value == "exact" else value + "x"
    if value in (0, 1):
        return 1 - value
    return 1 if value is None else value + 1


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to every JSON value that is no dict and no list."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))
    else:
        yield path


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value
