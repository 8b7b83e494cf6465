"""Drawing: what a draw keeps about the rows, what it weighs, and the rows that are most alike."""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram import spaces, specs
from engram.agents import examples
from engram.agents.agent import AgentState, Experience
from engram.agents.q_learning import QLearner
from engram.agents.spec import AgentSpec, ReplaySpec
from engram.encoders.vector import VectorSpec
from engram.heads.q import QSpec
from engram.heads.returns import CategoricalSpec, QuantileSpec
from engram.losses.distributional import CrossEntropySpec, QuantileHuberSpec
from engram.losses.regression import HuberSpec, SquaredSpec
from engram.registry import register
from engram.replay import sampling
from engram.replay.draw import Drawn
from engram.replay.prioritized import PrioritizedSpec
from engram.replay.similar import SimilarSpec, most_similar
from engram.types import TimeStep

KEY = jax.random.PRNGKey(0)
SPEC = AgentSpec(
    encoder=VectorSpec(widths=(8,)), replay=ReplaySpec(capacity=40, batch_size=16, start=16), loss=SquaredSpec(),
    discount=0.5,
)  # fmt: skip
NEW = 7.0  # the priority of a row that was never learned from


@register("draw", "test-priorities")
@specs.spec
class PrioritiesSpec:
    """A uniform draw that keeps a priority for each row, and weighs every example by `weight`; 0 for no weights."""

    weight: float = 0.5

    words = 1
    compares = False

    def init(self, rows, lanes):
        return jnp.zeros((rows, lanes))

    def grown(self, state, growth):
        before, after = growth.before, growth.after
        age = after.cursor - 1 - jnp.arange(after.capacity)[:, None]  # of the row that place 0 would hold
        number = after.cursor - 1 - age % after.capacity  # the newest row of each place
        return jnp.where((number >= before.cursor) & (number >= 0), NEW, state)

    def draw(self, state, ring, reach, bits, embed):
        row, lane = sampling.uniform_rows(ring, bits[:, 0], reach.after, reach.before)
        return Drawn(row, lane, jnp.full(len(bits), self.weight) if self.weight else None)

    def learned(self, state, drawn, surprise, keep):
        place = jnp.where(keep, drawn.row % state.shape[0], state.shape[0])
        return state.at[place, drawn.lane].set(surprise.error, mode="drop")


def agent(weight: float = 0.5, **changes: Any) -> QLearner:
    return QLearner(replace(SPEC, draw=PrioritiesSpec(weight=weight), **changes), spaces.Box((2,)), 2, 1)


@cache
def compiled(one: QLearner) -> tuple[Any, Any]:
    return jax.jit(one.observe), jax.jit(one.learn)


def steps(rewards: list[float], ends: tuple[int, ...] = ()) -> Experience:
    shape = (len(rewards), 1)
    seen = jnp.asarray(np.random.default_rng(0).normal(size=(*shape, 2)), jnp.float32)
    done = jnp.array([[number in ends] for number in range(len(rewards))])
    opens = jnp.array([[number == 0 or number - 1 in ends] for number in range(len(rewards))])
    row = TimeStep(seen, opens, jnp.zeros(shape, jnp.int32), jnp.array(rewards).reshape(shape), done)
    return Experience(row, done, seen, jnp.ones(shape, bool), None)


def filled(one: QLearner, reward: float = 1.0, ends: tuple[int, ...] = ()) -> AgentState:
    return compiled(one)[0](one.init(KEY), steps([reward] * 20, ends))


def test_new_rows_are_marked_and_rows_that_were_learned_from_get_their_error():
    one = agent()
    observe, learn = compiled(one)
    state = filled(one, ends=(4,))
    np.testing.assert_array_equal(state.replay.drawing[:, 0], [NEW] * 21 + [0.0] * 19)  # 20 steps and a final row
    _, bits = examples_bits(one, state)
    drawn, batch = examples.draw(one.spec, state.learner.params, state.replay, bits)
    learner = state.learner
    _, scored = examples.loss(one.spec, None, learner.params, learner.target, batch, drawn.importance, examples.score)
    after, _ = learn(state)
    expected = np.asarray(state.replay.drawing)[:, 0].copy()
    for row, error, weight in zip(drawn.row.tolist(), np.asarray(scored.error), batch.start.weight, strict=True):
        expected[row % 40] = error * weight
    np.testing.assert_allclose(after.replay.drawing[:, 0], expected, rtol=1e-5, atol=1e-6)
    q = np.asarray(jax.vmap(learner.params)(batch.observation, batch.bits[:, 0]).returns.q)[:, 0]
    following = np.asarray(jax.vmap(learner.target)(batch.following, batch.bits[:, 0]).returns.q).max(1)
    target = 1.0 + np.asarray(batch.start.step.discount) * following
    np.testing.assert_allclose(scored.error, np.abs(target - q), rtol=1e-4, atol=1e-6)
    assert (after.replay.drawing[:21, 0] != NEW).any()
    # The ring wraps: rows 21 to 45, of which the last six lie in places 0 to 5.
    again = observe(after, steps([1.0] * 20))
    again = observe(again, steps([1.0] * 5))
    place = np.r_[21:40, 0:6]
    np.testing.assert_array_equal(again.replay.drawing[place, 0], NEW)
    left = np.setdiff1d(np.arange(40), place)
    np.testing.assert_array_equal(again.replay.drawing[left, 0], after.replay.drawing[left, 0])


def examples_bits(one: QLearner, state: AgentState) -> tuple[Any, Any]:
    """The bits that the next update draws with."""
    from engram.bits import next_words

    words = examples.words(one.spec, state.learner.params)
    key, bits = next_words(state.learner.key, words * one.spec.replay.batch_size)
    return key, bits.reshape(words, -1).T


LOSSES: dict[str, dict[str, Any]] = {
    "squared": {},
    **{f"huber {width}": {"loss": HuberSpec(width=width)} for width in (0.01, 1.0, 100.0)},
    **{
        f"quantile-huber {width}": {
            "loss": QuantileHuberSpec(width=width),
            "head": QSpec(returns=QuantileSpec(quantiles=8)),
        }
        for width in (0.0, 0.01, 1.0)
    },
    "cross-entropy": {"loss": CrossEntropySpec(), "head": QSpec(returns=CategoricalSpec(atoms=9, low=-2.0, high=4.0))},
}


@pytest.mark.parametrize("changes", LOSSES.values(), ids=LOSSES)
def test_importance_scales_the_loss_and_its_gradient_and_leaves_the_count_of_rows(changes: dict[str, Any]):
    """Whatever the width of the loss: an error within it and one beyond it weigh the same."""
    one = agent(**changes)
    state = filled(one, ends=(4, 9))
    learner = state.learner
    drawn, batch = examples.draw(one.spec, learner.params, state.replay, examples_bits(one, state)[1])
    assert 0 < float(batch.start.weight.sum()) < len(drawn.row), "some are final rows, which teach nothing"

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def descend(params: Any, importance: Any) -> Any:
        return examples.loss(one.spec, None, params, learner.target, batch, importance, examples.score)

    (plain, scored), slope = descend(learner.params, None)
    np.testing.assert_allclose(plain, (scored.weight * scored.loss).sum() / scored.weight.sum(), rtol=1e-6)
    (half, _), halved = descend(learner.params, drawn.importance)
    np.testing.assert_array_equal(half, 0.5 * plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 0.5 * b, rtol=1e-6, atol=1e-9), halved, slope)
    uneven = jnp.asarray(np.random.default_rng(0).random(len(drawn.row)), jnp.float32)
    (some, _), _ = descend(learner.params, uneven)
    np.testing.assert_allclose(some, (uneven * scored.weight * scored.loss).sum() / scored.weight.sum(), rtol=1e-6)


def test_learning_weighs_by_the_importance_that_was_drawn():
    """With weight 1/2 the reported loss is half; the same rows are drawn, for the draws take the same words."""
    losses = []
    for weight in (0.0, 0.5):
        one = agent(weight)
        losses.append(float(compiled(one)[1](filled(one, ends=(4,)))[1]["loss"]))
    assert losses[0] > 0
    np.testing.assert_allclose(losses[1], 0.5 * losses[0], rtol=1e-6)


def test_an_update_that_is_not_finite_leaves_what_drawing_keeps_as_it_was():
    one = agent()
    state = filled(one, reward=float("inf"))
    after, _ = compiled(one)[1](state)
    assert int(after.learner.fault) == 1
    np.testing.assert_array_equal(after.replay.drawing, state.replay.drawing)


def test_an_error_that_is_not_finite_is_refused_where_the_loss_is():
    """Atoms end at their range: the loss of an infinite target is that of the last one, and its error is infinite."""
    spec = replace(
        SPEC, head=QSpec(returns=CategoricalSpec(low=-1.0, high=1.0)), loss=CrossEntropySpec(), draw=PrioritizedSpec()
    )
    one = QLearner(spec, spaces.Box((2,)), 2, 1)
    state = filled(one, reward=float("inf"))
    after, told = compiled(one)[1](state)
    assert np.isfinite(told["loss"])
    assert one.fault(after, 100, [0]).startswith("the loss, its gradient or an error was not finite at update 1")
    same = partial(jax.tree.map, np.testing.assert_array_equal)
    same((after.learner.params, after.replay.drawing), (state.learner.params, state.replay.drawing))


def test_the_last_row_of_an_episode_is_drawn_once_and_never_again():
    """It has no target. Its weight would be the least of a batch, to which the others are relative."""
    one = QLearner(replace(SPEC, draw=PrioritizedSpec()), spaces.Box((2,)), 2, 1)
    state = filled(one, ends=(4,))  # row 5 shows what the episode ended with
    leaves = [np.asarray(state.replay.drawing.sums[-1])[:40]]
    for _ in range(30):
        state, _ = compiled(one)[1](state)
        leaves.append(np.asarray(state.replay.drawing.sums[-1])[:40])
    final = [leaf[5] for leaf in leaves]
    assert set(final) == {final[0], 0.0}
    assert final[0] > 0 == final[-1]
    assert final == sorted(final, reverse=True), "what was given up does not come back"
    assert (leaves[-1][[*range(5), *range(6, 20)]] > 0).all()


def test_the_surprise_of_a_window_is_mostly_its_greatest_error():
    """0.9 * 4 + 0.1 * (1 + 4) / 2: the row of weight 0 counts for nothing; and a window that teaches nothing is 0."""
    error, weight = jnp.array([[1.0, 4.0, 9.0], [5.0, 5.0, 5.0]]), jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    scored = examples.Scored(error, 2 * error, error, error, weight)
    surprise = examples.surprise(scored)
    assert surprise.taught is None
    np.testing.assert_allclose(surprise.error, [0.9 * 4 + 0.1 * 2.5, 0.0], rtol=1e-6)
    np.testing.assert_allclose(surprise.loss, 2 * surprise.error, rtol=1e-6)
    alone = examples.Scored(*[jnp.array([3.0, 2.0])] * 4, jnp.array([1.0, 0.0]))
    np.testing.assert_array_equal(examples.surprise(alone).error, [3.0, 0.0])
    np.testing.assert_array_equal(examples.surprise(alone).taught, [True, False])


@pytest.mark.parametrize("draw", [SimilarSpec(candidates=8), SimilarSpec(candidates=2)], ids=str)
def test_similar_takes_a_word_for_each_candidate_and_draws_rows_that_may_start(draw: SimilarSpec):
    one = QLearner(replace(SPEC, draw=draw), spaces.Box((2,)), 2, 1)
    state = compiled(one)[0](one.init(KEY), steps([1.0] * 20))
    assert examples.words(one.spec, state.learner.params) == draw.candidates
    drawn, _ = examples.draw(one.spec, state.learner.params, state.replay, examples_bits(one, state)[1])
    assert drawn.row.shape == (16,)
    assert drawn.importance is None
    assert ((drawn.row >= 0) & (drawn.row < 19)).all()


def test_similar_rows_are_learned_from():
    one = QLearner(replace(SPEC, draw=SimilarSpec(candidates=8)), spaces.Box((2,)), 2, 1)
    angles = np.linspace(0, 3, 39).astype(np.float32)
    given = steps([0.0] * 39)
    seen = jnp.stack([angles, np.cos(angles)], 1)[:, None]
    given = given._replace(row=replace(given.row, observation=seen), final_observation=seen)
    state = compiled(one)[0](one.init(KEY), given)
    ring, params = state.replay.ring, state.learner.params
    rows, lanes = jnp.arange(1, 33, 4), jnp.zeros(8, jnp.int32)

    def embed(row: Any, lane: Any) -> Any:
        return params.embed(sampling.stacked(ring, row, lane, 1))

    kept = np.asarray(jax.jit(lambda: most_similar(ring, rows, lanes, 2, embed))())
    newest, *embedded = np.asarray(jax.vmap(params.embed)(ring.rows.observation[jnp.r_[38, rows]]))
    alike = [float(e @ newest / (np.linalg.norm(e) * np.linalg.norm(newest) + 1e-9)) for e in embedded]
    assert set(kept.tolist()) == set(np.argsort(alike)[-2:].tolist())
