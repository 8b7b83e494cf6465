"""The residual network of IMPALA: its pieces against plain Python."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram import spaces, specs, testing
from engram.encoders.impala import ImpalaSpec, adaptive, padded, pooled
from engram.errors import SpaceError

KEY = jax.random.PRNGKey(0)
RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(4, 4), (5, 7), (1, 2)])
def test_pooling_is_the_greatest_of_nine_every_second_pixel(shape):
    x = RANDOM.normal(size=(*shape, 2)).astype(np.float32)
    rows, columns = shape
    expected = np.array(
        [
            [x[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].max((0, 1)) for j in range(0, columns, 2)]
            for i in range(0, rows, 2)
        ]
    )
    np.testing.assert_array_equal(pooled(jnp.array(x)), expected)


@pytest.mark.parametrize("shape", [(11, 11), (6, 9), (4, 3)])
def test_adaptive_pooling_covers_every_pixel(shape):
    """As PyTorch's: cell k of an axis is from floor(k n / 6) to ceil((k + 1) n / 6)."""
    x = RANDOM.normal(size=(*shape, 1)).astype(np.float32)
    found = np.asarray(adaptive(jnp.array(x), 6))
    assert found.shape == (min(shape[0], 6), min(shape[1], 6), 1)
    assert found.max() == x.max()
    if shape == (11, 11):
        assert found[0, 0, 0] == x[:2, :2].max()
        assert found[5, 2, 0] == x[9:, 3:6].max()


def test_a_block_with_padding_keeps_the_size():
    assert padded(jnp.ones((4, 5, 3))).shape == (6, 7, 3)
    assert float(padded(jnp.ones((1, 1, 1))).sum()) == 1


@pytest.mark.parametrize(
    ("space", "chosen"),
    [
        (spaces.Box((36, 36, 3), "uint8"), ImpalaSpec(channels=(4, 4), width=8)),
        (spaces.Box((10, 10, 4), "bool"), ImpalaSpec(channels=(4,), width=8, scale=2, pool=False)),
        (spaces.Box((10, 10, 4), "bool"), ImpalaSpec(channels=(4,), width=8, norm=True, pool=False)),
    ],
    ids=["image", "board", "normalised"],
)
def test_it_keeps_the_contract_of_encoders(space, chosen):
    encoder = chosen.build(space, 2, KEY)
    testing.check_encoder(encoder, space, stack=2)
    side = 6 if chosen.pool else 5
    assert encoder.dense.weight.shape == (8, side * side * 4 * chosen.scale)


def test_the_published_network_has_as_many_weights():
    """84 x 84 x 4, channels 16, 32, 32: 11 x 11 before the pooling, 6 x 6 x 32 after it."""
    encoder = ImpalaSpec().build(spaces.Box((84, 84), "uint8"), 4, KEY)
    assert encoder.dense.weight.shape == (512, 6 * 6 * 32)
    convolutions = sum(leaf.size for leaf in jax.tree.leaves(encoder.blocks))
    expected = sum(9 * a * b + b + 4 * (9 * b * b + b) for a, b in ((4, 16), (16, 32), (32, 32)))
    assert convolutions == expected


def test_with_norm_the_size_of_what_is_seen_changes_nothing():
    """Convolutions without a bias are linear: ten times the input is the same once it is normalised."""
    encoder = ImpalaSpec(channels=(4,), width=8, norm=True).build(spaces.Box((8, 8, 1)), 1, KEY)

    def biases(each):
        return [each.dense.bias, each.blocks[0].first.bias]

    encoder = eqx.tree_at(biases, encoder, [jnp.zeros(8), jnp.zeros(4)])
    x = jnp.asarray(RANDOM.normal(size=(1, 8, 8, 1)), jnp.float32)
    blocks = jax.tree.map(jnp.zeros_like, encoder.blocks[0].residual)
    plain = eqx.tree_at(lambda each: each.blocks[0].residual, encoder, blocks)
    np.testing.assert_allclose(plain(x).embedding, plain(10 * x).embedding, rtol=1e-3, atol=1e-4)


def test_an_encoder_that_was_stored_before_it_could_be_normalised_is_read():
    stored = specs.to_json(ImpalaSpec(width=8))
    assert "norm" not in stored
    assert specs.from_json(ImpalaSpec, stored) == ImpalaSpec(width=8)


def test_an_image_that_is_too_small_is_one_sentence():
    with pytest.raises(SpaceError, match="a 5 x 5 image is too small for 3 blocks that halve it; give fewer enc"):
        ImpalaSpec().build(spaces.Box((5, 5, 1), "uint8"), 1, KEY)


def test_with_the_spectral_norm_a_residual_filter_stretches_nothing_by_more_than_one():
    """Scaling the residual filters then changes nothing but what their biases add, which are 0 at first."""
    space = spaces.Box((8, 8, 1), "uint8")
    encoder = ImpalaSpec(channels=(4,), width=8, spectral_norm=True).build(space, 1, KEY)
    image = jnp.asarray(RANDOM.integers(0, 255, (1, 8, 8, 1)), jnp.uint8)

    def scaled(times: float):
        def residuals(each):
            return [conv.weight for pair in each.blocks[0].residual for conv in pair]

        return eqx.tree_at(residuals, encoder, [times * weight for weight in residuals(encoder)])

    np.testing.assert_allclose(encoder(image).embedding, scaled(7.0)(image).embedding, rtol=1e-4, atol=1e-5)
