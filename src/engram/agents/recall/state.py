"""What an agent with an external memory keeps beside its replay."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from engram import spaces
from engram.agents.mind import MindSpec
from engram.agents.network import Network
from engram.agents.recall.keys import flat
from engram.types import Key


class Waiting(NamedTuple):
    """What waits of an action for its return. Leading axes [n, envs]."""

    key: Float[Array, "*line embedding"]
    features: Float[Array, "*line features"]  # of the action, where actions are offered by their features
    hash: UInt32[Array, "*line 2"]
    action: Int[Array, "*line"]
    network: Float[Array, "*line"]  # the network's own Q of it
    memory: Float[Array, "*line"]  # the memory's, where it knew something
    known: Bool[Array, "*line"]
    best: Float[Array, "*line"]  # the estimate of the best action: what an earlier return bootstraps from
    frames: PyTree  # the stacked observation; None if nothing keeps it


class Record(NamedTuple):
    """What is known of an action when it is taken. Leading axes [time, envs]."""

    waiting: Waiting
    entries: Int[Array, "*batch reads"]  # what was read for the action, -1 for nothing
    weights: Float[Array, "*batch reads"]  # and how much each was attended, averaged over the heads


class Line(NamedTuple):
    """The newest n actions of every environment, and what they brought; a ring along its first axis."""

    waiting: Waiting
    reward: Float[Array, "n envs"]
    terminated: Bool[Array, "n envs"]
    done: Bool[Array, "n envs"]
    origin: Int[Array, "n envs 3"]
    sign: Float[Array, "n envs"] | None = None  # as in `TimeStep`


class RecallState(eqx.Module):
    """Each environment has a clock of its own, so lanes need not move in step."""

    store: PyTree
    line: Line
    steps: Int[Array, "*seeds envs"]  # of each environment
    episode: Int[Array, "*seeds envs"]
    moment: Int[Array, "*seeds envs"]  # step of the running episode
    past: UInt32[Array, "*seeds envs 2"] | None  # hash of what the episode has shown; None without a working memory
    errors: Float[Array, "*seeds 2"]  # running mean squared errors against the same returns: network's, memory's
    turn: Int[Array, "*seeds"]  # the entry whose key is computed anew next
    overlap: Float[Array, "*seeds"]  # running share of an entry's neighbours that it still has when its key is fresh
    fault: Int[Array, "*seeds 3"]  # environment, its episode and step of the first entry that was not finite, or -1
    projection: Float[Array, "*seeds inputs width"] | None  # where keys are frozen


def init(spec: MindSpec, space: spaces.Space, actions: int, envs: int, params: Network, key: Key) -> RecallState:
    """Nothing remembered yet."""
    one = jax.tree.map(jnp.asarray, spaces.zeros(space, (spec.observation.stack,)))
    width = spec.recall.key_width(params.working.width)
    projection = None
    if spec.recall.keys == "frozen":
        projection = jax.random.normal(key, (flat(params, one).shape[0], width)) / width**0.5
    columns = _columns(spec, one)
    none = partial(jnp.zeros, envs, jnp.int32)
    return RecallState(
        store=params.external.init(columns),
        line=_empty_line(spec, envs, width, spaces.offered_features(space, actions), one if columns else None),
        steps=none(),
        episode=none(),
        moment=none(),
        past=jnp.zeros((envs, 2), jnp.uint32) if spec.has_memory else None,
        errors=jnp.ones(2),
        turn=jnp.int32(0),
        overlap=jnp.ones(()),
        fault=jnp.full(3, -1, jnp.int32),
        projection=projection,
    )


def _columns(spec: MindSpec, frames: PyTree) -> dict[str, PyTree]:
    """An example of each optional column that entries keep."""
    examples = {"observation": frames, "reward": jnp.zeros(()), "discount": jnp.zeros(()), "successor": frames}
    return {name: example for name, example in examples.items() if name in spec.kept_columns}


def emptied(spec: MindSpec, state: RecallState, network: Network) -> RecallState:
    """The state with nothing in its store."""
    one = jax.tree.map(jnp.asarray, spaces.zeros(network.space, (spec.observation.stack,)))
    return replace(state, store=network.external.init(_columns(spec, one)))


def _empty_line(spec: MindSpec, envs: int, width: int, offered: int, frames: PyTree) -> Line:
    leading = (spec.recall.n_step, envs)
    zeros = partial(jnp.zeros, leading)
    waiting = Waiting(
        key=jnp.zeros((*leading, width)),
        features=jnp.zeros((*leading, offered)),
        hash=jnp.zeros((*leading, 2), jnp.uint32),
        action=zeros(jnp.int32),
        network=zeros(),
        memory=zeros(),
        known=zeros(bool),
        best=zeros(),
        frames=jax.tree.map(lambda leaf: jnp.zeros((*leading, *leaf.shape), leaf.dtype), frames),
    )
    sign = zeros() if spec.turns else None
    return Line(waiting, zeros(), zeros(bool), zeros(bool), jnp.zeros((*leading, 3), jnp.int32), sign)
