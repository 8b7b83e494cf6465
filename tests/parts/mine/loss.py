"""A loss that compares every atom with the mean of the target."""

import jax
import jax.numpy as jnp

from engram import register, spec


@register("loss", "mine-loss")
@spec
class MineLossSpec:
    """log cosh of the error, averaged over the predicted atoms."""

    fits = ("number",)

    def __call__(self, predicted, target):
        error = predicted.atoms - jax.lax.stop_gradient(target.mean)
        return (predicted.probabilities * (jnp.logaddexp(error, -error) - jnp.log(2.0))).sum()
