"""Noisy layers against their formula in float64, and that noise is what explores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from engram import testing
from engram.heads.q import DuelingSpec, QSpec
from engram.heads.returns import ImplicitSpec
from engram.nn.noisy import NoisyLinear, NoisyMLP, dealt, noise_of

KEY = jax.random.PRNGKey(0)
MIDDLE = 1 << 31


def test_a_noisy_layer_is_its_formula():
    layer = NoisyLinear(3, 2, 0.5, key=KEY)
    assert layer.words == 3  # two noises from each
    np.testing.assert_allclose(layer.weight_noise, 0.5 / np.sqrt(3))
    x, bits = jnp.array([1.0, -2.0, 0.5]), jax.random.bits(KEY, (3,), jnp.uint32)
    whole = np.asarray(bits).astype(np.int64)
    level = np.concatenate([whole >> 16, (whole & 0xFFFF) ^ 0x8000])[:5] / 2**16
    normal = norm.ppf(np.round(level * 4096) / 4096)
    noise = np.sign(normal) * np.sqrt(np.abs(normal))
    weight = np.asarray(layer.linear.weight, float) + np.asarray(layer.weight_noise) * np.outer(noise[3:], noise[:3])
    bias = np.asarray(layer.linear.bias, float) + np.asarray(layer.bias_noise) * noise[3:]
    np.testing.assert_allclose(layer(x, bits), weight @ np.asarray(x, float) + bias, rtol=1e-4)


def test_the_middle_of_each_draw_and_no_words_are_no_noise_and_the_ends_are_finite():
    layer, x = NoisyLinear(3, 2, 0.5, key=KEY), jnp.array([1.0, -2.0, 0.5])
    np.testing.assert_array_equal(layer(x, jnp.full(3, MIDDLE, jnp.uint32)), layer.linear(x))
    np.testing.assert_array_equal(layer(x), layer.linear(x))
    for end in (0, 0xFFFFFFFF):
        assert np.isfinite(layer(x, jnp.full(3, end, jnp.uint32))).all()


def test_noise_is_the_signed_root_of_a_normal_number():
    """Its second moment is E|n| = sqrt(2 / pi), its fourth E n^2 = 1; both halves of a word are drawn alike."""
    noise = np.asarray(noise_of(jax.random.bits(KEY, (100_000,), jnp.uint32)), float)
    assert noise.shape == (200_000,)
    for half in np.split(noise, 2):
        assert abs(half.mean()) < 4 * (0.8 / 1e5) ** 0.5
        np.testing.assert_allclose([(half**2).mean(), (half**4).mean()], [(2 / np.pi) ** 0.5, 1], rtol=0.02)
    assert abs(np.corrcoef(*np.split(noise, 2))[0, 1]) < 4 / 1e5**0.5


def test_layers_get_words_of_their_own():
    layers = NoisyMLP(3, (4, 2), 0.5, key=KEY)
    assert layers.words == 4 + 3  # of 3 + 4 and of 4 + 2 noises
    x, bits = jnp.array([1.0, -2.0, 0.5]), jax.random.bits(KEY, (7,), jnp.uint32)
    first, second = layers.layers
    expected = jax.nn.relu(second(jax.nn.relu(first(x, bits[:4])), bits[4:]))
    np.testing.assert_array_equal(layers(x, bits), expected)
    pieces = dealt(jnp.arange(4, dtype=jnp.uint32), [1, 0, 3])
    assert [np.asarray(piece).tolist() for piece in pieces] == [[0], [], [1, 2, 3]]
    assert dealt(None, [1, 2]) == [None, None]


@pytest.mark.parametrize(
    "spec",
    [QSpec(noise=0.5), DuelingSpec(noise=0.5, width=4), QSpec(noise=0.5, returns=ImplicitSpec(samples=4, cosines=8))],
    ids=["q", "dueling", "implicit"],
)
def test_a_noisy_head_keeps_its_contract_and_explores(spec):
    head = spec.build(5, 3, KEY)
    testing.check_head(head, 5, 3, spec=spec)
    bits = jax.random.bits(KEY, (200, head.words), jnp.uint32)
    chosen = jax.vmap(lambda one: head(jnp.ones(5), bits=one).q.argmax())(bits)
    assert len(set(np.asarray(chosen).tolist())) > 1
