"""Losses between distributions: cross-entropy over fixed atoms, and the regression of quantiles."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from engram.registry import register
from engram.specs import setting, spec
from engram.types import Distribution

TINY = 1e-6  # the least distance of two atoms: those that an external memory has moved together are one


def projected(target: Distribution, atoms: Float[Array, "atoms"]) -> Float[Array, "atoms"]:
    """The target's probabilities, each shared between the two nearest of evenly spaced atoms.

    What lies outside of them goes to the outermost. The mean of what lies inside is kept.

    Source: Bellemare et al. 2017 (arXiv 1707.06887), eq. 7.
    """
    gap = jnp.maximum(atoms[1] - atoms[0], TINY)
    inside = target.atoms.clip(atoms[0], atoms[-1])
    share = (1 - jnp.abs(inside[:, None] - atoms) / gap).clip(0, 1)
    return target.probabilities @ share


def smoothed(mean: Float[Array, ""], atoms: Float[Array, "atoms"], width: float) -> Float[Array, "atoms"]:
    """What a normal distribution around `mean` has in the bin of each atom; `width`: its deviation in bins.

    The mean of a target outside of the atoms is taken to be the outermost atom.

    Source: Farebrother et al. 2024 (arXiv 2403.03950), section 3.1.
    """
    gap = jnp.maximum(atoms[1] - atoms[0], TINY)
    edges = jnp.append(atoms - gap / 2, atoms[-1] + gap / 2)
    below = jax.scipy.special.ndtr((edges - mean.clip(atoms[0], atoms[-1])) / (width * gap))
    return jnp.diff(below) / (below[-1] - below[0])


def cross_entropy(target: Float[Array, "atoms"], logits: Float[Array, "atoms"]) -> Float[Array, ""]:
    """-sum_i target_i log softmax(logits)_i, in nats."""
    return -(target * jax.nn.log_softmax(logits)).sum()


def quantile_huber(predicted: Distribution, target: Distribution, width: float) -> Float[Array, ""]:
    """sum_i E_j |tau_i - 1{u_ij < 0}| huber(u_ij) / width with u_ij = target_j - predicted_i; `width` 0: of |u_ij|.

    Source: Dabney et al. 2018 (arXiv 1710.10044), eq. 10; (arXiv 1806.06923), eq. 3, whose mean over predicted levels
    differs by a factor.
    """
    levels = predicted.levels
    if levels is None:
        raise ValueError("this loss is for quantiles; give `levels`, as head.returns=quantile does")
    error = target.atoms - predicted.atoms[:, None]
    size = jnp.abs(error)
    if width:
        size = jnp.where(size <= width, 0.5 * size**2 / width, size - 0.5 * width)
    weight = jnp.abs(levels[:, None] - (error < 0))
    return ((weight * size) @ target.probabilities).sum()


@register("loss", "cross-entropy")
@spec
class CrossEntropySpec:
    """Cross-entropy with the target's distribution, shared among the predicted atoms: the loss of C51."""

    fits = ("fixed",)

    def __call__(self, predicted: Distribution, target: Distribution) -> Float[Array, ""]:
        return _fitted(predicted, lambda atoms: projected(target, atoms))


@register("loss", "hl-gauss")
@spec
class HLGaussSpec:
    """Cross-entropy with a normal distribution around the target's mean: a regression by classification."""

    width: float = setting(0.75, "deviation of the normal distribution, in gaps between two atoms", above=0)

    fits = ("fixed",)

    def __call__(self, predicted: Distribution, target: Distribution) -> Float[Array, ""]:
        return _fitted(predicted, lambda atoms: smoothed(target.mean, atoms, self.width))


@register("loss", "quantile-huber")
@spec
class QuantileHuberSpec:
    """The regression of quantiles, smooth near 0: the loss of QR-DQN and IQN."""

    width: float = setting(1.0, "half-width of the quadratic zone, in units of return; 0 for none", low=0)

    fits = ("quantiles",)

    def __call__(self, predicted: Distribution, target: Distribution) -> Float[Array, ""]:
        return quantile_huber(predicted, jax.lax.stop_gradient(target), self.width)


def _fitted(predicted: Distribution, share: Callable[[Float[Array, "atoms"]], Array]) -> Float[Array, ""]:
    """Cross-entropy of fixed atoms with the target's `share` of each; neither atoms nor target have a gradient."""
    if predicted.logits is None:
        raise ValueError("this loss is for fixed atoms; give `logits`, as head.returns=categorical does")
    atoms = jax.lax.stop_gradient(predicted.atoms)
    return cross_entropy(jax.lax.stop_gradient(share(atoms)), predicted.logits)
