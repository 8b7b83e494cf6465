"""Rows in and out of a ring, lane by lane, for savers: slices are copied, and no view of a buffer survives a call.

A live zero-copy view of a donated buffer would make the next write copy the whole ring (seconds for gigabytes).
A ring may have a leading axis of seeds; lanes then count through seeds first: lane = seed * envs + env.

Rows of demonstrations (`Beside`) are further lanes behind all these, each cut into pieces of at most the capacity of an
own lane: a saver knows one capacity. They are written once, as every row is.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from engram.replay.ring import Beside, Ring, turn_of
from engram.trees import named
from engram.types import TimeStep

CHUNK = 1024  # rows written back at a time; one size, so that one program serves every block


def capacity(ring: Ring | Beside) -> int:
    """Rows kept per lane."""
    ring = ring.own if isinstance(ring, Beside) else ring
    return ring.rows.action.shape[-2]


def _pieces(rows: Beside) -> int:
    """Lanes that the demonstrations of one seed take."""
    return -(-capacity(rows.given) // capacity(rows))


def cursors(ring: Ring | Beside) -> np.ndarray:
    """Rows ever written, over all turns, int64 [lanes]."""
    if isinstance(ring, Beside):
        size, starts = capacity(ring), np.arange(_pieces(ring)) * capacity(ring)
        given = np.clip(cursors(ring.given)[:, None] - starts, 0, size)
        return np.concatenate([cursors(ring.own), given.reshape(-1)])
    turns = np.array(ring.turns, np.int64) * turn_of(capacity(ring))
    return (np.array(ring.cursor, np.int64) + turns).reshape(-1)


def _behind(rows: Beside, lane: int) -> tuple[int, int] | None:
    """Of a lane that is a piece of demonstrations: their lane, and the number of its first row there."""
    number = lane - rows.own.cursor.size
    if number < 0:
        return None
    seed, piece = divmod(number, _pieces(rows))
    return seed, piece * capacity(rows)


def read_rows(ring: Ring | Beside, lane: int, start: int, stop: int) -> dict[str, np.ndarray]:
    """Rows start..stop-1 of one lane as named columns [stop - start, ...], copied."""
    if isinstance(ring, Beside):
        if (found := _behind(ring, lane)) is not None:
            lane, first = found
            return read_rows(ring.given, lane, first + start, first + stop)
        ring = ring.own
    place = np.arange(start, stop) % capacity(ring)
    seed, env = divmod(lane, ring.rows.action.shape[-1])
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
        place = (start + first) % capacity(ring)
        ring = _put(ring, rows, jnp.int32(lane), jnp.int32(place), jnp.int32(taken))
    return ring


def _pad(column: np.ndarray) -> np.ndarray:
    out = np.zeros((CHUNK, *column.shape[1:]), column.dtype)
    out[: len(column)] = column
    return out


Blocks = Iterable[tuple[int, int, dict[str, np.ndarray]]]  # lane, number of the first row, columns


def fill(ring: Ring | Beside, cursors: np.ndarray, blocks: Blocks) -> Ring | Beside:
    """An empty ring with the rows of a saved one put back, and the cursors of its lanes."""
    if isinstance(ring, Beside):
        return _filled(ring, cursors, blocks)
    for lane, start, columns in blocks:
        ring = write_rows(ring, lane, start, columns)
    return _with_cursors(ring, cursors)


def _filled(rows: Beside, cursors: np.ndarray, blocks: Blocks) -> Beside:
    own, given = rows
    for lane, start, columns in blocks:
        if (found := _behind(rows, lane)) is None:
            own = write_rows(own, lane, start, columns)
        else:
            lane, first = found
            given = write_rows(given, lane, first + start, columns)
    lanes = own.cursor.size
    known = cursors[lanes:].reshape(-1, _pieces(rows)).sum(1)
    return Beside(_with_cursors(own, cursors[:lanes]), _with_cursors(given, known))


def _with_cursors(ring: Ring, cursors: np.ndarray) -> Ring:
    turn = turn_of(capacity(ring))
    turns = np.maximum(cursors // turn - 1, 0).reshape(ring.cursor.shape)  # as `renumbered` leaves them
    cursor = cursors.reshape(ring.cursor.shape) - turns * turn
    return Ring(ring.rows, jnp.asarray(cursor, jnp.int32), jnp.asarray(turns, jnp.int32))


@partial(jax.jit, donate_argnums=0)
def _put(ring: Ring, rows: TimeStep, lane: jax.Array, start: jax.Array, count: jax.Array) -> Ring:
    offset = jnp.arange(CHUNK)
    place = jnp.where(offset < count, (start + offset) % capacity(ring), capacity(ring))
    seed, env = jnp.divmod(lane, ring.rows.action.shape[-1])
    index = (seed, place, env) if ring.cursor.ndim == 2 else (place, env)
    put = jax.tree.map(lambda column, new: column.at[index].set(new, mode="drop"), ring.rows, rows)
    return Ring(put, ring.cursor, ring.turns)
