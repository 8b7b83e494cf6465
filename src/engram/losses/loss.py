"""What every loss is: the distance between two distributions of one action's return.

    @register("loss", "mine")
    @spec
    class MySpec:
        fits = ("number",)

        def __call__(self, predicted, target): ...

`engram.testing.check_loss` holds a loss of your own to this page.
"""

from typing import Protocol

from jaxtyping import Array, Float

from engram.types import Distribution, Kind


class LossSpec(Protocol):
    """What was chosen about a loss; it has no learned weights, so the spec itself is called."""

    fits: tuple[Kind, ...]  # what a head may predict for it: a number, probabilities of fixed atoms, quantiles

    def __call__(self, predicted: Distribution, target: Distribution) -> Float[Array, ""]:
        """A number of at least 0, for one example; `vmap` is outside.

        Args:
          predicted: what the gradient flows into: atoms, or their logits.
          target: a constant for the gradient.
        """
        ...
