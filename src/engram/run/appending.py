"""A file that only grows, and that a full disk does not end: what it refuses is held until there is room."""

import errno
import os
import stat
from collections import deque
from contextlib import suppress
from pathlib import Path

from engram.errors import WriteFailed, unwritten

HELD = 10_000  # pieces kept for a disk without room; beyond that the oldest are given up


class Appending:
    """An open file to append to, piece by piece. A piece reaches the file whole or not at all.

    `write` and `flush` never raise: `trouble` holds what is to be told, and whoever tells it sets it to None.

    Raises: WriteFailed, when made, if the file cannot be opened, or is no plain file. A link is not followed.
    """

    def __init__(self, path: Path):
        self.path = path
        self.trouble: str | None = None
        self._piece = bytearray()
        self._held: deque[bytes] = deque()
        self._refused, self._given_up = False, 0
        # A pipe must not hang us: without a reader it cannot be opened so.
        how = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._handle = os.open(path, how, 0o666)
            if not stat.S_ISREG(os.fstat(self._handle).st_mode):
                os.close(self._handle)
                raise OSError(errno.EEXIST, "it is no plain file")
        except OSError as error:
            raise WriteFailed(unwritten(path, error)) from None

    def write(self, data: bytes) -> None:
        """Adds to the piece that the next `flush` writes."""
        self._piece += data

    def flush(self) -> None:
        """Appends the piece, and before it those that are held."""
        if self._piece:
            self._held.append(bytes(self._piece))
            self._piece.clear()
        if not self._held:
            return
        size = os.fstat(self._handle).st_size
        rest = memoryview(b"".join(self._held))
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._handle, size)  # half a piece would spoil the next one
            self._refuse(error)
            return
        self._held.clear()
        if self._refused:
            self._refused, self.trouble = False, f"{self.path} is written again{self._gap()}"

    def _refuse(self, error: OSError) -> None:
        while len(self._held) > HELD:
            self._held.popleft()
            self._given_up += 1
        if not self._refused:
            self._refused = True
            self.trouble = (
                f"{unwritten(self.path, error)} (training goes on, and what belongs there is held until then)"
            )

    def _gap(self) -> str:
        return f", without {self._given_up} of its entries" if self._given_up else ""

    def close(self) -> None:
        """Tries once more, and closes the file."""
        self.flush()
        if self._held:
            self._given_up += len(self._held)
            self.trouble = f"{self.path} is closed{self._gap()}: the disk had no room for them"
        os.close(self._handle)
