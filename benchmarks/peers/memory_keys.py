"""Keys for memories, and the exact answer: in NumPy alone, so that every peer's environment has the same ones."""

from pathlib import Path

import numpy as np

WIDTH, PER_CLUSTER, SPREAD = 64, 500, 0.3
QUERIES = 64


def draw(kind: str, count: int, seed: int, entries: int) -> np.ndarray:
    """`count` keys of 64 numbers, [count, 64] float32.

    `clustered`: around one normally distributed centre for every 500 of the `entries` (always the same ones), each
    number 0.3 from it. `unclustered`: normal, the worst case for any index. A path: rows of an .npy file, in its own
    order, with any width; the last `QUERIES` rows are its queries (`seed` other than 0), never among the entries.
    """
    generator = np.random.default_rng(seed)
    if kind == "unclustered":
        return generator.standard_normal((count, WIDTH), np.float32)
    if kind == "clustered":
        centres = np.random.default_rng(1_000).standard_normal((max(entries // PER_CLUSTER, 1), WIDTH), np.float32)
        chosen = centres[generator.integers(0, len(centres), count)]
        return chosen + np.float32(SPREAD) * generator.standard_normal((count, WIDTH), np.float32)
    rows = np.load(Path(kind), mmap_mode="r", allow_pickle=False)
    if len(rows) < count + QUERIES:
        raise SystemExit(
            f"{kind} has {len(rows)} keys, but {count} entries and {QUERIES} queries were asked for; "
            f"lower --entries to at most {max(len(rows) - QUERIES, 0)}"
        )
    return np.array(rows[:count] if seed == 0 else rows[-count:], np.float32)


def nearest(keys: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Numbers of the k nearest keys to each query, in any order."""
    lengths, found = (keys**2).sum(1), []
    for query in queries:  # one at a time: a block of distances to a million keys would take gigabytes
        distances = lengths - 2 * (keys @ query)
        found.append(np.argpartition(distances, k - 1)[:k])
    return np.stack(found)


def recall(expected: np.ndarray, found: np.ndarray) -> float:
    """The share of the expected that was found."""
    pairs = zip(expected.tolist(), found.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(set(a)) for a, b in pairs]))
