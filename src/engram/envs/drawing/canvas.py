"""A small picture drawn with NumPy: rectangles, discs, lines, polygons and digits, smooth at their edges."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8

Colour = tuple[int, int, int]
Picture = UInt8[np.ndarray, "height width 3"]
FINE = 3  # pixels that are drawn for one of the picture, along each side; their mean is shown

PAPER, INK, PALE, SHADE = (250, 248, 243), (43, 45, 66), (226, 221, 211), (188, 182, 170)
BLUE, ORANGE, GREEN, RED = (52, 116, 168), (226, 122, 44), (74, 150, 98), (200, 66, 58)
YELLOW, PURPLE, TEAL, WHITE = (242, 196, 82), (130, 92, 168), (64, 168, 168), (255, 255, 255)
PALE_GREEN = (196, 224, 200)

# Five rows of three, a bit each from the left, as octal digits.
_GLYPHS = {
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717", "6": "74757", "7": "71244",
    "8": "75757", "9": "75717", "A": "25755", "B": "65656", "C": "34443", "D": "65556", "E": "74647", "F": "74644",
    "G": "34553", "H": "55755", "I": "72227", "J": "11152", "K": "55655", "L": "44447", "M": "57755", "N": "65555",
    "O": "25552", "P": "65644", "Q": "25573", "R": "65655", "S": "34216", "T": "72222", "U": "55557", "V": "55552",
    "W": "55775", "X": "55255", "Y": "55222", "Z": "71247", "?": "61202", "-": "00700", ".": "00002", ":": "02020",
    "/": "11244", "+": "02720", " ": "00000",
}  # fmt: skip


class Canvas:
    """A picture of so many pixels, in whose coordinates everything is drawn; (0, 0) is its upper left corner."""

    def __init__(self, width: int, height: int, background: Colour = PAPER):
        self.width, self.height = width, height
        self._pixels = np.empty((height * FINE, width * FINE, 3), np.float32)
        self._pixels[:] = background
        rows, columns = np.mgrid[: height * FINE, : width * FINE].astype(np.float32)
        self._y, self._x = (rows + 0.5) / FINE, (columns + 0.5) / FINE

    def fill(self, inside: Bool[np.ndarray, "fineheight finewidth"], colour: Colour, opacity: float = 1.0) -> None:
        """Colours the marked fine pixels."""
        self._pixels[inside] += opacity * (np.asarray(colour, np.float32) - self._pixels[inside])

    def rectangle(
        self, left: float, top: float, right: float, bottom: float, colour: Colour, opacity: float = 1.0
    ) -> None:
        """A filled rectangle."""
        rows = slice(max(0, round(top * FINE)), max(0, round(bottom * FINE)))
        columns = slice(max(0, round(left * FINE)), max(0, round(right * FINE)))
        area = self._pixels[rows, columns]
        area += opacity * (np.asarray(colour, np.float32) - area)

    def frame(self, left: float, top: float, right: float, bottom: float, colour: Colour, thick: float = 1.0) -> None:
        """The border of a rectangle, inside of it."""
        self.rectangle(left, top, right, top + thick, colour)
        self.rectangle(left, bottom - thick, right, bottom, colour)
        self.rectangle(left, top, left + thick, bottom, colour)
        self.rectangle(right - thick, top, right, bottom, colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour, opacity: float = 1.0) -> None:
        """A filled disc."""
        self.fill((self._x - x) ** 2 + (self._y - y) ** 2 <= radius**2, colour, opacity)

    def ring(self, x: float, y: float, radius: float, colour: Colour, thick: float = 1.0) -> None:
        """A circle."""
        far = (self._x - x) ** 2 + (self._y - y) ** 2
        self.fill((far <= radius**2) & (far >= (radius - thick) ** 2), colour)

    def line(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, thick: float = 1.0) -> None:
        """A straight line with round ends."""
        right, down = x1 - x0, y1 - y0
        length = max(right * right + down * down, 1e-9)
        along = np.clip(((self._x - x0) * right + (self._y - y0) * down) / length, 0, 1)
        far = (self._x - x0 - along * right) ** 2 + (self._y - y0 - along * down) ** 2
        self.fill(far <= (thick / 2) ** 2, colour)

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour, opacity: float = 1.0) -> None:
        """A filled convex polygon, its corners in either order around."""
        sides = []
        for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
            sides.append((x1 - x0) * (self._y - y0) - (y1 - y0) * (self._x - x0))
        self.fill(np.all([side >= 0 for side in sides], 0) | np.all([side <= 0 for side in sides], 0), colour, opacity)

    def text(self, words: str, x: float, y: float, colour: Colour, size: float = 1.0) -> None:
        """Capital letters and digits, 3 x 5 pixels times `size` each, with its middle at (x, y)."""
        size = max(1, round(size * FINE)) / FINE  # whole fine pixels, so that all strokes are as wide
        left, top = round(x - text_width(words, size) / 2), round(y - 2.5 * size)
        for place, letter in enumerate(words.upper()):
            for row, bits in enumerate(_GLYPHS.get(letter, _GLYPHS["?"])):
                for column in range(3):
                    if int(bits) >> (2 - column) & 1:
                        at = left + (4 * place + column) * size, top + row * size
                        self.rectangle(*at, at[0] + size, at[1] + size, colour)

    def picture(self) -> Picture:
        """What was drawn."""
        shape = self.height, FINE, self.width, FINE, 3
        return np.round(self._pixels.reshape(shape).mean((1, 3))).astype(np.uint8)


def text_width(words: str, size: float = 1.0) -> float:
    """Pixels that a text takes."""
    return (4 * len(words) - 1) * size


def between(one: Colour, other: Colour, share: float) -> Colour:
    """A colour on the way from one to another."""
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(one, other, strict=True))
    return red, green, blue
