"""A cart with a pole, and arms of two links."""

from typing import Any

import numpy as np

from engram.envs.drawing.canvas import BLUE, GREEN, INK, ORANGE, PALE, RED, SHADE, Canvas, Picture
from engram.envs.tasks.arm import LENGTH
from engram.envs.tasks.cartpole import ANGLE_LIMIT, POSITION_LIMIT

SIDE = 120


def cart(env: Any, state: Any) -> Picture:  # noqa: ARG001
    """The cart on its track, the pole, and how far both may go."""
    place, _, angle, _ = np.asarray(state.physics, np.float64)
    canvas, floor, length = Canvas(160, 100), 78.0, 52.0
    x = 80 + np.clip(place / POSITION_LIMIT, -1.1, 1.1) * 68
    canvas.rectangle(0, floor + 1, 160, floor + 2.5, SHADE)
    for end in (12.0, 148.0):
        canvas.rectangle(end - 1, floor - 4, end + 1, floor + 7, RED)
    top = floor - 16
    for side in (-ANGLE_LIMIT, ANGLE_LIMIT):
        canvas.line(x, top, x + length * np.sin(side), top - length * np.cos(side), PALE, 1)
    fallen = abs(angle) > ANGLE_LIMIT or abs(place) > POSITION_LIMIT
    canvas.rectangle(x - 17, top, x + 17, floor - 4, BLUE)
    for wheel in (-10, 10):
        canvas.disc(x + wheel, floor - 3, 4, INK)
    canvas.line(x, top, x + length * np.sin(angle), top - length * np.cos(angle), RED if fallen else ORANGE, 4.5)
    canvas.disc(x, top, 3, INK)
    return canvas.picture()


def arm(env: Any, state: Any) -> Picture:  # noqa: ARG001
    """Both links hanging from the middle, and the height that the tip should reach."""
    shoulder, elbow, *_ = np.asarray(state.physics, np.float64)
    canvas, link, middle = Canvas(SIDE, SIDE), 26.0, SIDE / 2
    goal = middle - link
    for left in range(4, SIDE, 8):
        canvas.rectangle(left, goal - 0.6, left + 4, goal + 0.6, GREEN)
    x1, y1 = middle + link * np.sin(shoulder), middle + link * np.cos(shoulder)
    x2, y2 = x1 + link * np.sin(shoulder + elbow), y1 + link * np.cos(shoulder + elbow)
    canvas.line(middle, middle, x1, y1, BLUE, 6)
    canvas.line(x1, y1, x2, y2, ORANGE, 6)
    for x, y in ((middle, middle), (x1, y1)):
        canvas.disc(x, y, 2.2, INK)
    canvas.disc(x2, y2, 4, GREEN if y2 < goal else RED)
    return canvas.picture()


def reaching(env: Any, state: Any) -> Picture:  # noqa: ARG001
    """The arm seen from above, and the place where its tip is wanted."""
    shoulder, elbow, *_ = np.asarray(state.physics, np.float64)
    canvas, metre, middle = Canvas(SIDE, SIDE), SIDE / 2.1, SIDE / 2
    goal_x, goal_y = middle + metre * np.asarray(state.goal, np.float64)
    canvas.disc(goal_x, goal_y, 5, GREEN)
    x1, y1 = middle + metre * LENGTH * np.cos(shoulder), middle + metre * LENGTH * np.sin(shoulder)
    x2 = x1 + metre * LENGTH * np.cos(shoulder + elbow)
    y2 = y1 + metre * LENGTH * np.sin(shoulder + elbow)
    canvas.line(middle, middle, x1, y1, BLUE, 6)
    canvas.line(x1, y1, x2, y2, ORANGE, 6)
    for x, y in ((middle, middle), (x1, y1)):
        canvas.disc(x, y, 2.2, INK)
    canvas.disc(x2, y2, 2.5, RED)
    return canvas.picture()
