"""Tasks that need a memory: T-mazes, bsuite's memory chains, POPGym, each learned from several seeds.

    python -m benchmarks.learning.memory_tasks --list   the cells: what is learned, by which agent, how long
    python -m benchmarks.learning.memory_tasks --cells passive-100 --seeds 5 --jobs 2
    python -m benchmarks.learning.memory_tasks --minutes 60 --continue   as many unfinished cells as fit

What has a published number is a recipe of the package (`engram list recipes`), and is read from there.

A run is one process with one thread. When the time is over, running ones are told to save; `--continue` takes each up
exactly where it was (runs lie under .benchmarks/memory). At its end a run's last parameters play 100 greedy episodes on
seeds that nothing else uses, and play them again with the memory emptied before every step.

Two scores. *Success*: the share of episodes whose return is at least the cell's `success`. *MMER*, as POPGym publishes
it: the greatest mean return of 100 successive training episodes, asked for at 100 points of the run.
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
from engram import recipes

EPISODES = 100
SOLVED = 1.0 - 1e-3  # the return of a T-maze that is solved
PREVIOUS = {"observation.previous_action": True, "observation.previous_reward": True}


@dataclass(frozen=True)
class Cell:
    """One task, one agent. `asked`: what the score should reach, and `published`: the best that was known."""

    name: str
    env: str
    steps: int
    preset: str
    env_args: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    envs: int = 8
    success: float | None = None
    asked: float | None = None
    published: float | None = None

    def arguments(self, seed: int) -> dict[str, Any]:
        """Arguments of `Trainer` for a new run."""
        return {"env": self.env, "preset": self.preset, "steps": self.steps, "seed": seed, "envs": self.envs,
                "env_args": self.env_args, "overrides": self.settings, "save_every": max(2_000, self.steps // 20),
                "log_every": max(1, self.steps // 100)}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One cell and one seed."""

    cell: Cell
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.cell.name}: seed {self.seed}"

    def content(self) -> dict[str, Any]:
        """What the worker is told."""
        return {"arguments": self.cell.arguments(self.seed), "episodes": EPISODES,
                "evaluation_seed": EVALUATION_SEED + self.seed}  # fmt: skip


# Found on T-mazes of length 50 and 100 and on RepeatPrevious (easy), seed 0; see docs/results.md. Parameter noise tries
# one thing for a whole episode, where a single wrong step would make the rest of it worthless.
LEARN = {"n_step": 5, "target.rate": 0.02, "optimizer.learning_rate": 1e-3, "replay.batch_size": 8}
CORRIDOR = LEARN | PREVIOUS | {"exploration": "parameter-noise", "exploration.scale": 0.3,
                               "exploration.final_scale": 0.1}  # fmt: skip
FAR = {"working.max_radius": 0.9999}  # the LRU remembers for up to ten thousand steps at the start
# Each reward belongs to the action before it: nothing is gained by looking far ahead.
ANSWER = {"n_step": 1, "discount": 0.5, "target.rate": 0.05, "optimizer.learning_rate": 1e-3, "replay.batch_size": 8}
# Gates that see the input alone: several times as fast as the LRU, and a cue is an input. Without selectivity a unit
# that remembers for long also writes next to nothing, whatever comes.
LONG = {"working": "mingru", "working.horizon": 20_000, "working.selectivity": 30.0}
LENGTHS = (*range(1, 11), 12, 14, 17, 20, 25, 30, *range(40, 101, 10))
SIZES = (*range(1, 11), 12, 14, 17, 20, 25, 30, 40)


def corridor(name: str, env: str, length: int, steps: int, memory: dict[str, Any] = FAR) -> Cell:
    """A T-maze: windows hold a whole episode, so that the gradient reaches the cue."""
    settings = {
        "replay.window": length + 3,
        "replay.start": max(4_000, 8 * (length + 16)),
        "exploration.steps": steps // 5,
    }
    if length > 100:
        # As many updates for an episode as the short ones have. A step that is lost costs 1 / length: what is explored
        # with must not drown that, and all that it costs until the end must count.
        settings |= {"learn_every": 8 * round(length / 250), "n_step": 10, "discount": 1 - 1 / length,
                     "exploration.final_scale": 15 / length, "exploration.steps": 80 * length}  # fmt: skip
    if length > 500:
        settings |= {"replay.capacity": 400 * length}  # of fifty thousand rows, thirty episodes would be all there is
    if "Active" in env:
        # The oracle is one step to the left, where a step costs nothing only at the very start. What is tried there is
        # mostly followed by worse: rewards of several steps would blame it.
        settings |= {"exploration.random_opening": 0.5, "n_step": 1}
        if length > 100:
            settings |= {"target.rate": 0.1}  # what is known of the end has so many updates to travel
    return Cell(name, env, steps, "lru-dqn", {"length": length}, CORRIDOR | settings | memory, success=SOLVED,
                asked=1.0)  # fmt: skip


def chain(env: str, name: str, number: int, steps: int, memory: dict[str, Any] = FAR) -> Cell:
    """bsuite's memory chains: only the last action counts."""
    length = number if name == "length" else 2
    settings = LEARN | {"replay.window": length + 1, "n_step": 1, "exploration.steps": steps // 4, "discount": 0.9,
                        "replay.start": max(500, 8 * (length + 4))}  # fmt: skip
    settings |= {"replay.batch_size": 32} if length < 30 else {}
    settings |= {"learn_every": 64} if length > 100 else {}
    return Cell(f"{name}-{number}", env, steps, "lru-dqn", {name: number}, settings | memory, success=1.0, asked=1.0)


def published(name: str, env: str, recipe: str, **judged: float | None) -> Cell:
    """A task whose settings are a recipe of the package: what `engram train ENV --recipe NAME` runs."""
    found = recipes.find(env, recipe)
    return Cell(name, env, found.steps, found.preset, found.env_args or {}, found.agent(), found.envs, **judged)


def keywords(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as arguments of `popgym`, with double underscores for dots."""
    return {path.replace(".", "__"): value for path, value in settings.items()}


def popgym(
    task: str,
    level: str,
    steps: int,
    preset: str,
    asked: float,
    published: float | None,
    agent: str = "",
    **settings: Any,
) -> Cell:
    """A task of POPGym; windows hold a whole episode. `agent` is added to the name where a task has several cells."""
    paths = {name.replace("__", "."): value for name, value in settings.items()}
    return Cell(f"{task}-{level}{agent}", f"engram/{task}-v0", steps, preset, {"level": level}, ANSWER | paths,
                asked=asked, published=published)  # fmt: skip


def searching(task: str, window: int, asked: float, published: float | None) -> list[Cell]:
    """Tasks where what was seen decides where to look next: attention, its control, and a recurrence beside it."""
    common = {"replay__window": window, "n_step": 3, "discount": 0.95, "exploration__end": 0.02, **keywords(PREVIOUS)}
    attending = HISTORY | {"working__window": window} | common
    return [
        popgym(task, "easy", 150_000, "dtqn", asked, published, "-attention", **attending),
        popgym(task, "easy", 150_000, "dtqn", asked, published, "-uniform", **attending, working__uniform=True),
        popgym(task, "easy", 150_000, "lru-dqn", asked, published, "-gru", working="gru", **common),
    ]


HISTORY = {"working__layers": 1, "working__heads": 4, "working__hidden_size": 128, "exploration__end": 0.02}
CELLS = {
    cell.name: cell
    for cell in (
        published("passive-100", "engram/PassiveTMaze-v0", "length-100", success=SOLVED, asked=1.0),
        published("passive-500", "engram/PassiveTMaze-v0", "length-500", success=SOLVED, asked=1.0),
        corridor("passive-1500", "engram/PassiveTMaze-v0", 1_500, 1_000_000, LONG),
        published("active-50", "engram/ActiveTMaze-v0", "length-50", success=SOLVED, asked=1.0),
        corridor("active-500", "engram/ActiveTMaze-v0", 500, 1_000_000, LONG),
        *(chain("engram/MemoryLength-v0", "length", number, max(20_000, 1_000 * number)) for number in LENGTHS),
        published("length-1000", "engram/MemoryLength-v0", "length-1000", success=1.0, asked=1.0),
        *(chain("engram/MemorySize-v0", "size", number, 40_000) for number in SIZES),
        popgym("RepeatPrevious", "easy", 50_000, "lru-dqn", 0.99, 1.0, replay__window=51),
        published("RepeatPrevious-medium", "engram/RepeatPrevious-v0", "medium", asked=0.95, published=0.789),
        published("RepeatPrevious-hard", "engram/RepeatPrevious-v0", "hard", asked=0.9, published=0.191),
        # Only the first card counts, and only that no action came before it tells it from the others.
        popgym("RepeatFirst", "hard", 500_000, "lru-dqn", 0.99, 0.969, replay__window=832, replay__start=8_000,
               learn_every=32, optimizer__learning_rate=3e-4, exploration__end=0.0, exploration__steps=10_000,
               observation__previous_action=True, **keywords(LONG)),
        published("CountRecall-easy", "engram/CountRecall-v0", "easy", asked=0.6, published=0.509),
        published("Autoencode-easy", "engram/Autoencode-v0", "easy", asked=0.0, published=-0.283),
        *searching("Concentration", 104, 0.7, None),
        *searching("Battleship", 64, 0.7, None),
    )
}  # fmt: skip


# What is run and said


def row(cell: Cell, results: list[dict[str, Any]]) -> dict[str, Any]:
    """What the seeds of one cell came to."""
    scores = [score(cell, one["returns"]) for one in results]
    curves = [whole(one["curve"]) for one in results]
    found: dict[str, Any] = {"steps": results[0]["steps"], "asked": cell.asked, "published": cell.published}
    found |= {"greedy": summary([sum(one["returns"]) / len(one["returns"]) for one in results])}
    found |= {"mmer": summary([max(curve) for curve in curves]), "success": None, "success_forgetting": None}
    if cell.success is not None:
        found |= {"success": summary(scores)}
        forgetting = [score(cell, one["returns_forgetting"]) for one in results if "returns_forgetting" in one]
        found |= {"success_forgetting": summary(forgetting) if forgetting else None}
    return found


def whole(curve: dict[str, list[Any]]) -> list[float]:
    """The means over 100 episodes, without those from before so many had ended."""
    ended = curve.get("episodes", [100] * len(curve["returns"]))  # results of before 2026-11-25 09:20 do not tell
    pairs = zip(curve["returns"], ended, strict=True)
    return [value for value, episodes in pairs if value is not None and episodes >= 100]


def score(cell: Cell, returns: list[float]) -> float:
    """The share of episodes that succeeded."""
    return sum(value >= (cell.success or 0.0) for value in returns) / len(returns)


def told(name: str, found: dict[str, Any]) -> str:
    """One line of a Markdown table."""

    def spread(one: dict[str, Any] | None) -> str:
        if one is None:
            return "-"
        bounds = one["mean_interval_95"]
        return f"{one['mean']:.3f}" + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else "")

    cells = [name, f"{found['steps']:,}", str(found["greedy"]["seeds"])]
    cells += [spread(found[column]) for column in ("greedy", "mmer", "success", "success_forgetting")]
    cells += ["-" if found[column] is None else f"{found[column]:.3f}" for column in ("asked", "published")]
    return f"| {' | '.join(cells)} |"


def main(cells: dict[str, Cell] = CELLS, about: str | None = __doc__, result: str = "memory-tasks") -> int:
    """Learn the cells that the command line asks for; what a file of `result` is named."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="say what the cells are, and do nothing")
    parser.add_argument(
        "--cells", default=",".join(cells), help="names separated by commas; a last * stands for any end"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=10, help="0 and 1 were used to find the settings")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--minutes", type=float, help="after so long nothing begins, and what runs is told to save")
    parser.add_argument("--work", type=Path, default=WORK / "memory", help="folder of the runs")
    add_flags(parser, result)
    options = parser.parse_args()
    wanted = options.cells.split(",")
    chosen = [cell for name, cell in cells.items()
              if any(name == one or (one.endswith("*") and name.startswith(one[:-1])) for one in wanted)]  # fmt: skip
    if options.list or not chosen:
        print("\n".join(f"{cell.name}: {cell.arguments(0)}" for cell in (chosen or cells.values())))
        return 0
    record = Record(options, {"episodes": EPISODES, "evaluation_seeds": f"{EVALUATION_SEED} + seed"})
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    # All cells once before any of them twice: what does not fit is then the least.
    runs = [Run(cell, seed, options.work / cell.name / f"seed{seed}") for seed in seeds for cell in chosen]
    missing = [run for run in runs if run.name not in record.parts]
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    unfinished = train_all(missing, options.jobs, record, deadline, ONE_THREAD if options.jobs > 1 else None)
    rows: dict[str, Any] = {}
    for name, cell in cells.items():
        parts = [part for key, part in record.parts.items() if key.partition(":")[0] == name]
        if parts:
            rows[name] = row(cell, [result for part in parts for result in part["runs"]])
    record.summarize(rows)
    print("| cell | steps | seeds | greedy | MMER | success | forgetting | asked | published |\n" + "|---" * 9 + "|")
    print("\n".join(told(name, found) for name, found in rows.items()))
    if unfinished:
        print(f"not finished: {', '.join(unfinished)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
