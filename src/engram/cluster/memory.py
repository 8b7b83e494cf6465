"""The external memory of all shards together, as a learner or an actor has it.

Whoever writes is one, the learner. What it writes and touches is collected and sent before it reads, or when it asks
for that. Shards do it in order; nothing waits for them but `settle`, which returns when all is done. Whoever reads
names the moment, so reads need no order at all.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engram.cluster import epochs
from engram.cluster.merging import Answer, merged, nothing
from engram.cluster.shard import Order, Rows, Shape
from engram.cluster.shards import Count, Lost, ShardGone, Shards
from engram.cluster.sharing import shard_of


class ShardedMemory:
    """An external memory in shards. One of these writes; any number of others read."""

    def __init__(self, shards: Shards, shapes: Sequence[Shape], held: int = 0, moment: int = 0):
        self.shards, self.shapes = shards, list(shapes)
        self.held, self.moment = held, moment
        self.partial_reads = 0
        self.reads = 0
        self._oldest = moment
        self._numbers = [0] * len(shapes)
        self._touched: list[list[tuple[int, np.ndarray, np.ndarray]]] = [[] for _ in shapes]
        self._rows: list[list[tuple[int, Rows]]] = [[] for _ in shapes]
        self._sent: list[list[Any]] = [[] for _ in shapes]
        self._holds = [0] * len(shapes)
        self._since_epoch = [0] * len(shapes)
        shards.holders.append(self)

    # -- writing -----------------------------------------------------------------------------------------------

    def touch(self, moment: int, ids: np.ndarray, weights: np.ndarray) -> None:
        """Acting read these entries, with these weights. -1 stands for nothing."""
        shape = self.shapes[0]
        owner = ids // shape.places % shape.shards
        for shard in np.unique(owner[ids >= 0]):
            mine = (owner == shard) & (ids >= 0)
            self._touched[shard].append((moment, ids[mine], weights[mine]))

    def write(self, moment: int, rows: Rows) -> None:
        """Entries that were accepted; `moment` is after them."""
        owner = shard_of(rows.hash, len(self.shapes))
        for shard in np.unique(owner):
            mine = owner == shard
            self._rows[shard].append((moment, Rows(*(column[mine] for column in rows))))
            self._since_epoch[shard] += int(mine.sum())
        self.moment = moment

    def accept(self, moment: int, columns: Mapping[str, np.ndarray]) -> None:
        """See `external.sharded.Link`."""
        self.write(moment, Rows(**columns))

    def send(self) -> None:
        """Sends what was written and touched since the last time."""
        for shard in range(len(self.shapes)):
            if not (self._rows[shard] or self._touched[shard]) or shard in self.shards.gone:
                continue
            self._numbers[shard] += 1
            what = self._touched[shard], self._rows[shard]
            order = Order(self._numbers[shard], self.moment, self._oldest, *what)
            self._sent[shard].append(self.shards.ask(shard, "carry_out", order))
            self._touched[shard], self._rows[shard] = [], []

    def settle(self, oldest: int) -> None:
        """Returns when all that was written is in its shard. `oldest`: the earliest moment that is still read as of."""
        self._oldest = oldest
        self.send()
        handles = [handle for sent in self._sent for handle in sent]
        for (shard, _), answer in zip(handles, self.shards.answers(handles), strict=True):
            if not isinstance(answer, ShardGone):
                self._holds[shard] = answer.held
        self._sent = [[] for _ in self.shapes]
        self.held = sum(self._holds)

    # -- reading -----------------------------------------------------------------------------------------------

    def read(self, queries: np.ndarray, k: int, moment: int, keys: bool = False) -> Answer:
        """The k nearest entries of each table to each query [queries, width], as they were at a moment.

        Without shards that do not answer: the answer names them, and a line of the log tells it once for each.
        """
        self.send()
        asked = [shard for shard in range(len(self.shapes)) if shard not in self.shards.gone]
        answers = self.shards.answers([self.shards.ask(shard, "read", queries, k, moment, keys) for shard in asked])
        found = [answer for answer in answers if not isinstance(answer, ShardGone)]
        self.reads += 1
        self.partial_reads += bool(self.shards.gone)
        if not found:
            found = [nothing(len(queries), self.shapes[0].tables, k, queries.shape[1] if keys else 0)]
        return Answer(merged(found, k), tuple(sorted(self.shards.gone)))

    def nearest(self, queries: np.ndarray, k: int, moment: int, keys: bool) -> tuple[np.ndarray, ...]:
        """See `external.sharded.Link`."""
        found = self.read(queries, k, moment, keys).found
        return found.distance.astype(np.float32), found.value, found.id, found.key

    # -- faults and epochs, see Holder ---------------------------------------------------------------------------

    def flush(self) -> None:
        """See Holder."""
        self.settle(self._oldest)

    def begun(self, counts: list[Count], epoch: epochs.Epoch | None) -> None:
        """See Holder. Without an epoch shards are as they were, with the number of the last order that they took."""
        self._holds = [count.entries for count in counts]
        if epoch is not None:
            self._numbers, self._sent = [0] * len(self.shapes), [[] for _ in self.shapes]
            self.held, self.moment = sum(self._holds), max(part.meta["moment"] for part in epochs.parts_of(epoch))
            self._oldest = self.moment

    def came_back(self, shard: int, count: Count) -> Lost:
        """See Holder."""
        lost = Lost(shard, entries=self._since_epoch[shard])
        self._holds[shard] = count.entries
        self._numbers[shard] = 0
        self._sent[shard], self._touched[shard], self._rows[shard] = [], [], []
        self._since_epoch[shard] = 0
        return lost

    def written(self) -> None:
        """See Holder."""
        self._since_epoch = [0] * len(self.shapes)
