"""What a cluster costs on one machine, and what would saturate first on many.

    python -m benchmarks.speed.cluster --fresh                 everything; needs the extra distributed
    python -m benchmarks.speed.cluster --fresh --parts read    the read alone, without Ray

Parts:
  read        one read of 500,000 entries here (`external=episodic`, compiled), of a shard of 500,000 in this process,
              and of two shards of 500,000 in processes of Ray: median of `--repeats`; the time that merging takes
  rows        the request that brings the replay rows of one batch, from two shards in this process and in two of Ray
  throughput  steps per second of CartPole-v1, preset auto: the host runner with one and two environments, two actors,
              and two actors whose replay rows are in two shards
  pong        the same of ALE/Pong-v5 where the simulator takes most of the time: preset double-dqn, an update every 64
              steps (needs the extra atari)
  model       from these figures, on paper: 64 actors and 16 shards, a learner alone on its machine

Two actors on two cores beside the learner can only take time from it: what is shown is the price, not a speed-up.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import Record, add_flags

WIDTH, TABLES, K = 64, 2, 50
ENTRIES = 500_000  # of a shard, and of the table here
QUERIES = (1, 32, 64)
ACTORS, SHARDS = 64, 16  # of the model
STORED, REQUESTS = 20_000, 50  # rows of a replay in shards; requests that are timed together
BATCHES = {  # dtype and shape of a row's observation, examples of a batch, rows of an example
    "CartPole": ("float32", (4,), 64, 2),
    "MinAtar": ("bool", (10, 10, 6), 32, 2),
    "windows of MinAtar": ("bool", (10, 10, 6), 16, 41),
}
RUNS = (  # name, environments, actors, shards
    ("host", 1, 0, 0),
    ("host, two environments", 2, 0, 0),
    ("two actors", 2, 2, 0),
    ("two actors, two shards", 2, 2, 2),
)
TASKS: dict[str, dict[str, Any]] = {
    "throughput": {"env": "CartPole-v1"},
    "pong": {"env": "ALE/Pong-v5", "preset": "double-dqn", "learn_every": 64, "replay__capacity": 10_000},
}


def median(function: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Seconds: median, least and greatest, after one call that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return {"median": statistics.median(times), "least": min(times), "greatest": max(times)}


def unit(count: int, seed: int) -> np.ndarray:
    """Keys of length 1."""
    key = np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)
    return key / np.linalg.norm(key, axis=1, keepdims=True)


def read_here(queries: int, repeats: int) -> dict[str, float]:
    """The read of one table here, compiled."""
    import dataclasses

    import jax
    import jax.numpy as jnp

    from engram.external.episodic import EpisodicSpec

    spec = EpisodicSpec(capacity=ENTRIES, neighbours=K)
    memory = spec.build(WIDTH, TABLES, 0, jax.random.PRNGKey(0))
    key = jnp.asarray(unit(ENTRIES, 0).reshape(TABLES, -1, WIDTH))
    store = memory.init()
    store = dataclasses.replace(store, key=key, length=(key**2).sum(-1), live=jnp.ones_like(store.live))
    read = jax.jit(jax.vmap(lambda store, query: memory.read(store, query).q, in_axes=(None, 0)))
    asked = jnp.asarray(unit(queries, 9))
    return median(lambda: read(store, asked).block_until_ready(), repeats)


def a_shard(shard: int, shards: int) -> Any:
    """A shard of ENTRIES entries."""
    from engram.cluster.shard import Shape, Shard

    one = Shard(Shape(shard, shards, TABLES, ENTRIES // TABLES, WIDTH))
    key = unit(ENTRIES, shard).reshape(TABLES, -1, WIDTH)
    one.columns["key"], one._length = key, (key**2).sum(-1)
    one.columns["written"] = 1 + shard + shards * np.arange(ENTRIES, dtype=np.int64).reshape(TABLES, -1)
    size = (TABLES, ENTRIES // TABLES, 2)
    one.columns["hash"] = np.random.default_rng(shard).integers(1 << 32, size=size, dtype=np.uint32)
    one.filled[:] = ENTRIES // TABLES
    one.moment = shards * ENTRIES
    return one


def reads(options: argparse.Namespace, ray: bool) -> dict[str, Any]:
    """Seconds of a read in each way, by the number of queries; sizes of messages."""
    from engram.cluster.merging import merged

    found: dict[str, Any] = {"here": {}, "shard": {}, "ray": {}, "merge": {}, "bytes": {}}
    shards = [a_shard(one, 2) for one in range(2)]
    for count in QUERIES:
        asked = unit(count, 9)
        found["here"][str(count)] = read_here(count, options.repeats)
        found["shard"][str(count)] = median(
            lambda asked=asked: shards[0].read(asked, K, shards[0].moment), options.repeats
        )
        answers = [one.read(asked, K, one.moment) for one in shards]
        found["merge"][str(count)] = median(lambda answers=answers: merged(answers, K), options.repeats)
        with_keys = shards[0].read(asked, K, shards[0].moment, keys=True)
        sizes = [sum(column.nbytes for column in answer) for answer in (answers[0], with_keys)]
        found["bytes"][str(count)] = {"query": asked.nbytes, "answer": sizes[0], "answer with keys": sizes[1]}
    if ray:
        found["ray"] = reads_by_ray(options, shards)
    return found


def reads_by_ray(options: argparse.Namespace, shards: list[Any]) -> dict[str, dict[str, float]]:
    """Two shards in processes of Ray."""
    from engram.cluster import epochs
    from engram.cluster.memory import ShardedMemory
    from engram.cluster.shards import Holding, Shards
    from engram.run import rays

    shapes = [one.shape for one in shards]
    with tempfile.TemporaryDirectory() as folder:
        epoch = [epochs.Kept(epochs.write(one, Path(folder)), None) for one in shards]
        cluster = rays.join("local", 2)
        place = rays.RayShards(cluster, [Holding(shape) for shape in shapes], Path(folder))
        memory = ShardedMemory(Shards(place, 2, 120.0), shapes)
        memory.shards.open(epoch)
        try:
            return {
                str(count): median(lambda count=count: memory.read(unit(count, 9), K, memory.moment), options.repeats)
                for count in QUERIES
            }
        finally:
            place.close()
            cluster.close()  # the next part needs one of another size


def rows(options: argparse.Namespace, ray: bool) -> dict[str, Any]:
    """Seconds of a request for a batch of rows, with the rows of one step on their way to the shards."""
    from engram.cluster.replay import ShardedReplay
    from engram.cluster.rows import RowShape
    from engram.cluster.shards import Here, Holding, Keeping, Shards
    from engram.run import rays

    found: dict[str, Any] = {}
    cluster = rays.join("local", 2) if ray else None
    for name, (kind, size, batch, span) in BATCHES.items():
        shapes = [RowShape(one, 2, 2, STORED // 2, (("observation", kind, size),)) for one in range(2)]
        holdings = [Holding(rows=shape) for shape in shapes]
        places: dict[str, Any] = {"here": Here(lambda one, _, held=holdings: Keeping(held[one], None), 2)}
        if cluster is not None:
            places["ray"] = rays.RayShards(cluster, holdings, None)
        found[name] = {"bytes": batch * span * int(np.prod(size)) * np.dtype(kind).itemsize}
        for where, place in places.items():
            replay = ShardedReplay(Shards(place, 2, 120.0), shapes)
            fill(replay, kind, size)
            found[name][where] = median(partial(requests, replay, kind, size, batch, span), options.repeats)
        if cluster is not None:
            places["ray"].close()
    if cluster is not None:
        cluster.close()
    return found


def fill(replay: Any, kind: str, size: tuple[int, ...]) -> None:
    """Every place of both lanes."""
    rows = np.arange(STORED // 2)
    for lane in range(2):
        replay.store(np.full(len(rows), lane), rows, [np.zeros((len(rows), *size), kind)])
    replay.flush()


def requests(replay: Any, kind: str, size: tuple[int, ...], batch: int, span: int) -> None:
    """REQUESTS of them, each with two rows that are written once more."""
    random = np.random.default_rng(0)
    for number in range(REQUESTS):
        replay.store(np.arange(2), np.full(2, number), [np.zeros((2, *size), kind)])
        first = random.integers(STORED // 2 - span, size=(batch, 1)) + np.arange(span)
        replay.fetch(np.repeat(random.integers(2, size=batch), span), first.reshape(-1))


def throughput(task: dict[str, Any], steps: int, envs: int, actors: int, shards: int = 0) -> dict[str, Any]:
    """Steps per second of processor and wall, after what compiles."""
    with tempfile.TemporaryDirectory() as folder:
        return throughput_in(folder, task, steps, envs, actors, shards)


def throughput_in(folder: str, task: dict[str, Any], steps: int, envs: int, actors: int, shards: int) -> dict[str, Any]:
    """See `throughput`; a folder for what shards would save."""
    from engram.run.trainer import Trainer

    settings: dict[str, Any] = task | {
        "replay__start": 500,
        "envs": envs,
        "evaluate_every": 0,
        "log_every": 1 << 20,
        "save_every": 1 << 20,
    }
    if actors:
        settings |= {"actors": actors}
    if shards:
        settings |= {"shards": shards, "run": folder}
    with Trainer(seed=1, steps=steps, progress=False, **settings) as trainer:
        runner: Any = trainer.runner
        runner.advance(steps // 4, lambda: False)
        before, began, processor = runner.steps, time.perf_counter(), time.process_time()
        runner.advance(steps, lambda: False)
        seconds, of_learner = time.perf_counter() - began, time.process_time() - processor
        report = runner.report()
        ledger = getattr(runner, "ledger", None)
        size = None if ledger is None else sent_bytes(runner)
    return {
        "steps": runner.steps - before,
        "steps_per_second": (runner.steps - before) / seconds,
        "learner_processor_seconds": of_learner,
        "learner_waited": report.get("learner_waited"),
        "actor_lag": report.get("actor_lag"),
        "bytes_of_a_block": size,
        "steps_of_a_block": None if ledger is None else ledger.steps,
    }


def sent_bytes(runner: Any) -> int:
    """Bytes of the arrays of a block of one actor."""
    import jax

    waiting = [one for blocks in runner.ledger.waiting() for one in blocks]
    if not waiting:
        runner.capture()
        waiting = [one for blocks in runner.ledger.waiting() for one in blocks]
    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(waiting[0].content.block))


def model(parts: dict[str, Any]) -> dict[str, Any]:
    """On paper: what each part of a run would take for 64 actors and 16 shards, in steps per second that it allows.

    Every figure is one of those measured, or stated here. The learner's network is one gigabit a second (125 MB/s).
    """
    two = parts["throughput two actors"]
    network, read = 125e6, parts["read"]
    per_step = two["bytes_of_a_block"] / two["steps_of_a_block"]
    updates_every = 4  # steps, as is assumed
    learner = two["steps"] / max(two["learner_processor_seconds"], 1e-9)
    merge = read["merge"]["64"]["median"] * SHARDS / 2
    shard = read["shard"]["64"]["median"]
    answer = read["bytes"]["64"]
    frames = 84 * 84 + 24  # of a step of a game: its frame once, and the small columns
    return {
        "learner, by its processor time": learner,
        "network into the learner, CartPole": network / per_step,
        "network into the learner, frames of 84 x 84": network / frames,
        "reads: merging 16 answers of 64 queries": updates_every / merge,
        "reads: network, 16 answers of 64 queries": updates_every * network / (SHARDS * answer["answer"]),
        "reads: network, the same with keys": updates_every * network / (SHARDS * answer["answer with keys"]),
        "reads: a shard of 500,000, one read of 64 at a time": updates_every / shard,
        "what 64 actors collect, if each is as fast as one of two here": ACTORS / 2 * two["steps_per_second"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["read", "rows", *TASKS, "model"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--no-ray", action="store_true")
    add_flags(parser, "cluster")
    options = parser.parse_args()
    sizes = {"entries": ENTRIES, "width": WIDTH, "k": K}
    record = Record(options, {**sizes, "repeats": options.repeats, "steps": options.steps})
    if "read" in options.parts and "read" not in record.parts:
        record.put("read", reads(options, not options.no_ray))
    if "rows" in options.parts and "rows" not in record.parts:
        record.put("rows", rows(options, not options.no_ray))
    for part, task in TASKS.items():
        for name, *how in RUNS if part in options.parts else ():
            if f"{part} {name}" not in record.parts:
                record.put(f"{part} {name}", throughput(task, options.steps, *how))
    if "model" in options.parts:
        record.put("model", model(record.parts))


if __name__ == "__main__":
    main()
