"""A runner's state to disk and back: what the trainer keeps of a run."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax

from engram.agents.q_learning import Mind
from engram.checkpoint import lanes
from engram.checkpoint.store import CheckpointStore, Loaded, ReplayLog, Saved, state_digest
from engram.errors import CheckpointError, EngramError
from engram.replay.ring import Ring
from engram.runners.common import Captured, Runner
from engram.trees import restored

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

    def minds(self, build: Callable[[], Mind]) -> tuple[list[Mind], list[str]]:
        """What each seed decides with in the newest verified checkpoint, and the sentences as of `restore`."""
        loaded = self._load()
        like = jax.eval_shape(build)
        on_device = any(name.startswith("agent.") for name in loaded.arrays)
        arrays = {_of_mind(name.removeprefix("agent.")): array for name, array in loaded.arrays.items()}
        if not on_device:
            return [restored(like, arrays)], loaded.passed_over
        seeds = len(next(array for name, array in arrays.items() if name.startswith("network.")))
        each = ({name: array[seed] for name, array in arrays.items() if array.ndim} for seed in range(seeds))
        return [restored(like, one) for one in each], loaded.passed_over

    def _load(self) -> Loaded:
        loaded = self._store.load()
        if loaded.meta.get("plan") != self._plan:
            raise CheckpointError(
                "run.json is not the one that the checkpoint was written with, so the run would not go on as it was; "
                "restore run.json from a copy"
            )
        return loaded


def _of_mind(name: str) -> str:
    """What an array of a state is called as a part of a Mind."""
    return name.replace("learner.params.", "network.", 1).replace("learner.target.", "target.", 1)


def digest(runner: Runner) -> str:
    """SHA-256 over every leaf of a runner's state, replay and environment included."""
    captured = runner.capture()
    return state_digest(captured.arrays, captured.meta, _log(captured))


def _log(captured: Captured) -> ReplayLog:
    replay = captured.replay
    return ReplayLog(lanes.capacity(replay), lanes.cursors(replay), partial(lanes.read_rows, replay))


def _fill(loaded: Loaded, replay: Ring) -> Ring:
    """An empty ring with the rows of a checkpoint put back."""
    if loaded.cursors is None or loaded.capacity != lanes.capacity(replay) or len(loaded.cursors) != replay.cursor.size:
        raise CheckpointError(
            f"the checkpoint's replay has {loaded.capacity} rows in each of its lanes, but this run needs "
            f"{lanes.capacity(replay)} in each of {replay.cursor.size}; resume with the settings it was started with"
        )
    return lanes.fill(replay, loaded.cursors, loaded.replay_blocks())
