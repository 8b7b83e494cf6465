"""Sessions: they expire, are retried, survive a restart on the disk, and say so where they are over."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.served import Client, served

import engram
from engram.errors import EngramError, RunLocked, SpecError
from engram.play.trained import TrainedAgent
from engram.serving.limits import Rate
from engram.serving.refusals import Refusal
from engram.serving.sessions import Session, Sessions
from engram.serving.tokens import token

LIKE = {"carry": np.zeros((1, 3), np.float32), "frames": np.zeros((1, 2), np.uint8)}
SMALL: dict[str, Any] = {"encoder__widths": (8,), "working__hidden_size": 8}


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def sessions(folder: Path | None = None, clock: Callable[[], float] = time.time, **more: Any) -> Sessions:
    given: dict[str, Any] = {"most": 3, "expires": 60.0, **more}
    return Sessions(LIKE, given.pop("agent", "one"), given.pop("most"), given.pop("expires"), folder, clock)


def answered(held: Sessions, session: Session, value: float = 1.0) -> Session:
    """The session after an answer."""
    state = {"carry": np.full((1, 3), value, np.float32), "frames": np.full((1, 2), 7, np.uint8)}
    following = held.following(session, state, f'{{"step":{session.step}}}'.encode(), "digest")
    held.store(following)
    held.put(following)
    return following


def test_a_session_is_over_when_it_was_not_used_for_too_long():
    clock = Clock()
    held = sessions(clock=clock)
    session = answered(held, held.begin())
    clock.now += 59
    session = answered(held, held.find(session.id))
    clock.now += 59
    assert held.find(session.id).step == 2
    clock.now += 61
    with pytest.raises(Refusal, match="not used for 60 seconds; begin anew") as over:
        held.find(session.id)
    assert over.value.status == 410
    assert (len(held), held.expired) == (0, 1)


def test_no_more_sessions_run_than_are_allowed_and_old_ones_make_room():
    clock = Clock()
    held = sessions(clock=clock)
    for _ in range(3):
        answered(held, held.begin())
    with pytest.raises(Refusal, match="3 sessions run already") as full:
        held.begin()
    assert full.value.status == 503
    clock.now += 61
    held.begin()
    assert len(held) == 1


def test_a_session_of_memory_is_over_after_a_restart_and_the_answer_says_why():
    session = answered(before := sessions(), before.begin())
    with pytest.raises(Refusal, match="started anew and keeps sessions in memory") as over:
        sessions().find(session.id)
    assert over.value.status == 410


def test_a_session_on_the_disk_goes_on_after_a_restart(tmp_path: Path):
    before = sessions(tmp_path / "kept")
    session = answered(before, answered(before, before.begin(), 1.5), 2.5)
    before.close()
    after = sessions(tmp_path / "kept")
    assert len(after) == 1
    found = after.find(session.id)
    assert (found.step, found.last, found.request) == (2, b'{"step":1}', "digest")
    np.testing.assert_array_equal(found.state["carry"], np.full((1, 3), 2.5, np.float32))
    np.testing.assert_array_equal(found.state["frames"], np.full((1, 2), 7, np.uint8))
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "kept").iterdir()} <= {0o600, 0o644}
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700
    after.drop(session.id)
    assert not list((tmp_path / "kept").glob("*.session"))


def test_a_stored_session_expires_too(tmp_path: Path):
    before = sessions(tmp_path / "kept")
    session = answered(before, before.begin())
    before.close()
    clock = Clock()
    clock.now += 61
    after = sessions(tmp_path / "kept", clock)
    assert len(after) == 0
    with pytest.raises(Refusal, match="is over"):
        after.find(session.id)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"\x80\x04cos\nsystem\n(S'touch ran'\ntR."),
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes().replace(b'"agent": "one"', b'"agent": "two"')),
        lambda file: file.write_bytes(file.read_bytes().replace(b'"step": 1', b'"step": x')),
        lambda file: (file.unlink(), file.symlink_to("/etc/passwd")),
        lambda file: (file.unlink(), os.mkfifo(file)),
    ],
)
def test_a_stored_session_that_is_not_whole_is_over(tmp_path: Path, spoil: Any):
    before = sessions(tmp_path)
    os.chmod(tmp_path, 0o700)
    session = answered(before, before.begin())
    before.close()
    after = sessions(tmp_path)
    spoil(next(tmp_path.glob("*.session")))
    with pytest.raises(Refusal, match="is over") as over:
        after.find(session.id)
    assert over.value.status == 410


def test_a_session_of_another_agent_is_over(tmp_path: Path):
    before = sessions(tmp_path / "kept")
    session = answered(before, before.begin())
    before.close()
    with pytest.raises(Refusal, match="is over"):
        sessions(tmp_path / "kept", agent="two").find(session.id)


def test_one_folder_is_for_one_server_and_for_its_owner(tmp_path: Path):
    held = sessions(tmp_path / "kept")
    with pytest.raises(RunLocked):
        sessions(tmp_path / "kept")
    held.close()
    os.chmod(tmp_path / "kept", 0o755)
    with pytest.raises(SpecError, match="chmod 700"):
        sessions(tmp_path / "kept")


def test_what_cannot_be_stored_is_not_answered(tmp_path: Path):
    held = sessions(tmp_path / "kept")
    session = answered(held, held.begin())
    (tmp_path / "kept").rename(tmp_path / "gone")
    with pytest.raises(Refusal, match="could not be stored") as refused:
        answered(held, held.find(session.id))
    assert refused.value.status == 507
    assert held.find(session.id).step == 1


def test_a_rate_allows_a_burst_and_then_so_many_a_second():
    clock = Clock()
    rate = Rate(2.0, 4.0, clock)
    assert [rate.take("a") for _ in range(4)] == [0, 0, 0, 0]
    assert rate.take("a") == pytest.approx(0.5)
    assert rate.take("b") == 0
    clock.now += 0.5
    assert rate.take("a") == 0
    assert rate.take("a") > 0


# -- over HTTP -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def agent() -> TrainedAgent:
    with engram.Trainer("CartPole-v1", "drqn", seed=1, steps=100, **SMALL) as trainer:
        return trainer.trained()


SEEN = [[0.1 * step, -0.2, 0.05 * step, 0.3] for step in range(8)]


def play(client: Client, observations: list[Any], session: str | None = None) -> tuple[list[Any], str | None]:
    found = []
    for seen in observations:
        answer = client.act(seen, session=session)
        session = answer["session"]
        found.append((answer["action"], answer["q"]))
    return found, session


def test_after_a_restart_a_session_of_memory_is_gone_and_one_on_the_disk_is_to_the_bit_what_it_was(
    agent: TrainedAgent, tmp_path: Path
):
    with served(agent) as client:
        whole, _ = play(client, SEEN)
        _, session = play(client, SEEN[:4])
    with served(agent) as client:
        status, answer, _ = client.try_act(SEEN[4], session=session)
        assert status == 410
        assert "begin anew" in answer["error"]
    with served(agent, sessions=tmp_path / "kept") as client:
        first, session = play(client, SEEN[:4])
    with served(agent, sessions=tmp_path / "kept") as client:
        second, _ = play(client, SEEN[4:], session)
    assert first + second == whole


def test_the_same_request_again_gets_the_same_answer_and_counts_once(agent: TrainedAgent):
    with served(agent) as client:
        session = client.act(SEEN[0])["session"]
        once = client.act(SEEN[1], session=session, step=1)
        again = client.act(SEEN[1], session=session, step=1)
        assert again == once
        assert client.act(SEEN[2], session=session, step=2)["step"] == 2
        for wrong in (1, 2, 5):  # another observation for a step that is over, and steps that are not due
            status, answer, _ = client.try_act(SEEN[3], session=session, step=wrong)
            assert status == 409
            assert "is at step 3" in answer["error"]


def test_a_session_is_ended_by_its_client(agent: TrainedAgent):
    with served(agent, max_sessions=1) as client:
        session = client.act(SEEN[0])["session"]
        assert client.try_act(SEEN[0])[0] == 503
        assert client.ask("DELETE", f"/sessions/{session}")[:2] == (200, {"ended": session, "steps": 1})
        assert client.ask("DELETE", f"/sessions/{session}")[0] == 410
        client.act(SEEN[0])


def test_a_request_that_fails_begins_no_session(agent: TrainedAgent):
    with served(agent, max_sessions=1) as client:
        for _ in range(3):
            assert client.try_act([1, 2, 3])[0] == 422
            assert client.try_act(SEEN[0], step=5)[0] == 409  # of no session
        client.act(SEEN[0])


def test_too_many_requests_are_told_when_to_come_again(agent: TrainedAgent):
    with served(agent, limit_rate=3.0) as client:
        answers = [client.ask("GET", "/agent") for _ in range(10)]
        assert {status for status, _, _ in answers} == {200, 429}
        headers = next(headers for status, _, headers in answers if status == 429)
        assert int(headers["retry-after"]) >= 1


def test_who_has_no_token_takes_nobodys_share(agent: TrainedAgent):
    with served(agent, limit_rate=3.0) as client:
        assert {client.ask("GET", "/health", token=None)[0] for _ in range(20)} == {200, 429}
        assert client.ask("GET", "/agent")[0] == 200


# -- the token and the process -------------------------------------------------------------------------------------


def test_a_token_is_made_for_its_owner_alone_and_is_gone_with_the_server():
    made = token(None)
    assert made.made
    assert made.file.stat().st_mode & 0o777 == 0o600
    assert made.file.parent.stat().st_mode & 0o777 == 0o700
    assert made.file.read_bytes().strip() == made.value
    made.close()
    assert not made.file.parent.exists()


def test_a_token_of_the_users_own_is_read_and_stays(tmp_path: Path):
    file = tmp_path / "token"
    made = token(file)
    assert made.made
    again = token(file)
    assert (again.value, again.made) == (made.value, False)
    again.close()
    assert file.exists()


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (b"0123456789abcdef" * 2, 0o644, "chmod 600"),
        (b"short", 0o600, "holds no token"),
        (b"two words that are long enough", 0o600, "holds no token"),
        (b"", 0o600, "holds no token"),
    ],
)
def test_a_token_that_others_may_read_or_guess_is_refused(tmp_path: Path, content: bytes, mode: int, said: str):
    file = tmp_path / "token"
    file.write_bytes(content)
    file.chmod(mode)
    with pytest.raises(SpecError, match=said):
        token(file)


def test_a_link_is_no_token(tmp_path: Path):
    (tmp_path / "token").symlink_to("/etc/hostname")
    with pytest.raises(SpecError, match="cannot be read"):
        token(tmp_path / "token")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"host": "0.0.0.0"}, "add --expose"),
        ({"port": 70_000}, "65535"),
        ({"expires": 0.0}, "expires"),
        ({"host": "no.such.host.invalid", "expose": True}, "nothing can listen"),
    ],
)
def test_a_server_that_cannot_be_is_one_sentence(agent: TrainedAgent, settings: dict[str, Any], said: str):
    with pytest.raises(EngramError, match=said), served(agent, **settings):
        pass


def test_answers_do_not_wait_for_acknowledgements(agent: TrainedAgent):
    """A head and a body are two writes; with Nagle's algorithm the second waits 40 ms. asyncio turns it off for TCP."""
    from engram.serving.server import listening
    from engram.serving.settings import ServeSettings

    with listening(ServeSettings()) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_port_that_is_taken_is_said(agent: TrainedAgent):
    with (
        served(agent) as client,
        pytest.raises(SpecError, match="choose another port"),
        served(agent, port=client.port),
    ):
        pass


class Process:
    """`engram serve` as a user starts it."""

    def __init__(self, run: Path, *words: str):
        command = [sys.executable, "-m", "engram", "serve", str(run), *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines: dict[str, str] = {}
        assert self.process.stdout is not None
        while "stop" not in self.lines:
            line = self.process.stdout.readline()
            assert line, self.process.stderr.read() if self.process.stderr else ""
            name, _, text = line.partition("  ")
            self.lines[name.strip()] = text.strip()

    def client(self, token: str) -> Client:
        running: Any = type("Running", (), {})()
        running.url, running.token = self.lines["serving"].rpartition(" on ")[2], type("Token", (), {})()
        running.token.value = token.encode()
        return Client(running)

    def end(self, by: signal.Signals) -> tuple[int, str, str]:
        self.process.send_signal(by)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


def test_a_server_that_is_killed_loses_no_session_that_was_answered(agent: TrainedAgent, tmp_path: Path):
    from engram.sharing.packing import pack

    shared = pack(agent, tmp_path / "shared", episodes=1).folder
    given = ["--sessions", str(tmp_path / "kept"), "--token-file", str(tmp_path / "token")]
    with served(agent) as client:
        whole, _ = play(client, SEEN)
    first = Process(shared, *given)
    secret = (tmp_path / "token").read_text().strip()
    assert first.lines["token"] == secret  # printed where it was made
    before, session = play(first.client(secret), SEEN[:4])
    first.end(signal.SIGKILL)
    second = Process(shared, *given)
    assert "token" not in second.lines
    after, _ = play(second.client(secret), SEEN[4:], session)
    assert before + after == whole
    code, out, err = second.end(signal.SIGINT)
    assert code == 0
    # Another thread says it; where nothing is being answered, the server may have stopped before.
    assert err in ("", "engram: stopping once what was asked is answered; Ctrl-C again stops at once\n")
    assert out == "stopped after 4 actions\n"
    assert json.loads((shared / "config.json").read_text())["format"]  # nothing was written into the folder
    engram.load(shared)
