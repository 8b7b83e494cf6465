"""What was learned in a small maze, played in larger ones: MiniGrid's memory task, from several seeds.

    python -m benchmarks.learning.generalisation --seeds 5 --jobs 2
    python -m benchmarks.learning.generalisation --seeds 5 --minutes 60 --continue   as much as fits

An object is shown in a room; a corridor leads from it to a junction with two objects. The way to the one that is alike
is worth 1 - 0.9 * steps / most steps, the other way 0. The agent learns in MemoryS7 alone. At the end of a run its last
parameters play 100 greedy episodes in each of the mazes below, on seeds that nothing else uses, and in MemoryS7 again
with the memory emptied before every step. *Success* is the share of episodes with a return above 0; an agent that
always walks to the junction and guesses there has 0.5.

A run is one process with one thread. When the time is over, running ones are told to save; `--continue` takes each up
exactly where it was (runs lie under .benchmarks/generalisation).
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.learning.memory_tasks import EPISODES, published
from benchmarks.learning.memory_tasks import Run as LearnedRun
from benchmarks.learning.workers import EVALUATION_SEED, train_all
from benchmarks.record import WORK, Record, add_flags
from benchmarks.scores import summary

HOME = "MiniGrid-MemoryS7-v0"
ELSEWHERE = ("MiniGrid-MemoryS13-v0", "MiniGrid-MemoryS17Random-v0")
EMPTIED = "emptied"  # the name of the control among the mazes

# The recipe of the package. Found on seed 0, which had learned the task after about 100,000 steps. A window holds an
# episode of an agent that knows its way (about 7 steps), and the end of a search; a hidden layer after the memory
# compares the two objects.
CELLS = {"gru": published("gru", HOME, "gru")}


class Run(LearnedRun):
    """One agent and one seed, also played in the larger mazes."""

    def content(self) -> dict[str, Any]:
        """What the worker is told."""
        return super().content() | {"elsewhere": ELSEWHERE}


def row(results: list[dict[str, Any]]) -> dict[str, Any]:
    """What the seeds of one agent came to: in each maze its success and the lengths of its episodes, over seeds."""
    played = [
        {HOME: one, **one["elsewhere"]}
        | {EMPTIED: {"returns": one["returns_forgetting"], "lengths": one["lengths_forgetting"]}}
        for one in results
    ]
    mazes = {
        maze: {
            "success": summary([sum(value > 0 for value in one[maze]["returns"]) / EPISODES for one in played]),
            "length": summary([sum(one[maze]["lengths"]) / EPISODES for one in played]),
        }
        for maze in (HOME, *ELSEWHERE, EMPTIED)
    }
    return {"steps": results[0]["steps"], "mazes": mazes}


def told(name: str, found: dict[str, Any]) -> list[str]:
    """Lines of a Markdown table, one for each maze."""
    lines = []
    for maze, scores in found["mazes"].items():
        success, bounds = scores["success"], scores["success"]["mean_interval_95"]
        spread = f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else ""
        where = f"{HOME}, memory emptied" if maze == EMPTIED else maze
        lines.append(
            f"| {name} | {found['steps']:,} | {success['seeds']} | {where} | {success['mean']:.3f}{spread} | "
            f"{success['least']:.2f} | {scores['length']['mean']:.1f} |"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=",".join(CELLS), help="names separated by commas")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=10, help="0 was used to find the settings")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--minutes", type=float, help="after so long nothing begins, and what runs is told to save")
    parser.add_argument("--work", type=Path, default=WORK / "generalisation", help="folder of the runs")
    add_flags(parser, "generalisation")
    options = parser.parse_args()
    chosen = [CELLS[name] for name in options.cells.split(",")]
    record = Record(options, {"episodes": EPISODES, "evaluation_seeds": f"{EVALUATION_SEED} + seed"})
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    runs = [Run(cell, seed, options.work / cell.name / f"seed{seed}") for seed in seeds for cell in chosen]
    missing = [run for run in runs if run.name not in record.parts]
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    unfinished = train_all(missing, options.jobs, record, deadline, one_thread)
    rows: dict[str, Any] = {}
    for name in CELLS:
        parts = [part for key, part in record.parts.items() if key.partition(":")[0] == name]
        if parts:
            rows[name] = row([result for part in parts for result in part["runs"]])
    record.summarize(rows)
    print("| agent | steps | seeds | maze | success | least | mean length |\n" + "|---" * 7 + "|")
    print("\n".join(line for name, found in rows.items() for line in told(name, found)))
    if unfinished:
        print(f"not finished: {', '.join(unfinished)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
