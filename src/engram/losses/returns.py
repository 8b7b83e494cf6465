"""Returns: what a window of rewards is worth before the bootstrap."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


class NStep(NamedTuple):
    """The known part of an n-step return, and where and how strongly to bootstrap."""

    reward: Float[Array, "*lanes"]  # sum of discounted rewards up to the bootstrap, in units of reward
    discount: Float[Array, "*lanes"]  # factor of the bootstrapped value: 0 after a termination
    offset: Int[Array, "*lanes"]  # rows from the start of the window to the row to bootstrap from, 1..n


def n_step(
    reward: Float[Array, "n *lanes"],
    terminated: Bool[Array, "n *lanes"],
    next_is_first: Bool[Array, "n *lanes"],
    powers: Float[Array, "n_1"],
) -> NStep:
    """The n-step return of the first of n successive rows, in each lane.

        G = sum_{k < m} gamma^k r_k,     bootstrap gamma^m * (0 if terminated else 1) at row m

    where m is n, or less if the episode ends sooner: m is then its final row, so that a time limit bootstraps
    from the last observation and a termination does not bootstrap at all.

    Args:
      reward, terminated: of rows 0..n-1. Row 0 is not a final row.
      next_is_first: whether rows 1..n open an episode; row k is final iff next_is_first[k].
      powers: gamma^0 to gamma^n; see `discounts`.

    Source: Sutton & Barto 2018, eq. 7.1; Pardo et al. 2018 (arXiv 1712.00378) for time limits.
    """
    over_lanes = (-1, *[1] * (reward.ndim - 1))
    final = next_is_first & (jnp.arange(len(reward)) > 0).reshape(over_lanes)
    # A row counts while no earlier row of the window ended the episode and it is not the final row itself.
    ended_before = jnp.cumsum(jnp.concatenate([jnp.zeros_like(final[:1]), terminated[:-1]]) | final, axis=0) > 0
    inside = ~ended_before
    offset = inside.sum(0)
    ends = (inside & terminated).any(0)
    known = jnp.where(inside, powers[:-1].reshape(over_lanes) * reward, 0.0).sum(0)
    # One of a few constants, chosen by comparisons: these fuse with what is around them, a gather or a sum does not.
    factor = jnp.broadcast_to(powers[-1], offset.shape)
    for rows in range(1, len(powers) - 1):
        factor = jnp.where(offset == rows, powers[rows], factor)
    return NStep(known, jnp.where(ends, 0.0, factor), offset)


def discounts(discount: float, n: int) -> Float[Array, "n_1"]:
    """gamma^0 to gamma^n in float32, as constants: a program that computes them rounds as it happens to be fused."""
    with jax.ensure_compile_time_eval():
        return jax.lax.pow(np.full(n + 1, discount, np.float32), np.arange(n + 1, dtype=np.int32))


def clipped(reward: Float[Array, "*rows"], bound: float) -> Float[Array, "*rows"]:
    """Rewards within +-bound; as they are where the bound is 0. Source: Mnih et al. 2015, with a bound of 1."""
    return reward.clip(-bound, bound) if bound else reward
