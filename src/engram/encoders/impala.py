"""`impala`: the residual convolutions of IMPALA, for images and boards."""

from math import prod

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from engram import spaces
from engram.encoders.parts import Parts, even_edges, grid_parts
from engram.encoders.pixels import NORM, channels_first, frames_as_channels, image_shape, rectified
from engram.encoders.vector import no_attention
from engram.errors import SpaceError
from engram.nn.convolution import Convolution
from engram.nn.layers import Linear, normalised
from engram.nn.observation import scaled
from engram.nn.spectral import spectrally_normalised
from engram.ranges import OneOf
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Encoding, Key

POOL = 6  # rows and columns after the adaptive pooling of BTR


@register("encoder", "impala")
@spec
class ImpalaSpec:
    """Blocks of a convolution, max-pooling by 2, and two residual pairs of convolutions: the network of BTR."""

    channels: tuple[int, ...] = setting((16, 32, 32), "channels of each block, which halves rows and columns", low=1)
    scale: int = setting(1, "times the channels; 2 in BTR", low=1)
    pool: bool = setting(True, "the last image is pooled to 6 x 6 where it is larger, as in BTR")
    width: int = setting(512, "units of the layer after the convolutions", low=1, search=OneOf(128, 256, 512))
    spectral_norm: bool = setting(False, "residual convolutions stretch no input by more than one, as in BTR")
    norm: bool = setting(False, NORM, later=True)

    layout = "channels"

    def build(self, space: spaces.Space, stack: int, key: Key) -> "ImpalaEncoder":
        return ImpalaEncoder(space, stack, self, key=key)

    def parts(self, space: spaces.Space, stack: int) -> Parts:
        """The places of the last image, each an equal share of the picture."""
        sides = image_shape(space)[:2]
        left = [-(-side // 2 ** len(self.channels)) for side in sides]
        cells = [min(side, POOL) if self.pool else side for side in left]
        rows, columns = (even_edges(side, count) for side, count in zip(sides, cells, strict=True))
        return grid_parts(space, stack, (rows, columns))


class Block(eqx.Module):
    """x -> pool(conv(x)), then twice x + conv(relu(conv(relu(x)))). Convolutions are 3 x 3 and padded. With `norm` each
    ReLU is of normalised channels.
    """

    first: Convolution
    residual: tuple[tuple[Convolution, Convolution], ...]
    spectral: bool = eqx.field(static=True)
    norm: bool = eqx.field(static=True)

    def __init__(self, channels: int, out: int, spectral: bool = False, norm: bool = False, *, key: Key):
        self.spectral, self.norm = spectral, norm
        keys = jax.random.split(key, 5)
        self.first = Convolution(channels, out, 3, 1, key=keys[0])
        pairs = ((keys[1], keys[2]), (keys[3], keys[4]))
        self.residual = tuple(
            (Convolution(out, out, 3, 1, key=a), Convolution(out, out, 3, 1, key=b)) for a, b in pairs
        )

    def __call__(self, x: Float[Array, "rows columns channels"]) -> Float[Array, "halfrows halfcolumns out"]:
        x = pooled(self.first(padded(x)))
        for one, two in self.residual:
            if self.spectral:
                one, two = (eqx.tree_at(lambda c: c.weight, c, spectrally_normalised(c.weight)) for c in (one, two))
            x = x + two(padded(rectified(one(padded(rectified(x, self.norm))), self.norm)))
        return x


class ImpalaEncoder(eqx.Module):
    """Blocks, a ReLU, pooling to 6 x 6, and one ReLU layer. Stacked frames become channels.

    Sources: Espeholt et al. 2018 (arXiv 1802.01561), figure 3; Clark et al. 2024 (arXiv 2411.03820) for the pooling
    before the dense layer, and for the spectral norm.
    """

    blocks: tuple[Block, ...]
    dense: Linear
    width: int = eqx.field(static=True)
    pool: bool = eqx.field(static=True)
    space: spaces.Box = eqx.field(static=True)
    norm: bool = eqx.field(static=True)

    def __init__(self, space: spaces.Space, stack: int, chosen: ImpalaSpec, *, key: Key):
        rows, columns, channels = image_shape(space)
        keys = jax.random.split(key, len(chosen.channels) + 1)
        if min(rows, columns) < 2 ** len(chosen.channels):
            raise SpaceError(
                f"a {rows} x {columns} image is too small for {len(chosen.channels)} blocks that halve it; give fewer "
                f"encoder.channels, or use encoder=grid for boards"
            )
        blocks, inputs = [], channels * stack
        for out, block_key in zip(chosen.channels, keys[1:], strict=True):
            blocks.append(Block(inputs, out * chosen.scale, chosen.spectral_norm, chosen.norm, key=block_key))
            rows, columns, inputs = -(-rows // 2), -(-columns // 2), out * chosen.scale
        rows, columns = (min(side, POOL) if chosen.pool else side for side in (rows, columns))
        self.blocks, self.pool = tuple(blocks), chosen.pool
        self.dense, self.width = Linear(prod((rows, columns, inputs)), chosen.width, key=keys[0]), chosen.width
        assert isinstance(space, spaces.Box)  # image_shape saw to it
        self.space, self.norm = space, chosen.norm

    def __call__(self, observation: PyTree) -> Encoding:
        x = frames_as_channels(scaled(self.space, observation), channels_first(self.space))
        for block in self.blocks:
            x = block(x)
        x = rectified(x, self.norm)
        x = adaptive(x, POOL) if self.pool else x
        x = self.dense(x.reshape(-1))
        return Encoding(jax.nn.relu(normalised(x) if self.norm else x), no_attention())


def padded(x: Float[Array, "rows columns channels"]) -> Float[Array, "more wider channels"]:
    """A border of one pixel of zeros, so that a 3 x 3 convolution keeps the size."""
    return jnp.pad(x, ((1, 1), (1, 1), (0, 0)))


def pooled(x: Float[Array, "rows columns channels"]) -> Float[Array, "halfrows halfcolumns channels"]:
    """The greatest of each 3 x 3 pixels, every second row and column: max-pooling with a border ("SAME").

    As a maximum of nine slices: `reduce_window` and its gradient are slow on CPU.
    """
    rows, columns = (-(-side // 2) for side in x.shape[:2])
    # One pixel before, and as many after as the last window needs.
    after = [2 * half + 1 - side - 1 for half, side in zip((rows, columns), x.shape[:2], strict=True)]
    x = jnp.pad(x, ((1, after[0]), (1, after[1]), (0, 0)), constant_values=-jnp.inf)
    parts = [x[i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2] for i in range(3) for j in range(3)]
    greatest = parts[0]
    for part in parts[1:]:
        greatest = jnp.maximum(greatest, part)
    return greatest


def adaptive(x: Float[Array, "rows columns channels"], size: int) -> Float[Array, "smallrows smallcolumns channels"]:
    """The greatest in each cell of a `size` x `size` grid over the image; an axis that is not longer stays."""
    for axis in (0, 1):
        side = x.shape[axis]
        if side > size:
            edges = [(side * cell // size, -(-side * (cell + 1) // size)) for cell in range(size)]
            cells = [jax.lax.slice_in_dim(x, begin, end, axis=axis).max(axis) for begin, end in edges]
            x = jnp.stack(cells, axis)
    return x
