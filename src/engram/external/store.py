"""The tables behind `episodic` and `chunked`: their columns, the index that finds an entry again, and read statistics.

A store has one table for each action of a fixed set: a read for all actions is then one product of matrices, and the
best of each table. Where actions are offered by their features, there is a single table. The id of an entry is table x
places + place.

An index finds an entry by its observation's hash and its action, in constant time. It has buckets of eight ways; a way
holds an id. Code that moves or removes an entry leaves the index alone: a way counts only while the entry that it names
is live and belongs to this bucket. The next entry of the bucket takes over a way that is out of date.
"""

import dataclasses
from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from engram import bits
from engram.external.memory import Entries, Notes, known_rows

NO_COLUMNS = ("index", "cursor", "clock", "refused")  # fields of a store without an axis of places
AT_ONCE = 256  # entries that are put into an index together, where it is made anew
WAYS = 8  # of a bucket; with at least as many buckets as entries, one bucket in a million needs more


class Store(eqx.Module):
    """Columns with leading axes [tables, places], an index into them, and counters.

    Times are numbers of writes: entry number n that was ever accepted was written at n, and `clock` is the newest.
    """

    key: Float[Array, "tables places width"]
    length: Float[Array, "tables places"]  # |key|^2, or every read would go through all keys twice
    value: Float[Array, "tables places"]
    td_error: Float[Array, "tables places"]
    hash: UInt32[Array, "tables places 2"]
    action: Int[Array, "tables places"]
    features: Float[Array, "tables places features"]
    origin: Int[Array, "tables places 3"]
    written: Int[Array, "tables places"]  # time of the last write, re-encounters included
    read: Int[Array, "tables places"]  # time of the last touch; 0 for never
    attention: Float[Array, "tables places"]  # sum of the weights received in touches
    count: Int[Array, "tables places"]  # experiences merged into the entry, 1 where nothing merges
    live: Bool[Array, "tables places"]
    index: Int[Array, "buckets ways"]  # ids of entries, -1 for none
    cursor: Int[Array, "tables"]  # the place that `oldest` fills next
    clock: Int[Array, ""]
    refused: Int[Array, ""]  # entries offered with numbers that are not finite, or for an action that no table is for
    observation: PyTree = None
    reward: PyTree = None
    discount: PyTree = None
    successor: PyTree = None
    following: PyTree = None

    @property
    def tables(self) -> int:
        """One for each action of a fixed set, else 1."""
        return self.value.shape[0]

    @property
    def places(self) -> int:
        """Entries that a table has room for."""
        return self.value.shape[1]

    @property
    def capacity(self) -> int:
        """Entries over all tables."""
        return self.tables * self.places

    @property
    def held(self) -> Int[Array, "*seeds"]:
        """See `memory.Store.held`."""
        return self.live.sum((-2, -1))


def empty(tables: int, places: int, width: int, features: int = 0, kept: Mapping[str, PyTree] | None = None) -> Store:
    """A store without entries, for keys of `width` numbers.

    `kept` names the optional columns to keep (those of `memory.OPTIONAL`), each with one example of it: arrays, or
    their shapes and dtypes.
    """
    leading = (tables, places)

    def column(dtype: str, *shape: int) -> Array:
        return jnp.zeros((*leading, *shape), dtype)

    optional = {
        name: jax.tree.map(lambda leaf: jnp.zeros((*leading, *leaf.shape), leaf.dtype), example)
        for name, example in (kept or {}).items()
    }
    buckets = 1 << (tables * places - 1).bit_length()
    return Store(
        key=column("float32", width),
        length=column("float32"),
        value=column("float32"),
        td_error=column("float32"),
        hash=column("uint32", 2),
        action=column("int32"),
        features=column("float32", features),
        origin=column("int32", 3),
        written=column("int32"),
        read=column("int32"),
        attention=column("float32"),
        count=column("int32"),
        live=column("bool"),
        index=jnp.full((buckets, WAYS), -1, jnp.int32),
        cursor=jnp.zeros(tables, jnp.int32),
        clock=jnp.zeros((), jnp.int32),
        refused=jnp.zeros((), jnp.int32),
        **optional,
    )


def located(store: Store, ids: Int[Array, "*ids"]) -> tuple[Int[Array, "*ids"], Int[Array, "*ids"]]:
    """Table and place of each id; for -1 a table past the end, where scatters drop and `live` is never asked."""
    known = ids >= 0
    return jnp.where(known, ids // store.places, store.tables), jnp.where(known, ids % store.places, 0)


def fetched(store: Store, ids: Int[Array, "block"], embedding: int) -> Entries:
    """The entries of these ids, with zeros for -1; the first `embedding` numbers of a stored key are the key."""
    where = located(store, ids)
    columns = {field.name: getattr(store, field.name) for field in dataclasses.fields(Entries)}
    columns["key"] = store.key[..., :embedding]
    return Entries(**{name: known_rows(jax.tree.map(lambda x: x[where], c), ids) for name, c in columns.items()})


def holds(store: Store, ids: Int[Array, "block"]) -> Bool[Array, "block"]:
    """Which of these ids name a live entry; False for -1."""
    return store.live[located(store, ids)] & (ids >= 0)


def hidden(store: Store, ids: Int[Array, "block"]) -> Store:
    """The store in which these entries are not live; -1 stands for nothing."""
    return dataclasses.replace(store, live=store.live.at[located(store, ids)].set(False, mode="drop"))


def forgotten(store: Store, gone: Bool[Array, "capacity"]) -> Store:
    """The store that the entries which are not gone make, written into an empty one in the order of `written`.

    Each is as it was, to the last bit, statistics of reads included; what is gone leaves zeros.
    """
    stays = store.live & ~gone.reshape(store.live.shape)
    order = jnp.argsort(jnp.where(stays, store.written, jnp.iinfo(jnp.int32).max), axis=1, stable=True)
    count = stays.sum(1, dtype=jnp.int32)
    live = jnp.arange(store.places) < count[:, None]
    tables = jnp.arange(store.tables)[:, None]
    moved = blanked(jax.tree.map(lambda column: column[tables, order], columns_of(store)), live)
    return reindexed(dataclasses.replace(store, **moved, live=live, cursor=count % store.places))


def noted(store: Store, ids: Int[Array, "block"]) -> Notes:
    """See `ForgettingMemory.notes`."""
    where = located(store, ids)
    read = store.read[where]
    unread = jnp.where(read > 0, store.clock - read, -1)
    age = store.clock - store.written[where]
    return Notes(age, unread, store.attention[where], store.count[where], store.clock)


def edited(store: Store, ids: Int[Array, "block"], values: Float[Array, "block"]) -> Store:
    """The store with other values of these entries; -1 stands for nothing."""
    return dataclasses.replace(store, value=store.value.at[located(store, ids)].set(values, mode="drop"))


def columns_of(store: Store) -> dict[str, PyTree]:
    """What a store keeps of each entry, by name; `live`, which says whether there is one, is not among it."""
    names = (field.name for field in dataclasses.fields(store))
    return {name: getattr(store, name) for name in names if name not in ("live", *NO_COLUMNS)}


def blanked(columns: dict[str, PyTree], live: Bool[Array, "tables places"]) -> dict[str, PyTree]:
    """The columns with zeros, as of an empty store, where a place is free."""

    def one(column: Array) -> Array:
        return jnp.where(live.reshape(*live.shape, *[1] * (column.ndim - 2)), column, jnp.zeros((), column.dtype))

    return jax.tree.map(one, columns)


def touched(store: Store, ids: Int[Array, "reads"], weights: Float[Array, "reads"]) -> Store:
    """The store after these entries were read with these weights; -1 stands for nothing. Ids may repeat."""
    where = located(store, ids)
    return eqx.tree_at(
        lambda store: (store.read, store.attention),
        store,
        (
            store.read.at[where].set(store.clock, mode="drop"),
            store.attention.at[where].add(jax.lax.stop_gradient(weights), mode="drop"),
        ),
    )


# -- finding an entry again --------------------------------------------------------------------------------------


def bucket(store: Store, hash: UInt32[Array, "*rows 2"], action: Int[Array, "*rows"]) -> Int[Array, "*rows"]:
    """The bucket of an observation and action, whatever the structure of the hash."""
    seeds = jnp.stack([hash[..., 0], hash[..., 1] + action.astype(jnp.uint32) * jnp.uint32(0x9E3779B9)], -1)
    words = jax.vmap(lambda seed: bits.hashed(seed, 1)[0])(seeds.reshape(-1, 2)).reshape(action.shape)
    return (words & jnp.uint32(store.index.shape[0] - 1)).astype(jnp.int32)


def find(store: Store, hash: UInt32[Array, "block 2"], action: Int[Array, "block"]) -> Int[Array, "block"]:
    """The id of the live entry of each observation and action, -1 where there is none."""
    ids = store.index[bucket(store, hash, action)]
    where = located(store, ids)
    same = (store.hash[where] == hash[:, None]).all(-1) & (store.action[where] == action[:, None])
    same &= store.live[where] & (ids >= 0)
    way = same.argmax(1)
    return jnp.where(same.any(1), jnp.take_along_axis(ids, way[:, None], 1)[:, 0], -1)


def indexed(store: Store, ids: Int[Array, "block"]) -> Store:
    """The store with these entries, whose hashes and actions it holds already, in its index. -1 stands for nothing.

    They take ways that are out of date, entries of one bucket different ones. Where all are in use one gives way: what
    it named is then no longer found again, and leaves when it is evicted.
    """
    where = located(store, ids)
    into = bucket(store, store.hash[where], store.action[where])
    named = store.index[into]  # [block, ways]
    those = located(store, named)
    used = (named >= 0) & store.live[those]
    used &= bucket(store, store.hash[those], store.action[those]) == into[:, None]
    wanted = (ids >= 0) & ~(named == ids[:, None]).any(1)
    rivals = (into[:, None] == into[None, :]) & wanted[None, :] & jnp.tri(len(ids), k=-1, dtype=bool)
    rank = rivals.sum(1)
    order = jnp.argsort(used, axis=1, stable=True)  # ways out of date first
    way = jnp.take_along_axis(order, (rank % WAYS)[:, None], 1)[:, 0]
    row = jnp.where(wanted, into, store.index.shape[0])
    return eqx.tree_at(lambda store: store.index, store, store.index.at[row, way].set(ids, mode="drop"))


def reindexed(store: Store) -> Store:
    """The store with an index that was made anew, of all its live entries in the order of ids."""
    ids = jnp.where(store.live.reshape(-1), jnp.arange(store.capacity, dtype=jnp.int32), -1)
    ids = jnp.pad(ids, (0, -store.capacity % AT_ONCE), constant_values=-1).reshape(-1, AT_ONCE)

    def put(index: Array, ids: Array) -> tuple[Array, None]:
        return indexed(dataclasses.replace(store, index=index), ids).index, None

    return dataclasses.replace(store, index=jax.lax.scan(put, jnp.full_like(store.index, -1), ids)[0])
