"""The 95 % interval of a mean, for curves and summaries of several seeds."""

import math
from collections.abc import Sequence
from statistics import fmean

# Two-sided 95 % points of Student's t for 1, 2, ... degrees of freedom, and of the normal distribution for more.
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the mean of two or more values, by Student's t."""
    count, mean = len(values), fmean(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    reach = (_STUDENT[count - 2] if count - 2 < len(_STUDENT) else 1.96) * deviation / math.sqrt(count)
    return mean - reach, mean + reach
