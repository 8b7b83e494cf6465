"""Two checkouts of this repository, and processes that run one's package or the other's, never both.

A child is `child.py`, started with the checkout's own interpreter, `.venv/bin/python`. It imports Engram and the
standard library only, so one file serves every version. It says which package it imported, and `Checkout.call`
refuses a package from elsewhere.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT, WORK, Record, add_flags, surroundings

CHILD = Path(__file__).with_name("child.py")
CACHE = WORK / "house" / "cache"  # compiled programs of both sides


@dataclass(frozen=True)
class Checkout:
    """A working tree with its virtual environment. Results know it by `name`, "old" or "new", and by its commit."""

    name: str
    root: Path

    @property
    def python(self) -> str:
        """The interpreter. Raises SystemExit if the environment was not made."""
        python = self.root / ".venv" / "bin" / "python"
        if not python.exists():
            raise SystemExit(f"--{self.name} {self.root} has no .venv/bin/python; run `uv sync` there")
        return str(python)

    def commit(self) -> str:
        """The commit, with a + if tracked files differ from it."""
        words = ["git", "-C", str(self.root)]
        head = subprocess.run([*words, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*words, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
        return head.stdout.strip() + ("+" if changed.stdout.strip() else "")

    def run(self, words: list[str]) -> str:
        """Run its interpreter with `words`; what it printed. Raises SystemExit with its last words if it fails."""
        surrounding = surroundings() | {"ENGRAM_CACHE": str(CACHE)}
        for name in ("JAX_COMPILATION_CACHE_DIR", "PYTHONPATH"):  # they would take the place of what is chosen here
            surrounding.pop(name, None)
        words = [self.python, *words]
        done = subprocess.run(words, capture_output=True, text=True, env=surrounding, cwd=self.root)
        if done.returncode:
            raise SystemExit(f"{self.name}: exit code {done.returncode}\n{done.stderr.strip()[-1_500:]}")
        return done.stdout

    def call(self, task: str, **arguments: Any) -> dict[str, Any]:
        """The answer of `child.py` to a task. Raises SystemExit if it imported another checkout's package."""
        answer = json.loads(self.run([str(CHILD), task, json.dumps(arguments)]).splitlines()[-1])
        package = Path(answer.pop("package"))
        if not package.is_relative_to(self.root.resolve()):
            raise SystemExit(f"--{self.name} {self.root} imports {package}; run `uv sync` there")
        return answer


def add_checkouts(parser: argparse.ArgumentParser, name: str, needs_old: bool = True) -> None:
    """The flags --old and --new, and those of every benchmark."""
    parser.add_argument("--old", type=Path, required=needs_old, help="checkout that is compared with")
    parser.add_argument("--new", type=Path, default=ROOT, help="checkout that is measured; default: this one")
    add_flags(parser, name)


def checkouts(options: argparse.Namespace) -> list[Checkout]:
    """Old, if given, then new."""
    given = [("old", options.old), ("new", options.new)]
    return [Checkout(name, Path(os.path.abspath(root))) for name, root in given if root is not None]


def record_of(options: argparse.Namespace, sides: Iterable[Checkout], settings: Mapping[str, Any]) -> Record:
    """The result file. It holds the commits of the checkouts, but no directory of this machine."""
    record = Record(options, {side.name: side.commit() for side in sides} | dict(settings))
    places = {options.old: "OLD", options.new: "NEW", options.out: options.out.name}
    last = record.content["commands"][-1]
    last["command"] = [_hidden(word, places) for word in last["command"]]
    return record


def _hidden(word: str, places: Mapping[Path | None, str]) -> str:
    flag, equals, value = word.rpartition("=")
    return flag + equals + places.get(Path(value), value)


def chosen(cells: Mapping[str, Any], patterns: str) -> list[str]:
    """Names of the cells that match one of the comma-separated patterns. Raises SystemExit if there are none."""
    names = [name for name in cells if any(fnmatch(name, pattern) for pattern in patterns.split(","))]
    if not names:
        raise SystemExit(f"--cells {patterns} matches none of: {', '.join(cells)}")
    return names


def say(line: str) -> None:
    """A line about progress, on standard error."""
    print(line, file=sys.stderr, flush=True)
