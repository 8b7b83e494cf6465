"""Skipping: what would have been chosen had steps of the episode never been seen by the working memory.

The memory is really run again from the beginning of the episode, from what the encoder gave then; at a step that is
skipped its carry stays as it was. So later steps move up, as if the episode had not had that one.
"""

from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram.agents.mind import MindSpec
from engram.agents.network import Previous
from engram.agents.policy import Mind, Seen, begin, look, still
from engram.agents.recall.reading import consult
from engram.agents.statistics import as_learned
from engram.explaining.recording import Episode
from engram.precision import in_32_bits
from engram.runners.common import PROGRAMS

AT_ONCE = 32  # episodes that are run side by side
MOST_SKIPPED = 128  # steps of a long episode that are left out, one at a time


@in_32_bits
def skipping(
    spec: MindSpec, mind: Mind, episode: Episode, skipped: Bool[np.ndarray, "sets steps"], at: Int[np.ndarray, "sets"]
) -> Float[np.ndarray, "sets actions"]:
    """The preference of every action at step `at` of each set, had the memory not seen the steps that it skips."""
    if len(skipped) == 0:
        return np.zeros((0, episode.kept.preference.shape[1]), np.float32)
    rows, length = _rows(episode)
    sets = max(AT_ONCE, 1 << (len(skipped) - 1).bit_length())
    masks = np.zeros((sets, length), bool)
    masks[: len(skipped), : skipped.shape[1]] = skipped
    places = np.zeros(sets, np.int32)
    places[: len(skipped)] = at
    return np.asarray(_program(spec, False)(mind, rows, masks, places))[: len(skipped)]


@in_32_bits
def each_skipped(
    spec: MindSpec, mind: Mind, episode: Episode, which: Int[np.ndarray, "skipped"]
) -> tuple[Float[np.ndarray, "steps actions"], Float[np.ndarray, "skipped steps actions"]]:
    """The preference of every action at every step: with all steps, and had the memory not seen one of them."""
    rows, length = _rows(episode)
    sets = max(AT_ONCE, 1 << len(which).bit_length())  # the first one skips nothing
    masks = np.zeros((sets, length), bool)
    masks[np.arange(len(which)) + 1, which] = True
    found = np.asarray(_program(spec, True)(mind, rows, masks, np.zeros(sets, np.int32)))
    return found[0, : episode.length], found[1 : len(which) + 1, : episode.length]


def density(spec: MindSpec, mind: Mind, episode: Episode, end: int | None = None) -> dict[int, list[tuple[int, float]]]:
    """Recall density: for each step before `end`, how far leaving out each earlier one moves the preferences now.

    That is the largest change over the actions. Of an episode with more than `MOST_SKIPPED` steps, evenly spaced ones
    are left out, and those that attention fell on most.
    """
    episode = episode if end is None else _begun(episode, end)
    which = _worth_skipping(episode)
    base, without = each_skipped(spec, mind, episode, which)
    if episode.decision.returns.policy is not None:  # logits mean nothing but by their differences
        base, without = (rows - np.logaddexp.reduce(rows, -1, keepdims=True) for rows in (base, without))
    with np.errstate(invalid="ignore"):  # of actions that are forbidden in both
        moved = np.abs(without - base)
    moved = np.where(np.isfinite(moved), moved, 0.0).max(-1)
    return {
        step: [(int(past), float(moved[place, step])) for place, past in enumerate(which) if past < step]
        for step in range(episode.length)
    }


def _begun(episode: Episode, end: int) -> Episode:
    """The episode before step `end`: no step has an effect on those before it."""
    if end >= episode.length:
        return episode
    kept, carry = (jax.tree.map(lambda leaf: leaf[:end], tree) for tree in (episode.kept, episode.carry))
    return replace(episode, kept=kept, carry=carry, reward=episode.reward[:end])


def _worth_skipping(episode: Episode) -> Int[np.ndarray, "skipped"]:
    if episode.length <= MOST_SKIPPED:
        return np.arange(episode.length)
    even = np.linspace(0, episode.length - 1, MOST_SKIPPED // 2).astype(int)
    total = np.zeros(episode.length)
    for step in range(episode.length):
        for past, weight in attended(episode, step):
            total[past] += weight
    most = np.argsort(-total, kind="stable")[: MOST_SKIPPED // 2]
    return np.unique(np.concatenate([even, most]))


def attended(episode: Episode, step: int) -> list[tuple[int, float]]:
    """The steps of the episode that the working memory attended to, oldest first, with their weights (mean over heads).

    Several layers, and heads, count alike. Empty without attention.
    """
    read = episode.decision.working
    weights, entries = read.weights[step], read.entries[step]
    if weights.size == 0:
        return []
    found: dict[int, float] = {}
    for past, weight in zip(entries.flat, weights.flat, strict=True):
        if past >= 0:
            found[int(past)] = found.get(int(past), 0.0) + float(weight) / (weights.shape[0] * weights.shape[1])
    return sorted(found.items())


@in_32_bits
def rerun(spec: MindSpec, mind: Mind, episode: Episode) -> Float[np.ndarray, "steps actions"]:
    """What another mind would prefer at each step of an episode, had it seen and done the same.

    It stacks frames as it likes, whatever the mind that played did.
    """
    frames = jax.tree.map(lambda leaf: leaf[:, -1], episode.kept.state.frames)
    before = np.concatenate([[0], episode.kept.action[:-1]]).astype(np.int32)
    given = jax.tree.map(jnp.asarray, (frames, episode.kept.is_first, before, episode.kept.reward))
    return np.asarray(_rerun_program(spec)(mind, given))


@lru_cache(maxsize=PROGRAMS)
def _rerun_program(spec: MindSpec) -> Any:
    def run(mind: Mind, given: PyTree) -> Array:
        def step(state: Any, row: PyTree) -> tuple[Any, Array]:
            observation, is_first, action, reward = jax.tree.map(lambda leaf: leaf[None], row)
            taken = None if state.action is None else action
            state = replace(state, action=taken)
            looked = look(spec, mind, state, Seen(observation, is_first, reward), still(mind.network, 1))
            return looked.state, looked.decision.of_actions[0]

        return jax.lax.scan(step, begin(spec, mind.network, 1), given)[1]

    return jax.jit(run)


@in_32_bits
def attended_anew(spec: MindSpec, mind: Mind, episode: Episode) -> Float[np.ndarray, "steps steps"]:
    """What the working memory of another mind attends to: at each step, for each step of the episode."""
    weights, entries = map(np.asarray, _attention_program(spec)(mind, _rows(episode)[0]))
    found = np.zeros((episode.length, episode.length))
    for step in range(episode.length):
        known = (entries[step] >= 0) & (entries[step] < episode.length)
        share = weights[step] / max(1, weights.shape[1] * weights.shape[2])
        np.add.at(found[step], entries[step][known], share[known])
    return found


@lru_cache(maxsize=PROGRAMS)
def _attention_program(spec: MindSpec) -> Any:
    def run(mind: Mind, rows: PyTree) -> tuple[Array, Array]:
        network = mind.network

        def step(carry: PyTree, row: PyTree) -> tuple[PyTree, tuple[Array, Array]]:
            frames, _, is_first, action, reward = row
            previous = Previous(action, as_learned(spec, network.scales, reward))
            carry, decision = network.step(carry, frames, is_first, previous, network.still)
            return carry, (decision.working.weights, decision.working.entries)

        return jax.lax.scan(step, network.working.init(), rows)[1]

    return jax.jit(run)


def _rows(episode: Episode) -> tuple[PyTree, int]:
    """What the memory was given at each step, filled up to a power of two."""
    kept, length = episode.kept, max(16, 1 << (episode.length - 1).bit_length())
    before = np.zeros(episode.length, np.int32) if kept.state.action is None else kept.state.action
    rows = kept.state.frames, kept.decision.encoding, kept.is_first, before, kept.reward

    def filled(leaf: np.ndarray) -> np.ndarray:
        more = np.zeros((length - len(leaf), *leaf.shape[1:]), leaf.dtype)
        return np.concatenate([np.asarray(leaf), more])

    return jax.tree.map(filled, rows), length


@lru_cache(maxsize=PROGRAMS)
def _program(spec: MindSpec, every: bool) -> Any:
    """Compiled. `every`: whether the preferences of all steps are given, and not those of one."""

    def run(mind: Mind, rows: PyTree, skipped: Array, places: Array) -> Array:
        network = mind.network

        def recalled(frames: PyTree, decision: Any) -> Any:
            if mind.recall is None:
                return decision
            target = network if mind.target is None else mind.target.seeing(network.scales)
            return consult(spec, mind.recall, network, target, frames, decision)[1]

        def step(carry: PyTree, row: tuple[PyTree, Array]) -> tuple[PyTree, Any]:
            (frames, encoding, is_first, action, reward), leave_out = row
            previous = Previous(action, as_learned(spec, network.scales, reward))
            after, decision = network.step_encoded(carry, frames, encoding, is_first, previous, network.still)
            return jax.tree.map(partial(jnp.where, leave_out), carry, after), decision

        def told(carry: PyTree, row: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
            carry, decision = step(carry, row)
            return carry, recalled(row[0][0], decision).of_actions

        def one(asked: tuple[Array, Array]) -> Array:
            skips, place = asked
            if every:
                return jax.lax.scan(told, network.working.init(), (rows, skips))[1]
            # The external memory, which no later step depends on, is read at the step that is asked for alone.
            before = jnp.arange(len(skips)) < place
            carry, _ = jax.lax.scan(
                lambda carry, row: (step(carry, row)[0], None), network.working.init(), (rows, skips | ~before)
            )
            here = jax.tree.map(lambda leaf: leaf[place], (rows, skips))
            return told(carry, here)[1]

        return jax.lax.map(one, (skipped, places), batch_size=AT_ONCE)

    return jax.jit(run)
