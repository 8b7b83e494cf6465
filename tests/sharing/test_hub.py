"""To a hub and back, against a stand-in on loopback: equal to the last byte, in one commit, and no token is told."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.hub import TOKEN, Hub

import engram
from engram.errors import CheckpointError, EngramError, SpecError
from engram.run import packed
from engram.sharing.hub import pull, push
from engram.sharing.packing import pack

SMALL: dict[str, Any] = {"encoder__widths": (8,), "replay__capacity": 400, "replay__start": 60}
REPO = "me/agent"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "dqn"
    with engram.Trainer("CartPole-v1", "dqn", steps=120, run=folder, **SMALL) as trainer:
        trainer.learn()
    return folder


@pytest.fixture(scope="module")
def made(run: Path) -> Path:
    return pack(run, run.parent / "shared", episodes=2).folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    with Hub() as hub:
        yield hub


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_comes_back_as_it_was_pushed(made: Path, hub: Hub, tmp_path: Path):
    pushed = push(made, REPO, endpoint=hub.url)
    pulled = pull(REPO, tmp_path / "back", endpoint=hub.url)
    assert pushed.digest == pulled.packed.digest == packed.verified(made).digest
    assert pushed.commit == pulled.commit
    assert contents(tmp_path / "back") == contents(made)
    assert list(tmp_path.iterdir()) == [tmp_path / "back"]
    evaluations = [engram.load(folder).evaluate(2, seed=4).returns for folder in (made, tmp_path / "back")]
    assert evaluations[0] == evaluations[1]


def test_a_push_is_one_commit_and_takes_out_what_an_older_folder_had(made: Path, hub: Hub):
    push(made, REPO, endpoint=hub.url)
    hub.repos[REPO].files |= {"report.html": b"old", "notes.txt": b"the owner's own"}
    commits = hub.repos[REPO].commits
    push(made, REPO, endpoint=hub.url)
    assert hub.repos[REPO].commits == commits + 1
    assert "report.html" not in hub.repos[REPO].files
    assert "notes.txt" in hub.repos[REPO].files


def test_files_that_are_no_part_of_it_stay_on_the_hub(made: Path, hub: Hub, tmp_path: Path):
    push(made, REPO, endpoint=hub.url)
    hub.repos[REPO].files |= {"policy.pkl": b"\x80", "src/evil.py": b"1", "LICENSE": b"mine"}
    pulled = pull(REPO, tmp_path / "back", endpoint=hub.url)
    assert pulled.left == ["LICENSE", "policy.pkl", "src/evil.py"]
    asked = [path for method, path, _ in hub.seen if method == "GET" and "/resolve/" in path]
    assert not any(path.endswith((".pkl", ".py", "LICENSE")) for path in asked)
    engram.load(tmp_path / "back")


def test_a_run_is_packed_on_the_way(run: Path, hub: Hub, tmp_path: Path):
    pushed = push(run, REPO, endpoint=hub.url, episodes=1, license="mit", private=True)
    assert hub.repos[REPO].private
    assert pull(REPO, tmp_path / "back", digest=pushed.digest, endpoint=hub.url).packed.digest == pushed.digest
    assert b"license: mit" in hub.repos[REPO].files["README.md"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda files: files.pop("config.json"), "holds no shared folder"),
        (lambda files: files.update({"config.json": b"{}"}), "no format"),
        (lambda files: files.update({"config.json": b"[" * (9 << 20)}), "more than the"),
        (lambda files: files.pop("env.json"), "lacks env.json"),
        (lambda files: files.update({"env.json": files["env.json"] + b" "}), "more than the"),
        (lambda files: files.update({"env.json": files["env.json"][:-1] + b" "}), "is damaged"),
    ],
)
def test_what_is_no_whole_folder_is_not_kept(made: Path, hub: Hub, tmp_path: Path, spoil: Any, said: str):
    push(made, REPO, endpoint=hub.url)
    spoil(hub.repos[REPO].files)
    with pytest.raises(CheckpointError, match=said):
        pull(REPO, tmp_path / "back", endpoint=hub.url)
    assert list(tmp_path.iterdir()) == []


def test_another_digest_than_was_told_is_not_kept(made: Path, hub: Hub, tmp_path: Path):
    push(made, REPO, endpoint=hub.url)
    with pytest.raises(CheckpointError, match="it was not kept"):
        pull(REPO, tmp_path / "back", digest="0" * 64, endpoint=hub.url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("repo", "more", "said"),
    [
        ("me/nothing", {}, "knows no repository me/nothing"),
        (REPO, {"revision": "v9"}, "has no such revision"),
        ("a/b/c", {}, "cannot name a repository"),
        ("../../etc", {}, "cannot name a repository"),
        (REPO, {"endpoint": "http://127.0.0.1:9"}, "cannot be reached"),
    ],
)
def test_what_cannot_be_pulled_is_one_sentence(
    made: Path, hub: Hub, tmp_path: Path, repo: str, more: dict[str, Any], said: str
):
    push(made, REPO, endpoint=hub.url)
    with pytest.raises(SpecError, match=said):
        pull(repo, tmp_path / "back", **({"endpoint": hub.url} | more))


@pytest.mark.parametrize(("status", "said"), [(401, "log in"), (403, "log in"), (500, "HTTP 500"), (429, "too many")])
def test_a_refusal_of_the_hub_is_one_sentence_without_the_token(
    made: Path, hub: Hub, status: int, said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("time.sleep", lambda _: None)  # its client tries again after a while
    hub.refuse = status
    with pytest.raises(EngramError, match=said) as refused:
        push(made, REPO, endpoint=hub.url)
    assert TOKEN not in str(refused.value)


def test_the_command_line_finds_the_hub_by_its_variable_and_tells_no_token(made: Path, hub: Hub, tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    variables = {
        **os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home),
        "HOME": str(home),
    }  # fmt: skip

    def typed(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "engram", *words]
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, cwd=tmp_path)

    pushed = typed("push", str(made), REPO, "--json")
    assert pushed.returncode == 0, pushed.stderr
    pulled = typed("pull", REPO, "back", "--digest", json.loads(pushed.stdout)["digest"])
    assert pulled.returncode == 0, pulled.stderr
    told = [one for done in (pushed, pulled) for one in (done.stdout, done.stderr)]
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(TOKEN in text for text in told)
    assert not any(TOKEN.encode() in content for content in written)
    assert all(token == f"Bearer {TOKEN}" for _, path, token in hub.seen if REPO in path)
