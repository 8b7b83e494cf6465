"""Product keys find the best of all slots, and move what those hold as a table is moved."""

import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram import registry, specs
from engram.errors import SpecError
from engram.external.memory import Entries
from engram.external.product_key import Grid, ProductKey, ProductKeySpec, best_pairs

WIDTH, ACTIONS = 6, 3
SMALL = ProductKeySpec(codes=4, neighbours=5)
WRITE = jax.jit(lambda made, *given: made.write(*given))
READ = jax.jit(lambda made, *given: made.read(*given))
TOUCH = jax.jit(lambda made, *given: made.touch(*given))


def built(spec: ProductKeySpec = SMALL, offered: int = 0, seed: int = 3) -> ProductKey:
    return spec.build(WIDTH, ACTIONS, offered, jax.random.PRNGKey(seed))


def block(keys: Any, actions: Any, values: Any, *, features: Any = None, first: int = 0) -> Entries:
    """Entries whose hash and origin tell which they are, counted from `first`."""
    count = len(values)
    numbers = np.arange(first, first + count)
    return Entries(
        key=jnp.asarray(keys, jnp.float32).reshape(count, -1),
        action=jnp.asarray(actions, jnp.int32),
        features=jnp.zeros((count, 0)) if features is None else jnp.asarray(features, jnp.float32),
        value=jnp.asarray(values, jnp.float32),
        td_error=jnp.zeros(count),
        hash=jnp.asarray(np.stack([numbers, numbers + 7], 1), jnp.uint32),
        origin=jnp.asarray(np.stack([numbers * 0, numbers, numbers + 1], 1), jnp.int32),
    )


def rows(count: int, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def keeping(count: int, *left_out: int) -> jax.Array:
    return jnp.array([place not in left_out for place in range(count)])


def all_scores(made: ProductKey, key: np.ndarray, mean: Any = 0.0, variance: Any = 1.0) -> np.ndarray:
    """The score of every slot, in NumPy and 64 bits; mean and variance are those of the keys that were written."""
    key = ((key.astype(np.float64) - mean) / np.sqrt(variance)).clip(-5, 5)
    key = (key - key.mean()) / np.sqrt(key.var() + 1e-5)
    codes, half = np.asarray(made.codes, np.float64), len(key) // 2
    first, second = codes[0] @ key[:half], codes[1] @ key[half:]
    return ((first[:, None] + second) / np.sqrt(len(key)) / made.temperature).reshape(-1)


# -- the choice --------------------------------------------------------------------------------------------------


def test_best_pairs_by_hand():
    """5 + 10, 5 + 9 and 4 + 10 are 15, 14, 14; 3 + 10 would be next."""
    i, j = best_pairs(jnp.array([[3.0, 5.0, 4.0]]), jnp.array([[9.0, 0.0, 10.0]]), 3)
    pairs = list(zip(i[0].tolist(), j[0].tolist(), strict=True))
    assert pairs[0] == (1, 2)
    assert sorted(pairs[1:]) == [(1, 0), (2, 2)]


BEST = jax.jit(best_pairs, static_argnums=2)


@settings(max_examples=200)
@given(
    k=st.sampled_from([1, 2, 3, 5, 6, 7, 20, 36]),
    # Few different numbers make many equal sums.
    scores=st.lists(
        st.one_of(st.integers(-3, 3), st.floats(-1e6, 1e6, width=32, allow_subnormal=False)), min_size=12, max_size=12
    ),
)
def test_best_pairs_are_the_best_of_all_pairs(k, scores):
    first, second = np.array(scores, np.float32).reshape(2, 6)
    i, j = (np.asarray(part)[0] for part in BEST(first[None], second[None], k))
    assert len({*zip(i.tolist(), j.tolist(), strict=True)}) == k
    every = first[:, None] + second
    # To the last bit: rounding never puts a smaller sum before a greater one.
    assert every[i, j].tolist() == np.sort(every.reshape(-1))[::-1][:k].tolist()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_read_is_of_the_best_of_all_slots(seed):
    made = built(ProductKeySpec(codes=8, neighbours=9), seed=seed)
    store = Grid(*made.init())._replace(writes=jnp.ones((64, ACTIONS), jnp.int32))
    query = rows(1, seed)[0]
    entries = np.asarray(READ(made, store, query).entries)[0]
    every = all_scores(made, query)
    for action in range(ACTIONS):
        assert (entries[action] % ACTIONS == action).all()
        found = every[entries[action] // ACTIONS]
        np.testing.assert_allclose(found, np.sort(every)[::-1][:9], rtol=1e-4, atol=1e-5)  # 32 bits against 64


def test_more_neighbours_than_codes_still_finds_every_slot():
    made = built(ProductKeySpec(codes=2, neighbours=4))
    store = made.init()._replace(writes=jnp.ones((4, ACTIONS), jnp.int32))
    assert sorted(READ(made, store, rows(1)[0]).entries[0, 0].tolist()) == [0, 3, 6, 9]


# -- reading -----------------------------------------------------------------------------------------------------


def by_hand(spec: ProductKeySpec) -> ProductKey:
    """Two codes for each half, +-(1, 0, 0), so that the first number of each half decides."""
    made = built(spec)
    return eqx.tree_at(lambda m: m.codes, made, jnp.zeros((2, 2, 3)).at[:, :, 0].set(jnp.array([1.0, -1.0])))


def test_a_read_by_hand():
    """(3, 0, 0 | 1, 0, 0) has scores s + t, s - t, -s + t, -s - t in slots 0 to 3; slots 0 and 1 know action 2."""
    made = by_hand(ProductKeySpec(codes=2, neighbours=2, temperature=1.0, pseudo_count=2.0))
    query = np.array([3.0, 0, 0, 1.0, 0, 0], np.float32)
    store = made.init()
    store = store._replace(
        value=store.value.at[0, 2].set(10.0).at[1, 2].set(20.0).at[3, 0].set(99.0),
        writes=store.writes.at[0, 2].set(2).at[1, 2].set(6).at[3, 0].set(1),
    )
    read = READ(made, store, query)
    t = (query[3] - query.mean()) / np.sqrt(query.var() + 1e-5) / np.sqrt(6)  # of slot 0 over slot 1: 2 t
    weight = 1 / (1 + np.exp(-2 * t))
    np.testing.assert_allclose(read.weights[0, 2], [weight, 1 - weight], rtol=1e-5)
    np.testing.assert_allclose(read.q, [0, 0, weight * 10 + (1 - weight) * 20], rtol=1e-5)
    np.testing.assert_allclose(read.confidence, [0, 0, weight * 2 / 4 + (1 - weight) * 6 / 8], rtol=1e-5)
    assert read.entries[0].tolist() == [[-1, -1], [-1, -1], [2, 5]]
    assert read.weights[0, :2].tolist() == [[0, 0], [0, 0]]
    assert read.vector.shape == (0,)


def test_what_is_not_known_takes_no_weight_but_confidence():
    """The better of two slots knows nothing: the other has all the weight, and as much confidence as attention."""
    made = by_hand(ProductKeySpec(codes=2, neighbours=2, temperature=1.0, pseudo_count=0.0))
    query = np.array([3.0, 0, 0, 1.0, 0, 0], np.float32)
    store = made.init()
    store = store._replace(value=store.value.at[1, 0].set(7.0), writes=store.writes.at[1, 0].set(1))
    read = READ(made, store, query)
    assert read.weights[0, 0].tolist() == [0, 1]
    assert read.q.tolist() == [7, 0, 0]
    every = np.exp(all_scores(made, query)[:2])
    np.testing.assert_allclose(read.confidence, [every[1] / every.sum(), 0, 0], rtol=1e-5)


def test_an_empty_memory_knows_nothing():
    read = READ(built(), built().init(), rows(1)[0])
    for part in (read.q, read.confidence, read.weights):
        assert not np.any(part)
    assert (np.asarray(read.entries) == -1).all()


def test_uniform_weights_ignore_the_scores():
    made = built(ProductKeySpec(codes=4, neighbours=4, uniform=True))
    store = made.init()._replace(writes=jnp.ones((16, ACTIONS), jnp.int32))
    np.testing.assert_allclose(READ(made, store, rows(1)[0]).weights, 0.25, rtol=1e-6)


def test_a_batch_reads_as_each_alone():
    made, queries = built(), rows(4)
    store = WRITE(made, made.init(), block(rows(9, 1), np.arange(9) % 3, np.arange(9.0)), keeping(9))
    together = jax.jit(jax.vmap(made.read, (None, 0)))(store, queries)
    for place, query in enumerate(queries):
        alone = READ(made, store, query)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[place], b, atol=1e-5), together, alone)  # noqa: B023


def test_the_gradient_reaches_codes_and_query_and_nothing_that_is_stored():
    made, query = built(ProductKeySpec(codes=4, neighbours=16, temperature=1.0)), jnp.asarray(rows(1)[0])
    store = WRITE(made, made.init(), block(rows(9, 1), np.arange(9) % 3, np.arange(9.0)), keeping(9))

    def total(made, query):
        read = made.read(store, query)
        return (read.q * jnp.array([1.0, -2.0, 3.0])).sum() + read.confidence.sum()

    total = jax.jit(total)
    codes, slope = jax.jit(jax.grad(total, (0, 1)))(made, query)
    step = 1e-2
    for place in range(WIDTH):  # against differences of second order, in 32 bits
        change = step * jnp.eye(WIDTH)[place]
        difference = (total(made, query + change) - total(made, query - change)) / (2 * step)
        np.testing.assert_allclose(slope[place], difference, rtol=0.05, atol=0.05)
    assert np.isfinite(codes.codes).all()
    assert np.any(codes.codes)


# -- writing -----------------------------------------------------------------------------------------------------


def test_a_first_value_is_taken_whole_and_a_second_moves_it():
    """3, then a quarter of the way from 3 to 7: 4."""
    made, key = built(ProductKeySpec(codes=4, neighbours=3, alpha=0.25)), rows(1)
    store = WRITE(made, made.init(), block(key, [1], [3.0]), keeping(1))
    assert READ(made, store, key[0]).q.tolist() == [0, 3, 0]
    store = WRITE(made, store, block(key, [1], [7.0], first=5), keeping(1))
    read = READ(made, store, key[0])
    np.testing.assert_allclose(read.q, [0, 4, 0])
    slot, column = divmod(int(read.entries[0, 1, 0]), ACTIONS)
    assert column == 1
    assert (store.writes[slot, 1], store.clock) == (2, 2)
    found = made.fetch(store, read.entries[0, 1, :1])
    np.testing.assert_allclose(found.value, [4])
    assert found.action.tolist() == [1]
    assert found.origin.tolist() == [[-1] * 3]  # not stored


def moments(keys: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of these keys, beside a key of 0 whose variance is 1."""
    first = np.zeros((1, WIDTH))
    every = np.concatenate([first, np.asarray(keys, np.float64).reshape(-1, WIDTH)])
    return every.mean(0), every.var(0) + 1 / len(every)


def plainly(made: ProductKey, blocks: list[list[tuple[np.ndarray, int, float]]]) -> dict[tuple[int, int], list[float]]:
    """A dictionary from slot and action to value and count: one after another."""
    table: dict[tuple[int, int], list[float]] = {}
    keys: list[np.ndarray] = []
    for written in blocks:
        keys += [row[0] for row in written]
        for key, action, value in written:
            scores = all_scores(made, key, *moments(keys))
            best = np.argsort(-scores, kind="stable")[: made.spread]
            weights = np.exp(scores[best] - scores[best].max())
            for slot, weight in zip(best.tolist(), weights / weights.sum(), strict=True):
                old = table.get((slot, action))
                moved = value if old is None else old[0] + made.alpha * weight * (value - old[0])
                table[slot, action] = [moved, 1 if old is None else old[1] + 1]
    return table


@settings(max_examples=60, deadline=None)
@given(
    spread=st.sampled_from([1, 3]),
    # Few keys: slots are met again, also within a block.
    written=st.lists(st.tuples(st.integers(0, 4), st.integers(0, ACTIONS - 1), st.floats(-10, 10)), max_size=14),
    cut=st.sampled_from([1, 6, 13]),  # few block sizes, each compiled
    left_out=st.integers(0, 13),
)
def test_writes_in_blocks_are_writes_one_after_another(spread, written, cut, left_out):
    made, keys = built(ProductKeySpec(codes=3, neighbours=4, spread=spread, alpha=0.5)), rows(5, 8)
    store, kept, blocks = made.init(), [], []
    padded = [*written, *[(0, 0, 1e6)] * (14 - len(written))]  # blocks of one size: what is not kept changes nothing
    for places in (range(cut), range(cut, 14)):
        chosen = [padded[place] for place in places]
        keep = jnp.array([place < len(written) and place != left_out for place in places])
        entries = block(keys[[row[0] for row in chosen]], [row[1] for row in chosen], [row[2] for row in chosen])
        store = WRITE(made, store, entries, keep)
        blocks += [[(keys[row[0]], *row[1:]) for row, keeps in zip(chosen, np.asarray(keep), strict=True) if keeps]]
        kept += blocks[-1]
    table = plainly(made, blocks)
    mean, variance = moments([row[0] for row in kept])
    np.testing.assert_allclose(store.mean, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(store.variance, variance, rtol=1e-4, atol=1e-5)
    assert store.clock == len(kept)
    assert {(int(s), int(a)) for s, a in np.argwhere(np.asarray(store.writes) > 0)} == set(table)
    for (slot, action), (value, count) in table.items():
        np.testing.assert_allclose(store.value[slot, action], value, rtol=1e-4, atol=1e-4)  # 32 bits, other order
        assert store.writes[slot, action] == count


def test_what_is_not_kept_is_not_written():
    made, entries = built(), block(rows(3), [0, 1, 2], [1.0, 2.0, 3.0])
    empty = made.init()
    jax.tree.map(np.testing.assert_array_equal, WRITE(made, empty, entries, keeping(3, 0, 1, 2)), empty)
    one = jax.tree.map(lambda x: x[:1], entries)
    jax.tree.map(np.testing.assert_array_equal, WRITE(made, empty, one, keeping(1, 0)), empty)


@pytest.mark.parametrize("size", [1, 2, 8, 100])
def test_a_write_copies_no_table(size):
    """Beside its arguments it needs much less than one column of the table, which is given back in place."""
    made = built(ProductKeySpec(codes=512))
    store, column = made.init(), 512**2 * 4
    entries = block(rows(size), [0] * size, [0.0] * size)
    write = jax.jit(lambda made, store, *given: made.write(store, *given), donate_argnums=1)
    needed = write.lower(made, store, entries, keeping(size)).compile().memory_analysis()
    assert needed.temp_size_in_bytes < column + size * 512 * 8 * 4  # scores of a block, and room for sorting them


def test_keys_that_have_most_in_common_still_spread():
    """As embeddings of one network do: unnormalised they would all be nearest to the same few codes."""
    made = built(ProductKeySpec(codes=16))
    common = np.array([30.0, -20.0, 10.0, 0.0, 40.0, -10.0])
    keys = (common + rows(400, 5) * np.array([0.1, 1.0, 0.3, 0.1, 2.0, 0.5])).astype(np.float32)
    store = made.init()
    for part in np.split(keys, 4):
        store = WRITE(made, store, block(part, np.zeros(100, int), np.arange(100.0)), keeping(100))
    assert int(store.live[:, 0].sum()) > 60
    unlike = len({int(np.argmax(all_scores(made, key))) for key in keys})
    assert unlike < 10


def test_a_feature_that_was_silent_does_not_outweigh_all_others():
    made, store = built(), built().init()._replace(clock=jnp.int32(10**6), variance=jnp.ones(WIDTH).at[0].set(1e-12))
    keys = rows(6, 4)
    keys[:, 0] = 0.01
    slots = set()
    for number, key in enumerate(keys):
        written = WRITE(made, store, block(key[None], [0], [1.0], first=number), keeping(1))
        slots |= set(np.flatnonzero(np.asarray(written.live[:, 0])).tolist())
    assert len(slots) > 1


def test_a_key_whose_variance_would_not_be_finite_is_refused():
    made = built()
    store = WRITE(made, made.init(), block(rows(2) * np.array([[1.0], [1e20]]), [0, 0], [1.0, 2.0]), keeping(2))
    assert (int(store.refused), int(store.clock)) == (1, 1)
    assert np.isfinite(store.variance).all()


def test_in_the_end_the_newest_keys_count():
    made, store = built(), built().init()._replace(clock=jnp.int32(10**6))
    store = WRITE(made, store, block(np.ones((100, WIDTH)), np.zeros(100, int), np.zeros(100)), keeping(100))
    np.testing.assert_allclose(store.mean, 0.01, rtol=1e-5)
    np.testing.assert_allclose(store.variance, 0.99 + 0.01 * 0.99, rtol=1e-5)


def test_touching_changes_nothing():
    """Nothing is evicted, so nothing goes by what was read."""
    made = built()
    store = WRITE(made, made.init(), block(rows(3), [0, 1, 2], [1.0, 2.0, 3.0]), keeping(3))
    touched = TOUCH(made, store, jnp.array([4, -1, 4, 0]), jnp.array([0.5, 9.0, 0.25, 1.0]))
    jax.tree.map(np.testing.assert_array_equal, touched, store)


def test_a_slot_and_action_takes_eight_bytes():
    """A value and a count: nothing that no read uses."""
    store = built(ProductKeySpec(codes=32)).init()
    assert sum(leaf.nbytes for leaf in store) < 32**2 * ACTIONS * 8 + 100


# -- actions that are offered by their features ------------------------------------------------------------------


def test_offered_actions_are_told_apart_by_their_features_not_by_their_order():
    made = built(ProductKeySpec(codes=16, neighbours=1), offered=2)
    key, features = rows(1), np.array([[5.0, 0.0], [0.0, 5.0], [-5.0, 0.0]], np.float32)
    entries = block(np.repeat(key, 3, 0), [0, 1, 2], [1.0, 2.0, 3.0], features=features)
    store = WRITE(made, made.init(), entries, keeping(3))
    assert store.value.shape == (256, 1)
    for order in ([0, 1, 2], [2, 0, 1]):
        read = READ(made, store, key[0], features[np.array(order)])
        assert read.q.tolist() == [order[i] + 1.0 for i in range(3)]
        assert read.weights.shape == read.entries.shape == (1, 3, 1)


# -- specs and sentences -----------------------------------------------------------------------------------------


def test_the_spec_round_trips_and_is_registered():
    spec = ProductKeySpec(codes=8, spread=2)
    assert registry.find("external", "product-key") is ProductKeySpec
    assert specs.from_json(ProductKeySpec, json.loads(json.dumps(specs.to_json(spec)))) == spec


def test_every_leaf_is_learned_and_two_modules_have_one_structure():
    first, second = built(seed=0), built(seed=1)
    assert [leaf.shape for leaf in jax.tree.leaves(first)] == [(2, 4, 3)]
    assert jax.tree.structure(first) == jax.tree.structure(second)
    np.testing.assert_allclose((first.codes**2).mean(-1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: ProductKeySpec(codes=4, neighbours=17),
            "external.neighbours = 17 exceeds the 16 slots of external.codes = 4; lower neighbours or raise codes",
        ),
        (lambda: ProductKeySpec(codes=2, neighbours=2, spread=5), "external.spread = 5 exceeds the 4 slots"),
        (
            lambda: SMALL.build(5, 2, 0, jax.random.PRNGKey(0)),
            "cuts keys into halves, but an embedding of 5 makes keys of 5 numbers; make the last layer before it one",
        ),
        (
            lambda: SMALL.build(4, 2, 3, jax.random.PRNGKey(0)),
            "but an embedding of 4 and 3 features of an action makes keys of 7 numbers",
        ),
        (
            lambda: ProductKeySpec(codes=20_000).build(4, 6, 0, jax.random.PRNGKey(0)),
            "external.codes = 20000 with 6 actions makes more entries than 32 bits can count; lower external.codes to",
        ),
    ],
)
def test_impossible_settings_are_refused_in_a_sentence(make, said):
    with pytest.raises(SpecError, match=said):
        make()
