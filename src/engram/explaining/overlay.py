"""A picture with what was attended to, and a picture made larger or smaller, as arrays of bytes."""

import numpy as np
from jaxtyping import Float, UInt8

from engram.explaining.moments import Picture, Step

LIGHT = (255, 214, 64)
DARKER = 0.38  # share of the brightness of places that nobody attended to that is taken away


def looked_at(step: Step, head: int | None = None) -> Float[np.ndarray, "parts"]:
    """The attention of each part, the mean over heads or that of one; empty where there is none, or without parts."""
    attention = np.asarray(step.attention, np.float64)
    if attention.size == 0 or attention.shape[1] != len(step.parts):
        return np.zeros(0)
    return attention.mean(0) if head is None else attention[head]


def overlaid(step: Step, head: int | None = None) -> Picture | None:
    """The picture of a step, in which places that were attended to less are darker, and entities have a frame.

    None where there is no picture; as it is where no part has a place in it.
    """
    weights = looked_at(step, head)
    boxes = [part.box for part in step.parts]
    if step.picture is None or len(weights) == 0 or weights.max() <= 0 or not any(boxes):
        return step.picture
    height, width, _ = step.picture.shape
    covers = sum((box[2] - box[0]) * (box[3] - box[1]) for box in boxes if box) > 0.9
    strength = weights / weights.max()
    picture = step.picture.astype(np.float64)
    if covers:
        light = np.zeros((height, width))
        for box, share in zip(boxes, strength, strict=True):
            if box is not None:
                light[_area(box, height, width)] = share
        return _bytes(picture * (1 - DARKER * (1 - light))[..., None] + 0.22 * light[..., None] ** 2 * np.array(LIGHT))
    for box, share in sorted(zip(boxes, strength, strict=True), key=lambda pair: pair[1]):
        if box is not None and share > 0.05:
            _frame(picture, box, share)
    return _bytes(picture)


def _area(box: tuple[float, float, float, float], height: int, width: int) -> tuple[slice, slice]:
    left, top, right, bottom = box
    rows = slice(round(top * height), max(round(top * height) + 1, round(bottom * height)))
    return rows, slice(round(left * width), max(round(left * width) + 1, round(right * width)))


def _frame(picture: np.ndarray, box: tuple[float, float, float, float], share: float) -> None:
    rows, columns = _area(box, *picture.shape[:2])
    thick = max(1, round(min(picture.shape[:2]) / 80 * (0.5 + share)))
    inside = np.zeros(picture.shape[:2], bool)
    inside[rows, columns] = True
    inner = slice(rows.start + thick, rows.stop - thick), slice(columns.start + thick, columns.stop - thick)
    inside[inner] = False
    picture[inside] += (0.3 + 0.7 * share) * (np.array(LIGHT) - picture[inside])


def _bytes(picture: np.ndarray) -> Picture:
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def resized(picture: Picture, height: int, width: int) -> UInt8[np.ndarray, "tall wide 3"]:
    """A picture of another size: each pixel is the mean of what it covers, or the nearest one where it grows."""
    grown = np.repeat(np.repeat(picture, _times(height, picture.shape[0]), 0), _times(width, picture.shape[1]), 1)
    rows, columns = (_edges(*one) for one in ((grown.shape[0], height), (grown.shape[1], width)))
    sums = np.add.reduceat(np.add.reduceat(grown.astype(np.float64), rows[:-1], 0), columns[:-1], 1)
    return _bytes(sums / (np.diff(rows)[:, None, None] * np.diff(columns)[None, :, None]))


def _times(wanted: int, given: int) -> int:
    """So often a side is repeated before its mean is taken, that no pixel is empty."""
    return max(1, -(-wanted // given) * (4 if wanted > given else 1))


def _edges(given: int, wanted: int) -> np.ndarray:
    return np.arange(wanted + 1) * given // wanted
