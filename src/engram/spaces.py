"""What an observation looks like, as a plain value: hashable, JSON-able, free of JAX and of any environment library.

An observation is a pytree of arrays. Its space is the matching tree of these leaves, and says how one
observation (no leading axes) is stored:

| space          | stored as                                                    |
|----------------|--------------------------------------------------------------|
| `Box`          | one array of `shape` and `dtype`                              |
| `Discrete`     | one int32 scalar in 0..n-1                                    |
| `MultiDiscrete`| one int32 vector, entry i in 0..nvec[i]-1                     |
| `Text`         | one int16 vector of symbols 1..symbols, 0 after the text's end |
| `Dict`         | a dict of observations, keys sorted                           |
| `Tuple`        | a tuple of observations                                       |

Two names in the outermost `Dict` say what may be done rather than what is seen: `action_mask` (one flag for each
action, 0 where it is forbidden) and `offered` (one row of features for each action).

`engram.nn.observation` computes with observations. Worker processes import this file, so it imports no JAX, which
takes a second and 150 MB; `jaxtyping.PyTree` imports it too, so trees are annotated `Any`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from engram.errors import SpaceError

DTYPES = ("bool", "uint8", "int8", "int16", "uint16", "int32", "float32")


@dataclass(frozen=True)
class Box:
    """An array of numbers."""

    shape: tuple[int, ...]
    dtype: str = "float32"

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise SpaceError(f"a Box holds one of {', '.join(DTYPES)}; {self.dtype!r} was given: convert it first")


@dataclass(frozen=True)
class Discrete:
    """One of n categories."""

    n: int
    shape = ()
    dtype = "int32"


@dataclass(frozen=True)
class MultiDiscrete:
    """Several categories at once."""

    nvec: tuple[int, ...]
    dtype = "int32"

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.nvec),)


@dataclass(frozen=True)
class Text:
    """A text of at most `length` symbols out of `symbols`; what follows its end is 0."""

    length: int
    symbols: int
    dtype = "int16"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)


@dataclass(frozen=True)
class Dict:
    """Named parts, sorted by name."""

    items: tuple[tuple[str, "Space"], ...]

    def __post_init__(self):
        object.__setattr__(self, "items", tuple(sorted(self.items)))


@dataclass(frozen=True)
class Tuple:
    """Ordered parts."""

    items: tuple["Space", ...]


Leaf = Box | Discrete | MultiDiscrete | Text
Space = Leaf | Dict | Tuple


def map_space(function: Callable[[Leaf], Any], space: Space) -> Any:
    """`function` of every leaf, in the shape of the observation (dicts for `Dict`, tuples for `Tuple`)."""
    if isinstance(space, Dict):
        return {name: map_space(function, part) for name, part in space.items}
    if isinstance(space, Tuple):
        return tuple(map_space(function, part) for part in space.items)
    return function(space)


def changed(function: Callable[[Leaf], "Space"], space: Space) -> Space:
    """The space with `function` of every leaf in the place of that leaf."""
    if isinstance(space, Dict):
        return Dict(tuple((name, changed(function, part)) for name, part in space.items))
    if isinstance(space, Tuple):
        return Tuple(tuple(changed(function, part) for part in space.items))
    return function(space)


def leaves(space: Space, path: str = "") -> Iterator[tuple[str, Leaf]]:
    """Each leaf with its path, such as `camera` or `0.direction`, in the order of `jax.tree.leaves`."""
    if isinstance(space, Dict):
        for name, part in space.items:
            yield from leaves(part, f"{path}.{name}" if path else name)
    elif isinstance(space, Tuple):
        for index, part in enumerate(space.items):
            yield from leaves(part, f"{path}.{index}" if path else str(index))
    else:
        yield path, space


def zeros(space: Space, leading: tuple[int, ...] = ()) -> Any:
    """An observation of zeros (NumPy), with `leading` axes in front of every leaf."""
    return map_space(lambda leaf: np.zeros((*leading, *leaf.shape), leaf.dtype), space)


def blank(dtype: Any, unknown: bool) -> float:
    """What stands in a frame from before an episode: 0, or NaN for floats where that says that nothing is known."""
    return np.nan if unknown and np.dtype(dtype).kind == "f" else 0


def nbytes(space: Space) -> int:
    """Bytes that one stored observation takes."""
    return sum(prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for _, leaf in leaves(space))


def features(space: Space) -> int:
    """Length of the vector that `engram.nn.observation.flatten` makes."""

    def count(leaf: Leaf) -> int:
        if isinstance(leaf, Discrete):
            return leaf.n
        if isinstance(leaf, MultiDiscrete):
            return sum(leaf.nvec)
        if isinstance(leaf, Text):
            return leaf.length * leaf.symbols
        return prod(leaf.shape)

    return sum(count(leaf) for _, leaf in leaves(space))


def to_unit(dtype: str) -> float:
    """What brings the numbers of a leaf to 0..1: 1/255 for uint8, 1 for all that are taken as they are."""
    return 1 / 255 if dtype == "uint8" else 1.0


def to_json(space: Space) -> dict[str, Any]:
    """The space as JSON values; `from_json` gives it back."""
    if isinstance(space, Dict):
        return {"kind": "dict", "items": [[name, to_json(part)] for name, part in space.items]}
    if isinstance(space, Tuple):
        return {"kind": "tuple", "items": [to_json(part) for part in space.items]}
    if isinstance(space, Discrete):
        return {"kind": "discrete", "n": space.n}
    if isinstance(space, MultiDiscrete):
        return {"kind": "multidiscrete", "nvec": list(space.nvec)}
    if isinstance(space, Text):
        return {"kind": "text", "length": space.length, "symbols": space.symbols}
    return {"kind": "box", "shape": list(space.shape), "dtype": space.dtype}


def from_json(value: dict[str, Any]) -> Space:
    """The inverse of `to_json`; anything else is a SpaceError."""
    match value:
        case {"kind": "dict", "items": items}:
            return Dict(tuple((name, from_json(part)) for name, part in items))
        case {"kind": "tuple", "items": items}:
            return Tuple(tuple(from_json(part) for part in items))
        case {"kind": "discrete", "n": int(n)}:
            return Discrete(n)
        case {"kind": "multidiscrete", "nvec": nvec}:
            return MultiDiscrete(tuple(int(n) for n in nvec))
        case {"kind": "text", "length": int(length), "symbols": int(symbols)}:
            return Text(length, symbols)
        case {"kind": "box", "shape": shape, "dtype": str(dtype)}:
            return Box(tuple(int(n) for n in shape), dtype)
    raise SpaceError(
        f"{value!r} does not describe a space; expected a 'kind' of box, discrete, multidiscrete, text, dict or tuple"
    )


MASK, OFFERED = "action_mask", "offered"


def seen(space: Space) -> Space:
    """What an encoder sees: the space without `action_mask` and `offered`; the single part that is left, if it is one.

    Raises SpaceError if nothing is left.
    """
    if not isinstance(space, Dict) or not {MASK, OFFERED} & {name for name, _ in space.items}:
        return space
    rest = tuple((name, part) for name, part in space.items if name not in (MASK, OFFERED))
    if not rest:
        raise SpaceError("an observation of nothing but its actions was given; add what the agent sees of the state")
    return rest[0][1] if len(rest) == 1 else Dict(rest)


def seen_of(space: Space, observation: Any) -> Any:
    """The part of an observation that `seen(space)` describes, whatever its leading axes."""
    if seen(space) is space:
        return observation
    rest = {name: part for name, part in observation.items() if name not in (MASK, OFFERED)}
    return next(iter(rest.values())) if len(rest) == 1 else rest


def offered_features(space: Space, actions: int) -> int:
    """How many features each action on offer has; 0 where the set of actions is fixed.

    Raises SpaceError for features that are not one row for each action.
    """
    part = part_called(space, OFFERED)
    if part is None:
        return 0
    if not isinstance(part, Box) or len(part.shape) != 2 or part.shape[0] != actions or part.shape[1] == 0:
        raise SpaceError(
            f"the observation's {OFFERED!r} is {part}; expected an array of {actions} rows, the features of each action"
        )
    return part.shape[1]


def has(space: Space, name: str) -> bool:
    """Whether the space is a Dict with a part of that name."""
    return part_called(space, name) is not None


def part_called(space: Space, name: str) -> Space | None:
    """The part of that name of the outermost Dict; None where there is none."""
    return dict(space.items).get(name) if isinstance(space, Dict) else None
