"""Sessions: what an agent keeps of one client's episode between two requests.

In memory a restart ends them all, and says so: an id begins with the number of the server's start, so that one from
before is told from one that never was. In a folder each answer is given only after its session is on the disk (fsync):
then neither a restart nor a power cut loses a session that was answered.
"""

import errno
import json
import os
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from engram.checkpoint.disk import Disk, replace_file, strict_json
from engram.checkpoint.files import RunLock, array_chunks, from_bytes, parse_tensors
from engram.errors import CheckpointError, SpecError, WriteFailed, unwritten
from engram.serving.refusals import Refusal

ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{32}")  # the start of the server, then random bits
SUFFIX, ABOUT = ".session", "about"
GONE = (errno.ENOENT, errno.ELOOP, errno.EINVAL)  # no file, a link, or what is no file
LARGEST = 64 << 20  # bytes of a session's file that are read
AGAIN = "begin anew with a request without a session"


@dataclass
class Session:
    """One client's. `step`: answers so far. `last`: the newest answer, and of which request it is the digest."""

    id: str
    state: PyTree
    step: int = 0
    used: float = 0.0
    last: bytes = b""
    request: str = ""
    busy: bool = False


class Sessions:
    """The sessions of a server, at most `most` of them; those that were not used for `expires` seconds end.

    Args:
      like: the state of a session at its beginning. agent: what names the agent; a stored session of another is ended.
      folder: where to keep them; None for memory alone. Raises RunLocked where another server uses it.
    """

    def __init__(
        self,
        like: PyTree,
        agent: str,
        most: int,
        expires: float,
        folder: Path | None = None,
        clock: Callable[[], float] = time.time,
    ):
        self._like, self._agent, self._most, self._expires = like, agent, most, expires
        self._folder, self._clock, self._start = folder, clock, secrets.token_hex(4)
        self._held: dict[str, Session] = {}
        self._stored: set[str] = set()  # in the folder, and not read yet
        self.expired = 0
        self._lock: RunLock | None = None
        if folder is not None:
            self._open(folder)

    def __len__(self) -> int:
        return len(self._held) + len(self._stored)

    @property
    def kept(self) -> str:
        """Where they are: in memory or on disk."""
        return "memory" if self._folder is None else "disk"

    def close(self) -> None:
        """Lets go of the folder."""
        if self._lock is not None:
            self._lock.release()

    def begin(self) -> Session:
        """A new session. It ends if its first answer fails: `drop` it then. Refusal 503 where there are too many."""
        self.sweep()
        if len(self) >= self._most:
            raise Refusal(
                503, f"{self._most:,} sessions run already; end one with DELETE /sessions/ID, or wait", Retry_After="5"
            )
        session = Session(f"{self._start}-{secrets.token_hex(16)}", self._like, used=self._clock())
        self._held[session.id] = session
        return session

    def find(self, id: str) -> Session:
        """The session of an id. Refusal 400 for a text that is none, 410 for one that is over."""
        if not ID.fullmatch(id):
            raise Refusal(400, "session is no id of this server's; send the one that the last answer gave, or none")
        found = self._held.get(id) or self._read(id)
        if found is not None and self._clock() - found.used > self._expires:
            self.expired += 1
            self.drop(id)
            found = None
        if found is None:
            if not id.startswith(self._start) and self._folder is None:
                raise Refusal(
                    410, f"the server was started anew and keeps sessions in memory, so this one is over; {AGAIN}"
                )
            raise Refusal(410, f"the session is over: it was ended, or not used for {self._expires:g} seconds; {AGAIN}")
        return found

    def following(self, session: Session, state: PyTree, answer: bytes, request: str) -> Session:
        """What a session is to be after an answer."""
        return Session(session.id, state, session.step + 1, self._clock(), answer, request)

    def store(self, session: Session) -> None:
        """Puts a session on the disk, where sessions are kept there. May be called in another thread.

        Refusal 507 if it cannot be; what was stored before is still there.
        """
        if self._folder is not None:
            self._write(self._folder, session)

    def put(self, session: Session) -> None:
        """From now on this is the session of its id."""
        self._held[session.id] = session

    def drop(self, id: str) -> bool:
        """Ends a session; whether there was one."""
        known = self._held.pop(id, None) is not None or id in self._stored
        self._stored.discard(id)
        if self._folder is not None:
            with suppress(OSError):
                (self._folder / f"{id}{SUFFIX}").unlink(missing_ok=True)
        return known

    def sweep(self) -> None:
        """Ends those that were not used for too long."""
        late = self._clock() - self._expires
        for id in [id for id, one in self._held.items() if one.used < late and not one.busy]:
            self.expired += 1
            self.drop(id)
        for id in [id for id in self._stored if self._changed(id) < late]:
            self.expired += 1
            self.drop(id)

    # -- the folder --------------------------------------------------------------------------------------------

    def _open(self, folder: Path) -> None:
        disk = Disk()
        try:
            disk.make_folder(folder)
            if folder.is_symlink() or os.stat(folder).st_mode & 0o077:
                raise SpecError(f"{folder} is open to others, and sessions hold what clients saw; chmod 700 it first")
            self._lock = RunLock(folder)
            self._lock.__enter__()
            names = [name for name, kind in disk.listdir(folder).items() if kind == "file"]
            for name in names:
                if name.startswith(".") and name.endswith(".part"):  # half written when a server was killed
                    disk.unlink(folder / name)
        except OSError as error:
            raise WriteFailed(unwritten(folder, error)) from None
        ids = (name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))
        self._stored = {id for id in ids if ID.fullmatch(id)}
        self.sweep()

    def _changed(self, id: str) -> float:
        assert self._folder is not None
        try:
            return os.stat(self._folder / f"{id}{SUFFIX}", follow_symlinks=False).st_mtime
        except OSError:
            return -1.0

    def _write(self, folder: Path, session: Session) -> None:
        about = {"agent": self._agent, "step": session.step, "used": session.used, "request": session.request}
        about |= {"last": session.last.decode()}
        arrays = {f"state.{place}": np.asarray(leaf) for place, leaf in enumerate(jax.tree.leaves(session.state))}
        arrays[ABOUT] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        try:
            replace_file(folder / f"{session.id}{SUFFIX}", b"".join(map(bytes, array_chunks(arrays))))
            Disk().fsync_folder(folder)  # the name too, before the answer leaves
        except OSError as error:
            raise Refusal(
                507, f"the session could not be stored ({error.strerror}); nothing was done: try again"
            ) from None

    def _read(self, id: str) -> Session | None:
        """A stored session of this agent; None where there is none that can be used."""
        if id not in self._stored or self._folder is None:
            return None
        try:
            arrays = _arrays(self._folder / f"{id}{SUFFIX}")
            about: Any = strict_json(arrays.pop(ABOUT).tobytes(), "a session")
            leaves, tree = jax.tree.flatten(self._like)
            state = [arrays[f"state.{place}"] for place in range(len(leaves))]
            same = all(
                one.shape == like.shape and one.dtype == like.dtype for one, like in zip(state, leaves, strict=True)
            )
            if about["agent"] != self._agent or len(arrays) != len(leaves) or not same:
                raise CheckpointError("it is another agent's")
            session = Session(
                id, jax.tree.unflatten(tree, state), int(about["step"]), float(about["used"]), about["last"].encode(),
                str(about["request"]),
            )  # fmt: skip
        except OSError as error:
            if error.errno not in GONE:
                raise Refusal(503, f"the session cannot be read now ({error.strerror}); try again") from None
            self.drop(id)
            return None
        except (CheckpointError, KeyError, TypeError, ValueError, AttributeError):
            self.drop(id)
            return None
        self._stored.discard(id)
        self._held[id] = session
        return session


def _arrays(path: Path) -> dict[str, np.ndarray]:
    disk = Disk()
    handle = disk.open(path)
    try:
        if disk.size(handle) > LARGEST:
            raise CheckpointError("a session's file is too large")
        return {
            name: from_bytes(disk.read(handle, one.offset, one.layout.bytes), one.layout, name)
            for name, one in parse_tensors(disk, handle, path.name).items()
        }
    finally:
        disk.close(handle)
