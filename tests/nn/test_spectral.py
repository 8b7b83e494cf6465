"""The spectral norm against a singular value decomposition in 64 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram.nn.spectral import spectrally_normalised

RANDOM = np.random.default_rng(0)


def matrix(values: list[float], inputs: int = 12) -> np.ndarray:
    """A matrix with these singular values."""
    left, _ = np.linalg.qr(RANDOM.normal(size=(len(values), len(values))))
    right, _ = np.linalg.qr(RANDOM.normal(size=(inputs, len(values))))
    return left @ np.diag(values) @ right.T


def test_the_largest_singular_value_becomes_one():
    weight = matrix([5.0, 2.0, 1.0, 0.5])
    found = spectrally_normalised(jnp.asarray(weight, jnp.float32))
    np.testing.assert_allclose(found, weight / 5.0, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(32, 3, 3, 32), (16, 3, 3, 4)])
def test_a_random_filter_is_found_to_a_few_per_cent(shape):
    found = spectrally_normalised(jnp.asarray(RANDOM.normal(size=shape), jnp.float32))
    largest = np.linalg.svd(np.asarray(found, np.float64).reshape(shape[0], -1), compute_uv=False)[0]
    assert found.shape == shape
    assert 1 <= largest < 1.05  # the power method comes from below


def test_the_gradient_is_that_of_the_largest_singular_value():
    """d(sum of C * W / s) / dW = C / s - sum(C * W) / s^2 * u v^T, with u and v the singular vectors."""
    weight, cotangent = matrix([5.0, 1.0, 0.5]), RANDOM.normal(size=(3, 12))
    left, values, right = np.linalg.svd(weight)
    expected = cotangent / values[0] - (cotangent * weight).sum() / values[0] ** 2 * np.outer(left[:, 0], right[0])
    gradient = jax.grad(lambda w: (cotangent * spectrally_normalised(w)).sum())(jnp.asarray(weight, jnp.float32))
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4)


def test_zeros_stay_zeros():
    np.testing.assert_array_equal(spectrally_normalised(jnp.zeros((3, 4))), np.zeros((3, 4)))
