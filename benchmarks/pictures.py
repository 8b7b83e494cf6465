"""Pictures of results: learning curves of several seeds, and what memories cost."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Of Okabe and Ito: told apart by every common kind of colour vision.
BLUE, ORANGE = "#0072B2", "#D55E00"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def draw_learning(path: Path, title: str, runs: Sequence[dict[str, Any]], stops: Sequence[int] = ()) -> None:
    """A thin line for each run, a thick one for their mean, a dot for each final evaluation; PNG.

    Args:
      runs: each with `curve` ({"steps", "returns"}, None where no episode had ended) and `mean`, its evaluation.
      stops: steps at which the run was stopped and resumed.
    """
    figure = Figure(figsize=(8, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for index, run in enumerate(runs):
        label = f"each of {len(runs)} seeds" if index == 0 and len(runs) > 1 else None
        axes.plot(*known(run["curve"]), color=BLUE, linewidth=0.8, alpha=0.4, label=label)
    axes.plot(*average([run["curve"] for run in runs]), color=BLUE, linewidth=2, label="mean while training")
    end = max(run["curve"]["steps"][-1] for run in runs)
    axes.plot([end] * len(runs), [run["mean"] for run in runs], "o", color=ORANGE, markersize=5, alpha=0.6,
              clip_on=False, label="greedy evaluation at the end")  # fmt: skip
    for index, step in enumerate(stops):
        axes.axvline(step, color="0.4", linewidth=1, linestyle="--", label=None if index else "stopped and resumed")
    axes.set_title(title.replace("$", r"\$"), fontsize=11)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("episode return,\nmean of the last 100 episodes")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlim(0, end)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="best", frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.part")
    figure.savefig(half, format="png")
    half.replace(path)


def draw_costs(path: Path, title: str, lines: Mapping[str, Sequence[tuple[int, float, float | None]]]) -> None:
    """Milliseconds of a read against entries, both logarithmic; beside each point its recall where it is below 1; PNG.

    Args:
      lines: for each name its points: entries, milliseconds, recall. One called `floor` is dashed.
    """
    figure = Figure(figsize=(8, 4.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for index, (name, points) in enumerate(lines.items()):
        colour, floor = COLOURS[index % len(COLOURS)], name == "floor"
        colour = "0.4" if floor else colour
        entries, milliseconds = [point[0] for point in points], [point[1] for point in points]
        axes.plot(entries, milliseconds, "--" if floor else "o-", color=colour, linewidth=1.5, markersize=4, label=name)
        for x, y, recall in points:
            if recall is not None and recall < 0.995:
                axes.annotate(
                    f"{recall:.2f}", (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7, color=colour
                )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_title(title.replace("$", r"\$"), fontsize=11)
    axes.set_xlabel("entries")
    axes.set_ylabel("milliseconds of one read\n(beside it: recall, where below 1)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="best", frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.part")
    figure.savefig(half, format="png")
    half.replace(path)


def known(curve: dict[str, list[Any]]) -> tuple[list[int], list[float]]:
    """The points of a curve at which an episode had ended."""
    points = [(step, value) for step, value in zip(curve["steps"], curve["returns"], strict=True) if value is not None]
    return [step for step, _ in points], [value for _, value in points]


def average(curves: Sequence[dict[str, list[Any]]]) -> tuple[list[int], list[float]]:
    """The mean over curves at every step that all of them know; they are logged at the same steps."""
    tables = [dict(zip(*known(curve), strict=True)) for curve in curves]
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    return steps, [math.fsum(table[step] for table in tables) / len(tables) for step in steps]
