"""The course of one call of `learn`: from where the run is to its goal, with all that is due on the way.

What is due at a step (an evaluation, a line of metrics) and was left undone, because a stop came first, is due still
when the run is taken up again. `Milestones` remembers how far each of them is, and every checkpoint holds it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from engram.errors import Warned
from engram.play.evaluation import Evaluation
from engram.play.evaluator import Stop
from engram.run.evaluating import Evaluating, numbers
from engram.run.keeper import Milestones
from engram.run.metrics import RunLog
from engram.run.plan import RunPlan
from engram.runners.common import Runner


@dataclass
class Course:
    """One call of `learn`.

    Fields:
      progress: of the run, kept up to date.
      log: where lines of metrics go; None without a run directory.
      tell: an event of `Callback` and its arguments. stop: whether to end now.
      look: what is to be said of a line of metrics, such as that learning diverges.
      save: writes a checkpoint if it can, and save_best the best one, and says whether it could; None without a run
        directory.
    """

    plan: RunPlan
    runner: Runner
    progress: Milestones
    evaluating: Evaluating
    log: RunLog | None
    tell: Callable[..., None]
    stop: Stop
    save: Callable[[], None] | None
    save_best: Callable[[], bool] | None
    look: Callable[[dict[str, Any]], str | None]

    def run(self, goal: int) -> None:
        """Acts and learns up to the goal, or to a stop."""
        plan, runner = self.plan, self.runner
        before, speed = runner.steps, 0.0
        stops = self.stop if runner.ended is None else self.stops  # asked at every step: no more than is needed
        every = [plan.log_every, plan.save_every, *[plan.evaluate_every] * (plan.evaluate_every > 0)]
        while True:
            self._at_border(before, goal, speed)
            if runner.steps >= goal or stops():
                return
            before, began = runner.steps, time.perf_counter()
            runner.advance(min(goal, *(_next(before, one) for one in every)), stops)
            seconds = time.perf_counter() - began
            self.progress.seconds += seconds
            speed = (runner.steps - before) / seconds

    def stops(self) -> bool:
        """Whether to stop now. Runners ask between two steps, where callbacks may look at a sound state."""
        self._tell_episodes()
        return self.stop()

    def _tell_episodes(self) -> None:
        runner = self.runner
        if runner.ended:
            over, runner.ended = runner.ended, []
            for one in over:
                told = {"return": one.total, "length": one.length, "step": one.step, "seed": one.seed}
                self.tell("on_episode", told | {"info": dict(one.numbers)})

    def _at_border(self, before: int, goal: int, speed: float) -> None:
        """What is due at this step: an evaluation, a line of metrics, a checkpoint."""
        self._tell_episodes()
        plan, progress, step = self.plan, self.progress, self.runner.steps
        evaluation = None
        if self._evaluation_due(step):
            evaluation = self.evaluating.play(plan, self.runner.minds(), self.stops, partial(self.tell, "on_note"))
            if evaluation is None and self.stops():
                return
            progress.evaluated = step
        found = {} if evaluation is None else numbers(evaluation)
        if _crossed(progress.logged, step, plan.log_every) or (step >= goal and progress.logged != step):
            progress.logged = step
            self._report(found, speed)
        elif found and self.log is not None:
            self.log.write({"step": step, **found})
        if evaluation is not None:
            self._evaluated(evaluation)
        if self.save is not None and _crossed(before, step, plan.save_every) and step < goal:
            self.save()

    def _evaluation_due(self, step: int) -> bool:
        """At every multiple of `evaluate_every`, and where schedules end."""
        every, evaluated = self.plan.evaluate_every, self.progress.evaluated
        return every > 0 and (_crossed(evaluated, step, every) or (step >= self.plan.horizon and evaluated < step))

    def _evaluated(self, evaluation: Evaluation) -> None:
        """Keeps the best agent so far (of equals the newest), and tells the callbacks."""
        progress = self.progress
        if progress.best_return is None or evaluation.mean >= progress.best_return:
            before = progress.best_step, progress.best_return
            progress.best_step, progress.best_return = self.runner.steps, evaluation.mean  # the checkpoint tells them
            if self.save_best is not None and not self.save_best():
                progress.best_step, progress.best_return = before  # what is kept: a later one may be better than that
        self.tell("on_evaluate", evaluation)

    def _report(self, found: dict[str, Any], speed: float) -> None:
        plan, runner = self.plan, self.runner
        metrics = {"step": runner.steps, "total": plan.steps, **runner.report(), **found}
        metrics |= {"steps_per_second": speed * plan.seeds, "seconds": self.progress.seconds, "seeds": plan.seeds}
        line = {name: value for name, value in metrics.items() if name != "warning"}  # loggers take numbers
        if self.log is not None:
            self.log.write(line)
        self.tell("on_metrics", line)
        if said := self.look(metrics):
            self.tell("on_note", Warned(said))


def _next(step: int, every: int) -> int:
    return (step // every + 1) * every


def _crossed(before: int, after: int, every: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]: many environments step over the multiple itself."""
    return before // every != after // every
