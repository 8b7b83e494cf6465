"""An external memory whose entries are in shards: to whoever asks, it is `episodic`."""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram.cluster.memory import ShardedMemory
from engram.cluster.shard import Shape
from engram.cluster.shards import Here, Holding, Keeping, Shards
from engram.errors import SpecError
from engram.external.episodic import EpisodicSpec
from engram.external.graph import GraphSpec
from engram.external.memory import Entries
from engram.external.sharded import LINKS, Sharded, ShardedSpec, check_shardable

WIDTH, ACTIONS, PLACES = 6, 3, 40
KEY = jax.random.PRNGKey(0)


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[ShardedMemory]:
    shapes = [Shape(one, 2, ACTIONS, PLACES, WIDTH) for one in range(2)]
    place = Here(lambda shard, epoch: Keeping(Holding(shapes[shard]), tmp_path, epoch), 2)
    LINKS["here"] = ShardedMemory(Shards(place, 2), shapes)
    yield LINKS["here"]  # type: ignore[misc]
    del LINKS["here"]


def sharded(keys: bool = False) -> Sharded:
    spec = ShardedSpec(link="here", shards=2, places=PLACES, neighbours=4, keys=keys, capacity=240)
    return spec.build(WIDTH, ACTIONS, 0, KEY)


def block(seed: int, count: int = 8) -> tuple[Entries, jax.Array]:
    random = np.random.default_rng(seed)
    value = jnp.asarray(random.normal(size=count), jnp.float32)
    entries = Entries(
        key=jnp.asarray(random.normal(size=(count, WIDTH)), jnp.float32),
        action=jnp.asarray(random.integers(ACTIONS, size=count), jnp.int32),
        features=jnp.zeros((count, 0)),
        value=value.at[0].set(jnp.nan),
        td_error=value,
        hash=jnp.asarray(random.integers(1 << 32, size=(count, 2)), jnp.uint32),
        origin=jnp.zeros((count, 3), jnp.int32),
    )
    return entries, jnp.asarray(random.random(count) < 0.8)


@pytest.mark.parametrize("keys", [False, True])
def test_compiled_reads_of_a_batch_give_what_the_table_here_gives(shards: ShardedMemory, keys: bool):
    there = sharded(keys)
    here = EpisodicSpec(neighbours=4, capacity=240).build(WIDTH, ACTIONS, 0, KEY)
    queries = jnp.asarray(np.random.default_rng(9).normal(size=(5, WIDTH)), jnp.float32)

    @jax.jit
    def run(memory: object, store: object) -> object:
        for seed in range(4):
            store = memory.write(store, *block(seed))  # type: ignore[attr-defined]
        read = jax.vmap(lambda query: memory.read(store, query))(queries)  # type: ignore[attr-defined]
        return store, read, memory.touch(store, read.entries.reshape(-1), read.weights.reshape(-1))  # type: ignore[attr-defined]

    store, expected, _ = run(here, here.init())  # type: ignore[misc]
    other, found, _ = run(there, there.init())  # type: ignore[misc]
    shards.settle(int(other.clock))
    assert shards.held == int(store.held) == int(other.held)
    assert (int(other.clock), int(other.refused)) == (int(store.clock), int(store.refused))
    # The same entries in the same order, at distances that differ in how their sums are rounded.
    assert np.array_equal(np.asarray(found.entries >= 0), np.asarray(expected.entries >= 0))
    for name in ("q", "weights", "confidence"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=2e-5, atol=1e-6)


def test_with_keys_the_gradient_is_that_of_the_table_here_and_without_there_is_none(shards: ShardedMemory):
    here = EpisodicSpec(neighbours=4, capacity=240).build(WIDTH, ACTIONS, 0, KEY)
    query = jnp.asarray(np.random.default_rng(9).normal(size=WIDTH), jnp.float32)
    store = here.write(here.init(), *block(1))
    expected = jax.grad(lambda query: here.read(store, query).q.sum())(query)
    with_keys, without = sharded(True), sharded(False)
    other = with_keys.write(with_keys.init(), *block(1))
    found = jax.jit(jax.grad(lambda query: with_keys.read(other, query).q.sum()))(query)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(expected).max() > 0
    assert not np.any(jax.grad(lambda query: without.read(other, query).q.sum())(query))


def test_a_memory_without_entries_knows_nothing(shards: ShardedMemory):
    read = sharded().read(sharded().init(), jnp.zeros(WIDTH))
    assert not np.any(read.confidence)
    assert not np.any(read.weights)
    assert np.all(read.entries == -1)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (GraphSpec(), "this agent has another memory, or none"),
        (EpisodicSpec(kernel="dot"), "external.kernel = dot"),
        (EpisodicSpec(shuffle=True), "external.shuffle = True"),
        (EpisodicSpec(eviction="merge"), "external.eviction = merge"),
    ],
)
def test_what_shards_cannot_be_is_refused_in_a_sentence(spec: object, said: str):
    with pytest.raises(SpecError, match=said):
        check_shardable(spec)


def test_entries_in_shards_are_not_looked_at_from_a_program(shards: ShardedMemory):
    memory = sharded()
    for look in (memory.fetch, memory.holds):
        with pytest.raises(SpecError, match="use engram memory RUN"):
            look(memory.init(), jnp.zeros(1, jnp.int32))
