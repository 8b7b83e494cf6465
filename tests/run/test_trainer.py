"""The public interface, used as one uses Stable-Baselines3; what it refuses, in which words; and that every setting of
an agent is read."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from jaxtyping import Array, Float, Int, UInt32
from support.bad_envs import Walk
from support.kinds import own

import engram
import engram.run.machine
from engram import registry, spaces, specs
from engram.agents import demos, presets
from engram.agents.agent import Experience
from engram.agents.unread import Unread, check_read, lacking
from engram.envs.device import DeviceStep
from engram.errors import CheckpointError, EngramError, LearningFault, RunLocked, SpaceError, SpecError, UnknownName
from engram.play.trained import TrainedAgent
from engram.run import keeper as keeping
from engram.run.settings import check
from engram.run.trainer import Trainer, load
from engram.runners import device
from engram.runners.common import Tally
from engram.runners.device import DeviceRunner
from engram.types import TimeStep

AGENT = dict(
    preset="dqn", encoder__widths=(16,), replay__capacity=300, replay__start=60, replay__batch_size=16,
    target__every=6, exploration__end=0.1, exploration__steps=200, n_step=2, observation__stack=2,
)  # fmt: skip
make_trainer = partial(Trainer, "CartPole-v1", **AGENT)


class Events:
    """A callback that remembers what it was told."""

    def __init__(self):
        self.heard: list[tuple[str, Any]] = []

    def on_start(self, trainer: Trainer) -> None:
        self.heard.append(("start", trainer.steps))

    def on_metrics(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        self.heard.append(("metrics", metrics["step"]))

    def on_save(self, trainer: Trainer, saved: Any) -> None:
        self.heard.append(("save", saved.step))

    def on_note(self, trainer: Trainer, text: str) -> None:
        self.heard.append(("note", text))

    def on_stop(self, trainer: Trainer, reason: str) -> None:
        self.heard.append(("stop", reason))

    def of(self, *kinds: str) -> list[tuple[str, Any]]:
        return [event for event in self.heard if event[0] in kinds]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 120 steps; tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    with make_trainer(run=folder) as trainer:
        trainer.learn(120)
    return folder


@pytest.fixture
def trained(run: Path) -> Iterator[TrainedAgent]:
    with load(run) as agent:
        yield agent


# -- learning ------------------------------------------------------------------------------------------------


def test_learning_goes_on_where_it_was():
    with make_trainer() as parts, make_trainer(steps=120) as whole:
        assert parts.learn(100).learn(20) is parts
        assert parts.steps == whole.learn().steps == 120
        assert whole.learn().steps == 120, "the planned total was reached"


def test_the_first_call_of_learn_plans_the_run():
    with make_trainer(preset="auto") as trainer:
        trainer.learn(80)
        assert trainer.plan.steps == trainer.plan.agent.optimizer.decay_steps == 80
    with make_trainer(preset="auto", steps=500) as trainer:
        trainer.learn(80)
        assert trainer.plan.steps == trainer.plan.agent.optimizer.decay_steps == 500


def test_callbacks_hear_what_happens(tmp_path: Path):
    """A line of metrics at every multiple of 50 and at the end, a checkpoint at every multiple of 60, 0 included, and
    at the end."""
    events, ended = Events(), SimpleNamespace(on_stop=lambda trainer, reason: None)  # any of the methods will do
    with make_trainer(run=tmp_path, steps=130, log_every=50, save_every=60, callbacks=[ended, events]) as trainer:
        trainer.learn()
    assert events.of("start", "metrics", "save", "stop") == [
        ("save", 0),
        ("start", 0),
        ("metrics", 50),
        ("save", 60),
        ("metrics", 100),
        ("save", 120),
        ("metrics", 130),
        ("save", 130),
        ("stop", "done"),
    ]
    notes = [text for _, text in events.of("note")]
    assert any("encoder vector" in text for text in notes)
    assert any(text.startswith("300 rows of replay: ") for text in notes)
    assert any("CartPole" in text and "exact" in text for text in notes)


def test_a_run_that_breaks_tells_its_callbacks():
    class Stopper:
        def on_metrics(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
            raise KeyboardInterrupt

    events = Events()
    with make_trainer(callbacks=[events, Stopper()]) as trainer, pytest.raises(KeyboardInterrupt):
        trainer.learn(100)
    assert events.heard[-1] == ("stop", "error")


def test_nothing_is_written_without_a_run_directory(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with make_trainer() as trainer:
        trainer.learn(70)
        with pytest.raises(SpecError, match="no run directory to save into; make it with run=FOLDER"):
            trainer.save()
        with pytest.raises(SpecError, match="no run directory"):
            trainer.info()
    assert list(tmp_path.iterdir()) == []


# -- evaluation and prediction -------------------------------------------------------------------------------


def test_evaluation_plays_whole_episodes_and_repeats_itself(trained: TrainedAgent):
    found = trained.evaluate(episodes=6, seed=1)
    assert found.episodes == len(found.returns) == 6
    assert found.mean == np.mean(found.returns)
    assert found.std == np.std(found.returns)
    assert found.per_seed == [found.mean]
    assert all(8 <= value <= 500 for value in found.returns)
    assert found.lengths == found.returns, "CartPole pays 1 for every step"
    assert trained.evaluate(episodes=6, seed=1) == found
    assert trained.evaluate(episodes=6, seed=2) != found
    with pytest.raises(SpecError, match="episodes = 0 was given; expected a whole number of at least 1"):
        trained.evaluate(episodes=0)


def test_a_trainer_evaluates_and_predicts_like_the_run_it_wrote(run: Path, trained: TrainedAgent):
    with Trainer(run=run, resume=True) as trainer:
        before = trainer.state_digest()
        assert trainer.evaluate(episodes=3) == trained.evaluate(episodes=3)
        batch = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
        np.testing.assert_array_equal(trainer.predict(batch)[0], trained.predict(batch)[0])
        assert trainer.state_digest() == before, "training knows nothing of it"


def test_what_is_predicted_follows_what_is_learned():
    """The trainer's own prediction is that of its newest parameters, also between two calls of learn."""
    batch = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    with make_trainer(optimizer__learning_rate=0.02) as trainer:
        early, _ = trainer.learn(64).predict(batch)
        late, _ = trainer.learn(200).predict(batch)
        assert not np.array_equal(early, late)
        np.testing.assert_array_equal(late, trainer.trained().predict(batch)[0])


def test_every_seed_of_a_device_run_is_evaluated():
    with Trainer("engram/CartPole-v1", seeds=2, **AGENT) as trainer:
        trainer.learn(64)
        found = trainer.evaluate(episodes=3)
    assert len(found.returns) == 6
    assert found.per_seed == [np.mean(found.returns[:3]), np.mean(found.returns[3:])]
    assert found.lengths == found.returns


def test_an_agent_can_be_evaluated_where_it_did_not_learn(trained: TrainedAgent):
    """Elsewhere (here the same task, on the device), and with other arguments; where it learned stays as it was."""
    here = trained.evaluate(episodes=5)
    assert trained.evaluate(episodes=5, env="CartPole-v1") == here
    short = trained.evaluate(episodes=5, env_args={"max_episode_steps": 9})
    assert short.lengths == [min(9, length) for length in here.lengths]
    device = trained.evaluate(episodes=5, env="engram/CartPole-v1")
    assert device.lengths == device.returns != here.returns
    assert trained.evaluate(episodes=5, env=lambda: gymnasium.make("CartPole-v1")) == here
    assert trained.evaluate(episodes=5) == here
    with make_trainer() as trainer:
        assert trainer.learn(70).evaluate(2, env_args={"max_episode_steps": 3}).lengths == [3, 3]


@pytest.mark.parametrize("env", ["Acrobot-v1", "engram/Acrobot-v1"])
def test_an_environment_with_another_space_is_refused(trained: TrainedAgent, env: str):
    said = rf"{env} has Box.* and 3 actions, but the agent learned from Box.* and 2 actions; choose an environment"
    with pytest.raises(SpaceError, match=said):
        trained.evaluate(env=env)


def test_predict_takes_one_observation_or_a_batch(trained: TrainedAgent):
    one = np.array([0.01, 0.02, 0.03, 0.04], np.float32)
    action, state = trained.predict(one)
    assert np.shape(action) == ()
    assert int(action) in (0, 1)
    assert state.frames.shape == (1, 2, 4)
    actions, states = trained.predict(np.stack([one] * 5))
    assert actions.shape == (5,)
    assert set(actions.tolist()) == {int(action)}
    assert states.frames.shape == (5, 2, 4)
    assert trained.predict(one.tolist())[0] == action


def test_the_state_of_predict_is_the_stack(trained: TrainedAgent):
    first, second = np.full((2, 4), 0.1, np.float32), np.full((2, 4), 0.2, np.float32)
    _, state = trained.predict(first)
    _, state = trained.predict(second, state)
    np.testing.assert_array_equal(state.frames[:, :, 0], np.float32([[0.1, 0.2]] * 2))
    _, state = trained.predict(first, state, episode_start=np.array([False, True]))
    np.testing.assert_array_equal(state.frames[:, :, 0], np.float32([[0.2, 0.1], [0, 0.1]]))


def test_predict_explores_when_it_is_asked_to(trained: TrainedAgent):
    """With epsilon 0.1 and two actions, one of 2000 in twenty is the other one: 100, within four deviations of 9.7."""
    batch = np.full((2000, 4), 0.1, np.float32)
    greedy, _ = trained.predict(batch)
    assert len(set(greedy.tolist())) == 1
    explored, _ = trained.predict(batch, deterministic=False)
    assert abs(int((explored != greedy).sum()) - 100) < 40


@pytest.mark.parametrize(("observation", "said"), [
    (np.zeros(3), r"observation has shape \(3,\), expected float32 of shape \(4,\)"),
    (np.zeros((2, 3)), r"row 0 of the batch: observation has shape \(3,\), expected float32 of shape \(4,\)"),
    ({"a": np.zeros(4)}, r"observation .*expected float32 of shape \(4,\)"),
])  # fmt: skip
def test_an_observation_of_another_shape_is_refused(trained: TrainedAgent, observation: Any, said: str):
    with pytest.raises(EngramError, match=said):
        trained.predict(observation)


def evaluated(model: Any, envs: SyncVectorEnv, episodes: int, seeds: list[int]) -> list[list[float]]:
    """Returns per environment, the way Stable-Baselines3's `evaluate_policy` calls a model."""
    observations, _ = envs.reset(seed=seeds)
    states, starts = None, np.ones(envs.num_envs, bool)
    found: list[list[float]] = [[] for _ in seeds]
    running = np.zeros(envs.num_envs)
    while min(map(len, found)) < episodes:
        actions, states = model.predict(observations, state=states, episode_start=starts, deterministic=True)
        observations, rewards, terminated, truncated, _ = envs.step(actions)
        starts = terminated | truncated
        running += rewards
        for env in np.flatnonzero(starts):
            found[env].append(float(running[env]))
            running[env] = 0
    return [one[:episodes] for one in found]


def test_evaluate_policy_of_stable_baselines_takes_a_trainer_for_a_model(trained: TrainedAgent):
    """Three environments together give the returns of each alone: their frames do not mix, and start anew."""

    def vectorised(count: int) -> SyncVectorEnv:
        return SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * count, autoreset_mode=AutoresetMode.SAME_STEP)

    together = evaluated(trained, vectorised(3), 2, [1, 2, 3])
    assert together == [evaluated(trained, vectorised(1), 2, [seed])[0] for seed in (1, 2, 3)]


# -- keeping -------------------------------------------------------------------------------------------------


def test_a_run_directory_says_what_it_holds(run: Path):
    facts = engram.info(run)
    with Trainer(run=run, resume=True) as trainer:
        assert trainer.state_digest() == facts["state_digest"]
        assert {**trainer.info(), "bytes": 0} == {**facts, "bytes": 0}  # the lock is a file too
    assert (facts["env"], facts["preset"], facts["step"], facts["steps"]) == ("CartPole-v1", "dqn", 120, 120)
    assert facts["agent"]["encoder"] == {"kind": "vector", "widths": [16], "norm": False}


def test_a_run_in_use_can_be_read_but_not_written_by_another(tmp_path: Path):
    with make_trainer(run=tmp_path) as writer:
        writer.learn(80)
        with load(tmp_path) as reader:
            assert reader.evaluate(episodes=1) == writer.evaluate(episodes=1)
        with pytest.raises(RunLocked, match="is being written by process"):
            Trainer(run=tmp_path, resume=True)
        writer.learn(20)
    with Trainer(run=tmp_path, resume=True) as heir:
        assert heir.steps == 100


def test_of_two_new_trainers_for_one_directory_the_second_is_refused(tmp_path: Path):
    with make_trainer(run=tmp_path) as first, make_trainer(run=tmp_path) as second:
        first.learn(80)
        for _ in range(2):
            with pytest.raises(RunLocked):
                second.learn(80)
        first.close()
        with pytest.raises(SpecError, match="already holds a run"):
            second.learn(80)
    assert engram.info(tmp_path)["step"] == 80


def test_a_trainer_that_could_not_be_made_holds_nothing(tmp_path: Path):
    with make_trainer(run=tmp_path) as trainer:
        trainer.learn(80)
    (tmp_path / "checkpoints").rename(tmp_path / "aside")
    with pytest.raises(CheckpointError):
        Trainer(run=tmp_path, resume=True)
    (tmp_path / "aside").rename(tmp_path / "checkpoints")
    Trainer(run=tmp_path, resume=True).close()


def test_a_new_total_is_part_of_the_run(tmp_path: Path):
    with make_trainer(run=tmp_path, steps=80) as trainer:
        trainer.learn()
    with Trainer(run=tmp_path, resume=True, steps=120):
        assert engram.info(tmp_path)["steps"] == 120
    with Trainer(run=tmp_path, resume=True) as trainer:
        assert trainer.learn().steps == 120


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")
def test_what_is_broken_is_not_saved(tmp_path: Path):
    """A checkpoint falls between the fault and the next line of metrics."""
    ruin = {"optimizer__learning_rate": 1e38, "optimizer__clip_norm": 0.0, "loss": "squared", "save_every": 8}
    with make_trainer(run=tmp_path, steps=400, log_every=200, **ruin) as trainer, pytest.raises(LearningFault):
        trainer.learn()
    with Trainer(run=tmp_path, resume=True) as trainer:
        assert 56 <= trainer.steps < 80
        trainer.state_digest()


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "kind", "said"), [
    ({"env": None}, SpecError, "no environment was given; name one, such as 'CartPole-v1'"),
    ({"env": "CartPole-v7"}, UnknownName, "CartPole-v7"),
    ({"env": "engram/CartPol-v1"}, UnknownName, "did you mean 'engram/CartPole-v1'"),
    ({"preset": "dnq"}, UnknownName, "no preset is called 'dnq'; did you mean 'dqn'?"),
    ({"steps": 0}, SpecError, "steps = 0 was given; expected a whole number, at least 1"),
    ({"seed": -1}, SpecError, "seed = -1 was given; expected a whole number, at least 0"),
    ({"seeds": 0}, SpecError, "seeds = 0 was given; expected a whole number, at least 1"),
    ({"envs": 0}, SpecError, "envs = 0 was given; expected a whole number, at least 1"),
    ({"save_every": 0}, SpecError, "save_every = 0 was given"),
    ({"log_every": -5}, SpecError, "log_every = -5 was given"),
    ({"replay__capacty": 10}, SpecError, "'replay.capacty' is not a setting; did you mean 'replay.capacity'?"),
    ({"overrides": {"discount": "2"}}, SpecError, "discount = 2.* is out of range; expected at most 1"),
    ({"resume": True}, SpecError, r"resume=True needs the run to go on with; pass run=FOLDER"),
    ({"env": "engram/CartPole-v1", "action_bins": 3}, SpecError, "action_bins is for host environments"),
    ({"env": "engram/CartPole-v1", "asynchronous": True}, SpecError, "asynchronous is for host environments"),
    ({"env": "engram/CartPole-v1", "env_args": {"speed": 1}}, SpecError, "'speed' is not an argument"),
])  # fmt: skip
def test_what_cannot_work_is_refused_in_a_sentence(arguments: dict[str, Any], kind: type, said: str):
    with pytest.raises(kind, match=said):
        Trainer(**{"env": "CartPole-v1", **arguments})


@pytest.mark.parametrize(("arguments", "said"), [
    ({"seeds": 2}, "'CartPole-v1' runs on the host, where seeds learn one after another"),
    ({"envs": 3, "learn_every": 4}, "learn_every = 4 and 3 environments do not fit"),
])  # fmt: skip
def test_what_cannot_start_is_refused_before_anything_is_written(tmp_path: Path, arguments: dict[str, Any], said: str):
    with pytest.raises(SpecError, match=said), make_trainer(run=tmp_path, **arguments) as trainer:
        trainer.learn(100)
    assert list(tmp_path.iterdir()) == []


def test_steps_are_a_whole_number_above_zero():
    with make_trainer() as trainer, pytest.raises(SpecError, match="steps = 0 was given; expected a whole number, at"):
        trainer.learn(0)
    for value in (1.5, True, "100"):
        with pytest.raises(SpecError, match=f"steps = {value!r} was given; expected a whole number"):
            check({"steps": value})


def test_a_replay_larger_than_the_memory_is_refused_with_both_numbers(monkeypatch):
    """26 bytes a row: observation 16, action and reward 4 each, two flags."""
    monkeypatch.setattr(engram.run.machine, "available", lambda: 2_000_000_000)
    with (
        make_trainer(replay__capacity=100_000_000) as trainer,
        pytest.raises(SpecError, match=r"needs 2\.60 GB for the replay, but 2\.00 GB of memory are free .*lower repl"),
    ):
        trainer.learn(100)


def test_an_external_memory_larger_than_the_memory_is_refused(monkeypatch):
    """On the host twice: an entry has 16 numbers of key at the least."""
    monkeypatch.setattr(engram.run.machine, "available", lambda: 2_000_000_000)
    settings = {"external": "episodic", "external.capacity": 20_000_000, "encoder.widths": (16,)}
    with (
        make_trainer(overrides=settings) as trainer,
        pytest.raises(SpecError, match=r"kB for the replay and \d\.\d\d GB for the external memory, but 2\.00 GB"),
    ):
        trainer.learn(100)


@pytest.mark.parametrize(("arguments", "said"), [
    ({"discount": 0.5}, "'discount' cannot be changed in a resumed run; start a new one that begins with what"),
    ({"preset": "auto"}, "was started with preset = 'dqn', not 'auto'; leave it out"),
    ({"seed": 3}, "was started with seed = 0, not 3; leave it out"),
    ({"env": "Acrobot-v1"}, "is a run of 'CartPole-v1', not of 'Acrobot-v1'; leave the environment out"),
])  # fmt: skip
def test_a_resumed_run_keeps_its_settings(run: Path, arguments: dict[str, Any], said: str):
    with pytest.raises(SpecError, match=said):
        Trainer(**{"run": run, "resume": True, **arguments})


def test_a_new_run_does_not_overwrite_another(run: Path):
    with pytest.raises(SpecError, match=r"already holds a run; pass resume=True \(--resume\) to go on with it"):
        make_trainer(run=run)


def test_there_must_be_something_to_resume(tmp_path: Path):
    with pytest.raises(
        CheckpointError, match=r"holds no run \(run.json is missing\); start one with: engram train"
    ) as no:
        Trainer(run=tmp_path, resume=True)
    assert no.value.exit_code == 66
    with make_trainer(run=tmp_path) as trainer:
        assert trainer.runner.steps == 0
    Trainer(run=tmp_path, resume=True).close()  # step 0 is something
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match="no usable checkpoint") as no:
        Trainer(run=tmp_path, resume=True)
    assert no.value.exit_code == 66


def test_a_run_file_with_impossible_numbers_is_refused(tmp_path: Path):
    with make_trainer(run=tmp_path) as trainer:
        trainer.learn(70)
    plan = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(plan | {"save_every": 0}))
    with pytest.raises(CheckpointError, match="is damaged: save_every = 0 was given"):
        Trainer(run=tmp_path, resume=True)


def test_an_environment_that_changed_its_shape_is_refused(tmp_path: Path):
    class Wide(Walk):
        def __init__(self):
            super().__init__()
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)

        def show(self) -> np.ndarray:
            return np.append(super().show(), np.float32(0))

    with Trainer(Walk, run=tmp_path, **AGENT) as trainer:
        trainer.learn(70)
    with pytest.raises(SpecError, match="was started with an environment object; pass the same one again"):
        Trainer(run=tmp_path, resume=True)
    with pytest.raises(
        CheckpointError, match=r"the environment now has .*\(3,\).* but the run was started with .*\(2,\)"
    ):
        Trainer(Wide, run=tmp_path, resume=True)
    with Trainer(Walk, run=tmp_path, resume=True) as trainer:
        assert trainer.steps == 70


def test_an_environment_object_that_cannot_be_made_anew_trains_and_names_the_call_that_evaluates():
    class Needy(Walk):
        def __init__(self, port: int):
            super().__init__()

    with Trainer(Needy(3), **AGENT) as trainer:
        trainer.learn(70)
        with pytest.raises(SpecError, match=r"write evaluate\(env=\.\.\.\) with a second Needy"):
            trainer.evaluate()
        assert trainer.evaluate(2, env=Needy(4)).episodes == 2


# -- every setting is read -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noise:
    """Shows noise, pays noise, and ends or is cut off after a few steps: whatever is chosen makes a difference."""

    observation_space: spaces.Space
    actions = 4

    def reset(self, key: UInt32[Array, "2"]) -> tuple[Int[Array, ""], Array]:
        return jnp.int32(0), self._show(key)

    def step(self, state: Int[Array, ""], action: Int[Array, ""], key: UInt32[Array, "2"]) -> tuple[Array, DeviceStep]:
        reward: Float[Array, ""] = 5.0 * jax.random.normal(key) + action
        over = state + 1 >= 9
        return state + 1, DeviceStep(self._show(key), reward, over & (key[0] % 2 == 0), over & (key[0] % 2 == 1))

    def _show(self, key: UInt32[Array, "2"]) -> Any:
        if isinstance(self.observation_space, spaces.Dict):
            return {name: 10 * Noise(part)._show(key) for name, part in self.observation_space.items}
        bits = jax.random.bits(key, self.observation_space.shape, jnp.uint8)
        if isinstance(self.observation_space, spaces.MultiDiscrete):
            return (bits % 5).astype(jnp.int32)
        return bits if self.observation_space.dtype == "uint8" else bits / 255


VECTOR = spaces.Box((3,))
SPACES = {
    **dict.fromkeys(("pixels", "impala"), spaces.Box((36, 36), "uint8")),
    **dict.fromkeys(("spatial", "relational"), spaces.Box((44, 44), "uint8")),  # 2 x 2 places: attention has a choice
    "grid": spaces.Box((5, 5, 1), "uint8"), "tokens": spaces.MultiDiscrete((5, 5, 5)),
    "entities": spaces.Box((3, 4), columns=spaces.columns_of(["x", "y", "vx", "vy"])),
    "hindsight": spaces.Dict(tuple((name, VECTOR) for name in ("observation", "achieved_goal", "desired_goal"))),
}  # fmt: skip
SIZES = {
    "encoder.channels": (4, 4), "anneal.n_step": 4,
    "encoder.widths": (8,), "encoder.width": 8, "head.width": 4, "replay.capacity": 60, "replay.batch_size": 8,
    "replay.start": 20, "optimizer.clip_norm": 0.1, "optimizer.epsilon": 1e-3, "exploration.steps": 50,
    "optimizer.learning_rate": 0.02, "target.every": 10, "target.rate": 0.5,  # so that the target lags behind
    "working.hidden_size": 8, "working.window": 4, "working.chunk": 3, "working.inner": 8, "encoder.token_width": 8,
    "head.action_width": 8, "external.capacity": 60, "external.neighbours": 3, "external.heads": 2, "recall.n_step": 3,
    "draw.within": 3.0,
    "external.codes": 4, "external.size": 5, "external.probes": 2, "external.every": 10, "external.sweeps": 1,
}  # fmt: skip
# A working memory, and all that is only read with one.
MEMORY = {
    "working": "gru", "replay.window": 8, "replay.burn_in": 2, "observation.previous_action": True,
    "observation.previous_reward": True, "forget": False,
}  # fmt: skip
WITH_MEMORY = (*MEMORY, "replay.align", "replay.stored_carry")
# An external memory, which other settings are about.
EXTERNAL = {"external": "episodic"}
# What a part can only be used with.
ATOMS: dict[str, Any] = {"head.returns": "categorical"}
ONLY_WITH = {
    "graph": {"recall.n_step": 1}, "cross-entropy": ATOMS, "hl-gauss": ATOMS,
    "quantile-huber": {"head.returns": "quantile"},
}  # fmt: skip
# Settings that are read where another one has this value.
RESET = {"optimizer.reset_every": 10}
KEPT = {"demos.ratio": 0.25}
GIVEN_PLACE = {"encoder.relative": True, "encoder.position": (0, 1), "encoder.velocity": (2, 3)}
READ_WHERE = {
    "demos.margin_weight": KEPT,
    "demos.margin": {**KEPT, "demos.margin_weight": 1.0},
    "conservative.temperature": {"conservative.weight": 1.0},
    "conservative.on": {**KEPT, "conservative.weight": 1.0},
    "recall.demonstrations": KEPT,
    "recall.played": {**KEPT, "recall.demonstrations": 5},
    "optimizer.reset_encoder": RESET,
    "optimizer.reset_rest": RESET,
    "anneal.n_step": {"anneal.updates": 50},
    "anneal.discount": {"anneal.updates": 50},
    "recall.frozen_width": {"recall.keys": "frozen"},
    "external.heads": {"external.kernel": "multi-head"},
    "encoder.position": {"encoder.relative": True},
    **dict.fromkeys(("encoder.velocity", "encoder.heading", "encoder.units"), GIVEN_PLACE),
}
# What changes an entry that is met again needs observations that come again.
AGAIN, ON_MEETING_AGAIN = spaces.MultiDiscrete((5, 5, 5)), ("external.alpha", "external.update")
OF_A_POLICY = ("actor-critic", "twin", "sample")  # parts that only an agent with a policy takes
# Agents without a replay: small, a memory with what is only read with one, and what they refuse.
ROLLOUT = {"rollout.steps": 8, "rollout.minibatches": 4}
ROLLOUT_MEMORY = {
    "working": "gru", "working.hidden_size": 8, "observation.previous_action": True,
    "observation.previous_reward": True, "forget": False,
}  # fmt: skip
REFUSED = ("reward.rescale", "optimizer.reset_every", "optimizer.reset_encoder", "optimizer.reset_rest")
# Where twice or half of the value is not legal.
OTHERS = {
    "working.max_radius": 0.95, "encoder.presence": 0, "encoder.position": (1, 0), "encoder.velocity": (3, 2),
    "encoder.heading": (2, 3), "head.sizes": (2, 2),
    "external.heads": 1, "draw.horizon": 1,  # episodes here are shorter than the usual one
    "exploration.end": 0.5, "exploration.last_weight": 1.0,  # far from the usual: of 100 draws one must tell
}  # fmt: skip
OF_GAMES = ("turns", "symmetry", "pool.share", "pool.size", "pool.every")  # tests/envs/test_go.py changes these
STEPS = 100


def sized(spec: Any) -> Any:
    """Small, and with every setting in use."""
    known = {path for path, *_ in specs.describe(spec)}
    sizes = SIZES | ONLY_WITH.get(registry.name_of("external", type(spec.external)), {})
    return specs.override_all(spec, {path: sizes[path] for path in sizes.keys() & known})


BASE = sized(presets.preset("auto", VECTOR, STEPS))


def every_setting() -> Iterator[Any]:
    """(spec, space, path of a setting): those of the default parts, then each other part and its own settings."""
    parts = {path: value for path, _, value, _ in specs.describe(BASE) if path in registry.roles()}
    for path, *_ in specs.describe(BASE):
        if path not in parts and path not in OF_GAMES:
            spec = specs.override_all(BASE, MEMORY | READ_WHERE.get(path, {})) if path in WITH_MEMORY else BASE
            if path.startswith(("optimizer.", "anneal.", "demos.", "conservative.")):
                spec = specs.override_all(BASE, READ_WHERE.get(path, {}))
            if path.startswith("recall."):
                spec = sized(specs.override_all(BASE, EXTERNAL | READ_WHERE.get(path, {})))
            yield pytest.param(spec, VECTOR, path, id=path)
    yield from settings_of_rollouts()
    for role, default in parts.items():
        for kind in own(role):
            if kind == default or kind in OF_A_POLICY or role == "mixing":  # of teams: tests/agents/test_teams.py
                continue
            around = {"working": MEMORY, "bootstrap": EXTERNAL}.get(role, {})
            spec = sized(specs.override_all(BASE, around | ONLY_WITH.get(kind, {}) | {role: kind}))
            space = SPACES.get(kind, VECTOR)
            yield pytest.param(spec, space, role, id=f"{role}={kind}")
            for path, *_ in specs.describe(spec):
                if path.startswith(f"{role}."):
                    where = specs.override_all(spec, READ_WHERE.get(path, {}))
                    met = AGAIN if path in ON_MEETING_AGAIN else space
                    yield pytest.param(where, met, path, id=f"{role}={kind} {path}")
    for kind in own("returns"):
        spec = sized(specs.override(BASE, "head.returns", kind))
        for path, *_ in specs.describe(spec):
            if path.startswith("head.returns."):
                yield pytest.param(spec, VECTOR, path, id=f"head.returns={kind} {path}")


def settings_of_rollouts() -> Iterator[Any]:
    """What agents without a replay choose themselves or read in a way of their own."""
    for name in ("pqn", "ppo"):
        base = sized(specs.override_all(presets.preset(name, VECTOR, STEPS), ROLLOUT))
        for path, kind, *_ in specs.describe(base):
            group = path.partition(".")[0]
            if (
                kind.startswith("one of")
                or path in (*REFUSED, *OF_GAMES)
                or group in ("encoder", "working", "external", "recall")
            ):
                continue
            needed = {"rollout.minibatches": 1, **ROLLOUT_MEMORY} if path in ROLLOUT_MEMORY else {}
            yield pytest.param(specs.override_all(base, needed), VECTOR, path, id=f"{name} {path}")


def changed(spec: Any, path: str) -> Any:
    """The spec with another legal value of one setting; a part becomes the default one."""
    kind, value = next(row[1:3] for row in specs.describe(spec) if row[0] == path)
    if path in registry.roles():
        if path == "working":
            return BASE
        other = next(row[2] for row in specs.describe(BASE) if row[0] == path)
        return sized(specs.override(spec, path, other))
    if path in OTHERS:
        other = OTHERS[path]
    elif kind.startswith("one of "):
        known = {"head.returns": ("quantile", "scalar"), "draw.over": ("prioritized", "uniform")}
        choices = known.get(path, ("gru", "none"))
        other = next(choice for choice in choices if choice != value)
    elif isinstance(value, bool):
        other = not value
    elif isinstance(value, str):
        other = next(choice for choice in kind.split(" or ") if choice != value)
    elif isinstance(value, tuple):
        other = (2 * value[0], *value[1:])
    else:
        other = (2 * value or 5) if isinstance(value, int) else 0.5 * value or 0.5
    return specs.override(spec, path, other)


def program(spec: Any, space: spaces.Leaf) -> str:
    """What is computed at the start and in one cycle of acting and learning, and on what."""
    agent, env = spec.build(space, Noise.actions, 1, 20), Noise(space)
    try:
        start, run = jax.make_jaxpr(partial(device.init, agent, env), return_shape=True)(jax.random.PRNGKey(0))
    except SpaceError as refusal:  # of a convolution that does not fit this image
        return str(refusal)
    tally = jax.eval_shape(lambda: Tally.empty(agent))
    cycle = jax.make_jaxpr(partial(device.cycle, agent, env, True))(run, tally)
    numbers = [np.asarray(number).tolist() for made in (start, cycle) for number in made.consts]
    return re.sub(r"0x[0-9a-f]+", "", f"{start} {cycle} {numbers}")  # where functions lie in memory


@cache
def digest_of(spec: Any, space: spaces.Leaf) -> str:
    return hashlib.sha256(program(spec, space).encode()).hexdigest()


@cache
def repeated(spec: Any, space: spaces.Leaf) -> str:
    """The digest of the program as it is made a second time."""
    return hashlib.sha256(program(spec, space).encode()).hexdigest()


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """Without the type checker, which takes twice the time of tracing; that the parts keep their types is shown
    wherever they are used."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


SETTINGS = list(every_setting())
START = ("replay.start",)  # read between two programs; what is learned shows it, and takes no longer than the others


@pytest.mark.parametrize(("spec", "space", "path"), [each for each in SETTINGS if each.id not in START])
def test_every_setting_changes_the_program(unchecked_types, spec: Any, space: spaces.Leaf, path: str):
    assert digest_of(changed(spec, path), space) != digest_of(spec, space) == repeated(spec, space)


RECALLED = [path for path, *_ in specs.describe(BASE) if path.startswith("recall.")]
WAITING = sorted({*READ_WHERE, *WITH_MEMORY, *RECALLED} - {"working"})


@pytest.mark.parametrize("path", WAITING)
def test_a_setting_that_waits_for_another_does_nothing_alone_and_is_refused(unchecked_types, path: str):
    """By the rules between settings, or by the table of what is read where."""
    around = {"external": EXTERNAL, "encoder": {"encoder": "entities"}}.get(path.partition(".")[0], {})
    around = EXTERNAL if path == "recall.frozen_width" else around
    spec, space = sized(specs.override_all(BASE, around)), SPACES["entities"] if "encoder" in around else VECTOR
    try:
        other = changed(spec, path)
    except SpecError as refusal:
        assert path.rpartition(".")[2] in str(refusal)
        return
    assert digest_of(other, space) == digest_of(spec, space)
    with pytest.raises(Unread, match=rf"{path} = .* was given, but nothing reads it while .*; (set .*, or )?leave it"):
        check_read(other, [path])
    assert lacking(other, path) is not None
    usual = {known: default for known, _, default in specs.against_defaults(other)}
    check_read(specs.override(other, path, usual[path]), [path])  # asks for nothing


@pytest.mark.parametrize(("spec", "space", "path"), [each for each in SETTINGS if each.id not in START])
def test_what_is_read_is_not_refused(spec: Any, space: spaces.Leaf, path: str):
    check_read(spec, [path])


def demonstration(steps: int, space: spaces.Leaf) -> Experience:
    """One episode of noise."""
    seen = jax.random.normal(jax.random.PRNGKey(7), (steps, 1, *space.shape))
    number = jnp.arange(steps)[:, None]
    row = TimeStep(seen, number == 0, number % Noise.actions, 1.0 * number, jnp.zeros_like(number, bool))
    return Experience(row, number == steps - 1, -seen, jnp.ones_like(number, bool), None)


def trained_digest(spec: Any, space: spaces.Leaf) -> str:
    try:
        runner = DeviceRunner(spec.build(space, Noise.actions, 1, 20), Noise(space), [0])
    except SpaceError as refusal:  # of more places than attention is for
        return str(refusal)
    if spec.demonstrated:
        runner.observe(demonstration(19, space), demos.keep)
    runner.advance(STEPS, lambda: False)
    return keeping.digest(runner)


def slow_unless(ids: tuple[str, ...]) -> list[Any]:
    return [
        pytest.param(*each.values, id=each.id, marks=() if each.id in ids else pytest.mark.slow)
        for each in SETTINGS
        if not each.id.endswith("working.chunk")  # the only setting that must change nothing but rounding
    ]


@pytest.mark.parametrize(("spec", "space", "path"), slow_unless(START))
def test_every_setting_changes_what_is_learned(spec: Any, space: spaces.Leaf, path: str):
    assert trained_digest(changed(spec, path), space) != trained_digest(spec, space)
