"""What all shards keep in one place again, as an agent outside of a cluster has it: entries, and rows of the replay."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from engram.agents.agent import Agent, shape_of
from engram.checkpoint.segments import Block
from engram.checkpoint.store import Loaded
from engram.cluster import epochs
from engram.errors import CheckpointError
from engram.external.store import Store, reindexed
from engram.precision import in_32_bits
from engram.replay.ring import turn_of
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


def with_rows(loaded: Loaded, checkpoints: Path) -> Loaded:
    """A checkpoint whose replay rows are whole again. What shards kept of them is read when the rows are asked for.

    Then CheckpointError is raised where a file is missing or damaged, or rows were lost with a shard.
    """
    parts = epochs.rows_of(epochs.epoch_of(loaded.meta["state"]))

    def blocks() -> Iterator[Block]:
        files = [epochs.read(checkpoints / epochs.FOLDER, part) for part in parts]
        kept = {name: np.concatenate([file[name] for file in files]) for name in files[0]}
        order = np.lexsort((kept["row"], kept["lane"]))
        columns = {name.removeprefix("column."): kept[name] for name in kept if name.startswith("column.")}
        place = _position(kept["lane"][order], kept["row"][order])
        for lane, start, narrow in loaded.replay_blocks():
            wanted = _position(lane, (start + np.arange(len(narrow["action"]))) % turn_of(loaded.capacity or 1))
            at = np.searchsorted(place, wanted).clip(max=len(place) - 1)
            if (lost := int((place[at] != wanted).sum())) > 0:
                raise CheckpointError(
                    f"{lost} rows of the replay of step {loaded.step} were lost with a shard; go on without the replay "
                    f"of this run, or take an earlier checkpoint"
                )
            yield lane, start, narrow | {name: column[order[at]] for name, column in columns.items()}

    return dataclasses.replace(loaded, _blocks=blocks)


def _position(lane: np.ndarray | int, row: np.ndarray) -> np.ndarray:
    """One number for a lane and a row of it; rows are far below 2^32."""
    return (np.asarray(lane, np.int64) << 32) + row
