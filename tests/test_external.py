"""External memories say what their entries say, keep what their eviction keeps, and tell what each entry did."""

import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram import registry, specs
from engram.errors import SpaceError, SpecError
from engram.external.episodic import Episodic, EpisodicSpec, leave_one_out
from engram.external.memory import Entries

KERNELS = ("inverse-distance", "dot", "scaled-dot", "multi-head")


# Compiled once for each spec and shape.
WRITE = jax.jit(lambda memory, store, entries, keep: memory.write(store, entries, keep))
READ = jax.jit(lambda memory, store, query, offered=None: memory.read(store, query, offered))


def made(embedding: int = 2, actions: int = 2, offered: int = 0, **numbers: Any) -> Episodic:
    """A small memory."""
    return EpisodicSpec(**({"capacity": 8, "neighbours": 2} | numbers)).build(
        embedding, actions, offered, jax.random.PRNGKey(3)
    )


def block(
    keys: Any, actions: Any, values: Any, hashes: Any = None, features: Any = None, errors: Any = None
) -> Entries:
    """Entries whose hashes, where none are given, all differ from those of other keys."""
    keys = np.asarray(keys, np.float32)
    count = len(keys)
    if hashes is None:
        hashes = [hash(row.tobytes()) & 0xFFFFFFFF for row in keys]
    words = np.stack([np.asarray(hashes, np.uint32), np.full(count, 7, np.uint32)], 1)
    return Entries(
        key=jnp.asarray(keys),
        action=jnp.asarray(actions, jnp.int32),
        features=jnp.zeros((count, 0)) if features is None else jnp.asarray(features, jnp.float32),
        value=jnp.asarray(values, jnp.float32),
        td_error=jnp.zeros(count) if errors is None else jnp.asarray(errors, jnp.float32),
        hash=jnp.asarray(words),
        origin=jnp.stack([jnp.zeros(count, jnp.int32), jnp.arange(count), jnp.arange(count)], 1),
    )


def written(memory: Episodic, entries: Entries, keep: Any = None, store: Any = None) -> Any:
    """The store after one block."""
    keep = jnp.ones(len(entries.value), bool) if keep is None else jnp.asarray(keep)
    return WRITE(memory, memory.init() if store is None else store, entries, keep)


# -- a read, worked by hand ------------------------------------------------------------------------------------

# Action 0 has keys (0, 0), (1, 0), (3, 0) with values 1, 2, 10; action 1 has one entry of value 5. The query is (1, 0).
KEYS, ACTIONS, VALUES = [[0, 0], [1, 0], [3, 0], [1, 1]], [0, 0, 0, 1], [1.0, 2, 10, 5]
QUERY = jnp.array([1.0, 0])


def softmax(*scores: float) -> np.ndarray:
    powers = np.exp(np.array(scores))
    return powers / powers.sum()


@pytest.mark.parametrize(
    "kernel, temperature, places, weights",
    [
        # Squared distances 0 and 1 with delta 1: kernels 1 and 1/2.
        ("inverse-distance", 1, (1, 0), [2 / 3, 1 / 3]),
        ("inverse-distance", 0.5, (1, 0), [4 / 5, 1 / 5]),
        # Products 3 and 1: (3, 0) and (1, 0) are what the query points to.
        ("dot", 1, (2, 1), softmax(3, 1)),
        ("dot", 2, (2, 1), softmax(1.5, 0.5)),
        ("scaled-dot", 1, (2, 1), softmax(3 / 2**0.5, 1 / 2**0.5)),
    ],
)
def test_a_read_is_the_kernel_over_the_nearest(kernel, temperature, places, weights):
    memory = made(kernel=kernel, delta=1.0, temperature=temperature)
    read = READ(memory, written(memory, block(KEYS, ACTIONS, VALUES)), QUERY)
    np.testing.assert_array_equal(read.entries[0], [places, [4, -1]])
    np.testing.assert_allclose(read.weights[0], [weights, [1, 0]], rtol=1e-6)
    np.testing.assert_allclose(read.q, [np.dot(weights, np.take(VALUES, places)), 5], rtol=1e-6)
    np.testing.assert_allclose(read.confidence, [1, 1 / 2], rtol=1e-6)  # (1, 0) itself; (1, 1) at distance 1


def test_multi_head_scores_projected_keys_and_averages_heads():
    memory = made(kernel="multi-head", heads=2)
    eye = jnp.array([[[1.0, 0]], [[0.0, 1]]])  # head 0 sees the first number, head 1 the second
    memory = eqx.tree_at(lambda memory: memory.projections, memory, (eye, eye))
    store = written(memory, block([[1, 2], [2, -1], [-9, -9]], [0, 0, 0], [1.0, 4, 0]))
    read = READ(memory, store, jnp.array([1.0, 1]))
    np.testing.assert_array_equal(read.entries[:, 0], [[1, 0], [0, 1]])
    first, second = softmax(2, 1), softmax(2, -1)
    np.testing.assert_allclose(read.weights[:, 0], [first, second], rtol=1e-6)
    expected = (first @ [4, 1] + second @ [1, 4]) / 2
    np.testing.assert_allclose(read.q[0], expected, rtol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_empty_memory_knows_nothing(kernel):
    memory = made(kernel=kernel, heads=2)
    read = READ(memory, memory.init(), QUERY)
    assert not read.weights.any()
    assert (read.entries == -1).all()
    assert not read.q.any()
    assert not read.confidence.any()


def test_with_a_small_delta_a_read_is_a_tabular_lookup():
    memory = made(capacity=64, neighbours=8, delta=1e-12)
    keys = np.random.default_rng(0).normal(size=(16, 2)) * 30  # far from 0, where products would lose the distance
    values = np.arange(16.0)
    store = written(memory, block(keys, np.arange(16) % 2, values))
    for place in range(16):
        read = READ(memory, store, jnp.asarray(keys[place], jnp.float32))
        np.testing.assert_allclose(read.q[place % 2], values[place], atol=1e-6)
        assert read.confidence[place % 2] == 1


def test_confidence_falls_with_distance():
    memory = made(delta=0.1)
    store = written(memory, block([[0, 0]], [0], [1.0]))
    found = [float(READ(memory, store, jnp.array([x, 0.0])).confidence[0]) for x in (0, 0.1, 1, 10)]
    np.testing.assert_allclose(found, [1, 0.1 / 0.11, 0.1 / 1.1, 0.1 / 100.1], rtol=1e-6)


def test_uniform_weights_the_nearest_alike():
    memory = made(uniform=True)
    read = READ(memory, written(memory, block(KEYS, ACTIONS, VALUES)), QUERY)
    np.testing.assert_allclose(read.weights[0], [[0.5, 0.5], [1, 0]])
    np.testing.assert_allclose(read.q, [1.5, 5])


@pytest.mark.parametrize("count", [2, 3, 5, 16])
def test_shuffled_entries_have_the_values_of_other_live_ones(count):
    memory = made(capacity=32, neighbours=1, shuffle=True)
    keys = np.arange(2.0 * count).reshape(count, 2)
    store = written(memory, block(keys, np.zeros(count), np.arange(count) + 1.0))
    found = np.array([float(READ(memory, store, jnp.asarray(key, jnp.float32)).q[0]) for key in keys])
    assert set(found) <= set(range(1, count + 1))
    assert (found != np.arange(count) + 1).all()


def test_offered_actions_are_read_by_their_features():
    memory = made(offered=1, capacity=8, neighbours=1)
    store = written(memory, block([[0, 0], [0, 0]], [0, 1], [3.0, 4], features=[[1.0], [2.0]]))
    read = READ(memory, store, jnp.zeros(2), jnp.array([[2.0], [1.0], [2.0]]))
    np.testing.assert_allclose(read.q, [4, 3, 4])
    np.testing.assert_allclose(read.confidence, 1)
    for wrong in (None, jnp.zeros((2, 3))):
        with pytest.raises(SpaceError, match="was built for 1 features"):
            READ(memory, store, jnp.zeros(2), wrong)


# -- writing ---------------------------------------------------------------------------------------------------


def test_a_re_encounter_moves_the_value_and_overwrites_the_key():
    memory = made(alpha=0.25)
    store = written(memory, block([[0, 0]], [1], [8.0], hashes=[5]))
    store = written(memory, block([[1, 2]], [1], [4.0], hashes=[5]), store=store)
    assert int(store.live.sum()) == 1
    np.testing.assert_allclose(store.value[1, 0], 8 + 0.25 * (4 - 8))
    np.testing.assert_array_equal(store.key[1, 0], [1, 2])
    np.testing.assert_allclose(store.length[1, 0], 5)


def test_max_keeps_the_best_return():
    memory = made(update="max")
    store = written(memory, block([[0, 0]] * 3, [0] * 3, [1.0, 7, 3], hashes=[5] * 3))
    assert float(store.value[0, 0]) == 7
    store = written(memory, block([[0, 0]], [0], [6.0], hashes=[5]), store=store)
    assert float(store.value[0, 0]) == 7


def test_what_is_not_finite_is_refused_and_counted():
    memory = made()
    keys = [[0, np.nan], [1, 1], [2, 2], [3, 3]]
    store = written(memory, block(keys, [0, 0, 0, 7], [1.0, np.inf, 3, 4], hashes=[1, 2, 3, 4]))
    assert int(store.refused) == 3
    assert int(store.clock) == int(store.live.sum()) == 1
    assert int(written(memory, block(keys, [0] * 4, [1.0] * 4), keep=[False] * 4).refused) == 0


def test_leaving_one_out_is_reading_without_it():
    weights = np.random.default_rng(0).dirichlet(np.ones(6), size=20).astype(np.float32)
    values = np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)
    found = leave_one_out(jnp.asarray(weights), jnp.asarray(values))
    q = (weights * values).sum(1, keepdims=True)
    np.testing.assert_allclose(found, weights * (q - values) / (1 - weights), atol=1e-5)


# -- settings --------------------------------------------------------------------------------------------------


def test_the_spec_round_trips_through_json():
    spec = EpisodicSpec(kernel="dot", eviction="merge", capacity=77)
    assert specs.from_json(EpisodicSpec, json.loads(json.dumps(specs.to_json(spec)))) == spec
    assert registry.find("external", "episodic") is EpisodicSpec


@pytest.mark.parametrize(
    "numbers, words",
    [
        ({"neighbours": 9}, "neighbours = 9 is more than external.capacity = 8"),
        ({"neighbours": 5}, "more than the 4 entries that each of 2 actions has"),
        ({"kernel": "multi-head", "heads": 3}, "external.heads = 3 does not divide"),
        ({"alpha": 0.0}, "alpha = 0.0 is out of range"),
        ({"delta": 0.0}, "delta = 0.0 is out of range"),
    ],
)
def test_impossible_settings_are_refused_in_one_sentence(numbers, words):
    with pytest.raises(SpecError, match=words):
        made(**numbers)
