"""Writing a block of experience into a store: known entries are updated, new ones take places or are merged.

No function goes through a table one entry at a time, and none copies a table. Rows are scattered into their places; a
row without a place is scattered past the end, where XLA drops it. Inside a block all pairs are compared: that costs
block x block bits, and is the cheapest way for blocks of up to several thousand entries.
"""

from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from engram.bits import held_back
from engram.external import eviction as evictions
from engram.external.memory import OPTIONAL, Entries
from engram.external.store import Store, find, indexed, located

Update = Literal["tabular", "max"]


class Rule(NamedTuple):
    """How a store is written to."""

    update: str = "tabular"  # v <- v + alpha (R - v) where an observation and action come again, or the best return
    alpha: float = 0.1
    eviction: str = "oldest"


class _Groups(NamedTuple):
    """Which entries of a block are the same observation and action. Axes [block] or [block block]."""

    same: Bool[Array, "block block"]
    first: Int[Array, "block"]  # the first of its group
    is_first: Bool[Array, "block"]
    is_last: Bool[Array, "block"]
    before: Int[Array, "block"]  # of its group
    after: Int[Array, "block"]


class Draft(NamedTuple):
    """A block that has no places yet."""

    store: Store  # with the block counted, and nothing else of it
    rows: dict[str, Any]  # its columns; values are those after all of the same observation and action were taken in
    ids: Int[Array, "block"]  # of the entries that are met again, -1 for what is new or not accepted
    tables: Int[Array, "block"]
    accepted: Bool[Array, "block"]
    groups: "_Groups"


def write(store: Store, block: Entries, keep: Bool[Array, "block"], rule: Rule) -> Store:
    """The store with the entries of the block that `keep` marks and whose numbers are finite.

    Known entries are updated first. New ones are then placed in the order of the block. Entries of the block with the
    same observation and action act as one after the other, and the key is that of the last.
    """
    store, rows, ids, tables, accepted, groups = drafted(store, block, keep, rule)
    store = _updated(store, rows, jnp.where(groups.is_last, ids, -1), rule)
    return _placed(store, rows, groups, tables, accepted & (ids < 0), rule)


def drafted(store: Store, block: Entries, keep: Bool[Array, "block"], rule: Rule) -> Draft:
    """What is to be written of a block: of each observation and action the row that comes last."""
    tables = block.action if store.tables > 1 else jnp.zeros_like(block.action)
    fit = (tables >= 0) & (tables < store.tables)
    for column in (block.key, block.features, block.value[:, None], block.td_error[:, None]):
        fit &= jnp.isfinite(column).all(1)
    accepted = keep & fit
    tables = jnp.clip(tables, 0, store.tables - 1)
    clock = held_back(store.clock, len(accepted))
    number = clock + jnp.cumsum(accepted, dtype=jnp.int32)
    store = eqx.tree_at(
        lambda store: (store.clock, store.refused),
        store,
        (clock + accepted.sum(dtype=jnp.int32), store.refused + (keep & ~fit).sum(dtype=jnp.int32)),
    )
    groups = _grouped(block, accepted)
    ids = jnp.where(accepted, find(store, block.hash, block.action), -1)
    value = _folded(groups, block.value, ids >= 0, store.value[located(store, ids)], rule)
    return Draft(store, _rows(store, block, value, number), ids, tables, accepted, groups)


def _grouped(block: Entries, accepted: Bool[Array, "block"]) -> _Groups:
    same = (block.hash[:, None] == block.hash[None]).all(-1) & (block.action[:, None] == block.action[None])
    same &= accepted[:, None] & accepted[None]
    earlier = jnp.tri(len(accepted), k=-1, dtype=bool)
    before = (same & earlier).sum(1, dtype=jnp.int32)
    after = (same & earlier.T).sum(1, dtype=jnp.int32)
    return _Groups(same, same.argmax(1), accepted & (before == 0), accepted & (after == 0), before, after)


def _folded(
    groups: _Groups,
    returns: Float[Array, "block"],
    held: Bool[Array, "block"],
    old: Float[Array, "block"],
    rule: Rule,
) -> Float[Array, "block"]:
    """The value of each group, at each of its members, after all of them were taken in order.

    n tabular updates give (1 - alpha)^n v + sum_j alpha (1 - alpha)^(later ones) R_j; where nothing is held, the
    first return stands in for v.
    """
    if rule.update == "max":
        best = jnp.where(groups.same, returns[None], -jnp.inf).max(1)
        return jnp.where(held, jnp.maximum(best, old), best)
    stays = (1 - rule.alpha) ** groups.after.astype(jnp.float32)
    share = jnp.where(held | (groups.before > 0), rule.alpha * stays, stays)
    # What does not take part may be NaN, which 0 would not cancel.
    parts = jnp.where(groups.same, (share * returns)[None], 0).sum(1)
    all_of_them = (groups.before + groups.after + 1).astype(jnp.float32)
    return parts + jnp.where(held, (1 - rule.alpha) ** all_of_them * old, 0)


def _rows(store: Store, block: Entries, value: Float[Array, "block"], number: Int[Array, "block"]) -> dict[str, Any]:
    """The columns of a block, as they go into the store."""
    offered = block.features.shape[1]
    key = jnp.concatenate([block.key, block.features], 1) if offered else block.key
    columns = {
        "key": key,
        "length": (key**2).sum(1),
        "value": value,
        "td_error": block.td_error,
        "hash": block.hash,
        "action": block.action,
        "features": block.features,
        "origin": block.origin,
        "written": number,
    }
    return columns | {name: getattr(block, name) for name in OPTIONAL if jax.tree.leaves(getattr(store, name))}


def put(store: Store, ids: Int[Array, "block"], rows: dict[str, Any]) -> Store:
    """The store with these columns of these entries set; ids are distinct, or -1 for what is not written."""
    where = located(store, ids)

    def scatter(column: Array, new: Array) -> Array:
        return column.at[where].set(new.astype(column.dtype), mode="drop")

    columns = [jax.tree.map(scatter, getattr(store, name), new) for name, new in rows.items()]
    return eqx.tree_at(lambda store: [getattr(store, name) for name in rows], store, columns)


def _updated(store: Store, rows: dict[str, Any], ids: Int[Array, "block"], rule: Rule) -> Store:
    """Re-encounters: all that an entry says is new, but for its value, and for the key where several were merged."""
    if rule.eviction == "merge":
        where = located(store, ids)
        count, old = store.count[where], store.key[where]
        moved = old + (rows["key"] - old) / jnp.maximum(count, 1)[:, None]
        key = jnp.where((count > 1)[:, None], moved, rows["key"])
        rows = rows | {"key": key, "length": (key**2).sum(1)}
    return put(store, ids, rows)


def _placed(
    store: Store,
    rows: dict[str, Any],
    groups: _Groups,
    tables: Int[Array, "block"],
    new: Bool[Array, "block"],
    rule: Rule,
) -> Store:
    """What the store does not hold: one entry for each group, in the order in which the groups began."""
    mine = tables[:, None] == jnp.arange(store.tables)
    begun = mine & (groups.is_first & new)[:, None]
    counts = begun.sum(0, dtype=jnp.int32)
    rank = (jnp.cumsum(begun, 0, dtype=jnp.int32) - begun)[groups.first, tables]
    taken, over = groups.is_last & new, jnp.zeros_like(new)
    if rule.eviction == "merge":
        free = (~store.live).sum(1, dtype=jnp.int32)
        over, taken = taken & (rank >= free[tables]), taken & (rank < free[tables])
        counts = jnp.minimum(counts, free)
    place = evictions.victims(store, rule.eviction, tables, rank, counts)
    ids = jnp.where(taken & (place >= 0), tables * store.places + place, -1)
    fresh = {
        "read": jnp.zeros_like(ids),
        "attention": jnp.zeros(len(ids)),
        "count": jnp.ones_like(ids),
        "live": jnp.ones(len(ids), bool),
    }
    store = indexed(put(store, ids, rows | fresh), ids)
    cursor = (store.cursor + counts) % store.places
    store = eqx.tree_at(lambda store: store.cursor, store, cursor)
    if rule.eviction == "merge":
        store = _merged(store, rows, tables, over)
    return store


def _merged(store: Store, rows: dict[str, Any], tables: Int[Array, "block"], over: Bool[Array, "block"]) -> Store:
    """Key, value and TD error of the nearest entries become the means over all that was ever merged into them.

    All of a block go by the keys as they were before it. An entry keeps the hash, origin and observation that it was
    first written with. Source: Agostinelli et al. 2019 (arXiv 1911.09560), dynamic online k-means.
    """
    place = evictions.nearest(store, rows["key"], tables)
    ids = jnp.where(over, tables * store.places + place, -1)
    together = (ids[:, None] == ids[None]) & over[:, None] & over[None]
    last = over & ~(together & jnp.tri(len(ids), k=-1, dtype=bool).T).any(1)
    where = located(store, ids)
    held = store.count[where].astype(jnp.float32)
    total = held + together.sum(1)

    def mean(old: Float[Array, "block *rest"], new: Float[Array, "block *rest"]) -> Float[Array, "block *rest"]:
        # What does not take part may be NaN, which 0 would not cancel.
        flat = jnp.where(over[:, None], new.reshape(len(ids), -1), 0)
        sums = jnp.matmul(together.astype(jnp.float32), flat, precision=jax.lax.Precision.HIGHEST)
        sums += held[:, None] * old.reshape(len(ids), -1)
        return (sums / jnp.maximum(total, 1)[:, None]).reshape(old.shape)

    means = {name: mean(getattr(store, name)[where], rows[name]) for name in ("key", "value", "td_error")}
    means["length"] = (means["key"] ** 2).sum(1)
    # A later row of the same block may have updated the entry already.
    newest = jnp.maximum(store.written[where], rows["written"])
    counts = {"count": total.astype(jnp.int32), "written": newest}
    return put(store, jnp.where(last, ids, -1), means | counts)
