"""What an index of another library costs, in its own environment; prints one JSON line.

    .benchmarks/index/bin/python benchmarks/peers/index_run.py --kind faiss-hnsw --keys clustered --entries 10000

Settings are the libraries' usual ones: HNSW and usearch with 16 links and 64 candidates in a search, HNSW with 40 while
building; IVF with sqrt(entries) lists, 16 of them searched, trained on at most 100,000 keys.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import memory_keys
import numpy as np

K, BATCHES, BLOCKS = 50, (1, 32), (1, 8, 256, 1024)
KINDS = ("faiss-flat", "faiss-hnsw", "faiss-ivf", "usearch")


class Index:
    """One interface for all: add, replace the oldest, search. Keys have numbers, the oldest the lowest."""

    def __init__(self, kind: str, keys: np.ndarray):
        self.kind, self.first, self.next = kind, 0, 0
        width = keys.shape[1]
        if kind == "usearch":
            from usearch.index import Index as USearch

            self.index = USearch(ndim=width, metric="l2sq", dtype="f32", connectivity=16, expansion_search=64)
            return
        import faiss

        self.faiss = faiss
        if kind == "faiss-hnsw":
            self.index = faiss.IndexHNSWFlat(width, 16)
            self.index.hnsw.efSearch, self.index.hnsw.efConstruction = 64, 40
        elif kind == "faiss-ivf":
            lists = int(len(keys) ** 0.5)
            self.index = faiss.IndexIVFFlat(faiss.IndexFlatL2(width), width, lists)
            self.index.train(keys[np.random.default_rng(0).permutation(len(keys))[:100_000]])
            self.index.nprobe = 16
        else:
            self.index = faiss.IndexFlatL2(width)

    def add(self, keys: np.ndarray) -> None:
        numbers = np.arange(self.next, self.next + len(keys))
        self.next += len(keys)
        if self.kind == "usearch":
            self.index.add(numbers, keys)
        elif self.kind == "faiss-ivf":
            self.index.add_with_ids(keys, numbers)
        else:
            self.index.add(keys)

    def replace(self, keys: np.ndarray) -> None:
        """As many of the oldest removed as are added. FAISS cannot remove from HNSW: there they are only added."""
        numbers = np.arange(self.first, self.first + len(keys))
        if self.kind == "usearch":
            self.index.remove(numbers)
            self.first += len(keys)
        elif self.kind == "faiss-ivf":
            self.index.remove_ids(self.faiss.IDSelectorRange(int(numbers[0]), int(numbers[-1]) + 1))
            self.first += len(keys)
        elif self.kind == "faiss-flat":  # numbered by place: the first are always the oldest
            self.index.remove_ids(self.faiss.IDSelectorRange(0, len(keys)))
        self.add(keys)

    def search(self, queries: np.ndarray) -> np.ndarray:
        if self.kind == "usearch":
            return np.asarray(self.index.search(queries, K).keys).reshape(len(queries), -1)
        return self.index.search(queries, K)[1]


def timed(work: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each repeat, after one that does not count."""
    work()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return found


def measure(kind: str, keys_of: str, entries: int, repeats: int) -> dict[str, Any]:
    """As `memory_cost.py` measures Engram's own."""
    keys = memory_keys.draw(keys_of, entries, 0, entries)
    queries = memory_keys.draw(keys_of, memory_keys.QUERIES, 1, entries)
    began = time.perf_counter()
    index = Index(kind, keys)
    for start in range(0, entries, 10_000):
        index.add(keys[start : start + 10_000])
    part: dict[str, Any] = {"live": entries, "fill_per_second": entries / (time.perf_counter() - began)}
    found = index.search(queries)
    part["recall"] = memory_keys.recall(memory_keys.nearest(keys, queries, K), found)
    part["read_seconds"] = {str(b): timed(lambda b=b: index.search(queries[:b]), repeats) for b in BATCHES}
    part["write_seconds"] = {
        str(block): timed(lambda block=block: index.replace(keys[:block]), min(repeats, 5)) for block in BLOCKS
    }
    return part


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--keys", default="clustered")
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    print(json.dumps(measure(options.kind, options.keys, options.entries, options.repeats)))
