"""Replay rows in shards: what is learned is what is learned without them, to the last bit."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runners.test_cluster_runner import PLAIN, agent_for, clustered, never
from support.rows import row_shapes, sharded_replay

from engram.agents.spec import AgentSpec, ReplaySpec
from engram.encoders.vector import VectorSpec
from engram.exploration.greedy import EpsilonGreedySpec
from engram.replay.prioritized import PrioritizedSpec
from engram.run.keeper import digest
from engram.runners.cluster import ClusterRunner, InShards
from engram.working.gated import GRUSpec

LINK = "rows of a test"
SMALL = ReplaySpec(capacity=160, batch_size=8, start=64)  # 40 rows for each of four lanes: it wraps
STACKED = dataclasses.replace(PLAIN.observation, stack=3)
WINDOWS = AgentSpec(
    encoder=VectorSpec(widths=(8,)),
    working=GRUSpec(hidden_size=8),
    observation=dataclasses.replace(PLAIN.observation, previous_action=True),
    replay=ReplaySpec(capacity=160, batch_size=4, start=64, window=6, burn_in=2, stored_carry=True),
    exploration=EpsilonGreedySpec(start=1.0, end=0.1, steps=300),
    learn_every=8,
    n_step=2,
)
KINDS = {
    "uniform": dataclasses.replace(PLAIN, replay=SMALL),
    "several updates": dataclasses.replace(PLAIN, replay=SMALL, updates=3),
    "prioritized": dataclasses.replace(PLAIN, replay=SMALL, draw=PrioritizedSpec()),
    "n-step, stacked": dataclasses.replace(PLAIN, replay=SMALL, n_step=4, observation=STACKED, double=True),
    "windows": WINDOWS,
    "prioritized windows": dataclasses.replace(WINDOWS, draw=PrioritizedSpec()),
}


def with_rows(spec: AgentSpec, folder: Path | None, shards: int, actors: int = 2, group: int = 2) -> ClusterRunner:
    """A runner whose agent's replay rows are in shards in this process."""
    replay = sharded_replay(row_shapes(agent_for(spec, 4), shards), folder, LINK)
    kept = InShards(replay.shards, replay=replay)
    return clustered(spec, envs=4, actors=actors, group=group, shards=kept, link=LINK)


def learned(runner: ClusterRunner) -> dict[str, np.ndarray]:
    """All that the learner has but the replay, and the index of that."""
    captured = runner.capture()
    arrays = {name: array for name, array in captured.arrays.items() if name.startswith(("agent.", "tally"))}
    ring: Any = captured.rows[0]
    index = {name: getattr(ring.rows, name) for name in ("is_first", "action", "reward", "terminated")}
    return arrays | {f"ring.{name}": np.array(column) for name, column in index.items()}


def differing(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not np.array_equal(one[name], other[name])]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_learned_is_what_is_learned_without_shards_to_the_last_bit(kind: str, tmp_path: Path):
    spec, group = KINDS[kind], 1 if kind == "several updates" else 2
    here = clustered(spec, envs=4, actors=2, group=group)
    here.start()
    here.advance(320, never)
    expected = learned(here)
    for shards in (1, 3):
        there = with_rows(spec, tmp_path / str(shards), shards, group=group)
        there.start()
        there.advance(320, never)
        assert there._replay is not None
        assert there._replay.fetches == int(expected["agent.learner.updates"]) > 30
        assert there._replay.missing == 0
        assert differing(expected, learned(there)) == []
