"""Forgetting: what an agent remembers without some of its entries, and without what waits to become one.

Covered are the entries of the store, the actions that wait in line for their return, and those of a block of steps that
a runner has not handed over yet. Not covered, because they are no entries:

- the network, which has learned from the same steps, and the rows of a replay;
- the returns of other entries that bootstrapped from an estimate which the memory had a part in;
- the running errors behind `recall.weigh_by_error`, and the overlap behind `recall.refresh`, which are averages;
- what an episode that still runs goes on to do.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from engram.agents.recall.line import LEFT_OUT
from engram.agents.recall.state import RecallState
from engram.external import forgetting


class Waits(NamedTuple):
    """What is known of the actions in line. Axes [n, envs]."""

    origin: Int[np.ndarray, "n envs 3"]  # environment, episode, step of it
    action: Int[np.ndarray, "n envs"]
    due: Bool[np.ndarray, "n envs"]  # whether there is an action here that will be written


def waiting(state: RecallState) -> Waits:
    """The actions that wait for their return, of one seed."""
    line = jax.tree.map(np.asarray, state.line)
    taken = np.arange(line.done.shape[0])[:, None] < np.asarray(state.steps)[None]
    cut = line.done & ~line.terminated
    return Waits(line.origin, line.waiting.action, taken & ~cut & (line.origin[..., 0] != LEFT_OUT))


def forgotten(
    external: Any,
    state: RecallState,
    gone: Bool[Array, "capacity"],
    line: Bool[Array, "n envs"] | None = None,
) -> RecallState:
    """The state of one seed without the entries that are gone, and without the actions of the line that are marked.

    The actions leave the line as before, and what they brought counts in the returns of those before them. They are not
    written. Keys go on to be refreshed from the first entry.
    """
    store = forgetting.forget(external, state.store, gone)
    origin = state.line.origin
    if line is not None:
        origin = jnp.where(line[..., None], LEFT_OUT, origin)
    return dataclasses.replace(
        state, store=store, line=state.line._replace(origin=origin), turn=jnp.zeros_like(state.turn)
    )
