"""Rereading: what would have been chosen had the external memory not held some of its entries.

The memory is really read again, by the query that was asked, from a store in which the entries are hidden. So weights
are shared out anew, the next nearest entry takes a free place, and the memory's share falls where confidence does. The
network's own estimate needs no second pass: it does not depend on the memory.
"""

from functools import lru_cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from engram.agents.mind import MindSpec
from engram.agents.policy import Mind
from engram.agents.recall.keys import Query
from engram.agents.recall.reading import answered
from engram.external.forgetting import hide
from engram.precision import in_32_bits
from engram.runners.common import PROGRAMS
from engram.types import Decision

AT_ONCE = 32  # reads of one compiled step: more would only need more room


def at(tree: PyTree, step: Any) -> PyTree:
    """One step of what has a leading axis of steps."""
    return jax.tree.map(lambda leaf: leaf[step], tree)


@in_32_bits
def without(
    spec: MindSpec,
    mind: Mind,
    query: Query,
    decision: Decision,
    steps: Int[np.ndarray, "asked"],
    hidden: Int[np.ndarray, "asked most"],
) -> Float[np.ndarray, "asked actions"]:
    """The preference of every action at each of these steps, had the memory not held the hidden entries (-1: none).

    `query` and `decision` have a leading axis [steps], as they were recorded.
    """
    if len(steps) == 0:
        return np.zeros((0, decision.returns.atoms.shape[1]), np.float32)
    padded = max(AT_ONCE, 1 << (len(steps) - 1).bit_length())  # a few sizes only: each is compiled
    more = padded - len(steps)
    steps = np.concatenate([steps, np.zeros(more, steps.dtype)])
    hidden = np.concatenate([hidden, np.full((more, hidden.shape[1]), -1, hidden.dtype)])
    found = _reread(spec)(mind, query, decision, jnp.asarray(steps, jnp.int32), jnp.asarray(hidden, jnp.int32))
    return np.asarray(found)[: len(steps) - more]


@lru_cache(maxsize=PROGRAMS)
def _reread(spec: MindSpec) -> Any:
    def run(mind: Mind, query: Query, decision: Decision, steps: Array, hidden: Array) -> Float[Array, "asked actions"]:
        def one(asked: tuple[Int[Array, ""], Int[Array, "most"]]) -> Float[Array, "actions"]:
            step, ids = asked
            recall: Any = mind.recall
            store = hide(mind.network.external, recall.store, ids)
            seen, known = at(query, step), at(decision, step)
            other = eqx.tree_at(lambda state: state.store, recall, store)
            return answered(spec, other, mind.network, seen, known).preference

        return jax.lax.map(one, (steps, hidden), batch_size=AT_ONCE)

    return jax.jit(run)
