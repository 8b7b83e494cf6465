"""A memory of slots opens one for what is new, finds what it knows, and says which steps it read."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from engram.testing import check_working
from engram.working.slots import FAINT, SlotsSpec

INPUTS = 5
UNROLL = jax.jit(lambda made, *given: made.unroll(*given))


def built(inputs=INPUTS, seed=3, **numbers):
    return SlotsSpec(**{"slots": 4, "hidden_size": 8, "heads": 2, **numbers}).build(inputs, jax.random.PRNGKey(seed))


def rows(count, inputs=INPUTS, seed=0):
    return jax.random.normal(jax.random.PRNGKey(seed), (count, inputs))


def opening(count, *places):
    return jnp.array([row in places for row in range(count)])


def array(x):
    return np.asarray(x, np.float64)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum() if len(x) else x


def unit(x):
    return x / np.sqrt((x**2).sum(-1, keepdims=True) + 1e-6)


def decided(made, write=50.0, novel=0.0, erase=-50.0):
    """The memory with gates that are as good as shut or open, whatever the input."""
    width = made.width
    bias = jnp.concatenate([made.asked.bias[:width], jnp.full(width, erase), jnp.array([write, novel])])
    weight = made.asked.weight.at[width:].set(0)
    made = eqx.tree_at(lambda m: (m.asked.bias, m.asked.weight), made, (bias, weight))
    return eqx.tree_at(lambda m: m.sharpness, made, jnp.full_like(made.sharpness, np.log(100.0)))


# -- against the formula, in NumPy and 64 bits ---------------------------------------------------------------------


def plain(made, window):
    """One episode, row by row: vectors, weights [heads, slots], and the steps that the slots belong to."""
    linear = lambda layer, x: array(layer.weight) @ x + array(layer.bias)  # noqa: E731
    width, slots = made.width, made.slots
    *sharp, writing, newness = np.exp(array(made.sharpness))
    keys, values, used, step = np.zeros((slots, width)), np.zeros((slots, width)), np.zeros(slots), np.full(slots, -1)
    shares = [{} for _ in range(slots)]  # of each step in the slot's key
    before, out = None, []
    for now, x in enumerate(window):
        w = np.zeros(slots)
        if now > 0:
            k = unit(linear(made.address, before))
            asked = linear(made.asked, np.maximum(linear(made.hidden, np.concatenate([before, x])), 0))
            value, erase = asked[:width], sigmoid(asked[width : 2 * width])
            g, bias = sigmoid(asked[2 * width]), asked[2 * width + 1]
            inside = step >= 0
            fresh, c = 1.0, np.zeros(slots)
            if inside.any():
                c[inside] = softmax(writing * keys[inside] @ k)
                fresh = sigmoid(newness * (float(made.novel) - (keys[inside] @ k).max()) + bias)
            opened = g * fresh * (np.arange(slots) == used.argmin())
            w = opened + g * (1 - fresh) * c
            keys = (1 - w)[:, None] * keys + np.outer(w, k)
            values = (1 - opened)[:, None] * (1 - np.outer(w, erase)) * values + np.outer(w, value)
            for slot in range(slots):
                shares[slot] = {s: share * (1 - w[slot]) for s, share in shares[slot].items()} | {now - 1: w[slot]}
                first = max(shares[slot], key=shares[slot].get)
                if first == now - 1 and w[slot] >= FAINT:
                    step[slot] = first
        used = 0.99 * used + w
        weights = np.zeros((len(sharp), slots))
        for head, (s, different) in enumerate(zip(sharp, array(made.different), strict=True)):
            query = unit(linear(made.address, x) + different @ x)
            weights[head, step >= 0] = softmax(s * keys[step >= 0] @ query)
        used = used + weights.mean(0)
        y = np.maximum(linear(made.outward, np.concatenate([(weights @ values).ravel(), x])), 0)
        out.append(((y - y.mean()) / np.sqrt(y.var() + 1e-5), weights, step.copy()))
        before = x
    return [np.stack(column) for column in zip(*out, strict=True)]


@pytest.mark.parametrize("seed", range(3))
def test_slots_are_their_formula(seed):
    """Twelve rows, four slots: new ones are opened, known ones updated, and some are taken over."""
    made, window = built(seed=seed), rows(12, seed=seed)
    window = window.at[6].set(window[2]).at[9].set(window[3])  # something comes back
    read = UNROLL(made, made.init(), window, opening(12, 0))[1]
    vectors, weights, steps = plain(made, array(window))
    np.testing.assert_allclose(read.weights[:, :, 0], weights, atol=1e-4)  # 32 bits, carried through 12 rows
    np.testing.assert_array_equal(read.entries[:, 0, 0], steps)
    np.testing.assert_allclose(read.vector, vectors, atol=1e-3)


# -- what it does, by hand -----------------------------------------------------------------------------------------


def test_the_first_step_finds_nothing_and_writes_nothing():
    made, window = built(), rows(3)
    carry, read = made.step(made.init(), window[0], jnp.array(True))
    assert not read.weights.any()
    assert (read.entries == -1).all()
    assert not carry.keys.any()
    carry, read = made.step(carry, window[1], jnp.array(False))
    assert read.entries[0, 0].tolist() == [0, -1, -1, -1]
    np.testing.assert_allclose(read.weights.sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_what_comes_back_is_found_before_anything_is_learned(seed):
    """Four inputs, then each of them again: the slot that is attended most was written at its first showing."""
    made, shown = decided(built(inputs=16, seed=seed, hidden_size=32, slots=6)), rows(4, 16, seed=seed)
    order = [0, 1, 2, 3, 2, 0, 3, 1]
    read = UNROLL(made, made.init(), shown[jnp.array(order)], opening(8, 0))[1]
    best = jnp.take_along_axis(read.entries, read.weights.argmax(-1)[..., None], -1)[..., 0, 0]
    for head in range(2):
        # The step before it has been written by then: 2 at the third and fifth place, 0 at the first and sixth, ...
        assert [order[step] for step in best[4:, head].tolist()] == order[4:]


def test_a_value_is_bound_to_the_step_before():
    """Key of the first input; value made of the first and the second."""
    made, window = decided(built()), rows(2)
    carry, _ = UNROLL(made, made.init(), window, opening(2, 0))
    np.testing.assert_allclose(carry.keys[0], unit(array(made.address(window[0]))), atol=1e-5)
    hidden = jax.nn.relu(made.hidden(jnp.concatenate([window[0], window[1]])))
    np.testing.assert_allclose(carry.values[0], made.asked(hidden)[: made.width], atol=1e-5)
    assert not carry.keys[1:].any()


def test_what_is_known_is_added_to_its_slot_and_what_is_erased_is_replaced():
    """The same input three times: two values in one slot, added up, or only the newer one."""
    window = jnp.tile(rows(1), (3, 1))
    for erase, times in ((-50.0, 2), (50.0, 1)):
        made = decided(built(), erase=erase)
        carry, read = UNROLL(made, made.init(), window, opening(3, 0))
        value = made.asked(jax.nn.relu(made.hidden(jnp.concatenate([window[0], window[0]]))))[: made.width]
        np.testing.assert_allclose(carry.values[0], times * value, atol=2e-2)  # how new it is: sigmoid(-10) = 5e-5
        assert read.entries[-1, 0, 0].tolist() == [1, -1, -1, -1]


def test_a_full_memory_gives_up_the_slot_that_was_used_least_and_empties_it():
    """Three slots for 0, 1, 2; then 0 and 2 are seen again, so that 3 takes the place of 1."""
    made, shown = decided(built(inputs=16, hidden_size=32, slots=3)), rows(5, 16)
    order = jnp.array([0, 1, 2, 0, 2, 0, 2, 3, 4])
    carry, read = UNROLL(made, made.init(), shown[order], opening(9, 0))
    assert read.entries[-2, 0, 0].tolist()[1] == 1
    assert read.entries[-1, 0, 0].tolist()[1] == 7
    hidden = jax.nn.relu(made.hidden(jnp.concatenate([shown[3], shown[4]])))
    np.testing.assert_allclose(carry.values[1], made.asked(hidden)[: made.width], atol=1e-2)


def test_nothing_is_written_while_the_gate_is_shut():
    made = decided(built(), write=-50.0)
    carry, read = UNROLL(made, made.init(), rows(5), opening(5, 0))
    assert not np.asarray(read.weights).any()
    np.testing.assert_allclose(carry.values, 0, atol=1e-12)


@pytest.mark.parametrize("numbers", [{"slots": 1}, {"heads": 1}, {"slots": 3, "heads": 3, "hidden_size": 5}])
def test_all_sizes_keep_the_contract(numbers):
    # A single slot has all the weight, whatever is asked.
    check_working(built(**numbers), INPUTS, unreached=("different",) if numbers.get("slots") == 1 else ())


def test_uniform_slots_keep_the_contract_and_read_all_slots_alike():
    made = built(uniform=True)
    check_working(made, INPUTS, unreached=("different",))
    read = UNROLL(made, made.init(), rows(3), opening(3, 0))[1]
    used = np.asarray(read.entries) >= 0
    np.testing.assert_allclose(read.weights, used / np.maximum(used.sum(-1, keepdims=True), 1), rtol=1e-6)


# -- learning to use it -------------------------------------------------------------------------------------------


def recalled(uniform):
    """The share of bits told right after learning: six pictures come with a bit each, then again in another order."""
    pictures, width, batch = 6, 16, 64
    made = built(inputs=width + 1, slots=8, hidden_size=32, uniform=uniform)
    params, optimizer = (made, jnp.zeros(32)), optax.adam(3e-3)

    def example(key):
        keys = jax.random.split(key, 3)
        shown = jax.random.bernoulli(keys[0], shape=(pictures, width)) * 2.0 - 1
        bits = jax.random.bernoulli(keys[1], shape=(pictures,)) * 2.0 - 1
        order = jax.random.permutation(keys[2], pictures)
        # Each picture for two steps, as the second writes what belongs to the first; asked for with a bit of 0.
        first = jnp.repeat(jnp.concatenate([shown, bits[:, None]], 1), 2, axis=0)
        later = jnp.concatenate([shown[order], jnp.zeros((pictures, 1))], 1)
        return jnp.concatenate([first, later]), bits[order]

    def score(params, window):
        made, readout = params
        vectors = made.unroll(made.init(), window, opening(len(window), 0))[1].vector
        return vectors[-pictures:] @ readout

    def loss(params, key):
        windows, bits = jax.vmap(example)(jax.random.split(key, batch))
        return jax.nn.softplus(-bits * jax.vmap(score, (None, 0))(params, windows)).mean()

    def update(state, key):
        params, moments = state
        change, moments = optimizer.update(jax.grad(loss)(params, key), moments)
        return (optax.apply_updates(params, change), moments), None

    keys = jax.random.split(jax.random.PRNGKey(0), 400)
    params = jax.jit(lambda p: jax.lax.scan(update, (p, optimizer.init(p)), keys)[0][0])(params)
    windows, bits = jax.vmap(example)(jax.random.split(jax.random.PRNGKey(9), 200))
    return float((jax.jit(jax.vmap(score, (None, 0)))(params, windows) * bits > 0).mean())


def test_bits_of_pictures_never_seen_are_learned_to_be_recalled_and_not_with_equal_weights():
    """1,200 bits. Equal weights are no guessing: products of pictures and bits, added up, still tell some of them."""
    assert recalled(uniform=False) > 0.95
    assert recalled(uniform=True) < 0.9
