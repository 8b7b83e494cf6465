"""Running mean and variance of numbers, some of which may be missing."""

from math import prod

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LONGEST = float(1 << 20)  # observations that count: float32 would lose single ones among more
LARGEST = 1e16  # a number beyond this counts as this: squares of larger ones are no float32 numbers
SMALLEST = 1e-30  # variance; below it numbers count as equal
BOUND = 10.0  # of what is normalised, as in Stable-Baselines3's VecNormalize


class Running(eqx.Module):
    """Mean and variance of each of several numbers. An axis of length 1 stands for numbers that share them.

    The newest million observations count most: later ones move the mean as if there had been `LONGEST` before. Numbers
    are counted from `origin`, so that a small spread around a large mean survives float32.

    Source of the update: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", eq. 2.1.
    """

    count: Float[Array, "*shape"]  # observations so far in which the number was present, at most LONGEST
    origin: Float[Array, "*shape"]  # a value near the mean: that of the first observations
    mean: Float[Array, "*shape"]  # from the origin
    variance: Float[Array, "*shape"]

    @classmethod
    def empty(cls, shape: tuple[int, ...] = ()) -> "Running":
        """Nothing counted: numbers are then normalised to themselves."""
        return cls(jnp.zeros(shape), jnp.zeros(shape), jnp.zeros(shape), jnp.ones(shape))

    def updated(self, values: Float[Array, "*values"], present: Bool[Array, "*values"]) -> "Running":
        """With the values that are `present` counted too. Their last axes are those of the mean; shared ones may be
        longer.
        """
        shape = self.count.shape
        own = values.shape[values.ndim - len(shape) :]
        shared = [axis for axis, length in enumerate(shape) if length == 1]
        axes = (*range(values.ndim - len(shape)), *(values.ndim - len(shape) + axis for axis in shared))

        def total(numbers: Float[Array, "*values"]) -> Float[Array, "*shape"]:
            return numbers.sum(axes).reshape(shape)

        number = total(present.astype(jnp.float32))
        some = jnp.maximum(number, 1.0)
        known = jnp.where(present, values, 0.0).clip(-LARGEST, LARGEST)
        origin = jnp.where(self.count > 0, self.origin, total(known) / some)
        apart = jnp.where(present, known - origin, 0.0)
        mean = total(apart) / some
        variance = total(jnp.where(present, (apart - mean) ** 2, 0.0)) / some
        new = number / prod(own[axis] for axis in shared)
        share = new / jnp.where(new > 0, self.count + new, 1.0)
        gap = mean - self.mean
        return Running(
            count=jnp.minimum(self.count + new, LONGEST),
            origin=origin,
            mean=self.mean + share * gap,
            variance=(1 - share) * self.variance + share * variance + share * (1 - share) * gap**2,
        )

    def normalised(self, values: Float[Array, "*values"]) -> Float[Array, "*values"]:
        """(value - mean) / standard deviation, within +-BOUND; a missing value stays NaN."""
        apart = values.clip(-LARGEST, LARGEST) - self.origin - self.mean
        return (apart / jnp.sqrt(jnp.maximum(self.variance, SMALLEST))).clip(-BOUND, BOUND)
