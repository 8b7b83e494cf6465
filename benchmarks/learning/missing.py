"""What missing and unscaled numbers cost, and what a mask, a working memory and normalising give back.

    python -m benchmarks.learning.missing                          all cells, 5 seeds
    python -m benchmarks.learning.missing --minutes 60 --continue  as much as fits; goes on where it was

*Missing*: `engram/FlickeringCartPole-v0`, where each number is missing with probability p. Three ways: `nothing` shows
zeros and does not say which are missing; `mask` flags them (`observation.missing=mask`); `mask and memory` also has a
GRU, which sees the actions too.

*Unscaled*: `engram/UnscaledCartPole-v0`, with numbers from 1e-5 to 1e6, with and without `observation.normalize`,
beside CartPole itself; hidden layers of `auto` are normalised, those of `dqn` are not. Then the same where each step
pays 1,000, with and without `reward.normalize` (returns are told as if it paid 1).

The seeds of a cell learn side by side in one process; its last parameters play 100 greedy episodes each. The best
return is 500. Settings are the preset's, but for those of the memory, which were set once for their cost, after a part
of a run on seeds 0 and 1; `encoder.norm` and the step size after three runs on those. The scores are of seeds 10 on.
"""

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.learning.workers import EVALUATION_SEED, train_all
from benchmarks.record import WORK, Record, add_flags
from benchmarks.scores import summary

FLICKERING, UNSCALED, PLAIN = (f"engram/{name}" for name in (
    "FlickeringCartPole-v0", "UnscaledCartPole-v0", "CartPole-v1",
))  # fmt: skip
MASK, NORMALIZED, PAID = {"observation.missing": "mask"}, {"observation.normalize": True}, {"reward": 1_000.0}
# What is missing now was seen a few steps ago, so that a short window and a small cell do.
MEMORY = {
    "working": "gru", "working.hidden_size": 64, "observation.previous_action": True, "replay.window": 10,
    "replay.batch_size": 32, "learn_every": 8, "optimizer.learning_rate": 1e-3, "target.rate": 0.02, "n_step": 3,
    "encoder.norm": True,  # as in the other ways; without, Q ran away in three seeds of five
}  # fmt: skip
EPISODES = 100


@dataclass(frozen=True)
class Cell:
    """One way to learn one environment."""

    name: str
    env: str
    preset: str = "auto"
    env_args: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def flickering(p: float) -> list[Cell]:
    """The three ways at one probability."""
    return [
        Cell(f"mask, p = {p}", FLICKERING, env_args={"p": p}, settings=MASK),
        Cell(f"nothing, p = {p}", FLICKERING, env_args={"p": p, "shown": "zero"}),
        Cell(f"mask and memory, p = {p}", FLICKERING, "lru-dqn", {"p": p}, MASK | MEMORY),
    ]


CELLS = [
    Cell("as it is", PLAIN),
    Cell("unscaled", UNSCALED),
    Cell("unscaled, normalised", UNSCALED, settings=NORMALIZED),
    Cell("dqn, unscaled", UNSCALED, "dqn"),
    Cell("dqn, unscaled, normalised", UNSCALED, "dqn", settings=NORMALIZED),
    Cell("paid 1,000, normalised", UNSCALED, env_args=PAID, settings=NORMALIZED),
    Cell("paid 1,000, both normalised", UNSCALED, env_args=PAID, settings=NORMALIZED | {"reward.normalize": True}),
    *(cell for cells in zip(flickering(0.2), flickering(0.5), strict=True) for cell in cells),
]


@dataclass(frozen=True)
class Run:
    """All seeds of one cell."""

    cell: Cell
    options: argparse.Namespace

    @property
    def name(self) -> str:
        return self.cell.name

    @property
    def folder(self) -> Path:
        return WORK / "missing" / f"{self.options.steps}" / self.cell.name.replace(" ", "-").replace(",", "")

    def content(self) -> dict[str, Any]:
        """What the worker is told."""
        cell, first = self.cell, self.options.first_seed
        arguments = {"env": cell.env, "preset": cell.preset, "env_args": cell.env_args, "overrides": cell.settings}
        arguments |= {"steps": self.options.steps, "seed": first, "seeds": self.options.seeds}
        return {"arguments": arguments, "episodes": EPISODES, "evaluation_seed": EVALUATION_SEED + first,
                "may_diverge": True}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=10)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--minutes", type=float, help="no cell begins after this, and the running one saves")
    parser.add_argument("--cells", nargs="*", help="names of cells; all if left out")
    add_flags(parser, "missing")
    options = parser.parse_args()
    asked = {"steps": options.steps, "seeds": options.seeds, "first_seed": options.first_seed, "episodes": EPISODES}
    record = Record(options, asked)
    chosen = [cell for cell in CELLS if options.cells is None or cell.name in options.cells]
    runs = [Run(cell, options) for cell in chosen if cell.name not in record.parts]
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    try:
        unfinished = train_all(runs, 1, record, deadline)
    finally:
        paid = {cell.name: cell.env_args.get("reward", 1.0) for cell in CELLS}
        record.summarize({name: row(part["runs"], paid[name]) for name, part in record.parts.items()})
    for name, cell in record.content["summary"].items():
        if "diverged" in cell:
            print(f"{name:>28}: {cell['diverged']}")
            continue
        print(f"{name:>28}: {cell['mean']:6.1f} in {cell['seeds']} seeds, {cell['mean_interval_95']}")
    if unfinished:
        print(f"not finished: {'; '.join(unfinished)}; --continue goes on there", file=sys.stderr)
    return 0


def row(results: list[dict[str, Any]], paid: float) -> dict[str, Any]:
    """What the seeds of one cell came to, where each step paid so much."""
    if "diverged" in results[0]:  # seeds side by side end together
        return results[0]
    rows = summary([one["mean"] / paid for one in results])
    emptied = [sum(one["returns_forgetting"]) / EPISODES for one in results if "returns_forgetting" in one]
    return rows | {"seconds": results[0]["training_seconds"]} | ({"emptied": summary(emptied)} if emptied else {})


if __name__ == "__main__":
    sys.exit(main())
