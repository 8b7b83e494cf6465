"""Epochs: what every shard had at one moment, on the disk before the checkpoint that names it.

    RUN/checkpoints/shards/shard-1-of-2-9f3b2c1a5d7e8f01.safetensors

First each shard writes its file and waits until it is on the disk. Then the checkpoint is written, whose manifest names
the files with their hashes. A file that no manifest names means nothing, and is deleted later. So a kill at any time
leaves whole epochs only. A file is called by its hash: equal shards have equal names, and a digest of the manifest
covers what they hold.
"""

import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engram.checkpoint.disk import Disk, FileSystem
from engram.checkpoint.files import Sealed, array_chunks, check_seal, from_bytes, parse_tensors, write_file
from engram.cluster.shard import Shape, Shard
from engram.cluster.sharing import shard_of
from engram.errors import CheckpointError, WriteFailed

FOLDER = "shards"  # in that of the checkpoints
FILE = re.compile(r"shard-\d{1,6}-of-\d{1,6}-[0-9a-f]{16}\.safetensors", re.ASCII)


class Part(NamedTuple):
    """One shard's file of an epoch."""

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


def write(shard: Shard, folder: Path, fs: FileSystem | None = None) -> Part:
    """One shard's part of an epoch; when it returns, the file would outlive a power cut. Raises WriteFailed."""
    disk = Disk() if fs is None else fs
    arrays, meta = shard.saved()
    shape = shard.shape
    unnamed = folder / f".tmp-{secrets.token_hex(8)}"
    try:
        disk.make_folder(folder)
        sealed = write_file(disk, unnamed, array_chunks(arrays))
        name = f"shard-{shape.shard}-of-{shape.shards}-{sealed.sha256[:16]}.safetensors"
        disk.rename(unnamed, folder / name)
        disk.fsync_folder(folder)
    except OSError as error:
        with suppress(OSError):
            disk.unlink(unnamed)
        raise WriteFailed(
            f"what shard {shape.shard} holds could not be written to {folder}: {error.strerror or error}; make room "
            f"there"
        ) from None
    return Part(Sealed(name, sealed.bytes, sealed.sha256), meta, shard.held)


def read(folder: Path, part: Part, fs: FileSystem | None = None) -> dict[str, np.ndarray]:
    """The arrays of a part, once its hash was checked. Raises CheckpointError for a file that is not as it was."""
    disk = Disk() if fs is None else fs
    path = folder / part.sealed.file
    try:
        handle = disk.open(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; restore it from a copy") from None
    try:
        check_seal(disk, handle, part.sealed)
        tensors = parse_tensors(disk, handle, part.sealed.file)
        arrays = {
            name: from_bytes(disk.read(handle, tensor.offset, tensor.layout.bytes), tensor.layout, name)
            for name, tensor in tensors.items()
        }
    finally:
        disk.close(handle)
    if lacking := {"table", "written", "hash", "features"} - arrays.keys():
        raise CheckpointError(f"{path} has no {sorted(lacking)[0]!r}; restore it from a copy")
    return arrays


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


def parts_of(state: Any) -> list[Part]:
    """The parts that a checkpoint's state names; none of a run without shards."""
    shards = state.get("shards") if isinstance(state, dict) else None
    return [] if not shards else [Part.from_json(one) for one in shards["parts"]]
