"""`q` and `dueling`: the heads of DQN. One number for each action."""

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, UInt32

from engram.heads.head import scalar
from engram.nn.layers import MLP, Linear
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Key, Returns


@register("head", "q")
@spec
class QSpec:
    """One linear layer gives Q of every action."""

    reads_offered = False

    def build(self, width: int, actions: int, key: Key, offered: int = 0) -> "QHead":
        return QHead(Linear(width, actions, key=key))


class QHead(eqx.Module):
    """Q(s, .) = W embedding + b."""

    linear: Linear

    words = 0

    def __call__(
        self,
        embedding: Float[Array, "width"],
        offered: Float[Array, "actions features"] | None = None,
        allowed: Bool[Array, "actions"] | None = None,
        bits: UInt32[Array, "words"] | None = None,
    ) -> Returns:
        return scalar(self.linear(embedding))


@register("head", "dueling")
@spec
class DuelingSpec:
    """A value and an advantage for every action, from two streams."""

    width: int = setting(0, "units of a hidden layer in each stream; 0 for none", low=0)

    reads_offered = False

    def build(self, width: int, actions: int, key: Key, offered: int = 0) -> "DuelingHead":
        return DuelingHead(width, self.width, actions, key=key)


class DuelingHead(eqx.Module):
    """Q(s, a) = V(s) + A(s, a) - mean_a A(s, a).

    Subtracting the mean makes V and A identifiable. Source: Wang et al. 2016 (arXiv 1511.06581), eq. 9.
    """

    value: tuple[MLP, Linear]
    advantage: tuple[MLP, Linear]

    words = 0

    def __init__(self, width: int, hidden: int, actions: int, *, key: Key):
        keys = jax.random.split(key, 4)
        widths = (hidden,) if hidden else ()
        last = hidden or width
        self.value = MLP(width, widths, key=keys[0]), Linear(last, 1, key=keys[1])
        self.advantage = MLP(width, widths, key=keys[2]), Linear(last, actions, key=keys[3])

    def __call__(
        self,
        embedding: Float[Array, "width"],
        offered: Float[Array, "actions features"] | None = None,
        allowed: Bool[Array, "actions"] | None = None,
        bits: UInt32[Array, "words"] | None = None,
    ) -> Returns:
        (value_hidden, value), (advantage_hidden, advantage) = self.value, self.advantage
        gains = advantage(advantage_hidden(embedding))
        return scalar(value(value_hidden(embedding)) + gains - gains.mean())
