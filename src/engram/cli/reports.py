"""What a command found: a table for people, or one JSON object for programs."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from shutil import get_terminal_size
from typing import Any

from engram.run.display import clean, fitting

WIDEST = 0.6  # share of a terminal's columns that names may take before texts begin below them


def report(work: Callable[[], Mapping[str, Any]], as_json: bool) -> dict[str, Any]:
    """Do the work and print what it found: as one JSON object alone on standard output, or as a table."""
    from engram.run.metrics import plain

    if as_json:
        with _stdout_to_stderr():
            found = plain(work())
        print(json.dumps(found, allow_nan=False))
        return found
    found = plain(work())
    print_rows(list(_facts(found)))
    return found


def print_rows(rows: Sequence[tuple[str, str]], sign: str = "") -> None:
    """Names and texts, the texts below each other; a terminal gets lines that fit it.

    Args:
      rows: names and texts.
      sign: begins each text, such as "# "; also where it goes on in the next line.
    """
    width = max((len(name) for name, _ in rows), default=0)
    beside = width + 2 <= WIDEST * get_terminal_size().columns
    margin = " " * (width + 2 if beside else 4) + sign
    for name, text in rows:
        line = clean(f"{name:{width}}  {sign}{text}".rstrip())
        print(*fitting(line, sys.stdout, margin), sep="\n")


def _facts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Nested facts as (path, text) rows; a list of numbers is one row."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _facts(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for index, item in enumerate(value):
            yield from _facts(item, f"{path}.{index}")
    elif isinstance(value, list):
        yield path, ", ".join(map(_number, value)) or "none"
    else:
        yield path, _number(value)


def _number(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else "-" if value is None else str(value)


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """What anything prints meanwhile, C libraries and worker processes included, goes to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
