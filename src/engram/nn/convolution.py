"""Convolution as one matrix product, so that it costs the same inside `lax.scan` as outside.

On CPU, XLA has a fast path for convolutions that a loop body does not reach. The training step of a small image
network was measured to be ten times slower inside `lax.scan` than as a call of its own. A matrix product is equally
fast in both. Around it, only slices are needed, and pads, which are their transposes.
"""

from math import ceil

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from engram.errors import SpaceError, SpecError

# A filter's horizontal bands can be applied apart and their results added. Patches are then smaller by the number of
# bands, but `rows` rows of results take `rows + taps - 1` rows of products. Measured with gradients at batch 64, this
# pays for the first two layers of the Nature network (1.05 and 1.11 times the products), and not at 1.25.
MOST_PRODUCTS_PER_RESULT = 1.2


class Convolution(eqx.Module):
    """A convolution without padding ("VALID") of one image, square filter, the same stride in both directions.

        y[i, j, o] = bias[o] + sum over a, b, c of weight[o, a, b, c] * x[i * stride + a, j * stride + b, c]

    Batched by `jax.vmap` outside, it is one product of two matrices over all patches of the batch. Rows and
    columns at the far edges that no whole filter reaches are not read.

    The output channel is the first axis of `weight`. The product that gives the weight's gradient then has the
    faster of two orientations (up to three times, XLA on CPU).

    Weights start uniform in ±sqrt(6 / (size * size * channels)) (He et al. 2015, arXiv 1502.01852, the uniform
    form of eq. 10), which keeps the mean square of a signal through ReLUs; biases start at 0.

    A filter whose size is no multiple of the stride is filled up with zeros to the next one. The result is exact for
    finite images. The work is up to (multiple / size)^2 times as much.
    """

    weight: Float[Array, "out size size channels"]
    bias: Float[Array, "out"]
    stride: int = eqx.field(static=True)

    def __init__(self, channels_in: int, channels_out: int, size: int, stride: int, *, key: PRNGKeyArray):
        """`size` and `stride` in pixels. Raises SpecError unless all four numbers are at least 1."""
        numbers = {"channels_in": channels_in, "channels_out": channels_out, "size": size, "stride": stride}
        for name, value in numbers.items():
            if value < 1:
                raise SpecError(f"{name} = {value} of a convolution must be at least 1; raise it")
        limit = (6 / (size * size * channels_in)) ** 0.5
        self.weight = jax.random.uniform(key, (channels_out, size, size, channels_in), minval=-limit, maxval=limit)
        self.bias = jnp.zeros(channels_out)
        self.stride = stride

    def output_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(rows, columns, out) of the result for an image of this height and width, in pixels.

        Raises SpaceError if the image is smaller than the filter.
        """
        out, size, _, _ = self.weight.shape
        if min(height, width) < size:
            raise SpaceError(
                f"an image of {height} x {width} is smaller than the filter of {size} x {size}; "
                "use a smaller filter, fewer layers or a larger image"
            )
        return (height - size) // self.stride + 1, (width - size) // self.stride + 1, out

    def __call__(self, image: Float[Array, "height width channels"]) -> Float[Array, "rows columns out"]:
        """Raises SpaceError if the image is smaller than the filter or has another number of channels."""
        if image.shape[2] != self.weight.shape[3]:
            raise SpaceError(
                f"an image with {image.shape[2]} channels was given to a convolution of {self.weight.shape[3]}; "
                "channels are the last axis: move them there, or build the convolution for them"
            )
        rows, columns, out = self.output_shape(*image.shape[:2])
        taps = ceil(self.weight.shape[1] / self.stride)
        strips = _strips(image, rows, columns, taps, self.stride)
        matrix = _matrix(self.weight, taps, self.stride)
        if rows + taps - 1 > MOST_PRODUCTS_PER_RESULT * rows:
            patches = jnp.concatenate([strips[tap : tap + rows] for tap in range(taps)], axis=-1)
            return _product(patches, matrix.reshape(out, -1)) + self.bias
        products = _product(strips, matrix.swapaxes(0, 1).reshape(taps * out, -1))
        parts = [products[tap : tap + rows, :, tap * out : (tap + 1) * out] for tap in range(taps)]
        return sum(parts, self.bias)


def _strips(
    image: Float[Array, "height width channels"], rows: int, columns: int, taps: int, stride: int
) -> Float[Array, "bands columns strip"]:
    """What a filter sees at each column within each band of `stride` pixel rows.

    There are `rows + taps - 1` bands; row i of the result needs bands i to i + taps - 1. A strip holds
    (pixel row in band, pixel column in filter, channel), flat, filters being `taps * stride` pixels wide.
    """
    channels = image.shape[2]
    bands, blocks = rows + taps - 1, columns + taps - 1
    missing = [
        (0, max(0, count * stride - length)) for count, length in zip((bands, blocks), image.shape, strict=False)
    ]
    image = jnp.pad(image, (*missing, (0, 0)))[: bands * stride, : blocks * stride]
    blocked = image.reshape(bands, stride, blocks, stride * channels)
    strips = jnp.stack([blocked[:, :, tap : tap + columns] for tap in range(taps)], axis=3)
    return strips.swapaxes(1, 2).reshape(bands, columns, stride * taps * stride * channels)


def _matrix(weight: Float[Array, "out size size channels"], taps: int, stride: int) -> Float[Array, "out taps strip"]:
    """The filter cut into horizontal bands, each laid out as `_strips` lays out an image."""
    missing = taps * stride - weight.shape[1]
    weight = jnp.pad(weight, ((0, 0), (0, missing), (0, missing), (0, 0)))
    return weight.reshape(weight.shape[0], taps, -1)


def _product(patches: Float[Array, "rows columns inputs"], matrix: Float[Array, "outputs inputs"]):
    """`patches @ matrix.T` without the transpose, which XLA would otherwise carry into the gradient."""
    return jax.lax.dot_general(patches, matrix, (((2,), (1,)), ((), ())))
