"""Chunks of a store: where new entries go, and how chunks are cut in two, given up and summarised.

A chunk is `size` successive places of a table. A new entry goes to the chunk whose mean key is nearest. A full chunk is
cut first: the half of its entries that lies farther along one direction moves to another chunk.

    4 places a chunk; keys 0, 10, 1, 11 were written, and 12 is next

                  before the cut            after the cut             12 is placed
    chunk 0       0  10   1  11  mean 5.5   .  10   .  11  mean 10.5  12  10   .  11  mean 11
    chunk 1       .   .   .   .  empty      0   1   .   .  mean 0.5    0   1   .   .  mean 0.5

Functions here work on rows or on chunks. None goes through a table, and none copies one.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from engram.external import store as stores
from engram.external.store import Store, indexed, located
from engram.external.writing import put

ROUNDS = 4  # steps of the power iteration that finds the direction of a cut
AT_ONCE = 64  # entries that are placed together, at most half a chunk of them


class Chunks(eqx.Module):
    """A store, and a summary of each of its chunks."""

    entries: Store
    centre: Float[Array, "tables chunks width"]  # mean of the keys of its live entries
    length: Float[Array, "tables chunks"]  # |centre|^2
    filled: Int[Array, "tables chunks"]  # live entries
    used: Int[Array, "tables chunks"]  # time of the last write into it, or of the last read from it

    @property
    def live(self) -> Bool[Array, "*seeds tables places"]:
        """Which places hold an entry."""
        return self.entries.live

    @property
    def held(self) -> Int[Array, "*seeds"]:
        """See `memory.Store.held`."""
        return self.entries.held

    @property
    def refused(self) -> Int[Array, "*seeds"]:
        """Entries that were offered with numbers that are not finite, or for an action that no table is for."""
        return self.entries.refused

    @property
    def chunks(self) -> int:
        """Chunks of each table."""
        return self.filled.shape[1]

    @property
    def size(self) -> int:
        """Places of a chunk."""
        return self.entries.places // self.chunks


def empty(entries: Store, size: int) -> Chunks:
    """An empty store, cut into chunks of `size` places, which must divide those of a table."""
    shape = (entries.tables, entries.places // size)
    return Chunks(
        entries,
        jnp.zeros((*shape, entries.key.shape[2])),
        jnp.zeros(shape),
        jnp.zeros(shape, jnp.int32),
        jnp.zeros(shape, jnp.int32),
    )


def touched(chunks: Chunks, ids: Int[Array, "reads"], weights: Float[Array, "reads"], renew: bool) -> Chunks:
    """`store.touched`; with `renew` the chunks of these entries count as used just now."""
    entries = stores.touched(chunks.entries, ids, weights)
    if not renew:
        return dataclasses.replace(chunks, entries=entries)
    table, place = located(entries, ids)
    used = chunks.used.at[table, place // chunks.size].max(entries.clock, mode="drop")
    return dataclasses.replace(chunks, entries=entries, used=used)


def removed(chunks: Chunks, ids: Int[Array, "block"]) -> Chunks:
    """The chunks without these entries; -1 stands for nothing."""
    table, place = located(chunks.entries, ids)
    chunks = _summed(chunks, table, place // chunks.size, chunks.entries.key[table, place], jnp.where(ids < 0, 0, -1))
    live = chunks.entries.live.at[table, place].set(False, mode="drop")
    return dataclasses.replace(chunks, entries=dataclasses.replace(chunks.entries, live=live))


def forgotten(chunks: Chunks, gone: Bool[Array, "capacity"], renew: bool) -> Chunks:
    """The chunks that the entries which are not gone make, placed among empty ones in the order of `written`.

    Where they would not all find a place so, because chunks fill unevenly, each stays where it is, and only summaries
    are made anew. A chunk was used when one of its entries was last written, or with `renew` last read.
    """
    entries = chunks.entries
    stays = entries.live & ~gone.reshape(entries.live.shape)
    written = jnp.where(stays, entries.written, jnp.iinfo(jnp.int32).max).reshape(-1)
    order = jnp.argsort(written, stable=True)
    table, place = jnp.divmod(order, entries.places)
    kept = {name: column for name, column in stores.columns_of(entries).items() if jax.tree.leaves(column)}
    rows = jax.tree.map(lambda column: column[table, place], kept)
    # What the columns held does not count where nothing is live.
    none = dataclasses.replace(entries, live=jnp.zeros_like(stays), index=jnp.full_like(entries.index, -1))
    vacant = empty(none, chunks.size)
    anew = placed(vacant, rows, table.astype(jnp.int32), stays.reshape(-1)[order])
    columns = stores.blanked(stores.columns_of(anew.entries), anew.entries.live)
    anew = dataclasses.replace(anew, entries=stores.reindexed(dataclasses.replace(anew.entries, **columns)))
    whole = anew.filled.sum() == stays.sum()
    made = jax.lax.cond(whole, lambda: anew, lambda: _thinned(chunks, stays))
    entries = made.entries
    used = jnp.maximum(entries.written, entries.read) if renew else entries.written
    return dataclasses.replace(made, used=used.reshape(*made.filled.shape, -1).max(2))


def _thinned(chunks: Chunks, stays: Bool[Array, "tables places"]) -> Chunks:
    """These entries where they are, and summaries of them."""
    entries = chunks.entries
    columns = stores.blanked(stores.columns_of(entries), stays)
    entries = stores.reindexed(dataclasses.replace(entries, **columns, live=stays))
    inside = (*chunks.filled.shape, chunks.size)
    filled = stays.reshape(inside).sum(2, dtype=jnp.int32)
    # What is not live is 0 now.
    centre = entries.key.reshape(*inside, -1).sum(2) / jnp.maximum(filled, 1)[..., None]
    return Chunks(entries, centre, (centre**2).sum(-1), filled, chunks.used)


def placed(chunks: Chunks, rows: dict[str, Any], tables: Int[Array, "block"], wanted: Bool[Array, "block"]) -> Chunks:
    """The chunks with the `wanted` rows, whose columns are given, in the order of the block."""
    at_once = min(AT_ONCE, chunks.size // 2, len(wanted))
    parts = -(-len(wanted) // at_once)
    filling = parts * at_once - len(wanted)
    given = jax.tree.map(lambda x: jnp.pad(x, [(0, filling)] + [(0, 0)] * (x.ndim - 1)), (rows, tables, wanted))
    last = jnp.where(given[2], jnp.arange(parts * at_once), -1).max() // at_once

    def step(state: tuple[Array, Chunks]) -> tuple[Array, Chunks]:
        part, chunks = state
        cut = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, part * at_once, at_once), given)
        return part + 1, _placed_at_once(chunks, *cut)

    # A loop, so that parts with nothing to place cost nothing. Its inputs are computed before it: otherwise XLA would
    # read the columns that the rows came from inside the loop, where they change, and would copy them first.
    return jax.lax.while_loop(lambda state: state[0] <= last, step, (jnp.zeros((), jnp.int32), chunks))[1]


def _placed_at_once(
    chunks: Chunks, rows: dict[str, Any], tables: Int[Array, "block"], wanted: Bool[Array, "block"]
) -> Chunks:
    key = rows["key"]
    chunks, chunk = _with_room(chunks, key, tables, _best_chunk(chunks, key, tables), wanted)
    ids = jnp.where(wanted, tables * chunks.entries.places + _free_places(chunks, tables, chunk, wanted), -1)
    chunks = dataclasses.replace(chunks, entries=indexed(put(chunks.entries, ids, rows | {"live": wanted}), ids))
    chunks = _summed(chunks, tables, chunk, key, wanted.astype(jnp.int32))
    row = jnp.where(wanted, tables, chunks.entries.tables)
    return dataclasses.replace(chunks, used=chunks.used.at[row, chunk].max(rows["written"], mode="drop"))


def _best_chunk(chunks: Chunks, key: Float[Array, "block width"], tables: Int[Array, "block"]) -> Int[Array, "block"]:
    """For each key the chunk of its table with the nearest summary; chunk 0 where all are empty."""
    product = jnp.einsum("bw,tcw->btc", key, chunks.centre, precision=jax.lax.Precision.HIGHEST)
    near = jnp.where(chunks.filled > 0, 2 * product - chunks.length, -jnp.inf)
    return jnp.take_along_axis(near, tables[:, None, None], 1)[:, 0].argmax(1).astype(jnp.int32)


def _free_places(
    chunks: Chunks, tables: Int[Array, "block"], chunk: Int[Array, "block"], wanted: Bool[Array, "block"]
) -> Int[Array, "block"]:
    """A free place in its chunk for each wanted entry, distinct ones, the lowest first."""
    same = (tables[:, None] == tables) & (chunk[:, None] == chunk) & wanted
    rank = (same & jnp.tri(len(chunk), k=-1, dtype=bool)).sum(1)
    free = ~chunks.entries.live[tables[:, None], chunk[:, None] * chunks.size + jnp.arange(chunks.size)]
    return chunk * chunks.size + (jnp.cumsum(free, 1) <= rank[:, None]).sum(1, dtype=jnp.int32)


# -- making room -------------------------------------------------------------------------------------------------


def _with_room(
    chunks: Chunks,
    key: Float[Array, "block width"],
    tables: Int[Array, "block"],
    chunk: Int[Array, "block"],
    wanted: Bool[Array, "block"],
) -> tuple[Chunks, Int[Array, "block"]]:
    """Chunks that were cut until what is wanted has room, and the chunk of each entry among those.

    A cut leaves room for half a chunk in either half. The block has no more entries than that, so each chunk is cut at
    most once. Where the block wants every chunk of a table, no chunk may be given up: then a chunk gives up some of its
    own entries.
    """

    def lack(chunk: Array) -> tuple[Array, Array]:
        demand = jnp.zeros_like(chunks.filled).at[tables, chunk].add(wanted.astype(jnp.int32))
        return demand, demand - chunks.size

    def lacking(state: tuple[Chunks, Array]) -> Array:
        chunks, chunk = state
        return (jnp.where(lack(chunk)[0] > 0, chunks.filled + lack(chunk)[1], 0) > 0).any()

    def relieve(state: tuple[Chunks, Array]) -> tuple[Chunks, Array]:
        chunks, chunk = state
        demand, over = lack(chunk)
        over = jnp.where(demand > 0, chunks.filled + over, 0)
        table, full = jnp.unravel_index(over.argmax(), over.shape)
        age = jnp.where(chunks.filled[table] == 0, -1, chunks.used[table])  # empty ones first
        into = jnp.where(demand[table] > 0, jnp.iinfo(jnp.int32).max, age).argmin()
        chunks = _relieved(chunks, table, full, into, over[table, full], demand[table, into] == 0)
        halves = chunks.centre[table, jnp.stack([full, into])]
        nearer = ((key[:, None] - halves) ** 2).sum(-1).argmin(1) == 1
        moves = (tables == table) & (chunk == full) & nearer & (demand[table, into] == 0)
        return chunks, jnp.where(moves, into, chunk).astype(jnp.int32)

    # A loop and not a branch: XLA copies the arrays that a branch may change, and changes those of a loop in place.
    return jax.lax.while_loop(lacking, relieve, (chunks, chunk))


def _relieved(
    chunks: Chunks,
    table: Int[Array, ""],
    full: Int[Array, ""],
    into: Int[Array, ""],
    over: Int[Array, ""],
    cut: Bool[Array, ""],
) -> Chunks:
    """With `cut`, half of the entries of chunk `full` move to chunk `into`, whose own entries are given up.

    Without it, chunk `full` gives up the `over` entries that were neither read nor written for longest.
    """
    entries, size, half = chunks.entries, chunks.size, chunks.size // 2
    own = (table, full * size + jnp.arange(size))
    key, live = entries.key[own], entries.live[own]
    along = _along(jnp.where(live[:, None], key - chunks.centre[table, full], 0))
    order = jax.lax.top_k(jnp.where(live, along, -jnp.inf), half)[1]
    unused = jnp.where(live, jnp.maximum(entries.read[own], entries.written[own]), jnp.iinfo(jnp.int32).max)
    dropped = ~cut & (unused.argsort().argsort() < over)
    # `dropped` is all False where there is a cut. Naming it here shows XLA that columns change after they are read.
    moves = cut & (jnp.arange(half) < live.sum() // 2) & ~dropped[order]
    moved = jnp.zeros(size, bool).at[order].set(moves)
    stays = live & ~moved & ~dropped
    entries = _moved(entries, table, full * size + order, into * size + jnp.arange(half), moves)
    target = jnp.where(cut, table, entries.tables)  # past the end: dropped
    now = jnp.stack([stays, jnp.arange(size) < moves.sum()])
    where = (jnp.stack([table, target]), jnp.stack([full, into]))
    inside = where[1][:, None] * size + jnp.arange(size)
    live = entries.live.at[where[0][:, None], inside].set(now, mode="drop")
    moved_ids = jnp.where(moves, table * entries.places + into * size + jnp.arange(half), -1)
    entries = indexed(dataclasses.replace(entries, live=live), moved_ids)
    used = chunks.used.at[target, into].set(chunks.used[table, full], mode="drop")
    chunks = dataclasses.replace(chunks, entries=entries, used=used)
    return _summarised(chunks, where, key, jnp.stack([stays, moved]))


def _moved(
    entries: Store, table: Int[Array, ""], source: Int[Array, "half"], target: Int[Array, "half"], moves: Array
) -> Store:
    """The columns of some places copied to others of the same table."""
    to = jnp.where(moves, table, entries.tables)
    columns = jax.tree.map(
        lambda column: column.at[to, target].set(column[table, source], mode="drop"), stores.columns_of(entries)
    )
    return dataclasses.replace(entries, **columns)


def _along(rows: Float[Array, "size width"]) -> Float[Array, "size"]:
    """Coordinates of centred rows along about the direction in which they differ most, by power iteration."""
    direction = rows[(rows**2).sum(1).argmax()]
    for _ in range(ROUNDS):
        direction = (rows @ direction) @ rows
        direction = direction / jnp.maximum(jnp.sqrt((direction**2).sum()), jnp.finfo(rows.dtype).tiny)
    return rows @ direction


# -- summaries ---------------------------------------------------------------------------------------------------


def _summarised(
    chunks: Chunks,
    where: tuple[Int[Array, "two"], Int[Array, "two"]],
    key: Float[Array, "size width"],
    masks: Bool[Array, "two size"],
) -> Chunks:
    """Summaries of two chunks (their tables and numbers) made anew from the keys that each mask marks."""
    count = masks.sum(1, dtype=jnp.int32)
    centre = jnp.where(masks[:, :, None], key, 0).sum(1) / jnp.maximum(count, 1)[:, None]
    return dataclasses.replace(
        chunks,
        centre=chunks.centre.at[where].set(centre, mode="drop"),
        length=chunks.length.at[where].set((centre**2).sum(1), mode="drop"),
        filled=chunks.filled.at[where].set(count, mode="drop"),
    )


def _summed(
    chunks: Chunks,
    table: Int[Array, "block"],
    chunk: Int[Array, "block"],
    key: Float[Array, "block width"],
    change: Int[Array, "block"],
) -> Chunks:
    """Summaries after these keys came into (change 1) or left (-1) these chunks; with a change of 0, nothing did."""
    where = (jnp.where(change == 0, chunks.entries.tables, table), chunk)
    before = chunks.filled[where]
    filled = chunks.filled.at[where].add(change, mode="drop")
    after = jnp.maximum(filled[where], 1).astype(jnp.float32)
    stays = jnp.where(filled[where] > 0, before / after, 0)[:, None] * chunks.centre[where]
    comes = jnp.where((filled[where] > 0)[:, None], (change / after)[:, None] * key, 0)
    centre = chunks.centre.at[where].set(stays, mode="drop").at[where].add(comes, mode="drop")
    length = chunks.length.at[where].set((centre[where] ** 2).sum(1), mode="drop")
    return dataclasses.replace(chunks, centre=centre, length=length, filled=filled)
