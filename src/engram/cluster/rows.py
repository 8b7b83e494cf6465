"""A shard's part of the replay: the wide columns of its rows, written in numbered orders, kept in place.

Row r of a lane lives at place r % capacity, as in the learner's ring. Blocks of successive places go to the shards in
turn, and each lane begins with another shard. So where a row lies is a function of its lane and its place alone, and no
index of it is kept. With every row its number is kept: a place says which row it holds, or that it holds none.

On the disk a shard's places are cut into PIECES. Only those that changed since the last epoch are written again.
"""

from typing import Any, NamedTuple

import numpy as np

from engram.errors import CheckpointError

BLOCK = 16  # successive places of one lane in one shard
PIECES = 16  # files of a shard's rows
NONE = -1  # the number of no row

Columns = list[np.ndarray]  # the leaves of the wide columns, in the order of the layout


class RowShape(NamedTuple):
    """What a shard holds of a replay of `lanes` lanes of `capacity` rows. It is number `shard` of `shards`.

    layout: name, dtype and shape of each wide column of one row.
    """

    shard: int
    shards: int
    lanes: int
    capacity: int
    layout: tuple[tuple[str, str, tuple[int, ...]], ...]

    @property
    def locals(self) -> int:
        """Places of each lane that a shard has."""
        return -(-self.capacity // (BLOCK * self.shards)) * BLOCK


class NewRows(NamedTuple):
    """Rows that were written together; no two of them have the same lane and place. Axes [rows, ...]."""

    lane: np.ndarray
    row: np.ndarray  # numbers, modulo a turn of the ring
    columns: Columns


class RowOrder(NamedTuple):
    """Rows to keep. Orders of a shard are numbered; each is carried out once, in order."""

    number: int
    writes: list[NewRows]


class FoundRows(NamedTuple):
    """The answer of a shard: which rows are there [rows], and their columns; zeros where one is not."""

    there: np.ndarray
    columns: Columns


def owner_of(lane: np.ndarray, place: np.ndarray, shards: int) -> np.ndarray:
    """The shard of each place."""
    return (lane + place // BLOCK) % shards


def local_of(place: np.ndarray, shards: int) -> np.ndarray:
    """Where its shard has a place, among those of its lane."""
    return place // (BLOCK * shards) * BLOCK + place % BLOCK


class RowShard:
    """The rows of one shard, in memory."""

    def __init__(self, shape: RowShape):
        self.shape = shape
        leading = shape.lanes, shape.locals
        self.rows = np.full(leading, NONE, np.int32)  # the number of the row at each place
        self.columns: Columns = [np.zeros((*leading, *size), kind) for _, kind, size in shape.layout]
        self.number = 0  # of the last order
        self.repeated = 0
        self.changed = np.zeros(PIECES, bool)  # since the last epoch

    @property
    def held(self) -> int:
        """Rows."""
        return int((self.rows != NONE).sum())

    def carry_out(self, order: RowOrder) -> None:
        """Does what an order says; one that was carried out before changes nothing. Raises ValueError for a gap."""
        if order.number <= self.number:
            self.repeated += 1
            return
        if order.number != self.number + 1:
            raise ValueError(f"order {order.number} came after order {self.number}; the ones between are missing")
        for new in order.writes:
            self._put(new.lane, new.row, new.columns)
        self.number = order.number

    def _put(self, lane: np.ndarray, row: np.ndarray, columns: Columns) -> None:
        where = lane, local_of(row % self.shape.capacity, self.shape.shards)
        self.rows[where] = row
        for column, new in zip(self.columns, columns, strict=True):
            column[where] = new
        self.changed[self._piece_of(where[1])] = True

    def fetch(self, lane: np.ndarray, row: np.ndarray) -> FoundRows:
        """Rows of this shard by their numbers."""
        where = lane, local_of(row % self.shape.capacity, self.shape.shards)
        there = self.rows[where] == row
        columns = [column[where] for column in self.columns]
        if not there.all():
            for column in columns:
                column[~there] = 0
        return FoundRows(there, columns)

    # -- what files hold ---------------------------------------------------------------------------------------

    def _piece_of(self, local: np.ndarray) -> np.ndarray:
        return local * PIECES // self.shape.locals

    def piece(self, number: int) -> dict[str, np.ndarray]:
        """The rows of one piece of the places, lane after lane."""
        inside = self._piece_of(np.arange(self.shape.locals)) == number
        lane, local = np.nonzero((self.rows != NONE) & inside)
        names = [f"column.{name}" for name, _, _ in self.shape.layout]
        columns = {name: column[lane, local] for name, column in zip(names, self.columns, strict=True)}
        return {"lane": lane.astype(np.int32), "row": self.rows[lane, local], **columns}

    def take(self, arrays: dict[str, np.ndarray]) -> None:
        """Puts the rows of a piece back; those of another shard are passed over. Raises CheckpointError if unfit."""
        shape = self.shape
        lane, row, columns = unpacked(arrays, shape)
        mine = owner_of(lane, row % shape.capacity, shape.shards) == shape.shard
        self._put(lane[mine], row[mine], [column[mine] for column in columns])


def unpacked(arrays: dict[str, np.ndarray], shape: RowShape) -> tuple[np.ndarray, np.ndarray, Columns]:
    """Lanes, numbers and columns of a file's rows. Raises CheckpointError for rows that this replay cannot have."""
    expected: dict[str, Any] = {"lane": ("int32", ()), "row": ("int32", ())}
    expected |= {f"column.{name}": (kind, tuple(size)) for name, kind, size in shape.layout}
    found = {name: (str(array.dtype), array.shape[1:]) for name, array in arrays.items()}
    counts = {array.shape[:1] for array in arrays.values()}
    lane, row = arrays.get("lane", np.zeros(0)), arrays.get("row", np.zeros(0))
    if found != expected or len(counts) != 1 or (lane < 0).any() or (lane >= shape.lanes).any() or (row < 0).any():
        raise CheckpointError(
            "the rows of a shard are not those of this run's replay; resume with the settings that it was started with"
        )
    return lane.astype(np.int64), row, [arrays[f"column.{name}"] for name, _, _ in shape.layout]
