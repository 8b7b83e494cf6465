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
    count: Int[Array, ""] | None = None,
    sign: Float[Array, "n *lanes"] | None = None,
) -> NStep:
    """The n-step return of the first of n successive rows, in each lane.

        G = sum_{k < m} gamma^k r_k,     bootstrap gamma^m * (0 if terminated else 1) at row m

    where m is n, or less if the episode ends sooner: m is then its final row, so that a time limit bootstraps
    from the last observation and a termination does not bootstrap at all.

    Where sides take turns, r_k and the bootstrap are those of whoever moves there. Each counts with the product of the
    signs of the rows before it, so the return is that of whoever moved first.

    Args:
      reward, terminated: of rows 0..n-1. Row 0 is not a final row.
      next_is_first: whether rows 1..n open an episode; row k is final iff next_is_first[k].
      powers: gamma^0 to gamma^n; see `discounts`.
      count: rewards that count, 1..n; None for all of them. So n may change within one program.
      sign: of rows 0..n-1, see `TimeStep`; None in tasks of one side.

    Source: Sutton & Barto 2018, eq. 7.1; Pardo et al. 2018 (arXiv 1712.00378) for time limits.
    """
    over_lanes = (-1, *[1] * (reward.ndim - 1))
    final = next_is_first & (jnp.arange(len(reward)) > 0).reshape(over_lanes)
    # A row counts while no earlier row of the window ended the episode and it is not the final row itself.
    ended_before = jnp.cumsum(jnp.concatenate([jnp.zeros_like(final[:1]), terminated[:-1]]) | final, axis=0) > 0
    inside = ~ended_before
    if count is not None:
        inside = inside & (jnp.arange(len(reward)) < count).reshape(over_lanes)
    offset = inside.sum(0)
    ends = (inside & terminated).any(0)
    side = None
    if sign is not None:
        side = jnp.concatenate([jnp.ones_like(sign[:1]), jnp.cumprod(sign, axis=0)])  # as rows 0..n see it
        reward = side[:-1] * reward
    known = jnp.where(inside, powers[:-1].reshape(over_lanes) * reward, 0.0).sum(0)
    # One of a few constants, chosen by comparisons: these fuse with what is around them, a gather or a sum does not.
    factor = jnp.broadcast_to(powers[-1], offset.shape)
    for rows in range(1, len(powers) - 1):
        factor = jnp.where(offset == rows, powers[rows], factor)
    if side is not None:
        factor = factor * jnp.take_along_axis(side, offset[None], axis=0)[0]
    return NStep(known, jnp.where(ends, 0.0, factor), offset)


def discounts(discount: float, n: int) -> Float[Array, "n_1"]:
    """gamma^0 to gamma^n in float32, as constants: a program that computes them rounds as it happens to be fused."""
    with jax.ensure_compile_time_eval():
        return jax.lax.pow(np.full(n + 1, discount, np.float32), np.arange(n + 1, dtype=np.int32))


def annealed(
    done: Float[Array, ""], first: tuple[int, float], last: tuple[int, float]
) -> tuple[Int[Array, ""], Float[Array, "n_1"]]:
    """n, and gamma^0 to gamma^N with N the larger n, when a share `done` of the way from first to last is covered.

    n and 1 - gamma change by the same factor with every update. Arguments `first` and `last` are (n, gamma).

    Source: Schwarzer et al. 2023 (arXiv 2305.19452), section 3: n from 10 to 3, gamma from 0.97 to 0.997.
    """
    (n_first, gamma_first), (n_last, gamma_last) = first, last
    # Logarithms of constants, taken in 64 bits; a gamma of 1 stands for one that float32 cannot tell from it.
    ratio = np.float32(np.log(n_last / n_first))
    missing = np.float32(max(1 - gamma_first, 2.0**-25))
    factor = np.float32(np.log(max(1 - gamma_last, 2.0**-25) / max(1 - gamma_first, 2.0**-25)))
    n = jnp.round(n_first * jnp.exp(ratio * done)).astype(jnp.int32)
    gamma = 1 - missing * jnp.exp(factor * done)
    powers = [jnp.ones(())]
    for _ in range(max(n_first, n_last)):
        powers.append(powers[-1] * gamma)
    return n, jnp.stack(powers)


SQUASH = 1e-3  # epsilon of `squashed`: how much of a return stays linear


def squashed(returns: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x, which brings returns of any size near to each other.

    Written as a quotient, since the difference loses what is small.

    Source: Pohlen et al. 2018 (arXiv 1805.11593), proposition A.2; Kapturowski et al. 2019, section 2.3.
    """
    return returns / (jnp.sqrt(jnp.abs(returns) + 1) + 1) + SQUASH * returns


def stretched(value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The inverse of `squashed`: sign(x) (((sqrt(1 + 4 e (|x| + 1 + e)) - 1) / (2 e))^2 - 1), e for epsilon.

    With s for the root, the bracket less 1 is exactly 2 |x| / (s + 1 + 2 e). As the source writes it, float32 loses
    all but four digits.
    """
    size = jnp.abs(value)
    root = jnp.sqrt(1 + 4 * SQUASH * (size + 1 + SQUASH))
    less = 2 * size / (root + 1 + 2 * SQUASH)
    return jnp.sign(value) * less * (less + 2)


def clipped(reward: Float[Array, "*rows"], bound: float) -> Float[Array, "*rows"]:
    """Rewards within +-bound; as they are where the bound is 0. Source: Mnih et al. 2015, with a bound of 1."""
    return reward.clip(-bound, bound) if bound else reward


# -- along a rollout -------------------------------------------------------------------------------------------------


def lambda_returns(
    reward: Float[Array, "time *lanes"],
    discount: Float[Array, "time *lanes"],
    following: Float[Array, "time *lanes"],
    ends: Bool[Array, "time *lanes"],
    trace: float,
) -> Float[Array, "time *lanes"]:
    """The lambda-return of every step.

        G_t = r_t + gamma_t ((1 - lambda) v_t+1 + lambda G_t+1),     G_t+1 = v_t+1 where step t ends

    With `trace` 1 it is the discounted sum of rewards up to the end and the bootstrap there, with 0 one step's.

    Args:
      reward: r_t.
      discount: gamma, and 0 where step t terminated the episode; -gamma where the other side moves next.
      following: v_t+1, the value of what step t led to, for whoever moves there; of a step that a time limit ended, of
        its final observation.
      ends: whether step t is the last of its episode or of the rollout, so that step t + 1 does not follow it.
      trace: lambda, 0 to 1.

    Source: Sutton & Barto 2018, eq. 12.18; with v = max_a Q it is Peng's Q(lambda), as in Gallici et al. 2024 (arXiv
    2407.04811), algorithm 1.
    """

    def one(after: Array, step: tuple[Array, ...]) -> tuple[Array, Array]:
        reward, discount, value, end = step
        mixed = jnp.where(end, value, (1 - trace) * value + trace * after)
        now = reward + discount * mixed
        return now, now

    return jax.lax.scan(one, following[-1], (reward, discount, following, ends), reverse=True)[1]


def advantages(
    reward: Float[Array, "time *lanes"],
    discount: Float[Array, "time *lanes"],
    value: Float[Array, "time *lanes"],
    following: Float[Array, "time *lanes"],
    ends: Bool[Array, "time *lanes"],
    trace: float,
) -> Float[Array, "time *lanes"]:
    """Generalised advantage estimates: sum_k (gamma lambda)^k delta_t+k with delta = r + gamma v' - v.

    That is the lambda-return less the value. Arguments as in `lambda_returns`; `value` is v_t.

    Source: Schulman et al. 2016 (arXiv 1506.02438), eq. 16.
    """
    return lambda_returns(reward, discount, following, ends, trace) - value
