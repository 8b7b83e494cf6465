"""Plain layers. Each sees one example; batch with `vmap`, which turns their products into matrix products."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from engram.types import Key


class Linear(eqx.Module):
    """x -> W x + b, with W and b uniform in +-1/sqrt(inputs) at the start.

    That range (a variance of 1/3 per input) is the one under which most published DQN results were made.
    `equinox.nn.Linear` has the same range, but draws W and b with two keys. Ours draws both at once, and the numbers of
    earlier runs depend on that draw.
    """

    weight: Float[Array, "outputs inputs"]
    bias: Float[Array, "outputs"]

    words = 0

    def __init__(self, inputs: int, outputs: int, *, key: Key):
        bound = inputs**-0.5
        drawn = jax.random.uniform(key, (outputs, inputs + 1), minval=-bound, maxval=bound)
        self.weight, self.bias = drawn[:, :-1], drawn[:, -1]

    def __call__(self, x: Float[Array, "inputs"], bits: Any = None) -> Float[Array, "outputs"]:
        return self.weight @ x + self.bias


def cos_pi(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """cos(pi x) to 3e-7, as sin(pi (1/2 - d)) with d the distance of x to the nearest even number.

    On a CPU a tenth of the time of `jnp.cos(jnp.pi * x)`, and nearer: no pi x is rounded. The series of the sine stops
    at the eleventh power.
    """
    angle = np.float32(math.pi) * (0.5 - jnp.abs(x - 2 * jnp.round(x / 2)))
    square = angle * angle
    series = jnp.float32(0)
    for power in range(11, 0, -2):
        series = series * square + np.float32((-1) ** (power // 2) / math.factorial(power))
    return angle * series


def repeated(count: int, x: Float[Array, "features"]) -> Float[Array, "count features"]:
    """x, `count` times.

    Its gradient adds halves. The sum that JAX would take has four axes in a batch of a seed: in the loop of a run XLA
    takes 690 us for one of 64 thousand numbers on a CPU, and under 30 us for halves.
    """
    copies: Any = _repeated(count, x)
    return copies


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _repeated(count: int, x: Float[Array, "features"]) -> Float[Array, "count features"]:
    return jnp.broadcast_to(x, (count, *x.shape))


def _added(_: int, __: None, slope: Float[Array, "count features"]) -> tuple[Float[Array, "features"]]:
    while len(slope) > 1:
        half = len(slope) // 2
        slope = jnp.concatenate([slope[:half] + slope[half : 2 * half], slope[2 * half :]])
    return (slope[0],)


_repeated.defvjp(lambda count, x: (_repeated(count, x), None), _added)

EPSILON = 1e-5  # of `normalised`, under the root


def normalised(x: Float[Array, "features"]) -> Float[Array, "features"]:
    """(x - mean) / sqrt(variance + 1e-5) over the features: layer normalisation without parameters.

    It bounds how fast values can grow between two updates of the target, which is what makes Q-learning diverge.
    Source: Ba et al. 2016 (arXiv 1607.06450); Gallici et al. 2024 (arXiv 2407.04811) for Q-learning.
    """
    centred = x - x.mean()
    return centred * jax.lax.rsqrt((centred**2).mean() + EPSILON)


class MLP(eqx.Module):
    """Linear layers, each followed by a ReLU: the last one too, since what it gives is an embedding.

    With `norm`, each ReLU sees its layer's outputs normalised.
    """

    layers: tuple[Linear, ...]
    norm: bool = eqx.field(static=True)

    words = 0

    def __init__(self, inputs: int, widths: Sequence[int], *, norm: bool = False, key: Key):
        sizes = (inputs, *widths)
        keys = jax.random.split(key, max(len(widths), 1))
        self.layers = tuple(Linear(sizes[i], sizes[i + 1], key=keys[i]) for i in range(len(widths)))
        self.norm = norm

    def __call__(self, x: Float[Array, "inputs"], bits: Any = None) -> Float[Array, "outputs"]:
        for layer in self.layers:
            x = layer(x)
            x = jax.nn.relu(normalised(x) if self.norm else x)
        return x
