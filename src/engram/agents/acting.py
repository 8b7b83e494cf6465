"""How every agent of ours acts: one look, one draw of random words, an action, and what is noted of it."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram.agents.agent import Acted, Experience
from engram.agents.mind import MindSpec
from engram.agents.network import Network
from engram.agents.policy import Look, Mind, PolicyState, Seen, begin, draws, explore, look
from engram.agents.recall import line
from engram.agents.recall.state import Record
from engram.agents.statistics import Scales
from engram.bits import held_back, next_words
from engram.types import Decision, Key, TimeStep


class ActorState(eqx.Module):
    """What acting changes."""

    policy: PolicyState
    key: Key
    steps: Int[Array, ""]  # the global step, which schedules follow; it stays at the largest number of 32 bits
    # 1 where the side moves that moved first, else -1; None where nobody asks
    side: Float[Array, "*seeds envs"] | None = None


class Noted(NamedTuple):
    """What acting knew of a step and storing it needs."""

    carry: PyTree  # of the working memory before the step; None where rows do not store it
    record: Record | None  # what the external memory is to remember; None without one
    known: PyTree = None  # what else learning needs of the decision


Known = Callable[[Decision, Int[Array, ""]], PyTree]  # of one decision and the action taken
Played = Callable[[Look], Look]  # by what actions are chosen, in the place of the agent's own look


def new_actor(spec: MindSpec, params: Network, envs: int, key: Key) -> ActorState:
    """An actor before its first step."""
    return ActorState(begin(spec, params, envs), key, jnp.int32(0))


def act(
    spec: MindSpec,
    mind: Mind,
    actor: ActorState,
    seen: Seen,
    stored: bool = False,
    known: Known | None = None,
    played: Played | None = None,
    agents: int = 1,
) -> Acted:
    """Actions for one observation of every environment, what the agent knew, and what is to be kept of it.

    `stored`: whether the carry is noted. `played`: where somebody else chooses some of the actions. `agents`: of each
    environment, whose axis is then that of lanes.
    """
    envs, words = len(seen.is_first), mind.network.words
    exploring = 2 * envs * draws(spec)
    key, bits = next_words(actor.key, exploring + envs * words)
    looked = look(spec, mind, actor.policy, seen, bits[exploring:].reshape(envs, words))
    choosing = looked if played is None else played(looked)
    policy, action = explore(spec, choosing, seen.is_first, bits[:exploring].reshape(-1, envs, 2), actor.steps)
    record = None
    if looked.query is not None:
        note = jax.vmap(partial(line.note, spec, mind.network.scales))
        record = note(looked.query, looked.state.frames, looked.decision, action)
    more = None if known is None else jax.vmap(known)(looked.decision, action)
    noted = Noted(actor.policy.carry if stored else None, record, more)
    steps = envs // agents
    actor = ActorState(policy, key, held_back(actor.steps, steps) + steps, actor.side)
    return Acted(actor, action, looked.decision, noted if jax.tree.leaves(noted) else None)


def ahead(actor: ActorState, steps: int) -> ActorState:
    """The actor once others have made so many steps of the same run, which its schedules follow too."""
    return dataclasses.replace(actor, steps=held_back(actor.steps, steps) + steps)


def remembered(spec: MindSpec, external: Any, recall: PyTree, experience: Experience, scales: Scales | None) -> PyTree:
    """The external memory after these steps: what they read, and what came of earlier actions; None without one."""
    if recall is None:
        return None

    def one(recall: PyTree, step: tuple[TimeStep, Record, Bool[Array, "envs"], Array]) -> tuple[PyTree, None]:
        row, record, done, keep = step
        return line.remember(spec, external, recall, record, row, done, keep, scales), None

    row = eqx.tree_at(lambda row: row.observation, experience.row, None)
    steps = row, experience.noted.record, experience.done, experience.keep
    return jax.lax.scan(one, recall, steps)[0]
