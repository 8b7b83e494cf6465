"""What a stranger can do to a run before giving it away: change any file, and make every hash agree again."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engram.run.settings import FREE

Path_ = tuple[str | int, ...]


def seal(checkpoint: Path, change: Callable[[dict[str, Any]], Any] = lambda manifest: None) -> None:
    """Changes a checkpoint's manifest, and writes the hash of its arrays and its own anew."""
    file = checkpoint / "manifest.json"
    manifest = json.loads(file.read_bytes())
    arrays = (checkpoint / manifest["arrays"]["file"]).read_bytes()
    manifest["arrays"] |= {"bytes": len(arrays), "sha256": hashlib.sha256(arrays).hexdigest()}
    change(manifest)
    text = json.dumps(manifest, separators=(",", ":")).encode()
    file.write_bytes(text)
    (checkpoint / "manifest.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  manifest.json\n")


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"), key=lambda path: int(path.name.rpartition(".")[2]))


def replan(run: Path, values: dict[str, Any]) -> None:
    """Writes run.json, and lets every checkpoint say that it belongs to this plan."""
    (run / "run.json").write_text(json.dumps(values, indent=2) + "\n")
    kept = {name: value for name, value in values.items() if name not in (*FREE, "horizon", "follows")}
    for name in values.get("follows", ()):
        if str(name).startswith("agent."):
            kept = without(kept, name.split("."))
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    for checkpoint in checkpoints(run):
        seal(checkpoint, lambda manifest: manifest["meta"].update(plan=digest))


def without(values: dict[str, Any], path: list[str]) -> dict[str, Any]:
    """A copy without a nested value; one that is missing is missing."""
    first, *rest = path
    if first not in values or (rest and not isinstance(values[first], dict)):
        return values
    kept = {name: value for name, value in values.items() if name != first}
    return {**kept, first: without(values[first], rest)} if rest else kept


def texts(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Where a JSON value holds text or nothing."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from texts(item, (*path, name))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from texts(item, (*path, place))
    elif value is None or isinstance(value, str):
        yield path


def put(value: Any, path: Path_, new: Any) -> Any:
    """A copy of a JSON value with `new` at `path`."""
    copy = json.loads(json.dumps(value))
    at = copy
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = new
    return copy
