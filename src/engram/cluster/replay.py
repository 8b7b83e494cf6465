"""The replay rows of all shards together, as the learner has them: see `replay.elsewhere.Link`.

One request brings the rows of a batch, from every shard that has one of them. What was written since the last request
goes with it, so an update costs one round trip. A shard does what it is told in order: a row that is fetched was
written before. `flush` is called once in a round of blocks, and as soon as `WAITING` bytes wait to be sent: many rows
may be written at once before anything is learned.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from engram.cluster import epochs
from engram.cluster.rows import Columns, FoundRows, NewRows, RowOrder, RowShape, owner_of
from engram.cluster.shards import Count, Lost, ShardGone, Shards

WAITING = 16 << 20  # bytes


class ShardedReplay:
    """A replay in shards. A row that its shard lacks is lost: whoever asks for it is told so, each time."""

    def __init__(self, shards: Shards, shapes: Sequence[RowShape]):
        self.shards, self.shapes = shards, list(shapes)
        self.fetches = self.messages = 0  # requests for a batch, and messages to shards for them
        self.missing = 0  # rows that a batch asked for and did not get
        self._numbers = [0] * len(shapes)
        self._pending: list[list[NewRows]] = [[] for _ in shapes]
        self._waiting = 0  # bytes of them
        self._since_epoch = [0] * len(shapes)
        shards.holders.append(self)

    def store(self, lane: np.ndarray, row: np.ndarray, columns: Columns) -> None:
        """See Link."""
        owner = self._owner(lane, row)
        for shard in np.unique(owner):
            mine = owner == shard
            self._pending[shard].append(NewRows(lane[mine], row[mine], [column[mine] for column in columns]))
            self._since_epoch[shard] += int(mine.sum())
        self._waiting += sum(column.nbytes for column in columns)
        if self._waiting >= WAITING:
            self.flush()

    def fetch(self, lane: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, Columns]:
        """See Link. Rows of a shard that does not answer in time are not there."""
        owner = self._owner(lane, row)
        asked = [shard for shard in np.unique(owner).tolist() if shard not in self.shards.gone]
        wanted = [np.flatnonzero(owner == shard) for shard in asked]
        handles = [
            self.shards.ask(shard, "fetch_rows", self._order(shard), lane[mine], row[mine])
            for shard, mine in zip(asked, wanted, strict=True)
        ]
        there = np.zeros(len(row), bool)
        columns = [np.zeros((len(row), *size), kind) for _, kind, size in self.shapes[0].layout]
        for mine, answer in zip(wanted, self.shards.answers(handles), strict=True):
            if not isinstance(answer, ShardGone):
                self._put(answer, mine, there, columns)
        self.fetches += 1
        self.messages += len(handles)
        self.missing += int((~there).sum())
        return there, columns

    @staticmethod
    def _put(answer: FoundRows, mine: np.ndarray, there: np.ndarray, columns: Columns) -> None:
        there[mine] = answer.there
        for column, found in zip(columns, answer.columns, strict=True):
            column[mine] = found

    def _owner(self, lane: np.ndarray, row: np.ndarray) -> np.ndarray:
        shape = self.shapes[0]
        return owner_of(lane, row % shape.capacity, shape.shards)

    def _order(self, shard: int) -> RowOrder | None:
        if not self._pending[shard]:
            return None
        self._numbers[shard] += 1
        writes, self._pending[shard] = self._pending[shard], []
        return RowOrder(self._numbers[shard], writes)

    # -- faults and epochs, see Holder ---------------------------------------------------------------------------

    def flush(self) -> None:
        """See Holder. What is for a shard that is gone is lost with it."""
        handles: list[Any] = []
        for shard in range(len(self.shapes)):
            if shard in self.shards.gone:
                self._pending[shard] = []
            elif (order := self._order(shard)) is not None:
                handles.append(self.shards.ask(shard, "keep_rows", order))
        self.shards.answers(handles)
        self._waiting = 0

    def begun(self, counts: list[Count], epoch: epochs.Epoch | None) -> None:
        """See Holder. Without an epoch shards are as they were, with the number of the last order that they took."""
        if epoch is not None:
            self._pending, self._numbers = [[] for _ in self.shapes], [0] * len(self.shapes)

    def came_back(self, shard: int, count: Count) -> Lost:
        """See Holder. Of rows that were written since, no more than it has places for were still there."""
        room = self.shapes[shard].lanes * self.shapes[shard].locals
        lost = Lost(shard, rows=min(self._since_epoch[shard], room))
        self._pending[shard], self._numbers[shard], self._since_epoch[shard] = [], 0, 0
        return lost

    def written(self) -> None:
        """See Holder."""
        self._since_epoch = [0] * len(self.shapes)
