"""Battles of SMAX, seen from above."""

from typing import Any

import numpy as np

from engram.envs.drawing.canvas import BLUE, GREEN, INK, PALE, PAPER, RED, SHADE, Canvas, Picture

SIDE = 160  # pixels
MAP = 32.0  # units of length along a side of the map
NEAR = 12.0  # at least so many are seen along a side
GRID = 4.0  # the view moves and grows by so many, so that it does not follow every step
HEALTH = (45.0, 125.0, 160.0, 150.0, 35.0, 80.0)  # of each type of unit when whole
RADIUS = (0.375, 0.5625, 0.625, 0.5, 0.375, 0.625)
LETTERS = "MRSZLH"  # marine, marauder, stalker, zealot, zergling, hydralisk
FROM_ATTACKS = 5  # actions before those that attack


def field(env: Any, state: Any) -> Picture:
    """Units of the team blue and enemies red, each with the letter of its type and its health; the dead are grey.

    The part of the map where living units are. A line goes from who attacked to whom. The first agent, whose view is
    told elsewhere, has a dark ring.
    """
    canvas, game = Canvas(SIDE, SIDE, PAPER), state.game.state
    alive, kinds = np.asarray(game.unit_alive), np.asarray(game.unit_types).tolist()
    where = np.asarray(game.unit_positions, np.float64)
    left, low, side = view(where[alive] if alive.any() else where)
    scale = SIDE / side
    place = np.stack([(where[:, 0] - left) * scale, SIDE - (where[:, 1] - low) * scale], axis=1)  # up is up
    allies, attacks = env.agents, np.asarray(game.prev_attack_actions)
    for unit in np.flatnonzero(alive & (attacks >= FROM_ATTACKS)):
        number = int(attacks[unit]) - FROM_ATTACKS  # an enemy's targets are numbered from the last of the team
        target = allies + number if unit < allies else allies - 1 - number
        (x, y), (other_x, other_y) = place[unit].tolist(), place[target].tolist()
        canvas.line(x, y, other_x, other_y, SHADE)
    for unit in [*np.flatnonzero(~alive), *np.flatnonzero(alive)]:
        x, y = place[unit].tolist()
        radius, colour = _radius(kinds[unit], scale), BLUE if unit < allies else RED
        canvas.disc(x, y, radius, colour if alive[unit] else PALE)
        if alive[unit]:
            canvas.text(LETTERS[kinds[unit]], x, y, PAPER)
    if alive[0]:
        x, y = place[0].tolist()
        canvas.ring(x, y, _radius(kinds[0], scale) + 1.5, INK)
    for unit in np.flatnonzero(alive):  # last, so that no unit hides another's
        x, y = place[unit].tolist()
        top, whole = y - _radius(kinds[unit], scale) - 4, float(game.unit_health[unit]) / HEALTH[kinds[unit]]
        canvas.rectangle(x - 5, top, x + 5, top + 2, PALE)
        canvas.rectangle(x - 5, top, x - 5 + 10 * whole, top + 2, GREEN)
    return canvas.picture()


def view(places: np.ndarray) -> tuple[float, float, float]:
    """Left, low and side of a square of the map that holds `places` (n, 2) with a margin, in the map's units.

    The whole map where they are spread over it. All three are multiples of `GRID`.
    """
    low, high = places.min(axis=0) - 2, places.max(axis=0) + 2
    start = np.floor(low / GRID) * GRID
    side = min(max(NEAR, float(np.ceil((high - start).max() / GRID) * GRID)), MAP)
    left, bottom = np.clip(start, 0, MAP - side)
    return float(left), float(bottom), side


def _radius(kind: int, scale: float) -> float:
    return max(RADIUS[kind] * scale, 3.0)
