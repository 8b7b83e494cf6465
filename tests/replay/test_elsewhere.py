"""A ring whose wide columns are elsewhere: the batches drawn from it are those of a ring that is here, bit for bit."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runners.test_replay_shards import KINDS
from support.rows import row_shapes, sharded_replay

from engram import spaces
from engram.agents import examples
from engram.agents.agent import Experience
from engram.replay import elsewhere
from engram.replay.draw import Surprise
from engram.replay.prioritized import PrioritizedSpec
from engram.trees import copied
from engram.types import TimeStep

SPACE, ACTIONS, ENVS, STEPS = spaces.Box((3,)), 2, 4, 3
LINK = "rows of test_elsewhere"


def experience(agent: Any, state: Any, seed: int) -> Experience:
    """A few random steps, of which some end episodes and some are padding."""
    random, shape = np.random.default_rng(seed), (STEPS, ENVS)
    done = random.random(shape) < 0.15
    row = TimeStep(
        observation=jnp.asarray(random.normal(size=(*shape, 3)), jnp.float32),
        is_first=jnp.asarray(random.random(shape) < 0.15),
        action=jnp.asarray(random.integers(ACTIONS, size=shape), jnp.int32),
        reward=jnp.asarray(random.normal(size=shape), jnp.float32),
        terminated=jnp.asarray(done & (random.random(shape) < 0.5)),
    )
    final = jnp.asarray(random.normal(size=(*shape, 3)), jnp.float32)
    noted = None
    if agent.spec.replay.stored_carry:
        seen = jax.eval_shape(agent.act, agent.mind(state), state.actor, examined(agent))
        noted = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=(STEPS, *leaf.shape)), leaf.dtype), seen.noted)
    return Experience(row, jnp.asarray(done), final, jnp.asarray(random.random(shape) < 0.95), noted)


def examined(agent: Any) -> Any:
    from engram.agents.policy import Seen

    return Seen(jnp.zeros((ENVS, 3)), jnp.ones(ENVS, bool), jnp.zeros(ENVS))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_those_of_a_ring_that_is_here(kind: str):
    spec = KINDS[kind]
    here: Any = spec.build(SPACE, ACTIONS, ENVS)
    there = dataclasses.replace(here, link=LINK)
    replay = sharded_replay(row_shapes(here, 3), None, LINK)
    states = [jax.jit(agent.init)(jax.random.PRNGKey(1)) for agent in (here, there)]
    words = examples.words(spec, states[0].learner.params)
    observe = [jax.jit(agent.observe) for agent in (here, there)]

    @jax.jit
    def drawn(state: Any, bits: Any, error: Any) -> Any:
        found, batch = examples.draw(spec, state.learner.params, state.replay, bits)
        drawing = spec.draw.learned(state.replay.drawing, found, Surprise(error, error), jnp.bool_(True))
        return found._replace(whole=None), batch, state.replay.with_drawings((drawing, None))

    random = np.random.default_rng(5)
    for seed in range(40):  # 40 rows for each lane, so it wraps several times
        new = experience(here, states[0], seed)
        states = [one(state, new) for one, state in zip(observe, states, strict=True)]
        if seed < 8:
            continue
        bits = jnp.asarray(random.integers(1 << 32, size=(8, words), dtype=np.uint32))
        error = jnp.asarray(random.random(8), jnp.float32)
        found = [drawn(state, bits, error) for state in states]
        states = [dataclasses.replace(state, replay=one[2]) for state, one in zip(states, found, strict=True)]
        one, other = (copied((each[0], each[1], states[0].learner.key)) for each in found)
        assert one.keys() == other.keys()
        assert [name for name in one if not np.array_equal(one[name], other[name])] == []
        drawings = [copied(state.replay.drawing) for state in states]
        assert all(np.array_equal(drawings[0][name], drawings[1][name]) for name in drawings[0])
    assert (replay.fetches, replay.missing) == (32, 0)


def test_an_example_whose_rows_are_lost_weighs_nothing_and_is_not_drawn_again_by_priority():
    spec = dataclasses.replace(KINDS["prioritized"], n_step=2)
    agent: Any = dataclasses.replace(spec.build(SPACE, ACTIONS, ENVS), link=LINK)
    replay = sharded_replay(row_shapes(spec.build(SPACE, ACTIONS, ENVS), 2), None, LINK)
    state = jax.jit(agent.init)(jax.random.PRNGKey(1))
    observe = jax.jit(agent.observe)
    for seed in range(12):
        state = observe(state, experience(agent, state, seed))
    replay.flush()
    replay.shards.place.kept[1].rows.rows[:, :16] = -1  # type: ignore[attr-defined]  # lost
    draw: PrioritizedSpec = spec.draw  # type: ignore[assignment]
    words = examples.words(spec, state.learner.params)
    found = jax.jit(partial(examples.draw, spec))
    random, lost, seen = np.random.default_rng(3), 0, set()
    drawing = state.replay.drawing
    for _ in range(40):
        bits = jnp.asarray(random.integers(1 << 32, size=(8, words), dtype=np.uint32))
        drawn, batch = found(state.learner.params, state.replay.with_drawings((drawing, None)), bits)
        whole = np.asarray(drawn.whole)
        assert not np.asarray(batch.start.weight)[~whole].any()
        gone = {*zip(np.asarray(drawn.row)[~whole].tolist(), np.asarray(drawn.lane)[~whole].tolist(), strict=True)}
        assert not gone & seen
        seen |= gone
        lost += len(gone)
        drawing = draw.learned(drawing, drawn, Surprise(jnp.ones(8), jnp.ones(8)), jnp.bool_(True))
    assert lost > 10
    assert replay.missing >= lost


def test_the_learner_keeps_the_narrow_columns_alone():
    agent: Any = dataclasses.replace(KINDS["windows"].build(SPACE, ACTIONS, ENVS), link=LINK)
    whole = KINDS["windows"].build(SPACE, ACTIONS, ENVS)
    ring = jax.jit(agent.init)(jax.random.PRNGKey(0)).replay.ring
    assert set(copied(ring.rows)) == {"is_first", "action", "reward", "terminated"}
    assert ring.capacity == whole.rows_per_lane  # type: ignore[attr-defined]
    assert agent.nbytes()["replay"] < whole.nbytes()["replay"] / 4
    assert isinstance(ring.rows.observation, elsewhere.Elsewhere)
