"""Recurrent working memories in code of our own: `gru`, `lstm`, `mingru` and `lru`.

They are our own for speed. They take matrix products over the whole window instead of one per row, and the backward
pass makes no matrix per row (recurrences.py).
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from engram.errors import SpecError
from engram.nn.layers import Linear
from engram.ranges import OneOf
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Key
from engram.working.memory import Carry
from engram.working.recurrences import dense, diagonal, rotating
from engram.working.stack import Cell, Chain, Residual, last, over_rows


def make_chain(make: Callable[[int, Key], Cell], inputs: int, width: int, layers: int, key: Key) -> Chain:
    """Layers that `make(inputs, key)` gives, the first for `inputs` numbers, the others for `width`."""
    keys = jax.random.split(key, layers)
    return Chain(tuple(make(width if i else inputs, keys[i]) for i in range(layers)), width)


def make_residual(make: Callable[[Key], Cell], inputs: int, width: int, layers: int, key: Key) -> Residual:
    """Blocks around the cells that `make(key)` gives, which take and give `width` numbers."""
    first, *keys = jax.random.split(key, layers + 1)
    return Residual(inputs, width, [make(one) for one in keys], key=first)


def memory_times(width: int, horizon: int, key: Key) -> Float[Array, "width"]:
    """Biases of gates that keep: a unit forgets within 1 to `horizon` steps at the start, spread evenly on a log scale.

    sigmoid(log(t)) = t / (t + 1) remembers for about t steps. Without a horizon (0), 0: about 2 steps.
    Source: Tallec & Ollivier 2018 (arXiv 1804.11188), section 2, there uniform and not logarithmic: then few units
    are quick, and a single cue is written faintly.
    """
    return jax.random.uniform(key, (width,)) * math.log(max(horizon, 1))


def orthogonal(gates: int, width: int, key: Key) -> Float[Array, "width gates"]:
    """A matrix for each gate that keeps lengths, side by side."""
    keys = jax.random.split(key, gates)
    parts = [jax.nn.initializers.orthogonal()(one, (width, width), jnp.float32) for one in keys]
    return jnp.concatenate(parts, axis=1)


# -- gru, lstm ---------------------------------------------------------------------------------------------


@register("working", "gru")
@spec
class GRUSpec:
    """Gated recurrent unit: the usual memory of deep recurrent Q-learning with half of an LSTM's gates."""

    hidden_size: int = setting(128, "units of each layer", low=1, search=OneOf(64, 128, 256))
    layers: int = setting(1, "layers, one after another", low=1)
    horizon: int = setting(0, "steps that units remember at the start, spread from 1 to this; 0: as usual", low=0)

    present = True

    def build(self, inputs: int, key: Key) -> Chain:
        return make_chain(
            lambda inputs, key: GRU(inputs, self.hidden_size, self.horizon, key=key),
            inputs,
            self.hidden_size,
            self.layers,
            key,
        )


class GRU(eqx.Module):
    """r, z = sigmoid(W x + U h + b); n = tanh(W_n x + b_n + r * (U_n h)); h' = (1 - z) n + z h.

    Source: Cho et al. 2014 (arXiv 1406.1078), eq. 5-8, with r applied after U_n, as all fast implementations have it:
    one product per step. Recurrent matrices start orthogonal.
    """

    weight: Linear
    recurrent: Float[Array, "width gates"]

    def __init__(self, inputs: int, width: int, horizon: int = 0, *, key: Key):
        keys = jax.random.split(key, 3)
        drawn = Linear(inputs, 3 * width, key=keys[0])
        bias = drawn.bias.at[width : 2 * width].add(memory_times(width, horizon, keys[1]))
        self.weight = eqx.tree_at(lambda linear: linear.bias, drawn, bias)
        self.recurrent = orthogonal(3, width, keys[2])

    def init(self) -> Carry:
        """h = 0."""
        return (jnp.zeros(self.recurrent.shape[0]),)

    def unroll(
        self, carry: Carry, inputs: Float[Array, "time inputs"], is_first: Bool[Array, "time"]
    ) -> tuple[Carry, Float[Array, "time width"]]:
        """Every h."""
        (states,) = dense(_gru, self.recurrent, over_rows(self.weight, inputs), is_first, carry)
        return (last(states),), states


def _gru(product: Array, given: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
    width = state[0].shape[0]
    reset, keep = jnp.split(jax.nn.sigmoid(product[: 2 * width] + given[: 2 * width]), 2)
    candidate = jnp.tanh(given[2 * width :] + reset * product[2 * width :])
    return (candidate + keep * (state[0] - candidate),)


@register("working", "lstm")
@spec
class LSTMSpec:
    """Long short-term memory: the memory of DRQN and R2D2."""

    hidden_size: int = setting(128, "units of each layer", low=1, search=OneOf(64, 128, 256))
    layers: int = setting(1, "layers, one after another", low=1)
    horizon: int = setting(0, "steps that units remember at the start, spread from 1 to this; 0: as usual", low=0)

    present = True

    def build(self, inputs: int, key: Key) -> Chain:
        return make_chain(
            lambda inputs, key: LSTM(inputs, self.hidden_size, self.horizon, key=key),
            inputs,
            self.hidden_size,
            self.layers,
            key,
        )


class LSTM(eqx.Module):
    """i, f, o = sigmoid(W x + U h + b); g = tanh(W_g x + U_g h + b_g); c' = f c + i g; h' = o tanh(c').

    The bias of f starts 1 higher, or, with a horizon, as high as that needs; that of i then as much lower.
    Source: Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000; Jozefowicz et al. 2015 for the 1;
    Tallec & Ollivier 2018 (arXiv 1804.11188) for the horizon. Recurrent matrices start orthogonal.
    """

    weight: Linear
    recurrent: Float[Array, "width gates"]

    def __init__(self, inputs: int, width: int, horizon: int = 0, *, key: Key):
        keys = jax.random.split(key, 3)
        drawn = Linear(inputs, 4 * width, key=keys[0])
        times = memory_times(width, horizon, keys[1])
        bias = drawn.bias.at[:width].add(-times).at[width : 2 * width].add(times if horizon else 1.0)
        self.weight = eqx.tree_at(lambda linear: linear.bias, drawn, bias)
        self.recurrent = orthogonal(4, width, keys[2])

    def init(self) -> Carry:
        """h = 0, c = 0."""
        return (jnp.zeros(self.recurrent.shape[0]), jnp.zeros(self.recurrent.shape[0]))

    def unroll(
        self, carry: Carry, inputs: Float[Array, "time inputs"], is_first: Bool[Array, "time"]
    ) -> tuple[Carry, Float[Array, "time width"]]:
        """Every h."""
        states = dense(_lstm, self.recurrent, over_rows(self.weight, inputs), is_first, carry)
        return jax.tree.map(last, states), states[0]


def _lstm(product: Array, given: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
    width = state[0].shape[0]
    total = product + given
    write, keep, show = jnp.split(jax.nn.sigmoid(total[: 3 * width]), 3)
    cell = keep * state[1] + write * jnp.tanh(total[3 * width :])
    return show * jnp.tanh(cell), cell


# -- mingru ------------------------------------------------------------------------------------------------


@register("working", "mingru")
@spec
class MinGRUSpec:
    """GRU whose gates see the input alone: several times faster to train, but blind to what is remembered."""

    hidden_size: int = setting(128, "units of each layer", low=1, search=OneOf(64, 128, 256))
    layers: int = setting(1, "layers, one after another", low=1)
    horizon: int = setting(100, "steps that units remember at the start, spread from 1 to this; 0: about 2", low=0)
    selectivity: float = setting(
        1.0, "how much gates differ between inputs at the start: high, and units open to some and keep them", low=0
    )

    present = True

    def build(self, inputs: int, key: Key) -> Chain:
        def layer(inputs: int, key: Key) -> MinGRU:
            return MinGRU(inputs, self.hidden_size, self.horizon, self.selectivity, key=key)

        return make_chain(layer, inputs, self.hidden_size, self.layers, key)


class MinGRU(eqx.Module):
    """z = sigmoid(W_z x + b_z); h' = z h + (1 - z) (W x + b).

    Source: Feng et al. 2024 (arXiv 2410.01201), section 3.1, where z stands for 1 - z.
    """

    weight: Linear

    def __init__(self, inputs: int, width: int, horizon: int = 0, selectivity: float = 1.0, *, key: Key):
        keys = jax.random.split(key)
        drawn = Linear(inputs, 2 * width, key=keys[0])
        bias = drawn.bias.at[:width].add(memory_times(width, horizon, keys[1]))
        weight = drawn.weight.at[:width].multiply(selectivity)
        self.weight = eqx.tree_at(lambda linear: (linear.weight, linear.bias), drawn, (weight, bias))

    def init(self) -> Carry:
        """h = 0."""
        return jnp.zeros(self.weight.bias.shape[0] // 2)

    def unroll(
        self, carry: Carry, inputs: Float[Array, "time inputs"], is_first: Bool[Array, "time"]
    ) -> tuple[Carry, Float[Array, "time width"]]:
        """Every h."""
        gate, candidate = jnp.split(over_rows(self.weight, inputs), 2, axis=1)
        keep = jax.nn.sigmoid(gate)
        states = diagonal(jnp.where(is_first[:, None], 0.0, keep), (1 - keep) * candidate, carry)
        return last(states), states


# -- lru ---------------------------------------------------------------------------------------------------


MAX_PHASE = 6.283  # greatest turn of an LRU per step at the start, in radians: all round the circle


@register("working", "lru")
@spec
class LRUSpec:
    """Linear recurrent unit in a residual block: remembers for about 1 / (1 - radius) steps."""

    hidden_size: int = setting(128, "units of each layer", low=1, search=OneOf(64, 128, 256))
    layers: int = setting(1, "residual blocks", low=1)
    state: int = setting(128, "complex numbers that a layer remembers", low=1, search=OneOf(64, 128, 256))
    min_radius: float = setting(0.9, "least magnitude of the factor per step at the start", low=0.0, below=1.0)
    max_radius: float = setting(0.999, "greatest one; 0.999 remembers for about 1000 steps", above=0.0, below=1.0)

    present = True

    def check(self) -> None:
        """The two radii are a range."""
        if self.min_radius >= self.max_radius:
            raise SpecError(
                f"working.min_radius = {self.min_radius} is not below working.max_radius = {self.max_radius}; "
                "lower the first or raise the second"
            )

    def build(self, inputs: int, key: Key) -> Residual:
        return make_residual(lambda key: LRU(self, key=key), inputs, self.hidden_size, self.layers, key)


class LRU(eqx.Module):
    """h' = lambda h + gamma * (B x), complex and diagonal; y = Re(C h) + D * x.

    lambda = exp(-exp(log_rate) + i exp(log_phase)) cannot leave the unit circle. It starts uniform on the ring between
    the radii, with phases all round the circle, and gamma at sqrt(1 - |lambda|^2), which gives white inputs states of
    variance 1. All leaves are real: real parts come first, imaginary parts after them.
    Source: Orvieto et al. 2023 (arXiv 2303.06349), sections 3.2-3.4, eq. 4-7.
    """

    log_rate: Float[Array, "state"]
    log_phase: Float[Array, "state"]
    log_gamma: Float[Array, "state"]
    write: Float[Array, "2_state width"]
    read: Float[Array, "width 2_state"]
    skip: Float[Array, "width"]

    def __init__(self, numbers: LRUSpec, *, key: Key):
        keys = jax.random.split(key, 5)
        low, high = numbers.min_radius**2, numbers.max_radius**2
        squared = jax.random.uniform(keys[0], (numbers.state,), minval=low, maxval=high)
        self.log_rate = jnp.log(-0.5 * jnp.log(jnp.maximum(squared, 1e-8)))
        phase = jax.random.uniform(keys[1], (numbers.state,), maxval=MAX_PHASE)
        self.log_phase = jnp.log(phase + 1e-8)
        self.log_gamma = 0.5 * jnp.log(1 - squared)
        size = (2 * numbers.state, numbers.hidden_size)
        self.write = jax.random.normal(keys[2], size) / math.sqrt(2 * numbers.hidden_size)
        self.read = jax.random.normal(keys[3], size[::-1]) / math.sqrt(numbers.state)
        self.skip = jax.random.normal(keys[4], (numbers.hidden_size,))

    def init(self) -> Carry:
        """h = 0."""
        return jnp.zeros((2, self.log_rate.shape[0]))

    def unroll(
        self, carry: Carry, inputs: Float[Array, "time width"], is_first: Bool[Array, "time"]
    ) -> tuple[Carry, Float[Array, "time width"]]:
        """Every y."""
        state = self.log_rate.shape[0]
        radius, phase = jnp.exp(-jnp.exp(self.log_rate)), jnp.exp(self.log_phase)
        factor = radius * jnp.stack([jnp.cos(phase), jnp.sin(phase)])
        written = (inputs @ self.write.T).reshape(-1, 2, state) * jnp.exp(self.log_gamma)
        states = rotating(factor, jnp.where(is_first, 0.0, 1.0), written, carry)
        return last(states), states.reshape(-1, 2 * state) @ self.read.T + self.skip * inputs
