"""What several processes share in the folder of a study: a lock, a journal that a kill cannot spoil, claims on trials.

The operating system holds the locks (`flock`), so a process that was killed holds nothing. Optuna's own lock is a link
that a killed process leaves behind, for which all others wait half a minute.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from engram.checkpoint.files import RunLock
from engram.errors import RunLocked, WriteFailed, unwritten

JOURNAL, LOCK, CLAIMS = "journal.jsonl", "study.lock", "claims"


class Exclusive:
    """`with Exclusive(path):` lets one process in at a time; others wait."""

    def __init__(self, path: Path):
        self._path, self._handle = path, -1

    def acquire(self) -> bool:
        """Waits until the lock is free, and takes it."""
        try:
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise WriteFailed(unwritten(self._path, error)) from None
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Gives the lock back."""
        os.close(self._handle)

    def __enter__(self) -> "Exclusive":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class JournalLock(Exclusive):
    """The lock of the journal. Whoever takes it cuts off the beginning of a line that was never finished."""

    def __init__(self, journal: Path):
        super().__init__(journal.with_suffix(".lock"))
        self._journal = journal

    def acquire(self) -> bool:
        """Waits, takes the lock, and mends the end of the journal."""
        super().acquire()
        with open(self._journal, "rb+") as file:
            end = file.seek(0, os.SEEK_END)
            if end and not _ends_a_line(file, end):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return True


def _ends_a_line(file: Any, end: int) -> bool:
    file.seek(end - 1)
    return file.read(1) == b"\n"


def storage(folder: Path) -> Any:
    """Optuna's storage in a journal of the folder."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = folder / JOURNAL
    path.touch()
    lock: Any = JournalLock(path)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def claim(folder: Path, number: int) -> RunLock | None:
    """The right to work on a trial; None while another process has it."""
    with suppress(RunLocked):
        return RunLock(folder / CLAIMS / str(number)).__enter__()
    return None
