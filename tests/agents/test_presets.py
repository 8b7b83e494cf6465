"""Presets: what they take for granted of a space, and that they say so."""

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces as gym_spaces

from engram import spaces, specs
from engram.agents.fitting import fitted
from engram.agents.presets import PRESETS, WITHOUT_REPLAY, kind_of, preset
from engram.agents.q_learning import QLearner
from engram.agents.spec import AgentSpec
from engram.agents.told import assumptions
from engram.envs.host.make import make_host
from engram.run import making, planning
from engram.run.trainer import Trainer
from engram.spaces import Box, Dict

IMAGE = Box((84, 84, 3), "uint8")


@pytest.mark.parametrize(
    ("space", "kind"),
    [
        (Box((8, 2)), "vector"),
        (Box((10, 10)), "vector"),
        (Box((8, 40)), "vector"),
        (Box((15, 7), unordered=True), "entities"),
        (Dict((("entities", Box((5, 3))), ("mask", Box((5,), "bool")))), "entities"),
        (Dict((("entities", spaces.Discrete(3)), ("mask", Box((5,), "bool")))), "vector"),
        (Dict((("action_mask", Box((2,), "int8")), ("observation", Box((8, 2))))), "vector"),
        (IMAGE, "pixels"),
        (Box((10, 10, 4), "bool"), "grid"),
    ],
    ids=str,
)
def test_only_a_space_that_says_so_is_a_set(space: spaces.Space, kind: str):
    assert kind_of(space) == kind
    for name in PRESETS:
        preset(name, space, 1000)


def test_the_order_of_rows_is_said_with_the_way_out():
    told = assumptions(preset("auto", Box((8, 2)), 1000), Box((8, 2)))
    assert told == ["the 8 x 2 numbers keep order and place; if the rows are a set: encoder=entities"]
    rows = Box((8, 2), unordered=True)
    assert assumptions(preset("auto", rows, 1000), rows) == []
    assert assumptions(preset("auto", Box((4,)), 1000), Box((4,))) == []


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_clips_rewards_by_itself(name: str):
    assert preset(name, IMAGE, 10_000).reward_clip == 0
    assert preset(name, IMAGE, 10_000, reward_clip=1.0).reward_clip == 1


def test_what_changes_the_task_or_the_numbers_is_said():
    told = assumptions(preset("r2d2", IMAGE, 10_000, reward_clip=1.0), IMAGE)
    assert told == [
        "numbers are scaled to within -1..1 by their bounds, 0..255",
        "rewards are learned from within +-1, which changes the task; what is reported is not clipped (reward_clip=0: "
        "as they are)",
        "returns are discounted by 0.997 a step, which may change what is best (discount=)",
    ]
    assert assumptions(AgentSpec(), spaces.Discrete(300_000)) == ["300,000 categories are read as 2 digits of 548 each"]


class Pictures(gymnasium.Env):
    """Shows a blank picture and pays 2, 10 or 3."""

    observation_space = gym_spaces.Box(0, 255, (40, 40, 1), np.uint8)
    action_space = gym_spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros((40, 40, 1), np.uint8), {}

    def step(self, action: Any) -> Any:
        return np.zeros((40, 40, 1), np.uint8), (2.0, 10.0, 3.0)[action], True, False, {}


class Notes:
    def __init__(self):
        self.said: list[str] = []

    def on_note(self, trainer: Any, text: str) -> None:
        self.said.append(text)


def test_rewards_are_clipped_where_the_field_does_and_nowhere_else():
    pytest.importorskip("ale_py")
    assert Trainer(Pictures, steps=100).plan.agent.reward_clip == 0
    for env in ("ALE/Pong-v5", lambda: gymnasium.make("ALE/Pong-v5", frameskip=1)):
        with Trainer(env, steps=100) as trainer:
            assert trainer.plan.agent.reward_clip == 1
    with Trainer("ALE/Pong-v5", steps=100, reward_clip=0) as trainer:
        assert trainer.plan.agent.reward_clip == 0
    workers = make_host("ALE/Pong-v5", seed=0, asynchronous=True)
    workers.close()
    assert workers.reward_clip == 1


def test_a_run_says_what_was_taken_for_granted():
    notes = Notes()
    with Trainer("ALE/Pong-v5", steps=2, callbacks=(notes,), overrides={"replay.capacity": 1000}) as trainer:
        trainer.learn()
    assert any("rewards are learned from within +-1" in said for said in notes.said)


# Numbers that nobody typed.


@pytest.mark.parametrize("envs", [1, 3, 6, 8])
@pytest.mark.parametrize("steps", [20, 300, 3000, 50_000])
@pytest.mark.parametrize("name", [name for name in PRESETS if name not in WITHOUT_REPLAY])
def test_no_number_of_a_preset_is_the_reason_of_a_refusal(name: str, steps: int, envs: int):
    for changes in ({}, {"replay.start": 64 * envs}, {"replay.capacity": 400 * envs}, {"replay.window": 100}):
        if name not in ("drqn", "r2d2", "dtqn", "lru-dqn") and "replay.window" in changes:
            continue
        if preset(name, Box((4,)), steps).replay.window > 60 and "replay.start" in changes:
            continue  # a window that was typed by nobody, but is longer than what is to be learned from
        fit = partial(fitted, given=changes, steps=steps, envs=envs)
        spec = specs.override_all(preset(name, Box((4,)), steps), changes, fit)
        QLearner(spec, Box((4,)), 2, envs)
        for path, value in changes.items():
            assert {row[0]: row[2] for row in specs.describe(spec)}[path] == value


def test_which_presets_learn_from_rollouts_is_what_their_specs_say():
    assert {name for name in PRESETS if preset(name, Box((4,)), 1_000).from_rollouts} == WITHOUT_REPLAY


@pytest.mark.parametrize("envs", [1, 3, 6, 8])
@pytest.mark.parametrize("steps", [20, 300, 50_000])
@pytest.mark.parametrize("name", sorted(WITHOUT_REPLAY))
def test_no_number_of_a_rollout_that_nobody_typed_is_the_reason_of_a_refusal(name: str, steps: int, envs: int):
    for changes in ({}, {"rollout.steps": 7}, {"working": "gru"}):
        made = preset(name, Box((4,)), steps)
        spec = specs.override_all(made, changes, lambda spec: spec.fitted(changes, steps, envs))  # noqa: B023
        agent = spec.build(Box((4,)), 2, envs)
        whole = -(-steps // envs) * envs  # a run ends with a step of all environments
        assert changes or agent.rhythm.first <= whole
        for path, value in changes.items():
            assert {row[0]: row[2] for row in specs.describe(spec)}[path] == value


@pytest.mark.parametrize("name", PRESETS)
def test_numbers_that_fit_stay_as_the_preset_chose_them(name: str):
    chosen = preset(name, Box((4,)), 50_000)
    assert chosen.fitted((), 50_000, 8 if name in WITHOUT_REPLAY else 1) == chosen


def test_a_short_run_learns_all_the_same():
    spec = fitted(preset("lru-dqn", Box((4,)), 400), (), 400, 1)
    assert spec.replay.start == spec.rows < 400


def test_learning_begins_with_the_rows_that_annealed_targets_need():
    """Nobody typed when learning begins, so the larger n of the annealing is no reason to refuse a short run."""
    fit = partial(fitted, given=["anneal.updates"], steps=500, envs=8)
    spec = specs.override_all(preset("dqn", Box((4,)), 500), {"anneal.updates": 1_000, "anneal.n_step": 10}, fit)
    assert spec.replay.start == QLearner(spec, Box((4,)), 2, 8).envs * 11


def test_a_burn_in_follows_a_shorter_window():
    fit = partial(fitted, given=["replay.window"], steps=9999, envs=1)
    spec = specs.override_all(preset("r2d2", Box((4,)), 9999), {"replay.window": 30}, fit)
    assert (spec.replay.window, spec.replay.burn_in) == (30, 10)


def test_the_replay_of_large_pictures_is_fitted_to_the_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(planning, "available", lambda: 10**9)
    monkeypatch.setattr(making, "check_fits", lambda parts: None)
    notes = Notes()
    with Trainer(Pictures, steps=1_000_000, callbacks=(notes,)) as trainer:
        capacity = trainer.plan.agent.replay.capacity
    assert 10**9 / 2 / 1700 < capacity < 10**9 / 2 / 1600
    with Trainer(Pictures, steps=1_000_000, replay__capacity=700_000) as trainer:
        assert trainer.plan.agent.replay.capacity == 700_000
