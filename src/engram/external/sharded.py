"""`episodic` whose entries lie elsewhere: in shards, which other processes keep (`engram.cluster`).

An agent has this in the place of `external=episodic` where a run is given shards. It is the same memory to whoever asks
it: a read attends to the nearest entries of each action. The compiled program calls out for them, with a moment: the
number of entries accepted so far. So what a read sees depends on the program alone, and on no clock.

An answer holds distances, values and ids. Where a network is trained through the memory, it holds keys too, and the
distances are computed here, so that a gradient flows into the query as with `episodic`.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram.bits import held_back
from engram.errors import SpecError
from engram.external.episodic import Episodic, EpisodicSpec, answered, by_distance
from engram.external.memory import Entries, check_kept
from engram.registry import stand_in
from engram.specs import setting, spec
from engram.types import Key, MemoryRead

UNFIT = "external=episodic with kernel=inverse-distance"


class Link(Protocol):
    """What a memory calls out to, with NumPy arrays."""

    @property
    def held(self) -> int:
        """Entries."""
        ...

    def nearest(self, queries: np.ndarray, k: int, moment: int, keys: bool) -> tuple[np.ndarray, ...]:
        """Squared distances, values, ids and keys [queries, tables, k, ...] of the nearest entries.

        The id is -1 for none. Keys have no numbers where they are not asked for.
        """
        ...

    def accept(self, moment: int, columns: Mapping[str, np.ndarray]) -> None:
        """New entries, by the names of `Store` and "table"; each of them has accepted numbers in "written"."""
        ...

    def touch(self, moment: int, ids: np.ndarray, weights: np.ndarray) -> None:
        """See `ExternalMemory.touch`."""
        ...


LINKS: dict[str, Link] = {}  # by the name that a spec has: what a compiled program calls is no value of it


@stand_in("external", "episodic")
@spec
class ShardedSpec(EpisodicSpec):
    """`external=episodic` with its entries in `shards`; `link` names who is asked for them in this process."""

    link: str = setting("", "who is asked")
    shards: int = setting(1, "processes that share the entries", low=1)
    places: int = setting(1, "entries of each table in each shard", low=1)
    keys: bool = setting(False, "whether reads bring keys, which training through the memory needs")

    keeps = frozenset[str]()

    @property
    def refreshes(self) -> bool:
        """No key is computed anew."""
        return False

    def build(self, embedding: int, actions: int, offered: int, key: Key) -> Any:
        """See `ExternalSpec.build`."""
        count = 1 if offered else actions
        inner = Episodic(self, count, self.shards * self.places, embedding + offered, offered, key=key)
        return Sharded(inner)


def check_shardable(chosen: Any) -> None:
    """Raises SpecError where entries of a memory cannot be in shards."""
    if type(chosen) is not EpisodicSpec:
        raise SpecError(
            f"shards share the entries of {UNFIT}, and this agent has another memory, or none; leave them out"
        )
    for name, fine in (("kernel", "inverse-distance"), ("shuffle", False)):
        if getattr(chosen, name) != fine:
            raise SpecError(f"shards were asked for with external.{name} = {getattr(chosen, name)}; they serve {UNFIT}")
    if chosen.eviction == "merge":
        raise SpecError("shards were asked for with external.eviction = merge, which they cannot; choose another")


class ShardedStore(eqx.Module):
    """What a compiled program has of the entries: how many were accepted and refused."""

    clock: Int[Array, ""]
    refused: Int[Array, ""]
    link: str = eqx.field(static=True)

    @property
    def held(self) -> Int[Array, ""]:
        """See `memory.Store.held`."""
        return jnp.int32(LINKS[self.link].held)


class Sharded(eqx.Module):
    """See the head of this file. `inner`: the same memory as it would be here, of which only sizes are used."""

    inner: Episodic

    @property
    def chosen(self) -> Any:
        return self.inner.chosen

    @property
    def capacity(self) -> int:
        """Number of ids."""
        return self.inner.capacity

    def init(self, kept: Mapping[str, PyTree] | None = None) -> ShardedStore:
        """See `ExternalMemory.init`; what the shards hold stays."""
        check_kept("episodic in shards", self.chosen.keeps, kept)
        return ShardedStore(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), self.chosen.link)

    def write(self, store: ShardedStore, entries: Entries, keep: Bool[Array, "block"]) -> ShardedStore:
        """See `ExternalMemory.write`."""
        inner = self.inner
        tables = entries.action if inner.tables > 1 else jnp.zeros_like(entries.action)
        fit = (tables >= 0) & (tables < inner.tables)
        for column in (entries.key, entries.features, entries.value[:, None], entries.td_error[:, None]):
            fit &= jnp.isfinite(column).all(1)
        accepted = keep & fit
        clock = held_back(store.clock, len(accepted))
        number = clock + jnp.cumsum(accepted, dtype=jnp.int32)
        columns = {
            "table": tables,
            "key": jnp.concatenate([entries.key, entries.features], 1),
            "value": entries.value,
            "td_error": entries.td_error,
            "hash": entries.hash,
            "action": entries.action,
            "features": entries.features,
            "origin": entries.origin,
            "written": number,
        }
        after = clock + accepted.sum(dtype=jnp.int32)
        clock = _call_if(accepted.any(), self._accept, after, accepted, columns)
        return ShardedStore(clock, store.refused + (keep & ~fit).sum(dtype=jnp.int32), store.link)

    def _accept(self, moment: Any, accepted: Any, columns: Any) -> np.ndarray:
        taken = np.asarray(accepted)
        LINKS[self.chosen.link].accept(int(moment), {name: np.asarray(one)[taken] for name, one in columns.items()})
        return np.asarray(moment)

    def touch(self, store: ShardedStore, entries: Int[Array, "reads"], weights: Float[Array, "reads"]) -> ShardedStore:
        """See `ExternalMemory.touch`."""
        clock = _call_if((entries >= 0).any(), self._touch, store.clock, entries, weights)
        return ShardedStore(clock, store.refused, store.link)

    def _touch(self, moment: Any, ids: Any, weights: Any) -> np.ndarray:
        LINKS[self.chosen.link].touch(int(moment), np.asarray(ids), np.asarray(weights))
        return np.asarray(moment)

    def read(
        self,
        store: ShardedStore,
        query: Float[Array, "embedding"],
        offered: Float[Array, "actions features"] | None = None,
    ) -> MemoryRead:
        """See `ExternalMemory.read`."""
        queries = self.inner.queries(query, offered)
        shape, width = (len(queries), self.inner.tables, self.chosen.neighbours), self.inner.width * self.chosen.keys
        shapes = (shape, jnp.float32), (shape, jnp.float32), (shape, jnp.int32), ((*shape, width), jnp.float32)
        kinds = tuple(jax.ShapeDtypeStruct(*one) for one in shapes)
        # Batched queries, also those of several examples, go out together.
        asked = jax.lax.stop_gradient(queries), store.clock
        found = jax.pure_callback(self._nearest, kinds, *asked, vmap_method="broadcast_all")
        # There is one query, or one table: either is the axis of actions.
        actions = shape[0] * shape[1]
        distance, value, ids, near = (column.reshape(1, actions, *column.shape[2:]) for column in found)
        if self.chosen.keys:
            distance = ((queries[:, None] - near) ** 2).sum(-1)
        scores = by_distance(self.chosen, jnp.where(ids >= 0, distance, 0))
        return answered(self.chosen, scores, distance, ids, value)

    def _nearest(self, queries: Any, moment: Any) -> tuple[np.ndarray, ...]:
        queries, moments = np.asarray(queries), np.asarray(moment)
        rows = np.ascontiguousarray(queries.reshape(-1, queries.shape[-1]))
        asked = rows, self.chosen.neighbours, int(moments.reshape(-1)[0]), self.chosen.keys
        found = LINKS[self.chosen.link].nearest(*asked)
        return tuple(column.reshape(*queries.shape[:-1], *column.shape[1:]) for column in found)

    def fetch(self, store: ShardedStore, ids: Int[Array, "block"]) -> Entries:
        """Not while a run is trained. Raises SpecError."""
        raise SpecError("entries of shards are not looked at while a run is trained; use engram memory RUN, or load it")

    def holds(self, store: ShardedStore, ids: Int[Array, "block"]) -> Bool[Array, "block"]:
        """See `fetch`."""
        raise SpecError("entries of shards are not looked at while a run is trained; use engram memory RUN, or load it")


def _call_if(wanted: Any, call: Any, clock: Int[Array, ""], *given: Any) -> Int[Array, ""]:
    """The clock, from where on the call has been made. What depends on the clock comes after it."""

    def called(clock: Array, *given: Any) -> Array:
        return io_callback(call, jax.ShapeDtypeStruct((), jnp.int32), clock, *given)

    return jax.lax.cond(wanted, called, lambda clock, *_: clock, clock, *given)
