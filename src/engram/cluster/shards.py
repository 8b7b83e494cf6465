"""Shards together: asking them, making those anew that are gone, and their epochs.

A shard keeps a part of an external memory, of a replay, or of both. What they keep is written by one process, the
learner, through a `Holder` for each kind: `memory.ShardedMemory` and `replay.ShardedReplay`. Faults and epochs are of
the shard, and so of all that it keeps.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from engram.cluster import epochs
from engram.cluster.merging import Found
from engram.cluster.rows import FoundRows, RowOrder, RowShape, RowShard
from engram.cluster.shard import Order, Receipt, Shape, Shard
from engram.errors import EngramError, WriteFailed

LOG = logging.getLogger("engram")
F = TypeVar("F", bound=Callable[..., Any])
PATIENCE = 600.0  # seconds for what a shard does with a whole file


class ShardGone(EngramError):
    """A shard did not answer in time, or is no more. The run goes on without it."""


class Holding(NamedTuple):
    """What one shard holds.

    memory: its part of an external memory; None for none. features: of offered actions, in each of its entries.
    rows: its part of a replay; None for none.
    """

    memory: Shape | None = None
    features: int = 0
    rows: RowShape | None = None


class Count(NamedTuple):
    """How much a shard holds."""

    entries: int
    rows: int


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

    def make_anew(self, shard: int, epoch: epochs.Epoch | None) -> None:
        """A new shard in the place of one that is gone, with what it had in an epoch; empty without one."""
        ...


class Keeping:
    """One shard, and where it writes its epochs. What `Place.ask` can ask is its methods."""

    def __init__(self, holding: Holding, folder: Path | None, epoch: epochs.Epoch | None = None):
        self._folder = folder
        self.shard: Shard | None = None
        self.rows: RowShard | None = None
        self._files: epochs.RowFiles | None = None
        if (shape := holding.memory) is not None:
            parts = epochs.parts_of(epoch or [])
            self.shard = epochs.opened(_there(folder), parts, shape) if parts else Shard(shape, holding.features)
        if holding.rows is not None:
            self.rows = RowShard(holding.rows)
            if folder is not None:
                self._files = epochs.RowFiles(self.rows, folder)
            if epoch and self._files is not None:
                self._files.open(epoch)

    def read(self, queries: np.ndarray, k: int, moment: int, keys: bool = False) -> Found:
        """See `Shard.read`."""
        assert self.shard is not None
        return self.shard.read(queries, k, moment, keys)

    def carry_out(self, order: Order) -> Receipt:
        """See `Shard.carry_out`."""
        assert self.shard is not None
        return self.shard.carry_out(order)

    def keep_rows(self, order: RowOrder) -> None:
        """See `RowShard.carry_out`."""
        assert self.rows is not None
        self.rows.carry_out(order)

    def fetch_rows(self, order: RowOrder | None, lane: np.ndarray, row: np.ndarray) -> FoundRows:
        """Keeps the rows of an order, if there is one, and then gives rows; see `RowShard.fetch`."""
        assert self.rows is not None
        if order is not None:
            self.rows.carry_out(order)
        return self.rows.fetch(lane, row)

    def write_epoch(self) -> epochs.Kept:
        """See `epochs.write` and `epochs.RowFiles.write`."""
        folder = _there(self._folder)
        part = None if self.shard is None else epochs.write(self.shard, folder)
        return epochs.Kept(part, None if self._files is None else self._files.write())

    def held(self) -> Count:
        """How much it holds."""
        return Count(0 if self.shard is None else self.shard.held, 0 if self.rows is None else self.rows.held)


def _there(folder: Path | None) -> Path:
    if folder is None:
        raise WriteFailed("shards keep what they hold in a run directory, and there is none; name one with --run DIR")
    return folder


class Lost(NamedTuple):
    """What a shard did not come back with: written to it since its last epoch, at most."""

    shard: int
    entries: int = 0
    rows: int = 0


class Holder(Protocol):
    """A kind of thing that shards hold, as the learner has it."""

    def flush(self) -> None:
        """Returns when all that was written is in its shard."""
        ...

    def begun(self, counts: list[Count], epoch: epochs.Epoch | None) -> None:
        """All shards have begun: anew with what they had in an epoch, or, without one, as they were."""
        ...

    def came_back(self, shard: int, count: Count) -> Lost:
        """A shard was made anew from the last epoch, alone; what is on its way to it is dropped."""
        ...

    def written(self) -> None:
        """An epoch is on the disk."""
        ...


class Shards:
    """All shards of a run.

    Args:
      seconds: what an answer may take. A shard that takes longer is done without from then on, until `mend`.
    """

    def __init__(self, place: Place, count: int, seconds: float = 60.0):
        self.place, self.count, self.seconds = place, count, seconds
        self.holders: list[Holder] = []
        self.gone: set[int] = set()
        self.lost: list[Lost] = []
        self._epoch: epochs.Epoch | None = None
        self.problem: EngramError | None = None  # of the last answer that was one: whoever asked may not pass it on
        self.closed = False  # whether the run that has them has ended

    def ask(self, shard: int, verb: str, *given: Any) -> tuple[int, Any]:
        """See Place."""
        return shard, self.place.ask(shard, verb, *given)

    def answers(self, handles: Sequence[tuple[int, Any]]) -> list[Any]:
        """See Place. Of whoever does not answer a line of the log tells, once."""
        try:
            found = self.place.answers(handles, self.seconds)
        except EngramError as problem:
            self.problem = problem
            raise
        for (shard, _), answer in zip(handles, found, strict=True):
            if isinstance(answer, ShardGone):
                self.without(shard, answer)
        return found

    @contextmanager
    def told(self) -> Iterator[None]:
        """Raises what was refused meanwhile in the place of an error that only says that something failed."""
        self.problem = None
        try:
            yield
        except Exception as error:
            if self.problem is None or error is self.problem:
                raise
            raise self.problem from error

    def without(self, shard: int, why: ShardGone) -> None:
        """A shard is done without."""
        if shard not in self.gone:
            LOG.warning("shard %d does not answer (%s); the run goes on without what it holds", shard, why)
        self.gone.add(shard)

    def begin(self) -> None:
        """Waits until every shard has begun. Raises ShardGone."""
        self._begun(None)

    def open(self, epoch: epochs.Epoch) -> None:
        """Every shard anew, with what is its part of an epoch, which as many shards wrote or another number."""
        for shard in range(self.count):
            self.place.make_anew(shard, epoch)
        self.gone = set()
        self._begun(epoch)
        self._epoch = epoch

    def _begun(self, epoch: epochs.Epoch | None) -> None:
        counts = self._every("held")
        for answer in counts:
            if isinstance(answer, ShardGone):
                raise answer
        for holder in self.holders:
            holder.begun(counts, epoch)

    def _every(self, verb: str, shards: Sequence[int] | None = None) -> list[Any]:
        """What shards answer to what may take minutes: to begin, to read a file, to write one."""
        asked = range(self.count) if shards is None else shards
        return self.place.answers([self.ask(one, verb) for one in asked], max(self.seconds, PATIENCE))

    def write_epoch(self) -> epochs.Epoch:
        """All shards write what they hold; when it returns, all of it is on the disk. Raises ShardGone, WriteFailed."""
        for holder in self.holders:
            holder.flush()
        self.mend()
        parts = self._every("write_epoch")
        if gone := [(shard, part) for shard, part in enumerate(parts) if isinstance(part, ShardGone)]:
            for shard, why in gone:  # nothing was asked of it that would have told
                self.without(shard, why)
            self.mend()
            parts = self._every("write_epoch")
        for part in parts:
            if isinstance(part, ShardGone):
                raise part
        for holder in self.holders:
            holder.written()
        self._epoch = parts
        return parts

    def mend(self) -> list[Lost]:
        """Shards that are gone are made anew from the last epoch. What was written to them since is lost, and named.

        One that does not come back stays gone. Raises ShardGone where that is all of them.
        """
        lost, gone = [], sorted(self.gone)
        for shard in gone:
            self.place.make_anew(shard, self._epoch)
        for shard, answer in zip(gone, self._every("held", gone), strict=True):
            if isinstance(answer, ShardGone):
                LOG.warning("shard %d did not come back (%s); the run goes on without it", shard, answer)
                continue
            each = [holder.came_back(shard, answer) for holder in self.holders]
            one = Lost(shard, sum(each.entries for each in each), sum(each.rows for each in each))
            told = [f"{count} {what}" for what, count in (("entries", one.entries), ("rows", one.rows)) if count]
            LOG.warning(
                "shard %d came back from its last epoch; up to %s written since are lost",
                shard,
                " and ".join(told) or "0 entries and rows",
            )
            lost.append(one)
        self.gone -= {one.shard for one in lost}
        if len(self.gone) == self.count:
            raise ShardGone("no shard came back; mend their machines, then resume the run from its last checkpoint")
        self.lost += lost
        return lost


def telling(method: F) -> F:
    """Says what a shard refused where JAX says only that a callback of a compiled program failed."""

    @wraps(method)
    def told(self: Any, *given: Any) -> Any:
        with nullcontext() if self._shards is None else self._shards.told():
            return method(self, *given)

    return told  # type: ignore[return-value]


class Here:
    """Shards in this process: for tests, and to read the memory of a run where no cluster is."""

    def __init__(self, make: Callable[[int, epochs.Epoch | None], Keeping], shards: int):
        self._make = make
        self.kept: list[Keeping | None] = [make(shard, None) for shard in range(shards)]

    def ask(self, shard: int, verb: str, *given: Any) -> Any:
        """See Place."""
        one = self.kept[shard]
        return ShardGone(f"shard {shard} is no more") if one is None else getattr(one, verb)(*given)

    def answers(self, handles: Sequence[tuple[int, Any]], seconds: float) -> list[Any]:
        """See Place."""
        return [handle for _, handle in handles]

    def make_anew(self, shard: int, epoch: epochs.Epoch | None) -> None:
        """See Place."""
        self.kept[shard] = self._make(shard, epoch)
