"""Categories and text as tokens: an embedding for each, and attention over them."""

from math import prod
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram import spaces
from engram.encoders.parts import Parts, number_parts
from engram.errors import SpaceError
from engram.nn.attention import AttentionPooling, SelfAttention, check_heads, received
from engram.nn.layers import MLP, normalised
from engram.nn.observation import scaled
from engram.ranges import OneOf
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Encoding, Key

MOST_TOKENS = 1024  # self-attention holds their square, for every head and example: 4 MB each at this number


@register("encoder", "tokens")
@spec
class TokensSpec:
    """One token for each category and symbol, self-attention among them, then attention pooling."""

    token_width: int = setting(64, "length of a token", low=1, search=OneOf(32, 64, 128))
    layers: int = setting(1, "blocks of self-attention", low=0, search=OneOf(1, 2, 3))
    heads: int = setting(4, "attention heads; they must divide token_width", low=1)
    width: int = setting(128, "units of the layer after the pooling", low=1, search=OneOf(64, 128, 256))
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

    def parts(self, space: spaces.Space, stack: int) -> Parts:
        """The categories and symbols of every frame."""
        return number_parts(space, stack, attended=True)


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
        category c               table[c] + identity, of very many: the sum of the rows of c's digits + identity

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
        categories = sum(_vocabulary(leaf, spaces.one_hot(space)).rows for leaf in leaves)
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
                directions = self.directions[number : number + places]  # type: ignore[index]
                x = scaled(leaf, value.reshape(-1, *leaf.shape)).reshape(value.shape)
                parts.append(x[..., None] * directions)
                number += places
            else:
                vocabulary = _vocabulary(leaf, spaces.one_hot(self.space))
                parts.append(_embedded(self.table, vocabulary, category, _from_zero(leaf, value)))  # type: ignore[arg-type]
                category += vocabulary.rows
        tokens = jnp.concatenate(parts, axis=1) + self.identity
        tokens = tokens.reshape(-1, tokens.shape[-1])
        texts = any(isinstance(leaf, spaces.Text) for leaf in leaves)
        return tokens, jnp.concatenate(known, axis=1).reshape(-1) if texts else None


def _from_zero(leaf: spaces.Leaf, value: Int[Array, "stack places"]) -> Int[Array, "stack places"]:
    """Categories as numbers from 0 on: the symbols of a text begin at 1, after 0 for nothing."""
    value = value.astype(jnp.int32)
    return jnp.maximum(value - 1, 0) if isinstance(leaf, spaces.Text) else value


class Vocabulary(NamedTuple):
    """The rows of a table that a leaf reads. A place reads one row for each digit of its category, mostly one."""

    begins: Int[np.ndarray, "digits places"]  # of the rows of a digit, counted from the leaf's first
    there: Bool[np.ndarray, "digits places"]  # whether a place has this digit
    bases: Int[np.ndarray, "places"]
    rows: int


def _vocabulary(leaf: spaces.Leaf, most: int) -> Vocabulary:
    """Where each place of a leaf reads. Places of equally many categories share their rows."""
    if isinstance(leaf, spaces.Box):
        sizes = ()
    else:
        sizes = (leaf.symbols,) * leaf.length if isinstance(leaf, spaces.Text) else spaces.categories(leaf)
    told = [(n, 1) if isinstance(leaf, spaces.Text) else spaces.digits(n, most) for n in sizes]
    first, rows = {}, 0
    for n, (base, count) in zip(sizes, told, strict=True):
        if n not in first:
            first[n], rows = rows, rows + base * count
    place = np.arange(max((count for _, count in told), default=1))[:, None]
    bases, counts = np.array(told, np.int32).reshape(-1, 2).T
    begins = np.array([first[n] for n in sizes], np.int32) + place * bases
    return Vocabulary(begins.astype(np.int32), place < counts, bases, rows)


def _embedded(
    table: Float[Array, "rows width"], vocabulary: Vocabulary, first: int, category: Int[Array, "stack places"]
) -> Float[Array, "stack places width"]:
    """The row of each category, the leaf's rows beginning at `first`; of very many, the sum of those of its digits."""
    if len(vocabulary.begins) == 1:
        return table[category + (first + vocabulary.begins[0])]
    total = jnp.zeros((*category.shape, table.shape[1]))
    for begin, there in zip(vocabulary.begins, vocabulary.there, strict=True):
        row = table[jnp.where(there, category % vocabulary.bases + (first + begin), 0)]
        total, category = total + jnp.where(there[:, None], row, 0.0), category // vocabulary.bases
    return total
