"""The metrics of a run: one line at a time, written so that a kill loses at most the line being written.

`metrics.jsonl` is the record: one JSON object a line, steps strictly rising, no number that JSON lacks. TensorBoard
events and the picture are made from it and hold nothing more.
"""

import errno
import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from engram.checkpoint.disk import replace_file
from engram.errors import CheckpointError, WriteFailed, unwritten
from engram.run.appending import Appending
from engram.run.loggers import EVENTS, check_loggers, settings_of

if TYPE_CHECKING:
    from engram.run.loggers import Loggers

METRICS_FILE = "metrics.jsonl"
LARGEST = 1e300  # of a number that is shown: sums of such are floats still
EVENTS_FOLDER = "tensorboard"


class RunLog:
    """The log of one run, open for writing.

    Args:
      folder: the run's directory; made when it does not exist.
      resume_step: the step that the run goes on from; lines of later steps are dropped, because they will be
        written again. None starts afresh and drops every line.
      track: also write TensorBoard events, under the same names, to `folder/tensorboard`.
      tell: what to do with a sentence about a disk that has no room, or has room again. Lines that a full disk
        refuses are held, and written when there is room: no line is worth the end of a run.
      also: other loggers, which are given the same lines.

    Raises: EngramError when `track` is asked for and tensorboardX is not installed, and WriteFailed when the log
    cannot even be begun.
    """

    def __init__(
        self,
        folder: Path | str,
        resume_step: int | None = None,
        *,
        track: bool = False,
        tell: Callable[[str], None] | None = None,
        also: "Loggers | None" = None,
    ):
        self.folder, self._say = Path(folder), tell
        first_lost = 0 if resume_step is None else resume_step + 1
        path = self.folder / METRICS_FILE
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            old = _content(path)
            kept = [] if resume_step is None else _rising(row for row in _rows(old) if row["step"] < first_lost)
            # Events first: when tracking is impossible, the old lines must still be there.
            self._events = _Events(self.folder / EVENTS_FOLDER, first_lost, kept) if track else None
            _rewrite(path, old, "".join(_line(row) for row in kept).encode())
        except OSError as error:
            raise WriteFailed(unwritten(path, error)) from None
        self.last_step: int = kept[-1]["step"] if kept else -1
        self._file = Appending(path)
        self._also = also
        if also is not None:
            also.open(self.folder, kept)

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Append one line and flush it, so that a kill loses at most the line being written.

        `metrics["step"]` counts environment steps. A step that is not later than the last line's is left out:
        the first record of a step stands. Values may be numbers, lists of numbers (one per seed) or arrays.
        """
        row = plain(metrics)
        if row["step"] <= self.last_step:
            return
        self._file.write(_line(row).encode())
        self._file.flush()
        self.last_step = row["step"]
        if self._events:
            self._events.write(row)
        self._tell()
        if self._also is not None:
            self._also.write(row)

    def close(self) -> None:
        """Close the files; the log cannot be written to afterwards."""
        self._file.close()
        if self._events:
            self._events.close()
        if self._also is not None:
            self._also.close()
        self._tell()

    def _tell(self) -> None:
        for file in (self._file, *(self._events.files if self._events else ())):
            trouble, file.trouble = file.trouble, None
            if trouble and self._say is not None:
                self._say(trouble)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Events:
    """TensorBoard events beside the log.

    tensorboardX writes on a thread of its own, which an error of the disk would end, and then the run would wait for
    it for ever. So its files are opened here, under a prefix that is registered with it, and are `Appending` ones.
    """

    def __init__(self, folder: Path, first_lost: int, kept: list[dict[str, Any]]):
        check_loggers([EVENTS])
        from tensorboardX import SummaryWriter
        from tensorboardX.record_writer import register_writer_factory

        known = any(folder.glob("events.out.tfevents.*")) if folder.is_dir() else False
        # The purge makes readers forget what an earlier process wrote from this step on. The suffix keeps two
        # processes that start within one second from writing over each other's file.
        self.files: list[Appending] = []
        self._prefix = f"engram{id(self)}"
        register_writer_factory(self._prefix, self)
        where = f"{self._prefix}:{folder}"
        self._writer = SummaryWriter(where, purge_step=first_lost, filename_suffix=f".from{first_lost}")
        if not known:  # tracking was turned on in the middle of a run: begin with what is already logged
            self._describe(settings_of(folder.parent))
            for row in kept:
                self.write(row)

    def _describe(self, settings: Mapping[str, Any]) -> None:
        """The settings, as a table of text and as hyper-parameters, which TensorBoard compares between runs."""
        from tensorboardX.summary import hparams

        if settings:
            rows = "\n".join(f"| `{name}` | {value} |" for name, value in settings.items())
            self._writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}", 0)
            plain = {name: value if isinstance(value, int | float) else str(value) for name, value in settings.items()}
            events: Any = self._writer.file_writer
            for summary in hparams(plain, {"return_mean": 0.0, "loss": 0.0}):
                events.add_summary(summary, 0)  # `add_hparams` would make a folder of its own

    def write(self, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            several = enumerate(value) if isinstance(value, list) else ()
            for tag, item in [(f"{name}/{seed}", one) for seed, one in several] or [(name, value)]:
                if tag != "step" and isinstance(item, int | float) and not isinstance(item, bool):
                    self._writer.add_scalar(tag, item, row["step"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    # What tensorboardX asks of whoever opens its files.

    def directory_check(self, path: str) -> None:
        folder = Path(path.removeprefix(f"{self._prefix}:"))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if folder.is_symlink():
                raise OSError(0, "it is a link, and none is followed")
        except OSError as error:
            raise WriteFailed(unwritten(folder, error)) from None

    def open(self, path: str) -> Appending:
        self.files.append(Appending(Path(path.removeprefix(f"{self._prefix}:"))))
        return self.files[-1]


def read_metrics(folder: Path | str) -> list[dict[str, Any]]:
    """Every line of a run's log, in order; missing numbers are None. Safe while the run is being written.

    Raises: CheckpointError when there is no such directory. A run that has logged nothing yet gives [].
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{str(folder)!r} is not a run directory; give the directory that a run was written to")
    try:
        return _rising(_rows(_content(folder / METRICS_FILE)))
    except OSError as error:
        raise CheckpointError(f"{folder / METRICS_FILE} cannot be read: {error.strerror}; restore it") from None


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: arrays as lists, NaN and infinities as None.

    >>> plain({"loss": float("nan"), "returns": (1.0, 2)})
    {'loss': None, 'returns': [1.0, 2]}
    """
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):  # NumPy's float64 is one too
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # NumPy and JAX, scalars included
        return plain(value.tolist())
    return value


def number(value: Any) -> float | None:
    """A number out of a log that somebody may have changed; None for anything else, and for what no float holds."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    return float(value) if known else None


def _content(path: Path) -> bytes:
    """What is in a plain file; nothing where there is none. A link is not followed, and a pipe is not waited for."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    with open(handle, "rb") as file:  # which refuses a folder
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EEXIST, "it is no plain file")
        return file.read()


def _rewrite(path: Path, old: bytes, new: bytes) -> None:
    """Makes `new` of a file that holds `old`. Where that is to cut off its end, a full disk is no hindrance."""
    if old.startswith(new) and new:
        os.truncate(path, len(new))
    elif new != old:
        replace_file(path, new)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _rows(content: bytes) -> list[dict[str, Any]]:
    """Every whole line that is a record. A line cut short by a kill is never valid JSON, so it falls out."""
    rows = []
    for line in content.split(b"\n"):
        try:
            row = plain(json.loads(line))
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _rising(rows: Any) -> list[dict[str, Any]]:
    """The rows whose step is later than every step before."""
    kept: list[dict[str, Any]] = []
    for row in rows:
        if not kept or row["step"] > kept[-1]["step"]:
            kept.append(row)
    return kept
