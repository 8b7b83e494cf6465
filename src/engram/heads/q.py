"""`q` and `dueling`: the heads of DQN."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from engram.heads.returns import ScalarSpec, ToReturns
from engram.nn.layers import MLP, Linear
from engram.registry import register
from engram.specs import part, setting, spec
from engram.types import Key, Kind, Returns


@register("head", "q")
@spec
class QSpec:
    """One linear layer gives Q of every action."""

    returns: Any = part("returns", ScalarSpec(), "what is predicted of the return")

    reads_offered = False

    @property
    def predicts(self) -> Kind:
        return self.returns.predicts

    def build(self, width: int, actions: int, key: Key, offered: int = 0) -> "QHead":
        returns = self.returns.build(width, jax.random.fold_in(key, 1))
        return QHead(Linear(width, actions * returns.numbers, key=key), returns)


class QHead(eqx.Module):
    """Q(s, .) = W embedding + b."""

    linear: Linear
    returns: ToReturns

    @property
    def words(self) -> int:
        return self.returns.words

    def __call__(
        self,
        embedding: Float[Array, "width"],
        offered: Float[Array, "actions features"] | None = None,
        allowed: Bool[Array, "actions"] | None = None,
        bits: UInt32[Array, "words"] | None = None,
    ) -> Returns:
        def rows(seen: Array) -> tuple[Array, Array]:
            numbers = self.linear(seen).reshape(-1, self.returns.numbers)
            return numbers, jnp.zeros((0, len(numbers)))

        return self.returns(rows, embedding, bits)


@register("head", "dueling")
@spec
class DuelingSpec:
    """A value and an advantage for every action, from two streams."""

    width: int = setting(0, "units of a hidden layer in each stream; 0 for none", low=0)
    returns: Any = part("returns", ScalarSpec(), "what is predicted of the return")

    reads_offered = False

    @property
    def predicts(self) -> Kind:
        return self.returns.predicts

    def build(self, width: int, actions: int, key: Key, offered: int = 0) -> "DuelingHead":
        returns = self.returns.build(width, jax.random.fold_in(key, 1))
        return DuelingHead(width, self.width, actions, returns, key=key)


class DuelingHead(eqx.Module):
    """Q(s, a) = V(s) + A(s, a) - mean_a A(s, a), for each of the numbers that `returns` makes a distribution of.

    Subtracting the mean makes V and A identifiable. Source: Wang et al. 2016 (arXiv 1511.06581), eq. 9.
    """

    value: tuple[MLP, Linear]
    advantage: tuple[MLP, Linear]
    returns: ToReturns

    def __init__(self, width: int, hidden: int, actions: int, returns: ToReturns, *, key: Key):
        keys = jax.random.split(key, 4)
        widths = (hidden,) if hidden else ()
        last = hidden or width
        self.returns = returns
        self.value = MLP(width, widths, key=keys[0]), Linear(last, returns.numbers, key=keys[1])
        self.advantage = MLP(width, widths, key=keys[2]), Linear(last, actions * returns.numbers, key=keys[3])

    @property
    def words(self) -> int:
        return self.returns.words

    def __call__(
        self,
        embedding: Float[Array, "width"],
        offered: Float[Array, "actions features"] | None = None,
        allowed: Bool[Array, "actions"] | None = None,
        bits: UInt32[Array, "words"] | None = None,
    ) -> Returns:
        (value_hidden, value), (advantage_hidden, advantage) = self.value, self.advantage

        def rows(seen: Array) -> tuple[Array, Array]:
            gains = advantage(advantage_hidden(seen)).reshape(-1, self.returns.numbers)
            numbers = value(value_hidden(seen)) + gains - gains.mean(0)
            return numbers, jnp.zeros((0, len(numbers)))

        return self.returns(rows, embedding, bits)
