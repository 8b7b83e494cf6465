"""Points by name, boards as text, and area scoring, without JAX.

An action is a point, row by row from the top left, or as the last one the pass. Points are named as players do: a
letter without I for the column, and the row from below, so that C3 is the middle of 5 x 5.
"""

import numpy as np

LETTERS = "ABCDEFGHJKLMNOPQRST"
PASS = "pass"
BLACK, WHITE = 1, -1
SIGNS = {BLACK: "X", WHITE: "O", 0: "."}
NAMES = {BLACK: "Black", WHITE: "White"}


def name_of(action: int, size: int) -> str:
    """The name of an action.

    >>> name_of(12, 5), name_of(25, 5)
    ('C3', 'pass')
    """
    if action == size * size:
        return PASS
    row, column = divmod(action, size)
    return f"{LETTERS[column]}{size - row}"


def action_of(text: str, size: int) -> int | None:
    """The action of that name; None for what is none.

    >>> action_of("c3", 5), action_of("PASS", 5), action_of("F1", 5)
    (12, 25, None)
    """
    word = text.strip().upper()
    if word == PASS.upper():
        return size * size
    column, row = LETTERS.find(word[:1]) if word else -1, word[1:]
    if not 0 <= column < size or not row.isdecimal() or not 1 <= int(row) <= size:
        return None
    return (size - int(row)) * size + column


def stones(observation: np.ndarray) -> np.ndarray:
    """1 for Black, -1 for White, 0 for nobody, [rows, columns], of the first three planes that `Go` shows."""
    mine, theirs, white = np.moveaxis(np.asarray(observation)[..., :3].astype(np.int8), -1, 0)
    return (mine - theirs) * (1 - 2 * white)


def drawn(board: np.ndarray, last: int | None = None) -> str:
    """A board as lines of text: X for Black, O for White, the last move between brackets."""
    size = len(board)
    lines = []
    for row in range(size):
        marks = "".join(
            f"({SIGNS[int(one)]})" if row * size + column == last else f" {SIGNS[int(one)]} "
            for column, one in enumerate(board[row])
        )
        lines.append(f"{size - row:2}{marks}")
    return "\n".join([*lines, "   " + "  ".join(LETTERS[:size])])


def area(board: np.ndarray) -> tuple[int, int]:
    """Stones and the empty points that touch one colour only, of Black and of White: area scoring, every stone alive.

    >>> area(np.array([[1, 0], [0, 1]]))
    (4, 0)
    """
    size = len(board)
    points = {BLACK: int((board == BLACK).sum()), WHITE: int((board == WHITE).sum())}
    seen = board != 0
    for start in zip(*np.nonzero(board == 0), strict=True):
        if seen[start]:
            continue
        region, touched, waiting = 0, set(), [start]
        seen[start] = True
        while waiting:
            row, column = waiting.pop()
            region += 1
            for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if not (0 <= near[0] < size and 0 <= near[1] < size):
                    continue
                if board[near]:
                    touched.add(int(board[near]))
                elif not seen[near]:
                    seen[near] = True
                    waiting.append(near)
        if len(touched) == 1:
            points[touched.pop()] += region
    return points[BLACK], points[WHITE]
