"""A recording holds what evaluation plays, and what the agent knew at each step."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.explained import trained

from engram.agents.network import Previous
from engram.agents.policy import decide, still
from engram.agents.spec import AgentSpec, ReplaySpec
from engram.encoders.vector import VectorSpec
from engram.explaining import views
from engram.explaining.recording import record
from engram.external.episodic import EpisodicSpec
from engram.spaces import Box
from engram.working.gated import GRUSpec

PLAIN = AgentSpec(encoder=VectorSpec(widths=(8,)))
RECURRENT = replace(PLAIN, working=GRUSpec(hidden_size=4), replay=ReplaySpec(window=4))
RECALLS = replace(RECURRENT, external=EpisodicSpec(capacity=60, neighbours=5))
SPECS = {"plain": PLAIN, "gru": RECURRENT, "gru-episodic": RECALLS}


@pytest.mark.parametrize("env", ["engram/CartPole-v1", "CartPole-v1"])
def test_it_plays_as_evaluation_does(env: str):
    agent = trained(PLAIN, env)
    recording = record(agent, episodes=1, seed=4, pictured=False)
    assert [one.total for one in recording.episodes] == agent.evaluate(1, seed=4).returns
    assert recording.episodes[0].terminated
    assert not recording.episodes[0].truncated


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("env", ["engram/CartPole-v1", "CartPole-v1"])
def test_the_kept_state_before_a_step_gives_its_decision_again(spec: AgentSpec, env: str):
    """With two episodes, of which the second must not begin with what the first remembered."""
    agent = trained(spec, env, fill=40 * spec.has_external)
    recording = record(agent, episodes=2, pictured=False)
    for episode in recording.episodes:
        kept, mind = episode.kept, recording.mind
        assert kept.is_first.tolist() == [True] + [False] * (episode.length - 1)
        before = np.zeros(episode.length, np.int32) if kept.state.action is None else kept.state.action
        given = episode.carry, kept.state.frames, kept.is_first, Previous(before, kept.reward)
        again = decide(spec, mind, *jax.tree.map(jnp.asarray, given), still(mind.network, episode.length))[1]
        np.testing.assert_allclose(again.preference, kept.preference, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(kept.action, kept.preference.argmax(-1))
        np.testing.assert_array_equal(kept.reward[1:], episode.reward[:-1])


def test_episodes_that_take_too_much_room_are_cut_and_it_says_so():
    recording = record(trained(PLAIN, "CartPole-v1"), room=800, pictured=False)
    assert recording.episodes[0].length < 8
    assert recording.episodes[0].truncated
    assert recording.notes == [
        f"1 of 1 episodes had not ended after {recording.episodes[0].length} steps and were cut off there"
    ]


def test_an_environment_that_renders_is_seen_and_one_that_does_not_is_not():
    drawn = record(trained(PLAIN, "CartPole-v1"), max_episode_steps=3).episodes[0].pictures
    assert [one.shape for one in drawn] == [(200, 300, 3)] * 3
    assert any((one != other).any() for one, other in pairwise(drawn))


class Image(gymnasium.Env):
    """An observation that is a picture of its step."""

    observation_space = gymnasium.spaces.Box(0, 255, (4, 5), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, **_: Any) -> Any:
        self.step_number = 0
        return np.zeros((4, 5), np.uint8), {}

    def step(self, action: Any) -> Any:
        self.step_number += 1
        return np.full((4, 5), self.step_number, np.uint8), 1.0, self.step_number == 3, False, {}


def test_an_image_is_its_own_picture():
    agent = PLAIN.build(Box((4, 5), "uint8"), 2, 1)
    mine = trained(PLAIN)
    plan = replace(mine.plan, env=None, space=Box((4, 5), "uint8"), actions=2)
    from engram.play.trained import TrainedAgent

    images = TrainedAgent(plan, [agent.mind(agent.init(jax.random.PRNGKey(0)))], Image())
    drawn = record(images).episodes[0].pictures
    assert [one[0, 0].tolist() for one in drawn] == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]


def test_pictures_have_three_colours_and_a_bounded_size():
    assert views.as_picture(np.zeros((84, 84), np.uint8)).shape == (84, 84, 3)
    assert views.as_picture(np.zeros((3, 40, 50), np.uint8)).shape == (40, 50, 3)
    large = np.tile(np.array([[0, 200], [100, 100]], np.uint8), (320, 320))
    assert views.as_picture(large).shape == (320, 320, 3)
    assert (views.as_picture(large) == 100).all()
    assert views.as_picture(np.zeros((4, 4), np.float32)) is None
    assert views.as_picture(np.zeros((7, 7, 9), np.uint8)) is None


@pytest.mark.parametrize(
    ("around", "egl", "expected"),
    [
        ({}, "libEGL.so.1", "egl"),
        ({}, None, None),  # without the library MuJoCo could not even be imported
        ({"MUJOCO_GL": "osmesa"}, "libEGL.so.1", "osmesa"),
        ({"DISPLAY": ":0"}, "libEGL.so.1", None),
    ],
)
def test_without_a_screen_mujoco_draws_by_egl(monkeypatch: pytest.MonkeyPatch, around, egl, expected):
    """It would look for a screen, and end the process."""
    monkeypatch.setattr(views.sys, "platform", "linux")
    monkeypatch.setattr(views, "find_library", lambda name: egl)
    monkeypatch.setattr(views.os, "environ", dict(around))
    views.without_screen()
    assert views.os.environ.get("MUJOCO_GL") == expected
    assert ("SDL_VIDEODRIVER" in views.os.environ) == ("DISPLAY" not in around)
