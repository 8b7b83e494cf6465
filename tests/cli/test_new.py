"""`engram new`: files that work as they are, keep their contract, and train."""

import importlib
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import engram.agents.presets  # noqa: F401, registers all parts before a test puts a copy of the registry in place
from engram import info, registry
from engram.cli.commands import main
from engram.cli.new import TEMPLATES, TRY

SMALL = ["engram/CartPole-v1", "--steps", "300"]
REPLAY = ["replay.capacity=300", "replay.start=100"]
SETTINGS = {
    "working": [*REPLAY, "--preset", "drqn", "replay.window=8", "replay.batch_size=4"],
    "agent": ["--preset", "pqn", "encoder.widths=8"],
}


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty folder, and a registry and a path that are as before afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_SHELVES", deepcopy(registry._SHELVES))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    yield
    for name in [name for name in sys.modules if name.removeprefix("test_").startswith("my_")]:
        del sys.modules[name]


@pytest.mark.parametrize("role", TRY)
def test_what_is_written_keeps_its_contract_and_trains(role: str, capsys):
    name = f"my_{role}"
    assert main(["new", role, name]) == 0
    assert capsys.readouterr().out == (
        f"{name}.py is a part that works; change it. Check it with: pytest test_{name}.py\n"
        f"Train with it: engram train {TRY[role].format(name=name)}\n"
    )
    importlib.import_module(f"test_{name}").test_it_keeps_the_contract()
    del sys.modules[name]
    registry._SHELVES[role].pop(name)
    words = ["train", *SMALL, "--run", "r", "--import", name, f"{role}={name}", *SETTINGS.get(role, REPLAY)]
    assert main(words) == 0
    assert main(["evaluate", "r", "--episodes", "1", "--import", name]) == 0


def test_an_agent_of_ones_own_is_resumed_listed_and_shown_from_the_command_line(capsys):
    assert main(["new", "agent", "my_agent"]) == 0
    known = ["--import", "my_agent"]
    words = ["train", *SMALL, "--run", "r", *known, "agent=my_agent", *SETTINGS["agent"], "weight=0.5"]
    assert main(words) == 0
    assert main(["train", "--run", "r", "--resume", "--steps", "640", *known]) == 0
    facts = info("r")
    assert (facts["step"], facts["agent"]["kind"], facts["agent"]["weight"]) == (640, "my_agent", 0.5), (
        "two whole rollouts of 5 steps in 64"
    )
    capsys.readouterr()
    assert main(["list", "parts", *known]) == 0
    assert "agent=my_agent" in capsys.readouterr().out.split()
    assert main(["show", "pqn", "agent=my_agent", *known]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert any(line.startswith("agent=my_agent ") for line in shown)
    assert any(line.startswith("weight=1.0 ") for line in shown)
    assert main(["train", *SMALL, "agent=my_agent", *SETTINGS["agent"], *known, "head=actor-critic"]) == 2
    assert "agent=my_agent learns Q, but head=actor-critic has a policy; set head=q" in capsys.readouterr().err


def test_every_role_has_its_two_templates_and_no_template_is_without_a_role():
    assert {path.name for path in TEMPLATES.iterdir()} == {
        f"{role}{kind}.py.txt" for role in TRY for kind in ("", "_test")
    }
    assert set(TRY) <= set(registry.roles())


@pytest.mark.parametrize("role", TRY)
def test_the_files_are_python_in_lines_of_120(role: str):
    assert main(["new", role, "mine_too"]) == 0
    for path in (Path("mine_too.py"), Path("test_mine_too.py")):
        text = path.read_text()
        compile(text, path, "exec")
        assert max(map(len, text.splitlines())) <= 120
        assert "$" not in text
        assert f"{'MineToo'}Spec" in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("encoder mine_too", "mine_too.py is there already; choose another name, or move the file away"),
        ("encoder mine_three", "test_mine_three.py is there already; choose another name, or move the file away"),
        ("encodr x", "engram new makes no 'encodr'; did you mean 'encoder'?"),
        ("head Mine", "'Mine' was given; expected a name of small letters, digits and _, such as my_head"),
        ("head ../x", "'../x' was given; expected a name of small letters, digits and _, such as my_head"),
        ("head class", "'class' was given; expected a name of small letters, digits and _, such as my_head"),
        ("working json", "'json' is a module of Python or of an installed package; choose a name such as my_working"),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_is_overwritten(words: str, sentence: str, capsys):
    kept = [Path("mine_too.py"), Path("test_mine_three.py")]
    for path in kept:
        path.write_text("kept")
    assert main(["new", *words.split()]) == 2
    assert capsys.readouterr().err == f"engram: {sentence}\n"
    assert sorted(Path().iterdir()) == sorted(kept)
    assert {path.read_text() for path in kept} == {"kept"}
