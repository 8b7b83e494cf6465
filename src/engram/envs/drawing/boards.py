"""Boards and corridors: MinAtar, mazes, T-mazes, ships."""

from typing import Any

import numpy as np

from engram.envs.drawing.canvas import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALE,
    PALE_GREEN,
    PAPER,
    RED,
    SHADE,
    WHITE,
    Canvas,
    Colour,
    Picture,
)

SIDE = 160
NIGHT = (24, 26, 38)
WOOD = (214, 176, 112)
# One for each channel: told apart also by those who see few colours, by their lightness.
CHANNELS: tuple[Colour, ...] = (
    (120, 200, 255), (255, 206, 84), (96, 110, 150), (232, 96, 84), (110, 190, 110),
    (190, 130, 220), (255, 255, 255), (80, 200, 190), (236, 150, 60), (170, 170, 120),
)  # fmt: skip


def minatar(env: Any, state: Any) -> Picture:  # noqa: ARG001
    """The whole board, a colour for each channel; of several in one cell the first."""
    return board(np.asarray(state.game.observation))


def board(channels: np.ndarray) -> Picture:
    """Any board of rows x columns x yes-or-no channels, a colour for each channel."""
    rows, columns, count = channels.shape
    cell = max(1, SIDE // max(rows, columns))
    canvas = Canvas(columns * cell, rows * cell, NIGHT)
    for row, column in np.argwhere(channels.any(-1)):
        first = int(np.argmax(channels[row, column]))
        colour = CHANNELS[first % len(CHANNELS)] if count else WHITE
        left, top = column * cell, row * cell
        canvas.rectangle(left + 0.7, top + 0.7, left + cell - 0.7, top + cell - 0.7, colour)
    return canvas.picture()


def maze(env: Any, state: Any) -> Picture:
    """Walls, the goal and the agent, on the whole picture."""
    side, plan = env.size, env.plan
    cell = max(2, SIDE // side)
    canvas = Canvas(side * cell, side * cell)
    for place in range(side * side):
        top, left = (cell * one for one in divmod(place, side))
        if not plan.free[place]:
            canvas.rectangle(left, top, left + cell, top + cell, (92, 96, 118))
        if place == plan.goal:
            canvas.rectangle(left + 1, top + 1, left + cell - 1, top + cell - 1, GREEN)
    row, column = divmod(int(state.place), side)
    canvas.disc((column + 0.5) * cell, (row + 0.5) * cell, 0.36 * cell, ORANGE)
    return canvas.picture()


def t_maze(env: Any, state: Any) -> Picture:
    """The corridor with its fork, the agent, and a sign that shows the cue while it is seen.

    The arm that pays is pale: the agent does not see it.
    """
    fields = env.oracle + env.length + 1
    cell = min(14.0, 140 / fields)
    left, middle = (160 - fields * cell) / 2, 58.0
    canvas, wide = Canvas(160, 92), max(cell, 13.0)
    junction = left + fields * cell
    canvas.rectangle(left, middle - wide / 2, junction, middle + wide / 2, PALE)
    canvas.rectangle(junction - wide, middle - 1.5 * wide, junction, middle + 1.5 * wide, PALE)
    if cell > 5:
        for field in range(1, fields):
            canvas.rectangle(
                left + field * cell - 0.4, middle - wide / 2, left + field * cell, middle + wide / 2, PAPER
            )
    goal = middle - int(state.goal) * wide
    canvas.rectangle(junction - wide + 1, goal - wide / 2 + 1, junction - 1, goal + wide / 2 - 1, PALE_GREEN)
    canvas.rectangle(left, middle - wide / 2, left + cell, middle + wide / 2, (236, 206, 160))
    x = left + (int(state.place) + 0.5) * cell if int(state.place) < fields - 1 else junction - wide / 2
    canvas.disc(x, middle - int(state.arm) * wide, min(5.0, 0.4 * wide), BLUE)
    _sign(canvas, int(state.goal) if int(state.steps) == int(state.cue) else 0)
    canvas.text(f"STEP {int(state.steps)}", 130, 12, SHADE, 1.6)
    return canvas.picture()


def _sign(canvas: Canvas, cue: int) -> None:
    """An arrow in the direction of the cue, 1 up or -1 down; an empty sign for none."""
    canvas.rectangle(8, 4, 34, 30, ORANGE if cue else PAPER)
    canvas.frame(8, 4, 34, 30, ORANGE if cue else SHADE, 1.5)
    if cue:
        tip, tail = 17 - 9 * cue, 17 + 9 * cue
        canvas.line(21, tail, 21, tip + 3 * cue, WHITE, 4)
        canvas.polygon([(21, tip), (13, tip + 9 * cue), (29, tip + 9 * cue)], WHITE)


def ships(env: Any, state: Any) -> Picture:
    """The fields that were shot at, hits and misses; ships that are not found yet are pale, as nobody sees them."""
    side = env.size
    cell = SIDE // side
    canvas = Canvas(side * cell, side * cell, (206, 224, 238))
    hidden, shots = np.asarray(state.ships), np.asarray(state.shots)
    for row, column in np.ndindex(side, side):
        left, top = column * cell, row * cell
        if hidden[row, column]:
            colour = (150, 96, 96) if shots[row, column] else (178, 198, 214)
            canvas.rectangle(left + 0.5, top + 0.5, left + cell - 0.5, top + cell - 0.5, colour)
        if shots[row, column]:
            hit = hidden[row, column]
            canvas.disc(left + cell / 2, top + cell / 2, cell * (0.3 if hit else 0.16), RED if hit else BLUE)
    for edge in range(1, side):
        canvas.rectangle(edge * cell - 0.4, 0, edge * cell, side * cell, WHITE)
        canvas.rectangle(0, edge * cell - 0.4, side * cell, edge * cell, WHITE)
    canvas.frame(0, 0, side * cell, side * cell, INK, 1)
    return canvas.picture()


def stones(board: np.ndarray) -> Picture:
    """A board of Go: 1 for a black stone, -1 for a white one, on the crossings of lines."""
    size = len(board)
    cell = max(6, SIDE // size)
    canvas = Canvas(size * cell, size * cell, WOOD)
    first, last = cell / 2, (size - 0.5) * cell
    for line in range(size):
        at = (line + 0.5) * cell
        canvas.line(first, at, last, at, INK, 1)
        canvas.line(at, first, at, last, INK, 1)
    for row, column in np.argwhere(board):
        x, y = (column + 0.5) * cell, (row + 0.5) * cell
        canvas.disc(x, y, 0.45 * cell, INK)
        canvas.disc(x, y, 0.41 * cell, (28, 28, 32) if board[row, column] > 0 else WHITE)
    return canvas.picture()
