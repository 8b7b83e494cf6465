"""What came of runs: `engram info`, and the last line of `engram train --seeds`. No JAX is loaded for it."""

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from engram.checkpoint.disk import bytes_in
from engram.run.folders import ROLES, of_each, plan_of
from engram.run.intervals import interval
from engram.run.machine import amount
from engram.run.metrics import number, read_metrics

LISTED = 20  # seeds of a run that are named one by one


class Outcome(NamedTuple):
    """What a run came to so far, of one seed or of several side by side."""

    folder: Path
    env: str
    preset: str
    seeds: range
    step: int
    steps: int
    returns: list[float | None]  # of each seed: the mean of the last 100 training episodes
    evaluated: list[float | None]  # of each seed, by the newest evaluation; empty where there was none
    seconds: float
    rows: list[dict[str, Any]]


def outcome(folder: Path) -> Outcome:
    """Read from run.json and the log, without the state. Raises CheckpointError where they are none."""
    plan, rows = plan_of(folder), read_metrics(folder)

    def newest(name: str) -> Any:
        return next((row[name] for row in reversed(rows) if row.get(name) is not None), None)

    evaluated = newest("evaluation_return")
    seeds = range(plan["seed"], plan["seed"] + plan["seeds"])
    return Outcome(
        folder, str(plan["env"]), plan["preset"], seeds, newest("step") or 0, plan["steps"],
        of_each(newest("return_mean"), len(seeds)), [] if evaluated is None else of_each(evaluated, len(seeds)),
        number(newest("seconds")) or 0.0, rows,
    )  # fmt: skip


# -- in words --------------------------------------------------------------------------------------------------------


def facts(folder: Path) -> list[tuple[str, str]]:
    """A run in a few lines, returns first."""
    found, plan = outcome(folder), plan_of(folder)
    parts = (f"{role} {plan['agent'][role]['kind']}" for role in ROLES)
    seeds = f"seed {found.seeds[0]}" if len(found.seeds) == 1 else f"seeds {found.seeds[0]} to {found.seeds[-1]}"
    speed = f", {found.step * len(found.seeds) / found.seconds:,.0f} steps/s" if found.seconds else ""
    lines = [("return", f"{spread(found.returns)}, mean of the last 100 training episodes{_best(found)}")]
    if found.evaluated:
        lines.append(("evaluation", f"{spread(found.evaluated)}, greedy"))
    saved = ", ".join(f"{step:,}" for step in _saved(folder)) or "none"
    return [
        *lines,
        ("step", f"{found.step:,} of {found.steps:,}, in {duration(found.seconds)}{speed}"),
        ("environment", f"{found.env}, {plan['envs']} at a time, {seeds}"),
        ("agent", f"{found.preset}: {', '.join(parts)}"),
        *_shown(plan),
        ("checkpoints", f"{saved}; {amount(bytes_in(folder))} on disk"),
        ("more", f"engram info {folder} --all tells every setting and the digest of the state"),
    ]


def _shown(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """What a run was shown before it began."""
    if plan.get("demonstrations") is None:
        return []
    demos = plan["agent"].get("demos")
    ratio = number(demos.get("ratio")) if isinstance(demos, dict) else None
    rows = number(plan.get("demonstration_rows")) or 0
    how = f"kept, {ratio:.3g} of each batch" if ratio else "in the replay until they are overwritten"
    return [("demonstrations", f"{plan['demonstrations']}, {rows:,.0f} rows, {how}")]


def _saved(folder: Path) -> list[int]:
    """The steps of the checkpoints by their names: step-000005000, or step-000005000.2 where it was saved again."""
    path = folder / "checkpoints"
    names = [] if path.is_symlink() else [one.name for one in path.glob("step-*")]
    found = (re.fullmatch(r"step-(\d+)(\.\d+)?", name, re.ASCII) for name in names)
    return sorted({int(one[1]) for one in found if one})


def _best(found: Outcome) -> str:
    """The best mean return of the run, and when, if that is not the last."""
    means = [(mean_of(of_each(row.get("return_mean"), 1)), row["step"]) for row in found.rows]
    known = [(value, step) for value, step in means if value is not None]
    if not known:
        return ""
    value, step = max(known, key=lambda one: (one[0], -one[1]))
    if step == known[-1][1]:
        return ""
    return f"; best {value:.4g} at step {step:,}"


def lines_of(folders: Sequence[Path], columns: int | None = None) -> list[str]:
    """A table with a line for each run, and one for all of them where they differ in their seeds only.

    Args:
      folders: the runs.
      columns: those of the terminal, None for any number. A run that needs more stands above its numbers.
    """
    found = [outcome(folder) for folder in folders]
    rows = [("run", "environment, agent", "seeds", "step", "return", "evaluation")]
    rows += [
        (
            str(one.folder), f"{one.env}, {one.preset}", _listed(one.seeds), f"{one.step:,}/{one.steps:,}",
            spread(one.returns), spread(one.evaluated) if one.evaluated else "-",
        )
        for one in found
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if columns is not None and max(map(len, lines)) > columns:
        lines = [part for row, line in zip(rows, lines, strict=True) for part in (row[0], line[widths[0] :])]
    groups = {one.folder.parent for one in found if one.folder.name.startswith("seed")}
    return lines + [summary(group, [one for one in found if one.folder.parent == group]) for group in sorted(groups)]


def _listed(seeds: range) -> str:
    """The seeds of a run; of very many the first and the last."""
    return ", ".join(map(str, seeds)) if len(seeds) <= LISTED else f"{seeds[0]} to {seeds[-1]}"


def summary(name: Path, found: Sequence[Outcome]) -> str:
    """Several seeds in one line: their mean return, with a 95 % interval of it."""
    greedy = all(one.evaluated for one in found)  # else those that were evaluated do not compare with the others
    returns = [value for one in found for value in (one.evaluated if greedy else one.returns)]
    what = "greedy return" if greedy else "return of the last 100 training episodes"
    seeds = sum(len(one.seeds) for one in found)
    done = {one.step for one in found}
    steps = f"{min(done):,}" if len(done) == 1 else f"{min(done):,} to {max(done):,}"
    return f"{name}: {seeds} seeds, {steps} steps, {what} {spread(returns)}"


def spread(values: Sequence[float | None]) -> str:
    """The mean; of several with its 95 % interval (Student's t) and the least and greatest value."""
    known = [value for value in values if value is not None]
    if not known:
        return "no episode ended yet"
    if len(known) == 1:
        return f"{known[0]:.4g}"
    low, high = interval(known)
    return f"{fmean(known):.4g} [{low:.4g}, {high:.4g}] ({min(known):.4g} to {max(known):.4g})"


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are known."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
