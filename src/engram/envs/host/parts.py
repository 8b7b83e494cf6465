"""One array of an observation: how its Gymnasium space is stored, and the check of each value.

| Gymnasium                | stored as                                                                    |
|--------------------------|------------------------------------------------------------------------------|
| Box                      | an array; float16/64 become float32, uint32 and 64-bit integers become int32  |
| Discrete(n, start)       | one int32 scalar in 0..n-1 (the start is taken off)                           |
| MultiDiscrete(nvec)      | one int32 vector, in 0..nvec[i]-1 (starts taken off, more axes laid out flat) |
| MultiBinary(n)           | an int8 array of 0 and 1                                                      |
| Text(max_length)         | one int16 vector: i+1 for character i of the sorted set, 0 after the end      |

A reader holds a value against the declared space: shape, kind of number, range of categories, characters and length of
a text, infinity, and NaN unless it stands for a missing number. A value that differs in its dtype alone is converted if
no bit of information is lost (a list of floats, an int64 for a uint8 within 0..255). Any other value is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, NoReturn

import numpy as np
from gymnasium import spaces as gym_spaces

from engram.errors import EnvironmentFault, SpaceError
from engram.spaces import MASK, OFFERED, Box, Discrete, Leaf, MultiDiscrete, Text, columns_of

_NARROWED = {"float16": "float32", "float64": "float32", "int64": "int32", "uint32": "int32", "uint64": "int32"}
_SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, Text, and Dict or Tuple of these"


@dataclass(frozen=True)
class Part:
    """One array of an observation: where it is found, and how it is stored."""

    path: str  # such as `camera` or `0.direction`; empty where the observation is one array
    stored: Leaf
    given: np.dtype  # as declared by the environment
    given_shape: tuple[int, ...]
    start: Any  # what is taken off categories: an int, or an array of `shape`
    sizes: Any  # number of categories: an int, or an array of `shape`; of a text, its characters in order

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """As stored."""
        return self.stored.shape

    @cached_property
    def dtype(self) -> np.dtype:
        """As stored."""
        return np.dtype(self.stored.dtype)

    @property
    def field(self) -> str:
        """The part's name in messages."""
        return f"observation {self.path!r}" if self.path else "observation"

    @property
    def may_be_missing(self) -> bool:
        """Whether a number of it can be missing: floats that are seen, and say nothing of what may be done."""
        return self.dtype.kind == "f" and self.path not in (MASK, OFFERED)

    def signature(self) -> list[Any]:
        """What must agree between environments that are batched, as JSON values."""
        kind = type(self.stored).__name__.lower()
        return [self.path, kind, list(self.shape), str(self.dtype), np.asarray(self.sizes).tolist()]


def part_of(space: gym_spaces.Space, path: str) -> Part:
    """The part that stores a Gymnasium space without parts of its own; SpaceError for a kind that none can store."""
    if isinstance(space, gym_spaces.Box):
        if prod(space.shape) == 0:
            raise SpaceError(f"{where(path)} is a Box of shape {space.shape}, which holds no number; leave it out")
        dtype = _NARROWED.get(str(space.dtype), str(space.dtype))
        return Part(path, _box(space, dtype), np.dtype(space.dtype), space.shape, 0, 0)
    if isinstance(space, gym_spaces.MultiBinary):
        return Part(path, Box(space.shape, "int8"), np.dtype("int8"), space.shape, 0, 0)
    if isinstance(space, gym_spaces.Discrete | gym_spaces.MultiDiscrete):
        _check_countable(space, path)
    if isinstance(space, gym_spaces.Discrete):
        return Part(path, Discrete(int(space.n)), np.dtype("int64"), (), int(space.start), int(space.n))
    if isinstance(space, gym_spaces.MultiDiscrete):
        start, sizes = space.start.reshape(-1).astype(np.int64), space.nvec.reshape(-1).astype(np.int64)
        stored = MultiDiscrete(tuple(sizes.tolist()))
        return Part(path, stored, np.dtype(space.dtype), space.shape, start, sizes)
    if isinstance(space, gym_spaces.Text):
        return _text_part(space, path)
    raise SpaceError(
        f"{where(path)} is a {type(space).__name__} space; Engram reads {_SUPPORTED}: "
        f"leave that part out (gymnasium.wrappers.FilterObservation) or turn it into numbers with a wrapper"
    )


def _box(space: gym_spaces.Box, dtype: str) -> Box:
    """The stored Box. It keeps only bounds that numbers are scaled by, so that spaces are equal where agents are."""
    unordered, columns = bool(getattr(space, "unordered", False)), columns_of(getattr(space, "columns", ()))
    bounded = Box(space.shape, dtype, space.low, space.high, unordered, columns)
    return bounded if bounded.scale else Box(space.shape, dtype, -np.inf, np.inf, unordered, columns)


def _check_countable(space: gym_spaces.Discrete | gym_spaces.MultiDiscrete, path: str) -> None:
    largest, most = int(np.max(space.nvec if isinstance(space, gym_spaces.MultiDiscrete) else space.n)), 2**31 - 1
    if largest > most:
        raise SpaceError(
            f"{where(path)} has {largest:,} categories, more than the {most:,} that int32 can number; show the digits "
            f"of such a number as a MultiDiscrete"
        )


def _text_part(space: gym_spaces.Text, path: str) -> Part:
    # Sorted, whatever order Gymnasium holds them in: that of a set may differ between processes.
    characters = "".join(sorted(space.character_set))
    most = np.iinfo(np.int16).max
    if space.max_length < 1 or not 1 <= len(characters) <= most:
        raise SpaceError(
            f"{where(path)} is a Text of at most {space.max_length} out of {len(characters):,} characters; expected "
            f"a length of at least 1, and 1 to {most:,} characters to choose from"
        )
    return Part(path, Text(space.max_length, len(characters)), np.dtype(str), (), 1, characters)


def reader_of(part: Part, missing: bool = False) -> Callable[[Any], Any]:
    """A function from what the environment shows of a part to the array that is stored.

    With `missing` a NaN is a missing number of an array of floats, and is stored.
    It raises EnvironmentFault, naming the part, what was given and what was expected.
    """
    if isinstance(part.stored, Discrete):
        return lambda value: _read_discrete(part, value)
    if isinstance(part.stored, MultiDiscrete):
        return lambda value: _read_multidiscrete(part, value)
    return _text_reader(part) if isinstance(part.stored, Text) else _box_reader(part, missing)


def _box_reader(part: Part, missing: bool) -> Callable[[Any], np.ndarray]:
    """The hot path: an array as declared costs two comparisons, and a look at each number if it holds floats."""
    dtype, shape, same = part.dtype, part.shape, part.dtype == part.given
    floating = part.dtype.kind == "f"
    ndarray = np.ndarray

    def read(value: Any) -> np.ndarray:
        if not (same and type(value) is ndarray and value.dtype == dtype and value.shape == shape):
            value = _coerce(part, value, missing)
        if floating and not _all_finite(value):
            return _with_missing(part, value, missing)
        return value

    return read


def _all_finite(array: np.ndarray) -> bool:
    """As `np.isfinite(array).all()`, in a quarter of the time for a small array, where the reduction costs most."""
    return b"\0" not in np.isfinite(array).tobytes()


def _with_missing(part: Part, array: np.ndarray, missing: bool) -> np.ndarray:
    """The array with every NaN as the same bits, so that equal observations have equal hashes; or a refusal."""
    unknown = np.isnan(array)
    if not missing or not np.isfinite(array[~unknown]).all():
        _refuse_number(part, array, missing)
    return np.where(unknown, array.dtype.type(np.nan), array)


def _coerce(part: Part, value: Any, missing: bool) -> np.ndarray:
    """`value` as the part's stored dtype, if it has the declared shape and nothing is lost but float precision."""
    expected = f"expected {part.given} of shape {part.given_shape}"
    array = _as_array(part, value, expected)
    if array.shape != part.given_shape:
        raise EnvironmentFault(f"{part.field} has shape {array.shape}, {expected}")
    if part.dtype.kind == "f" and array.dtype.kind in "fiu":
        if not _all_finite(array):  # told apart from a finite number that float32 cannot hold
            array = _with_missing(part, array, missing)
        with np.errstate(over="ignore"):
            return array.astype(part.dtype)
    if array.dtype.kind not in "biu":
        raise EnvironmentFault(f"{part.field} holds {array.dtype}, {expected}")
    converted = array.astype(part.dtype)
    if not (converted == array).all():
        held = array[converted != array].flat[0]
        raise EnvironmentFault(f"{part.field} holds {held}, which {part.dtype} cannot store; {expected}")
    return converted


def _refuse_number(part: Part, array: np.ndarray, missing: bool) -> NoReturn:
    wrong = np.isinf(array) if missing else ~np.isfinite(array)
    place = tuple(int(axis) for axis in np.argwhere(wrong)[0])
    number = array[place]
    at = f" at {list(place)}" if place else ""
    offers = not missing and np.isnan(number) and part.may_be_missing
    way_out = " (where one may be missing: a new run with observation.missing=mask)" if offers else ""
    raise EnvironmentFault(f"{part.field} holds {number}{at}, expected finite numbers that float32 can hold{way_out}")


def _as_array(part: Part, value: Any, expected: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except Exception as error:
        raise EnvironmentFault(f"{part.field} is {say(value)}, {expected}") from error


def _read_discrete(part: Part, value: Any) -> np.int32:
    start, size = part.start, part.sizes
    if type(value) is not int and not isinstance(value, np.integer):
        array = _as_array(part, value, "expected an integer")
        if array.shape != () or array.dtype.kind not in "iu":
            raise EnvironmentFault(f"{part.field} is {say(value)}, expected one integer in {start}..{start + size - 1}")
        value = array.item()
    index = int(value) - start
    if not 0 <= index < size:
        raise EnvironmentFault(f"{part.field} is {value}, expected one integer in {start}..{start + size - 1}")
    return np.int32(index)


def _read_multidiscrete(part: Part, value: Any) -> np.ndarray:
    expected = f"expected integers of shape {part.given_shape}"
    array = _as_array(part, value, expected)
    if array.shape != part.given_shape or array.dtype.kind not in "iu":
        raise EnvironmentFault(f"{part.field} holds {array.dtype} of shape {array.shape}, {expected}")
    categories = array.reshape(-1).astype(np.int64) - part.start
    wrong = (categories < 0) | (categories >= part.sizes)
    if wrong.any():
        place = int(np.argmax(wrong))
        low = int(part.start[place])
        high = low + int(part.sizes[place]) - 1
        raise EnvironmentFault(
            f"{part.field} holds {array.reshape(-1)[place]} at [{place}], expected {low}..{high} there"
        )
    return categories.astype(np.int32)


def _text_reader(part: Part) -> Callable[[Any], np.ndarray]:
    numbers = {character: part.start + place for place, character in enumerate(part.sizes)}
    length = part.shape[0]

    def read(value: Any) -> np.ndarray:
        if isinstance(value, np.ndarray) and value.shape == () and value.dtype.kind == "U":
            value = value.item()
        if not isinstance(value, str):
            raise EnvironmentFault(f"{part.field} is {say(value)}, expected a text")
        if len(value) > length:
            raise EnvironmentFault(
                f"{part.field} is a text of {len(value)} characters, expected at most {length} (its max_length)"
            )
        symbols = np.zeros(length, np.int16)
        try:
            symbols[: len(value)] = [numbers[character] for character in value]
        except KeyError as error:
            raise EnvironmentFault(
                f"{part.field} holds the character {error}, which is none of its {len(numbers)} (its charset)"
            ) from None
        return symbols

    return read


def say(value: Any) -> str:
    """A value in a message: its type, and itself where short."""
    text = repr(value)
    return f"{type(value).__name__} {text}" if len(text) <= 60 else type(value).__name__


def where(path: str) -> str:
    """A part of a space in messages."""
    return f"the observation's part {path!r}" if path else "the observation space"
