"""Observations that a user passes to `predict`, of agents that learned on the device."""

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
        return np.ndim(jax.tree.leaves(observation)[0]) == len(leaf.shape) + 1

    def rows(self, observation: PyTree, batched: bool) -> PyTree:
        """An observation as stored, with a leading axis [envs]. SpaceError if it is another environment's."""
        given, expected = jax.tree.leaves(observation), list(spaces.leaves(self._space))
        if len(given) != len(expected):
            raise SpaceError(
                f"an observation of {len(given)} arrays was given; expected {len(expected)}: {self._space}"
            )
        pairs = zip(given, expected, strict=True)
        rows = [_row(value, name, leaf, batched, self._missing) for value, (name, leaf) in pairs]
        return jax.tree.unflatten(jax.tree.structure(observation), rows)

    def environment_action(self, index: np.ndarray) -> np.ndarray:
        """The actions, as they are."""
        return index


def _row(value: PyTree, name: str, leaf: spaces.Leaf, batched: bool, missing: bool) -> np.ndarray:
    row = np.asarray(value) if batched else np.asarray(value)[None]
    where = f"the observation{' ' + name if name else ''}"
    if row.shape[1:] != tuple(leaf.shape):
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
