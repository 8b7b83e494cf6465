"""`engram play`: an environment holds the conversation, the command is its terminal."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Int, UInt32

import engram
from engram.cli.commands import main
from engram.envs.device import DeviceStep, register_device
from engram.spaces import Box


@register_device("test/Parity-v0")
@dataclass(frozen=True)
class Parity:
    """One number is shown; the agent says 0 or 1. A person may show it numbers."""

    observation_space = Box((1,))
    actions = 2
    least: int = 0

    def reset(self, key: UInt32[Array, "2"]) -> tuple[Array, Array]:
        return jnp.int32(0), jnp.zeros(1)

    def step(self, state: Int[Array, ""], action: Int[Array, ""], key: UInt32[Array, "2"]) -> tuple[Array, DeviceStep]:
        return state, DeviceStep(jnp.zeros(1), jnp.ones(()), jnp.bool_(True), jnp.bool_(False))

    def converse(self, agent: Any, ask: Any, tell: Any, seed: int) -> None:
        while (word := ask("number: ")) != "enough":
            action, _ = agent.predict(np.array([float(word)], np.float32))
            tell(f"{word} with {self.least} and {seed}:\n  {'01'[action]}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "parity"
    with engram.Trainer("test/Parity-v0", "dqn", run=folder, steps=32, overrides={"replay.start": 16}) as trainer:
        trainer.learn()
    return folder


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


@pytest.mark.parametrize("ending", ["enough\n", "quit\n", "QUIT\nnever read\n", ""])
def test_a_person_asks_and_is_told_until_somebody_ends_it(capsys, monkeypatch, run, ending):
    typed(monkeypatch, " 3 \n" + ending)
    assert main(["play", str(run), "--seed", "7", "--env-arg", "least=2"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["number:  3 ", "3 with 2 and 7:"]  # a pipe has no echo, so what was read is printed
    assert said[2] in ("  0", "  1")


def test_an_environment_that_nobody_can_play_is_named(capsys, tmp_path):
    folder = tmp_path / "cart"
    engram.Trainer("engram/CartPole-v1", "dqn", run=folder, steps=32, overrides={"replay.start": 16}).learn()
    assert main(["play", str(folder)]) == 2
    assert "engram/CartPole-v1 cannot be played by a person" in capsys.readouterr().err


def test_what_is_told_cannot_steer_the_terminal(capsys):
    from engram.cli.games import tell

    tell("a\x1b[2Jb")
    assert capsys.readouterr().out == "a\\x1b[2Jb\n"
