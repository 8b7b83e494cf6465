"""Numbers as people give them: 1e4, and those of NumPy, wherever a number is given."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from engram import specs
from engram.agents.spec import AgentSpec
from engram.envs.device import make_device
from engram.envs.host.make import make_host
from engram.errors import SpecError
from engram.run.article import AttentionDQN, ReplayBuffer
from engram.run.settings import Given, RunSettings, check
from engram.run.trainer import Trainer

WHOLE = [10, 1e1, np.int64(10), np.int32(10), np.uint8(10), np.float64(10), np.array(10), jnp.int32(10)]


@pytest.mark.parametrize("value", WHOLE, ids=lambda value: type(value).__name__)
def test_a_whole_number_is_taken_as_one_in_every_dress(value: Any):
    for got in (specs.whole("n", value, 1), specs.fitted(RunSettings, "steps", value), check({"seed": value})["seed"]):
        assert (got, type(got)) == (10, int)
    made = specs.override_all(AgentSpec(), {"replay.batch_size": value, "encoder.widths": (value, value)})
    assert (made.replay.batch_size, made.encoder.widths) == (10, (10, 10))
    assert type(made.replay.batch_size) is type(made.encoder.widths[0]) is int


@pytest.mark.parametrize("value", [np.float64(1e-3), np.float32(1e-3), 1e-3])
def test_a_numpy_float_is_stored_as_a_plain_one(value: Any):
    made = specs.override(AgentSpec(), "optimizer.learning_rate", value)
    assert type(made.optimizer.learning_rate) is float
    assert made.optimizer.learning_rate == float(value)
    assert specs.override(AgentSpec(), "encoder.widths", np.array([64, 32])).encoder.widths == (64, 32)
    assert specs.override(AgentSpec(), "double", np.bool_(True)).double is True


@pytest.mark.parametrize(
    "value", [1.5, True, np.bool_(True), "ten", None, 0, float("nan"), float("inf"), np.array([10])]
)
def test_what_is_no_whole_number_is_refused(value: Any):
    with pytest.raises(SpecError, match="expected a whole number of at least 1"):
        specs.whole("n", value, 1)
    with pytest.raises(SpecError, match="steps = .* was given; expected a whole number, at least 1"):
        check({"steps": value})


def test_arguments_of_environments_are_plain_numbers_too():
    given = Given.of({"env_args": {"a": np.int64(3), "b": [np.float64(0.5)]}, "seed": np.int64(4)}, None)
    assert given.run == {"env_args": {"a": 3, "b": [0.5]}, "seed": 4}
    assert type(given.run["env_args"]["a"]) is int
    assert make_device("engram/CartPole-v1", max_steps=2e2) == make_device(
        "engram/CartPole-v1", max_steps=np.int64(200)
    )
    envs = make_host("CartPole-v1", envs=np.int64(2), seed=np.int64(3))
    assert envs.envs == 2


def test_learning_and_evaluating_take_them():
    with Trainer("engram/CartPole-v1", "dqn", seed=np.int64(1), discount=1) as trainer:
        assert trainer.learn(3e1).steps == 32
        assert trainer.plan.steps == 30
        assert trainer.evaluate(np.int64(2), seed=np.int64(1)).episodes == 2


def test_the_article_takes_them():
    assert ReplayBuffer(1e3).capacity == 1000
    assert AttentionDQN(np.int64(4), np.int64(2), 8.0, capacity=100).action_size == 2


@dataclass(frozen=True)
class Nothing:
    """Stands for values that no number is made of."""


def test_other_values_stay_as_they_are():
    assert specs.plain({"a": (1, [np.int8(2)]), "b": Nothing()}) == {"a": (1, [2]), "b": Nothing()}
