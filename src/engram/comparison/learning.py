"""One seed's learning curve, and what is read from it: how fast it rose, where it settled, where it ended."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engram.comparison.statistics import Array


class Curve(NamedTuple):
    """The returns that one seed logged."""

    folder: Path  # of the run
    seed: int
    steps: Array  # environment steps, rising; [points]
    values: Array  # the return at each; [points]

    def at(self, steps: Array) -> Array:
        """The return at any steps: straight lines between points, the first and the last value held beyond them."""
        return np.interp(steps, self.steps, self.values)


def area(curve: Curve, until: float) -> float:
    """The area under the learning curve from step 0 to `until`, divided by `until`: the mean return on the way.

    By the trapezoid rule, which is exact for `Curve.at`.
    """
    inside = curve.steps[(curve.steps > 0) & (curve.steps < until)]
    steps = np.concatenate([[0.0], inside, [until]])
    return float(np.trapezoid(curve.at(steps), steps) / until)


def steps_to(curve: Curve, level: float, until: float) -> float:
    """The first logged step up to `until` with a return of at least `level`; infinity where there is none."""
    reached = curve.steps[(curve.values >= level) & (curve.steps <= until)]
    return float(reached[0]) if len(reached) else math.inf


def last_tenth(curve: Curve, until: float) -> tuple[float, float]:
    """Mean and standard deviation (of the population) of the returns logged from 90 % of the steps on.

    Where none was logged there, the last return and 0.
    """
    values = curve.values[(10 * curve.steps >= 9 * until) & (curve.steps <= until)]
    return (float(values.mean()), float(values.std())) if len(values) else (final(curve, until), 0.0)


def final(curve: Curve, until: float) -> float:
    """The return at step `until`."""
    return float(curve.at(np.array([until]))[0])
