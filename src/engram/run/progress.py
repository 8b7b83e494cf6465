"""What a person gets of a run without asking: its progress, its notes, its learning curve. Callbacks of the trainer."""

import logging
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from engram.errors import Warned
from engram.run.curve import plot_curve
from engram.run.display import JUDGES, Display, clean, in_notebook, is_terminal
from engram.run.machine import told_of_compiling
from engram.run.metrics import METRICS_FILE

LOG = logging.getLogger("engram")
COMPILING = "compiling ..."


def watched() -> bool:
    """Whether somebody is likely to be looking: standard output is a terminal, or a cell of a notebook."""
    return in_notebook() or (sys.stdout is not None and is_terminal(sys.stdout))


def title_of(plan: Any) -> str:
    """What a run is, in a few words."""
    seeds = f"seed {plan.seed}" if plan.seeds == 1 else f"seeds {plan.seed} to {plan.seed + plan.seeds - 1}"
    return f"{plan.env or 'an environment of your own'}, {plan.preset}, {seeds}"


class Progress:
    """Shows what happens, in a display of its own if none is given."""

    def __init__(self, display: Display | None = None):
        self.display = Display() if display is None else display
        self._open = ExitStack()

    def on_start(self, trainer: Any) -> None:
        """The panel appears, unless nothing is left to learn: it would say that nothing is known."""
        if trainer.steps >= trainer.plan.steps:
            return
        explores = trainer.plan.agent.exploration.report(trainer.steps)
        self.display.title, self.display.explores = title_of(trainer.plan), tuple(explores)
        head = trainer.plan.agent.head
        told = {"q_mean": not head.has_policy or head.has_twins, "entropy": head.has_policy}
        self.display.judges = tuple(name for name in JUDGES if told[name])
        self._open.callback(told_of_compiling(self.display.compiled))
        self._open.enter_context(self.display)
        self.display.begin({"step": trainer.steps, "total": trainer.plan.steps, "episodes": 0, **explores})

    def on_metrics(self, trainer: Any, metrics: Mapping[str, Any]) -> None:
        """The newest numbers."""
        self.display.update(metrics)

    def on_save(self, trainer: Any, saved: Any) -> None:
        """A fact of the panel; where there is none, a line, except in a cell of a notebook, which they would fill."""
        self.display.saved(saved.step)
        if not self.display.in_panel and not self.display.sparing:
            self.display.note(f"saved step {saved.step:,} id {saved.id}")

    def on_note(self, trainer: Any, text: str) -> None:
        """A line that stays. The panel says by itself that programs are compiled."""
        if text != COMPILING or not self.display.in_panel:
            self.display.note(text)

    def on_stop(self, trainer: Any, reason: str) -> None:
        """The panel stays, with the step that the run stopped at."""
        self.display.end(trainer.steps)
        self.close()

    def close(self) -> None:
        """End the panel, leaving its last state on the screen."""
        self._open.close()


class Notes:
    """Writes to Python's `logging`, under the name `engram`: notes as INFO, saves and metrics as DEBUG, and as WARNING
    what is wrong, which a plain script shows.
    """

    def on_start(self, trainer: Any) -> None:
        """What runs."""
        LOG.info("%s: from step %d of %d", title_of(trainer.plan), trainer.steps, trainer.plan.steps)

    def on_metrics(self, trainer: Any, metrics: Mapping[str, Any]) -> None:
        """The numbers, for who wants them all."""
        LOG.debug("metrics %s", dict(metrics))

    def on_save(self, trainer: Any, saved: Any) -> None:
        """What is on the disk."""
        LOG.debug("saved step %d id %s", saved.step, saved.id)

    def on_note(self, trainer: Any, text: str) -> None:
        """A sentence for people. `logging` that nobody has set up does not repeat what a display shows."""
        wrong = isinstance(text, Warned)
        displays = (one for one in (*trainer._shown, *trainer.callbacks) if isinstance(one, Progress))
        if wrong and not LOG.hasHandlers() and any(displays):
            return
        LOG.log(logging.WARNING if wrong else logging.INFO, "%s", clean(text))

    def on_stop(self, trainer: Any, reason: str) -> None:
        """Where it ended, and why."""
        LOG.info("%s at step %d", reason, trainer.steps)


class Curve:
    """Draws the learning curve when `learn` ends, however it ends."""

    def on_stop(self, trainer: Any, reason: str) -> None:
        """A picture is no reason to call a run a failure, or to hide why it failed."""
        if not (trainer.folder / METRICS_FILE).exists():
            return
        try:
            plot_curve(trainer.folder, title=title_of(trainer.plan))
        except OSError as problem:
            trainer.warn(f"the learning curve was not drawn: {problem}")


class Compiling:
    """Says that programs are being compiled when a trainer first learns, and how long that took."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._seconds, self._done = 0.0, False

    def on_start(self, trainer: Any) -> None:
        """From here to the first metrics, most of the time may be XLA's."""
        if not self._done and trainer.steps < trainer.plan.steps:
            self._open.callback(told_of_compiling(self._count))
            trainer._tell("on_note", COMPILING)

    def on_metrics(self, trainer: Any, metrics: Mapping[str, Any]) -> None:
        """The first metrics: everything was compiled."""
        if not self._done:
            self._done = True
            self._open.close()
            if self._seconds >= 1:
                trainer._tell("on_note", f"compiled in {self._seconds:.0f} s")

    def on_stop(self, trainer: Any, reason: str) -> None:
        """Counts no further."""
        self._open.close()

    def _count(self, seconds: float) -> None:
        self._seconds += seconds


def callbacks_of(progress: bool | None, writes: bool) -> tuple[Any, ...]:
    """What a trainer tells first: notes, a display where it is wanted (None: where it is watched), and the curve."""
    shown = watched() if progress is None else progress
    return (Notes(), *([Progress()] if shown else []), *([Curve()] if writes else []), Compiling())
