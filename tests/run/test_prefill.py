"""Episodes recorded elsewhere are in the replay before learning begins, row for row as if they had been played."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from engram.errors import EngramError
from engram.replay.ring import Ring
from engram.run.trainer import Trainer

SMALL = dict(preset="dqn", encoder__widths=(8,), replay__capacity=300, replay__batch_size=8, replay__start=60)


def episode(length: int, terminated: bool, first: float = 0.0) -> tuple[Any, ...]:
    observations = (first + 0.001 * np.arange(4 * (length + 1)).reshape(length + 1, 4)).astype(np.float32)
    return observations, np.arange(length) % 2, 1.0 + np.arange(length), terminated


def ring_of(trainer: Trainer) -> Ring:
    runner = trainer.runner
    state = runner._run.agent if trainer.on_device else runner.learner.state
    (ring,) = runner.agent.rows(state)
    return ring


def check(rows: Any, place: slice, lane: int, given: tuple[Any, ...]) -> None:
    """The rows of one episode: its steps, and a final row."""
    observations, actions, rewards, terminated = given
    np.testing.assert_array_equal(rows.observation[place, lane], observations)
    steps = slice(place.start, place.stop - 1), lane
    np.testing.assert_array_equal(rows.action[steps], actions)
    np.testing.assert_array_equal(rows.reward[steps], rewards)
    assert rows.is_first[place, lane].tolist() == [True] + [False] * len(actions)
    assert rows.terminated[place, lane].tolist() == [False] * (len(actions) - 1) + [terminated, False]


def test_rows_are_those_of_the_episodes_on_the_host(tmp_path: Path):
    given = [episode(3, True), episode(100, False, 1.0), episode(2, True, 2.0)]
    with Trainer("CartPole-v1", run=tmp_path, envs=2, **SMALL) as trainer:
        assert trainer.prefill(given) is trainer
        ring = jax.tree.map(np.asarray, ring_of(trainer))
        assert ring.cursor.tolist() == [4 + 3, 101]
        check(ring.rows, slice(0, 4), 0, given[0])
        check(ring.rows, slice(4, 7), 0, given[2])
        check(ring.rows, slice(0, 101), 1, given[1])
        assert trainer.steps == 0
    with Trainer(run=tmp_path, resume=True) as trainer:
        assert np.asarray(ring_of(trainer).cursor).tolist() == [7, 101]
        assert trainer.learn(120).steps == 120
        with pytest.raises(EngramError, match="the run is at step 120; prefill comes before its first step"):
            trainer.prefill(given)


def test_rows_are_those_of_the_episodes_for_every_seed_on_the_device():
    given = [episode(3, True), episode(70, False, 1.0)]
    with Trainer("engram/CartPole-v1", seeds=2, **SMALL) as trainer:
        trainer.prefill(given)
        for seed in range(2):
            ring = jax.tree.map(lambda leaf, seed=seed: np.asarray(leaf)[seed], ring_of(trainer))
            assert ring.cursor.tolist() == [4 + 71]
            check(ring.rows, slice(0, 4), 0, given[0])
            check(ring.rows, slice(4, 75), 0, given[1])
        assert trainer.learn(72).steps == 72


@pytest.mark.parametrize(("given", "said"), [
    (((np.zeros((3, 4)), [0, 1, 1], [1.0] * 3, True)), "3 observations, 3 actions and 3 rewards was given; expected"),
    (((np.zeros((4, 3)), [0, 1, 1], [1.0] * 3, True)), r"shape \(3,\)"),
    (((np.zeros((4, 4)), [0, 1, 2], [1.0] * 3, True)), "the action 2 was given, which is none of the"),
    (((np.zeros((4, 4)), [0, 1, 1], [1.0, np.nan, 1.0], True)), "a reward that is not finite was given; leave it out"),
])  # fmt: skip
def test_what_does_not_belong_to_the_environment_is_refused(given: Any, said: str):
    with Trainer("CartPole-v1", **SMALL) as trainer:
        with pytest.raises(EngramError, match=said):
            trainer.prefill([episode(3, True), given])
        assert np.asarray(ring_of(trainer).cursor).tolist() == [0], "nothing was taken"


def test_an_agent_that_writes_while_it_acts_takes_none():
    trainer = Trainer("CartPole-v1", external="episodic", external__neighbours=5, **SMALL)
    with trainer, pytest.raises(EngramError, match="prefill is for agents whose rows hold nothing but experience"):
        trainer.prefill([episode(3, True)])


@pytest.mark.parametrize(
    "agent",
    [
        dict(preset="drqn", encoder__widths=(8,), working__hidden_size=8, replay__capacity=300, replay__batch_size=4,
             replay__start=60, replay__window=4, observation__normalize=True),
        SMALL | dict(observation__normalize=True, reward__normalize=True),
    ],
    ids=["compiled", "numpy"],
)  # fmt: skip
def test_the_first_step_after_it_acts_with_what_it_told(agent: dict[str, Any]):
    """The compiled call that stores gives the buffers of the mind away, and counts statistics."""
    with Trainer("CartPole-v1", steps=120, evaluate_every=0, **agent) as trainer:
        trainer.prefill([episode(30, True)])
        (scale,) = trainer.runner.acting.network.scales.observation
        assert float(scale.count.max()) == 31
        assert trainer.learn().steps == 120


@pytest.mark.parametrize("env", ["CartPole-v1", "engram/CartPole-v1"])
def test_missing_numbers_are_taken_where_the_agent_takes_them(env: str):
    gaps = episode(3, True)
    gaps[0][1, 2] = np.nan
    with Trainer(env, observation__missing="mask", **SMALL) as trainer:
        trainer.prefill([gaps])
        seen = np.asarray(ring_of(trainer).rows.observation).reshape(-1, trainer.plan.envs, 4)
        np.testing.assert_array_equal(seen[:4, 0], gaps[0])
    with Trainer(env, **SMALL) as trainer, pytest.raises(EngramError, match=r"observation\.missing=mask"):
        trainer.prefill([gaps])
