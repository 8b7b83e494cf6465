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
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from support.bad_envs import Walk
from support.resumed import Continued, changes, metrics, played

import engram.run.trainer
import engram.runners.acting
from engram.cli.commands import main
from engram.envs.host.make import register_exact
from engram.run.metrics import METRICS_FILE
from engram.run.plan import info
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
    """At twelve points, among them those of the others; on the device after twelve cycles. The ring wraps."""
    stops = sorted({*STOPS.values(), 15, 130, 200, 290, 320})
    env, options = "CartPole-v1", {**SAC, "steps": STEPS, "log_every": 50, "save_every": 130}
    if where == "device":
        env, stops = "engram/CartPole-v1", [28 * cycles for cycles in range(1, 13)]
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


# -- agents that learn from rollouts --------------------------------------------------------------------------

# Two environments and rollouts of 8 steps: a rollout ends at every 16th step, and stops fall into all of its parts.
ROLLOUTS = dict(
    envs=2, encoder__widths=(16,), rollout__steps=8, rollout__epochs=2, rollout__minibatches=2, observation__stack=2,
)  # fmt: skip
MIXED = {
    "working": "gru", "working__hidden_size": 8, "observation__previous_action": True,
    "observation__previous_reward": True, "observation__normalize": True, "reward__normalize": True,
}  # fmt: skip
IN_ROLLOUTS = [2, 14, 16, 18, 32, 46, 60, 100, 130, 176, 200, 238]
ON_DEVICE = [32, 48, 64, 96, 128, 144, 160, 192, 224, 240, 256, 288]  # between rollouts: on lines and checkpoints
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "pqn": ("CartPole-v1", {"preset": "pqn"}),
    "ppo": (Walk, {"preset": "ppo"}),
    "a2c": (Walk, {"preset": "a2c"}),
    "ppo over a memory": (Walk, {"preset": "ppo-rnn", **MIXED}),
    "pqn with an external memory": ("CartPole-v1", {"preset": "pqn-memory", "external__capacity": 50}),
}


@pytest.mark.parametrize("kind", [
    "ppo over a memory", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "ppo over a memory")
])  # fmt: skip
def test_a_host_run_of_rollouts_with_stops_is_the_run_without(tmp_path: Path, kind: str):
    env, options = KINDS[kind]
    options = {**ROLLOUTS, "steps": 260, "log_every": 50, "save_every": 130, **options}
    plain = played(tmp_path / "plain", env, [], **options)
    *stopped, found = played(tmp_path / "stopped", env, IN_ROLLOUTS, **options)
    assert stopped == list(plain[:2])
    assert [loaded.meta["state"]["phase"] for loaded in found] == [at // 2 % 8 for at in IN_ROLLOUTS]


@pytest.mark.parametrize("kind", [
    "ppo over a memory", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "ppo over a memory")
])  # fmt: skip
def test_a_device_run_of_rollouts_with_stops_is_the_run_without(tmp_path: Path, kind: str):
    """Three seeds side by side."""
    chosen = {"env_args": {"max_steps": 7}, "seeds": 3, "steps": 320, "log_every": 32, "save_every": 48}
    options = {**ROLLOUTS, **chosen, **KINDS[kind][1]}
    plain = played(tmp_path / "plain", "engram/CartPole-v1", [], **options)
    *stopped, found = played(tmp_path / "stopped", "engram/CartPole-v1", ON_DEVICE, **options)
    assert stopped == list(plain[:2])
    assert [loaded.step for loaded in found] == ON_DEVICE


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
    "rollouts": (
        Wander,
        {**ROLLOUTS, **MIXED, "preset": "ppo-rnn", "envs": 1, "rollout__minibatches": 1},
        86,  # inside a rollout, whose fourth step ends the second episode
        CompiledActor,
        ("actor.", "block.", "agent.replay", "agent.learner.statistics", "reward", "is_first", "tally"),
    ),
    "rainbow": (
        Wander,
        {**GREEDY, **RAINBOW},
        89,
        CompiledActor,
        ("agent.replay.drawing", "agent.learner.params.head", "agent.learner.annealed", "agent.learner.statistics"),
    ),
}
KEPT = {"demos__ratio": 0.25, "demos__margin_weight": 1.0, "draw": "prioritized"}  # and a file that the test makes
NEEDED["demonstrations"] = Wander, {**GREEDY, **KEPT}, 89, NumpyActor, "agent.replay.given"
# What makes no difference to a run: `engram info` tells the level; restoring reads that of each environment.
TOLD = {"env.levels.0 left out", "env.levels.0 changed"}
# The reward of the last step, which every agent is given and only one with `previous_reward` reads.
UNREAD = {
    "numpy": {"reward changed"},
    "device": {"seen.reward changed"},
    # Rows that were learned from: the next rollout takes their place before anything reads them.
    "rollouts": {
        f"agent.replay.{name} changed"
        for name in (
            "row.observation", "row.is_first", "row.action", "row.reward", "row.terminated", "row.carry.0.0", "done",
            "keep", "following", "known.value", "known.log_probability",
        )
    },
}  # fmt: skip


def shown(file: Path, steps: int = 60) -> Path:
    """Demonstrations for Wander: three episodes, the last of which is cut off."""
    random, ends = np.random.default_rng(2), np.arange(1, steps + 1) % 20 == 0
    last = np.arange(steps) == steps - 1
    np.savez(
        file, observation=random.normal(size=(steps, 2)).astype(np.float32), action=random.integers(0, 50, steps),
        reward=random.normal(size=steps), terminated=ends & ~last, truncated=ends & last,
        final_observation=random.normal(size=(3, 2)).astype(np.float32),
    )  # fmt: skip
    return file


@pytest.mark.parametrize("kind", NEEDED)
def test_a_state_without_one_of_its_fields_is_refused_or_goes_another_way(tmp_path: Path, kind: str, monkeypatch):
    """Each array, and each value beside them, is left out, and then set to something else."""
    env, options, stop, actor, fields = NEEDED[kind]
    if actor is CompiledActor:
        monkeypatch.setattr(engram.runners.acting, "SMALL", 0)
    options = {"steps": 116, "log_every": 58, "save_every": 92, **options}
    if "demos__ratio" in options:
        options["demonstrations"] = shown(tmp_path / "shown.npz")
    with Trainer(env, **options) as fresh:
        assert not isinstance(fresh.runner, HostRunner) or type(fresh.runner.collector.actor) is actor
    *whole, (saved,) = played(tmp_path / "whole", env, [stop], **options)
    stopped = shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    continued = Continued(env, stopped, stop)
    assert continued(lambda arrays, meta: None) == whole
    assert any(name.startswith(fields) for name, _ in changes(saved)), "fields of these names are saved"
    survivors = {
        f"{name} {how}"
        for name, ways in changes(saved)
        if name.startswith(fields)
        for how, change in ways.items()
        if continued(change) == whole
    }
    assert survivors == {name for name in TOLD if name.startswith(fields)} | UNREAD.get(kind, set())
