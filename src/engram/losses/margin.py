"""The large-margin loss, which draws a network towards the actions that somebody else took."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def large_margin(
    q: Float[Array, "actions"], allowed: Bool[Array, "actions"] | None, action: Int[Array, ""], margin: float
) -> Float[Array, ""]:
    """How far the action that was demonstrated is from being the best by a margin; 0 where it is.

        J_E = max_a [Q(s, a) + l(a_E, a)] - Q(s, a_E),     l = 0 where a = a_E, else the margin

    Q is the mean of each action's return. The maximum is over the actions that are `allowed`, None for all, and the
    demonstrated one.

    Source: Hester et al. 2018 (arXiv 1704.03732), section 4; Piot et al. 2014.
    """
    same = jnp.arange(len(q)) == action
    may = same if allowed is None else same | allowed
    raised = jnp.where(same, q, q + margin)
    return (raised if allowed is None else jnp.where(may, raised, -jnp.inf)).max() - q[action]
