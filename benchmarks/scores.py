"""What a handful of scores, one for each seed, says: mean, interquartile mean, and how sure they are; and of shares."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engram.comparison.statistics import Scores, bootstrap, iqm, mean
from engram.play.match import rate

RESAMPLES = 10_000


def interval(scores: Sequence[float], statistic: Callable[[Scores], Any]) -> list[float] | None:
    """95 % percentile bootstrap of `statistic` over seeds: 10,000 resamples with replacement, always the same ones.

    None for a single score, of which nothing can be said.
    """
    return _interval(statistic, scores)


def difference(first: Sequence[float], second: Sequence[float]) -> list[float] | None:
    """95 % percentile bootstrap of mean(first) - mean(second), both resampled apart from each other, always the same.

    None where either is a single score.
    """
    return _interval(lambda groups: groups[0].mean(-1) - groups[1].mean(-1), first, second)


def _interval(statistic: Callable[[Scores], Any], *groups: Sequence[float]) -> list[float] | None:
    values = [np.asarray(group, float) for group in groups]
    if min(map(len, values)) < 2:
        return None
    return [float(bound) for bound in bootstrap(statistic, values, np.random.default_rng(0), RESAMPLES)]


def wilson(successes: int, trials: int) -> list[float | None]:
    """95 % interval of Wilson (1927) for a probability of which `trials` independent trials showed `successes`.

    Both bounds are None without a trial.

    >>> [round(bound, 3) for bound in wilson(80, 100)]
    [0.711, 0.867]
    """
    return [*rate(successes, trials)[-2:]]


def summary(scores: Sequence[float]) -> dict[str, object]:
    """Everything said about one score per seed."""
    values = np.asarray(scores, float)
    return {
        "seeds": values.size,
        "mean": float(mean([values])),
        "mean_interval_95": interval(scores, mean),
        "iqm": float(iqm([values])),
        "iqm_interval_95": interval(scores, iqm),
        "least": float(values.min()),
        "greatest": float(values.max()),
    }
