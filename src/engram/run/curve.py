"""The learning curve: a picture of `metrics.jsonl`, which holds nothing more than that file."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engram.checkpoint.disk import replace_file
from engram.run.intervals import interval
from engram.run.metrics import number, read_metrics

CURVE_FILE = "learning-curve.png"

# Colours of Okabe and Ito, told apart by every common kind of colour vision and in grey.
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"


def plot_curve(
    folder: Path | str, path: Path | str | None = None, *, title: str | None = None, runs: Sequence[Path] = ()
) -> Path:
    """Draw return (and, below it, loss) against environment steps as a PNG; the path it was written to.

    Each seed is a thin line and their mean a thick one, in a band that is its 95 % interval (Student's t), where a
    metric is a list. Works for any number of points.

    Args:
      folder: the run's directory, read by `read_metrics`.
      path: where to write; `folder/learning-curve.png` if None.
      runs: runs of one seed each to draw together, in place of the folder's own log.
      title: what the run is, such as "CartPole-v1, dqn"; the directory's name if None. The steps are added.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = together([read_metrics(run) for run in runs]) if runs else read_metrics(folder)
    path = Path(path) if path else Path(folder) / CURVE_FILE
    evaluated = [row for row in rows if row.get("evaluation_return") is not None]
    rows = [row for row in rows if "return_mean" in row or "evaluation_return" not in row]
    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(8, 5.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    name = title or Path(folder).resolve().name
    upper.set_title(plain_text(f"{name}, {steps[-1] if steps else 0:,} steps"), fontsize=11)
    _draw(upper, steps, [_seeds(row, "return_mean") for row in rows], _BLUE, "training: mean of the last 100 episodes")
    _draw_evaluations(upper, evaluated)
    _draw(lower, steps, [_seeds(row, "loss") for row in rows], _ORANGE, "mean of seeds")
    upper.set_ylabel("episode return [reward]" + ("" if evaluated else ",\nmean of the last 100 episodes"))
    lower.set_ylabel("training loss\n[mean per update]")
    along_steps(lower, max([1, *steps]))
    write_picture(figure, path)
    return path


def together(logs: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of several seeds as rows of lists: at each step that any of them logged, what each had logged last.

    NaN before a seed's first row, and after its last.
    """
    trained, evaluated = ("return_mean", "loss"), ("evaluation_return",)
    found = []
    for names in (trained, evaluated):
        own = [[row for row in log if names[0] in row] for log in logs]
        for step in sorted({row["step"] for rows in own for row in rows}):
            newest = [_at(rows, step) for rows in own]
            found.append({"step": step} | {name: [row.get(name) for row in newest] for name in names})
    return sorted(found, key=lambda row: row["step"])


def _at(rows: Sequence[Mapping[str, Any]], step: int) -> Mapping[str, Any]:
    """The newest row at a step; none before the first and after the last."""
    inside = rows and rows[0]["step"] <= step <= rows[-1]["step"]
    return next(row for row in reversed(rows) if row["step"] <= step) if inside else {}


def write_picture(figure: Any, path: Path) -> None:
    """Into `path` as a PNG, whole or not at all. Raises OSError."""
    from io import BytesIO

    picture = BytesIO()
    figure.savefig(picture, format="png")
    replace_file(path, picture.getvalue())


def plain_text(text: str) -> str:
    """What matplotlib writes as it is: a dollar sign in an environment's name is not mathematics."""
    return text.replace("$", r"\$")


def along_steps(axes: Any, last: float) -> None:
    """The axis of environment steps."""
    axes.set_xlabel("environment steps")
    axes.set_xlim(0, 1.03 * last)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def tidy(axes: Any) -> None:
    """A faint grid, and no frame above and on the right."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _seeds(row: Mapping[str, Any], name: str) -> list[float]:
    """The metric of each seed, NaN where it is unknown; one entry where seeds are not told apart."""
    value = row.get(name)
    known = [number(item) for item in (value if isinstance(value, list) else [value])]
    return [math.nan if item is None else item for item in known]


def _draw(axes: Any, steps: list[int], points: list[list[float]], colour: str, label: str) -> None:
    """Thin lines for seeds, a thick one for their mean, dots where there are too few points for a line."""
    marker = "o" if len(steps) <= 20 else None
    count = max(map(len, points), default=1)
    if count > 1:
        for seed in range(count):
            own = [point[seed] if seed < len(point) else math.nan for point in points]
            each = f"each of {count} seeds" if seed == 0 else None
            axes.plot(steps, own, color=colour, linewidth=0.8, alpha=0.4, label=each)
        bounds = [interval(known) if len(known) > 1 else (math.nan, math.nan) for known in map(_known, points)]
        low, high = zip(*bounds, strict=True) if bounds else ((), ())
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0, label="95 % interval of the mean")
    mean = [_mean(point) for point in points]
    axes.plot(steps, mean, color=colour, linewidth=2, marker=marker, markersize=4, label=label)
    if count > 1:
        axes.legend(loc="best", frameon=False, fontsize=8)
    if all(map(math.isnan, mean)):
        axes.text(0.5, 0.5, "no value logged yet", ha="center", va="center", transform=axes.transAxes)
        axes.set_yticks([])
    tidy(axes)


def _draw_evaluations(axes: Any, rows: list[dict[str, Any]]) -> None:
    """The mean return of each evaluation, over seeds too; its best value has a ring."""
    if not rows:
        return
    points = [(row["step"], _mean(_seeds(row, "evaluation_return"))) for row in rows]
    steps, means = zip(*points, strict=True)
    axes.plot(steps, means, color=_GREEN, linewidth=1.5, marker="s", markersize=4, label="evaluation: greedy episodes")
    best = max(points, key=lambda point: (-math.inf if math.isnan(point[1]) else point[1], point[0]))
    axes.plot(*best, color=_GREEN, marker="o", markersize=10, fillstyle="none", label=f"best evaluation: {best[1]:.4g}")
    axes.legend(loc="best", frameon=False, fontsize=8)


def _known(values: list[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _mean(values: list[float]) -> float:
    known = _known(values)
    return sum(known) / len(known) if known else math.nan
