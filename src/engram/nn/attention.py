"""Attention: scores, masks, weights, and the modules that learn them.

Queries and keys are matrices, one row each, so that scoring is one product of two matrices; axes of heads may stand in
front. A read is two lines, and the weights belong to whoever reads:

    weights = attend(scaled_dot(queries, keys), known)
    read = weights @ values

Masks say what is known: True where a query may look. Weights sum to 1 over what is known, and to 0 where nothing is.
"""

from collections.abc import Callable
from typing import NamedTuple

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


def additive(
    queries: Float[Array, "*heads queries d"],
    keys: Float[Array, "*heads keys d"],
    direction: Float[Array, "*#heads d"],
) -> Float[Array, "*heads queries keys"]:
    """direction . tanh(q + k), for queries and keys that were already projected.

    Takes memory for queries x keys x d numbers. Source: Bahdanau et al. 2015 (arXiv 1409.0473), appendix A.1.2.
    """
    pairs = jnp.tanh(queries[..., :, None, :] + keys[..., None, :, :])
    return jnp.einsum("...qkd,...d->...qk", pairs, direction)


def inverse_distance(
    queries: Float[Array, "*heads queries d"], keys: Float[Array, "*heads keys d"], delta: float = 1e-3
) -> Float[Array, "*heads queries keys"]:
    """The logarithm of the kernel 1 / (|q - k|^2 + delta), so that `attend` gives the kernel over its sum.

    `delta`, in units of a squared distance, must be above 0; the smaller it is, the more a key that equals the query
    takes. Source: Pritzel et al. 2017 (arXiv 1703.01988), eqs. 2 and 5.
    """
    return -jnp.log(squared_distance(queries, keys) + delta)


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


# -- masks: what a query may look at -----------------------------------------------------------------------------


def causal(
    query_steps: Int[Array, "queries"], key_steps: Int[Array, "keys"], window: int | None = None
) -> Bool[Array, "queries keys"]:
    """A query sees keys of its own step and before; of those, with a `window`, only the newest so many steps."""
    age = query_steps[:, None] - key_steps[None, :]
    return (age >= 0) if window is None else (age >= 0) & (age < window)


def episodes(is_first: Bool[Array, "time"]) -> Int[Array, "time"]:
    """A number for the episode that each row belongs to; 0 for the one that was under way before the first row."""
    return jnp.cumsum(is_first.astype(jnp.int32))


def same_episode(
    query_episodes: Int[Array, "queries"], key_episodes: Int[Array, "keys"]
) -> Bool[Array, "queries keys"]:
    """A query sees the keys of its own episode."""
    return query_episodes[:, None] == key_episodes[None, :]


def own_history(is_first: Bool[Array, "time"], window: int | None = None) -> Bool[Array, "time time"]:
    """Each row sees itself and the rows before it in its own episode, with a `window` the newest so many of them."""
    steps, episode = jnp.arange(is_first.shape[0]), episodes(is_first)
    return causal(steps, steps, window) & same_episode(episode, episode)


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


class Chosen(NamedTuple):
    """A read of a few keys. Those that are not known have weight 0, whatever their index says."""

    weights: Float[Array, "*rows k"]
    indices: Int[Array, "*rows k"]  # best first


def choose(
    scores: Float[Array, "*rows keys"], k: int, known: Bool[Array, "..."] | None = None
) -> Int[Array, "*rows k"]:
    """Indices of the k best known keys, best first, among equals the lower index; of all keys where k exceeds them."""
    scores = jax.lax.stop_gradient(scores)
    scores = scores if known is None else jnp.where(known, scores, -jnp.inf)
    return jax.lax.top_k(scores, min(k, scores.shape[-1]))[1]


def attend_top_k(scores: Float[Array, "*rows keys"], k: int, known: Bool[Array, "..."] | None = None) -> Chosen:
    """`attend` over the k best keys only. The choice has no gradient; the weights have."""
    indices = choose(scores, k, known)
    if known is not None:
        known = jnp.take_along_axis(jnp.broadcast_to(known, scores.shape), indices, -1)
    return Chosen(attend(jnp.take_along_axis(scores, indices, -1), known), indices)


def attend_nearest(
    score: Callable[[Array, Array], Array],
    query: Float[Array, "d"],
    keys: Float[Array, "keys d"],
    k: int,
    known: Bool[Array, "keys"] | None = None,
) -> Chosen:
    """`attend_top_k` for one query over many keys: k scores are computed again, so the gradient touches k keys only."""
    indices = choose(score(jax.lax.stop_gradient(query[None]), jax.lax.stop_gradient(keys))[0], k, known)
    return Chosen(attend(score(query[None], keys[indices])[0], None if known is None else known[indices]), indices)


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


def fused(
    queries: Float[Array, "heads queries size"],
    keys: Float[Array, "heads keys size"],
    values: Float[Array, "heads keys size"],
    known: Bool[Array, "#queries keys"] | None = None,
    bias: Float[Array, "#heads queries keys"] | None = None,
) -> Float[Array, "heads queries size"]:
    """`attend(scaled_dot(queries, keys), known, bias) @ values` where nobody asks for the weights.

    JAX picks the accelerator's own kernel if it has one.
    """
    rows = [part.swapaxes(0, 1) for part in (queries, keys, values)]
    shape = (queries.shape[1], keys.shape[1])
    mask = None if known is None else jnp.broadcast_to(known, shape)
    bias = None if bias is None else jnp.broadcast_to(bias, (queries.shape[0], *shape))
    read = jax.nn.dot_product_attention(*rows, bias=bias, mask=None if mask is None else mask[None]).swapaxes(0, 1)
    return read if mask is None else jnp.where(mask.any(-1)[:, None], read, 0)


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
