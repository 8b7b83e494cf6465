"""Playing keeps what it is asked to keep and is otherwise evaluation, on the host and on the device."""

import itertools
from contextlib import closing
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.text_games import Coin

from engram.agents.policy import Look, Mind, Seen
from engram.agents.q_learning import QLearner
from engram.agents.spec import AgentSpec, ReplaySpec
from engram.encoders.vector import VectorSpec
from engram.envs.device import make_device
from engram.envs.host.make import make_host
from engram.envs.tasks.cartpole import CartPoleState
from engram.envs.textgames.game import TextGame
from engram.errors import SpecError
from engram.play.playing import play_device, play_host
from engram.working.gated import GRUSpec

PLAIN = AgentSpec(encoder=VectorSpec(widths=(8,)))
SPECS = {"plain": PLAIN, "gru": replace(PLAIN, working=GRUSpec(hidden_size=4), replay=ReplaySpec(window=4))}
CARTPOLE = make_device("engram/CartPole-v1")
KEY = jax.random.PRNGKey(3)


def q_and_action(seen: Seen, looked: Look) -> dict[str, Any]:
    return {
        "q": looked.decision.q, "action": looked.decision.preference.argmax(-1), "seen": seen.observation,
        "is_first": seen.is_first,
    }  # fmt: skip


def mind_of(spec: AgentSpec) -> Mind:
    agent = QLearner(spec, CARTPOLE.observation_space, CARTPOLE.actions)
    return agent.mind(agent.init(KEY))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_what_is_kept_on_the_host_changes_nothing_and_fits_what_was_played(spec: AgentSpec):
    """Five episodes in two environments: three in the first, two in the second."""
    mind = mind_of(spec)
    with closing(make_host("CartPole-v1", seed=5, envs=2)) as envs:
        plain = play_host(mind, spec, envs, 5)
    with closing(make_host("CartPole-v1", seed=5, envs=2)) as envs:
        step, taken = envs.step, []
        envs.step = lambda action: taken.append(np.array(action)) or step(action)
        played = play_host(mind, spec, envs, 5, q_and_action)
    assert (plain.kept, plain.running) == (None, None)
    assert (played.returns, played.lengths) == (plain.returns, plain.lengths)
    kept, running = played.kept, np.asarray(played.running)
    steps = len(taken)
    assert kept["q"].shape == (steps, 2, 2)
    assert running.shape == (steps, 2)
    assert kept["seen"].shape == (steps, 2, 4)
    np.testing.assert_array_equal(kept["q"].argmax(-1), taken)
    np.testing.assert_array_equal(kept["action"], taken)
    # Each environment's counted steps are its first ones, as many as its counted episodes took together.
    np.testing.assert_array_equal(running.sum(0), [sum(played.lengths[:3]), sum(played.lengths[3:])])
    assert (np.diff(running.astype(int), axis=0) <= 0).all()
    begun = np.where(running, kept["is_first"], False).sum(0)
    np.testing.assert_array_equal(begun, [3, 2])


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_what_is_kept_on_the_device_changes_nothing_and_fits_what_was_played(spec: AgentSpec):
    """An untrained agent's pole falls within 200 steps, so that every episode ends within those that are kept."""
    mind, steps = mind_of(spec), 200
    plain = play_device(CARTPOLE, mind, KEY, spec=spec, episodes=3)
    played = play_device(CARTPOLE, mind, KEY, spec=spec, episodes=3, keep=q_and_action, steps=steps)
    assert (plain.kept, plain.running) == (None, None)
    np.testing.assert_array_equal(played.returns, plain.returns)
    np.testing.assert_array_equal(played.lengths, plain.lengths)
    assert int(jnp.max(played.lengths)) < steps
    kept, running = played.kept, np.asarray(played.running)
    assert kept["q"].shape == (steps, 3, 2)
    np.testing.assert_array_equal(kept["q"].argmax(-1), kept["action"])
    np.testing.assert_array_equal(running, np.arange(steps)[:, None] < np.asarray(played.lengths))
    # An observation is what the environment shows after the action of the row before.
    before = CartPoleState(jnp.asarray(kept["seen"]), jnp.zeros((steps, 3), jnp.int32))
    after = jax.vmap(jax.vmap(CARTPOLE.step, (0, 0, None)), (0, 0, None))(before, kept["action"], KEY)[1].observation
    both = running[1:] & running[:-1]
    np.testing.assert_allclose(kept["seen"][1:][both], after[:-1][both], atol=1e-6)


def test_the_host_tells_which_episodes_met_their_goal_where_an_environment_says_so():
    """Commands are taken in turn, so that a game is won in one of two episodes, before the limit."""
    turns = itertools.cycle(["go east", "go east", "take coin", *["examine wall 0"] * 4])
    with closing(make_host(lambda: TextGame([Coin]), seed=5, max_episode_steps=4)) as envs:
        game = envs._episodes[0].env
        played = play_host(
            mind_of(PLAIN), PLAIN, envs, 2, limit=4, choose=lambda *_: np.array([game.commands.index(next(turns))])
        )
    assert (played.lengths, played.returns, np.asarray(played.successes).tolist()) == ([3, 4], [1, 0], [True, False])


def test_the_host_tells_of_every_step_and_the_device_lets_its_environment_be_watched():
    mind, told = mind_of(PLAIN), []
    with closing(make_host("CartPole-v1", seed=5, envs=1)) as envs:
        played = play_host(mind, PLAIN, envs, 1, tell=told.append)
    assert told[0] is None
    assert [bool(step.done[0]) for step in told[1:]] == [False] * (played.lengths[0] - 1) + [True]
    assert sum(float(step.reward[0]) for step in told[1:]) == played.returns[0]

    def watch(state: Any, step: Any) -> Any:
        return state.physics, step.reward, step.terminated

    on_device = play_device(CARTPOLE, mind, KEY, spec=PLAIN, episodes=2, keep=q_and_action, steps=60, watch=watch)
    numbers, reward, terminated = on_device.watched
    running = np.asarray(on_device.running)
    np.testing.assert_allclose(numbers[running], on_device.kept["seen"][running])
    np.testing.assert_array_equal(np.where(running, reward, 0).sum(0), on_device.returns)
    assert np.asarray(terminated)[np.asarray(on_device.lengths) - 1, [0, 1]].all()
    with pytest.raises(SpecError, match="steps = None was given with `watch`"):
        play_device(CARTPOLE, mind, KEY, spec=PLAIN, episodes=2, watch=watch)


def test_keeping_on_the_device_needs_a_number_of_steps():
    with pytest.raises(SpecError) as caught:
        play_device(CARTPOLE, mind_of(PLAIN), KEY, spec=PLAIN, episodes=2, keep=q_and_action)
    assert str(caught.value) == "steps = None was given with `keep`; expected how many steps to keep"


def test_an_episode_that_is_not_over_by_then_is_cut_off():
    played = play_device(CARTPOLE, mind_of(PLAIN), KEY, spec=PLAIN, episodes=2, keep=q_and_action, steps=4)
    np.testing.assert_array_equal(played.lengths, [4, 4])
    np.testing.assert_array_equal(played.returns, [4.0, 4.0])
    assert np.asarray(played.running).all()
