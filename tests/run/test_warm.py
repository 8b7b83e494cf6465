"""A new run that begins with what another one learned, with other settings."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import engram
from engram.agents.policy import Seen, begin, look, still
from engram.checkpoint.store import CheckpointStore
from engram.cli.commands import main
from engram.errors import CheckpointError, SpecError, Untrusted
from engram.run.plan import RunPlan
from engram.run.trainer import Trainer

SMALL = dict(preset="dqn", encoder__widths=(8,), replay__capacity=300, replay__batch_size=8, replay__start=60)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 120 steps, with checkpoints at 40, 80 and 120."""
    folder = tmp_path_factory.mktemp("runs") / "old"
    with Trainer("CartPole-v1", run=folder, steps=120, save_every=40, seed=5, **SMALL) as trainer:
        trainer.learn()
    return folder


def arrays(run: Path, step: int | None = None) -> dict[str, np.ndarray]:
    return CheckpointStore(run / "checkpoints").load(step).arrays


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray], beginning: str) -> bool:
    names = [name for name in one if name.startswith(beginning)]
    return bool(names) and all(np.array_equal(one[name], other[name]) for name in names)


def test_weights_are_taken_and_settings_changed_and_both_recorded(old: Path, tmp_path: Path):
    given = {"optimizer__learning_rate": 1e-4, "exploration__end": 0.3}
    with Trainer("CartPole-v1", run=tmp_path, start_from=str(old), steps=500, **given) as trainer:
        assert trainer.runner.steps == 0
        plan = trainer.plan
    assert (plan.preset, plan.agent.encoder.widths, plan.agent.replay.capacity) == ("dqn", (8,), 300), "as it was"
    assert (plan.agent.optimizer.learning_rate, plan.agent.exploration.end) == (1e-4, 0.3)
    assert plan.agent.exploration.steps == 50, "a tenth of the new run"
    assert RunPlan.read(tmp_path).start_from == f"{old}@120"
    assert same(arrays(tmp_path), arrays(old), "agent.learner.params")
    assert same(arrays(tmp_path), arrays(old), "agent.learner.target")
    assert not same(arrays(tmp_path), arrays(old), "agent.learner.updates")
    assert CheckpointStore(tmp_path / "checkpoints").load().cursors.tolist() == [0], "no replay unless asked for"
    with Trainer(run=tmp_path, resume=True) as trainer:
        assert trainer.learn(70).steps == 70


def test_of_which_checkpoint_can_be_said(old: Path, tmp_path: Path):
    with Trainer(run=tmp_path, start_from=f"{old}@40") as trainer:
        assert trainer.runner.steps == 0
        assert trainer.plan.env == "CartPole-v1", "that of the other run, unless another is named"
    assert same(arrays(tmp_path), arrays(old, 40), "agent.learner.params")
    assert not same(arrays(tmp_path), arrays(old), "agent.learner.params")
    with pytest.raises(CheckpointError, match="keeps no checkpoint of step 41"):
        Trainer(start_from=f"{old}@41")
    with pytest.raises(CheckpointError, match="keeps no best checkpoint"):
        Trainer(start_from=f"{old}@best")
    with pytest.raises(CheckpointError, match="holds no run"):
        Trainer("CartPole-v1", start_from=str(tmp_path / "nowhere"))


def test_the_replay_is_taken_if_asked_for(old: Path, tmp_path: Path):
    with Trainer(run=tmp_path, start_from=str(old), start_with="replay") as trainer:
        assert trainer.runner.steps == 0
        trainer.learn(80)
    store = CheckpointStore(tmp_path / "checkpoints")
    before, then = store.load(0), CheckpointStore(old / "checkpoints").load()
    assert before.cursors.tolist() == then.cursors.tolist()
    rows = [[block[2] for block in loaded.replay_blocks()] for loaded in (before, then)]
    for name in rows[0][0]:
        one, other = (np.concatenate([block[name] for block in blocks]) for blocks in rows)
        np.testing.assert_array_equal(one, other)
    with (
        Trainer(run=tmp_path / "b", start_from=str(old), start_with="replay", replay__capacity=400) as trainer,
        pytest.raises(CheckpointError, match=r"the replay of .*@120 does not fit this run .*300 rows.*400"),
    ):
        trainer.learn(10)
    assert not (tmp_path / "b").exists()


def test_a_best_checkpoint_has_no_replay_to_take_and_that_is_said(tmp_path: Path):
    with Trainer("CartPole-v1", run=tmp_path / "a", steps=70, evaluate_every=70, **SMALL) as trainer:
        trainer.learn()
    for what in ("replay", "all"):
        with pytest.raises(CheckpointError, match=rf"start_with = '{what}' was given, but .*a@70 is a best"):
            Trainer(start_from=f"{tmp_path / 'a'}@best", start_with=what)
    Trainer(start_from=f"{tmp_path / 'a'}@best").close()


def test_weights_go_from_the_host_to_every_seed_of_the_device_and_back(old: Path, tmp_path: Path):
    with Trainer("engram/CartPole-v1", run=tmp_path / "a", start_from=str(old), seeds=2) as trainer:
        assert trainer.runner.steps == 0
    there, here = arrays(old), arrays(tmp_path / "a")
    for name in (name for name in there if name.startswith("agent.learner.params")):
        np.testing.assert_array_equal(here[name], np.stack([there[name]] * 2))
    with Trainer("CartPole-v1", run=tmp_path / "b", start_from=str(tmp_path / "a")) as trainer:
        assert trainer.runner.steps == 0
    assert same(arrays(tmp_path / "b"), there, "agent.learner.params")


def test_the_external_memory_is_taken_if_asked_for(tmp_path: Path):
    agent: dict[str, Any] = {**SMALL, "external": "episodic", "external__neighbours": 5}
    with Trainer("CartPole-v1", run=tmp_path / "a", steps=90, **agent) as trainer:
        trainer.learn()
    for what, taken in (("weights", False), ("memory", True)):
        with Trainer(run=tmp_path / what, start_from=str(tmp_path / "a"), start_with=what) as trainer:
            assert trainer.runner.steps == 0
        assert same(arrays(tmp_path / what), arrays(tmp_path / "a"), "agent.recall.store") == taken


@pytest.mark.parametrize(("given", "said"), [
    ({"encoder__widths": (16,)}, r"learned does not fit this agent: params\.encoder.* has shape .* there and .* here"),
    ({"head": "dueling"}, "does not fit this agent: .* nothing .*leave out the settings that change the network"),
    ({"start_with": "memory"}, "start_with = 'memory' was given, but this agent has no external memory"),
    ({"env": "Acrobot-v1"}, r"does not fit this agent: .* has shape .* there and .* here"),
])  # fmt: skip
def test_what_does_not_fit_is_one_sentence_and_leaves_nothing(
    old: Path, tmp_path: Path, given: dict[str, Any], said: str
):
    with (
        Trainer(**{"env": "CartPole-v1", "run": tmp_path / "new", "start_from": str(old), **given}) as trainer,
        pytest.raises((CheckpointError, SpecError), match=said),
    ):
        trainer.learn(10)
    assert not (tmp_path / "new").exists()


def test_of_a_folder_of_seeds_the_run_of_the_same_seed_is_taken(old: Path, tmp_path: Path):
    shutil.copytree(old, tmp_path / "many" / "seed3")
    with Trainer(start_from=str(tmp_path / "many"), seed=3) as trainer:
        assert trainer.plan.start_from == f"{tmp_path / 'many' / 'seed3'}@120"
    with pytest.raises(CheckpointError, match="holds no run"):
        Trainer(start_from=str(tmp_path / "many"), seed=4)


def test_another_run_names_no_module_to_import(tmp_path: Path):
    """Its files may be a stranger's."""
    with Trainer("gymnasium:CartPole-v1", run=tmp_path, **SMALL) as trainer:
        trainer.learn(10)
    with pytest.raises(SpecError, match="learned in 'gymnasium:CartPole-v1', for which a module would be impor"):
        Trainer(start_from=str(tmp_path))
    Trainer("CartPole-v1", start_from=str(tmp_path)).close()


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in an environment that is made in a way of its own."""
    folder = tmp_path_factory.mktemp("runs") / "pendulum"
    task: dict[str, Any] = {"action_bins": 3, "max_episode_steps": 50, "env_args": {"g": 5.0, "render_mode": "a.b"}}
    with Trainer("Pendulum-v1", run=folder, **task, **SMALL) as trainer:
        assert trainer.runner.steps == 0
    return folder


@pytest.mark.filterwarnings("ignore:.*render_mode")
def test_in_the_environment_of_the_other_run_the_task_is_the_same_but_for_what_is_given(pendulum: Path):
    def task(**given: Any) -> tuple[Any, ...]:
        with Trainer(start_from=str(pendulum), **given) as trainer:
            plan = trainer.plan
        return plan.env, plan.action_bins, plan.max_episode_steps, plan.env_args

    assert task(trust=True) == ("Pendulum-v1", 3, 50, {"g": 5.0, "render_mode": "a.b"})
    plain = {"env_args": {"render_mode": None}}
    assert task(**plain) == ("Pendulum-v1", 3, 50, {"g": 5.0, "render_mode": None})
    assert task(**plain, max_episode_steps=9) == ("Pendulum-v1", 3, 9, {"g": 5.0, "render_mode": None})
    assert task(env="Pendulum-v1", action_bins=3) == ("Pendulum-v1", 3, None, {}), "a task that is named is its own"
    with pytest.raises(Untrusted, match="give 'Pendulum-v1' the argument 'render_mode' with the text 'a.b'"):
        task()


def test_what_to_take_needs_a_run_to_take_it_from():
    with pytest.raises(SpecError, match=r"start_with says what to take from another run; name it with start_from"):
        Trainer("CartPole-v1", start_with="replay")


def test_the_command_line_begins_from_a_run(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["train", "CartPole-v1", "--from", f"{old}@80", "--steps", "70", "--run", str(tmp_path / "new")]
    assert main([*words, "optimizer.learning_rate=1e-4"]) == 0
    told = json.loads((tmp_path / "new" / "run.json").read_text())
    assert told["start_from"] == f"{old}@80"
    assert told["agent"]["optimizer"]["learning_rate"] == 1e-4
    assert engram.info(tmp_path / "new")["step"] == 70
    assert main(["train", "CartPole-v1", "--start-with", "replay"]) == 2
    assert "name it with start_from (--from)" in capsys.readouterr().err


def test_the_command_line_needs_no_environment_to_begin_from_a_run(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--from", str(old), "--steps", "10"]
    assert main([*words, "--seeds", "2"]) == 0
    assert [RunPlan.read(tmp_path / f"runs/CartPole-v1-auto-seeds0-1/seed{seed}").env for seed in (0, 1)] == [
        "CartPole-v1"
    ] * 2
    assert main(["train", "--from", "nowhere"]) == 66
    assert "nowhere holds no run" in capsys.readouterr().err


def test_settings_are_those_of_the_agent_of_the_other_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A setting that no agent of the preset `auto` has."""
    agent: dict[str, Any] = {**SMALL, "external": "episodic"}
    with Trainer("CartPole-v1", run=tmp_path / "a", **agent) as trainer:
        assert trainer.runner.steps == 0
    words = ["train", "CartPole-v1", "--from", str(tmp_path / "a"), "--steps", "10", "--run", str(tmp_path / "b")]
    assert main([*words, "external.neighbours=5"]) == 0
    assert RunPlan.read(tmp_path / "b").agent.external.neighbours == 5  # type: ignore[attr-defined]
    assert main([*words[:-1], str(tmp_path / "c"), "external.neighbour=5"]) == 2
    assert "did you mean 'external.neighbours'?" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


NORMALIZED = {"observation__normalize": True, "reward__normalize": True}


@pytest.fixture(scope="module")
def normalized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an agent that scales what it sees and is paid."""
    folder = tmp_path_factory.mktemp("runs") / "normalized"
    with Trainer("CartPole-v1", run=folder, steps=120, evaluate_every=0, **SMALL, **NORMALIZED) as trainer:
        trainer.learn()
    return folder


@pytest.mark.parametrize("env", ["CartPole-v1", "engram/CartPole-v1"])
def test_weights_come_with_the_statistics_by_which_they_see(normalized: Path, env: str):
    states = np.random.default_rng(0).normal(1.0, 3.0, (20, 4)).astype(np.float32)
    with engram.load(normalized) as there, Trainer(env, start_from=str(normalized), start_with="replay") as trainer:
        seen = [_q(agent, states) for agent in (there, trainer.trained())]
        np.testing.assert_array_equal(*seen)


def _q(agent: Any, states: np.ndarray) -> np.ndarray:
    mind, spec = agent.minds[0], agent.plan.agent
    seen = Seen(jnp.asarray(states), jnp.ones(len(states), bool), jnp.zeros(len(states)))
    looked = look(spec, mind, begin(spec, mind.network, len(states)), seen, still(mind.network, len(states)))
    return np.asarray(looked.decision.q)


def test_statistics_that_only_one_of_both_has_are_one_sentence(normalized: Path):
    with (
        Trainer("CartPole-v1", start_from=str(normalized), observation__normalize=False) as trainer,
        pytest.raises(CheckpointError, match=r"statistics\.scales\.observation.* nothing here"),
    ):
        trainer.learn(10)


def test_a_q_in_other_units_is_one_sentence(old: Path):
    with (
        Trainer("CartPole-v1", start_from=str(old), reward__rescale=True) as trainer,
        pytest.raises(CheckpointError, match=r"has reward\.rescale = false, so its Q is in other units"),
    ):
        trainer.learn(10)


def test_what_was_taken_plays_before_the_first_step(old: Path, tmp_path: Path):
    with engram.load(old) as there, Trainer("CartPole-v1", run=tmp_path / "new", start_from=str(old)) as trainer:
        assert trainer.evaluate(3).returns == there.evaluate(3).returns
        states = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
        np.testing.assert_array_equal(trainer.predict(states)[0], there.predict(states)[0])
        assert not (tmp_path / "new").exists(), "the run has not begun"
        trainer.learn(70)
    assert trainer.plan.start_from == f"{old}@120"
