"""Gymnasium's observation spaces as JSON values, so that a run knows them where its environment is not installed.

Worker processes import this file, so it imports no JAX.
"""

import math
from typing import Any

import numpy as np
from gymnasium import spaces as gym_spaces

from engram.envs.adapters.minigrid import Tiles
from engram.errors import SpaceError


def space_to_json(space: gym_spaces.Space) -> dict[str, Any]:
    """A space that `Observer` reads; `space_from_json` gives it back."""
    if isinstance(space, Tiles):
        rows, columns, _ = space.shape
        return {"kind": "tiles", "rows": rows, "columns": columns, "sizes": space.sizes.tolist()}
    if isinstance(space, gym_spaces.Dict):
        return {"kind": "dict", "parts": {name: space_to_json(part) for name, part in space.spaces.items()}}
    if isinstance(space, gym_spaces.Tuple):
        return {"kind": "tuple", "parts": [space_to_json(part) for part in space.spaces]}
    if isinstance(space, gym_spaces.Discrete):
        return {"kind": "discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, gym_spaces.MultiDiscrete):
        about = {"nvec": space.nvec.tolist(), "start": space.start.tolist(), "dtype": str(space.dtype)}
        return {"kind": "multidiscrete", **about}
    if isinstance(space, gym_spaces.MultiBinary):
        return {"kind": "multibinary", "shape": list(space.shape)}
    if isinstance(space, gym_spaces.Text):
        # Sorted, as it is stored: the order of a set may differ between processes.
        about = {"max_length": space.max_length, "characters": "".join(sorted(space.character_set))}
        return {"kind": "text", **about}
    assert isinstance(space, gym_spaces.Box), space
    about = {"shape": list(space.shape), "dtype": str(space.dtype)}
    return {"kind": "box", **about, "low": _bound_to_json(space.low), "high": _bound_to_json(space.high)}


def space_from_json(value: dict[str, Any]) -> gym_spaces.Space:
    """The inverse of `space_to_json`; SpaceError, KeyError, TypeError or ValueError for anything else."""
    kind, about = value["kind"], value
    if kind == "tiles":
        return Tiles(about["rows"], about["columns"], tuple(about["sizes"]))
    if kind == "dict":
        return gym_spaces.Dict({name: space_from_json(part) for name, part in about["parts"].items()})
    if kind == "tuple":
        return gym_spaces.Tuple([space_from_json(part) for part in about["parts"]])
    if kind == "discrete":
        return gym_spaces.Discrete(about["n"], start=about["start"])
    if kind == "multidiscrete":
        dtype = np.dtype(about["dtype"]).type
        return gym_spaces.MultiDiscrete(np.array(about["nvec"], dtype), dtype, start=np.array(about["start"], dtype))
    if kind == "multibinary":
        return gym_spaces.MultiBinary(about["shape"])
    if kind == "text":
        return gym_spaces.Text(about["max_length"], min_length=0, charset=about["characters"])
    if kind == "box":
        shape, dtype = tuple(about["shape"]), np.dtype(about["dtype"])
        low, high = (_bound_from_json(about[name], shape, dtype) for name in ("low", "high"))
        return gym_spaces.Box(low, high, shape, dtype.type)
    raise SpaceError(f"{kind!r} is no kind of space")


def numbers_in(value: Any) -> int:
    """How many numbers the boxes of a space hold, as its JSON says, without making any.

    A few words of JSON may ask for a box of any size. `value`: of a space here, or of `engram.spaces`. Raises as
    `space_from_json` does.
    """
    kind = value["kind"]
    if kind in ("dict", "tuple"):
        if "items" in value:
            return sum(numbers_in(item[1] if kind == "dict" else item) for item in value["items"])
        parts = value["parts"]
        return sum(map(numbers_in, parts.values() if isinstance(parts, dict) else parts))
    if kind == "tiles":
        shape: Any = [value["rows"], value["columns"], sum(value["sizes"])]
    else:
        shape = value["shape"] if kind in ("box", "multibinary") else ()
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"{shape!r} is no shape")
    return math.prod(shape)


def _bound_to_json(bound: np.ndarray) -> Any:
    """One number where all are the same, else nested lists; infinities as text, which strict JSON needs."""
    first = bound.flat[0]
    if (bound == first).all():
        return _number(first.item())
    return _nested(bound.tolist())


def _nested(value: Any) -> Any:
    return [_nested(item) for item in value] if isinstance(value, list) else _number(value)


def _number(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def _bound_from_json(value: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    array = np.array(value, dtype) if not _has_text(value) else np.array(value).astype(np.float64).astype(dtype)
    return np.broadcast_to(array, shape).copy()


def _has_text(value: Any) -> bool:
    return any(map(_has_text, value)) if isinstance(value, list) else isinstance(value, str)
