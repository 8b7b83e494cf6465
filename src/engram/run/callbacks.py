"""Callbacks: who wants to hear what a trainer does, and may stop it.

    class Enough:
        def on_episode(self, trainer, episode):
            return episode["return"] < 475      # False stops

    engram.Trainer("CartPole-v1", callbacks=[Enough(), engram.TimeLimit(minutes=10)]).learn()

An object with any of the methods of `Callback` will do. A method that returns False, of whatever event, stops the run
as `trainer.stop()` does: within the running step, with the newest step on the disk. Any other result means nothing.
"""

import threading
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Protocol

from engram.checkpoint.store import Saved
from engram.errors import EngramError, Interrupted, SpecError, hint
from engram.play.evaluation import Evaluation


class Callback(Protocol):
    """What a trainer tells. Written as a base class, it hears nothing but what a class overrides."""

    def on_start(self, trainer: Any) -> bool | None:
        """`learn` begins."""

    def on_episode(self, trainer: Any, episode: Mapping[str, Any]) -> bool | None:
        """An episode of training ended.

        `episode` has its `return` (undiscounted, as paid), its `length` in steps, the `step` of the run, the `seed` of
        the agent, and `info`: the numbers in the environment's last `info`, such as `is_success`.

        On the device, the call comes within half a second and `info` is empty. Of more than 100 episodes in that time,
        only the newest 100 are reported.
        """

    def on_metrics(self, trainer: Any, metrics: Mapping[str, Any]) -> bool | None:
        """A line of metrics, as in metrics.jsonl."""

    def on_evaluate(self, trainer: Any, evaluation: Evaluation) -> bool | None:
        """The agent was evaluated while it trains."""

    def on_save(self, trainer: Any, saved: Saved) -> bool | None:
        """A checkpoint is on the disk."""

    def on_note(self, trainer: Any, text: str) -> bool | None:
        """A sentence for people; an `engram.errors.Warned` where something is wrong."""

    def on_stop(self, trainer: Any, reason: str) -> bool | None:
        """`learn` ends: `done`, `stopped`, `interrupted` (by a signal) or `error`."""


EVENTS = tuple(name for name in vars(Callback) if name.startswith("on_"))


def several(given: Any, protocol: type) -> tuple[Any, ...]:
    """Objects with methods of a protocol of `on_...` events or of a logger, given as several, as one, or as None.

    Raises: SpecError for a class in the place of an object, and for one that has none of the methods.
    """
    names = [name for name in vars(protocol) if not name.startswith("_")]
    alone = given is not None and (isinstance(given, type) or any(hasattr(given, name) for name in names))
    found = () if given is None else (given,) if alone else tuple(_each(given, protocol))
    for one in found:
        if isinstance(one, type):
            raise SpecError(
                f"the class {one.__name__} was given, but an object was expected; write {one.__name__}(...)"
            )
        own = [name for name in dir(one) if not name.startswith("_")]
        if not set(own) & set(names):
            meant = next((name for name in own if name.startswith("on_")), "")
            raise SpecError(
                f"{one!r:.80} has no method of engram.{protocol.__name__}"
                + (f": {meant!r} is none; {hint(meant, names)}" if meant else f"; expected one of {', '.join(names)}")
            )
        for name in own:
            if name.startswith("on_") and name not in names and get_close_matches(name, names, n=1, cutoff=0.8):
                raise SpecError(f"{name!r} of {type(one).__name__} is never called; {hint(name, names)}")
    return found


def _each(given: Any, protocol: type) -> Iterable[Any]:
    try:
        return iter(given)
    except TypeError:
        expected = f"a list of objects with methods of engram.{protocol.__name__}"
        raise SpecError(f"{given!r:.80} was given, but {expected} was expected") from None


def hears(callback: Any, event: str) -> bool:
    """Whether an object has a method for the event that is more than the empty one of `Callback`."""
    method = getattr(type(callback), event, None) or getattr(callback, event, None)
    return method is not None and method is not getattr(Callback, event)


class EarlyStop:
    """Stops a run that is good enough, or that no longer gets better.

    Args:
      threshold: stop once the mean return is at least this.
      patience: stop after so many values in a row that are not above the greatest before.
      of: whose mean return: that of the evaluations while training, or of the episodes of training themselves
        (`training`), which explore.
    """

    def __init__(self, threshold: float | None = None, patience: int | None = None, of: str = "evaluation"):
        if threshold is None and patience is None:
            raise SpecError("neither threshold nor patience was given; give at least one of them")
        if patience is not None and patience < 1:
            raise SpecError(f"patience = {patience} was given; expected at least 1")
        if of not in ("evaluation", "training"):
            raise SpecError(f"of = {of!r} was given; expected 'evaluation' or 'training'")
        self.threshold, self.patience, self.of = threshold, patience, of
        self.best: float | None = None
        self.waited = 0

    def on_start(self, trainer: Any) -> None:
        """Raises SpecError where nothing will ever be heard."""
        if self.of == "evaluation" and not trainer.plan.evaluate_every:
            raise SpecError(
                "EarlyStop waits for evaluations, and this run has none; give evaluate_every, or of='training'"
            )

    def on_evaluate(self, trainer: Any, evaluation: Evaluation) -> bool:
        """Looks at an evaluation."""
        return self.of != "evaluation" or self._goes_on(trainer, evaluation.mean)

    def on_metrics(self, trainer: Any, metrics: Mapping[str, Any]) -> bool:
        """Looks at the episodes of training."""
        if self.of != "training":
            return True
        values = metrics["return_mean"] if isinstance(metrics["return_mean"], list) else [metrics["return_mean"]]
        known = [value for value in values if value is not None]
        return len(known) < len(values) or self._goes_on(trainer, sum(known) / len(known))

    def _goes_on(self, trainer: Any, value: float) -> bool:
        better = self.best is None or value > self.best
        self.best, self.waited = (value, 0) if better else (self.best, self.waited + 1)
        if self.threshold is not None and value >= self.threshold:
            trainer.note(f"early stop: a mean return of {value:g} is at least {self.threshold:g}")
            return False
        if self.patience is not None and self.waited >= self.patience:
            trainer.note(f"early stop: no mean return above {self.best:g} in {self.waited} values")
            return False
        return True


class TimeLimit:
    """Stops `learn` after so much time, compiling included: within the running step, with the newest step saved."""

    def __init__(self, seconds: float = 0, minutes: float = 0, hours: float = 0):
        self.seconds = seconds + 60 * minutes + 3600 * hours
        if not self.seconds > 0:
            raise SpecError(f"a time limit of {self.seconds:g} seconds was given; expected more than 0")
        self._timer: threading.Timer | None = None

    def on_start(self, trainer: Any) -> None:
        """The clock starts."""
        self._timer = threading.Timer(self.seconds, self._over, (trainer,))
        self._timer.daemon = True
        self._timer.start()

    def _over(self, trainer: Any) -> None:
        trainer.stop()

    def on_stop(self, trainer: Any, reason: str) -> None:
        """The clock stops."""
        if self._timer is not None:
            self._timer.cancel()


class Evaluate:
    """Plays greedy episodes elsewhere from time to time: in other environments, or with other arguments.

    A run evaluates itself in one environment (`evaluate_every`, `evaluate_env`). This is for more of them.

    Args:
      every: environment steps between two evaluations. They fall on lines of metrics (`log_every`).
      episodes, seed, env, env_args, forget: as `Trainer.evaluate` takes them.

    `found` holds (step, Evaluation) of each. One that a stop cut short counts for nothing.
    """

    def __init__(self, every: int, episodes: int = 5, **given: Any):
        if every < 1:
            raise SpecError(f"every = {every} was given; expected at least 1")
        for name in given:
            if name not in (known := ("seed", "env", "env_args", "forget")):
                raise SpecError(f"Evaluate takes no {name!r}; {hint(name, ['episodes', *known])}")
        self.every, self.given = every, {"episodes": episodes, **given}
        self.found: list[tuple[int, Evaluation]] = []
        self._next = every

    def on_start(self, trainer: Any) -> None:
        """The first is due at the next multiple of `every`."""
        self._next = (trainer.steps // self.every + 1) * self.every

    def on_metrics(self, trainer: Any, metrics: Mapping[str, Any]) -> None:
        """Plays, where it is time."""
        if metrics["step"] < self._next:
            return
        self._next = (metrics["step"] // self.every + 1) * self.every
        try:
            evaluation = trainer.trained().evaluate(**self.given, stop=trainer.asked_to_stop)
        except Interrupted:
            return
        except EngramError as problem:
            trainer.warn(f"the run goes on without this evaluation: {problem}")
            return
        self.found.append((metrics["step"], evaluation))
        where = self.given.get("env") or self.given.get("env_args") or "the environment of training"
        trainer.note(f"in {where}: mean return {evaluation.mean:.4g} of {evaluation.episodes} episodes")
