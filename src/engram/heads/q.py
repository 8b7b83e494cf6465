"""`q` and `dueling`: the heads of DQN."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from engram.errors import SpecError
from engram.heads.returns import OfReturns, ScalarSpec, ToReturns
from engram.nn.layers import MLP, Linear
from engram.nn.noisy import Drawing, NoisyLinear, NoisyMLP
from engram.ranges import Log, OneOf
from engram.registry import name_of, register
from engram.specs import part, setting, spec
from engram.types import Key, Returns

NOISE = "noisy layers (Fortunato et al. 2018): the noise of a weight at the start, 0.5 in the source; 0 for none"
Stream = tuple[MLP | NoisyMLP, Linear | NoisyLinear]


@register("head", "q")
@spec
class QSpec(OfReturns):
    """One linear layer gives Q of every action."""

    noise: float = setting(0.0, NOISE, low=0, search=Log(0.1, 1.0))
    returns: Any = part("returns", ScalarSpec(), "what is predicted of the return")

    reads_offered = False

    def build(self, width: int, actions: int, key: Key, offered: int = 0) -> "QHead":
        returns = self.returns.build(width, jax.random.fold_in(key, 1))
        return QHead(_linear(width, actions * returns.numbers, self.noise, key), returns)


class QHead(Drawing):
    """Q(s, .) = W embedding + b."""

    linear: Linear | NoisyLinear
    returns: ToReturns

    @property
    def parts(self) -> tuple[Any, ...]:
        return self.returns, self.linear

    def __call__(
        self,
        embedding: Float[Array, "width"],
        offered: Float[Array, "actions features"] | None = None,
        allowed: Bool[Array, "actions"] | None = None,
        bits: UInt32[Array, "words"] | None = None,
    ) -> Returns:
        drawn, noise = self.dealt(bits)

        def rows(seen: Array) -> tuple[Array, Array]:
            numbers = self.linear(seen, noise).reshape(-1, self.returns.numbers)
            return numbers, jnp.zeros((0, len(numbers)))

        return self.returns(rows, embedding, drawn)


@register("head", "dueling")
@spec
class DuelingSpec(OfReturns):
    """A value and an advantage for every action, from two streams."""

    width: int = setting(0, "units of a hidden layer in each stream; 0 for none", low=0, search=OneOf(0, 64, 128, 256))
    noise: float = setting(0.0, NOISE, low=0, search=Log(0.1, 1.0))
    returns: Any = part("returns", ScalarSpec(), "what is predicted of the return")

    reads_offered = False

    def build(self, width: int, actions: int, key: Key, offered: int = 0) -> "DuelingHead":
        returns = self.returns.build(width, jax.random.fold_in(key, 1))
        return DuelingHead(width, self.width, actions, returns, noise=self.noise, key=key)


class DuelingHead(Drawing):
    """Q(s, a) = V(s) + A(s, a) - mean_a A(s, a), for each of the numbers that `returns` makes a distribution of.

    Subtracting the mean makes V and A identifiable. Source: Wang et al. 2016 (arXiv 1511.06581), eq. 9.
    """

    value: Stream
    advantage: Stream
    returns: ToReturns

    def __init__(self, width: int, hidden: int, actions: int, returns: ToReturns, *, noise: float = 0.0, key: Key):
        keys = jax.random.split(key, 4)
        self.returns = returns
        self.value = _stream(width, hidden, returns.numbers, noise, keys[:2])
        self.advantage = _stream(width, hidden, actions * returns.numbers, noise, keys[2:])

    @property
    def parts(self) -> tuple[Any, ...]:
        return self.returns, *self.value, *self.advantage

    def __call__(
        self,
        embedding: Float[Array, "width"],
        offered: Float[Array, "actions features"] | None = None,
        allowed: Bool[Array, "actions"] | None = None,
        bits: UInt32[Array, "words"] | None = None,
    ) -> Returns:
        (value_hidden, value), (advantage_hidden, advantage) = self.value, self.advantage
        drawn, *noise = self.dealt(bits)

        def rows(seen: Array) -> tuple[Array, Array]:
            gains = advantage(advantage_hidden(seen, noise[2]), noise[3]).reshape(-1, self.returns.numbers)
            numbers = value(value_hidden(seen, noise[0]), noise[1]) + gains - gains.mean(0)
            return numbers, jnp.zeros((0, len(numbers)))

        return self.returns(rows, embedding, drawn)


def _linear(inputs: int, outputs: int, noise: float, key: Key) -> Linear | NoisyLinear:
    return NoisyLinear(inputs, outputs, noise, key=key) if noise else Linear(inputs, outputs, key=key)


def _stream(width: int, hidden: int, outputs: int, noise: float, keys: Array) -> Stream:
    widths = (hidden,) if hidden else ()
    first = NoisyMLP(width, widths, noise, key=keys[0]) if noise else MLP(width, widths, key=keys[0])
    return first, _linear(hidden or width, outputs, noise, keys[1])


def check_without_policy(inner: dict[str, Any]) -> None:
    """Raises SpecError for a head inside of another, by the path of its setting, that has a policy of its own, or gives
    something else than a number for each action.
    """
    for path, head in inner.items():
        if head.has_policy:
            name = name_of("head", type(head))
            raise SpecError(f"{path}={name} has a policy of its own; set {path}=q, dueling or attention")
        if head.decouples:
            raise SpecError(
                f"{path}=decoupled gives the value of an action as the mean of its numbers' values, of which a policy "
                f"makes none of its own; set {path}=q, dueling or attention"
            )
        if head.predicts != "number":
            raise SpecError(
                f"{path} gives one number for each action, but {path}.returns gives a distribution; set "
                f"{path}.returns=scalar"
            )
