"""Anything as one vector: numbers as they are, categories one-hot, then an MLP."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from engram import spaces
from engram.errors import SpecError
from engram.nn.layers import MLP
from engram.nn.observation import flatten
from engram.ranges import OneOf
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Encoding, Key


@register("encoder", "vector")
@spec
class VectorSpec:
    """Flattens every part of the observation into one vector; takes every space."""

    widths: tuple[int, ...] = setting(
        (128, 128), "units of each hidden layer", low=1, search=OneOf((64, 64), (128, 128), (256, 256), (256, 256, 256))
    )
    norm: bool = setting(False, "normalise each hidden layer before its ReLU")

    def check(self) -> None:
        if not self.widths:
            raise SpecError("encoder.widths is empty; give the units of at least one hidden layer, such as 128,128")

    def build(self, space: spaces.Space, stack: int, key: Key) -> "VectorEncoder":
        return VectorEncoder(MLP(stack * spaces.features(space), self.widths, norm=self.norm, key=key), space)


class VectorEncoder(eqx.Module):
    """Stacked observation -> flattened -> MLP."""

    mlp: MLP
    space: spaces.Space = eqx.field(static=True)

    @property
    def width(self) -> int:
        """Length of the embedding."""
        return self.mlp.layers[-1].weight.shape[0]

    def __call__(self, observation: PyTree) -> Encoding:
        flat = jax.vmap(lambda frame: flatten(self.space, frame))(observation)
        return Encoding(self.mlp(flat.reshape(-1)), no_attention())


def no_attention() -> Array:
    """The attention of an encoder that has none: no heads, no parts."""
    return jnp.zeros((0, 0))
