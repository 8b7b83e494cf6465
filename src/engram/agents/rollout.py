"""A rollout: the newest steps of every environment, which are learned from once and then replaced.

Pure functions from what was experienced to what a loss needs. Leading axes are [time, envs].
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from engram import spaces
from engram.agents import symmetry
from engram.agents.agent import Experience
from engram.agents.mind import MindSpec
from engram.agents.network import Network, Previous
from engram.agents.policy import Mind, decide, push, still
from engram.agents.statistics import as_learned
from engram.types import Decision, Distribution, TimeStep


class Rollout(eqx.Module):
    """Steps that were not learned from yet. `place` of them are filled; of these, `keep` says which are real."""

    row: TimeStep  # with the carry before each step, where there is a working memory
    done: Bool[Array, "time envs"]
    keep: Bool[Array, "time envs"]
    following: PyTree  # the observation after each step, where nothing after it in the rollout shows that
    known: PyTree  # what acting knew
    frames: PyTree  # [envs, stack, ...] the newest observations before the first step
    before: Previous  # [envs] the action and the reward before the first step
    place: Int[Array, "*seeds"]


class Steps(NamedTuple):
    """A whole rollout as a target needs it."""

    reward: Float[Array, "time envs"]  # as it is learned
    discount: Float[Array, "time envs"]  # gamma, 0 after a termination, -gamma where the other side moves next
    following: Float[Array, "time envs"]  # what came next is worth
    ends: Bool[Array, "time envs"]  # whether the next row is of another episode, or of the next rollout
    known: PyTree


class Examples(NamedTuple):
    """What networks look at again, and what they are taught. Leading axis [examples], or [lanes time] of windows."""

    frames: PyTree
    is_first: Bool[Array, "*batch"]
    previous: Previous
    carry: PyTree  # before the first row of each window; None of rows one by one
    bits: UInt32[Array, "*batch words"]
    action: Int[Array, "*batch"]
    weight: Float[Array, "*batch"]  # 0 for rows that are not real, or of which nobody knows what they led to
    known: PyTree
    target: PyTree


def empty(
    space: spaces.Space, steps: int, envs: int, stack: int, carry: PyTree, known: PyTree, turns: bool = False
) -> Rollout:
    """A rollout without steps. `carry` and `known`: of one environment, arrays or their shapes. `turns`: with signs."""
    leading = (steps, envs)
    zeros = partial(jnp.zeros, leading)

    def of(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.zeros((*leading, *leaf.shape), leaf.dtype), tree)

    def observation() -> PyTree:
        return spaces.map_space(lambda leaf: jnp.zeros((*leading, *leaf.shape), leaf.dtype), space)

    row = TimeStep(
        observation(), zeros(bool), zeros(jnp.int32), zeros(), zeros(bool), of(carry), zeros() if turns else None
    )
    frames = jax.tree.map(jnp.asarray, spaces.zeros(space, (envs, stack)))
    before = Previous(jnp.zeros(envs, jnp.int32), jnp.zeros(envs))
    return Rollout(row, zeros(bool), zeros(bool), observation(), of(known), frames, before, jnp.int32(0))


def written(rollout: Rollout, experience: Experience) -> Rollout:
    """The rollout with these steps behind those that it holds. Steps that no environment took leave no trace."""
    noted, taken = experience.noted, experience.keep.any(1)
    row = eqx.tree_at(lambda row: row.carry, experience.row, noted.carry, is_leaf=lambda leaf: leaf is None)
    number = rollout.place + jnp.cumsum(taken) - taken
    place = jnp.where(taken, number, len(rollout.keep))  # past the end: dropped

    def put(old: Array, new: Array) -> Array:
        return old.at[place].set(new.astype(old.dtype), mode="drop", unique_indices=True)

    old = rollout.row, rollout.done, rollout.keep, rollout.following, rollout.known
    new = row, experience.done, experience.keep, experience.final_observation, noted.known
    row, done, keep, following, known = jax.tree.map(put, old, new)
    count = rollout.place + taken.sum(dtype=jnp.int32)
    return Rollout(row, done, keep, following, known, rollout.frames, rollout.before, count)


def learned(rollout: Rollout, frames: PyTree) -> Rollout:
    """The rollout once its steps were learned from: empty, and it goes on after its last one. `frames`: `stacked`."""
    newest = rollout.place - 1
    seen = frames, Previous(rollout.row.action, rollout.row.reward)
    before = rollout.frames, rollout.before
    after = jax.tree.map(lambda each, old: jnp.where(newest < 0, old, each[newest]), seen, before)
    nothing = jnp.zeros_like(rollout.keep)
    return eqx.tree_at(
        lambda rollout: (rollout.keep, rollout.frames, rollout.before, rollout.place),
        rollout,
        (nothing, *after, jnp.zeros_like(rollout.place)),
    )


# -- what networks see -----------------------------------------------------------------------------------------------


def stacked(spec: MindSpec, rollout: Rollout) -> PyTree:
    """The newest observations at each step: [time, envs, stack, ...]."""
    row = rollout.row
    if spec.observation.stack == 1:
        return jax.tree.map(lambda leaf: leaf[:, :, None], row.observation)

    def one(frames: PyTree, step: tuple[PyTree, Array]) -> tuple[PyTree, PyTree]:
        frames = push(frames, *step, spec.may_be_blank)
        return frames, frames

    return jax.lax.scan(one, rollout.frames, (row.observation, row.is_first))[1]


def previous_of(spec: MindSpec, network: Network, rollout: Rollout) -> Previous:
    """The action and the reward before each step."""

    def moved(before: Array, each: Array) -> Array:
        return jnp.concatenate([before[None], each[:-1]])

    reward = as_learned(spec, network.scales, moved(rollout.before.reward, rollout.row.reward))
    return Previous(moved(rollout.before.action, rollout.row.action), reward)


# -- what came next --------------------------------------------------------------------------------------------------


class Bounds(NamedTuple):
    """Between which steps of a rollout nothing is carried over."""

    last: Bool[Array, "time envs"]  # of its episode or of the rollout: what it led to is in `Rollout.following`
    cut: Bool[Array, "time envs"]  # another episode was begun before what it led to was acted on: nobody knows that


def bounds(rollout: Rollout) -> Bounds:
    """Where the episodes and the filled part of a rollout end.

    A rollout stays shorter where all environments at once took no step, as some do between two episodes. An episode is
    cut where a run was taken up whose environment could not be.
    """
    number, newest = jnp.arange(len(rollout.done))[:, None], rollout.place - 1
    opens = _moved_up(rollout.row.is_first) & (number < newest)
    return Bounds(rollout.done | (number == newest), opens & ~rollout.done)


def _moved_up(leaf: Array) -> Array:
    """What the next step has; nothing for the last one."""
    return jnp.concatenate([leaf[1:], jnp.zeros_like(leaf[:1])])


def steps_of(spec: MindSpec, mind: Mind, rollout: Rollout, frames: PyTree, value: Float[Array, "time envs"]) -> Steps:
    """The rollout for a target. `value`: what acting held each observation to be worth.

    A return that reaches an episode that was cut ends at the last observation that was acted on.
    """
    row, (last, cut) = rollout.row, bounds(rollout)
    ends = last | cut | _moved_up(cut)
    wanted = last & ~row.terminated & rollout.keep
    following = jnp.where(row.terminated, 0.0, _moved_up(value))
    following = _valued(spec, mind, rollout, frames, wanted, following)
    reward = as_learned(spec, mind.network.scales, row.reward)
    discount = jnp.where(row.terminated, 0.0, spec.discount)
    discount = discount if row.sign is None else row.sign * discount
    return Steps(reward, discount, following, ends, rollout.known)


def _valued(
    spec: MindSpec,
    mind: Mind,
    rollout: Rollout,
    frames: PyTree,
    wanted: Bool[Array, "time envs"],
    value: Float[Array, "time envs"],
) -> Float[Array, "time envs"]:
    """`value` with what the observations after the wanted steps are worth.

    Few are: the last of each environment, and those of time limits. So they are looked at in batches of one row of
    environments, as many as it takes.
    """
    time, envs = wanted.shape
    flat = wanted.reshape(-1)
    number = jnp.cumsum(flat) - 1
    places = (
        jnp.full(time * envs, time * envs)
        .at[jnp.where(flat, number, time * envs)]
        .set(jnp.arange(time * envs), mode="drop")
    )  # of the wanted, then past the end
    previous = previous_of(spec, mind.network, rollout)
    look = _looker(spec, mind, rollout, frames, previous)

    def more(state: tuple[Array, Array]) -> Array:
        return state[0] * envs < flat.sum()

    def batch(state: tuple[Array, Array]) -> tuple[Array, Array]:
        turn, value = state
        place = jax.lax.dynamic_slice(places, (turn * envs,), (envs,))
        return turn + 1, value.at[place].set(look(place), mode="drop")

    return jax.lax.while_loop(more, batch, (jnp.int32(0), value.reshape(-1)))[1].reshape(time, envs)


def _looker(
    spec: MindSpec, mind: Mind, rollout: Rollout, frames: PyTree, previous: Previous
) -> Callable[[Int[Array, "envs"]], Float[Array, "envs"]]:
    """What the observations after some steps are worth; steps by their places in [time x envs]."""
    row, envs = rollout.row, rollout.done.shape[1]

    def look(place: Int[Array, "envs"]) -> Float[Array, "envs"]:
        def taken(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[place], tree)  # clamped past the end

        bits, seen, carry = still(mind.network, envs), taken(frames), taken(row.carry)
        if spec.has_memory:  # the carry after the step
            carry = jax.vmap(mind.network.step)(carry, seen, taken(row.is_first), taken(previous), bits)[0]
        else:
            carry = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (envs, *leaf.shape)), mind.network.working.init())
        goes_on = jnp.zeros(envs, bool)
        ahead = push(seen, taken(rollout.following), goes_on, spec.may_be_blank)
        reward = as_learned(spec, mind.network.scales, taken(row.reward))
        came_before = Previous(taken(row.action), reward)
        return decide(spec, mind, carry, ahead, goes_on, came_before, bits)[1].value

    return look


# -- examples --------------------------------------------------------------------------------------------------------


def examples_of(
    spec: MindSpec,
    network: Network,
    rollout: Rollout,
    frames: PyTree,
    target: PyTree,
    bits: UInt32[Array, "time envs words"],
) -> Examples:
    """The rollout as examples: rows one by one, or with a working memory the window of each environment."""
    row, counts = rollout.row, rollout.keep & ~bounds(rollout).cut
    every = Examples(
        frames,
        row.is_first,
        previous_of(spec, network, rollout),
        None,
        bits,
        row.action,
        counts.astype(jnp.float32),
        rollout.known,
        target,
    )
    if spec.has_memory:
        windows = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), every)
        return windows._replace(carry=jax.tree.map(lambda leaf: leaf[0], row.carry))
    return jax.tree.map(_merged, every)


def shuffled(order: Int[Array, "examples"], examples: Examples, batches: int) -> Examples:
    """The examples in another order, as [batches, examples of a batch, ...]."""
    return jax.tree.map(lambda leaf: leaf[order].reshape(batches, len(order) // batches, *leaf.shape[1:]), examples)


def turned(space: spaces.Space, actions: int, examples: Examples, words: UInt32[Array, "examples"]) -> Examples:
    """Each example, or window, by a symmetry of the board of its own."""

    def one(example: Examples, word: UInt32[Array, ""]) -> Examples:
        which = symmetry.drawn(word)
        act = partial(symmetry.turned_action, space, actions, which=which)
        return example._replace(
            frames=symmetry.turned(space, actions, example.frames, which),
            action=act(example.action),
            previous=example.previous._replace(action=act(example.previous.action)),
        )

    return jax.vmap(one)(examples, words)


def decisions(spec: MindSpec, network: Network, batch: Examples) -> tuple[Any, Examples]:
    """What a network decides at every row of a batch, and the rows; leading axis [rows] in both."""
    if not spec.has_memory:
        return jax.vmap(network)(batch.frames, batch.bits), batch
    seen = batch.frames, batch.is_first, batch.previous, batch.bits
    _, decision = jax.vmap(network.unroll)(batch.carry, *seen)
    return jax.tree.map(_merged, (decision, batch._replace(carry=None)))


def _merged(leaf: Array) -> Array:
    """Two leading axes as one, also where nothing follows them."""
    return leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])


# -- what a loss is made of -------------------------------------------------------------------------------------------


def taken(decision: Decision, rows: Examples) -> Distribution:
    """What a network predicts of the action of every row."""
    return jax.vmap(lambda each, action: each.of(action))(decision.returns, rows.action)


def sure(value: Float[Array, "rows"]) -> Distribution:
    """Numbers as distributions of one atom each."""
    return Distribution(value[:, None], jnp.ones((len(value), 1)))


def mean(rows: Examples, each: Float[Array, "rows"] | Bool[Array, "rows"]) -> Float[Array, ""]:
    """The mean over the rows that count; 0 where none does."""
    return (rows.weight * each).sum() / jnp.maximum(rows.weight.sum(), 1.0)
