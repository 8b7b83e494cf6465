"""Pictures as a page carries them: each once, a hundred on a sheet, encoded here from their numbers."""

import base64
import io
from typing import Any

import numpy as np

from engram.explaining.columns import integers

LONGEST = 640  # pixels of a side; a larger picture is averaged over blocks
PER_SHEET, COLUMNS = 100, 10
PIXELS = 4_000_000  # of a sheet: what a browser decodes within a few hundredths of a second
HEAVY = 8_000  # bytes of one picture, stored without loss, from which on it is taken for a photograph


class Pictures:
    """Collects pictures; the same picture is kept once. `lossy` tells, once encoded, whether any lost detail."""

    def __init__(self) -> None:
        self.places: dict[tuple[tuple[int, ...], bytes], int] = {}
        self.kept: list[np.ndarray] = []
        self.lossy = False

    def add(self, picture: np.ndarray | None) -> int:
        """The number of `picture`; -1 for none."""
        if picture is None or picture.size == 0:
            return -1
        picture = np.ascontiguousarray(shrunk(picture))
        key = (picture.shape, picture.tobytes())
        if key not in self.places:
            self.places[key] = len(self.kept)
            self.kept.append(picture)
        return self.places[key]

    def encoded(self) -> dict[str, Any]:
        """The sheets as data URIs, and for each picture its sheet and its place there."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for number, picture in enumerate(self.kept):
            by_shape.setdefault(picture.shape, []).append(number)
        sheets: list[dict[str, Any]] = []
        sheet, slot = np.zeros(len(self.kept), int), np.zeros(len(self.kept), int)
        for (height, width, _), members in by_shape.items():
            each = max(1, min(PER_SHEET, PIXELS // (height * width)))
            for start in range(0, len(members), each):
                block = members[start : start + each]
                sheet[block], slot[block] = len(sheets), np.arange(len(block))
                sheets.append(self._sheet([self.kept[number] for number in block]))
        return {"sheets": sheets, "sheet": integers(sheet), "slot": integers(slot), "lossy": self.lossy}

    def _sheet(self, pictures: list[np.ndarray]) -> dict[str, Any]:
        height, width = pictures[0].shape[:2]
        columns = min(COLUMNS, len(pictures))
        rows = -(-len(pictures) // columns)
        canvas = np.zeros((rows * height, columns * width, 3), np.uint8)
        for place, picture in enumerate(pictures):
            top, left = place // columns * height, place % columns * width
            canvas[top : top + height, left : left + width] = picture
        kind, raw, lossy = encode(canvas, len(pictures))
        self.lossy |= lossy
        source = f"data:image/{kind};base64," + base64.b64encode(raw).decode("ascii")
        return {"source": source, "width": width, "height": height, "columns": columns, "count": len(pictures)}


def shrunk(picture: np.ndarray) -> np.ndarray:
    """`picture` with no side above `LONGEST`: the mean of square blocks."""
    factor = -(-max(picture.shape[:2]) // LONGEST)
    if factor == 1:
        return picture
    height, width = (max(1, side // factor) for side in picture.shape[:2])
    blocks = picture[: height * factor, : width * factor]
    down, across = blocks.shape[0] // height, blocks.shape[1] // width
    blocks = blocks.reshape(height, down, width, across, 3).astype(np.float32)
    return blocks.mean((1, 3)).round().astype(np.uint8)


def encode(canvas: np.ndarray, count: int) -> tuple[str, bytes, bool]:
    """`canvas` of `count` pictures as a kind of image, its bytes, and whether detail was lost."""
    from PIL import Image, features  # here, because it is slow to import; matplotlib brings it

    image = Image.fromarray(canvas)
    if not features.check("webp"):
        return "png", saved(image, format="PNG", optimize=True), False
    exact = saved(image, format="WEBP", lossless=True, quality=60, method=4)
    if len(exact) < HEAVY * count:
        return "webp", exact, False
    rough = saved(image, format="WEBP", quality=80, method=4)
    return ("webp", rough, True) if 2 * len(rough) < len(exact) else ("webp", exact, False)


def saved(image: Any, **how: Any) -> bytes:
    """What `image` is as a file; nothing of when or where it was made goes in."""
    stream = io.BytesIO()
    image.save(stream, **how)
    return stream.getvalue()
