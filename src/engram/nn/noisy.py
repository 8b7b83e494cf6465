"""Layers whose weights are disturbed by learned amounts: exploration that a network can unlearn where it is sure."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from engram.bits import uniform
from engram.nn.layers import Linear
from engram.types import Key


class NoisyLinear(eqx.Module):
    """x -> (W + S * (q p^T)) x + b + s * q, where p and q are noise of the inputs and of the outputs.

    Noise is f(n), f(n) = sign(n) sqrt|n|, of normal n from one word each; so an example's own noise costs two products
    of vectors with matrices, which a batch turns into products of matrices. Words in the middle of their range are no
    noise: that is how a greedy policy is played.

    Source: Fortunato et al. 2018 (arXiv 1706.10295), section 3, factorised; S and s begin as noise / sqrt(inputs).
    """

    linear: Linear
    weight_noise: Float[Array, "outputs inputs"]
    bias_noise: Float[Array, "outputs"]

    def __init__(self, inputs: int, outputs: int, noise: float, *, key: Key):
        self.linear = Linear(inputs, outputs, key=key)
        self.weight_noise = jnp.full((outputs, inputs), noise * inputs**-0.5)
        self.bias_noise = jnp.full(outputs, noise * inputs**-0.5)

    @property
    def words(self) -> int:
        """Random 32-bit words that one call takes."""
        return sum(self.weight_noise.shape)

    def __call__(
        self, x: Float[Array, "inputs"], bits: UInt32[Array, "words"] | None = None
    ) -> Float[Array, "outputs"]:
        if bits is None:
            return self.linear(x)
        inputs = self.weight_noise.shape[1]
        normal = jax.scipy.special.ndtri(uniform(bits).clip(LEAST, 1 - LEAST))  # finite
        noise = jnp.sign(normal) * jnp.sqrt(jnp.abs(normal))
        return self.linear(x) + noise[inputs:] * (self.weight_noise @ (noise[:inputs] * x) + self.bias_noise)


LEAST = 2.0**-24  # a step of `uniform`


class NoisyMLP(eqx.Module):
    """Noisy layers, each followed by a ReLU."""

    layers: tuple[NoisyLinear, ...]

    def __init__(self, inputs: int, widths: Sequence[int], noise: float, *, key: Key):
        sizes = (inputs, *widths)
        keys = jax.random.split(key, max(len(widths), 1))
        self.layers = tuple(NoisyLinear(sizes[i], sizes[i + 1], noise, key=keys[i]) for i in range(len(widths)))

    @property
    def words(self) -> int:
        """Random 32-bit words that one call takes."""
        return sum(layer.words for layer in self.layers)

    def __call__(
        self, x: Float[Array, "inputs"], bits: UInt32[Array, "words"] | None = None
    ) -> Float[Array, "outputs"]:
        for layer, some in zip(self.layers, dealt(bits, [layer.words for layer in self.layers]), strict=True):
            x = jax.nn.relu(layer(x, some))
        return x


def dealt(bits: UInt32[Array, "words"] | None, counts: Sequence[int]) -> list[UInt32[Array, "_"] | None]:
    """`bits` cut into pieces of these lengths; None for each where there are none."""
    if bits is None:
        return [None] * len(counts)
    ends = [sum(counts[: number + 1]) for number in range(len(counts))]
    return [bits[end - count : end] for end, count in zip(ends, counts, strict=True)]
