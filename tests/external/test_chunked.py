"""Chunks hold what was written, stay where keys are, and with all of them opened a read is the exact one."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram import registry, specs
from engram.errors import SpaceError, SpecError
from engram.external.chunked import Chunked, ChunkedSpec
from engram.external.chunking import Chunks
from engram.external.episodic import EpisodicSpec
from engram.external.memory import Entries
from engram.external.store import find

WRITE = jax.jit(lambda memory, store, entries, keep: memory.write(store, entries, keep))
READ = jax.jit(lambda memory, store, query, offered=None: memory.read(store, query, offered))
TOUCH = jax.jit(lambda memory, store, ids, weights: memory.touch(store, ids, weights))
FIND = jax.jit(find)


def made(embedding: int = 2, actions: int = 1, offered: int = 0, **numbers: Any) -> Chunked:
    """A small memory: of one action, three chunks of four places."""
    numbers = {"capacity": 12, "size": 4, "probes": 1, "neighbours": 2} | numbers
    return ChunkedSpec(**numbers).build(embedding, actions, offered, jax.random.PRNGKey(3))


def block(keys: Any, hashes: Any, *, actions: Any = None, values: Any = None, features: Any = None) -> Entries:
    """Entries with values equal to their hashes where none are given; keys of one number get a second, 0."""
    count = len(hashes)
    keys = np.asarray(keys, np.float32).reshape(count, -1)
    keys = np.pad(keys, ((0, 0), (0, 1))) if keys.shape[1] == 1 else keys
    words = np.stack([np.asarray(hashes, np.uint32), np.full(count, 7, np.uint32)], 1)
    return Entries(
        key=jnp.asarray(keys),
        action=jnp.zeros(count, jnp.int32) if actions is None else jnp.asarray(actions, jnp.int32),
        features=jnp.zeros((count, 0)) if features is None else jnp.asarray(features, jnp.float32),
        value=jnp.asarray(hashes if values is None else values, jnp.float32),
        td_error=jnp.zeros(count),
        hash=jnp.asarray(words),
        origin=jnp.asarray(np.stack([np.asarray(hashes)] * 3, 1), jnp.int32),
    )


def written(memory: Chunked, *blocks: Entries, store: Any = None) -> Any:
    """The store after these blocks."""
    store = memory.init() if store is None else store
    for entries in blocks:
        store = WRITE(memory, store, entries, jnp.ones(len(entries.value), bool))
    return store


def one_by_one(memory: Chunked, numbers: Any, store: Any = None) -> Any:
    """The store after entries whose keys (x, 0) are also their hashes."""
    return written(memory, *(block([[x]], [x]) for x in numbers), store=store)


def contents(store: Chunks, table: int = 0) -> list[list[int]]:
    """The hashes in each chunk, in order."""
    hashes = np.where(store.entries.live[table], np.asarray(store.entries.hash)[table, :, 0].astype(int), -1)
    return [sorted(x for x in row if x >= 0) for row in hashes.reshape(store.chunks, -1).tolist()]


def check_summaries(store: Chunks) -> None:
    """Each chunk's summary is what its live entries come to."""
    live = np.asarray(store.entries.live).reshape(*store.filled.shape, -1)
    keys = np.asarray(store.entries.key).reshape(*live.shape, -1)
    count = live.sum(-1)
    np.testing.assert_array_equal(store.filled, count)
    mean = np.where(live[..., None], keys, 0).sum(2) / np.maximum(count, 1)[..., None]
    np.testing.assert_allclose(np.asarray(store.centre)[count > 0], mean[count > 0], atol=1e-4)  # sums that are updated
    np.testing.assert_allclose(store.length, (store.centre**2).sum(-1), rtol=1e-5)


# -- where entries go, worked by hand ----------------------------------------------------------------------------


def test_a_full_chunk_is_cut_where_its_keys_differ_most():
    """0, 1, 10, 11 fill a chunk; for 12 it is cut into halves, and 12 joins 10 and 11, the nearer ones."""
    store = one_by_one(made(), [0, 10, 1, 11])
    assert contents(store) == [[0, 1, 10, 11], [], []]
    store = one_by_one(made(), [12], store)
    assert sorted(contents(store)) == [[], [0, 1], [10, 11, 12]]
    check_summaries(store)
    assert sorted(np.asarray(store.centre)[0, :, 0].tolist()) == [0, 0.5, 11]


def test_new_entries_join_the_nearest_summary_not_the_newest():
    store = one_by_one(made(), [0, 10, 1, 11, 12, 3, 2])
    assert sorted(contents(store)) == [[], [0, 1, 2, 3], [10, 11, 12]]


THREE = [0, 10, 1, 11, 12, 13, 20, 21]  # chunks {0, 1}, {10, 11} and {12, 13, 20, 21}: the third is cut off for 20


def test_the_chunk_longest_of_no_use_is_given_up():
    """22 needs a cut, and no chunk is empty: 0 and 1 were written first."""
    store = one_by_one(made(), THREE)
    assert sorted(contents(store)) == [[0, 1], [10, 11], [12, 13, 20, 21]]
    store = one_by_one(made(), [22], store)
    assert sorted(contents(store)) == [[10, 11], [12, 13], [20, 21, 22]]
    check_summaries(store)


@pytest.mark.parametrize(
    "eviction, left", [("least-read", [[0, 1], [12, 13], [20, 21, 22]]), ("oldest", [[10, 11], [12, 13], [20, 21, 22]])]
)
def test_reading_keeps_a_chunk_only_where_reads_count(eviction, left):
    memory = made(eviction=eviction)
    store = one_by_one(memory, THREE)
    read = READ(memory, store, jnp.array([0.2, 0]))
    assert np.asarray(store.entries.hash)[0, read.entries[0, 0], 0].tolist() == [0, 1]
    store = TOUCH(memory, store, read.entries[0, 0], read.weights[0, 0])
    assert store.entries.attention.sum() == pytest.approx(1)
    assert sorted(contents(one_by_one(memory, [22], store))) == left


def test_a_table_of_one_chunk_gives_up_its_own_entries():
    store = one_by_one(made(capacity=4), range(7))
    assert contents(store) == [[3, 4, 5, 6]]
    check_summaries(store)


def test_an_entry_met_again_moves_to_where_its_key_is_now():
    memory = made(alpha=0.25)
    store = one_by_one(memory, [0, 10, 1, 11, 12])
    ids = FIND(store.entries, jnp.array([[1, 7]], jnp.uint32), jnp.zeros(1, jnp.int32))
    store = TOUCH(memory, store, ids, jnp.array([0.5]))
    store = written(memory, block([[13.0]], [1], values=[5.0]), store=store)
    assert sorted(contents(store)) == [[], [0], [1, 10, 11, 12]]
    check_summaries(store)
    place = np.flatnonzero(store.entries.live[0] & (store.entries.hash[0, :, 0] == 1)).item()
    assert float(store.entries.value[0, place]) == 1 + 0.25 * (5 - 1)
    assert float(store.entries.attention[0, place]) == 0.5
    assert int(store.entries.written[0, place]) == 6
    assert FIND(store.entries, jnp.array([[1, 7]], jnp.uint32), jnp.zeros(1, jnp.int32)).tolist() == [place]


def test_what_was_kept_is_fetched_from_where_cuts_have_moved_it():
    memory, numbers = made(), [0, 10, 1, 11, 12]
    store = memory.init({"successor": jnp.zeros(2)})
    for x in numbers:
        one = block([[x]], [x])
        store = written(memory, Entries(**vars(one) | {"successor": one.key + 100}), store=store)
    ids = jnp.arange(memory.capacity)
    found, held = memory.fetch(store, ids), np.asarray(memory.holds(store, ids))
    assert sorted(found.hash[held, 0].tolist()) == sorted(numbers)
    assert found.key[held, 0].tolist() == found.value[held].tolist() == found.hash[held, 0].tolist()
    assert found.successor[held].tolist() == (found.key[held] + 100).tolist()
    assert int(store.held) == held.sum() == len(numbers)


def test_equal_keys_can_be_cut_too():
    store = one_by_one(made(), range(6))
    same = written(made(), *(block([[3.0]], [x]) for x in range(6)))
    assert sum(map(len, contents(same))) == sum(map(len, contents(store))) == 6
    assert np.isfinite(READ(made(probes=3), same, jnp.array([3.0, 0])).q).all()
    check_summaries(same)


# -- reading -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[0, 2], ids=["fixed", "offered"])
def both(request) -> tuple[int, Chunks, Any]:
    """Features of an action, and the same three blocks in chunks and in a plain store; half of the last comes twice."""
    offered, generator = request.param, np.random.default_rng(0)
    chunked, exact = equal_kinds(offered)
    stores = chunked.init(), exact.init()
    for start in (0, 20, 10):
        entries = block(
            generator.normal(size=(20, 4)),
            start + np.arange(20),
            actions=np.arange(start, start + 20) % 3,
            values=generator.normal(size=20),
            features=np.arange(start, start + 40).reshape(20, 2) % 5 if offered else None,
        )
        stores = tuple(WRITE(m, s, entries, jnp.ones(20, bool)) for m, s in zip((chunked, exact), stores, strict=True))
    return offered, *stores


def equal_kinds(offered: int, kernel: str = "inverse-distance") -> tuple[Chunked, Any]:
    numbers = dict(neighbours=6, kernel=kernel, heads=2, capacity=3 * 64)
    exact = EpisodicSpec(**numbers).build(4, 3, offered, jax.random.PRNGKey(3))
    return made(4, 3, offered, size=8, probes=24, **numbers), exact


@pytest.mark.parametrize("kernel", ["inverse-distance", "dot", "scaled-dot", "multi-head"])
def test_with_all_chunks_opened_a_read_is_the_exact_one(both, kernel):
    offered, *stores = both
    chunked, exact = equal_kinds(offered, kernel)
    generator = np.random.default_rng(1)
    features = jnp.asarray(generator.integers(0, 5, (4, 2)), jnp.float32) if offered else None
    for query in generator.normal(size=(5, 4)).astype(np.float32):
        got, expected = READ(chunked, stores[0], query, features), READ(exact, stores[1], query, features)
        for name in ("weights", "q", "confidence"):
            np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-5, atol=1e-6)
        hashes = [
            np.where(read.entries < 0, -1, np.asarray(store.hash).reshape(-1, 2)[read.entries, 0].astype(int))
            for read, store in ((got, stores[0].entries), (expected, stores[1]))
        ]
        np.testing.assert_array_equal(*hashes)


def test_clustered_keys_are_found_in_few_chunks():
    """Recall of the 20 nearest among 1,500 entries, 4 of 128 chunks opened: at least 0.95, the published goal."""
    memory = made(8, capacity=4096, size=32, probes=4, neighbours=20)
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(40, 8))
    keys = (centres[generator.integers(0, 40, 1500)] + 0.2 * generator.normal(size=(1500, 8))).astype(np.float32)
    store = written(memory, *(block(keys[x : x + 300], np.arange(x, x + 300)) for x in range(0, 1500, 300)))
    assert int(store.entries.live.sum()) == 1500
    queries = (centres[generator.integers(0, 40, 64)] + 0.2 * generator.normal(size=(64, 8))).astype(np.float32)
    read = jax.jit(jax.vmap(memory.read, (None, 0)))(store, queries)
    found = np.asarray(store.entries.hash)[0, np.asarray(read.entries)[:, 0, 0], 0]
    nearest = ((queries[:, None] - keys) ** 2).sum(-1).argsort(1)[:, :20]
    assert np.mean([np.isin(a, b).mean() for a, b in zip(nearest, found, strict=True)]) >= 0.95
    for place in (0, 63):
        alone = READ(memory, store, queries[place])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[place], b, rtol=1e-5), read, alone)  # noqa: B023


def test_an_empty_memory_knows_nothing():
    read = READ(made(), made().init(), jnp.ones(2))
    for part in (read.q, read.confidence, read.weights):
        assert not np.any(part)
    assert (np.asarray(read.entries) == -1).all()


# -- against a model in plain Python -----------------------------------------------------------------------------

SIZE = 4  # of a block
entry = st.tuples(st.integers(0, 11), st.integers(0, 1), st.integers(-8, 8), st.booleans(), st.integers(-20, 20))
steps = st.lists(
    st.tuples(st.lists(entry, min_size=SIZE, max_size=SIZE), st.lists(st.integers(-1, 63), min_size=2, max_size=2)),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("capacity, update", [(128, "tabular"), (128, "max"), (16, "tabular")])
@settings(max_examples=40)
@given(steps=steps)
def test_chunks_hold_what_a_dictionary_holds(capacity, update, steps):
    """With room for all of it nothing is lost; without, what is there is right, and the last block always is."""
    memory = made(actions=2, capacity=capacity, size=8, probes=8, neighbours=4, update=update, alpha=0.5)
    store, model, clock = memory.init(), {}, 0
    for rows, reads in steps:
        hashes, actions, values, keep, places = zip(*rows, strict=True)
        keys = np.stack([np.array(places), np.arange(SIZE) / 4], 1)
        store = WRITE(memory, store, block(keys, hashes, actions=actions, values=values), jnp.array(keep))
        last = set()
        for key, row in zip(keys, rows, strict=True):
            if row[3]:
                clock += 1
                old, value = model.get(row[:2]), float(row[2])
                if old:
                    value = max(old["value"], value) if update == "max" else (old["value"] + value) / 2
                model[row[:2]] = (old or {"attention": 0.0, "read": 0}) | dict(key=key, value=value, written=clock)
                last.add(row[:2])
        agree(store, model, clock, last, complete=capacity == 128)
        ids = jnp.array([place if place < capacity else -1 for place in reads], jnp.int32)
        live = np.asarray(store.entries.live).reshape(-1)
        ids = jnp.where((ids >= 0) & live[ids], ids, -1)
        store = TOUCH(memory, store, ids, jnp.array([0.25, 0.5]))
        for place, weight in zip(ids.tolist(), (0.25, 0.5), strict=True):
            if place >= 0:
                row = model[name_of(store, place)]
                row |= {"attention": row["attention"] + weight, "read": clock}


def name_of(store: Chunks, place: int) -> tuple[int, int]:
    table, inside = divmod(place, store.entries.places)
    return int(store.entries.hash[table, inside, 0]), int(store.entries.action[table, inside])


def agree(store: Chunks, model: dict, clock: int, last: set, complete: bool) -> None:
    """Every live entry is as the model has it, once, and is the one that its hash finds."""
    columns = {name: np.asarray(getattr(store.entries, name)) for name in ("key", "value", "attention", "written")}
    columns = {name: column.reshape(store.entries.capacity, -1) for name, column in columns.items()}
    places = np.flatnonzero(store.entries.live).tolist()
    names = [name_of(store, place) for place in places]
    assert len(set(names)) == len(names)
    assert last <= set(names) <= set(model)
    assert not complete or set(names) == set(model)
    for place, name in zip(places, names, strict=True):
        assert place // store.entries.places == name[1]
        for column in columns:
            np.testing.assert_allclose(columns[column][place], model[name][column], rtol=1e-6, err_msg=column)
    hashes, actions = np.array(sorted(model)).reshape(-1, 2).T
    padded = np.pad(np.stack([hashes, hashes * 0 + 7], 1), ((0, 24 - len(hashes)), (0, 0)))
    found = FIND(store.entries, padded.astype(np.uint32), np.pad(actions, (0, 24 - len(hashes))).astype(np.int32))
    by_name = dict(zip(names, places, strict=True))
    assert found.tolist()[: len(hashes)] == [by_name.get(name, -1) for name in sorted(model)]
    assert int(store.entries.clock) == clock
    check_summaries(store)


# -- what it costs, and settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 8, 200])
def test_a_write_copies_no_table_of_keys(size):
    memory = made(32, 2, capacity=2**16, size=64)
    store, keys = memory.init(), 2**16 * 32 * 4
    write = jax.jit(lambda memory, store, *given: memory.write(store, *given), donate_argnums=1)
    entries = block(np.zeros((size, 32)), np.arange(size))
    needed = write.lower(memory, store, entries, jnp.ones(size, bool)).compile().memory_analysis()
    assert needed.temp_size_in_bytes < keys / 4


def test_the_spec_round_trips_and_rounds_down_to_whole_chunks():
    spec = ChunkedSpec(capacity=60, size=6, neighbours=3, kernel="dot")
    assert registry.find("external", "chunked") is ChunkedSpec
    assert specs.from_json(ChunkedSpec, json.loads(json.dumps(specs.to_json(spec)))) == spec
    assert made(actions=4, capacity=60, size=6).init().filled.shape == (4, 2)


def test_missing_features_are_refused_in_a_sentence():
    memory = made(offered=2)
    with pytest.raises(SpaceError, match="built for 2 features of each action, but none were given"):
        memory.read(memory.init(), jnp.zeros(2))


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (
            dict(capacity=10),
            "external.size = 4 does not divide external.capacity = 10, which .* set capacity to 12, or",
        ),
        (dict(neighbours=5), "external.neighbours = 5 is more than the 4 entries of external.probes = 1 chunks of"),
        (
            dict(capacity=12, actions=3, probes=2, neighbours=6),
            "external.neighbours = 6 is more than the 4 entries, in chunks of 4, that each of 3 actions has of "
            "external.capacity = 12; set capacity to at least 24, or lower neighbours",
        ),
        (dict(size=1, capacity=12), "size = 1 is out of range; expected at least 2"),
        (dict(kernel="multi-head", heads=3), "external.heads = 3 does not divide"),
    ],
)
def test_impossible_settings_are_refused_in_a_sentence(numbers, said):
    with pytest.raises(SpecError, match=said):
        made(**numbers)
