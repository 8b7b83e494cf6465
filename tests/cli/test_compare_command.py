"""`engram compare`: what it prints on a terminal, into a pipe and as JSON, and that it loads no JAX."""

import io
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from support.logged import group, logged

from engram.cli import compare as command
from engram.cli.commands import main
from engram.comparison import compare as library
from engram.comparison.compare import compare
from engram.comparison.report import show


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    group(Path("runs/a"), [100.0, 300.0, 200.0])
    group(Path("runs/b"), [500.0, 300.0, 250.0], preset="rainbow+memory")
    group(Path("runs/c"), [-12345.6, -11234.5], env="engram/AnEnvironment-v0", preset="rainbow+memory")
    group(Path("runs/d"), [-10345.6, -12234.5], env="engram/AnEnvironment-v0")
    logged(Path("runs/e"), [1.0], seed=9)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    capsys.readouterr()
    assert main(["compare", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_pipe_gets_plain_lines(capsys, folder):
    lines = said(capsys, "runs")
    assert lines[0] == "CartPole-v1, 1,000 steps"
    assert lines[1].split("  ")[0] == "agent"
    assert lines[2].startswith("dqn ")
    assert "200 [100, 300]" in lines[2]
    assert lines[4].startswith("P(rainbow+memory ends higher than dqn) = 0.83 [")  # 7.5 of 9 pairs
    assert lines[5].startswith("50 and 90 % of the way from 27.5, where the curves begin on average, to 350, the final")
    assert "left out: runs/e has 100 steps, others of CartPole-v1 have 1,000; train it on" in lines
    assert not any("\x1b" in line for line in lines)


def test_a_table_fits_80_columns(folder):
    found = compare("runs", normalize="minmax")
    stream = io.StringIO()
    show(found, Console(file=stream, width=80, force_terminal=True, color_system=None, highlight=False))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert not any(sign in text for sign in ("…", "\\n"))
    assert "rainbow+memory" in text  # in one piece
    assert "[-12,346, -11,234]" in text
    assert "700" in text.split("rainbow+memory")[1].splitlines()[0]
    assert "- (1/3)" in text


def test_json_is_one_object_and_nothing_else(capsys, folder):
    words = ["runs", "--json", "--seed", "3", "--normalize", "CartPole-v1=0,500"]
    words += ["--normalize", "engram/AnEnvironment-v0=-20000,0", "--reference", "CartPole-v1=400"]
    (line,) = said(capsys, *words)
    found = json.loads(line)
    scales = {"CartPole-v1": (0, 500), "engram/AnEnvironment-v0": (-20000, 0)}
    assert found == compare("runs", normalize=scales, reference={"CartPole-v1": 400}, seed=3).json()
    assert found["levels"]["CartPole-v1"]["reference"] == 400


def test_files_are_written_and_told(capsys, folder):
    lines = said(capsys, "runs/a", "runs/b", "--plot", "p.png", "--html", "p.html", "--reference", "400")
    assert lines[-2:] == ["p.png holds the picture", "p.html holds the page"]
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")
    assert "to 400, as given" in Path("p.html").read_text()


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        ([], "no run was given; give run directories", 2),
        (["gone"], "there is no run directory 'gone'", 66),
        (["runs", "--normalize", "low,high"], "--normalize 'low,high' is not LOW,HIGH; write minmax", 2),
        (["runs", "--normalize", "0,1", "--normalize", "minmax"], "--normalize 'minmax' is not LOW,HIGH", 2),
        (["runs", "--normalize", "0,1", "--normalize", "CartPole-v1=0,1"], "once without an environment", 2),
        (["runs", "--normalize", "Pong=0,1"], "normalize is given for 'Pong', and no run is of it", 2),
        (["runs", "--reference", "much"], "--reference 'much' is no number; write for example", 2),
        (["runs/e"], "nothing is left to compare: dqn on CartPole-v1 has 1 seed", 2),
        (["runs", "discount=0.9"], "engram compare takes no settings", 2),
        (["runs", "--plott", "x"], "did you mean '--plot'?", 2),
        (["runs", "--html", "gone/x"], "gone/x", 74),
    ],
)
def test_a_wrong_request_is_one_sentence(capsys, folder, words, said, code):
    assert main(["compare", *words]) == code
    told = capsys.readouterr()
    assert said in told.err
    assert told.err.startswith("engram: ")
    assert told.err.count("\n") == 1


def test_a_name_that_steers_a_terminal_is_written_as_an_escape(capsys, tmp_path):
    group(tmp_path / "a", [1.0, 2.0], preset="\x1b[31mred", env="x\u202ey")
    assert not any(sign in line for line in said(capsys, str(tmp_path)) for sign in ("\x1b", "\u202e"))


def test_ten_runs_are_compared_without_jax_within_a_second(folder):
    runs = [logged(folder / f"ten/{place}", [[float(step), 1.0] for step in range(300)], seed=2 * place, seeds=2,
                   preset=f"p{place % 2}") for place in range(10)]  # fmt: skip
    code = f"import sys; from engram.cli.commands import main; main(['compare', {str(runs[0].parent)!r}])"
    code += "; sys.exit('jax' in sys.modules or 'matplotlib' in sys.modules)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert {"p0", "p1"} <= set(done.stdout.split())
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0  # 0.7 s on an idle core


def test_the_word_of_the_command_is_that_of_the_library():
    assert command.MINMAX == library.MINMAX
