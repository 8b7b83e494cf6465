"""The ledger of an external memory: what is known of its entries, read once from the store and kept as NumPy."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from engram.agents.mind import MindSpec
from engram.agents.policy import Mind
from engram.agents.statistics import in_network
from engram.external.memory import Entries
from engram.precision import in_32_bits
from engram.runners.common import PROGRAMS


class Known(NamedTuple):
    """What is known of one entry."""

    value: float  # in units of reward
    origin: tuple[int, int, int]  # environment, its episode, step of it; -1 where the kind does not keep it
    age: int | None  # writes since it was written
    reads: float | None  # attention it received while training
    seen: PyTree  # the newest frame of its observation; None where none is kept


@dataclass(frozen=True)
class Ledger:
    """Entries by id.

    Fields:
      entries: of every id. live: which ids name an entry. in_q: their values in units of Q as the network learns it.
      ages: writes since each was written; None where the kind does not keep it. reads: the attention each received.
    """

    entries: Entries
    live: Any
    in_q: Float[np.ndarray, "ids"]
    ages: Int[np.ndarray, "ids"] | None
    reads: Float[np.ndarray, "ids"] | None

    @classmethod
    def of(cls, spec: MindSpec, mind: Mind) -> "Ledger":
        """What the memory of a mind holds."""
        return _read(spec, mind)

    @property
    def capacity(self) -> int:
        """How many ids there are."""
        return len(self.live)

    def worth(self, ids: Int[np.ndarray, "*ids"]) -> Float[np.ndarray, "*ids"]:
        """What these entries say, in units of Q as the network learns it; 0 for -1."""
        return np.where(ids >= 0, self.in_q[np.maximum(ids, 0)], 0.0)

    def entry(self, id: int) -> Known:
        """What is known of one entry."""
        origin = self.entries.origin[id].tolist()
        seen = self.entries.observation
        return Known(
            float(self.entries.value[id]),
            (origin[0], origin[1], origin[2]),
            None if self.ages is None else int(self.ages[id]),
            None if self.reads is None else float(self.reads[id]),
            None if seen is None else jax.tree.map(lambda leaf: leaf[id, -1], seen),
        )


@in_32_bits
def _read(spec: MindSpec, mind: Mind) -> Ledger:
    recall: Any = mind.recall
    external, store = mind.network.external, recall.store
    kept, in_q, live = jax.tree.map(np.asarray, _program(spec)(mind))
    table = getattr(store, "entries", store)  # chunks hold a table
    per_id = getattr(getattr(table, "live", None), "size", 0) == external.capacity
    keeps = per_id and all(hasattr(table, name) for name in ("written", "clock", "attention"))
    ages = np.asarray(table.clock - table.written).reshape(-1) if keeps else None
    reads = np.asarray(table.attention).reshape(-1) if keeps else None
    return Ledger(kept, live, in_q.astype(np.float64), ages, reads)


@lru_cache(maxsize=PROGRAMS)
def _program(spec: MindSpec) -> Callable[[Mind], Any]:
    """Compiled: every entry, what it says in units of Q, and which ids name one."""

    def run(mind: Mind) -> Any:
        recall: Any = mind.recall
        external, ids = mind.network.external, jnp.arange(mind.network.external.capacity, dtype=jnp.int32)
        entries = external.fetch(recall.store, ids)
        return entries, in_network(spec, mind.network.scales, entries.value), external.holds(recall.store, ids)

    return jax.jit(run)
