"""Layers whose weights are disturbed by learned amounts: exploration that a network can unlearn where it is sure."""

from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from engram.nn.layers import Linear
from engram.types import Key


class NoisyLinear(eqx.Module):
    """x -> (W + S * (q p^T)) x + b + s * q, where p and q are noise of the inputs and of the outputs.

    Noise is f(n) = sign(n) sqrt|n| of normal n, to the nearest of 4,096 quantiles (`noise_of`). An example's own noise
    costs two products of vectors with matrices, which a batch turns into products of matrices. Words in the middle of
    their range are no noise: that is how a greedy policy is played.

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
        return -(-sum(self.weight_noise.shape) // 2)

    def __call__(
        self, x: Float[Array, "inputs"], bits: UInt32[Array, "words"] | None = None
    ) -> Float[Array, "outputs"]:
        if bits is None:
            return self.linear(x)
        outputs, inputs = self.weight_noise.shape
        noise = noise_of(bits)[: inputs + outputs]
        return self.linear(x) + noise[inputs:] * (self.weight_noise @ (noise[:inputs] * x) + self.bias_noise)


STEPS = 4_096  # of the table; a normal number in it is at most 3.8


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    """f of the quantiles k / STEPS of the normal distribution; the two ends stand for half a step each."""
    level = np.arange(STEPS + 1) / STEPS
    level[0], level[-1] = 0.25 / STEPS, 1 - 0.25 / STEPS
    normal = np.array([NormalDist().inv_cdf(each) for each in level.tolist()])
    return (np.sign(normal) * np.sqrt(np.abs(normal))).astype(np.float32)


def noise_of(bits: UInt32[Array, "words"]) -> Float[Array, "noises"]:
    """Two noises from each word, by its upper and its lower half: the nearest quantile of a table.

    Computing normal numbers and their roots takes nine times as long, and was a quarter of an update of Rainbow.
    """
    halves = jnp.concatenate([bits >> 16, (bits & 0xFFFF) ^ 0x8000])  # a lower half of 0 is the middle
    shift = 15 - STEPS.bit_length() + 1
    return jnp.asarray(_table())[((halves >> shift) + 1) >> 1]


class Drawing(eqx.Module):
    """The base of a module of parts that take random words, each its own."""

    @property
    def parts(self) -> tuple[Any, ...]:
        """The parts, in the order in which words are dealt to them."""
        raise NotImplementedError

    @property
    def words(self) -> int:
        """Random 32-bit words that one call takes."""
        return sum(part.words for part in self.parts)

    def dealt(self, bits: UInt32[Array, "words"] | None) -> list[UInt32[Array, "_"] | None]:
        """The words of each part; None for each where there are none."""
        return dealt(bits, [part.words for part in self.parts])


class NoisyMLP(Drawing):
    """Noisy layers, each followed by a ReLU."""

    layers: tuple[NoisyLinear, ...]

    def __init__(self, inputs: int, widths: Sequence[int], noise: float, *, key: Key):
        sizes = (inputs, *widths)
        keys = jax.random.split(key, max(len(widths), 1))
        self.layers = tuple(NoisyLinear(sizes[i], sizes[i + 1], noise, key=keys[i]) for i in range(len(widths)))

    @property
    def parts(self) -> tuple[Any, ...]:
        return self.layers

    def __call__(
        self, x: Float[Array, "inputs"], bits: UInt32[Array, "words"] | None = None
    ) -> Float[Array, "outputs"]:
        for layer, some in zip(self.layers, self.dealt(bits), strict=True):
            x = jax.nn.relu(layer(x, some))
        return x


def dealt(bits: UInt32[Array, "words"] | None, counts: Sequence[int]) -> list[UInt32[Array, "_"] | None]:
    """`bits` cut into pieces of these lengths; None for each where there are none."""
    if bits is None:
        return [None] * len(counts)
    ends = [sum(counts[: number + 1]) for number in range(len(counts))]
    return [bits[end - count : end] for end, count in zip(ends, counts, strict=True)]
