"""Two functions that are written for their time: they are what they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram.nn.layers import cos_pi, repeated


def test_cos_pi_is_the_cosine_of_pi_x():
    x = jnp.linspace(-70, 70, 100_001)
    for given in (cos_pi, jax.jit(cos_pi)):
        np.testing.assert_allclose(given(x), np.cos(np.pi * np.asarray(x, float)), atol=3e-7)
    np.testing.assert_array_equal(cos_pi(jnp.array([0.5, 1.5, -62.5])), np.zeros(3))


@pytest.mark.parametrize("count", [1, 2, 7, 16])
def test_a_repeated_vector_has_the_gradient_of_a_broadcast_one(count: int):
    x, weights = jax.random.normal(jax.random.PRNGKey(0), (3, 5)), jnp.arange(count * 5.0).reshape(count, 5)
    np.testing.assert_array_equal(repeated(count, x[0]), np.tile(x[0], (count, 1)))

    def slopes(copies):
        return jax.vmap(jax.grad(lambda one: (copies(one) ** 2 * weights).sum()))(x)

    plain = slopes(lambda one: jnp.broadcast_to(one, (count, 5)))
    np.testing.assert_allclose(slopes(lambda one: repeated(count, one)), plain, rtol=1e-5)
