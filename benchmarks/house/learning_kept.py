"""Both checkouts learn the same: short runs of eight presets end in the same parameters, bit for bit.

    python -m benchmarks.house.learning_kept --old OLD                   every cell, one seed: about 20 minutes
    python -m benchmarks.house.learning_kept --old OLD --cells 'dqn*'    some of them; --list shows all
    python -m benchmarks.house.learning_kept --old OLD --seeds 5         five seeds where the first one differs

A cell is one preset on one environment. Each checkout trains it in a process of its own, one at a time, with the same
seed, flags of XLA and settings. Compared are the SHA-256 over the sorted hashes (type, shape, bytes) of the
network's arrays, so that renamed or reordered fields do not matter, and the logged loss, Q and return. The external
memory is told apart: how many of the old one's arrays the new one also has. An array that was removed on purpose is
then missing, which does not make a cell different. The exit code is 1 if parameters or metrics differ.

Where they differ, further seeds (`--seeds`) show whether returns do: the last mean return of every seed, side by side.
"""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from benchmarks.house.pairs import Checkout, add_checkouts, checkouts, chosen, record_of, say
from benchmarks.record import Record

# Arguments and settings that the new checkout calls something else. Keys are the names of the old one.
RENAMED: dict[str, str] = {}
LINES = 20  # of metrics in a run


@dataclass(frozen=True)
class Cell:
    """A short run in which hundreds of updates follow each other; replay.start comes from the preset and `steps`."""

    env: str
    preset: str
    envs: int = 1
    steps: int = 3_000
    env_args: dict[str, Any] = field(default_factory=dict)

    def train(self, side: Checkout, seed: int) -> dict[str, Any]:
        """The run in one of the checkouts."""
        arguments: dict[str, Any] = {"preset": self.preset, "seed": seed, "envs": self.envs,
                                     "log_every": self.steps // LINES, "env_args": self.env_args}  # fmt: skip
        if side.name == "new":
            arguments = {RENAMED.get(name, name): value for name, value in arguments.items()}
        return side.call("train", env=self.env, arguments=arguments, steps=self.steps)


def cells() -> dict[str, Cell]:
    """Every cell by its name: preset, environment, environments side by side."""
    found = []
    for preset in ("dqn", "auto", "attention-dqn", "nec", "emdqn"):
        found += [Cell("engram/CartPole-v1", preset), Cell("CartPole-v1", preset), Cell("CartPole-v1", preset, 8)]
    for preset in ("r2d2", "dtqn", "lru-dqn"):
        found += [Cell("engram/RepeatPrevious-v0", preset, 8),
                  Cell("engram/PassiveTMaze-v0", preset, 8, env_args={"length": 10}),
                  Cell("CartPole-v1", preset, 8)]  # fmt: skip
    return {f"{cell.preset} {cell.env} x{cell.envs}": cell for cell in found}


CELLS = cells()


def run(record: Record, name: str, side: Checkout, seed: int) -> dict[str, Any]:
    """A run of one side, from the record or made now."""
    part = f"{name}, seed {seed}, {side.name}"
    if part not in record.parts:
        say(part)
        record.put(part, CELLS[name].train(side, seed))
    return record.parts[part]


def compare(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What is equal in two runs with the same seed."""
    kept = Counter(old["recall"]) & Counter(new["recall"])
    return {"parameters": old["parameters"] == new["parameters"], "metrics": old["curve"] == new["curve"],
            "recall": [kept.total(), len(old["recall"])], "updates": old["curve"][-1]["updates"]}  # fmt: skip


def last_return(part: dict[str, Any]) -> float | None:
    """The newest mean return that was logged."""
    return part["curve"][-1]["return_mean"]


def measure(record: Record, name: str, sides: list[Checkout], seeds: int) -> dict[str, Any]:
    """The comparison of a cell; with the returns of all seeds, where the first seed differs."""
    old, new = (run(record, name, side, 0) for side in sides)
    found = compare(old, new)
    if not (found["parameters"] and found["metrics"]):
        found["returns"] = {side.name: [last_return(run(record, name, side, seed)) for seed in range(seeds)]
                            for side in sides}  # fmt: skip
    return found


def told(name: str, found: dict[str, Any]) -> str:
    """A row of the table."""
    words = ["equal" if found[what] else "DIFFERENT" for what in ("parameters", "metrics")]
    kept, of = found["recall"]
    returns = ["-" if one is None else f"{one:.4g}" for side in found.get("returns", {}).values() for one in side]
    half = len(returns) // 2
    beside = f"{' '.join(returns[:half])} / {' '.join(returns[half:])}" if returns else ""
    return f"| {name} | {found['updates']} | {' | '.join(words)} | {f'{kept} of {of}' if of else '-'} | {beside} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="say what the cells are, and do nothing")
    parser.add_argument("--cells", default="*", help="names separated by commas; * stands for anything")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of a cell whose first seed differs")
    add_checkouts(parser, "learning-kept")
    options = parser.parse_args()
    names = chosen(CELLS, options.cells)
    if options.list:
        print("\n".join(names))
        return 0
    sides = checkouts(options)
    record = record_of(options, sides, {"renamed": RENAMED})
    print("| preset, environment | updates | parameters | metrics | arrays of the memory kept | returns, old / new |\n"
          + "|---" * 6 + "|", flush=True)  # fmt: skip
    for name in names:
        found = measure(record, name, sides, options.seeds)
        record.summarize(record.content["summary"] | {name: found})
        print(told(name, found), flush=True)
    summary = record.content["summary"].values()
    same = [found["parameters"] and found["metrics"] for found in summary]
    print(f"\n{sum(same)} of {len(same)} cells are equal")
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
