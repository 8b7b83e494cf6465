"""Working memories that write matrices: linear attention and the delta rule (`fast-weights`).

Each layer has a matrix for each head. As in attention, it is written with a key and a value and read with a query. Its
size does not grow with time.
"""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from engram.nn.layers import EPSILON, Linear
from engram.ranges import OneOf
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Key
from engram.working.gated import make_residual
from engram.working.memory import Carry
from engram.working.recurrences import fast_weights
from engram.working.stack import Residual, over_rows


@register("working", "fast-weights")
@spec
class FastWeightsSpec:
    """Matrices that each step writes with a key and a value and reads with a query.

    The published names: `sum` is the fast weight programmer (FWP), `mean` the linear transformer (FART). `delta` is
    DeltaNet, and with several `writes` DeltaProduct. `gated-delta` is Gated DeltaNet.
    """

    rule: Literal["sum", "mean", "delta", "gated-delta"] = setting(
        "gated-delta",
        "how a matrix is written: values are added up, averaged, replaced under their key, or replaced and faded",
    )
    hidden_size: int = setting(128, "units of each layer", low=1, search=OneOf(64, 128, 256))
    layers: int = setting(1, "residual blocks", low=1)
    heads: int = setting(4, "matrices per layer", low=1)
    head_width: int = setting(16, "rows and columns of a matrix", low=1)
    writes: int = setting(1, "keys written per step, one after another; several can track more kinds of state", low=1)
    horizon: int = setting(
        1000, "steps that the slowest head remembers at the start, the others in ratios; read by gated-delta", low=1
    )
    chunk: int = setting(32, "rows of time computed at once when learning; any number gives the same results", low=1)

    present = True

    def build(self, inputs: int, key: Key) -> Residual:
        return make_residual(lambda key: FastWeights(self, key=key), inputs, self.hidden_size, self.layers, key)


class FastWeights(eqx.Module):
    """One layer: S' = decay S + u k^T, read as S' q, each head's read normalised, then mixed by a linear layer.

    All products of the input come from one matrix. Keys and queries go through SiLU and are brought to length 1;
    without the delta rule they go through 1 + ELU, which keeps them positive, as weights are. The short convolutions
    in front of them in the published networks are left out: an encoder's embedding is no single word.

    With the delta rule u = rate (v - decay S k), where rate = 2 sigmoid(.) lies in 0..2: past 1 it turns what it
    finds, which tracking state needs. With the rule `mean` a value has a further component that is 1. What is read is
    divided by it. With several `writes` a step is as many steps of the rule: the first fades, the last is read.

    Source: Katharopoulos et al. 2020 (arXiv 2006.16236), eq. 8-9, 16-20 (`mean`); Schlag et al. 2021 (arXiv
    2102.11174), eq. 19-24 (`sum`, `delta`); Yang et al. 2024 (arXiv 2412.06464), eq. 10 (`gated-delta`); Siems
    et al. 2025 (arXiv 2502.10297), section 4 (several `writes`); Grazzi et al. 2024 (arXiv 2411.12537) for rates up to
    2.
    """

    inward: Linear
    outward: Linear
    heads: int = eqx.field(static=True)
    head_width: int = eqx.field(static=True)
    writes: int = eqx.field(static=True)
    chunk: int = eqx.field(static=True)
    delta: bool = eqx.field(static=True)
    gated: bool = eqx.field(static=True)
    averages: bool = eqx.field(static=True)

    def __init__(self, numbers: FastWeightsSpec, *, key: Key):
        self.heads, self.head_width, self.chunk = numbers.heads, numbers.head_width, numbers.chunk
        self.writes, self.averages = numbers.writes, numbers.rule == "mean"
        self.delta, self.gated = numbers.rule in ("delta", "gated-delta"), numbers.rule == "gated-delta"
        keys = jax.random.split(key)
        inward = Linear(numbers.hidden_size, sum(self._sizes()), key=keys[0])
        if self.gated:  # sigmoid(log t) forgets within about t steps
            times = math.log(numbers.horizon) * jnp.arange(1, self.heads + 1) / self.heads
            inward = eqx.tree_at(lambda linear: linear.bias, inward, inward.bias.at[-self.heads :].add(times))
        self.inward = inward
        self.outward = Linear(self.heads * self.head_width, numbers.hidden_size, key=keys[1])

    def init(self) -> Carry:
        """S = 0."""
        return jnp.zeros((self.heads, self.head_width + self.averages, self.head_width))

    def unroll(
        self, carry: Carry, inputs: Float[Array, "time width"], is_first: Bool[Array, "time"]
    ) -> tuple[Carry, Float[Array, "time width"]]:
        """What each row reads after it wrote."""
        time = len(inputs)
        queries, keys, values, rate, decay = self._split(over_rows(self.inward, inputs))
        queries, keys = (_unit(x) if self.delta else 1 + jax.nn.elu(x) for x in (queries, keys))
        if self.averages:
            values = jnp.concatenate([values, jnp.ones((*values.shape[:-1], 1))], axis=-1)
        if self.writes > 1:
            queries = jnp.repeat(queries, self.writes, axis=0)
            is_first = (is_first[:, None] & (jnp.arange(self.writes) == 0)).reshape(-1)
        rate = 2 * jax.nn.sigmoid(rate) if self.delta else None
        decay = self._fading(decay) if self.gated else None
        carry, read = fast_weights(queries, keys, values, rate, decay, is_first, carry, self.chunk)
        read = read.reshape(time, self.writes, *read.shape[1:])[:, -1]
        if self.averages:
            read = read[..., :-1] / (read[..., -1:] + EPSILON)
        else:
            read = read * jax.lax.rsqrt((read**2).mean(-1, keepdims=True) + EPSILON)
        return carry, over_rows(self.outward, read.reshape(time, -1))

    def _fading(self, decay: Float[Array, "time heads"]) -> Float[Array, "writes heads"]:
        """The logarithms of the factors by which matrices fade: of several writes of a step, the first fades."""
        decay = jax.nn.log_sigmoid(decay)
        if self.writes == 1:
            return decay
        later = jnp.zeros((len(decay), self.writes - 1, self.heads))
        return jnp.concatenate([decay[:, None], later], axis=1).reshape(-1, self.heads)

    def _sizes(self) -> tuple[int, ...]:
        """Of queries, keys, values, rates and decays in what `inward` gives."""
        one = self.heads * self.head_width
        rates = self.heads * self.writes if self.delta else 0
        return one, one * self.writes, one * self.writes, rates, self.heads if self.gated else 0

    def _split(self, rows: Float[Array, "time numbers"]) -> list[Array]:
        """Queries, keys, values, rates and decays, with an axis of heads, several writes being rows of their own."""
        ends = [sum(self._sizes()[: i + 1]) for i in range(4)]
        queries, keys, values, rate, decay = jnp.split(rows, ends, axis=1)
        wide = (-1, self.heads, self.head_width)
        narrow = (len(rows) * self.writes, rate.shape[1] // self.writes)
        return [queries.reshape(wide), keys.reshape(wide), values.reshape(wide), rate.reshape(narrow), decay]


def _unit(x: Float[Array, "time heads keys"]) -> Float[Array, "time heads keys"]:
    x = jax.nn.silu(x)
    return x * jax.lax.rsqrt((x**2).sum(-1, keepdims=True) + 1e-6)
