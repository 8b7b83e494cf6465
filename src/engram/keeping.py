"""A runner's state to disk and back: what the trainer keeps of a run."""

from functools import partial
from pathlib import Path

from engram.checkpoint import CheckpointStore, Loaded, ReplayLog, Saved, state_digest
from engram.errors import CheckpointError
from engram.replay import lanes
from engram.replay.ring import Ring
from engram.runners.common import Captured, Runner

FOLDER = "checkpoints"


class Keeper:
    """The checkpoints of one run directory."""

    def __init__(self, run: Path):
        self._store = CheckpointStore(run / FOLDER)

    def save(self, runner: Runner, seconds: float) -> Saved:
        """Everything that changes, and the seconds of training so far (which no digest counts)."""
        captured = runner.capture()
        meta = {"state": captured.meta, "wall": {"seconds": seconds}}
        return self._store.save(runner.steps, captured.arrays, meta, _log(captured))

    def restore(self, runner: Runner) -> tuple[float, list[str]]:
        """Puts the newest verified state into `runner`; the seconds of training, and a sentence for each newer
        checkpoint that had to be passed over.

        Raises: CheckpointError if there is no usable checkpoint, or it does not fit the runner.
        """
        loaded = self._store.load()
        try:
            runner.restore(loaded.arrays, loaded.meta["state"], partial(_fill, loaded))
            return loaded.meta["wall"]["seconds"], loaded.passed_over
        except KeyError as missing:
            raise CheckpointError(f"the checkpoint has no {missing}; go on with the version that wrote it") from missing


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
