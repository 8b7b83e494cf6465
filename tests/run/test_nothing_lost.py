"""What a disk does to a run: training goes on where nothing acknowledged is lost, and is told, once."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from support.bad_envs import Walk

import engram
from engram.checkpoint.store import CheckpointStore
from engram.cli.commands import main
from engram.errors import SpecError, WriteFailed
from engram.play.evaluation import Evaluation
from engram.run.evaluating import Evaluating
from engram.run.folders import whole_path
from engram.run.plan import holds_run

SMALL: dict[str, Any] = {"encoder__widths": (8,), "replay__capacity": 400, "replay__start": 60}


class Hand:
    """Does something at a step, and notes what is said and saved."""

    def __init__(self, **at: Callable[[], Any]):
        self.at = {int(step.removeprefix("step")): act for step, act in at.items()}
        self.notes: list[str] = []
        self.saved: list[int] = []

    def on_metrics(self, trainer: Any, metrics: dict[str, Any]) -> None:
        for step in [step for step in self.at if step <= metrics["step"]]:
            self.at.pop(step)()

    def on_note(self, trainer: Any, text: str) -> None:
        self.notes.append(text)

    def on_save(self, trainer: Any, saved: Any) -> None:
        self.saved.append(saved.step)


def train(run: Path, hand: Hand) -> Any:
    options = {"steps": 200, "save_every": 20, "log_every": 10, "callbacks": [hand], **SMALL}
    with engram.Trainer("CartPole-v1", "dqn", seed=0, run=run, **options) as trainer:
        return trainer.learn()


def test_a_folder_that_is_moved_and_comes_back_is_saved_to_again(tmp_path: Path):
    run, away = tmp_path / "run", tmp_path / "away"
    hand = Hand(step70=lambda: run.rename(away), step110=lambda: away.rename(run))
    train(run, hand)
    assert [step for step in hand.saved if 70 < step <= 110] == []
    assert hand.saved[-1] == engram.info(run, verify=True)["step"] == 200
    assert engram.info(run, verify=True)["problems"] == []
    assert sum("is not the folder any more that this run began to write to" in text for text in hand.notes) == 2


class Wanders(Walk):
    """Goes to another working directory in its first step, as simulators do."""

    def step(self, action: Any) -> Any:
        Path("elsewhere").mkdir(exist_ok=True)
        os.chdir("elsewhere")
        return super().step(action)


def test_an_environment_that_changes_the_working_directory_changes_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    hand = Hand()
    with engram.Trainer(
        Wanders, "dqn", seed=0, run="run", steps=90, save_every=40, callbacks=[hand], **SMALL
    ) as trainer:
        assert "run 'run'" in repr(trainer), "what was given is what is told"
        trainer.learn()
    assert hand.saved == [0, 40, 80, 90]
    assert engram.info(tmp_path / "run", verify=True)["problems"] == []
    assert (tmp_path / "run" / "learning-curve.png").exists()
    assert not list((tmp_path / "elsewhere").glob("**/run*"))


def test_a_command_of_several_seeds_begins_each_where_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("wanderers.py").write_text(
        "import gymnasium\nfrom run.test_nothing_lost import Wanders\ngymnasium.register('Wanders-v0', Wanders)\n"
    )
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    monkeypatch.syspath_prepend(str(tmp_path))
    words = "train wanderers:Wanders-v0 --preset dqn --steps 80 --seeds 2 --run all replay.start=60 encoder.widths=8"
    try:
        assert main(words.split()) == 0
    finally:
        gymnasium.registry.pop("Wanders-v0", None)
        sys.modules.pop("wanderers", None)
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [
        "learning-curve.png",
        "seed0",
        "seed1",
        "seeds.json",
    ]


def test_a_start_that_fails_in_another_working_directory_leaves_nothing_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    away = tmp_path / "away"
    away.mkdir()
    (away / "failing.py").write_text(
        "import os, gymnasium\ndef make():\n    os.chdir('away')\n    raise ValueError('no licence')\n"
        "gymnasium.register('Fails-v0', make)\n"
    )
    monkeypatch.syspath_prepend(str(away))
    try:
        assert main(["train", "failing:Fails-v0"]) != 0
    finally:
        gymnasium.registry.pop("Fails-v0", None)
        sys.modules.pop("failing", None)
    assert [path.name for path in tmp_path.iterdir()] == ["away"]


def test_a_working_directory_that_was_removed_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(SpecError, match=r"the folder 'mine' is to be in the current one, which was removed; go to"):
        engram.Trainer("CartPole-v1", run="mine")
    assert whole_path(tmp_path / "mine") == tmp_path / "mine"


def test_a_folder_that_is_gone_for_good_ends_the_run_with_its_name_and_nothing_in_its_place(tmp_path: Path):
    run, away = tmp_path / "run", tmp_path / "away"
    hand = Hand(step70=lambda: run.rename(away))
    with pytest.raises(WriteFailed, match=f"^{run} is not the folder any more .*; put it back there"):
        train(run, hand)
    assert not run.exists(), "half of a run there would look like a run"
    assert engram.info(away)["step"] == hand.saved[-1] == 60


def test_a_run_that_cannot_save_its_beginning_leaves_its_folder_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = tmp_path / "run"
    monkeypatch.setattr(CheckpointStore, "_has_room", lambda *_: False)
    options: dict[str, Any] = {"steps": 80, "run": run, **SMALL}
    with engram.Trainer("CartPole-v1", "dqn", seed=0, **options) as trainer:
        with pytest.raises(WriteFailed, match="step 0 could not be written to .*make room"):
            trainer.learn()
        assert not holds_run(run)
        monkeypatch.undo()
        assert trainer.learn().steps == 80
    assert engram.info(run)["step"] == 80


def test_a_disk_that_is_full_for_a_while_costs_saves_and_no_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    room = CheckpointStore._has_room
    hand = Hand(
        step70=lambda: monkeypatch.setattr(CheckpointStore, "_has_room", lambda *_: False),
        step110=lambda: monkeypatch.setattr(CheckpointStore, "_has_room", room),
    )
    train(tmp_path / "run", hand)
    assert hand.saved[-1] == engram.info(tmp_path / "run")["step"] == 200
    assert sum("training goes on; failure" in text for text in hand.notes) == 2


@pytest.mark.parametrize("name", ["checkpoints/model.pt", "metrics.jsonl", "metrics.csv", "learning-curve.png"])
def test_a_folder_with_files_that_a_run_would_write_over_is_refused(tmp_path: Path, name: str):
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    said = f"^{tmp_path} holds no run but '{name.partition('/')[0]}', which a run would write over; choose another fold"
    with pytest.raises(SpecError, match=said):
        engram.Trainer("CartPole-v1", "dqn", run=tmp_path, **SMALL)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "mine"


def test_files_that_come_while_a_trainer_is_made_are_neither_written_over_nor_removed(tmp_path: Path):
    with engram.Trainer("CartPole-v1", "dqn", run=tmp_path, **SMALL) as trainer:
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "model.pt").write_text("mine")
        with pytest.raises(SpecError, match="holds no run but 'checkpoints'"):
            trainer.learn(10)
    assert (tmp_path / "checkpoints" / "model.pt").read_text() == "mine"
    assert not holds_run(tmp_path)


class Refuses:
    """A callback that does not let a run begin, in either of two ways."""

    def __init__(self, *, noted: bool):
        self.noted = noted

    def on_start(self, trainer: Any) -> None:
        raise SpecError("not so")

    def on_note(self, trainer: Any, text: str) -> None:
        if self.noted:
            raise SpecError("not so")


@pytest.mark.parametrize("noted", [False, True])
def test_a_start_that_was_refused_leaves_nothing_and_can_be_made_again(tmp_path: Path, old: Path, noted: bool):
    run, how = tmp_path / "run", {"start_from": str(old), "preset": "dqn", **SMALL}
    with engram.Trainer("CartPole-v1", run=run, log="csv", callbacks=[Refuses(noted=noted)], **how) as trainer:
        with pytest.raises(SpecError, match="not so"):
            trainer.learn(70)
        assert [path.name for path in run.iterdir()] == ["lock"]
        with engram.Trainer("CartPole-v1", run=run, **how) as other:  # the lock is free
            assert other.runner.steps == 0
            other._withdraw()
        trainer.callbacks = ()
        if noted:
            assert trainer.runner.steps == 0
            return
        trainer.learn(90)  # another plan than at first
    assert engram.info(run, verify=True)["problems"] == []
    with engram.Trainer("CartPole-v1", run=tmp_path / "like", **how) as like:
        like.learn(90)
    assert engram.info(run)["state_digest"] == engram.info(tmp_path / "like")["state_digest"]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to begin from."""
    folder = tmp_path_factory.mktemp("runs") / "old"
    with engram.Trainer("CartPole-v1", "dqn", run=folder, steps=20, **SMALL) as trainer:
        assert trainer.runner.steps == 0
    return folder


def test_the_best_checkpoint_that_a_full_disk_refused_is_not_taken_for_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Of four evaluations the second is the greatest, and cannot be saved; the third is the best that can."""
    means, room = iter([1.0, 9.0, 5.0, 2.0]), CheckpointStore._has_room
    monkeypatch.setattr(Evaluating, "play", lambda *_: Evaluation.of([[next(means)]], [1], 0))
    full = {"now": False}

    def has_room(store: CheckpointStore, needed: int) -> bool:
        return not (full["now"] and store.folder.name == "best") and room(store, needed)

    monkeypatch.setattr(CheckpointStore, "_has_room", has_room)
    hand = Hand(step40=lambda: full.update(now=True), step60=lambda: full.update(now=False))
    options = {"steps": 80, "save_every": 50, "log_every": 20, "evaluate_every": 20, "callbacks": [hand], **SMALL}
    with engram.Trainer("CartPole-v1", "dqn", run=tmp_path, **options) as trainer:
        trainer.learn()
    assert engram.info(tmp_path)["best"] == {"step": 60, "return": 5.0}
    assert engram.load(tmp_path, at="best").step == 60
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.partition(" to ")[0] for text in warned] == ["the checkpoint of step 40 could not be written"]
