"""What a command found: a table for people, or one JSON object for programs."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

from engram.run.display import clean


def report(work: Callable[[], Mapping[str, Any]], as_json: bool) -> dict[str, Any]:
    """Do the work and print what it found: as one JSON object alone on standard output, or as a table."""
    from engram.run.metrics import plain

    if as_json:
        with _stdout_to_stderr():
            found = plain(work())
        print(json.dumps(found, allow_nan=False))
        return found
    found = plain(work())
    rows = list(_facts(found))
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        print(clean(f"{name:{width}}  {text}"))
    return found


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
