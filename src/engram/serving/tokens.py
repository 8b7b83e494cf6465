"""The token of a server: read from a file of its owner's, or made and written into one."""

import os
import re
import secrets
import stat
import tempfile
from pathlib import Path

from engram.checkpoint.disk import Disk
from engram.errors import SpecError, WriteFailed, unwritten

FORM = re.compile(rb"[\x21-\x7e]{16,256}")
LARGEST = 1_024  # bytes of the file that are read


class Token:
    """A token and the file that holds it. `made`: whether it was made here, so that it is to be told."""

    def __init__(self, value: bytes, file: Path, made: bool, folder: Path | None = None):
        self.value, self.file, self.made, self._folder = value, file, made, folder

    def close(self) -> None:
        """Removes a file that was made in a folder of its own."""
        if self._folder is not None:
            self.file.unlink(missing_ok=True)
            self._folder.rmdir()


def token(file: Path | None) -> Token:
    """The token in `file`; one is made where there is no such file, or none was named.

    Raises: SpecError for a file that others may read, or that holds no token; WriteFailed.
    """
    if file is not None and os.path.lexists(file):
        return Token(_read(file), file, False)
    value = secrets.token_urlsafe(32).encode()
    try:
        folder = None if file is not None else Path(tempfile.mkdtemp(prefix="engram-serve-"))  # for its owner alone
        place = file if file is not None else Path(str(folder), "token")
        handle = Disk().create(place)  # readable by its owner alone
        try:
            Disk().write(handle, value + b"\n")
        finally:
            os.close(handle)
    except OSError as error:
        raise WriteFailed(unwritten(file or "the token", error)) from None
    return Token(value, place, True, folder)


def _read(file: Path) -> bytes:
    disk = Disk()
    try:
        handle = disk.open(file)
    except OSError as error:
        raise SpecError(f"{file} cannot be read ({error.strerror}); name a plain file with the token in it") from None
    try:
        if stat.S_IMODE(os.fstat(handle).st_mode) & 0o077:
            raise SpecError(f"{file} may be read by others, and a token must not be; write: chmod 600 {file}")
        content = disk.read(handle, 0, LARGEST).strip()
    finally:
        disk.close(handle)
    if not FORM.fullmatch(content):
        raise SpecError(f"{file} holds no token; write 16 to 256 letters, digits and signs into it, or name no file")
    return content
