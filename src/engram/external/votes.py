"""`votes`: the nearest entries vote for the action that was taken there. For many actions of which few are ever right.

A read asks one table for the entries nearest to the situation, whatever their action, where `episodic` asks for the
nearest of each action. With tokens as actions it is the nearest-neighbour memory of machine translation.

Source: Khandelwal et al. 2021, "Nearest neighbor machine translation" (arXiv 2010.00710); returns in place of
probabilities are ours.
"""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram.errors import SpecError
from engram.external import store as stores
from engram.external.eviction import Eviction
from engram.external.memory import OPTIONAL, Entries, Notes, check_kept
from engram.external.store import Store
from engram.external.writing import Rule, write
from engram.nn.attention import attend, choose
from engram.ranges import Log, OneOf
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Key, MemoryRead


@register("external", "votes")
@spec
class VotesSpec:
    """One table for all actions, whose nearest entries vote for what was done there."""

    capacity: int = setting(100_000, "entries over all actions", low=1)
    neighbours: int = setting(16, "entries that vote", low=1, search=OneOf(4, 8, 16, 32))
    temperature: float = setting(
        0.03, "squared distance at which a vote counts 1/e of one at no distance", above=0, search=Log(0.003, 0.3)
    )
    margin: float = setting(
        0.1, "by how much an action that a neighbour did not take is worth less there, in units of return", low=0
    )
    half_confidence_distance: float = setting(
        0.03, "squared distance of the nearest entry at which confidence is a half", above=0, search=Log(0.003, 0.3)
    )
    eviction: Eviction = setting("oldest", "what a full table gives up")
    uniform: bool = setting(False, "control: all neighbours weigh the same")

    present = True
    keeps = frozenset(OPTIONAL)
    one_step = False

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

    def build(self, embedding: int, actions: int, offered: int, key: Key) -> "Votes":
        """A memory for `actions` fixed actions. SpecError for actions that are offered by their features."""
        if offered:
            raise SpecError(
                "external=votes counts votes for actions by their number, which means nothing where actions are "
                "offered by their features; use external=episodic"
            )
        return Votes(embedding, actions, self)


class Votes(eqx.Module):
    """A table read by one query for all actions.

        w_i   softmax over the k nearest entries of -|query - key_i|^2 / temperature
        q(a)  sum_i w_i (R_i - margin [a_i != a])   =   mean return + margin (share of the votes for a - 1)

    An action that no neighbour took is known too: it is worth the margin less. Confidence is that of the nearest entry,
    h / (d^2 + h) with h = `half_confidence_distance`, and the same for every action.
    """

    width: int = eqx.field(static=True)
    actions: int = eqx.field(static=True)
    chosen: VotesSpec = eqx.field(static=True)

    @property
    def capacity(self) -> int:
        """Entries, and number of ids."""
        return self.chosen.capacity

    @property
    def margin(self) -> float:
        """By how much less an entry says of an action that was not taken there, in units of return."""
        return self.chosen.margin

    def init(self, kept: Mapping[str, PyTree] | None = None) -> Store:
        """See `ExternalMemory.init`."""
        check_kept("votes", self.chosen.keeps, kept)
        return stores.empty(1, self.capacity, self.width, 0, kept)

    def write(self, store: Store, entries: Entries, keep: Bool[Array, "block"]) -> Store:
        """See `ExternalMemory.write`. Where a situation and its action come again, the newer return stands."""
        keep = keep & (entries.action < self.actions)
        return write(store, entries, keep, Rule("tabular", 1.0, self.chosen.eviction))

    def read(
        self, store: Store, query: Float[Array, "embedding"], offered: Float[Array, "actions features"] | None = None
    ) -> MemoryRead:
        """See `ExternalMemory.read`. Every action reads the same entries, with the same weights."""
        store = jax.lax.stop_gradient(store)
        asked = jax.lax.stop_gradient(query)
        product = jnp.matmul(store.key[0], asked, precision=jax.lax.Precision.HIGHEST)
        places = choose(2 * product - store.length[0], self.chosen.neighbours, store.live[0])
        known = store.live[0, places]
        # From differences, not from products: 0 at an exact match.
        distance = ((query - store.key[0, places]) ** 2).sum(-1)
        weights = attend(
            jnp.zeros_like(distance) if self.chosen.uniform else -distance / self.chosen.temperature, known
        )
        votes = jnp.zeros(self.actions).at[jnp.where(known, store.action[0, places], self.actions)].add(weights)
        mean = (weights * jnp.where(known, store.value[0, places], 0.0)).sum()
        half = self.chosen.half_confidence_distance
        confidence = jnp.where(known, half / (distance + half), 0.0).max()
        q = jnp.where(known.any(), mean + self.chosen.margin * (votes - 1), 0.0)
        wide = (1, self.actions, len(places))
        ids = jnp.where(known, places, -1).astype(jnp.int32)
        return MemoryRead(
            jnp.zeros(0),
            jnp.broadcast_to(weights, wide),
            jnp.broadcast_to(ids, wide),
            q,
            jnp.broadcast_to(confidence, q.shape),
        )

    def touch(self, store: Store, entries: Int[Array, "reads"], weights: Float[Array, "reads"]) -> Store:
        """See `ExternalMemory.touch`."""
        return stores.touched(store, entries, weights)

    def fetch(self, store: Store, ids: Int[Array, "block"]) -> Entries:
        """See `ExternalMemory.fetch`."""
        return stores.fetched(store, ids, self.width)

    def holds(self, store: Store, ids: Int[Array, "block"]) -> Bool[Array, "block"]:
        """See `ExternalMemory.holds`."""
        return stores.holds(store, ids)

    def rekey(self, store: Store, ids: Int[Array, "block"], embeddings: Float[Array, "block embedding"]) -> Store:
        """See `RekeyedMemory.rekey`."""
        where = stores.located(store, ids)
        keys = jnp.where(jnp.isfinite(embeddings).all(1, keepdims=True), embeddings, store.key[where])
        return eqx.tree_at(
            lambda store: (store.key, store.length),
            store,
            (store.key.at[where].set(keys), store.length.at[where].set((keys**2).sum(-1))),
        )

    def hide(self, store: Store, ids: Int[Array, "block"]) -> Store:
        """See `ForgettingMemory.hide`. The next nearest entries then vote instead."""
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
