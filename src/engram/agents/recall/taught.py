"""Entries made of demonstrations: what somebody else did, and what it came to, with the keys of today's network.

The rows of the demonstrations are gone through in turn, a few at each moment of learning. An entry that is met again
gets a fresh key, so that its key is never older than one turn. This is how a translation memory is filled: one entry
for each token of each reference (Khandelwal et al. 2021, arXiv 2010.00710), but while the network learns.
"""

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from engram.agents.network import Network
from engram.agents.recall.keys import query_of
from engram.agents.recall.line import whatever_its_nan
from engram.agents.recall.state import RecallState
from engram.agents.statistics import as_learned, in_reward, unscaled
from engram.bits import fingerprint
from engram.external.memory import Entries
from engram.losses.returns import discounts, n_step
from engram.replay import sampling
from engram.replay.ring import Ring

if TYPE_CHECKING:
    from engram.agents.spec import AgentSpec

SHOWN = -1  # in the place of an environment: nobody of ours did this


def taught(
    spec: "AgentSpec", network: Network, target: Network, ring: Ring, state: RecallState, turn: Int[Array, ""]
) -> RecallState:
    """The state with the entries of the next few rows of the demonstrations in `ring`.

    `turn` counts these calls. What follows the rewards of an entry is worth what the network says, as when acting.
    """
    count = spec.recall.demonstrations
    written = jnp.maximum(ring.cursor[0], 1)
    rows = ((turn % written) * count + jnp.arange(count)) % written
    columns, known = jax.vmap(partial(_entry, spec, network, target, ring, state))(rows)
    return dataclasses.replace(state, store=network.external.write(state.store, Entries(**columns), known))


def _entry(
    spec: "AgentSpec", network: Network, target: Network, ring: Ring, state: RecallState, row: Int[Array, ""]
) -> tuple[dict[str, Any], Bool[Array, ""]]:
    """The columns of the entry of one row, and whether there is one: final rows make none."""
    lane, n = jnp.int32(0), spec.recall.n_step
    rows = sampling.rows_from(ring, row, lane, n + 1)
    powers = discounts(spec.discount, n)
    reward = unscaled(network.scales, as_learned(spec, network.scales, rows.reward[:-1]))
    step = n_step(reward, rows.terminated[:-1], rows.is_first[1:], powers)
    observe = partial(sampling.stacked, ring, lane=lane, stack=spec.observation.stack, unknown=spec.may_be_blank)
    frames, following = observe(row), observe(row + step.offset)
    decision, after = network(frames, network.still), network(following, network.still)
    # The discount of an end is 0, and what follows it may be minus infinity.
    worth = jnp.where(step.discount > 0, in_reward(spec, network.scales, after.value), 0.0)
    value, action = step.reward + step.discount * worth, rows.action[0]
    query = query_of(spec, state.projection, network, target, frames, decision.working.vector)
    origin = jnp.stack([jnp.int32(SHOWN), jnp.int32(SHOWN), row])
    situation = fingerprint(whatever_its_nan(spec, frames))
    entry = {
        "key": jax.lax.stop_gradient(query.key),
        "action": action,
        "features": jnp.zeros(0) if query.offered is None else query.offered[action],
        "value": value,
        "td_error": value - in_reward(spec, network.scales, decision.returns.q[action]),
        # As when acting: what follows equal observations is not to be averaged for `successors`.
        "hash": fingerprint((situation, origin)) if spec.asks == "successors" else situation,
        "origin": origin,
        "observation": frames if spec.kept_columns else None,
        "reward": step.reward,
        "discount": step.discount,
        "successor": following if "successor" in spec.kept_columns else None,
        "following": fingerprint(whatever_its_nan(spec, following)),
    }
    return entry, ~rows.is_first[1]
