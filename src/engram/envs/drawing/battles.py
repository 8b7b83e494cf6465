"""Battles of SMAX, seen from above."""

from typing import Any

import numpy as np

from engram.envs.drawing.canvas import BLUE, GREEN, INK, PALE, PAPER, RED, SHADE, Canvas, Picture

SIDE = 160
SCALE = SIDE / 32.0  # pixels for each unit of the map
HEALTH = (45.0, 125.0, 160.0, 150.0, 35.0, 80.0)  # of each type of unit when whole
RADIUS = (0.375, 0.5625, 0.625, 0.5, 0.375, 0.625)
LARGER = 1.6  # times as large as they are, units are easier to see
LETTERS = "MRSZLH"  # marine, marauder, stalker, zealot, zergling, hydralisk


def field(env: Any, state: Any) -> Picture:
    """Units of the team blue and enemies red, each with the letter of its type and its health; the dead are grey.

    A line goes from who attacked to whom. The first agent, whose view is told elsewhere, has a dark ring.
    """
    canvas, game = Canvas(SIDE, SIDE, PAPER), state.game.state
    place = np.asarray(game.unit_positions) * SCALE
    place[:, 1] = SIDE - place[:, 1]  # up is up
    alive, kinds = np.asarray(game.unit_alive), np.asarray(game.unit_types)
    allies, attacks = env.agents, np.asarray(game.prev_attack_actions)
    for unit in np.flatnonzero(alive & (attacks >= 5)):
        number = int(attacks[unit]) - 5  # an enemy's targets are numbered from the last of the team
        target = allies + number if unit < allies else allies - 1 - number
        (x, y), (other_x, other_y) = place[unit].tolist(), place[target].tolist()
        canvas.line(x, y, other_x, other_y, SHADE)
    for unit in [*np.flatnonzero(~alive), *np.flatnonzero(alive)]:
        x, y = place[unit].tolist()
        kind, colour = int(kinds[unit]), BLUE if unit < allies else RED
        radius = RADIUS[kind] * SCALE * LARGER + 1
        canvas.disc(x, y, radius, colour if alive[unit] else PALE)
        if not alive[unit]:
            continue
        if unit == 0:
            canvas.ring(x, y, radius + 1.5, INK)
        left = float(game.unit_health[unit]) / HEALTH[kind]
        canvas.text(LETTERS[kind], x, y, PAPER)
        canvas.rectangle(x - 4, y - radius - 4, x + 4, y - radius - 2, PALE)
        canvas.rectangle(x - 4, y - radius - 4, x - 4 + 8 * left, y - radius - 2, GREEN)
    return canvas.picture()
