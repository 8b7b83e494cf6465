"""Taking entries out of a memory: `hide` for a look, `forget` for good. And `edit`, which gives an entry another value.

Kinds have verbs of their own (`ForgettingMemory`). A kind without them is served by its other verbs: the entries that
remain are fetched and written into an empty store.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram.errors import SpecError
from engram.external.memory import OPTIONAL, Entries, ExternalMemory, Notes


def hide(memory: ExternalMemory, store: Any, ids: Int[Array, "block"]) -> Any:
    """`memory.hide`; of a kind without that verb, a store into which the other entries were written anew.

    Its ids are then others.
    """
    if hasattr(memory, "hide"):
        return memory.hide(store, ids)  # type: ignore[attr-defined]
    place = jnp.where((ids >= 0) & (ids < memory.capacity), ids, memory.capacity)
    return rebuilt(memory, store, jnp.zeros(memory.capacity, bool).at[place].set(True, mode="drop"))


def forget(memory: ExternalMemory, store: Any, gone: Bool[Array, "capacity"]) -> Any:
    """`memory.forget`; of a kind without that verb, `rebuilt`."""
    if hasattr(memory, "forget"):
        return memory.forget(store, gone)  # type: ignore[attr-defined]
    return rebuilt(memory, store, gone)


def notes(memory: ExternalMemory, store: Any, ids: Int[Array, "block"]) -> Notes:
    """`memory.notes`; of a kind without that verb, nothing."""
    return memory.notes(store, ids) if hasattr(memory, "notes") else Notes()  # type: ignore[attr-defined]


def edit(memory: ExternalMemory, store: Any, ids: Int[Array, "block"], values: Float[Array, "block"]) -> Any:
    """The store in which these entries say other values; all else stays. SpecError for a kind that cannot."""
    if not hasattr(memory, "edit"):
        raise SpecError(
            f"the values of {type(memory).__name__} cannot be edited: it computes them anew, or has no verb for it; "
            "delete the entries instead"
        )
    return memory.edit(store, ids, values)  # type: ignore[attr-defined]


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
