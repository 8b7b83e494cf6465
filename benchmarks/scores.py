"""What a handful of scores, one for each seed, says: mean, interquartile mean, and how sure they are; and of shares."""

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 10_000


def mean(scores: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    return scores.mean(-1)


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean over the last axis: the mean without the lowest and the highest quarter.

    A quarter of n scores is n // 4 of them, as in the definition of Agarwal et al. 2021 (arXiv 2108.13264).

    >>> float(iqm(np.array([-90.0, 1.0, 3.0, 50.0])))
    2.0
    """
    cut = scores.shape[-1] // 4
    return np.sort(scores, axis=-1)[..., cut : scores.shape[-1] - cut].mean(-1)


def interval(scores: Sequence[float], statistic: Callable[[np.ndarray], np.ndarray]) -> list[float] | None:
    """95 % percentile bootstrap of `statistic` over seeds: 10,000 resamples with replacement, always the same ones.

    None for a single score, of which nothing can be said.
    """
    values = np.asarray(scores, float)
    if values.size < 2:
        return None
    drawn = np.random.default_rng(0).integers(values.size, size=(RESAMPLES, values.size))
    return [float(bound) for bound in np.percentile(statistic(values[drawn]), (2.5, 97.5))]


def difference(first: Sequence[float], second: Sequence[float]) -> list[float] | None:
    """95 % percentile bootstrap of mean(first) - mean(second), both resampled apart from each other, always the same.

    None where either is a single score.
    """
    if min(len(first), len(second)) < 2:
        return None
    rng = np.random.default_rng(0)
    one, other = (mean(rng.choice(scores, (RESAMPLES, len(scores)))) for scores in (first, second))
    return [float(bound) for bound in np.percentile(one - other, (2.5, 97.5))]


def wilson(successes: int, trials: int) -> list[float]:
    """95 % interval of Wilson (1927) for a probability of which `trials` independent trials showed `successes`.

    >>> [round(bound, 3) for bound in wilson(80, 100)]
    [0.711, 0.867]
    """
    z = 1.959964
    middle, wide = successes + z * z / 2, z * (successes * (trials - successes) / trials + z * z / 4) ** 0.5
    return [max(0.0, (middle - wide) / (trials + z * z)), min(1.0, (middle + wide) / (trials + z * z))]


def summary(scores: Sequence[float]) -> dict[str, object]:
    """Everything said about one score per seed."""
    values = np.asarray(scores, float)
    return {
        "seeds": values.size,
        "mean": float(mean(values)),
        "mean_interval_95": interval(scores, mean),
        "iqm": float(iqm(values)),
        "iqm_interval_95": interval(scores, iqm),
        "least": float(values.min()),
        "greatest": float(values.max()),
    }
