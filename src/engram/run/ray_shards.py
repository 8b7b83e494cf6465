"""Shards as Ray actors, and what Ray's errors say to a user. What else knows Ray is `rays.py`."""

import platform
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from engram.cluster.epochs import Epoch, Kept
from engram.cluster.shard import Shape
from engram.cluster.shards import Count, Holding, Keeping, ShardGone
from engram.errors import EngramError, told


class ClusterError(EngramError):
    """A cluster that is not there, refuses, or cannot take what is asked of it."""


def why(error: Exception) -> str:
    """Why a process of the cluster gives no answer, in few words."""
    known = {
        "ActorDiedError": "its process ended",
        "ActorUnavailableError": "its machine cannot be reached",
        "OwnerDiedError": "the process that it belonged to ended",
        "ObjectLostError": "what it sent was lost with its machine",
        "NodeDiedError": "its machine is gone",
        "OutOfMemoryError": "its machine has too little memory",
        "WorkerCrashedError": "its process crashed",
    }
    return known.get(type(error).__name__, told(error))


def of_ray(error: Exception) -> EngramError | None:
    """What an error of Ray's says to a user; None for one that means a process is gone."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, EngramError):
        return cause
    name = type(error).__name__
    if "ObjectStoreFull" in name or "OutOfDisk" in name or "ObjectStoreFull" in str(error)[:500]:
        return ClusterError(
            "the object store of the cluster is full: blocks or parameters are too large for it; begin Ray with a "
            "larger --object-store-memory, or take a smaller --group"
        )
    if cause is not None:  # what an actor raised by itself
        return ClusterError(f"a process of the cluster failed ({told(cause)}); mend that, then resume the run")
    return None


def versions() -> dict[str, str]:
    """Versions that must be the same in all processes of a run."""
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("jax", "numpy", "engram-rl")},
    }


def check_versions(there: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Raises ClusterError where a process of the cluster has another version than the learner has."""
    for name, version in there.items():
        if here[name] != version:
            raise ClusterError(
                f"a machine of the cluster has {name} {version}, and the learner {here[name]}; install the same "
                f"versions on both"
            )


class RemoteShard:
    """A Ray actor that is a shard: see `Keeping`."""

    def __init__(self, holding: Holding, folder: str | None, epoch: Epoch | None, learner: dict[str, str]):
        """`learner`: its `versions`."""
        self._made = holding, None if folder is None else Path(folder), epoch
        self._learner = learner
        self._opened: Keeping | None = None

    @property
    def _kept(self) -> Keeping:
        """Opened at the first call, whose error reaches the learner; one of `__init__` would only end the process."""
        if self._opened is None:
            check_versions(versions(), self._learner)
            self._opened = Keeping(*self._made)
        return self._opened

    def read(self, queries: np.ndarray, k: int, moment: int, keys: bool) -> Any:
        """See `Keeping.read`."""
        return self._kept.read(queries, k, moment, keys)

    def carry_out(self, order: Any) -> Any:
        """See `Keeping.carry_out`."""
        return self._kept.carry_out(order)

    def keep_rows(self, order: Any) -> None:
        """See `Keeping.keep_rows`."""
        self._kept.keep_rows(order)

    def fetch_rows(self, order: Any, lane: np.ndarray, row: np.ndarray) -> Any:
        """See `Keeping.fetch_rows`."""
        return self._kept.fetch_rows(order, lane, row)

    def write_epoch(self) -> Kept:
        """See `Keeping.write_epoch`."""
        return self._kept.write_epoch()

    def held(self) -> Count:
        """See `Keeping.held`."""
        return self._kept.held()

    def sleep(self, seconds: float) -> None:
        """Answers nothing for so long: for tests."""
        time.sleep(seconds)


class Reading:
    """Shards as an actor reads them: see `shards.Place`."""

    def __init__(self, handles: list[Any]):
        import ray  # pyright: ignore[reportMissingImports], of the extra `distributed`

        self._ray, self.handles = ray, handles

    def ask(self, shard: int, verb: str, *given: Any) -> Any:
        """See Place."""
        return getattr(self.handles[shard], verb).remote(*given)

    def answers(self, handles: Sequence[tuple[int, Any]], seconds: float) -> list[Any]:
        """See Place."""
        if not handles:
            return []
        refs = [ref for _, ref in handles]
        # Together: each of them then has all of the time, and large answers of other machines are fetched meanwhile.
        ready = set(self._ray.wait(refs, num_returns=len(refs), timeout=seconds)[0])
        late = ShardGone(f"no answer within {seconds:g} s")
        return [self._answer(ref, late, seconds) if ref in ready else late for ref in refs]

    def _answer(self, ref: Any, late: ShardGone, seconds: float) -> Any:
        try:
            return self._ray.get(ref, timeout=seconds)
        except self._ray.exceptions.GetTimeoutError:
            return late
        except self._ray.exceptions.RayError as error:
            if (problem := of_ray(error)) is not None:
                raise problem from None
            return ShardGone(why(error))

    def make_anew(self, shard: int, epoch: Epoch | None) -> None:
        """Not by an actor."""
        raise NotImplementedError("the learner makes shards")


class RayShards(Reading):
    """Shards of a cluster, as the learner has them: see `shards.Place`."""

    def __init__(self, cluster: Any, holdings: Sequence[Holding], folder: Path | None):
        super().__init__([None] * len(holdings))
        self._holdings, self._folder = list(holdings), folder
        self._remote = cluster.ray.remote(RemoteShard).options(num_cpus=1, max_restarts=0)
        for shard in range(len(holdings)):
            self.make_anew(shard, None)

    def make_anew(self, shard: int, epoch: Epoch | None) -> None:
        """See Place."""
        if (old := self.handles[shard]) is not None:
            self._ray.kill(old, no_restart=True)
        folder = None if self._folder is None else str(self._folder)
        self.handles[shard] = self._remote.remote(self._holdings[shard], folder, epoch, versions())

    def reading(self, seconds: float) -> tuple[list[Any], list[Shape], float] | None:
        """What an actor needs to read an external memory; None where shards keep none."""
        shapes = [one.memory for one in self._holdings if one.memory is not None]
        # It gives a shard up before it is given up itself.
        return (list(self.handles), shapes, seconds / 3) if shapes else None

    def close(self) -> None:
        """Ends all shards."""
        for handle in self.handles:
            self._ray.kill(handle, no_restart=True)
