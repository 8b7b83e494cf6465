"""Randomness, and counters of 32 bits. Randomness: one threefry call per step, from a key that erases itself.

`split` followed by several draws costs a hundred microseconds on a CPU, more than a small update. Every step
therefore draws all its bits at once. The first two words become the next key, so no key is used twice, and earlier
draws cannot be recomputed from a later state. The scheme is the same under `vmap`, and threefry is
stable across versions.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt32

from engram.types import Key


def next_words(key: Key, count: int) -> tuple[Key, UInt32[Array, "count"]]:
    """The next key, and `count` uniform 32-bit words."""
    words = threefry(key, count + 2)
    return words[:2], words[2:]


ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)  # bits, in groups of four rounds


def of_moves(seed: int, time: int, games: Sequence[int]) -> UInt32[Array, "games 2"]:
    """The words that decide what is chance in some games, for their beginning (`time` 0) or one of their moves."""
    words = [np.random.SeedSequence([seed, 0xC4A2, game, time]).generate_state(2, np.uint32) for game in games]
    return jnp.asarray(np.array(words, np.uint32))


def threefry(key: Key, count: int) -> UInt32[Array, "count"]:
    """`jax.random.bits(key, (count,), jnp.uint32)`, word for word, in half the time or less on a CPU.

    JAX loops over the rounds there, and copies all words between two of them.
    """

    def usual(key: Key) -> UInt32[Array, "count"]:
        return jax.random.bits(key, (count,), jnp.uint32)

    return jax.lax.platform_dependent(key, cpu=partial(_halves, count), default=usual)


def _halves(count: int, key: Key) -> UInt32[Array, "count"]:
    """The words in two halves. Without a loop around them XLA would compute them anew wherever some are used."""
    half = -(-count // 2)

    def words(begin: UInt32[Array, ""]) -> UInt32[Array, "half"]:
        return _words(key, begin + jnp.arange(half, dtype=jnp.uint32))

    return jax.lax.map(words, np.array([0, half], np.uint32)).reshape(-1)[:count]


def _words(key: Key, number: UInt32[Array, "words"]) -> UInt32[Array, "words"]:
    """Threefry-2x32 of 20 rounds, the two words of a block joined by XOR. Source: Salmon et al. 2011 (SC '11)."""
    keys = key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA)
    left, right = jnp.broadcast_to(keys[0], number.shape), number + keys[1]
    for group in range(5):
        for turn in ROTATIONS[group % 2]:
            left = left + right
            right = (right << turn | right >> (32 - turn)) ^ left
        left = left + keys[(group + 1) % 3]
        right = right + (keys[(group + 2) % 3] + np.uint32(group + 1))
    return left ^ right


def hashed(seed: UInt32[Array, "2"], count: int) -> UInt32[Array, "count"]:
    """`count` words that depend on the seed alone, its words of any structure (0, 1, 2, ... included).

    An integer hash, two rounds of a 32-bit finalizer with full avalanche: where a threefry draw would cost too much.

    Source of the finalizer's constants: Wellons, "Prospecting for Hash Functions" (2018), `lowbias32`.
    """
    golden = np.uint32(0x9E3779B9)  # 2^32 / golden ratio: successive multiples are far apart in every bit
    offsets = jnp.arange(1, count + 1, dtype=jnp.uint32) * golden
    return _mix(_mix(seed[0] + offsets) ^ seed[1])


def fingerprint(tree: PyTree) -> UInt32[Array, "2"]:
    """64 bits that depend on every number of the tree and its place: trees that differ hardly ever share them.

    Two sums of mixed words, which a processor computes as it reads them.
    """
    total = jnp.zeros(2, jnp.uint32)
    for number, leaf in enumerate(jax.tree.leaves(tree)):
        flat = leaf.reshape(-1)
        if flat.dtype == jnp.float32:
            # -0.0 and 0.0 are equal, and so should be what is made of them. Adding 0.0 a compiler may leave out.
            flat = jax.lax.bitcast_convert_type(jnp.where(flat == 0, 0.0, flat), jnp.uint32)
        words = flat
        seeds = np.array([[2 * number, 0], [2 * number + 1, 0]], np.uint32)
        places = jnp.stack([hashed(jnp.asarray(seed), words.shape[0]) for seed in seeds])
        total = total + _mix(words.astype(jnp.uint32) ^ places).sum(1, dtype=jnp.uint32)
    return _mix(total)


def _mix(word: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    word = (word ^ (word >> 16)) * np.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * np.uint32(0x846CA68B)
    return word ^ (word >> 16)


def uniform(bits: UInt32[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Numbers in [0, 1), multiples of 2^-24, from 32-bit words."""
    return (bits >> 8).astype(jnp.float32) * (1 / (1 << 24))


def below(bits: UInt32[Array, "*shape"], bound: Int[Array, "*#shape"] | int) -> Int[Array, "*shape"]:
    """Integers in 0..bound-1. Their chances differ by at most bound / 2^32 of themselves (modulo bias)."""
    return (bits % jnp.asarray(bound, jnp.uint32)).astype(jnp.int32)


def permutation(bits: UInt32[Array, "count"]) -> Int[Array, "count"]:
    """The numbers 0 to count-1 in an order drawn by as many random words.

    Words are sorted whose low bits are replaced by the numbers themselves, which is several times as fast as sorting
    pairs. Numbers whose high bits are equal stay in order: of n numbers each shares them with n^2 / 2^32 others.
    """
    places = np.uint32((1 << (len(bits) - 1).bit_length()) - 1)
    numbers = jnp.arange(len(bits), dtype=jnp.uint32)
    return (jnp.sort((bits & ~places) | numbers) & places).astype(jnp.int32)


# -- counters --------------------------------------------------------------------------------------------------------

LAST = (1 << 31) - 1  # the largest that 32 bits hold: a run on a fast device is there within the hour
TURN = 1 << 30  # where a counter begins anew that a run of any length must not overflow


def counted(counter: Int[Array, "*any"], more: Any, turn: int = TURN) -> Int[Array, "*any"]:
    """A counter after `more` events. It begins anew at `turn`; `whole` tells which turn it is in."""
    return (counter + more) % turn


def held_back(counter: Int[Array, "*any"], room: int) -> Int[Array, "*any"]:
    """A counter to which `room` more can be added: one that is as far as that stays there."""
    return jnp.minimum(counter, LAST - room)


def whole(shown: int, near: int, turn: int = TURN) -> int:
    """The number nearest to `near` that a counter which begins anew at `turn` shows as `shown`.

    >>> whole(5, near=7 * TURN - 3), whole(5, near=9)
    (7516192773, 5)
    """
    return max(shown, shown + (near - shown + turn // 2) // turn * turn)
