"""The run log against a plain list of rows, and the display in every kind of output."""

import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram.errors import CheckpointError, EngramError, WriteFailed
from engram.run.curve import plot_curve
from engram.run.display import Display, clean, wrapped
from engram.run.machine import amount, told_of_compiling
from engram.run.metrics import METRICS_FILE, RunLog, plain, read_metrics


def row(step: int, **more):
    return {"step": step, "return_mean": step / 10, "loss": 0.5, "steps_per_second": 1000.0} | more


def write(folder: Path, steps, resume_step=None, **more):
    with RunLog(folder, resume_step, **more) as log:
        for step in steps:
            log.write(row(step))


def steps_in(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / METRICS_FILE).read_text().splitlines()]


# -- the record --------------------------------------------------------------------------------------------


def test_a_line_is_on_the_disk_as_soon_as_it_is_written(tmp_path):
    log = RunLog(tmp_path, None)
    log.write(row(10))
    assert read_metrics(tmp_path) == [row(10)]
    log.close()


def test_numbers_that_json_lacks_become_null_and_arrays_become_lists(tmp_path):
    with RunLog(tmp_path, None) as log:
        log.write(
            {"step": np.int64(3), "loss": math.nan, "a": jnp.array([1.5, jnp.inf]), "b": np.float32(2), "c": True}
        )
    text = (tmp_path / METRICS_FILE).read_text()
    strict = json.loads(text, parse_constant=lambda word: pytest.fail(word))
    assert strict == {"step": 3, "loss": None, "a": [1.5, None], "b": 2.0, "c": True}


def test_a_step_is_logged_once_and_its_first_record_stands(tmp_path):
    with RunLog(tmp_path, None) as log:
        for loss in (1.0, 2.0):
            log.write(row(5, loss=loss))
        log.write(row(4))
    assert read_metrics(tmp_path) == [row(5, loss=1.0)]
    assert steps_in(tmp_path) == [5]


def test_a_fresh_log_drops_what_an_earlier_process_left(tmp_path):
    write(tmp_path, [1, 2])
    write(tmp_path, [7], resume_step=None)
    assert steps_in(tmp_path) == [7]


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 900), resume=st.integers(0, 120), extra=st.integers(0, 5))
def test_after_any_kill_and_resume_each_step_is_there_once_in_order(tmp_path_factory, cut, resume, extra):
    """Cut the file at any byte, resume at any step: what was whole and not later stays, the rest comes anew."""
    folder = tmp_path_factory.mktemp("run")
    old = list(range(10, 110, 10))
    write(folder, old)
    path = folder / METRICS_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    lines = whole.split(b"\n")
    ends = [sum(map(len, lines[: i + 1])) + i for i in range(len(old))]  # where each record is whole, newline or not
    survivors = [step for step, end in zip(old, ends, strict=True) if end <= cut and step <= resume]
    new = [resume + 7 * i for i in range(1, extra + 1)]
    write(folder, new, resume_step=resume)
    assert steps_in(folder) == survivors + new
    assert path.read_bytes().endswith(b"\n") or not survivors + new


def test_lines_that_are_no_records_do_not_survive_a_resume(tmp_path):
    (tmp_path / METRICS_FILE).write_bytes(
        b'{"step": 1}\nnot json\n[2]\n{"loss": 3}\n\xff\n{"step": 4, "loss": NaN}\n{"step": 4}\n'
    )
    write(tmp_path, [9], resume_step=5)
    assert [json.loads(line) for line in (tmp_path / METRICS_FILE).open()] == [
        {"step": 1},
        {"step": 4, "loss": None},
        row(9),
    ]


def test_reading_forgives_the_line_that_is_being_written(tmp_path):
    write(tmp_path, [1, 2])
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 3, "los')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


def test_reading_a_directory_that_is_none_says_so(tmp_path):
    assert read_metrics(tmp_path) == []
    with pytest.raises(CheckpointError, match="is not a run directory; give the directory"):
        read_metrics(tmp_path / "absent")


def no_room(*_: object) -> int:
    raise OSError(28, "No space left on device")


def test_a_failed_rewrite_leaves_the_old_lines_and_no_rubbish(tmp_path, monkeypatch):
    write(tmp_path, [1, 2, 3])
    old = '{"step": 0}\nrubbish\n' + (tmp_path / METRICS_FILE).read_text()
    (tmp_path / METRICS_FILE).write_text(old)
    monkeypatch.setattr(os, "replace", no_room)
    with pytest.raises(WriteFailed, match=f"{tmp_path / METRICS_FILE} could not be written: No space .*; make room"):
        RunLog(tmp_path, 1)
    assert (tmp_path / METRICS_FILE).read_text() == old
    assert [path.name for path in tmp_path.iterdir()] == [METRICS_FILE]


def test_the_end_of_a_log_is_cut_off_where_the_disk_is_full(tmp_path, monkeypatch):
    """A run that is resumed drops the lines that it will write again, which needs no room."""
    write(tmp_path, [1, 2, 3])
    monkeypatch.setattr(os, "replace", no_room)
    RunLog(tmp_path, 1).close()
    assert steps_in(tmp_path) == [1]


@pytest.mark.parametrize("written", [0, 10], ids=["nothing", "half a line"])
def test_lines_that_a_full_disk_refuses_are_written_when_there_is_room(tmp_path, monkeypatch, written):
    told, real = [], os.write
    log = RunLog(tmp_path, None, tell=told.append)
    log.write(row(1))

    def full(handle, data):
        if written and len(data) > written:
            return real(handle, data[:written])
        raise OSError(28, "No space left on device")

    # The next piece of half a line does not fit either.
    calls = iter(range(100))
    monkeypatch.setattr(os, "write", lambda *given: full(*given) if next(calls) % 2 == 0 else no_room())
    log.write(row(2))
    log.write(row(3))
    assert steps_in(tmp_path) == [1]
    monkeypatch.undo()
    log.write(row(4))
    assert steps_in(tmp_path) == [1, 2, 3, 4]
    log.close()
    file = tmp_path / METRICS_FILE
    assert len(told) == 2  # once that there is no room, once that there is
    assert told[0].startswith(f"{file} could not be written: No space left on device; make room there (training goes")
    assert told[1] == f"{file} is written again"


def test_lines_that_found_no_room_until_the_end_are_counted(tmp_path, monkeypatch):
    told = []
    log = RunLog(tmp_path, None, tell=told.append)
    monkeypatch.setattr(os, "write", no_room)
    log.write(row(1))
    log.write(row(2))
    log.close()
    assert told[1:] == [f"{tmp_path / METRICS_FILE} is closed, without 2 of its entries: the disk had no room for them"]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_log_that_is_no_plain_file_is_neither_followed_nor_waited_for(tmp_path, kind):
    """A stranger's run could else have lines written into a file of the user's."""
    mine, file = tmp_path / "mine", tmp_path / "run" / METRICS_FILE
    file.parent.mkdir()
    {"link": lambda: file.symlink_to(mine), "pipe": lambda: os.mkfifo(file), "folder": file.mkdir}[kind]()
    with pytest.raises(WriteFailed, match="could not be written"):
        RunLog(file.parent, 1)
    assert not mine.exists()
    if kind != "pipe":
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_metrics(file.parent)


def test_events_survive_a_full_disk_and_are_whole_afterwards(tmp_path, monkeypatch):
    """Half a record would hide every later one; a writing thread that died would stop the run for ever."""
    pytest.importorskip("tensorboard")
    told = []
    with RunLog(tmp_path, None, track=True, tell=told.append) as log:
        log.write(row(10))
        monkeypatch.setattr(os, "write", no_room)
        for step in range(20, 400, 10):
            log.write(row(step))
        monkeypatch.undo()
        log.write(row(400))
    assert [step for step, _ in events(tmp_path)["loss"]] == list(range(10, 401, 10))
    assert {text.partition(" ")[0].rpartition("/")[2].partition(".")[0] for text in told} == {"metrics", "events"}


# -- TensorBoard -------------------------------------------------------------------------------------------


def test_tracking_without_tensorboardx_names_the_way_out_and_keeps_the_log(tmp_path, monkeypatch):
    write(tmp_path, [1])
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(EngramError, match=r"uv sync --extra track"):
        RunLog(tmp_path, None, track=True)
    assert steps_in(tmp_path) == [1]


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_events_have_the_tags_and_values_of_the_log_across_a_resume(tmp_path):
    pytest.importorskip("tensorboard")
    write(tmp_path, [10, 20, 30], track=True)
    write(tmp_path, [25, 35], resume_step=20, track=True)
    assert events(tmp_path)["return_mean"] == [(s, pytest.approx(s / 10)) for s in (10, 20, 25, 35)]
    assert set(events(tmp_path)) == {"return_mean", "loss", "steps_per_second"}


def test_tracking_turned_on_late_begins_with_what_is_logged(tmp_path):
    pytest.importorskip("tensorboard")
    write(tmp_path, [10, 20])
    with RunLog(tmp_path, 20, track=True) as log:
        log.write(row(30, return_mean=[1.0, None, 3.0]))
    assert [step for step, _ in events(tmp_path)["loss"]] == [10, 20, 30]
    assert events(tmp_path)["return_mean/2"] == [(30, 3.0)]
    assert "return_mean/1" not in events(tmp_path)


# -- the picture -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows", [[], [row(5)], [row(5, loss=None), row(9, return_mean=[1.0, None, 2.0], loss=[1, 2, 3])]]
)
def test_a_curve_is_drawn_for_any_number_of_points(tmp_path, rows):
    with RunLog(tmp_path, None) as log:
        for item in rows:
            log.write(item)
    path = plot_curve(tmp_path, title="engram/$x^$-v0, [dqn]")
    assert path == tmp_path / "learning-curve.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["learning-curve.png", METRICS_FILE]


# -- the display -------------------------------------------------------------------------------------------


METRICS = {
    "step": 12_000, "total": 50_000, "episodes": 87, "return_mean": 123.4, "loss": math.nan,
    "q_mean": 12.5, "epsilon": 0.05, "steps_per_second": 1000.0, "seconds": 12.0,
}  # fmt: skip


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_output_is_the_first_line_the_last_and_few_between():
    stream, clock = io.StringIO(), Clock()
    with Display(None, stream, interval=5.0, clock=clock) as display:
        for step in range(21):
            clock.now = float(step)
            display.update({"step": step, "total": 20})
    shown = [line.split("  ")[:2] for line in stream.getvalue().splitlines()]
    assert shown == [[f"step {step}/20", f"done {step / 20:.0%}"] for step in (0, 5, 10, 15, 20)]


def test_the_last_update_is_shown_even_when_it_came_too_soon():
    stream = io.StringIO()
    with Display(9, stream, clock=Clock()) as display:
        display.update({"step": 1})
        display.update({"step": 9})
    assert stream.getvalue().count("\n") == 2
    assert "step 9/9  done 100%" in stream.getvalue()


def test_a_plain_line_tells_all_that_is_known():
    stream = io.StringIO()
    Display(None, stream, clock=Clock()).update(METRICS)
    assert stream.getvalue() == (
        "step 12,000/50,000  done 24%  return 123.4  episodes 87  loss -  Q 12.5  epsilon 0.050  steps/s 1,000  "
        "elapsed 0:12  left 0:38\n"
    )


def test_a_metric_per_seed_is_shown_as_its_mean():
    stream = io.StringIO()
    Display(None, stream).update({"step": 1, "return_mean": [1.0, None, 2.0]})
    assert "return 1.5 " in stream.getvalue()


NASTY = "a\x1b[31m\x9b2J\r\nb\u202ec\x00[bold]d[/bold]"


def test_no_character_that_steers_a_terminal_is_ever_written():
    stream = io.StringIO()
    Display(None, stream).note(NASTY)
    assert stream.getvalue() == "a\\x1b[31m\\x9b2J\\r\\nb\\u202ec\\x00[bold]d[/bold]\n"


def panel(display: Display) -> dict[str, str]:
    return dict(display.panel())


def test_the_panel_says_what_is_awaited_instead_of_a_dash():
    clock = Clock()
    display = Display(None, io.StringIO(), clock=clock)
    display.begin({"step": 0, "total": 50_000, "episodes": 0, "epsilon": 1.0})
    clock.now = 12.0
    waiting = panel(display)
    assert (waiting["step"], waiting["done"], waiting["epsilon"]) == ("0/50,000", "0%", "1.000")
    assert waiting["return"] == "no episode ended yet"
    assert waiting["loss"] == waiting["Q"] == "nothing learned yet"
    assert waiting["left"] == waiting["steps/s"] == "compiling ... 0:12"
    display.update(METRICS)
    assert "compiling" not in str(display.panel())


def test_the_time_left_leaves_out_what_compiling_took():
    clock = Clock()
    display = Display(None, io.StringIO(), clock=clock)
    display.begin({"step": 0, "total": 10_000})
    clock.now = 31.0
    display.compiled(30.0)
    display.update({"step": 1_000, "seconds": 31.0, "steps_per_second": 1_000 / 31})
    assert (panel(display)["steps/s"], panel(display)["left"]) == ("1,000", "0:09")
    clock.now = 33.0  # half as fast from here on: the pace moves towards it
    display.update({"step": 2_000, "seconds": 33.0, "steps_per_second": 500.0})
    assert (panel(display)["steps/s"], panel(display)["left"]) == ("750", "0:10")


def test_a_stopped_run_shows_the_step_it_stopped_at_and_its_checkpoint():
    stream = io.StringIO()
    with Display(None, stream, clock=Clock()) as display:
        display.begin({"step": 0, "total": 50_000})
        display.update(METRICS)
        display.saved(13_952)
        display.end(13_952)
        assert (panel(display)["step"], panel(display)["saved"]) == ("13,952/50,000", "step 13,952")
        assert panel(display)["left"] == "stopped"
        display.total = 13_900  # a run on the device ends with a whole rollout, beyond what was asked for
        assert panel(display)["left"] == "0:00"
    assert stream.getvalue().splitlines()[-1].startswith("step 13,952/13,900  done 100%")


@pytest.mark.parametrize("columns", [24, 60, 80])
def test_notes_fit_the_terminal_and_no_word_is_cut(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    text = "dtqn: encoder vector for numbers (Box(shape=(4,), dtype='float32')); working memory history of 50 steps"
    Display(None, stream).note(text)
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    assert " ".join(lines).split() == text.split()


def test_a_command_that_ends_a_sentence_is_one_line_however_long(monkeypatch):
    """Copied out of a terminal, a command in two lines would be two commands."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    command = "engram train --run runs/CartPole-v1-auto-seed0-2 --resume"
    told = f"stopped at step 900 after saving; go on with: {command}"
    stream = Terminal()
    Display(None, stream).note(told)
    assert stream.getvalue().splitlines() == ["stopped at step 900 after saving; go on", "  with:", f"  {command}"]
    with Display(None, stream) as display:
        display.note(told)
    assert stream.getvalue().replace("\r", "").count(f"\n  {command}\n") == 2


@pytest.mark.parametrize(
    "text",
    [
        "engram: engram train needs an environment, such as CartPole-v1; `engram list envs` shows the names",
        "begin anew from what this one learned: engram train ENV --from r (start_from), and the setting",
    ],
)
def test_a_sentence_that_goes_on_after_a_command_is_cut_like_any_other(text):
    lines = wrapped(text, 40)
    assert max(map(len, lines)) <= 40
    assert " ".join(lines).split() == text.split()
    assert len(lines[0]) > 20


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_echo_of_ctrl_c_has_room_beside_the_panel(monkeypatch, columns):
    """A terminal writes ^C where the cursor is, after the panel: a line more would leave a piece of it behind."""
    for name, value in {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "40", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    with Display(50_000, stream, title="x") as display:
        display.update(METRICS)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).replace("\r", "\n").splitlines()
    borders = [line for line in lines if line.startswith(("╭", "╰"))]
    assert borders
    assert {len(line) for line in borders} == {columns - 2}


def test_small_memory_is_told_in_small_units():
    assert [amount(size) for size in (1_300, 1_300_000, 50_000_000, 2_400_000_000)] == [
        "1.3 kB", "1.3 MB", "50.0 MB", "2.40 GB",
    ]  # fmt: skip


def test_seconds_of_compiling_are_told_until_that_is_ended():
    told: list[float] = []
    end = told_of_compiling(told.append)
    jax.jit(lambda x: x * 3 + 1)(2.0)
    assert told
    assert min(told) >= 0
    end()
    count = len(told)
    jax.jit(lambda x: x * 5 - 1)(2.0)
    assert len(told) == count


@given(st.text())
def test_clean_text_is_printable_and_keeps_what_was(text):
    assert all(character.isprintable() or character.isspace() or ord(character) > 0x7F for character in clean(text))
    assert not {"\x1b", "\n", "\r"} & set(clean(text))
    assert clean(clean(text)) == clean(text)


def test_a_stream_that_cannot_write_the_text_gets_it_escaped():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Display(None, stream).note("Bär")
    assert raw.getvalue() == b"B\\xe4r\n"


def test_a_reader_that_went_away_does_not_stop_the_run():
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    with Display(None, Broken()) as display:
        display.update({"step": 1})
        display.note("still here")
    closed = io.StringIO()
    closed.close()
    with Display(None, closed) as display:
        display.note("still here")


@pytest.mark.parametrize("columns", ["24", "60", "120"])
def test_the_panel_fits_any_terminal_and_escapes_what_it_shows(monkeypatch, columns):
    for name, value in {"TERM": "xterm", "COLUMNS": columns, "LINES": "40", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    with Display(50_000, stream, title=NASTY) as display:
        display.update(METRICS)
        display.note("[red]saved[/red] \x1b]0;title\x07")
    text = stream.getvalue()
    assert all(shown in text for shown in ("return", "123.4", "24%"))
    assert "[red]saved[/red]" in text.replace("\n", "")
    assert not any(steering in text for steering in ("\x9b", "\x1b]0", "\x1b[31m"))
    assert not [line for line in text.split("\n") if len(line.encode()) > 1000]


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Display(1, stream) as display:
        display.update({"step": 1})
    assert stream.getvalue().startswith("step 1/1")
    assert "\x1b" not in stream.getvalue()


def test_the_log_and_the_display_do_not_load_jax_or_matplotlib():
    code = "import sys, engram.run.metrics, engram.run.display; print({'jax', 'matplotlib', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_plain_leaves_json_values_as_they_are():
    value = {"a": [1, "x", None, True, 2.5], "b": {"c": []}}
    assert plain(value) == value
