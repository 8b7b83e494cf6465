"""Cards, pictures of bandits, and bits."""

from typing import Any

import numpy as np

from engram.envs.drawing.canvas import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALE,
    PALE_GREEN,
    RED,
    SHADE,
    WHITE,
    Canvas,
    Colour,
    Picture,
)

TABLE = (74, 124, 96)
SPADE, DIAMOND, CLUB, HEART = range(4)  # suits in the order of popgym 1.0.7
RANKS = ("A", "2", "3", "4", "5", "6", "7", "8", "9", "10", "J", "Q", "K")


def repeat_first(env: Any, state: Any, shown: Any = None) -> Picture:
    """The card just dealt, and the first one small at the left, where it lies face down once others were dealt."""
    canvas = Canvas(160, 100, TABLE)
    first = int(state.steps) == 0
    card = int(state.first) if first else None if shown is None else int(np.asarray(shown))
    _card(canvas, 80, 50, 48, card)
    _card(canvas, 26, 34, 24, int(state.first), dim=not first)
    canvas.text("FIRST", 26, 64, WHITE, 1.4)
    _clock(canvas, int(state.steps), env.cards - 1)
    return canvas.picture()


def repeat_previous(env: Any, state: Any, shown: Any = None) -> Picture:  # noqa: ARG001
    """The card just dealt, and at the left the one that is asked for, dim: it lies `gap` - 1 cards back."""
    canvas, recent = Canvas(160, 100, TABLE), np.asarray(state.recent)
    _card(canvas, 80, 50, 48, int(recent[0]))
    asked = int(state.steps) >= env.gap - 1
    _card(canvas, 26, 34, 24, int(recent[-1]) if asked else None, dim=True)
    canvas.text(f"{env.gap - 1} AGO", 26, 64, WHITE, 1.4)
    _clock(canvas, int(state.steps), env.cards - 1)
    return canvas.picture()


def autoencode(env: Any, state: Any, shown: Any = None) -> Picture:  # noqa: ARG001
    """The card just dealt, or face down the one that is asked for, and which of the two it is."""
    canvas, steps = Canvas(160, 100, TABLE), int(state.steps)
    watching = steps < env.cards - 1
    suits = np.asarray(state.suits)
    _card(canvas, 80, 50, 48, int(suits[steps]) if steps < env.cards else None)
    if not watching:
        asked = max(0, 2 * env.cards - 2 - steps)
        _card(canvas, 26, 34, 24, int(suits[asked]), dim=True)
    canvas.text("WATCH" if watching else "RECITE", 26, 64, WHITE, 1.4)
    _clock(canvas, steps, 2 * env.cards - 1)
    return canvas.picture()


def count_recall(env: Any, state: Any, shown: Any = None) -> Picture:
    """The card just dealt, the kind that is asked for at the left, and the count of each kind below."""
    canvas, kinds = Canvas(160, 100, TABLE), env.kinds
    dealt = None if shown is None else int(np.asarray(shown)[0])
    _kind(canvas, 80, 40, 44, dealt, kinds)
    _kind(canvas, 26, 30, 22, int(state.query), kinds)
    canvas.text("COUNT", 26, 58, WHITE, 1.4)
    counts, most = np.asarray(state.counts), env.cards // kinds
    width = 144 / kinds
    for kind, count in enumerate(counts):
        left, tall = 8 + kind * width, 18 * int(count) / most
        here = kind == int(state.query)
        canvas.rectangle(left + 1, 92 - 18, left + width - 1, 92, (60, 104, 80))
        canvas.rectangle(left + 1, 92 - tall, left + width - 1, 92, ORANGE if here else PALE)
    _clock(canvas, int(state.steps), env.cards - 1)
    return canvas.picture()


def concentration(env: Any, state: Any, shown: Any = None) -> Picture:
    """All cards: face up in white, pairs with a green border, the one that waits in orange; the others by their backs.

    `shown` is the observation, without which a card that was turned second lies face down.
    """
    places, columns = env.places, 13
    rows = -(-places // columns)
    cards, paired, first = np.asarray(state.cards), np.asarray(state.paired), int(state.first)
    faces = np.full(places, env.kinds) if shown is None else np.asarray(shown)
    wide, tall = 12, 16 if rows <= 4 else 14
    canvas = Canvas(columns * wide + 4, rows * tall + 4, TABLE)
    for place in range(places):
        left, top = 2 + wide * (place % columns), 2 + tall * (place // columns)
        kind = int(cards[place]) if paired[place] or place == first else int(faces[place])
        up = 0 <= kind < env.kinds
        border = ORANGE if place == first else GREEN if paired[place] else WHITE if up else (96, 104, 150)
        canvas.rectangle(left + 1, top + 1, left + wide - 1, top + tall - 1, border)
        colour = (64, 72, 120) if not up else (INK, RED)[kind % 2] if env.kinds == 2 else WHITE
        canvas.rectangle(left + 2, top + 2, left + wide - 2, top + tall - 2, colour)
        if up and env.kinds > 2:
            canvas.text(RANKS[kind % 13], left + wide / 2, top + tall / 2, INK, 1.0)
    return canvas.picture()


def bandit(env: Any, state: Any) -> Picture:
    """The picture of this context, and the arms: the one that pays is pale green until it was found, then green."""
    canvas = Canvas(140, 120)
    context = int(state.order.reshape(-1)[min(int(state.steps) // env.pulls, env.contexts * env.exposures - 1)])
    pixels, arms = np.asarray(state.pictures)[context], int(env.arms)
    columns = int(np.ceil(np.sqrt(len(pixels) * 1.6)))
    rows = -(-len(pixels) // columns)
    cell = min(104 / columns, 64 / rows)
    left, top = 70 - columns * cell / 2, 42 - rows * cell / 2
    canvas.rectangle(left - 2, top - 2, left + columns * cell + 2, top + rows * cell + 2, INK)
    for place, one in enumerate(pixels):
        x, y = left + cell * (place % columns), top + cell * (place // columns)
        canvas.rectangle(
            x + 0.4, y + 0.4, x + cell - 0.4, y + cell - 0.4, (250, 214, 130) if one > 0 else (66, 72, 104)
        )
    pays, found = int(state.arms[context]), int(np.asarray(state.told)[context]) >= 0
    width = min(24.0, 124 / arms)
    for arm in range(arms):
        x = 70 + (arm - (arms - 1) / 2) * width
        colour = (GREEN if found else PALE_GREEN) if arm == pays else PALE
        canvas.rectangle(x - width / 2 + 1.5, 86, x + width / 2 - 1.5, 102, colour)
        if width >= 8:
            canvas.text(str(arm + 1), x, 94, INK, 1.4)
    _clock(canvas, int(state.steps), env.max_steps)
    return canvas.picture()


def bits(env: Any, state: Any) -> Picture:
    """The bits, bright while they are shown and pale after, and which of them is asked for in the end."""
    canvas, size, steps = Canvas(160, 84), env.size, int(state.steps)
    clock = max(steps - 1, 0)
    shown, asked = clock == 0, clock == env.length - 1
    columns = min(size, 10)
    rows = -(-size // columns)
    cell = min(26.0, 148 / columns, 56 / rows)
    left, top = 80 - columns * cell / 2, 36 - rows * cell / 2
    for place, bit in enumerate(np.asarray(state.context)):
        x, y = left + cell * (place % columns), top + cell * (place // columns)
        colour: Colour = (ORANGE if bit else BLUE) if shown else (245, 226, 208) if bit else (216, 228, 238)
        canvas.rectangle(x + 1, y + 1, x + cell - 1, y + cell - 1, colour)
        if cell >= 9:
            canvas.text(str(int(bit)), x + cell / 2, y + cell / 2, WHITE if shown else SHADE, cell / 11)
        if asked and place == int(state.query):
            canvas.frame(x, y, x + cell, y + cell, INK, 2)
    canvas.text("SEEN" if shown else "ASKED" if asked else "WAIT", 80, 72, INK if asked or shown else SHADE, 1.6)
    _clock(canvas, steps, env.length + 1)
    return canvas.picture()


# -- pieces ----------------------------------------------------------------------------------------------------------


def _clock(canvas: Canvas, steps: int, most: int) -> None:
    """How much of the episode is over, as a bar at the bottom."""
    canvas.rectangle(0, canvas.height - 3, canvas.width, canvas.height, SHADE)
    canvas.rectangle(0, canvas.height - 3, canvas.width * min(1.0, steps / most), canvas.height, INK)


def _card(canvas: Canvas, x: float, y: float, wide: float, suit: int | None, dim: bool = False) -> None:
    """A card with its middle at (x, y); its back for None."""
    tall = 1.4 * wide
    left, top, right, bottom = x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2
    canvas.rectangle(left, top, right, bottom, (168, 190, 172) if dim else WHITE)
    if suit is None:
        canvas.rectangle(left + 2, top + 2, right - 2, bottom - 2, (64, 84, 140))
        canvas.frame(left + 4, top + 4, right - 4, bottom - 4, (150, 164, 204), 1)
        return
    _suit(canvas, x, y, 0.34 * wide, suit, dim)


def _suit(canvas: Canvas, x: float, y: float, size: float, suit: int, dim: bool) -> None:
    colour = RED if suit in (DIAMOND, HEART) else INK
    colour = (142, 106, 98) if dim and suit in (DIAMOND, HEART) else (92, 108, 104) if dim else colour
    if suit == DIAMOND:
        canvas.polygon([(x, y - size), (x + 0.72 * size, y), (x, y + size), (x - 0.72 * size, y)], colour)
        return
    sides = (-0.45 * size, 0.45 * size)
    if suit == HEART:
        for side in sides:
            canvas.disc(x + side, y - 0.3 * size, 0.5 * size, colour)
        canvas.polygon([(x - 0.88 * size, y - 0.06 * size), (x + 0.88 * size, y - 0.06 * size), (x, y + size)], colour)
        return
    canvas.polygon([(x, y + 0.1 * size), (x - 0.4 * size, y + size), (x + 0.4 * size, y + size)], colour)
    if suit == CLUB:
        for at_x, at_y in ((0.0, -0.5), (-0.5, 0.15), (0.5, 0.15)):
            canvas.disc(x + at_x * size, y + at_y * size, 0.44 * size, colour)
        return
    for side in sides:
        canvas.disc(x + side, y + 0.22 * size, 0.5 * size, colour)
    canvas.polygon([(x - 0.88 * size, y), (x + 0.88 * size, y), (x, y - size)], colour)


def _kind(canvas: Canvas, x: float, y: float, wide: float, kind: int | None, kinds: int) -> None:
    """A card of one of 2 colours, 4 suits or 13 ranks."""
    if kind is None or kinds == 4:
        _card(canvas, x, y, wide, kind)
        return
    tall = 1.4 * wide
    canvas.rectangle(x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2, WHITE)
    if kinds == 2:
        canvas.disc(x, y, 0.3 * wide, (INK, RED)[kind])
    else:
        canvas.text(RANKS[kind % len(RANKS)], x, y, INK, wide / 9)
