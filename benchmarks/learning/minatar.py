"""MinAtar games by a value learner, by better ones, and by both with an external memory.

    python -m benchmarks.learning.minatar                                     both games, five presets, 100,000 steps
    python -m benchmarks.learning.minatar --presets double-dqn --steps 1000000 --out RESULT
    python -m benchmarks.learning.minatar --presets rainbow --parts --games minatar-breakout --out RESULT

Each seed is a process with one thread. Its last parameters play 100 greedy episodes on seeds that nothing else uses.
Settings are the preset's. `--parts` takes from Rainbow one part at a time: double, dueling, noise (epsilon-greedy in
its place), distribution, priority, three steps. Runs lie under .benchmarks/minatar; `--continue` goes on where it was.
"""

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.learning.workers import EVALUATION_SEED, ONE_THREAD, train_all
from benchmarks.record import WORK, Record, add_flags
from benchmarks.scores import summary

GAMES = ("minatar-breakout", "minatar-asterix")
PRESETS = ("double-dqn", "rainbow", "iqn", "attention-dqn", "rainbow-memory")
EPISODES = 100
NO_NOISE = {"head.noise": 0.0, "exploration.start": 1.0, "exploration.end": 0.05, "exploration.steps": 10_000}
PARTS: dict[str, dict[str, Any]] = {
    "double": {"double": False},
    "dueling": {"head": "q"},
    "noise": NO_NOISE,
    "distribution": {"head.returns": "scalar", "loss": "huber", "draw.by": "error"},
    "priority": {"draw": "uniform"},
    "three steps": {"n_step": 1},
}


@dataclass(frozen=True)
class Run:
    """One seed of one agent in one game."""

    game: str
    preset: str
    seed: int
    options: argparse.Namespace
    lacks: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def cell(self) -> str:
        """What is averaged over seeds."""
        return f"{self.game}, {self.preset}" + (f" less {self.lacks}" if self.lacks else "")

    @property
    def name(self) -> str:
        return f"{self.cell}: seed {self.seed}"

    @property
    def folder(self) -> Path:
        words = f"{self.options.steps}/{self.cell}/seed{self.seed}"
        return WORK / "minatar" / words.replace(", ", "-").replace(" ", "-")

    def content(self) -> dict[str, Any]:
        """What the worker is told."""
        arguments = {"env": self.game, "preset": self.preset, "steps": self.options.steps, "seed": self.seed,
                     "overrides": self.settings, "evaluate_every": 0}  # fmt: skip
        return {"arguments": arguments, "episodes": EPISODES, "evaluation_seed": EVALUATION_SEED + self.seed}


def runs_of(options: argparse.Namespace) -> list[Run]:
    """Every run, the seeds of a cell one after another."""
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    kinds: list[tuple[str, str, dict[str, Any]]] = [(preset, "", {}) for preset in options.presets]
    if options.parts:
        kinds += [("rainbow", part, settings) for part, settings in PARTS.items()]
    return [
        Run(game, preset, seed, options, lacks, settings)
        for preset, lacks, settings in kinds
        for game in options.games
        for seed in seeds
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="*", default=GAMES)
    parser.add_argument("--presets", nargs="*", default=PRESETS)
    parser.add_argument("--parts", action="store_true", help="also Rainbow without each of its parts")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--minutes", type=float, help="no run begins after this, and the running ones save")
    add_flags(parser, "minatar")
    options = parser.parse_args()
    record = Record(options, {"steps": options.steps, "first_seed": options.first_seed, "episodes": EPISODES})
    runs = runs_of(options)
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    missing = [run for run in runs if run.name not in record.parts]
    try:
        unfinished = train_all(missing, options.jobs, record, deadline, ONE_THREAD)
    finally:
        record.summarize(told(record))
    for cell, found in record.content["summary"].items():
        interval = found["iqm_interval_95"] and [round(bound, 2) for bound in found["iqm_interval_95"]]
        print(f"{cell:>44}: IQM {found['iqm']:6.2f} {interval}, {found['minutes']:.1f} minutes a seed")
    if unfinished:
        print(f"not finished: {'; '.join(unfinished)}; --continue goes on there", file=sys.stderr)
    return 0


def told(record: Record) -> dict[str, Any]:
    """Each cell over the seeds that it has."""
    cells: dict[str, list[dict[str, Any]]] = {}
    for name, part in record.parts.items():
        cells.setdefault(name.rpartition(":")[0], []).extend(part["runs"])
    return {
        cell: summary([one["mean"] for one in runs])
        | {"minutes": sum(one["training_seconds"] for one in runs) / len(runs) / 60}
        for cell, runs in cells.items()
    }


if __name__ == "__main__":
    sys.exit(main())
