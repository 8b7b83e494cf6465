"""Ranges: where a setting is searched when an agent is tuned. A setting names its own in `setting(..., search=...)`.

    learning_rate: float = setting(1e-3, "step size", above=0, search=Log(1e-5, 1e-2))

Whether numbers are whole follows from the setting's type. `engram.tuning.space` makes a search space of them.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Linear:
    """Numbers from low to high, both included; equal steps are alike."""

    low: float
    high: float


@dataclass(frozen=True)
class Log:
    """Numbers above 0 from low to high, both included; equal factors are alike. An agent whose own value is 0 has
    turned that off, so it is not searched.
    """

    low: float
    high: float


@dataclass(frozen=True)
class Times:
    """As `Log`, from low to high times the agent's own value: for what grows with the length of a run."""

    low: float
    high: float


@dataclass(frozen=True, init=False)
class OneOf:
    """One of a few values; the agent's own is always among them."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any):
        object.__setattr__(self, "values", values)


Range = Linear | Log | Times | OneOf
