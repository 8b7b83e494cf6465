"""A run from a stranger: whatever its files hold, using it runs no code that they choose, unless the user says so."""

import base64
import json
import os
import pickle  # noqa: TID251 (to make what must not be read)
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from support.forge import checkpoints, put, replan, seal, texts

import engram
from engram.cli.commands import main
from engram.envs.host.build import check_unasked
from engram.errors import EngramError, Untrusted

SMALL: dict[str, Any] = {"encoder__widths": (8,), "replay__capacity": 400, "replay__start": 60}
STRANGER = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv
gymnasium.register("Fine-v0", entry_point=CartPoleEnv, max_episode_steps=500)
"""
NAMED = "stranger:Fine-v0"
OBSERVATION = np.zeros(4, np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("made") / "run"
    with engram.Trainer("CartPole-v1", "dqn", seed=0, steps=120, run=run, **SMALL) as trainer:
        trainer.learn()
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of a run, beside a module that anybody who looks for it finds."""
    shutil.copytree(made, tmp_path / "run")
    (tmp_path / "stranger.py").write_text(STRANGER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "run"
    sys.modules.pop("stranger", None)
    gymnasium.registry.pop("Fine-v0", None)


def plan(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def evaluate(run: Path, **more: Any) -> Any:
    with engram.load(run, **more) as agent:
        return agent.evaluate(1)


def resume(run: Path, **more: Any) -> Any:
    with engram.Trainer(run=run, resume=True, steps=160, **more) as trainer:
        return trainer.learn()


WAYS: dict[str, Callable[[Path], Any]] = {
    "info": lambda run: engram.info(run, verify=True),
    "load": engram.load,
    "predict": lambda run: engram.load(run).predict(OBSERVATION),
    "evaluate": evaluate,
    "resume": resume,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_module_that_only_a_run_names_is_not_imported(run: Path, way: str):
    replan(run, plan(run) | {"env": NAMED})
    try:
        WAYS[way](run)
    except Untrusted as said:
        assert "'stranger:Fine-v0', which would import the module 'stranger'" in str(said)
        assert "--trust (in Python: trust=True), or import stranger yourself" in str(said)
        assert way not in ("info", "load")
    else:
        assert way not in ("evaluate", "resume")
    assert "stranger" not in sys.modules


@pytest.mark.parametrize("words", [["evaluate", "run", "--episodes", "1"], ["train", "--run", "run", "--resume"]])
def test_the_command_line_refuses_it_in_a_sentence(run: Path, capsys, words: list[str]):
    replan(run, plan(run) | {"env": NAMED})
    assert main(words) == 2
    assert "engram: the files of this run name the environment" in capsys.readouterr().err
    assert "stranger" not in sys.modules


def named_by_flag(run: Path) -> None:
    assert main(["evaluate", str(run), "--episodes", "1", "--trust"]) == 0


def named_again(run: Path) -> None:
    assert main(["train", NAMED, "--run", str(run), "--resume", "--steps", "160"]) == 0


ALLOWED: dict[str, Callable[[Path], Any]] = {
    "evaluate --trust": named_by_flag,
    "trust=True": lambda run: evaluate(run, trust=True),
    "resume, trust=True": lambda run: resume(run, trust=True),
    "the id named by the user": lambda run: evaluate(run, env=NAMED),
    "train ENV --resume": named_again,
}


@pytest.mark.parametrize("way", ALLOWED)
def test_whoever_trusts_a_run_or_names_its_module_has_it_imported(run: Path, way: str):
    replan(run, plan(run) | {"env": NAMED})
    ALLOWED[way](run)
    assert "stranger" in sys.modules


def test_a_module_that_is_imported_already_is_no_question(run: Path):
    replan(run, plan(run) | {"env": NAMED})
    __import__("stranger")
    assert len(evaluate(run).lengths) == 1


@pytest.mark.parametrize(
    "text", ["evil.module", "evil:Id-v0", "../x.xml", "/etc/passwd", "https://x", "~/x", "antigravity"]
)
def test_text_in_arguments_that_could_name_code_or_a_file_asks_for_trust(text: str):
    for value in (text, [1, {"type": text}], {text: 1}):
        with pytest.raises(Untrusted, match="the argument 'config' with the text"):
            check_unasked("FrozenLake-v1", {"size": 4, "config": value})
        with pytest.raises(Untrusted):
            check_unasked("FrozenLake-v1", {"size": 4, "config": value}, named=True)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("value", ["8x8", "rgb_array", "random", 0.5, True, None, ["SFFF", "FHFH"], {"a": [1, 2]}])
def test_other_arguments_and_known_ids_are_fine(value: Any):
    check_unasked("FrozenLake-v1", {"map_name": value})
    check_unasked("gymnasium:CartPole-v1", {})
    check_unasked("envpool/Pong-v5", {})


def test_arguments_that_a_run_recorded_ask_for_trust_and_those_given_now_do_not(run: Path):
    replan(run, plan(run) | {"env_args": {"render_mode": "a.b"}})
    for way in ("evaluate", "resume"):
        with pytest.raises(Untrusted, match="'render_mode' with the text 'a.b'"):
            WAYS[way](run)
    engram.load(run).evaluate(1, env_args={"render_mode": "rgb_array"})


def test_no_text_of_a_plan_reaches_an_import(run: Path):
    """Every text, and everything that is not given, becomes the name of an environment in a stranger's module."""
    sound = plan(run)
    places = list(texts(sound))
    assert len(places) > 10
    for path in places:
        replan(run, put(sound, path, NAMED))
        for way in WAYS.values():
            with suppress(EngramError):
                way(run)
            assert "stranger" not in sys.modules, path


def test_no_text_of_a_checkpoint_reaches_an_import_or_an_attribute(run: Path):
    sound = json.loads((checkpoints(run)[-1] / "manifest.json").read_text())
    for number, path in enumerate(texts(sound["meta"])):
        changed, copy = put(sound, ("meta", *path), NAMED)["meta"], run.parent / f"copy{number}"
        shutil.copytree(run, copy)
        seal(checkpoints(copy)[-1], lambda manifest, changed=changed: manifest.update(meta=changed))
        for way in WAYS.values():
            with suppress(EngramError):
                way(copy)
            assert "stranger" not in sys.modules, path


def test_a_captured_state_sets_only_attributes_that_are_registered(run: Path):
    def more(manifest: dict[str, Any]) -> None:
        (environment,) = manifest["meta"]["state"]["env"]["environments"]
        environment["layers"][-1]["attributes"]["render_mode"] = "human"

    newest = checkpoints(run)[-1]
    seal(newest, more)
    with pytest.raises(EngramError, match="render_mode"):
        resume(run)


def test_a_folder_with_files_beside_a_run_does_not_stand_in_for_a_module(run: Path):
    """`python -m` puts the current folder first: a stranger's gymnasium.py, or an installed package's entry point."""
    (run.parent / "gymnasium.py").write_text("raise SystemExit('the stranger ran')")
    info = run.parent / "evil-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[engram.parts]\nevil = stranger\n")
    (run.parent / "stranger.py").write_text("print('the stranger ran')")
    replan(run, put(plan(run), ("agent", "encoder", "kind"), "nobody"))
    words = [sys.executable, "-m", "engram", "info", "run", "--all"]
    done = subprocess.run(words, cwd=run.parent, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
    assert "the stranger ran" not in done.stdout + done.stderr
    assert "needs encoder=nobody" in done.stderr


# -- the three ways in which files of a peer run code (its public report #2281) --------------------------------


class Payload:
    """What unpickles to a call. A file in the current folder says that it was made."""

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return write_mark, ("mark", "ran")


def write_mark(path: str, text: str) -> None:
    Path(path).write_text(text)


PICKLED = pickle.dumps(Payload())


def archive() -> bytes:
    """A saved agent as the peer stores one: a zip with data, and parameters in Torch's format, a zip with a pickle."""
    inner, outer = BytesIO(), BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("archive/data.pkl", PICKLED)
        file.writestr("archive/version", "3")
    with zipfile.ZipFile(outer, "w") as file:
        file.writestr("data", json.dumps({"policy_class": serialized()}))
        file.writestr("policy.pth", inner.getvalue())
        file.writestr("pytorch_variables.pth", PICKLED)
    return outer.getvalue()


def serialized() -> dict[str, str]:
    """An object inside JSON, as the peer's `data` holds classes and schedules."""
    return {":type:": "<class 'type'>", ":serialized:": base64.b64encode(PICKLED).decode()}


def object_array() -> bytes:
    file = BytesIO()
    np.save(file, np.array([Payload()], object), allow_pickle=True)
    return file.getvalue()


def in_plan(run: Path) -> None:
    """1: pickled data inside JSON, in every place of run.json that holds text or nothing."""
    sound = plan(run)
    for path in texts(sound):
        replan(run, put(sound, path, serialized()))
        yield_ways(run)
    replan(run, sound | {"custom_objects": serialized()})


def in_checkpoint(run: Path) -> None:
    """2: custom objects beside the state, in a checkpoint's JSON."""
    meta = {"custom_objects": serialized(), "policy_class": serialized()}
    seal(checkpoints(run)[-1], lambda manifest: manifest["meta"]["state"].update(meta))


def in_arrays(content: Callable[[], bytes]) -> Callable[[Path], None]:
    """3: parameters in a format that runs code, in the place of the arrays; every hash is right."""

    def put_there(run: Path) -> None:
        for checkpoint in checkpoints(run):
            (checkpoint / "arrays.safetensors").write_bytes(content())
            seal(checkpoint)

    return put_there


def as_files(run: Path) -> None:
    """All of them as files of the usual names, in every folder of the run."""
    names = ("data.pkl", "policy.pth", "pytorch_variables.pth", "model.zip", "conftest.py", "__init__.py", "events.npy")
    for folder in (run, run / "checkpoints", run / "checkpoints" / "segments", *checkpoints(run)):
        for name in names:
            content = archive() if name.endswith((".zip", ".pth")) else PICKLED
            (folder / name).write_bytes(b"open('mark', 'w')" if name.endswith(".py") else content)


def yield_ways(run: Path) -> None:
    for way in WAYS.values():
        with suppress(EngramError):
            way(run)


PLACES: dict[str, Callable[[Path], None]] = {
    "pickled data in JSON": in_plan,
    "custom objects": in_checkpoint,
    "parameters of Torch": in_arrays(archive),
    "a pickle for parameters": in_arrays(lambda: PICKLED),
    "an array of objects": in_arrays(object_array),
    "files beside": as_files,
}


def test_the_payload_is_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for content in (PICKLED, base64.b64decode(serialized()[":serialized:"])):
        pickle.loads(content)  # noqa: S301 (our own)
        (tmp_path / "mark").unlink()
    np.load(BytesIO(object_array()), allow_pickle=True)
    (tmp_path / "mark").unlink()


@pytest.mark.parametrize("place", PLACES)
def test_what_runs_code_in_a_peer_runs_none_here(run: Path, place: str):
    PLACES[place](run)
    yield_ways(run)
    main(["evaluate", "run", "--episodes", "1"])
    main(["info", "run", "--json", "--verify"])
    main(["train", "--run", "run", "--resume", "--steps", "200", "--trust"])
    assert not (run.parent / "mark").exists()
    assert not list(run.rglob("mark"))
