"""An observation in parts: covering some of them, and telling them by name and value."""

from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from engram import spaces
from engram.encoders.parts import Parts, place_names
from engram.envs.names import NOTHING, Names
from engram.explaining.moments import Part

MOST_FACTS = 64  # numbers of one observation that are told
PICTURE, BOARD = 8, 5  # rows and columns from which an array, or one of planes, is a picture: nobody reads its numbers


def cover(parts: Parts, observation: PyTree, covered: Bool[Array, "parts"], fill: PyTree) -> PyTree:
    """An observation in which the `covered` parts are those of `fill`. Pure: it can be jitted, and batched over all.

    Args:
      observation: stacked frames, as an encoder is given them: leaves [stack, ...].
      fill: another observation of that form, or of one frame: the mean of an episode (`mean_of`), that of another time,
        or the same one `blurred`. Of a set zeros: an entity is then left out, and would else be there where it is not.

    What belongs to no part, as `action_mask` does, stays.
    """
    if parts.count == 0:
        return observation

    def one(owner: np.ndarray, value: Array, other: Array) -> Array:
        value, other = jnp.asarray(value), jnp.asarray(other)
        hidden = jnp.asarray(covered)[np.maximum(owner, 0)] & (owner >= 0)
        return jnp.where(hidden, other.astype(value.dtype), value)

    return jax.tree.map(one, parts.owners(), observation, fill)


def mean_of(space: spaces.Space, observations: PyTree) -> PyTree:
    """The mean of observations over their first axis; of categories and texts the middle one, as they have no mean."""

    def one(leaf: spaces.Leaf, values: Any) -> np.ndarray:
        values = np.asarray(values)
        if not isinstance(leaf, spaces.Box):
            return np.asarray(values[len(values) // 2])
        known = np.isfinite(values)
        total = np.where(known, values, 0).sum(0, dtype=np.float64)
        mean = total / np.maximum(known.sum(0), 1)
        return np.asarray(mean if values.dtype.kind == "f" else np.round(mean)).astype(values.dtype)

    leaves = [leaf for _, leaf in spaces.leaves(space)]
    values = jax.tree.leaves(observations)
    found = [one(leaf, value) for leaf, value in zip(leaves, values, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(observations), found)


def there(parts: Parts, observation: PyTree) -> Bool[np.ndarray, "parts"]:
    """Which entities of stacked frames are there: rows that are not all zeros. Parts of other kinds all are."""
    if parts.kind != "entities":
        return np.ones(parts.count, bool)
    found = np.zeros(parts.count, bool)
    for owner, value in zip(jax.tree.leaves(parts.owners()), jax.tree.leaves(observation), strict=True):
        np.logical_or.at(found, owner[owner >= 0], np.asarray(value)[owner >= 0] != 0)
    return found


def blurred(space: spaces.Space, observation: PyTree, reach: int = 4) -> PyTree:
    """An observation whose pictures are the mean of so many pixels to every side; all else as it is.

    Leaves may have leading axes. A picture is an array of two axes or three, none of its sides short.
    """
    leaves = [leaf for _, leaf in spaces.leaves(space)]
    values = zip(leaves, jax.tree.leaves(observation), strict=True)
    found = [_blurred(leaf, np.asarray(value), reach) if is_picture(leaf) else value for leaf, value in values]
    return jax.tree.unflatten(jax.tree.structure(observation), found)


def _blurred(leaf: spaces.Leaf, value: np.ndarray, reach: int) -> np.ndarray:
    first = value.ndim - len(leaf.shape) + _channels_first(leaf)
    smooth = value.astype(np.float64)
    for axis in (first, first + 1):
        side = smooth.shape[axis]
        near = np.abs(np.subtract.outer(np.arange(side), np.arange(side))) <= reach
        weights = near / near.sum(1, keepdims=True)
        smooth = np.moveaxis(np.moveaxis(smooth, axis, -1) @ weights.T, -1, axis)
    return (smooth if value.dtype.kind == "f" else np.round(smooth)).astype(value.dtype)


def is_picture(leaf: spaces.Leaf) -> bool:
    """Whether an array of an observation is a picture or a board, not numbers to read."""
    if not isinstance(leaf, spaces.Box) or leaf.unordered or len(leaf.shape) not in (2, 3):
        return False
    sides = leaf.shape[1:] if _channels_first(leaf) else leaf.shape[:2]
    return min(sides) >= (PICTURE if len(leaf.shape) == 2 else BOARD)


def _channels_first(leaf: spaces.Leaf) -> bool:
    return len(leaf.shape) == 3 and leaf.shape[0] <= 16 < min(leaf.shape[1:])


def facts(space: spaces.Space, observation: PyTree, names: Names = NOTHING) -> list[tuple[str, str]]:
    """Names and values of one observation as text, without its pictures; of a set a line for each row that is there.

    At most 64, then one that says how many more there are.
    """
    found: list[tuple[str, str]] = []
    seen = spaces.seen(space)
    called = list(names.numbers) if len(names.numbers) == _numbers(seen) else place_names(_few(seen))
    at = 0
    for (path, leaf), value in zip(
        spaces.leaves(seen), jax.tree.leaves(spaces.seen_of(space, observation)), strict=True
    ):
        count, value = prod(leaf.shape), np.asarray(value)
        if is_picture(leaf):
            at += count if called and len(called) == _numbers(seen) else 0
            continue
        if isinstance(leaf, spaces.Box) and leaf.unordered and value.ndim == 2:
            found += _rows(value, names)
        elif isinstance(leaf, spaces.Text):
            found.append((path or "text", " ".join(symbol(one, names.symbols) for one in value if one > 0)))
        else:
            found += [(name, number(one)) for name, one in zip(called[at : at + count], value.reshape(-1), strict=True)]
        at += count
    more = len(found) - MOST_FACTS
    return found if more <= 0 else [*found[:MOST_FACTS], ("and more", f"{more} numbers")]


def _few(space: spaces.Space) -> spaces.Space:
    """The space without pictures, whose numbers get no names."""
    return spaces.changed(lambda leaf: spaces.Box((0,)) if is_picture(leaf) else leaf, space)


def _numbers(space: spaces.Space) -> int:
    return sum(prod(leaf.shape) for _, leaf in spaces.leaves(space))


def _rows(rows: np.ndarray, names: Names) -> list[tuple[str, str]]:
    return [
        (entity_name(row, names.entities), _labelled([number(one) for one in values], names.columns))
        for row, values in enumerate(rows)
        if row == 0 or np.any(values != 0)
    ]


def _labelled(numbers: list[str], columns: tuple[str, ...]) -> str:
    """The numbers of a row, each with its name where there is one for each."""
    if len(columns) != len(numbers):
        return "  ".join(numbers)
    short = [
        one if one == "missing" else f"{round(float(one), 2) + 0.0:.2f}".rstrip("0").rstrip(".") for one in numbers
    ]
    return "  ".join(f"{name} {value}" for name, value in zip(columns, short, strict=True))


def entity_name(row: int, names: tuple[str, ...] = ()) -> str:
    """The name of a row of a set; the first is the agent's own."""
    return names[row] if row < len(names) else f"entity {row}" if row else "itself"


def number(value: Any) -> str:
    """A number as a person reads it: whole ones whole, others to 4 digits; `missing` for NaN.

    >>> number(0.123456), number(3), number(float("nan"))
    ('0.1235', '3', 'missing')
    """
    value = float(value)
    if np.isnan(value):
        return "missing"
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.4g}"


def symbol(value: Any, names: tuple[str, ...]) -> str:
    """A symbol of a text by its name, that of symbol 1 first, or as a number where none has one.

    Where others have names, one without is `#` and its number, which does not look like a word of the text.
    Nothing for 0, which is no symbol, and for the one after the last that has a name: the end.
    """
    if names and 0 < value <= len(names):
        return names[int(value) - 1] or f"#{number(value)}"
    return "" if names and value in (0, len(names) + 1) else number(value)


def parts_told(parts: Parts, observation: PyTree | None = None, names: Names = NOTHING) -> list[Part]:
    """Each part with its name, what it holds in a stacked observation, and where it is in the picture.

    Places of a picture hold nothing that could be written; without `observation` nothing does.
    """
    called = parts.named(names.entities if parts.kind == "entities" else names.numbers)
    words = _words(parts) if names.symbols else [False] * parts.count
    values = (
        [""] * parts.count
        if observation is None or parts.kind in ("grid", "none")
        else _held(parts, observation, names)
    )
    frames = parts.shape[0] if len(parts.shape) == 2 and parts.kind != "grid" else 1
    places = len(parts.places)
    moving = [names.boxes[place] if place < len(names.boxes) else None for place in range(places)]
    older = [None] * ((frames - 1) * places)  # only the newest frame is in the picture
    boxes = parts.boxes if parts.kind == "grid" else [*older, *moving]
    told = zip(called.names, values, boxes, words, strict=True)
    return [Part(name, value, box, word) for name, value, box, word in told]


def _words(parts: Parts) -> list[bool]:
    """Which parts are places of a text."""
    found = [False] * parts.count
    leaves = [leaf for _, leaf in spaces.leaves(parts.space)]
    for leaf, owner in zip(leaves, jax.tree.leaves(parts.owners()), strict=True):
        if isinstance(leaf, spaces.Text):
            for part in np.unique(owner[owner >= 0]):
                found[part] = True
    return found


def _held(parts: Parts, observation: PyTree, names: Names) -> list[str]:
    """What each part holds, as text; of a part that is a number of all frames the newest one."""
    held: list[list[str]] = [[] for _ in range(parts.count)]
    frames = parts.shape[0] if len(parts.shape) == 2 else 1
    leaves = [leaf for _, leaf in spaces.leaves(parts.space)]
    for leaf, owner, value in zip(leaves, jax.tree.leaves(parts.owners()), jax.tree.leaves(observation), strict=True):
        owner, value = np.asarray(owner), np.asarray(value)
        write = partial(symbol, names=names.symbols) if isinstance(leaf, spaces.Text) else number
        if frames == 1:
            owner, value = owner[-1:], value[-1:]
        for part, one in zip(owner.reshape(-1).tolist(), value.reshape(-1), strict=True):
            if part >= 0:
                held[part].append(write(one))
    return [_labelled(each, names.columns if parts.kind == "entities" else ()) for each in held]
