"""A pool of frozen past selves, which play one side in a share of the environments.

An agent that only ever plays against itself may forget how to beat what it was. Lanes are dealt once and for all: the
first ones are the pool's, and each has one member of it and one side that this member plays. So nothing is drawn.
"""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram.agents.agent import Experience
from engram.agents.network import Network
from engram.agents.policy import Look, Mind, Seen, still
from engram.agents.rollout import Examples
from engram.errors import SpecError
from engram.specs import setting, spec
from engram.types import Decision

RATE = 0.01  # of the running mean of results: about the last hundred games


@spec
class PoolSpec:
    """Frozen past selves to play against, in games whose sides take turns."""

    share: float = setting(
        0.0, "share of the environments in which a past self plays one side; 0 for none", low=0, high=0.9
    )
    size: int = setting(4, "past selves that are kept, the newest", low=1)
    every: int = setting(100, "rollouts from one that is kept to the next", low=1)

    def lanes(self, envs: int) -> int:
        """How many environments are the pool's: as many for each member and side."""
        return round(self.share * envs / (2 * self.size)) * 2 * self.size


class PoolState(eqx.Module):
    """What changes of a pool."""

    past: Any  # a Network, leaves [selves, ...]
    rollouts: Int[Array, "*seeds"]  # so far, since the last self was kept
    kept: Int[Array, "*seeds"]  # selves so far, modulo the size
    result: Float[Array, "*seeds"]  # running mean of what games against them were worth


def begin(chosen: PoolSpec, params: Network) -> PoolState:
    """Every member is the agent as it begins."""
    past = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], chosen.size, axis=0), params)
    return PoolState(past, jnp.int32(0), jnp.int32(0), jnp.zeros(()))


def check(chosen: PoolSpec, turns: bool, envs: int, agents: int = 1) -> None:
    """Raises SpecError for a game of one side, for too few environments, and for sides of several agents."""
    if not chosen.share:
        return
    if agents > 1:
        raise SpecError(
            f"pool.share = {chosen.share} lets past selves play one side, and here {agents} agents act at once; set "
            f"pool.share=0"
        )
    if not turns:
        raise SpecError(
            f"pool.share = {chosen.share} lets past selves play one side, and here there is one side only; set "
            f"pool.share=0"
        )
    if not 0 < chosen.lanes(envs) <= envs:
        raise SpecError(
            f"pool.share = {chosen.share} of {envs} environments does not suffice for pool.size = {chosen.size} past "
            f"selves on either side; raise --envs{', or lower pool.size' if chosen.size > 1 else ''}"
        )


def theirs(chosen: PoolSpec, envs: int, side: Float[Array, "envs"]) -> Bool[Array, "envs"]:
    """Where a past self moves now. `side`: 1 where whoever moved first does."""
    lane = jnp.arange(envs)
    first = (lane // chosen.size) % 2 == 0
    return (lane < chosen.lanes(envs)) & ((side > 0) == first)


def side_now(side: Float[Array, "envs"], seen: Seen) -> Float[Array, "envs"]:
    """1 where the side that moved first is to move, else -1."""
    if seen.sign is None:
        raise SpecError("pool.share is for environments that say who moves next; set pool.share=0")
    return jnp.where(seen.is_first, 1.0, side * seen.sign)


def played(chosen: PoolSpec, mind: Mind, moves: Bool[Array, "envs"], looked: Look) -> Look:
    """The look by which actions are chosen: that of the past selves where they move."""
    lanes, size = chosen.lanes(len(moves)), chosen.size
    assert mind.past is not None

    def dealt(leaf: Array) -> Array:
        return jnp.swapaxes(leaf[:lanes].reshape(lanes // size, size, *leaf.shape[1:]), 0, 1)

    def gathered(leaf: Array) -> Array:
        return jnp.swapaxes(leaf, 0, 1).reshape(lanes, *leaf.shape[2:])

    def mixed(own: Array, other: Array) -> Array:
        where = moves[:lanes].reshape(-1, *[1] * (own.ndim - 1))
        return own.at[:lanes].set(jnp.where(where, other, own[:lanes]))

    def decided(past: Network, frames: PyTree) -> Decision:
        # By today's statistics: those of their own time are not kept.
        return jax.vmap(past.seeing(mind.network.scales))(frames, bits)

    bits = still(mind.network, lanes // size)
    each = jax.vmap(decided)(mind.past, jax.tree.map(dealt, looked.state.frames))
    there: Decision = jax.tree.map(gathered, each)
    return looked._replace(decision=jax.tree.map(mixed, looked.decision, there))


def after_rollout(chosen: PoolSpec, pool: PoolState, params: Network) -> PoolState:
    """The pool once a rollout was learned from: now and then with the agent as it is, in the place of the oldest."""
    due = pool.rollouts + 1 >= chosen.every
    place = jnp.where(due, pool.kept, chosen.size)  # past the end: dropped
    past = jax.tree.map(lambda old, new: old.at[place].set(new, mode="drop"), pool.past, params)
    rollouts = jnp.where(due, 0, pool.rollouts + 1)
    return PoolState(past, rollouts, (pool.kept + due) % chosen.size, pool.result)


def own_moves(examples: Examples, theirs: Bool[Array, "time envs"]) -> Examples:
    """The examples of single steps, of which those of past selves do not count.

    A policy gradient takes actions for those of the policy that learns. Q is learned of any action.
    """
    return examples._replace(weight=jnp.where(theirs.reshape(-1), 0.0, examples.weight))


def with_results(
    chosen: PoolSpec, pool: PoolState, experience: Experience, moved: Bool[Array, "time envs"]
) -> PoolState:
    """The pool with what ended games were worth. `moved`: where a past self made the move."""
    lanes = jnp.arange(moved.shape[1]) < chosen.lanes(moved.shape[1])
    counts = experience.done & experience.keep & lanes
    reward = jnp.where(moved, -experience.row.reward, experience.row.reward)
    games = counts.sum()
    mean = (counts * reward).sum() / jnp.maximum(games, 1)
    rate = 1 - (1 - RATE) ** games.astype(jnp.float32)
    return replace(pool, result=pool.result + rate * (mean - pool.result))
