"""Statistics of scores over seeds and tasks, with intervals; NumPy alone.

After Agarwal, Schwarzer, Castro, Courville, Bellemare: Deep Reinforcement Learning at the Edge of the Statistical
Precipice, 2021 (arXiv 2108.13264). Scores are a list with an array for each task, whose last axis counts the runs.
Tasks may have different numbers of runs. Axes before the last are kept, so that each function also takes resamples.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Scores = Sequence[Array]
Value = Any  # an array, or a number where no axis is left
TAILS = (2.5, 97.5)  # percentiles at the ends of every interval
RESAMPLES = 2000


def iqm(scores: Scores) -> Value:
    """The interquartile mean: of the n scores of all runs and tasks, the mean without the floor(n / 4) least and the
    floor(n / 4) greatest. It is the 25 % trimmed mean of the pooled scores (section 4.3 of the paper).
    """
    pooled = np.sort(np.concatenate(list(scores), axis=-1), axis=-1)
    count = pooled.shape[-1]
    return pooled[..., count // 4 : count - count // 4].mean(-1)


def mean(scores: Scores) -> Value:
    """The mean over tasks of the mean over runs: (1 / M) sum_m (1 / N_m) sum_n x_mn."""
    return np.mean([task.mean(-1) for task in scores], axis=0)


def median(scores: Scores) -> Value:
    """The median over tasks of the mean over runs; of a single task the median over its runs."""
    if len(scores) == 1:
        return np.median(scores[0], axis=-1)
    return np.median([task.mean(-1) for task in scores], axis=0)


def profile(scores: Scores, thresholds: Array) -> Array:
    """The performance profile: the share of runs with a score above each threshold, averaged over tasks.

    F(t) = (1 / M) sum_m (1 / N_m) sum_n [x_mn > t] (section 4.2 of the paper). `thresholds` is [k]; k is the last
    axis of what comes back.
    """
    shares = [np.mean([(task > threshold).mean(-1) for task in scores], axis=0) for threshold in thresholds]
    return np.stack(shares, axis=-1)


def improvement(first: Scores, second: Scores) -> float:
    """The probability that a run of `first` scores higher than one of `second` on the same task, averaged over tasks.

    P = (1 / M) sum_m (1 / (N_m K_m)) sum_ij S(x_mi, y_mj), where S is 1 if x > y, 1/2 if they are equal, else 0: the
    statistic U of Mann and Whitney over N K (section 4.4 of the paper).
    """
    return float(np.mean([_wins(ours, theirs).mean() for ours, theirs in zip(first, second, strict=True)]))


def _wins(ours: Array, theirs: Array) -> Array:
    """S of each pair, [runs of ours, runs of theirs]."""
    return (ours[:, None] > theirs) + 0.5 * (ours[:, None] == theirs)


def bootstrap(
    statistic: Callable[[Scores], Value], scores: Scores, generator: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[Value, Value]:
    """The stratified bootstrap's 95 % interval of a statistic: the 2.5 and the 97.5 percentile over resamples, in each
    of which every task's runs are drawn anew from that task's own, with replacement (section 4.1 of the paper).

    What comes back has the shape of the statistic. With few runs such an interval is too narrow.
    """
    drawn = [task[_draws(len(task), generator, resamples)] for task in scores]
    return _ends(statistic(drawn))


def improvement_interval(
    first: Scores, second: Scores, generator: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The stratified bootstrap's 95 % interval of `improvement`; the runs of both are drawn anew."""
    shares = np.zeros(resamples)
    for ours, theirs in zip(first, second, strict=True):
        won = _weights(len(ours), generator, resamples) @ _wins(ours, theirs)
        shares += np.sum(won * _weights(len(theirs), generator, resamples), axis=-1)
    low, high = _ends(shares / len(first))
    return float(low), float(high)


def _draws(runs: int, generator: np.random.Generator, resamples: int) -> Array:
    return generator.integers(runs, size=(resamples, runs))


def _weights(runs: int, generator: np.random.Generator, resamples: int) -> Array:
    """How often each run was drawn, as a share: [resamples, runs]."""
    drawn = _draws(runs, generator, resamples) + runs * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * runs).reshape(resamples, runs) / runs


def _ends(values: Array) -> tuple[Value, Value]:
    low, high = np.percentile(values, TAILS, axis=0)
    return low, high
