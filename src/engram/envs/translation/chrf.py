"""chrF of one sentence, as array functions: what a translation scores so far.

chrF is the F2 score of character n-grams, n = 1 to 6, averaged over n; spaces do not count. The numbers are those of
sacrebleu's `sentence_chrf`, divided by 100.

Source: Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation"; Post 2018 (arXiv 1804.08771).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

ORDER = 6
BETA = 2.0


class Counts(NamedTuple):
    """N-grams of a hypothesis, of its reference, and of both. Axis [order]: n = 1 to 6."""

    hypothesis: Int[Array, "order"]
    reference: Int[Array, "order"]
    matched: Int[Array, "order"]  # each n-gram counts as often as the rarer of the two texts has it


def counts(hypothesis: Int[Array, "letters"], reference: Int[Array, "others"]) -> Counts:
    """The n-grams of two texts of code points; 0 stands after the last letter of each.

    The i-th n-gram of the hypothesis is matched if it has come less often before than the reference has it. All pairs
    of places are compared: for texts of some hundred letters that is nearer to what a processor does well than a table
    of n-grams.
    """
    other = _equal(hypothesis, reference)
    own = _equal(hypothesis, hypothesis)
    earlier = jnp.tri(len(hypothesis), k=-1, dtype=bool)
    matched, first_other, first_own = [], other, own
    for order in range(ORDER):
        if order:
            other = other & _ahead(first_other, order)
            own = own & _ahead(first_own, order)
        before = (own & earlier).sum(1, dtype=jnp.int32)
        matched.append((before < other.sum(1, dtype=jnp.int32)).sum(dtype=jnp.int32))
    return Counts(_grams(hypothesis), _grams(reference), jnp.stack(matched))


def _equal(one: Int[Array, "rows"], other: Int[Array, "columns"]) -> Bool[Array, "rows columns"]:
    return (one[:, None] == other[None]) & (one > 0)[:, None]


def _ahead(pairs: Bool[Array, "rows columns"], by: int) -> Bool[Array, "rows columns"]:
    """Whether the letters `by` places further on are equal."""
    return jnp.pad(pairs[by:, by:], ((0, by), (0, by)))


def _grams(text: Int[Array, "letters"]) -> Int[Array, "order"]:
    return jnp.maximum((text > 0).sum(dtype=jnp.int32) - jnp.arange(ORDER), 0)


def score(found: Counts) -> Float[Array, ""]:
    """chrF, 0 to 1: the F-score of mean precision and mean recall over the orders that both texts have."""
    both = (found.hypothesis > 0) & (found.reference > 0)
    orders = jnp.maximum(both.sum(), 1)
    hits = jnp.where(both, found.matched, 0).astype(jnp.float32)
    precision = (hits / jnp.maximum(found.hypothesis, 1)).sum() / orders
    recall = (hits / jnp.maximum(found.reference, 1)).sum() / orders
    below = BETA**2 * precision + recall
    return jnp.where(below > 0, (1 + BETA**2) * precision * recall / jnp.where(below > 0, below, 1.0), 0.0)


def sentence_chrf(hypothesis: Int[Array, "letters"], reference: Int[Array, "others"]) -> Float[Array, ""]:
    """chrF of two texts of code points, 0 to 1."""
    return score(counts(hypothesis, reference))
