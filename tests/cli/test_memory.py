"""`engram memory`: what is printed, what is written, and one sentence for each thing that cannot be done."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from support.bad_envs import Walk

from engram.checkpoint.files import RunLock
from engram.cli.commands import main
from engram.run.trainer import Trainer

AGENT = dict(
    encoder__widths=(8,), replay__capacity=300, replay__start=40, replay__batch_size=8, seed=0, steps=60,
)  # fmt: skip
MEMORY = dict(preset="nec", learn_every=2, external__capacity=60, external__neighbours=4, recall__n_step=3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "host"
    with Trainer(Walk, run=folder, **AGENT, **MEMORY) as trainer:
        trainer.learn()
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def said(capsys, *words: object) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["memory", *map(str, words)])
    found = capsys.readouterr()
    return code, found.out if code == 0 else found.err


def listed(capsys, run: Path, *words: object) -> dict:
    code, out = said(capsys, run, "list", *words, "--json", "--limit", 1000)
    assert code == 0
    return json.loads(out)


def test_entries_are_listed_sorted_chosen_and_shown(capsys, run):
    found = listed(capsys, run, "--where", "action=1", "--sort", "attention")
    assert {entry["action"] for entry in found["shown"]} == {1}
    attention = [entry["attention"] for entry in found["shown"]]
    assert attention == sorted(attention, reverse=True)
    assert found["chosen"] == len(found["shown"]) < found["entries"]
    code, out = said(capsys, run, "list", "--limit", 2)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith(str(run)[:20])
    assert "action" in out
    assert "more; --limit N" in out
    code, out = said(capsys, run, "show", found["shown"][0]["id"], "--json")
    assert json.loads(out)["value"] == found["shown"][0]["value"]


def test_without_yes_nothing_is_deleted_and_with_it_a_new_checkpoint_is_written(capsys, run, tmp_path):
    before = sorted((run / "checkpoints").iterdir())
    count = listed(capsys, run, "--where", "episode=3")["chosen"]
    assert count
    code, out = said(capsys, run, "delete", "--where", "episode=3")
    assert code == 0
    assert f"would be deleted in {run}"[:40] in out.replace("\n", " ")
    assert "add --yes" in out
    assert sorted((run / "checkpoints").iterdir()) == before
    code, out = said(capsys, run, "delete", "--where", "episode=3", "--yes", "--page", tmp_path / "p.html", "--json")
    found = json.loads(out)
    assert (found["entries"], found["done"]) == (count, True)
    assert len(sorted((run / "checkpoints").iterdir())) == len(before) + 1
    told = " ".join(found["left"])
    assert "network has learned" in told
    assert "replay keeps the newest 300 rows" in told
    assert "Older checkpoints still hold" in told
    assert listed(capsys, run, "--where", "episode=3")["chosen"] == 0


def test_a_page_shows_before_and_after(capsys, run, tmp_path):
    page = tmp_path / "p.html"
    assert said(capsys, run, "delete", "--where", "action=1", "--page", page)[0] == 0
    text = page.read_text()
    assert text.count("<table>") == 2
    assert "gone" in text
    assert "Q before" in text
    assert not re.search(r"<script|https?://", text)


def test_a_page_of_a_run_that_keeps_no_replay_says_so(capsys, tmp_path):
    run, page = tmp_path / "rollouts", tmp_path / "p.html"
    given = {"preset": "pqn-memory", "external__capacity": 100, "external__neighbours": 4, "rollout__steps": 8}
    with Trainer("engram/CartPole-v1", run=run, seed=0, steps=200, encoder__widths=(8,), envs=2, **given) as trainer:
        trainer.learn()
    assert said(capsys, run, "delete", "--all", "--page", page)[0] == 0
    assert "keeps no replay" in page.read_text()


def test_an_entry_is_edited_and_exported(capsys, run, tmp_path):
    id = listed(capsys, run)["shown"][0]["id"]
    assert said(capsys, run, "edit", id, "--value", 9.5, "--yes")[0] == 0
    out = tmp_path / "m.csv"
    assert said(capsys, run, "export", "--out", out)[0] == 0
    rows = {int(row["id"]): row for row in csv.DictReader(out.open())}
    assert float(rows[id]["value"]) == 9.5
    assert len(rows) == listed(capsys, run)["entries"]
    assert said(capsys, run, "export", "--out", tmp_path / "m.json", "--where", "action=0")[0] == 0
    assert {row["action"] for row in json.loads((tmp_path / "m.json").read_text())} == {0}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["lst"], "'lst' is nothing that engram memory does; did you mean 'list'?"),
        (["delete"], "nothing says which entries to delete; write an ID, --where NAME=VALUE"),
        (["delete", "99999"], "no entry of the memory has the id 99999"),
        (["delete", "--where", "colour=3"], "cannot be chosen by 'colour'; known: action"),
        (["delete", "--where", "action=9", "--yes"], "matches action=9, so nothing was changed; it holds"),
        (["delete", "--where", "action"], "is not of the form NAME=VALUE"),
        (["delete", "--where", "action=left"], "'left' is not a whole number"),
        (["list", "--sort", "colour"], "entries cannot be sorted by 'colour'"),
        (["list", "--yes"], "list takes no --yes"),
        (["list", "--where", "seed=5"], "seed=5 was given, but the agent has the seeds 0"),
        (["show"], "no entry was named"),
        (["edit", "0"], "no value was given"),
        (["edit", "0", "--value", "nan"], "write a finite number"),
        (["export"], "no file was named"),
        (
            ["delete", "--all", "--yes", "--page", "no/p.html"],
            "--page no/p.html cannot be a file; name one in a folder",
        ),
        (["export", "--out", "m.txt"], "ends neither in .csv nor in .json"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(capsys, run, words, sentence):
    before = sorted((run / "checkpoints").iterdir())
    code, err = said(capsys, run, *words)
    text = " ".join(err.split())
    assert code == 2
    assert sentence in text
    assert text.startswith("engram: ")
    assert sorted((run / "checkpoints").iterdir()) == before


def test_a_run_that_trains_is_looked_at_but_not_changed(capsys, run):
    with RunLock(run):
        assert said(capsys, run, "list")[0] == 0
        code, err = said(capsys, run, "delete", "--all", "--yes")
    assert code != 0
    assert "is being written by" in err


def test_a_run_without_an_external_memory_and_no_run_at_all_are_told(capsys, tmp_path):
    with Trainer(Walk, run=tmp_path / "plain", preset="dqn", **AGENT) as trainer:
        trainer.save()
    code, err = said(capsys, tmp_path / "plain", "list")
    assert code == 2
    assert "has no external memory" in err
    code, err = said(capsys, tmp_path / "nowhere", "list")
    assert code == 66
    assert "there is no run directory" in err
