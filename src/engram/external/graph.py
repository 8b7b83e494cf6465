"""`graph`: transitions as a graph, along whose edges values are carried back.

A node is a distinct observation, found by its hash. An edge holds the reward of an action at a node, and the node that
followed. Episodes add up: where two of them cross, the value of one reaches the beginning of the other. No return of a
single episode holds that value.

The graph is for deterministic worlds, because an edge holds the *last* outcome of its action. Where chance decides, a
node has the value of the luckiest last outcome among its actions: too high by as much as chance scatters outcomes.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from engram.bits import TURN, counted, held_back
from engram.errors import SpecError
from engram.external.memory import Entries, Notes, check_kept, known_rows
from engram.nn.attention import attend, choose, squared_distance
from engram.ranges import Log, OneOf
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Key, MemoryRead

SETTLED = 1e-6  # a sweep that moves no value by more than this share of the greatest one ends the propagation


@register("external", "graph")
@spec
class GraphSpec:
    """Nodes and transitions between them; values are propagated backwards, so walks that meet are stitched together.

    It needs transitions of one step (`n_step=1`): of a longer one the edge would stand for actions it does not name.
    """

    capacity: int = setting(10_000, "nodes, distinct observations", low=1, search=OneOf(2_000, 10_000, 50_000))
    neighbours: int = setting(10, "nodes that a read attends to", low=1, search=OneOf(5, 10, 25))
    delta: float = setting(1e-3, "added to squared distances in the kernel: how much an exact match outweighs", above=0)
    half_confidence_distance: float = setting(
        0.03, "squared distance of the nearest node at which confidence is a half", above=0, search=Log(0.003, 0.3)
    )
    every: int = setting(100, "writes between two propagations", low=1)
    sweeps: int = setting(1000, "transitions that a value travels back in a propagation, at most", low=1)
    eviction: Literal["unread", "oldest"] = setting(
        "unread", "what gives way: the node that was neither read nor written, or not written, for longest"
    )
    uniform: bool = setting(False, "equal weights for all neighbours: a control")

    present = True
    keeps = frozenset(("reward", "discount", "following"))  # always, asked or not: they are what an edge is
    one_step = True
    refreshes = False

    def check(self) -> None:
        """There are as many nodes as a read attends to."""
        if self.neighbours > self.capacity:
            raise SpecError(
                f"external.neighbours = {self.neighbours} exceeds external.capacity = {self.capacity}; "
                "lower neighbours or raise capacity"
            )

    def build(self, embedding: int, actions: int, offered: int, key: Key) -> "Graph":
        if offered:
            raise SpecError(
                "external = graph tells actions apart by their number, and here they are offered by features; "
                "use another external memory"
            )
        return Graph(self, embedding, actions)


class GraphStore(NamedTuple):
    """Nodes and their edges. An id names an edge: node x actions + action.

    A place without a node has `written` -1, and so have its edges `known` False.
    """

    key: Float[Array, "capacity embedding"]
    hash: UInt32[Array, "capacity 2"]
    known: Bool[Array, "capacity actions"]  # whether the action was ever taken there
    reward: Float[Array, "capacity actions"]
    discount: Float[Array, "capacity actions"]
    following: UInt32[Array, "capacity actions 2"]  # a hash, not a place: whoever moves in there is not mistaken for it
    base: Float[Array, "capacity actions"]  # the return as it was written: the value while nobody knows what follows
    q: Float[Array, "capacity actions"]  # as of the last propagation
    origin: Int[Array, "capacity actions 3"]  # environment, its episode, step of that episode
    written: Int[Array, "capacity"]  # moment of the last write
    read: Int[Array, "capacity"]  # moment of the last read by acting; -1 for never
    moment: Int[Array, ""]  # counts writes and touches of something
    writes: Int[Array, ""]
    refused: Int[Array, ""]  # entries not written because of numbers that are not finite

    @property
    def live(self) -> Bool[Array, "*seeds capacity"]:
        """Which places hold a node."""
        return self.written >= 0

    @property
    def held(self) -> Int[Array, "*seeds"]:
        """See `memory.Store.held`; of nodes."""
        return self.live.sum(-1)


class Graph(eqx.Module):
    """The functions of the memory; no learned weights. Source: after Zhu et al. 2020 (ERLAM), in JAX, exact.

    A block may be no longer than the capacity. `writes` decides when values are propagated: under a `vmap` over stores
    that is no condition any more, and every write would pay for a propagation.
    """

    numbers: GraphSpec = eqx.field(static=True)
    embedding: int = eqx.field(static=True)
    actions: int = eqx.field(static=True)

    @property
    def capacity(self) -> int:
        """Number of ids: every action of every node."""
        return self.numbers.capacity * self.actions

    def init(self, kept: Mapping[str, PyTree] | None = None) -> GraphStore:
        """No nodes. Every array is one of its own, so that a store can be donated. See `ExternalMemory.init`."""
        check_kept("graph", GraphSpec.keeps, kept)
        size, edges = self.numbers.capacity, (self.numbers.capacity, self.actions)
        return GraphStore(
            key=jnp.zeros((size, self.embedding)),
            hash=jnp.zeros((size, 2), jnp.uint32),
            known=jnp.zeros(edges, bool),
            reward=jnp.zeros(edges),
            discount=jnp.zeros(edges),
            following=jnp.zeros((*edges, 2), jnp.uint32),
            base=jnp.zeros(edges),
            q=jnp.zeros(edges),
            origin=jnp.zeros((*edges, 3), jnp.int32),
            written=jnp.full(size, -1, jnp.int32),
            read=jnp.full(size, -1, jnp.int32),
            moment=jnp.zeros((), jnp.int32),
            writes=jnp.zeros((), jnp.int32),
            refused=jnp.zeros((), jnp.int32),
        )

    def write(self, store: GraphStore, entries: Entries, keep: Bool[Array, "block"]) -> GraphStore:
        """Nodes and edges of the block; what was known of a node's other actions stays. SpecError as for `_given`.

        Entries that are not finite are not written, but counted in `refused`.
        """
        reward, discount, following = _given(entries, self.numbers.capacity)
        fit = jnp.isfinite(entries.key).all(-1) & jnp.isfinite(jnp.stack([entries.value, reward, discount])).all(0)
        refused, keep = store.refused + (keep & ~fit).sum(dtype=jnp.int32), keep & fit
        place, opened = _places(store, entries.hash, keep, self._order(store))
        nowhere = self.numbers.capacity
        same = (entries.hash[:, None] == entries.hash[None]).all(-1) & keep[None, :]
        later = jnp.triu(same, 1)  # [i, j]: j is a later one of the same observation
        again = later & keep[:, None] & (entries.action[:, None] == entries.action[None])
        node = jnp.where(keep & ~later.any(1), place, nowhere)
        edge = (jnp.where(keep & ~again.any(1), place, nowhere), entries.action)
        known = store.known.at[jnp.where(opened, place, nowhere)].set(False, mode="drop")
        # A new edge counts for what was written until the next propagation; one that was there keeps what it is worth.
        fresh = jnp.where(keep & ~again.any(0) & ~known[place, entries.action], place, nowhere)
        store = store._replace(
            key=store.key.at[node].set(entries.key, mode="drop"),
            hash=store.hash.at[node].set(entries.hash, mode="drop"),
            known=known.at[edge].set(True, mode="drop"),
            reward=store.reward.at[edge].set(reward, mode="drop"),
            discount=store.discount.at[edge].set(discount, mode="drop"),
            following=store.following.at[edge].set(following, mode="drop"),
            base=store.base.at[edge].set(entries.value, mode="drop"),
            q=store.q.at[fresh, entries.action].set(entries.value, mode="drop"),
            origin=store.origin.at[edge].set(entries.origin, mode="drop"),
            written=store.written.at[node].set(store.moment, mode="drop"),
            read=store.read.at[jnp.where(opened, place, nowhere)].set(-1, mode="drop"),
            moment=held_back(store.moment, 1) + keep.any(),
            writes=counted(store.writes, keep.any(), self.numbers.every * max(1, TURN // self.numbers.every)),
            refused=refused,
        )
        due = keep.any() & (store.writes % self.numbers.every == 0)
        return store._replace(q=jax.lax.cond(due, lambda: propagate(store, self.numbers.sweeps).q, lambda: store.q))

    def read(
        self,
        store: GraphStore,
        query: Float[Array, "embedding"],
        offered: Float[Array, "actions features"] | None = None,
    ) -> MemoryRead:
        """The nearest nodes, and per action the mean of what those of them that know it say.

        Weights are 1 / (distance^2 + delta) over their sum. Confidence is h / (distance^2 + h) of the nearest node that
        knows the action, with h = `half_confidence_distance`: 1 at a node itself.

        Source: Pritzel et al. 2017 (arXiv 1703.01988), eqs. 2 and 5.
        """
        store = jax.lax.stop_gradient(store)
        numbers, keys = self.numbers, store.key
        scores = -squared_distance(jax.lax.stop_gradient(query)[None], keys)[0]
        nearest = choose(scores, self.numbers.neighbours, store.written >= 0)
        known = (store.known[nearest] & (store.written[nearest] >= 0)[:, None]).T
        distance = squared_distance(query[None], keys[nearest])[0]
        kernel = jnp.zeros_like(distance) if self.numbers.uniform else -jnp.log(distance + numbers.delta)
        weights = attend(jnp.broadcast_to(kernel, known.shape), known)
        q = (weights * store.q[nearest].T).sum(1)
        half = numbers.half_confidence_distance
        confidence = jnp.where(known, half / (distance + half), 0.0).max(1)
        ids = nearest * self.actions + jnp.arange(self.actions, dtype=jnp.int32)[:, None]
        return MemoryRead(jnp.zeros(0), weights[None], jnp.where(known, ids, -1)[None], q, confidence)

    def fetch(self, store: GraphStore, ids: Int[Array, "block"]) -> Entries:
        """See `ExternalMemory.fetch`. `value` is that of the last propagation; td_error is not stored."""
        node, action = self._edges(ids)
        edge, count = (node, action), len(ids)
        found = Entries(
            key=store.key[node],
            action=action,
            features=jnp.zeros((count, 0)),
            value=store.q[edge],
            td_error=jnp.zeros(count),
            hash=store.hash[node],
            origin=store.origin[edge],
            reward=store.reward[edge],
            discount=store.discount[edge],
            following=store.following[edge],
        )
        return known_rows(found, ids)

    def holds(self, store: GraphStore, ids: Int[Array, "block"]) -> Bool[Array, "block"]:
        """See `ExternalMemory.holds`."""
        node, action = self._edges(ids)
        return (ids >= 0) & store.live[node] & store.known[node, action]

    def hide(self, store: GraphStore, ids: Int[Array, "block"]) -> GraphStore:
        """See `ForgettingMemory.hide`. A node without any edge left hides too.

        Values stay those of the last propagation, with what the edge brought to others; `forget` propagates anew.
        """
        node, action = self._edges(ids)
        known = store.known.at[jnp.where(ids >= 0, node, self.numbers.capacity), action].set(False, mode="drop")
        bare = jnp.where((ids >= 0) & ~known[node].any(1), node, self.numbers.capacity)
        return store._replace(known=known, written=store.written.at[bare].set(-1, mode="drop"))

    def forget(self, store: GraphStore, gone: Bool[Array, "capacity"]) -> GraphStore:
        """See `ForgettingMemory.forget`: the nodes with an edge left, and values that are propagated anew.

        Nodes are in the order of their last write, edges of a node in that of their actions. A node keeps the key that
        it was last written with.
        """
        known = store.known & ~gone.reshape(store.known.shape)
        alive = store.live & known.any(1)
        order = jnp.argsort(jnp.where(alive, store.written, jnp.iinfo(jnp.int32).max), stable=True)
        live, known = alive[order], (known & alive[:, None])[order]
        blank = self.init()

        def moved(name: str, stays: Array) -> Array:
            column, empty = getattr(store, name)[order], getattr(blank, name)
            return jnp.where(stays.reshape(*stays.shape, *[1] * (column.ndim - stays.ndim)), column, empty)

        of_nodes = {name: moved(name, live) for name in ("key", "hash", "written", "read")}
        of_edges = {name: moved(name, known) for name in ("reward", "discount", "following", "base", "q", "origin")}
        return propagate(store._replace(known=known, **of_nodes, **of_edges), self.numbers.sweeps)

    def notes(self, store: GraphStore, ids: Int[Array, "block"]) -> Notes:
        """See `ForgettingMemory.notes`: in moments, which writes and reads count alike; those of the node."""
        node, _ = self._edges(ids)
        read = store.read[node]
        return Notes(store.moment - store.written[node], jnp.where(read < 0, -1, store.moment - read))

    def _edges(self, ids: Int[Array, "block"]) -> tuple[Int[Array, "block"], Int[Array, "block"]]:
        """Node and action of each id; those of 0 for -1."""
        known = jnp.maximum(ids, 0)
        return known // self.actions, known % self.actions

    def touch(self, store: GraphStore, entries: Int[Array, "reads"], weights: Float[Array, "reads"]) -> GraphStore:
        """Notes when the nodes of these edges were read; only a read with a weight counts."""
        counts = (entries >= 0) & (weights > 0)
        place = jnp.where(counts, entries // self.actions, self.numbers.capacity)
        return store._replace(
            read=store.read.at[place].set(store.moment, mode="drop"),
            moment=held_back(store.moment, 1) + counts.any(),
        )

    def _order(self, store: GraphStore) -> Int[Array, "capacity"]:
        """What gives way first has the least number; -1 for free places."""
        if self.numbers.eviction == "oldest":
            return store.written
        return jnp.where(store.written < 0, -1, jnp.maximum(store.written, store.read))


def propagate(store: GraphStore, sweeps: int) -> GraphStore:
    """The store with Q as the edges make it: repeated for all edges at once, until nothing changes or `sweeps` times,

        Q(node, a) = reward + discount * max_a' Q(next, a')     over the known actions a' of the next node,
        Q(node, a) = base                                       where there is no such node.

    It starts anew from the value of the worst reward for ever, so that no former estimate can keep itself alive in a
    circle. After n sweeps a value is exact if the best walk to an end, or to an unknown node, has at most n
    transitions. The error of a best walk without end shrinks by `discount` with each sweep.
    """
    place, found = lookup(store, store.following.reshape(-1, 2))
    place, found = place.reshape(store.known.shape), found.reshape(store.known.shape)
    ends = store.discount == 0
    linked = store.known & ~ends & found
    settled = jnp.where(ends, store.reward, store.base)
    least = jnp.minimum(jnp.min(jnp.where(store.known, store.reward, 0.0)), 0.0)
    per_step = 1 - jnp.max(jnp.where(linked, store.discount, 0.0))
    # Without a discount a walk that visits no node twice still has an end.
    floor = least / jnp.maximum(per_step, 1 / store.known.shape[0])

    def backed(q: Float[Array, "capacity actions"]) -> Float[Array, "capacity actions"]:
        best = jnp.max(jnp.where(store.known, q, -jnp.inf), axis=1)
        return jnp.where(linked, store.reward + store.discount * best[place], settled)

    def unsettled(state: tuple[Array, Array, Array]) -> Bool[Array, ""]:
        _, change, done = state
        return (change > 0) & (done < sweeps)

    def sweep(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        q, _, done = state
        new = backed(q)
        moved = jnp.where(linked, jnp.abs(new - q), 0.0)
        scale = jnp.max(jnp.where(store.known, jnp.abs(new), 0.0))
        return new, jnp.maximum(jnp.max(moved) - SETTLED * scale, 0.0), done + 1

    first = jnp.where(linked, floor, settled)
    q, _, _ = jax.lax.while_loop(unsettled, sweep, (first, jnp.ones(()), jnp.zeros((), jnp.int32)))
    return store._replace(q=jnp.where(store.known, q, store.q))


def lookup(store: GraphStore, hashes: UInt32[Array, "asked 2"]) -> tuple[Int[Array, "asked"], Bool[Array, "asked"]]:
    """The place of the node with each hash, and whether there is one.

    The sorted hashes are bisected. With one question for each edge, this costs much less than comparing all pairs.
    Unlike a table of hashes, it needs nothing that is kept up to date.
    """
    size = store.hash.shape[0]
    live = store.written >= 0
    # Free places come last: equal hashes of a free and a taken place are then told apart by the count of the latter.
    vacant, high, low, order = jax.lax.sort((~live, store.hash[:, 0], store.hash[:, 1], jnp.arange(size)), num_keys=3)
    del vacant
    begin, end = jnp.zeros(len(hashes), jnp.int32), jnp.full(len(hashes), live.sum(), jnp.int32)

    def halve(_: Int[Array, ""], bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        begin, end = bounds
        middle = (begin + end) // 2
        before = (high[middle] < hashes[:, 0]) | ((high[middle] == hashes[:, 0]) & (low[middle] < hashes[:, 1]))
        open_ = begin < end
        return jnp.where(open_ & before, middle + 1, begin), jnp.where(open_ & ~before, middle, end)

    begin, _ = jax.lax.fori_loop(0, size.bit_length(), halve, (begin, end))
    at = jnp.minimum(begin, size - 1)
    found = (begin < live.sum()) & (high[at] == hashes[:, 0]) & (low[at] == hashes[:, 1])
    return order[at], found


def _given(entries: Entries, capacity: int) -> tuple[Array, Array, Array]:
    """Reward, discount and hash of what follows; SpecError where they are left out, or the block does not fit."""
    fields = {name: getattr(entries, name) for name in ("reward", "discount", "following")}
    absent = [name for name, field in fields.items() if not jax.tree.leaves(field)]
    if absent:
        raise SpecError(f"external = graph was offered entries without {', '.join(absent)}; write them too")
    if len(entries.action) > capacity:
        raise SpecError(
            f"external.capacity = {capacity} is less than the {len(entries.action)} entries of a block; raise it"
        )
    return fields["reward"], fields["discount"], fields["following"]


def _places(
    store: GraphStore, hashes: UInt32[Array, "block 2"], keep: Bool[Array, "block"], order: Int[Array, "capacity"]
) -> tuple[Int[Array, "block"], Bool[Array, "block"]]:
    """The place of each entry's node, and whether the entry opens it. Of what is not kept, any place."""
    matches = (hashes[:, None] == store.hash[None]).all(-1) & (store.written >= 0)
    held = matches.any(1)
    same = (hashes[:, None] == hashes[None]).all(-1) & keep[None, :]
    leader = jnp.argmax(same, axis=1)  # the first kept entry of the same observation
    opened = keep & ~held & (leader == jnp.arange(len(hashes)))
    # What the block writes to is not given up for it, so it stands behind all others.
    stays = (matches & keep[:, None]).any(0)
    order = jnp.where(stays, jnp.iinfo(jnp.int32).max, order)
    _, vacant = jax.lax.top_k(-order, len(hashes))
    new = vacant[jnp.clip(jnp.cumsum(opened) - 1, 0, len(hashes) - 1)]
    return jnp.where(held, jnp.argmax(matches, axis=1), new[leader]), opened
