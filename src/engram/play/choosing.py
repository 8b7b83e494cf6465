"""Conditions by which entries of a memory are chosen: checked where they are given, then held against columns."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from engram.errors import SpecError, hint

WHOLE = ("action", "environment", "episode", "step", "seed", "ids")  # one number, or several
BOUNDS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "older_than": ("age", operator.gt),
    "value_below": ("value", operator.lt),
    "value_above": ("value", operator.gt),
    "attention_below": ("attention", operator.lt),
}
CONDITIONS = (*WHOLE, *BOUNDS)
BEFORE = ("action", "environment", "episode", "step", "seed")  # what is known of an action that is no entry yet

Columns = Mapping[str, np.ndarray | None]


class Told(NamedTuple):
    """How a memory tells of itself."""

    kind: str
    entries: Callable[[list[dict[str, Any]]], list[Any]]  # rows as what a user's function takes


def check_conditions(given: Mapping[str, Any]) -> dict[str, Any]:
    """The conditions as sets of whole numbers, and numbers. SpecError for others."""
    return {name: _checked(name, value) for name, value in given.items()}


def _checked(name: str, value: Any) -> Any:
    if name == "id":
        name = "ids"
    if name not in CONDITIONS:
        raise SpecError(f"entries of a memory cannot be chosen by {name!r}; {hint(name, CONDITIONS)}")
    if name in BOUNDS:
        if not isinstance(value, Real) or isinstance(value, bool) or np.isnan(float(value)):
            raise SpecError(f"{name} = {value!r} was given; write a number, as in {name}=0.5")
        return float(value)
    values = list(value) if isinstance(value, list | tuple | set | frozenset | range | np.ndarray) else [value]
    if not all(isinstance(one, Integral) and not isinstance(one, bool) and int(one) >= 0 for one in values):
        raise SpecError(f"{name} = {value!r} was given; write a whole number from 0 on, or several, as in {name}=2,7")
    return frozenset(map(int, values))


def read_condition(text: str) -> tuple[str, Any]:
    """A condition as it is typed, `name=value`. SpecError where it is none.

    >>> read_condition("action=1,2"), read_condition("value_below=-0.5")
    (('action', frozenset({1, 2})), ('value_below', -0.5))
    """
    name, equals, value = text.partition("=")
    name = "ids" if name == "id" else name.replace("-", "_")
    if not equals:
        raise SpecError(f"--where {text!r} is not of the form NAME=VALUE; write for example --where action=2")
    if name not in CONDITIONS:
        return name, _checked(name, value)
    try:
        given: Any = float(value) if name in BOUNDS else [int(one) for one in value.split(",")]
    except ValueError:
        expected = "a number" if name in BOUNDS else "a whole number from 0 on, or several with commas"
        raise SpecError(f"--where {text!r}: {value!r} is not {expected}; write for example --where {name}=2") from None
    return name, _checked(name, given)


@dataclass(frozen=True)
class Chosen:
    """Conditions that must all hold."""

    by: tuple[dict[str, Any], ...] = ()
    tests: tuple[Callable[[Any], bool], ...] = ()

    def also(self, conditions: dict[str, Any], test: Callable[[Any], bool] | None) -> "Chosen":
        """With more of them."""
        by = (*self.by, conditions) if conditions else self.by
        return replace(self, by=by, tests=self.tests if test is None else (*self.tests, test))

    @property
    def told(self) -> str:
        """As words."""
        words = [f"{name}={_written(value)}" for one in self.by for name, value in one.items()]
        words += ["a function holds"] * len(self.tests)
        return f", where {' and '.join(words)}" if words else ""

    @property
    def ids(self) -> frozenset[int]:
        """All ids that are named."""
        return frozenset().union(*(one["ids"] for one in self.by if "ids" in one))

    def of_seed(self, seed: int) -> bool:
        """Whether anything of this seed can be chosen."""
        return all(seed in one["seed"] for one in self.by if "seed" in one)

    def check_seeds(self, seeds: list[int]) -> None:
        """SpecError for ids that may be of several seeds, and for a seed that there is not."""
        asked = frozenset().union(*(one["seed"] for one in self.by if "seed" in one))
        if strange := sorted(asked - set(seeds)):
            raise SpecError(f"seed={strange[0]} was given, but the agent has the seeds {_written(seeds)}; name one")
        if self.ids and sum(map(self.of_seed, seeds)) > 1:
            raise SpecError(f"ids are those of one seed, and there are the seeds {_written(seeds)}; say seed=N too")

    def masks(self, columns: Columns, told: Told) -> Bool[np.ndarray, "held"]:
        """Which entries of these columns are chosen."""
        mask = np.ones(len(columns["id"]), bool)  # type: ignore[arg-type]
        for name, value in (pair for one in self.by for pair in one.items()):
            column_name, holds = BOUNDS.get(name, ("id" if name == "ids" else name, _is_one_of))
            if (column := columns[column_name]) is None:
                kept = [name for name in CONDITIONS if columns[_column(name)] is not None]
                raise SpecError(
                    f"external={told.kind} does not keep {column_name!r} of its entries, by which "
                    f"{name}={_written(value)} would choose; choose by {', '.join(kept)}"
                )
            mask &= holds(column, value)
        for test in self.tests:
            places = np.flatnonzero(mask)
            lists = {name: None if column is None else column[places].tolist() for name, column in columns.items()}
            rows = [
                {name: None if values is None else values[row] for name, values in lists.items()}
                for row in range(len(places))
            ]
            mask[places] = [bool(test(entry)) for entry in told.entries(rows)]
        return mask

    def covers(
        self, seed: int, action: Int[np.ndarray, "*axes"], origin: Int[np.ndarray, "*axes 3"]
    ) -> Bool[np.ndarray, "*axes"]:
        """Which actions that are no entries yet are chosen: none, where anything is asked that is not known of them."""
        asked = [name for one in self.by for name in one]
        if self.tests or any(name not in BEFORE for name in asked):
            return np.zeros(action.shape, bool)
        columns = {
            "action": action,
            "seed": np.full(action.shape, seed),
            **{name: origin[..., place] for place, name in enumerate(("environment", "episode", "step"))},
        }
        mask = np.ones(action.shape, bool)
        for name, value in (pair for one in self.by for pair in one.items()):
            mask &= _is_one_of(columns[name], value)
        return mask


def _column(name: str) -> str:
    return BOUNDS[name][0] if name in BOUNDS else "id" if name == "ids" else name


def _is_one_of(column: np.ndarray, values: frozenset[int]) -> np.ndarray:
    return np.isin(column, list(values))


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else ",".join(map(str, sorted(value)))
