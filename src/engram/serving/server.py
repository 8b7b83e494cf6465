"""The server itself: uvicorn on a socket, with limits on what a connection may do, until Ctrl-C.

A connection that does not finish the head of a request in time is closed; uvicorn alone would wait for ever. Heads are
at most 16 KiB. Websockets, proxies' headers and logs of requests are off.
"""

import asyncio
import json
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engram.errors import SpecError, install
from engram.play.trained import TrainedAgent
from engram.run.stored import load
from engram.serving.app import HEAD_BYTES, Service, application
from engram.serving.deciding import Decider
from engram.serving.sessions import Sessions
from engram.serving.settings import ServeSettings
from engram.serving.tokens import Token, token
from engram.sharing.facts import fingerprint

HEAD_SECONDS, IDLE_SECONDS, GRACE_SECONDS = 10.0, 30, 5
BACKLOG = 256  # connections that wait to be taken
Announce = Callable[["Running"], None]


class Running:
    """A server that listens. `url`: where. `stop()` ends it, as Ctrl-C does."""

    def __init__(self, url: str, token: Token, service: Service, stop: Callable[[], None]):
        self.url, self.token, self.service, self.stop = url, token, service, stop


def serve(
    run: str | Path | TrainedAgent, at: Any = "newest", announce: Announce = lambda _: None, **settings: Any
) -> None:
    """Answers requests for a stored run, a shared folder or a trained agent until it is told to stop.

    Args:
      at: of a run, which checkpoint: "newest", "best", or that of a step.
      announce: is called once the server listens.
      settings: those of `ServeSettings`.

    Raises: SpecError for a setting, a port or a token that cannot be; what `engram.load` raises.
    """
    paths = {name: Path(settings[name]) for name in ("token_file", "sessions") if settings.get(name) is not None}
    chosen = ServeSettings(**{**settings, **paths})
    _import()
    agent = run if isinstance(run, TrainedAgent) else load(run, at="newest" if at == "latest" else at)
    name = agent.plan.preset if isinstance(run, TrainedAgent) else Path(run).absolute().name
    key = token(chosen.token_file)
    try:
        with listening(chosen) as listener:
            asyncio.run(_serve(agent, name, chosen, key, listener, announce))
    finally:
        key.close()


async def _serve(
    agent: TrainedAgent, name: str, chosen: ServeSettings, key: Token, listener: socket.socket, announce: Announce
) -> None:
    decider = Decider(agent, chosen.batch)
    sessions = Sessions(decider.first, fingerprint(agent), chosen.max_sessions, chosen.expires, chosen.sessions)
    async with Service(decider, sessions, key.value, name, chosen) as service:
        decider.warm()
        server = _uvicorn(application(service), chosen)

        def stop(*_: Any) -> None:
            server.force_exit = server.should_exit  # the second time
            server.should_exit = True

        with _signals(stop):
            host, port = listener.getsockname()[:2]
            announce(Running(f"http://{f'[{host}]' if ':' in host else host}:{port}", key, service, stop))
            await server._serve([listener])


@contextmanager
def listening(chosen: ServeSettings) -> Iterator[socket.socket]:
    """A socket that listens where it was asked for. SpecError where nothing can."""
    family = socket.AF_INET6 if ":" in chosen.host else socket.AF_INET
    # asyncio turns Nagle's algorithm off where a socket says that it is TCP's; else an answer takes 40 ms more.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((chosen.host, chosen.port))
            listener.listen(BACKLOG)  # before it is announced
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise SpecError(
                f"nothing can listen at {chosen.host}, port {chosen.port} ({why}); choose another port, or 0 for any"
            ) from None
        yield listener


@contextmanager
def _signals(stop: Callable[..., None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop the server, once what it is answering is answered. Elsewhere than in the main thread
    there are none.
    """
    try:
        before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        before = {}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _import() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise SpecError(f"engram serve needs the packages starlette and uvicorn; {install('serve')}") from None


def _uvicorn(app: Any, chosen: ServeSettings) -> Any:
    import uvicorn

    for name in ("uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app, http=_protocol(chosen.connections), ws="none", lifespan="off", loop="asyncio", log_config=None,
        access_log=False, proxy_headers=False, server_header=False, date_header=True,
        timeout_keep_alive=IDLE_SECONDS, timeout_graceful_shutdown=GRACE_SECONDS,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )  # fmt: skip
    return uvicorn.Server(config)


def _protocol(most: int) -> Any:
    """uvicorn's protocol, with a time limit on heads, at most so many connections, and refusals in JSON."""
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Guarded(H11Protocol):
        late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > most:
                self._close(503, f"{most:,} connections are open already; close one, or wait")
            else:
                self._expect()

        def connection_lost(self, exc: Exception | None) -> None:
            self._arrived()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            # A head that is still on its way is given the time from its first byte on, not from its last.
            if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
                self._expect()
            elif self.conn.their_state is not h11.IDLE:
                self._arrived()

        def _expect(self) -> None:
            if self.late is None:
                self.late = self.loop.call_later(HEAD_SECONDS, self._refuse)

        def _arrived(self) -> None:
            if self.late is not None:
                self.late.cancel()
                self.late = None

        def _refuse(self) -> None:
            if not self.transport.is_closing():
                self._close(408, f"the head of the request did not arrive within {HEAD_SECONDS:g} seconds")

        def send_400_response(self, msg: str) -> None:
            self._close(400, f"this is no request of HTTP/1.1, or its head has more than {HEAD_BYTES:,} bytes")

        def _close(self, status: int, sentence: str) -> None:
            body = json.dumps({"error": sentence}).encode()
            head = f"HTTP/1.1 {status} \r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            self.transport.write(f"{head}Connection: close\r\n\r\n".encode() + body)
            self.transport.close()

    return Guarded
