"""What a memory says of an observation, its share in the estimate, and what it adds to a loss."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.told import KEY, NO_BITS, Told, agent, compiled, transition

from engram import spaces
from engram.agents import examples, presets
from engram.agents.examples import Nets
from engram.agents.mind import RecallSpec
from engram.agents.recall import reading
from engram.agents.recall.keys import key_of
from engram.agents.recall.state import RecallState
from engram.agents.spec import AgentSpec
from engram.losses.bootstrap import FromMemorySpec, SuccessorsSpec, from_successors
from engram.losses.regression import huber
from engram.types import Decision, Distribution

score = jax.jit(partial(examples.score_transition, by=examples.score), static_argnums=0)


@partial(jax.jit, static_argnums=0)
def consulted(spec: AgentSpec, recall: RecallState, network: Any, frames: Any) -> Decision:
    return reading.consult(spec, recall, network, network, frames, network(frames, NO_BITS))[1]


def test_the_share_of_the_memory_is_its_confidence_and_what_it_is_trusted_with():
    one = agent(recall=RecallSpec(n_step=1, weigh_by_error=True, max_memory_weight=0.5))
    told = Told(one)
    for _ in range(4):
        told.step(np.ones((2, 2), np.float32), np.ones(2, np.float32), np.zeros(2, bool), np.zeros(2, bool))
    trusted = replace(told.recall, errors=jnp.array([3.0, 1.0]))
    frames = jnp.ones((1, 2))
    decision = consulted(one.spec, trusted, told.params, frames)
    np.testing.assert_allclose(decision.share, 0.5 * 0.75 * decision.external.confidence, rtol=1e-6)
    known = np.asarray(decision.external.confidence) > 0
    assert known.any()
    blended = (1 - decision.share) * decision.returns.q + decision.share * decision.external.q
    np.testing.assert_allclose(np.asarray(decision.q)[known], np.asarray(blended)[known], rtol=1e-6)
    sure = replace(one.spec, recall=RecallSpec(n_step=1, weigh_by_error=False, confidence="known"))
    decision = consulted(sure, trusted, told.params, frames)
    np.testing.assert_array_equal(decision.share, known.astype(np.float32))


def test_an_empty_memory_changes_no_target():
    one, plain = agent(bootstrap=FromMemorySpec()), agent(external=AgentSpec().external)
    state, random = compiled(one).init(KEY), np.random.default_rng(0)
    seen, following = (jnp.asarray(random.normal(size=(1, 2)), jnp.float32) for _ in range(2))
    example, params = transition(seen, 1, following), state.learner.params
    with_memory = score(one.spec, Nets(params, params, state.recall), example)
    without = score(plain.spec, Nets(params, params, None), example)
    np.testing.assert_array_equal(with_memory.loss, without.loss)


@pytest.mark.parametrize("through", [False, True])
def test_the_gradient_reaches_the_encoder_through_the_read_only_where_asked(through: bool):
    recall = RecallSpec(n_step=1, train_through_memory=through, weigh_by_error=False, confidence="known")
    one = agent(recall=recall)
    told = Told(one)
    told.steps(8, np.random.default_rng(0))
    params, example = told.params, transition(jnp.ones((1, 2)), 0, jnp.ones((1, 2)))

    @jax.jit
    @jax.grad
    def slope_of(network: Any) -> Any:
        return examples.score_transition(one.spec, Nets(network, params, told.recall), example, examples.score).loss

    slope = slope_of(params)
    head = float(jnp.abs(slope.head.linear.weight).sum())
    encoder = sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(slope.encoder))
    assert encoder > 0
    assert (head == 0) == through, "where the memory answers alone, the head learns nothing"


def test_what_followed_by_chance_is_kept_beside_what_followed_before():
    told = Told(agent(recall=RecallSpec(n_step=1, weigh_by_error=False), bootstrap=SuccessorsSpec()))
    spec, no = told.agent.spec, np.zeros(2, bool)
    for number in range(6):  # one and the same observation pays 0 or 1 in turn, and its episode is over
        told.step(np.ones((2, 2), np.float32), np.full(2, number % 2, np.float32), ~no, no)
    told.step(np.ones((2, 2), np.float32), np.zeros(2, np.float32), no, no)
    store, params = told.recall.store, told.params
    assert int(store.live.sum()) == 12, "nothing was overwritten"

    @jax.jit
    def target(decision: Decision, action: Any) -> Any:
        similar = reading.similar(told.recall, params, decision.external, action)
        return from_successors(similar, Distribution(jnp.array([9.0]), jnp.ones(1))).mean

    near = consulted(spec, told.recall, params, jnp.ones((1, 2)))
    asked = consulted(spec, told.recall, params, jnp.array([[-2.0, 3.0]]))
    for action in range(2):
        assert np.asarray(store.live[action]).sum() >= 5  # as many as are read
        read = np.asarray(near.external.entries[0, action])
        paid = np.asarray(store.reward).reshape(-1)[read]
        np.testing.assert_allclose(target(near, jnp.int32(action)), paid.mean(), rtol=1e-5)
        assert 0 < paid.mean() < 1
        # Elsewhere the same entries are the nearest, but not near: so far they do not count.
        certain = float(asked.external.confidence[action])
        assert certain < 0.9
        far = target(asked, jnp.int32(action))
        np.testing.assert_allclose(far, (1 - certain) * 9 + certain * paid.mean(), rtol=1e-4)


def test_the_imitation_is_the_loss_to_what_is_stored_times_its_confidence():
    recall = RecallSpec(n_step=1, imitation_weight=0.5, max_memory_weight=0.0, weigh_by_error=False)
    one = agent(recall=recall)
    told = Told(one)
    told.steps(8, np.random.default_rng(0), reward=5.0)
    params, frames = told.params, jnp.full((1, 2), 0.3)
    example = transition(frames, 1, jnp.ones((1, 2)))
    without = replace(one.spec, recall=replace(recall, imitation_weight=0.0))
    loss, plain = (score(spec, Nets(params, params, told.recall), example).loss for spec in (one.spec, without))
    read = params.external.read(told.recall.store, key_of(one.spec, params.embed(frames)))
    q = params(frames, NO_BITS).returns.q[1]
    expected = 0.5 * float(read.confidence[1]) * float(huber(q, read.q[1]))
    assert expected > 0.01
    np.testing.assert_allclose(loss - plain, expected, rtol=1e-4)


@pytest.mark.parametrize("space", [spaces.Text(8, 4), spaces.Box((4,)), spaces.Box((36, 36), "uint8")])
def test_the_preset_of_the_article_fits_every_kind_of_observation(space):
    assert presets.preset("attention-dqn", space, 1_000).has_external
