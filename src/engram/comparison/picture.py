"""A comparison as a picture: curves, final levels and performance profiles, with their 95 % intervals."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engram.comparison import statistics as stats
from engram.errors import WriteFailed, unwritten
from engram.run.curve import along_steps, plain_text, tidy, write_picture

if TYPE_CHECKING:
    from engram.comparison.compare import Comparison

# Colours of Okabe and Ito; with the strokes, 21 groups can be told apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STROKES = ("-", "--", ":")
POINTS = 100  # of a curve
LONGEST = 40  # characters of a name
LARGEST = 60_000  # dots in height, of the 65,536 that a picture can have


def plot(comparison: "Comparison", path: Path) -> Path:
    """See `Comparison.plot`."""
    try:
        write_picture(draw(comparison), path)
    except OSError as error:
        raise WriteFailed(unwritten(path, error)) from None
    return path


def draw(comparison: "Comparison") -> Any:
    """The figure: a row for each environment, and one over all of them where they are normalised."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    envs, over = list(comparison.metrics), comparison.over_tasks
    rows = len(envs) + bool(over)
    height = 3.6 * rows
    figure = Figure(figsize=(13, height), dpi=min(110, LARGEST / height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, 3, squeeze=False, width_ratios=(1.6, 1, 1))
    agents = list(dict.fromkeys(group.agent for group in comparison.groups))
    styles = {
        agent: {"color": COLOURS[place % len(COLOURS)], "linestyle": STROKES[place // len(COLOURS) % len(STROKES)]}
        for place, agent in enumerate(agents)
    }
    for place, env in enumerate(envs):
        _curves(grid[place, 0], comparison, env, styles)
        table = [row for row in comparison.table if row["env"] == env]
        _levels(grid[place, 1], table, styles, "final return, IQM")
        _profile(grid[place, 2], comparison.profiles[env], styles, "final return above")
    if over:
        grid[-1, 0].axis("off")
        scales = [f"{env}: {low:.4g} is 0, {high:.4g} is 1" for env, (low, high) in over["scales"].items()]
        text = "\n".join(["over environments:", *scales])
        grid[-1, 0].text(0, 0.95, plain_text(text), va="top", fontsize=9, transform=grid[-1, 0].transAxes)
        _levels(grid[-1, 1], over["table"], styles, "normalised final return, IQM")
        _profile(grid[-1, 2], over["profile"], styles, "normalised final return above")
    return figure


def _curves(axes: Any, comparison: "Comparison", env: str, styles: dict[str, Any]) -> None:
    """The IQM over seeds at each step, in its interval, from where every seed has logged."""
    greedy = comparison.metrics[env] == "evaluation_return"
    groups = comparison.of(env)
    for group in groups:
        first = max(curve.steps[0] for curve in group.curves)
        steps = np.linspace(min(first, group.until), group.until, POINTS)
        scores = [np.stack([curve.at(steps) for curve in group.curves], axis=-1)]  # [points, seeds]
        low, high = _band(comparison, scores[0])
        style = styles[group.agent]
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
        axes.plot(steps, stats.iqm(scores), linewidth=2, label=_name(group.agent, len(group.curves)), **style)
    axes.set_title(plain_text(env), fontsize=11)
    axes.set_ylabel("greedy return" if greedy else "episode return,\nmean of the last 100")
    along_steps(axes, groups[0].until)
    axes.legend(loc="best", frameon=False, fontsize=8)
    tidy(axes)


def _band(comparison: "Comparison", scores: stats.Array) -> tuple[stats.Value, stats.Value]:
    """The interval at each point: the same seeds are drawn for the whole curve."""
    return comparison.interval(lambda drawn: stats.iqm([drawn[0].swapaxes(-1, -2)]), [scores.T])


def _levels(axes: Any, table: list[dict[str, Any]], styles: dict[str, Any], label: str) -> None:
    for place, row in enumerate(reversed(table)):
        colour = styles[row["agent"]]["color"]
        low, high, value = (row[f"final_iqm{end}"] for end in ("_low", "_high", ""))
        axes.plot([low, high], [place, place], color=colour, linewidth=8, alpha=0.35, solid_capstyle="butt")
        axes.plot([value], [place], color=colour, marker="|", markersize=14, markeredgewidth=2.5)
    axes.set_yticks(range(len(table)), [_name(row["agent"]) for row in reversed(table)], fontsize=8)
    axes.set_ylim(-0.6, len(table) - 0.4)
    axes.set_xlabel(label)
    tidy(axes)


def _profile(axes: Any, profile: dict[str, Any], styles: dict[str, Any], label: str) -> None:
    for agent, shares in profile["agents"].items():
        style = styles[agent]
        axes.fill_between(
            profile["thresholds"], shares["low"], shares["high"], color=style["color"], alpha=0.15, linewidth=0
        )
        axes.plot(profile["thresholds"], shares["share"], linewidth=2, **style)
    axes.set_xlabel(label)
    axes.set_ylabel("share of runs")
    axes.set_ylim(-0.02, 1.02)
    tidy(axes)


def _name(agent: str, seeds: int | None = None) -> str:
    """A label of matplotlib, which hides those that begin with a line below."""
    short = agent if len(agent) <= LONGEST else agent[: LONGEST - 3] + "..."
    return plain_text(short.lstrip("_") + ("" if seeds is None else f", {seeds} seeds"))
