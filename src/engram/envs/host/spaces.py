"""Gymnasium's spaces as Engram stores them: flat arrays of few dtypes, and a fixed number of actions.

Worker processes import this file, so it imports no JAX: one second and 150 MB for each worker saved.

| Gymnasium                | stored as                                                                    |
|--------------------------|------------------------------------------------------------------------------|
| Box                      | an array; float16/64 become float32, uint32 and 64-bit integers become int32  |
| Discrete(n, start)       | one int32 scalar in 0..n-1 (the start is taken off)                           |
| MultiDiscrete(nvec)      | one int32 vector, in 0..nvec[i]-1 (starts taken off, more axes laid out flat) |
| MultiBinary(n)           | an int8 array of 0 and 1                                                      |
| Text(max_length)         | one int16 vector: i+1 for character i of the sorted set, 0 after the end      |
| Dict, Tuple              | the same of their parts, to any depth                                         |

What an environment returns is held against its declared space here: structure, shape, kind of number, range of
categories, characters and length of a text, NaN and infinity. A value that fits the space in everything but its dtype
is converted if no bit of information is lost (a list of floats, an int64 for a uint8 within 0..255), and refused
otherwise.

A part `action_mask` of the outermost Dict says which actions are allowed: see `Observer.mask` and `mask_problem`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from gymnasium import spaces as gym_spaces

from engram.errors import EnvironmentFault, SpaceError

MOST_JOINT_ACTIONS = 1024
_NARROWED = {"float16": "float32", "float64": "float32", "int64": "int32", "uint32": "int32", "uint64": "int32"}
_SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, Text, and Dict or Tuple of these"
MASK = "action_mask"  # as in engram.spaces, which imports JAX


@dataclass(frozen=True)
class Part:
    """One array of an observation: where it is found, and how it is stored."""

    path: str  # such as `camera` or `0.direction`; empty where the observation is one array
    kind: str  # box, discrete, multidiscrete or text
    shape: tuple[int, ...]  # as stored
    dtype: np.dtype  # as stored
    given: np.dtype  # as declared by the environment
    given_shape: tuple[int, ...]
    start: Any  # what is taken off categories: an int, or an array of `shape`
    sizes: Any  # number of categories: an int, or an array of `shape`; of a text, its characters in order

    @property
    def field(self) -> str:
        """The part's name in messages."""
        return f"observation {self.path!r}" if self.path else "observation"


class Observer:
    """Checks and converts the observations of one Gymnasium space.

    `source` is that space; `parts` lists the arrays of an observation in the order of `jax.tree.leaves` (dict keys
    sorted); `structure` is the observation's tree with an index into `parts` at each leaf; `mask` is the index of
    the part `action_mask` of the outermost Dict, or None.
    Raises SpaceError for a space that holds anything but numbers, categories and texts.
    """

    def __init__(self, space: gym_spaces.Space):
        self.source = space
        self.parts: list[Part] = []
        self.structure = self._read(space, "")
        self._readers: list[Callable[[Any], Any]] = [_reader(part) for part in self.parts]
        self._single = self._readers[0] if isinstance(self.structure, int) else None
        mask = self.structure.get(MASK) if isinstance(self.structure, dict) else None
        self.mask: int | None = mask if isinstance(mask, int) else None

    def __call__(self, observation: Any) -> list[Any]:
        """The observation's arrays, in the order of `parts`.

        An array may be the environment's own, which it may overwrite at its next step. Raises EnvironmentFault,
        naming the part, what was given and what was expected.
        """
        if self._single is not None:
            return [self._single(observation)]
        arrays: list[Any] = []
        self._gather(self.structure, observation, "observation", arrays)
        return arrays

    def tree(self, arrays: list[Any]) -> Any:
        """`arrays` (one per part, any leading axes) as dicts and tuples of the observation."""
        return arrays[0] if self._single is not None else _build(self.structure, arrays)

    def flat(self, tree: Any) -> list[Any]:
        """The inverse of `tree`."""
        return _flatten(self.structure, tree, [])

    def canonical(self) -> gym_spaces.Space:
        """The space of converted observations, as Gymnasium's own: every part a Box."""
        boxes = [gym_spaces.Box(*_limits(part.dtype), part.shape, part.dtype) for part in self.parts]  # pyright: ignore
        return _build_space(self.structure, boxes)

    def signature(self) -> list[list[Any]]:
        """What must agree between environments that are batched, as JSON values."""
        return [
            [part.path, part.kind, list(part.shape), str(part.dtype), np.asarray(part.sizes).tolist()]
            for part in self.parts
        ]

    def _read(self, space: gym_spaces.Space, path: str) -> Any:
        if isinstance(space, gym_spaces.Dict):
            if not space.spaces or any(not isinstance(name, str) for name in space.spaces):
                raise SpaceError(f"{_where(path)} is {space}; a Dict needs at least one part, and strings as keys")
            return {name: self._read(space.spaces[name], _join(path, name)) for name in sorted(space.spaces)}
        if isinstance(space, gym_spaces.Tuple):
            if not space.spaces:
                raise SpaceError(f"{_where(path)} is an empty Tuple; a Tuple needs at least one part")
            return tuple(self._read(part, _join(path, str(index))) for index, part in enumerate(space.spaces))
        self.parts.append(_part(space, path))
        return len(self.parts) - 1

    def _gather(self, structure: Any, value: Any, path: str, arrays: list[Any]) -> None:
        if isinstance(structure, int):
            arrays.append(self._readers[structure](value))
        elif isinstance(structure, dict):
            if not isinstance(value, dict) or value.keys() != structure.keys():
                given = f"keys {sorted(map(str, value))}" if isinstance(value, dict) else _say(value)
                raise EnvironmentFault(f"{path} has {given}, expected a dict of {sorted(structure)}")
            for name, part in structure.items():
                self._gather(part, value[name], f"{path}.{name}", arrays)
        else:
            if not isinstance(value, tuple | list) or len(value) != len(structure):
                given = f"{len(value)} parts" if isinstance(value, tuple | list) else _say(value)
                raise EnvironmentFault(f"{path} has {given}, expected a tuple of {len(structure)} parts")
            for index, part in enumerate(structure):
                self._gather(part, value[index], f"{path}.{index}", arrays)


def mask_problem(mask: np.ndarray) -> str:
    """What is wrong with the numbers of an action mask, as the rest of a sentence; empty where nothing is."""
    other = mask[(mask != 0) & (mask != 1)]
    if other.size:
        return f"holds {other[0]}, expected 0 for each forbidden action and 1 for each allowed one"
    return "" if mask.any() else "forbids every action, expected at least one that is allowed"


def joint_actions(space: gym_spaces.Space, bins: int | None = None) -> np.ndarray:
    """What each of the agent's actions 0..n-1 is to the environment: row i is action i.

    Args:
      space: Discrete (its start is added), MultiDiscrete and MultiBinary (every combination, the last entry
        fastest), or a bounded Box (every combination of `bins` evenly spaced values per number, bounds included).
      bins: values per number of a Box, >= 2.

    Raises SpaceError where the space is another, is unbounded, or has more than 1,024 combinations.
    """
    if isinstance(space, gym_spaces.Box):
        return _box_actions(space, bins)
    if bins is not None:
        raise SpaceError(f"action_bins = {bins} was given, but the actions {space} are not continuous; leave it out")
    if isinstance(space, gym_spaces.Discrete):
        return np.arange(int(space.start), int(space.start) + int(space.n), dtype=np.int64)
    if isinstance(space, gym_spaces.MultiDiscrete):
        values = [start + np.arange(n) for n, start in zip(space.nvec.ravel(), space.start.ravel(), strict=True)]
        return _combine(values, space.shape, space.dtype, str(space))
    if isinstance(space, gym_spaces.MultiBinary):
        return _combine([np.arange(2)] * prod(space.shape), space.shape, space.dtype, str(space))
    raise SpaceError(
        f"the actions are {type(space).__name__}; Engram acts in Discrete, MultiDiscrete, MultiBinary and (with "
        f"--action-bins N) Box action spaces: wrap the environment so that it offers one of them"
    )


def _box_actions(space: gym_spaces.Box, bins: int | None) -> np.ndarray:
    if bins is None:
        raise SpaceError(
            f"the actions {space} are continuous and Engram chooses among a fixed number; "
            f"give --action-bins N (action_bins=N) for N evenly spaced values of its {prod(space.shape)} numbers"
        )
    if bins < 2:
        raise SpaceError(f"action_bins = {bins} was given; at least 2 values are needed, the lower and the upper bound")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise SpaceError(
            f"the actions {space} have no finite bounds to space values between; wrap it to give it bounds"
        )
    bounds = zip(space.low.ravel(), space.high.ravel(), strict=True)
    values = [np.linspace(low, high, bins) for low, high in bounds]
    return _combine(values, space.shape, space.dtype, f"action_bins = {bins} of {space}")


def _combine(values: list[np.ndarray], shape: tuple[int, ...], dtype: Any, what: str) -> np.ndarray:
    count = prod(len(column) for column in values)
    if count > MOST_JOINT_ACTIONS:
        sizes = " x ".join(str(len(column)) for column in values)
        raise SpaceError(
            f"{what} has {sizes} = {count:,} joint actions; at most {MOST_JOINT_ACTIONS:,} are possible: "
            f"use fewer values per number, or wrap the environment to offer a choice of actions"
        )
    grid = np.stack(np.meshgrid(*values, indexing="ij"), axis=-1).reshape(count, *shape)
    return grid.astype(dtype)


def _part(space: gym_spaces.Space, path: str) -> Part:
    int32 = np.dtype("int32")
    if isinstance(space, gym_spaces.Box):
        if prod(space.shape) == 0:
            raise SpaceError(f"{_where(path)} is a Box of shape {space.shape}, which holds no number; leave it out")
        dtype = np.dtype(_NARROWED.get(str(space.dtype), str(space.dtype)))
        return Part(path, "box", space.shape, dtype, np.dtype(space.dtype), space.shape, 0, 0)
    if isinstance(space, gym_spaces.MultiBinary):
        int8 = np.dtype("int8")
        return Part(path, "box", space.shape, int8, int8, space.shape, 0, 0)
    if isinstance(space, gym_spaces.Discrete):
        return Part(path, "discrete", (), int32, np.dtype("int64"), (), int(space.start), int(space.n))
    if isinstance(space, gym_spaces.MultiDiscrete):
        shape = (prod(space.shape),)
        start, sizes = space.start.reshape(-1).astype(np.int64), space.nvec.reshape(-1).astype(np.int64)
        return Part(path, "multidiscrete", shape, int32, np.dtype(space.dtype), space.shape, start, sizes)
    if isinstance(space, gym_spaces.Text):
        return _text_part(space, path)
    raise SpaceError(
        f"{_where(path)} is a {type(space).__name__} space; Engram reads {_SUPPORTED}: "
        f"leave that part out (gymnasium.wrappers.FilterObservation) or turn it into numbers with a wrapper"
    )


def _text_part(space: gym_spaces.Text, path: str) -> Part:
    # Sorted, whatever order Gymnasium holds them in: that of a set may differ between processes.
    characters = "".join(sorted(space.character_set))
    most = np.iinfo(np.int16).max
    if space.max_length < 1 or not 1 <= len(characters) <= most:
        raise SpaceError(
            f"{_where(path)} is a Text of at most {space.max_length} out of {len(characters):,} characters; expected "
            f"a length of at least 1, and 1 to {most:,} characters to choose from"
        )
    return Part(path, "text", (space.max_length,), np.dtype("int16"), np.dtype(str), (), 1, characters)


def _reader(part: Part) -> Callable[[Any], Any]:
    if part.kind == "discrete":
        return lambda value: _read_discrete(part, value)
    if part.kind == "multidiscrete":
        return lambda value: _read_multidiscrete(part, value)
    if part.kind == "text":
        return _text_reader(part)
    return _box_reader(part)


def _box_reader(part: Part) -> Callable[[Any], np.ndarray]:
    """The hot path: an array as declared costs two comparisons, and a look at each number if it holds floats."""
    dtype, shape, same = part.dtype, part.shape, part.dtype == part.given
    floating = part.dtype.kind == "f"
    ndarray = np.ndarray

    def read(value: Any) -> np.ndarray:
        if not (same and type(value) is ndarray and value.dtype == dtype and value.shape == shape):
            value = _coerce(part, value)
        if floating and not _all_finite(value):
            _refuse_number(part, value)
        return value

    return read


def _all_finite(array: np.ndarray) -> bool:
    """As `np.isfinite(array).all()`, in a quarter of the time for a small array, where the reduction costs most."""
    return b"\0" not in np.isfinite(array).tobytes()


def _coerce(part: Part, value: Any) -> np.ndarray:
    """`value` as the part's stored dtype, if it has the declared shape and nothing is lost but float precision."""
    expected = f"expected {part.given} of shape {part.given_shape}"
    array = _as_array(part, value, expected)
    if array.shape != part.given_shape:
        raise EnvironmentFault(f"{part.field} has shape {array.shape}, {expected}")
    if part.dtype.kind == "f" and array.dtype.kind in "fiu":
        if not _all_finite(array):  # told apart from a finite number that float32 cannot hold
            _refuse_number(part, array)
        with np.errstate(over="ignore"):
            return array.astype(part.dtype)
    if array.dtype.kind not in "biu":
        raise EnvironmentFault(f"{part.field} holds {array.dtype}, {expected}")
    converted = array.astype(part.dtype)
    if not (converted == array).all():
        held = array[converted != array].flat[0]
        raise EnvironmentFault(f"{part.field} holds {held}, which {part.dtype} cannot store; {expected}")
    return converted


def _refuse_number(part: Part, array: np.ndarray) -> None:
    place = tuple(int(axis) for axis in np.argwhere(~np.isfinite(array))[0])
    number = array[place]
    at = f" at {list(place)}" if place else ""
    raise EnvironmentFault(f"{part.field} holds {number}{at}, expected finite numbers that float32 can hold")


def _as_array(part: Part, value: Any, expected: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except Exception as error:
        raise EnvironmentFault(f"{part.field} is {_say(value)}, {expected}") from error


def _read_discrete(part: Part, value: Any) -> np.int32:
    start, size = part.start, part.sizes
    if type(value) is not int and not isinstance(value, np.integer):
        array = _as_array(part, value, "expected an integer")
        if array.shape != () or array.dtype.kind not in "iu":
            raise EnvironmentFault(
                f"{part.field} is {_say(value)}, expected one integer in {start}..{start + size - 1}"
            )
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
            raise EnvironmentFault(f"{part.field} is {_say(value)}, expected a text")
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


def _say(value: Any) -> str:
    """A value in a message: its type, and itself where short."""
    text = repr(value)
    return f"{type(value).__name__} {text}" if len(text) <= 60 else type(value).__name__


def _where(path: str) -> str:
    return f"the observation's part {path!r}" if path else "the observation space"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _limits(dtype: np.dtype) -> tuple[Any, Any]:
    if dtype.kind == "f":
        return -np.inf, np.inf
    return (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)


def _build(structure: Any, arrays: list[Any]) -> Any:
    if isinstance(structure, int):
        return arrays[structure]
    if isinstance(structure, dict):
        return {name: _build(part, arrays) for name, part in structure.items()}
    return tuple(_build(part, arrays) for part in structure)


def _build_space(structure: Any, boxes: Sequence[gym_spaces.Space]) -> gym_spaces.Space:
    if isinstance(structure, int):
        return boxes[structure]
    if isinstance(structure, dict):
        return gym_spaces.Dict({name: _build_space(part, boxes) for name, part in structure.items()})
    return gym_spaces.Tuple([_build_space(part, boxes) for part in structure])


def _flatten(structure: Any, tree: Any, arrays: list[Any]) -> list[Any]:
    if isinstance(structure, int):
        arrays.append(tree)
    else:
        for name in structure if isinstance(structure, dict) else range(len(structure)):
            _flatten(structure[name], tree[name], arrays)
    return arrays
