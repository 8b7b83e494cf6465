"""Replay on disk: append-only files, each holding the rows that were new when it was written.

A *lane* is one row sequence of the replay ring (one environment of one seed). Row number r of a lane never changes
once it is written, and is forgotten when row r + capacity is. A segment holds, for every lane, the rows [start, stop):
all lanes laid end to end, cut into blocks of bounded size, and in each block one tensor per column, `<block>/<column>`.
Two more tensors, `start` and `stop` (int64, one number per lane), say which rows they are.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from engram.checkpoint.disk import FileSystem
from engram.checkpoint.files import (
    MAX_NATURAL,
    Layout,
    Sealed,
    Tensor,
    check_seal,
    from_bytes,
    parse_tensors,
    raw_bytes,
    tensor_header,
    write_file,
)
from engram.errors import CheckpointError

Columns = dict[str, np.ndarray]
Block = tuple[int, int, Columns]  # lane, number of the first row, columns [rows, ...]
BLOCK_BYTES = 64 << 20  # at most this much replay is held at once


@dataclass(frozen=True)
class ReplayLog:
    """A replay ring as a saver sees it.

    Fields:
      capacity: rows kept per lane; row number r of a lane lives at place r % capacity.
      cursors: int64 [lanes], rows ever written in each lane. The live rows are [max(0, cursor - capacity), cursor),
        and none of them may change any more.
      read: (lane, start, stop) -> copies of live rows as named columns, each [stop - start, ...]. Every lane
        has the same columns.
    """

    capacity: int
    cursors: np.ndarray
    read: Callable[[int, int, int], Columns]

    def replay_blocks(self) -> Iterator[Block]:
        """The live rows, lane after lane, at most `BLOCK_BYTES` at a time."""
        columns = columns_of(self)
        size = max(1, BLOCK_BYTES // row_bytes(columns))
        for starts, stops in cut(np.maximum(self.cursors - self.capacity, 0), self.cursors, size):
            for lane, start, stop in parts(starts, stops):
                yield lane, start, read_checked(self, columns, lane, start, stop)


class RowLog(Protocol):
    """The replay of a live state (`ReplayLog`) or of a loaded one."""

    @property
    def capacity(self) -> int | None: ...

    @property
    def cursors(self) -> np.ndarray | None: ...

    def replay_blocks(self) -> Iterator[Block]: ...


@dataclass(frozen=True)
class Segment:
    """One file of replay rows, and which rows it holds: [starts, stops) per lane."""

    sealed: Sealed
    starts: np.ndarray
    stops: np.ndarray

    def holds_any_from(self, low: np.ndarray) -> bool:
        return bool(np.any((self.stops > self.starts) & (self.stops > low)))


def cut(starts: np.ndarray, stops: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All lanes laid end to end and cut every `size` rows: the (starts, stops) of each piece."""
    counts = stops - starts
    before = np.cumsum(counts) - counts
    for first in range(0, int(counts.sum()), size):
        yield starts + np.clip(first - before, 0, counts), starts + np.clip(first + size - before, 0, counts)


def parts(starts: np.ndarray, stops: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(lane, start, stop) of the lanes that have rows."""
    for lane in np.flatnonzero(stops > starts):
        yield int(lane), int(starts[lane]), int(stops[lane])


def row_bytes(columns: dict[str, Layout]) -> int:
    """Bytes of one row over all columns, at least 1."""
    return max(1, sum(layout.bytes for layout in columns.values()))


def columns_of(log: ReplayLog) -> dict[str, Layout]:
    """Name, type and shape of one row; nothing if no row was ever written."""
    for lane in np.flatnonzero(log.cursors > 0)[:1]:
        newest = int(log.cursors[lane])
        row = log.read(int(lane), newest - 1, newest)
        if not row:
            raise ValueError("the replay gave a row without columns")
        return {name: _row_layout(name, row[name]) for name in sorted(row)}
    return {}


def _row_layout(name: str, column: np.ndarray) -> Layout:
    layout = Layout.of(column, f"replay column {name!r}")
    return Layout(layout.dtype, layout.shape[1:])


def read_checked(log: ReplayLog, columns: dict[str, Layout], lane: int, start: int, stop: int) -> Columns:
    """Rows of a live ring. Raises: ValueError if their names, types or shapes are not those of `columns`."""
    rows = log.read(lane, start, stop)
    for name, layout in columns.items():
        if name not in rows or Layout.of(rows[name], name) != Layout(layout.dtype, (stop - start, *layout.shape)):
            raise ValueError(f"lane {lane} of the replay gave rows {start}..{stop} without a proper column {name!r}")
    if len(rows) != len(columns):
        raise ValueError(f"lane {lane} of the replay gave columns that other lanes do not have")
    return rows


def write_segment(
    fs: FileSystem,
    path: Path,
    log: ReplayLog,
    columns: dict[str, Layout],
    starts: np.ndarray,
    stops: np.ndarray,
    block_bytes: int = BLOCK_BYTES,
) -> Segment:
    """Write the rows [starts, stops) of every lane to a new file, holding one block at a time."""
    size = max(1, block_bytes // row_bytes(columns))
    blocks = list(cut(starts, stops, size))
    lanes = Layout("int64", (len(starts),))
    layouts = {"start": lanes, "stop": lanes}
    for number, (first, last) in enumerate(blocks):
        rows = int((last - first).sum())
        for name, layout in columns.items():
            layouts[f"{number}/{name}"] = Layout(layout.dtype, (rows, *layout.shape))

    def chunks() -> Iterator[bytes | memoryview]:
        yield tensor_header(layouts)
        yield raw_bytes(starts)
        yield raw_bytes(stops)
        for first, last in blocks:
            pieces = [read_checked(log, columns, *part) for part in parts(first, last)]
            for name in columns:
                yield from (raw_bytes(piece[name]) for piece in pieces)

    return Segment(write_file(fs, path, chunks()), starts, stops)


def open_segment(
    fs: FileSystem, folder: Path, sealed: Sealed, columns: dict[str, Layout], lanes: int
) -> tuple[Segment, dict[str, Tensor]]:
    """Check a segment from its hash to its last shape; after this, only its rows remain to be read."""
    handle = fs.open(folder / sealed.file)
    try:
        check_seal(fs, handle, sealed)
        tensors = parse_tensors(fs, handle, sealed.file)
        expected = Layout("int64", (lanes,))
        bounds = []
        for name in ("start", "stop"):
            tensor = tensors.get(name)
            if tensor is None or tensor.layout != expected:
                raise CheckpointError(f"{sealed.file} does not say which rows of {lanes} lanes it holds")
            bounds.append(from_bytes(fs.read(handle, tensor.offset, expected.bytes), expected, sealed.file))
    finally:
        fs.close(handle)
    starts, stops = bounds
    beyond = np.any(stops >= MAX_NATURAL) or sum(stops.tolist()) >= MAX_NATURAL
    if np.any(starts < 0) or np.any(stops < starts) or beyond:
        raise CheckpointError(f"{sealed.file} names rows that cannot be")
    segment = Segment(sealed, starts, stops)
    _check_blocks(segment, tensors, columns)
    return segment, tensors


def _check_blocks(segment: Segment, tensors: dict[str, Tensor], columns: dict[str, Layout]) -> None:
    """All blocks but the last have the size of the first, and each has every column."""
    total = sum(int(count) for count in segment.stops - segment.starts)
    size = _block_rows(tensors, columns)
    blocks = -(-total // size) if size else 0
    expected = 2 + blocks * len(columns)
    right = len(tensors) == expected and (size > 0) == (total > 0)
    for number in range(blocks if right else 0):
        rows = min(size, total - number * size)
        for name, layout in columns.items():
            tensor = tensors.get(f"{number}/{name}")
            right = right and tensor is not None and tensor.layout == Layout(layout.dtype, (rows, *layout.shape))
    if not right:
        raise CheckpointError(f"{segment.sealed.file} does not hold the rows and columns that it names")


def _block_rows(tensors: dict[str, Tensor], columns: dict[str, Layout]) -> int:
    for name in columns:
        tensor = tensors.get(f"0/{name}")
        return tensor.layout.shape[0] if tensor is not None and tensor.layout.shape else 0
    return 0


def segment_blocks(
    fs: FileSystem,
    folder: Path,
    segment: Segment,
    tensors: dict[str, Tensor],
    columns: dict[str, Layout],
    low: np.ndarray,
) -> Iterator[Block]:
    """The rows of a checked segment that are at or above `low` in their lane, as read-only arrays."""
    size = _block_rows(tensors, columns)
    handle = fs.open(folder / segment.sealed.file)
    try:
        for number, (starts, stops) in enumerate(cut(segment.starts, segment.stops, size) if size else ()):
            if np.all(stops <= np.maximum(low, starts)):
                continue
            block = {}
            for name in columns:
                tensor = tensors[f"{number}/{name}"]
                raw = fs.read(handle, tensor.offset, tensor.layout.bytes)
                block[name] = from_bytes(raw, tensor.layout, segment.sealed.file)
            first = 0
            for lane, start, stop in parts(starts, stops):
                skip = min(max(int(low[lane]) - start, 0), stop - start)
                if start + skip < stop:
                    rows = slice(first + skip, first + stop - start)
                    yield lane, start + skip, {name: column[rows] for name, column in block.items()}
                first += stop - start
    finally:
        fs.close(handle)


def check_cover(segments: Sequence[Segment], low: np.ndarray, cursors: np.ndarray) -> None:
    """Refuse segments that leave a live row out, hold one twice, or go past the cursor."""
    reached = low.copy()
    for segment in segments:
        used = (segment.stops > segment.starts) & (segment.stops > low)
        first = np.maximum(segment.starts, low)
        if np.any(used & (first != reached)):
            raise CheckpointError(f"{segment.sealed.file} does not continue the replay rows before it")
        reached = np.where(used, segment.stops, reached)
    if np.any(reached != cursors):
        raise CheckpointError("the replay segments do not end where the replay does")


def state_digest(arrays: Mapping[str, np.ndarray], meta_state: Any, replay: RowLog | None = None) -> str:
    """SHA-256 (hex) of a whole state: two states have one digest only if they are equal to the last bit.

    It covers each array (name, type, shape, bytes), the JSON value, and of the replay its capacity, cursors and live
    rows in the order of time. A live state and the checkpoint of it agree, however the rows were cut into files.
    At most one block of replay is held at a time.
    """
    digest = sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        digest.update(_canonical(["array", name, array.dtype.name, list(array.shape)]))
        digest.update(raw_bytes(array))
    digest.update(_canonical(["meta", meta_state]))
    if replay is None or replay.cursors is None:
        return digest.hexdigest()
    digest.update(_canonical(["replay", replay.capacity, np.asarray(replay.cursors).tolist()]))
    columns: dict[tuple[int, str], Any] = {}  # one running hash for each lane's column: rows may come in any cut
    for lane, _, rows in replay.replay_blocks():
        for name, column in rows.items():
            if (lane, name) not in columns:
                columns[lane, name] = sha256(_canonical([column.dtype.name, list(column.shape[1:])]))
            columns[lane, name].update(raw_bytes(column))
    for (lane, name), running in sorted(columns.items()):
        digest.update(_canonical([lane, name, running.hexdigest()]))
    return digest.hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"
