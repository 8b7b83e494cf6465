"""Returns: what a window of rewards is worth before the bootstrap."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class NStep(NamedTuple):
    """The known part of an n-step return, and where and how strongly to bootstrap."""

    reward: Float[Array, ""]  # sum of discounted rewards up to the bootstrap, in units of reward
    discount: Float[Array, ""]  # factor of the bootstrapped value: 0 after a termination
    offset: Int[Array, ""]  # rows from the start of the window to the row to bootstrap from, 1..n


def n_step(
    reward: Float[Array, "n"],
    terminated: Bool[Array, "n"],
    next_is_first: Bool[Array, "n"],
    discount: Float[Array, ""] | float,
) -> NStep:
    """The n-step return of the first of n successive rows.

        G = sum_{k < m} gamma^k r_k,     bootstrap gamma^m * (0 if terminated else 1) at row m

    where m is n, or less if the episode ends sooner: m is then its final row, so that a time limit bootstraps
    from the last observation and a termination does not bootstrap at all.

    Args:
      reward, terminated: of rows 0..n-1. Row 0 is not a final row.
      next_is_first: whether rows 1..n open an episode; row k is final iff next_is_first[k].
      discount: gamma, in [0, 1].

    Source: Sutton & Barto 2018, eq. 7.1; Pardo et al. 2018 (arXiv 1712.00378) for time limits.
    """
    n = reward.shape[0]
    steps = jnp.arange(n)
    final = next_is_first & (steps > 0)
    # A row counts while no earlier row of the window ended the episode and it is not the final row itself.
    ended_before = jnp.cumsum(jnp.concatenate([jnp.zeros(1, bool), terminated[:-1]]) | final) > 0
    inside = ~ended_before
    powers = jnp.asarray(discount, jnp.float32) ** steps
    offset = inside.sum()
    ends = (inside & terminated).any()
    known = jnp.where(inside, powers * reward, 0.0).sum()
    return NStep(known, jnp.where(ends, 0.0, jnp.asarray(discount, jnp.float32) ** offset), offset)
