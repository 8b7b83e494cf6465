"""Draws docs/img/route.png: the route of one experience through the package.

uv run python docs/img/route.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ACT, LEARN, STORE, MEMORY, WORLD = "#dbe9f6", "#fbe5d0", "#e4f0dc", "#eadff2", "#ececec"
LINE, FAINT = "#333333", "#777777"

# name: (x, y, width, height, title, folder or file, colour); x and y are the centre.
BOXES = {
    "observation": (1.5, 7.45, 1.9, 0.95, "observation", "envs/", WORLD),
    "look": (4.4, 7.45, 2.2, 0.95, "look", "agents/policy.py", ACT),
    "explore": (7.4, 7.45, 2.1, 0.95, "explore", "exploration/", ACT),
    "environment": (10.35, 7.45, 2.1, 0.95, "environment step", "envs/", WORLD),
    "block": (13.1, 7.45, 2.0, 0.95, "block of steps", "runners/collector.py", ACT),
    "network": (4.4, 5.75, 2.7, 1.15, "encoder, working\nmemory, head", "encoders/ working/ heads/", ACT),
    "consult": (7.4, 5.75, 2.1, 0.95, "consult", "agents/recall/reading.py", MEMORY),
    "external": (7.4, 3.85, 2.1, 0.95, "external memory", "external/", MEMORY),
    "line": (10.35, 3.85, 2.1, 0.95, "line of actions", "agents/recall/line.py", MEMORY),
    "observe": (13.1, 3.85, 2.0, 0.95, "observe", "agents/q_learning.py", STORE),
    "ring": (13.1, 2.4, 2.0, 0.95, "ring of rows", "replay/ring.py", STORE),
    "draw": (13.1, 0.95, 2.0, 0.95, "draw", "replay/draw.py", LEARN),
    "examples": (10.35, 0.95, 2.1, 0.95, "examples", "agents/examples.py", LEARN),
    "bootstrap": (7.4, 0.95, 2.1, 0.95, "bootstrap", "losses/bootstrap.py", LEARN),
    "loss": (4.4, 0.95, 2.1, 0.95, "loss", "losses/loss.py", LEARN),
    "optimizer": (1.5, 0.95, 2.1, 0.95, "optimizer, target", "agents/optimizing.py", LEARN),
}
# from, its side, to, its side, label, offset of the label from the middle, dashed: only with an external memory
ARROWS = [
    ("observation", "e", "look", "w", "Seen", (0, 0.17), False),
    ("look", "e", "explore", "w", "Decision", (0, 0.17), False),
    ("explore", "e", "environment", "w", "action", (0, 0.17), False),
    ("environment", "e", "block", "w", "row", (0, 0.17), False),
    ("look", "s", "network", "n", "", (0, 0), False),
    ("block", "s", "observe", "n", "Experience", (0.55, 0.55), False),
    ("observe", "s", "ring", "n", "rows", (0.32, 0), False),
    ("ring", "s", "draw", "n", "Replay", (0.4, 0), False),
    ("draw", "w", "examples", "e", "Drawn", (0, 0.17), False),
    ("examples", "w", "bootstrap", "e", "Following", (0, 0.17), False),
    ("bootstrap", "w", "loss", "e", "target", (0, 0.17), False),
    ("loss", "w", "optimizer", "e", "gradient", (0, 0.17), False),
    ("network", "e", "consult", "w", "Query", (0, 0.17), True),
    ("external", "n", "consult", "s", "entries", (0.4, -0.28), True),
    ("external", "s", "bootstrap", "n", "entries", (0.4, 0), True),
    ("observe", "w", "line", "e", "Record", (0, 0.17), True),
    ("line", "w", "external", "e", "write", (0, 0.17), True),
]


def side(box: tuple, which: str) -> tuple[float, float]:
    """The middle of one side of a box."""
    x, y, width, height = box[:4]
    dx, dy = {"e": (1, 0), "w": (-1, 0), "n": (0, 1), "s": (0, -1)}[which]
    return x + dx * width / 2, y + dy * height / 2


def main() -> None:
    """Draws the figure."""
    figure, axes = plt.subplots(figsize=(14.6, 8.7), dpi=110)
    axes.set(xlim=(0, 14.6), ylim=(0.0, 8.7))
    axes.set_axis_off()
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.995)
    frame(axes, 0.12, 5.0, 14.36, 3.5, 0.15, "host: the collector (Python) acts with the mind of one block ago")
    frame(axes, 0.12, 0.2, 14.36, 4.55, 1.6, "host: the learner (XLA's thread) takes in one block in one compiled call")
    for x, y, width, height, title, place, colour in BOXES.values():
        shape = FancyBboxPatch(
            (x - width / 2, y - height / 2), width, height, "round,pad=0,rounding_size=0.1", fc=colour, ec=LINE, lw=1.1
        )
        axes.add_patch(shape)
        lines = title.count("\n")
        axes.text(x, y + 0.13 + 0.02 * lines, title, ha="center", va="center", fontsize=11.5, color="black")
        axes.text(
            x, y - 0.24 - 0.13 * lines, place, ha="center", va="center", fontsize=8.6, color=FAINT, family="monospace"
        )
    for start, leaves, end, enters, label, (dx, dy), dashed in ARROWS:
        arrow(axes, side(BOXES[start], leaves), side(BOXES[end], enters), label, (dx, dy), dashed)
    lag(axes)
    axes.text(
        14.3, 8.3, "dashed arrows: with an external memory", ha="right", va="center", fontsize=10, color="#555555"
    )
    figure.savefig(Path(__file__).with_name("route.png"))


def frame(axes, x: float, y: float, width: float, height: float, indent: float, text: str) -> None:
    """A dashed frame with a line of text, `indent` from its left."""
    axes.add_patch(
        FancyBboxPatch(
            (x, y), width, height, "round,pad=0,rounding_size=0.15", fc="none", ec="#aaaaaa", lw=1.2, ls=(0, (5, 3))
        )
    )
    axes.text(x + indent, y + height - 0.2, text, ha="left", va="center", fontsize=10, color="#555555", style="italic")


def arrow(axes, start, end, label: str, offset: tuple[float, float], dashed: bool) -> None:
    """An arrow, its label beside the middle."""
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=14,
            lw=1.3,
            color=LINE,
            ls="--" if dashed else "-",
            shrinkA=0,
            shrinkB=0,
        )
    )
    middle = (start[0] + end[0]) / 2 + offset[0], (start[1] + end[1]) / 2 + offset[1]
    axes.text(*middle, label, ha="center", va="center", fontsize=8.8, color="#444444")


def lag(axes) -> None:
    """What acts next: the mind, from the optimizer back to the network."""
    path = {"connectionstyle": "angle,angleA=90,angleB=0,rad=8", "arrowstyle": "-|>", "mutation_scale": 14}
    start, end = side(BOXES["optimizer"], "n"), side(BOXES["network"], "w")
    axes.add_patch(FancyArrowPatch(start, end, lw=1.3, color=LINE, shrinkA=0, shrinkB=0, **path))
    text = "Mind: parameters\nand external memory,\none block later"
    axes.text(1.65, 2.75, text, ha="left", va="center", fontsize=8.8, color="#444444")


if __name__ == "__main__":
    main()
