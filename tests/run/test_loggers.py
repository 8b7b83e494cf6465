"""Every logger gets the lines of metrics.jsonl and the settings of run.json, each once, also across a resume."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import engram
from engram import Trainer
from engram.cli.commands import main
from engram.errors import EngramError, SpecError, UnknownName
from engram.run.loggers import (
    CsvLogger,
    LoggedRun,
    Loggers,
    MLflowLogger,
    WandbLogger,
    check_loggers,
    flat,
    loggers_for,
)
from engram.run.metrics import RunLog, read_metrics

STORED = {
    "format": "x",
    "space": [4],
    "preset": "dqn",
    "log": ["csv"],
    "agent": {"discount": 0.9, "head": {"kind": "q"}},
}
SETTINGS = {"preset": "dqn", "agent.discount": 0.9, "agent.head.kind": "q"}


def lines(folder: Path, steps, resume_step: int | None, *loggers, **more) -> list[str]:
    """Writes lines of these steps through a log with these loggers; the sentences that were told."""
    told: list[str] = []
    (folder / "run.json").write_text(json.dumps(STORED))
    with RunLog(folder, resume_step, also=Loggers(loggers, told.append)) as log:
        for step in steps:
            log.write({"step": step, "return_mean": step / 10, "loss": None} | more)
    return told


class Kept:
    """A logger that keeps what it is given."""

    def __init__(self):
        self.runs, self.rows, self.closed = [], [], 0

    def open(self, run):
        self.runs.append(run)

    def write(self, row):
        self.rows.append(row)

    def close(self):
        self.closed += 1


def test_an_object_with_three_methods_gets_the_lines_of_the_record_and_the_settings(tmp_path):
    mine = Kept()
    lines(tmp_path, [10, 20], None, mine)
    assert mine.rows == read_metrics(tmp_path)
    assert (mine.runs[0].folder, mine.runs[0].settings, mine.runs[0].rows) == (tmp_path, SETTINGS, [])
    lines(tmp_path, [20, 30], 20, mine)
    assert [row["step"] for row in mine.runs[1].rows] == [10, 20]
    assert [row["step"] for row in mine.rows] == [10, 20, 30], "a step is logged once"
    assert mine.closed == 2


def test_nested_values_become_paths():
    assert flat({"a": {"b": [1, {"c": 2}]}, "d": "x"}) == {"a/b/0": 1, "a/b/1/c": 2, "d": "x"}


def test_a_logger_that_fails_is_told_of_once_and_the_others_go_on(tmp_path):
    class Broken(Kept):
        def write(self, row):
            raise ConnectionError("no route\nto the host")

    mine = Kept()
    told = lines(tmp_path, [10, 20, 30], None, Broken(), mine)
    assert told == ["Broken failed (ConnectionError: no route to the host); the run goes on without"]
    assert len(mine.rows) == len(read_metrics(tmp_path)) == 3


# -- CSV -----------------------------------------------------------------------------------------------------


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics.csv").open(newline="")))


def test_the_table_has_a_column_for_every_name_also_for_one_that_comes_late(tmp_path):
    with RunLog(tmp_path, None, also=Loggers([CsvLogger()])) as log:
        log.write({"step": 1, "loss": 0.5})
        log.write({"step": 2, "loss": None, "return_mean": [1.0, 2.0], "note": 'a,"b"'})
        assert [row["step"] for row in table(tmp_path)] == ["1", "2"], "each line is there as soon as it is written"
        log.write({"step": 3, "loss": 0.25})
    assert table(tmp_path) == [
        {"step": "1", "loss": "0.5", "return_mean/0": "", "return_mean/1": "", "note": ""},
        {"step": "2", "loss": "", "return_mean/0": "1.0", "return_mean/1": "2.0", "note": 'a,"b"'},
        {"step": "3", "loss": "0.25", "return_mean/0": "", "return_mean/1": "", "note": ""},
    ]


def test_the_table_is_the_record_after_a_resume(tmp_path):
    lines(tmp_path, [10, 20, 30], None, CsvLogger())
    lines(tmp_path, [25, 35], 20, CsvLogger())
    assert [int(row["step"]) for row in table(tmp_path)] == [10, 20, 25, 35]


# -- TensorBoard ---------------------------------------------------------------------------------------------


def test_tensorboard_has_the_settings_as_text_and_as_hyperparameters(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    (tmp_path / "run.json").write_text(json.dumps(STORED))
    with RunLog(tmp_path, None, track=True) as log:
        log.write({"step": 10, "return_mean": 1.0})
    with RunLog(tmp_path, 10, track=True) as log:
        log.write({"step": 20, "return_mean": 2.0})
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    text = found.Tensors("settings/text_summary")
    assert len(text) == 1
    assert "| `agent.discount` | 0.9 |" in text[0].tensor_proto.string_val[0].decode()
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    stored = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert {name: value.number_value or value.string_value for name, value in stored.items()} == SETTINGS
    assert [(event.step, event.value) for event in found.Scalars("return_mean")] == [(10, 1.0), (20, 2.0)]


# -- Weights & Biases ----------------------------------------------------------------------------------------


class FakeWandb(ModuleType):
    """Records what a W&B run is given."""

    def __init__(self, logged_in: bool = True):
        super().__init__("wandb")
        self.made, self.rows, self.finished, self.logged_in = [], [], 0, logged_in

    def login(self, prompt, verify):
        return self.logged_in

    def Settings(self, **given):
        return given

    def init(self, **given):
        self.made.append(given)
        return SimpleNamespace(
            id=given["id"] or f"id{len(self.made)}", url=None, log=self.rows.append,
            define_metric=lambda *_, **__: None, finish=lambda: setattr(self, "finished", self.finished + 1),
        )  # fmt: skip


def test_a_resumed_run_is_the_same_one_in_wandb_and_no_line_is_sent_twice(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    told = lines(tmp_path, [10, 20, 30], None, WandbLogger(), names=["x"])
    assert told == [f"wandb: offline, to be sent with: wandb sync {tmp_path}/wandb/offline-run-*"]
    lines(tmp_path, [25, 30, 35], 20, WandbLogger(project="mine", tags=["a"]))  # 30 was sent before a kill
    assert fake.rows == [{"step": step, "return_mean": step / 10} for step in (10, 20, 30, 35)]
    assert [(made["id"], made["resume"], made["project"]) for made in fake.made] == [
        (None, None, "engram"), ("id1", "allow", "mine"),
    ]  # fmt: skip
    assert fake.made[0]["config"] == SETTINGS
    assert fake.made[1]["tags"] == ["a"]
    assert fake.finished == 2


def test_lines_from_before_are_sent_where_wandb_is_asked_for_late(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    lines(tmp_path, [10, 20], None)
    lines(tmp_path, [30], 20, WandbLogger())
    assert [row["step"] for row in fake.rows] == [10, 20, 30]


def test_nobody_logged_in_is_answered_before_the_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(logged_in=False))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(EngramError, match="nobody is logged in; type: wandb login, or set WANDB_MODE=offline"):
        WandbLogger()
    monkeypatch.setenv("WANDB_MODE", "offline")
    WandbLogger()


def test_wandb_itself_writes_an_offline_run_with_the_lines(tmp_path):
    """In a process of its own: it starts another, and writes into the environment."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from run.test_loggers import lines; from engram.run.loggers import WandbLogger\n"
        "print(*lines(Path(sys.argv[2]), [10, 20], None, WandbLogger()), sep='\\n')"
    )
    done = offline(code, tmp_path)
    assert "offline, to be sent with" in done.stdout, done.stdout + done.stderr
    (written,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = written.read_bytes()
    assert b"return_mean" in content
    assert b"agent.discount" in content
    assert json.loads((tmp_path / "loggers.json").read_text())["wandb"]["step"] == 20


def offline(code: str, folder: Path) -> subprocess.CompletedProcess:
    import os

    environment = os.environ | {"WANDB_MODE": "offline", "HOME": str(folder), "WANDB_SILENT": "true"}
    words = [sys.executable, "-c", code, str(Path(__file__).parents[1]), str(folder)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)


# -- MLflow --------------------------------------------------------------------------------------------------


def test_mlflow_has_each_line_once_in_its_file_store_also_across_a_resume(tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    told = lines(tmp_path, [10, 20, 30], None, MLflowLogger())
    assert told[0].startswith(f"mlflow: {(tmp_path / 'mlruns').as_uri()}, experiment engram, run ")
    lines(tmp_path, [25, 30, 35], 20, MLflowLogger())
    from mlflow import MlflowClient

    client = MlflowClient((tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("engram")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params == {name: str(value) for name, value in SETTINGS.items()}
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "return_mean")
    assert [(one.step, one.value) for one in history] == [(step, step / 10) for step in (10, 20, 30, 35)]


# -- before a run begins -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, module, extra", [("tensorboard", "tensorboardX", "track"), ("wandb",) * 3, ("mlflow",) * 3]
)
@pytest.mark.parametrize("way", ["python", "command line"])
def test_a_missing_package_is_named_and_nothing_is_left_behind(tmp_path, monkeypatch, capsys, name, module, extra, way):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    sentence = f"log={name} needs {module}, which is not installed; in Engram's folder type: uv sync --extra {extra}"
    if way == "python":
        with pytest.raises(EngramError) as caught:
            Trainer("engram/CartPole-v1", run="r", log=f"csv,{name}")
        assert str(caught.value).startswith(sentence)
    else:
        assert main(["train", "engram/CartPole-v1", "--run", "r", "--log", f"csv,{name}"]) == 2
        assert capsys.readouterr().err.startswith(f"engram: {sentence}")
    assert not Path("r").exists()


def test_tracking_without_its_package_leaves_nothing_behind_either(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(EngramError, match="uv sync --extra track"):
        Trainer("engram/CartPole-v1", run=tmp_path / "r", track=True)
    assert not (tmp_path / "r").exists()


def test_a_wrong_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="log = 'wandbb' was given; did you mean 'wandb'?"):
        Trainer("engram/CartPole-v1", run="r", log=["wandbb"])
    check_loggers(["csv"])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"log": "csv"}, "log = 'csv' was given without a run directory, of which loggers are fed; pass run=FOLDER"),
        ({"track": True}, "log = 'tensorboard' was given without a run directory, of which"),
        ({"run": "r", "log": ["csv", 3]}, "log = ['csv', 3] was given; expected names, such as 'csv,tensorboard'; obj"),
    ],
)
def test_what_cannot_be_logged_is_answered_in_one_sentence(given, sentence):
    with pytest.raises(SpecError) as caught:
        Trainer("engram/CartPole-v1", **given)
    assert str(caught.value).startswith(sentence)
    assert not Path("r").exists()


def test_an_object_that_is_no_logger_is_refused():
    with pytest.raises(SpecError, match="3 is no logger: it has no open; see engram.Logger"):
        loggers_for([], [3], Path("r"))


def test_a_run_logs_to_what_was_named_and_to_what_was_given_and_remembers_the_names(tmp_path):
    mine = Kept()
    given = {"steps": 200, "log_every": 50, "replay__start": 40}
    with Trainer("engram/CartPole-v1", "dqn", run=tmp_path, log=["csv"], loggers=[mine], **given) as trainer:
        trainer.learn(100).learn(100)
    record = [row["step"] for row in read_metrics(tmp_path)]
    assert [int(row["step"]) for row in table(tmp_path)] == record == [row["step"] for row in mine.rows]
    assert mine.runs[0].settings["agent.replay.start"] == 40
    assert json.loads((tmp_path / "run.json").read_text())["log"] == ["csv"]
    with Trainer(run=tmp_path, resume=True, steps=300) as trainer:
        assert trainer.plan.log == ("csv",)
        trainer.learn()
    assert len(table(tmp_path)) == len(read_metrics(tmp_path)) > len(record)
    with Trainer(run=tmp_path, resume=True, log=[]) as trainer:
        assert trainer.plan.log == ()


def test_the_names_are_public():
    assert {"CsvLogger", "LoggedRun", "Logger", "MLflowLogger", "WandbLogger"} <= set(engram.__all__)
    assert LoggedRun(Path("runs/mine"), {}, []).name == "mine"
