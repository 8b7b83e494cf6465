"""The server's application: which requests there are, who may ask, and what is answered. For Starlette (extra serve).

    POST /act               an observation -> an action, and what it came from
    DELETE /sessions/ID     ends a session
    GET /agent              what is served, and what it expects
    GET /metrics            counts, for Prometheus
    GET /health             whether it answers; the only one that needs no token

Every refusal is a status of 400 to 599 with one sentence in JSON. What goes wrong inside is
logged here and told nobody.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from engram.envs.device import is_device
from engram.serving import observations
from engram.serving.counts import TYPE, Counts
from engram.serving.deciding import Asked, Decided, Decider
from engram.serving.limits import Rate
from engram.serving.refusals import Refusal
from engram.serving.sessions import Session, Sessions
from engram.serving.settings import ServeSettings

NOTES = logging.getLogger("engram")
WRONG_TOKENS = 5.0  # a second from one address
HEADERS, HEAD_BYTES = 100, 16_384  # of a request
DISCARDED = 8 << 20  # bytes of a refused request that are read, so that its sender hears the refusal
PATHS = ("/act", "/sessions", "/agent", "/metrics", "/health")


class Service:
    """What the requests work with.

    Args:
      token: what each request must bring, as bytes.
      name: of what is served, for GET /agent.
    """

    def __init__(self, decider: Decider, sessions: Sessions, token: bytes, name: str, settings: ServeSettings):
        self.decider, self.sessions, self.settings, self.name = decider, sessions, settings, name
        self.counts = Counts()
        self._token = hashlib.sha256(token).digest()
        self._rate = Rate(settings.limit_rate, settings.limit_rate)
        self._open = Rate(settings.limit_rate, settings.limit_rate)  # of /health: who has no token takes nobody's share
        self._wrong = Rate(WRONG_TOKENS, 4 * WRONG_TOKENS)
        self._largest = observations.largest(decider.agent.plan.space)
        self._network = ThreadPoolExecutor(1, "engram-network")
        self._disk = ThreadPoolExecutor(4, "engram-disk")
        self._queue: asyncio.Queue[tuple[Asked, asyncio.Future[Decided]]] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Service":
        self._tasks = [asyncio.create_task(self._decide()), asyncio.create_task(self._sweep())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        self._network.shutdown()
        self._disk.shutdown()
        self.sessions.close()

    # -- who may ask -------------------------------------------------------------------------------------------

    def admit(self, request: Any, needs_token: bool) -> None:
        """Refusal 401 without the token, 429 for too many requests, 431 or 505 for a head that is none of ours.

        uvicorn limits a head only while it is not all there, so one that came at once is measured here.
        """
        scope = request.scope
        if len(scope["headers"]) > HEADERS or sum(len(a) + len(b) for a, b in scope["headers"]) > HEAD_BYTES:
            raise Refusal(431, f"the head of the request has more than {HEADERS} headers or {HEAD_BYTES:,} bytes")
        if scope["http_version"] not in ("1.0", "1.1"):
            raise Refusal(505, "the request is of another version of HTTP; send it in HTTP/1.1")
        address = request.client.host if request.client else ""
        if needs_token and not self._knows(request):
            if (wait := self._wrong.take(address)) > 0:
                raise Refusal(429, "too many requests without the token; wait", Retry_After=_seconds(wait))
            raise Refusal(
                401, "the token is missing or wrong; send the header Authorization: Bearer TOKEN",
                WWW_Authenticate="Bearer",
            )  # fmt: skip
        if (wait := (self._rate if needs_token else self._open).take(address)) > 0:
            told = (
                f"more than {self.settings.limit_rate:g} requests a second came from your address; wait and try again"
            )
            raise Refusal(429, told, Retry_After=_seconds(wait))

    def _knows(self, request: Any) -> bool:
        """Whether the token is there, in a time that tells nothing of it: digests are compared."""
        given = [value for name, value in request.scope["headers"] if name == b"authorization"]
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        same = hmac.compare_digest(hashlib.sha256(token.strip()).digest(), self._token)
        return same and scheme.lower() == b"bearer"

    # -- requests ----------------------------------------------------------------------------------------------

    async def act(self, request: Any) -> bytes:
        """An action for one observation."""
        body = await self._body(request)
        began = time.perf_counter()
        asked = observations.parsed(body)
        most = asked.get("memories", self.settings.memories)
        if not 0 <= most <= 1_000:
            raise Refusal(400, f"memories = {most} was given; expected 0 to 1,000")
        rows = self.decider.reader(asked["observation"])
        digest = hashlib.sha256(body).hexdigest()
        if not self.decider.keeps_state:
            if "session" in asked or "step" in asked:
                raise Refusal(400, "this agent keeps nothing between two observations; leave session and step out")
            answer = _answer(None, None, await self._decided(Asked(rows, None, 0.0)), most)
        else:
            answer = await self._in_session(asked, rows, digest, most)
        self.counts.acted(time.perf_counter() - began)
        return answer

    async def _in_session(self, asked: dict[str, Any], rows: Any, digest: str, most: int) -> bytes:
        begun = "session" not in asked
        if begun and asked.get("step", 0) != 0:
            raise Refusal(409, f"step = {asked['step']} was sent without a session; a new one begins at step 0")
        session = self.sessions.begin() if begun else self.sessions.find(asked["session"])
        if session.busy:
            raise Refusal(409, "an earlier request of this session is still being answered; send one at a time")
        if not begun and asked.get("step") == session.step - 1 and digest == session.request:
            return session.last  # the same request again: its answer was lost on the way
        if asked.get("step", session.step) != session.step:
            raise Refusal(
                409, f"step = {asked['step']} was sent, and the session is at step {session.step}; send that one"
            )
        starts = begun or asked.get("episode_start", False)
        if self.decider.needs_reward and not starts and "reward" not in asked:
            raise Refusal(400, "this agent reads the reward of the step before; send it as reward")
        session.busy = True
        try:
            state = None if starts else session.state
            decided = await self._decided(Asked(rows, state, float(asked.get("reward", 0.0))))
            answer = _answer(session.id, session.step, decided, most)
            following = self.sessions.following(session, decided.state, answer, digest)
            if self.sessions.kept == "disk":
                await asyncio.get_running_loop().run_in_executor(self._disk, self.sessions.store, following)
            self.sessions.put(following)
            return answer
        except BaseException:
            if begun:
                self.sessions.drop(session.id)
            raise
        finally:
            session.busy = False

    async def end(self, request: Any) -> bytes:
        """Ends a session."""
        await self._body(request, (b"",))
        session: Session = self.sessions.find(request.path_params["id"])
        if session.busy:
            raise Refusal(409, "a request of this session is being answered; end it after that")
        self.sessions.drop(session.id)
        return _json({"ended": session.id, "steps": session.step})

    async def agent(self, request: Any) -> bytes:
        """What is served."""
        await self._body(request, (b"",))
        agent, settings = self.decider.agent, self.settings
        return _json({
            "served": self.name,
            "preset": agent.plan.preset,
            "env": agent.plan.env,
            "on_device": bool(agent.plan.env and is_device(agent.plan.env)),
            "step": agent.step,
            "checkpoint": agent.checkpoint,
            "observation": str(agent.plan.space),
            "actions": agent.plan.actions,
            **({"sizes": [*sizes]} if (sizes := agent.minds[0].network.sizes) else {}),
            "needs_session": self.decider.keeps_state,
            "needs_reward": self.decider.needs_reward,
            "sessions": {"kept": self.sessions.kept, "survive_restart": self.sessions.kept == "disk",
                         "expire_seconds": settings.expires, "most": settings.max_sessions},
            "limits": {"bytes": self._largest, "requests_per_second": settings.limit_rate,
                       "seconds_to_arrive": settings.body_seconds, "batch": settings.batch},
        })  # fmt: skip

    async def metrics(self, request: Any) -> bytes:
        """Counts, as text."""
        await self._body(request, (b"",))
        self.sessions.sweep()
        now = {
            "engram_sessions": ("Sessions that run.", float(len(self.sessions))),
            "engram_sessions_expired": (
                "Sessions that ended because they were not used.",
                float(self.sessions.expired),
            ),
            "engram_waiting": ("Requests that wait for the network.", float(self._queue.qsize())),
        }
        return self.counts.text(now).encode()

    async def health(self, request: Any) -> bytes:
        """That it answers."""
        await self._body(request, (b"",))  # one that never comes must not hold a connection
        return _json({"status": "ok"})

    # -- bodies ------------------------------------------------------------------------------------------------

    async def _body(self, request: Any, kinds: tuple[bytes, ...] = (b"application/json",)) -> bytes:
        """The whole body. Refusal 415 for another type, 413 for one too large, 408 for one too slow."""
        headers: dict[bytes, bytes] = dict(request.scope["headers"])
        kind, _, more = headers.get(b"content-type", b"").partition(b";")
        charset = more.strip().lower().replace(b'"', b"")
        refusal = None
        if kinds != (b"",) and (kind.strip().lower() not in kinds or charset not in (b"", b"charset=utf-8")):
            refusal = Refusal(415, "the request is not of the type application/json in UTF-8; send that Content-Type")
        elif b"transfer-encoding" in headers and b"content-length" in headers:
            raise Refusal(400, "the request has a length and chunks, so where it ends is not clear; send one of them")
        elif headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            refusal = Refusal(415, "the request is compressed; send it as it is, without Content-Encoding")
        elif (length := headers.get(b"content-length", b"0")).isdigit() and int(length) > self._largest:
            refusal = self._too_large()
        parts, size = [], 0
        deadline = asyncio.get_running_loop().time() + self.settings.body_seconds
        while True:
            left = deadline - asyncio.get_running_loop().time()
            try:
                message = await asyncio.wait_for(request.receive(), max(left, 0.001))
            except TimeoutError:
                told = f"the request did not arrive within {self.settings.body_seconds:g} seconds; send it faster"
                raise refusal or Refusal(408, told) from None
            if message["type"] == "http.disconnect":
                raise Refusal(400, "the connection ended before the request did")
            size += len(message.get("body", b""))
            if size > self._largest:
                refusal, parts = refusal or self._too_large(), []
            elif refusal is None:
                parts.append(message.get("body", b""))
            if not message.get("more_body") or (refusal and size > DISCARDED):
                break
        if refusal:
            raise refusal
        return b"".join(parts)

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the request has more than {self._largest:,} bytes, which no observation here needs")

    # -- the network -------------------------------------------------------------------------------------------

    async def _decided(self, asked: Asked) -> Decided:
        answer: asyncio.Future[Decided] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((asked, answer))
        return await answer

    async def _decide(self) -> None:
        """Answers what waits, as many together as one call of the network takes."""
        loop = asyncio.get_running_loop()
        while True:
            waiting = [await self._queue.get()]
            while len(waiting) < self.decider.most and not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            try:
                found = await loop.run_in_executor(self._network, self.decider.decide, [one for one, _ in waiting])
            except Exception as error:
                for _, answer in waiting:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            self.counts.batches += 1
            for (_, answer), decided in zip(waiting, found, strict=True):
                if not answer.done():  # whoever asked may have left
                    answer.set_result(decided)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(5.0, self.settings.expires))
            with suppress(OSError):
                self.sessions.sweep()


def _answer(session: str | None, step: int | None, decided: Decided, most: int) -> bytes:
    told = decided.told
    for name in ("memories", "attended_steps"):
        if name in told:
            told = told | {name: told[name][:most]}
    return _json({"session": session, "step": step, **told})


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _seconds(wait: float) -> str:
    return str(max(1, math.ceil(wait)))


# -- for Starlette ---------------------------------------------------------------------------------------------------


def application(service: Service) -> Any:
    """The ASGI application."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.responses import Response
    from starlette.routing import Route

    def refused(refusal: Refusal) -> Any:
        headers = {**refusal.headers, "Connection": "close"}  # what is left of the request is not read
        return Response(_json(refusal.body), refusal.status, headers, "application/json")

    def endpoint(path: str, work: Callable[[Any], Awaitable[bytes]], open_to_all: bool = False) -> Any:
        async def answer(request: Any) -> Any:
            try:
                service.admit(request, not open_to_all)
                found = await work(request)
                response = Response(found, 200, media_type=TYPE if path == "/metrics" else "application/json")
            except Refusal as refusal:
                response = refused(refusal)
            except Exception:
                NOTES.exception("a request to %s failed", path)
                response = refused(Refusal(500, "a fault of the server; its log says more"))
            response.headers["Cache-Control"] = "no-store"
            service.counts.answered(path, response.status_code)
            return response

        return answer

    async def unknown(_: Any, problem: Exception) -> Any:
        status = getattr(problem, "status_code", 404)
        told = {404: f"there is no such path; there are {', '.join(PATHS)}", 405: "this path takes another method"}
        service.counts.answered("other", status)
        headers = dict(getattr(problem, "headers", None) or {})
        return refused(Refusal(status, told.get(status, "the request cannot be answered"), **headers))

    routes = [
        Route("/act", endpoint("/act", service.act), methods=["POST"]),
        Route("/sessions/{id:str}", endpoint("/sessions", service.end), methods=["DELETE"]),
        Route("/agent", endpoint("/agent", service.agent), methods=["GET"]),
        Route("/metrics", endpoint("/metrics", service.metrics), methods=["GET"]),
        Route("/health", endpoint("/health", service.health, open_to_all=True), methods=["GET"]),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: unknown})
    app.router.redirect_slashes = False
    return app
