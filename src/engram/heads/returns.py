"""What a head predicts of the return of each action: a number, probabilities of fixed atoms, or quantiles.

A head makes a few numbers for each action out of an embedding; this part makes their distribution. So each kind goes
with every head.

    @register("returns", "mine")
    @spec
    class MySpec:
        predicts = "quantiles"

        def build(self, width, key): ...
"""

from collections.abc import Callable
from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from engram.bits import uniform
from engram.errors import SpecError
from engram.nn.layers import Linear, cos_pi, repeated
from engram.ranges import OneOf
from engram.registry import declare, register
from engram.specs import setting, spec
from engram.types import Key, Kind, Returns

Attention = Float[Array, "heads actions"]
Rows = Callable[[Float[Array, "width"]], tuple[Float[Array, "actions numbers"], Attention]]


class ReturnsSpec(Protocol):
    """What was chosen about the distribution of returns."""

    predicts: Kind  # what a loss must be able to compare
    limits: tuple[float, float] | None  # the least and the greatest return that it can tell; None if left out

    def build(self, width: int, key: Key) -> "ToReturns":
        """The module for embeddings of `width` numbers."""
        ...


class ToReturns(Protocol):
    """A module: its arrays are learned, everything else is static."""

    numbers: int  # that the head makes for each action
    words: int  # random 32-bit words that one call takes

    def __call__(self, rows: Rows, embedding: Float[Array, "width"], bits: UInt32[Array, "words"] | None) -> Returns:
        """The distributions. `rows`: the head's numbers for an embedding, and its attention."""
        ...


class OfReturns:
    """The base of the spec of a head that has `returns`: it predicts what they do."""

    returns: Any

    @property
    def predicts(self) -> Kind:
        return self.returns.predicts

    @property
    def limits(self) -> tuple[float, float] | None:
        return self.returns.limits


# -- a number --------------------------------------------------------------------------------------------------------


@register("returns", "scalar")
@spec
class ScalarSpec:
    """The mean return: one atom."""

    predicts = "number"
    limits = None

    def build(self, width: int, key: Key) -> "Scalar":
        return Scalar()


class Scalar(eqx.Module):
    """One atom of probability 1."""

    numbers = 1
    words = 0

    def __call__(self, rows: Rows, embedding: Float[Array, "width"], bits: Any = None) -> Returns:
        atoms, attention = rows(embedding)
        return Returns(atoms, jnp.zeros_like(atoms), attention)


# -- probabilities of fixed atoms ------------------------------------------------------------------------------------


@register("returns", "categorical")
@spec
class CategoricalSpec:
    """Probabilities of returns that are fixed, evenly spaced from low to high. Source: Bellemare et al. 2017."""

    atoms: int = setting(51, "returns that have a probability", low=2, search=OneOf(21, 51, 101))
    low: float = setting(-10.0, "the least of them, in units of return as it is learned")
    high: float = setting(10.0, "the greatest of them")

    predicts = "fixed"

    @property
    def limits(self) -> tuple[float, float]:
        return self.low, self.high

    def check(self) -> None:
        if self.low >= self.high:
            raise SpecError(
                f"head.returns.low = {self.low} is not below head.returns.high = {self.high}; give a range that holds "
                f"the returns"
            )

    def build(self, width: int, key: Key) -> "Categorical":
        return Categorical(self.atoms, self.low, self.high)


class Categorical(eqx.Module):
    """softmax of the head's numbers over atoms z_i = low + i (high - low) / (n - 1).

    Source: Bellemare et al. 2017 (arXiv 1707.06887), section 4.1.
    """

    numbers: int = eqx.field(static=True)
    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)

    words = 0

    def __call__(self, rows: Rows, embedding: Float[Array, "width"], bits: Any = None) -> Returns:
        logits, attention = rows(embedding)
        atoms = jnp.linspace(self.low, self.high, self.numbers)
        return Returns(jnp.broadcast_to(atoms, logits.shape), logits, attention)


# -- quantiles -------------------------------------------------------------------------------------------------------


@register("returns", "quantile")
@spec
class QuantileSpec:
    """Quantiles of the return at fixed levels. Source: Dabney et al. 2018, QR-DQN."""

    quantiles: int = setting(
        51, "levels, the middles of as many equal parts of 0..1", low=1, search=OneOf(25, 51, 101, 200)
    )

    predicts = "quantiles"
    limits = None

    def build(self, width: int, key: Key) -> "Quantile":
        return Quantile(self.quantiles)


class Quantile(eqx.Module):
    """The head's numbers are the returns below which a share of (i + 1/2) / n lies.

    Source: Dabney et al. 2018 (arXiv 1710.10044), section 3.
    """

    numbers: int = eqx.field(static=True)

    words = 0

    def __call__(self, rows: Rows, embedding: Float[Array, "width"], bits: Any = None) -> Returns:
        atoms, attention = rows(embedding)
        levels = (jnp.arange(self.numbers) + 0.5) / self.numbers
        return Returns(atoms, jnp.zeros_like(atoms), attention, jnp.broadcast_to(levels, atoms.shape))


@register("returns", "implicit")
@spec
class ImplicitSpec:
    """Quantiles of the return at levels drawn anew for each look. Source: Dabney et al. 2018, IQN."""

    samples: int = setting(16, "levels drawn for each look", low=1, search=OneOf(8, 16, 32))
    cosines: int = setting(64, "cosines that a level is embedded by", low=1)

    predicts = "quantiles"
    limits = None

    def build(self, width: int, key: Key) -> "Implicit":
        return Implicit(self.samples, Linear(self.cosines, width, key=key))


class Implicit(eqx.Module):
    """The head sees embedding * relu(W cos(pi i tau) + b) for each level tau, i = 0, 1, ..., and gives one number.

    Levels are stratified: the k-th of n lies in the k-th of n equal parts of 0..1, so that their mean is nearer the
    mean return than that of independent ones; each is uniform in its part. The source draws them independently, and
    takes 32 for acting and 64 or 8 for learning; here all looks take as many.

    Source: Dabney et al. 2018 (arXiv 1806.06923), eq. 4 and section 3.
    """

    words: int = eqx.field(static=True)
    level: Linear

    numbers = 1

    def __call__(
        self, rows: Rows, embedding: Float[Array, "width"], bits: UInt32[Array, "words"] | None = None
    ) -> Returns:
        drawn = jnp.full(self.words, 0.5) if bits is None else uniform(bits)
        levels = (jnp.arange(self.words) + drawn) / self.words
        waves = cos_pi(jnp.arange(self.level.weight.shape[1]) * levels[:, None])
        # Levels come first in this product: XLA would transpose the result of the other, and all that is made of it.
        seen = repeated(self.words, embedding) * jax.nn.relu(waves @ self.level.weight.T + self.level.bias)
        numbers, attention = jax.vmap(rows)(seen)  # [samples, actions, 1]
        atoms = numbers[..., 0].T
        return Returns(atoms, jnp.zeros_like(atoms), attention.mean(0), jnp.broadcast_to(levels, atoms.shape))


declare("returns", limits=None)
# A head has the limits of its returns. One with a policy gives `Returns.policy`. One with twins gives `Returns.twins`,
# too, and keeps the logarithm of a temperature that is learned with them. One that `decouples` has returns for each
# value of each number of an action, of which there are `sizes`.
declare("head", limits=None, has_policy=False, has_twins=False, decouples=False, sizes=())
