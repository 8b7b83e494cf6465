"""Trees as named arrays, and back: `learner.params.head.linear.weight` is a name a person can read."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from engram.errors import CheckpointError

T = TypeVar("T")


def named(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf (an array, or what stands for one) by its path, in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {".".join(filter(None, [prefix, *map(_part, path)])): leaf for path, leaf in leaves}


def copied(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """`named`, as NumPy arrays of their own."""
    return {name: np.array(leaf) for name, leaf in named(tree, prefix).items()}


def restored(like: T, arrays: Mapping[str, np.ndarray], prefix: str = "", owned: bool = True) -> T:
    """A tree of the structure, shapes and dtypes of `like`, with the leaves that `arrays` holds under these names.

    `owned`: each leaf is a buffer of its own, which can be donated. What is only read needs no copies: they are a
    program for each shape, which takes time to load.

    Raises: CheckpointError naming the first leaf that is missing or does not fit.
    """
    leaves = []
    for name, leaf in named(like, prefix).items():
        if name not in arrays:
            raise CheckpointError(f"the checkpoint has no {name!r}; it is of another kind of agent or version")
        array = arrays[name]
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise CheckpointError(
                f"{name!r} is {array.dtype}{list(array.shape)} in the checkpoint, but this agent needs "
                f"{leaf.dtype}{list(leaf.shape)}; resume with the settings that the run was started with"
            )
        leaves.append(jnp.array(array) if owned else array)
    if not owned:
        leaves = jax.device_put(leaves)
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _part(key: Any) -> str:
    for attribute in ("name", "key", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
