"""What a disk does to a run: training goes on where nothing acknowledged is lost, and is told, once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import engram
from engram.checkpoint.store import CheckpointStore
from engram.errors import SpecError, WriteFailed
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
