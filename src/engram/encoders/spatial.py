"""Images with attention over places: a few learned queries over the convolutions' grid, or all cells to each other."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from engram import spaces
from engram.encoders.parts import Parts
from engram.encoders.pixels import GRID, NATURE, build_convolutions, convolved, convolved_parts
from engram.encoders.tokens import MOST_TOKENS
from engram.errors import SpaceError
from engram.nn.attention import AttentionPooling, SelfAttention, check_heads, received
from engram.nn.convolution import Convolution
from engram.nn.layers import MLP, Linear, normalised
from engram.ranges import OneOf
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Encoding, Key

TRUNKS = {"nature": NATURE, "grid": GRID}
WAVES = 4  # of the positional basis, along each side: enough to tell the places of a 7 x 7 grid apart


@register("encoder", "spatial")
@spec
class SpatialSpec:
    """Convolutions, then a few learned queries over rows x columns: what each sees, and where, makes the embedding."""

    trunk: Literal["nature", "grid"] = setting("nature", "the convolutions: nature for images, grid for small boards")
    heads: int = setting(4, "learned queries", low=1)
    width: int = setting(128, "units of the layer after the attention", low=1, search=OneOf(128, 256, 512))
    uniform: bool = setting(False, "control: all places weigh the same")

    layout = "channels"

    def build(self, space: spaces.Space, stack: int, key: Key) -> "SpatialEncoder":
        return SpatialEncoder(space, stack, self, key=key)

    def parts(self, space: spaces.Space, stack: int) -> Parts:
        """The cells, as places of the picture."""
        return convolved_parts(space, stack, TRUNKS[self.trunk], attended=True)


@register("encoder", "relational")
@spec
class RelationalSpec:
    """Convolutions, then self-attention among the cells of their grid, then the largest of each feature."""

    trunk: Literal["nature", "grid"] = setting("nature", "the convolutions: nature for images, grid for small boards")
    token_width: int = setting(64, "length of a cell's embedding", low=1)
    layers: int = setting(1, "blocks of self-attention", low=1)
    heads: int = setting(4, "attention heads; they must divide token_width", low=1)
    width: int = setting(128, "units of the layer after the attention", low=1, search=OneOf(128, 256, 512))
    uniform: bool = setting(False, "control: all cells weigh the same")

    layout = "channels"

    def check(self) -> None:
        check_heads(self.heads, self.token_width, ("encoder.heads", "encoder.token_width"))

    def build(self, space: spaces.Space, stack: int, key: Key) -> "RelationalEncoder":
        return RelationalEncoder(space, stack, self, key=key)

    def parts(self, space: spaces.Space, stack: int) -> Parts:
        """The cells, as places of the picture."""
        return convolved_parts(space, stack, TRUNKS[self.trunk], attended=True)


class Trunk(eqx.Module):
    """An image through convolutions, as a list of cells."""

    convolutions: tuple[Convolution, ...]
    rows: int = eqx.field(static=True)
    columns: int = eqx.field(static=True)
    space: spaces.Box = eqx.field(static=True)

    def __init__(self, space: spaces.Space, stack: int, name: str, *, key: Key):
        """Raises SpaceError for what is no image, for one too small for the convolutions, and for too many cells."""
        layers = TRUNKS[name]
        keys = jax.random.split(key, len(layers))
        way_out = "use encoder.trunk=grid for boards, or encoder=features"
        self.convolutions, (self.rows, self.columns, _) = build_convolutions(space, stack, layers, keys, way_out)
        if self.rows * self.columns > MOST_TOKENS:
            raise SpaceError(
                f"{space} leaves {self.rows} x {self.columns} places to attend over, more than {MOST_TOKENS}; "
                f"use encoder.trunk=nature, or make the images smaller"
            )
        assert isinstance(space, spaces.Box)  # image_shape saw to it
        self.space = space

    @property
    def channels(self) -> int:
        """Features of a cell."""
        return self.convolutions[-1].weight.shape[0]

    def __call__(self, observation: PyTree) -> Float[Array, "cells channels"]:
        image = convolved(self.convolutions, observation, self.space)
        return image.reshape(self.rows * self.columns, -1)


class SpatialEncoder(eqx.Module):
    """Learned queries over the cells of a grid. Parts are the cells, row by row.

    A cell is what the convolutions see there and a fixed basis of its position, without which an average over cells
    would not tell where. Source: Mott et al. 2019 (arXiv 1906.02500), with queries that are the same in every state.
    """

    trunk: Trunk
    pooling: AttentionPooling
    dense: MLP
    width: int = eqx.field(static=True)

    def __init__(self, space: spaces.Space, stack: int, chosen: SpatialSpec, *, key: Key):
        trunk_key, pooling_key, dense_key = jax.random.split(key, 3)
        self.trunk = Trunk(space, stack, chosen.trunk, key=trunk_key)
        width = self.trunk.channels + WAVES**2
        self.pooling = AttentionPooling(width, chosen.heads, uniform=chosen.uniform, key=pooling_key)
        self.dense = MLP(chosen.heads * width, (chosen.width,), norm=True, key=dense_key)
        self.width = chosen.width

    def __call__(self, observation: PyTree) -> Encoding:
        cells = self.trunk(observation)
        basis = positions(self.trunk.rows, self.trunk.columns)
        keys = jnp.concatenate([jax.vmap(normalised)(cells), basis], axis=1)
        read, weights = self.pooling(keys, jnp.concatenate([cells, basis], axis=1))
        return Encoding(self.dense(read.reshape(-1)), weights)


class RelationalEncoder(eqx.Module):
    """Cells of a grid, with their coordinates, that read each other. Parts are the cells, row by row.

    `Encoding.attention` is how much each cell was read, averaged over its readers; the heads of the last block are
    last. Source: Zambaldi et al. 2018 (arXiv 1806.01830), section 2.2, with pre-norm blocks that do not share weights.
    """

    trunk: Trunk
    embed: Linear
    blocks: tuple[SelfAttention, ...]
    dense: MLP
    width: int = eqx.field(static=True)

    def __init__(self, space: spaces.Space, stack: int, chosen: RelationalSpec, *, key: Key):
        keys = jax.random.split(key, 3 + chosen.layers)
        width, heads = chosen.token_width, chosen.heads
        self.trunk = Trunk(space, stack, chosen.trunk, key=keys[0])
        self.embed = Linear(self.trunk.channels + 2, width, key=keys[1])
        self.dense = MLP(width, (chosen.width,), norm=True, key=keys[2])
        self.blocks = tuple(SelfAttention(width, heads, uniform=chosen.uniform, key=key) for key in keys[3:])
        self.width = chosen.width

    def __call__(self, observation: PyTree) -> Encoding:
        cells = self.trunk(observation)
        places = coordinates(self.trunk.rows, self.trunk.columns)
        tokens = jax.vmap(self.embed)(jnp.concatenate([cells, places], axis=1))
        attention = []
        for block in self.blocks:
            tokens, weights = block(tokens)
            attention.append(received(weights))
        return Encoding(self.dense(tokens.max(0)), jnp.concatenate(attention))


def positions(rows: int, columns: int) -> Float[Array, "cells basis"]:
    """Smooth functions of a cell's place: cos(pi u (row + 1/2) / rows) cos(pi v (column + 1/2) / columns), u, v < 4."""

    def waves(length: int) -> np.ndarray:
        return np.cos(np.pi * np.outer((np.arange(length) + 0.5) / length, np.arange(WAVES)))

    basis = waves(rows)[:, None, :, None] * waves(columns)[None, :, None, :]
    return jnp.asarray(basis.reshape(rows * columns, -1), jnp.float32)


def coordinates(rows: int, columns: int) -> Float[Array, "cells 2"]:
    """Row and column of each cell, from -1 to 1 (0 where there is only one)."""
    sides = [np.linspace(-1, 1, length) if length > 1 else np.zeros(1) for length in (rows, columns)]
    grid = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1)
    return jnp.asarray(grid.reshape(rows * columns, 2), jnp.float32)
