"""One training run of `learning.py` in a process of its own: train, evaluate, write what came of it."""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.learning import clock
from benchmarks.learning.workers import goes_on
from benchmarks.record import write_json
from engram import Trainer
from engram.errors import EngramError, LearningFault
from engram.run.metrics import read_metrics


class Progress:
    """A line to standard error for every tenth of the run."""

    def __init__(self) -> None:
        self.tenths = 0

    def on_metrics(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        tenths = 10 * metrics["step"] // metrics["total"]
        if tenths > self.tenths:
            self.tenths = tenths
            seeds = f"seed {trainer.plan.seed}" if trainer.plan.seeds == 1 else f"{trainer.plan.seeds} seeds"
            returns = f"{trainer.plan.env}, {seeds}: step {metrics['step']:,}, return {metrics['return_mean']}"
            print(f"{returns}, {metrics['steps_per_second']:,.0f} steps/s", file=sys.stderr, flush=True)


def train(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Begin the run in job["folder"], or go on with it; one result for each of its seeds."""
    folder = Path(job["folder"])
    begun = goes_on(folder)
    arguments: dict[str, Any] = {"resume": True} if begun else job["arguments"]
    with Trainer(run=folder, callbacks=(Progress(),), **arguments) as trainer:
        if trainer.steps < trainer.plan.steps:
            trainer.learn()
        evaluation = trainer.evaluate(job["episodes"], job["evaluation_seed"])
        rows, plan = trained_rows(folder), trainer.plan
        results = [result(rows, evaluation, plan.seeds, index, plan.seed + index) for index in range(plan.seeds)]
        if plan.agent.has_memory and not plan.agent.forget:  # the control: the same agents, emptied before every step
            control = trainer.evaluate(job["episodes"], job["evaluation_seed"], forget=True)
            for one, played in zip(results, of_each_seed(control), strict=True):
                one |= {f"{name}_forgetting": values for name, values in played.items()}
        for env in job.get("elsewhere", ()):
            there = trainer.evaluate(job["episodes"], job["evaluation_seed"], env=env)
            for one, played in zip(results, of_each_seed(there), strict=True):
                one.setdefault("elsewhere", {})[env] = played
        return results


def trained_rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of a log that tell of training; a line may be an evaluation's alone, made between two of them."""
    return [row for row in read_metrics(folder) if "return_mean" in row]


def of_each_seed(evaluation: Any) -> list[dict[str, list[Any]]]:
    """The returns and lengths of each seed's episodes."""
    share = evaluation.episodes // len(evaluation.per_seed)
    return [
        {"returns": evaluation.returns[first : first + share], "lengths": evaluation.lengths[first : first + share]}
        for first in range(0, evaluation.episodes, share)
    ]


def result(rows: list[dict[str, Any]], evaluation: Any, seeds: int, index: int, seed: int) -> dict[str, Any]:
    """What one seed came to: its evaluation, and its learning curve."""
    returns = [row["return_mean"] for row in rows]
    return {
        "seed": seed,
        "mean": evaluation.per_seed[index],
        **of_each_seed(evaluation)[index],
        "steps": rows[-1]["step"],
        "updates": rows[-1]["updates"],
        "training_seconds": rows[-1]["seconds"],
        "curve": {
            "steps": [row["step"] for row in rows],
            "episodes": [row["episodes"] for row in rows],
            "returns": returns if seeds == 1 else [value[index] for value in returns],
        },
    }


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text())
    clock.listed()
    try:
        write_json(Path(job["result"]), train(job))
    except LearningFault as problem:
        if not job.get("may_diverge"):
            print(problem, file=sys.stderr)
            return problem.exit_code
        write_json(Path(job["result"]), [{"diverged": str(problem)}])
    except EngramError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
