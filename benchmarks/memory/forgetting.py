"""A thousand deletions from each kind of external memory, each against a memory that was written without the entries.

    python -m benchmarks.memory.forgetting                     1,000 deletions of each kind: some minutes
    python -m benchmarks.memory.forgetting --deletions 50 --out /tmp/quick.json

A deletion takes entries out that were drawn at random: a share of 3, 20, 50 or 90 % of all. The memory beside it is
made anew, by writing those that remain (`engram.testing.forgetting`). What is compared is every number of a read at so
many queries, half of them keys that were written: Q, weights, confidence and ids, bit for bit. *Different* are
deletions of which any number differs; *ulp* is the greatest distance of two Q. The stores are full, or nearly, and a
quarter of what was written came twice.
"""

import argparse
import time
from typing import Any

from benchmarks.record import Record, add_flags

WIDTH, ACTIONS, QUERIES, ROWS, AT_ONCE = 8, 3, 16, 24, 50
PARTS = ("q", "weights", "confidence", "entries")
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "episodic": ("episodic", {"capacity": 192, "neighbours": 10}),
    "episodic, oldest": ("episodic", {"capacity": 192, "neighbours": 10, "eviction": "oldest"}),
    "episodic, merge": ("episodic", {"capacity": 192, "neighbours": 10, "eviction": "merge"}),
    "episodic, dot": ("episodic", {"capacity": 192, "neighbours": 10, "kernel": "dot"}),
    "episodic, multi-head": ("episodic", {"capacity": 192, "neighbours": 10, "kernel": "multi-head", "heads": 2}),
    "chunked": ("chunked", {"capacity": 768, "size": 16, "probes": 4, "neighbours": 10}),
    "chunked, full": ("chunked", {"capacity": 192, "size": 16, "probes": 2, "neighbours": 10}),
    "product-key": ("product-key", {"codes": 8, "neighbours": 10}),
    "graph": ("graph", {"capacity": 192, "neighbours": 10, "every": 8}),
    "votes": ("votes", {"capacity": 192, "neighbours": 10}),
    "votes, merge": ("votes", {"capacity": 192, "neighbours": 10, "eviction": "merge"}),
}


def blocks(count: int) -> Any:
    """Random entries [count, ROWS, ...]; a quarter of the blocks comes twice."""
    import jax
    import jax.numpy as jnp

    from engram.external.memory import Entries

    keys = jax.random.split(jax.random.PRNGKey(0), 7)
    shape, again = (count, ROWS), jnp.where(jnp.arange(count) % 4 == 3, jnp.arange(count) - 2, jnp.arange(count))
    hashes = jax.random.bits(keys[0], (*shape, 2), jnp.uint32)[again]
    return Entries(
        key=jax.random.normal(keys[1], (*shape, WIDTH))[again],
        action=jax.random.randint(keys[2], shape, 0, ACTIONS)[again],
        features=jnp.zeros((*shape, 0)),
        value=jax.random.normal(keys[3], shape),
        td_error=jax.random.normal(keys[4], shape),
        hash=hashes,
        origin=jnp.stack([jnp.zeros(shape, jnp.int32), *jnp.indices(shape, jnp.int32)], -1),
        reward=jax.random.normal(keys[5], shape),
        discount=jnp.full(shape, 0.9),
        following=jnp.roll(hashes, -1, 1),
    )


def case(kind: str, numbers: dict[str, Any], deletions: int) -> dict[str, Any]:
    """So many deletions of one memory."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import engram.agents.presets  # noqa: F401, registers every kind
    from engram import registry
    from engram.testing.forgetting import cells_written_anew, written_anew

    memory = registry.find("external", kind)(**numbers).build(WIDTH, ACTIONS, 0, jax.random.PRNGKey(1))
    given = blocks(12)
    queries = jnp.concatenate(
        [given.key[0, : QUERIES // 2], jax.random.normal(jax.random.PRNGKey(2), (QUERIES // 2, WIDTH))]
    )
    look = jax.jit(jax.vmap(lambda store: jax.vmap(lambda query: memory.read(store, query))(queries)))
    write = jax.jit(lambda store, block: memory.write(store, block, jnp.ones(ROWS, bool)))
    store = memory.init()
    for number in range(12):
        store = write(store, jax.tree.map(lambda leaf, number=number: leaf[number], given))
    if kind == "product-key":
        stream = jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0] * ROWS, *leaf.shape[2:]), given)
        both = jax.jit(jax.vmap(lambda gone: cells_written_anew(memory, stream, gone)))
    else:
        both = jax.jit(jax.vmap(lambda gone: (store, written_anew(memory, store, gone))))
    forget = jax.jit(jax.vmap(memory.forget))
    generator, different, ulps, lost, seconds = np.random.default_rng(3), 0, 0, 0, 0.0
    began = time.perf_counter()
    for _ in range(-(-deletions // AT_ONCE)):
        share = generator.choice([0.03, 0.2, 0.5, 0.9], (AT_ONCE, 1))
        gone = jnp.asarray(generator.random((AT_ONCE, memory.capacity)) < share)
        whole, anew = both(gone)
        started = time.perf_counter()
        found = jax.block_until_ready(forget(whole, gone))
        seconds += time.perf_counter() - started
        one, other = look(found), look(anew)
        # A chunked memory that cannot be written anew without giving entries up keeps its chunks instead.
        fits = (np.asarray(found.held) == np.asarray(anew.held)) | (kind != "chunked")
        lost += int((~fits).sum())
        equal = np.all([_same(getattr(one, part), getattr(other, part)) for part in PARTS], axis=0)
        different += int((~equal & fits).sum())
        bits = (np.asarray(each.q)[fits].view(np.int32).astype(np.int64) for each in (one, other))
        ulps = max(ulps, int(np.abs(np.subtract(*bits)).max(initial=0)))
    count = -(-deletions // AT_ONCE) * AT_ONCE
    return {
        "deletions": count,
        "held": int(store.held),
        "different": different,
        "ulp": ulps,
        "kept their chunks": lost,
        "seconds a deletion, of many at once": seconds / count,
        "seconds": time.perf_counter() - began,
    }


def _same(one: Any, other: Any) -> Any:
    """Which rows are equal, bit for bit."""
    import numpy as np

    return (np.asarray(one) == np.asarray(other)).reshape(len(one), -1).all(1)


def main() -> None:
    """Measures what is asked for and is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deletions", type=int, default=1000, help="of each kind")
    add_flags(parser, "forgetting")
    options = parser.parse_args()
    record = Record(options, {"deletions": options.deletions, "queries": QUERIES, "width": WIDTH, "actions": ACTIONS})
    for name, (kind, numbers) in CASES.items():
        if name not in record.parts:
            record.put(name, {"kind": kind, "settings": numbers} | case(kind, numbers, options.deletions))
            print(name, record.parts[name], flush=True)
    parts = record.parts.values()
    total = {name: sum(part[name] for part in parts) for name in ("deletions", "kept their chunks", "different")}
    record.summarize(total | {"compared": total["deletions"] - total["kept their chunks"]})


if __name__ == "__main__":
    main()
