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
from engram.external import forgetting
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
      of_others: what each says of an action that it is no experience of; None where actions read their own entries.
      ages: writes since each was written; None where the kind does not keep it. reads: the attention each received.
    """

    entries: Entries
    live: Any
    in_q: Float[np.ndarray, "ids"]
    ages: Int[np.ndarray, "ids"] | None
    reads: Float[np.ndarray, "ids"] | None
    writes: int | None = None  # in all; None where the kind does not count them
    of_others: Float[np.ndarray, "ids"] | None = None

    @classmethod
    def of(cls, spec: MindSpec, mind: Mind) -> "Ledger":
        """What the memory of a mind holds."""
        return _read(spec, mind)

    @property
    def capacity(self) -> int:
        """How many ids there are."""
        return len(self.live)

    def worth(self, ids: Int[np.ndarray, "*reads rows k"]) -> Float[np.ndarray, "*reads rows k"]:
        """What these entries say in a read, in units of Q as the network learns it; 0 for -1.

        A read has a row for each action, or one for all.
        """
        which = np.maximum(ids, 0)
        said = self.in_q[which]
        if self.of_others is not None:
            taken = np.asarray(self.entries.action)[which]
            said = np.where(taken == np.arange(ids.shape[-2])[:, None], said, self.of_others[which])
        return np.where(ids >= 0, said, 0.0)

    def action(self, id: int) -> int | None:
        """The action that an entry is an experience of, where the read of any action may have it; else None."""
        return None if self.of_others is None else int(self.entries.action[id])

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
    kept, in_q, of_others, live, notes = jax.tree.map(np.asarray, _program(spec)(mind))
    writes = None if notes.writes is None else int(notes.writes)
    others = None if of_others is None else of_others.astype(np.float64)
    return Ledger(kept, live, in_q.astype(np.float64), notes.age, notes.attention, writes, others)


@lru_cache(maxsize=PROGRAMS)
def _program(spec: MindSpec) -> Callable[[Mind], Any]:
    """Compiled: every entry, what it says in units of Q, which ids name one, and what else is known of it."""

    def run(mind: Mind) -> Any:
        recall: Any = mind.recall
        external, ids = mind.network.external, jnp.arange(mind.network.external.capacity, dtype=jnp.int32)
        entries = external.fetch(recall.store, ids)
        in_q = in_network(spec, mind.network.scales, entries.value)
        margin = getattr(external, "margin", None)  # of a memory whose entries vote for their own actions
        others = None if margin is None else in_network(spec, mind.network.scales, entries.value - margin)
        return entries, in_q, others, external.holds(recall.store, ids), forgetting.notes(external, recall.store, ids)

    return jax.jit(run)
