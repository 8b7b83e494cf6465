"""The result file of a benchmark: what was measured is kept part by part, with where, when and how it was."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.peers import machine

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
WORK = ROOT / ".benchmarks"  # runs and environments; git does not see it
PACKAGES = (
    "engram-rl",
    "jax",
    "jaxlib",
    "equinox",
    "optax",
    "gymnasium",
    "sacrebleu",
    "tokenizers",
    "ale-py",
    "highway-env",
    "pgx",
    "jaxmarl",
    "textworld",
    "jax2onnx",
    "onnx",
    "onnxruntime",
    "ray",
    "numpy",
    "safetensors",
)


def add_flags(parser: argparse.ArgumentParser, name: str) -> None:
    """The flags of every benchmark: --out, and --continue or --fresh for a file that exists."""
    parser.add_argument("--out", type=Path, default=HERE / "results" / f"{name}.json", help="where results go")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--continue", dest="resume", action="store_true", help="keep finished parts, go on with runs")
    again.add_argument("--fresh", action="store_true", help="replace --out")


class Record:
    """One result file, written whole after each part, so that an interrupted run leaves what was finished.

    Args:
      options: the command line, with the flags of `add_flags`.
      settings: what was asked for, as JSON. Parts of other settings do not belong in the same file.

    Raises SystemExit with a sentence if the file exists and neither flag was given, or if its parts were made with
    other settings or on another machine.
    """

    def __init__(self, options: argparse.Namespace, settings: Mapping[str, Any]):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, it also ends the children
        self.path: Path = options.out
        self._continued: bool = options.resume
        self._placed: set[Path] = set()
        here, asked = machine.description(), json.loads(json.dumps(settings))
        self.content: dict[str, Any] = {"machine": here, "settings": asked, "commands": [], "parts": {}, "summary": {}}
        if self.path.exists() and not options.fresh:
            if not options.resume:
                raise SystemExit(f"{self.path} exists; add --continue to keep its parts or --fresh to replace it")
            self.content = json.loads(self.path.read_text())
            for name, now in (("machine", here), ("settings", asked)):
                if self.content[name] != now:
                    raise SystemExit(
                        f"{self.path} has {name} {self.content[name]}, this is {now}; use --out for another file"
                    )
        self.content["commands"].append(command())

    @property
    def parts(self) -> dict[str, Any]:
        """The finished parts by name."""
        return self.content["parts"]

    def place(self, folder: Path) -> Path:
        """`folder`, where a run that the record lacks lies or will lie. Without --continue what lay there is removed
        first, once: what a run of earlier code came to must not be told as what this code comes to.

        Raises RunLocked while another process trains it.
        """
        from engram.checkpoint.files import RunLock
        from engram.run.plan import holds_run

        if not self._continued and folder not in self._placed:
            for run in (folder, folder / "run"):
                if holds_run(run):
                    with RunLock(run):
                        pass
            shutil.rmtree(folder, ignore_errors=True)
        self._placed.add(folder)
        return folder

    def put(self, name: str, part: Mapping[str, Any]) -> None:
        """Keep a finished part, with the time and the load averages at its end."""
        self.parts[name] = dict(part) | {"at": now(), "load_averages": loads()}
        write_json(self.path, self.content)

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """Replace the summary, which is computed from the parts."""
        self.content["summary"] = dict(summary)
        write_json(self.path, self.content)


def command() -> dict[str, Any]:
    """This process: when and how it was started, on which versions, on how busy a machine."""
    return {
        "at": now(),
        "command": ["python", os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]],
        "commit": commit(),
        "versions": versions(),
        "load_averages": loads(),
        "loop_microseconds": machine.loop_microseconds(),
    }


def versions() -> dict[str, str]:
    """Versions of Engram and of what it stands on; those that are not installed are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of this working tree, with a + if files differ from it; None outside a repository."""
    try:
        words = ["git", "-C", str(ROOT)]
        head = subprocess.run([*words, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*words, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def write_json(path: Path, content: Any) -> None:
    """Replace `path` in one move: a reader, or a kill, finds the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}.part")
    half.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    half.replace(path)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def loads() -> list[float]:
    """Load averages over 1, 5 and 15 minutes."""
    return [round(load, 2) for load in os.getloadavg()]


def surroundings() -> dict[str, str]:
    """Environment variables of a child: on the processor, unless JAX_PLATFORMS already says otherwise."""
    return {"JAX_PLATFORMS": "cpu"} | os.environ
