"""Replay rows in shards: what is learned is what is learned without them, to the last bit."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
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
from engram.runners.common import Captured
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


def copied(rows: Any) -> Any:
    """Rows whose buffers nobody gives away."""
    return jax.tree.map(jnp.copy, rows)


def captured(runner: ClusterRunner) -> Captured:
    found = runner.capture()
    return found._replace(rows=copied(found.rows))


def advanced(runner: ClusterRunner, steps: int) -> ClusterRunner:
    if not runner.steps:
        runner.start()
    runner.advance(steps, never)
    return runner


def compare(kind: str, folder: Path) -> list[str]:
    """What differs between runs without shards and with three; the number of requests is checked."""
    spec, group = KINDS[kind], 1 if kind == "several updates" else 2
    expected = learned(advanced(clustered(spec, envs=4, actors=2, group=group), 320))
    there = advanced(with_rows(spec, folder, 3, group=group), 320)
    assert there._replay is not None
    assert there._replay.fetches == int(expected["agent.learner.updates"]) > 30  # one for each update
    assert there._replay.missing == 0
    return differing(expected, learned(there))


@pytest.mark.slow
def test_what_is_learned_is_what_is_learned_without_shards_to_the_last_bit(tmp_path: Path):
    """As XLA compiles for users: other programs for tests are compiled quickly, and may round otherwise."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    script = "import sys\nfrom pathlib import Path\nfrom runners import test_replay_shards as one\n"
    script += "for kind in one.KINDS: print(kind, one.compare(kind, Path(sys.argv[1]) / kind))"
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    words = [sys.executable, "-c", script, str(tmp_path)]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert ended.stdout.splitlines() == [f"{kind} []" for kind in KINDS], ended.stderr[-2000:]


@pytest.mark.parametrize("kind", ["several updates", "prioritized windows"])
def test_what_is_learned_is_what_is_learned_without_shards_but_for_rounding(kind: str, tmp_path: Path):
    """With three shards and one the programs are the same: then to the last bit."""
    spec = KINDS[kind]
    here = learned(advanced(clustered(spec, envs=4, actors=2), 256))
    one, three = (learned(advanced(with_rows(spec, tmp_path / str(count), count), 256)) for count in (1, 3))
    assert differing(one, three) == []
    assert here.keys() == one.keys()
    for name, array in here.items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(array, one[name], rtol=1e-4, atol=1e-6)
        else:
            assert np.array_equal(array, one[name]), name


def test_a_resumed_run_is_as_if_it_had_not_stopped_and_with_other_shards_learns_the_same(tmp_path: Path):
    spec = KINDS["prioritized windows"]
    whole = advanced(with_rows(spec, tmp_path / "whole", 2), 320)
    end, expected = digest(whole), learned(whole)
    saved = captured(advanced(with_rows(spec, tmp_path / "run", 2), 192))
    again = with_rows(spec, tmp_path / "run", 2)
    again.restore(saved.arrays, saved.meta, lambda _: copied(saved.rows))
    assert digest(advanced(again, 320)) == end
    for shards in (1, 3):
        other = with_rows(spec, tmp_path / "run", shards)
        other.restore(saved.arrays, saved.meta, lambda _: copied(saved.rows))
        assert differing(learned(advanced(other, 320)), expected) == []
        assert other.repeatable


@pytest.mark.parametrize("kind", ["uniform", "prioritized"])
def test_rows_that_were_lost_with_a_shard_are_counted_and_none_of_them_is_learned_from(kind: str, tmp_path: Path):
    """Whatever a request gives in the place of a lost row, the run goes on as it would with anything else there."""
    found = []
    for garbage in (0.0, 100.0):
        runner = advanced(with_rows(KINDS[kind], tmp_path / str(garbage), 2), 96)
        replay: Any = runner._replay
        runner.capture()
        advanced(runner, 144)
        written, fetch = replay._since_epoch[1], replay.fetch

        def spoiled(lane: Any, row: Any, fetch: Any = fetch, garbage: float = garbage) -> Any:
            there, columns = fetch(lane, row)
            columns[0][~there] = garbage
            return there, columns

        replay.fetch = spoiled
        replay.shards.place.kept[1] = None  # it is killed
        advanced(runner, 240)
        lost = [one for one in replay.shards.lost if one.shard == 1]
        assert len(lost) == 1
        # What was written since the epoch; and of the round in which it was found to be gone.
        assert written <= lost[0].rows <= written + 2 * runner.learner.size * 4
        assert runner.report()["replay_rows_lost"] == lost[0].rows
        assert replay.missing > 8
        found.append(learned(runner))
        assert not runner.repeatable
    assert differing(*found) == []


def test_a_run_goes_on_with_new_rows_after_a_loss_and_saves_a_state_to_resume_from(tmp_path: Path):
    runner = advanced(with_rows(KINDS["uniform"], tmp_path, 2), 96)
    runner._replay.shards.place.kept[0] = None  # type: ignore[union-attr]  # before any epoch: it comes back empty
    advanced(runner, 128)
    saved = captured(runner)
    assert saved.meta["repeatable"] is False
    expected = learned(advanced(runner, 256))
    again = with_rows(KINDS["uniform"], tmp_path, 2)
    again.restore(saved.arrays, saved.meta, lambda _: saved.rows)
    assert differing(learned(advanced(again, 256)), expected) == []
