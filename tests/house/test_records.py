"""Result files of benchmarks, and the runs beside them."""

from argparse import Namespace

import pytest

from benchmarks.record import Record


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


def test_parts_are_kept_and_those_of_other_settings_refused(tmp_path):
    Record(options(tmp_path), {"steps": 1}).put("one", {"won": 2})
    with pytest.raises(SystemExit, match="add --continue to keep its parts or --fresh to replace it"):
        Record(options(tmp_path), {"steps": 1})
    with pytest.raises(SystemExit, match="has settings"):
        Record(options(tmp_path, resume=True), {"steps": 2})
    again = Record(options(tmp_path, resume=True), {"steps": 1})
    assert again.parts["one"]["won"] == 2
    assert len(again.content["commands"]) == 2
