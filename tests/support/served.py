"""A server of an agent, in a thread of the tests, and clients of it: polite ones, and one that sends any bytes."""

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from engram.play.trained import TrainedAgent
from engram.serving.server import Running, serve

JSON = "application/json"


class Client:
    """Requests to one server. `token`: what each brings; None for nothing."""

    def __init__(self, running: Running):
        self.running, self.url, self.token = running, running.url, running.token.value.decode()
        self.port = int(urlsplit(self.url).port or 0)

    def ask(
        self, method: str, path: str, body: bytes | None = None, token: str | None = "", **headers: str
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status, JSON and headers of an answer."""
        token = self.token if token == "" else token
        names = {"Content-Type": JSON, **({"Authorization": f"Bearer {token}"} if token else {})}
        names |= {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, body, names, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                status, content, given = answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as refusal:
            status, content, given = refusal.code, refusal.read(), dict(refusal.headers)
        return (
            status,
            json.loads(content) if JSON in given.get("content-type", "") else {"text": content.decode()},
            given,
        )

    def act(self, observation: Any, **fields: Any) -> dict[str, Any]:
        """The answer to an observation, which must be given."""
        status, answer, _ = self.try_act(observation, **fields)
        assert status == 200, answer
        return answer

    def try_act(self, observation: Any, **fields: Any) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status, JSON and headers of an answer to an observation."""
        return self.ask("POST", "/act", json.dumps({"observation": observation, **fields}).encode())

    def raw(self, content: bytes, wait: float = 5.0, half: bool = False) -> bytes:
        """What comes back for these bytes, until the server closes or `wait` is over. `half`: no more come."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait) as link:
            found = b""
            try:
                link.sendall(content)
                if half:
                    link.shutdown(socket.SHUT_WR)
                while more := link.recv(65_536):
                    found += more
            except (TimeoutError, ConnectionError):
                pass
            return found


@contextmanager
def served(agent: TrainedAgent, **settings: Any) -> Iterator[Client]:
    """A client of a server that runs meanwhile."""
    begun, held, failed = threading.Event(), [], []

    def announce(running: Running) -> None:
        held.append(running)
        begun.set()

    def work() -> None:
        try:
            serve(agent, announce=announce, **settings)
        except BaseException as error:
            failed.append(error)
            begun.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert begun.wait(120)
    if failed:
        raise failed[0]
    try:
        yield Client(held[0])
    finally:
        held[0].stop()
        thread.join(30)
        assert not thread.is_alive()
    if failed:
        raise failed[0]
