"""A trained agent by itself: where it is evaluated, for how long, what it needs to predict, and how it travels."""

import copy
import json
import logging
import multiprocessing
import pickle  # noqa: TID251  what users do with agents; Engram itself never unpickles
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from support.bad_envs import Walk

import engram
from engram.agents.policy import Seen, begin, forgetful, look
from engram.envs.device import DeviceStep
from engram.errors import Interrupted, SpaceError, SpecError
from engram.spaces import Box

SMALL = dict(
    preset="dqn", encoder__widths=(16,), replay__capacity=300, replay__start=60, replay__batch_size=16, seed=0
)  # fmt: skip
make_trainer = partial(engram.Trainer, **SMALL)
NUMBERS = np.zeros(2, np.float32)


class Counted(Walk):
    """Says when somebody else resets or closes it."""

    resets = closed = 0

    def reset(self, **given: Any) -> Any:
        self.resets += 1
        return super().reset(**given)

    def close(self) -> None:
        self.closed += 1


class ForEver(Walk):
    def __init__(self):
        super().__init__(10**9)


class Robot(Walk):
    """Of which one may exist."""

    made = 0

    def __init__(self):
        super().__init__()
        if Robot.made:
            raise RuntimeError("the port is in use")
        Robot.made = 1

    def close(self) -> None:
        Robot.made = 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained in an object."""
    folder = tmp_path_factory.mktemp("runs") / "object"
    with make_trainer(Walk(), run=folder) as trainer:
        trainer.learn(70)
    return folder


# Where it is evaluated.


def test_an_object_that_training_has_is_evaluated_in_another_and_left_alone():
    env = Counted()
    with make_trainer(env) as trainer:
        trainer.learn(70)
        resets = env.resets
        assert len(trainer.evaluate(3).returns) == 3
        assert (env.resets, env.closed) == (resets, 0)
        trainer.learn(20)
    assert env.closed == 1


def test_a_function_that_gives_the_training_environment_is_refused():
    env = Counted()
    with make_trainer(lambda: env) as trainer:
        trainer.learn(70)
        resets = env.resets
        with pytest.raises(SpecError, match="in use, and evaluation plays in one of its own"):
            trainer.evaluate(1)
        with pytest.raises(SpecError, match="a trainer plays in .* pass another one"):
            trainer.evaluate(1, env=env)
        assert (env.resets, env.closed) == (resets, 0)
        other = Counted()
        trainer.evaluate(2, env=other)
        assert (other.resets > 0, other.closed) == (True, 0)


def test_one_that_is_alone_is_evaluated_once_training_has_closed_it():
    with make_trainer(Robot) as trainer:
        trainer.learn(70)
        agent = trainer.trained()
        with pytest.raises(SpecError, match="could not be built: RuntimeError: the port is in use"):
            trainer.evaluate(5)
    assert len(agent.evaluate(5).returns) == 5
    assert Robot.made == 0


def test_a_stored_run_is_evaluated_in_what_is_given(run: Path):
    env = Counted()
    results = [
        engram.load(run, env).evaluate(2),
        engram.load(run).evaluate(env, seed=0),
        engram.load(run).evaluate(env=Counted, episodes=np.int64(3)),
    ]
    assert [one.episodes for one in results] == [2, 20, 3]
    assert env.closed == 0
    with pytest.raises(SpecError, match=r"write evaluate\(env=\.\.\.\), or engram\.load\(run, env\)"):
        engram.load(run).evaluate()
    with pytest.raises(SpecError, match=r"episodes = 2.5 was given; expected a whole number"):
        engram.load(run, env).evaluate(2.5)  # type: ignore[arg-type]


def test_a_ready_vector_is_learned_in_and_evaluated_in():
    class Whole(SyncVectorEnv):
        pass

    whole = partial(Whole, [Walk] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    with make_trainer(whole) as trainer:
        trainer.learn(120)
        assert trainer.plan.envs == 2
        found = trainer.evaluate(4)
        assert found.lengths == [4] * 4
        with pytest.raises(SpecError, match="a trainer plays in"):
            trainer.evaluate(env=trainer._environment.env)


def test_what_a_vector_does_not_step_is_not_stored():
    """Walk has 4 steps an episode and the vector a fifth, which resets: 4 rows are stored, and the final one."""

    class Whole(SyncVectorEnv):
        pass

    with make_trainer(partial(Whole, [Walk] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)) as trainer:
        trainer.learn(100)
        runner = trainer.runner
        assert set(runner.collector.episodes.lengths) == {4}
        rows = runner.state().replay.ring
        assert np.asarray(rows.cursor).tolist() == [50, 50]
        shown = np.asarray(rows.rows.observation).reshape(-1, 2)[:, 1]
        assert set(shown.tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
        assert np.asarray(rows.rows.is_first).sum() == 20


# For how long.


def test_a_task_without_an_end_is_evaluated_for_a_while_and_that_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("engram.play.trained.LONGEST", 30)
    with make_trainer(ForEver) as trainer:
        trainer.learn(70)
        with caplog.at_level(logging.WARNING, "engram"):
            found = trainer.evaluate(5)
        assert (found.lengths, found.cut) == ([30] * 5, 5)
        said = "5 of 5 episodes had not ended after 30 steps and were cut off there; give another limit with"
        assert said in caplog.text
        caplog.clear()
        assert trainer.evaluate(2, max_episode_steps=7).lengths == [7, 7]
        assert caplog.text == ""


def test_the_limit_of_a_run_holds_in_training_and_in_evaluation():
    with make_trainer(ForEver, max_episode_steps=6) as trainer:
        trainer.learn(70)
        assert set(trainer.runner.collector.episodes.lengths) == {6}
        assert trainer.evaluate(3).lengths == [6, 6, 6]
    with make_trainer("engram/CartPole-v1", max_episode_steps=5) as trainer:
        trainer.learn(70)
        assert trainer.runner.report()["length_mean"] == 5
        assert trainer.evaluate(3).lengths == [5, 5, 5]


@dataclass(frozen=True)
class Endless:
    observation_space = Box((1,))
    actions = 2

    def reset(self, key: jax.Array) -> Any:
        return jnp.zeros(()), jnp.zeros(1)

    def step(self, state: jax.Array, action: jax.Array, key: jax.Array) -> Any:
        no = jnp.zeros((), bool)
        return state + 1, DeviceStep((state + 1)[None], jnp.ones(()), no, no)


def test_a_device_task_without_an_end_is_cut_and_a_stop_is_obeyed():
    engram.register_device("test/Endless-v0")(Endless)
    with make_trainer("test/Endless-v0") as trainer:
        trainer.learn(70)
        agent = trainer.trained()
    found = agent.evaluate(2, max_episode_steps=700)
    assert (found.returns, found.cut) == ([700.0, 700.0], 2)
    asked = []
    with pytest.raises(Interrupted, match="the evaluation was stopped"):
        agent.evaluate(2, max_episode_steps=10**9, stop=lambda: len(asked) > 2 or asked.append(1))  # type: ignore
    assert len(asked) == 3


def test_a_stop_is_obeyed_on_the_host():
    with make_trainer(ForEver) as trainer:
        trainer.learn(70)
        with pytest.raises(Interrupted, match="the evaluation was stopped"):
            trainer.trained().evaluate(1, stop=lambda: True)


def test_a_stop_does_not_wait_for_an_end_that_never_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Endless(ForEver):
        def show(self) -> np.ndarray:
            return np.array([np.random.default_rng().random(), self.steps], np.float32)

    monkeypatch.setattr("engram.runners.host.FINISH_SECONDS", 0.1)
    with make_trainer(Endless, run=tmp_path / "r") as trainer:
        trainer.learn(70)
        assert "resumed from here, it begins a new one" in str(trainer.runner.finish(True))


def test_how_evaluation_is_cut_into_calls_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    with make_trainer("engram/CartPole-v1") as trainer:
        trainer.learn(70)
        whole = trainer.evaluate(4)
        monkeypatch.setattr("engram.runners.common.CALL_SECONDS", 0.0)
        assert trainer.evaluate(4) == whole


# What it needs to predict.


def test_predicting_needs_no_environment(tmp_path: Path):
    gymnasium.register("Gone-v0", entry_point=Walk)
    try:
        with make_trainer("Gone-v0", run=tmp_path / "a") as trainer:
            trainer.learn(70)
            expected, _ = trainer.predict(NUMBERS)
    finally:
        del gymnasium.registry["Gone-v0"]
    assert engram.load(tmp_path / "a").predict(NUMBERS)[0] == expected


def test_actions_are_the_environments_own_without_it(tmp_path: Path):
    with make_trainer("Pendulum-v1", action_bins=3, run=tmp_path / "a") as trainer:
        trainer.learn(70)
    action, _ = engram.load(tmp_path / "a").predict(np.zeros(3, np.float32))
    assert (action.shape, action.dtype, float(action[0]) in (-2.0, 0.0, 2.0)) == ((1,), np.float32, True)


def test_lists_are_observations_of_device_agents_too():
    with make_trainer("engram/CartPole-v1") as trainer:
        trainer.learn(70)
        one, _ = trainer.predict([0.0, 0.0, 0.1, 0.0])
        many, _ = trainer.predict([[0.0, 0.0, 0.1, 0.0]] * 2)
        assert many.tolist() == [one, one]
        with pytest.raises(SpaceError, match=r"has shape \(3,\); expected \(4,\)"):
            trainer.predict([0.0, 0.0, 0.0])
        with pytest.raises(SpaceError, match="an observation of another form was given"):
            trainer.predict([[0.0], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("rows", "given", "said"),
    [
        (3, {}, "the state is not one of this agent and 3 observations; pass the state that the last call gave"),
        (1, {"episode_start": np.zeros(2, bool)}, r"episode_start = .* was given with 1 observation\(s\)"),
        (1, {"reward": np.zeros(2)}, r"reward = .* was given with 1 observation\(s\); expected one value for each"),
        (1, {"state": {"wrong": 1}}, "the state is not one of this agent and 1 observation; pass"),
    ],
)
def test_what_does_not_go_with_the_observations_is_one_sentence(run: Path, rows: int, given: Any, said: str):
    agent = engram.load(run)
    _, state = agent.predict(NUMBERS)
    observation = np.zeros((rows, 2), np.float32)
    with pytest.raises(SpecError, match=said):
        agent.predict(observation, **{"state": state, **given})


# How it travels.


def test_an_agent_is_copied_and_pickled(run: Path):
    agent = engram.load(run, Walk())
    expected = agent.predict(NUMBERS)[0]
    for other in (copy.deepcopy(agent), copy.copy(agent), pickle.loads(pickle.dumps(agent))):  # noqa: S301
        assert other.predict(NUMBERS)[0] == expected
    copy.deepcopy(agent).evaluate(1)
    sent = pickle.loads(pickle.dumps(agent))  # noqa: S301
    with pytest.raises(SpecError, match="no environment is known to play in"):
        sent.evaluate(1)
    assert sent.evaluate(1, env=Walk).episodes == 1
    kept = pickle.loads(pickle.dumps(engram.load(run, Walk)))  # noqa: S301
    assert kept.evaluate(1).episodes == 1


def test_a_trainer_is_not_copied():
    with make_trainer(Walk) as trainer, pytest.raises(SpecError, match=r"copy what it has learned: trainer\.trained"):
        copy.deepcopy(trainer)


def test_threads_predict_as_one_does(run: Path):
    agent = engram.load(run)
    rows = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    expected = [int(agent.predict(row)[0]) for row in rows]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda row: int(agent.predict(row)[0]), rows)) == expected


def _predicted(agent: Any) -> int:
    return int(agent.predict(NUMBERS)[0])


def test_another_process_predicts_as_this_one(run: Path):
    agent = engram.load(run)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_predicted, (agent,)) == _predicted(agent)


# What is freed.


THREE_AGENTS = """
import engram
from engram.play import playing
from engram.runners import acting, learner

for width in (4, 5, 6):
    with engram.Trainer("CartPole-v1", steps=70, encoder__widths=(width,), replay__start=40) as trainer:
        trainer.learn()
        trainer.evaluate(1)
caches = (learner.compiled_init, learner.compiled_settle, acting.compiled_act, playing.greedy_program)
print([cache.cache_info().currsize for cache in caches])
"""


def test_the_programs_of_agents_that_are_gone_are_few():
    """In a process of its own: the tests keep more of them."""
    done = subprocess.run([sys.executable, "-c", THREE_AGENTS], capture_output=True, text=True, check=True)
    sizes = json.loads(done.stdout.splitlines()[-1])
    assert max(sizes) == 2, sizes


def test_an_external_memory_is_emptied_too_when_an_agent_forgets():
    """What decides then is the network alone; the agent itself keeps what it knows."""
    settings = {"external.capacity": 64, "recall.n_step": 2, "replay.start": 100}
    no_bits = jnp.zeros((1, 0), jnp.uint32)
    with engram.Trainer("engram/CartPole-v1", "attention-dqn", steps=300, overrides=settings) as trainer:
        agent = trainer.learn().trained()
        (mind,) = agent.minds
        held = int(mind.recall.store.held)
        emptied = forgetful(agent.plan.agent, mind)
        assert held > 0
        assert int(emptied.recall.store.held) == 0
        seen = Seen(jnp.array([[0.0, 0.1, 0.0, -0.1]]), jnp.array([True]), jnp.zeros(1))
        state = begin(agent.plan.agent, mind.network, 1)
        known, alone = (look(agent.plan.agent, each, state, seen, no_bits).decision for each in (mind, emptied))
        np.testing.assert_array_equal(alone.preference, alone.returns.q)
        assert not np.array_equal(known.preference, known.returns.q)
        assert agent.evaluate(2, forget=True).episodes == 2
        assert int(agent.minds[0].recall.store.held) == held


def test_an_environment_may_come_first_and_the_number_of_episodes_after_it(tmp_path):
    with make_trainer(Walk, run=tmp_path / "r", steps=80) as trainer:
        trainer.learn()
        played = [trainer.evaluate(Walk, episodes=2), trainer.evaluate(Walk, 2), trainer.evaluate(2)]
    agent = engram.load(tmp_path / "r", Walk)
    played += [agent.evaluate(2, env=Walk), agent.evaluate(Walk, 2, env=None)]
    assert len(agent.evaluate(Walk(), episodes=3).returns) == 3
    assert {tuple(one.returns) for one in played} == {tuple(played[0].returns)}
    assert len(played[0].returns) == 2


@pytest.mark.parametrize("batched", [False, True])
def test_an_agent_that_is_overruled_goes_on_from_what_was_taken(batched: bool):
    trainer = make_trainer("engram/RepeatPrevious-v0", preset="drqn", observation__previous_action=True)
    agent = trainer.trained()
    seen = agent.device_world().observation_space
    shown = np.ones(seen.shape, seen.dtype) if hasattr(seen, "dtype") else np.int32(1)
    shown = shown[None] if batched else shown
    action, state = agent.predict(shown)
    other = (action + 1) % agent.plan.actions
    assert np.asarray(agent.took(state, other).action).tolist() == [int(np.ravel(other)[0])]
    assert np.asarray(agent.took(state, action).action).tolist() == np.ravel(action).tolist()
    with pytest.raises(SpecError, match="expected an action of this environment"):
        agent.took(state, agent.plan.actions)
    with pytest.raises(SpecError, match="expected an action of this environment"):
        agent.took(state, [0, 1])
