"""Observations as arrays of the network: one vector of everything, which actions are allowed, and what each offers.

`engram.spaces` says how an observation is stored, without JAX; these functions compute with what is stored.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from engram import spaces
from engram.errors import SpaceError


def scaled(box: spaces.Box, numbers: Shaped[Array, "*leading"]) -> Float[Array, "*leading"]:
    """The numbers of a Box as every network takes them: float32, brought to -1..1 by their bounds (`Box.scale`).

    Leading axes come before those of the Box. This is the only place where numbers are scaled.
    """
    x, scale = numbers.astype(jnp.float32), box.scale
    if scale is None:
        return x
    if not np.any(scale.middle):
        return x * scale.factor
    moved = (x - scale.middle) * scale.factor
    return jnp.where(x == 0, 0.0, moved)  # 0 is no number of this Box: it stands for nothing


def flatten(space: spaces.Space, observation: PyTree) -> Float[Array, "features"]:
    """One observation as one vector: numbers `scaled`, categories and symbols one-hot.

    Of very many categories the digits are one-hot (`spaces.digits`). The length is `spaces.features(space)`.
    """
    most = spaces.one_hot(space)

    def vector(leaf: spaces.Leaf, value: Array) -> Array:
        if isinstance(leaf, spaces.Box):
            return scaled(leaf, value).reshape(-1)
        if isinstance(leaf, spaces.Text):
            return jax.nn.one_hot(value - 1, leaf.symbols).reshape(-1)  # nothing after the end: a row of zeros
        entries = zip(value.reshape(-1), spaces.categories(leaf), strict=True)
        told = [part for one, n in entries for part in _one_hot(one, n, most)]
        return jnp.concatenate(told) if len(told) > 1 else told[0]

    leaves = zip(spaces.leaves(space), jax.tree.leaves(observation), strict=True)
    parts = [vector(leaf, value) for (_, leaf), value in leaves]
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]


def _one_hot(category: Int[Array, ""], n: int, most: int) -> list[Array]:
    """One of n categories, one-hot: by itself, or by each of its digits, the lowest first."""
    base, count = spaces.digits(n, most)
    if count == 1:
        return [jax.nn.one_hot(category, n)]
    return [jax.nn.one_hot(category // base**place % base, base) for place in range(count)]


def filled(value: Array) -> Array:
    """An array of an observation with 0 for every NaN."""
    return jnp.where(jnp.isnan(value), 0, value) if jnp.issubdtype(value.dtype, jnp.floating) else value


def known(space: spaces.Space, observation: PyTree) -> PyTree:
    """An observation with 0 for every NaN in what is seen; what may be done stays as it is."""
    if not isinstance(space, spaces.Dict):
        return jax.tree.map(filled, observation)
    return {name: part if name in spaces.UNSEEN else jax.tree.map(filled, part) for name, part in observation.items()}


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
    """The features of each action on offer, `scaled`; None where the set of actions is fixed.

    Raises SpaceError for features that are not one row for each action.
    """
    if spaces.offered_features(space, actions) == 0:
        return None
    part = spaces.part_called(space, spaces.OFFERED)
    assert isinstance(part, spaces.Box)  # offered_features saw to it
    return scaled(part, jnp.asarray(observation[spaces.OFFERED]))
