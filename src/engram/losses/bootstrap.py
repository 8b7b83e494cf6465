"""Bootstraps: what the next observation is worth, as a distribution of the return.

A rule picks the next action's distribution; `target` adds the rewards on the way there. A scalar Q is one atom
of probability 1, so the same rules serve every head.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from engram.losses.returns import NStep
from engram.types import Returns


class Distribution(NamedTuple):
    """A discrete distribution of one action's return."""

    atoms: Float[Array, "atoms"]  # in units of return
    probabilities: Float[Array, "atoms"]  # sum to 1


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


def target(step: NStep, following: Distribution) -> Distribution:
    """r + gamma * Z': the n-step target, a constant for the gradient."""
    atoms = step.reward + step.discount * following.atoms
    return jax.lax.stop_gradient(Distribution(atoms, following.probabilities))


def mean(distribution: Distribution) -> Float[Array, ""]:
    """The expected return."""
    return jnp.sum(distribution.atoms * distribution.probabilities)
