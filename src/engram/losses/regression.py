"""Regressions: losses that compare the means of a prediction and of its target."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from engram.registry import register
from engram.specs import setting, spec
from engram.types import Distribution

ANY = ("number", "fixed", "quantiles")  # means can be compared whatever they are the means of


def squared(prediction: Float[Array, ""], target: Float[Array, ""]) -> Float[Array, ""]:
    """u^2 / 2 with u = target - prediction, in squared units of return."""
    return 0.5 * (target - prediction) ** 2


def huber(prediction: Float[Array, ""], target: Float[Array, ""], width: float = 1.0) -> Float[Array, ""]:
    """u^2 / 2 where |u| <= width, else width * (|u| - width / 2), with u = target - prediction.

    Its slope never exceeds `width`, so one surprising return cannot throw the parameters far.

    Args:
      width: half-width of the quadratic zone, in units of return, > 0.

    Source: Huber 1964; the clipped error of Mnih et al. 2015 is width = 1.
    """
    size = jnp.abs(target - prediction)
    return jnp.where(size <= width, 0.5 * size**2, width * (size - 0.5 * width))


@register("loss", "squared")
@spec
class SquaredSpec:
    """The squared error; Adam with it nearly doubles DQN's published Atari score (Dopamine's DQN study)."""

    fits = ANY

    def __call__(self, predicted: Distribution, target: Distribution) -> Float[Array, ""]:
        return squared(predicted.mean, jax.lax.stop_gradient(target.mean))


@register("loss", "huber")
@spec
class HuberSpec:
    """The Huber error."""

    width: float = setting(1.0, "half-width of the quadratic zone, in units of return", above=0)

    fits = ANY

    def __call__(self, predicted: Distribution, target: Distribution) -> Float[Array, ""]:
        return huber(predicted.mean, jax.lax.stop_gradient(target.mean), self.width)
