"""The crossroads of `engram/Intersection-v0`, seen from above."""

from functools import lru_cache
from math import cos, sin
from typing import Any

import jax
import numpy as np

from engram.envs.drawing.canvas import BLUE, INK, ORANGE, RED, WHITE, YELLOW, Canvas, Colour, Picture
from engram.envs.tasks.intersection import ROWS, observe
from engram.envs.tasks.traffic import LENGTH, WIDTH

SIDE = 160
SEEN = 48.0  # m from the middle of the crossing to every side of the picture
SCALE = SIDE / (2 * SEEN)  # pixels per metre
ROAD = 4.0  # m, half of its width
LARGER = 1.4  # times as large as they are, vehicles are easier to see
Box = tuple[float, float, float, float]
GRASS, ASPHALT = (206, 219, 190), (128, 130, 138)


def crossing(env: Any, state: Any) -> Picture:  # noqa: ARG001
    """Roads, and all vehicles in view, the agent's with a bright roof. Who has crashed is red."""
    canvas = Canvas(SIDE, SIDE, GRASS)
    near, far = (SEEN - ROAD) * SCALE, (SEEN + ROAD) * SCALE
    canvas.rectangle(0, near, SIDE, far, ASPHALT)
    canvas.rectangle(near, 0, far, SIDE, ASPHALT)
    middle = SIDE / 2
    for begin in np.arange(2.0, SIDE, 9):
        if not near - 4 < begin < far:
            canvas.rectangle(begin, middle - 0.5, begin + 5, middle + 0.5, WHITE, 0.8)
            canvas.rectangle(middle - 0.5, begin, middle + 0.5, begin + 5, WHITE, 0.8)
    traffic = jax.tree.map(np.asarray, state.traffic)
    for one in reversed(np.flatnonzero(traffic.present)):  # the agent's own last, above the others
        where = float(traffic.x[one]), float(traffic.y[one]), float(traffic.heading[one])
        colour = RED if traffic.crashed[one] else ORANGE if one == 0 else BLUE
        _vehicle(canvas, *where, colour, bool(one == 0))
    return canvas.picture()


def _vehicle(canvas: Canvas, x: float, y: float, heading: float, colour: Colour, own: bool) -> None:
    def place(ahead: float, aside: float) -> tuple[float, float]:
        ahead, aside = LARGER * ahead, LARGER * aside
        right, down = x + ahead * cos(heading) - aside * sin(heading), y + ahead * sin(heading) + aside * cos(heading)
        return (right + SEEN) * SCALE, (down + SEEN) * SCALE

    def box(back: float, front: float, half: float) -> list[tuple[float, float]]:
        return [place(back, -half), place(front, -half), place(front, half), place(back, half)]

    canvas.polygon(box(-LENGTH / 2 - 0.5, LENGTH / 2 + 0.5, WIDTH / 2 + 0.5), INK)
    canvas.polygon(box(-LENGTH / 2, LENGTH / 2, WIDTH / 2), colour)
    canvas.polygon(box(0.4, 1.4, WIDTH / 2 - 0.3), YELLOW if own else WHITE)


@lru_cache(maxsize=1)
def _observe() -> Any:
    return jax.jit(observe)


def boxes(env: Any, state: Any, observation: Any = None) -> list[Box | None]:  # noqa: ARG001
    """Where the vehicle of each row of the observation is in the picture; None for a row of none, and outside it.

    Without `observation`, rows are those of the state: a vehicle that has just come is then among them.
    """
    rows = np.asarray(_observe()(state.traffic) if observation is None else observation)
    found: list[Box | None] = []
    for row in rows[:ROWS]:
        x, y = (float(one) * 100 for one in row[1:3])
        reach = LARGER * LENGTH / 2 + 0.5
        sides = [(one + SEEN) / (2 * SEEN) for one in (x - reach, y - reach, x + reach, y + reach)]
        there = row[0] > 0 and sides[2] > 0 and sides[3] > 0 and sides[0] < 1 and sides[1] < 1
        left, top, right, bottom = (min(1.0, max(0.0, one)) for one in sides)
        found.append((left, top, right, bottom) if there else None)
    return found
