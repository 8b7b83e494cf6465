"""Hostile requests: each is refused in one sentence, none ends the server, and no file is opened for any."""

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.served import Client, served

import engram

SMALL: dict[str, Any] = {"encoder__widths": (8,), "working__hidden_size": 8}
GOOD = b'{"observation":[0.1,0.2,0.3,0.4]}'
SECONDS = 0.6  # that a body may take here
OPENED: list[str] = []  # files that were opened while somebody listens


def _hear(event: str, arguments: Any) -> None:
    if event == "open" and _LISTENS[0]:
        OPENED.append(str(arguments[0]))


_LISTENS = [False]
sys.addaudithook(_hear)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with engram.Trainer("CartPole-v1", "drqn", seed=1, steps=100, **SMALL) as trainer:
        agent = trainer.trained()
    with served(agent, body_seconds=SECONDS, max_sessions=500) as client:
        client.act([0.1, 0.2, 0.3, 0.4])
        yield client


def post(
    client: Client, body: bytes = GOOD, path: bytes = b"/act", method: bytes = b"POST", length: int | None = None,
    kind: bytes | None = b"application/json", token: bytes | None = b"", more: bytes = b"",
) -> bytes:  # fmt: skip
    """A request as bytes. `token`: b"" for the right one, None for none."""
    token = client.token.encode() if token == b"" else token
    head = [method + b" " + path + b" HTTP/1.1", b"Host: 127.0.0.1"]
    head += [b"Authorization: Bearer " + token] if token is not None else []
    head += [b"Content-Type: " + kind] if kind is not None else []
    head += [b"Content-Length: %d" % (len(body) if length is None else length)]
    return b"\r\n".join([*head, b"Connection: close"]) + b"\r\n" + more + b"\r\n" + body


def seen(text: str) -> Callable[[Client], bytes]:
    """A body with this text for an observation."""
    return lambda client: post(client, b'{"observation":' + text.encode() + b"}")


def field(text: str) -> Callable[[Client], bytes]:
    """A body with this text beside a good observation."""
    return lambda client: post(client, GOOD[:-1] + b"," + text.encode() + b"}")


def raw(content: bytes) -> Callable[[Client], bytes]:
    return lambda _: content


def chunked(client: Client, chunks: bytes) -> bytes:
    head = post(client, b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return head + chunks


NESTED = "[" * 5_000
# What is sent, and the statuses that may come back; 0 is a closed connection without an answer.
HOSTILE: dict[str, tuple[Callable[[Client], bytes], set[int]]] = {
    # numbers and JSON
    "NaN": (seen("[NaN,0,0,0]"), {400}),
    "infinity": (seen("[Infinity,0,0,0]"), {400}),
    "minus infinity": (seen("[-Infinity,0,0,0]"), {400}),
    "a number beyond double": (seen("[1e999,0,0,0]"), {400}),
    "a number beyond float32": (seen("[1e39,0,0,0]"), {422}),
    "an integer of 300 digits": (seen(f"[{'9' * 300},0,0,0]"), {422}),
    "an integer of 5,000 digits": (seen(f"[{'9' * 5_000},0,0,0]"), {400}),
    "nested arrays": (seen(NESTED), {400}),
    "nested and closed": (seen(NESTED + "]" * 5_000), {400, 422}),
    "nested objects": (seen('{"a":' * 1_500 + "1" + "}" * 1_500), {400, 422}),
    "100 axes": (seen("[" * 100 + "1" + "]" * 100), {422}),
    "ragged": (seen("[[0,1],[2],3,4]"), {422}),
    "texts": (seen('["a","b","c","d"]'), {422}),
    "a text": (seen('"AAAA"'), {422}),
    "null": (seen("null"), {422}),
    "nulls": (seen("[null,null,null,null]"), {422}),
    "an object": (seen('{"0":1}'), {422}),
    "an empty array": (seen("[]"), {422}),
    "too few": (seen("[1,2,3]"), {422}),
    "too many": (seen("[1,2,3,4,5]"), {422}),
    "a batch": (seen("[[1,2,3,4],[1,2,3,4]]"), {422}),
    "no JSON": (lambda client: post(client, b"observation=1"), {400}),
    "no body": (lambda client: post(client, b""), {400}),
    "two values": (lambda client: post(client, GOOD + GOOD), {400}),
    "a key twice": (field('"observation":[1,2,3,4]'), {400}),
    "a list": (lambda client: post(client, b"[1,2,3,4]"), {400}),
    "no UTF-8": (lambda client: post(client, b'{"observation":"\xff\xfe"}'), {400}),
    "a lone surrogate": (field('"session":"\\ud800"'), {400}),
    "UTF-16": (lambda client: post(client, GOOD.decode().encode("utf-16")), {400}),
    "control characters in a key": (field('"\\u001b[31mred":1'), {400}),
    # fields
    "an unknown field": (field('"__class__":"os.system"'), {400}),
    "a session of another type": (field('"session":7'), {400}),
    "a session that is a path": (field('"session":"../../../../etc/passwd"'), {400}),
    "a session with a zero byte": (field('"session":"a\\u0000b"'), {400}),
    "a session of a million letters": (field(f'"session":"{"a" * 15_000}"'), {400}),
    "a session of another start": (field(f'"session":"00000000-{"0" * 32}"'), {410}),
    "a huge step": (field(f'"step":{10**30}'), {400}),
    "a step without a session": (field('"step":5'), {409}),
    "a reward that is a text": (field('"reward":"1"'), {400}),
    "a boolean for a number": (field('"memories":true'), {400}),
    "less than no memories": (field('"memories":-1'), {400}),
    # the token
    "no token": (lambda client: post(client, token=None), {401}),
    "a wrong token": (lambda client: post(client, token=b"x" * 43), {401}),
    "an empty token": (lambda client: post(client, token=b" "), {401}),
    "a token that is a prefix": (lambda client: post(client, token=client.token[:-1].encode()), {401}),
    "a token with bytes beyond ASCII": (lambda client: post(client, token=b"\xff\xfe\x80"), {400, 401}),
    "two tokens": (
        lambda client: post(client, more=b"Authorization: Bearer " + client.token.encode() + b"\r\n"), {401}
    ),
    "another scheme": (
        lambda client: post(client, token=None, more=b"Authorization: Basic " + client.token.encode() + b"\r\n"), {401}
    ),
    "the token in the path": (
        lambda client: post(client, token=None, path=b"/act?token=" + client.token.encode()), {401}
    ),
    # paths and methods
    "up the folders": (lambda client: post(client, path=b"/../../../../etc/passwd", method=b"GET"), {404}),
    "up, encoded": (lambda client: post(client, path=b"/act/%2e%2e/%2e%2e/etc/passwd", method=b"GET"), {404}),
    "a file's address": (lambda client: post(client, path=b"file:///etc/passwd", method=b"GET"), {400, 404}),
    "another host's address": (lambda client: post(client, path=b"http://example.com/act", method=b"GET"), {404, 405}),
    "a path of 12,000 letters": (lambda client: post(client, path=b"/" + b"a" * 12_000, method=b"GET"), {404}),
    "a session's path up the folders": (
        lambda client: post(client, b"", path=b"/sessions/..%2f..%2fetc", method=b"DELETE"), {400, 404}
    ),
    "a zero byte in a path": (lambda client: post(client, b"", path=b"/sessions/%00", method=b"DELETE"), {400, 404}),
    "a slash more": (lambda client: post(client, path=b"/act/"), {404}),
    "another method": (lambda client: post(client, method=b"PUT"), {405}),
    "a method of nobody's": (lambda client: post(client, method=b"BREW"), {405}),
    "TRACE": (lambda client: post(client, method=b"TRACE"), {405}),
    "CONNECT": (lambda client: post(client, path=b"example.com:443", method=b"CONNECT"), {400, 404, 405}),
    "a websocket": (
        lambda client: post(client, b"", method=b"GET", more=b"Upgrade: websocket\r\nConnection: Upgrade\r\n"),
        {400, 405},
    ),
    # types and sizes
    "another type": (lambda client: post(client, kind=b"text/plain"), {415}),
    "no type": (lambda client: post(client, kind=None), {415}),
    "a form": (lambda client: post(client, kind=b"multipart/form-data; boundary=x"), {415}),
    "a pickle": (lambda client: post(client, b"\x80\x04cos\nsystem\n.", kind=b"application/octet-stream"), {415}),
    "another charset": (lambda client: post(client, kind=b"application/json; charset=utf-16"), {415}),
    "compressed": (lambda client: post(client, b"\x1f\x8b\x08", more=b"Content-Encoding: gzip\r\n"), {415}),
    "a body of a megabyte": (lambda client: post(client, b" " * (1 << 20)), {413}),
    "a body that says a terabyte": (lambda client: post(client, GOOD, length=1 << 40), {408, 413}),
    "chunks of a megabyte": (
        lambda client: chunked(client, (b"10000\r\n" + b" " * 65_536 + b"\r\n") * 16 + b"0\r\n\r\n"), {413}
    ),
    "a chunk of no size": (lambda client: chunked(client, b"zz\r\n\r\n"), {0, 400}),
    "a chunk beyond counting": (lambda client: chunked(client, b"f" * 40 + b"\r\n"), {0, 400}),
    "two lengths": (lambda client: post(client, more=b"Content-Length: 5\r\n"), {400}),
    "a length below zero": (lambda client: post(client, length=-1), {400}),
    "a length and chunks": (lambda client: post(client, more=b"Transfer-Encoding: chunked\r\n"), {0, 400}),
    "an encoding of nobody's": (lambda client: post(client, more=b"Transfer-Encoding: brew\r\n"), {400, 501}),
    # heads
    "a head of 64 KiB": (lambda client: post(client, more=b"X: " + b"a" * 65_536 + b"\r\n"), {400, 431}),
    "10,000 headers": (lambda client: post(client, more=b"A: b\r\n" * 10_000), {400, 431}),
    "a header without a name": (lambda client: post(client, more=b": b\r\n"), {400}),
    "a folded header": (lambda client: post(client, more=b"X: a\r\n b\r\n"), {200, 400}),
    "no host": (lambda client: post(client).replace(b"Host: 127.0.0.1\r\n", b""), {400}),
    "another version": (lambda client: post(client).replace(b"HTTP/1.1", b"HTTP/9.9", 1), {505}),
    "HTTP/2 at once": (raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), {404}),
    "a TLS greeting": (raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)), {400}),
    "noise": (raw(bytes(range(256)) * 64), {400}),
    "a line without end": (raw(b"A" * 40_000), {400}),
}  # fmt: skip


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def test_there_are_at_least_sixty_of_them():
    assert len(HOSTILE) >= 60


def test_each_hostile_request_is_refused_in_a_sentence_and_the_server_goes_on(client: Client):
    wrong, answered = [], {}
    OPENED.clear()
    _LISTENS[0] = True
    try:
        for name, (make, expected) in HOSTILE.items():
            answer = client.raw(make(client))
            answered[name] = status(answer)
            if status(answer) not in expected:
                wrong.append((name, answer[:300]))
            elif status(answer) >= 400:
                head, _, body = answer.partition(b"\r\n\r\n")
                error = json.loads(body)["error"]
                if not 10 < len(error) < 450 or "Traceback" in error or client.token in error or b"/root" in body:
                    wrong.append((name, answer[:600]))
                if b"connection: close" not in head.lower():
                    wrong.append((name, head))
    finally:
        _LISTENS[0] = False
    assert not wrong, "\n".join(f"{name}: {answer!r}" for name, answer in wrong)
    assert OPENED == []  # not one file, in the run or outside of it
    assert 500 not in answered.values()
    assert client.act([0.1, 0.2, 0.3, 0.4])["step"] == 0
    counts = client.running.service.counts.requests
    assert not [one for one in counts if one[1] == 500]


def test_the_audit_hears_a_file_that_is_opened():
    """The check above can fail."""
    OPENED.clear()
    _LISTENS[0] = True
    try:
        with open(__file__, "rb") as file:
            file.read(1)
    finally:
        _LISTENS[0] = False
    assert [__file__] == OPENED


def test_a_body_that_dribbles_is_given_up_and_holds_nobody_else_up(client: Client):
    body = post(client, length=len(GOOD))[: -len(GOOD)]
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as link:
        link.sendall(body + GOOD[:3])
        began = time.monotonic()
        client.act([0.1, 0.2, 0.3, 0.4])
        assert time.monotonic() - began < SECONDS
        answer = b""
        while time.monotonic() - began < 10:  # a byte now and then does not help
            try:
                link.sendall(b" ")
                link.settimeout(0.1)
                answer += link.recv(4_096)
                break
            except TimeoutError:
                continue
            except ConnectionError:
                break
    assert status(answer) == 408
    assert time.monotonic() - began < 5


def test_a_head_that_dribbles_is_given_up(client: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("engram.serving.server.HEAD_SECONDS", 0.4)
    with socket.create_connection(("127.0.0.1", client.port), timeout=5) as link:
        began = time.monotonic()
        link.sendall(b"POST /act HTTP/1.1\r\n")
        time.sleep(0.2)
        link.sendall(b"X: y\r\n")
        assert status(link.recv(4_096)) == 408
        assert time.monotonic() - began < 2


def test_requests_that_are_sent_ahead_are_answered_in_their_order(client: Client):
    wanted = [seen(f"[0.{place},0,0,0]")(client).replace(b"Connection: close\r\n", b"") for place in range(5)]
    with socket.create_connection(("127.0.0.1", client.port), timeout=5) as link:
        link.sendall(b"".join(wanted))
        found = b""
        while found.count(b'"step":0') < 5:
            found += link.recv(65_536)
    assert found.count(b"HTTP/1.1 200") == 5
    alone = [client.act([place / 10, 0, 0, 0])["value"] for place in range(5)]
    values = [json.loads(part.partition(b"\r\n\r\n")[2])["value"] for part in found.split(b"HTTP/1.1 200")[1:]]
    assert values == alone


def test_a_smuggled_request_behind_a_refused_one_is_not_answered(client: Client):
    answer = client.raw(post(client, kind=b"text/plain").replace(b"Connection: close\r\n", b"") + post(client))
    assert answer.count(b"HTTP/1.1") == 1
    assert status(answer) == 415


def test_connections_beyond_the_limit_are_refused_and_others_go_on(client: Client):
    agent = client.running.service.decider.agent
    with served(agent, connections=3) as few:
        ask = post(few).replace(b"Connection: close\r\n", b"")
        links = [socket.create_connection(("127.0.0.1", few.port), timeout=5) for _ in range(3)]
        try:
            links[0].sendall(ask)
            assert b"200" in links[0].recv(100)
            refused = few.raw(b"")
            assert status(refused) == 503
            assert b"3 connections are open already; close one, or wait" in refused
            links[1].sendall(ask)
            assert b"200" in links[1].recv(100)
        finally:
            for link in links:
                link.close()


@pytest.mark.parametrize("path", [b"/health", b"/agent", b"/metrics"])
def test_a_body_that_never_comes_holds_no_connection(client: Client, path: bytes):
    began = time.monotonic()
    found = client.raw(post(client, b"", path, b"GET", length=10).replace(b"Connection: close\r\n", b"") + b"x", 20.0)
    assert status(found) == 408
    assert time.monotonic() - began < 10  # and not until the client gives up


def test_a_client_that_leaves_does_not_end_the_server(client: Client):
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", client.port), timeout=5) as link:
            link.sendall(post(client))  # and is gone before the answer
    assert client.act([0.1, 0.2, 0.3, 0.4])["step"] == 0


def test_wrong_tokens_are_slowed_down_and_the_right_one_is_not(client: Client):
    refused = [client.ask("GET", "/agent", token="wrong" * 8)[0] for _ in range(40)]
    assert set(refused) == {401, 429}
    assert client.ask("GET", "/agent")[0] == 200
