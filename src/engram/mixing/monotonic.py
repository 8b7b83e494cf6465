"""`monotonic`: a small network over the agents' values, whose weights the state of the world gives (QMIX)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from engram.nn.layers import Linear
from engram.ranges import OneOf
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Key


@register("mixing", "monotonic")
@spec
class MonotonicSpec:
    """A value that rises with each agent's, how steeply the state of the world says.

    Source: Rashid et al. 2018 (arXiv 1803.11485), section 4; 32 units are its own, hypernetworks of two layers are
    those of its later code.
    """

    width: int = setting(32, "hidden units of the mixing", low=1, search=OneOf(16, 32, 64))
    hyper_width: int = setting(64, "hidden units of the networks that give its weights", low=1, search=OneOf(32, 64))

    present = True
    reads_state = True

    def build(self, agents: int, state: int, key: Key) -> "Monotonic":
        return Monotonic(agents, state, self.width, self.hyper_width, key=key)


class Hyper(eqx.Module):
    """state -> ReLU layer -> numbers."""

    hidden: Linear
    out: Linear

    def __init__(self, state: int, width: int, numbers: int, *, key: Key):
        hidden, out = jax.random.split(key)
        self.hidden, self.out = Linear(state, width, key=hidden), Linear(width, numbers, key=out)

    def __call__(self, state: Float[Array, "state"]) -> Float[Array, "numbers"]:
        return self.out(jax.nn.relu(self.hidden(state)))


class Monotonic(eqx.Module):
    """w(s) . elu(W(s) q + b(s)) + v(s), with w and W absolute values, so that no slope in q is negative."""

    matrix: Hyper
    bias: Linear
    vector: Hyper
    value: Hyper

    def __init__(self, agents: int, state: int, width: int, hyper_width: int, *, key: Key):
        keys = jax.random.split(key, 4)
        self.matrix = Hyper(state, hyper_width, width * agents, key=keys[0])
        self.bias = Linear(state, width, key=keys[1])
        self.vector = Hyper(state, hyper_width, width, key=keys[2])
        self.value = Hyper(state, width, 1, key=keys[3])

    def __call__(self, q: Float[Array, "agents"], state: Float[Array, "state"] | None) -> Float[Array, ""]:
        assert state is not None  # `Network` saw to it
        matrix = jnp.abs(self.matrix(state)).reshape(-1, q.size)
        hidden = jax.nn.elu(matrix @ q + self.bias(state))
        return jnp.abs(self.vector(state)) @ hidden + self.value(state)[0]
