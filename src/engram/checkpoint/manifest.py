"""The manifest of a checkpoint: what it holds, as strict JSON, and the names that a checkpoint folder may contain."""

import hashlib
import json
import platform
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np

from engram.checkpoint.disk import strict_json
from engram.checkpoint.files import MAX_NATURAL, Layout, Sealed, fields, natural, usable_name
from engram.errors import CheckpointError

FORMAT_VERSION = 1
MANIFEST_BYTES = 16 << 20
MAX_ROWS = 1 << 53  # row numbers stay below this: those of centuries. Their sum over all lanes must fit int64
ARRAYS_FILE = "arrays.safetensors"
TEMPORARY = re.compile(r"\.tmp-\d{9,18}-[0-9a-f]{8}", re.ASCII)
SEGMENT = re.compile(r"segment-\d{1,15}-\d{1,6}-[0-9a-f]{8}\.safetensors", re.ASCII)
_CHECKPOINT = re.compile(r"step-(\d{9,18})\.([1-9]\d{0,14})", re.ASCII)
_PACKAGES = ("engram-rl", "jax", "equinox", "optax", "numpy", "gymnasium")


def checkpoint_name(step: int, number: int) -> str:
    """The folder of the `number`-th save, at `step`."""
    return f"step-{step:09d}.{number}"


def parse_name(name: str) -> tuple[int, int] | None:
    """(step, number of the save) out of a folder's name; None if it is not a checkpoint's."""
    match = _CHECKPOINT.fullmatch(name)
    if match is None:
        return None
    step, number = int(match[1]), int(match[2])
    return (step, number) if checkpoint_name(step, number) == name else None


def checksum_line(text: bytes) -> bytes:
    """What `manifest.sha256` holds, in the form that `sha256sum -c` reads."""
    return f"{hashlib.sha256(text).hexdigest()}  manifest.json\n".encode("ascii")


@dataclass(frozen=True)
class ReplayEntry:
    """The replay, as a manifest describes it.

    Fields:
      cursors: int64 [lanes].
      columns: type and shape of one row.
      files: the segments in the order they were written.
    """

    capacity: int
    cursors: np.ndarray
    columns: dict[str, Layout]
    files: tuple[Sealed, ...]

    @property
    def low(self) -> np.ndarray:
        """The oldest live row of each lane, int64 [lanes]."""
        return np.maximum(self.cursors - self.capacity, 0)


@dataclass(frozen=True)
class Manifest:
    """Everything a checkpoint is, but for the bytes of its arrays."""

    step: int
    number: int
    arrays: Sealed
    layouts: dict[str, Layout]
    replay: ReplayEntry | None
    meta: Any

    def encode(self) -> bytes:
        """Raises: ValueError if the manifest would be too large to be read again."""
        replay = self.replay
        document = {
            "format": FORMAT_VERSION,
            "step": self.step,
            "save": self.number,
            "versions": _versions(),
            "arrays": vars(self.arrays) | {"tensors": _layouts_json(self.layouts)},
            "replay": None
            if replay is None
            else {
                "capacity": replay.capacity,
                "cursors": replay.cursors.tolist(),
                "columns": _layouts_json(replay.columns),
                "segments": [vars(sealed) for sealed in replay.files],
            },
            "meta": self.meta,
        }
        text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")
        if len(text) > MANIFEST_BYTES:
            raise ValueError(f"the manifest would have {len(text)} bytes, more than 16 MiB: move data into arrays")
        return text

    @staticmethod
    def decode(text: bytes) -> "Manifest":
        """Raises: CheckpointError for anything that `encode` does not write."""
        document = strict_json(text, "manifest.json")
        if type(document) is dict and document.get("format") != FORMAT_VERSION:
            raise CheckpointError(f"its format is not version {FORMAT_VERSION}: use the Engram that wrote it")
        kinds = {"format": int, "step": int, "save": int, "versions": dict, "arrays": dict}
        _, step, number, _, arrays, replay, meta = fields(
            document, "manifest.json", **kinds, replay=(dict, type(None)), meta=object
        )
        file, size, sha256, tensors = fields(arrays, "arrays", file=str, bytes=int, sha256=str, tensors=dict)
        if file != ARRAYS_FILE:
            raise CheckpointError(f"its arrays must be in {ARRAYS_FILE}")
        layouts = _parse_layouts(tensors, "arrays")
        entry = None if replay is None else _parse_replay(replay)
        return Manifest(step, number, Sealed(file, size, sha256), layouts, entry, meta)


def _parse_replay(entry: dict[str, Any]) -> ReplayEntry:
    kinds = {"capacity": int, "cursors": list, "columns": dict, "segments": list}
    capacity, cursors, columns, segments = fields(entry, "replay", **kinds)
    if not 1 <= capacity < MAX_ROWS or any(natural(cursor, "each cursor") >= MAX_ROWS for cursor in cursors):
        raise CheckpointError("its replay has an impossible capacity or cursor")
    if sum(cursors) >= MAX_NATURAL:
        raise CheckpointError("its replay has impossibly many rows in all lanes together")
    files = []
    for segment in segments:
        file, size, sha256 = fields(segment, "a replay segment", file=str, bytes=int, sha256=str)
        if not SEGMENT.fullmatch(file):
            raise CheckpointError(f"{file[:80]!r} cannot name a replay segment")
        files.append(Sealed(file, size, sha256))
    return ReplayEntry(capacity, np.array(cursors, np.int64), _parse_layouts(columns, "replay"), tuple(files))


def _parse_layouts(entries: dict[str, Any], what: str) -> dict[str, Layout]:
    layouts = {}
    for name, entry in entries.items():
        if not usable_name(name):
            raise CheckpointError(f"an array in {what} has an unusable name")
        where = f"array {name!r} in {what}"
        dtype, shape = fields(entry, where, dtype=str, shape=list)
        layouts[name] = Layout.parse(dtype, shape, where)
    return layouts


def _layouts_json(layouts: dict[str, Layout]) -> dict[str, Any]:
    return {name: {"dtype": layout.dtype, "shape": list(layout.shape)} for name, layout in layouts.items()}


@cache  # looking them up takes longer than a small save
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
