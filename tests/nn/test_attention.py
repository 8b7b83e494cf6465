"""Attention against plain NumPy in float64, its masks by hand, and what it promises where nothing is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram.errors import SpecError
from engram.nn import attention
from engram.nn.attention import AttentionPooling, MultiHeadAttention, SelfAttention, attend

KEY = jax.random.PRNGKey(0)
EXACT = 1e-12  # relative, float64 against float64: the order of a few sums differs


def plain_weights(scores, known):
    """Softmax over the known entries of one row, in plain Python."""
    top = max((score for score, ok in zip(scores, known, strict=True) if ok), default=0.0)
    raised = [np.exp(score - top) if ok else 0.0 for score, ok in zip(scores, known, strict=True)]
    total = sum(raised)
    return [value / total if total else 0.0 for value in raised]


PLAIN_SCORES = {
    "dot": lambda q, k: sum(a * b for a, b in zip(q, k, strict=True)),
    "scaled_dot": lambda q, k: sum(a * b for a, b in zip(q, k, strict=True)) / np.sqrt(len(q)),
    "squared_distance": lambda q, k: sum((a - b) ** 2 for a, b in zip(q, k, strict=True)),
}


@partial(jax.jit, static_argnums=0)
def scores_weights_and_read(name, queries, keys, known, values):
    scores = getattr(attention, name)(queries, keys)
    weights = attend(scores, known)
    return scores, weights, weights @ values


@settings(max_examples=10, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", PLAIN_SCORES)
def test_scores_weights_and_reads_equal_plain_python_in_double_precision(name, data):
    queries, keys, d = (data.draw(st.sampled_from(sizes)) for sizes in ((1, 3), (1, 2, 5), (1, 4)))
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    q, k, values = (generator.standard_normal(shape) for shape in ((queries, d), (keys, d), (keys, 2)))
    known = np.array(data.draw(st.lists(st.booleans(), min_size=queries * keys, max_size=queries * keys)))
    known = known.reshape(queries, keys)
    with jax.enable_x64(True):
        scores, weights, read = map(np.asarray, scores_weights_and_read(name, q, k, known, values))
    assert weights.dtype == np.float64
    expected = np.array([[PLAIN_SCORES[name](a, b) for b in k] for a in q])
    np.testing.assert_allclose(scores, expected, rtol=1e-10, atol=EXACT)  # distances lose digits where terms cancel
    shares = np.array([plain_weights(*row) for row in zip(expected, known, strict=True)])
    np.testing.assert_allclose(weights, shares, rtol=1e-10, atol=EXACT)
    np.testing.assert_allclose(read, shares @ values, rtol=1e-10, atol=EXACT)
    np.testing.assert_array_equal(weights[~known], 0)
    np.testing.assert_allclose(weights.sum(-1), known.any(-1), rtol=EXACT)


@pytest.mark.parametrize("name", PLAIN_SCORES)
def test_several_heads_are_each_head_alone(name):
    q, k = jax.random.normal(KEY, (3, 2, 5)), jax.random.normal(jax.random.PRNGKey(1), (3, 4, 5))
    score = getattr(attention, name)
    together = score(q, k)
    alone = jnp.stack([score(q[head], k[head]) for head in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)  # float32 products of 5 terms


# Weights.


def test_where_nothing_is_known_weights_are_0_and_the_gradient_is_0():
    scores, known = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[False, False], [True, False]])
    with jax.debug_nans(True):  # not even on the way there
        weights = attend(scores, known)
        gradient = jax.grad(lambda s: (attend(s, known) * jnp.array([1.0, 5.0])).sum())(scores)
    np.testing.assert_array_equal(weights, [[0, 0], [1, 0]])
    np.testing.assert_array_equal(gradient, np.zeros((2, 2)))


@pytest.mark.parametrize("garbage", [0.0, 1e30, jnp.inf, jnp.nan])
def test_the_score_of_an_unknown_key_changes_nothing(garbage):
    scores, known = jnp.array([0.5, garbage, -1.0]), jnp.array([True, False, True])
    value, gradient = jax.value_and_grad(lambda s: attend(s, known)[0])(scores)
    two = attend(jnp.array([0.5, -1.0]))
    np.testing.assert_allclose(value, two[0], rtol=1e-6)
    assert gradient[1] == 0
    assert np.isfinite(gradient).all()


def test_one_key_takes_all_and_equal_keys_share_equally():
    np.testing.assert_array_equal(attend(jnp.array([-7.0])), [1])
    np.testing.assert_allclose(attend(jnp.full(5, 3.0)), np.full(5, 0.2), rtol=1e-6)


def test_a_low_temperature_picks_the_best_and_a_high_one_takes_the_mean():
    scores = jnp.array([1.0, 3.0, 2.0])
    np.testing.assert_array_equal(attend(scores / 1e-3), [0, 1, 0])
    # To first order, weights differ from 1/3 by (score - mean) / (3 temperature): 3e-7 here.
    np.testing.assert_allclose(attend(scores / 1e6), np.full(3, 1 / 3), atol=1e-6)


def test_weights_by_hand_and_a_bias_multiplies_them():
    """Scores log 1, log 3 give 1/4, 3/4; a bias of log 3 on the first makes them equal."""
    scores = jnp.log(jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(attend(scores), [0.25, 0.75], rtol=1e-6)
    np.testing.assert_allclose(attend(scores, bias=jnp.log(jnp.array([3.0, 1.0]))), [0.5, 0.5], rtol=1e-6)


def test_distances_are_never_negative_and_have_a_gradient_where_they_are_0():
    keys = 100 + jax.random.normal(KEY, (5, 8))
    distances = attention.squared_distance(keys, keys)
    assert (distances >= 0).all()
    differences = ((keys[:, None] - keys[None]) ** 2).sum(-1)
    np.testing.assert_allclose(distances, differences, atol=0.1)  # |k|^2 = 8e4, of which float32 keeps 7 digits
    gradient = jax.jit(jax.grad(lambda q: jnp.log(attention.squared_distance(q, keys) + 1e-3).sum()))(keys)
    assert np.isfinite(gradient).all()


# The choice of a few keys.


def test_the_best_known_keys_are_chosen_best_first_and_among_equals_the_lower_index():
    scores = jnp.array([[9.0, 1.0, 9.0, 3.0], [0.0, 5.0, 5.0, jnp.nan]])
    known = jnp.array([True, True, True, False])
    np.testing.assert_array_equal(attention.choose(scores, 2, known), [[0, 2], [1, 2]])
    np.testing.assert_array_equal(attention.choose(scores[:1], 3), [[0, 2, 3]])


@pytest.mark.parametrize("k", [3, 9])
def test_a_choice_of_more_than_are_known_begins_with_the_known_and_of_more_than_there_are_has_all(k):
    known = jnp.array([False, True, False, False])
    indices = attention.choose(jnp.array([9.0, 1.0, 9.0, 9.0]), k, known)
    assert indices.shape == (min(k, 4),)
    assert indices[0] == 1
    np.testing.assert_array_equal(np.unique(indices).size, min(k, 4))


def test_a_choice_has_no_gradient_and_what_is_read_of_the_chosen_has():
    scores = jnp.log(jnp.array([1.0, 3.0, 2.0, 1.0]))
    weights = attend(scores[attention.choose(scores, 2)])
    np.testing.assert_allclose(weights, [0.6, 0.4], rtol=1e-6)
    gradient = jax.grad(lambda s: attend(s[attention.choose(s, 2)])[0])(scores)
    np.testing.assert_allclose(gradient, [0, 0.24, -0.24, 0], rtol=1e-6)  # w (1 - w)


def test_what_a_key_received_is_the_mean_over_known_readers():
    weights = jnp.array([[[0.5, 0.5, 0], [1, 0, 0], [0.25, 0.75, 0]]])
    np.testing.assert_allclose(attention.received(weights), [[1.75 / 3, 1.25 / 3, 0]], rtol=1e-6)
    np.testing.assert_allclose(attention.received(weights, jnp.array([True, True, False])), [[0.75, 0.25, 0]])
    np.testing.assert_array_equal(attention.received(weights, jnp.zeros(3, bool)), np.zeros((1, 3)))


# Heads.


def test_heads_take_equal_parts_of_the_features_in_order():
    rows = jnp.arange(8.0).reshape(2, 4)
    np.testing.assert_array_equal(attention.split_heads(rows, 2), [[[0, 1], [4, 5]], [[2, 3], [6, 7]]])
    np.testing.assert_array_equal(attention.join_heads(attention.split_heads(rows, 2)), rows)


@pytest.mark.parametrize(("heads", "near"), [(3, 2), (5, 4), (100, 64)])
def test_heads_that_do_not_divide_the_width_are_refused(heads, near):
    with pytest.raises(SpecError, match=f"heads = {heads} does not divide width = 64.*; set heads to {near}, or"):
        MultiHeadAttention(4, 4, 64, heads, key=KEY)


# Modules.


def in_double(module):
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), module)


@pytest.mark.parametrize("shape", [(1, 3, 2, 4, 1), (2, 5, 3, 6, 3)], ids=str)
def test_multi_head_attention_equals_plain_numpy_in_double_precision(shape):
    queries, keys, inputs, width, heads = shape
    generator = np.random.default_rng(3)
    x, entries = generator.standard_normal((queries, inputs)), generator.standard_normal((keys, 5))
    known, bias = generator.random((queries, keys)) < 0.6, generator.standard_normal((heads, queries, keys))
    known[0] = False
    module = MultiHeadAttention(inputs, 5, width, heads, key=KEY)
    with jax.enable_x64(True):
        arguments = [jnp.asarray(array) for array in (x, entries, known, bias)]
        read, weights = in_double(module)(*arguments)
    leaf = [np.asarray(part, np.float64) for part in jax.tree.leaves(module)]
    q, kv = x @ leaf[0].T + leaf[1], entries @ leaf[2].T + leaf[3]
    joined, size = [], width // heads
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        k, v = kv[:, :width][:, part], kv[:, width:][:, part]
        scores = q[:, part] @ k.T / np.sqrt(size) + bias[head]
        expected = np.array([plain_weights(*row) for row in zip(scores, known, strict=True)])
        np.testing.assert_allclose(weights[head], expected, rtol=1e-10, atol=EXACT)
        joined.append(expected @ v)
    np.testing.assert_allclose(read, np.concatenate(joined, 1) @ leaf[4].T + leaf[5], rtol=1e-10, atol=EXACT)


MODULES = {
    "attention": lambda uniform: MultiHeadAttention(4, 4, 4, 2, uniform=uniform, key=KEY),
    "block": lambda uniform: SelfAttention(4, 2, uniform=uniform, key=KEY),
    "pooling": lambda uniform: AttentionPooling(4, 2, uniform=uniform, key=KEY),
}


def called(module, rows, known):
    return module(rows, known) if isinstance(module, SelfAttention) else module(rows, rows, known)


@pytest.mark.parametrize("name", MODULES)
def test_modules_hold_learned_float_arrays_and_have_finite_gradients_where_nothing_is_known(name):
    module = MODULES[name](False)
    assert {leaf.dtype for leaf in jax.tree.leaves(module)} == {jnp.dtype("float32")}
    rows = jax.random.normal(KEY, (3, 4))
    gradient = jax.jit(jax.grad(lambda m: (called(m, rows, jnp.zeros(3, bool))[0] ** 2).sum()))(module)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    np.testing.assert_array_equal(called(module, rows, jnp.zeros(3, bool))[1].sum(-1), 0)


@pytest.mark.parametrize("name", MODULES)
def test_the_uniform_control_has_equal_weights_and_the_same_parameters(name):
    rows, known = jax.random.normal(KEY, (3, 4)), jnp.array([True, False, True])
    _, weights = called(MODULES[name](True), rows, known)
    np.testing.assert_allclose(weights, np.broadcast_to([0.5, 0, 0.5], weights.shape))
    jax.tree.map(np.testing.assert_array_equal, *(jax.tree.leaves(MODULES[name](flag)) for flag in (True, False)))
    assert not np.allclose(called(MODULES[name](False), rows, known)[1], weights)


def test_a_block_moves_with_its_tokens_and_hears_nothing_from_unknown_ones():
    module, rows = SelfAttention(4, 2, key=KEY), jax.random.normal(KEY, (5, 4))
    order = jnp.array([3, 0, 4, 1, 2])
    moved, unmoved = module(rows[order])[0], module(rows)[0][order]
    np.testing.assert_allclose(moved, unmoved, rtol=1e-5, atol=1e-6)  # sums in another order
    known = jnp.array([True, True, False, True, False])
    other = jnp.where(known[:, None], rows, 100.0)
    np.testing.assert_array_equal(module(rows, known)[0][known], module(other, known)[0][known])


def test_pooling_reads_a_set_of_any_size_in_any_order():
    module, rows = AttentionPooling(4, 2, key=KEY), jax.random.normal(KEY, (6, 4))
    read, weights = module(rows, rows)
    again, _ = module(rows[::-1], rows[::-1])
    np.testing.assert_allclose(again, read, rtol=1e-5, atol=1e-6)
    padded = jnp.concatenate([rows, jnp.full((3, 4), 9.0)])
    np.testing.assert_allclose(module(padded, padded, jnp.arange(9) < 6)[0], read, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
