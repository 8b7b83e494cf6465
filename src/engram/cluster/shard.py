"""A shard: its part of an external memory's entries, written in numbered orders, read as of any recent moment.

A read names its *moment*, the number of entries that had been accepted over all shards when its parameters were made.
It sees the entries as they were then: what was overwritten since is kept aside until nobody asks for it any more. So
an actor that reads while a learner writes gets the same answer, whatever the network does to the order of messages.

The k nearest are exact. A product of matrices in float32 finds all entries that could be among them, by a bound on its
rounding; their distances are then computed from differences in float64. So an answer does not depend on how many
shards there are, or on how a matrix product is cut.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from engram.cluster.merging import Found, nothing
from engram.errors import CheckpointError

ROWS = 1 << 24  # scores that are held at once: 64 MiB
STRIDE = 64  # entries of which only the best is looked at, to find out how good the k best are
EVICTIONS = ("oldest", "least-read", "least-attended", "least-surprising")


class Shape(NamedTuple):
    """What a shard holds: `tables` of `places` entries with keys of `width` numbers. It is number `shard` of `shards`.

    `update`, `alpha` and `eviction` are those of the external memory.
    """

    shard: int
    shards: int
    tables: int
    places: int
    width: int
    update: str = "tabular"
    alpha: float = 0.1
    eviction: str = "oldest"


class Rows(NamedTuple):
    """Entries that are written together, in order. Axes [entries, ...]. Names are those of `external.store.Store`."""

    table: np.ndarray
    key: np.ndarray
    value: np.ndarray  # of an entry in a file, what it holds; of a new one, its return
    td_error: np.ndarray
    hash: np.ndarray
    action: np.ndarray
    features: np.ndarray
    origin: np.ndarray
    written: np.ndarray  # the number among all that were ever accepted


class Order(NamedTuple):
    """Something to do. Orders of a shard are numbered; each is carried out once, in order.

    moment: of all shards, after it. oldest: the earliest moment that anybody still reads as of.
    """

    number: int
    moment: int
    oldest: int
    touched: list[tuple[int, np.ndarray, np.ndarray]]  # moment, ids, weights
    rows: list[tuple[int, Rows]]  # the moment after each block of entries, and the block


class Receipt(NamedTuple):
    """The state of a shard after an order."""

    number: int
    held: int
    repeated: bool  # whether it had been carried out before


@dataclass
class Past:
    """Entries as they were before they were overwritten: visible from `written` to before `until`."""

    table: np.ndarray
    key: np.ndarray
    value: np.ndarray
    written: np.ndarray
    id: np.ndarray
    until: np.ndarray

    @classmethod
    def empty(cls, width: int) -> "Past":
        whole = np.zeros(0, np.int64)
        return cls(whole, np.zeros((0, width), np.float32), np.zeros(0, np.float32), whole, whole, whole)

    def with_more(self, more: "Past") -> "Past":
        return Past(*(np.concatenate(pair) for pair in zip(vars(self).values(), vars(more).values(), strict=True)))

    def only(self, kept: np.ndarray) -> "Past":
        return Past(*(column[kept] for column in vars(self).values()))


class Shard:
    """The entries of one shard, in memory."""

    def __init__(self, shape: Shape, features: int = 0):
        self.shape = shape
        leading = shape.tables, shape.places
        self.columns: dict[str, np.ndarray] = {
            "key": np.zeros((*leading, shape.width), np.float32),
            "value": np.zeros(leading, np.float32),
            "td_error": np.zeros(leading, np.float32),
            "hash": np.zeros((*leading, 2), np.uint32),
            "action": np.zeros(leading, np.int32),
            "features": np.zeros((*leading, features), np.float32),
            "origin": np.zeros((*leading, 3), np.int32),
            "written": np.zeros(leading, np.int64),
            "read": np.zeros(leading, np.int64),
            "attention": np.zeros(leading, np.float32),
        }
        self._length = np.zeros(leading, np.float32)  # |key|^2
        self.filled = np.zeros(shape.tables, np.int64)  # places are filled from the first on
        self.cursor = np.zeros(shape.tables, np.int64)  # the place that `oldest` gives up next
        self.moment = self.number = 0
        self.repeated = self.misplaced = 0
        self._index: dict[tuple[int, int, int], tuple[int, int]] = {}
        self._past = Past.empty(shape.width)

    @property
    def held(self) -> int:
        """Entries."""
        return int(self.filled.sum())

    # -- orders ------------------------------------------------------------------------------------------------

    def carry_out(self, order: Order) -> Receipt:
        """Does what an order says; one that was carried out before changes nothing. Raises ValueError for a gap."""
        if order.number <= self.number:
            self.repeated += 1
            return Receipt(self.number, self.held, True)
        if order.number != self.number + 1:
            self.misplaced += 1
            raise ValueError(f"order {order.number} came after order {self.number}; the ones between are missing")
        for moment, ids, weights in order.touched:
            self._touch(moment, ids, weights)
        for moment, rows in order.rows:
            self._write(moment, rows)
        self.number, self.moment = order.number, order.moment
        self._past = self._past.only(self._past.until > order.oldest)
        return Receipt(self.number, self.held, False)

    def _touch(self, moment: int, ids: np.ndarray, weights: np.ndarray) -> None:
        table, place = self._located(ids)
        self.columns["read"][table, place] = moment
        np.add.at(self.columns["attention"], (table, place), weights)

    def _located(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Table and place of ids that are this shard's."""
        table, rest = np.divmod(ids, self.shape.shards * self.shape.places)
        return table, rest - self.shape.shard * self.shape.places

    def id_of(self, table: Any, place: Any) -> Any:
        """The id of an entry, over all shards."""
        shape = self.shape
        return (table * shape.shards + shape.shard) * shape.places + place

    def _write(self, moment: int, rows: Rows) -> None:
        for at in range(len(rows.table)):
            one = Rows(*(column[at] for column in rows))
            table = int(one.table)
            known = self._index.get(_situation(one.hash, one.action))
            if known is None:
                place, value = self._place(table, int(one.written)), float(one.value)
            else:
                place, value = known[1], self._updated(float(self.columns["value"][known]), float(one.value))
            self._keep_aside(table, place, moment)
            self._put(table, place, one, value, known is None)

    def _updated(self, held: float, value: float) -> float:
        shape = self.shape
        return max(held, value) if shape.update == "max" else (1 - shape.alpha) * held + shape.alpha * value

    def _put(self, table: int, place: int, row: Rows, value: float, is_new: bool) -> None:
        columns, where = self.columns, (table, place)
        if is_new and place < self.filled[table]:
            del self._index[_situation(columns["hash"][where], columns["action"][where])]
        for name in ("key", "td_error", "hash", "action", "features", "origin", "written"):
            columns[name][where] = getattr(row, name)
        columns["value"][where] = value
        self._length[where] = (row.key.astype(np.float64) ** 2).sum()
        if is_new:
            columns["read"][where], columns["attention"][where] = 0, 0
            self._index[_situation(row.hash, row.action)] = where
            self.filled[table] = max(self.filled[table], place + 1)

    def _keep_aside(self, table: int, place: int, moment: int) -> None:
        """What is overwritten at this moment, for those who read as of an earlier one."""
        if place >= self.filled[table]:
            return
        columns, where = self.columns, (table, place)
        one = (table, columns["key"][where], columns["value"][where], columns["written"][where])
        old = Past(*(np.array([value]) for value in (*one, self.id_of(table, place), moment)))
        self._past = self._past.with_more(old)

    def _place(self, table: int, clock: int) -> int:
        """The place for a new entry: a free one, else the one whose entry is worth least."""
        places, filled = self.shape.places, int(self.filled[table])
        if self.shape.eviction == "oldest":
            place = int(self.cursor[table])
            self.cursor[table] = (place + 1) % places
            return place
        if filled < places:
            return filled
        columns = self.columns
        written = columns["written"][table]
        if self.shape.eviction == "least-read":
            worth = np.maximum(columns["read"][table], written)
        elif self.shape.eviction == "least-attended":
            worth = (columns["attention"][table] + 1) / (clock - written + self.shape.shards * places * self._tables)
        else:
            worth = np.abs(columns["td_error"][table])
        return int(worth.argmin())

    @property
    def _tables(self) -> int:
        return self.shape.tables

    # -- reading -----------------------------------------------------------------------------------------------

    def read(self, queries: np.ndarray, k: int, moment: int, keys: bool = False) -> Found:
        """The k nearest entries of each table to each query [queries, width], as they were at a moment; with their
        keys, if asked for.
        """
        found = nothing(len(queries), self.shape.tables, k, self.shape.width if keys else 0)
        at_once = max(1, ROWS // max(1, self.shape.places))
        for first in range(0, len(queries), at_once):
            for table in range(self.shape.tables):
                part = slice(first, first + at_once)
                for row, best in enumerate(self._nearest(queries[part], table, k, moment), start=first):
                    for column, values in zip(found[: 4 + keys], best[: 4 + keys], strict=True):
                        column[row, table, : len(values)] = values
        return found

    def _nearest(self, queries: np.ndarray, table: int, k: int, moment: int) -> list[tuple[np.ndarray, ...]]:
        """For each query: distance, written, value, id and key of the nearest, in order."""
        count, columns = int(self.filled[table]), self.columns
        keys, length, written = (column[table, :count] for column in (columns["key"], self._length, columns["written"]))
        scores = queries @ keys.T
        scores *= 2
        scores -= length
        if moment < self.moment:
            scores[:, written > moment] = -np.inf
        reach = 2 * _bound(queries, length)
        enough = _lowest_of_the_best(scores, k) - reach
        past = self._visible_past(table, moment)
        answers = []
        for row, query in enumerate(queries):
            near = np.flatnonzero(scores[row] >= enough[row])
            near = near[np.isfinite(scores[row, near])]
            candidates = [
                np.concatenate([here, there])
                for here, there in zip(
                    (keys[near], written[near], columns["value"][table, near], self.id_of(table, near)),
                    (past.key, past.written, past.value, past.id),
                    strict=True,
                )
            ]
            distance = ((query.astype(np.float64) - candidates[0].astype(np.float64)) ** 2).sum(-1)
            order = np.lexsort((candidates[1], distance))[:k]
            answers.append((distance[order], *(column[order] for column in (*candidates[1:], candidates[0]))))
        return answers

    def _visible_past(self, table: int, moment: int) -> Past:
        past = self._past
        return past.only((past.table == table) & (past.written <= moment) & (past.until > moment))

    # -- what a file holds -------------------------------------------------------------------------------------

    def saved(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """All entries, table after table, and the counters beside them. Only entries of the newest moment."""
        kept = [(table, slice(0, int(count))) for table, count in enumerate(self.filled)]
        arrays = {name: np.concatenate([column[at] for at in kept]) for name, column in self.columns.items()}
        arrays["table"] = np.repeat(np.arange(self.shape.tables), self.filled)
        return arrays, {"moment": self.moment, "cursor": self.cursor.tolist()}

    @classmethod
    def of(cls, shape: Shape, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> "Shard":
        """The inverse of `saved`, also for entries that other shards had: then in the order of `written`.

        Raises CheckpointError for a table with more entries than places.
        """
        shard = cls(shape, arrays["features"].shape[1])
        shard.filled = np.bincount(arrays["table"], minlength=shape.tables).astype(np.int64)
        if (shard.filled > shape.places).any() or len(shard.filled) != shape.tables:
            raise CheckpointError(
                f"shard {shape.shard} would hold {int(shard.filled.max())} entries of one table, and has "
                f"{shape.places} places; resume with as many shards as before, or a divisor of that"
            )
        for table in range(shape.tables):
            rows = np.flatnonzero(arrays["table"] == table)
            for name, column in shard.columns.items():
                column[table, : len(rows)] = arrays[name][rows]
        shard._length = (shard.columns["key"].astype(np.float64) ** 2).sum(-1).astype(np.float32)
        shard.moment = meta["moment"]
        shard.cursor = np.array(meta["cursor"], np.int64)
        for table, count in enumerate(shard.filled):
            for place in range(int(count)):
                where = (table, place)
                shard._index[_situation(shard.columns["hash"][where], shard.columns["action"][where])] = where
        return shard


def _situation(hash: np.ndarray, action: Any) -> tuple[int, int, int]:
    return int(hash[0]), int(hash[1]), int(action)


def _bound(queries: np.ndarray, length: np.ndarray) -> np.ndarray:
    """How far a score in float32 may be from the true one, for each query."""
    width = queries.shape[1]
    largest = float(length.max(initial=0.0))
    norm = np.sqrt((queries.astype(np.float64) ** 2).sum(-1))
    return (2 * (width + 2) * np.finfo(np.float32).eps * (2 * norm * np.sqrt(largest) + largest)).astype(np.float32)


def _lowest_of_the_best(scores: np.ndarray, k: int) -> np.ndarray:
    """For each row a number that at least k scores reach; minus infinity where there are no more than k."""
    rows, count = scores.shape
    if count <= k:
        return np.full(rows, -np.inf, np.float32)
    blocks = count // STRIDE
    if blocks < 4 * k:
        return np.partition(scores, count - k, axis=1)[:, count - k]
    best = scores[:, : blocks * STRIDE].reshape(rows, blocks, STRIDE).max(-1)
    return np.partition(best, blocks - k, axis=1)[:, blocks - k]
