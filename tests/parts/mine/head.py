"""A head with noise of its own, as its `words` say."""

import equinox as eqx
import jax.numpy as jnp

from engram import Returns, register, setting, spec
from engram.bits import uniform


@register("head", "mine-head")
@spec
class MineHeadSpec:
    """Two atoms of equal chance for each action, moved by noise."""

    noise: float = setting(0.1, "width of the noise, in units of return", low=0)

    reads_offered = False
    predicts = "number"

    def build(self, width, actions, key, offered=0):
        return MineHead(eqx.nn.MLP(width, 2 * actions, 8, 1, key=key), self.noise)


class MineHead(eqx.Module):
    mlp: eqx.nn.MLP
    noise: float

    words = 1

    def __call__(self, embedding, offered=None, allowed=None, bits=None):
        atoms = self.mlp(embedding).reshape(-1, 2) + self.noise * (uniform(bits[0]) - 0.5)
        return Returns(atoms, jnp.zeros_like(atoms), attention=jnp.zeros((0, len(atoms))))
