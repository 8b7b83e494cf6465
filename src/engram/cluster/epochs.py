"""Epochs: what every shard had at one moment, on the disk before the checkpoint that names it.

    RUN/checkpoints/shards/shard-1-of-2-9f3b2c1a5d7e8f01.safetensors   entries of the external memory
    RUN/checkpoints/shards/rows-1-of-2-0c41d6e29ab8f357.safetensors    rows of the replay

First each shard writes its files and waits until they are on the disk. Then the checkpoint is written, whose manifest
names the files with their hashes. A file that no manifest names means nothing, and is deleted later. So a kill at any
time leaves whole epochs only. A file is called by its hash: equal shards have equal names, and a digest of the manifest
covers what they hold. Of a replay each file has the rows of some places, and is written only if one of them changed.
"""

import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engram.checkpoint.disk import Disk, FileSystem
from engram.checkpoint.files import Sealed, array_chunks, check_seal, from_bytes, parse_tensors, write_file
from engram.cluster.rows import PIECES, RowShape, RowShard
from engram.cluster.shard import Shape, Shard
from engram.cluster.sharing import shard_of
from engram.errors import CheckpointError, WriteFailed

FOLDER = "shards"  # in that of the checkpoints
FILE = re.compile(r"(?:shard|rows)-\d{1,6}-of-\d{1,6}-[0-9a-f]{16}\.safetensors", re.ASCII)


class Part(NamedTuple):
    """One file of a shard. `entries`: of its external memory, or rows of its replay."""

    sealed: Sealed
    meta: dict[str, Any]
    entries: int

    def to_json(self) -> dict[str, Any]:
        """As a manifest has it."""
        return {**vars(self.sealed), "meta": self.meta, "entries": self.entries}

    @classmethod
    def from_json(cls, values: Any) -> "Part":
        """The inverse of `to_json`. Raises CheckpointError for what is none."""
        try:
            sealed = Sealed(str(values["file"]), int(values["bytes"]), str(values["sha256"]))
            counters = values["meta"]
            if not FILE.fullmatch(sealed.file) or not isinstance(counters, dict):
                raise ValueError(f"{sealed.file[:80]!r} cannot name a shard")
            return cls(sealed, counters, int(values["entries"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint's shards cannot be read ({error})") from None


class Kept(NamedTuple):
    """What one shard had at an epoch: the file of its entries, those of its rows; None for what it does not keep."""

    memory: Part | None
    rows: list[Part] | None


Epoch = list[Kept]  # of every shard


def to_json(epoch: Epoch) -> dict[str, Any]:
    """As a checkpoint has it."""
    found: dict[str, Any] = {"parts": [kept.memory.to_json() for kept in epoch if kept.memory is not None]}
    rows = [[part.to_json() for part in kept.rows] for kept in epoch if kept.rows is not None]
    return {**found, "rows": rows} if rows else found


def write(shard: Shard, folder: Path, fs: FileSystem | None = None) -> Part:
    """One shard's entries; when it returns, the file would outlive a power cut. Raises WriteFailed."""
    arrays, meta = shard.saved()
    return Part(_written("shard", shard.shape, arrays, folder, fs), meta, shard.held)


class RowFiles:
    """What of a shard's rows is on the disk."""

    def __init__(self, shard: RowShard, folder: Path, fs: FileSystem | None = None):
        self._shard, self._folder, self._fs = shard, folder, fs
        self._parts: list[Part | None] = [None] * PIECES

    def write(self) -> list[Part]:
        """All files, of which those are written whose rows have changed; see `write`. Raises WriteFailed."""
        shard = self._shard
        for piece in np.flatnonzero(shard.changed).tolist():
            arrays, part = shard.piece(piece), None
            if count := len(arrays["row"]):
                part = Part(_written("rows", shard.shape, arrays, self._folder, self._fs), {"piece": piece}, count)
            self._parts[piece] = part
            shard.changed[piece] = False
        return [part for part in self._parts if part is not None]

    def open(self, epoch: Epoch) -> None:
        """Takes the rows that are this shard's out of an epoch, which as many shards wrote, or another number.

        Every row is as it was. Raises CheckpointError for files that are damaged or of another replay.
        """
        shape = self._shard.shape
        same = len(epoch) == shape.shards
        for part in epoch[shape.shard].rows or [] if same else rows_of(epoch):
            self._shard.take(read(self._folder, part, self._fs))
            if same:
                self._parts[_piece_of(part)] = part
        if same:
            self._shard.changed[:] = False


def _piece_of(part: Part) -> int:
    piece = part.meta.get("piece")
    if not isinstance(piece, int) or not 0 <= piece < PIECES:
        raise CheckpointError(
            f"{part.sealed.file} does not say which rows it holds; restore the checkpoint from a copy"
        )
    return piece


def _written(
    what: str, shape: Shape | RowShape, arrays: dict[str, np.ndarray], folder: Path, fs: FileSystem | None
) -> Sealed:
    disk = Disk() if fs is None else fs
    unnamed = folder / f".tmp-{secrets.token_hex(8)}"
    try:
        disk.make_folder(folder)
        sealed = write_file(disk, unnamed, array_chunks(arrays))
        name = f"{what}-{shape.shard}-of-{shape.shards}-{sealed.sha256[:16]}.safetensors"
        disk.rename(unnamed, folder / name)
        disk.fsync_folder(folder)
    except OSError as error:
        with suppress(OSError):
            disk.unlink(unnamed)
        raise WriteFailed(
            f"what shard {shape.shard} holds could not be written to {folder}: {error.strerror or error}; make room "
            f"there"
        ) from None
    return Sealed(name, sealed.bytes, sealed.sha256)


@contextmanager
def _whole(disk: FileSystem, path: Path, sealed: Sealed) -> Iterator[Any]:
    """A file of a shard, open, once its hash was checked. CheckpointError for one that is not as it was written."""
    try:
        handle = disk.open(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; restore it from a copy") from None
    try:
        check_seal(disk, handle, sealed)
        yield handle
    finally:
        disk.close(handle)


def read(folder: Path, part: Part, fs: FileSystem | None = None) -> dict[str, np.ndarray]:
    """The arrays of a part, once its hash was checked. Raises CheckpointError for a file that is not as it was."""
    disk, path = Disk() if fs is None else fs, folder / part.sealed.file
    with _whole(disk, path, part.sealed) as handle:
        tensors = parse_tensors(disk, handle, part.sealed.file)
        arrays = {
            name: from_bytes(disk.read(handle, tensor.offset, tensor.layout.bytes), tensor.layout, name)
            for name, tensor in tensors.items()
        }
    needed = {"lane", "row"} if part.sealed.file.startswith("rows") else {"table", "written", "hash", "features"}
    if lacking := needed - arrays.keys():
        raise CheckpointError(f"{path} has no {sorted(lacking)[0]!r}; restore it from a copy")
    return arrays


def check_there(checkpoints: Path, epoch: Epoch) -> None:
    """Raises WriteFailed where this machine does not see a file that a shard has written: its folder is another one."""
    for part in (*parts_of(epoch), *rows_of(epoch)):
        path = checkpoints / FOLDER / part.sealed.file
        if not path.is_file() or path.stat().st_size != part.sealed.bytes:
            raise WriteFailed(
                f"a shard wrote {part.sealed.file} on its own machine, where this one does not see it; name a --run "
                f"folder that all machines share"
            )


def check_whole(checkpoints: Path, epoch: Epoch, rows: bool = True, fs: FileSystem | None = None) -> None:
    """Raises CheckpointError for the first file of shards that is not as it was written; without `rows`, of entries."""
    disk = Disk() if fs is None else fs
    for part in (*parts_of(epoch), *(rows_of(epoch) if rows else ())):
        with _whole(disk, checkpoints / FOLDER / part.sealed.file, part.sealed):
            pass


def check_meta(checkpoints: Path, meta: Any, rows: bool = True) -> None:
    """`check_whole` of what the meta of a checkpoint names."""
    check_whole(checkpoints, epoch_of(meta.get("state")), rows)


def damaged(checkpoints: Path) -> list[str]:
    """A sentence for each checkpoint in this folder, or below, that names a file of shards which is damaged or gone."""
    found = []
    for path in sorted(checkpoints.rglob("manifest.json")):
        with suppress(OSError, ValueError):  # of the manifest itself others tell
            try:
                check_meta(checkpoints, json.loads(path.read_text()).get("meta", {}))
            except CheckpointError as problem:
                found.append(f"{path.parent.name}: {problem}")
    return found


def opened(folder: Path, parts: list[Part], shape: Shape) -> Shard:
    """A shard with what is its part of an epoch, which as many shards wrote, or another number of them.

    As many: the shard is as it was, to the last bit. Otherwise entries go to the shards that their hashes say, in the
    order in which they were written; each is as it was, and a read of all shards gives the same answer. What gives way
    next in a full table is then counted anew where the eviction is `oldest`.
    """
    if len(parts) == shape.shards:
        part = parts[shape.shard]
        return Shard.of(shape, read(folder, part), part.meta)
    return Shard.of(shape, *redistributed([read(folder, part) for part in parts], parts, shape))


def redistributed(
    files: list[dict[str, np.ndarray]], parts: list[Part], shape: Shape
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and counters of one shard, out of those of shards in another number."""
    together = {name: np.concatenate([arrays[name] for arrays in files]) for name in files[0]}
    mine = np.flatnonzero(shard_of(together["hash"], shape.shards) == shape.shard)
    mine = mine[np.argsort(together["written"][mine], kind="stable")]
    arrays = {name: column[mine] for name, column in together.items()}
    held = np.bincount(arrays["table"], minlength=shape.tables)
    meta = {
        "moment": max(part.meta["moment"] for part in parts),
        "cursor": (held % shape.places).tolist(),
    }
    return arrays, meta


def prune(checkpoints: Path) -> None:
    """Deletes the files of shards that no checkpoint in this folder, or in one below, names."""
    folder = checkpoints / FOLDER
    with suppress(OSError):
        needed = {
            name for path in checkpoints.rglob("manifest.json") for name in FILE.findall(path.read_text("latin-1"))
        }
        for path in folder.iterdir():
            if (FILE.fullmatch(path.name) or path.name.startswith(".tmp-")) and path.name not in needed:
                path.unlink()


def epoch_of(state: Any) -> Epoch:
    """What a checkpoint's state names of shards; nothing of a run without any. Raises CheckpointError."""
    shards = state.get("shards") if isinstance(state, dict) else None
    if not shards:
        return []
    try:
        parts, rows = shards["parts"], shards.get("rows", [])
        count = max(len(parts), len(rows))
        parts, rows = list(parts) or [None] * count, list(rows) or [None] * count
        return [
            Kept(
                None if part is None else Part.from_json(part),
                None if of_rows is None else [Part.from_json(one) for one in of_rows],
            )
            for part, of_rows in zip(parts, rows, strict=True)
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint's shards cannot be read ({error})") from None


def parts_of(epoch: Epoch) -> list[Part]:
    """The files of entries, one of each shard; none of a run whose external memory is not in shards."""
    return [kept.memory for kept in epoch if kept.memory is not None]


def rows_of(epoch: Epoch) -> list[Part]:
    """The files of replay rows, of all shards; none of a run whose replay is not in shards."""
    return [part for kept in epoch for part in kept.rows or []]


def without_rows(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's state that names no files of rows, where it named some."""
    if "rows" not in (state.get("shards") or {}):
        return state
    shards = {name: value for name, value in state["shards"].items() if name != "rows"}
    return {**state, "shards": shards if shards["parts"] else None}
