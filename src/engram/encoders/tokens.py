"""Categories and text as tokens: an embedding for each, and attention over them."""

from math import prod

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram import spaces
from engram.errors import SpaceError
from engram.nn.attention import AttentionPooling, SelfAttention, check_heads, received
from engram.nn.layers import MLP, normalised
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Encoding, Key

MOST_TOKENS = 1024  # self-attention holds their square, for every head and example: 4 MB each at this number


@register("encoder", "tokens")
@spec
class TokensSpec:
    """One token for each category and symbol, self-attention among them, then attention pooling."""

    token_width: int = setting(64, "length of a token", low=1)
    layers: int = setting(1, "blocks of self-attention", low=0)
    heads: int = setting(4, "attention heads; they must divide token_width", low=1)
    width: int = setting(128, "units of the layer after the pooling", low=1)
    uniform: bool = setting(False, "control: all tokens weigh the same")

    def check(self) -> None:
        check_heads(self.heads, self.token_width, ("encoder.heads", "encoder.token_width"))

    def build(self, space: spaces.Space, stack: int, key: Key) -> "TokenEncoder":
        for path, leaf in spaces.leaves(space):
            if isinstance(leaf, spaces.Box):
                where = f"{path!r} of the observation" if path else "the observation"
                raise SpaceError(
                    f"encoder=tokens reads categories and text, but {where} is {leaf}; "
                    f"use encoder=features for numbers, or encoder=spatial for images"
                )
        return TokenEncoder(space, stack, self, key=key)


class TokenEncoder(eqx.Module):
    """Tokens -> blocks of self-attention -> attention pooling -> one normalised ReLU layer.

    `Encoding.attention` has the heads of the blocks first (how much each token was read, averaged over its readers) and
    those of the pooling last. Parts are tokens, those of the oldest frame first. The pooling compares normalised
    tokens, and reads them as they are: a number's size would not survive being normalised.
    """

    tokenizer: "Tokenizer"
    blocks: tuple[SelfAttention, ...]
    pooling: AttentionPooling
    dense: MLP
    width: int = eqx.field(static=True)

    def __init__(self, space: spaces.Space, stack: int, chosen, *, key: Key):
        """`chosen` is a spec with the settings of TokensSpec."""
        keys = jax.random.split(key, 3 + chosen.layers)
        self.width, width, heads = chosen.width, chosen.token_width, chosen.heads
        self.tokenizer = Tokenizer(space, stack, width, key=keys[0])
        self.pooling = AttentionPooling(width, heads, uniform=chosen.uniform, key=keys[1])
        self.dense = MLP(heads * width, (chosen.width,), norm=True, key=keys[2])
        self.blocks = tuple(SelfAttention(width, heads, uniform=chosen.uniform, key=key) for key in keys[3:])

    def __call__(self, observation: PyTree) -> Encoding:
        tokens, known = self.tokenizer(observation)
        attention = []
        for block in self.blocks:
            tokens, weights = block(tokens, known)
            attention.append(received(weights, known))
        read, weights = self.pooling(jax.vmap(normalised)(tokens), tokens, known)
        return Encoding(self.dense(read.reshape(-1)), jnp.concatenate([*attention, weights]))


class Tokenizer(eqx.Module):
    """One token for each number, category and symbol of every frame.

        number x at place i      x * direction_i + identity
        category c               table[c] + identity

    where the identity is learned for each frame and place. Categories of one leaf that have equally large vocabularies
    share a table, as the letters of a text and the cards of a game do; all others have their own. Frames share both.
    """

    directions: Float[Array, "numbers width"] | None
    table: Float[Array, "categories width"] | None
    identity: Float[Array, "stack places width"]
    space: spaces.Space = eqx.field(static=True)

    def __init__(self, space: spaces.Space, stack: int, width: int, *, key: Key):
        """Raises SpaceError for more than 1024 tokens."""
        leaves = [leaf for _, leaf in spaces.leaves(space)]
        numbers = sum(prod(leaf.shape) for leaf in leaves if isinstance(leaf, spaces.Box))
        categories = sum(_vocabularies(leaf)[1] for leaf in leaves)
        places = sum(prod(leaf.shape) for leaf in leaves)
        if not 0 < stack * places <= MOST_TOKENS:
            raise SpaceError(
                f"an observation of {stack * places} numbers and categories was given to an encoder that attends over "
                f"each of them, 1 to {MOST_TOKENS}; use encoder=spatial for images, or encoder=vector"
            )
        number_key, category_key, identity_key = jax.random.split(key, 3)
        self.directions = jax.random.normal(number_key, (numbers, width)) if numbers else None
        self.table = jax.random.normal(category_key, (categories, width)) if categories else None
        self.identity = jax.random.normal(identity_key, (stack, places, width))
        self.space = space

    def __call__(self, observation: PyTree) -> tuple[Float[Array, "tokens width"], Bool[Array, "tokens"] | None]:
        """The tokens, and which of them are known: all (None) unless a text can end early."""
        parts, known = [], []
        number = category = 0  # how many directions and rows of the table were used
        leaves = [leaf for _, leaf in spaces.leaves(self.space)]
        for leaf, value in zip(leaves, jax.tree.leaves(observation), strict=True):
            places = prod(leaf.shape)
            value = value.reshape(value.shape[0], places)
            known.append(value > 0 if isinstance(leaf, spaces.Text) else jnp.ones(value.shape, bool))
            if isinstance(leaf, spaces.Box):
                scale = spaces.to_unit(leaf.dtype)
                directions = self.directions[number : number + places]  # type: ignore[index]
                parts.append(value.astype(jnp.float32)[..., None] * scale * directions)
                number += places
            else:
                offsets, size = _vocabularies(leaf)
                index = _from_zero(leaf, value) + (category + offsets)
                parts.append(self.table[index])  # type: ignore[index]
                category += size
        tokens = jnp.concatenate(parts, axis=1) + self.identity
        tokens = tokens.reshape(-1, tokens.shape[-1])
        texts = any(isinstance(leaf, spaces.Text) for leaf in leaves)
        return tokens, jnp.concatenate(known, axis=1).reshape(-1) if texts else None


def _from_zero(leaf: spaces.Leaf, value: Int[Array, "stack places"]) -> Int[Array, "stack places"]:
    """Categories as numbers from 0 on: the symbols of a text begin at 1, after 0 for nothing."""
    value = value.astype(jnp.int32)
    return jnp.maximum(value - 1, 0) if isinstance(leaf, spaces.Text) else value


def _vocabularies(leaf: spaces.Leaf) -> tuple[np.ndarray, int]:
    """Where the table of each place of a leaf begins, counted from the leaf's first row, and the rows of them all."""
    if isinstance(leaf, spaces.Box):
        return np.zeros(0, np.int32), 0
    if isinstance(leaf, spaces.Text):
        return np.zeros(leaf.length, np.int32), leaf.symbols
    sizes = (leaf.n,) if isinstance(leaf, spaces.Discrete) else leaf.nvec
    begins, total = {}, 0
    for size in sizes:
        if size not in begins:
            begins[size], total = total, total + size
    return np.array([begins[size] for size in sizes], np.int32), total
