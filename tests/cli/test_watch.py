"""`engram watch`: lines in a pipe, a panel in a terminal, pictures, films, and one sentence for what is wrong."""

import io
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import engram
from engram.cli import watch as command
from engram.cli.commands import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps on a device task."""
    folder = tmp_path_factory.mktemp("runs") / "maze"
    with engram.Trainer(
        "engram/PassiveTMaze-v0", "dqn", run=folder, steps=64, env_args={"length": 4}, overrides={"replay.start": 16}
    ) as trainer:
        trainer.learn()
    return folder


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(["watch", *words]) == code
    found = capsys.readouterr()
    return found.out if code == 0 else found.err


def test_a_pipe_gets_a_line_for_each_step(capsys, run):
    lines = said(capsys, str(run)).splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("step 0  ")
    assert "Q right=" in lines[0]
    assert lines[4].endswith("the episode is over")
    assert said(capsys, str(run)).splitlines() == lines  # the same seed, the same episode
    some = said(capsys, str(run), "--steps", "1:3", "--episodes", "2").splitlines()
    assert [line.split()[1] for line in some] == ["1", "2", "1", "2"]


def test_of_an_agent_with_a_policy_the_log_probabilities_are_called_so(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the page goes
    small = {"encoder.widths": (8,), "rollout.steps": 8, "rollout.minibatches": 2}
    with engram.Trainer("engram/CartPole-v1", "ppo", run=tmp_path / "r", steps=64, envs=4, overrides=small) as trainer:
        trainer.learn()
    line = said(capsys, str(tmp_path / "r"), "--steps", "0").splitlines()[0]
    assert "log-probability left=-" in line
    assert " Q " not in line
    assert main(["explain", str(tmp_path / "r"), "--steps", "0:2", "--csv", str(tmp_path / "csv")]) == 0
    head = (tmp_path / "csv/steps.csv").read_text().splitlines()[0].split(",")
    assert "preference left" in head
    assert "q left" not in head  # the critic values states


def test_steps_after_the_end_are_said_to_be_none(capsys, run):
    assert "no episode had a step 90;" in said(capsys, str(run), "--steps", "90:99", code=2)


def test_it_is_the_episode_that_a_recording_holds(capsys, run):
    from engram.explaining.recording import record
    from engram.run.stored import load

    recorded = record(load(run), seed=3).episodes[0]
    lines = said(capsys, str(run), "--seed", "3").splitlines()
    actions = ["right", "up", "left", "down"]
    assert [line.split()[2] for line in lines] == [actions[action] for action in recorded.kept.action]
    values = [float(line.split("value ")[1].split()[0]) for line in lines]
    assert values == pytest.approx(recorded.kept.value.tolist(), rel=1e-3)


def test_a_step_is_written_as_a_picture(capsys, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said(capsys, str(run), "--png", "2") == "step-2.png shows step 2\n"
    assert Image.open("step-2.png").size == (1280, 720)
    assert "ended before step 9; give --png a lower step" in said(capsys, str(run), "--png", "9", code=2)


def test_an_episode_is_written_as_a_film(capsys, run, tmp_path):
    film = tmp_path / "a.gif"
    assert said(capsys, str(run), "--video", str(film), "--speed", "2") == f"{film} shows 5 steps\n"
    found = Image.open(film)
    assert (found.n_frames, found.info["duration"]) == (5, 50)  # type: ignore[attr-defined]


def test_a_host_environment_that_renders_is_shown(capsys, tmp_path):
    folder = tmp_path / "run"
    with engram.Trainer("CliffWalking-v1", "dqn", run=folder, steps=40, max_episode_steps=6) as trainer:
        trainer.learn()
    lines = said(capsys, str(folder)).splitlines()
    assert len(lines) == 6
    assert "Q up=" in lines[0]
    assert lines[-1].endswith("the clock ran out")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--png", "1", "--video", "a.gif"], "--png and --video were both given; write one at a time"),
        (["--out", "a.png"], "--out was given without --png; add --png STEP"),
        (["--png", "1", "--steps", "1:2"], "--steps was given with --png, which shows one step"),
        (["--png", "1", "--episodes", "2"], "--episodes was given with --png, which shows one step"),
        (["--png", "1", "--out", "a.bmp"], "--out 'a.bmp' ends with none of .png, .jpg, .jpeg, .webp"),
        (["--video", "a.avi"], "--video 'a.avi' ends with none of .gif, .mp4"),
        (["--png", "3", "--speed", "2"], "--speed was given with --png, which is one picture; leave one of them out"),
        (["--speed", "0"], "--speed 0 was given; expected 0.01 to 1000"),
        (["--steps", "9:3"], "--steps '9:3' was given; write A:B, the steps from A to before B"),
        (["--steps", "a"], "--steps 'a' was given; write A:B"),
        (["--png", "x"], "--png: 'x' was given; write a whole number"),
        (["discount=0.9"], "engram watch takes no settings, but 'discount=0.9' was given; leave it out"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(capsys, words: list[str], sentence: str):
    found = said(capsys, "no-such-run", *words, code=2)
    assert sentence in " ".join(found.split())
    assert len(found.strip().split("engram: ")) == 2


def test_a_run_that_is_not_there_is_said(capsys):
    assert "there is no run directory 'no-such-run'" in said(capsys, "no-such-run", code=66)


def test_steps_are_read():
    assert command._steps("3:5") == (3, 5)
    assert command._steps(":5") == (0, 5)
    assert command._steps("4") == (4, 5)


def in_a_terminal(run: Path, keys: bytes, interrupt: bool = False) -> tuple[int, str, float]:
    """Exit code and output of `engram watch` in a terminal of its own, and when its first panel was drawn."""
    mine, its = pty.openpty()
    words = [sys.executable, "-m", "engram", "watch", str(run), "--episodes", "50"]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "90", "LINES": "30"}
    began = time.monotonic()
    process = subprocess.Popen(words, stdin=its, stdout=its, stderr=its, env=environment, start_new_session=True)
    os.close(its)
    found, drawn = b"", 0.0
    try:
        while True:
            try:
                more = os.read(mine, 4096)
            except OSError:  # it closed its end
                break
            found += more
            if b"margin" in found and not drawn:
                drawn = time.monotonic() - began
                if interrupt:
                    os.kill(process.pid, signal.SIGINT)
                else:
                    os.write(mine, keys)
        return process.wait(20), found.decode("utf-8", "replace"), drawn
    finally:
        process.kill()
        os.close(mine)


@pytest.mark.parametrize("interrupt", [False, True])
def test_a_key_and_ctrl_c_end_the_panel(run, interrupt):
    code, text, _ = in_a_terminal(run, b"+ q", interrupt)
    assert code == (130 if interrupt else 0)
    assert "▶" in text
    assert "\x1b[?25h" in text  # the cursor is shown again
    assert "Traceback" not in text


def test_keys_change_the_pace(monkeypatch):
    keys = command._Keys(1.0)
    typed = iter(["+", " ", "", "x", "\x1b[C"])
    monkeypatch.setattr(keys, "_key", lambda seconds: next(typed))
    assert keys.wait(time.monotonic(), lambda: False)
    assert (keys._speed, keys._paused) == (1.5, True)
    assert not command._Keys(1.0).wait(0.0, lambda: True)


def test_without_a_keyboard_nothing_is_read(monkeypatch: Any):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with command._Keys(1000.0) as keys:
        assert keys.wait(time.monotonic(), lambda: False)
