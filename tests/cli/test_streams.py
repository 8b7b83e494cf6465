"""Standard streams that are closed, a missing home, and a disk without room are no tracebacks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engram.cli import commands
from engram.errors import EXIT_DATA, EXIT_INPUT_OUTPUT
from engram.run import machine

ENGRAM = [sys.executable, "-m", "engram"]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("words", "code"), [("--version", 0), ("list presets", 0), ("info nowhere --json", 66)])
def test_closed_streams_are_no_error(tmp_path: Path, closed: str, words: str, code: int):
    line = f"{' '.join(ENGRAM)} {words} {closed}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_a_file_that_is_opened_later_does_not_become_standard_output(tmp_path: Path):
    """A C library that prints would write into it."""
    code = "import sys; from engram.cli.commands import main; main(['--version']); print(open('f', 'w').fileno())"
    line = f'{sys.executable} -c "{code}; print(sys.stdout.fileno(), file=open(str(1), chr(119)))" >&-'
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True)
    assert (tmp_path / "f").read_text() == ""
    assert int((tmp_path / "1").read_text()) == 1


def test_a_reader_of_errors_that_went_away_is_no_error(tmp_path: Path):
    line = f"{' '.join(ENGRAM)} info nowhere 2> >(exec 0<&-; sleep 0.1); echo $?"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() in ("66", "141")
    assert "Traceback" not in done.stderr


def raising(error: BaseException):
    def work(_: object) -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (SystemExit(0), EXIT_DATA, "SystemExit: 0 was raised by code that is not Engram's"),
        (GeneratorExit(), EXIT_DATA, "GeneratorExit was raised by code that is not Engram's"),
        (OSError(28, "No space left on device"), EXIT_INPUT_OUTPUT, "a file could not be written: No space left"),
        (OSError(28, "No space", "x"), EXIT_INPUT_OUTPUT, "x could not be written: No space; make room there"),
        (OSError(30, "Read-only file system", "runs"), EXIT_INPUT_OUTPUT, "runs could not be written: .*--run DIR"),
    ],
)
def test_what_ends_a_command_is_a_sentence_with_an_exit_code(monkeypatch, capsys, error, code: int, said: str):
    monkeypatch.setattr(commands, "_run", raising(error))
    assert commands.main(["info", "x"]) == code
    import re

    assert re.search(said, capsys.readouterr().err)


def test_without_a_home_compiled_programs_are_not_kept_and_that_is_said(monkeypatch, tmp_path: Path):
    jax = pytest.importorskip("jax")
    for name in ("HOME", "XDG_CACHE_HOME", "ENGRAM_CACHE"):
        monkeypatch.delenv(name, raising=False)

    def nobody(*_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    assert machine.cache_folder() is None
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        said = machine.use_cache()
        assert said is not None
        assert "there is no home; set ENGRAM_CACHE" in said
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        said = machine.use_cache()
        assert said is not None
        assert "cannot be written to; set ENGRAM_CACHE" in said
        assert jax.config.values["jax_compilation_cache_dir"] is None
        monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path / "mine"))
        assert machine.use_cache() is None
        assert (tmp_path / "mine" / "xla").stat().st_mode & 0o077 == 0
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_the_fork_of_a_notebooks_command_is_not_warned_of_and_any_other_is():
    """IPython's `!command` forks in the module `pty`, and becomes the command at once."""
    import warnings

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        machine._quieten()
        for module in ("pty", "multiprocessing.popen_fork"):
            text = "os.fork() was called. os.fork() is incompatible with multithreaded code"
            warnings.warn_explicit(text, RuntimeWarning, f"{module}.py", 1, module)
    assert [one.filename for one in heard] == ["multiprocessing.popen_fork.py"]


def test_hardware_that_is_not_used_is_not_warned_of(capsys):
    import logging

    machine._quieten()
    logger = logging.getLogger("jax._src.xla_bridge")
    heard: list[str] = []

    class Hears(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    handler = Hears()
    logger.addHandler(handler)
    try:
        logger.warning(
            "An NVIDIA GPU may be present on this machine, but a CUDA-enabled jaxlib is not installed. "
            "Falling back to cpu."
        )
        logger.warning("something else")
    finally:
        logger.removeHandler(handler)
    assert heard == ["something else"]


def test_a_cache_without_a_home_starts_a_run_in_a_process_of_its_own(tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    code = "from engram.run.machine import use_cache; print(use_cache())"
    environment |= {"HOME": str(tmp_path / "file")}
    (tmp_path / "file").touch()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "cannot be written to" in done.stdout
    assert done.stderr == ""
