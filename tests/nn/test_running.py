"""Running statistics: values by hand, equal to those of all values at once, and safe at the ends of float32."""

import jax.numpy as jnp
import numpy as np
import pytest

from engram.nn.running import BOUND, LONGEST, Running

ALL = jnp.ones


def test_mean_and_variance_of_four_numbers_by_hand():
    """1, 2, 3 and then 5: mean 11/4, variance (1 + 4 + 9 + 25)/4 - (11/4)^2 = 35/16; what is missing does not count."""
    first = Running.empty((2,)).updated(
        jnp.array([[1.0, 7.0], [2.0, jnp.nan], [3.0, 9.0]]), jnp.array([[1, 1], [1, 0], [1, 1]]) > 0
    )
    found = first.updated(jnp.array([[5.0, jnp.nan]]), jnp.array([[True, False]]))
    np.testing.assert_allclose(found.origin + found.mean, [2.75, 8.0], rtol=1e-6)
    np.testing.assert_allclose(found.variance, [35 / 16, 1.0], rtol=1e-6)
    assert found.count.tolist() == [4, 2]
    np.testing.assert_allclose(found.normalised(jnp.array([2.75, 9.0])), [0.0, 1.0], atol=1e-6)


@pytest.mark.parametrize(("centre", "spread"), [(0.0, 1e-3), (0.0, 1e6), (1e6, 1.0), (-3e-3, 1e-3)])
def test_any_cut_into_batches_gives_the_statistics_of_all_values(centre: float, spread: float):
    """Also around a mean a million spreads away, where float32 itself keeps the values to 6 % of a spread."""
    random = np.random.default_rng(0)
    values = (centre + spread * random.normal(size=(600, 3))).astype(np.float32)
    present = random.random(values.shape) < 0.7
    running = Running.empty((3,))
    for rows in np.split(np.arange(600), [1, 5, 40, 300]):
        running = running.updated(jnp.asarray(values[rows]), jnp.asarray(present[rows]))
    known = [values[present[:, place], place].astype(np.float64) for place in range(3)]
    np.testing.assert_allclose(running.variance, [one.var() for one in known], rtol=1e-3)
    seen = running.normalised(jnp.asarray(values))
    assert abs(float(jnp.where(present, seen, 0.0).sum()) / present.sum()) < 0.01
    np.testing.assert_allclose([np.std(seen[present[:, place], place]) for place in range(3)], 1, rtol=1e-2)


def test_an_axis_of_length_one_is_shared_and_an_observation_counts_once():
    values = jnp.arange(12.0).reshape(2, 3, 2)  # two observations of three rows with two features
    running = Running.empty((1, 2)).updated(values, ALL(values.shape, bool))
    np.testing.assert_allclose((running.origin + running.mean)[0], [5.0, 6.0])
    assert running.count.tolist() == [[2.0, 2.0]]


def test_before_the_first_observation_numbers_are_themselves_and_without_one_nothing_changes():
    empty = Running.empty((2,))
    assert empty.normalised(jnp.array([0.5, -2.0])).tolist() == [0.5, -2.0]
    same = empty.updated(jnp.full((3, 2), jnp.nan), jnp.zeros((3, 2), bool))
    for before, after in zip(
        (empty.count, empty.mean, empty.variance), (same.count, same.mean, same.variance), strict=True
    ):
        assert before.tolist() == after.tolist()


def test_a_constant_is_zero_and_a_surprise_is_bounded():
    running = Running.empty().updated(jnp.full(50, 3.7), ALL(50, bool))
    assert float(running.normalised(jnp.float32(3.7))) == 0.0
    assert float(running.normalised(jnp.float32(3.8))) == BOUND
    assert float(running.normalised(jnp.float32(-3e38))) == -BOUND


def test_the_largest_numbers_leave_finite_statistics():
    running = Running.empty().updated(jnp.array([3e38, -3e38, 1.0]), ALL(3, bool))
    assert np.isfinite([running.mean, running.variance]).all()
    assert np.isfinite(running.normalised(jnp.array([3e38, 1.0]))).all()


def test_after_a_million_observations_new_ones_still_count():
    running = Running(jnp.float32(LONGEST), jnp.float32(0), jnp.float32(0), jnp.float32(1))
    for _ in range(64):
        running = running.updated(jnp.full(1 << 14, 2.0), ALL(1 << 14, bool))
    assert float(running.count) == LONGEST
    assert abs(float(running.mean) - 2 * (1 - (64 / 65) ** 64)) < 1e-3  # each of 64 batches moves it by 1/65 of the gap
