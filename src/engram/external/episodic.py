"""`episodic`: every experience is an entry, and a read attends to the nearest entries of each action.

Differentiable neural dictionaries (Pritzel et al. 2017, arXiv 1703.01988) and, with `update=max`, model-free episodic
control (Blundell et al. 2016, arXiv 1606.04460).
"""

from collections.abc import Mapping
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram import bits
from engram.errors import SpaceError, SpecError
from engram.external import store as stores
from engram.external.eviction import Eviction
from engram.external.memory import OPTIONAL, Entries, Notes, check_kept
from engram.external.store import Store
from engram.external.writing import Rule, Update, write
from engram.nn.attention import attend, check_heads, choose
from engram.ranges import Log, OneOf
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Key, MemoryRead


@spec
class TableSettings:
    """Settings shared by `episodic` and `chunked`: how entries are read, and how a value moves. No kind of its own."""

    neighbours: int = setting(50, "entries that a read attends to, for each action", low=1, search=OneOf(5, 10, 25, 50))
    kernel: Literal["inverse-distance", "dot", "scaled-dot", "multi-head"] = setting(
        "inverse-distance",
        "how a key, or the mean key of a chunk, answers a query; multi-head learns projections, with "
        "recall.train_through_memory",
    )
    heads: int = setting(4, "heads of kernel=multi-head; they divide the length of a key", low=1)
    delta: float = setting(1e-3, "added to squared distances in the kernel: how much an exact match outweighs", above=0)
    half_confidence_distance: float = setting(
        0.03, "squared distance of the nearest entry at which confidence is a half", above=0, search=Log(0.003, 0.3)
    )
    temperature: float = setting(1.0, "what scores are divided by; below 1 sharpens", above=0)
    update: Update = setting("tabular", "where an observation comes again: v + alpha (R - v), or the best return")
    alpha: float = setting(0.1, "step size of update=tabular", above=0, high=1)
    uniform: bool = setting(False, "control: all neighbours weigh the same")
    shuffle: bool = setting(False, "control: entries have the values of others, always the same ones")

    present = True
    keeps = frozenset(OPTIONAL)
    one_step = False


@register("external", "episodic")
@spec
class EpisodicSpec(TableSettings):
    """One entry for each experience. A read is the attention-weighted value of the nearest entries of each action."""

    capacity: int = setting(
        10_000, "entries over all actions, who share them equally", low=1, search=OneOf(2_000, 10_000, 50_000)
    )
    eviction: Eviction = setting("least-read", "what a full table gives up")

    @property
    def refreshes(self) -> bool:
        """Not with eviction=merge: a merged key is a mean, and belongs to no single observation."""
        return self.eviction != "merge"

    def check(self) -> None:
        """A read cannot attend to more entries than there are."""
        if self.neighbours > self.capacity:
            raise SpecError(
                f"external.neighbours = {self.neighbours} is more than external.capacity = {self.capacity}; "
                f"set neighbours to at most {self.capacity}, or raise capacity"
            )

    def build(self, embedding: int, actions: int, offered: int, key: Key) -> "Episodic":
        """A memory for `actions` fixed actions, or for actions of `offered` features each. Raises SpecError."""
        count = 1 if offered else actions
        places = self.capacity // count
        if self.neighbours > places:
            raise SpecError(
                f"external.neighbours = {self.neighbours} is more than the {places} entries that each of {count} "
                f"actions has of external.capacity = {self.capacity}; set neighbours to at most {places}, or capacity "
                f"to at least {self.neighbours * count}"
            )
        if self.kernel == "multi-head":
            check_heads(self.heads, embedding + offered, ("external.heads", "the length of a key"))
        return Episodic(self, count, places, embedding + offered, offered, key=key)


class Episodic(eqx.Module):
    """Tables of entries, read by one query for all of a fixed set of actions, or by one for each offered action.

    The k best entries of each action are chosen without a gradient; only their k scores are computed with one.

    Confidence is max_i h / (d_i^2 + h) over the entries read, with h = `half_confidence_distance` and d_i the distance
    of entry i from the query. It is 1 at an exact match and a half where d_i^2 = h, whatever the kernel. Learned
    projections do not change it: distances are those of the embedding.
    """

    projections: tuple[Float[Array, "heads size width"], Float[Array, "heads size width"]] | tuple[()]  # query, key
    tables: int = eqx.field(static=True)
    places: int = eqx.field(static=True)
    width: int = eqx.field(static=True)  # of a key: embedding, then features of the action
    offered: int = eqx.field(static=True)
    chosen: EpisodicSpec = eqx.field(static=True)

    def __init__(self, chosen: EpisodicSpec, tables: int, places: int, width: int, offered: int, *, key: Key):
        self.projections = ()
        if chosen.kernel == "multi-head":
            shape = (chosen.heads, width // chosen.heads, width)
            drawn = jax.random.normal(key, shape) * width**-0.5
            self.projections = drawn, drawn  # q' W' W k: at first, close to the product of query and key
        self.tables, self.places, self.width, self.offered, self.chosen = tables, places, width, offered, chosen

    @property
    def capacity(self) -> int:
        """Entries over all tables, and number of ids."""
        return self.tables * self.places

    def init(self, kept: Mapping[str, PyTree] | None = None) -> Store:
        """See `ExternalMemory.init`."""
        check_kept("episodic", self.chosen.keeps, kept)
        return stores.empty(self.tables, self.places, self.width, self.offered, kept)

    def write(self, store: Store, entries: Entries, keep: Bool[Array, "block"]) -> Store:
        """See `ExternalMemory.write`. Entries that are not finite are not written, but counted in `store.refused`."""
        chosen = self.chosen
        return write(store, entries, keep, Rule(chosen.update, chosen.alpha, chosen.eviction))

    def fetch(self, store: Store, ids: Int[Array, "block"]) -> Entries:
        """See `ExternalMemory.fetch`. With eviction=merge, key, value and td_error are means over what was merged."""
        return stores.fetched(store, ids, self.width - self.offered)

    def holds(self, store: Store, ids: Int[Array, "block"]) -> Bool[Array, "block"]:
        """See `ExternalMemory.holds`."""
        return stores.holds(store, ids)

    def hide(self, store: Store, ids: Int[Array, "block"]) -> Store:
        """See `ForgettingMemory.hide`. A read then attends to the next nearest entries instead."""
        return stores.hidden(store, ids)

    def forget(self, store: Store, gone: Bool[Array, "capacity"]) -> Store:
        """See `ForgettingMemory.forget`. An entry that was met again counts as written then."""
        return stores.forgotten(store, gone)

    def notes(self, store: Store, ids: Int[Array, "block"]) -> Notes:
        """See `ForgettingMemory.notes`."""
        return stores.noted(store, ids)

    def edit(self, store: Store, ids: Int[Array, "block"], values: Float[Array, "block"]) -> Store:
        """See `forgetting.edit`."""
        return stores.edited(store, ids, values)

    def rekey(self, store: Store, ids: Int[Array, "block"], embeddings: Float[Array, "block embedding"]) -> Store:
        """See `RekeyedMemory.rekey`."""
        where = stores.located(store, ids)
        keys = jnp.concatenate([embeddings, store.features[where]], axis=1)
        keys = jnp.where(jnp.isfinite(keys).all(1, keepdims=True), keys, store.key[where])
        return eqx.tree_at(
            lambda store: (store.key, store.length),
            store,
            (store.key.at[where].set(keys), store.length.at[where].set((keys**2).sum(-1))),
        )

    def touch(self, store: Store, entries: Int[Array, "reads"], weights: Float[Array, "reads"]) -> Store:
        """See `ExternalMemory.touch`."""
        return stores.touched(store, entries, weights)

    def read(
        self, store: Store, query: Float[Array, "embedding"], offered: Float[Array, "actions features"] | None = None
    ) -> MemoryRead:
        """See `ExternalMemory.read`. Heads are averaged. Raises SpaceError where features are missing or unexpected."""
        store = jax.lax.stop_gradient(store)
        queries = self.queries(query, offered)
        asked = self.asked(queries)
        return self.answer(store, queries, asked, *self._nearest(store, jax.lax.stop_gradient(asked)))

    def answer(
        self,
        store: Store,
        queries: Float[Array, "queries width"],
        asked: Float[Array, "heads queries width"],
        ids: Int[Array, "heads actions k"],
        known: Bool[Array, "heads actions k"],
    ) -> MemoryRead:
        """The read of these entries; only those that are `known` count."""
        near = store.key[stores.located(store, jnp.where(known, ids, 0))]  # [heads actions k width]
        # From differences, not from products: 0 at an exact match, however small delta is.
        distance = ((queries[:, None] - near) ** 2).sum(-1)
        if self.chosen.uniform or self.chosen.kernel == "inverse-distance":
            scores = by_distance(self.chosen, distance)
        else:
            scores = jnp.einsum("haw,hakw->hak", jnp.broadcast_to(asked, near[:, :, 0].shape), near)
        ids = jnp.where(known, ids, -1)
        return answered(self.chosen, scores, distance, ids, self.values(store, ids))

    def values(self, store: Store, ids: Int[Array, "*ids"]) -> Float[Array, "*ids"]:
        """The values of these entries in a read; 0 for -1."""
        where = stores.located(store, ids)
        if self.chosen.shuffle:
            where = where[0], _partners(store, *where)
        return jnp.where(ids >= 0, store.value[where], 0)

    def queries(
        self, query: Float[Array, "embedding"], offered: Float[Array, "actions features"] | None
    ) -> Float[Array, "queries width"]:
        """One query for each table, or for each offered action."""
        if offered is None and not self.offered:
            return query[None]
        if offered is None or offered.shape[1] != self.offered:
            given = "none" if offered is None else str(offered.shape[1])
            raise SpaceError(
                f"external=episodic was built for {self.offered} features of each action, but {given} were given; "
                "build it with as many as the observation's 'offered' has, 0 for a fixed set"
            )
        return jnp.concatenate([jnp.broadcast_to(query, (len(offered), len(query))), offered], 1)

    def asked(self, queries: Float[Array, "queries width"]) -> Float[Array, "heads queries width"]:
        """The vectors that keys are multiplied with. Queries take the projection of the keys too: they are fewer."""
        kernel = self.chosen.kernel
        if kernel == "multi-head":
            to_query, to_key = self.projections  # type: ignore[misc]
            projected = jnp.einsum("hsw,qw->hqs", to_query, queries) * to_query.shape[1] ** -0.5
            return jnp.einsum("hqs,hsw->hqw", projected, to_key)
        return queries[None] * (self.width**-0.5 if kernel == "scaled-dot" else 1)

    def _nearest(
        self, store: Store, asked: Float[Array, "heads queries width"]
    ) -> tuple[Int[Array, "heads actions k"], Bool[Array, "heads actions k"]]:
        """Ids of the best live entries of each action, and which of them are live at all."""
        rows = asked.reshape(-1, self.width)
        keys = store.key.reshape(-1, self.width)
        product = jnp.matmul(rows, keys.T, precision=jax.lax.Precision.HIGHEST)
        # There is one query, or one table.
        product = product.reshape(len(asked), -1, self.places)
        scores = 2 * product - store.length if self.chosen.kernel == "inverse-distance" else product
        live = jnp.broadcast_to(store.live, product.shape[1:])
        places = choose(scores, self.chosen.neighbours, live)
        table = jnp.arange(product.shape[1])[:, None] if self.tables > 1 else 0
        known = jnp.take_along_axis(jnp.broadcast_to(live, product.shape), places, -1)
        return table * self.places + places, known


def by_distance(chosen: TableSettings, distance: Float[Array, "*entries"]) -> Float[Array, "*entries"]:
    """The scores of entries at these squared distances with kernel=inverse-distance; of the control, all alike."""
    return jnp.zeros_like(distance) if chosen.uniform else -jnp.log(distance + chosen.delta)


def answered(
    chosen: TableSettings,
    scores: Float[Array, "heads actions k"],
    distance: Float[Array, "heads actions k"],
    ids: Int[Array, "heads actions k"],
    values: Float[Array, "heads actions k"],
) -> MemoryRead:
    """The read of these entries, of which -1 is none. Heads are averaged."""
    known = ids >= 0
    weights = attend(scores / chosen.temperature, known)
    q = (weights * values).sum(-1).mean(0)
    half = chosen.half_confidence_distance
    close = jnp.where(known, half / (distance + half), 0)
    return MemoryRead(jnp.zeros(0), weights, ids, q, close.max((0, 2)))


def _partners(store: Store, table: Int[Array, "*ids"], place: Int[Array, "*ids"]) -> Int[Array, "*ids"]:
    """For each entry another of its table, drawn from its place alone: the first live one of several draws.

    The ranges halve, so that partners are found in a table that has just begun to fill. Itself if all fail.
    """
    spans = [store.places]
    while spans[-1] > 2:
        spans.append((spans[-1] + 1) // 2)
    seeds = jnp.stack([place, table], -1).astype(jnp.uint32).reshape(-1, 2)
    words = jax.vmap(lambda seed: bits.hashed(seed, len(spans)))(seeds)
    drawn = bits.below(words, jnp.broadcast_to(jnp.array(spans), words.shape)).reshape(*place.shape, -1)
    fits = store.live[table[..., None], drawn] & (drawn != place[..., None])
    first = jnp.take_along_axis(drawn, fits.argmax(-1)[..., None], -1)[..., 0]
    return jnp.where(fits.any(-1), first, place)
