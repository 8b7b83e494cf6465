"""A comparison in words: a table for a terminal, plain lines for a file, and the same cells for a page."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engram.run.display import clean

if TYPE_CHECKING:
    from rich.table import Table

    from engram.comparison.compare import Comparison

HEAD = ("agent", "seeds", "final, IQM", "last tenth", "area, IQM", "to 50 %", "to 90 %")
OVER_HEAD = ("agent", "IQM", "mean", "median")
MEANING = (
    "final: return at the last step; last tenth: mean and deviation over its time; area: mean return under the "
    "curve; to 50 %: steps, median over seeds, (4/5): so many seeds got there; [ ]: 95 % interval, stratified "
    "bootstrap over seeds"
)


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the table as texts, in the order of `HEAD`."""
    return [
        row["agent"], str(row["seeds"]), _estimate(row, "final_iqm"),
        f"{amount(row['converged_mean'])} ±{amount(row['spread'])}", _estimate(row, "area_iqm"),
        *(_steps(row, share) for share in ("50", "90")),
    ]  # fmt: skip


def over_cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the table over environments as texts, in the order of `OVER_HEAD`."""
    return [row["agent"], *(_estimate(row, f"final_{kind}") for kind in ("iqm", "mean", "median"))]


def titles(comparison: "Comparison") -> dict[str, str]:
    """The heading of each environment's table."""
    steps = {row["env"]: row["steps"] for row in comparison.table}
    return {env: f"{env}, {steps[env]:,} steps" for env in comparison.metrics}


def levels(comparison: "Comparison", env: str) -> str:
    """From where to where 50 and 90 % are counted."""
    found = comparison.levels[env]
    if found["reference"] <= found["start"]:
        return (
            f"no steps to 50 and 90 % are told: the reference {amount(found['reference'])} is not above "
            f"{amount(found['start'])}, where the curves begin on average"
        )
    reference = "as given" if found["of"] is None else f"the final IQM of {found['of']}"
    return (
        f"50 and 90 % of the way from {amount(found['start'])}, where the curves begin on average, to "
        f"{amount(found['reference'])}, {reference}"
    )


def against_best(rows: Sequence[Mapping[str, Any]], pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each agent: how probable it is that the best one's runs end higher."""
    best = max(rows, key=lambda row: row["final_iqm"])["agent"]
    said = []
    for pair in pairs:
        if best not in (pair["agent"], pair["other"]):
            continue
        share, low, high = pair["probability"], pair["low"], pair["high"]
        other = pair["other"]
        if other == best:
            share, low, high, other = 1 - share, 1 - high, 1 - low, pair["agent"]
        said.append(f"P({best} ends higher than {other}) = {share:.2f} [{low:.2f}, {high:.2f}]")
    return said


def generalisation(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each group that was played elsewhere."""
    return [
        f"{row['agent']}: {amount(row['train_return'])} where it learned, {amount(row['test_return'])} elsewhere, "
        f"gap {_estimate(row, 'gap_mean')}"
        for row in rows if "gap_mean" in row
    ]  # fmt: skip


def below(comparison: "Comparison", env: str) -> list[str]:
    """What is said under the table of an environment."""
    rows = [row for row in comparison.table if row["env"] == env]
    pairs = [pair for pair in comparison.pairs if pair["env"] == env]
    return [*against_best(rows, pairs), *generalisation(rows), levels(comparison, env)]


def closing(comparison: "Comparison") -> list[str]:
    """What is said at the end."""
    notes = [MEANING, *comparison.notes, f"{comparison.resamples:,} resamples by seed {comparison.seed}"]
    return [*(f"left out: {sentence}" for sentence in comparison.left_out), *notes]


def lines(comparison: "Comparison") -> list[str]:
    """Everything as plain lines, the cells of a table below each other."""
    found: list[str] = []
    for env, title in titles(comparison).items():
        rows = [cells(row) for row in comparison.table if row["env"] == env]
        found += [title, *_columns([list(HEAD), *rows]), *below(comparison, env), ""]
    if comparison.over_tasks:
        rows = [over_cells(row) for row in comparison.over_tasks["table"]]
        found += [over_title(comparison), *_columns([list(OVER_HEAD), *rows]), *over_below(comparison), ""]
    return [clean(line) for line in [*found, *closing(comparison)]]


def over_title(comparison: "Comparison") -> str:
    """The heading of the table over environments."""
    count = len((comparison.over_tasks or {})["scales"])
    return f"{count} environment{'s' * (count > 1)}, final return normalised"


def over_below(comparison: "Comparison") -> list[str]:
    """What is said under the table over environments."""
    over = comparison.over_tasks or {}
    scales = [f"{env}: {amount(low)} is 0, {amount(high)} is 1" for env, (low, high) in over["scales"].items()]
    return [*against_best(over["table"], over["pairs"]), *scales]


def show(comparison: "Comparison", console: Any) -> None:
    """On a terminal: tables of rich, no wider than it."""
    from rich.text import Text

    def say(sentences: Sequence[str], style: str = "") -> None:
        for sentence in sentences:
            console.print(Text(clean(sentence), style=style))

    for env, title in titles(comparison).items():
        rows = [cells(row) for row in comparison.table if row["env"] == env]
        short = [[*row[:-2], "\n".join(row[-2:])] for row in rows]  # both numbers of steps in one column
        console.print(_table(title, (*HEAD[:-2], ", ".join(HEAD[-2:])), short))
        say([*below(comparison, env), ""])
    if comparison.over_tasks:
        rows = [over_cells(row) for row in comparison.over_tasks["table"]]
        console.print(_table(over_title(comparison), OVER_HEAD, rows))
        say([*over_below(comparison), ""])
    say(closing(comparison), "dim")


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    """Estimates stand over their intervals, so that the table fits 80 columns."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(clean(title)), title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="bold")
    for place, name in enumerate(head):
        table.add_column(name.replace(", ", "\n"), justify="right" if place else "left", overflow="fold")
    for row in rows:
        lines = ([clean(line) for line in cell.split("\n")] for cell in row)
        table.add_row(*(Text("\n".join(each).replace(" [", "\n[").replace(" ±", "\n±")) for each in lines))
    return table


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _estimate(row: Mapping[str, Any], name: str) -> str:
    return f"{amount(row[name])} [{amount(row[f'{name}_low'])}, {amount(row[f'{name}_high'])}]"


def _steps(row: Mapping[str, Any], share: str) -> str:
    """The median of the steps; where not every seed got there, how many did."""
    count, steps = row[f"reached_{share}"], row[f"steps_to_{share}"]
    few = "" if count == row["seeds"] else f" ({count}/{row['seeds']})"
    return ("-" if math.isinf(steps) else f"{steps:,.0f}") + few


def amount(value: float) -> str:
    """A number in four figures, or whole."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"
