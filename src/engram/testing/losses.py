"""The contract of losses as a function: `check_loss`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from engram.testing.contracts import ContractFault, compare
from engram.types import Distribution, Kind

CASES = 16  # pairs of a prediction and its target
CALL = jax.jit(lambda spec, predicted, target: jax.vmap(spec)(predicted, target), static_argnums=0)
ATOMS, LIMIT = 11, 3.0  # of a distribution: how many, and the greatest that is fixed


def check_loss(spec: Any, returns: Kind = "number", *, seed: int = 0, tolerance: float = 1e-4) -> None:
    """Hold a loss to its contract, on random predictions and targets.

    Checked:

    - `fits` names kinds of predictions;
    - the loss is a finite float32 scalar of at least 0, also where the target is a distribution or far away;
    - it is 0 where a prediction is certain and right;
    - a compiled batch gives the same;
    - a finite gradient leads the prediction towards the target, and none reaches the target.

    Args:
      returns: what the head predicts that the loss is for: a number, probabilities of fixed atoms, or quantiles.
      tolerance: how far a compiled batch may be from a single call, relative to 1 + the value.

    Raises: ContractFault with the first thing that is wrong.
    """
    fits = getattr(spec, "fits", None)
    if not isinstance(fits, tuple) or returns not in fits:
        raise ContractFault(f"`fits` is {fits!r}; expected a tuple of what a head may predict, with {returns!r} in it")
    keys = jax.random.split(jax.random.PRNGKey(seed), 5)
    free = _predicted(returns, keys[0])
    number = jax.random.uniform(keys[1], (CASES, 1), minval=-LIMIT, maxval=LIMIT)
    certain = Distribution(number, jnp.ones((CASES, 1)))
    spread = Distribution(
        jax.random.uniform(keys[2], (CASES, ATOMS), minval=-LIMIT, maxval=LIMIT),
        jax.nn.softmax(jax.random.normal(keys[3], (CASES, ATOMS))),
    )
    far = Distribution(1e4 * jnp.sign(number), jnp.ones((CASES, 1)))
    for target in (certain, spread, far):
        _check_number(spec, _of(returns, free), target, tolerance)
        _check_gradient(spec, returns, free, target)
    if returns != "fixed":
        _check_least(spec, returns, number, certain)


def _predicted(returns: Kind, key: Array) -> Array:
    """What a gradient step would change: numbers, logits or quantiles; leading axis [CASES]."""
    return jax.random.normal(key, (CASES, 1 if returns == "number" else ATOMS))


def _of(returns: Kind, free: Array) -> Distribution:
    """The predictions that these free numbers make."""
    even = jnp.zeros_like(free)
    if returns == "fixed":
        return Distribution(
            jnp.broadcast_to(jnp.linspace(-LIMIT, LIMIT, ATOMS), free.shape), jax.nn.softmax(free), free
        )
    count = free.shape[-1]
    levels = jnp.broadcast_to((jnp.arange(count) + 0.5) / count, free.shape) if returns == "quantiles" else None
    return Distribution(free, jnp.full_like(free, 1 / count), even, levels)


def _check_number(spec: Any, predicted: Distribution, target: Distribution, tolerance: float) -> None:
    alone = jnp.asarray(spec(*jax.tree.map(lambda leaf: leaf[0], (predicted, target))))
    if alone.shape != () or alone.dtype != jnp.float32:
        raise ContractFault(f"the loss is {alone.dtype}{list(alone.shape)}; expected a float32 scalar of one example")
    losses = CALL(spec, predicted, target)
    if not np.isfinite(losses).all() or (np.asarray(losses) < 0).any():
        raise ContractFault("the loss is negative or not finite; expected a distance, at least 0")
    compare({"loss": alone}, {"loss": losses[0]}, "a compiled batch gives otherwise than one call", tolerance)


def _check_least(spec: Any, returns: Kind, number: Array, target: Distribution) -> None:
    """A prediction that says its target for certain."""
    free = jnp.broadcast_to(number, (CASES, 1 if returns == "number" else ATOMS))
    losses, slopes = jax.vmap(jax.value_and_grad(lambda free, target: spec(_of(returns, free), target)))(free, target)
    if not np.allclose(losses, 0, atol=1e-6):
        raise ContractFault(f"the loss of a prediction that is its target is {float(np.max(losses)):.2g}; expected 0")
    if not np.isfinite(slopes).all():
        raise ContractFault("where the prediction is its target the gradient is not finite; look for a root at 0")


def _check_gradient(spec: Any, returns: Kind, free: Array, target: Distribution) -> None:
    def loss(free: Array, target: Distribution) -> Array:
        return spec(_of(returns, free), target)

    slopes, outside = jax.jit(jax.vmap(jax.grad(loss, (0, 1))))(free, target)
    if not np.isfinite(slopes).all():
        raise ContractFault("the gradient of the prediction is not finite; look for a root or a logarithm at 0")
    if not np.any(np.asarray(slopes) != 0, axis=-1).all():
        raise ContractFault("no gradient reaches the prediction; do not stop it")
    if any(np.any(slope) for slope in jax.tree.leaves(outside)):
        raise ContractFault("a gradient reaches the target, a constant; put jax.lax.stop_gradient around it")
    if returns == "number":
        error = np.asarray(free[:, 0] - target.mean)
        if (np.asarray(slopes)[:, 0] * error < 0).any():
            raise ContractFault("the loss falls as the prediction leaves its target; turn its sign")
