"""What is hidden is not read, and all else is. What is forgotten was never written, to the last bit."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import engram.agents.presets  # noqa: F401, registers every kind
from engram import registry
from engram.errors import SpecError
from engram.external.forgetting import edit, forget, hide, notes
from engram.external.graph import propagate
from engram.external.memory import Entries
from engram.testing import ContractFault, check_external
from engram.testing.forgetting import cells_written_anew, written_anew
from engram.trees import named

SMALL = {
    "none": {},
    "episodic": {"capacity": 32, "neighbours": 4},
    "chunked": {"capacity": 32, "size": 4, "probes": 4, "neighbours": 4},
    "product-key": {"codes": 4, "neighbours": 4},
    "graph": {"capacity": 16, "neighbours": 4, "every": 4},
    "votes": {"capacity": 32, "neighbours": 4},
}
KINDS = tuple(SMALL)
WRITE = jax.jit(lambda memory, *given: memory.write(*given))
READ = jax.jit(lambda memory, *given: memory.read(*given))
HIDE = jax.jit(hide)
FORGET = jax.jit(forget)


def built(kind, embedding=4, actions=2, **numbers):
    return registry.find("external", kind)(**SMALL[kind] | numbers).build(embedding, actions, 0, jax.random.PRNGKey(0))


def entries(seed, rows=8, embedding=4, actions=2):
    keys = jax.random.split(jax.random.PRNGKey(seed), 5)
    hashes = jax.random.bits(keys[0], (rows, 2), jnp.uint32)
    return Entries(
        key=jax.random.normal(keys[1], (rows, embedding)),
        action=jax.random.randint(keys[2], (rows,), 0, actions),
        features=jnp.zeros((rows, 0)),
        value=jax.random.normal(keys[3], (rows,)),
        td_error=jnp.zeros(rows),
        hash=hashes,
        origin=jnp.stack([jnp.zeros(rows, jnp.int32), jnp.full(rows, seed), jnp.arange(rows)], 1),
        reward=jax.random.normal(keys[4], (rows,)),
        discount=jnp.full(rows, 0.9),
        following=jnp.roll(hashes, -1, 0),
    )


def filled(memory, blocks=2, again=()):
    store = memory.init()
    for seed in (*range(blocks), *again):
        store = WRITE(memory, store, entries(seed), jnp.ones(8, bool))
    return store


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_a_query_reads_can_be_hidden_until_nothing_is_known(kind):
    memory = built(kind)
    store, query, known = filled(memory), entries(0).key[0], 0
    for _ in range(40):
        read = READ(memory, store, query)
        if not read.weights.any():
            break
        known += 1
        store = HIDE(memory, store, jnp.unique(read.entries))
        assert not np.isin(READ(memory, store, query).entries, read.entries[read.entries >= 0]).any()
    assert not read.q.any()
    assert not read.confidence.any()
    assert (known > 0) == (kind != "none")


@pytest.mark.parametrize("kind", KINDS)
def test_many_are_hidden_one_each_at_once(kind):
    memory = built(kind)
    store, query = filled(memory), entries(0).key[0]
    ids = jnp.concatenate([jnp.unique(READ(memory, store, query).entries), jnp.array([-1])])
    look = jax.jit(jax.vmap(lambda id: memory.read(memory.hide(store, id[None]), query).q))
    each = [READ(memory, HIDE(memory, store, id[None]), query).q for id in ids]
    np.testing.assert_allclose(look(ids), each, atol=1e-6)
    np.testing.assert_array_equal(each[-1], READ(memory, store, query).q)


def test_an_edge_that_hides_takes_its_node_along_if_it_was_the_last():
    memory = built("graph")
    store = filled(memory, 1)
    held = int(store.held)
    ids = jnp.flatnonzero(memory.holds(store, jnp.arange(memory.capacity)))
    assert int(HIDE(memory, store, ids[:1].astype(jnp.int32)).held) == held - 1


class Unhidden(eqx.Module):
    """A kind of a user's from before there was `hide`."""

    inner: eqx.Module

    capacity = property(lambda self: self.inner.capacity)
    init = lambda self, kept=None: self.inner.init(kept)  # noqa: E731
    write = lambda self, *given: self.inner.write(*given)  # noqa: E731
    read = lambda self, *given: self.inner.read(*given)  # noqa: E731
    touch = lambda self, *given: self.inner.touch(*given)  # noqa: E731
    fetch = lambda self, *given: self.inner.fetch(*given)  # noqa: E731
    holds = lambda self, *given: self.inner.holds(*given)  # noqa: E731


@pytest.mark.parametrize("kind", ["episodic", "chunked", "graph"])
def test_a_kind_without_the_verb_is_served_by_its_others(kind):
    memory = built(kind)
    store, query = filled(memory), entries(0).key[0]
    ids = READ(memory, store, query).entries[0, :, 0]
    expected = READ(memory, HIDE(memory, store, ids), query)
    found = READ(memory, HIDE(Unhidden(memory), store, ids), query)
    np.testing.assert_allclose(found.confidence, expected.confidence, rtol=1e-5)
    if kind != "graph":  # whose values are not propagated anew by hiding
        np.testing.assert_allclose(found.q, expected.q, rtol=1e-4, atol=1e-5)


def test_the_contract_finds_a_hide_that_hides_nothing():
    class Blind(Unhidden):
        def hide(self, store, ids):
            return store

    with pytest.raises(ContractFault, match="still read, or held, after it was hidden"):
        check_external(Blind(built("episodic", 5, 3)), 5, 3)


# -- forget ------------------------------------------------------------------------------------------------------


def same(found, expected):
    """Two reads, or many, to the last bit."""
    for name in ("q", "weights", "confidence", "entries"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


def drawn(seed, count, capacity):
    """What is gone, from a single entry to nearly all."""
    generator = np.random.default_rng(seed)
    return jnp.array(generator.random((count, capacity)) < generator.choice([0.03, 0.2, 0.5, 0.9], (count, 1)))


def check_deletions(kind, count, **numbers):
    """Reads of so many memories, each without entries drawn at random, and of as many that were written anew."""
    memory = registry.find("external", kind)(**SMALL[kind] | numbers).build(4, 2, 0, jax.random.PRNGKey(0))
    queries = jnp.concatenate([entries(0).key[:4], jax.random.normal(jax.random.PRNGKey(9), (4, 4))])
    gone = drawn(1, count, memory.capacity)
    look = jax.jit(jax.vmap(lambda store: jax.vmap(lambda query: memory.read(store, query))(queries)))
    if kind == "product-key":
        stream = jax.tree.map(lambda *blocks: jnp.concatenate(blocks), *map(entries, (0, 1, 2, 1)))
        whole, anew = jax.jit(jax.vmap(lambda gone: cells_written_anew(memory, stream, gone)))(gone)
        found = jax.jit(jax.vmap(memory.forget))(whole, gone)
    else:
        store = filled(memory, 6, again=(5, 2))
        anew = jax.jit(jax.vmap(lambda gone: written_anew(memory, store, gone)))(gone)
        found = jax.jit(jax.vmap(lambda gone: memory.forget(store, gone)))(gone)
    assert len(set(np.asarray(found.held).tolist())) > 3
    same(look(found), look(anew))
    return found, anew


KINDS_AND_WAYS = [
    ("episodic", {}),
    ("episodic", {"eviction": "oldest", "kernel": "dot"}),
    ("episodic", {"eviction": "merge", "shuffle": True}),
    ("chunked", {"capacity": 128}),
    ("product-key", {}),
    ("graph", {}),
    ("votes", {}),
    ("votes", {"eviction": "merge"}),
]


@pytest.mark.parametrize(("kind", "numbers"), KINDS_AND_WAYS)
def test_reads_equal_those_of_a_memory_that_was_written_anew(kind, numbers):
    check_deletions(kind, 16, **numbers)


@pytest.mark.parametrize(("kind", "numbers"), KINDS_AND_WAYS)
def test_a_thousand_deletions_equal_memories_that_were_written_anew(kind, numbers):
    check_deletions(kind, 1000, **numbers)


@pytest.mark.parametrize("kind", ["episodic", "graph"])
def test_where_nothing_was_evicted_it_is_the_memory_that_never_saw_the_entry(kind):
    memory, gone = built(kind), jnp.arange(8) % 3 == 1
    never = memory.init()
    for seed in range(2):
        never = WRITE(memory, never, entries(seed), ~gone)
    if kind == "graph":
        never = propagate(never, memory.numbers.sweeps)
    store = filled(memory)
    found = np.asarray(memory.fetch(store, jnp.arange(memory.capacity)).origin[:, 2]) % 3 == 1
    forgotten = FORGET(memory, store, jnp.asarray(found) & memory.holds(store, jnp.arange(memory.capacity)))
    for query in (*entries(0).key, jnp.zeros(4)):
        same(READ(memory, forgotten, query), READ(memory, never, query))


@pytest.mark.parametrize("kind", ["episodic", "chunked", "graph"])
def test_after_forgetting_it_is_written_as_the_memory_that_was_made_anew(kind):
    memory = built(kind, **({"capacity": 128} if kind == "chunked" else {"eviction": "oldest"}))
    store = filled(memory, 5, again=(3,))
    gone = drawn(3, 1, memory.capacity)[0]
    found, anew = FORGET(memory, store, gone), jax.jit(written_anew)(memory, store, gone)
    for seed in (7, 8, 4):  # new entries, and some that come again
        found, anew = (WRITE(memory, one, entries(seed), jnp.ones(8, bool)) for one in (found, anew))
    if kind == "graph":  # which of them propagates when depends on how many writes there were
        found, anew = (propagate(one, memory.numbers.sweeps) for one in (found, anew))
    for query in entries(8).key:
        same(READ(memory, found, query), READ(memory, anew, query))


def test_nothing_of_what_is_forgotten_is_left_in_the_store():
    for kind in ("episodic", "chunked", "graph", "product-key"):
        memory = built(kind)
        store = FORGET(memory, filled(memory), jnp.ones(memory.capacity, bool))
        empty = memory.init()
        for name, leaf in named(store).items():
            if leaf.ndim and name not in ("mean", "variance"):  # what is no column counts on
                np.testing.assert_array_equal(leaf, named(empty)[name], f"{kind} {name}")


def test_chunks_that_would_not_hold_all_entries_anew_keep_them_where_they_are():
    memory = built("chunked", capacity=64, size=4, probes=8)
    store = filled(memory, 30)
    held = jnp.flatnonzero(memory.holds(store, jnp.arange(memory.capacity)))
    gone = jnp.zeros(memory.capacity, bool).at[held[3]].set(True)
    forgotten = FORGET(memory, store, gone)
    assert int(forgotten.held) == int(store.held) - 1
    before, after = (
        {tuple(row) for row in np.asarray(one.entries.origin)[np.asarray(one.live)].tolist()}
        for one in (store, forgotten)
    )
    assert len(before - after) == 1
    counts = np.asarray(forgotten.live).reshape(*forgotten.filled.shape, -1).sum(-1)
    np.testing.assert_array_equal(forgotten.filled, counts)


@pytest.mark.parametrize("kind", ["episodic", "chunked", "graph"])
def test_a_kind_without_the_verb_forgets_by_its_others(kind):
    memory = built(kind)
    store, query = filled(memory), entries(0).key[0]
    gone = jnp.zeros(memory.capacity, bool).at[READ(memory, store, query).entries[0, :, 0]].set(True)
    expected, found = (READ(one, FORGET(one, store, gone), query) for one in (memory, Unhidden(memory)))
    np.testing.assert_allclose(found.confidence, expected.confidence, rtol=1e-5)


def test_the_contract_finds_a_forget_that_forgets_too_little_or_too_much():
    class Clinging(Unhidden):
        def forget(self, store, gone):
            return store

    class Rash(Unhidden):
        def forget(self, store, gone):
            return self.inner.init()

    for kind in (Clinging, Rash):
        with pytest.raises(ContractFault, match="remain are not the others"):
            check_external(kind(built("episodic", 5, 3)), 5, 3)


def test_an_edited_entry_says_its_new_value():
    for kind in ("episodic", "chunked", "product-key"):
        memory = built(kind)
        store, query = filled(memory), entries(0).key[0]
        id = READ(memory, store, query).entries[0, 0, :1]
        edited = edit(memory, store, id, jnp.array([50.0]))
        assert float(memory.fetch(edited, id).value[0]) == 50
        assert float(READ(memory, edited, query).q[0]) > float(READ(memory, store, query).q[0])
    with pytest.raises(SpecError, match="values of Graph cannot be edited"):
        edit(built("graph"), built("graph").init(), jnp.array([0]), jnp.array([1.0]))


@pytest.mark.parametrize("kind", ["episodic", "chunked", "product-key"])
def test_a_store_tells_how_often_it_was_written_to(kind):
    memory = built(kind)
    assert int(notes(memory, filled(memory), jnp.arange(2)).writes) == 16
    assert int(notes(memory, filled(memory, again=(0,)), jnp.arange(2)).writes) == 24  # what is replaced counts too
