"""Attention: scores, weights, and the modules that learn them.

Queries and keys are matrices, one row each, so that scoring is one product of two matrices; axes of heads may stand in
front. A read is two lines, and the weights belong to whoever reads:

    weights = attend(scaled_dot(queries, keys), known)
    read = weights @ values

Masks say what is known: True where a query may look. Weights sum to 1 over what is known, and to 0 where nothing is.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from engram.errors import SpecError
from engram.nn.layers import Linear, normalised
from engram.types import Key

# -- scores: how well each key answers each query ----------------------------------------------------------------


def dot(
    queries: Float[Array, "*heads queries d"], keys: Float[Array, "*heads keys d"]
) -> Float[Array, "*heads queries keys"]:
    """q . k."""
    return jnp.einsum("...qd,...kd->...qk", queries, keys)


def scaled_dot(
    queries: Float[Array, "*heads queries d"], keys: Float[Array, "*heads keys d"]
) -> Float[Array, "*heads queries keys"]:
    """q . k / sqrt(d): for entries of variance 1 the scores have variance 1, whatever d.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), eq. 1.
    """
    return dot(queries * queries.shape[-1] ** -0.5, keys)


def squared_distance(
    queries: Float[Array, "*heads queries d"], keys: Float[Array, "*heads keys d"]
) -> Float[Array, "*heads queries keys"]:
    """|q - k|^2 as |q|^2 - 2 q . k + |k|^2: a product of matrices, where differences would be many times slower.

    Near 0 it is as exact as the rounding of |q|^2 + |k|^2, and never negative.
    """
    # Large terms cancel here: an accelerator's shortened products would leave noise.
    product = jnp.einsum("...qd,...kd->...qk", queries, keys, precision=jax.lax.Precision.HIGHEST)
    lengths = (queries**2).sum(-1)[..., :, None] + (keys**2).sum(-1)[..., None, :]
    return jnp.maximum(lengths - 2 * product, 0)


# -- weights -----------------------------------------------------------------------------------------------------


def attend(
    scores: Float[Array, "*rows keys"],
    known: Bool[Array, "..."] | None = None,
    bias: Float[Array, "..."] | None = None,
) -> Float[Array, "*rows keys"]:
    """Softmax over the known keys: weights sum to 1, or to exactly 0 where nothing is known, also in the gradient.

    `known` and `bias` (added to the scores, such as a term for how far away a key is) broadcast against the scores.
    What is not known has weight 0, and no gradient flows to its score. Divide the scores by a temperature to sharpen
    (< 1) or flatten (> 1) the weights.
    """
    scores = scores if bias is None else scores + bias
    if known is None:
        return jax.nn.softmax(scores)
    # Masked before the softmax, or an unknown score could set the scale; masked again, because where nothing is known
    # the softmax is uniform. The lowest number is finite: a softmax over nothing but infinities is NaN.
    lowest = jnp.finfo(scores.dtype).min
    return jnp.where(known, jax.nn.softmax(jnp.where(known, scores, lowest)), 0)


def choose(
    scores: Float[Array, "*rows keys"], k: int, known: Bool[Array, "..."] | None = None
) -> Int[Array, "*rows k"]:
    """Indices of the k best known keys, best first, among equals the lower index; of all keys where k exceeds them."""
    scores = jax.lax.stop_gradient(scores)
    scores = scores if known is None else jnp.where(known, scores, -jnp.inf)
    return jax.lax.top_k(scores, min(k, scores.shape[-1]))[1]


def received(
    weights: Float[Array, "heads queries keys"], known: Bool[Array, "queries"] | None = None
) -> Float[Array, "heads keys"]:
    """How much each key is attended, averaged over the queries (over those that are known)."""
    if known is None:
        return weights.mean(1)
    return (weights * known[:, None]).sum(1) / jnp.maximum(known.sum(), 1)


# -- heads -------------------------------------------------------------------------------------------------------


def check_heads(heads: int, width: int, names: tuple[str, str] = ("heads", "width")) -> None:
    """Raises SpecError, calling the two numbers by `names`, unless the heads divide the width."""
    if heads < 1 or width % heads:
        near = max(number for number in range(1, max(heads, 1) + 1) if width % number == 0)
        raise SpecError(
            f"{names[0]} = {heads} does not divide {names[1]} = {width}, of which each head takes an equal part; "
            f"set {names[0]} to {near}, or change {names[1]}"
        )


def split_heads(rows: Float[Array, "rows width"], heads: int) -> Float[Array, "heads rows size"]:
    """The features of each row dealt out to the heads, in order: width / heads to each."""
    return rows.reshape(rows.shape[0], heads, -1).swapaxes(0, 1)


def join_heads(parts: Float[Array, "heads rows size"]) -> Float[Array, "rows width"]:
    """The inverse of `split_heads`."""
    return parts.swapaxes(0, 1).reshape(parts.shape[1], -1)


class MultiHeadAttention(eqx.Module):
    """Several reads of the same entries, each through projections of its own, joined by one linear layer.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.2.2. With `uniform` every known entry weighs the same, all
    else equal: the control that tells whether the attention mattered.
    """

    query: Linear
    key_value: Linear  # keys, then values: one product gives both
    output: Linear
    heads: int = eqx.field(static=True)
    uniform: bool = eqx.field(static=True)

    def __init__(self, inputs: int, entries: int, width: int, heads: int, *, uniform: bool = False, key: Key):
        """`inputs` and `entries` are the lengths of a query's and an entry's row; `width` of all heads together.

        Raises SpecError unless the heads divide the width.
        """
        check_heads(heads, width)
        query_key, entry_key, output_key = jax.random.split(key, 3)
        self.query = Linear(inputs, width, key=query_key)
        self.key_value = Linear(entries, 2 * width, key=entry_key)
        self.output = Linear(width, width, key=output_key)
        self.heads, self.uniform = heads, uniform

    def __call__(
        self,
        queries: Float[Array, "queries inputs"],
        entries: Float[Array, "keys entries"],
        known: Bool[Array, "..."] | None = None,
        bias: Float[Array, "..."] | None = None,
    ) -> tuple[Float[Array, "queries width"], Float[Array, "heads queries keys"]]:
        """What each query read, and its weights. `known` ([keys] or [queries keys]) and `bias` are as for `attend`."""
        keys, values = jnp.split(jax.vmap(self.key_value)(entries), 2, axis=-1)
        asked = split_heads(jax.vmap(self.query)(queries), self.heads)
        scores = scaled_dot(asked, split_heads(keys, self.heads))
        weights = attend(jnp.zeros_like(scores), known) if self.uniform else attend(scores, known, bias)
        return jax.vmap(self.output)(join_heads(weights @ split_heads(values, self.heads))), weights


class SelfAttention(eqx.Module):
    """A block of a transformer: every token reads all tokens, then passes through a small MLP; both are added to it.

    Each sees its tokens normalised ("pre-norm"), which needs no warm-up of the step size. Source: Xiong et al. 2020
    (arXiv 2002.04745), with normalisation without parameters and one hidden layer as wide as a token.
    """

    attention: MultiHeadAttention
    hidden: Linear
    output: Linear

    def __init__(self, width: int, heads: int, *, uniform: bool = False, key: Key):
        attention_key, hidden_key, output_key = jax.random.split(key, 3)
        self.attention = MultiHeadAttention(width, width, width, heads, uniform=uniform, key=attention_key)
        self.hidden = Linear(width, width, key=hidden_key)
        self.output = Linear(width, width, key=output_key)

    def __call__(
        self,
        tokens: Float[Array, "tokens width"],
        known: Bool[Array, "..."] | None = None,
        bias: Float[Array, "..."] | None = None,
    ) -> tuple[Float[Array, "tokens width"], Float[Array, "heads tokens tokens"]]:
        """The tokens after the block, and who read whom: [heads, reader, read]."""
        rows = jax.vmap(normalised)(tokens)
        read, weights = self.attention(rows, rows, known, bias)
        tokens = tokens + read
        hidden = jax.nn.relu(jax.vmap(self.hidden)(jax.vmap(normalised)(tokens)))
        return tokens + jax.vmap(self.output)(hidden), weights


class AttentionPooling(eqx.Module):
    """A few learned queries, one for each head, read a set of any size: what makes one vector of many parts.

    A query is compared with the keys as they are: a projection of keys that only fixed queries meet would add nothing.
    """

    queries: Float[Array, "heads width"]
    uniform: bool = eqx.field(static=True)

    def __init__(self, width: int, heads: int, *, uniform: bool = False, key: Key):
        self.queries = jax.random.normal(key, (heads, width))
        self.uniform = uniform

    def __call__(
        self,
        keys: Float[Array, "parts width"],
        values: Float[Array, "parts features"],
        known: Bool[Array, "parts"] | None = None,
    ) -> tuple[Float[Array, "heads features"], Float[Array, "heads parts"]]:
        """What each head read of the values, and its weights. Keys should be of order 1, such as `normalised` ones."""
        scores = scaled_dot(self.queries, keys)
        weights = attend(jnp.zeros_like(scores) if self.uniform else scores, known)
        return weights @ values, weights
