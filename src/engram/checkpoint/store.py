"""Checkpoints: named arrays, a JSON value and a replay log. An acknowledged save is never lost.

    RUN/checkpoints/
      step-000001234.7/          the 7th save into this folder, at step 1234
        manifest.json            what there is: names, bytes, SHA-256, types, shapes, and the JSON value
        manifest.sha256          the manifest's own hash (`sha256sum -c manifest.sha256` checks it)
        arrays.safetensors
      segments/                  replay rows, shared by all checkpoints: a save adds only what is new
        segment-7-0-1f6c2a90.safetensors

A save writes into `.tmp-...`, waits until every file is on the disk, the manifest last, and renames the folder. So a
checkpoint is there whole or not at all. A load checks every hash. It falls back to an older checkpoint, and says so.
*Newest* means saved last, not highest step, because a run may resume from an older checkpoint.
"""

import errno
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from engram.checkpoint.disk import Disk, FileSystem, read_small
from engram.checkpoint.files import (
    Layout,
    array_chunks,
    check_seal,
    from_bytes,
    parse_tensors,
    write_file,
)
from engram.checkpoint.manifest import (
    ARRAYS_FILE,
    MANIFEST_BYTES,
    SEGMENT,
    TEMPORARY,
    Manifest,
    ReplayEntry,
    checkpoint_name,
    checksum_line,
    parse_name,
)
from engram.checkpoint.segments import (
    BLOCK_BYTES,
    Block,
    ReplayLog,
    Segment,
    check_cover,
    columns_of,
    cut,
    open_segment,
    row_bytes,
    segment_blocks,
    state_digest,
    write_segment,
)
from engram.checkpoint.verify import verify_folder
from engram.errors import CheckpointError, WriteFailed

__all__ = ["CheckpointStore", "Limits", "Loaded", "ReplayLog", "SaveFailed", "Saved", "state_digest"]

ROOM = 1.2  # free space asked for, as a multiple of what will be written


TRIES = 5  # of a reader, where a writer deletes what it was about to read


class SaveFailed(WriteFailed):
    """A checkpoint could not be written; the ones before it are untouched."""


@dataclass(frozen=True)
class Limits:
    """Sizes at which a store cuts: replay segments per checkpoint, bytes of replay per file and held at once."""

    segments: int = 256
    file_bytes: int = 1 << 30
    block_bytes: int = BLOCK_BYTES


@dataclass(frozen=True)
class Saved:
    """An acknowledged checkpoint. `id`: 12 hex digits of its manifest's SHA-256."""

    step: int
    path: Path
    id: str
    bytes_written: int
    seconds: float


@dataclass(frozen=True)
class Loaded:
    """A verified checkpoint.

    Fields:
      cursors, capacity: those of the saved `ReplayLog`; None if no replay was saved.
      passed_over: one sentence for each newer checkpoint that was refused.
    """

    step: int
    id: str
    arrays: dict[str, np.ndarray]
    meta: Any
    cursors: np.ndarray | None
    capacity: int | None
    passed_over: list[str]
    _blocks: Callable[[], Iterator[Block]] = field(repr=False)

    def replay_blocks(self) -> Iterator[Block]:
        """The live replay rows, as (lane, first row, columns [rows, ...]) in the order they were written.

        Columns are read-only. Hashes were checked by `load`, so read the rows before the store saves again.
        Raises: CheckpointError if a file changed since.
        """
        try:
            yield from self._blocks()
        except OSError as error:
            raise CheckpointError(f"the replay of step {self.step} cannot be read: {error}") from None


@dataclass(frozen=True)
class _Base:
    """The replay that is on disk: what the next save continues."""

    entry: ReplayEntry
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class _Plan:
    """Which rows a save will write, behind which segments that stay."""

    log: ReplayLog
    columns: dict[str, Layout]
    kept: tuple[Segment, ...]
    starts: np.ndarray

    @property
    def bytes(self) -> int:
        return int((self.log.cursors - self.starts).sum()) * row_bytes(self.columns)


class CheckpointStore:
    """The checkpoints of one run. Only one process may save to a folder (`RunLock`).

    A store continues the replay it last saved or loaded: after `load`, fill the ring from `replay_blocks` before
    the next `save`. A store that has done neither writes the whole live replay first.

    Args:
      folder: created by the first save.
      keep: how many checkpoints stay, >= 1. Damaged ones do not count.
      fs: the file operations; tests put their own here.
    """

    def __init__(self, folder: Path, keep: int = 3, fs: FileSystem | None = None, limits: Limits | None = None):
        if keep < 1:
            raise ValueError(f"keep = {keep} would delete every checkpoint; keep at least 1")
        self.folder = Path(folder)
        self._segment_folder = self.folder / "segments"
        self._keep = keep
        self._fs: FileSystem = Disk() if fs is None else fs
        self._limits = Limits() if limits is None else limits
        self._base: _Base | None = None
        self._refused: set[str] = set()
        self._leftovers = True  # an earlier process may have died while it saved

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in the order they were last saved; not verified."""
        newest_first = dict.fromkeys(step for _, step, _ in reversed(self._known()))
        return list(newest_first)[::-1]

    def verify(self, step: int | None = None) -> list[str]:
        """What is wrong with the checkpoints (of `step`), one sentence each; checked by code of its own."""
        return verify_folder(self.folder, step)

    def save(self, step: int, arrays: Mapping[str, np.ndarray], meta: Any, replay: ReplayLog | None = None) -> Saved:
        """Write a checkpoint and return once it would outlive a power cut.

        Args:
          step: 0 or more. A step that exists is saved anew; the old one stays until `keep` newer ones exist.
          arrays: any names and shapes; bool, (u)int8..64, float32, float64.
          meta: plain JSON: dicts with string keys, lists, text, finite numbers, true, false, None.
          replay: the rows that are new since the last save are written.

        Raises:
          SaveFailed: the disk is full or fails. Nothing acknowledged was touched; saving again later is safe.
          TypeError, ValueError: the state itself cannot be saved.
        """
        began = time.perf_counter()
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        if json.loads(json.dumps(meta, allow_nan=False)) != meta:
            raise TypeError("meta must be plain JSON: dicts with string keys, lists (no tuples), text, numbers, None")
        try:
            if self._leftovers:
                self._sweep()
            path, text, written, base = self._write(step, arrays, meta, replay)
        except OSError as error:
            self._sweep()
            raise SaveFailed(
                f"the checkpoint of step {step} could not be written to {self.folder}: {error.strerror or error}; "
                "earlier checkpoints are untouched: make room or mend the disk, then save again"
            ) from error
        except Exception:
            self._sweep()
            raise
        self._base = base
        self._prune()
        return Saved(step, path, _id(text), written, time.perf_counter() - began)

    def load(self, step: int | None = None, check: Callable[[Any], None] = lambda meta: None) -> Loaded:
        """The newest checkpoint that passes every check, or the newest of `step`. `check`: one of its meta besides.

        A damaged checkpoint is passed over for an older one, which `passed_over` tells. Another process may save
        meanwhile: where all that were there are gone, the newer ones are tried.
        Raises: CheckpointError if none is usable.
        """
        for _ in range(TRIES):
            before = self._known()
            try:
                return self._newest(before, step, check)
            except CheckpointError:
                if self._known() == before:
                    raise
        return self._newest(self._known(), step, check)

    def _newest(self, known: list[tuple[str, int, int]], step: int | None, check: Callable[[Any], None]) -> Loaded:
        passed_over = []
        for name, this_step, _ in reversed(known):
            if step is not None and this_step != step:
                continue
            try:
                loaded, base = self._read(name, passed_over)
                check(loaded.meta)
            except CheckpointError as error:
                self._refused.add(name)
                passed_over.append(f"checkpoint {name} was passed over: {error}")
                continue
            self._base = base
            return loaded
        wanted = "" if step is None else f" of step {step}"
        saved = ", ".join(map(str, self.steps()))
        why = "; ".join(passed_over) or (f"saved steps: {saved}" if saved else "the folder holds none")
        raise CheckpointError(f"no usable checkpoint{wanted} in {self.folder}: {why}")

    def _known(self) -> list[tuple[str, int, int]]:
        try:
            return self._list()
        except OSError as error:
            raise CheckpointError(
                f"{self.folder} cannot be read: {error.strerror}; name a run's folder that you may read"
            ) from None

    def _list(self) -> list[tuple[str, int, int]]:
        """(name, step, number of the save) of the checkpoints that are there, in the order they were saved."""
        try:
            entries = self._fs.listdir(self.folder)
            if self._fs.listdir(self.folder.parent).get(self.folder.name) == "other":
                raise OSError(errno.ELOOP, "it is a link, and none is followed; link the whole run instead")
        except FileNotFoundError:
            return []
        parsed = ((name, parse_name(name)) for name, kind in entries.items() if kind == "folder")
        return sorted(((name, *found) for name, found in parsed if found), key=lambda entry: entry[::-1])

    # Saving, top to bottom.

    def _write(
        self, step: int, arrays: dict[str, np.ndarray], meta: Any, replay: ReplayLog | None
    ) -> tuple[Path, bytes, int, _Base | None]:
        fs = self._fs
        fs.make_folder(self._segment_folder)
        known = self._list()
        if fs.listdir(self.folder).get("segments") != "folder":
            raise OSError(errno.ELOOP, "its 'segments' is a link, and none is followed")
        if not known:
            fs.fsync_folder(self.folder.parent)
        number = known[-1][2] + 1 if known else 1
        plan = None if replay is None else self._plan(replay)
        needed = sum(array.nbytes for array in arrays.values()) + (plan.bytes if plan else 0)
        if not self._has_room(needed):
            raise OSError(errno.ENOSPC, f"{ROOM * needed / 2**20:.1f} MiB are needed there, and less is free")
        base, written = (None, 0) if plan is None else self._write_replay(plan, number)
        temporary = self._temporary(step)
        fs.make_folder(temporary)
        sealed = write_file(fs, temporary / ARRAYS_FILE, array_chunks(arrays))
        layouts = {name: Layout.of(array, f"array {name!r}") for name, array in arrays.items()}
        text = Manifest(step, number, sealed, layouts, base.entry if base else None, meta).encode()
        note = write_file(fs, temporary / "manifest.sha256", [checksum_line(text)])
        write_file(fs, temporary / "manifest.json", [text])
        fs.fsync_folder(temporary)
        path = self.folder / checkpoint_name(step, number)
        fs.rename(temporary, path)
        fs.fsync_folder(self.folder)
        return path, text, written + sealed.bytes + note.bytes + len(text), base

    def _plan(self, log: ReplayLog) -> _Plan:
        cursors = np.array(log.cursors, dtype=np.int64)  # a copy: the ring moves on
        if cursors.ndim != 1 or log.capacity < 1 or np.any(cursors < 0):
            raise ValueError("a replay log needs a capacity >= 1 and one cursor >= 0 per lane")
        log = ReplayLog(int(log.capacity), cursors, log.read)
        columns = columns_of(log)
        low = np.maximum(cursors - log.capacity, 0)
        whole = _Plan(log, columns, (), low)
        base = self._base
        if base is None or not self._continues(base, log, columns):
            return whole
        kept = tuple(segment for segment in base.segments if segment.holds_any_from(low))
        plan = _Plan(log, columns, kept, np.maximum(low, base.entry.cursors))
        files = -(-plan.bytes // self._limits.file_bytes)
        compact = len(kept) + files > self._limits.segments and self._has_room(whole.bytes)
        return whole if compact else plan

    def _continues(self, base: _Base, log: ReplayLog, columns: dict[str, Layout]) -> bool:
        """Whether this ring is the one on disk, grown, and its files are still in place."""
        entry = base.entry
        if entry.capacity != log.capacity or entry.cursors.shape != log.cursors.shape:
            return False
        if np.any(log.cursors < entry.cursors) or (base.segments and entry.columns != columns):
            return False
        there = self._fs.listdir(self._segment_folder)
        return all(there.get(segment.sealed.file) == "file" for segment in base.segments)

    def _write_replay(self, plan: _Plan, number: int) -> tuple[_Base, int]:
        log, size = plan.log, max(1, self._limits.file_bytes // row_bytes(plan.columns))
        new = []
        for part, (starts, stops) in enumerate(cut(plan.starts, log.cursors, size)):
            path = self._segment_folder / f"segment-{number}-{part}-{secrets.token_hex(4)}.safetensors"
            block_bytes = self._limits.block_bytes
            new.append(write_segment(self._fs, path, log, plan.columns, starts, stops, block_bytes))
        if new:
            self._fs.fsync_folder(self._segment_folder)
        segments = (*plan.kept, *new)
        entry = ReplayEntry(log.capacity, log.cursors, plan.columns, tuple(segment.sealed for segment in segments))
        return _Base(entry, segments), sum(segment.sealed.bytes for segment in new)

    def _has_room(self, needed: int) -> bool:
        return self._fs.free(self.folder) >= ROOM * needed

    def _temporary(self, step: int) -> Path:
        return self.folder / f".tmp-{step:09d}-{secrets.token_hex(4)}"

    # Loading.

    def _read(self, name: str, passed_over: list[str]) -> tuple[Loaded, _Base | None]:
        try:
            text = read_small(self._fs, self.folder / name / "manifest.json", MANIFEST_BYTES)
            note = read_small(self._fs, self.folder / name / "manifest.sha256", 1024)
            if note != checksum_line(text):
                raise CheckpointError("manifest.json is damaged: its SHA-256 is not the one in manifest.sha256")
            manifest = Manifest.decode(text)
            if (manifest.step, manifest.number) != parse_name(name):
                raise CheckpointError(f"its manifest is that of {checkpoint_name(manifest.step, manifest.number)}")
            arrays = self._read_arrays(self.folder / name, manifest)
            here = (manifest.step, _id(text), arrays, manifest.meta)
            if manifest.replay is None:
                return Loaded(*here, None, None, passed_over, lambda: iter(())), None
            base, blocks = self._read_replay(manifest.replay)
            return Loaded(*here, base.entry.cursors.copy(), base.entry.capacity, passed_over, blocks), base
        except OSError as error:
            where = f" {Path(error.filename).name}" if error.filename else ""
            raise CheckpointError(f"its file{where} cannot be read: {error.strerror or error}") from None

    def _read_arrays(self, folder: Path, manifest: Manifest) -> dict[str, np.ndarray]:
        sealed, arrays = manifest.arrays, {}
        handle = self._fs.open(folder / sealed.file)
        try:
            check_seal(self._fs, handle, sealed)
            found = parse_tensors(self._fs, handle, sealed.file)
            if {name: tensor.layout for name, tensor in found.items()} != manifest.layouts:
                raise CheckpointError(f"{sealed.file} holds other arrays than its manifest says")
            for name, layout in manifest.layouts.items():
                raw = self._fs.read(handle, found[name].offset, layout.bytes)
                arrays[name] = from_bytes(raw, layout, f"array {name!r}").copy()
        finally:
            self._fs.close(handle)
        return arrays

    def _read_replay(self, entry: ReplayEntry) -> tuple[_Base, Callable[[], Iterator[Block]]]:
        fs, folder = self._fs, self._segment_folder
        if entry.files and fs.listdir(self.folder).get("segments") != "folder":
            raise CheckpointError("the folder 'segments' beside it is missing")
        opened = [open_segment(fs, folder, sealed, entry.columns, len(entry.cursors)) for sealed in entry.files]
        segments = tuple(segment for segment, _ in opened)
        check_cover(segments, entry.low, entry.cursors)

        def blocks() -> Iterator[Block]:
            return chain.from_iterable(segment_blocks(fs, folder, *one, entry.columns, entry.low) for one in opened)

        return _Base(entry, segments), blocks

    # Cleaning up. Nothing here may turn an acknowledged save into a failed one.

    def _prune(self) -> None:
        """Keep the newest `keep` checkpoints that were not refused by a load, and what they need."""
        with suppress(OSError):
            known = self._list()
            sound = [number for name, _, number in known if name not in self._refused]
            for name, step, number in known:
                if number < min(sound[-self._keep :], default=0):
                    self._leftovers = True
                    self._fs.rename(self.folder / name, self._temporary(step))
            if self._leftovers:
                self._fs.fsync_folder(self.folder)  # before segments go: no half checkpoint after a power cut
            self._sweep()

    def _sweep(self) -> None:
        """Delete unfinished saves, and segments that no checkpoint names. What cannot be deleted waits."""
        self._leftovers = True
        with suppress(OSError):
            entries = self._fs.listdir(self.folder)
            done = True
            for name, kind in entries.items():
                if kind == "folder" and TEMPORARY.fullmatch(name):
                    for file in self._fs.listdir(self.folder / name):
                        done &= self._deleted(self._fs.unlink, self.folder / name / file)
                    done &= self._deleted(self._fs.rmdir, self.folder / name)
            if entries.get("segments") == "folder":
                needed = self._needed()
                for name, kind in self._fs.listdir(self._segment_folder).items():
                    if kind == "file" and SEGMENT.fullmatch(name) and name not in needed:
                        done &= self._deleted(self._fs.unlink, self._segment_folder / name)
            self._leftovers = not done

    def _deleted(self, delete: Callable[[Path], None], path: Path) -> bool:
        try:
            delete(path)
        except OSError:
            return False
        return True

    def _needed(self) -> set[str]:
        """Every segment named anywhere in a manifest, even in one that is damaged or of a newer format."""
        needed = set()
        for name, _, _ in self._list():
            with suppress(FileNotFoundError, CheckpointError):
                text = read_small(self._fs, self.folder / name / "manifest.json", MANIFEST_BYTES)
                needed |= set(SEGMENT.findall(text.decode("latin-1")))
        return needed


def _id(manifest: bytes) -> str:
    return sha256(manifest).hexdigest()[:12]
