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
action, 0 where it is forbidden) and `offered` (one row of features for each action). A third, `team_state`, is what
no agent of a team sees: numbers about the whole world, for a mixing of the agents' values.

A `Box` also says what its numbers mean: their bounds, by which they are scaled (`Box.scale`), and whether its rows are
a set.

`engram.nn.observation` computes with observations. Worker processes import this file, so it imports no JAX, which
takes a second and 150 MB; `jaxtyping.PyTree` imports it too, so trees are annotated `Any`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import Any, NamedTuple

import numpy as np

from engram.errors import SpaceError

DTYPES = ("bool", "uint8", "int8", "int16", "uint16", "int32", "float32")
# Numbers whose largest absolute bound lies in this range are of order one already, and are taken as they are. So are
# those of CartPole, Acrobot and the like.
ORDER_ONE = (1 / 32, 32.0)
NO_BOUND = 1e6  # a larger one stands for "any number", as the largest float does: what comes is nowhere near it
MOST_ONE_HOT = 16_384  # places for the categories of an observation, one for each; a larger one is read by its digits
MOST_BASE = 1024  # of these digits
MOST_NUMBERED = 2**31 - 1  # joint actions, which are numbers of 32 bits

# One for all numbers, or one for each in row-major order; an array is accepted, and kept as such a value.
Bound = float | tuple[float | None, ...] | np.ndarray | None


class Scale(NamedTuple):
    """What brings the numbers of a Box to order one: (number - middle) * factor. Arrays have the shape of the Box.

    0 stays 0 even so, because frames before an episode and rows of no entity hold it.
    """

    middle: "float | np.ndarray"
    factor: "float | np.ndarray"


class Column(NamedTuple):
    """What one number of each row of a set is."""

    name: str  # x, y; vx, vy; cos_h, sin_h: a place, a velocity, a heading. Any other name says nothing more
    unit: float = 1.0  # what 1 of it stands for, in m or m/s


def columns_of(given: Any) -> tuple[Column, ...]:
    """Columns from names, or pairs of a name and its unit; SpaceError for anything else."""
    try:
        pairs = [(one, 1.0) if isinstance(one, str) else tuple(one) for one in given]
        return tuple(Column(str(name), float(unit)) for name, unit in pairs)
    except (TypeError, ValueError):
        raise SpaceError(f"columns = {given!r} were given; expected names, or pairs of a name and its unit") from None


@dataclass(frozen=True)
class Box:
    """An array of numbers.

    Fields:
      low, high: the bounds of the numbers; None where there is none. Arrays and infinities may be given. An image
        (uint8, two or three axes) has 0 and 255 unless others are given.
      unordered: whether the rows (the first axis) are a set of things, whose order says nothing.
      columns: what the numbers of such a row are; () where nobody says.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: Bound = None
    high: Bound = None
    unordered: bool = False
    columns: tuple[Column, ...] = ()

    def __post_init__(self):
        if self.columns and (len(self.shape) != 2 or len(self.columns) != self.shape[-1]):
            raise SpaceError(
                f"{len(self.columns)} columns were named of a Box of shape {self.shape}; name one for each number of a "
                f"row, or none"
            )
        if self.dtype not in DTYPES:
            raise SpaceError(f"a Box holds one of {', '.join(DTYPES)}; {self.dtype!r} was given: convert it first")
        if self.dtype == "uint8" and len(self.shape) in (2, 3) and self.low is None and self.high is None:
            object.__setattr__(self, "low", 0.0)
            object.__setattr__(self, "high", 255.0)
        if all(isinstance(bound, float | int | None) for bound in (self.low, self.high)):
            low, high = _one(self.low, -math.inf), _one(self.high, math.inf)  # without NumPy, which takes time to load
            sound, plain = low <= high, [bound if math.isfinite(bound) else None for bound in (low, high)]
        else:
            lows, highs = _bounds(self.low, self.shape, -math.inf), _bounds(self.high, self.shape, math.inf)
            sound, plain = bool((lows <= highs).all()), [_plain(lows), _plain(highs)]
        if not sound:  # NaN also
            raise SpaceError(f"a Box with low = {self.low} and high = {self.high} holds no number; exchange its bounds")
        for name, bound in zip(("low", "high"), plain, strict=True):
            object.__setattr__(self, name, bound)

    def __repr__(self) -> str:
        told = [f"shape={self.shape}, dtype={self.dtype!r}"]
        told += [f"{name}={_short(value)}" for name in ("low", "high") if (value := getattr(self, name)) is not None]
        return f"Box({', '.join(told)}{', unordered=True' if self.unordered else ''})"

    @property
    def bounds(self) -> str:
        """The bounds in words: `0..255`; of several, the outermost that are finite."""
        both = np.concatenate([_bounds(self.low, self.shape, -np.inf), _bounds(self.high, self.shape, np.inf)], None)
        finite = both[np.isfinite(both)]
        return f"{finite.min():g}..{finite.max():g}" if finite.size else "none"

    @property
    def scale(self) -> Scale | None:
        """What brings these numbers to -1..1, by their bounds; None where all are taken as they are.

        A number is scaled if both of its bounds are finite, none is beyond `NO_BOUND`, and the larger is not of order
        one already (`ORDER_ONE`). Bounds around 0 keep it in place: their larger becomes 1. Others become -1 and 1.
        The dtype makes no difference.
        """
        low, high = _bounds(self.low, self.shape, -np.inf), _bounds(self.high, self.shape, np.inf)
        size = np.maximum(np.abs(low), np.abs(high))
        scaled = (low < high) & (size <= NO_BOUND) & ((size < ORDER_ONE[0]) | (size > ORDER_ONE[1]))
        if not scaled.any():
            return None
        around = scaled & (low <= 0) & (high >= 0)
        apart = scaled & ~around
        with np.errstate(all="ignore"):  # of entries that are not taken
            middle = np.where(apart, (low + high) / 2, 0.0)
            factor = np.where(around, 1 / size, np.where(apart, 2 / (high - low), 1.0))
        return Scale(_uniform(middle), _uniform(factor))


def _one(bound: Any, none: float) -> float:
    return none if bound is None else float(bound)


def _bounds(value: Bound, shape: tuple[int, ...], none: float) -> np.ndarray:
    """Bounds as an array of the shape; `none` where there is no bound."""
    if isinstance(value, tuple | list):
        value = np.array([none if one is None else one for one in value], np.float64)
    array = np.asarray(none if value is None else value, np.float64)
    try:
        return np.broadcast_to(array.reshape(shape) if array.size == prod(shape) else array, shape)
    except ValueError:
        raise SpaceError(
            f"{array.size} bounds were given for a Box of shape {shape}; give one, or one for each number"
        ) from None


def _plain(bounds: np.ndarray) -> Bound:
    """Bounds as a value: None for none, a number for all, or one for each."""
    flat = [float(one) if np.isfinite(one) else None for one in bounds.reshape(-1)]
    return tuple(flat) if len(set(flat)) > 1 else flat[0] if flat else None


def _uniform(array: np.ndarray) -> "float | np.ndarray":
    """The number that all entries are, or the array."""
    first = float(array.reshape(-1)[0])
    return first if (array == first).all() else array.astype(np.float32)


def _short(bound: Any) -> str:
    if not isinstance(bound, tuple):
        return f"{bound:g}"
    told = ", ".join("none" if one is None else f"{one:g}" for one in bound[:4])
    return f"({told}{', ...' if len(bound) > 4 else ''})"


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
    most = one_hot(space)

    def count(leaf: Leaf) -> int:
        if isinstance(leaf, Text):
            return leaf.length * leaf.symbols
        if isinstance(leaf, Box):
            return prod(leaf.shape)
        return sum(prod(digits(n, most)) for n in categories(leaf))

    return sum(count(leaf) for _, leaf in leaves(space))


def categories(leaf: Leaf) -> tuple[int, ...]:
    """How many categories each entry of a leaf has; none for numbers and texts."""
    if isinstance(leaf, Discrete):
        return (leaf.n,)
    return leaf.nvec if isinstance(leaf, MultiDiscrete) else ()


def one_hot(space: Space) -> int:
    """The most categories of an entry that are each told by a place of their own: `MOST_ONE_HOT` over all entries."""
    entries = sum(len(categories(leaf)) for _, leaf in leaves(space))
    return max(64, MOST_ONE_HOT // max(1, entries))


def digits(n: int, most: int) -> tuple[int, int]:
    """Base and number of the digits by which one of n categories is told: (n, 1) up to `most`, else fewer places.

    >>> digits(500, 16_384), digits(300_000, 16_384)
    ((500, 1), (548, 2))
    """
    base, count = n, 1
    while base > most or (count > 1 and base > MOST_BASE):
        count += 1
        base = ceil(n ** (1 / count))
        base += base**count < n  # a root that was rounded down
    return base, count


def same(one: Space, other: Space) -> bool:
    """Whether observations of two spaces are stored alike, whatever their bounds: an agent scales by its own."""
    return unbounded(one) == unbounded(other)


def unbounded(space: Space) -> Space:
    """The space without bounds, so that its numbers are taken as they are."""
    if isinstance(space, Dict):
        return Dict(tuple((name, unbounded(part)) for name, part in space.items))
    if isinstance(space, Tuple):
        return Tuple(tuple(unbounded(part) for part in space.items))
    return Box(space.shape, space.dtype, -math.inf, math.inf) if isinstance(space, Box) else space  # type: ignore[arg-type]


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
    low, high = (list(bound) if isinstance(bound, tuple) else bound for bound in (space.low, space.high))
    what = {"shape": list(space.shape), "dtype": space.dtype, "low": low, "high": high, "unordered": space.unordered}
    named = {"columns": [list(column) for column in space.columns]} if space.columns else {}
    return {"kind": "box", **what, **named}


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
        case {"kind": "box", "shape": shape, "dtype": str(dtype), "low": low, "high": high, "unordered": bool(flag)}:
            none = math.inf  # given, so that images without bounds stay so
            given = [value if bound is None else bound for bound, value in ((low, -none), (high, none))]
            low, high = (tuple(bound) if isinstance(bound, list) else bound for bound in given)
            columns = columns_of(value.get("columns", ()))
            return Box(tuple(int(n) for n in shape), dtype, low, high, flag, columns)
    raise SpaceError(
        f"{value!r} does not describe a space; expected a 'kind' of box, discrete, multidiscrete, text, dict or tuple"
    )


MASK, OFFERED, TEAM_STATE = "action_mask", "offered", "team_state"
UNSEEN = (MASK, OFFERED, TEAM_STATE)


def seen(space: Space) -> Space:
    """What an encoder sees: the space without what is `UNSEEN`; the single part that is left, if it is one.

    Raises SpaceError if nothing is left.
    """
    if not isinstance(space, Dict) or not {*UNSEEN} & {name for name, _ in space.items}:
        return space
    rest = tuple((name, part) for name, part in space.items if name not in UNSEEN)
    if not rest:
        raise SpaceError("an observation of nothing but its actions was given; add what the agent sees of the state")
    return rest[0][1] if len(rest) == 1 else Dict(rest)


def seen_of(space: Space, observation: Any) -> Any:
    """The part of an observation that `seen(space)` describes, whatever its leading axes."""
    if seen(space) is space:
        return observation
    rest = {name: part for name, part in observation.items() if name not in UNSEEN}
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


def team_state(space: Space) -> int:
    """How many numbers the part `team_state` has; 0 where there is none. Raises SpaceError for other than numbers."""
    part = part_called(space, TEAM_STATE)
    if part is not None and (not isinstance(part, Box) or len(part.shape) != 1):
        raise SpaceError(f"the observation's {TEAM_STATE!r} is {part}; expected an array of one axis")
    return 0 if part is None else part.shape[0]


def has(space: Space, name: str) -> bool:
    """Whether the space is a Dict with a part of that name."""
    return part_called(space, name) is not None


def part_called(space: Space, name: str) -> Space | None:
    """The part of that name of the outermost Dict; None where there is none."""
    return dict(space.items).get(name) if isinstance(space, Dict) else None
