"""Result files of benchmarks, and the runs beside them."""

from argparse import Namespace

import pytest

from benchmarks.learning import dialogue, go, text_games
from benchmarks.record import Record
from engram import Trainer
from engram.checkpoint.files import RunLock
from engram.errors import RunLocked


def options(folder, resume=False, fresh=False):
    return Namespace(out=folder / "result.json", resume=resume, fresh=fresh)


def test_only_continue_goes_on_with_a_run_that_is_there(tmp_path):
    """A file that is made anew would otherwise tell of runs of earlier code."""
    run = tmp_path / "run"
    for chosen, kept in ((options(tmp_path, resume=True), True), (options(tmp_path, fresh=True), False)):
        run.mkdir(exist_ok=True)
        assert Record(chosen, {}).place(run) == run
        assert run.exists() is kept
    run.mkdir()
    Record(options(tmp_path / "elsewhere"), {}).place(run)
    assert not run.exists()


def test_a_run_that_another_process_trains_is_not_removed(tmp_path):
    run = tmp_path / "cell" / "run"
    with Trainer("engram/Chain-v0", run=run, steps=8, evaluate_every=0) as trainer:
        trainer.learn()
    with RunLock(run), pytest.raises(RunLocked):
        Record(options(tmp_path), {}).place(tmp_path / "cell")
    assert (run / "run.json").exists()


def test_a_run_is_removed_once_and_not_what_came_in_its_place(tmp_path):
    record = Record(options(tmp_path), {})
    for _ in range(2):
        record.place(tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "new").touch()
    assert (tmp_path / "run" / "new").exists()


def test_agents_that_are_chosen_by_a_list_have_no_comma_in_their_names():
    for agents in (text_games.AGENTS, go.AGENTS, dialogue.AGENTS):
        assert not [name for name in agents if "," in name]


def test_parts_are_kept_and_those_of_other_settings_refused(tmp_path):
    Record(options(tmp_path), {"steps": 1}).put("one", {"won": 2})
    with pytest.raises(SystemExit, match="add --continue to keep its parts or --fresh to replace it"):
        Record(options(tmp_path), {"steps": 1})
    with pytest.raises(SystemExit, match="has settings"):
        Record(options(tmp_path, resume=True), {"steps": 2})
    again = Record(options(tmp_path, resume=True), {"steps": 1})
    assert again.parts["one"]["won"] == 2
    assert len(again.content["commands"]) == 2
