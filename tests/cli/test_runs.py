"""What came of a run or of several, told from their logs: returns first, and no JAX."""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engram.checkpoint.disk import bytes_in
from engram.cli import runs
from engram.cli.commands import main
from engram.cli.runs import spread
from engram.run import plan
from engram.run.curve import plot_curve, together
from engram.run.folders import LARGEST, RUN_FILE, runs_in
from engram.run.intervals import interval
from engram.run.metrics import RunLog
from engram.run.trainer import Trainer

AGENT = {"encoder": "vector", "working": "none", "external": "none", "head": "q"}


def made(folder: Path, returns: list, seed: int = 0, seeds: int = 1, **more) -> Path:
    """A run directory with a line of its log for each return."""
    folder.mkdir(parents=True, exist_ok=True)
    agent = {role: {"kind": kind} for role, kind in AGENT.items()}
    content = {"env": "CartPole-v1", "preset": "auto", "steps": 500, "envs": 1, "agent": agent}
    (folder / RUN_FILE).write_text(json.dumps(content | {"seed": seed, "seeds": seeds}))
    with RunLog(folder, None) as log:
        for number, value in enumerate(returns, 1):
            log.write({"step": 100 * number, "return_mean": value, "loss": 0.5, "seconds": 2.0 * number} | more)
    return folder


def said(capsys, *words: str) -> list[str]:
    capsys.readouterr()
    assert main([*words]) == 0
    return capsys.readouterr().out.splitlines()


def test_info_begins_with_returns_and_is_short(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made(Path("r"), [10.0, 480.0, 450.0])
    (Path("r") / "checkpoints" / "step-300").mkdir(parents=True)
    first, *rest = said(capsys, "info", "r")
    assert first == "return       450, mean of the last 100 training episodes; best 480 at step 200"
    assert rest[0] == "step         300 of 500, in 0:06, 50 steps/s"
    assert rest[1] == "environment  CartPole-v1, 1 at a time, seed 0"
    assert rest[2] == "agent        auto: encoder vector, working none, external none, head q"
    assert rest[3].startswith("checkpoints  300; ")
    assert rest[4] == "more         engram info r --all tells every setting and the digest of the state"
    assert len(rest) == 5


def test_an_evaluation_is_told_beside_the_return_of_training(capsys, tmp_path):
    lines = said(capsys, "info", str(made(tmp_path / "r", [10.0, 20.0], evaluation_return=30.0)))
    assert lines[1] == "evaluation   30, greedy"


def test_info_of_a_real_run_loads_no_jax_and_agrees_with_all_of_it(capsys, tmp_path):
    with Trainer("engram/CartPole-v1", "dqn", run=tmp_path / "r", steps=300, seeds=2) as trainer:
        trainer.learn()
    code = f"import sys; from engram.cli.commands import main; main(['info', {str(tmp_path / 'r')!r}])"
    code += f"; main(['info', {str(tmp_path / 'r')!r}, '--all']); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *lines, loaded = done.stdout.splitlines()
    assert loaded == "False"
    assert "300 of 300" in lines[1]
    assert "seeds 0 to 1" in lines[2]
    facts = plan.info(tmp_path / "r")
    assert ["state_digest", facts["state_digest"]] in [line.split() for line in lines]
    assert (plan.RUN_FILE, plan.LARGEST) == (RUN_FILE, LARGEST)


def test_a_folder_of_runs_and_of_seeds_is_listed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made(Path("runs/b"), [7.0])
    for seed in (2, 10, 0):
        made(Path(f"runs/a/seed{seed}"), [100.0 + seed], seed=seed)
    made(Path("runs/c"), [[1.0, 3.0]], seeds=2)
    assert [path.as_posix() for path in runs_in(Path("runs"))] == [
        "runs/a/seed0", "runs/a/seed2", "runs/a/seed10", "runs/b", "runs/c",
    ]  # fmt: skip
    head, *lines = said(capsys, "info", "runs")
    assert head.split()[:2] == ["run", "environment,"]
    assert [line.split()[0] for line in lines[:5]] == [path.as_posix() for path in runs_in(Path("runs"))]
    assert lines[3].split()[-2:] == ["7", "-"]
    low, high = interval([100.0, 102.0, 110.0])
    assert lines[5] == (
        f"runs/a: 3 seeds, 100 steps, return of the last 100 training episodes 104 [{low:.4g}, {high:.4g}] (100 to 110)"
    )
    assert said(capsys, "info", "runs/a")[-1] == lines[5]


WHOLE = {"env": "X", "preset": "dqn", "seed": 0, "seeds": 1, "steps": 1, "envs": 1}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def narrow(monkeypatch, *words: str) -> list[str]:
    """What a command says in a terminal of 60 columns, as standard output and as standard error."""
    for name in ("JPY_PARENT_PID", "MPLBACKEND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    terminal = Terminal()
    with monkeypatch.context() as streams:
        streams.setattr(sys, "stdout", terminal)
        streams.setattr(sys, "stderr", terminal)
        main([*words])
    return terminal.getvalue().splitlines()


@pytest.mark.parametrize("words", ["info runs/a", "info runs", "list presets", "show dqn", "list recipes", "train X"])
def test_no_word_is_cut_at_the_edge_of_a_terminal(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    made(Path("runs/a-run-with-a-name-of-some-length"), [10.0, 480.0])
    made(Path("runs/a"), [10.0, 480.0, 450.0], evaluation_return=30.0)
    lines = narrow(monkeypatch, *words.split())
    assert len(lines) > 1
    assert max(map(len, lines)) <= 60


def test_a_text_goes_on_below_itself_and_a_comment_stays_one(monkeypatch):
    first, *rest = narrow(monkeypatch, "list", "presets", "rainbow-memory")
    assert first.startswith("rainbow-memory  rainbow, with")
    assert rest
    assert all(line.startswith(" " * 16) and line[16] != " " for line in rest)
    assert all("#" in line for line in narrow(monkeypatch, "show", "dqn"))


def test_a_run_that_is_too_wide_for_a_terminal_stands_above_its_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = made(Path("runs/a-run-with-a-name-of-some-length"), [10.0])
    assert [line.split("  ")[0] for line in runs.lines_of([folder], 200)] == ["run", str(folder)]
    head, _, name, numbers = runs.lines_of([folder], 60)
    assert (head, name) == ("run", str(folder))
    assert numbers.startswith("  CartPole-v1, auto")


@pytest.mark.parametrize("content", [
    "{", "[]", '{"env": "X"}', '{"seed": "x"}', json.dumps(WHOLE | {"agent": {}}), json.dumps(WHOLE | {"agent": [1]}),
    json.dumps(WHOLE | {"agent": {role: {} for role in AGENT}}), json.dumps(WHOLE | {"agent": {}, "seeds": 1 << 70}),
    '{"env": "X", "env": "Y"}', '{"steps": NaN}', "[" * 100_000, " " * ((8 << 20) + 1),
], ids=range(12))  # fmt: skip
def test_a_damaged_plan_is_one_sentence(capsys, tmp_path, content):
    (tmp_path / RUN_FILE).write_text(content)
    assert main(["info", str(tmp_path)]) == 66
    err = capsys.readouterr().err
    assert err.startswith(f"engram: {tmp_path / RUN_FILE} is damaged: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", [RUN_FILE, "metrics.jsonl"])
def test_a_link_or_a_pipe_in_the_place_of_a_file_is_neither_followed_nor_waited_for(capsys, tmp_path, name):
    run = made(tmp_path / "r", [1.0])
    (run / name).rename(tmp_path / "elsewhere")
    (run / name).symlink_to(tmp_path / "elsewhere")
    assert main(["info", str(run)]) == 66
    assert f"{run / name} cannot be read" in capsys.readouterr().err
    (run / name).unlink()
    os.mkfifo(run / name)
    writer = os.open(run / name, os.O_RDWR)  # who reads waits for what it writes
    assert main(["info", str(run)]) == 66
    os.close(writer)
    said = capsys.readouterr().err
    assert f"{run / name} cannot be read" in said
    assert "plain file" in said


def test_what_is_no_number_in_a_log_is_no_value(capsys, tmp_path):
    run = made(tmp_path / "r", [5.0, "x", {"y": 1}, 10**400, [[1.0]]], evaluation_return="much", seconds="long")
    lines = said(capsys, "info", str(run))
    assert lines[0] == "return       no episode ended yet, mean of the last 100 training episodes"
    assert lines[1] == "evaluation   no episode ended yet, greedy"
    plot_curve(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": ' + "[" * 100_000 + "\n")
    assert said(capsys, "info", str(run)) == lines[:-2] + said(capsys, "info", str(run))[-2:]


def test_files_that_go_while_they_are_counted_count_nothing(capsys, tmp_path, monkeypatch):
    run = made(tmp_path / "r", [5.0])
    (run / "link").symlink_to(run / "nowhere")
    monkeypatch.setattr(os, "walk", lambda top: [(str(top), [], ["gone", "link", RUN_FILE])])
    assert bytes_in(run) == (run / RUN_FILE).stat().st_size
    assert said(capsys, "info", str(run))[4].endswith("kB on disk")


def test_a_group_is_summed_up_by_evaluations_only_if_every_seed_has_one(capsys, tmp_path):
    made(tmp_path / "seed0", [10.0], seed=0, evaluation_return=100.0)
    made(tmp_path / "seed1", [20.0], seed=1)
    assert "return of the last 100 training episodes 15 [" in said(capsys, "info", str(tmp_path))[-1]
    made(tmp_path / "seed1", [20.0], seed=1, evaluation_return=200.0)
    assert "greedy return 150 [" in said(capsys, "info", str(tmp_path))[-1]


def test_a_folder_without_runs_says_so(capsys, tmp_path):
    assert main(["info", str(tmp_path)]) == 66
    assert "holds no run (run.json is missing); start one with: engram train ENV" in capsys.readouterr().err


def test_an_interval_is_students():
    low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (low, high) == pytest.approx((3 - 2.776 * math.sqrt(2.5 / 5), 3 + 2.776 * math.sqrt(2.5 / 5)))
    assert spread([None, 4.0]) == "4"
    assert spread([None]) == "no episode ended yet"


def test_logs_of_several_seeds_are_joined_by_their_steps():
    logs = [
        [{"step": 10, "return_mean": 1.0, "loss": 0.1}, {"step": 20, "return_mean": 2.0, "loss": 0.2}],
        [{"step": 15, "return_mean": 5.0, "loss": None}, {"step": 15, "evaluation_return": 9.0}],
    ]
    assert together(logs) == [
        {"step": 10, "return_mean": [1.0, None], "loss": [0.1, None]},
        {"step": 15, "return_mean": [1.0, 5.0], "loss": [0.1, None]},
        {"step": 15, "evaluation_return": [None, 9.0]},
        {"step": 20, "return_mean": [2.0, None], "loss": [0.2, None]},
    ]


def test_several_seeds_on_the_host_end_in_one_picture_and_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "train CartPole-v1 --preset dqn --steps 300 --seeds 2 --run r replay.capacity=400"
    assert main(words.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("done: r: 2 seeds, 300 steps, return of the last 100 training episodes ")
    assert "[" in lines[-2]
    assert lines[-1] == "r/learning-curve.png shows them; next: engram info r"
    assert Path("r/learning-curve.png").stat().st_size > 10_000
    assert said(capsys, "info", "r")[-1] == lines[-2].removeprefix("done: ")


def test_a_picture_of_runs_that_logged_nothing_is_drawn(tmp_path):
    made(tmp_path / "seed0", [])
    assert plot_curve(tmp_path, title="x", runs=[tmp_path / "seed0"]).exists()
