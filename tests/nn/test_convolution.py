"""A convolution written as a matrix product is the convolution, in values and in every gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram.errors import SpaceError, SpecError
from engram.nn.convolution import Convolution

# (height, width, channels_in, channels_out, size, stride)
NATURE = [(84, 84, 4, 32, 8, 4), (20, 20, 32, 64, 4, 2), (9, 9, 64, 64, 3, 1)]
GRID = [(10, 10, 4, 16, 3, 1), (10, 10, 7, 16, 3, 1)]
ODD = [
    (11, 13, 2, 3, 4, 2),  # the stride leaves a row and a column unread
    (12, 9, 2, 3, 3, 2),  # the filter is not a multiple of the stride
    (7, 7, 3, 4, 7, 1),  # one position only
    (10, 6, 1, 2, 2, 5),  # the stride jumps over pixels
    (5, 4, 3, 2, 1, 1),
]


def reference(weight, bias, images, stride):
    """XLA's own convolution of a batch."""
    dimensions = ("NHWC", "OHWI", "NHWC")
    result = jax.lax.conv_general_dilated(images, weight, (stride, stride), "VALID", dimension_numbers=dimensions)
    return result + bias


def ours(weight, bias, images, stride):
    """The module, holding these weights, of a batch."""
    out, size, _, channels = weight.shape
    module = jax.eval_shape(lambda: Convolution(channels, out, size, stride, key=jax.random.key(0)))
    leaves, tree = jax.tree.flatten(module)
    assert [leaf.shape for leaf in leaves] == [weight.shape, bias.shape]
    return jax.vmap(jax.tree.unflatten(tree, [weight, bias]))(images)


@partial(jax.jit, static_argnums=0)
def values_and_gradients(stride, weight, bias, images, cotangent):
    """(value, gradients by weight, bias and image) of ours, then of the reference: one compilation for all."""

    def both(function):
        value, pull = jax.vjp(lambda *arguments: function(*arguments, stride), weight, bias, images)
        return value, pull(cotangent)

    return both(ours), both(reference)


def random_case(shape, seed=0, batch=2):
    """Stride, weight, bias, images and a cotangent of the result, as `values_and_gradients` takes them."""
    height, width, channels, out, size, stride = shape
    generator = np.random.default_rng(seed)

    def normal(*shape, scale=1.0):
        return (generator.standard_normal(shape) * scale).astype(np.float32)

    weight = normal(out, size, size, channels, scale=(size * size * channels) ** -0.5)
    rows, columns = (height - size) // stride + 1, (width - size) // stride + 1
    return stride, weight, normal(out), normal(batch, height, width, channels), normal(batch, rows, columns, out)


def assert_same(result, expected):
    """Equal to float32, relative to the largest entry: long sums of signed terms lose their small results."""
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("shape", NATURE + GRID + ODD, ids=str)
def test_values_and_all_gradients_equal_the_convolution_of_xla(shape):
    result, expected = values_and_gradients(*random_case(shape))
    jax.tree.map(assert_same, result, expected)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_small_shape_equals_the_convolution_of_xla(data):
    size, stride = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    height, width = data.draw(st.integers(size, 9)), data.draw(st.integers(size, 9))
    shape = (height, width, data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), size, stride)
    result, expected = values_and_gradients(*random_case(shape, seed=data.draw(st.integers(0, 99)), batch=1))
    jax.tree.map(assert_same, result, expected)


def test_a_filter_of_one_pixel_at_a_corner_moves_the_image():
    """weight[o, 1, 0, c] = 1 picks the pixel one row down: worked by hand."""
    module = Convolution(1, 1, 2, 1, key=jax.random.key(0))
    weight = jnp.zeros((1, 2, 2, 1)).at[0, 1, 0, 0].set(1.0)
    module = jax.tree.unflatten(jax.tree.structure(module), [weight, jnp.array([10.0])])
    image = jnp.arange(6.0).reshape(2, 3, 1)
    np.testing.assert_array_equal(module(image)[..., 0], [[13.0, 14.0]])


def test_inside_a_scan_it_gives_what_it_gives_outside():
    module = Convolution(3, 5, 3, 2, key=jax.random.key(1))
    images = jax.random.normal(jax.random.key(2), (4, 2, 9, 9, 3))
    _, scanned = jax.lax.scan(lambda carry, batch: (carry, jax.vmap(module)(batch)), None, images)
    np.testing.assert_allclose(scanned, jax.vmap(jax.vmap(module))(images), rtol=1e-5, atol=1e-6)


def test_a_batch_is_one_product_of_two_matrices_and_no_convolution_forward_and_two_more_backward():
    """What makes it fast in a loop: nothing but dots, none of them with a batch axis."""
    module = Convolution(32, 64, 4, 2, key=jax.random.key(0))
    images = jnp.ones((32, 20, 20, 32))
    step = jax.jit(jax.grad(lambda arguments: jnp.sum(jax.vmap(arguments[0])(arguments[1]) ** 2)))
    text = step.lower((module, images)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 3
    assert not any("batching_dims" in line for line in products)
    assert not any(word in text for word in ("stablehlo.convolution", "stablehlo.scatter", "stablehlo.gather"))


def test_weights_start_uniform_with_the_variance_of_he_and_biases_at_zero():
    module = Convolution(16, 64, 4, 2, key=jax.random.key(3))
    fan_in = 4 * 4 * 16
    assert np.abs(module.weight).max() <= np.sqrt(6 / fan_in)
    # 16384 draws: the estimate of a variance is within 1 % at one standard deviation; 5 % is five of them.
    np.testing.assert_allclose(np.var(module.weight), 2 / fan_in, rtol=0.05)
    np.testing.assert_array_equal(module.bias, np.zeros(64))


def test_every_leaf_is_a_learned_float_array():
    leaves = jax.tree.leaves(Convolution(3, 4, 2, 1, key=jax.random.key(0)))
    assert [leaf.dtype for leaf in leaves] == [jnp.float32, jnp.float32]


def test_the_output_shape_is_known_without_an_image():
    module = Convolution(4, 32, 8, 4, key=jax.random.key(0))
    assert module.output_shape(84, 84) == (20, 20, 32) == module(jnp.zeros((84, 84, 4))).shape


@pytest.mark.parametrize("shape", [(2, 9, 3), (9, 2, 3)])
def test_an_image_smaller_than_the_filter_is_refused(shape):
    module = Convolution(3, 4, 3, 1, key=jax.random.key(0))
    with pytest.raises(SpaceError, match=f"an image of {shape[0]} x {shape[1]} is smaller than the filter of 3 x 3"):
        module(jnp.zeros(shape))


def test_an_image_with_other_channels_is_refused():
    module = Convolution(3, 4, 3, 1, key=jax.random.key(0))
    with pytest.raises(SpaceError, match="an image with 4 channels was given to a convolution of 3"):
        module(jnp.zeros((9, 9, 4)))


@pytest.mark.parametrize("name", ["channels_in", "channels_out", "size", "stride"])
def test_numbers_below_one_are_refused_by_name(name):
    numbers = {"channels_in": 1, "channels_out": 1, "size": 1, "stride": 1, name: 0}
    with pytest.raises(SpecError, match=f"{name} = 0 of a convolution must be at least 1"):
        Convolution(**numbers, key=jax.random.key(0))
