"""Which entries a full table gives up.

    oldest            in turn, the first in first out; nothing is sorted
    least-read        the one whose last read, or write if that came later, is longest ago
    least-attended    the one with the least attention for its age
    least-surprising  the one whose value the network knew best: the least |td_error|
    merge             none: what is new is merged into the nearest entry

Free places come first, the lowest first. Among equals the lowest place gives way first.

Source of `least-read`: Pritzel et al. 2017 (arXiv 1703.01988), section 3.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from engram.external.store import Store

Eviction = Literal["oldest", "least-read", "least-attended", "least-surprising", "merge"]
EVICTIONS: tuple[str, ...] = get_args(Eviction)


def worth(store: Store, eviction: str) -> Float[Array, "tables places"]:
    """The worth of each entry: a full table gives up the least one. -infinity where a place is free.

    `least-attended` is (attention received + 1) / (age + capacity). A new entry thus counts as if `capacity` reads had
    given it their equal share. It has time to be read, and an entry that is no longer read loses its place. With the
    bare sum of attention, each new entry would be given up at the next write.
    """
    if eviction == "least-read":
        # Relative to now: float32 holds 2^24 writes exactly, and rounds only the ages beyond.
        kept = -(store.clock - jnp.maximum(store.read, store.written)).astype(jnp.float32)
    elif eviction == "least-attended":
        age = (store.clock - store.written).astype(jnp.float32)
        kept = (store.attention + 1) / (age + store.capacity)
    elif eviction == "least-surprising":
        kept = jnp.abs(store.td_error)
    else:  # merge: only free places are asked for
        kept = jnp.zeros_like(store.value)
    return jnp.where(store.live, kept, -jnp.inf)


def victims(
    store: Store, eviction: str, table: Int[Array, "block"], rank: Int[Array, "block"], counts: Int[Array, "tables"]
) -> Int[Array, "block"]:
    """The place for each new entry, which is number `rank` of the `counts` new ones of its table; distinct ones.

    -1 for those that a table of fewer places could not keep: all but the last of them.
    """
    kept = rank - jnp.maximum(counts - store.places, 0)[table]
    if eviction == "oldest":
        place = (store.cursor[table] + rank) % store.places
    else:
        _, order = jax.lax.top_k(-worth(store, eviction), min(len(table), store.places))
        place = order[table, jnp.clip(kept, 0, order.shape[1] - 1)]
    return jnp.where(kept >= 0, place, -1)


def nearest(store: Store, key: Float[Array, "block width"], table: Int[Array, "block"]) -> Int[Array, "block"]:
    """The place of the live entry nearest to each key in its table. Costs capacity x block: every key is compared."""
    keys = store.key.reshape(-1, key.shape[1])
    product = jnp.matmul(key, keys.T, precision=jax.lax.Precision.HIGHEST).reshape(-1, store.tables, store.places)
    far = jnp.where(store.live, store.length, jnp.inf) - 2 * product
    return jnp.take_along_axis(far, table[:, None, None], 1)[:, 0].argmin(1)
