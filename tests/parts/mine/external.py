"""An external memory: a running mean of the values of each of a few random regions of the embeddings."""

import equinox as eqx
import jax
import jax.numpy as jnp

from engram import Entries, MemoryRead, register, setting, spec
from engram.errors import SpecError


@register("external", "mine-external")
@spec
class MineExternalSpec:
    """A table of regions and actions, in which the newest entry of each stands."""

    regions: int = setting(32, "regions, as the signs of random projections tell them apart", low=2)

    present = True
    keeps = frozenset()
    one_step = False
    refreshes = False

    def build(self, embedding, actions, offered, key):
        if offered:
            raise SpecError("external=mine-external is for a fixed set of actions; use external=episodic")
        return MineExternal(self.regions, embedding, actions)


class Table(eqx.Module):
    key: jax.Array  # [regions * actions, embedding]
    value: jax.Array
    live: jax.Array
    refused: jax.Array

    @property
    def held(self):
        return self.live.sum(-1)


class MineExternal(eqx.Module):
    regions: int  # a number among the leaves
    embedding: int
    actions: int

    @property
    def capacity(self):
        return self.regions * self.actions

    def init(self, kept=None):
        if kept:
            raise SpecError(f"external=mine-external cannot keep {', '.join(kept)}; use external=episodic")
        count = self.capacity
        return Table(jnp.zeros((count, self.embedding)), jnp.zeros(count), jnp.zeros(count, bool), jnp.int32(0))

    def region(self, key):
        """A number below `regions`, by the angle of the first two projections."""
        weights = jnp.sin(jnp.arange(1.0, 2 * self.embedding + 1) * 12.9898).reshape(2, -1)
        angle = jnp.arctan2(*(weights @ jnp.nan_to_num(key) + 1e-6)) / (2 * jnp.pi) + 0.5
        return jnp.floor(angle * self.regions).astype(jnp.int32) % self.regions

    def write(self, store, entries, keep):
        fine = jnp.isfinite(entries.key).all(1) & jnp.isfinite(entries.value)

        def one(store, entry):
            key, action, value, good = entry
            place = jnp.where(good, self.region(key) * self.actions + action, self.capacity)
            put = lambda column, new: column.at[place].set(new, mode="drop")  # noqa: E731
            return Table(put(store.key, key), put(store.value, value), put(store.live, True), store.refused), None

        store, _ = jax.lax.scan(one, store, (entries.key, entries.action, entries.value, keep & fine))
        return Table(store.key, store.value, store.live, store.refused + (keep & ~fine).sum())

    def read(self, store, query, offered=None):
        store = jax.lax.stop_gradient(store)
        ids = self.region(query) * self.actions + jnp.arange(self.actions)
        live = store.live[ids]
        near = 1 / (1 + ((store.key[ids] - query) ** 2).sum(1))
        weights = live.astype(jnp.float32)[None, :, None]
        entries = jnp.where(live, ids, -1).astype(jnp.int32)[None, :, None]
        value, confidence = (jnp.where(live, one, 0.0) for one in (store.value[ids], near))
        return MemoryRead(jnp.zeros(0), weights, entries, value, confidence)

    def touch(self, store, entries, weights):
        return store

    def fetch(self, store, ids):
        real, count = ids >= 0, len(ids)
        return Entries(
            key=jnp.where(real[:, None], store.key[ids], 0),
            action=jnp.where(real, ids % self.actions, 0),
            features=jnp.zeros((count, 0)),
            value=jnp.where(real, store.value[ids], 0),
            td_error=jnp.zeros(count),
            hash=jnp.zeros((count, 2), jnp.uint32),
            origin=jnp.where(real[:, None], -1, jnp.zeros((count, 3), jnp.int32)),
        )

    def holds(self, store, ids):
        return (ids >= 0) & store.live[ids]
