"""Ray: actors as Ray actors. Nothing else of Engram knows Ray, but for its shards, in `ray_shards.py`.

What Ray promises is not relied on. It does not restart an actor whose owner died, nor any without its state; a node
that is gone may answer for seconds, and its actors be "unavailable" for longer. So nothing is restarted by Ray: whoever
does not answer in time is killed and made anew, and blocks and orders are numbered. All of it ends with this process:
actors that nobody owns any more are ended by Ray.

Ray sends objects between its processes by pickle, behind its token. Engram sends plain values through it.
"""

import os
import secrets
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from engram.cluster.blocks import Name, Sent
from engram.cluster.memory import ShardedMemory
from engram.cluster.shards import Holding, Shards
from engram.errors import SpecError, install, told
from engram.external.sharded import LINKS
from engram.run.cluster import LINK, LOCAL, make_collecting
from engram.run.ray_shards import ClusterError, RayShards, Reading, check_versions, of_ray, versions, why
from engram.runners.cluster import ActorGone
from engram.runners.collecting import Beginning, Collecting

START_SECONDS = 300.0  # that a process of the cluster may take until its first answer: it loads and compiles
REACHED_SECONDS = 10.0  # that a connection to another machine may take
GRACE = 5.0  # seconds that a block which was sent in time may take to be fetched from another machine
STORE_BYTES = 512 << 20  # of the object store of a cluster that is begun here
# The usual 10 s for its first process are too few on a busy machine. Nothing is sent to anybody. And under `uv run` Ray
# would pack the working directory, and begin its processes in an environment that uv makes of it, perhaps without Ray.
SETTINGS = {
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# Without this Ray takes 127.0.0.1 for the machine's outer address, and listens on all of them.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
TOKEN, TOKEN_FILE, MODE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"


class Cluster:
    """Ray, as this process is joined to it."""

    def __init__(self, ray: Any, own: bool, description: str):
        self.ray, self.own, self.description = ray, own, description

    def close(self) -> None:
        """Leaves it; one that was begun here ends."""
        if self.own:
            self.ray.shutdown()


def join(address: str, processes: int) -> Cluster:
    """Begins a cluster on this machine (`local`), or joins the one at an address, with room for so many processes.

    Where this process has joined one already, such as in a test, that is used. Raises ClusterError, SpecError.
    """
    if find_spec("ray") is None:
        raise SpecError(f"actors need Ray, which is not installed; {install('distributed')}")
    if not _has_joined():
        _check_reachable(address)
        _check_token(address)  # Ray reads what it finds in the environment as it is imported
        os.environ |= {**SETTINGS, **os.environ, MODE: "token", **(LOOPBACK if address == LOCAL else {})}
        _read_again(address)
    import ray  # pyright: ignore[reportMissingImports], of the extra `distributed`

    if ray.is_initialized():
        return _checked(Cluster(ray, False, "the cluster that this process has joined"), processes)
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "namespace": "engram"}
    try:
        if address == LOCAL:
            size = {"num_cpus": max(processes + 1, os.cpu_count() or 1), "object_store_memory": STORE_BYTES}
            ray.init("local", include_dashboard=False, _node_ip_address="127.0.0.1", **size, **quiet)
        else:
            ray.init(address, **quiet)
    except Exception as error:
        raise ClusterError(_not_joined(address, error)) from None
    where = "on this machine, at 127.0.0.1 alone" if address == LOCAL else f"at {address}"
    return _checked(Cluster(ray, True, f"a Ray cluster {where}"), processes)


def carry(
    address: str, text: str, actors: int, holdings: Sequence[Holding], folder: Path | None, seconds: float
) -> "tuple[RayCrew, RayShards | None]":
    """The actors and shards of a run, where there are any of these. `text` is what actors are told."""
    cluster = join(address, actors + len(holdings))
    try:
        shards = RayShards(cluster, holdings, folder) if holdings else None
        return RayCrew(cluster, text, actors, seconds, shards), shards
    except BaseException:
        cluster.close()
        raise


def _has_joined() -> bool:
    """Whether this process is joined to a cluster, without loading Ray to find out."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def _read_again(address: str) -> None:
    """Where somebody imported Ray before, it has read its environment already."""
    if "ray" in sys.modules:
        with suppress(ImportError, AttributeError):
            inner = import_module("ray._raylet")
            inner.AuthenticationTokenLoader.instance().reset_cache()
            inner.Config.initialize("")
            constants: Any = import_module("ray._private.ray_constants")
            constants.ENABLE_RAY_CLUSTER = address != LOCAL


def _check_token(address: str) -> None:
    """A token for a cluster of this machine's own; for another, SpecError where there is none to show."""
    path = os.environ.get(TOKEN_FILE) or str(Path.home() / ".ray" / "auth_token")
    if os.environ.get(TOKEN) or Path(path).is_file():
        return
    if address == LOCAL:
        os.environ[TOKEN] = secrets.token_hex(32)
        return
    raise SpecError(
        f"the cluster at {address} asks for a token, and there is none here; put that of the cluster into {path}, or "
        f"name its file in {TOKEN_FILE}"
    )


def _check_reachable(address: str) -> None:
    """ClusterError where nothing listens at HOST:PORT. Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(_not_joined(address, error)) from None


def _not_joined(address: str, error: Exception) -> str:
    text, name = str(error), type(error).__name__
    if "ersion mismatch" in text or "different version" in text.lower():
        return (
            f"the cluster at {address} has another version of Ray or Python than this machine; install the same on both"
        )
    if "Authentication" in name or "token" in text.lower():
        return f"the cluster at {address} refuses the token of this machine; use that which it was begun with"
    if address == LOCAL:
        return f"Ray could not begin a cluster on this machine ({told(error)}); try again when it is less busy"
    return (
        f"no Ray cluster answers at {address} ({told(error)}); name one as HOST:PORT, where ray start --head was "
        f"called, or use --cluster local"
    )


def _checked(cluster: Cluster, processes: int) -> Cluster:
    """ClusterError for a cluster that has too few processors for as many processes."""
    there = int(cluster.ray.cluster_resources().get("CPU", 0))
    if there < processes:
        cluster.close()
        raise ClusterError(
            f"{processes} actors and shards need a processor each, and {cluster.description} has {there}; add machines "
            f"to it, or take fewer"
        )
    return cluster


class RemoteActor:
    """A Ray actor that collects."""

    def __init__(self, text: str, number: int, incarnation: int, timeout: float):
        self._made = text, number, incarnation, timeout
        self._collecting: Collecting | None = None

    def versions(self) -> dict[str, str]:
        """See `versions`."""
        return versions()

    def begin(self, beginning: Beginning) -> None:
        """See `Collecting.begin`."""
        self._collecting = make_collecting(*self._made)
        self._collecting.begin(beginning)

    def collect(self, name: Name, version: int, steps: int, mind: list[np.ndarray], shards: Any = None) -> Sent:
        """See `Collecting.collect`. `shards`: handles and shapes, where an external memory is in some."""
        assert self._collecting is not None
        if shards is None:
            return self._collecting.collect(name, version, steps, mind)
        handles, shapes, seconds = shards
        LINKS[LINK] = memory = ShardedMemory(Shards(Reading(handles), len(shapes), seconds), shapes)
        try:
            sent = self._collecting.collect(name, version, steps, mind)
        except Exception as error:  # JAX says only that a callback failed
            raise memory.shards.problem or error from None
        return sent._replace(partial=memory.partial_reads)

    def capture(self) -> Any:
        """See `Collecting.capture`."""
        assert self._collecting is not None
        return self._collecting.capture()


class RayCrew:
    """Actors of a cluster: see `runners.cluster.Crew`."""

    def __init__(self, cluster: Cluster, text: str, actors: int, seconds: float, shards: "RayShards | None" = None):
        self._cluster, self._ray, self._text, self._seconds = cluster, cluster.ray, text, seconds
        self._shards = shards
        self._remote = self._ray.remote(RemoteActor).options(num_cpus=1, max_restarts=0)
        self.handles: list[Any] = [None] * actors
        self._minds: dict[int, Any] = {}
        self._asked: dict[Any, Name] = {}
        self._late: list[float] = [0.0] * actors
        self._proven: list[bool] = [False] * actors
        self._first: dict[Any, int] = {}  # what actors that were just made are to answer before their first block

    @property
    def description(self) -> str:
        """See Crew."""
        return self._cluster.description

    def make(self, actor: int, incarnation: int, beginning: Beginning) -> None:
        """See Crew."""
        if (old := self.handles[actor]) is not None:
            self._ray.kill(old, no_restart=True)
        self._asked = {ref: name for ref, name in self._asked.items() if name.actor != actor}
        self._first = {ref: one for ref, one in self._first.items() if one != actor}
        handle = self._remote.remote(self._text, actor, incarnation, self._seconds)
        self.handles[actor], self._proven[actor] = handle, False
        self._first |= {handle.versions.remote(): actor, handle.begin.remote(beginning): actor}
        self._late[actor] = time.monotonic() + START_SECONDS

    def publish(self, version: int, mind: Sequence[np.ndarray]) -> None:
        """See Crew."""
        try:
            self._minds[version] = self._ray.put(list(mind))
        except Exception as error:
            raise (of_ray(error) or error) from None

    def forget(self, version: int) -> None:
        """See Crew."""
        self._minds = {one: ref for one, ref in self._minds.items() if one >= version}

    def ask(self, name: Name, version: int, steps: int) -> None:
        """See Crew."""
        if not any(one.actor == name.actor for one in self._asked.values()):
            self._late[name.actor] = time.monotonic() + self._patience(name.actor)
        mind = self._minds[version if version in self._minds else max(self._minds)]
        shards = None if self._shards is None else self._shards.reading(self._seconds)
        ref = self.handles[name.actor].collect.remote(name, version, steps, mind, shards)
        self._asked[ref] = name

    def _patience(self, actor: int) -> float:
        return self._seconds if self._proven[actor] else max(START_SECONDS, self._seconds)

    def wait(self) -> list[Sent | ActorGone]:
        """See Crew."""
        while True:
            refs = [*self._first, *self._oldest()]
            if not refs:
                raise ClusterError(
                    "a block is owed that no actor was asked for; resume the run from its last checkpoint"
                )
            owing = {name.actor for name in self._asked.values()} | set(self._first.values())
            left = min((self._late[actor] for actor in owing), default=0.0) - time.monotonic()
            ready, _ = self._ray.wait(refs, num_returns=1, timeout=max(min(GRACE, self._seconds), left))
            if not ready:
                late = [actor for actor in owing if self._late[actor] <= time.monotonic()]
                if late and not any(self._proven):
                    raise ClusterError(
                        f"no actor began within {START_SECONDS:g} s; see what Ray says in /tmp/ray/session_latest/logs "
                        f"on its machine, or try again when the machines are less busy"
                    )
                return [ActorGone(actor, f"it sent no block within {self._patience(actor):g} s") for actor in late]
            ready, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)  # all that are there, in their order
            if events := [event for ref in ready if (event := self._arrived(ref)) is not None]:
                return events

    def _oldest(self) -> list[Any]:
        """Of each actor the block that comes next. The one after it may be here sooner, from another machine."""
        oldest: dict[int, Any] = {}
        for ref, name in self._asked.items():
            oldest.setdefault(name.actor, ref)
        return list(oldest.values())

    def _arrived(self, ref: Any) -> Sent | ActorGone | None:
        if ref in self._first:
            actor = self._first.pop(ref)
            try:
                check_versions(self._ray.get(ref) or {}, versions())  # `begin` gives nothing, or what went wrong
            except self._ray.exceptions.RayError as error:
                return self._gone(actor, error)
            return None
        name = self._asked.pop(ref, None)
        if name is None:  # of an actor that was found to be gone in this round of events
            return None
        try:
            sent = self._ray.get(ref, timeout=self._seconds)
        except self._ray.exceptions.RayError as error:
            return self._gone(name.actor, error)
        self._proven[name.actor] = True
        self._late[name.actor] = time.monotonic() + self._seconds
        return sent

    def _gone(self, actor: int, error: Exception) -> ActorGone:
        if (problem := of_ray(error)) is not None:
            raise problem from None
        self._asked = {ref: name for ref, name in self._asked.items() if name.actor != actor}
        self._first = {ref: one for ref, one in self._first.items() if one != actor}
        return ActorGone(actor, why(error))

    def capture(self, actor: int) -> Any:
        """See Crew."""
        if self.handles[actor] is None:
            return None
        try:
            # What it could not begin with is told here, and not that it has nothing to capture.
            self._ray.get([ref for ref, one in self._first.items() if one == actor], timeout=START_SECONDS)
            return self._ray.get(self.handles[actor].capture.remote(), timeout=START_SECONDS)
        except self._ray.exceptions.RayError as error:
            return self._gone(actor, error)

    def close(self) -> None:
        """See Crew."""
        for handle in self.handles:
            if handle is not None:
                self._ray.kill(handle, no_restart=True)
        if self._shards is not None:
            self._shards.close()
        self._cluster.close()
