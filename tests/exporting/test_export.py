"""`engram.export` and `engram export`: what is written, that it is the agent, and one sentence for what cannot be."""

import errno
import json
from importlib import util
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import engram
from engram.cli.commands import main
from engram.errors import CheckpointError, SpecError, WriteFailed
from engram.exporting import stablehlo
from engram.exporting.about import step_of_agent
from engram.exporting.parity import compared
from engram.exporting.torch_plan import plan_of
from engram.play.trained import TrainedAgent

AGENT: dict[str, Any] = dict(
    encoder__widths=(8,), replay__capacity=300, replay__start=40, replay__batch_size=8, seed=0, steps=60,
)  # fmt: skip
MEMORY: dict[str, Any] = dict(
    preset="nec", steps=200, learn_every=2, external__capacity=60, external__neighbours=4, recall__n_step=3
)


def trained(folder: Path, env: str = "CartPole-v1", **chosen: Any) -> Path:
    with engram.Trainer(env, run=folder, **(AGENT | chosen)) as trainer:
        trainer.learn()
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "plain", preset="dqn")


@pytest.fixture(scope="module")
def remembering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "remembering", **MEMORY)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_is_called_as_the_run_is_and_lies_in_the_current_folder(run: Path, here: Path):
    found = engram.export(run, to="stablehlo")
    assert files(here) == ["plain.export.json", "plain.stablehlo"]
    assert found.path == Path("plain.stablehlo")
    assert json.loads(Path("plain.export.json").read_text()) == found.about
    assert found.difference == 0


def test_what_is_beside_it_says_how_to_act(run: Path, here: Path):
    about = engram.export(run, to="stablehlo").about
    assert [(one["name"], one["shape"]) for one in about["inputs"]] == [("observation", ["batch", 4])]
    assert [(one["name"], one["shape"]) for one in about["outputs"]] == [("q", ["batch", 2]), ("action", ["batch"])]
    assert about["inputs"][0]["numbers"][0] == "cart position (m)"
    assert about["actions"]["names"] == ["left", "right"]
    assert about["run"]["env"] == "CartPole-v1"
    assert about["run"]["step"] == 60


def test_a_file_acts_as_predict_does(run: Path, here: Path):
    engram.export(run, to="stablehlo", out="policy.stablehlo")
    exported: Any = jax.export.deserialize(bytearray(Path("policy.stablehlo").read_bytes()))
    agent = engram.load(run)
    rows = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    assert (np.asarray(exported.call({"observation": rows})["action"]) == agent.predict(rows)[0]).all()


@pytest.mark.parametrize("batch", [1, 2, 17])
def test_stablehlo_gives_the_same_bits_for_every_batch(run: Path, batch: int):
    step = step_of_agent(engram.load(run))
    found = compared(step, stablehlo.runner(stablehlo.converted(step)), batch)
    assert (found["difference"], found["actions"]) == (0, 0)


def test_the_entries_of_a_memory_lie_beside_the_file(remembering: Path, here: Path):
    found = engram.export(remembering, to="stablehlo", out="policy.stablehlo")
    assert files(here) == ["policy.export.json", "policy.safetensors", "policy.stablehlo"]
    entries = load_file("policy.safetensors")
    named = {one["name"] for one in found.about["inputs"] if one.get("memory")}
    assert set(entries) == named
    mind = engram.load(remembering).minds[0]
    assert mind.recall is not None
    assert entries["memory_filled"].sum() == np.asarray(mind.recall.store.held) > 0
    assert found.difference == 0


def test_an_agent_and_a_trainer_are_exported_too(run: Path, here: Path):
    agent = engram.load(run)
    assert engram.export(agent, to="stablehlo").path == Path("policy.stablehlo")
    with engram.Trainer(run=run, resume=True) as trainer:
        engram.export(trainer, to="stablehlo", out="trainer.stablehlo")
    one, other = (Path(name).read_bytes() for name in ("policy.stablehlo", "trainer.stablehlo"))
    assert len(one) == len(other)


@pytest.mark.parametrize("at", ["newest", "latest", 60, "60"])
def test_a_checkpoint_is_named_as_elsewhere(run: Path, here: Path, at: Any):
    assert engram.export(run, to="stablehlo", at=at).about["run"]["step"] == 60


# -- bad input -------------------------------------------------------------------------------------------------------


def refused(kind: type[Exception], words: str, *given: Any, **named: Any) -> None:
    before = files(Path())
    with pytest.raises(kind, match=words):
        engram.export(*given, **named)
    assert files(Path()) == before


def test_bad_input_is_a_sentence_and_writes_nothing(run: Path, here: Path, monkeypatch: pytest.MonkeyPatch):
    refused(SpecError, "'onix' was given; did you mean 'onnx'", run, to="onix")
    refused(CheckpointError, "nowhere", "nowhere", to="stablehlo")
    refused(CheckpointError, "step", run, to="stablehlo", at=1)
    refused(SpecError, "opset = 16 was given; expected 17 to 23", run, to="onnx", opset=16)
    refused(SpecError, "there are 1 agents", run, to="stablehlo", seed=1)
    refused(SpecError, "expected a run's directory", 3, to="stablehlo")
    refused(SpecError, "'no' for x.stablehlo does not exist", run, to="stablehlo", out="no/x.stablehlo")
    monkeypatch.setattr(util, "find_spec", lambda name, *_: None)
    monkeypatch.setattr("engram.exporting.onnx.find_spec", lambda name: None)
    refused(SpecError, "--extra export", run, to="onnx")
    refused(SpecError, "--extra export", run)
    monkeypatch.setattr("engram.exporting.stablehlo.find_spec", lambda name: None)
    refused(SpecError, "needs the package flatbuffers, which is not installed", run, to="stablehlo")


@pytest.mark.parametrize("taken", ["plain.stablehlo", "plain.export.json"])
def test_what_is_there_is_not_touched(run: Path, here: Path, taken: str):
    Path(taken).write_text("mine")
    refused(SpecError, f"{taken} exists already", run, to="stablehlo")
    assert Path(taken).read_text() == "mine"


def test_a_disk_that_refuses_leaves_nothing_behind(run: Path, here: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    refused(WriteFailed, "make room there", run, to="stablehlo")


def test_a_file_that_differs_from_the_agent_is_not_kept(run: Path, here: Path, monkeypatch: pytest.MonkeyPatch):
    right = stablehlo.runner
    monkeypatch.setattr(stablehlo, "runner", lambda content: spoiled(right(content)))
    refused(SpecError, "differs from the agent .* nothing was written", run, to="stablehlo")


def spoiled(run: Any) -> Any:
    return lambda inputs: {name: (value * np.float32(1.1)).astype(value.dtype) for name, value in run(inputs).items()}


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_wrote(run: Path, here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["export", str(run), "--to", "stablehlo"]) == 0
    said = capsys.readouterr().out
    assert "plain.stablehlo" in said
    assert "largest difference from the agent: 0" in said
    assert main(["export", str(run), "--to", "stablehlo", "--out", "again.stablehlo", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["path"] == "again.stablehlo"
    assert told["about"]["actions"]["count"] == 2


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (["nowhere"], "there is no run directory 'nowhere'", 66),
        (["{run}", "--to", "tflite"], "--to tflite was given; known: folder, onnx, stablehlo", 2),
        (["{run}", "--to", "onnx", "--opset", "24"], "opset = 24 was given", 2),
        (["{run}", "--to", "stablehlo", "--at", "soon"], "newest, best or a step", 2),
        (["{run}", "--to", "stablehlo", "encoder=grid"], "takes no settings", 2),
    ],
)
def test_the_command_refuses_in_a_sentence(
    run: Path, here: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str, code: int
):
    assert main(["export", *(word.replace("{run}", str(run)) for word in words)]) == code
    told = capsys.readouterr().err
    assert said in told
    assert len(told.strip().splitlines()) == 1
    assert files(here) == []


# -- PyTorch ---------------------------------------------------------------------------------------------------------


def planned(agent: TrainedAgent) -> dict[str, Any]:
    return plan_of(agent.plan.agent, agent.minds[0].network, step_of_agent(agent))


def test_the_plan_for_pytorch_names_weights_that_there_are(run: Path):
    assert planned(engram.load(run)) == {
        "observation": [{"input": "observation", "shape": [4]}],
        "stack": 1,
        "encoder": {"kind": "mlp", "layers": ["encoder.mlp.layers.0"], "norm": False},
        "working": {"kind": "none", "cells": []},
        "head": {"kind": "q", "linear": ["head.linear"]},
    }


def test_what_pytorch_is_not_told_is_refused_in_a_sentence(remembering: Path):
    assert planned(engram.load(remembering)) == {
        "refused": "to_torch.py does not know external=episodic; use model.onnx"
    }
