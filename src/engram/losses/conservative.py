"""The conservative term, which holds Q of what nobody tried below Q of what was done."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def conservative(
    q: Float[Array, "actions"], allowed: Bool[Array, "actions"] | None, action: Int[Array, ""], temperature: float
) -> Float[Array, ""]:
    """How far the soft maximum of Q is above Q of the action that was taken; its gradient pulls the two together.

        R = T log sum_a exp(Q(s, a) / T) - Q(s, a_taken),     dR/dQ = softmax(Q / T) - 1[a = a_taken]

    The sum is over the actions that are `allowed`, None for all, and the one that was taken. R is T times the
    cross-entropy of that action under the policy softmax(Q / T). As T -> 0 it is max_a Q - Q(s, a_taken), the large
    margin without its margin. It is at least 0, in units of return as it is learned.

    Source: Kumar et al. 2020 (arXiv 2006.04779), eq. 4, CQL(H) with the policy's temperature written out; for tokens
    Snell et al. 2023 (arXiv 2206.11871), ILQL.
    """
    scores = q / temperature
    if allowed is not None:
        scores = jnp.where(allowed | (jnp.arange(len(q)) == action), scores, -jnp.inf)
    return temperature * jax.nn.logsumexp(scores) - q[action]
