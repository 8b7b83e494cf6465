"""Running statistics of what an agent meets: how its observations and rewards are scaled.

They change in one place, `updated`, which `observe` calls. They apply in two: `Network.seen` for observations and
`as_learned` for rewards. So acting, learning, evaluating and predicting all see through the same ones.
"""

from dataclasses import replace
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from engram import spaces
from engram.agents.mind import MindSpec
from engram.agents.sight import Sight
from engram.losses.returns import clipped, squashed, stretched
from engram.nn.running import BOUND, Running
from engram.types import TimeStep

EPSILON = 1e-8  # added to the variance of the return, as in Stable-Baselines3's VecNormalize


class Scales(NamedTuple):
    """What a mind scales by."""

    observation: tuple[Running, ...] | None  # of each part that holds numbers; None where they are not normalised
    reward: Running | None  # of the discounted return; None where rewards are not normalised


class Statistics(eqx.Module):
    """What an agent keeps of its statistics.

    The return of a step is known when its episode has ended. The discounted sum of the rewards up to a step stands for
    it. The two are equally large where rewards are alike; where they change sign, the sum may miss the extremes.
    """

    scales: Scales
    returns: Float[Array, "*seeds envs"] | None  # discounted sum of each running episode's rewards so far
    extremes: Float[Array, "*seeds two"] | None = None  # the least and the greatest of them, where heads have limits


def begin(spec: MindSpec, sight: Sight | None, envs: int) -> Statistics | None:
    """Nothing met yet; None for an agent that keeps no statistics."""
    if not spec.keeps_statistics:
        return None
    seen = sight.empty() if sight is not None and spec.observation.normalize else None
    scaled, limited = spec.reward.normalize, spec.limits is not None
    returns = jnp.zeros(envs) if scaled or limited else None
    return Statistics(Scales(seen, Running.empty() if scaled else None), returns, jnp.zeros(2) if limited else None)


def updated(
    spec: MindSpec,
    sight: Sight | None,
    space: spaces.Space,
    old: Statistics | None,
    rows: tuple[TimeStep, Bool[Array, "rows envs"]],
    steps: tuple[TimeStep, Bool[Array, "time envs"]],
) -> Statistics | None:
    """The statistics after these steps. Observations count in all rows, final ones too; rewards in the steps.

    `rows` and `steps` are each given with which of them are kept.
    """
    if old is None:
        return None
    (row, written), (step, kept) = rows, steps
    seen, reward, returns, extremes = old.scales.observation, old.scales.reward, old.returns, old.extremes
    if seen is not None and sight is not None:
        seen = sight.counted(seen, spaces.seen_of(space, row.observation), written)
    if returns is not None:
        step = replace(step, reward=clipped(step.reward, spec.reward_clip))
        returns, found = _discounted(spec.discount, returns, step, kept)
        reward = None if reward is None else reward.updated(found, kept)
        if extremes is not None:
            met = jnp.where(kept, found, 0.0)
            extremes = jnp.stack([jnp.minimum(extremes[0], met.min()), jnp.maximum(extremes[1], met.max())])
    return Statistics(Scales(seen, reward), returns, extremes)


def _discounted(
    discount: float, returns: Float[Array, "envs"], steps: TimeStep, keep: Bool[Array, "time envs"]
) -> tuple[Float[Array, "envs"], Float[Array, "time envs"]]:
    """The discounted sum of each running episode's rewards, after the steps and at each of them.

    Where sides take turns it is as whoever moves sees it, and after a step as whoever moves next does.
    """

    def one(total: Array, step: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        is_first, reward, kept = step
        total = jnp.where(kept, jnp.where(is_first, 0.0, discount * total) + reward, total)
        return total, total

    def turned(total: Array, step: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        *rest, sign = step
        now, found = one(total, (rest[0], rest[1], rest[2]))
        return jnp.where(rest[2], sign * now, now), found

    rows = steps.is_first, steps.reward, keep
    if steps.sign is None:
        return jax.lax.scan(one, returns, rows)
    return jax.lax.scan(turned, returns, (*rows, steps.sign))


def as_learned(spec: MindSpec, scales: Scales | None, reward: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """Rewards as an agent learns from them.

        reward / sqrt(variance of the discounted return + 1e-8), within +-10

    where they are normalised; else within `reward_clip`, or as they are.

    Source: `VecNormalize` of Stable-Baselines3, which also clips at 10; Engstrom et al. 2020 (arXiv 2005.12729),
    section 3, on why PPO needs it.
    """
    factor = unit(scales)
    return clipped(reward, spec.reward_clip) if factor is None else (reward * factor).clip(-BOUND, BOUND)


def unit(scales: Scales | None) -> Float[Array, ""] | None:
    """What a reward is multiplied by, and so a return in units of reward; None where rewards are not normalised."""
    return None if scales is None or scales.reward is None else jax.lax.rsqrt(scales.reward.variance + EPSILON)


def unscaled(scales: Scales | None, value: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """A reward, or a sum of them, in the environment's units: these do not change with the statistics."""
    factor = unit(scales)
    return value if factor is None else value / factor


def scaled(scales: Scales | None, value: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """The inverse of `unscaled`."""
    factor = unit(scales)
    return value if factor is None else value * factor


def in_reward(spec: MindSpec, scales: Scales | None, value: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """A return as the network says it, in units of reward."""
    return unscaled(scales, stretched(value) if spec.reward.rescale else value)


def in_network(spec: MindSpec, scales: Scales | None, value: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """The inverse of `in_reward`."""
    value = scaled(scales, value)
    return squashed(value) if spec.reward.rescale else value


def beyond(spec: MindSpec, statistics: Statistics | None) -> str | None:
    """A sentence where discounted sums of rewards lie outside of the returns that the head can predict; or None.

    Of rewards that are normalised nothing is said: their size changes. `statistics` may have a leading axis [seeds].
    """
    if spec.limits is None or spec.reward.normalize or statistics is None or statistics.extremes is None:
        return None
    extremes = np.asarray(statistics.extremes, np.float64).reshape(-1, 2)
    found = np.array([extremes[:, 0].min(), extremes[:, 1].max()])
    low, high = spec.limits
    told = np.asarray(squashed(jnp.asarray(found, jnp.float32))) if spec.reward.rescale else found
    if low <= told[0] and told[1] <= high:
        return None
    worst = found[0] if low > told[0] and low - told[0] >= told[1] - high else found[1]
    rescaled = f" ({told[list(found).index(worst)]:.4g} as rescaled)" if spec.reward.rescale else ""
    return (
        f"returns up to {worst:.4g}{rescaled} lie outside of [{low:g}, {high:g}] and are learned as the nearest end; "
        f"start again with head.returns.low and head.returns.high around them, or with quantiles "
        f"(head.returns=quantile loss=quantile-huber)"
    )
