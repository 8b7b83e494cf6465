"""`chunked`: holds a million entries, and a read compares the query with a few thousand of them.

A table is cut into chunks of equal size. The summary of a chunk is the mean of its keys. A read scores the summaries,
opens the few best chunks, and reads their entries as `episodic` does. With all chunks opened the two kinds are equal.
A read misses near entries in chunks that it does not open. The share that it finds is the recall; it depends on the
keys.

A new entry goes to the chunk with the nearest summary. A full chunk is cut in two, across the direction in which its
keys differ most: so chunks follow the keys where they drift (`chunking` has a drawing). The second half goes to an
empty chunk. Where there is none, it replaces the chunk that was used longest ago: eviction gives up whole chunks. Both
halves are half full after a cut. In practice about 7 of 10 places are in use.

An entry that is met again is taken out and placed anew, with its new key. An id names its entry until the next write.

Source: Lampinen et al. 2021 (arXiv 2105.14039) for attention in two levels. There a chunk is a piece of time; here it
is a set of similar keys.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram.errors import SpecError
from engram.external import chunking
from engram.external.chunking import Chunks
from engram.external.episodic import Episodic, EpisodicSpec, TableSettings
from engram.external.memory import Entries, Notes, check_kept
from engram.external.store import located
from engram.external.writing import Rule, drafted
from engram.nn.attention import choose
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Key, MemoryRead


@register("external", "chunked")
@spec
class ChunkedSpec(TableSettings):
    """One entry for each experience, in chunks of similar ones; a read opens the best chunks only."""

    capacity: int = setting(2**18, "places over all actions, who share them equally, in whole chunks", low=1)
    size: int = setting(256, "places of a chunk; divides capacity", low=2)
    probes: int = setting(24, "chunks that a read opens, for each action", low=1)
    eviction: Literal["oldest", "least-read"] = setting(
        "least-read", "the chunk to give up: by its last write, or by its last write or read"
    )

    refreshes = False  # a new key would have to move its entry to another chunk, under another id

    def check(self) -> None:
        """Chunks fill the capacity, and those that are opened hold what is read."""
        if self.capacity % self.size:
            near = -(-self.capacity // self.size) * self.size
            raise SpecError(
                f"external.size = {self.size} does not divide external.capacity = {self.capacity}, which is cut into "
                f"chunks of equal size; set capacity to {near}, or change size"
            )
        if self.neighbours > self.probes * self.size:
            raise SpecError(
                f"external.neighbours = {self.neighbours} is more than the {self.probes * self.size} entries of "
                f"external.probes = {self.probes} chunks of external.size = {self.size}; lower neighbours or raise "
                "one of the others"
            )

    def build(self, embedding: int, actions: int, offered: int, key: Key) -> "Chunked":
        """A memory for `actions` fixed actions, or for actions of `offered` features each. Raises SpecError."""
        count = 1 if offered else actions
        places = self.capacity // count // self.size * self.size
        if self.neighbours > places:
            least = -(-self.neighbours // self.size) * self.size * count
            raise SpecError(
                f"external.neighbours = {self.neighbours} is more than the {places} entries, in chunks of "
                f"{self.size}, that each of {count} actions has of external.capacity = {self.capacity}; set capacity "
                f"to at least {least}, or lower neighbours"
            )
        shared: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(TableSettings)}
        exact = EpisodicSpec(capacity=places * count, **shared)
        return Chunked(self, exact.build(embedding, actions, offered, key))


class Chunked(eqx.Module):
    """`episodic` with chunks: its kernels, values and confidence, over the entries of the chunks that are opened."""

    exact: Episodic
    size: int = eqx.field(static=True)
    probes: int = eqx.field(static=True)
    eviction: str = eqx.field(static=True)

    def __init__(self, chosen: ChunkedSpec, exact: Episodic):
        self.exact, self.size, self.eviction = exact, chosen.size, chosen.eviction
        self.probes = min(chosen.probes, exact.places // chosen.size)

    @property
    def capacity(self) -> int:
        """Places over all tables, and number of ids."""
        return self.exact.capacity

    def init(self, kept: Mapping[str, PyTree] | None = None) -> Chunks:
        """See `ExternalMemory.init`."""
        check_kept("chunked", ChunkedSpec.keeps, kept)
        return chunking.empty(self.exact.init(kept), self.size)

    def write(self, store: Chunks, entries: Entries, keep: Bool[Array, "block"]) -> Chunks:
        """See `ExternalMemory.write`. Entries that are not finite are not written, but counted in `refused`."""
        chosen = self.exact.chosen
        held, rows, ids, tables, accepted, groups = drafted(
            store.entries, entries, keep, Rule(chosen.update, chosen.alpha)
        )
        again, where = ids >= 0, located(held, ids)
        kept = {
            "read": jnp.where(again, held.read[where], 0),
            "attention": jnp.where(again, held.attention[where], 0),
            "count": jnp.where(again, held.count[where], 1),
        }
        chunks = eqx.tree_at(lambda chunks: chunks.entries, store, held)
        chunks = chunking.removed(chunks, jnp.where(groups.is_last, ids, -1))
        return chunking.placed(chunks, rows | kept, tables, accepted & groups.is_last)

    def touch(self, store: Chunks, entries: Int[Array, "reads"], weights: Float[Array, "reads"]) -> Chunks:
        """See `ExternalMemory.touch`."""
        return chunking.touched(store, entries, weights, self.eviction == "least-read")

    def fetch(self, store: Chunks, ids: Int[Array, "block"]) -> Entries:
        """See `ExternalMemory.fetch`. An id names its entry until the next write only."""
        return self.exact.fetch(store.entries, ids)

    def holds(self, store: Chunks, ids: Int[Array, "block"]) -> Bool[Array, "block"]:
        """See `ExternalMemory.holds`."""
        return self.exact.holds(store.entries, ids)

    def hide(self, store: Chunks, ids: Int[Array, "block"]) -> Chunks:
        """See `ForgettingMemory.hide`. The summaries stay, so a read opens the chunks that it opened before."""
        return dataclasses.replace(store, entries=self.exact.hide(store.entries, ids))

    def forget(self, store: Chunks, gone: Bool[Array, "capacity"]) -> Chunks:
        """See `ForgettingMemory.forget`. It writes blocks of `AT_ONCE` entries, or of half a chunk if that is less.

        Where writing them anew would have to give some of them up, because chunks fill unevenly, they stay in the
        chunks where they are, and only the summaries are made anew.
        """
        return chunking.forgotten(store, gone, self.eviction == "least-read")

    def notes(self, store: Chunks, ids: Int[Array, "block"]) -> Notes:
        """See `ForgettingMemory.notes`."""
        return self.exact.notes(store.entries, ids)

    def edit(self, store: Chunks, ids: Int[Array, "block"], values: Float[Array, "block"]) -> Chunks:
        """See `forgetting.edit`."""
        return dataclasses.replace(store, entries=self.exact.edit(store.entries, ids, values))

    def read(
        self, store: Chunks, query: Float[Array, "embedding"], offered: Float[Array, "actions features"] | None = None
    ) -> MemoryRead:
        """See `ExternalMemory.read`. Heads are averaged. Raises SpaceError where features are missing or unexpected."""
        store = jax.lax.stop_gradient(store)
        queries = self.exact.queries(query, offered)
        asked = self.exact.asked(queries)
        ids, known = self._nearest(store, jax.lax.stop_gradient(asked))
        return self.exact.answer(store.entries, queries, asked, ids, known)

    def _nearest(
        self, store: Chunks, asked: Float[Array, "heads queries width"]
    ) -> tuple[Int[Array, "heads actions k"], Bool[Array, "heads actions k"]]:
        """Ids of the best live entries of each action in its best chunks, and which of them are live at all."""
        entries, chunks, size = store.entries, store.chunks, store.size
        near = self._scores(jnp.einsum("hqw,tcw->hqtc", asked, store.centre), store.length)
        # There is one query, or one table.
        near = near.reshape(len(asked), -1, chunks)
        opened = choose(near, self.probes, store.filled > 0)
        table = jnp.arange(near.shape[1])[:, None] if entries.tables > 1 else jnp.zeros((near.shape[1], 1), int)
        number = table * chunks + opened  # [heads actions probes]
        keys = entries.key.reshape(-1, size, self.exact.width)
        rows = jnp.broadcast_to(asked[:, :, None], (len(asked), near.shape[1], self.probes, self.exact.width))

        # One chunk after the other, because a gather of all of them would be written to memory and read again.
        def product(pair: tuple[Array, Array]) -> Array:
            return jax.lax.dynamic_index_in_dim(keys, pair[0], keepdims=False) @ pair[1]

        products = jax.lax.map(product, (number.reshape(-1), rows.reshape(-1, self.exact.width)))
        products = products.reshape(*number.shape, size)
        scores = self._scores(products, entries.length.reshape(-1, size)[number])
        live = entries.live.reshape(-1, size)[number]
        scores, live = (part.reshape(*number.shape[:2], -1) for part in (scores, live))
        best = choose(scores, self.exact.chosen.neighbours, live)
        place = jnp.take_along_axis(opened, best // size, -1) * size + best % size
        return table * entries.places + place, jnp.take_along_axis(live, best, -1)

    def _scores(self, product: Float[Array, "..."], length: Float[Array, "..."]) -> Float[Array, "..."]:
        """By what keys, and summaries, are ranked."""
        return 2 * product - length if self.exact.chosen.kernel == "inverse-distance" else product
