"""Missing and unscaled numbers in whole runs: refused by name, or learned from, on both runners and in every use."""

from contextlib import closing
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from support.bad_envs import Walk

from engram import AttentionDQN, Trainer, load
from engram.envs.host.make import HostEnvs, make_host
from engram.errors import EnvironmentFault, SpaceError
from engram.run.article import ReplayBuffer, train
from engram.runners.acting import NumpyActor

SMALL: dict[str, Any] = dict(
    preset="dqn", encoder__widths=(8,), replay__capacity=200, replay__start=24, replay__batch_size=4, target__every=3
)
ON: dict[str, Any] = dict(observation__missing="mask", observation__normalize=True, reward__normalize=True)
NAMES_IT = r"observation\.missing=mask"


class Gappy(Walk):
    """A walk of which a third of the numbers are missing; every seventh gap is a NaN of other bits."""

    def show(self) -> np.ndarray:
        shown = np.array([self.position, 1e4 * self.steps], np.float32)
        gaps = self.np_random.random(2) < 1 / 3
        shown[gaps] = -np.float32(np.nan) if self.np_random.random() < 1 / 7 else np.float32(np.nan)
        return shown


class Parts(Gappy):
    """The same as a Dict, with a category and an image beside it."""

    def __init__(self):
        super().__init__()
        image, mode = gymnasium.spaces.Box(0, 255, (2, 2), np.uint8), gymnasium.spaces.Discrete(3)
        numbers = self.observation_space
        self.observation_space = gymnasium.spaces.Dict({"numbers": numbers, "mode": mode, "image": image})

    def show(self) -> Any:
        return {"numbers": super().show(), "mode": self.steps % 3, "image": np.full((2, 2), self.steps, np.uint8)}


class Infinite(Walk):
    def show(self) -> np.ndarray:
        return np.array([np.nan, np.inf if self.steps else 0.0], np.float32)


class Offering(Walk):
    """What an action offers is missing: that is no part of what is seen."""

    def __init__(self):
        super().__init__()
        offered = gymnasium.spaces.Box(-9, 9, (2, 1), np.float32)
        self.observation_space = gymnasium.spaces.Dict({"seen": self.observation_space, "offered": offered})

    def show(self) -> Any:
        return {"seen": super().show(), "offered": np.full((2, 1), np.nan, np.float32)}


# -- off ---------------------------------------------------------------------------------------------------------


def test_off_a_missing_number_is_refused_and_the_setting_named():
    with Trainer(Gappy, steps=60, **SMALL) as trainer, pytest.raises(EnvironmentFault, match=NAMES_IT):
        trainer.learn()


def test_off_a_missing_number_is_refused_on_the_device_too():
    trainer = Trainer("engram/FlickeringCartPole-v0", steps=60, **SMALL)
    with pytest.raises(EnvironmentFault, match=NAMES_IT):
        trainer.learn()
    with pytest.raises(SpaceError, match=NAMES_IT):
        trainer.predict(np.array([0, np.nan, 0, 0], np.float32))


def test_off_a_missing_number_is_refused_from_a_worker_too():
    envs = make_host(Gappy, seed=0, envs=2, asynchronous=True)
    with closing(envs), pytest.raises(EnvironmentFault, match=NAMES_IT):
        played(envs, 30)


def test_workers_meet_what_one_process_meets():
    found = []
    for asynchronous in (False, True):
        with closing(make_host(Parts, seed=0, envs=2, asynchronous=asynchronous)) as envs:
            envs.accept_missing()
            found.append([jax.tree.map(lambda leaf: leaf.tobytes(), seen) for seen in played(envs, 30)])
            assert envs.translator.rows(Parts().reset(seed=0)[0], False)["numbers"].shape == (1, 2)
    assert found[0] == found[1]


def played(envs: HostEnvs, steps: int) -> list[Any]:
    return [envs.reset(), *(envs.step(np.array([0, 1])).observation for _ in range(steps))]


FINITE = "expected finite numbers that float32 can hold"


@pytest.mark.parametrize(
    ("env", "sentence"),
    [(Infinite, rf"holds inf at \[1\], {FINITE}: "), (Offering, rf"'offered' holds nan at \[0, 0\], {FINITE}: ")],
)
def test_what_is_infinite_or_no_part_of_what_is_seen_stays_a_fault(env, sentence):
    head = {"head": "attention"} if env is Offering else {}
    with Trainer(env, steps=60, **SMALL, **ON, **head) as trainer, pytest.raises(EnvironmentFault, match=sentence):
        trainer.learn()


# -- on ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "settings"), [(Gappy, {}), (Parts, {"observation__stack": 3, "envs": 2})], ids=["one", "stacks of two"]
)
def test_a_host_run_resumes_exactly_evaluates_and_predicts(env, settings, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = SMALL | ON | settings | {"steps": 96, "seed": 3}
    with Trainer(env, run=whole, **options) as trainer:
        digest = trainer.learn().state_digest()
    with Trainer(env, run=parts, **options) as trainer:
        trainer.learn(44)
    with Trainer(env, run=parts, resume=True) as trainer:
        assert trainer.learn(52).state_digest() == digest
        before = trainer.state_digest()
        mean = trainer.evaluate(4).mean
        gap = env().reset(seed=0)[0]
        trainer.predict(gap)
        assert trainer.state_digest() == before, "evaluating and predicting change nothing"
    agent = load(parts, env)
    assert agent.evaluate(4).mean == mean
    counted = agent.minds[0].network.scales.observation[0].count
    assert 0 < counted.min() < 96 * 1.3
    with load(whole, env) as trained:
        for found, expected in zip(jax.tree.leaves(trained.minds), jax.tree.leaves(agent.minds), strict=True):
            assert np.array_equal(found, expected)


def test_numpy_acts_as_the_compiled_network_does():
    with Trainer(Gappy, steps=48, observation__stack=3, **SMALL, **ON) as trainer:
        trainer.learn()
        actor = trainer.runner.collector.actor
        assert isinstance(actor, NumpyActor)
        frames = np.array([[[np.nan, 3.0], [0.5, np.nan], [2.0, 2e4]]], np.float32)
        mind = trainer.runner.minds()[0]
        actor.load(jax.tree.leaves(mind))
        np.testing.assert_allclose(
            actor._program(frames), trainer.agent._preference(mind, frames), rtol=1e-4, atol=1e-5
        )
        shown = actor._frames.push(frames[:, -1], np.ones(1, bool))
        assert np.isnan(shown[0, :-1]).all(), "before the episode nothing is known"


def test_a_device_run_of_several_seeds_resumes_exactly(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = SMALL | ON | {"steps": 200, "seeds": 2, "env_args": {"p": 0.3}, "n_step": 2}
    env = "engram/FlickeringCartPole-v0"
    with Trainer(env, run=whole, **options) as trainer:
        digest = trainer.learn().state_digest()
    with Trainer(env, run=parts, **options) as trainer:
        trainer.learn(100)
    with Trainer(run=parts, resume=True) as trainer:
        assert trainer.learn(100).state_digest() == digest
        before = trainer.state_digest()
        trainer.evaluate(2)
        assert trainer.state_digest() == before
        scales = [mind.network.scales for mind in trainer.runner.minds()]
        assert not np.array_equal(scales[0].observation[0].mean, scales[1].observation[0].mean), "each seed has its own"
        action, _ = load(parts).predict(np.array([0, np.nan, 0, np.nan], np.float32))
        assert action in (0, 1)


def test_a_working_memory_learns_through_gaps_and_can_be_made_to_forget(tmp_path):
    memory: dict[str, Any] = dict(working="gru", replay__window=6, observation__previous_reward=True, head="q")
    with Trainer("engram/FlickeringCartPole-v0", steps=120, **SMALL, **ON, **memory) as trainer:
        trainer.learn()
        assert np.isfinite(trainer.runner.report()["loss"] or 0.0)
        before = trainer.state_digest()
        assert trainer.evaluate(2, forget=True).episodes == 2
        assert trainer.state_digest() == before


def test_the_functions_of_the_article_take_what_is_missing():
    model = AttentionDQN(2, 2, 8, missing="mask", normalize=True)
    assert len(train(Gappy(), model, ReplayBuffer(200), epochs=60, batch_size=8)) == 60
    assert np.isfinite(model(np.array([np.nan, 1.0]))).all()
    with pytest.raises(EnvironmentFault, match="missing"):
        train(Gappy(), AttentionDQN(2, 2, 8), ReplayBuffer(200), epochs=6, batch_size=8)


# -- wrappers ----------------------------------------------------------------------------------------------------


def normalised_walk() -> gymnasium.Env:
    return gymnasium.wrappers.NormalizeReward(gymnasium.wrappers.NormalizeObservation(Walk()))


NOTES = [
    f"the statistics of {name} are not saved with the run, and evaluation begins with new ones; leave the wrapper "
    f"out and set {setting}"
    for name, setting in (
        ("NormalizeReward", "reward.normalize=true"),
        ("NormalizeObservation", "observation.normalize=true"),
    )
]


def test_statistics_of_a_wrapper_are_said_not_to_be_kept():
    class Told:
        def __init__(self):
            self.notes: list[str] = []

        def on_note(self, trainer: Trainer, text: str) -> None:
            self.notes.append(text)

    told = Told()
    with Trainer(normalised_walk, steps=40, callbacks=[told], **SMALL) as trainer:
        trainer.learn(4)
    assert [note for note in told.notes if note in NOTES] == NOTES


def test_they_are_said_of_workers_too_and_of_no_other_environment():
    with closing(make_host(normalised_walk, seed=0, asynchronous=True)) as envs:
        assert [note for note in envs.notes if note in NOTES] == NOTES
    with closing(make_host(Walk, seed=0)) as envs:
        assert not set(envs.notes) & set(NOTES)
