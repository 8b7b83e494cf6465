"""`engram explain`: what it writes and prints, and what it refuses."""

import csv
import json
from pathlib import Path

import pytest

import engram
from engram.cli.commands import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that hardly began."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    small = {"encoder.widths": (8,), "replay.capacity": 200, "replay.start": 40, "replay.batch_size": 8}
    with engram.Trainer(
        "engram/PassiveTMaze-v0", preset="dqn", run=folder, steps=60, progress=False,
        **{name.replace(".", "__"): value for name, value in small.items()},
    ) as trainer:  # fmt: skip
        trainer.learn(60)
    return folder


def test_a_page_words_and_json(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "page.html"
    assert main(["explain", str(run), "--out", str(page), "--no-thumbnails"]) == 0
    assert page.read_text().startswith("<!doctype html>")
    assert f"{page} holds the page" in capsys.readouterr().out.replace("\n    ", " ")
    assert main(["explain", str(run), "--text", "--step", "3", "--faithfulness", "off"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("step 3: Chose ")
    assert "margin " in said
    assert main(["explain", str(run), "--json", "--steps", "2:5", "--faithfulness", "off"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [step["t"] for step in found["steps"]] == [2, 3, 4]
    assert found["trained"] == 60
    assert len(found["checkpoint"]) == 12


def test_tables_beside_words(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "new" / "tables"
    words = ["--text", "--steps", "2:5", "--faithfulness", "off", "--csv", str(folder)]
    assert main(["explain", str(run), *words]) == 0
    told = capsys.readouterr()
    assert "steps.csv" in " ".join(told.err.split())
    assert "steps.csv" not in told.out
    with (folder / "steps.csv").open(encoding="utf-8", newline="") as file:
        assert [row["t"] for row in csv.DictReader(file)] == ["2", "3", "4"]


def test_two_runs_on_the_same_steps(run: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["explain", "compare", str(run), str(run)]) == 0
    assert "would have chosen otherwise at 0 of 11 steps (0%)" in capsys.readouterr().out.replace("\n    ", " ")


def test_a_checkpoint_is_named_with_the_run(run: Path, capsys: pytest.CaptureFixture[str]):
    steps = sorted(int(path.name[5:].partition(".")[0]) for path in (run / "checkpoints").glob("step-*"))
    assert main(["explain", "compare", f"{run}@newest", f"{run}@{steps[0]}", "--json"]) == 0
    names = json.loads(capsys.readouterr().out)["names"]
    assert (names[0][1:] == names[1][1:]) == (len(steps) == 1)
    assert main(["explain", f"{run}@{steps[0]}", "--json", "--faithfulness", "off", "--steps", "0:1"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint"] in names[1]
    assert main(["explain", f"{run}@7", "--at", "newest"]) != 0
    assert "which names a checkpoint itself; leave one of them out" in " ".join(capsys.readouterr().err.split())


def test_a_step_is_told_of_each_episode(run: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--text", "--step", "3", "--episodes", "2", "--faithfulness", "off"]
    assert main(["explain", str(run), *words]) == 0
    said = capsys.readouterr().out
    assert [said.count(f"episode {episode}, step 3: Chose ") for episode in (0, 1)] == [1, 1]
    assert said.count("faithfulness: not measured") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--json", "--text"], "--json and --text were both given; leave one of them out"),
        (["--step", "3"], "--step was given without --text; write --text --step T, or --steps A:B for a page"),
        (["--text", "--open"], "--open is for a page, and none is written here; leave it out"),
        (["--json", "--no-thumbnails"], "--no-thumbnails is for a page, and none is written here; leave it out"),
        (["--out", "no/where.html"], "--out no/where.html cannot be a file; name one in a folder that is there"),
        (["--out", "/tmp"], "--out /tmp cannot be a file; name one in a folder that is there, as in report.html"),
        (["--steps", "3"], "--steps 3 is no range; write A:B, such as 200:400, or one of them, as in :50"),
        (["--csv", __file__], f"--csv {__file__} is a file; name a folder, which is made where there is none"),
        (["--max-mb", "0"], "--max-mb 0 was given; expected millions of bytes, more than 0"),
        (
            ["--text", "--step", "99"],
            "steps = 99:100 lies outside of the episode, which had 11 steps; write a first step below 11",
        ),
        (["--env", "engram/CartPole-v1"], "engram/CartPole-v1 has Box(shape=(4,)"),
        (["--env", "Nowhere-v0"], "Nowhere-v0"),
    ],
)
def test_what_is_refused(run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert main(["explain", str(run), *words]) != 0
    error = capsys.readouterr().err.replace("\n", " ")
    assert said in " ".join(error.split())
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", "99:"], "steps = 99: lies outside of the episode, which had 11 steps"),
        (["--steps", "5:3"], "steps = 5:3 holds no step"),
        (["--csv", "tables"], "--csv was given, and two runs that are compared make no tables; leave it out"),
        (["--faithfulness", "full"], "--faithfulness was given, and nothing is measured where two runs are compared"),
    ],
)
def test_what_is_refused_of_two(run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert main(["explain", "compare", str(run), str(run), *words]) != 0
    assert said in " ".join(capsys.readouterr().err.split())


def test_no_run_and_too_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["explain", str(tmp_path / "gone")]) != 0
    assert "gone" in capsys.readouterr().err
    assert main(["explain", str(tmp_path), str(tmp_path)]) != 0
    assert "2 runs were given; write engram explain RUN, or" in " ".join(capsys.readouterr().err.split())
