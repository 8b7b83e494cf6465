"""An encoder made of Equinox's own modules."""

import equinox as eqx
import jax
import jax.numpy as jnp

from engram import Encoding, register, setting, spaces, spec


@register("encoder", "mine-encoder")
@spec
class MineEncoderSpec:
    """An MLP of `eqx.nn` with dropout that is switched off."""

    size: int = setting(16, "units of each layer", low=1)

    def build(self, space, stack, key):
        return MineEncoder(stack * spaces.features(space), self.size, key)


class MineEncoder(eqx.Module):
    mlp: eqx.nn.MLP
    drop: eqx.nn.Dropout
    order: jax.Array  # of the features: integers, which are not learned
    width: int = eqx.field(static=True)

    def __init__(self, features, size, key):
        self.mlp = eqx.nn.MLP(features, size, size, 1, activation=lambda x: jnp.tanh(x), key=key)
        self.drop = eqx.nn.Dropout(0.1, inference=True)
        self.order = jnp.arange(features)[::-1]
        self.width = size

    def __call__(self, frames):
        flat = jnp.ravel(frames)[self.order]
        return Encoding(self.drop(self.mlp(flat)), attention=jnp.zeros((0, 0)))
