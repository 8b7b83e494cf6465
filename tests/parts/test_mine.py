"""Parts in files of a user's own, outside the package: checked, trained, evaluated, resumed and listed by name."""

import importlib
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import engram
import engram.agents.presets  # registers Engram's own parts, before a test puts a copy of the registry in place
from engram import registry, spaces, testing
from engram.cli.commands import main

MINE = Path(__file__).parent / "mine"
MODULES = {path.stem: f"mine.{path.stem}" for path in sorted(MINE.glob("*.py"))}
KEY = jax.random.PRNGKey(0)
SMALL = ["engram/CartPole-v1", "--steps", "300", "replay.capacity=300", "replay.start=100", "replay.batch_size=4"]
# Settings beside the part itself, and what it is trained with where it cannot be alone.
BESIDE = {
    "working": ["--preset", "drqn", "replay.window=6", "encoder.widths=8"],
    "bootstrap": ["external=episodic", "external.capacity=100", "encoder.widths=8"],
    "encoder": [],
}


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty folder, and a registry and a path that are as before afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_SHELVES", deepcopy(registry._SHELVES))
    monkeypatch.setattr(sys, "path", [str(MINE.parent), *sys.path])
    yield
    forget()


def forget() -> None:
    """As in a process that has not imported the modules."""
    for module in (*MODULES.values(), "mine"):
        sys.modules.pop(module, None)
    for role in MODULES:
        registry._SHELVES[role].pop(f"mine-{role}", None)


def made(role: str) -> Any:
    """The spec of the user's part, with its defaults."""
    importlib.import_module(MODULES[role])
    return registry.find(role, f"mine-{role}")()


def test_every_role_of_an_agent_has_a_part_here():
    assert set(MODULES) == {"encoder", "working", "external", "head", "exploration", "draw", "loss", "bootstrap"}
    assert all("engram" not in path.parts[-3:-1] for path in MINE.iterdir())


CHECKS = {
    "encoder": lambda one: testing.check_encoder(one.build(spaces.Box((4,)), 2, KEY), spaces.Box((4,)), 2, spec=one),
    "working": lambda one: testing.check_working(one.build(5, KEY), 5),
    "external": lambda one: testing.check_external(one.build(6, 3, 0, KEY), 6, 3, spec=one),
    "head": lambda one: testing.check_head(one.build(5, 3, KEY), 5, 3, spec=one),
    "exploration": lambda one: testing.check_exploration(one),
    "draw": lambda one: testing.check_draw(one),
    "loss": lambda one: testing.check_loss(one),
    "bootstrap": lambda one: testing.check_bootstrap(one),
}


@pytest.mark.parametrize("role", MODULES)
def test_it_keeps_its_contract(role: str):
    CHECKS[role](made(role))


@pytest.mark.parametrize("role", MODULES)
def test_it_is_trained_evaluated_resumed_and_listed_from_the_command_line(role: str, capsys):
    known = ["--import", MODULES[role]]
    settings = [f"{role}=mine-{role}", *BESIDE.get(role, ["encoder.widths=8"])]
    assert main(["train", *SMALL, "--run", "r", *known, *settings]) == 0
    forget()
    assert main(["train", "--run", "r", "--resume", "--steps", "400", *known]) == 0
    forget()
    assert main(["evaluate", "r", "--episodes", "1", *known]) == 0
    assert engram.info("r")["agent"][role]["kind"] == f"mine-{role}"
    capsys.readouterr()
    assert main(["list", "parts", *known]) == 0
    assert f"{role}=mine-{role}" in capsys.readouterr().out.split()
    if role != "bootstrap":
        preset = "drqn" if role == "working" else "dqn"
        assert main(["show", preset, f"{role}=mine-{role}", *known]) == 0
        assert f"mine-{role}" in capsys.readouterr().out


def test_an_agent_of_nothing_but_parts_of_ones_own_stops_and_goes_on_to_the_same_numbers():
    known = [word for module in MODULES.values() for word in ("--import", module)]
    settings = [f"{role}=mine-{role}" for role in MODULES]
    words = ["engram/CartPole-v1", "--preset", "drqn", "replay.capacity=300", "replay.start=100", *known, *settings]
    words += ["replay.window=6", "replay.batch_size=4"]
    assert main(["train", *words, "--steps", "400", "--run", "whole"]) == 0
    assert main(["train", *words, "--steps", "250", "--run", "halves"]) == 0
    assert main(["train", "--run", "halves", "--resume", "--steps", "400", *known]) == 0
    whole, halves = (jax.tree.leaves(engram.load(run).minds) for run in ("whole", "halves"))
    assert len(whole) == len(halves) > 10
    for one, other in zip(whole, halves, strict=True):
        np.testing.assert_array_equal(one, other)
