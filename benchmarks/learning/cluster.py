"""Whether actors on a cluster learn what one process learns: MinAtar Breakout, several seeds of each.

    uv pip install minatar
    python -m benchmarks.learning.cluster --seeds 5                    one process, and two actors
    python -m benchmarks.learning.cluster --cells shards --seeds 1     replay rows in two shards too

All have the preset double-dqn and two environments. One process plays in both; two actors play in one each, and act
with parameters that are one round older. Rows in shards are the same rows, so a seed of `shards` should end as the same
seed of `actors` did: `plays_as_actors` of the summary tells whether all 100 returns are equal. Needs the extra
distributed. Each learner has one thread. Last parameters play 100 greedy episodes on seeds that nothing else uses. Runs
lie under .benchmarks/cluster; `--continue` goes on where it was.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.learning.workers import EVALUATION_SEED, ONE_THREAD, train_all
from benchmarks.record import WORK, Record, add_flags
from benchmarks.scores import summary

ENV = "benchmarks.peers.minatar_host:MinAtar/Breakout-v1"
PRESET, EPISODES = "double-dqn", 100
CELLS: dict[str, dict[str, Any]] = {
    "process": {},
    "actors": {"actors": 2, "cluster": "local"},
    "shards": {"actors": 2, "cluster": "local", "shards": 2},
}


@dataclass(frozen=True)
class Run:
    """One seed of one way to train."""

    cell: str
    seed: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.cell}: seed {self.seed}"

    @property
    def folder(self) -> Path:
        return WORK / "cluster" / f"{self.steps}" / self.cell / f"seed{self.seed}"

    def content(self) -> dict[str, Any]:
        """What the worker is told."""
        arguments = {"env": ENV, "preset": PRESET, "steps": self.steps, "seed": self.seed, "envs": 2,
                     "evaluate_every": 0, **CELLS[self.cell]}  # fmt: skip
        return {"arguments": arguments, "episodes": EPISODES, "evaluation_seed": EVALUATION_SEED + self.seed}


def told(record: Record) -> dict[str, Any]:
    """Each cell over the seeds that it has; returns of single episodes tell whether two cells ended alike."""
    cells: dict[str, list[dict[str, Any]]] = {}
    for name, part in record.parts.items():
        cells.setdefault(name.partition(":")[0], []).extend(part["runs"])
    of_actors = {one["seed"]: one["returns"] for one in cells.get("actors", ())}
    return {
        cell: summary([one["mean"] for one in runs])
        | {
            "steps_per_second": [one["steps"] / one["training_seconds"] for one in runs],
            "plays_as_actors": [one["returns"] == of_actors.get(one["seed"]) for one in runs],
        }
        for cell, runs in cells.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=["process", "actors"])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=20)
    parser.add_argument("--minutes", type=float, help="no run begins after this, and the running one saves")
    add_flags(parser, "cluster-returns")
    options = parser.parse_args()
    record = Record(options, {"steps": options.steps, "first_seed": options.first_seed, "episodes": EPISODES})
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    runs = [Run(cell, seed, options.steps) for cell in options.cells for seed in seeds]
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    try:
        unfinished = train_all([run for run in runs if run.name not in record.parts], 1, record, deadline, ONE_THREAD)
    finally:
        record.summarize(told(record))
    for cell, found in record.content["summary"].items():
        interval = found["mean_interval_95"] and [round(bound, 2) for bound in found["mean_interval_95"]]
        speed = sum(found["steps_per_second"]) / len(found["steps_per_second"])
        print(f"{cell:>8}: mean {found['mean']:6.2f} {interval}, {speed:,.0f} steps/s")
    if unfinished:
        print(f"not finished: {'; '.join(unfinished)}; --continue goes on there", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
