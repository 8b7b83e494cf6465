"""Symmetries of a square board: an example turned and mirrored is as good an example.

The board, the action and the mask move together. Whatever is no board of the same side stays as it is.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree, UInt32

from engram import spaces
from engram.agents.mind import MindSpec
from engram.errors import SpecError

COUNT = 8  # four turns, each also mirrored


def side_of(space: spaces.Space, actions: int) -> int | None:
    """The side of the board whose points are the actions, with or without a pass behind them; None for no such board.

    >>> side_of(spaces.Box((5, 5, 3), "bool"), 26), side_of(spaces.Box((5, 5, 3), "bool"), 4)
    (5, None)
    """
    for path, leaf in spaces.leaves(space):
        shape = () if path in (spaces.MASK, spaces.OFFERED) else leaf.shape
        if len(shape) >= 2 and shape[0] == shape[1] and actions - shape[0] ** 2 in (0, 1):
            return shape[0]
    return None


def check(spec: MindSpec, space: spaces.Space, actions: int) -> None:
    """Raises SpecError where the symmetries of a board were asked for, and there is none."""
    if spec.symmetry == "board" and (side_of(space, actions) is None or spaces.has(space, spaces.OFFERED)):
        raise SpecError(
            f"symmetry = 'board' turns square boards whose points are the actions, and {space} with {actions} actions "
            f"is none; set symmetry=off"
        )


@cache
def tables(side: int) -> tuple[np.ndarray, np.ndarray]:
    """For each symmetry and point the point that comes there, and its inverse; int32 [8, side * side]."""
    points = np.arange(side * side).reshape(side, side)
    turned = [np.rot90(board, times) for times in range(4) for board in (points, points.T)]
    forth = np.stack([board.reshape(-1) for board in turned]).astype(np.int32)
    return forth, np.argsort(forth, axis=1).astype(np.int32)


def turned(space: spaces.Space, actions: int, seen: PyTree, which: Int[Array, ""]) -> PyTree:
    """One example's observations, with any leading axes, by one symmetry."""
    side: Any = side_of(space, actions)
    points = jnp.asarray(tables(side)[0])[which]
    every = jnp.append(points, jnp.int32(side * side)) if actions > side * side else points

    def one(path: str, shape: tuple[int, ...], leaf: Array) -> Array:
        lead = leaf.ndim - len(shape)
        if path == spaces.MASK:
            return jnp.take(leaf, every, axis=lead)
        if len(shape) < 2 or shape[:2] != (side, side):
            return leaf
        flat = leaf.reshape(*leaf.shape[:lead], side * side, *shape[2:])
        return jnp.take(flat, points, axis=lead).reshape(leaf.shape)

    leaves, form = jax.tree.flatten(seen)
    known = zip(spaces.leaves(space), leaves, strict=True)
    return jax.tree.unflatten(form, [one(path, leaf.shape, array) for (path, leaf), array in known])


def turned_action(
    space: spaces.Space, actions: int, action: Int[Array, "*rows"], which: Int[Array, ""]
) -> Int[Array, "*rows"]:
    """Where the points that actions are come to; a pass stays one."""
    side: Any = side_of(space, actions)
    back = jnp.asarray(tables(side)[1])[which]
    return jnp.where(action < side * side, back[jnp.minimum(action, side * side - 1)], action)


def drawn(word: UInt32[Array, ""]) -> Int[Array, ""]:
    """One of the symmetries, from a random word."""
    return (word % COUNT).astype(jnp.int32)
