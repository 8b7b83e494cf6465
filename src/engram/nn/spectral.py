"""Spectral normalisation: a layer that stretches no input by more than one."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ITERATIONS = 8  # of the power method: the norm of a random 32 x 288 matrix is then found to within a few per cent
TINY = 1e-12  # in place of a length of 0


def spectrally_normalised(weight: Float[Array, "outputs *inputs"]) -> Float[Array, "outputs *inputs"]:
    """W / sigma(W), with sigma the largest singular value of W as a matrix of outputs x inputs.

    The power method finds it, from the same vector each time. The source carries one vector from update to update and
    iterates once; so a network here has no state beside its weights. Gradients take both vectors as constants.

    Source: Miyato et al. 2018 (arXiv 1802.05957), algorithm 1; Gogianu et al. 2021 (arXiv 2105.05246) for Q-learning.
    """
    matrix = weight.reshape(weight.shape[0], -1)
    fixed = jax.lax.stop_gradient(matrix)
    left = _unit(jnp.cos(jnp.arange(1.0, len(fixed) + 1)))
    right = _unit(left @ fixed)
    for _ in range(ITERATIONS):
        left = _unit(fixed @ right)
        right = _unit(left @ fixed)
    sigma = left @ (matrix @ right)
    return weight / jnp.maximum(sigma, TINY)


def _unit(vector: Float[Array, "numbers"]) -> Float[Array, "numbers"]:
    return vector / jnp.maximum(jnp.linalg.norm(vector), TINY)
