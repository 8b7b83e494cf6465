"""The large-margin loss by hand, and beside its formula in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram.losses.margin import large_margin


@pytest.mark.parametrize(("q", "action", "loss"), [
    ([1.0, 2.0, 0.5], 1, 0.0),  # best by more than the margin
    ([1.0, 1.5, 0.5], 1, 0.3),  # best by less: 1.0 + 0.8 - 1.5
    ([1.0, 1.0, 1.0], 2, 0.8),
    ([3.0, 1.0, 0.0], 2, 3.8),
])  # fmt: skip
def test_by_hand(q: list[float], action: int, loss: float):
    np.testing.assert_allclose(large_margin(jnp.array(q), None, jnp.int32(action), 0.8), loss, atol=1e-6)


def test_what_is_forbidden_does_not_count_but_what_was_demonstrated_does():
    q, allowed = jnp.array([9.0, 1.0, 0.0]), jnp.array([False, True, True])
    np.testing.assert_allclose(large_margin(q, allowed, jnp.int32(1), 0.8), 0.0, atol=1e-6)
    np.testing.assert_allclose(large_margin(q, allowed, jnp.int32(2), 0.8), 1.8, atol=1e-6)
    np.testing.assert_allclose(large_margin(q, ~allowed, jnp.int32(2), 0.8), 9.8, atol=1e-6)
    slope = jax.grad(large_margin)(q, allowed, jnp.int32(2), 0.8)
    np.testing.assert_array_equal(slope, [0.0, 1.0, -1.0])


def oracle(q: np.ndarray, action: int, margin: float) -> float:
    """max_a [Q(s, a) + l(a_E, a)] - Q(s, a_E), as it is written (Hester et al. 2018)."""
    q = q.astype(np.float64)
    return max(q[a] + (0.0 if a == action else margin) for a in range(len(q))) - q[action]


def test_it_is_the_formula():
    random = np.random.default_rng(0)
    for _ in range(50):
        q = random.normal(scale=2, size=random.integers(1, 7)).astype(np.float32)
        action, margin = int(random.integers(len(q))), float(random.uniform(0, 2))
        found = large_margin(jnp.asarray(q), None, jnp.int32(action), margin)
        np.testing.assert_allclose(found, oracle(q, action, margin), atol=1e-5)
