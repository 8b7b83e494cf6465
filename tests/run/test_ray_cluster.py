"""Runs on a real Ray cluster of two simulated machines, and what becomes of them when parts of it fail.

One cluster serves all of these tests: it takes half a minute to begin.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engram.errors import EngramError
from engram.external.sharded import LINKS
from engram.run import rays
from engram.run.cluster import LINK
from engram.run.trainer import Trainer

pytestmark = pytest.mark.slow
ENV = "CartPole-v1"
SMALL: dict[str, Any] = {
    "preset": "nec", "steps": 512, "save_every": 256, "log_every": 128, "evaluate_every": 0, "group": 2, "seed": 5,
    "replay__capacity": 600, "replay__batch_size": 8, "replay__start": 64, "learn_every": 4, "encoder__widths": (8,),
    "external__capacity": 400, "external__neighbours": 5, "recall__n_step": 5, "actors": 2, "shards": 2,
}  # fmt: skip


def needs_ray() -> None:
    """Without importing it: it reads its environment as it is imported."""
    if find_spec("ray") is None:
        pytest.skip("the extra distributed is not installed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of a head and one more machine, with a token, which this process has joined."""
    needs_ray()
    before = dict(os.environ)
    rays._check_token("local")
    os.environ |= {**rays.SETTINGS, rays.MODE: "token"}
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 6, "object_store_memory": 200 << 20, "include_dashboard": False},
    )
    ray.init(made.address, namespace="engram", log_to_driver=False, configure_logging=False)
    yield made
    ray.shutdown()
    made.shutdown()
    os.environ.clear()
    os.environ |= before


def trainer(folder: Path, **changes: Any) -> Trainer:
    return Trainer(ENV, run=folder, progress=False, **{**SMALL, **changes})


def pid_of(handle: Any) -> int:
    import ray

    return ray.get(handle.__ray_call__.remote(lambda self: os.getpid()), timeout=120)


def test_two_actors_and_two_shards_resumed_are_as_if_they_had_not_stopped(cluster: Any, tmp_path: Path):
    with trainer(tmp_path / "whole") as one:
        whole = one.learn().state_digest()
    with trainer(tmp_path / "again") as one:
        one.learn(256)
    with Trainer(run=tmp_path / "again", resume=True, progress=False) as one:
        assert one.steps == 256
        assert one.learn().state_digest() == whole


def test_actors_and_shards_that_die_hang_or_are_slow_cost_what_is_named_and_nothing_else(
    cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    import ray

    caplog.set_level(logging.WARNING, "engram")
    with trainer(tmp_path, worker_timeout=15.0, steps=4096, save_every=256) as one:
        one.learn(256)
        runner: Any = one.runner
        crew, memory = runner._crew, LINKS[LINK]
        account = runner.ledger.account

        ray.kill(crew.handles[0])  # an actor is killed
        one.learn(128)
        assert (account.restarts, runner.ledger.incarnations) == (1, [1, 0])

        os.kill(pid_of(crew.handles[1]), signal.SIGSTOP)  # an actor hangs
        one.learn(128)
        assert runner.ledger.incarnations == [1, 1]
        assert any("it sent no block within 15 s" in record.message for record in caplog.records)

        ray.kill(memory.shards.place.handles[1])  # type: ignore[attr-defined]  # a shard is killed
        one.learn(128)
        assert [one.shard for one in memory.shards.lost] == [1]  # type: ignore[attr-defined]
        assert min(memory.shards.lost[0][1:]) > 0  # type: ignore[attr-defined]  # entries and rows
        assert memory.shards.gone == set()  # type: ignore[attr-defined]

        lost = len(memory.shards.lost)  # type: ignore[attr-defined]
        memory.shards.place.handles[0].sleep.remote(60)  # type: ignore[attr-defined]  # a shard is slow
        began = time.monotonic()
        found = memory.read(np.zeros((2, memory.shapes[0].width), np.float32), 3, memory.moment)  # type: ignore[attr-defined]
        assert found.silent == (0,)
        assert 14 < time.monotonic() - began < 40
        one.learn(64)
        assert len(memory.shards.lost) == lost + 1  # type: ignore[attr-defined]
        assert runner.ledger.balances
        assert account.accepted_steps == one.steps
        assert runner.capture().meta["repeatable"] is False


def test_replay_rows_in_shards_of_other_processes_are_learned_from_whatever_their_number(cluster: Any, tmp_path: Path):
    settings = {name: value for name, value in SMALL.items() if not name.startswith(("external", "recall"))}
    found = []
    for shards in (1, 3):
        with Trainer(
            ENV, run=tmp_path / str(shards), progress=False, **{**settings, "preset": "auto", "shards": shards}
        ) as one:
            runner: Any = one.learn().runner
            arrays = runner.capture().arrays
            assert runner._replay.fetches > 50
            assert runner._replay.missing == 0
            found.append({name: array for name, array in arrays.items() if name.startswith("agent.")})
    assert [name for name in found[0] if not np.array_equal(found[0][name], found[1][name])] == []


def test_a_machine_that_is_lost_takes_its_actors_and_the_run_goes_on(cluster: Any, tmp_path: Path):
    import ray

    node = cluster.add_node(num_cpus=4)
    cluster.wait_for_nodes()
    with trainer(tmp_path, worker_timeout=30.0, actors=4, envs=4, shards=0, learn_every=4) as one:
        one.learn(128)
        homes = [ray.get(handle.__ray_call__.remote(_node), timeout=60) for handle in one.runner._crew.handles]  # type: ignore[attr-defined]
        gone = [actor for actor, home in enumerate(homes) if home == node.node_id]
        cluster.remove_node(node, allow_graceful=False)
        one.learn(256)
        ledger = one.runner.ledger  # type: ignore[attr-defined]
        assert [actor for actor in range(4) if ledger.incarnations[actor]] == gone
        assert ledger.balances
        assert ledger.account.accepted_steps == one.steps


def _node(_: object) -> str:
    import ray

    return ray.get_runtime_context().get_node_id()


LEARNER = """
import json, sys
from engram.run.trainer import Trainer
settings = json.loads(sys.argv[3])
with Trainer("CartPole-v1", run=sys.argv[1], cluster=sys.argv[2], progress=False, **settings) as one:
    one.learn(256)
    print("saved", flush=True)
    one.learn(50_000)
"""


def test_a_learner_that_is_killed_leaves_nothing_behind_and_resumes_from_its_checkpoint(cluster: Any, tmp_path: Path):
    """Its actors and shards end with it, though nobody told them: their owner is gone."""
    import ray

    long = {**SMALL, "steps": 100_000, "save_every": 100_000, "log_every": 100_000}
    with trainer(tmp_path / "whole", **long) as one:
        whole = one.learn(768).state_digest()
    words = [sys.executable, "-c", LEARNER, str(tmp_path / "run"), cluster.address, json.dumps(long)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any("saved" in line for line in process.stdout)
    process.send_signal(signal.SIGKILL)
    process.wait()
    late = time.monotonic() + 120
    while ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"] and time.monotonic() < late:
        time.sleep(1)
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"]
    with Trainer(run=tmp_path / "run", resume=True, progress=False) as one:
        assert one.steps == 256
        assert one.learn(512).state_digest() == whole


def test_too_small_a_cluster_is_refused_in_a_sentence(cluster: Any, tmp_path: Path):
    with (
        pytest.raises(EngramError, match=r"65 actors and shards need a processor each, and .* has \d+; add machines"),
        trainer(tmp_path, actors=64, envs=64, shards=1, learn_every=64, replay__start=256) as one,
    ):
        one.learn(64)


def test_an_address_where_nothing_answers_is_refused_in_a_sentence(tmp_path: Path):
    needs_ray()
    words = ["train", ENV, "--actors", "2", "--steps", "64", "--cluster", "127.0.0.1:9", "--run", str(tmp_path / "run")]
    environment = {**os.environ, rays.TOKEN: "0" * 64}
    ended = subprocess.run(
        [sys.executable, "-m", "engram", *words], env=environment, capture_output=True, text=True, timeout=280
    )
    assert ended.returncode == 2
    assert "no Ray cluster answers at 127.0.0.1:9" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_ray_listens_on_this_machine_alone(tmp_path: Path):
    """Of all sockets on which processes of a local cluster listen, none is open to other machines."""
    needs_ray()
    script = """
import os, re, subprocess
from engram.run import rays

def mine(line):  # there may be another cluster beside it
    pid = int(re.search(r"pid=(\\d+)", line)[1]) if "pid=" in line else 0
    while pid not in (0, 1, os.getpid()):
        pid = int(re.search(r"PPid:\\s+(\\d+)", open(f"/proc/{pid}/status").read())[1])
    return pid == os.getpid()

one = rays.join("local", 2)
found = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True).stdout.splitlines()
print(*filter(mine, found), sep="\\n")
print("TOKEN", os.environ["RAY_AUTH_MODE"], len(os.environ["RAY_AUTH_TOKEN"]))
one.close()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=280)
    assert "TOKEN token 64" in ended.stdout, ended.stderr[-2000:]
    listening = [line for line in ended.stdout.splitlines() if "ray" in line or "gcs_server" in line]
    assert listening
    here = ("127.0.0.1:", "[::1]:", "[::ffff:127.0.0.1]:")
    assert [line for line in listening if not line.split()[3].startswith(here)] == []
