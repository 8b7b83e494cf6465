"""Rows in and out of a ring, lane by lane, for savers: slices are copied, and no view of a buffer survives a call.

A live zero-copy view of a donated buffer would make the next write copy the whole ring (seconds for gigabytes).
A ring may have a leading axis of seeds; lanes then count through seeds first: lane = seed * envs + env.

An agent may keep several rings. A saver knows one capacity, that of the first: lanes of a later ring come behind those
of the rings before it, each cut into pieces of at most that many rows. A later ring is filled once, not written around
its end: `cursors` refuses one that was.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from engram.errors import CheckpointError
from engram.replay.ring import Ring, Rows, turn_of
from engram.trees import named
from engram.types import TimeStep

CHUNK = 1024  # rows written back at a time; one size, so that one program serves every block


def capacity(rows: Rows) -> int:
    """Rows kept per lane."""
    return _capacity(rows[0])


def _capacity(ring: Ring) -> int:
    return ring.rows.action.shape[-2]


def _pieces(rows: Rows, ring: Ring) -> int:
    """Lanes that a saver sees for each lane of one of the rings."""
    return -(-_capacity(ring) // capacity(rows))


def cursors(rows: Rows) -> np.ndarray:
    """Rows ever written, over all turns, int64 [lanes].

    Raises: CheckpointError where a later ring was written around its end.
    """
    size = capacity(rows)
    own, *further = map(_cursors, rows)
    for ring, count in zip(rows[1:], further, strict=True):
        if (count > _capacity(ring)).any():
            raise CheckpointError(
                f"a ring behind the first holds {_capacity(ring):,} rows and {count.max():,} were written; such a ring "
                "can be saved only while nothing in it is overwritten"
            )
    starts = (np.arange(_pieces(rows, ring)) * size for ring in rows[1:])
    pieces = (np.clip(count[:, None] - start, 0, size) for count, start in zip(further, starts, strict=True))
    return np.concatenate([own, *(piece.reshape(-1) for piece in pieces)])


def _cursors(ring: Ring) -> np.ndarray:
    turns = np.array(ring.turns, np.int64) * turn_of(_capacity(ring))
    return (np.array(ring.cursor, np.int64) + turns).reshape(-1)


class _Home(NamedTuple):
    """Where a saver's lane lies."""

    ring: int
    lane: int
    first: int  # the number that its first row has there


def _home(rows: Rows, lane: int) -> _Home:
    for number, ring in enumerate(rows):
        pieces = _pieces(rows, ring)
        if lane < ring.cursor.size * pieces:
            return _Home(number, lane // pieces, lane % pieces * capacity(rows))
        lane -= ring.cursor.size * pieces
    raise IndexError(lane)


def read_rows(rows: Rows, lane: int, start: int, stop: int) -> dict[str, np.ndarray]:
    """Rows start..stop-1 of one lane as named columns [stop - start, ...], copied."""
    home = _home(rows, lane)
    ring = rows[home.ring]
    place = (home.first + np.arange(start, stop)) % _capacity(ring)
    seed, env = divmod(home.lane, ring.rows.action.shape[-1])
    seeds = ring.cursor.ndim == 2
    columns = {}
    for name, column in named(ring.rows).items():
        source = _viewed(column)
        columns[name] = np.array(source[seed, place, env] if seeds else source[place, env])
        del source
    return columns


def _viewed(column: Any) -> Any:
    """The column without a copy where that is possible: on the CPU."""
    on_cpu = next(iter(column.devices())).platform == "cpu"
    # from_dlpack makes a view that dies with its user; np.asarray would leave one cached in the array.
    return np.from_dlpack(column) if on_cpu else column


def write_rows(ring: Ring, lane: int, start: int, columns: dict[str, np.ndarray]) -> Ring:
    """The ring with rows start.. of one lane put back in place. The cursor is the caller's."""
    count = len(columns["action"])
    for first in range(0, count, CHUNK):
        taken = min(CHUNK, count - first)
        padded = [_pad(columns[name][first : first + taken]) for name in named(ring.rows)]
        rows = jax.tree.unflatten(jax.tree.structure(ring.rows), padded)
        place = (start + first) % _capacity(ring)
        ring = _put(ring, rows, jnp.int32(lane), jnp.int32(place), jnp.int32(taken))
    return ring


def _pad(column: np.ndarray) -> np.ndarray:
    out = np.zeros((CHUNK, *column.shape[1:]), column.dtype)
    out[: len(column)] = column
    return out


Blocks = Iterable[tuple[int, int, dict[str, np.ndarray]]]  # lane, number of the first row, columns


def fill(rows: Rows, cursors: np.ndarray, blocks: Blocks) -> Rows:
    """Empty rings with the rows of saved ones put back, and the cursors of their lanes."""
    rings = list(rows)
    for lane, start, columns in blocks:
        home = _home(rows, lane)
        rings[home.ring] = write_rows(rings[home.ring], home.lane, home.first + start, columns)
    counts = [ring.cursor.size * _pieces(rows, ring) for ring in rings]
    of_rings = np.split(cursors, np.cumsum(counts)[:-1])
    return tuple(
        _with_cursors(ring, known.reshape(ring.cursor.size, -1).sum(1))
        for ring, known in zip(rings, of_rings, strict=True)
    )


def _with_cursors(ring: Ring, cursors: np.ndarray) -> Ring:
    turn = turn_of(_capacity(ring))
    turns = np.maximum(cursors // turn - 1, 0).reshape(ring.cursor.shape)  # as `renumbered` leaves them
    cursor = cursors.reshape(ring.cursor.shape) - turns * turn
    return Ring(ring.rows, jnp.asarray(cursor, jnp.int32), jnp.asarray(turns, jnp.int32))


@partial(jax.jit, donate_argnums=0)
def _put(ring: Ring, rows: TimeStep, lane: jax.Array, start: jax.Array, count: jax.Array) -> Ring:
    offset = jnp.arange(CHUNK)
    place = jnp.where(offset < count, (start + offset) % _capacity(ring), _capacity(ring))
    seed, env = jnp.divmod(lane, ring.rows.action.shape[-1])
    index = (seed, place, env) if ring.cursor.ndim == 2 else (place, env)
    put = jax.tree.map(lambda column, new: column.at[index].set(new, mode="drop"), ring.rows, rows)
    return Ring(put, ring.cursor, ring.turns)
