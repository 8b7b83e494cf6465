"""Driving with a clock that is seen: arrivals and crashes in 13 and in 20 s, beside what is possible, with controls.

    python -m benchmarks.learning.crossing --cells 20s 13s --seeds 5
    python -m benchmarks.learning.crossing --cells 20s-mlp 20s-uniform 20s-one-frame 20s-absolute --continue
    python -m benchmarks.learning.crossing --list

The task is `engram/Intersection-v0` with its time left as an input, running out of time as an end, rows shuffled, and a
reward of what is asked: arriving, not crashing, being in time. Each cell is the preset `driving` but for what its name
says. The last parameters drive 500 greedy episodes on seeds used for nothing else, which end as `driving.py` tells
them: by what happened, whatever it was paid. A search that knows the traffic to come arrives in .825 of the episodes
within 13 s, .90 within 16 s and .95 within 20 s, so these bounds stand beside the results.

Runs lie under .benchmarks/crossing; `--continue` takes an interrupted one up at its last checkpoint.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning.driving import ENV, OUTCOMES, share, trained
from benchmarks.learning.workers import EVALUATION_SEED, goes_on
from benchmarks.record import WORK, Record, add_flags
from benchmarks.scores import summary
from engram import recipes
from engram.errors import EngramError

BOUNDS = {13: 0.825, 16: 0.90, 20: 0.95}  # arrivals within so many seconds, with the traffic to come known
RECIPE = recipes.find(ENV, "20s")
TASK = {name: value for name, value in (RECIPE.env_args or {}).items() if name != "max_steps"}
STEPS, ENVS = RECIPE.steps, RECIPE.envs
# 35,847 parameters, of two frames of 15 rows with 8 columns; the attention has 36,099.
MLP: dict[str, Any] = {"encoder": "vector", "encoder.widths": (103, 103), "encoder.norm": True}
GRU: dict[str, Any] = {  # 38,131 parameters; the attention has 36,099
    "observation.stack": 1, "encoder.width": 48, "working": "gru", "working.hidden_size": 32, "replay.window": 20,
    "replay.batch_size": 16,
}  # fmt: skip
REFERENCE: dict[str, Any] = {
    "encoder": "entities", "encoder.heads": 2, "observation.stack": 1, "discount": 0.95, "n_step": 1, "learn_every": 1,
    "replay.capacity": 15_000, "replay.batch_size": 64, "replay.start": 200, "target.every": 512, "target.rate": 1.0,
    "optimizer.learning_rate": 5e-4, "optimizer.final_fraction": 1.0, "exploration.end": 0.05,
    "exploration.steps": 30_000, "double": False,
}  # fmt: skip


def cell(seconds: int, task: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """What a cell asks for; `task` changes the environment, `settings` the preset's."""
    named = {name.replace("__", "."): value for name, value in settings.items()}
    return {"env_args": {"max_steps": seconds} | TASK | (task or {}), "overrides": named}


CELLS: dict[str, dict[str, Any]] = {
    "20s": cell(20),
    "13s": cell(13),
    "20s-mlp": cell(20) | {"overrides": MLP},
    "20s-mlp-sorted": cell(20, {"order": "sorted"}) | {"overrides": MLP},
    "20s-uniform": cell(20, encoder__uniform=True),
    "20s-one-frame": cell(20, observation__stack=1),
    "20s-absolute": cell(20, encoder__relative=False),
    "20s-sorted": cell(20, {"order": "sorted"}),
    "20s-gru": cell(20) | {"overrides": GRU},
    **{f"20s-late-{late:g}": cell(20, {"late": late}) for late in (0.0, 0.5, 1.0, 4.0)},
    # The published agent: gamma .95, single steps, a replay of 15,000, 4,000 episodes; rows shuffled, nothing else.
    "reference": {
        "env_args": {"order": "shuffled"},
        "overrides": REFERENCE,
        "preset": "dqn",
        "steps": 40_000,
        "envs": 1,
    },
}


def learn(name: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """One cell with one seed, trained (or trained on) in `folder` and then watched."""
    asked, total = CELLS[name], CELLS[name].get("steps", steps)
    new: dict[str, Any] = {
        "env": ENV, "preset": "driving", "seed": seed, "envs": ENVS, "steps": total, "log_every": max(1, total // 10),
        "evaluate_every": 0, **{key: value for key, value in asked.items() if key != "steps"},
    }  # fmt: skip
    return trained(folder, seed, total, {"resume": True} if goes_on(folder, new) else new)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=["20s", "13s"], help="which cells; --list shows all")
    parser.add_argument("--list", action="store_true", help="list the cells and end")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=10, help="0 was used to find the settings")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each run")
    parser.add_argument("--work", type=Path, default=WORK / "crossing", help="folder of the runs")
    add_flags(parser, "crossing")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{name}: {asked}" for name, asked in CELLS.items()))
        return 0
    if unknown := [name for name in options.cells if name not in CELLS]:
        parser.error(f"no cell is called {unknown[0]!r}; choose from {', '.join(CELLS)}")
    record = Record(options, {"steps": options.steps, "envs": ENVS, "cells": CELLS, "bounds": BOUNDS,
                              "evaluation_seeds": f"{EVALUATION_SEED} + seed"})  # fmt: skip
    try:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for name in options.cells:
                part = f"{name}: seed {seed}"
                if part not in record.parts:
                    folder = record.place(options.work / name / f"seed{seed}")
                    record.put(part, learn(name, seed, options.steps, folder))
                    print(part, {one: record.parts[part][one] for one in OUTCOMES}, file=sys.stderr, flush=True)
    except EngramError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    record.summarize(tables(record.parts))
    return 0


def tables(parts: dict[str, Any]) -> dict[str, Any]:
    """Prints what the parts came to, and returns it."""
    found: dict[str, Any] = {}
    print("| cell | seeds | possible | arrival | crash | neither | updates |\n" + "|---" * 7 + "|")
    for name, asked in CELLS.items():
        rows = [part for key, part in parts.items() if key.startswith(f"{name}: ")]
        if rows:
            found[name] = {outcome: summary([row[outcome] for row in rows]) for outcome in OUTCOMES}
            bound = BOUNDS[asked["env_args"].get("max_steps", 13)]
            cells = [name, str(len(rows)), f"{bound:.3f}"]
            cells += [share(found[name][one]["mean"], found[name][one]["mean_interval_95"]) for one in OUTCOMES]
            cells.append(f"{round(np.mean([row['updates'] for row in rows])):,}")
            print(f"| {' | '.join(cells)} |")
    return found


if __name__ == "__main__":
    sys.exit(main())
