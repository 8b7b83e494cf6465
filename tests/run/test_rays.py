"""What a user is told where Ray is absent, refuses or fails: one sentence each. None of these needs a cluster."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from engram.cluster.shard import Shape
from engram.cluster.shards import Count, Holding, ShardGone
from engram.errors import EngramError, EnvironmentFault, SpecError
from engram.run import ray_shards, rays
from engram.run.ray_shards import RemoteShard


def test_where_ray_is_absent_it_is_said_how_to_add_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rays, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"actors need Ray, which is not installed; .*uv sync --extra distributed"):
        rays.join("local", 2)


def test_without_a_token_no_other_cluster_is_joined_and_one_of_our_own_gets_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (rays.TOKEN, rays.TOKEN_FILE):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SpecError, match=r"the cluster at host:6379 asks for a token, and there is none here; put that"):
        rays._check_token("host:6379")
    monkeypatch.setenv(rays.TOKEN, "")  # so that it is taken out again
    rays._check_token("local")
    assert len(os.environ[rays.TOKEN]) == 64
    monkeypatch.delenv(rays.TOKEN)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("a token")
    rays._check_token("host:6379")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("Version mismatch: The cluster was started with: Ray: 2.1"),
            "has another version of Ray or Python",
        ),
        (ConnectionError("Could not find any running Ray instance"), "no Ray cluster answers at host:6379"),
        (type("AuthenticationError", (Exception,), {})("nothing"), "refuses the token of this machine"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_told_in_a_sentence(error: Exception, said: str):
    told = rays._not_joined("host:6379", error)
    assert said in told
    assert told.count(".") <= told.count("Ray: 2.1")


def test_another_version_on_a_machine_of_the_cluster_is_named():
    """Of an actor when it answers first, and of a shard, which is told what the learner has."""
    there = ray_shards.versions() | {"jax": "0.0.1"}
    with pytest.raises(EngramError, match=r"a machine of the cluster has jax 0\.0\.1, and the learner .*; install"):
        ray_shards.check_versions(there, ray_shards.versions())
    ray_shards.check_versions(ray_shards.versions(), ray_shards.versions())
    shape = Shape(0, 1, 2, 10, 3)
    assert RemoteShard(Holding(shape), None, None, ray_shards.versions()).held() == Count(0, 0)
    with pytest.raises(EngramError, match=r"and the learner 0\.0\.1; install the same versions on both"):
        RemoteShard(Holding(shape), None, None, there).held()


class SlowRay:
    """As much of Ray as reading shards asks for: answers are there after so many seconds, or never."""

    exceptions = SimpleNamespace(GetTimeoutError=TimeoutError, RayError=RuntimeError)

    def wait(self, refs: list[float], num_returns: int, timeout: float) -> tuple[list[float], list[float]]:
        assert num_returns == len(refs)
        return [ref for ref in refs if ref <= timeout], [ref for ref in refs if ref > timeout]

    def get(self, ref: float, timeout: float) -> str:
        return f"after {ref} s"


def test_a_shard_that_hangs_takes_none_of_the_time_of_the_others():
    reading = object.__new__(ray_shards.Reading)
    reading._ray = SlowRay()
    hung, *others = reading.answers([(0, 99.0), (1, 0.5), (2, 2.0)], 3.0)
    assert isinstance(hung, ShardGone)
    assert str(hung) == "no answer within 3 s"
    assert others == ["after 0.5 s", "after 2.0 s"]
    assert reading.answers([], 3.0) == []


def raised_by_ray(name: str, cause: Exception | None = None) -> Exception:
    error = type(name, (Exception,), {})("of Ray")
    error.cause = cause  # type: ignore[attr-defined]
    return error


def test_errors_of_ray_are_a_process_that_is_gone_or_a_sentence():
    fault = EnvironmentFault("environment 0, episode 3, step 1: the reward is None")
    assert rays.of_ray(raised_by_ray("RayTaskError", fault)) is fault
    assert "object store of the cluster is full" in str(rays.of_ray(raised_by_ray("ObjectStoreFullError")))
    assert "failed (KeyError: 'x')" in str(rays.of_ray(raised_by_ray("RayTaskError", KeyError("x"))))
    for name in ("ActorDiedError", "ActorUnavailableError", "NodeDiedError", "OwnerDiedError"):
        assert rays.of_ray(raised_by_ray(name)) is None
        assert "\n" not in rays.why(raised_by_ray(name))


def test_where_nothing_listens_no_time_is_spent_on_trying(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rays, "find_spec", lambda name: True)
    for address in ("127.0.0.1:9", "[::1]:9", "127.0.0.1:99999"):
        with pytest.raises(
            rays.ClusterError, match=rf"no Ray cluster answers at {re.escape(address)} \(.*; name one as"
        ):
            rays.join(address, 2)
    rays._check_reachable("local")
