"""What a stopped run advises can be typed: with the flags without which `engram` refuses to open the run."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engram.agents.spec import AgentSpec
from engram.run.stop import interrupted, reopening


@dataclasses.dataclass(frozen=True)
class Mine:
    """An agent with a part of a user's module in it."""

    working: Any = dataclasses.field(default_factory=AgentSpec)


@pytest.mark.parametrize(
    ("env", "env_args", "agent", "flags"),
    [
        ("CartPole-v1", {}, AgentSpec(), ""),
        ("engram/CartPole-v1", {}, AgentSpec(), ""),
        ("gymnax:CartPole-v1", {}, AgentSpec(), ""),
        (None, {}, AgentSpec(), ""),
        ("boat:Boat-v0", {}, AgentSpec(), " --trust"),
        ("CartPole-v1", {"path": "some.module:name"}, AgentSpec(), " --trust"),
        ("boat:Boat-v0", {}, Mine(), f" --import {__name__} --trust"),
    ],
)
def test_the_flags_that_open_a_run_again(env: Any, env_args: Any, agent: Any, flags: str):
    assert reopening(SimpleNamespace(env=env, env_args=env_args, agent=agent)) == flags


def test_modules_that_the_command_imported_are_imported_again():
    plan = SimpleNamespace(env="Plant-v0", env_args={}, agent=Mine())
    assert reopening(plan, ("plant", __name__)) == f" --import plant --import {__name__}"


def test_an_environment_without_a_name_is_given_again_in_python():
    said = str(interrupted(30, Path("my run"), " --trust"))
    assert said.endswith("go on with: engram train --run 'my run' --resume --trust")
    said = str(interrupted(30, Path("r"), named=False))
    assert said.endswith("go on with: engram.Trainer(ENV, run='r', resume=True).learn(), with ENV as before")
