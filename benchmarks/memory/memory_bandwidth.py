"""How near an exact read of a large memory is to what the device's own memory can deliver.

    python -m benchmarks.memory.memory_bandwidth                     1,000,000 entries on JAX's default device: a minute
    python -m benchmarks.memory.memory_bandwidth --entries 100000 --out /tmp/quick.json

An exact read must see every key once. *Copy* and *sum* are what the device moves when it does nothing else: a copy
reads and writes, both counted; a sum reads. The *fraction* is the bytes of keys, lengths and live marks over the time
of a read, as a share of the copy's bytes per second. Reads are timed as single calls and as 20 in one program, each
waiting for the one before, where starting a program does not count.

The memory is `external=episodic` with one action, 64 numbers per key and 50 neighbours. It needs the repository's
environment and JAX for the device (`pip install "jax[cuda12]"` for NVIDIA), nothing else.
"""

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.record import Record, add_flags

WIDTH, NEIGHBOURS, BATCHES, IN_A_LOOP = 64, 50, (1, 32), 20


def bandwidth(repeats: int, megabytes: int = 256) -> dict[str, list[float]]:
    """Bytes per second of a copy (read and written bytes) and of a sum of one large array."""
    import jax
    import jax.numpy as jnp

    array = jnp.ones(megabytes * 2**20 // 4)
    copy, total = jax.jit(lambda x: x + 1), jax.jit(jnp.sum)
    return {
        "copy": [2 * array.nbytes / found for found in timed(lambda: copy(array), repeats)],
        "sum": [array.nbytes / found for found in timed(lambda: total(array), repeats)],
    }


def timed(work: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each repeat, after one that does not count."""
    import jax

    jax.block_until_ready(work())
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(work())
        found.append(time.perf_counter() - began)
    return found


def full(entries: int) -> tuple[Any, Any]:
    """An episodic memory and its store, full of random keys."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    from engram.external.episodic import EpisodicSpec

    memory = EpisodicSpec(capacity=entries, neighbours=NEIGHBOURS).build(WIDTH, 1, 0, jax.random.PRNGKey(0))
    store = memory.init()
    key = jax.random.normal(jax.random.PRNGKey(1), store.key.shape)
    parts = (key, (key**2).sum(-1), jnp.ones_like(store.live))
    return memory, eqx.tree_at(lambda store: (store.key, store.length, store.live), store, parts)


def measure(entries: int, repeats: int) -> dict[str, Any]:
    """Seconds of reads, one call each and in a loop, by the size of the batch."""
    import jax

    memory, store = full(entries)

    def read(store, queries):
        return jax.vmap(memory.read, (None, 0))(store, queries).q

    def loop(store, queries):  # each read waits for the one before, or XLA could make one product of all
        def once(queries, _):
            return queries + 1e-6 * read(store, queries), None

        return jax.lax.scan(once, queries, None, length=IN_A_LOOP)[0]

    single, many = jax.jit(read), jax.jit(loop)
    found: dict[str, Any] = {"bytes": store.key.nbytes + store.length.nbytes + store.live.nbytes}
    for batch in BATCHES:
        queries = jax.random.normal(jax.random.PRNGKey(2), (batch, WIDTH))
        found[str(batch)] = {
            "call_seconds": timed(lambda queries=queries: single(store, queries), repeats),
            "in_a_loop_seconds": [
                seconds / IN_A_LOOP for seconds in timed(lambda queries=queries: many(store, queries), repeats)
            ],
        }
    return found


def main() -> int:
    import jax

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=20)
    device = jax.devices()[0]
    add_flags(parser, f"memory-bandwidth-{device.platform}")
    options = parser.parse_args()
    settings = {"entries": options.entries, "repeats": options.repeats, "width": WIDTH, "neighbours": NEIGHBOURS}
    record = Record(options, settings | {"device": device.device_kind})
    if "bandwidth" not in record.parts:
        record.put("bandwidth", bandwidth(options.repeats))
    if "read" not in record.parts:
        record.put("read", measure(options.entries, options.repeats))
    rates, read = record.parts["bandwidth"], record.parts["read"]
    copy = median(rates["copy"])
    print(f"{device.device_kind}: copy {copy / 1e9:.1f} GB/s, sum {median(rates['sum']) / 1e9:.1f} GB/s")
    summary = {}
    for batch in BATCHES:
        call, loop = (median(read[str(batch)][name]) for name in ("call_seconds", "in_a_loop_seconds"))
        fraction = read["bytes"] / loop / copy
        summary[str(batch)] = {"call_ms": call * 1e3, "in_a_loop_ms": loop * 1e3, "fraction_of_copy": fraction}
        print(
            f"batch {batch}: {call * 1e3:.3f} ms a call, {loop * 1e3:.3f} ms in a loop; reads its keys at "
            f"{100 * fraction:.0f} % of the copy's bytes per second"
        )
    record.summarize(summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
