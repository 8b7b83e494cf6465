"""A replay ring beside its plain-Python history, and file systems that fail on purpose."""

import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engram.checkpoint.disk import Disk
from engram.checkpoint.store import Loaded, ReplayLog

Row = tuple[tuple[int, int], float, bool]


class Ring:
    """A ring of rows per lane; `history` keeps every row ever written, as plain Python."""

    def __init__(self, capacity: int, lanes: int):
        self.capacity = capacity
        self.observation = np.zeros((lanes, capacity, 2), np.uint8)
        self.reward = np.zeros((lanes, capacity), np.float32)
        self.is_first = np.zeros((lanes, capacity), bool)
        self.cursors = np.zeros(lanes, np.int64)
        self.history: list[dict[int, Row]] = [{} for _ in range(lanes)]

    def write(self, lane: int, count: int, generator: np.random.Generator) -> None:
        for _ in range(count):
            pair = generator.integers(256, size=2)
            row = ((int(pair[0]), int(pair[1])), float(np.float32(generator.normal())), bool(generator.integers(2)))
            self.put(lane, int(self.cursors[lane]), row)

    def put(self, lane: int, number: int, row: Row) -> None:
        place = number % self.capacity
        self.observation[lane, place], self.reward[lane, place], self.is_first[lane, place] = row
        self.history[lane][number] = row
        self.cursors[lane] = number + 1

    def log(self) -> ReplayLog:
        return ReplayLog(self.capacity, self.cursors, self.read)

    def read(self, lane: int, start: int, stop: int) -> dict[str, np.ndarray]:
        cursor = int(self.cursors[lane])
        assert max(0, cursor - self.capacity) <= start < stop <= cursor, "only live rows may be asked for"
        places = np.arange(start, stop) % self.capacity
        return {
            "observation": self.observation[lane, places],
            "reward": self.reward[lane, places],
            "is_first": self.is_first[lane, places],
        }

    def live(self) -> list[dict[int, Row]]:
        return [
            {number: rows[number] for number in range(max(0, int(cursor) - self.capacity), int(cursor))}
            for rows, cursor in zip(self.history, self.cursors, strict=True)
        ]

    @staticmethod
    def restored(loaded: Loaded) -> "Ring":
        assert loaded.capacity is not None
        assert loaded.cursors is not None
        ring = Ring(loaded.capacity, len(loaded.cursors))
        for lane, rows in enumerate(loaded_rows(loaded)):
            for number, row in rows.items():
                ring.put(lane, number, row)
        assert np.all((ring.cursors == loaded.cursors) | (loaded.cursors == 0))
        return ring


def loaded_rows(loaded: Loaded) -> list[dict[int, Row]]:
    """Rows by number, and proof that each came once and in the order of its lane."""
    assert loaded.cursors is not None
    lanes: list[dict[int, Row]] = [{} for _ in loaded.cursors]
    for lane, first, columns in loaded.replay_blocks():
        observation, reward, is_first = columns["observation"], columns["reward"], columns["is_first"]
        assert not lanes[lane] or first == max(lanes[lane]) + 1
        for i in range(len(reward)):
            pair = (int(observation[i, 0]), int(observation[i, 1]))
            lanes[lane][first + i] = (pair, float(reward[i]), bool(is_first[i]))
    return lanes


class Unsynced(Disk):
    """The real disk without the waiting: a killed process, unlike a power cut, takes nothing with it."""

    def fsync(self, handle: int) -> None:
        pass

    def fsync_folder(self, path: Path) -> None:
        path.stat()


class Killed(BaseException):
    """The process is gone: nothing after this may touch the disk."""


class FailingDisk(Unsynced):
    """The real disk, whose `when`-th operation fails; `dead` means that no later one happens either."""

    counted = ("make_folder", "listdir", "create", "write", "fsync", "open", "size", "read", "fsync_folder")
    counted += ("rename", "unlink", "rmdir", "free")

    def __init__(self, when: int = -1, failure: Callable[[], BaseException] = Killed, torn: bool = False):
        self.when, self.failure, self.torn = when, failure, torn
        self.done: list[str] = []
        self.dead = False

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        if name not in FailingDisk.counted:
            return method

        def counting(*arguments: Any) -> Any:
            if self.dead:
                raise Killed
            self.done.append(name)
            if len(self.done) - 1 == self.when:
                failure = self.failure()
                self.dead = isinstance(failure, Killed)
                if self.torn and name == "write":  # half of the bytes arrive
                    Disk.write(self, arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                raise failure
            return method(*arguments)

        return counting


def no_space() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def input_output_error() -> OSError:
    return OSError(errno.EIO, "Input/output error")


class _File:
    def __init__(self):
        self.data, self.durable = b"", b""


class _Folder:
    def __init__(self):
        self.names: dict[str, Any] = {}
        self.durable: dict[str, Any] = {}


class PowerlessDisk:
    """A disk in memory that forgets, at `when`, some or all of what was never synced."""

    def __init__(self, when: int = -1):
        self.when, self.count = when, 0
        self.root = _Folder()
        self.handles: list[_File] = []

    def _tick(self) -> None:
        self.count += 1
        if self.count - 1 >= self.when >= 0:
            raise Killed

    def _at(self, path: Path) -> Any:
        node: Any = self.root
        for part in path.parts[1:]:
            if not isinstance(node, _Folder) or part not in node.names:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
            node = node.names[part]
        return node

    def make_folder(self, path: Path) -> None:
        self._tick()
        node = self.root
        for part in path.parts[1:]:
            node = node.names.setdefault(part, _Folder())

    def listdir(self, path: Path) -> dict[str, str]:
        self._tick()
        return {name: "folder" if isinstance(node, _Folder) else "file" for name, node in self._at(path).names.items()}

    def create(self, path: Path) -> int:
        self._tick()
        names = self._at(path.parent).names
        assert path.name not in names
        names[path.name] = _File()
        self.handles.append(names[path.name])
        return len(self.handles) - 1

    def write(self, handle: int, data: bytes | memoryview) -> None:
        self._tick()
        self.handles[handle].data += bytes(data)

    def fsync(self, handle: int) -> None:
        self._tick()
        self.handles[handle].durable = self.handles[handle].data

    def open(self, path: Path) -> int:
        self._tick()
        self.handles.append(self._at(path))
        return len(self.handles) - 1

    def size(self, handle: int) -> int:
        return len(self.handles[handle].data)

    def read(self, handle: int, offset: int, count: int) -> bytes:
        return self.handles[handle].data[offset : offset + count]

    def close(self, handle: int) -> None:
        pass

    def fsync_folder(self, path: Path) -> None:
        self._tick()
        node = self._at(path)
        node.durable = dict(node.names)

    def rename(self, old: Path, new: Path) -> None:
        self._tick()
        names = self._at(new.parent).names
        assert new.name not in names
        names[new.name] = self._at(old.parent).names.pop(old.name)

    def unlink(self, path: Path) -> None:
        self._tick()
        del self._at(path.parent).names[path.name]

    def rmdir(self, path: Path) -> None:
        self._tick()
        assert not self._at(path).names
        del self._at(path.parent).names[path.name]

    def free(self, path: Path) -> int:
        return 1 << 40

    def survivors(self, target: Path, generator: np.random.Generator | None = None) -> None:
        """Put on the real disk what is left: the synced alone, or that and a random part of the rest."""

        def keep_new() -> bool:
            return generator is not None and bool(generator.integers(2))

        def put(node: Any, path: Path) -> None:
            if isinstance(node, _File):
                kept = node.data[: len(node.durable) + int(generator.integers(99))] if generator else node.durable
                path.write_bytes(kept if keep_new() else node.durable)
                return
            path.mkdir()
            for name in sorted({*node.names, *node.durable}):
                new, old = node.names.get(name), node.durable.get(name)
                child = new if new is old or keep_new() else old
                if child is not None:
                    put(child, path / name)

        put(self.root, target)


def reseal(checkpoint: Path, change: Callable[[dict[str, Any]], Any] | bytes | None = None) -> None:
    """What a forger does: alter the manifest, then make every hash agree with what is there."""
    if isinstance(change, bytes):
        text = change
    else:
        manifest = json.loads((checkpoint / "manifest.json").read_bytes())
        reseal_entry(checkpoint / "arrays.safetensors", manifest["arrays"])
        for entry in manifest["replay"]["segments"] if manifest["replay"] else ():
            reseal_entry(checkpoint.parent / "segments" / entry["file"], entry)
        if change is not None:
            change(manifest)
        text = json.dumps(manifest).encode()
    (checkpoint / "manifest.json").write_bytes(text)
    (checkpoint / "manifest.sha256").write_text(hashlib.sha256(text).hexdigest() + "  manifest.json\n")


def reseal_entry(path: Path, entry: dict[str, Any]) -> None:
    data = path.read_bytes()
    entry["bytes"], entry["sha256"] = len(data), hashlib.sha256(data).hexdigest()
