"""Learning curves of several seeds in one picture."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito: told apart by every common kind of colour vision


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


def known(curve: dict[str, list[Any]]) -> tuple[list[int], list[float]]:
    """The points of a curve at which an episode had ended."""
    points = [(step, value) for step, value in zip(curve["steps"], curve["returns"], strict=True) if value is not None]
    return [step for step, _ in points], [value for _, value in points]


def average(curves: Sequence[dict[str, list[Any]]]) -> tuple[list[int], list[float]]:
    """The mean over curves at every step that all of them know; they are logged at the same steps."""
    tables = [dict(zip(*known(curve), strict=True)) for curve in curves]
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    return steps, [math.fsum(table[step] for table in tables) / len(tables) for step in steps]
