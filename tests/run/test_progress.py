"""What Python gives without being asked: a display where somebody looks, notes in `logging`, the picture, a repr."""

import io
import logging
import os
import pty
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from engram import Trainer
from engram.errors import EngramError, Warned
from engram.run import display as displays
from engram.run.display import Display, as_html, in_notebook, is_terminal
from engram.run.divergence import DivergenceWatch
from engram.run.evaluating import Evaluating
from engram.run.progress import Compiling, Notes, Progress, watched

METRICS = {"step": 500, "total": 1000, "episodes": 9, "return_mean": 21.5, "steps_per_second": 100.0, "seconds": 5.0}


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


class Cell:
    """A notebook's kernel, as far as `IPython.display` shows it: outputs by the handle that replaces them."""

    def __init__(self, monkeypatch):
        self.shown, self.updates = [], 0
        shell = SimpleNamespace(kernel=object())
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
        monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=self.display))

    def display(self, content, raw, display_id):
        assert raw
        assert display_id
        place = len(self.shown)
        self.shown.append(content)

        def update(content, raw):
            assert raw
            self.updates += 1
            self.shown[place] = content

        return SimpleNamespace(update=update)


@pytest.fixture(autouse=True)
def no_notebook(monkeypatch):
    for name in ("JPY_PARENT_PID", "MPLBACKEND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


# -- in a notebook -------------------------------------------------------------------------------------------


def test_a_notebook_has_one_panel_in_html_that_is_replaced_in_place(monkeypatch, capsys):
    cell = Cell(monkeypatch)
    with Display(title="CartPole-v1 <b>") as display:
        for step in range(0, 1001, 10):
            display.update(METRICS | {"step": step})
        display.note("a note")
    (content,) = cell.shown
    assert set(content) == {"text/html", "text/plain"}
    assert "1,000/1,000" in content["text/html"]
    assert "CartPole-v1 &lt;b&gt;" in content["text/html"]
    assert "21.5" in content["text/html"]
    assert len(content["text/html"]) < 5_000
    assert "\x1b" not in content["text/html"] + content["text/plain"]
    assert cell.updates <= 3, "101 lines of metrics in no time are not 101 messages"
    assert capsys.readouterr().out == "a note\n"


def test_a_kernel_is_told_from_a_terminal_with_ipython(monkeypatch):
    assert not in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace()))
    assert not in_notebook()
    Cell(monkeypatch)
    assert in_notebook()
    assert watched()


def test_the_panel_in_html_tells_what_the_plain_line_tells():
    display = Display(None, io.StringIO(), title="x")
    display.update(METRICS)
    text = re.sub(r"<[^>]+>", "", as_html(display))
    words = [word for pair in display.facts() for word in pair if pair[0] != "elapsed"]
    assert all(word in text for word in words)


def test_the_newest_evaluation_stands_beside_the_return_until_the_next():
    display = Display(None, io.StringIO(), title="x")
    display.update(METRICS)
    assert "greedy" not in display.text()
    display.update(METRICS | {"evaluation_return": [30.0, 50.0]})
    display.update(METRICS | {"step": 600})
    assert "return 21.5  greedy 40  episodes 9" in display.text()


def test_the_panel_in_html_needs_no_width_and_leaves_nothing_to_the_styles_of_a_notebook():
    """Lines of characters would wrap in a narrow cell, and a notebook puts the cells of a table to the right."""
    shown = as_html(Display(1000, io.StringIO(), title="x"))
    assert not re.search(r"<pre|[\u2500-\u257f]", shown)
    assert shown.count("<td ") == shown.count("text-align:left") > 10


def test_a_run_with_nothing_left_to_learn_shows_no_panel(monkeypatch):
    """All that it could say is that nothing is known."""
    monkeypatch.setenv("COLUMNS", "80")
    exploration = SimpleNamespace(report=lambda step: {"epsilon": 0.1})
    plan = SimpleNamespace(
        env="X-v0",
        preset="auto",
        seed=0,
        seeds=1,
        steps=600,
        agent=SimpleNamespace(exploration=exploration, head=SimpleNamespace(has_policy=False)),
    )
    for steps, panel in ((600, False), (500, True)):
        stream = Terminal()
        progress, trainer = Progress(Display(None, stream)), SimpleNamespace(plan=plan, steps=steps)
        progress.on_note(trainer, "already at 600 of 600 steps")
        progress.on_start(trainer)
        progress.on_stop(trainer, "done")
        assert ("nothing learned yet" in stream.getvalue()) is panel
        assert stream.getvalue().startswith("already at 600 of 600 steps\n")


@pytest.mark.parametrize("sign", [("JPY_PARENT_PID", "7"), ("MPLBACKEND", "module://matplotlib_inline.backend_inline")])
@pytest.mark.parametrize("hours", [0.05, 1, 100])
def test_a_command_in_a_cell_stays_below_5_kb_however_long_the_run(monkeypatch, sign, hours):
    monkeypatch.setenv(*sign)
    stream, clock = Terminal(), SimpleNamespace(now=0.0)
    display = Display(None, stream, title="x", clock=lambda: clock.now)
    progress, trainer = Progress(display), SimpleNamespace(plan=SimpleNamespace(
        env="X-v0", preset="auto", seed=0, seeds=1, steps=100_000_000,
        agent=SimpleNamespace(
            exploration=SimpleNamespace(report=lambda step: {"epsilon": 1.0}), head=SimpleNamespace(has_policy=False)
        ),
    ), steps=0)  # fmt: skip
    assert not is_terminal(stream)
    progress.on_start(trainer)
    for point in range(1001):
        clock.now = hours * 3600 * point / 1000
        total = 100_000_000
        progress.on_metrics(trainer, METRICS | {"step": total * point // 1000, "total": total, "seconds": clock.now})
        if point % 100 == 0:
            progress.on_save(trainer, SimpleNamespace(step=point, id="3fa94be0c1d2"))
    trainer.steps = 100_000_000
    progress.on_stop(trainer, "done")
    written = stream.getvalue()
    assert "\x1b" not in written
    assert "\r" not in written
    assert 2 <= written.count("\n") <= 22
    assert len(written) < 4_000, "the rest of 5 kB is for notes"
    assert "done 100%" in written.splitlines()[-1]


@pytest.mark.slow
def test_a_real_command_in_a_real_pseudoterminal_of_a_cell_stays_below_5_kb(tmp_path):
    """A kernel gives its commands a terminal: isatty is true, and TERM is xterm-color."""
    mine, theirs = pty.openpty()
    environment = os.environ | {"JPY_PARENT_PID": "1", "TERM": "xterm-color"}
    words = [sys.executable, "-m", "engram", "train", "CartPole-v1", "--steps", "3000", "--run", str(tmp_path / "r")]
    process = subprocess.Popen(words, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(mine, 65_536)
        except OSError:  # Linux says so where the other side was closed
            break
        if not piece:
            break
        written += piece
    assert process.wait() == 0
    assert len(written) < 5_000
    assert b"\x1b" not in written
    assert b"step 3,000/3,000" in written


# -- in Python -----------------------------------------------------------------------------------------------


def test_a_script_whose_output_is_piped_is_left_alone_and_a_terminal_is_not(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert not watched()
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert watched()
    monkeypatch.setattr(sys, "stdout", None)
    assert not watched()


SHORT = {"steps": 200, "log_every": 50, "save_every": 100, "replay__start": 40}


def test_progress_is_shown_if_asked_for_and_the_notes_go_to_logging(capsys, caplog):
    caplog.set_level(logging.INFO, logger="engram")
    with Trainer("engram/CartPole-v1", "dqn", progress=True, **SHORT) as trainer:
        trainer.learn()
    shown = capsys.readouterr().out
    assert "step 200/200  done 100%" in shown
    assert "compiling ...\n" in shown
    assert not re.search(r"compiled in 0 s\n", shown), "nobody needs to be told of less than a second"
    assert "rows of replay" in shown
    caplog.clear()
    with Trainer("engram/CartPole-v1", "dqn", **SHORT) as trainer:
        trainer.learn()
    assert capsys.readouterr().out == ""
    said = [record.getMessage() for record in caplog.records if record.name == "engram"]
    assert any("rows of replay" in text for text in said)
    assert "done at step 200" in said
    assert all(record.levelno == logging.INFO for record in caplog.records if record.name == "engram")


def test_what_is_wrong_is_a_warning_which_a_plain_script_shows(monkeypatch, caplog):
    def no(*_):
        raise EngramError("no room to play")

    monkeypatch.setattr(Evaluating, "_made", no)
    monkeypatch.setattr(DivergenceWatch, "look", lambda *_: "learning diverges: it does")
    with Trainer("engram/CartPole-v1", "dqn", evaluate_every=200, **{**SHORT, "log_every": 200}) as trainer:
        trainer.learn()
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "the run goes on without this evaluation: no room to play", "learning diverges: it does",
    ]  # fmt: skip


@pytest.mark.parametrize("set_up", [False, True])
def test_a_warning_that_a_display_shows_is_repeated_only_by_a_logging_that_was_set_up(monkeypatch, caplog, set_up):
    monkeypatch.setattr(logging.getLogger("engram"), "hasHandlers", lambda: set_up)
    for shown, times in (([], 1), ([Progress()], set_up)):
        caplog.clear()
        Notes().on_note(SimpleNamespace(_shown=(), callbacks=shown), Warned("the disk is full"))
        assert caplog.messages == ["the disk is full"] * times


def test_compiling_is_said_once_for_each_trainer():
    told = []
    trainer = SimpleNamespace(_tell=lambda event, text: told.append(text), steps=0, plan=SimpleNamespace(steps=9))
    compiling = Compiling()
    compiling._seconds = 2.0
    for _ in range(2):
        compiling.on_start(trainer)
        for _ in range(2):
            compiling.on_metrics(trainer, {})
    assert [text.split(" in ")[0] for text in told] == ["compiling ...", "compiled"]


def test_the_learning_curve_is_drawn_from_python_also_when_the_run_is_stopped_by_an_error(tmp_path):
    class Wrong:
        def on_metrics(self, trainer, metrics):
            if metrics["step"] >= 100:
                raise RuntimeError("a bug of a callback")

    with Trainer("engram/CartPole-v1", "dqn", run=tmp_path / "whole", **SHORT) as trainer:
        trainer.learn()
    assert (tmp_path / "whole" / "learning-curve.png").read_bytes().startswith(b"\x89PNG")
    with (
        Trainer("engram/CartPole-v1", "dqn", run=tmp_path / "stopped", callbacks=[Wrong()], **SHORT) as trainer,
        pytest.raises(RuntimeError, match="a bug of a callback"),
    ):
        trainer.learn()
    assert (tmp_path / "stopped" / "learning-curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_drawn_is_a_note_and_no_failure(tmp_path, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engram.run.progress.plot_curve", full)
    caplog.set_level(logging.INFO, logger="engram")
    with Trainer("engram/CartPole-v1", "dqn", run=tmp_path, **SHORT) as trainer:
        trainer.learn()
    assert "the learning curve was not drawn: [Errno 28] No space left on device" in caplog.text


def test_a_trainer_and_an_agent_say_what_they_are(tmp_path):
    with Trainer("engram/CartPole-v1", "dqn", run=tmp_path, seed=3, **SHORT) as trainer:
        assert repr(trainer) == f"Trainer(engram/CartPole-v1, dqn, seed 3: step 0 of 200, run '{tmp_path}')"
        trainer.learn(100)
        assert "step 100 of 200" in repr(trainer)
        assert repr(trainer.trained()) == "TrainedAgent(engram/CartPole-v1, dqn, seed 3: 2 actions)"


def test_nothing_of_the_display_is_drawn_by_hand_twice():
    assert displays.is_tty(None) is False
    assert displays.is_tty(SimpleNamespace()) is False
