"""What every head is: an embedding in, a distribution of the return of each action out.

A spec says what was chosen and builds a module; the module is called once for each observation, `vmap` is outside.

    @register("head", "mine")
    @spec
    class MySpec:
        reads_offered = False
        predicts = "number"

        def build(self, width, actions, key, offered=0): ...

`engram.testing.check_head` holds a head of your own to this page.
"""

from typing import Protocol

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from engram.types import Key, Kind, Returns


class HeadSpec(Protocol):
    """What was chosen about a head."""

    reads_offered: bool  # whether it can tell actions apart by the features that an observation offers of each
    predicts: Kind  # what it gives of a return: a number, probabilities of fixed atoms, or quantiles
    # A head whose atoms are fixed may declare `limits`, the least and the greatest of them: (low, high).

    def build(self, width: int, actions: int, key: Key, offered: int = 0) -> "Head":
        """A head for embeddings of `width` numbers. `offered`: features of each action, 0 for a fixed set."""
        ...


class Head(Protocol):
    """A module: its arrays are learned, everything else is static."""

    @property
    def words(self) -> int:
        """Random 32-bit words that one call takes; 0 for a head without randomness."""
        ...

    def __call__(
        self,
        embedding: Float[Array, "width"],
        offered: Float[Array, "actions features"] | None = None,
        allowed: Bool[Array, "actions"] | None = None,
        bits: UInt32[Array, "words"] | None = None,
    ) -> Returns:
        """The return of each action.

        Args:
          offered: features of each action; None for a fixed set.
          allowed: which actions may be taken; None for all. A head need not read it: whoever acts or bootstraps
            leaves the forbidden actions out.
          bits: `words` random words, new at each call.
        """
        ...


def scalar(q: Float[Array, "actions"], attention: Float[Array, "heads actions"] | None = None) -> Returns:
    """One atom of probability 1 for each action; no heads of attention unless they are given."""
    attention = jnp.zeros((0, q.shape[0])) if attention is None else attention
    return Returns(q[:, None], jnp.zeros((q.shape[0], 1)), attention)
