"""A runner's state to disk and back: what the trainer keeps of a run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from engram.agents.agent import Agent, numbered_mind
from engram.agents.policy import Mind
from engram.checkpoint import lanes
from engram.checkpoint.store import CheckpointStore, Loaded, ReplayLog, Saved, state_digest
from engram.cluster import epochs
from engram.errors import CheckpointError, EngramError
from engram.replay.ring import Rows
from engram.runners.common import Captured, Runner
from engram.trees import named, restored

FOLDER = "checkpoints"
BEST_FOLDER = "best"  # in FOLDER
NEWEST, BEST = "newest", "best"  # checkpoints that have a name; others are called by their step
At = str | int  # NEWEST, BEST, or a step


@dataclass
class Milestones:
    """How far a run is with what it does on its way, beside the state of its runner. No digest counts it."""

    seconds: float = 0.0  # of training
    logged: int = 0  # the step of the last line of metrics
    evaluated: int = 0  # the step of the last evaluation while training
    best_step: int | None = None  # that of the best evaluation, whose checkpoint is kept
    best_return: float | None = None


class Kept(NamedTuple):
    """The minds of a checkpoint."""

    step: int
    minds: list[Mind]
    passed_over: list[str]  # a sentence for each newer checkpoint that was refused
    id: str  # of the checkpoint: 12 hexadecimal digits of its manifest's digest


class Keeper:
    """The checkpoints of one run directory. Each names the plan (`RunPlan.digest`) that it belongs to."""

    def __init__(self, run: Path, plan: str, keep: int = 3):
        self._run, self._store, self._plan = run, CheckpointStore(run / FOLDER, keep), plan
        # The best one has a store of its own, which no newer checkpoint pushes out. Of two, the newer is the best; the
        # one before stays until the next, for readers that are at it.
        self._best = CheckpointStore(run / FOLDER / BEST_FOLDER, keep=2)

    def save(self, runner: Runner, progress: Milestones) -> Saved:
        """Everything that changes."""
        captured = self._captured(runner)
        saved = self._store.save(runner.steps, captured.arrays, self._meta(captured, progress), _log(captured))
        if epochs.epoch_of(captured.meta):  # whose files are on the disk already
            epochs.prune(self._run / FOLDER)
        return saved

    def save_best(self, runner: Runner, progress: Milestones) -> Saved:
        """Everything but the rows of the replay, as the best checkpoint so far."""
        captured = self._captured(runner)
        captured = captured._replace(meta=epochs.without_rows(captured.meta))
        return self._best.save(runner.steps, captured.arrays, self._meta(captured, progress))

    def _captured(self, runner: Runner) -> Captured:
        """What is to be saved. WriteFailed where shards wrote their part out of this machine's sight."""
        captured = runner.capture()
        epochs.check_there(self._run / FOLDER, epochs.epoch_of(captured.meta))
        return captured

    def _meta(self, captured: Captured, progress: Milestones) -> dict:
        return {"state": captured.meta, "plan": self._plan, "progress": asdict(progress)}

    def restore(self, runner: Runner, new_episodes: bool = False) -> tuple[Milestones, list[str]]:
        """Puts the newest verified state into `runner`; the progress, and a sentence for each newer checkpoint that
        had to be passed over. `new_episodes`: see `Runner.restore`.

        Raises: CheckpointError if there is no usable checkpoint, or it does not fit the runner.
        """
        loaded = self._loaded(NEWEST)
        try:
            runner.restore(loaded.arrays, loaded.meta["state"], partial(fill, loaded), new_episodes)
            return Milestones(**loaded.meta["progress"]), loaded.passed_over
        except EngramError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint holds another kind of state ({type(error).__name__}: {error}); go on with the version "
                f"of Engram that wrote it"
            ) from error

    def minds(self, agent: Agent, at: At = NEWEST) -> Kept:
        """What each seed decides with in a verified checkpoint.

        Neither the rows nor what only learning needs is read into the agent's form.
        """
        loaded = self._loaded(at, rows=False)
        return Kept(loaded.step, minds_of(agent, self.whole(agent, loaded)), loaded.passed_over, loaded.id)

    def whole(self, agent: Agent, loaded: Loaded) -> Mapping[str, np.ndarray]:
        """The arrays of a checkpoint, with the entries of shards in one table, where there are any."""
        if parts := epochs.parts_of(epochs.epoch_of(loaded.meta["state"])):
            from engram.run.gathered import gathered

            return gathered(agent, loaded.arrays, parts, self._run / FOLDER)
        return loaded.arrays

    def save_again(self, loaded: Loaded, arrays: Mapping[str, np.ndarray]) -> Saved:
        """A checkpoint that was loaded here, as the newest, with other arrays; its rows and all else stay."""
        log = None
        if loaded.cursors is not None and loaded.capacity is not None:
            log = ReplayLog(loaded.capacity, loaded.cursors, partial(_rows_of, loaded))
        return self._store.save(loaded.step, arrays, loaded.meta, log)

    def load(self, at: At) -> Loaded:
        """A verified checkpoint: the newest, the best, or the newest of a step, the best one included.

        Its replay rows are whole, also where shards keep a part of each. Raises: CheckpointError if there is none, or
        it is of another plan.
        """
        loaded = self._loaded(at)
        if epochs.rows_of(epochs.epoch_of(loaded.meta["state"])):
            from engram.run.gathered import with_rows

            return with_rows(loaded, self._run / FOLDER)
        return loaded

    def _loaded(self, at: At, rows: bool = True) -> Loaded:
        """See `load`. `rows`: whether shards' files of replay rows are checked, which only learning needs."""
        best, newest = self._best.steps(), self._store.steps()
        if at == BEST and not best:
            raise CheckpointError(
                f"{self._run} keeps no best checkpoint, because it was not evaluated while it trained; use newest, or "
                f"train with --evaluate-every N"
            )
        if at not in (NEWEST, BEST, *best, *newest):
            steps = ", ".join(map(str, sorted({*best, *newest})))
            raise CheckpointError(
                f"{self._run} keeps no checkpoint of step {at}; use newest, best, or one of the steps {steps}"
            )
        store = self._best if at == BEST or (at in best and at not in newest) else self._store
        check = partial(epochs.check_meta, self._run / FOLDER, rows=rows)
        loaded = store.load(None if at in (NEWEST, BEST) else int(at), check)
        if loaded.meta.get("plan") != self._plan:
            raise CheckpointError(
                "run.json is not the one that the checkpoint was written with, so the run would not go on as it was; "
                "restore run.json from a copy"
            )
        return loaded


def mind_names(agent: Agent) -> dict[str, str]:
    """What the leaves of a mind are called in a checkpoint, by their names in the mind."""
    shape, numbered = numbered_mind(agent)
    names = list(named(shape, "agent"))
    return {name: names[number] for name, number in named(numbered).items()}


def minds_of(agent: Agent, arrays: Mapping[str, np.ndarray]) -> list[Mind]:
    """What each seed decides with, by the arrays of a checkpoint."""
    found = {name: arrays[old] for name, old in mind_names(agent).items() if old in arrays}
    like = agent.mind(numbered_mind(agent)[0])
    return [restored(like, one, owned=False) for one in _each_seed(found, named(like))]


def _rows_of(loaded: Loaded, lane: int, start: int, stop: int) -> dict[str, np.ndarray]:
    """Rows of one lane out of a loaded checkpoint."""
    parts = []
    for this, first, columns in loaded.replay_blocks():
        if this == lane and first < stop and first + len(next(iter(columns.values()))) > start:
            inside = slice(max(start - first, 0), stop - first)
            parts.append({name: column[inside] for name, column in columns.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


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
    if not rows:
        return None
    return ReplayLog(lanes.capacity(rows), lanes.cursors(rows), partial(lanes.read_rows, rows))


def fill(loaded: Loaded, rows: Rows) -> Rows:
    """Empty rings with the rows of a checkpoint put back."""
    size, needed = lanes.capacity(rows), len(lanes.cursors(rows))
    if loaded.cursors is None or loaded.capacity != size or len(loaded.cursors) != needed:
        raise CheckpointError(
            f"the checkpoint's replay has {loaded.capacity} rows in each of its lanes, but this run needs "
            f"{size} in each of {needed}; resume with the settings it was started with"
        )
    return lanes.fill(rows, loaded.cursors, loaded.replay_blocks())
