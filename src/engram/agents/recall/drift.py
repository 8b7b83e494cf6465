"""Drift: keys grow old while the network learns. A few are computed anew in turn, and their drift is measured."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from engram.agents.mind import MindSpec
from engram.agents.network import Network
from engram.agents.recall.keys import key_of
from engram.agents.recall.state import RecallState

RATE = 0.01  # of the running overlap


def refresh(spec: MindSpec, network: Network, state: RecallState) -> RecallState:
    """The keys of the next few entries computed anew from their observations, and how far the first had drifted.

    `network` is the one whose embeddings are keys. Drift is measured as the share of the entries nearest to the stored
    key that are also among the nearest to the fresh one.
    """
    store, external = state.store, network.external
    size = external.capacity
    ids = (state.turn + jnp.arange(min(spec.recall.refresh, size))) % size
    entries = external.fetch(store, ids)
    fresh = jax.lax.stop_gradient(jax.vmap(lambda frame: key_of(spec, network.embed(frame)))(entries.observation))
    offered = entries.features[:1] if entries.features.shape[1] else None
    read = partial(external.read, store, offered=offered)
    before, after = read(entries.key[0]).entries[0], read(fresh[0]).entries[0]
    row = jnp.where(before.shape[0] > 1, entries.action[0], 0)  # one row for each action, or one for all
    mine = before[row], after[row]
    shared = ((mine[0][:, None] == mine[1]) & (mine[0] >= 0)[:, None]).sum() / jnp.maximum((mine[0] >= 0).sum(), 1)
    live = external.holds(store, ids[:1])[0]
    overlap = jnp.where(live, state.overlap + RATE * (shared - state.overlap), state.overlap)
    return dataclasses.replace(
        state, store=external.rekey(store, ids, fresh), turn=(ids[-1] + 1) % size, overlap=overlap
    )
