"""Which moves would repeat an earlier position of the game (positional superko), without playing them."""

from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, UInt32


def repeating(position: Any, size: int, names: UInt32[Array, "3 points 2"]) -> Bool[Array, "points"]:
    """Whether a stone of the side to move on each point would make a position that was there before.

    pgx names a position by the exclusive or of a number for what lies on each point, and keeps the names of all
    positions of a game (Zobrist 1970). So a move's name is that of the board, changed where the stone comes and where
    others go. Points that are taken, or where a stone would have no liberty, have no meaning here.

    Args:
      position: pgx's `GameState`; its `board` has the id of a chain at each of its stones, White's negative.
      size: rows of the board.
      names: the number of an empty point, of Black's stone and of White's, for each point.
    """
    board, points = position.board, size * size
    chain, colour = jnp.abs(board) - 1, jnp.sign(board)  # -1 where no stone lies
    mine = jnp.where(position.color == 0, 1, -1)
    at = jnp.arange(points)
    change = names[colour, at] ^ names[0, at]  # from an empty point to what lies there, and back
    gone = _taken(board, size, mine)[:, chain] & (chain >= 0)  # [point of the move, point of the stone]
    after = _xor(names[colour, at]) ^ names[0, at] ^ names[mine, at] ^ _xor(jnp.where(gone[..., None], change, 0))
    return (after[:, None] == position.hash_history).all(-1).any(-1)


def _taken(board: Int[Array, "points"], size: int, mine: Int[Array, ""]) -> Bool[Array, "points chains"]:
    """Whether a stone on each point takes each chain: one of the other side, whose last liberty it is."""
    around = jnp.append(jnp.abs(board), 0)[jnp.asarray(_neighbours(size))]  # 0 is no chain
    touches = (around[..., None] == jnp.arange(1, size * size + 1)).any(1) & (board == 0)[:, None]
    # A chain has the id of one of its stones, counted from 1: so what lies there tells its colour.
    return touches & (touches.sum(0) == 1) & (board * mine < 0)


def _xor(numbers: UInt32[Array, "*rest points 2"]) -> UInt32[Array, "*rest 2"]:
    return lax.reduce(numbers, np.uint32(0), lax.bitwise_xor, (numbers.ndim - 2,))


@cache
def _neighbours(size: int) -> np.ndarray:
    """The points beside each, [points, 4]; size * size for none."""
    place = np.pad(np.arange(size * size).reshape(size, size), 1, constant_values=size * size)
    return np.stack([place[:-2, 1:-1], place[2:, 1:-1], place[1:-1, :-2], place[1:-1, 2:]], -1).reshape(-1, 4)
