"""A shared folder: what is written, that it is the same agent, and that nothing else is ever opened."""

import hashlib
import json
import os
import pickle  # noqa: TID251 (to make what must not be read)
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import engram
from engram.cli.commands import main
from engram.errors import CheckpointError, EngramError, SpecError, Untrusted
from engram.run import packed
from engram.sharing.packing import pack
from engram.trees import named

SMALL: dict[str, Any] = {"encoder__widths": (8,), "replay__capacity": 400, "replay__start": 60}
OBSERVATION = np.array([0.1, 0.2, 0.0, -0.1], np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an external memory."""
    folder = tmp_path_factory.mktemp("runs") / "nec"
    memory = {"external__capacity": 200, "external__neighbours": 4}
    with engram.Trainer("CartPole-v1", "nec", seed=3, steps=240, run=folder, **SMALL, **memory) as trainer:
        trainer.learn()
    return folder


@pytest.fixture(scope="module")
def made(run: Path) -> Path:
    folder = run.parent / "shared"
    pack(run, folder, episodes=6, report=True, license="apache-2.0")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "shared"))


def seal(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda config: None) -> None:
    """Makes every digest right again, as a stranger can."""
    config = json.loads((folder / "config.json").read_text())
    for name in config["files"]:
        if (folder / name).is_file():
            content = (folder / name).read_bytes()
            config["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    change(config)
    config["digest"] = packed.digest_of(config)
    (folder / "config.json").write_text(json.dumps(config))


# -- what is written -------------------------------------------------------------------------------------------------


def test_a_folder_holds_what_a_hub_expects(made: Path):
    names = {path.name for path in made.iterdir()}
    assert names == {
        "config.json", "model.safetensors", "memory.safetensors", "memory.json", "env.json", "evaluation.json",
        "README.md", "report.html",
    }  # fmt: skip


def test_the_agent_in_it_is_to_the_bit_that_of_the_run(run: Path, made: Path):
    there, here = engram.load(run), engram.load(made)
    for one, other in zip(there.minds, here.minds, strict=True):
        for (name, leaf), again in zip(named(one).items(), named(other).values(), strict=True):
            assert np.asarray(leaf).tobytes() == np.asarray(again).tobytes(), name
    assert here.step == there.step == 240
    assert here.checkpoint == there.checkpoint
    assert here.predict(OBSERVATION)[0] == there.predict(OBSERVATION)[0]
    assert here.memory.table() == there.memory.table()
    assert here.evaluate(2, seed=9).returns == there.evaluate(2, seed=9).returns


def test_the_evaluation_can_be_played_again_from_the_folder_alone(made: Path):
    told = json.loads((made / "evaluation.json").read_text())
    assert told["episodes"] == 6
    again = engram.load(made).evaluate(6, seed=told["seed"])
    assert again.returns == told["returns"]
    assert told["mean"] == np.mean(told["returns"])
    low, high = told["interval_95"]
    reach = 2.571 * np.std(told["returns"], ddof=1) / np.sqrt(6)  # Student's t, 5 degrees of freedom
    np.testing.assert_allclose([low, high], [told["mean"] - reach, told["mean"] + reach], rtol=1e-6)


def test_the_seed_of_the_evaluation_follows_from_the_parameters(run: Path, made: Path, tmp_path: Path):
    again = pack(run, tmp_path / "again", episodes=1)
    told = [json.loads((place / "evaluation.json").read_text())["seed"] for place in (made, again.folder)]
    assert told[0] == told[1] > 0


def test_the_card_has_the_head_that_hubs_read(made: Path):
    import yaml

    _, head, text = (made / "README.md").read_text().split("---\n", 2)
    about = yaml.safe_load(head)
    assert about["library_name"] == "engram-rl"
    assert about["license"] == "apache-2.0"
    assert {"reinforcement-learning", "nec", "CartPole-v1"} <= set(about["tags"])
    result = about["model-index"][0]["results"][0]
    told = json.loads((made / "evaluation.json").read_text())
    assert result["metrics"][0]["type"] == "mean_reward"
    assert result["metrics"][0]["value"].startswith(f"{told['mean']:.2f} +/- ")
    for heading in ("Results", "Intended use", "Limits", "How it was trained", "Licence"):
        assert f"## {heading}" in text
    assert f"{told['interval_95'][0]:.2f} to {told['interval_95'][1]:.2f}" in text


def test_memory_json_says_what_the_entries_are(made: Path):
    told, memory = json.loads((made / "memory.json").read_text()), engram.load(made).memory
    assert told["kind"] == "episodic"
    assert told["entries"] == len(memory) == sum(told["actions"].values()) > 0
    assert told["table"]["value"] == memory.table()["value"]
    assert set(told["columns"]) == set(told["table"])


def test_nothing_of_the_machine_is_told(run: Path, tmp_path: Path):
    with engram.Trainer(start_from=str(run), run=tmp_path / "on", steps=100, **SMALL) as trainer:
        trainer.learn()
    made = pack(tmp_path / "on", tmp_path / "shared", episodes=1)
    texts = [path.read_text() for path in made.folder.glob("*.*") if path.suffix in (".json", ".md")]
    assert not any(str(tmp_path) in text or str(run) in text for text in texts)


def test_several_seeds_are_shared_together(tmp_path: Path):
    with engram.Trainer("engram/CartPole-v1", "dqn", run=tmp_path / "run", steps=100, seeds=2, **SMALL) as trainer:
        trainer.learn()
    made = pack(tmp_path / "run", tmp_path / "shared", episodes=2)
    assert len(engram.load(made.folder).minds) == 2
    assert not (made.folder / "memory.json").exists()
    told = json.loads((made.folder / "evaluation.json").read_text())
    assert (told["episodes"], told["agents"]) == (4, 2)
    assert engram.load(made.folder).evaluate(2, seed=told["seed"]).returns == told["returns"]


def test_what_was_forgotten_is_not_given_away(run: Path, tmp_path: Path):
    agent = engram.load(run)
    agent.memory.where(action=1).forget()
    made = pack(agent, tmp_path / "shared", episodes=1)
    assert len(engram.load(made.folder).memory.where(action=1)) == 0


@given(arrays.arrays(st.sampled_from([np.float32, np.int32, np.uint8, np.bool_]), arrays.array_shapes(max_dims=3)))
def test_a_column_without_its_equal_rows_comes_back_whole(array: np.ndarray):
    short = packed.short(array)
    whole = packed.whole(short, array)
    assert whole.tobytes() == array.tobytes()
    assert len(short) < 2 or short[-1].tobytes() != short[-2].tobytes() or len(short) == len(array)


def test_a_table_of_equal_rows_is_stored_as_one():
    assert len(packed.short(np.zeros((1_000, 4), np.float32))) == 1
    table = np.zeros((1_000, 4), np.float32)
    table[6] = 1
    assert len(packed.short(table)) == 8
    table[999, 3] = -0.0  # equal as a number, and not to the bit
    assert len(packed.short(table)) == 1_000


# -- what is refused when it is written ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"license": "All rights\nreserved"}, "write its short name"),
        ({"episodes": 0}, "episodes"),
        ({"at": "best"}, "keeps no best checkpoint"),
        ({"at": 7}, "keeps no checkpoint of step 7"),
        ({"env": "Acrobot-v1"}, "Acrobot-v1"),
    ],
)
def test_what_cannot_be_packed_is_said_and_leaves_nothing(run: Path, tmp_path: Path, given: dict[str, Any], said: str):
    with pytest.raises(EngramError, match=said):
        pack(run, tmp_path / "shared", **({"episodes": 1} | given))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(run: Path, folder: Path):
    before = (folder / "config.json").read_bytes()
    with pytest.raises(SpecError, match="is there already"):
        pack(run, folder, episodes=1)
    assert (folder / "config.json").read_bytes() == before


# -- what is refused when it is opened -----------------------------------------------------------------------------


class Runs:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def link(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    shutil.move(folder / "model.safetensors", elsewhere)
    (folder / "model.safetensors").symlink_to(elsewhere)


def foreign(name: str, content: bytes = b"1") -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


def change(name: str, old: bytes, new: bytes, sealed: bool = True) -> Callable[[Path], Any]:
    def work(folder: Path) -> None:
        content = (folder / name).read_bytes()
        assert old in content
        (folder / name).write_bytes(content.replace(old, new, 1))
        if sealed and name != "config.json":
            seal(folder)

    return work


def config(**values: Any) -> Callable[[Path], Any]:
    return lambda folder: seal(folder, lambda one: one.update(values))


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a pickle beside it": (foreign("policy.pkl", pickle.dumps(Runs())), "'.*policy.pkl' is none of the files"),
    "a pickle under a name that is allowed": (foreign("policy.onnx", pickle.dumps(Runs())), "not among the files"),
    "a module": (foreign("engram_rl.py", b"open('ran', 'w')"), "none of the files"),
    "a hidden file": (foreign(".hidden"), "none of the files"),
    "a folder": (lambda folder: (folder / "more").mkdir(), "is a folder"),
    "a link": (link, "is a link"),
    "a dangling link": (lambda folder: (folder / "replay.mp4").symlink_to("/nowhere"), "is a link"),
    "a pipe": (lambda folder: os.mkfifo(folder / "replay.mp4"), "is a link or a device"),
    "a missing file": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
    "a flipped bit": (change("model.safetensors", b"\0\0\0\0", b"\1\0\0\0", sealed=False), "is damaged"),
    "a longer file": (lambda folder: (folder / "env.json").open("ab").write(b" "), "has .* bytes where"),
    "a shorter file": (lambda folder: os.truncate(folder / "memory.safetensors", 100), "has 100 bytes where"),
    "a config of another digest": (change("config.json", b'"step": 240', b'"step": 241'), "its digest is another"),
    "another version": (config(format="engram-folder/2"), "reads 'engram-folder/1'"),
    "no version": (config(format=None), "no format"),
    "a config that is no object": (lambda folder: (folder / "config.json").write_text("[]"), "no format"),
    "a config that is no JSON": (lambda folder: (folder / "config.json").write_text("{"), "strict JSON"),
    "a key named twice": (change("config.json", b'{', b'{"step": 1,'), "one key twice"),
    "a field more": (config(more=1), "must be a JSON object with the keys"),
    "a path among the files": (
        lambda folder: seal(folder, lambda one: one["files"].update({"../run.json": {"bytes": 1, "sha256": ""}})),
        "no shared folder holds",
    ),
    "no file at all": (config(files={}), "holds no digest of env.json"),
    "a plan of nothing": (config(plan={}), "config.json"),
    "an unknown part": (change("config.json", b'"episodic"', b'"sandcastle"'), "digest"),
    "an unknown part, sealed": (
        lambda folder: seal(folder, lambda one: one["plan"]["agent"]["external"].update(kind="sandcastle")),
        "sandcastle",
    ),
    "an environment in the config": (
        lambda folder: seal(folder, lambda one: one["plan"].update(env="mine:Plant-v0")), "belongs into env.json"
    ),
    "more actions": (change("env.json", b'"actions": 2', b'"actions": 3'), "needs|config.json"),
    "a memory of another size": (
        lambda folder: seal(folder, lambda one: one["plan"]["agent"]["external"].update(capacity=100)), "needs"
    ),
    "a memory that no machine holds": (
        lambda folder: seal(folder, lambda one: one["plan"]["agent"]["external"].update(capacity=10**9)),
        "of memory are free",
    ),
    "an array of another name": (change("model.safetensors", b"network.head", b"network.hand"), "network.hand"),
    "a memory as a model": (
        lambda folder: (shutil.copy(folder / "memory.safetensors", folder / "model.safetensors"), seal(folder)),
        "has no 'network",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_is_not_exactly_one_is_refused(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder.parent)
    spoil, said = REFUSED[name]
    spoil(folder)
    with pytest.raises(EngramError, match=said) as refused:
        engram.load(folder)
    assert len(str(refused.value)) < 500
    assert "\n" not in str(refused.value)
    assert not (folder.parent / "ran").exists()
    assert not (folder / "ran").exists()


def test_a_card_may_be_edited_and_a_hub_may_add_its_attributes(folder: Path):
    (folder / "README.md").write_text("Mine now.\n")
    (folder / ".gitattributes").write_text("*.mp4 filter=lfs\n")
    assert engram.load(folder).step == 240


def test_an_environment_of_a_module_needs_trust_to_be_played_and_none_to_predict(folder: Path):
    change("env.json", b'"CartPole-v1"', b'"stranger:Fine-v0"')(folder)
    agent = engram.load(folder)
    agent.predict(OBSERVATION)
    with pytest.raises(Untrusted, match="add --trust"):
        agent.evaluate(1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"number": 2', b'"number": 10000000000000'),
        (b'"shape": [4]', b'"shape": [10000000000000]'),
        (b'"kind": "box", "shape": [4]', b'"kind": "box", "shape": [10000000000000]'),
        (b'"shape": [4]', b'"shape": [-4]'),
        (b'"number": 2', b'"number": 3'),
    ],
)
def test_an_environment_that_asks_for_any_amount_of_memory_is_refused_before_it_gets_it(
    folder: Path, before: bytes, after: bytes
):
    assert before in json.dumps(json.loads((folder / "env.json").read_text())).encode()
    shown = json.loads((folder / "env.json").read_text())
    text = json.dumps(shown).encode().replace(before, after)
    change("env.json", (folder / "env.json").read_bytes(), text)(folder)
    with pytest.raises(CheckpointError, match=r"env.json (does not fit the agent of config.json|has observations of)"):
        engram.load(folder)


def test_it_holds_one_checkpoint(folder: Path):
    assert engram.load(folder, at=240).step == 240
    with pytest.raises(SpecError, match="holds step 240 alone"):
        engram.load(folder, at="best")


# -- the command line ------------------------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def test_the_commands_that_read_a_run_read_a_shared_folder(folder: Path, capsys: pytest.CaptureFixture[str]):
    where = str(folder)
    code, out, _ = said(capsys, "evaluate", where, "--episodes", "1", "--json")
    assert (code, json.loads(out)["step"]) == (0, 240)
    code, out, _ = said(capsys, "watch", where, "--steps", "0:2")
    assert (code, len(out.splitlines())) == (0, 2)
    code, out, _ = said(capsys, "memory", where, "list", "--json", "--limit", "3")
    assert (code, len(json.loads(out)["shown"])) == (0, 3)
    code, out, _ = said(capsys, "info", where, "--json")
    assert json.loads(out)["digest"] == packed.verified(folder).digest
    code, out, _ = said(capsys, "explain", where, "--text", "--steps", "0:2", "--faithfulness", "off")
    assert code == 0
    assert "nec" in out


def test_the_commands_that_need_a_run_say_so(folder: Path, capsys: pytest.CaptureFixture[str]):
    where = str(folder)
    for words in (["memory", where, "delete", "--all"], ["memory", where, "edit", "0", "--value", "1"]):
        code, _, err = said(capsys, *words)
        assert code != 0
        assert "shared folder, which is never changed" in err
    code, _, err = said(capsys, "train", "--run", where, "--resume")
    assert code != 0
    assert "it is a shared folder" in err
    code, _, err = said(capsys, "train", "CartPole-v1", "--from", where, "--run", str(folder.parent / "x"))
    assert code != 0
    assert "it is a shared folder" in err
    code, _, err = said(capsys, "push", where, "me/agent", "--episodes", "3")
    assert "is packed already" in err


def test_pack_prints_the_digest(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, out, _ = said(capsys, "pack", str(run), str(tmp_path / "one"), "--episodes", "1", "--at", "latest", "--json")
    assert code == 0
    assert json.loads(out)["digest"] == packed.verified(tmp_path / "one").digest


def test_a_film_is_part_of_it_where_asked(run: Path, tmp_path: Path):
    made = pack(run, tmp_path / "film", episodes=1, video=True)
    assert (made.folder / "replay.mp4").read_bytes()[4:8] == b"ftyp"
    assert "replay.mp4" in made.files


def test_the_policy_is_exported_where_asked(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    exporting: Any = ModuleType("engram.exporting.onnx")  # what writes it is tested elsewhere
    exporting.OPSET, exporting.check_opset = 17, lambda _: None
    exporting.write = lambda agent, path: path.write_bytes(f"policy of {agent.plan.preset}".encode())
    monkeypatch.setitem(sys.modules, "engram.exporting", ModuleType("engram.exporting"))
    monkeypatch.setitem(sys.modules, "engram.exporting.onnx", exporting)
    made = pack(run, tmp_path / "onnx", episodes=1, onnx=True)
    assert (made.folder / "policy.onnx").read_bytes() == b"policy of nec"
    assert "policy.onnx" in packed.verified(made.folder).files
    assert "| policy.onnx |" in (made.folder / "README.md").read_text()


def test_a_file_that_changes_while_it_is_read_is_refused(folder: Path):
    found = packed.verified(folder)
    change("model.safetensors", b"\0\0\0\0", b"\1\0\0\0", sealed=False)(folder)
    with pytest.raises(CheckpointError, match="is damaged"):
        packed.minds(found)
