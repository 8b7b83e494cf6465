"""What a read and a write of each external memory cost as entries grow, and how many of the nearest entries it finds.

    python -m benchmarks.memory.memory_cost   every kind and peer, 3 sizes, 2 kinds of keys: about 1 hour
    python -m benchmarks.memory.memory_cost --kinds chunked,floor --entries 10000 --repeats 5 --out /tmp/quick.json
    python -m benchmarks.memory.memory_cost --keys learned.npy --out /tmp/learned.json     keys of a run, [keys width]

64 numbers per key (a file's own width), 50 neighbours, one action, at each kind's defaults otherwise. *Read* is one
compiled call for a batch of 1 or 32 queries, with attention, values and confidence; the peers only search. *Recall* is
the share of the 50 nearest entries among those read, over 64 queries. *Writes* are blocks of new entries into a memory
that is full, so that every one has another evicted; each call waits for the one before.

`chunked` has places for 4/3 of the entries, which is what it needs to hold about as many (`live`). `product-key` stores
no keys: it has the nearest even square of slots, and its recall is of the best slots by its own scores. HNSW of FAISS
cannot remove, so that its writes only add. `floor` is the time to read all keys once, at the bytes per second of the
better of a copy and a sum of a large array. Peers live in `.benchmarks/index`, installed once.

Each part runs in a process of its own. `benchmarks/memory/memory_bandwidth.py` measures the exact read on any device.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.memory.memory_bandwidth import bandwidth, timed
from benchmarks.peers import machine, memory_keys
from benchmarks.peers.environments import InstallFault, interpreter
from benchmarks.record import HERE, ROOT, WORK, Record, add_flags, surroundings

K, BATCHES, BLOCKS, FILL = 50, (1, 32), (1, 8, 256, 1024), 1024
OWN = ("episodic", "chunked", "product-key")
PEERS = ("faiss-flat", "faiss-hnsw", "faiss-ivf", "usearch")


def built(kind: str, entries: int, width: int, **more: Any) -> Any:
    """A memory of one action for so many entries."""
    import jax

    from engram.external.chunked import ChunkedSpec
    from engram.external.episodic import EpisodicSpec
    from engram.external.product_key import ProductKeySpec

    if kind == "episodic":
        spec: Any = EpisodicSpec(capacity=entries, neighbours=K, **more)
    elif kind == "chunked":
        size = ChunkedSpec().size
        spec = ChunkedSpec(capacity=-(-entries * 4 // 3 // size) * size, neighbours=K, **more)
    else:
        spec = ProductKeySpec(codes=round(entries**0.5), neighbours=K, **more)
    return spec.build(width, 1, 0, jax.random.PRNGKey(0))


def writer(memory: Any) -> Callable[[Any, Any, Any], Any]:
    """(store, keys, number of the first) -> store: a compiled write of new entries, whose origins are their numbers."""
    import jax
    import jax.numpy as jnp

    from engram.external.memory import Entries

    def write(memory, store, keys, first):
        count = len(keys)
        numbers = first + jnp.arange(count, dtype=jnp.int32)
        entries = Entries(
            key=keys,
            action=jnp.zeros(count, jnp.int32),
            features=jnp.zeros((count, 0)),
            value=numbers.astype(jnp.float32),
            td_error=jnp.ones(count),
            hash=jnp.stack([numbers, numbers], 1).astype(jnp.uint32),
            origin=jnp.stack([numbers] * 3, 1),
        )
        return memory.write(store, entries, jnp.ones(count, bool))

    compiled = jax.jit(write, donate_argnums=1)
    return lambda store, keys, first: compiled(memory, store, keys, np.int32(first))


def filled(kind: str, memory: Any, keys: np.ndarray) -> tuple[Any, float]:
    """The store after all keys were written, and how many went in per second, compilation apart."""
    import jax

    # Evicting by what was read sorts the table; while it fills nothing is evicted, and the store is the same.
    quick = built(kind, len(keys), keys.shape[1], eviction="oldest") if kind == "episodic" else memory
    write, store = writer(quick), quick.init()
    store = write(store, keys[:FILL], 0)
    jax.block_until_ready(store)
    began = time.perf_counter()
    whole = len(keys) // FILL * FILL
    for start in range(FILL, whole, FILL):
        store = write(store, keys[start : start + FILL], start)
    jax.block_until_ready(store)
    rate = (whole - FILL) / (time.perf_counter() - began) if whole > FILL else 0.0
    return (write(store, keys[whole:], whole) if whole < len(keys) else store), rate


def recall_of(kind: str, memory: Any, store: Any, entries: np.ndarray, keys: np.ndarray, queries: np.ndarray) -> float:
    """Of the ids that were read, [queries k]."""
    if kind == "product-key":
        return own_recall(memory, store, entries, queries)
    inner = store.entries if kind == "chunked" else store
    numbers, live = np.asarray(inner.origin[0, :, 0]), np.asarray(inner.live[0])
    held = np.flatnonzero(live)
    expected = numbers[held][memory_keys.nearest(keys[numbers[held]], queries, K)]
    return memory_keys.recall(expected, np.where(entries < 0, -1, numbers[entries]))


def own_recall(memory: Any, store: Any, entries: np.ndarray, queries: np.ndarray) -> float:
    """Against the scores of all pairs of codes, for 8 queries."""
    codes, expected = np.asarray(memory.codes), []
    for query in (queries[:8] - np.asarray(store.mean)) / np.sqrt(np.asarray(store.variance)):
        query = (query - query.mean()) / np.sqrt(query.var() + 1e-5)
        first, second = (part @ half for part, half in zip(codes, np.split(query, 2), strict=True))
        expected.append(np.argpartition(-(first[:, None] + second).reshape(-1), K - 1)[:K])
    return memory_keys.recall(np.stack(expected), entries[:8])


def measure(kind: str, keys_of: str, entries: int, repeats: int) -> dict[str, Any]:
    """In a process of its own: what one of Engram's kinds costs."""
    import jax

    count = -(-entries * 4 // 3) if kind == "chunked" else entries
    keys = memory_keys.draw(keys_of, count, 0, entries)
    queries = memory_keys.draw(keys_of, memory_keys.QUERIES, 1, entries)
    memory = built(kind, entries, keys.shape[1])
    store, rate = filled(kind, memory, keys)
    part: dict[str, Any] = {"fill_per_second": rate, "bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(store))}
    part["live"] = int(store.live.sum())
    if kind == "product-key":  # every slot known, so that what it reads is what it chose
        store = store._replace(writes=store.writes + 1)
    read = jax.jit(lambda memory, store, queries: jax.vmap(memory.read, (None, 0))(store, queries))
    found = read(memory, store, queries)
    part["recall"] = recall_of(kind, memory, store, np.asarray(found.entries)[:, 0, 0], keys, queries)
    one = jax.jit(lambda memory, store, query: memory.read(store, query))
    part["read_seconds"] = {
        "1": timed(lambda: one(memory, store, queries[0]).q, repeats),
        "32": timed(lambda: read(memory, store, queries[:32]).q, repeats),
    }
    write, part["write_seconds"], first = writer(memory), {}, 10 * entries
    for block in BLOCKS:
        seconds = []
        for number in range(repeats + 1):
            new = keys[number * block % (len(keys) - block) :][:block]
            began = time.perf_counter()
            store = write(store, new, first)
            jax.block_until_ready(store)
            seconds.append(time.perf_counter() - began)
            first += block
        part["write_seconds"][str(block)] = seconds[1:]
    return part


def child(kind: str, keys_of: str, entries: int, repeats: int) -> dict[str, Any]:
    """`measure`, or that of a peer, in a new process."""
    if kind in PEERS:
        words = [str(interpreter("index", WORK)), str(HERE / "peers" / "index_run.py"), "--kind", kind]
    else:
        words = [sys.executable, "-m", "benchmarks.memory.memory_cost", "--one", kind]
    words += ["--keys", keys_of, "--entries", str(entries), "--repeats", str(repeats)]
    done = subprocess.run(words, capture_output=True, text=True, env=surroundings(), cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"exit code {done.returncode} from: {' '.join(words)}\n{done.stderr.strip()[-1_000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def floor(entries: int, repeats: int, width: int) -> dict[str, Any]:
    """Seconds to read all keys once."""
    rates = bandwidth(repeats)
    best = max(median(rates["copy"]), median(rates["sum"]))
    seconds = [entries * width * 4 / best]
    return {"live": entries, "recall": 1.0, "read_seconds": {"1": seconds, "32": seconds}, "bytes_per_second": rates}


def table(parts: dict[str, Any]) -> str:
    """Markdown: medians of every part."""
    heads = ["kind", "keys", "entries", "live", "recall@50", "read 1 [ms]", "read 32 [ms]"]
    heads += [f"writes/s in blocks of {block}" for block in BLOCKS]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for part in parts.values():
        reads = [f"{1e3 * median(part['read_seconds'][str(batch)]):.3f}" for batch in BATCHES]
        writes = [
            f"{block / median(part['write_seconds'][str(block)]):,.0f}" if "write_seconds" in part else "-"
            for block in BLOCKS
        ]
        cells = [part["kind"], part["keys"], f"{part['entries']:,}", f"{part['live']:,}", f"{part['recall']:.3f}"]
        lines.append(f"| {' | '.join([*cells, *reads, *writes])} |")
    return "\n".join(lines)


def draw(folder: Path, parts: dict[str, Any], names: list[str]) -> None:
    """A picture for each kind of keys."""
    from benchmarks.pictures import draw_costs

    for keys_of in sorted({part["keys"] for part in parts.values()}):
        mine = [part for part in parts.values() if part["keys"] == keys_of]
        lines = {
            name: [
                (part["entries"], 1e3 * median(part["read_seconds"]["1"]), part["recall"])
                for part in mine
                if part["kind"] == name
            ]
            for name in names
        }
        title = f"One read of 50 neighbours, 64 numbers per key, {Path(keys_of).stem} keys"
        draw_costs(folder / f"memory-cost-{Path(keys_of).stem}.png", title, lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join([*OWN, *PEERS, "floor"]), help="separated by commas")
    parser.add_argument("--entries", default="10000,100000,1000000", help="separated by commas")
    parser.add_argument("--keys", default="clustered,unclustered", help="clustered, unclustered or FILE.npy, by commas")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "img", help="folder of the pictures")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    add_flags(parser, "memory-cost")
    options = parser.parse_args()
    sizes = [int(entries) for entries in options.entries.split(",")]
    if options.one:
        print(json.dumps(measure(options.one, options.keys, sizes[0], options.repeats)))
        return 0
    names, key_kinds = options.kinds.split(","), options.keys.split(",")
    unknown = [name for name in names if name not in (*OWN, *PEERS, "floor")]
    if unknown:
        parser.error(f"no kind is called {unknown[0]!r}; known: {', '.join([*OWN, *PEERS, 'floor'])}")
    # Kinds, sizes and keys may be added to a file later; what is not the same work may not.
    record = Record(options, {"neighbours": K, "repeats": options.repeats})
    for keys_of in key_kinds:
        for entries in sizes:
            for kind in names:
                name = f"{kind} {Path(keys_of).name} {entries}"
                if name in record.parts:
                    continue
                watch = machine.Watch.start()
                try:
                    if kind == "floor":
                        width = memory_keys.draw(keys_of, 1, 0, entries).shape[1]
                        part = floor(entries, options.repeats, width)
                    else:
                        part = child(kind, keys_of, entries, options.repeats)
                except InstallFault as fault:
                    raise SystemExit(str(fault)) from fault
                part |= {"kind": kind, "keys": keys_of, "entries": entries}
                record.put(name, part | watch.stop())
                print(f"{name} done", file=sys.stderr, flush=True)
    record.summarize({name: 1e3 * median(part["read_seconds"]["1"]) for name, part in record.parts.items()})
    print(table(record.parts))
    foreign = max(part["cores_foreign"] or 0 for part in record.parts.values())
    print(f"\nMilliseconds and rates are medians. Foreign cores: up to {foreign:.2f} of {os.cpu_count()}.")
    draw(options.images, record.parts, names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
