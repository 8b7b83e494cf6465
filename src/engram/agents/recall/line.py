"""The line: actions wait for what they will have come to, and are then written into the external memory.

The return of an action is its next n rewards and the estimate of what follows, so it is known n steps later. Each
environment's newest n actions wait in a line. At every step the one that is n steps old is labelled and written, with
the key that it had when it was taken. So each step writes a block of at most `envs` entries.

Where an episode was cut off (by a time limit, or because another one was begun), nothing is known of what would have
followed its last action. The returns of those before it then end at the observation which that action answered, and
the last action is not written.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from engram.agents.mind import MindSpec
from engram.agents.recall.keys import Query, history
from engram.agents.recall.state import Line, RecallState, Record, Waiting
from engram.agents.statistics import Scales, as_learned, in_reward, unscaled
from engram.bits import fingerprint
from engram.external.memory import Entries
from engram.losses.returns import n_step
from engram.nn.observation import filled
from engram.types import Decision, TimeStep

LEFT_OUT = -1  # in the place of an environment, in the line: this action was forgotten, and is not to be written
NOT_NOTED = -2  # in the place of the ids that an action read, while it waits to come in line: the same
RATE = 1e-3  # of the running means of squared errors: about the last thousand entries


def note(
    spec: MindSpec,
    scales: Scales | None,
    query: Query,
    frames: PyTree,
    decision: Decision,
    action: Int[Array, ""],
) -> Record:
    """What is to be remembered of one action when it is taken. The decision holds a read of the memory.

    Returns are remembered in units of reward: those that normalising gives change with its statistics.
    """
    read: Any = decision.external
    waiting = Waiting(
        key=query.key,
        features=jnp.zeros(0) if query.offered is None else query.offered[action],
        hash=fingerprint(whatever_its_nan(spec, frames)),
        action=action,
        network=in_reward(spec, scales, decision.returns.q[action]),
        memory=in_reward(spec, scales, read.q[action]),
        known=read.confidence[action] > 0,
        best=in_reward(spec, scales, decision.value),
        frames=frames if spec.kept_columns else None,
    )
    weights = read.weights[:, action] / max(read.weights.shape[0], 1)
    return Record(waiting, read.entries[:, action].reshape(-1), weights.reshape(-1))


def whatever_its_nan(spec: MindSpec, frames: PyTree) -> PyTree:
    """Frames without NaN, and where they had one: the bits of a NaN may differ, and say nothing."""
    if not spec.may_be_blank:
        return frames
    return jax.tree.map(filled, frames), jax.tree.map(lambda leaf: leaf != leaf, frames)


def remember(
    spec: MindSpec,
    external: Any,
    state: RecallState,
    record: Record,
    row: TimeStep,
    done: Bool[Array, "envs"],
    keep: Bool[Array, "envs"],
    scales: Scales | None = None,
) -> RecallState:
    """The state after one step of the environments that `keep` marks; the others stay as they are.

    1. Marks what the step read. 2. Writes the actions that are n steps old. 3. Puts this action in line.
    """
    state = _broken_off(state, row.is_first & keep)
    now, past = _with_past(spec, state, record.waiting, row)
    read = jnp.where(keep[:, None], jnp.maximum(record.entries, -1), -1)
    store = external.touch(state.store, read.reshape(-1), record.weights.reshape(-1))
    envs = jnp.arange(len(done))
    place = state.steps % spec.recall.n_step, envs
    old, origin = jax.tree.map(lambda leaf: leaf[place], (state.line.waiting, state.line.origin))
    outcome = _outcome(spec, state.line, now, state.steps)
    entries = _entries(spec, old, origin, outcome)
    due = (state.steps >= spec.recall.n_step) & outcome.known & keep & (origin[:, 0] != LEFT_OUT)
    store = external.write(store, entries, due if spec.recall.played else jnp.zeros_like(due))
    refused = store.refused > state.store.refused
    noted = (record.entries != NOT_NOTED).all(1)
    here = jnp.where(noted[:, None], jnp.stack([envs, state.episode, state.moment], axis=1), LEFT_OUT)
    reward = unscaled(scales, as_learned(spec, scales, row.reward))
    newest = Line(now, reward, row.terminated, done, here, row.sign)
    return dataclasses.replace(
        state,
        store=store,
        line=_put(state.line, newest, state.steps, keep),
        steps=state.steps + keep,
        episode=state.episode + (done & keep),
        moment=jnp.where(keep, jnp.where(done, 0, state.moment + 1), state.moment),
        past=jax.tree.map(partial(jnp.where, keep[:, None]), past, state.past),
        errors=_judged(state.errors, old, outcome.value, due & old.known),
        fault=_fault(state.fault, entries, due & refused),
    )


def _put(line: Line, newest: Line, steps: Int[Array, "envs"], keep: Bool[Array, "envs"]) -> Line:
    """The line with the newest action of each environment that `keep` marks in place of its oldest."""
    n, envs = line.done.shape
    place = jnp.where(keep, steps % n, n)  # past the end: dropped
    put = partial(jax.tree.map, lambda old, new: old.at[place, jnp.arange(envs)].set(new, mode="drop"))
    return put(line, newest)


def _with_past(
    spec: MindSpec, state: RecallState, now: Waiting, row: TimeStep
) -> tuple[Waiting, UInt32[Array, "envs 2"] | None]:
    """The newest action with a hash that covers its episode's past, where a working memory has seen that; the past."""
    if state.past is None:
        return now, None
    situation, past = history(spec, state.past, now.hash, row.is_first, now.action, row.reward)
    return now._replace(hash=situation), past


class _Outcome(NamedTuple):
    """What came of an action. Leading axis [envs]."""

    value: Float[Array, "envs"]
    reward: Float[Array, "envs"]  # the discounted sum of the rewards that count
    discount: Float[Array, "envs"]  # of the estimate of what follows them: 0 where the episode ended
    hash: UInt32[Array, "envs 2"]  # of the observation that follows them
    frames: PyTree
    known: Bool[Array, "envs"]  # False for the last action of an episode that was cut off


def _outcome(spec: MindSpec, line: Line, now: Waiting, steps: Int[Array, "envs"]) -> _Outcome:
    """The return of the oldest action in line of each environment; `now` followed the newest.

    The line is a window of rows in which the last action of an episode that was cut off stands for its final row.
    """
    n, envs = line.done.shape
    lanes = jnp.arange(envs)
    order = (steps + jnp.arange(n)[:, None]) % n, lanes  # oldest first
    reward, terminated, done = (column[order] for column in (line.reward, line.terminated, line.done))
    cut = done & ~terminated
    # The table that entries were always computed with: `discounts` differs from it in the last digit of some powers.
    powers = jnp.asarray(np.float32(spec.discount) ** np.arange(n + 1, dtype=np.float32))
    sign = None if line.sign is None else line.sign[order]
    step = n_step(reward, terminated, cut, powers, sign=sign)
    goes_on = step.discount > 0 if sign is None else step.discount != 0
    inside = (step.offset < n) & goes_on  # the return ends at an action that is still in line
    final = order[0][jnp.minimum(step.offset, n - 1), lanes], lanes

    def following(waited: Array, new: Array) -> Array:
        return jnp.where(inside.reshape(-1, *[1] * (new.ndim - 1)), waited[final], new)

    waiting = line.waiting
    best, hash, frames = jax.tree.map(
        following, (waiting.best, waiting.hash, waiting.frames), (now.best, now.hash, now.frames)
    )
    known = ~cut[0]
    return _Outcome(step.reward + step.discount * best, step.reward, step.discount, hash, frames, known)


def _entries(spec: MindSpec, old: Waiting, origin: Int[Array, "envs 3"], outcome: _Outcome) -> Entries:
    """The entries that the oldest actions make."""
    each = spec.asks == "successors"
    return Entries(
        key=jax.lax.stop_gradient(old.key),
        action=old.action,
        features=old.features,
        value=outcome.value,
        td_error=outcome.value - old.network,
        # Chance may follow equal observations by different ones, and what follows is not to be averaged here.
        hash=jax.vmap(fingerprint)((old.hash, origin)) if each else old.hash,
        origin=origin,
        observation=old.frames,
        reward=outcome.reward,
        discount=outcome.discount,
        successor=outcome.frames if each else None,
        following=outcome.hash,
    )


def _judged(
    errors: Float[Array, "2"], old: Waiting, value: Float[Array, "envs"], judged: Bool[Array, "envs"]
) -> Float[Array, "2"]:
    """The running squared errors of the network and of the memory, with those that can be compared with a return."""
    squared = jnp.stack([(value - old.network) ** 2, (value - old.memory) ** 2])
    mean = (squared * judged).sum(1) / jnp.maximum(judged.sum(), 1)
    rate = jnp.minimum(RATE * judged.sum(), 1.0)
    return errors + jnp.where(judged.any(), rate, 0.0) * (mean - errors)


def _fault(fault: Int[Array, "3"], entries: Entries, refused: Bool[Array, "envs"]) -> Int[Array, "3"]:
    """Where the first entry came from that was refused, which is why some of these were: it is not finite."""
    numbers = (entries.key, entries.features, entries.value[:, None], entries.td_error[:, None])
    bad = refused & ~jnp.isfinite(jnp.concatenate(numbers, axis=1)).all(1)
    return jnp.where((fault[0] < 0) & bad.any(), entries.origin[bad.argmax()], fault)


def _broken_off(state: RecallState, is_first: Bool[Array, "envs"]) -> RecallState:
    """The state in which a new episode begins here, also where the one before did not end: it counts as cut off."""
    line, lanes = state.line, jnp.arange(len(is_first))
    newest = (state.steps - 1) % line.done.shape[0], lanes
    broken = is_first & ~line.done[newest] & (state.steps > 0)
    line = line._replace(
        done=line.done.at[newest].set(line.done[newest] | broken),
        terminated=line.terminated.at[newest].set(line.terminated[newest] & ~broken),
    )
    return dataclasses.replace(
        state, line=line, moment=jnp.where(broken, 0, state.moment), episode=state.episode + broken
    )
