"""The external memory of all shards together, as a learner or an actor has it.

Whoever writes is one, the learner. What it writes and touches is collected and sent before it reads, or when it asks
for that. Shards do it in order; nothing waits for them but `settle`, which returns when all is done. Whoever reads
names the moment, so reads need no order at all.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from engram.cluster import epochs
from engram.cluster.merging import Answer, Found, merged
from engram.cluster.shard import Order, Receipt, Rows, Shape, Shard
from engram.cluster.sharing import shard_of
from engram.errors import EngramError, WriteFailed

LOG = logging.getLogger("engram")
PATIENCE = 600.0  # seconds for what a shard does with a whole file


class ShardGone(EngramError):
    """A shard did not answer in time, or is no more. Reads go on without it."""


class Place(Protocol):
    """Where shards are: in this process, or actors of a cluster. A handle stands for an answer that is on its way."""

    def ask(self, shard: int, verb: str, *given: Any) -> Any:
        """Sends a verb of `Keeping` to a shard, and gives a handle; what is sent to one shard is done in order."""
        ...

    def answers(self, handles: Sequence[tuple[int, Any]], seconds: float) -> list[Any]:
        """The answers of handles (shard, handle) within so many seconds in all; a ShardGone in place of a missing one.

        Other errors are raised.
        """
        ...

    def make_anew(self, shard: int, parts: list[epochs.Part] | None) -> None:
        """A new shard in the place of one that is gone, with what it had in an epoch; empty without one."""
        ...


class Keeping:
    """One shard, and where it writes its epochs. What `Place.ask` can ask is its methods."""

    def __init__(self, shape: Shape, features: int, folder: Path | None, parts: list[epochs.Part] | None = None):
        self._folder = folder
        self.shard = Shard(shape, features) if not parts else epochs.opened(_there(folder), parts, shape)

    def read(self, queries: np.ndarray, k: int, moment: int, keys: bool = False) -> Found:
        """See `Shard.read`."""
        return self.shard.read(queries, k, moment, keys)

    def carry_out(self, order: Order) -> Receipt:
        """See `Shard.carry_out`."""
        return self.shard.carry_out(order)

    def write_epoch(self) -> epochs.Part:
        """See `epochs.write`."""
        return epochs.write(self.shard, _there(self._folder))

    def held(self) -> int:
        """Entries."""
        return self.shard.held


def _there(folder: Path | None) -> Path:
    if folder is None:
        raise WriteFailed("shards keep their entries in a run directory, and there is none; name one with --run DIR")
    return folder


class Lost(NamedTuple):
    """What a shard did not come back with."""

    shard: int
    entries: int  # that were written to it since its last epoch, at most


class ShardedMemory:
    """All shards. One of these writes; any number of others read.

    Args:
      seconds: what an answer may take. A shard that takes longer is read without from then on, until `mend`.
    """

    def __init__(self, place: Place, shapes: Sequence[Shape], seconds: float = 60.0, held: int = 0, moment: int = 0):
        self._place, self.shapes, self.seconds = place, list(shapes), seconds
        self.held, self.moment = held, moment
        self.partial_reads = 0
        self.reads = 0
        self.gone: set[int] = set()
        self.lost: list[Lost] = []
        self._oldest = moment
        self._numbers = [0] * len(shapes)
        self._touched: list[list[tuple[int, np.ndarray, np.ndarray]]] = [[] for _ in shapes]
        self._rows: list[list[tuple[int, Rows]]] = [[] for _ in shapes]
        self._sent: list[list[Any]] = [[] for _ in shapes]
        self._holds = [0] * len(shapes)
        self._since_epoch = [0] * len(shapes)
        self._epoch: list[epochs.Part] | None = None

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
            if not (self._rows[shard] or self._touched[shard]) or shard in self.gone:
                continue
            self._numbers[shard] += 1
            what = self._touched[shard], self._rows[shard]
            order = Order(self._numbers[shard], self.moment, self._oldest, *what)
            self._sent[shard].append(self._place.ask(shard, "carry_out", order))
            self._touched[shard], self._rows[shard] = [], []

    def settle(self, oldest: int) -> None:
        """Returns when all that was written is in its shard. `oldest`: the earliest moment that is still read as of."""
        self._oldest = oldest
        self.send()
        handles = [(shard, handle) for shard, sent in enumerate(self._sent) for handle in sent]
        for (shard, _), answer in zip(handles, self._place.answers(handles, self.seconds), strict=True):
            if isinstance(answer, ShardGone):
                self._without(shard, answer)
            else:
                self._holds[shard] = answer.held
        self._sent = [[] for _ in self.shapes]
        self.held = sum(self._holds)

    # -- reading -----------------------------------------------------------------------------------------------

    def read(self, queries: np.ndarray, k: int, moment: int, keys: bool = False) -> Answer:
        """The k nearest entries of each table to each query [queries, width], as they were at a moment.

        Without shards that do not answer: the answer names them, and a line of the log tells it once for each.
        """
        self.send()
        asked = [shard for shard in range(len(self.shapes)) if shard not in self.gone]
        handles = [(shard, self._place.ask(shard, "read", queries, k, moment, keys)) for shard in asked]
        found = []
        for shard, answer in zip(asked, self._place.answers(handles, self.seconds), strict=True):
            if isinstance(answer, ShardGone):
                self._without(shard, answer)
            else:
                found.append(answer)
        self.reads += 1
        self.partial_reads += bool(self.gone)
        if not found:
            raise ShardGone("no shard answers any more; resume the run from its last checkpoint")
        return Answer(merged(found, k), tuple(sorted(self.gone)))

    def nearest(self, queries: np.ndarray, k: int, moment: int, keys: bool) -> tuple[np.ndarray, ...]:
        """See `external.sharded.Link`."""
        found = self.read(queries, k, moment, keys).found
        return found.distance.astype(np.float32), found.value, found.id, found.key

    def _without(self, shard: int, why: ShardGone) -> None:
        if shard not in self.gone:
            LOG.warning("shard %d does not answer (%s); reads go on without its entries", shard, why)
        self.gone.add(shard)

    # -- epochs ------------------------------------------------------------------------------------------------

    def write_epoch(self) -> list[epochs.Part]:
        """All shards write what they hold; when it returns, all of it is on the disk. Raises ShardGone, WriteFailed."""
        self.settle(self._oldest)
        self.mend()
        parts = self._every("write_epoch")
        if gone := [(shard, part) for shard, part in enumerate(parts) if isinstance(part, ShardGone)]:
            for shard, why in gone:  # nothing was asked of it that would have told
                self._without(shard, why)
            self.mend()
            parts = self._every("write_epoch")
        for part in parts:
            if isinstance(part, ShardGone):
                raise part
        self._since_epoch = [0] * len(self.shapes)
        self._epoch = parts
        return parts

    def open(self, parts: list[epochs.Part]) -> None:
        """Every shard anew, with what is its part of an epoch, which as many shards wrote or another number."""
        for shard in range(len(self.shapes)):
            self._place.make_anew(shard, parts)
        self.gone = set()
        self._numbers, self._sent = [0] * len(self.shapes), [[] for _ in self.shapes]
        self.begin()
        self.held, self.moment = sum(self._holds), max(part.meta["moment"] for part in parts)
        self._oldest = self.moment
        self._epoch = parts

    def begin(self) -> None:
        """Waits until every shard has begun. Raises ShardGone."""
        self._holds = self._every("held")
        for answer in self._holds:
            if isinstance(answer, ShardGone):
                raise answer

    def _every(self, verb: str, shards: Sequence[int] | None = None) -> list[Any]:
        """What shards answer to what may take minutes: to begin, to read a file, to write one."""
        asked = range(len(self.shapes)) if shards is None else shards
        return self._place.answers([(one, self._place.ask(one, verb)) for one in asked], max(self.seconds, PATIENCE))

    def mend(self) -> list[Lost]:
        """Shards that are gone are made anew from the last epoch. What was written to them since is lost, and named.

        One that does not come back stays gone.
        """
        lost = []
        for shard in sorted(self.gone):
            self._place.make_anew(shard, self._epoch)
            answer = self._every("held", [shard])[0]
            if isinstance(answer, ShardGone):
                LOG.warning("shard %d did not come back (%s); reads go on without it", shard, answer)
                continue
            self._holds[shard] = answer
            one = Lost(shard, self._since_epoch[shard])
            LOG.warning(
                "shard %d came back from its last epoch; up to %d entries written since are lost", shard, one.entries
            )
            self._numbers[shard] = 0
            self._sent[shard], self._touched[shard], self._rows[shard] = [], [], []
            self._since_epoch[shard] = 0
            lost.append(one)
        self.gone -= {one.shard for one in lost}
        self.lost += lost
        return lost


class Here:
    """Shards in this process: for tests, and to read the memory of a run where no cluster is."""

    def __init__(self, make: Callable[[int, list[epochs.Part] | None], Keeping], shards: int):
        self._make = make
        self.kept: list[Keeping | None] = [make(shard, None) for shard in range(shards)]

    def ask(self, shard: int, verb: str, *given: Any) -> Any:
        """See Place."""
        one = self.kept[shard]
        return ShardGone(f"shard {shard} is no more") if one is None else getattr(one, verb)(*given)

    def answers(self, handles: Sequence[tuple[int, Any]], seconds: float) -> list[Any]:
        """See Place."""
        return [handle for _, handle in handles]

    def make_anew(self, shard: int, parts: list[epochs.Part] | None) -> None:
        """See Place."""
        self.kept[shard] = self._make(shard, parts)
