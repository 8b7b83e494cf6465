"""Gymnasium's action spaces as a fixed number of actions: a table of what each of them is to the environment."""

from math import prod
from typing import Any

import numpy as np
from gymnasium import spaces as gym_spaces

from engram.errors import SpaceError

MOST_JOINT_ACTIONS = 1024
MOST_ACTIONS = 100_000  # of one number: a row of weights for each of them


def joint_actions(space: gym_spaces.Space, bins: int | None = None) -> np.ndarray:
    """What each of the agent's actions 0..n-1 is to the environment: row i is action i.

    Args:
      space: Discrete (its start is added), MultiDiscrete and MultiBinary (every combination, the last entry
        fastest), or a bounded Box (every combination of `bins` evenly spaced values per number, bounds included).
      bins: values per number of a Box, >= 2.

    Raises SpaceError where the space is another, is unbounded, has no action, or has more than 1,024 combinations or
    100,000 actions of one number.
    """
    if isinstance(space, gym_spaces.Box):
        return _box_actions(space, bins)
    if bins is not None:
        raise SpaceError(f"action_bins = {bins} was given, but the actions {space} are not continuous; leave it out")
    if isinstance(space, gym_spaces.Discrete):
        if not 1 <= space.n <= MOST_ACTIONS:
            raise SpaceError(
                f"the action space has {int(space.n):,} actions; from 1 to {MOST_ACTIONS:,} are possible: mend it, or "
                "wrap the environment so that it offers a few actions at a time by their features"
            )
        return np.arange(int(space.start), int(space.start) + int(space.n), dtype=np.int64)
    if isinstance(space, gym_spaces.MultiDiscrete):
        values = [start + np.arange(n) for n, start in zip(space.nvec.ravel(), space.start.ravel(), strict=True)]
        return _combine(values, space.shape, space.dtype, str(space))
    if isinstance(space, gym_spaces.MultiBinary):
        return _combine([np.arange(2)] * prod(space.shape), space.shape, space.dtype, str(space))
    raise SpaceError(
        f"the actions are {type(space).__name__}; Engram acts in Discrete, MultiDiscrete, MultiBinary and (with "
        f"--action-bins N) Box action spaces: wrap the environment so that it offers one of them"
    )


def _box_actions(space: gym_spaces.Box, bins: int | None) -> np.ndarray:
    if bins is None:
        raise SpaceError(
            f"the actions {space} are continuous and Engram chooses among a fixed number; "
            f"give --action-bins N (action_bins=N) for N evenly spaced values of its {prod(space.shape)} numbers"
        )
    if bins < 2:
        raise SpaceError(f"action_bins = {bins} was given; at least 2 values are needed, the lower and the upper bound")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise SpaceError(
            f"the actions {space} have no finite bounds to space values between; wrap it to give it bounds"
        )
    bounds = zip(space.low.ravel(), space.high.ravel(), strict=True)
    values = [np.linspace(low, high, bins) for low, high in bounds]
    return _combine(values, space.shape, space.dtype, f"action_bins = {bins} of {space}")


def _combine(values: list[np.ndarray], shape: tuple[int, ...], dtype: Any, what: str) -> np.ndarray:
    count = prod(len(column) for column in values)
    if count > MOST_JOINT_ACTIONS:
        sizes = " x ".join(str(len(column)) for column in values)
        raise SpaceError(
            f"{what} has {sizes} = {count:,} joint actions; at most {MOST_JOINT_ACTIONS:,} are possible: "
            f"use fewer values per number, or wrap the environment to offer a choice of actions"
        )
    grid = np.stack(np.meshgrid(*values, indexing="ij"), axis=-1).reshape(count, *shape)
    return grid.astype(dtype)
