"""Runs that are stopped and taken up again, and what becomes of them where their checkpoint was changed meanwhile."""

import json
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engram.run.trainer
from engram.checkpoint.store import CheckpointStore, Loaded
from engram.errors import EngramError, Interrupted
from engram.run.metrics import METRICS_FILE
from engram.run.plan import RUN_FILE, info
from engram.run.stop import StopRequest
from engram.run.trainer import Trainer

CLOCK = {"seconds", "steps_per_second"}


class StopAt(StopRequest):
    """Asks a trainer to stop at a step, as a signal would."""

    def __init__(self, trainer: Trainer, step: int | None):
        super().__init__()
        self.trainer, self.step = trainer, step

    def __call__(self) -> bool:
        return self.step is not None and self.trainer.steps >= self.step


def metrics(folder: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, (folder / METRICS_FILE).read_text().splitlines())
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]


def played(folder: Path, env: Any, stops: list[int], **options: Any) -> tuple[str, list[dict[str, Any]], list[Loaded]]:
    """Digest and metrics of a whole run that is stopped at `stops`, and the checkpoints of the stops."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for stop in stops:
            with taken_up(folder, env, options) as trainer:
                patch.setattr(
                    engram.run.trainer, "StopRequest", lambda trainer=trainer, stop=stop: StopAt(trainer, stop)
                )
                with pytest.raises(Interrupted):
                    trainer.learn()
            found.append(CheckpointStore(folder / "checkpoints").load())
    with taken_up(folder, env, options) as trainer:
        trainer.learn()
        digest = trainer.state_digest()
    assert info(folder)["state_digest"] == digest
    return digest, metrics(folder), found


def taken_up(folder: Path, env: Any, options: dict[str, Any]) -> Trainer:
    """A new trainer for the run from where it is."""
    if (folder / RUN_FILE).exists():
        return Trainer(None if isinstance(env, str) else env, run=folder, resume=True)
    return Trainer(env, run=folder, **options)


Change = Callable[[dict[str, Any], dict[str, Any]], None]  # of arrays and the values beside them, in place


def changes(saved: Loaded) -> Iterator[tuple[str, dict[str, Change]]]:
    """Every field of a checkpoint, and two ways to lose it."""
    for name, array in saved.arrays.items():
        yield name, {"left out": array_to(name, ...), "changed": array_to(name, changed_array(array))}
    meta = saved.meta["state"]
    for path in leaves(meta):
        other = changed(at(meta, path))
        yield ".".join(map(str, path)), {"left out": value_to(path, ...), "changed": value_to(path, other)}


def array_to(name: str, new: Any) -> Change:
    """Sets an array; leaves it out if the new one is an ellipsis."""

    def change(arrays: dict[str, Any], meta: dict[str, Any]) -> None:
        if new is ...:
            del arrays[name]
        else:
            arrays[name] = new

    return change


def value_to(path: tuple[Any, ...], new: Any) -> Change:
    """Sets a value; leaves it out if the new one is an ellipsis."""

    def change(arrays: dict[str, Any], meta: dict[str, Any]) -> None:
        inner = at(meta, path[:-1])
        if new is ...:
            del inner[path[-1]]
        else:
            inner[path[-1]] = new

    return change


class Continued:
    """What becomes of a stopped run if its newest checkpoint is changed before it is read."""

    def __init__(self, env: Any, folder: Path, stop: int):
        self.env, self.folder = None if isinstance(env, str) else env, folder
        self.number = 0
        self.load = CheckpointStore.load
        for path in (folder / "checkpoints").glob("step-*"):
            if not path.name.startswith(f"step-{stop:09d}"):
                shutil.rmtree(path)

    def __call__(self, change: Change) -> Any:
        self.number += 1
        folder = shutil.copytree(self.folder, self.folder.parent / f"copy{self.number}")

        def load(store: CheckpointStore, *given: Any) -> Loaded:
            loaded = self.load(store, *given)
            arrays, meta = dict(loaded.arrays), deepcopy(loaded.meta)
            change(arrays, meta["state"])
            return replace(loaded, arrays=arrays, meta=meta)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CheckpointStore, "load", load)
            try:
                with Trainer(self.env, run=folder, resume=True) as trainer:
                    patch.undo()
                    trainer.learn()
                    return [trainer.state_digest(), metrics(folder)]
            except EngramError as error:
                return type(error).__name__
            finally:
                shutil.rmtree(folder)


def changed_array(array: np.ndarray) -> np.ndarray:
    """An array of the same kind and far from the one given."""
    if array.dtype.kind == "f":
        return -100 * array - 1
    return ~array if array.dtype == bool else array + array.dtype.type(1)


def changed(value: Any) -> Any:
    """A value of the same kind; for the digits of a float, or a hash, only another text."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return "boundary" if value == "exact" else value + "x"
    if value in (0, 1):
        return 1 - value
    return 1 if value is None else value + 1


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to every JSON value that is no dict and no list."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))
    else:
        yield path


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value
