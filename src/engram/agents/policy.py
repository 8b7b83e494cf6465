"""The policy: the one way from an observation to an action. Acting, evaluating and `predict` all use it.

    state = begin(spec, network, envs)
    looked = look(spec, mind, state, Seen(observation, is_first, reward), bits)
    state, action = explore(spec, looked, is_first, bits, step)     or greedy(looked)

Every function is pure. Leading axes are [envs].
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from engram import spaces
from engram.agents.mind import MindSpec
from engram.agents.network import Network, Previous
from engram.agents.recall import forgetting
from engram.agents.recall.keys import Query
from engram.agents.recall.reading import consult
from engram.agents.recall.state import RecallState, emptied
from engram.agents.statistics import as_learned
from engram.types import Decision


class Mind(eqx.Module):
    """What an agent decides with: what acts, what is evaluated, what predicts."""

    network: Network
    recall: RecallState | None = None  # of an agent with an external memory
    target: Network | None = None  # the target network, where keys are its embeddings
    past: Network | None = None  # frozen past selves, leaves [selves, ...], of an agent that plays against them


def forgetful(spec: MindSpec, mind: Mind) -> Mind:
    """A negative control: the working memory is emptied before every step, and nothing is in the external one."""
    network = mind.network.forgetful()
    recall = None if mind.recall is None else emptied(spec, mind.recall, network)
    return replace(mind, network=network, recall=recall)


def forgotten(mind: Mind, gone: Bool[Array, "capacity"], waiting: Bool[Array, "n envs"]) -> Mind:
    """A mind that remembers, without some entries and without actions that wait; see `agents/recall/forgetting.py`."""
    assert mind.recall is not None
    recall = forgetting.forgotten(mind.network.external, mind.recall, gone, waiting)
    return replace(mind, recall=recall)


def waiting(mind: Mind) -> forgetting.Waits:
    """The actions that a mind which remembers has not made entries of yet."""
    assert mind.recall is not None
    return forgetting.waiting(mind.recall)


class PolicyState(eqx.Module):
    """What a policy keeps from one observation to the next."""

    frames: PyTree  # the newest observations, leading axes [envs, stack], oldest first
    carry: PyTree  # of the working memory
    action: Int[Array, "envs"] | None  # the newest; None if nothing reads it
    episode: UInt32[Array, "envs 2"] | None  # bits drawn when the running episode began; None if nothing reads them


class Seen(NamedTuple):
    """One observation of every environment."""

    observation: PyTree
    is_first: Bool[Array, "envs"]
    reward: Float[Array, "envs"]  # of the step before; means nothing where `is_first`
    sign: Float[Array, "envs"] | None = None  # of the step before: see `DeviceStep`; None in tasks of one side


def seen_on_host(observation: PyTree, is_first: Any, reward: Any) -> Seen:
    """`Seen` of NumPy arrays, which a compiled call takes as they are."""
    return Seen(observation, is_first, reward)


class Look(NamedTuple):
    """What one look at the observations gave."""

    state: PolicyState  # with these observations in it, and the action still to be set
    decision: Decision
    query: Query | None  # what was asked of the external memory


def begin(spec: MindSpec, network: Network, envs: int) -> PolicyState:
    """The state before the first observation."""
    frames = jax.tree.map(jnp.asarray, spaces.zeros(network.space, (envs, spec.observation.stack)))
    carry = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (envs, *leaf.shape)), network.working.init())
    action = jnp.zeros(envs, jnp.int32) if spec.observation.previous_action else None
    episode = jnp.zeros((envs, 2), jnp.uint32) if spec.exploration.by_episode else None
    return PolicyState(frames, carry, action, episode)


def look(spec: MindSpec, mind: Mind, state: PolicyState, seen: Seen, bits: UInt32[Array, "envs words"]) -> Look:
    """One step of the frame stack and of the working memory, and the decision. `bits`: `network.words` for each."""
    frames = push(state.frames, seen.observation, seen.is_first, spec.may_be_blank)
    taken = jnp.zeros(len(seen.is_first), jnp.int32) if state.action is None else state.action
    previous = Previous(taken, as_learned(spec, mind.network.scales, seen.reward))
    carry, decision, query = decide(spec, mind, state.carry, frames, seen.is_first, previous, bits)
    return Look(PolicyState(frames, carry, state.action, state.episode), decision, query)


def decide(
    spec: MindSpec,
    mind: Mind,
    carry: PyTree,
    frames: PyTree,
    is_first: Bool[Array, "envs"],
    previous: Previous,
    bits: UInt32[Array, "envs words"],
) -> tuple[PyTree, Decision, Query | None]:
    """The forward pass: the carry after it, the decision, and what was asked of the external memory."""
    carry, decision = jax.vmap(mind.network.step)(carry, frames, is_first, previous, bits)
    if mind.recall is None:
        return carry, decision, None
    target = mind.network if mind.target is None else mind.target.seeing(mind.network.scales)
    query, decision = jax.vmap(partial(consult, spec, mind.recall, mind.network, target))(frames, decision)
    return carry, decision, query


def greedy(looked: Look) -> tuple[PolicyState, Int[Array, "envs"]]:
    """The preferred actions, and the state after them."""
    return _taken(looked.state, looked.decision.best.astype(jnp.int32), looked.state.episode)


def explore(
    spec: MindSpec,
    looked: Look,
    is_first: Bool[Array, "envs"],
    bits: UInt32[Array, "draws envs 2"],
    step: Int[Array, ""] | int,
) -> tuple[PolicyState, Int[Array, "envs"]]:
    """Actions that explore as at a global step, and the state after them. `bits`: `draws(spec)` pairs for each."""
    now, episode = bits[0], looked.state.episode
    if episode is not None:
        episode = jax.vmap(spec.exploration.kept)(episode, is_first, now, bits[1])
    choose = partial(spec.exploration.choose, step=step)
    action = jax.vmap(choose)(looked.decision, now, now if episode is None else episode)
    return _taken(looked.state, action, episode)


def draws(spec: MindSpec) -> int:
    """Pairs of random words that exploring takes for one action."""
    return 2 if spec.exploration.by_episode else 1


def still(network: Network, envs: int) -> UInt32[Array, "envs words"]:
    """Bits for looks that are to be repeatable, the same at every step: what a greedy policy is played with."""
    return jnp.broadcast_to(network.still, (envs, network.words))


def push(frames: PyTree, observation: PyTree, is_first: Bool[Array, "envs"], unknown: bool = False) -> PyTree:
    """The stack with the newest observation at its end; older frames are `spaces.blank` where an episode begins."""

    def one(old: Array, new: Array) -> Array:
        begins, empty = is_first.reshape(-1, *[1] * (old.ndim - 1)), spaces.blank(old.dtype, unknown)
        return jnp.concatenate([jnp.where(begins, jnp.asarray(empty, old.dtype), old[:, 1:]), new[:, None]], axis=1)

    return jax.tree.map(one, frames, observation)


def _taken(
    state: PolicyState, action: Int[Array, "envs"], episode: UInt32[Array, "envs 2"] | None
) -> tuple[PolicyState, Int[Array, "envs"]]:
    kept = None if state.action is None else action
    return PolicyState(state.frames, state.carry, kept, episode), action
