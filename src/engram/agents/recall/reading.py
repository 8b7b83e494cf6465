"""Reading: what the external memory says of an observation, and how much of the estimate is left to it."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from engram.agents.mind import MindSpec
from engram.agents.network import Network
from engram.agents.recall.keys import Query, query_of
from engram.agents.recall.state import RecallState
from engram.agents.statistics import in_network, scaled
from engram.losses.bootstrap import Similar
from engram.types import Decision


def consult(
    spec: MindSpec, state: RecallState, network: Network, target: Network, frames: PyTree, decision: Decision
) -> tuple[Query, Decision]:
    """The query for one stacked observation, and the decision with what the memory says of it and its share."""
    query = query_of(spec, state.projection, network, target, frames, decision.working.vector)
    return query, answered(spec, state, network, query, decision)


def answered(spec: MindSpec, state: RecallState, network: Network, query: Query, decision: Decision) -> Decision:
    """The decision with what the memory answers to a query, and its share."""
    read = network.external.read(state.store, query.key, query.offered)
    read = dataclasses.replace(read, q=in_network(spec, network.scales, read.q))
    certain = read.confidence if spec.recall.confidence == "near" else (read.confidence > 0).astype(jnp.float32)
    share = jax.lax.stop_gradient(spec.recall.max_memory_weight * trust(spec, state) * certain)
    return dataclasses.replace(decision, external=read, share=share)


def trust(spec: MindSpec, state: RecallState) -> Float[Array, ""]:
    """The memory's weight against the network's, by the inverse of their mean squared errors; 1 where not asked for.

    Two unbiased estimates with independent errors are best joined in this proportion.
    """
    network, memory = state.errors
    return network / (network + memory) if spec.recall.weigh_by_error else jnp.ones(())


def similar(state: RecallState, target: Network, read: Any, action: Int[Array, ""]) -> Similar:
    """What followed the entries that a read attended to for one action, valued by the target network."""
    weights = (read.weights[:, action] / read.weights.shape[0]).reshape(-1)  # each head has chosen entries of its own
    ids = read.entries[:, action].reshape(-1)
    entries = target.external.fetch(state.store, ids)
    decide = jax.vmap(partial(target, bits=target.still))
    # A place that holds nothing has no successor: what the network makes of its zeros may be minus infinity.
    value = jnp.where(ids >= 0, decide(entries.successor).preference.max(-1), 0.0)
    reward = scaled(target.scales, entries.reward)
    return Similar(weights, reward, entries.discount, value, read.confidence[action])


def report(spec: MindSpec, state: RecallState | None) -> dict[str, Any]:
    """What a log line says of an external memory; a value per seed is a list if there are several."""
    if state is None:
        return {}
    network, memory = np.moveaxis(np.asarray(state.errors), -1, 0)
    found = {"memory_entries": np.asarray(state.store.held)}
    if spec.recall.weigh_by_error:
        found["memory_trust"] = network / (network + memory)
    if spec.recall.refresh:
        found["memory_overlap"] = np.asarray(state.overlap)
    return {name: value.tolist() if value.size > 1 else value.item() for name, value in found.items()}


def refused(state: RecallState | None) -> tuple[int, list[int]]:
    """How many entries were not written because their numbers were not finite, and where the first came from.

    That is the place of its seed, its environment, its episode and its step of it; -1 where nothing was refused.
    """
    if state is None:
        return 0, [0, -1, -1, -1]
    faults = np.asarray(state.fault).reshape(-1, 3)
    seed = int((faults[:, 0] >= 0).argmax())
    return int(np.asarray(state.store.refused).sum()), [seed, *faults[seed].tolist()]
