"""The file system as a small seam, and how a stranger's small file is read: plain, bounded, strict JSON.

NumPy is not needed for it, so that `engram info` answers at once.
"""

import errno
import json
import math
import os
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from engram.errors import CheckpointError


class FileSystem(Protocol):
    """The file operations a checkpoint needs. All raise `OSError`. A handle is an open file."""

    def make_folder(self, path: Path) -> None:
        """Create a folder and its parents, if they are missing; readable by the owner only."""
        ...

    def listdir(self, path: Path) -> dict[str, str]:
        """Each name in a folder with its kind: "file", "folder" or "other" (links among them)."""
        ...

    def create(self, path: Path) -> int:
        """A handle on a new empty file; it is an error if the name exists."""
        ...

    def write(self, handle: int, data: bytes | memoryview) -> None:
        """Append all of `data`."""
        ...

    def fsync(self, handle: int) -> None:
        """Return once the file's contents would outlive a power cut."""
        ...

    def open(self, path: Path) -> int:
        """A handle for reading a plain file; links, pipes and devices are refused."""
        ...

    def size(self, handle: int) -> int:
        """Length in bytes."""
        ...

    def read(self, handle: int, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`, fewer at the end of the file."""
        ...

    def close(self, handle: int) -> None: ...

    def fsync_folder(self, path: Path) -> None:
        """Return once the folder's list of names would outlive a power cut."""
        ...

    def rename(self, old: Path, new: Path) -> None: ...

    def unlink(self, path: Path) -> None: ...

    def rmdir(self, path: Path) -> None: ...

    def free(self, path: Path) -> int:
        """Bytes that may still be written beside `path`."""
        ...


class Disk:
    """The real file system."""

    def make_folder(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def listdir(self, path: Path) -> dict[str, str]:
        kinds = {}
        with os.scandir(path) as entries:
            for entry in entries:
                plain = "file" if entry.is_file(follow_symlinks=False) else "other"
                kinds[entry.name] = "folder" if entry.is_dir(follow_symlinks=False) else plain
        return kinds

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)

    def write(self, handle: int, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while len(rest):
            rest = rest[os.write(handle, rest) :]

    def fsync(self, handle: int) -> None:
        os.fsync(handle)

    def open(self, path: Path) -> int:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # non-blocking: a pipe must not hang us
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        return handle

    def size(self, handle: int) -> int:
        return os.fstat(handle).st_size

    def read(self, handle: int, offset: int, count: int) -> bytes:
        data = os.pread(handle, count, offset)
        while len(data) < count and (more := os.pread(handle, count - len(data), offset + len(data))):
            data += more
        return data

    def close(self, handle: int) -> None:
        os.close(handle)

    def fsync_folder(self, path: Path) -> None:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def rename(self, old: Path, new: Path) -> None:
        os.rename(old, new)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)

    def free(self, path: Path) -> int:
        return shutil.disk_usage(path).free


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader, or a kill, finds the old file or the new one and nothing between.

    A link at `path` is replaced, not followed. Raises: OSError, which names `path`.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def read_small(fs: FileSystem, path: Path, limit: int) -> bytes:
    """A whole file of at most `limit` bytes."""
    handle = fs.open(path)
    try:
        size = fs.size(handle)
        if size > limit:
            raise CheckpointError(f"{path.name} has {size} bytes, more than the {limit} that are allowed")
        return fs.read(handle, 0, size)
    finally:
        fs.close(handle)


def strict_json(text: bytes, what: str) -> Any:
    """JSON as the standard has it: UTF-8, no repeated key, no NaN or infinity, no endless nesting."""
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is not strict JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    known = dict(pairs)
    if len(known) != len(pairs):
        raise ValueError("an object names one key twice")
    return known


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError("a number is too large")
    return value


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON number")


def bytes_in(folder: Path) -> int:
    """Bytes of the plain files in a folder and below; what is gone since it was listed counts nothing, as links do."""
    return sum(_size(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names)


def _size(path: str) -> int:
    try:
        found = os.lstat(path)
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0
