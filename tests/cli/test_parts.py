"""Parts of a user's own: `--import MODULE`, entry points, and a run whose parts are not known."""

import sys
from copy import deepcopy
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import engram
import engram.agents.presets  # registers Engram's own parts, before a test puts a copy of the registry in place
from engram import registry
from engram.cli.commands import main
from engram.errors import CheckpointError

PART = """
from engram.encoders.vector import VectorEncoder, VectorSpec
from engram.nn.layers import MLP
from engram import register, setting, spec, spaces

@register("encoder", "{name}")
@spec
class MySpec:
    size: int = setting(8, "units", low=1)

    def build(self, space, stack, key):
        return VectorEncoder(MLP(stack * spaces.features(space), (self.size,), key=key), space)
"""
SMALL = ["engram/CartPole-v1", "--steps", "300", "replay.start=100", "replay.capacity=200", "--preset", "dqn"]


NAMES = ("mine", "theirs", "broken")  # of modules that are written here


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty folder, and a registry and a path that are as before afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_SHELVES", deepcopy(registry._SHELVES))
    monkeypatch.setattr(registry, "_IMPORTED", set())
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in NAMES:  # another file of tests may have a package of that name
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in NAMES:
        sys.modules.pop(name, None)


def listed(capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The names that were just listed."""
    return {line.split()[0] for line in capsys.readouterr().out.splitlines()}


def forget_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not imported the module."""
    registry._SHELVES["encoder"].pop("my-encoder")
    sys.modules.pop("mine")


def test_a_part_of_a_module_in_this_folder_is_trained_evaluated_and_resumed(monkeypatch, capsys):
    Path("mine.py").write_text(PART.format(name="my-encoder"))
    words = ["train", *SMALL, "--run", "r", "encoder=my-encoder", "encoder.size=4"]
    assert main(words) == 2
    assert "no encoder is called 'my-encoder'" in (said := capsys.readouterr().err)
    assert said.endswith("(a part of your own: --import MODULE)\n")
    assert not Path("r").exists()
    capsys.readouterr()
    assert main([*words, "--import", "mine"]) == 0
    assert capsys.readouterr().out.endswith("; next: engram evaluate r --import mine\n"), "what it advises works"
    forget_mine(monkeypatch)
    sentence = (
        "r/run.json needs encoder=my-encoder, which is not known here; add --import MODULE with the module that "
        "registers it (in Python: import that module first)"
    )
    resume = ["train", "--run", "r", "--resume", "--steps", "400"]
    assert main(["info", "r"]) == 0, "what came of a run is told without its parts"
    for words in (["evaluate", "r", "--episodes", "1"], ["info", "r", "--all"], resume):
        capsys.readouterr()
        assert main(words) == CheckpointError.exit_code
        assert capsys.readouterr().err == f"engram: {sentence}\n"
        assert "mine" not in sys.modules, "a run makes nothing be imported"
    assert "mine" not in Path("r/run.json").read_text().replace("my-encoder", "")
    for words in (["evaluate", "r", "--episodes", "1"], ["info", "r"], resume):
        assert main([*words, "--import", "mine"]) == 0
    assert main(["list", "parts", "--import=mine"]) == 0
    assert "encoder=my-encoder" in listed(capsys)
    assert main(["show", "dqn", "encoder=my-encoder", "--import", "mine"]) == 0
    assert "encoder.size=8 " in capsys.readouterr().out


def test_in_python_importing_the_module_is_enough():
    Path("mine.py").write_text(PART.format(name="my-encoder"))
    sys.path.insert(0, str(Path.cwd()))
    __import__("mine")
    with engram.Trainer("engram/CartPole-v1", "dqn", run="r", encoder="my-encoder", replay__start=100) as trainer:
        assert trainer.runner.steps == 0
    assert engram.info("r")["agent"]["encoder"] == {"kind": "my-encoder", "size": 8}


@pytest.mark.parametrize(
    ("module", "source", "code", "sentence"),
    [
        ("nowhere", "", 2, "--import nowhere: there is no module of that name in this folder or in Python's path; name "
         "one, as mine for mine.py"),
        ("mine.py", "", 2, "--import mine.py: there is no module of that name in this folder or in Python's path; "
         "write --import mine"),
        ("broken", "1 / 0", 2, "--import broken failed (ZeroDivisionError: division by zero); mend the module "
         "(--traceback shows where)"),
        ("broken", "import nowhere", 2, "--import broken failed (ModuleNotFoundError: No module named 'nowhere'); mend "
         "the module (--traceback shows where)"),
        ("broken", PART.format(name="vector"), 2, "--import broken failed (ValueError: encoder 'vector' is already "
         "engram.encoders.vector.VectorSpec; register MySpec under another name); mend the module (--traceback shows "
         "where)"),
    ],
)  # fmt: skip
def test_a_module_that_cannot_be_imported_is_one_sentence(capsys, module: str, source: str, code: int, sentence: str):
    Path("broken.py").write_text(source)
    Path("mine.py").touch()
    assert main(["train", *SMALL, "--import", module]) == code
    assert capsys.readouterr().err == f"engram: {sentence}\n"
    assert not Path("runs").exists()


def test_a_file_of_the_folder_does_not_stand_in_for_a_module_of_pythons(capsys):
    Path("json.py").write_text("raise SystemExit('the wrong one')")
    Path("mine.py").write_text("import json; json.dumps(3)")
    assert main(["list", "presets", "--import", "mine"]) == 0


def offer(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """As if installed packages named these modules."""
    points = [EntryPoint(module, module, "engram.parts") for module in modules]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [one for one in points if one.group == group])
    sys.path.insert(0, str(Path.cwd()))


def test_an_entry_point_is_imported_when_a_name_is_not_found(monkeypatch, capsys):
    Path("theirs.py").write_text(PART.format(name="their-encoder"))
    offer(monkeypatch, "theirs")
    assert registry.find("encoder", "vector").__name__ == "VectorSpec"
    assert "theirs" not in sys.modules
    assert main(["train", *SMALL, "--run", "r", "encoder=their-encoder"]) == 0
    registry._SHELVES["encoder"].pop("their-encoder")
    sys.modules.pop("theirs")
    registry._IMPORTED.clear()
    assert main(["evaluate", "r", "--episodes", "1"]) == 0, "an installed package was chosen by the user"


def test_an_entry_point_is_imported_when_parts_are_listed(monkeypatch, capsys):
    Path("theirs.py").write_text(PART.format(name="their-encoder"))
    offer(monkeypatch, "theirs")
    assert main(["list", "parts"]) == 0
    assert "encoder=their-encoder" in listed(capsys)


def test_an_entry_point_that_fails_is_a_warning_and_is_tried_once(monkeypatch, capsys):
    Path("theirs.py").write_text(PART.format(name="their-encoder"))
    Path("broken.py").write_text("1 / 0")
    offer(monkeypatch, "broken", "theirs")
    with pytest.warns(RuntimeWarning, match=r"entry point broken = broken of engram.parts could not be imported"):
        assert "their-encoder" in registry.names("encoder")
    assert main(["list", "parts"]) == 0
    assert {"encoder=their-encoder", "encoder=vector"} <= listed(capsys)
