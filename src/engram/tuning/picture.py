"""A study as a picture: the score of each trial with the best so far, and the scores against each setting."""

import math
from typing import TYPE_CHECKING, Any

from engram.run.curve import plain_text, tidy
from engram.tuning.space import Dimension, Number
from engram.tuning.study import COMPLETE, PRUNED

if TYPE_CHECKING:
    from engram.tuning.result import Tuned

# Colours of Okabe and Ito.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
COLUMNS = 4


def draw(tuned: "Tuned") -> Any:
    """The figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    space = tuned.task.space
    rows = math.ceil(len(space) / COLUMNS)
    figure = Figure(figsize=(12, 3.6 + 2.4 * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1 + rows, COLUMNS, height_ratios=[1.4, *[1] * rows])
    _trials(figure.add_subplot(grid[0, :]), tuned)
    for place, one in enumerate(space):
        _setting(figure.add_subplot(grid[1 + place // COLUMNS, place % COLUMNS]), tuned, one)
    return figure


def _trials(axes: Any, tuned: "Tuned") -> None:
    whole, pruned = _of(tuned, COMPLETE), _of(tuned, PRUNED)
    axes.plot([one["number"] for one in whole], [one["value"] for one in whole], "o", color=BLUE, label="complete")
    seen = [one for one in pruned if one["seen"] is not None]
    axes.plot(
        [one["number"] for one in seen], [one["seen"] for one in seen], "x", color=ORANGE,
        label="given up, at its last evaluation" if seen else None,
    )  # fmt: skip
    best = [max(one["value"] for one in whole[: place + 1]) for place in range(len(whole))]
    axes.step([one["number"] for one in whole], best, where="post", color=GREEN, linewidth=2, label="best so far")
    if tuned.default is not None:
        axes.axhline(tuned.default["value"], color="0.5", linestyle="--", linewidth=1, label="defaults")
    axes.set_title(plain_text(f"{tuned.task.env}, {tuned.task.run['steps']:,} steps a trial"), fontsize=11)
    axes.set_xlabel("trial")
    axes.set_ylabel("greedy return,\nmean of the last tenth")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="best", frameon=False, fontsize=8)
    tidy(axes)


def _setting(axes: Any, tuned: "Tuned", one: Dimension) -> None:
    """The scores of complete trials against one setting; the defaults have a ring."""
    whole = _of(tuned, COMPLETE)
    texts = [_text(tuned, trial, one) for trial in whole]
    values: list[Any] = [float(text) for text in texts] if isinstance(one, Number) else texts
    if not isinstance(one, Number):
        known = list(dict.fromkeys([*one.values, *texts]))
        values = [known.index(text) for text in texts]
        axes.set_xticks(range(len(known)), known, fontsize=7, rotation=30)
        axes.set_xlim(-0.5, len(known) - 0.5)
    elif one.log:
        axes.set_xscale("log")
    axes.plot(values, [trial["value"] for trial in whole], "o", color=BLUE, markersize=4)
    ringed = [place for place, trial in enumerate(whole) if trial["default"]]
    axes.plot(
        [values[place] for place in ringed], [whole[place]["value"] for place in ringed], "o", color="0.3",
        markersize=10, fillstyle="none",
    )  # fmt: skip
    axes.set_xlabel(one.path, fontsize=8)
    axes.tick_params(labelsize=7)
    tidy(axes)


def _of(tuned: "Tuned", outcome: str) -> list[dict[str, Any]]:
    return [trial for trial in tuned.trials if trial["outcome"] == outcome]


def _text(tuned: "Tuned", trial: dict[str, Any], one: Dimension) -> str:
    return trial["settings"].get(one.path, str(tuned.task.defaults[one.path]))
