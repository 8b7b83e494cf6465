"""One trial: an agent with some settings learns in a run directory of its own, and is scored by its evaluations.

The score is what `engram compare` calls convergence: of each seed the mean of the greedy evaluations from 90 % of the
steps on, and of these the mean over seeds.
"""

import gc
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from engram.agents.unread import where_read
from engram.comparison.learning import Curve, final, last_tenth
from engram.comparison.runs import GREEDY, Logged
from engram.envs.device import is_device
from engram.errors import CheckpointError, EngramError, Interrupted
from engram.play.evaluation import Evaluation
from engram.run.callbacks import TimeLimit
from engram.run.folders import holds_run, plan_of
from engram.run.metrics import read_metrics
from engram.run.trainer import Trainer
from engram.tuning.study import Taken, Task

Report = Callable[[int, float], bool]


class Left(Exception):
    """The trial was stopped, and can go on."""


class GivenUp(Exception):
    """The trial was pruned."""


class Unscored(EngramError):
    """The trial came to its end without a score."""


class Part(NamedTuple):
    """A run of a trial: of all its seeds side by side, or of one."""

    folder: Path
    seed: int
    seeds: int


def parts_of(task: Task, taken: Taken) -> list[Part]:
    """The runs of a trial, as `engram train --seeds` lays them out."""
    if task.seeds == 1 or is_device(task.env):
        return [Part(taken.folder, taken.seed, task.seeds)]
    return [Part(taken.folder / f"seed{seed}", seed, 1) for seed in range(taken.seed, taken.seed + task.seeds)]


def play(task: Task, taken: Taken, report: Report, asked: Callable[[], bool], seconds: float | None = None) -> float:
    """The score of a trial, which is begun or gone on with.

    Args:
      report: takes the point and the value of an evaluation, and says whether to give the trial up.
      asked: whether to stop. seconds: how long the trial may learn, in this call.

    Raises: Left, GivenUp; EngramError as the trainer does.
    """
    parts = parts_of(task, taken)
    for place, part in enumerate(parts):
        before = list(curves([one.folder for one in parts[:place]]))
        listener = Listener(task, place, before, report, asked, last=part is parts[-1])
        _learn(task, taken, part, listener, seconds)
    return score([part.folder for part in parts], task)


class Listener:
    """Reports evaluations while a trial learns, and stops it where that is asked for.

    The points of seeds that learn one after another follow each other. Each is the mean over the seeds so far.
    """

    def __init__(
        self, task: Task, place: int, before: Sequence[Curve], report: Report, asked: Callable[[], bool], last: bool
    ):
        self._task, self._place, self._before = task, place, before
        self._report, self._asked, self._last = report, asked, last
        self.pruned = False

    def on_start(self, trainer: Any) -> bool:
        """A stop may have been asked for while the run was made."""
        return not self._asked()

    def on_metrics(self, trainer: Any, metrics: Any) -> bool:
        """Goes on, unless asked to stop."""
        return not self._asked()

    def on_evaluate(self, trainer: Any, evaluation: Evaluation) -> bool:
        """Reports the evaluation. What is at its end is not given up any more."""
        at = round(trainer.steps / trainer.plan.evaluate_every)
        values = [final(curve, trainer.steps) for curve in self._before] + [evaluation.mean]
        given_up = self._report(self._place * self._task.points + at, sum(values) / len(values))
        over = self._last and trainer.steps >= trainer.plan.steps
        self.pruned = self.pruned or (given_up and not over)
        return not (self.pruned or self._asked())


def _learn(task: Task, taken: Taken, part: Part, listener: Listener, seconds: float | None) -> None:
    limits = () if seconds is None else (TimeLimit(seconds=max(seconds, 1e-3)),)
    with _trainer(task, taken, part, (listener, *limits)) as trainer:
        try:
            trainer.learn()
        except Interrupted:
            raise Left from None
        over = trainer.steps >= trainer.plan.steps
    if listener.pruned:
        raise GivenUp
    if not over:
        raise Left


def _trainer(task: Task, taken: Taken, part: Part, callbacks: Sequence[Any]) -> Trainer:
    """The run as far as it came, or a new one. A run that was killed before its first save begins anew."""
    shared: dict[str, Any] = {"callbacks": callbacks, "progress": False}
    if holds_run(part.folder):
        with suppress(CheckpointError):
            return Trainer(task.env, run=part.folder, resume=True, trust=_is_ours(task, part.folder), **shared)
        shutil.rmtree(part.folder)
    run = task.run | {"seed": part.seed, "seeds": part.seeds}

    def made(settings: Mapping[str, Any]) -> Trainer:
        return Trainer(task.env, run=part.folder, overrides=settings, **run, **shared)

    return where_read(made, {**task.settings, **taken.settings}, {one.path for one in task.space})


def _is_ours(task: Task, folder: Path) -> bool:
    """Whether the run is of the environment that the user has named, with these arguments, and of no other."""
    plan = plan_of(folder)
    same = plan["env"] == task.env and plan.get("env_args") == task.run.get("env_args", {})
    return same and plan.get("evaluate_env") is None


def curves(folders: Sequence[Path]) -> Iterator[Curve]:
    """The greedy evaluations of each seed."""
    for folder in folders:
        yield from Logged(folder, plan_of(folder), read_metrics(folder)).curves(GREEDY)


def score(folders: Sequence[Path], task: Task) -> float:
    """The mean over seeds of the greedy evaluations in the last tenth. Raises Unscored where a seed has none."""
    found = list(curves(folders))
    if lacking := [curve for curve in found if not len(curve.steps)]:
        raise Unscored(f"seed {lacking[0].seed} has no evaluation that a score could be made of")
    return sum(last_tenth(curve, max(task.run["steps"], float(curve.steps[-1])))[0] for curve in found) / len(found)


def forget_programs() -> None:
    """Each trial compiles programs of its own; those of hundreds of trials would fill the process."""
    import jax

    jax.clear_caches()
    gc.collect()
