"""Loggers: where the numbers of a run go beside metrics.jsonl.

    engram train CartPole-v1 --log csv,tensorboard,wandb,mlflow
    engram.Trainer("CartPole-v1", run="runs/mine", log="csv", loggers=[Mine()]).learn()

All are made from run.json and the lines of metrics.jsonl, and hold nothing more. An object with the three methods of
`Logger` will do. A logger that fails does not end a run: the run says so once, and goes on without it.

Weights & Biases and MLflow cannot take a line back. So a run remembers in loggers.json which line each was sent last,
and a resumed run sends the later ones only.
"""

import csv
import io
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from engram.checkpoint.disk import replace_file
from engram.errors import EngramError, SpecError, UnknownName, Warned, hint, install

LOG = logging.getLogger("engram")
CSV_FILE, SENT_FILE = "metrics.csv", "loggers.json"
EVENTS = "tensorboard"  # written by the log itself, see metrics.py
# The names of `log`: the module that each needs, and the extra that brings it.
NEEDED = {
    "csv": None,
    EVENTS: ("tensorboardX", "track"),
    "wandb": ("wandb", "wandb"),
    "mlflow": ("mlflow", "mlflow"),
}
PARAMETERS_AT_ONCE = 100  # of one call of MLflow


class LoggedRun(NamedTuple):
    """What a logger is told of a run when the run begins, or goes on."""

    folder: Path
    settings: dict[
        str, Any
    ]  # by path, such as {"preset": "auto", "agent.discount": 0.99}: numbers, texts, true or false
    rows: list[dict[str, Any]]  # lines of metrics from before; each has a `step`

    @property
    def name(self) -> str:
        """The name of the run's directory."""
        return self.folder.resolve().name


class Logger(Protocol):
    """Takes the numbers of a run."""

    def open(self, run: LoggedRun) -> str | None:
        """The run begins, or goes on after `run.rows`. May return a sentence that says where the numbers are seen."""
        ...

    def write(self, row: Mapping[str, Any]) -> None:
        """A line of metrics as in metrics.jsonl: `step` and other names, with numbers, None, or a list with a value of
        each seed.
        """
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...


# -- by name -------------------------------------------------------------------------------------------------


def check_loggers(names: Iterable[str]) -> None:
    """Raises UnknownName or EngramError for a name of `log` that nothing is called, or whose package is missing."""
    for name in names:
        if name not in NEEDED:
            raise UnknownName(f"log = {name!r} was given; {hint(name, NEEDED)}")
        if needed := NEEDED[name]:
            module, extra = needed
            try:
                import_module(module)
            except ImportError:
                raise EngramError(
                    f"log={name} needs {module}, which is not installed; {install(extra)}, or leave it out"
                ) from None


def loggers_for(names: Iterable[str], given: Iterable[Any], folder: Path | None) -> tuple[Logger, ...]:
    """A logger for each name, except for TensorBoard's, which the log itself writes; and those that were given.

    Raises as `check_loggers`, and SpecError where there is no run directory: before anything is trained or written.
    """
    names, given = list(dict.fromkeys(names)), list(given)
    check_loggers(names)
    if (names or given) and folder is None:
        what = f"log = {','.join(names)!r}" if names else f"loggers = {given!r}"
        raise SpecError(f"{what} was given without a run directory, of which loggers are fed; pass run=FOLDER")
    for logger in given:
        if lacking := [name for name in ("open", "write", "close") if not hasattr(logger, name)]:
            raise SpecError(f"{logger!r} is no logger: it has no {lacking[0]}; see engram.Logger")
    return (*(KINDS[name]() for name in names if name in KINDS), *given)


class Loggers:
    """Several loggers as one, which never raises.

    Args:
      tell: what to do with a sentence about them.
    """

    def __init__(self, loggers: Sequence[Logger], tell: Callable[[str], None] | None = None):
        self._loggers, self._tell = list(loggers), tell or LOG.info

    def open(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        """The run begins, or goes on."""
        if self._loggers:
            run = LoggedRun(folder, settings_of(folder), rows)
            self._each(lambda logger: logger.open(run))

    def write(self, row: Mapping[str, Any]) -> None:
        """To each."""
        self._each(lambda logger: logger.write(row))

    def close(self) -> None:
        """Each."""
        self._each(lambda logger: logger.close())
        self._loggers = []

    def _each(self, do: Callable[[Logger], str | None]) -> None:
        for logger in list(self._loggers):
            try:
                if said := do(logger):
                    self._tell(said)
            except Exception as error:
                self._loggers.remove(logger)
                text = " ".join(str(error).split())
                said = f"{type(logger).__name__} failed ({type(error).__name__}: {text}); the run goes on without"
                self._tell(Warned(said))
                LOG.debug("a logger failed", exc_info=True)


# -- what is logged ------------------------------------------------------------------------------------------


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings in run.json by path; those of `log` itself are left out. Nothing where there is no run.json."""
    try:
        stored = json.loads((folder / "run.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return flat({name: item for name, item in stored.items() if name not in ("format", "space", "log", "track")}, ".")


def flat(value: Mapping[str, Any], between: str = "/") -> dict[str, Any]:
    """Nested values by path.

    >>> flat({"step": 3, "return_mean": [1.0, None], "loss": None})
    {'step': 3, 'return_mean/0': 1.0, 'return_mean/1': None, 'loss': None}
    """
    found: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, list):
            item = {str(place): one for place, one in enumerate(item)}
        if isinstance(item, Mapping):
            found |= {f"{name}{between}{path}": one for path, one in flat(item, between).items()}
        else:
            found[name] = item
    return found


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line by path."""
    return {name: item for name, item in flat(row).items() if isinstance(item, int | float) and item is not None}


# -- loggers -------------------------------------------------------------------------------------------------


class CsvLogger:
    """`metrics.csv` in the run's directory: a column for each name, empty where a line has no value."""

    def open(self, run: LoggedRun) -> None:
        """Writes the lines from before."""
        self._path = run.folder / CSV_FILE
        self._rows = [flat(row) for row in run.rows]
        self._columns: list[str] = []
        self._rewrite()

    def write(self, row: Mapping[str, Any]) -> None:
        """One line; all of them where it has a new name."""
        self._rows.append(flat(row))
        if set(self._rows[-1]) <= set(self._columns):
            with self._path.open("a", encoding="utf-8", newline="") as file:
                file.write(self._text(self._rows[-1:]))
        else:
            self._rewrite()

    def close(self) -> None:
        """Every line is on the disk already."""

    def _rewrite(self) -> None:
        self._columns = list(dict.fromkeys(name for row in self._rows for name in row))
        header = [dict(zip(self._columns, self._columns, strict=True))] if self._columns else []
        replace_file(self._path, self._text(header + self._rows).encode())

    def _text(self, rows: Sequence[Mapping[str, Any]]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, restval="", lineterminator="\n").writerows(rows)
        return text.getvalue()


class _Sent:
    """What an outside service was sent of a run, remembered in its directory."""

    def __init__(self, run: LoggedRun, service: str):
        self._path, self._service = run.folder / SENT_FILE, service
        known = self._read().get(service) if run.rows else None  # a run without lines is new
        self.id: str | None = known["id"] if known else None
        self.step: int = known["step"] if known else -1

    def put(self, id: str, step: int) -> None:
        """What was sent last."""
        self.id, self.step = id, step
        content = self._read() | {self._service: {"id": id, "step": step}}
        replace_file(self._path, (json.dumps(content) + "\n").encode())

    def _read(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            return dict(json.loads(self._path.read_bytes()))
        return {}


class WandbLogger:
    """Weights & Biases. A run of Engram is a run there, whose configuration are the settings.

    Args:
      project: the project; $WANDB_PROJECT, or `engram`, if None.
      given: further arguments of `wandb.init`. WANDB_MODE=offline logs into the run's directory, without an account.

    Raises: EngramError where wandb is not installed, or nobody is logged in.
    """

    def __init__(self, project: str | None = None, **given: Any):
        check_loggers(["wandb"])
        import wandb

        self._wandb, self._given = wandb, given
        self._project = project or os.environ.get("WANDB_PROJECT") or "engram"
        mode = given.get("mode") or os.environ.get("WANDB_MODE") or "online"
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise EngramError(
                "log=wandb needs an account, and nobody is logged in; type: wandb login, or set WANDB_MODE=offline"
            )

    def open(self, run: LoggedRun) -> str:
        """Begins the run there, or goes on with it."""
        wandb = self._wandb
        self._sent = _Sent(run, "wandb")
        quiet = wandb.Settings(silent=True, console="off")  # it would write into the display
        given = {
            "project": self._project, "name": run.name, "dir": str(run.folder), "config": run.settings,
            "settings": quiet, "id": self._sent.id, "resume": "allow" if self._sent.id else None,
        }  # fmt: skip
        self._run = wandb.init(**{**given, **self._given})
        self._run.define_metric("*", step_metric="step")
        for row in run.rows:
            self.write(row)
        return f"wandb: {self._run.url or f'offline, to be sent with: wandb sync {run.folder}/wandb/offline-run-*'}"

    def write(self, row: Mapping[str, Any]) -> None:
        """One line, unless it was sent before."""
        if row["step"] > self._sent.step:
            self._run.log(numbers(row))
            self._sent.put(self._run.id, row["step"])

    def close(self) -> None:
        """Waits until everything is sent."""
        self._run.finish()


class MLflowLogger:
    """MLflow. A run of Engram is a run there, whose parameters are the settings.

    Args:
      experiment: the experiment; $MLFLOW_EXPERIMENT_NAME, or `engram`, if None.
      tracking_uri: where MLflow keeps runs; $MLFLOW_TRACKING_URI, or files in `mlruns` of the run's directory, if None.

    Raises: EngramError where mlflow is not installed.
    """

    def __init__(self, experiment: str | None = None, tracking_uri: str | None = None):
        check_loggers(["mlflow"])
        self._experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "engram"
        self._place = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")

    def open(self, run: LoggedRun) -> str:
        """Begins the run there, or goes on with it."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        place = self._place or (run.folder.resolve() / "mlruns").as_uri()
        if place.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3.18 asks for this word
        self._client, self._sent = MlflowClient(place), _Sent(run, "mlflow")
        if self._sent.id is None:
            known = self._client.get_experiment_by_name(self._experiment)
            where = known.experiment_id if known else self._client.create_experiment(self._experiment)
            made = self._client.create_run(where, run_name=run.name).info.run_id
            parameters = [Param(name, str(item)) for name, item in run.settings.items()]
            for first in range(0, len(parameters), PARAMETERS_AT_ONCE):
                self._client.log_batch(made, params=parameters[first : first + PARAMETERS_AT_ONCE])
            self._sent.put(made, -1)
        else:
            self._client.update_run(self._sent.id, status="RUNNING")
        for row in run.rows:
            self.write(row)
        return f"mlflow: {place}, experiment {self._experiment}, run {self._sent.id}"

    def write(self, row: Mapping[str, Any]) -> None:
        """One line, unless it was sent before."""
        if row["step"] <= self._sent.step:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        measured = [Metric(name, item, now, row["step"]) for name, item in numbers(row).items() if name != "step"]
        self._client.log_batch(str(self._sent.id), metrics=measured)
        self._sent.put(str(self._sent.id), row["step"])

    def close(self) -> None:
        """The run is over there, until it is resumed."""
        self._client.set_terminated(str(self._sent.id))


KINDS: dict[str, Callable[[], Logger]] = {"csv": CsvLogger, "wandb": WandbLogger, "mlflow": MLflowLogger}


def named(given: Any) -> tuple[str, ...]:
    """The names of `log` out of `csv,tensorboard`, or out of a list of names.

    Raises: SpecError where it is neither.
    """
    words = given.split(",") if isinstance(given, str) else list(given)
    if not all(isinstance(word, str) for word in words):
        raise SpecError(f"log = {given!r} was given; expected names, such as 'csv,tensorboard'; objects go to loggers=")
    return tuple(dict.fromkeys(word.strip() for word in words if word.strip()))
