"""Gymnasium's action spaces as a fixed number of actions: a table of what each of them is to the environment."""

from math import prod
from typing import Any

import numpy as np
from gymnasium import spaces as gym_spaces

from engram.errors import SpaceError
from engram.spaces import MOST_NUMBERED

MOST_JOINT_ACTIONS = 1024  # that a head may have a value for each of
MOST_ACTIONS = 100_000  # of one number: a row of weights for each of them


class Grid:
    """Every combination of values of several numbers, the last one fastest. Row i is action i, made when asked for.

    Attributes:
      values: what each number may be. sizes: how many values that are.
      shape, dtype: of an action as the environment expects it.
    """

    def __init__(self, values: list[np.ndarray], shape: tuple[int, ...], dtype: Any):
        self.values, self.shape, self.dtype = values, tuple(shape), np.dtype(dtype)
        self.sizes = tuple(len(column) for column in values)
        self.ndim = 1 + len(self.shape)
        self._dense = self._rows(np.arange(len(self))) if len(self) <= MOST_JOINT_ACTIONS else None

    def __len__(self) -> int:
        return prod(self.sizes)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self._rows(np.asarray(index)) if self._dense is None else self._dense[index]

    def _rows(self, index: np.ndarray) -> np.ndarray:
        digits = np.unravel_index(index, self.sizes)
        numbers = [column[digit] for column, digit in zip(self.values, digits, strict=True)]
        return np.stack(numbers, axis=-1).reshape(*index.shape, *self.shape).astype(self.dtype)

    def find(self, taken: np.ndarray) -> np.ndarray:
        """The number of each action [n, *shape]; -1 for what is none of them."""
        numbers = taken.reshape(len(taken), -1).T
        alike = [
            number[:, None] == column.astype(self.dtype) for number, column in zip(numbers, self.values, strict=True)
        ]
        known = np.all([each.any(1) for each in alike], axis=0)
        return np.where(known, np.ravel_multi_index([each.argmax(1) for each in alike], self.sizes), -1)


Table = np.ndarray | Grid


def found(table: Table, taken: np.ndarray) -> np.ndarray:
    """The number of each of the environment's actions [n, ...] in a table; -1 for what is none of it."""
    if isinstance(table, Grid):
        return table.find(taken)
    alike = (taken[:, None] == table[None]).reshape(len(taken), len(table), -1).all(-1)
    return np.where(alike.any(1), alike.argmax(1), -1)


def joint_actions(space: gym_spaces.Space, bins: int | None = None) -> np.ndarray:
    """`table_of` as one array. Raises SpaceError also for more than 1,024 combinations."""
    table = table_of(space, bins)
    check_few(table)
    return table[np.arange(len(table))] if isinstance(table, Grid) else table


def sizes_of(table: Table) -> tuple[int, ...]:
    """How many values each number of an action has; () where actions are single numbers."""
    return table.sizes if isinstance(table, Grid) else ()


def check_few(table: Table) -> None:
    """Raises SpaceError for more combinations than may have a value each."""
    if isinstance(table, Grid):
        check_few_of(table.sizes)


def check_few_of(sizes: tuple[int, ...]) -> None:
    """`check_few` of numbers with so many values."""
    if (count := prod(sizes)) > MOST_JOINT_ACTIONS and len(sizes) > 1:
        raise SpaceError(
            f"{' x '.join(map(str, sizes))} = {count:,} joint actions; at most {MOST_JOINT_ACTIONS:,} can have a value "
            f"each: use fewer values per number (--action-bins; on the device an argument of the environment), or "
            f"head=decoupled, a value for each number's values"
        )


def table_of(space: gym_spaces.Space, bins: int | None = None) -> Table:
    """What each of the agent's actions 0..n-1 is to the environment: row i is action i.

    Args:
      space: Discrete (its start is added), MultiDiscrete and MultiBinary (every combination, the last entry
        fastest), or a bounded Box (every combination of `bins` evenly spaced values per number, bounds included).
      bins: values per number of a Box, >= 2.

    Raises SpaceError where the space is another, is unbounded, has no action, or has more combinations than int32 can
    number or 100,000 actions of one number.
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


def _box_actions(space: gym_spaces.Box, bins: int | None) -> Grid:
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


def _combine(values: list[np.ndarray], shape: tuple[int, ...], dtype: Any, what: str) -> Grid:
    count = prod(len(column) for column in values)
    if count > MOST_NUMBERED:
        sizes = " x ".join(str(len(column)) for column in values)
        raise SpaceError(
            f"{what} has {sizes} = {count:,} joint actions; at most {MOST_NUMBERED:,} can be numbered: use fewer "
            f"values per number, or wrap the environment to offer a choice of actions"
        )
    return Grid(values, shape, dtype)
