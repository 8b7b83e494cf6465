"""Keys: hashes of observations, and keys computed anew while the network learns."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from support.told import KEY, SPEC, Told, agent, compiled

from engram import spaces
from engram.agents.mind import RecallSpec
from engram.agents.q_learning import QLearner
from engram.agents.recall.drift import refresh
from engram.agents.recall.keys import key_of
from engram.bits import fingerprint
from engram.external.episodic import EpisodicSpec
from engram.heads.attention import AttentionSpec

renewed = jax.jit(refresh, static_argnums=0)


def test_the_same_observation_has_the_same_hash_and_others_have_others():
    random = np.random.default_rng(0)
    boards = np.unique(random.integers(0, 2, size=(3000, 5, 5, 2)).astype(bool), axis=0)
    hashes = np.asarray(jax.jit(jax.vmap(fingerprint))(jnp.asarray(boards)))
    assert len(np.unique(hashes, axis=0)) == len(boards)
    np.testing.assert_array_equal(hashes, jax.vmap(fingerprint)(jnp.asarray(boards)))
    assert len(np.unique(hashes[:, 0])) > len(boards) - 5, "each half alone is a good hash too"
    np.testing.assert_array_equal(fingerprint(jnp.array([0.0, 1.0])), fingerprint(jnp.array([-0.0, 1.0])))
    swapped = [np.asarray(fingerprint(jnp.array(x))) for x in ([1.0, 2.0], [2.0, 1.0])]
    assert not np.array_equal(*swapped)


def test_zeros_of_both_signs_have_one_hash_when_compiled():
    hashed = jax.jit(fingerprint)
    np.testing.assert_array_equal(hashed(jnp.array([0.0, 1.0])), hashed(jnp.array([-0.0, 1.0])))


def test_keys_are_computed_anew_in_turn():
    one = agent(recall=RecallSpec(n_step=1, refresh=4), external=EpisodicSpec(capacity=8, neighbours=2))
    told = Told(one)
    told.steps(10, np.random.default_rng(0))
    other = compiled(one).init(jax.random.PRNGKey(9)).learner.params
    fresh = renewed(one.spec, other, renewed(one.spec, other, told.recall))  # two turns of four go through all eight
    store = jax.device_get(fresh.store)
    where = np.argwhere(store.live)
    assert len(where) == 8
    embedded = np.asarray(jax.vmap(other.embed)(store.observation[store.live]))
    expected = embedded / np.linalg.norm(embedded, axis=1, keepdims=True)
    np.testing.assert_allclose(store.key[store.live], expected, rtol=1e-4, atol=1e-4)
    assert float(fresh.overlap) <= 1.0


def test_the_overlap_is_the_share_of_neighbours_that_a_fresh_key_has_too():
    one = agent(recall=RecallSpec(n_step=1, refresh=1), external=EpisodicSpec(capacity=40, neighbours=5))
    told = Told(one)
    told.steps(20, np.random.default_rng(0))
    other, store = compiled(one).init(jax.random.PRNGKey(9)).learner.params, told.recall.store
    live = np.flatnonzero(np.asarray(store.live[0]))
    keys, fresh = np.asarray(store.key[0]), key_of(one.spec, other.embed(store.observation[0, 0]))
    nearest = [set(live[np.argsort(((keys[live] - key) ** 2).sum(1))[:5]]) for key in (keys[0], np.asarray(fresh))]
    shared = len(nearest[0] & nearest[1]) / 5
    assert shared < 1
    np.testing.assert_allclose(renewed(one.spec, other, told.recall).overlap, 1 + 0.01 * (shared - 1), rtol=1e-5)


def test_keys_of_offered_actions_are_computed_anew():
    space = spaces.Dict((("offered", spaces.Box((3, 4))), ("seen", spaces.Box((2,)))))
    spec = replace(SPEC, head=AttentionSpec(action_width=4), recall=RecallSpec(n_step=1, refresh=4))
    one = QLearner(spec, space, 3, 2)
    state = compiled(one).init(KEY)
    assert int(renewed(spec, state.learner.params, state.recall).turn) == 4
