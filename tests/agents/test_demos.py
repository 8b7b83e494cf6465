"""Demonstrations that are kept: which rows are drawn, what is learned of them, and what drawing keeps about them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram import spaces, specs
from engram.agents import demos, examples
from engram.agents.agent import AgentState, Experience
from engram.agents.presets import preset
from engram.agents.q_learning import QLearner
from engram.agents.spec import AgentSpec
from engram.bits import next_words
from engram.errors import SpecError
from engram.testing import check_agent
from engram.types import TimeStep

KEY = jax.random.PRNGKey(0)
SPACE = spaces.Box((3,))
STEPS = 5  # of the demonstration
SMALL: dict[str, Any] = {
    "encoder.widths": (8,), "replay.capacity": 40, "replay.batch_size": 12, "replay.start": 10, "demos.ratio": 0.25,
}  # fmt: skip
WINDOWS = {"working": "gru", "working.hidden_size": 4, "replay.window": 4, "observation.previous_action": True}


def agent(**settings: Any) -> QLearner:
    return QLearner(specs.override_all(preset("dqn", SPACE, 100), SMALL | settings), SPACE, 3, 1, STEPS + 1)


def steps(count: int, first: float, room: int) -> Experience:
    """One episode of `count` steps that is cut off, its observations counting up, in a block with more room."""
    number = np.arange(room)
    shown = (first + number[:, None, None] + np.zeros((1, 1, 3))).astype(np.float32)
    within = (number < count)[:, None]
    row = TimeStep(
        observation=jnp.asarray(shown), is_first=jnp.asarray(number == 0)[:, None],
        action=jnp.asarray(number % 3, jnp.int32)[:, None], reward=jnp.asarray(number, jnp.float32)[:, None],
        terminated=jnp.zeros((room, 1), bool),
    )  # fmt: skip
    return Experience(row, jnp.asarray(number == count - 1)[:, None], jnp.asarray(shown + 1), jnp.asarray(within), None)


@partial(jax.jit, static_argnums=0)
def shown(one: QLearner) -> AgentState:
    """With one demonstration, of 100, 101, ..."""
    return demos.keep(one, one.init(KEY), steps(STEPS, 100.0, 8))


@partial(jax.jit, static_argnums=0)
def filled(one: QLearner) -> AgentState:
    """The same, and with an episode of its own, of 0, 1, ..."""
    return one.observe(shown(one), steps(12, 0.0, 12))


@partial(jax.jit, static_argnums=(0, 2))
def batch_of(one: QLearner, state: AgentState, size: int = 12) -> tuple[demos.Both, Any]:
    words = examples.words(one.spec, state.learner.params)
    bits = next_words(state.learner.key, words * size)[1].reshape(size, words)
    return demos.draw(one.spec, state.learner.params, state.replay, bits)


@pytest.mark.parametrize("draw", ["uniform", "prioritized"])
@pytest.mark.parametrize("n_step", [1, 3])
def test_a_share_of_a_batch_is_drawn_from_them_every_row_of_the_last_one_too(draw: str, n_step: int):
    one = agent(draw=draw, n_step=n_step)
    state = filled(one)
    drawn, batch = batch_of(one, state, 400)
    first = np.asarray(batch.observation)[:, 0, 0]
    assert (first[:100] >= 100).all()
    assert (first[100:] < 100).all()
    assert set(first[:100]) == {100.0 + row for row in range(STEPS + 1)}
    weight = np.asarray(batch.start.weight)[:100]
    np.testing.assert_array_equal(weight, first[:100] < 100 + STEPS, "the final observation teaches nothing")
    # r + gamma r' + ... up to the final observation, which it bootstraps from
    number = first[:100] - 100
    known = sum(0.99**k * np.where(number + k < STEPS, number + k, 0) for k in range(n_step))
    np.testing.assert_allclose(np.asarray(batch.start.step.reward)[:100][weight > 0], known[weight > 0], rtol=1e-5)
    ahead = np.asarray(batch.following)[:100, 0, 0][weight > 0]
    np.testing.assert_array_equal(ahead, np.minimum(first[:100] + n_step, 100 + STEPS)[weight > 0])
    assert drawn.given is not None
    assert (drawn.importance is None) == (draw == "uniform")


@pytest.mark.slow
def test_an_agent_that_keeps_them_keeps_the_contract():
    check_agent(agent(draw="prioritized"))


def test_windows_of_them_end_with_their_episode():
    one = agent(**WINDOWS)
    _, batch = batch_of(one, filled(one), 400)
    frames, weight = np.asarray(batch.frames)[:100, :4, 0, 0], np.asarray(batch.start.weight)[:100]
    assert set(frames[weight > 0]) == {100.0 + row for row in range(STEPS)}, "each step is learned from"
    assert (weight.sum(1) > 0).any()
    assert (np.asarray(batch.frames)[100:] < 100).all()


def test_nothing_is_learned_of_none():
    """The agent of a plan before its demonstrations are put in."""
    one = agent()
    _, batch = batch_of(one, jax.jit(one.init)(KEY), 40)
    assert np.asarray(batch.start.weight)[:10].tolist() == [0.0] * 10


@pytest.mark.parametrize("returns", ["scalar", "categorical", "quantile"])
def test_the_margin_is_added_on_demonstrations_alone(returns: str):
    loss = {"scalar": "huber", "categorical": "cross-entropy", "quantile": "quantile-huber"}[returns]
    plain = agent(**{"head.returns": returns, "loss": loss})
    weighted = agent(**{"head.returns": returns, "loss": loss, "demos.margin_weight": 0.5, "demos.margin": 0.7})
    state = filled(plain)
    nets = state.learner.params, state.learner.target
    found = []
    for one in (plain, weighted):
        drawn, batch = batch_of(one, state)
        scored = jax.jit(partial(examples.loss, one.spec, None, *nets, by=examples.score))
        found.append(scored(batch, drawn.importance)[1])
    more = np.asarray(found[1].loss - found[0].loss)
    bits = jnp.zeros(0, jnp.uint32)
    q = jax.jit(jax.vmap(lambda frames: nets[0](frames, bits).returns.q))(batch.observation)
    q, action = np.asarray(q, np.float64), np.asarray(batch.start.action)
    lacks = [max(q[i] + 0.7 * (np.arange(3) != action[i])) - q[i, action[i]] for i in range(12)]
    np.testing.assert_allclose(more[:3], 0.5 * np.array(lacks[:3]), rtol=1e-4, atol=1e-4)
    assert more[:3].min() >= 0 < more[:3].max()
    np.testing.assert_allclose(more[3:], 0.0, atol=1e-4)
    np.testing.assert_allclose(found[1].own, found[0].own, rtol=1e-4, err_msg="priorities are of the return alone")


def test_priorities_of_either_kind_are_kept_apart():
    one = agent(draw="prioritized")
    state = filled(one)
    before = state.replay
    after = jax.jit(one.learn)(state)[0].replay
    for then, now, rows in ((before, after, 12), (before.given, after.given, 6)):
        old, new = (np.asarray(replay.drawing.sums[-1]) for replay in (then, now))
        assert (old > 0).sum() == rows, "every row that may start an example, and no other"
        final = np.roll(np.asarray(then.ring.rows.is_first)[:, 0], -1)
        assert final[np.flatnonzero((old > 0) != (new > 0))].all(), "rows without a target alone are given up"
        assert (old != new).any()


def test_statistics_count_them():
    one = agent(**{"observation.normalize": True, "reward.normalize": True})
    state = shown(one)
    (scale,) = state.learner.statistics.scales.observation
    np.testing.assert_array_equal(scale.count, STEPS + 1)
    np.testing.assert_allclose(scale.origin + scale.mean, 100 + STEPS / 2, rtol=1e-5)
    assert float(state.learner.statistics.scales.reward.count) == STEPS


def test_a_stored_carry_is_an_empty_one():
    one = agent(**WINDOWS, **{"replay.stored_carry": True})
    state = shown(one)
    for leaf, empty in zip(
        jax.tree.leaves(state.replay.given.ring.rows.carry),
        jax.tree.leaves(state.learner.params.working.init()), strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(leaf[: STEPS + 1, 0], np.broadcast_to(empty, (STEPS + 1, *empty.shape)))


@pytest.mark.parametrize(("settings", "said"), [
    ({"demos.ratio": 0.0, "demos.margin_weight": 1.0}, "kept beside the replay; set demos.ratio=0.25"),
    ({"demos.ratio": 0.01}, "is 0 examples; a batch needs at least one of each kind: set a ratio from 0.083 to 0.92"),
    ({"demos.ratio": 1.0}, "is 12 examples; a batch needs at least one of each kind"),
    ({"draw": "similar"}, "draw=similar compares rows with the newest, which demonstrations do not have"),
])  # fmt: skip
def test_what_cannot_be_is_said(settings: dict[str, Any], said: str):
    with pytest.raises(SpecError, match=said):
        agent(**settings)


def test_an_agent_that_keeps_none_is_what_it_was():
    spec: AgentSpec = specs.override(agent().spec, "demos.ratio", 0.0)
    assert jax.eval_shape(QLearner(spec, SPACE, 3, 1, 6).init, KEY).replay.given is None
