"""Files that can be trusted: checked tensor files, forms of JSON, and the lock of a run.

Files are read as bytes from a stranger (`disk.py`). Sizes are bounded before memory is taken. A malformed file raises
`CheckpointError` and no other exception. Nothing is unpickled, and no link is followed.

Tensor files are in the safetensors format: eight bytes of header length, a JSON header, then the raw little-endian
arrays. Engram writes the format itself, as a stream, because arrays may be larger than free memory.
"""

import fcntl
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from engram.checkpoint.disk import FileSystem, strict_json
from engram.errors import CheckpointError, RunLocked, WriteFailed, unwritten

HEADER_BYTES = 8 << 20  # the largest tensor-file header that is read
CHUNK_BYTES = 4 << 20  # how much of a file is held while it is hashed
MAX_TENSORS = 10_000
MAX_AXES = 32
MAX_NATURAL = 1 << 62  # sums and differences of two such numbers still fit int64

# bfloat16 is left out: NumPy has no such dtype, and nothing that Engram keeps is stored in it.
DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
}
_DTYPE_OF_CODE = {code: name for name, code in DTYPES.items()}


@dataclass(frozen=True)
class Sealed:
    """Length and hash of one file, as its manifest gives them."""

    file: str
    bytes: int
    sha256: str


def write_file(fs: FileSystem, path: Path, chunks: Iterable[bytes | memoryview]) -> Sealed:
    """Write a new file and wait until it is on the disk. The hash is that of `data`, not of bytes read back."""
    digest, total = hashlib.sha256(), 0
    handle = fs.create(path)
    try:
        for chunk in chunks:
            digest.update(chunk)
            fs.write(handle, chunk)
            total += len(chunk)
        fs.fsync(handle)
    finally:
        fs.close(handle)
    return Sealed(path.name, total, digest.hexdigest())


def check_seal(fs: FileSystem, handle: int, sealed: Sealed) -> None:
    """Refuse an open file whose length or SHA-256 is not what its manifest says. Holds `CHUNK_BYTES` at most."""
    if (size := fs.size(handle)) != sealed.bytes:
        raise CheckpointError(f"{sealed.file} has {size} bytes where its manifest says {sealed.bytes}")
    digest = hashlib.sha256()
    for offset in range(0, size, CHUNK_BYTES):
        digest.update(fs.read(handle, offset, min(CHUNK_BYTES, size - offset)))
    if digest.hexdigest() != sealed.sha256:
        raise CheckpointError(f"{sealed.file} is damaged: its SHA-256 is not the one in its manifest")


def fields(value: Any, what: str, **kinds: type | tuple[type, ...]) -> list[Any]:
    """The values of a JSON object that has exactly these keys, of these types; numbers are 0..2^62-1."""
    if type(value) is not dict or set(value) != set(kinds):
        raise CheckpointError(f"{what} must be a JSON object with the keys {', '.join(kinds)}")
    for key, kind in kinds.items():
        if kind is int:
            natural(value[key], f"{key} of {what}")
        elif kind is not object and not isinstance(value[key], kind):
            raise CheckpointError(f"{key} of {what} has the wrong type")
    return [value[key] for key in kinds]


def natural(value: Any, what: str) -> int:
    """A whole number 0..2^62-1 out of JSON."""
    if type(value) is not int or not 0 <= value < MAX_NATURAL:
        raise CheckpointError(f"{what} must be a whole number from 0 to 2^62-1")
    return value


def usable_name(name: str) -> bool:
    """Whether a tensor may be called this: 1..256 printable characters. Such names are keys, never paths."""
    return 1 <= len(name) <= 256 and name.isprintable() and name != "__metadata__"


@dataclass(frozen=True)
class Layout:
    """Type and shape of an array: `dtype` is a NumPy name out of `DTYPES`."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    @staticmethod
    def of(array: np.ndarray, what: str) -> "Layout":
        """Raises: TypeError for an array that no tensor file holds (objects, strings, float16, ...)."""
        if array.dtype.name not in DTYPES:
            raise TypeError(f"{what} has dtype {array.dtype}; a checkpoint holds {', '.join(DTYPES)}: convert it first")
        return Layout(array.dtype.name, array.shape)

    @staticmethod
    def parse(dtype: Any, shape: Any, what: str) -> "Layout":
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise CheckpointError(f"{what} has a dtype that is not one of {', '.join(DTYPES)}")
        if type(shape) is not list or len(shape) > MAX_AXES:
            raise CheckpointError(f"{what} needs a shape: a list of at most {MAX_AXES} lengths")
        return Layout(dtype, tuple(natural(length, f"each length in the shape of {what}") for length in shape))


@dataclass(frozen=True)
class Tensor:
    """Where an array lies in a file; `offset` counts bytes from the beginning of the file."""

    layout: Layout
    offset: int


def raw_bytes(array: np.ndarray) -> memoryview:
    """The array's bytes in C order, little endian; copies only what is not so already."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data


def from_bytes(raw: bytes, layout: Layout, what: str) -> np.ndarray:
    """The read-only array that these bytes are."""
    if len(raw) != layout.bytes:
        raise CheckpointError(f"{what} ended too early: it changed while it was read")
    try:
        if layout.dtype == "bool" and np.any(np.frombuffer(raw, np.uint8) > 1):
            raise CheckpointError(f"{what} holds booleans other than 0 and 1")
        return np.frombuffer(raw, np.dtype(layout.dtype).newbyteorder("<")).reshape(layout.shape)
    except ValueError as error:  # an empty array with an impossible length beside the 0
        raise CheckpointError(f"{what} has an impossible shape: {error}") from None


def tensor_header(layouts: Mapping[str, Layout]) -> bytes:
    """The beginning of a tensor file whose arrays follow in the order of `layouts`."""
    entries, offset = {}, 0
    for name, layout in layouts.items():
        if not usable_name(name):
            raise ValueError(f"{name!r} cannot name an array: use 1 to 256 printable characters, not '__metadata__'")
        span = [offset, offset + layout.bytes]
        entries[name] = {"dtype": DTYPES[layout.dtype], "shape": list(layout.shape), "data_offsets": span}
        offset += layout.bytes
    text = json.dumps(entries, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_BYTES or len(entries) > MAX_TENSORS:
        raise ValueError(f"{len(entries)} arrays are too many for one file; at most {MAX_TENSORS} fit")
    return len(text).to_bytes(8, "little") + text


def parse_tensors(fs: FileSystem, handle: int, what: str) -> dict[str, Tensor]:
    """The arrays of an open tensor file, in file order. Refuses everything the format does not promise."""
    size = fs.size(handle)
    length = int.from_bytes(fs.read(handle, 0, 8), "little")
    if size < 8 or not 2 <= length <= min(HEADER_BYTES, size - 8):
        raise CheckpointError(f"{what} has no usable header")
    header = strict_json(fs.read(handle, 8, length), f"the header of {what}")
    if type(header) is not dict or len(header) > MAX_TENSORS:
        raise CheckpointError(f"the header of {what} must be an object of at most {MAX_TENSORS} arrays")
    notes = header.pop("__metadata__", {})
    if type(notes) is not dict or not all(isinstance(note, str) for note in notes.values()):
        raise CheckpointError(f"the notes in {what} must be text")
    spans = sorted(((*_span(name, entry, what), name) for name, entry in header.items()), key=lambda span: span[:2])
    position, tensors = 0, {}
    for start, stop, layout, name in spans:
        if start != position or stop - start != layout.bytes:
            raise CheckpointError(f"array {name!r} of {what} overlaps, leaves a hole, or has the wrong length")
        tensors[name] = Tensor(layout, 8 + length + start)
        position = stop
    if 8 + length + position != size:
        raise CheckpointError(f"the arrays of {what} do not fill the file exactly")
    return tensors


def _span(name: str, entry: Any, what: str) -> tuple[int, int, Layout]:
    if not usable_name(name):
        raise CheckpointError(f"{what} has an array with an unusable name")
    where = f"array {name!r} of {what}"
    code, shape, span = fields(entry, where, dtype=str, shape=list, data_offsets=list)
    layout = Layout.parse(_DTYPE_OF_CODE.get(code), shape, where)
    if len(span) != 2:
        raise CheckpointError(f"{where} needs two offsets")
    return natural(span[0], f"an offset of {where}"), natural(span[1], f"an offset of {where}"), layout


def array_chunks(arrays: Mapping[str, np.ndarray]) -> Iterator[bytes | memoryview]:
    """A tensor file of these arrays, piece by piece. Wide types first, so that every array starts aligned."""
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    yield tensor_header({name: Layout.of(arrays[name], f"array {name!r}") for name in names})
    for name in names:
        yield raw_bytes(arrays[name])


class RunLock:
    """`with RunLock(folder):` makes this process the only writer of a run; a second one gets `RunLocked`.

    The operating system holds the lock (`flock`), so a process that died holds nothing, whatever its file says.
    The file stays when the lock is given back: deleting it would let two processes hold two files of one name.
    """

    def __init__(self, folder: Path):
        self._path = folder / "lock"
        self._handle: int | None = None

    def __enter__(self) -> "RunLock":
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise WriteFailed(unwritten(self._path, error)) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = self._message(os.pread(handle, 200, 0), error)
            os.close(handle)
            raise RunLocked(message) from None
        owner = {"pid": os.getpid(), "started": datetime.now(UTC).isoformat(timespec="seconds")}
        with suppress(OSError):  # who holds it is said for people only: a full disk does not forbid holding it
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(owner).encode("ascii"), 0)
        self._handle = handle
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Gives the lock back, if it is held."""
        if self._handle is not None:
            with suppress(OSError):
                os.ftruncate(self._handle, 0)
                fcntl.flock(self._handle, fcntl.LOCK_UN)  # said outright: a forked child may still hold the handle
            os.close(self._handle)
            self._handle = None

    def check(self) -> None:
        """Raises WriteFailed once the folder that was locked is not at its path any more: moved, removed or replaced.

        What is saved then would lie in another folder than what was saved before.
        """
        if self._handle is None:
            return
        with suppress(OSError):
            if os.path.samestat(os.fstat(self._handle), os.stat(self._path, follow_symlinks=False)):
                return
        raise WriteFailed(
            f"{self._path.parent} is not the folder any more that this run began to write to: it was moved, removed "
            f"or replaced; put it back there"
        )

    def _message(self, content: bytes, error: OSError) -> str:
        folder = self._path.parent
        if not isinstance(error, BlockingIOError):
            return f"{self._path} cannot be locked: {error.strerror}; use a folder on a disk that supports locks"
        owner = re.fullmatch(rb'\{"pid": (\d{1,10}), "started": "([0-9T:+-]{1,40})"\}', content)
        if owner and int(owner[1]) == os.getpid():
            return (
                f"{folder} is being written by process {os.getpid()}, which is this one: call close() of the Trainer "
                f"that holds it, or make that in a `with` statement"
            )
        who = f"process {int(owner[1])}, started {owner[2].decode()}" if owner else "another process"
        return f"{folder} is being written by {who}; wait for it, stop it, or choose another folder"
