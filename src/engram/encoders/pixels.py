"""Images through convolutions: the Nature CNN, and a small one for 10 x 10 boards."""

from collections.abc import Sequence
from math import prod

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Shaped

from engram import spaces
from engram.encoders.parts import Parts, grid_parts, nearest_edges
from engram.encoders.vector import no_attention
from engram.errors import SpaceError
from engram.nn.convolution import Convolution
from engram.nn.layers import Linear, normalised
from engram.nn.observation import scaled
from engram.ranges import OneOf
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Encoding, Key

NATURE = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # channels, size, stride: Mnih et al. 2015, Methods
GRID = ((16, 3, 1),)  # Young & Tian 2019 (arXiv 1903.03176), section 3
NORM = "normalise before each ReLU: of an image the channels of each place, of the layer after it the features"


@register("encoder", "pixels")
@spec
class PixelsSpec:
    """The Nature CNN, for images of about 84 x 84."""

    width: int = setting(512, "units of the layer after the convolutions", low=1, search=OneOf(128, 256, 512))
    norm: bool = setting(False, NORM)

    layout = "channels"

    def build(self, space: spaces.Space, stack: int, key: Key) -> "ImageEncoder":
        return ImageEncoder(space, stack, NATURE, self.width, norm=self.norm, key=key)

    def parts(self, space: spaces.Space, stack: int) -> Parts:
        """The places that the convolutions leave."""
        return convolved_parts(space, stack, NATURE)


@register("encoder", "grid")
@spec
class GridSpec:
    """One 3 x 3 convolution of 16 channels, for boards of about 10 x 10."""

    width: int = setting(128, "units of the layer after the convolution", low=1, search=OneOf(128, 256, 512))
    norm: bool = setting(False, NORM)

    layout = "channels"

    def build(self, space: spaces.Space, stack: int, key: Key) -> "ImageEncoder":
        return ImageEncoder(space, stack, GRID, self.width, norm=self.norm, key=key)

    def parts(self, space: spaces.Space, stack: int) -> Parts:
        """The places that the convolution leaves."""
        return convolved_parts(space, stack, GRID)


class ImageEncoder(eqx.Module):
    """Convolutions, each followed by a ReLU, then one ReLU layer. Stacked frames become channels."""

    convolutions: tuple[Convolution, ...]
    dense: Linear
    width: int = eqx.field(static=True)
    space: spaces.Box = eqx.field(static=True)
    norm: bool = eqx.field(static=True)

    def __init__(
        self,
        space: spaces.Space,
        stack: int,
        layers: tuple[tuple[int, int, int], ...],
        width: int,
        *,
        norm: bool = False,
        key: Key,
    ):
        keys = jax.random.split(key, len(layers) + 1)
        way_out = "use encoder=grid for boards, or encoder=vector"
        self.convolutions, shape = build_convolutions(space, stack, layers, keys[1:], way_out)
        self.dense, self.width = Linear(prod(shape), width, key=keys[0]), width
        assert isinstance(space, spaces.Box)  # image_shape saw to it
        self.space, self.norm = space, norm

    def __call__(self, observation: PyTree) -> Encoding:
        x = self.dense(convolved(self.convolutions, observation, self.space, self.norm).reshape(-1))
        return Encoding(jax.nn.relu(normalised(x) if self.norm else x), no_attention())


def build_convolutions(
    space: spaces.Space, stack: int, layers: Sequence[tuple[int, int, int]], keys: Sequence[Key] | Array, way_out: str
) -> tuple[tuple[Convolution, ...], tuple[int, int, int]]:
    """One convolution for each of `layers` (channels, size, stride), and the rows, columns and channels they leave.

    Raises SpaceError for what is no image, and, ending with `way_out`, for an image that is too small.
    """
    rows, columns, channels = image_shape(space)
    channels *= stack
    convolutions = []
    for (out, size, stride), key in zip(layers, keys, strict=True):
        if min(rows, columns) < size:
            raise SpaceError(f"a {rows} x {columns} image is too small for a {size} x {size} convolution; {way_out}")
        convolutions.append(Convolution(channels, out, size, stride, key=key))
        rows, columns, channels = (rows - size) // stride + 1, (columns - size) // stride + 1, out
    return tuple(convolutions), (rows, columns, channels)


def convolved(
    convolutions: tuple[Convolution, ...], frames: Array, space: spaces.Box, norm: bool = False
) -> Float[Array, "rows columns channels"]:
    """Stacked frames, `scaled`, through convolutions each followed by a ReLU, with `norm` of normalised numbers."""
    x = frames_as_channels(scaled(space, frames), channels_first(space))
    for convolution in convolutions:
        x = rectified(convolution(x), norm)
    return x


def rectified(x: Float[Array, "rows columns channels"], norm: bool) -> Float[Array, "rows columns channels"]:
    """ReLU of an image, with `norm` of the channels of each place normalised."""
    return jax.nn.relu(jax.vmap(jax.vmap(normalised))(x) if norm else x)


def convolved_parts(
    space: spaces.Space, stack: int, layers: Sequence[tuple[int, int, int]], attended: bool = False
) -> Parts:
    """The cells that `build_convolutions` leaves, as places of the picture: to each pixel the nearest cell."""
    steps = [(size, stride) for _, size, stride in layers]
    rows, columns, _ = image_shape(space)
    return grid_parts(space, stack, (nearest_edges(rows, steps), nearest_edges(columns, steps)), attended)


def channels_first(space: spaces.Box) -> bool:
    """Whether images are [channels, rows, columns], as some frame stacks are: a few channels, then two long sides."""
    return len(space.shape) == 3 and space.shape[0] <= 16 < min(space.shape[1:])


def frames_as_channels(frames: Array, first: bool = False) -> Shaped[Array, "rows columns channels"]:
    """Stacked frames, with or without an axis of channels (last, or `first` after the stack), as one image."""
    image = frames if frames.ndim == 4 else frames[..., None]
    image = jnp.moveaxis(image, 1, 3) if first else image
    return jnp.moveaxis(image, 0, 2).reshape(*image.shape[1:3], -1)


def image_shape(space: spaces.Space) -> tuple[int, int, int]:
    """Rows, columns and channels of an image space; SpaceError for any other."""
    if isinstance(space, spaces.Box) and len(space.shape) == 2:
        return (*space.shape, 1)
    if isinstance(space, spaces.Box) and len(space.shape) == 3:
        return (*space.shape[1:], space.shape[0]) if channels_first(space) else space.shape
    raise SpaceError(
        f"an image encoder needs one array of rows x columns (x channels), but the observation is {space}; "
        f"use encoder=vector"
    )
