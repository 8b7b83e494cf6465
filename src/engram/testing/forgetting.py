"""What `forget` is held to: a memory that is made anew, by writing what remains.

from engram.testing.forgetting import written_anew
written_anew(memory, store, gone)        reads of it equal those of memory.forget(store, gone), to 0 ulp
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from engram.external.chunked import Chunked
from engram.external.chunking import AT_ONCE
from engram.external.episodic import Episodic
from engram.external.graph import Graph, propagate
from engram.external.memory import OPTIONAL, Entries
from engram.external.product_key import Grid, ProductKey
from engram.external.votes import Votes

__all__ = ["cells_written_anew", "written_anew"]


def written_anew(memory: Episodic | Chunked | Graph | Votes, store: Any, gone: Bool[Array, "capacity"]) -> Any:
    """An empty store into which `write` put the entries that remain, in the order in which they were last written.

    One at a time; of `chunked` as many as it places together. `graph` takes each edge with the return that it was
    written with, and propagates once at the end.
    """
    ids = jnp.arange(memory.capacity, dtype=jnp.int32)
    remains = memory.holds(store, ids) & ~gone
    order = jnp.argsort(jnp.where(remains, _written(memory, store), jnp.iinfo(jnp.int32).max), stable=True)
    at_once = min(AT_ONCE, memory.size // 2) if isinstance(memory, Chunked) else 1
    blocks = jnp.pad(order, (0, -len(order) % at_once)).reshape(-1, at_once)
    wanted = (jnp.arange(blocks.size) < remains.sum()).reshape(blocks.shape)

    def write(new: PyTree, block: tuple[Array, Array]) -> tuple[PyTree, None]:
        return memory.write(new, _given(memory, store, block[0]), block[1]), None

    new: Any = jax.lax.scan(write, memory.init(_kept(memory, store)), (blocks, wanted))[0]
    return propagate(new, memory.numbers.sweeps) if isinstance(memory, Graph) else new


def cells_written_anew(memory: ProductKey, entries: Entries, gone: Bool[Array, "capacity"]) -> tuple[Grid, Grid]:
    """A grid that these entries were written into, one at a time, and one into which those of the cells that are gone
    never were. For `spread=1`, so that each belongs to one cell.

    The mean and variance of keys, which are not stored, are in both as all of the entries made them.
    """
    gone = gone.reshape(memory.init().writes.shape)

    def write(grids: tuple[Grid, Grid], entry: Entries) -> tuple[tuple[Grid, Grid], None]:
        block = jax.tree.map(lambda column: column[None], entry)
        whole, without = grids
        after = memory.write(whole, block, jnp.ones(1, bool))
        stays = ~((after.writes != whole.writes) & gone).any()
        without = without._replace(clock=whole.clock, mean=whole.mean, variance=whole.variance)
        return (after, memory.write(without, block, stays[None])), None

    whole, without = jax.lax.scan(write, (memory.init(), memory.init()), entries)[0]
    return whole, without._replace(clock=whole.clock, mean=whole.mean, variance=whole.variance)


def _written(memory: Any, store: Any) -> Int[Array, "capacity"]:
    """When each entry was last written; those of a node together."""
    if isinstance(memory, Graph):
        return jnp.repeat(store.written, memory.actions)
    return (store.entries if isinstance(memory, Chunked) else store).written.reshape(-1)


def _given(memory: Any, store: Any, ids: Int[Array, "block"]) -> Entries:
    """What is written of entries that a store holds."""
    found = memory.fetch(store, ids)
    return replace(found, value=store.base.reshape(-1)[ids]) if isinstance(memory, Graph) else found


def _kept(memory: Any, store: Any) -> dict[str, PyTree]:
    """The optional columns that a store keeps, an example of each."""
    like = jax.eval_shape(memory.fetch, store, jax.ShapeDtypeStruct((1,), jnp.int32))
    columns = {name: getattr(like, name) for name in OPTIONAL}
    return {
        name: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), column)
        for name, column in columns.items()
        if jax.tree.leaves(column)
    }
