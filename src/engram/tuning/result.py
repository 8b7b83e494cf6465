"""What a study has found: its best trial beside the defaults, and how to train with it."""

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any

from engram.errors import EngramError, WriteFailed, unwritten
from engram.run.folders import holds_run, plan_of
from engram.run.metrics import plain
from engram.run.settings import RUN, flag_of
from engram.tuning.study import COMPLETE, Row, Study

PICTURE = "tuning.png"
SHOWN = 5  # settings whose importance is told in a line


class Tuned:
    """What `engram.tune` found.

    Fields:
      folder: the study's. trials: a dict for each trial: `number`, `outcome` (complete, pruned, diverged, refused,
        failed, running, stopped), `value` (its score), `seen` (its last evaluation), `settings` by path, `default`
        (whether it ran the defaults), `seed` (its first), `folder`, `why` (a sentence, or None).
      best, default: the trial with the greatest score, and the one with the defaults; None while there is none.
      gain: how much more the best scored than the defaults; None where one of them has no score.
      settings: those of the best, by path, as texts. command: the line that trains with them.
      importance: how much each setting explains of the scores, in shares; empty below ten complete trials.
      unseen: the first seed that no trial has learned with. picture: a PNG.
    """

    def __init__(self, study: Study):
        rows = study.rows
        self.folder, self.task = study.folder, study.task
        self.trials = [row._asdict() for row in rows]
        whole = [row for row in rows if row.outcome == COMPLETE]
        best = max(whole, key=lambda row: (_value(row), -row.number), default=None)
        default = next((row for row in whole if row.default), None)
        self.best, self.default = best and best._asdict(), default and default._asdict()
        self.gain = None if best is None or default is None else _value(best) - _value(default)
        self.settings = {} if best is None else best.settings
        self.importance = study.importance()
        self.unseen = study.task.seed_of(max((row.number for row in rows), default=-1) + 1)
        self.picture = study.folder / PICTURE

    @property
    def command(self) -> str:
        """The line that trains with the best settings, from a seed on that tuning has not seen."""
        run, words = self.task.run, ["engram", "train", self.task.env]
        for name, value in run.items():
            hidden = name in ("seeds", "evaluate_every", "evaluate_episodes")
            if hidden or (name == "preset" and (value == "auto" or "recipe" in run)):
                continue
            words += _flags(name, value)
        words += ["--seed", str(self.unseen)]
        return " ".join(map(quote, [*words, *(f"{path}={value}" for path, value in self._read().items())]))

    def _read(self) -> dict[str, str]:
        """What is fixed and what was found, but for what waits for a part that the best agent does not have."""
        from engram.agents.unread import what_is_read
        from engram.run.plan import agent_from_json

        given = self.task.settings | self.settings
        folder = self.folder / (self.best or {"folder": ""})["folder"]
        run = next((part for part in (folder, *sorted(folder.glob("seed*"))) if holds_run(part)), None)
        if run is None:
            return given
        with suppress(EngramError):  # of a part that this process has not imported
            return what_is_read(agent_from_json(plan_of(run)["agent"]), given)
        return given

    def json(self) -> dict[str, Any]:
        """Everything as one object that JSON can hold."""
        names = ("trials", "best", "default", "gain", "settings", "command", "importance", "unseen")
        env = {"env": self.task.env, "folder": str(self.folder), "picture": str(self.picture)}
        return plain(env | {name: getattr(self, name) for name in names})

    def plot(self, path: Path | None = None) -> Path:
        """Draws every trial, and the scores against each setting, as a PNG; the path it was written to.

        Raises: WriteFailed if the disk refuses it.
        """
        from engram.run.curve import write_picture
        from engram.tuning.picture import draw

        path = self.picture if path is None else Path(path)
        try:
            write_picture(draw(self), path)
        except OSError as error:
            raise WriteFailed(unwritten(path, error)) from None
        return path

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """What is printed at the end."""
        counts = Counter(trial["outcome"] for trial in self.trials)
        told = [
            f"{len(self.trials)} trials: {', '.join(f'{count} {name}' for name, count in counts.items()) or 'none'}"
        ]
        if self.best is None:
            return [*told, "no trial is complete yet, so nothing can be said of the best; the same command goes on"]
        told.append(self._compared())
        if self.importance:
            shares = [f"{path} {share:.2f}" for path, share in list(self.importance.items())[:SHOWN]]
            told.append(f"what mattered (shares): {', '.join(shares)}")
        last = f"no trial has learned with seeds from {self.unseen} on: compare the best with the defaults on these"
        return [*told, self.command, last]

    def _compared(self) -> str:
        assert self.best is not None
        score = f"trial {self.best['number']} is the best: {self.best['value']:.4g}"
        if self.default is None:
            return f"{score}; trial 0, with the defaults, has no score"
        if self.best["default"]:
            return f"no trial is better than the defaults (trial {self.best['number']}): {self.best['value']:.4g}"
        return f"{score}, {self.gain:.4g} more than the defaults (trial {self.default['number']})"


def _value(row: Row) -> float:
    assert row.value is not None
    return row.value


def _flags(name: str, value: Any) -> list[str]:
    """A setting of a run as it is typed."""
    if isinstance(value, dict):
        return [word for key, one in value.items() for word in (flag_of(name), f"{key}={_word(one)}")]
    if value is None or value is False or value == RUN[name].default:
        return []
    return [flag_of(name)] if value is True else [flag_of(name), str(value)]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value) if not isinstance(value, list) else repr(value)
