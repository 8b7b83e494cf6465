"""`decoupled`: a value for each value of each number of an action, for robots with several motors."""

from math import prod

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from engram.errors import SpecError
from engram.nn.layers import MLP, Linear
from engram.ranges import OneOf
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Key, Returns


@register("head", "decoupled")
@spec
class DecoupledSpec:
    """Q of an action is the mean of a value for each of its numbers. Source: Seyde et al. 2023, DecQN.

    Seven motors of 3 values each are 2,187 joint actions, and 21 values here. What is chosen for one motor cannot
    depend on what is chosen for another in the same step. The joint grid can, and is for few actions.
    """

    sizes: tuple[int, ...] = setting(
        (), "values of each number of an action; () as the environment has them, or one number for single actions"
    )
    width: int = setting(0, "units of a hidden layer; 0 for none", low=0, search=OneOf(0, 64, 128, 256))

    reads_offered = False
    predicts = "number"
    decouples = True

    def check(self) -> None:
        if any(size < 2 for size in self.sizes):
            raise SpecError(f"head.sizes = {self.sizes} was given; each number of an action needs at least 2 values")

    def build(self, width: int, actions: int, key: Key, offered: int = 0) -> "DecoupledHead":
        if self.sizes and prod(self.sizes) != actions:
            raise SpecError(
                f"head.sizes = {','.join(map(str, self.sizes))} are {prod(self.sizes):,} joint actions, but the "
                f"environment has {actions:,}; leave head.sizes out"
            )
        hidden, last = jax.random.split(key)
        sizes = self.sizes if len(self.sizes) > 1 else ()
        first = MLP(width, (self.width,) if self.width else (), key=hidden)
        return DecoupledHead(first, Linear(self.width or width, sum(sizes) or actions, key=last), sizes)


class DecoupledHead(eqx.Module):
    """Q(s, a) = 1/D sum_d Q_d(s, a_d), with all Q_d of one layer.

    Source: Seyde et al. 2023 (arXiv 2210.12566), eq. 3.
    """

    hidden: MLP
    linear: Linear
    sizes: tuple[int, ...] = eqx.field(static=True)  # () for actions of one number: then it is a plain head

    words = 0

    def __call__(
        self,
        embedding: Float[Array, "width"],
        offered: Float[Array, "actions features"] | None = None,
        allowed: Bool[Array, "actions"] | None = None,
        bits: UInt32[Array, "words"] | None = None,
    ) -> Returns:
        q = self.linear(self.hidden(embedding))
        return Returns(q[:, None], jnp.zeros_like(q)[:, None], jnp.zeros((0, q.size)), sizes=self.sizes)
