"""How large a replay should be: returns of `auto` by the rows that it keeps.

    python -m benchmarks.learning.replay_size                 four sizes, two tasks, 5 seeds
    python -m benchmarks.learning.replay_size --minutes 30 --continue

Seeds learn side by side on the device. Their last parameters play 100 greedy episodes on seeds that nothing else uses.
All but the size is the preset's. A run has 50,000 steps, so 50,000 rows keep (nearly) all of it.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.learning.workers import EVALUATION_SEED, train_all
from benchmarks.record import WORK, Record, add_flags
from benchmarks.scores import summary

TASKS = ("engram/CartPole-v1", "engram/Acrobot-v1")
SIZES = (1_200, 5_000, 15_000, 50_000)
EPISODES = 100


@dataclass(frozen=True)
class Run:
    """All seeds of one size on one task."""

    env: str
    size: int
    options: argparse.Namespace

    @property
    def name(self) -> str:
        return f"{self.env}, {self.size:,} rows"

    @property
    def folder(self) -> Path:
        return WORK / "replay-size" / self.env.replace("/", "-") / str(self.size)

    def content(self) -> dict[str, Any]:
        """What the worker is told."""
        chosen = self.options
        arguments = {"env": self.env, "preset": "auto", "steps": chosen.steps, "seed": chosen.first_seed,
                     "seeds": chosen.seeds, "overrides": {"replay.capacity": self.size},
                     "evaluate_every": 0}  # fmt: skip
        return {"arguments": arguments, "episodes": EPISODES, "evaluation_seed": EVALUATION_SEED + chosen.first_seed}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=20)
    parser.add_argument("--minutes", type=float, help="no run begins after this, and the running one saves")
    add_flags(parser, "replay-size")
    options = parser.parse_args()
    record = Record(options, {"steps": options.steps, "first_seed": options.first_seed, "seeds": options.seeds})
    runs = [Run(env, size, options) for env in TASKS for size in SIZES]
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    try:
        train_all([run for run in runs if run.name not in record.parts], 1, record, deadline)
    finally:
        record.summarize({name: summary([one["mean"] for one in part["runs"]]) for name, part in record.parts.items()})
    for name, found in record.content["summary"].items():
        interval = [round(bound, 1) for bound in found["mean_interval_95"] or ()]
        print(f"{name:>36}: {found['mean']:7.1f} {interval}, least {found['least']:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
