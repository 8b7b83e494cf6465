"""Replay rows in shards of this process."""

from pathlib import Path
from typing import Any

from engram.agents.agent import Agent, shape_of
from engram.cluster.replay import ShardedReplay
from engram.cluster.rows import RowShape
from engram.cluster.shards import Here, Holding, Keeping, Shards
from engram.replay import elsewhere


def row_shapes(agent: Agent, shards: int) -> list[RowShape]:
    """What so many shards hold of the replay of an agent that keeps all of it."""
    state: Any = shape_of(agent)
    ring = state.replay.ring
    return [RowShape(one, shards, ring.envs, ring.capacity, elsewhere.layout(ring)) for one in range(shards)]


def sharded_replay(shapes: list[RowShape], folder: Path | None, link: str) -> ShardedReplay:
    """Shards of rows, which compiled programs know by the name `link`."""
    place = Here(lambda shard, epoch: Keeping(Holding(rows=shapes[shard]), folder, epoch), len(shapes))
    elsewhere.LINKS[link] = replay = ShardedReplay(Shards(place, len(shapes)), shapes)
    return replay
