"""Evaluation while a run trains: training does not notice, a resume repeats and leaves out nothing, the best stays."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from support.bad_envs import Walk

import engram
import engram.run.evaluating
import engram.run.trainer
from engram.agents.policy import Mind
from engram.checkpoint.store import CheckpointStore
from engram.cli.commands import main
from engram.errors import CheckpointError, Interrupted, SpaceError
from engram.play.evaluation import evaluation_seed
from engram.play.evaluator import HostEvaluator
from engram.run.metrics import read_metrics
from engram.run.stop import StopRequest
from engram.run.trainer import Trainer, load

SMALL = dict(preset="dqn", encoder__widths=(8,), replay__capacity=300, replay__batch_size=8, replay__start=60)
EVALUATED = dict(steps=200, log_every=20, evaluate_every=40, evaluate_episodes=3)
CLOCK = {"seconds", "steps_per_second"}
STACKED = {"observation__stack": 2}
MEMORY = {"preset": "drqn", "encoder__widths": (8,), "working__hidden_size": 8, "replay__capacity": 300,
          "replay__batch_size": 4, "replay__start": 60, "replay__window": 4}  # fmt: skip


def lines(folder: Path) -> list[dict[str, Any]]:
    rows = read_metrics(folder)
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]


@pytest.mark.parametrize(
    ("env", "agent"),
    [("CartPole-v1", SMALL | STACKED), ("CartPole-v1", MEMORY), ("engram/CartPole-v1", SMALL | {"seeds": 2})],
    ids=["numpy", "compiled", "device"],
)
def test_training_is_the_same_with_and_without_evaluation(tmp_path: Path, env: str, agent: dict[str, Any]):
    """Evaluation falls between lines of metrics too: at 28, 56, ... beside 20, 40, ..."""
    digests = []
    for every in (28, 0):
        folder = tmp_path / str(every)
        with Trainer(env, run=folder, **{**EVALUATED, "evaluate_every": every}, **agent) as trainer:
            digests.append(trainer.learn().state_digest())
    assert digests[0] == digests[1]
    with_it, without = lines(tmp_path / "28"), lines(tmp_path / "0")
    shown = ("evaluation_return", "evaluation_std", "evaluation_length")
    assert [row["step"] for row in with_it if "evaluation_return" in row] == [*range(28, 200, 28), 200]
    trained = [{name: item for name, item in row.items() if name not in shown} for row in with_it]
    assert [row for row in trained if "return_mean" in row] == without
    means = [row["evaluation_return"] for row in with_it if "evaluation_return" in row]
    assert np.shape(means) == ((8, 2) if "seeds" in agent else (8,))


class StopAt(StopRequest):
    """Asks to stop at a step, or within the evaluation there."""

    def __init__(self, trainer: Trainer, step: int, calls: int):
        super().__init__()
        self.trainer, self.step, self.left = trainer, step, calls

    def __call__(self) -> bool:
        if self.trainer.steps >= self.step:
            self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("env", ["CartPole-v1", "engram/CartPole-v1"])
@pytest.mark.parametrize("calls", [0, 1, 3], ids=["before it", "at its beginning", "inside it"])
def test_no_evaluation_is_missing_or_repeated_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: str, calls: int
):
    given = {**EVALUATED, **SMALL, "save_every": 60}
    with Trainer(env, run=tmp_path / "whole", **given) as trainer:
        digest = trainer.learn().state_digest()
    with Trainer(env, run=tmp_path / "parts", **given) as trainer:
        with monkeypatch.context() as patch:
            patch.setattr(engram.run.trainer, "StopRequest", lambda: StopAt(trainer, 80, calls))
            with pytest.raises(Interrupted):
                trainer.learn()
        assert engram.info(tmp_path / "parts")["step"] == trainer.steps
    with Trainer(run=tmp_path / "parts", resume=True) as trainer:
        assert trainer.learn().state_digest() == digest
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    assert engram.info(tmp_path / "parts")["best"] == engram.info(tmp_path / "whole")["best"]


def test_evaluation_has_episodes_of_its_own_which_every_point_repeats(tmp_path: Path):
    """They are those of no `evaluate`, and what they gave is what the agent of that checkpoint gives again."""
    assert evaluation_seed(0, while_training=True) not in [evaluation_seed(seed) for seed in range(1_000)]
    with Trainer("CartPole-v1", run=tmp_path, optimizer__learning_rate=1e-12, **SMALL, **EVALUATED) as trainer:
        trainer.learn()
    found = [row["evaluation_return"] for row in read_metrics(tmp_path) if "evaluation_return" in row]
    assert len(found) == 5
    assert len(set(found)) == 1, "an agent that hardly changes gets the same return in the same episodes"


@pytest.mark.parametrize("agent", [SMALL | STACKED, MEMORY], ids=["numpy", "compiled"])
def test_the_best_checkpoint_is_what_was_evaluated(tmp_path: Path, agent: dict[str, Any]):
    with Trainer("CartPole-v1", run=tmp_path, **agent, **EVALUATED) as trainer:
        trainer.learn()
    rows = {row["step"]: row["evaluation_return"] for row in read_metrics(tmp_path) if "evaluation_return" in row}
    best = engram.info(tmp_path, verify=True)["best"]
    assert best["return"] == max(rows.values())
    assert best["step"] == max(step for step, mean in rows.items() if mean == best["return"])
    with load(tmp_path, at="best") as agent_then, Trainer(run=tmp_path, resume=True) as trainer:
        assert agent_then.step == best["step"]
        evaluator = trainer._evaluating._made(trainer.plan)
        assert isinstance(evaluator, HostEvaluator)
        assert evaluator.play(agent_then.minds, lambda: False).mean == best["return"]


def test_the_best_checkpoint_outlives_the_newest_and_is_named_by_its_step(tmp_path: Path):
    class Choose:
        """Calls the evaluation at 40 the best."""

        def on_evaluate(self, trainer: Trainer, evaluation: Any) -> None:
            trainer._progress.best_return = 1e9

    with Trainer("CartPole-v1", run=tmp_path, save_every=20, callbacks=[Choose()], **SMALL, **EVALUATED) as trainer:
        trainer.learn()
    assert CheckpointStore(tmp_path / "checkpoints").steps() == [160, 180, 200]
    assert (load(tmp_path, at="best").step, load(tmp_path, at=40).step, load(tmp_path, at="40").step) == (40, 40, 40)
    assert (load(tmp_path).step, load(tmp_path, at=180).step) == (200, 180)
    with pytest.raises(CheckpointError, match="keeps no checkpoint of step 60; use newest, best, or one of the steps"):
        load(tmp_path, at=60)
    with pytest.raises(engram.EngramError, match="checkpoint 'last' was given; expected newest, best or a step"):
        load(tmp_path, at="last")


def test_a_damaged_best_checkpoint_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with Trainer("CartPole-v1", run=tmp_path, **SMALL, **EVALUATED) as trainer:
        trainer.learn()
    assert engram.info(tmp_path, verify=True)["problems"] == []
    for arrays in (tmp_path / "checkpoints" / "best").glob("step-*/arrays.safetensors"):
        content = bytearray(arrays.read_bytes())
        content[-1] ^= 1
        arrays.write_bytes(content)
    assert engram.info(tmp_path, verify=True)["problems"][0].startswith("best: checkpoint step-")
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        load(tmp_path, at="best")
    assert load(tmp_path).step == 200


def test_the_command_line_evaluates_the_checkpoint_that_was_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with Trainer("CartPole-v1", run=tmp_path, **SMALL, **{**EVALUATED, "evaluate_every": 0}) as trainer:
        trainer.learn()
    assert main(["evaluate", str(tmp_path), "--json", "--episodes", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 200
    assert main(["evaluate", str(tmp_path), "--at", "best"]) == 66
    assert "keeps no best checkpoint, because it was not evaluated while it trained" in capsys.readouterr().err


# -- where it cannot be ----------------------------------------------------------------------------------------


class Notes:
    def __init__(self):
        self.heard: list[str] = []

    def on_note(self, trainer: Trainer, text: str) -> None:
        self.heard.append(text)


class NeedsLength(Walk):
    def __init__(self, needed: int):
        super().__init__(needed)


def test_an_environment_object_is_evaluated_in_another_like_it(tmp_path: Path):
    with Trainer(Walk(), run=tmp_path, **SMALL, **EVALUATED) as trainer:
        assert trainer.learn().steps == 200
    assert "evaluation_return" in read_metrics(tmp_path)[-1]


def test_where_there_is_no_other_like_it_training_goes_on_and_that_is_said_once():
    notes = Notes()
    with Trainer(NeedsLength(4), callbacks=[notes], **SMALL, **EVALUATED) as trainer:
        assert trainer.learn().steps == 200
    said = [text for text in notes.heard if "without this evaluation" in text]
    assert len(said) == 1
    assert "no other one like it can be made (NeedsLength needs the argument 'needed')" in said[0]


def test_a_function_that_gives_the_environment_of_training_is_found_out():
    env, notes = Walk(), Notes()
    resets: list[int] = []
    reset = env.reset
    env.reset = lambda **given: resets.append(1) or reset(**given)  # type: ignore[method-assign]
    with Trainer(lambda: env, callbacks=[notes], **SMALL, **EVALUATED) as trainer:
        before = trainer.runner and len(resets)
        trainer.learn()
    assert any("gave an environment that is in use" in text for text in notes.heard)
    assert len(resets) - before == 200 // 4, "one for each episode of training"


def test_evaluation_may_be_elsewhere(tmp_path: Path):
    given = {**EVALUATED, "evaluate_env": "engram/CartPole-v1"}
    with Trainer("CartPole-v1", run=tmp_path, **SMALL, **given) as trainer:
        trainer.learn()
    assert "evaluation_return" in read_metrics(tmp_path)[-1]
    with pytest.raises(SpaceError, match="evaluate_env = Acrobot-v1 has .* but the agent learns from"):
        Trainer("CartPole-v1", run=tmp_path / "b", **SMALL, **{**EVALUATED, "evaluate_env": "Acrobot-v1"})
    assert not (tmp_path / "b").exists()


class Endless(gymnasium.Env):
    """A continuing task: pays 1 a step, for ever."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, False, {}


def test_an_episode_without_an_end_is_cut_off_and_that_is_said(tmp_path: Path):
    notes = Notes()
    with Trainer(Endless, run=tmp_path, callbacks=[notes], **SMALL, **{**EVALUATED, "evaluate_episodes": 7}) as trainer:
        trainer.learn()
    assert read_metrics(tmp_path)[-1]["evaluation_return"] == 1_000
    said = [text for text in notes.heard if "had not ended after 1,000 steps and was cut off there" in text]
    assert len(said) == 1


class Growing(Endless):
    """Pays the number of the step in its episode."""

    def reset(self, *, seed=None, options=None):
        self.number = 0
        return super().reset()

    def step(self, action):
        self.number += 1
        return np.zeros(2, np.float32), float(self.number), False, False, {}


@pytest.mark.parametrize("agent", [SMALL, MEMORY], ids=["numpy", "compiled"])
def test_after_a_cut_another_episode_begins(monkeypatch: pytest.MonkeyPatch, agent: dict[str, Any]):
    """Two of five environments play twice. Before, the second time went on within the first episode."""
    monkeypatch.setattr(engram.run.evaluating, "SHORTEST", 50)
    found: list[Any] = []
    heard = SimpleNamespace(on_evaluate=lambda _, evaluation: found.append(evaluation))
    with Trainer(Growing, callbacks=[heard], **agent, **{**EVALUATED, "steps": 40, "evaluate_episodes": 7}) as trainer:
        trainer.learn()
    assert [(one.returns, one.cut) for one in found] == [([50 * 51 / 2] * 7, 7)]


def test_an_end_of_its_own_at_the_limit_is_no_cut():
    notes, found = Notes(), []
    heard = SimpleNamespace(on_evaluate=lambda _, evaluation: found.append(evaluation))
    given = {**EVALUATED, "steps": 40, "evaluate_episodes": 1}
    with Trainer(lambda: TimeLimit(Endless(), 1_000), callbacks=[notes, heard], **SMALL, **given) as trainer:
        trainer.learn()
    assert [(one.lengths, one.cut) for one in found] == [([1_000], 0)]
    assert not [text for text in notes.heard if "cut off" in text]


def test_a_cut_on_the_device_is_told():
    found: list[Any] = []
    heard = SimpleNamespace(on_evaluate=lambda _, evaluation: found.append(evaluation.cut))
    given = {**EVALUATED, "steps": 40, "evaluate_env": "engram/CartPole-v1"}
    with Trainer("engram/CartPole-v1", callbacks=[heard], **SMALL, **given) as trainer:
        evaluator = trainer._evaluating._made(trainer.plan)
        evaluator._limit = 5  # type: ignore[attr-defined]
        trainer.learn()
    assert found == [3]


@pytest.fixture
def own_ids() -> Iterator[None]:
    """What is registered is forgotten again: other tests compare all that there is."""
    before = set(gymnasium.registry)
    yield
    for name in set(gymnasium.registry) - before:
        del gymnasium.registry[name]


@pytest.mark.usefixtures("own_ids")
def test_an_environment_of_other_bounds_is_one_to_evaluate_in():
    """As for `evaluate` and for resuming: an agent scales by its own."""

    class Wider(Endless):
        observation_space = gymnasium.spaces.Box(-5, 5, (2,), np.float32)

    gymnasium.register("EngramTest/Wider-v0", Wider, max_episode_steps=5)
    given = {**EVALUATED, "steps": 40, "evaluate_env": "EngramTest/Wider-v0"}
    found: list[Any] = []
    heard = SimpleNamespace(on_evaluate=lambda _, evaluation: found.append(evaluation.lengths))
    with Trainer(Endless, callbacks=[heard], **SMALL, **given) as trainer:
        trainer.learn()
    assert found == [[5] * 3]


def test_a_stop_is_obeyed_within_an_evaluation():
    class Slow(Endless):
        def step(self, action):
            time.sleep(0.001)
            return super().step(action)

    with Trainer(Slow, steps=200, evaluate_every=100, evaluate_episodes=5, **SMALL) as trainer:
        play = trainer._evaluating.play

        def stopped(plan: Any, minds: list[Mind], stop: Any, note: Any) -> Any:
            trainer.stop()
            began = time.monotonic()
            found = play(plan, minds, stop, note)
            assert time.monotonic() - began < 2
            return found

        trainer._evaluating.play = stopped  # type: ignore[method-assign]
        assert trainer.learn().steps == 100
        assert trainer._progress.evaluated == 0
