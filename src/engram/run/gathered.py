"""The entries of all shards in one table again, as an agent outside of a cluster has them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from engram.agents.agent import Agent, shape_of
from engram.cluster import epochs
from engram.external.store import Store, reindexed
from engram.precision import in_32_bits
from engram.trees import copied

STORE = "agent.recall.store"  # where a checkpoint has it


@in_32_bits
def gathered(agent: Agent, arrays: Mapping[str, np.ndarray], parts: list[epochs.Part], checkpoints: Path) -> dict:
    """The arrays of a checkpoint with the store that `agent` has, filled with what the shards had.

    Each entry is as it was. Raises CheckpointError where a shard's file is missing or damaged.
    """
    recall: Any = shape_of(agent).recall
    template: Store = recall.store
    files = [epochs.read(checkpoints / epochs.FOLDER, part) for part in parts]
    rows = {name: np.concatenate([file[name] for file in files]) for name in files[0]}
    order = np.argsort(rows["written"], kind="stable")
    rows = {name: column[order] for name, column in rows.items()}
    store = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
    table, places = rows["table"], template.places
    place = _ranks(table, template.tables)
    columns = {name: getattr(store, name) for name in rows if name != "table"} | {
        "live": store.live,
        "count": store.count,
    }
    for name, column in columns.items():
        column[table, place] = rows.get(name, 1)
    counters = {name: arrays[f"{STORE}.{name}"] for name in ("clock", "refused")}
    held = np.bincount(table, minlength=template.tables)
    store = dataclasses.replace(
        jax.tree.map(jnp.asarray, store),
        **{name: jnp.asarray(counter) for name, counter in counters.items()},
        cursor=jnp.asarray(held % places, jnp.int32),
    )
    store = dataclasses.replace(store, length=(store.key**2).sum(-1))
    return dict(arrays) | copied(jax.jit(reindexed)(store), STORE)


def _ranks(table: np.ndarray, tables: int) -> np.ndarray:
    """Which of its table each row is."""
    place = np.zeros(len(table), np.int64)
    for one in range(tables):
        mine = np.flatnonzero(table == one)
        place[mine] = np.arange(len(mine))
    return place
