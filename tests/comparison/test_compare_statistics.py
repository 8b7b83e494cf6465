"""Statistics over seeds and tasks: matrices worked by hand, SciPy as an oracle, and what the intervals hold."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, trim_mean

from engram.comparison.statistics import (
    bootstrap,
    improvement,
    improvement_interval,
    iqm,
    mean,
    median,
    profile,
)

# Three runs (columns here) on each of four tasks.
MATRIX = [np.array(task) for task in ([0.0, 0.2, 0.4], [0.1, 0.5, 0.9], [0.3, 0.6, 1.2], [1.0, 1.1, 1.5])]
OTHER = [np.array(task) for task in ([0.1, 0.2, 0.3], [0.5, 0.5, 0.5], [1.0, 2.0], [0.0, 0.0, 0.0, 0.0])]


def test_a_matrix_worked_by_hand():
    assert iqm(MATRIX) == pytest.approx((0.3 + 0.4 + 0.5 + 0.6 + 0.9 + 1.0) / 6, abs=1e-6)  # without 3 at each end
    assert mean(MATRIX) == pytest.approx((0.2 + 0.5 + 0.7 + 1.2) / 4, abs=1e-6)
    assert median(MATRIX) == pytest.approx((0.5 + 0.7) / 2, abs=1e-6)
    assert median(MATRIX[:1]) == pytest.approx(0.2, abs=1e-6)
    shares = [(1 + 2 + 3 + 3) / 12, (0 + 1 + 2 + 3) / 12, (0 + 0 + 1 + 2) / 12]
    assert profile(MATRIX, np.array([0.25, 0.5, 1.0])) == pytest.approx(shares, abs=1e-6)
    # On each task: pairs won, half of those that are equal, of all pairs.
    assert improvement(MATRIX, OTHER) == pytest.approx((4.5 / 9 + 4.5 / 9 + 1 / 6 + 12 / 12) / 4, abs=1e-6)
    assert improvement(OTHER, MATRIX) == pytest.approx(1 - improvement(MATRIX, OTHER), abs=1e-6)


def test_statistics_agree_with_scipy():
    generator = np.random.default_rng(0)
    for runs in (2, 3, 5, 8, 11):
        scores = list(generator.normal(size=(3, runs)))
        assert iqm(scores) == pytest.approx(trim_mean(np.concatenate(scores), 0.25))
        one, other = generator.integers(5, size=runs).astype(float), generator.integers(5, size=7).astype(float)
        assert improvement([one], [other]) == pytest.approx(mannwhitneyu(one, other).statistic / (runs * 7))


def test_resamples_keep_to_their_task():
    """Tasks without a spread have an interval of no width, however far they are from each other."""
    apart = [np.full(4, 1.0), np.full(3, 100.0)]
    for statistic in (iqm, mean, median):
        low, high = bootstrap(statistic, apart, np.random.default_rng(0), 200)
        assert low == high == statistic(apart)
    assert improvement_interval(apart, apart, np.random.default_rng(0), 200) == (0.5, 0.5)


def test_an_interval_is_the_same_by_the_same_seed():
    one, two, other = (bootstrap(iqm, MATRIX, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert one == two != other
    assert one[0] <= iqm(MATRIX) <= one[1]
    first, second = (improvement_interval(MATRIX, OTHER, np.random.default_rng(3)) for _ in range(2))
    assert first == second
    assert first[0] < improvement(MATRIX, OTHER) < first[1]


def test_the_interval_of_a_probability_is_that_of_resampled_runs():
    """Against resamples that are drawn and compared one by one."""
    generator = np.random.default_rng(0)
    ours, theirs = generator.normal(0.5, 1, 12), generator.normal(0, 1, 9)
    drawn = [
        improvement([generator.choice(ours, 12)], [generator.choice(theirs, 9)]) for _ in range(2000)
    ]  # fmt: skip
    found = improvement_interval([ours], [theirs], np.random.default_rng(1), 4000)
    assert found == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.03)


def exact(values: list[float]) -> list[float]:
    """The ends of a 95 % interval over equally likely outcomes: the least of them at which a tail is reached."""
    ordered = np.sort(values)
    return [ordered[int(np.ceil(tail * len(ordered))) - 1] for tail in (0.025, 0.975)]


def anew(task: np.ndarray) -> list[np.ndarray]:
    """Every way to draw a task's runs anew."""
    return [task[list(places)] for places in product(range(len(task)), repeat=len(task))]


def test_intervals_are_those_of_all_resamples_one_by_one():
    """Two tasks of three runs are drawn anew in 27 x 27 ways, all of which can be looked at. Ends are equal to 1e-6,
    because a great many resamples have the same few values."""
    tasks, many = MATRIX[1:3], 200_000
    for statistic in (iqm, mean, median):
        ends = exact([float(statistic(list(both))) for both in product(anew(tasks[0]), anew(tasks[1]))])
        assert bootstrap(statistic, tasks, np.random.default_rng(0), many) == pytest.approx(ends, abs=1e-6)
    ours, theirs = np.array([0.3, 0.5, 0.9, 1.4]), np.array([0.2, 0.5, 1.0])
    ends = exact([improvement([one], [other]) for one, other in product(anew(ours), anew(theirs))])
    found = improvement_interval([ours], [theirs], np.random.default_rng(0), many)
    assert found == pytest.approx(ends, abs=1e-6)


def covered(trials: int, runs: int, tasks: int, resamples: int, seed: int) -> float:
    """The share of trials in which the interval of the mean holds the true one; scores are skewed."""
    generator = np.random.default_rng(seed)
    held = 0
    for _ in range(trials):
        scores = [generator.gamma(4.0, 0.25, runs) + task for task in range(tasks)]
        low, high = bootstrap(mean, scores, generator, resamples)
        held += bool(low <= 1 + (tasks - 1) / 2 <= high)
    return held / trials


def test_intervals_hold_the_true_mean_in_95_of_100_cases():
    assert 0.93 <= covered(1000, 40, 4, 400, seed=0) <= 0.97


def test_ten_seeds_suffice_for_the_interval_of_the_iqm():
    generator = np.random.default_rng(0)
    ends = [bootstrap(iqm, [generator.normal(size=10)], generator, 400) for _ in range(2000)]
    assert 0.93 <= np.mean([low <= 0 <= high for low, high in ends]) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "tasks"), [(50, 1), (50, 5), (100, 3)])
def test_intervals_hold_the_true_mean_in_95_of_100_cases_for_many_trials(runs: int, tasks: int):
    assert 0.93 <= covered(6000, runs, tasks, 1000, seed=1) <= 0.97


def test_with_few_runs_the_interval_is_too_narrow_as_it_says():
    """The note of a comparison tells these shares: 3 of 4, 5 of 6."""
    assert covered(2000, 3, 1, 300, seed=0) == pytest.approx(3 / 4, abs=0.05)
    assert covered(2000, 5, 1, 300, seed=0) == pytest.approx(5 / 6, abs=0.05)
