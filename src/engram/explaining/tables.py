"""What an explanation holds as plain tables, for a spreadsheet or a notebook."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engram.checkpoint.disk import replace_file
from engram.errors import WriteFailed
from engram.explaining.moments import Step, Told

Table = list[list[Any]]  # the first row names the columns
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a text begins that a spreadsheet would run


def tables(told: Told) -> dict[str, Table]:
    """The tables of `told` by name: of its steps, of what they read and saw, and of the whole."""
    return {
        "steps": _steps(told),
        "actions": _actions(told.steps),
        "memories": _memories(told),
        "attention": _attention(told.steps),
        "recall": _recall(told.steps),
        "observed": _observed(told.steps),
        "moments": _moments(told),
        "faithfulness": _faithfulness(told),
        "worlds": _worlds(told),
        "health": _health(told),
    }


def write_csv(told: Told, folder: str | Path) -> list[Path]:
    """Write each table of `told` with rows as a CSV file (UTF-8) in `folder`, and return the files.

    A text that a spreadsheet would run as a formula is preceded by an apostrophe, a number is not. Raises
    `WriteFailed`.
    """
    folder = Path(folder)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in tables(told).items():
            if len(rows) < 2:
                continue
            path = folder / f"{name}.csv"
            text = io.StringIO(newline="")
            csv.writer(text).writerows([_cell(value) for value in row] for row in rows)
            replace_file(path, text.getvalue().encode())
            written.append(path)
    except OSError as error:
        raise WriteFailed(f"the tables could not be written to {folder}: {error}") from error
    return written


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        text = value.encode("utf-8", "backslashreplace").decode("utf-8")
        return "'" + text if text.startswith(FORMULA) and not _is_number(text) else text
    return int(value) if isinstance(value, bool) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _names(kind: str, told: Told) -> list[str]:
    return [f"{kind} {name}" for name in told.actions]


def _named(told: Told, action: int, step: Step | None = None) -> str:
    names = (step and step.called) or told.actions
    return names[action] if 0 <= action < len(names) else ""


def _steps(told: Told) -> Table:
    names = ["episode", "t", "action", "runner_up", "reward", "terminated", "truncated", "value", "margin"]
    parts = ["from_network", "from_memories", "rest", "other_memories", "other_weight", "other_gave"]
    # A critic of states gives every action the same number, which is in `value`.
    of_actions = told.unit == "Q" or any(len(set(step.q)) > 1 for step in told.steps)
    q = _names("q", told) if of_actions else []
    lists = [*q, *_names("preference", told), *_names("without_memories", told)]
    rows: Table = [[*names, *parts, *lists, "sentence"]]
    for step in told.steps:
        numbers = [getattr(step, name) for name in names]
        numbers[2], numbers[3] = _named(told, step.action, step), _named(told, step.runner_up, step)
        split = [step.from_network, step.from_memories, step.rest, *step.others]
        without = step.without_memories or [None] * len(told.actions)
        rows.append([*numbers, *split, *step.q[: len(q)], *step.preference, *without, step.sentence])
    return rows


def _actions(steps: Iterable[Step]) -> Table:
    """What was on offer at each step, where that changes."""
    rows: Table = [["episode", "t", "number", "action", "allowed", "q", "preference"]]
    for step in steps:
        each = enumerate(step.called)
        rows += [[step.episode, step.t, i, name, step.allowed[i], step.q[i], step.preference[i]] for i, name in each]
    return rows


def _memories(told: Told) -> Table:
    names = ["id", "action", "looked_at", "gave", "mattered", "value", "environment", "episode", "step", "age", "reads"]
    rows: Table = [["episode_told", "t", *names, *_names("without", told)]]
    for step in told.steps:
        for memory in step.memories:
            values = [getattr(memory, name) for name in names]
            values[1] = _named(told, memory.action, step)
            rows.append([step.episode, step.t, *values, *(memory.without or [None] * len(told.actions))])
    return rows


def _attention(steps: Iterable[Step]) -> Table:
    rows: Table = [["episode", "t", "head", "part", "value", "weight", "mattered"]]
    for step in steps:
        mattered = {step.parts[place].name: by for place, by in step.parts_mattered}
        for head, weights in enumerate(step.attention):
            pairs = zip(step.parts, weights, strict=True)
            rows += [
                [step.episode, step.t, head + 1, part.name, part.value, float(weight), mattered.get(part.name)]
                for part, weight in pairs
            ]
        if not len(step.attention):
            rows += [[step.episode, step.t, None, name, None, None, by] for name, by in mattered.items()]
    return rows


def _worlds(told: Told) -> Table:
    rows: Table = [["episode", "edit", "edited_step", "asked_step", "before", "after", "named_first", "is_the_edited"]]
    for one in told.worlds:
        chosen = [_named(told, one.before), _named(told, one.after)]
        rows.append([one.episode, one.edit, one.step, one.asked, *chosen, one.first, one.named])
    return rows


def _recall(steps: Iterable[Step]) -> Table:
    rows: Table = [["episode", "t", "earlier_step", "recalled", "still_moves"]]
    for step in steps:
        recalled, moves = dict(step.recalled), dict(step.still_moves)
        for earlier in sorted({*recalled, *moves}):
            rows.append([step.episode, step.t, earlier, recalled.get(earlier), moves.get(earlier)])
    return rows


def _observed(steps: Iterable[Step]) -> Table:
    rows: Table = [["episode", "t", "name", "value"]]
    return rows + [[step.episode, step.t, name, value] for step in steps for name, value in step.facts]


def _moments(told: Told) -> Table:
    rows: Table = [["episode", "t", "why"]]
    return rows + [[told.steps[place].episode, told.steps[place].t, why] for place, why in told.moments]


def _faithfulness(told: Told) -> Table:
    names = ["what", "score", "low", "high", "agreement", "agreement_low", "agreement_high", "shuffled",
             "reinitialised", "flips", "samples", "verdict", "notes"]  # fmt: skip
    curves = ["ours", "random", "random_low", "random_high", "least", "oracle"]
    rows: Table = [[*names, "way", "size", *curves]]
    for each in told.faithful:
        bounds = *(each.interval or (None, None)), each.agreement, *(each.agreement_interval or (None, None))
        head = [each.what, each.score, *bounds, each.shuffled, each.reinitialised, each.flips, each.samples,
                each.verdict, "; ".join(each.notes)]  # fmt: skip
        for curve in each.curves:
            for at, size in enumerate(curve.sizes):
                band = curve.random_interval[at]
                values = [curve.ours[at], curve.random[at], *band, curve.least[at], curve.oracle[at]]
                rows.append([*head, curve.way, size, *values])
        if not each.curves:
            rows.append([*head, *[None] * 8])
    return rows


def _health(told: Told) -> Table:
    rows: Table = [["name", "value", "state", "rule"]]
    if told.health is not None:
        rows.append(["entries", f"{told.health.entries} of {told.health.capacity}", "", ""])
        rows += [[light.name, light.value, light.state, light.rule] for light in told.health.lights]
    return rows
