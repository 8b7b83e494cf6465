"""Bootstraps: what the next observation is worth, as a distribution of the return.

A rule looks at what is known of the next observation (`Following`) and gives a distribution; `target` adds the rewards
on the way there. A scalar Q is one atom of probability 1, so the same rules serve every head. Three of them are the
readings of sum_i w_i Q(s', a') in the article's update of Q; `literal` is that sum as it stands.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from engram.losses.returns import NStep
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Returns


class Distribution(NamedTuple):
    """A discrete distribution of one action's return."""

    atoms: Float[Array, "atoms"]  # in units of return
    probabilities: Float[Array, "atoms"]  # sum to 1


class Following(NamedTuple):
    """What is known of the observation to bootstrap from."""

    returns: Returns  # the target network's
    selector: Float[Array, "actions"]  # the Q that picks the action; minus infinity where that is forbidden
    q: Float[Array, "actions"]  # what an external memory says
    share: Float[Array, "actions"]  # how much of the estimate is left to it, 0 to 1: 0 where it knows nothing


def greedy(following: Returns) -> Distribution:
    """The return of the action with the highest mean: max_a Q(s', a).

    Source: Mnih et al. 2015 (Nature 518), algorithm 1.
    """
    return double(following, following.q)


def double(following: Returns, selector: Float[Array, "actions"]) -> Distribution:
    """The target network's return of the action that another Q prefers: Q_target(s', argmax_a Q(s', a)).

    Source: van Hasselt et al. 2016 (arXiv 1509.06461), eq. 4.
    """
    action = selector.argmax()
    return Distribution(following.atoms[action], following.probabilities[action])


def blend(
    returns: Float[Array, "*shape"], memory: Float[Array, "*#shape"], share: Float[Array, "*#shape"]
) -> Float[Array, "*shape"]:
    """(1 - share) * returns + share * memory: exactly the returns where the share is 0, whatever the memory holds."""
    return jnp.where(share > 0, (1 - share) * returns + share * memory, returns)


def remembered(following: Following) -> Distribution:
    """Reading 1: max_a' of (1 - c) Q_target(s', a') + c sum_i w_i v_i, over the entries i similar to (s', a').

    `following.q` is the attention-weighted sum, `following.share` is c. Where c is 0 this is `double`.
    """
    selector = blend(following.selector, following.q, jnp.where(jnp.isneginf(following.selector), 0, following.share))
    action = selector.argmax()
    atoms = blend(following.returns.atoms[action], following.q[action], following.share[action])
    return Distribution(atoms, following.returns.probabilities[action])


def weighted(following: Returns, selector: Float[Array, "actions"], temperature: float) -> Distribution:
    """Reading 2: sum_a' w_a' Z(s', a') with w = softmax(selector / temperature), as one mixture.

    A temperature near 0 gives the greedy action, a high one the mean of the allowed actions. For a fixed temperature it
    is no contraction in general; `mellowmax` is. Source: Pan et al. 2019 (arXiv 1903.05926), eq. 3.
    """
    weights = jax.nn.softmax(selector / temperature)
    return Distribution(following.atoms.reshape(-1), (weights[:, None] * following.probabilities).reshape(-1))


def mellowmax(q: Float[Array, "actions"], selector: Float[Array, "actions"], temperature: float) -> Distribution:
    """temperature * log of the mean of exp(Q / temperature) over the allowed actions: always a non-expansion.

    Source: Asadi & Littman 2017 (arXiv 1612.05628), eq. 1, whose omega is 1 / temperature.
    """
    allowed = ~jnp.isneginf(selector)
    scores = jnp.where(allowed, q, -jnp.inf) / temperature
    value = temperature * (jax.nn.logsumexp(scores) - jnp.log(allowed.sum()))
    return Distribution(value[None], jnp.ones(1))


def from_successors(
    weights: Float[Array, "entries"],
    reward: Float[Array, "entries"],
    discount: Float[Array, "entries"],
    value: Float[Array, "entries"],
    plain: Float[Array, ""],
) -> Float[Array, ""]:
    """Reading 3, a whole target: sum_i w_i [r_i + gamma_i max Q(s'_i, .)] over what followed similar (s, a).

    Args:
      weights: of the entries similar to (s, a); they sum to 1, or to 0 where none is known: then the target is `plain`.
      reward, discount: the n-step rewards of each entry, and the factor of what followed (0 at an end).
      value: max_a' Q(s'_i, a') of each entry's successor.

    Unbiased as the similar become the same, also where successors are random. Source: Ormoneit & Sen 2002, eq. 5.
    """
    return jnp.where(weights.sum() > 0, (weights * (reward + discount * value)).sum(), plain)


def literal(step: NStep, following: Float[Array, "actions"], weights: Float[Array, "entries"]) -> Float[Array, ""]:
    """The article's sum as it stands: r + gamma sum_i w_i max_a' Q(s', a').

    Nothing but w_i depends on i: with weights that sum to 1 this is plain Q-learning, and with none it is as well.
    """
    total = jnp.where(weights.sum() > 0, weights.sum(), 1.0)
    return step.reward + step.discount * total * following.max()


def target(step: NStep, following: Distribution) -> Distribution:
    """r + gamma * Z': the n-step target, a constant for the gradient."""
    atoms = step.reward + step.discount * following.atoms
    return jax.lax.stop_gradient(Distribution(atoms, following.probabilities))


def mean(distribution: Distribution) -> Float[Array, ""]:
    """The expected return."""
    return jnp.sum(distribution.atoms * distribution.probabilities)


# -- what a spec chooses ---------------------------------------------------------------------------------------


@register("bootstrap", "plain")
@spec
class PlainSpec:
    """The network's own Q: the greedy action's, picked as `double` says."""

    def __call__(self, following: Following) -> Distribution:
        return double(following.returns, following.selector)


@register("bootstrap", "memory")
@spec
class MemorySpec:
    """Reading 1 of the article's update: Q and what an external memory holds of similar situations, by confidence."""

    def __call__(self, following: Following) -> Distribution:
        return remembered(following)


@register("bootstrap", "actions")
@spec
class ActionsSpec:
    """Reading 2: attention over the next actions by their Q."""

    temperature: float = setting(
        0.1, "of the softmax over Q, in units of return: near 0 greedy, high the mean", above=0
    )
    mellow: bool = setting(False, "mellowmax instead of the weighted sum: a contraction at any temperature")

    def __call__(self, following: Following) -> Distribution:
        if self.mellow:
            return mellowmax(following.returns.q, following.selector, self.temperature)
        return weighted(following.returns, following.selector, self.temperature)


@register("bootstrap", "successors")
@spec
class SuccessorsSpec:
    """Reading 3: what followed similar situations and actions, by attention; plain where none is known.

    Each experience is then an entry of its own, so as many should be read as chance has outcomes, and an eviction that
    does not keep what was read (`oldest`), or the same few speak for ever.
    """

    def __call__(self, following: Following) -> Distribution:
        return double(following.returns, following.selector)
