"""Losses of a policy: of one step each, from the logarithms of its probabilities."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def clipped_surrogate(
    log_probability: Float[Array, "*batch"],
    behaviour: Float[Array, "*batch"],
    advantage: Float[Array, "*batch"],
    width: float,
) -> Float[Array, "*batch"]:
    """-min(ratio A, clip(ratio, 1 - width, 1 + width) A), ratio = exp(log pi(a) - log of what acted).

    At a ratio of 1 its gradient is that of -A log pi(a), the policy gradient.

    Source: Schulman et al. 2017 (arXiv 1707.06347), eq. 7.
    """
    ratio = jnp.exp(log_probability - behaviour)
    return -jnp.minimum(ratio * advantage, ratio.clip(1 - width, 1 + width) * advantage)


def entropy(log_probabilities: Float[Array, "*batch actions"]) -> Float[Array, "*batch"]:
    """-sum_a p(a) log p(a) in nats; an action of probability 0 adds nothing. Uniform over n: log n."""
    possible = ~jnp.isneginf(log_probabilities)
    logs = jnp.where(possible, log_probabilities, 0.0)  # not behind the product: 0 times infinity has no gradient
    return -jnp.where(possible, jnp.exp(logs) * logs, 0.0).sum(-1)


def standardized(advantage: Float[Array, "batch"], weight: Float[Array, "batch"]) -> Float[Array, "batch"]:
    """(A - mean) / (deviation + 1e-8) over those of weight 1.

    Source: Schulman et al.'s code of PPO, as Huang et al. 2022 ("The 37 implementation details of PPO", 7) tell.
    """
    count = jnp.maximum(weight.sum(), 1.0)
    mean = (weight * advantage).sum() / count
    deviation = jnp.sqrt((weight * (advantage - mean) ** 2).sum() / count)
    return (advantage - mean) / (deviation + 1e-8)


# -- of every action's Q, as in soft actor-critic --------------------------------------------------------------------


def soft_improvement(
    log_probabilities: Float[Array, "*batch actions"],
    q: Float[Array, "*batch actions"],
    temperature: Float[Array, ""] | float,
) -> Float[Array, "*batch"]:
    """sum_a pi(a) [temperature log pi(a) - Q(a)], with Q a constant. It is least for pi = softmax(Q / temperature).

    The sum runs over all actions, so that nothing is drawn; one of probability 0 adds nothing.

    Source: Christodoulou 2019 (arXiv 1910.07207), eq. 12.
    """
    worth = (jnp.exp(log_probabilities) * jax.lax.stop_gradient(q)).sum(-1)
    return -temperature * entropy(log_probabilities) - worth


def temperature_loss(
    log_temperature: Float[Array, ""], spread: Float[Array, "*batch"], wanted: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """log(temperature) (entropy - wanted entropy): a step along its gradient lowers the temperature of a policy with
    more entropy than is wanted.

    Source: Haarnoja et al. 2018 (arXiv 1812.05905), eq. 18, with log(temperature) in place of the temperature as in
    their code: a step then changes it by a factor.
    """
    return log_temperature * jax.lax.stop_gradient(spread - wanted)
