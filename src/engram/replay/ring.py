"""The replay ring: rows of time, one lane per environment, written in place.

Row number r of a lane lives at r % capacity, so a row number names an experience and its place for as long as it is
kept. A lane that has counted far begins anew with smaller numbers for the same places (`renumbered`); `turns` counts
how often, for whoever needs numbers that only ever rise, such as a checkpoint. Rows are what `TimeStep` says; no
observation is stored twice, and a stack of frames is a view (sampling.py). A step that ends an episode writes two rows,
the step and the final observation: lanes then hold different numbers of rows, which is why each has its own cursor.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from engram import spaces
from engram.types import TimeStep


class Ring(eqx.Module):
    """`rows` has leading axes [capacity, envs]; `cursor` counts the rows of each lane, ever since its last turn."""

    rows: TimeStep
    cursor: Int[Array, "*seeds envs"]
    turns: Int[Array, "*seeds envs"]

    def __init__(
        self, rows: TimeStep, cursor: Int[Array, "*seeds envs"], turns: Int[Array, "*seeds envs"] | None = None
    ):
        self.rows, self.cursor = rows, cursor
        self.turns = jnp.zeros_like(cursor) if turns is None else turns

    @property
    def capacity(self) -> int:
        """Rows kept per lane."""
        return self.rows.action.shape[0]

    @property
    def envs(self) -> int:
        """Lanes."""
        return self.rows.action.shape[1]


Rows = tuple[Ring, ...]  # what checkpoints share of an agent: its own rows first, then what it was given


ROW_BYTES = 1 + 4 + 4 + 1  # is_first, action, reward, terminated; where sides take turns 4 more


def row_nbytes(space: spaces.Space, carry: PyTree = None) -> int:
    """Bytes of one row; `carry` is that of an empty working memory (arrays or their shapes) if rows store it."""
    return spaces.nbytes(space) + ROW_BYTES + sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(carry))


def nbytes(space: spaces.Space, rows: int, carry: PyTree = None) -> int:
    """Bytes that a ring of `rows` rows (over all lanes) takes.

    A million 84 x 84 frames, of which agents see stacks of four, are 7.1 GB.
    """
    return rows * row_nbytes(space, carry)


def empty(space: spaces.Space, capacity: int, envs: int, carry: PyTree = None, turns: bool = False) -> Ring:
    """A ring of `capacity` rows for each of `envs` lanes, nothing written. `carry`: see `row_nbytes`.

    `turns`: whether rows keep a sign.
    """
    leading = (capacity, envs)
    observation = spaces.map_space(lambda leaf: jnp.zeros((*leading, *leaf.shape), leaf.dtype), space)
    rows = TimeStep(
        observation=observation,
        is_first=jnp.zeros(leading, bool),
        action=jnp.zeros(leading, jnp.int32),
        reward=jnp.zeros(leading, jnp.float32),
        terminated=jnp.zeros(leading, bool),
        carry=jax.tree.map(lambda leaf: jnp.zeros((*leading, *leaf.shape), leaf.dtype), carry),
        sign=jnp.zeros(leading, jnp.float32) if turns else None,
    )
    return Ring(rows, jnp.zeros(envs, jnp.int32))


def turn_of(capacity: int) -> int:
    """Rows of a turn: a multiple of the capacity, so that every row keeps its place, and far below 2^31."""
    return capacity * max(1, (1 << 29) // capacity)


def renumbered(ring: Ring) -> Ring:
    """The same ring, in which a lane of two turns has one turn less. A draw never sees it happen in a write."""
    turn = turn_of(ring.capacity)
    over = ring.cursor - turn >= turn
    return Ring(ring.rows, ring.cursor - over * jnp.int32(turn), ring.turns + over)


def numbers(ring: Ring, keep: Bool[Array, "time envs"]) -> Int[Array, "time envs"]:
    """The numbers that new rows get; of one that is not kept, the number of the next that is."""
    return ring.cursor + jnp.cumsum(keep, axis=0) - keep


def write(ring: Ring, rows: TimeStep, keep: Bool[Array, "time envs"]) -> Ring:
    """Appends to each lane those of its new rows (leading axes [time, envs]) that `keep` marks.

    Rows that are not kept are scattered past the end, which XLA drops; selecting between the old and the new
    table would copy the table. At most `capacity` rows at a time, so that no place is written twice.
    """
    number = numbers(ring, keep)
    place = jnp.where(keep, number % ring.capacity, ring.capacity)
    lanes = jnp.broadcast_to(jnp.arange(ring.envs), place.shape)

    def put(column: Array, new: Array) -> Array:
        return column.at[place, lanes].set(new.astype(column.dtype), mode="drop", unique_indices=True)

    return Ring(jax.tree.map(put, ring.rows, rows), ring.cursor + keep.sum(0, dtype=jnp.int32), ring.turns)
