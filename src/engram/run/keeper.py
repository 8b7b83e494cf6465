"""A runner's state to disk and back: what the trainer keeps of a run."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import jax
import numpy as np

from engram.agents.agent import Agent, numbered_mind
from engram.agents.policy import Mind
from engram.checkpoint import lanes
from engram.checkpoint.store import CheckpointStore, Loaded, ReplayLog, Saved, state_digest
from engram.errors import CheckpointError, EngramError
from engram.replay.ring import Ring
from engram.runners.common import Captured, Runner
from engram.trees import named, restored

FOLDER = "checkpoints"


class Keeper:
    """The checkpoints of one run directory. Each names the plan (`RunPlan.digest`) that it belongs to."""

    def __init__(self, run: Path, plan: str):
        self._store, self._plan = CheckpointStore(run / FOLDER), plan

    def save(self, runner: Runner, seconds: float) -> Saved:
        """Everything that changes, and the seconds of training so far (which no digest counts)."""
        captured = runner.capture()
        meta = {"state": captured.meta, "plan": self._plan, "wall": {"seconds": seconds}}
        return self._store.save(runner.steps, captured.arrays, meta, _log(captured))

    def restore(self, runner: Runner, new_episodes: bool = False) -> tuple[float, list[str]]:
        """Puts the newest verified state into `runner`; the seconds of training, and a sentence for each newer
        checkpoint that had to be passed over. `new_episodes`: see `Runner.restore`.

        Raises: CheckpointError if there is no usable checkpoint, or it does not fit the runner.
        """
        loaded = self._load()
        try:
            runner.restore(loaded.arrays, loaded.meta["state"], partial(_fill, loaded), new_episodes)
            return loaded.meta["wall"]["seconds"], loaded.passed_over
        except EngramError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint holds another kind of state ({type(error).__name__}: {error}); go on with the version "
                f"of Engram that wrote it"
            ) from error

    def minds(self, agent: Agent) -> tuple[list[Mind], list[str]]:
        """What each seed decides with in the newest verified checkpoint, and the sentences as of `restore`.

        Neither the rows nor what only learning needs is read into the agent's form.
        """
        loaded = self._load()
        shape, numbered = numbered_mind(agent)
        names = list(named(shape, "agent"))
        renamed = {name: names[number] for name, number in named(numbered).items()}
        arrays = {name: loaded.arrays[old] for name, old in renamed.items() if old in loaded.arrays}
        like = agent.mind(shape)
        return [restored(like, one) for one in _each_seed(arrays, named(like))], loaded.passed_over

    def _load(self) -> Loaded:
        loaded = self._store.load()
        if loaded.meta.get("plan") != self._plan:
            raise CheckpointError(
                "run.json is not the one that the checkpoint was written with, so the run would not go on as it was; "
                "restore run.json from a copy"
            )
        return loaded


def _each_seed(arrays: Mapping[str, np.ndarray], like: Mapping[str, jax.ShapeDtypeStruct]) -> list[dict]:
    """The arrays of each seed: a device run has an axis of seeds before all others."""
    if not all(arrays[name].ndim == len(like[name].shape) + 1 for name in arrays):
        return [dict(arrays)]
    seeds = max((len(array) for array in arrays.values()), default=0)
    return [{name: array[seed] for name, array in arrays.items()} for seed in range(seeds)]


def digest(runner: Runner) -> str:
    """SHA-256 over every leaf of a runner's state, replay and environment included."""
    captured = runner.capture()
    return state_digest(captured.arrays, captured.meta, _log(captured))


def _log(captured: Captured) -> ReplayLog | None:
    rows = captured.rows
    if rows is None:
        return None
    return ReplayLog(lanes.capacity(rows), lanes.cursors(rows), partial(lanes.read_rows, rows))


def _fill(loaded: Loaded, rows: Ring) -> Ring:
    """An empty ring with the rows of a checkpoint put back."""
    if loaded.cursors is None or loaded.capacity != lanes.capacity(rows) or len(loaded.cursors) != rows.cursor.size:
        raise CheckpointError(
            f"the checkpoint's replay has {loaded.capacity} rows in each of its lanes, but this run needs "
            f"{lanes.capacity(rows)} in each of {rows.cursor.size}; resume with the settings it was started with"
        )
    return lanes.fill(rows, loaded.cursors, loaded.replay_blocks())
