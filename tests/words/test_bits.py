"""Random words: those of JAX, made faster."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram.bits import next_words, threefry


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_words_are_those_of_jax(count: int):
    keys = jax.random.bits(jax.random.PRNGKey(count), (3, 2), jnp.uint32)
    expected = [jax.random.bits(key, (count,), jnp.uint32) for key in keys]
    np.testing.assert_array_equal(jax.vmap(lambda key: threefry(key, count))(keys), expected)
    np.testing.assert_array_equal(threefry(keys[0], count), expected[0])


def test_the_first_two_words_become_the_next_key():
    key = jax.random.PRNGKey(3)
    following, words = next_words(key, 5)
    np.testing.assert_array_equal(jnp.append(following, words), jax.random.bits(key, (7,), jnp.uint32))
