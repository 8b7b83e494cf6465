"""What an observation looks like, as a plain value: hashable, JSON-able, free of any environment library.

An observation is a pytree of arrays. Its space is the matching tree of these four leaves, and says how one
observation (no leading axes) is stored:

| space          | stored as                                                    |
|----------------|--------------------------------------------------------------|
| `Box`          | one array of `shape` and `dtype`                              |
| `Discrete`     | one int32 scalar in 0..n-1                                    |
| `MultiDiscrete`| one int32 vector, entry i in 0..nvec[i]-1                     |
| `Dict`         | a dict of observations, keys sorted                           |
| `Tuple`        | a tuple of observations                                       |
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

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
class Dict:
    """Named parts, sorted by name."""

    items: tuple[tuple[str, "Space"], ...]

    def __post_init__(self):
        object.__setattr__(self, "items", tuple(sorted(self.items)))


@dataclass(frozen=True)
class Tuple:
    """Ordered parts."""

    items: tuple["Space", ...]


Leaf = Box | Discrete | MultiDiscrete
Space = Leaf | Dict | Tuple


def map_space(function: Callable[[Leaf], Any], space: Space) -> PyTree:
    """`function` of every leaf, in the shape of the observation (dicts for `Dict`, tuples for `Tuple`)."""
    if isinstance(space, Dict):
        return {name: map_space(function, part) for name, part in space.items}
    if isinstance(space, Tuple):
        return tuple(map_space(function, part) for part in space.items)
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


def zeros(space: Space, leading: tuple[int, ...] = ()) -> PyTree:
    """An observation of zeros (NumPy), with `leading` axes in front of every leaf."""
    return map_space(lambda leaf: np.zeros((*leading, *leaf.shape), leaf.dtype), space)


def nbytes(space: Space) -> int:
    """Bytes that one stored observation takes."""
    return sum(prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for _, leaf in leaves(space))


def features(space: Space) -> int:
    """Length of `flatten`'s vector."""

    def count(leaf: Leaf) -> int:
        if isinstance(leaf, Discrete):
            return leaf.n
        if isinstance(leaf, MultiDiscrete):
            return sum(leaf.nvec)
        return prod(leaf.shape)

    return sum(count(leaf) for _, leaf in leaves(space))


def flatten(space: Space, observation: PyTree) -> Float[Array, "features"]:
    """One observation as one vector: numbers as they are (uint8 scaled to 0..1), categories one-hot."""

    def vector(leaf: Leaf, value: Array) -> Array:
        if isinstance(leaf, Discrete):
            return jax.nn.one_hot(value, leaf.n)
        if isinstance(leaf, MultiDiscrete):
            return jnp.concatenate([jax.nn.one_hot(value[i], n) for i, n in enumerate(leaf.nvec)])
        scale = 1 / 255 if leaf.dtype == "uint8" else 1.0
        return value.astype(jnp.float32).reshape(-1) * scale

    parts = [vector(leaf, value) for (_, leaf), value in zip(leaves(space), jax.tree.leaves(observation), strict=True)]
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]


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
        case {"kind": "box", "shape": shape, "dtype": str(dtype)}:
            return Box(tuple(int(n) for n in shape), dtype)
    raise SpaceError(
        f"{value!r} does not describe a space; expected a 'kind' of box, discrete, multidiscrete, dict or tuple"
    )
