"""Ctrl-C at any moment: one line, exit code 130 and nothing half made; or, once learning has begun, a saved run."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

# A test suite in the background of a shell ignores Ctrl-C, and so would the processes that it starts.
listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
NOTHING = "engram: stopped; nothing was left to save"
WORDS = ["train", "CartPole-v1", "--steps", "1e7", "--run", "new/r"]


def left(seconds: float, folder: Path, words: list[str]) -> tuple[int, list[str]]:
    """The exit code and the lines of standard error of a program that gets Ctrl-C after so many seconds."""
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("engram")), *words],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listens,
    )
    try:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        return process.returncode, err.splitlines()
    finally:
        process.kill()
        process.wait()


def check(seconds: float, folder: Path) -> None:
    code, lines = left(seconds, folder, WORDS)
    if code == 75:
        assert lines[-1].startswith("engram: stopped at step "), lines
        assert list((folder / "new/r/checkpoints").glob("step-*"))
        return
    assert (code, lines) == (130, [NOTHING])
    if (folder / "new").exists():  # between its first checkpoint and its first step
        assert list((folder / "new/r/checkpoints").glob("step-*"))


@pytest.mark.parametrize("seconds", [0.3, 1.5])
def test_a_program_that_is_still_starting_is_left_at_once(seconds, tmp_path):
    check(seconds, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.2 + 4.8 * tenth / 19 for tenth in range(20)], ids=lambda value: f"{value:.2f}")
def test_no_try_of_twenty_goes_on_running(seconds, tmp_path):
    check(seconds, tmp_path)


SCRIPT = """
import json, os, signal, sys, threading, time
from pathlib import Path
from engram.cli.leave import kept, undo_when_left, watch
watch()
new, old = Path("new/deep"), Path("old")
undo_when_left(new, [new, new.parent])
undo_when_left(old, [])
{first}
for folder in (new, old):
    folder.mkdir(parents=True, exist_ok=True), (folder / "lock").write_text(json.dumps(dict(pid=os.getpid())))
    (folder / "run.json").touch(), (folder / "checkpoints").mkdir(exist_ok=True)
{more}
"""
CTRL_C = "os.kill(os.getpid(), signal.SIGINT); time.sleep(9)"


def run(more: str, folder: Path, first: str = "") -> tuple[int, str]:
    (folder / "old").mkdir(exist_ok=True)
    (folder / "old" / "mine.txt").touch()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(first=first, more=more)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=listens,
    )
    return done.returncode, done.stderr


def test_what_was_half_made_is_removed_and_nothing_else(tmp_path):
    assert run(CTRL_C, tmp_path) == (130, f"{NOTHING}\n")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine.txt", "old"]


def test_what_was_there_before_is_kept_whatever_it_is_called(tmp_path):
    (tmp_path / "old/checkpoints").mkdir(parents=True)
    mine = [tmp_path / "old" / name for name in ("checkpoints/model.pt", "metrics.jsonl", "lock")]
    for path in mine:
        path.touch()
    assert run(CTRL_C, tmp_path) == (130, f"{NOTHING}\n")
    assert all(path.exists() for path in mine)
    assert not (tmp_path / "old/run.json").exists()


def test_before_the_folder_is_locked_nothing_in_it_is_removed(tmp_path):
    """Somebody else puts files there while the program starts."""
    first = "new.mkdir(parents=True), (new / 'checkpoints').mkdir(), (old / 'run.json').touch(); " + CTRL_C
    assert run("", tmp_path, first) == (130, f"{NOTHING}\n")
    assert (tmp_path / "new/deep/checkpoints").exists()
    assert (tmp_path / "old/run.json").exists()


def test_what_is_whole_is_kept(tmp_path):
    assert run(f"kept(); {CTRL_C}", tmp_path)[0] == 130
    assert (tmp_path / "new/deep/run.json").exists()
    assert (tmp_path / "old/run.json").exists()


def test_a_folder_that_another_process_has_taken_is_kept(tmp_path):
    more = "(old / 'lock').write_text('{\"pid\": 1}'); " + CTRL_C
    assert run(more, tmp_path)[0] == 130
    assert (tmp_path / "old/run.json").exists()
    assert not (tmp_path / "new").exists()


def test_code_that_gives_nothing_back_for_long_does_not_keep_the_program(tmp_path):
    """One call into C that takes minutes: no instruction of Python runs, so no handler of Python does."""
    began = time.monotonic()
    more = "threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start();"
    more += "\nimport hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 200_000_000)"
    assert run(more, tmp_path) == (130, f"{NOTHING}\n")
    assert time.monotonic() - began < 30
    assert not (tmp_path / "new").exists()


def test_a_program_that_was_told_to_ignore_ctrl_c_does(tmp_path):
    code = (
        "import os, signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nfrom engram.cli.leave import watch\nwatch()\n"
        "os.kill(os.getpid(), signal.SIGINT)\nprint('went on')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "went on\n"


def test_the_second_ctrl_c_ends_a_stop_that_does_not_come(tmp_path):
    code = (
        "import os, signal, threading, time\nfrom engram.cli.leave import watch\nwatch()\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"  # as a trainer that was asked to stop
        "for wait in (0.2, 0.8): threading.Timer(wait, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 200_000_000)"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, preexec_fn=listens)
    assert done.returncode == 130
    assert done.stderr == (
        "engram: stopping after this step; Ctrl-C again stops at once\n"
        "engram: stopped at once; what was saved before is whole, and --resume goes on from it\n"
    )


def test_the_program_is_started_by_what_watches_first():
    """The installed command, too: nothing heavy is imported before."""
    code = "import sys, engram.__main__; print({'tyro', 'rich', 'jax', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout == "set()\n"
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'engram = "engram.__main__:main"' in pyproject
