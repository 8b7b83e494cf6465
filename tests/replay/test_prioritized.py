"""Prioritized draws: the tree against a plain dictionary, chances against theory, weights against the bias."""

from dataclasses import replace
from functools import partial
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from support.bad_envs import Walk

from engram import spaces
from engram.agents.q_learning import QLearner
from engram.agents.spec import AgentSpec, ReplaySpec
from engram.encoders.vector import VectorSpec
from engram.envs.host.make import make_host
from engram.errors import SpecError
from engram.losses.regression import SquaredSpec
from engram.registry import register
from engram.replay import ring as rings
from engram.replay.draw import Drawn, Growth, Reach, Surprise
from engram.replay.prioritized import FAN, Priorities, PrioritizedSpec
from engram.replay.sampling import startable
from engram.runners.host import HostRunner
from engram.specs import spec as settings_of
from engram.types import TimeStep

ROWS, LANES, BLOCK, BATCH = 40, 3, 4, 8
REACHES = (Reach(1, 0), Reach(4, 0), Reach(3, 2))
KEY = jax.random.PRNGKey(0)


def no_embedding(row: Any, lane: Any) -> Any:
    raise AssertionError("priorities compare nothing")


def rows(time: int = BLOCK) -> TimeStep:
    shape = (time, LANES)
    flags = jnp.zeros(shape, bool)
    return TimeStep(jnp.zeros((*shape, 1)), flags, jnp.zeros(shape, jnp.int32), jnp.zeros(shape), flags)


@partial(jax.jit, static_argnums=(0, 1))
def grow(spec: PrioritizedSpec, reach: Reach, state: Any, ring: Any, keep: Any) -> Any:
    after = rings.write(ring, rows(len(keep)), keep)
    return spec.grown(state, Growth(ring, after, reach, len(keep))), after


@partial(jax.jit, static_argnums=(0, 1))
def draw(spec: PrioritizedSpec, reach: Reach, state: Any, ring: Any, bits: Any) -> Drawn:
    return spec.draw(state, ring, reach, bits, no_embedding)


@partial(jax.jit, static_argnums=0)
def learn(spec: PrioritizedSpec, state: Any, drawn: Drawn, surprise: Surprise, keep: Any) -> Any:
    return spec.learned(state, drawn, surprise, keep)


def filled(spec: PrioritizedSpec, reach: Reach = REACHES[0], blocks: int = 9) -> tuple[Priorities, Any]:
    state, ring = spec.init(ROWS, LANES), rings.empty(spaces.Box((1,)), ROWS, LANES)
    for _ in range(blocks):
        state, ring = grow(spec, reach, state, ring, jnp.ones((BLOCK, LANES), bool))
    return state, ring


def held(state: Priorities) -> dict[tuple[int, int], float]:
    """The leaves that have something, by lane and place."""
    leaves = np.asarray(state.sums[-1])
    return {(int(at) // ROWS, int(at) % ROWS): float(leaves[at]) for at in np.flatnonzero(leaves)}


def check_sums(state: Priorities) -> None:
    for above, level in zip(state.sums, state.sums[1:], strict=False):
        sums = np.asarray(level).reshape(-1, FAN).sum(1)
        np.testing.assert_allclose(above[: len(sums)], sums, rtol=1e-5)
        assert not np.any(above[len(sums) :])


OPERATIONS = st.lists(
    st.tuples(st.integers(0, 2**12 - 1), st.booleans(), st.booleans(), st.integers(0, 2**31 - 1)), max_size=30
)


@given(reach=st.sampled_from(REACHES), operations=OPERATIONS)
@settings(max_examples=40)
def test_the_tree_holds_what_a_dictionary_holds(reach: Reach, operations: list):
    """Lanes grow by different numbers of rows and wrap; updates are refused, and rows drawn twice."""
    spec = PrioritizedSpec(exponent=0.5, floor=0.25)
    state, ring = spec.init(ROWS, LANES), rings.empty(spaces.Box((1,)), ROWS, LANES)
    model: dict[tuple[int, int], float] = {}  # the priority of a lane's row
    highest = 1.0
    for mask, learns, kept, seed in operations:
        keep = np.array([[mask >> (time * LANES + lane) & 1 for lane in range(LANES)] for time in range(BLOCK)], bool)
        state, ring = grow(spec, reach, state, ring, jnp.asarray(keep))
        first, count = map(np.asarray, startable(ring, reach.after, reach.before))
        now = {(lane, int(first[lane]) + step) for lane in range(LANES) for step in range(count[lane])}
        model = {row: model.get(row, highest) for row in now}
        if learns and now:
            bits = jax.random.bits(jax.random.PRNGKey(seed), (BATCH, spec.words), jnp.uint32)
            drawn = draw(spec, reach, state, ring, bits)
            error = np.random.default_rng(seed).exponential(size=BATCH).astype(np.float32)
            state = learn(spec, state, drawn, Surprise(jnp.asarray(error), jnp.zeros(BATCH)), jnp.bool_(kept))
            taken = list(zip(np.asarray(drawn.lane).tolist(), np.asarray(drawn.row).tolist(), strict=True))
            assert set(taken) <= now
            if kept:
                for row in set(taken):
                    model[row] = max(float(e) for e, one in zip(error, taken, strict=True) if one == row) + 0.25
                highest = max(highest, float(error.max()) + 0.25)
        expected = {(lane, row % ROWS): priority**0.5 for (lane, row), priority in model.items()}
        found = held(state)
        assert found.keys() == expected.keys()
        np.testing.assert_allclose(list(found.values()), [expected[at] for at in found], rtol=1e-5)
        check_sums(state)
    assert float(state.highest) == pytest.approx(highest, rel=1e-6)


def test_seeds_side_by_side_hold_and_draw_what_each_alone_does():
    """Three trees under one vmap, which grow by different rows, wrap, and learn from different surprises."""
    spec, reach, random = PrioritizedSpec(), Reach(2, 1), np.random.default_rng(0)
    alone = [filled(spec, reach, blocks=7 + seed) for seed in range(3)]
    beside = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    for step in range(4):
        keep = jnp.asarray(random.random((3, BLOCK, LANES)) < 0.7)
        beside = jax.vmap(partial(grow, spec, reach))(*beside, keep)
        bits = jax.random.bits(jax.random.PRNGKey(step), (3, BATCH, spec.words), jnp.uint32)
        drawn = jax.vmap(partial(draw, spec, reach))(*beside, bits)
        surprise = Surprise(jnp.asarray(random.exponential(size=(3, BATCH)), jnp.float32), jnp.zeros((3, BATCH)))
        kept = jnp.array([True, step % 2 == 0, False])
        beside = jax.vmap(partial(learn, spec))(beside[0], drawn, surprise, kept), beside[1]
        for seed, (state, ring) in enumerate(alone):
            own, own_ring = grow(spec, reach, state, ring, keep[seed])
            found = draw(spec, reach, own, own_ring, bits[seed])
            np.testing.assert_array_equal(found.row, drawn.row[seed])
            np.testing.assert_array_equal(found.lane, drawn.lane[seed])
            own = learn(spec, own, found, jax.tree.map(lambda leaf: leaf[seed], surprise), kept[seed])  # noqa: B023
            alone[seed] = own, own_ring
    for seed, (state, _) in enumerate(alone):
        for own, together in zip(jax.tree.leaves(state), jax.tree.leaves(beside[0]), strict=True):
            np.testing.assert_allclose(own, together[seed], rtol=1e-6)


def surprised(spec: PrioritizedSpec, state: Priorities, ring: Any, error: np.ndarray) -> Priorities:
    """The state in which the startable rows of the ring have these errors, lane after lane."""
    first, count = map(np.asarray, startable(ring, 1, 0))
    pairs = [(lane, int(first[lane]) + step) for lane in range(LANES) for step in range(count[lane])]
    lane, row = (jnp.array(column, jnp.int32) for column in zip(*pairs, strict=True))
    drawn = Drawn(row, lane, None, lane * ROWS + row % ROWS)
    given = jnp.asarray(error[: len(pairs)], jnp.float32)
    return learn(spec, state, drawn, Surprise(given, given), jnp.bool_(True))


@pytest.mark.parametrize("batch", [1, 64])
def test_rows_are_drawn_as_often_as_their_priorities_say(batch: int):
    """Chi-square over 105 rows, 128,000 draws; a stratified batch may only be nearer to theory."""
    from scipy.stats import chisquare

    spec = PrioritizedSpec(exponent=0.7)
    state, ring = filled(spec)
    state = surprised(spec, state, ring, np.random.default_rng(1).exponential(size=ROWS * LANES))
    leaves = np.asarray(state.sums[-1], np.float64)
    share = leaves / leaves.sum()
    bits = jax.random.bits(KEY, (128_000 // batch, batch, spec.words), jnp.uint32)
    drawn = jax.jit(jax.vmap(partial(draw, spec, REACHES[0], state, ring)))(bits)
    place = np.asarray(drawn.lane * ROWS + drawn.row % ROWS).ravel()
    seen = np.bincount(place, minlength=len(leaves))
    assert not seen[share == 0].any()
    assert chisquare(seen[share > 0], place.size * share[share > 0]).pvalue > 1e-3


def test_weights_undo_the_bias():
    """With beta = 1 the weighted mean of anything over the drawn rows is its mean over all rows."""
    spec = PrioritizedSpec(exponent=1.0, correction=1.0)
    state, ring = filled(spec)
    random = np.random.default_rng(2)
    state = surprised(spec, state, ring, random.exponential(size=ROWS * LANES))
    value = random.normal(size=ROWS * LANES) + 3 * (np.asarray(state.sums[-1])[: ROWS * LANES] > 1)
    bits = jax.random.bits(KEY, (60_000, spec.words), jnp.uint32)
    drawn = draw(spec, REACHES[0], state, ring, bits)
    met, weight = value[np.asarray(drawn.note)], np.asarray(drawn.importance)
    mean = value[[lane * ROWS + at for lane, at in held(state)]].mean()
    assert abs((met * weight).sum() / weight.sum() - mean) < 0.05
    assert abs(met.mean() - mean) > 0.3, "or this shows nothing"
    assert float(weight.max()) == 1.0


@pytest.mark.parametrize(("end", "betas"), [(1.0, [0.5, 0.625, 0.75, 0.875, 1.0]), (0.5, [0.5] * 5)])
def test_the_correction_reaches_its_end_with_the_updates_that_were_kept(end: float, betas: list[float]):
    spec = PrioritizedSpec(correction=0.5, final_correction=end, correction_updates=4)
    state, ring = filled(spec)
    drawn = draw(spec, REACHES[0], state, ring, jax.random.bits(KEY, (BATCH, spec.words), jnp.uint32))
    surprise = Surprise(jnp.ones(BATCH), jnp.ones(BATCH))
    for number in range(8):
        assert float(spec._beta(state)) == betas[(number + 1) // 2]
        state = learn(spec, state, drawn, surprise, jnp.bool_(number % 2 == 0))
    assert int(state.updates) == 4


def test_surprise_may_be_the_loss():
    state, ring = filled(PrioritizedSpec())
    drawn = draw(PrioritizedSpec(), REACHES[0], state, ring, jnp.zeros((1, 4), jnp.uint32))
    given = Surprise(jnp.array([2.0]), jnp.array([5.0]))
    for by, priority in (("error", 2.0), ("loss", 5.0)):
        after = learn(PrioritizedSpec(by=by, exponent=1.0), state, drawn, given, jnp.bool_(True))
        assert float(after.sums[-1][drawn.note[0]]) == pytest.approx(priority + 1e-3)


def test_a_large_ring_has_a_tree_of_several_levels_and_finds_the_one_row():
    spec = PrioritizedSpec(exponent=1.0)
    state = spec.init(100_000, 3)
    assert [len(level) for level in state.sums] == [64, 128, 4_736, 300_032]
    place = jnp.array([299_999])
    state = learn(spec, state, Drawn(place, place, None, place), Surprise(jnp.ones(1), jnp.ones(1)), jnp.bool_(True))
    check_sums(state)
    ring = rings.Ring(replace(rows(), action=jnp.zeros((100_000, 3), jnp.int32)), jnp.full(3, 100_001, jnp.int32))
    drawn = spec.draw(state, ring, REACHES[0], jax.random.bits(KEY, (16, 4), jnp.uint32), no_embedding)
    assert set(np.asarray(drawn.note).tolist()) == {299_999}
    with pytest.raises(SpecError, match="draw=prioritized has room for 16,777,216 rows, but replay.cap"):
        spec.init(20_000_000, 1)


def test_an_agent_draws_what_surprises_it():
    """Of 38 rewards one is 10: its row is learned from most of the time."""
    spec = AgentSpec(
        encoder=VectorSpec(widths=(8,)), replay=ReplaySpec(capacity=64, batch_size=16, start=16), loss=SquaredSpec(),
        draw=PrioritizedSpec(exponent=1.0), discount=0.0, learn_every=1,
    )  # fmt: skip
    one = QLearner(spec, spaces.Box((1,)), 2, 1)
    state = one.init(KEY)
    assert isinstance(state.replay.drawing, Priorities)
    seen = jnp.linspace(-1, 1, 40).reshape(40, 1, 1)
    shape = (40, 1)
    flags = jnp.zeros(shape, bool)
    reward = jnp.zeros(shape).at[20].set(10.0)
    row = TimeStep(seen, flags.at[0].set(True), jnp.zeros(shape, jnp.int32), reward, flags)
    from engram.agents.agent import Experience

    state = jax.jit(one.observe)(state, Experience(row, flags, seen, ~flags, None))
    learn_once = jax.jit(one.learn)
    for _ in range(30):
        state, _ = learn_once(state)
    leaves = np.asarray(state.replay.drawing.sums[-1])
    assert leaves.argmax() == 20
    assert leaves[20] > 0.2 * leaves.sum()


@register("draw", "test-watched")
@settings_of
class WatchedSpec(PrioritizedSpec):
    """`prioritized`, which counts what it draws, and what its priorities of that moment let one expect."""

    def init(self, rows: int, lanes: int) -> Any:
        inner = super().init(rows, lanes)
        return inner, jnp.zeros_like(inner.sums[-1]), jnp.zeros_like(inner.sums[-1])

    def grown(self, state: Any, growth: Growth) -> Any:
        inner, seen, expected = state
        return super().grown(inner, growth), seen, expected

    def draw(self, state: Any, ring: Any, reach: Reach, bits: Any, embed: Any) -> Drawn:
        return super().draw(state[0], ring, reach, bits, embed)

    def learned(self, state: Any, drawn: Drawn, surprise: Surprise, keep: Any) -> Any:
        inner, seen, expected = state
        share = inner.sums[-1] / inner.sums[-1].sum()
        counted = seen.at[drawn.note].add(1.0), expected + len(drawn.note) * share
        return super().learned(inner, drawn, surprise, keep), *counted


@pytest.mark.parametrize("group", [1, 8])
def test_a_host_run_draws_as_often_as_its_priorities_said(group: int):
    """Chi-square over 1,200 updates in the learner's compiled blocks, while the ring wraps and priorities change.

    Each draw has the chances of its own moment. Their sum varies less than draws with the mean chances would.
    """
    from scipy.stats import chisquare

    spec = AgentSpec(
        encoder=VectorSpec(widths=(8,)), replay=ReplaySpec(capacity=120, batch_size=64, start=60), learn_every=2,
        draw=WatchedSpec(exponent=0.8),
    )  # fmt: skip
    envs = make_host(Walk, envs=2, seed=0)
    runner = HostRunner(QLearner(spec, envs.observation_space, envs.actions, 2), envs, 0, group)
    runner.start()
    runner.advance(2_460, lambda: False)
    priorities, seen, expected = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), runner.learner.state.replay.drawing
    )
    runner.close()
    leaves = priorities.sums[-1]
    assert leaves.max() > 3 * leaves[leaves > 0].min(), "or a uniform draw would pass"
    assert seen.sum() >= 1_190 * 64
    assert (expected > 0).sum() == 120
    assert not seen[expected == 0].any()
    assert chisquare(seen[expected > 0], expected[expected > 0] * seen.sum() / expected.sum()).pvalue > 1e-3
