"""Observations that a user passes to `predict`, of agents that learned on the device."""

from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from engram import spaces
from engram.errors import SpaceError


class Stored:
    """Observations and actions that need no conversion; a host environment has a `Translator` in its place."""

    def __init__(self, space: spaces.Space, missing: bool = False):
        """`missing`: a NaN is a missing number."""
        self._space, self._missing = space, missing

    def is_batched(self, observation: PyTree) -> bool:
        """Whether an observation has a leading axis [envs]."""
        _, leaf = next(spaces.leaves(self._space))
        return np.ndim(self._arrays(observation)[0]) == len(leaf.shape) + 1

    def rows(self, observation: PyTree, batched: bool) -> PyTree:
        """An observation as stored, with a leading axis [envs]. SpaceError if it is another environment's."""
        parts = zip(self._arrays(observation), spaces.leaves(self._space), strict=True)
        rows = [_row(value, name, leaf, batched, self._missing) for value, (name, leaf) in parts]
        return jax.tree.unflatten(jax.tree.structure(spaces.zeros(self._space)), rows)

    def environment_action(self, index: np.ndarray) -> np.ndarray:
        """The actions, as they are."""
        return index

    def numbers(self, taken: np.ndarray, actions: int) -> np.ndarray:
        """The actions [n], with -1 for what is none of the agent's `actions`."""
        if taken.dtype.kind not in "biuf":
            return np.full(len(taken), -1)
        whole = np.nan_to_num(taken, nan=-1).astype(np.int64)
        return np.where((whole == taken) & (whole >= 0) & (whole < actions), whole, -1)

    def _arrays(self, observation: PyTree) -> list[np.ndarray]:
        """The array of every part, in the order of the space; lists and numbers will do for arrays."""
        try:
            return [np.asarray(value) for value in _parts(self._space, observation)]
        except (KeyError, IndexError, TypeError, ValueError):
            raise SpaceError(
                f"an observation of another form was given ({type(observation).__name__}); expected {self._space}"
            ) from None


def _parts(space: spaces.Space, value: Any) -> list[Any]:
    """What stands for every leaf of the space."""
    if isinstance(space, spaces.Dict):
        if set(value) != {name for name, _ in space.items}:
            raise KeyError("other parts")
        return [leaf for name, part in space.items for leaf in _parts(part, value[name])]
    if isinstance(space, spaces.Tuple):
        return [
            leaf for part, each in zip(space.items, value, strict=True) for leaf in _parts(part, each)
        ]  # fmt: skip
    return [value]


def _row(value: np.ndarray, name: str, leaf: spaces.Leaf, batched: bool, missing: bool) -> np.ndarray:
    row = value if batched else value[None]
    where = f"the observation{' ' + name if name else ''}"
    if row.shape[1:] != tuple(leaf.shape) or row.dtype.kind not in "biuf":
        raise SpaceError(
            f"{where} has shape {row.shape[1:]}; expected {tuple(leaf.shape)}, or several of those in one array"
        )
    if row.dtype.kind == "f":
        may = leaf.dtype == "float32" and name not in (spaces.MASK, spaces.OFFERED)
        if missing and may:
            if np.isinf(row).any():
                raise SpaceError(f"{where} holds an infinity; expected finite numbers, or NaN for a missing one")
        elif not np.isfinite(row).all():
            way_out = ", or an agent with observation.missing=mask where a number may be missing" if may else ""
            raise SpaceError(f"{where} holds a NaN or an infinity; expected finite numbers{way_out}")
    return row.astype(leaf.dtype)
