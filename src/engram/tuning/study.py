"""A study: what is searched, and its trials so far, in a folder that several processes may work on.

`study.json` says what was asked; the journal holds the trials, as Optuna writes them; `trial0`, `trial1`, ... are run
directories. A trial belongs to the process that has claimed it. One without an owner was stopped or killed, and whoever
comes next goes on with it.
"""

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engram.checkpoint.disk import Disk, read_small, replace_file, strict_json
from engram.checkpoint.files import RunLock
from engram.errors import CheckpointError, EngramError, SpecError, WriteFailed, install, unwritten
from engram.run.keeper import FOLDER
from engram.tuning.shared import JOURNAL, LOCK, Exclusive, claim, storage
from engram.tuning.space import Choice, Dimension, from_json, to_json

STUDY_FILE, FORMAT, LARGEST = "study.json", "engram-study/1", 1 << 20
NAME = "engram"
BEFORE_PRUNING = 5  # whole trials, whose median the later ones are compared with
SPARED = 3  # the first third of a trial is not pruned
COMPLETE, PRUNED = "complete", "pruned"  # outcomes of a trial that went as planned
RUNNING, STOPPED = "running", "stopped"  # not over: at work, and without an owner


@dataclass(frozen=True)
class Task:
    """What a study is asked.

    Fields:
      env: the environment's id. run: settings of the trials' runs, `steps` and `seeds` among them, without their seed.
      settings: those of the agent that are fixed, by path, as texts. space: what is searched.
      defaults: the agent's own values, by path, in Optuna's terms. points: evaluations of a trial's seed.
      seed: of the sampler, and the first that an agent learns with. pruning: `median` or `none`.
    """

    env: str
    run: dict[str, Any]
    settings: dict[str, str]
    space: tuple[Dimension, ...]
    defaults: dict[str, Any]
    points: int
    seed: int = 0
    pruning: str = "median"

    @property
    def seeds(self) -> int:
        """Seeds of each trial."""
        return self.run.get("seeds", 1)

    def seed_of(self, number: int) -> int:
        """The first seed of a trial: no two trials share one."""
        return self.seed + self.seeds * number

    def to_json(self) -> dict[str, Any]:
        """As in study.json."""
        return {**vars(self), "space": to_json(self.space), "format": FORMAT}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Task":
        """What `to_json` wrote."""
        known = {name: item for name, item in value.items() if name != "format"}
        return cls(**{**known, "space": tuple(from_json(value["space"]))})


class Taken(NamedTuple):
    """A trial that this process works on."""

    number: int
    settings: dict[str, str]  # by path; empty for the defaults
    seed: int
    folder: Path
    claim: RunLock


class Row(NamedTuple):
    """A trial as it is told of."""

    number: int
    outcome: str
    value: float | None  # its score, if it is complete
    seen: float | None  # the last evaluation that was reported
    settings: dict[str, str]
    default: bool
    seed: int
    folder: str
    why: str | None


def the_library() -> Any:
    """Optuna, which then says nothing by itself. Raises EngramError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise EngramError(f"tuning needs optuna, which is not installed; {install('tune')}") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class Study:
    """The study in a folder; made if there is none.

    Raises: SpecError where the folder holds the study of another task; EngramError without Optuna.
    """

    def __init__(self, folder: Path, task: Task):
        optuna = self._library = the_library()
        self.folder, self.task = folder, task
        self._lock = Exclusive(folder / LOCK)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteFailed(unwritten(folder, error)) from None
        pruner = optuna.pruners.MedianPruner(
            n_startup_trials=BEFORE_PRUNING, n_warmup_steps=max(1, task.points // SPARED)
        )
        with self._lock:
            _agree(folder, task)
            try:
                self._storage = storage(folder)
                self._study = optuna.create_study(
                    storage=self._storage, study_name=NAME, direction="maximize", load_if_exists=True,
                    pruner=pruner if task.pruning == "median" else optuna.pruners.NopPruner(),
                )  # fmt: skip
            except EngramError:
                raise
            except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:  # of what it holds
                raise CheckpointError(
                    f"{folder / JOURNAL} is damaged ({type(error).__name__}); restore it from a copy, or give another "
                    f"folder (--study DIR)"
                ) from None

    def take(self, trials: int) -> Taken | None:
        """The next trial to work on: one that nobody goes on with, else a new one; None where there are `trials`."""
        with self._lock:
            left = self._left()
            if left is not None or self.count >= trials:
                return left
            first = not self.count
            states, known = self._library.trial.TrialState, self._study.get_trials(deepcopy=False)
            if first and not any(trial.state == states.WAITING for trial in known):
                self._study.enqueue_trial(self.task.defaults)
            # A sampler of its own for each trial, so that a study that was stopped goes on as if it had not been.
            self._study.sampler = self._library.samplers.TPESampler(seed=_word(self.task.seed, len(known)))
            trial = self._study.ask({one.path: self._distribution(one) for one in self.task.space})
            settings = {} if first else {one.path: one.text(trial.params[one.path]) for one in self.task.space}
            owned = claim(self.folder, trial.number)
            assert owned is not None
            trial.set_user_attr("default", first)
            trial.set_user_attr("seed", self.task.seed_of(trial.number))
            trial.set_user_attr("settings", settings)  # last: a trial without it never began
            return self._taken(trial, owned)

    def report(self, number: int, point: int, value: float) -> bool:
        """Notes the evaluation at a point of a trial; whether the trial should be given up."""
        if not math.isfinite(value):
            return False
        trial = self._id(number)
        if point not in self._storage.get_trial(trial).intermediate_values:  # a resumed run may come there again
            self._storage.set_trial_intermediate_value(trial, point, value)
        return bool(self._study.pruner.prune(self._study, self._storage.get_trial(trial)))

    def finish(self, number: int, outcome: str, value: float | None = None, why: str | None = None) -> None:
        """A trial is over. To Optuna one that failed is a pruned one, so that its sampler keeps away from there."""
        states = self._library.trial.TrialState
        self._storage.set_trial_user_attr(self._id(number), "outcome", outcome)
        self._storage.set_trial_user_attr(self._id(number), "why", why)
        self._study.tell(number, value, state=states.COMPLETE if outcome == COMPLETE else states.PRUNED)

    @property
    def count(self) -> int:
        """Trials that began."""
        return len(self._begun())

    @property
    def rows(self) -> list[Row]:
        """Every trial that began, by number."""
        return [self._row(trial) for trial in self._begun()]

    def drop_checkpoints(self) -> None:
        """Deletes the checkpoints of the trials that are over, but for those of the best; their logs stay."""
        with self._lock:
            over = [row for row in self.rows if row.outcome not in (RUNNING, STOPPED)]
            best = max(over, key=lambda row: -math.inf if row.value is None else row.value, default=None)
            for row in over:
                folder = self.folder / row.folder
                for path in () if row is best else (*folder.glob(FOLDER), *folder.glob(f"seed*/{FOLDER}")):
                    shutil.rmtree(path, ignore_errors=True)

    def importance(self) -> dict[str, float]:
        """How much each setting explains of what trials came to, the greatest first; empty where few are complete.

        Source: PED-ANOVA (Watanabe, Bansal, Hutter 2023, arXiv 2304.10255), as Optuna has it.
        """
        import warnings

        values = [row.value for row in self.rows if row.outcome == COMPLETE]
        if len(values) < 2 * BEFORE_PRUNING or len(set(values)) < 2:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dict(self._library.importance.get_param_importances(self._study))

    # -- trials as Optuna has them -----------------------------------------------------------------------------

    def _begun(self) -> list[Any]:
        return [trial for trial in self._study.get_trials(deepcopy=False) if "settings" in trial.user_attrs]

    def _left(self) -> Taken | None:
        """A trial without an owner. One that was left before it began counts for nothing."""
        states = self._library.trial.TrialState
        for trial in self._study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            owned = claim(self.folder, trial.number)
            if owned is not None and "settings" in trial.user_attrs:
                return self._taken(trial, owned)
            if owned is not None:
                self._study.tell(trial.number, state=states.FAIL)
                owned.release()
        return None

    def _taken(self, trial: Any, owned: RunLock) -> Taken:
        attributes = trial.user_attrs
        folder = self.folder / f"trial{trial.number}"
        return Taken(trial.number, attributes["settings"], attributes["seed"], folder, owned)

    def _row(self, trial: Any) -> Row:
        states, told = self._library.trial.TrialState, trial.user_attrs
        if trial.state == states.RUNNING:
            owned = claim(self.folder, trial.number)
            outcome = RUNNING if owned is None else STOPPED
            if owned is not None:
                owned.release()
        else:
            outcome = told["outcome"]
        seen = trial.intermediate_values
        return Row(
            trial.number, outcome, trial.value if outcome == COMPLETE else None, seen[max(seen)] if seen else None,
            told["settings"], told["default"], told["seed"], f"trial{trial.number}", told.get("why"),
        )  # fmt: skip

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._storage.get_study_id_from_name(NAME), number)

    def _distribution(self, one: Dimension) -> Any:
        """A dimension in Optuna's terms."""
        kinds = self._library.distributions
        if isinstance(one, Choice):
            return kinds.CategoricalDistribution(one.values)
        if one.whole:
            return kinds.IntDistribution(int(one.low), int(one.high), log=one.log)
        return kinds.FloatDistribution(float(one.low), float(one.high), log=one.log)


def holds_study(folder: Path) -> bool:
    """Whether there is a study in a folder."""
    return (folder / STUDY_FILE).is_file()


def _agree(folder: Path, task: Task) -> None:
    """Writes what is asked, or raises SpecError where the folder's study was asked something else."""
    path, asked = folder / STUDY_FILE, json.loads(json.dumps(task.to_json()))
    if not holds_study(folder):
        try:
            replace_file(path, (json.dumps(asked, indent=2) + "\n").encode())
        except OSError as error:
            raise WriteFailed(unwritten(path, error)) from None
        return
    try:
        known = strict_json(read_small(Disk(), path, LARGEST), STUDY_FILE)
    except (OSError, CheckpointError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); restore it from a copy") from None
    if not isinstance(known, dict) or known.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no study of this version ({FORMAT}); choose another folder (--study DIR)")
    for (name, old), (_, new) in zip(_facts(known), _facts(asked), strict=True):
        if old != new:
            raise SpecError(_other(folder, name, old, new))


def _facts(task: dict[str, Any]) -> list[tuple[str, Any]]:
    """What makes a study another one, the plainest first."""
    run, names = task.get("run", {}), ("preset", "recipe", "steps", "seeds")
    facts = [("env", task.get("env")), *((name, run.get(name)) for name in names), ("run", run)]
    return facts + [(name, task.get(name)) for name in ("settings", "space", "seed", "pruning")]


def _other(folder: Path, name: str, old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        inner = next((key for key in {**old, **new} if old.get(key) != new.get(key)), None)
        what = "searches" if name == "space" else "has"
        told = f"{what} {inner} differently" if inner is not None else f"has another {name}"
        return f"the study in {folder} {told}; give the same command again, or another folder (--study DIR)"
    return f"{folder} holds a study with {name} = {old!r}, not {new!r}; give another folder (--study DIR)"


def _word(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint32)[0])
