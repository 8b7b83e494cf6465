"""Numbers as a page carries them: columns of little-endian bytes in base64, which a browser reads without parsing."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

INTEGERS = ("<u1", "<i2", "<i4")
Column = dict[str, Any]  # {"dtype", "shape", "data"}, and "repeat": true where one value stands for all


def packed(values: np.ndarray) -> Column:
    """`values` as a column; one value is kept where all are the same to the bit."""
    flat = np.ascontiguousarray(values).reshape(-1)
    column: Column = {"dtype": flat.dtype.newbyteorder("<").str.replace("|", "<"), "shape": list(values.shape)}
    width = flat.dtype.itemsize
    raw = flat.astype(flat.dtype.newbyteorder("<")).tobytes()
    if flat.size > 1 and raw == raw[:width] * flat.size:
        return {**column, "repeat": True, "data": base64.b64encode(raw[:width]).decode("ascii")}
    return {**column, "data": base64.b64encode(raw).decode("ascii")}


def integers(values: Sequence[int] | np.ndarray, shape: tuple[int, ...] = (-1,)) -> Column:
    """Whole numbers in the narrowest type that holds them; past 32 bits as float64, exact to 2^53."""
    wide = np.asarray(values, np.float64).reshape(shape)
    for name in INTEGERS:
        kind = np.iinfo(name)
        if wide.size == 0 or (wide.min() >= kind.min and wide.max() <= kind.max):
            return packed(wide.astype(name))
    return packed(wide)


def floats(values: Sequence[float | None] | np.ndarray, shape: tuple[int, ...] = (-1,)) -> Column:
    """Numbers as float32, or float64 where float32 would lose one to infinity or zero; None becomes NaN."""
    wide = np.asarray([np.nan if value is None else value for value in values], np.float64).reshape(shape)
    with np.errstate(over="ignore", under="ignore"):
        narrow = wide.astype(np.float32)
    lost = (np.isfinite(wide) & ~np.isfinite(narrow)) | ((wide != 0) & (np.abs(narrow) < np.finfo(np.float32).tiny))
    return packed(wide if lost.any() else narrow)


def numbers(column: Column) -> np.ndarray:
    """What a column holds, in its shape: the way back."""
    raw = np.frombuffer(base64.b64decode(column["data"]), column["dtype"])
    shape = tuple(column["shape"])
    return np.full(shape, raw[0]) if column.get("repeat") else raw.reshape(shape)
