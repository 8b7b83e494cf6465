"""Taking entries out of a memory: `hide` for a look, `forget` for good.

Kinds have verbs of their own (`ForgettingMemory`). A kind without them is served by its other verbs: the entries that
remain are fetched and written into an empty store.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from engram.external.memory import OPTIONAL, Entries, ExternalMemory


def hide(memory: ExternalMemory, store: Any, ids: Int[Array, "block"]) -> Any:
    """`memory.hide`; of a kind without that verb, a store into which the other entries were written anew.

    Its ids are then others.
    """
    if hasattr(memory, "hide"):
        return memory.hide(store, ids)  # type: ignore[attr-defined]
    place = jnp.where((ids >= 0) & (ids < memory.capacity), ids, memory.capacity)
    return rebuilt(memory, store, jnp.zeros(memory.capacity, bool).at[place].set(True, mode="drop"))


def rebuilt(memory: ExternalMemory, store: Any, gone: Bool[Array, "capacity"]) -> Any:
    """An empty store into which the entries that are not gone were written, one after the other, in the order of ids.

    It costs a write for each entry.
    """
    ids = jnp.arange(memory.capacity, dtype=jnp.int32)
    wanted = memory.holds(store, ids) & ~gone if memory.capacity else jnp.zeros(0, bool)
    example = jax.eval_shape(memory.fetch, store, jax.ShapeDtypeStruct((1,), jnp.int32))
    new = memory.init(_examples(example))

    def write(state: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
        place, new = state
        entry = memory.fetch(store, ids[place][None])
        return place + 1, memory.write(new, entry, wanted[place][None])

    return jax.lax.while_loop(lambda state: state[0] < memory.capacity, write, (jnp.zeros((), jnp.int32), new))[1]


def _examples(entries: Entries) -> dict[str, PyTree] | None:
    """One of each optional column that a store keeps, as `init` is asked for them; None for none."""
    columns = {name: getattr(entries, name) for name in OPTIONAL}
    found = {
        name: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), column)
        for name, column in columns.items()
        if jax.tree.leaves(column)
    }
    return found or None
