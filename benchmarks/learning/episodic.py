"""Sample efficiency of external memories: learning curves of agents with and without one, and of their controls.

    python -m benchmarks.learning.episodic --tasks grid --seeds 5 --jobs 2
    python -m benchmarks.learning.episodic --tasks minatar-breakout --agents dqn,attention --minutes 60 --continue
    python -m benchmarks.learning.episodic --tasks minatar-breakout --agents nec,emdqn --steps 100000 --continue

An agent's score at a point of the run is the mean return of the newest 100 training episodes there, as it explored; at
the end its last parameters and its memory play 100 greedy episodes on seeds that nothing else uses. All agents share
encoder, replay, optimizer, exploration and number of updates; they differ in the memory alone:

`dqn` has none (capacity 0); `attention` reads one in Q and in its target (`bootstrap=memory`); `nec` answers by the
memory alone and learns through it; `emdqn` is drawn to the best return remembered. Controls of `attention`: `shuffled`
(entries have the values of others), `frozen` (keys are a random projection of the observation), `uniform` (all
neighbours weigh the same). Exploration is over at the same step however long a run is, so a short run (`--steps`) is
the beginning of a long one. A run is one process with one thread; runs lie under .benchmarks/episodic.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.learning.workers import EVALUATION_SEED, ONE_THREAD, train_all
from benchmarks.record import WORK, Record, add_flags
from benchmarks.scores import difference, summary

EPISODES = 100
MEMORY = {"external": "episodic", "external.capacity": 10_000, "external.neighbours": 10, "recall.n_step": 20}
ATTENTION = MEMORY | {"bootstrap": "memory"}
AGENTS: dict[str, dict[str, Any]] = {
    "dqn": {},
    "attention": ATTENTION,
    "nec": ATTENTION | {"recall.weigh_by_error": False, "recall.confidence": "known",
                        "recall.train_through_memory": True},
    "emdqn": MEMORY | {"external.update": "max", "external.neighbours": 1, "recall.max_memory_weight": 0.0,
                       "recall.weigh_by_error": False,
                       "recall.keys": "frozen", "recall.imitation_weight": 0.1},
    "shuffled": ATTENTION | {"external.shuffle": True},
    "frozen": ATTENTION | {"recall.keys": "frozen"},
    "uniform": ATTENTION | {"external.uniform": True},
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A task, its arguments, how long it is learned, and where the curve is read."""

    env: str
    env_args: dict[str, Any]
    steps: int
    points: tuple[int, ...]
    exploring: int
    envs: int = 4


MINATAR = (20_000, 50_000, 100_000)
GRID = (5_000, 10_000, 20_000, 30_000)
TASKS = {
    "grid": Task("engram/SparseGrid-v0", {"size": 9, "start": "random"}, 30_000, GRID, 3_000),
    "minatar-breakout": Task("minatar-breakout", {}, 500_000, (*MINATAR, 200_000, 500_000), 10_000),
    "minatar-asterix": Task("minatar-asterix", {}, 100_000, MINATAR, 10_000),
    "minatar-freeway": Task("minatar-freeway", {}, 100_000, MINATAR, 10_000),
}


@dataclass(frozen=True)
class Run:
    """One task, one agent, one seed."""

    task: str
    agent: str
    seed: int
    steps: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.task}, {self.agent}: seed {self.seed}"

    def content(self) -> dict[str, Any]:
        """What the worker is told."""
        task = TASKS[self.task]
        arguments = {"env": task.env, "env_args": task.env_args, "preset": "double-dqn", "steps": self.steps,
                     "seed": self.seed, "envs": task.envs,
                     "overrides": AGENTS[self.agent] | {"exploration.steps": task.exploring},
                     "save_every": max(2_000, self.steps // 10), "log_every": task.points[0] // 10}  # fmt: skip
        return {"arguments": arguments, "episodes": EPISODES, "evaluation_seed": EVALUATION_SEED + self.seed}


def at(result: dict[str, Any], step: int) -> float | None:
    """The mean return of the newest episodes at the last log line up to this step; 0 before an episode ended.

    None if the run was over before.
    """
    if step > result["steps"]:
        return None
    pairs = zip(result["curve"]["steps"], result["curve"]["returns"], strict=True)
    known = [value for when, value in pairs if when <= step and value is not None]
    return known[-1] if known else 0.0


def against_the_better(known: dict[str, dict[str, list[float]]], points: Sequence[int]) -> dict[str, list[float]]:
    """Bounds of attention's difference to the better of DQN and NEC at each point, as shares of DQN's last mean.

    Where one of the two was not run so far, the other is the better. Empty where an agent is missing.
    """
    if not {"attention", "dqn", "nec"} <= known.keys():
        return {}
    means = {
        step: {name: fmean(known[name][step]) for name in ("dqn", "nec") if known[name][step]}
        for step in map(str, points)
    }
    last = [of["dqn"] for of in means.values() if "dqn" in of][-1]
    bounds: dict[str, list[float]] = {}
    for step, of in means.items():
        if not of:
            continue
        better = max(of, key=lambda name: of[name])
        if bound := difference(known["attention"][step], known[better][step]):
            bounds[step] = [round(one / last, 3) for one in bound]
    return bounds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="grid", help=f"separated by commas, of {', '.join(TASKS)}")
    parser.add_argument("--agents", default=",".join(AGENTS), help="separated by commas")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=10, help="0 and 1 were used to find the settings")
    parser.add_argument("--steps", type=int, help="of each run; the task's own if left out")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--minutes", type=float, help="after so long nothing begins, and what runs is told to save")
    parser.add_argument("--work", type=Path, default=WORK / "episodic", help="folder of the runs")
    add_flags(parser, "episodic")
    options = parser.parse_args()
    for given, known in ((options.tasks, TASKS), (options.agents, AGENTS)):
        if unknown := set(given.split(",")) - set(known):
            parser.error(f"{', '.join(sorted(unknown))} was given; expected some of {', '.join(known)}")
    record = Record(options, {"episodes": EPISODES, "evaluation_seeds": f"{EVALUATION_SEED} + seed"})
    runs = [
        Run(task, agent, seed, options.steps or TASKS[task].steps, options.work / task / agent / f"seed{seed}")
        for seed in range(options.first_seed, options.first_seed + options.seeds)
        for task in options.tasks.split(",")
        for agent in options.agents.split(",")
    ]
    missing = [run for run in runs if run.name not in record.parts]
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    unfinished = train_all(missing, options.jobs, record, deadline, ONE_THREAD if options.jobs > 1 else None)
    found: dict[str, Any] = {}
    for name, task in TASKS.items():
        points = [*task.points, "greedy"]
        lines = []
        seen: dict[str, dict[str, list[float]]] = {}  # by agent and point, one score for each seed
        for agent in AGENTS:
            parts = [part for key, part in record.parts.items() if key.partition(":")[0] == f"{name}, {agent}"]
            results = [result for part in parts for result in part["runs"]]
            if not results:
                continue
            reached = {step: [at(result, step) for result in results] for step in task.points}
            seen[agent] = {str(step): [one for one in scores if one is not None] for step, scores in reached.items()}
            seen[agent]["greedy"] = [result["mean"] for result in results]
            scores = {point: summary(seeds) if seeds else None for point, seeds in seen[agent].items()}
            found[f"{name}, {agent}"] = scores
            lines.append(f"| {agent} | {len(results)} | {' | '.join(told(scores[str(point)]) for point in points)} |")
        if lines:
            print(f"\n{name}\n\n| agent | seeds | {' | '.join(map(str, points))} |\n{'|---' * (len(points) + 2)}|")
            print("\n".join(lines))
        if bounds := against_the_better(seen, task.points):
            found[f"{name}, attention against the better"] = bounds
            print(f"attention minus the better of DQN and NEC, in shares of DQN's last mean: {bounds}")
    record.summarize(found)
    if unfinished:
        print(f"not finished: {', '.join(unfinished)}", file=sys.stderr)
    return 0


def told(score: dict[str, Any] | None) -> str:
    """A mean and its interval over seeds."""
    if score is None:
        return "-"
    bounds = score["mean_interval_95"]
    return f"{score['mean']:.2f}" + (f" [{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds else "")


if __name__ == "__main__":
    sys.exit(main())
