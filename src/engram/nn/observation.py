"""Observations as arrays of the network: one vector of everything, which actions are allowed, and what each offers.

`engram.spaces` says how an observation is stored, without JAX; these functions compute with what is stored.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from engram import spaces
from engram.errors import SpaceError


def flatten(space: spaces.Space, observation: PyTree) -> Float[Array, "features"]:
    """One observation as one vector: numbers as they are (uint8 scaled to 0..1), categories and symbols one-hot.

    Its length is `spaces.features(space)`.
    """

    def vector(leaf: spaces.Leaf, value: Array) -> Array:
        if isinstance(leaf, spaces.Discrete):
            return jax.nn.one_hot(value, leaf.n)
        if isinstance(leaf, spaces.MultiDiscrete):
            return jnp.concatenate([jax.nn.one_hot(value[i], n) for i, n in enumerate(leaf.nvec)])
        if isinstance(leaf, spaces.Text):
            return jax.nn.one_hot(value - 1, leaf.symbols).reshape(-1)  # nothing after the end: a row of zeros
        return value.astype(jnp.float32).reshape(-1) * spaces.to_unit(leaf.dtype)

    leaves = zip(spaces.leaves(space), jax.tree.leaves(observation), strict=True)
    parts = [vector(leaf, value) for (_, leaf), value in leaves]
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]


def filled(value: Array) -> Array:
    """An array of an observation with 0 for every NaN."""
    return jnp.where(jnp.isnan(value), 0, value) if jnp.issubdtype(value.dtype, jnp.floating) else value


def known(space: spaces.Space, observation: PyTree) -> PyTree:
    """An observation with 0 for every NaN in what is seen; what may be done stays as it is."""
    if not isinstance(space, spaces.Dict):
        return jax.tree.map(filled, observation)
    stays = (spaces.MASK, spaces.OFFERED)
    return {name: part if name in stays else jax.tree.map(filled, part) for name, part in observation.items()}


def mask_of(space: spaces.Space, observation: PyTree, actions: int) -> Bool[Array, "*leading actions"] | None:
    """Which actions are allowed; None where every action always is.

    Raises SpaceError for a mask that is not one flag for each action.
    """
    part = spaces.part_called(space, spaces.MASK)
    if part is None:
        return None
    if not isinstance(part, spaces.Box) or part.shape != (actions,):
        raise SpaceError(
            f"the observation's {spaces.MASK!r} is {part}; expected one flag for each of {actions} actions"
        )
    return jnp.asarray(observation[spaces.MASK]) != 0


def offered_of(
    space: spaces.Space, observation: PyTree, actions: int
) -> Float[Array, "*leading actions features"] | None:
    """The features of each action on offer; None where the set of actions is fixed.

    Raises SpaceError for features that are not one row for each action.
    """
    if spaces.offered_features(space, actions) == 0:
        return None
    return jnp.asarray(observation[spaces.OFFERED], jnp.float32)
