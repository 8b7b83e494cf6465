"""A bootstrap: the memory's word where it is the better one, and the network's elsewhere."""

import jax
import jax.numpy as jnp

from engram import Distribution, register, spec


@register("bootstrap", "mine-bootstrap")
@spec
class MineBootstrapSpec:
    """max over the allowed actions of max(Q, share * memory + (1 - share) * Q)."""

    asks = "memory"

    def __call__(self, step, following):
        own = following.returns.q
        told = (1 - following.share) * own + following.share * following.memory
        best = jnp.where(jnp.isneginf(following.selector), -jnp.inf, jnp.maximum(own, told)).max()
        return jax.lax.stop_gradient(Distribution((step.reward + step.discount * best)[None], jnp.ones(1)))
