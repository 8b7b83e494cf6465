"""Counterfactual worlds: device tasks in which one thing is another, to ask whether the choice changes with it.

    for edit in edits(env, state):                       another cue, another card, one car less
        seen = replayed(env, edit, actions, keys)        the same episode in that world
        answer = asked(choose, history, seen, edit)      does the choice change, and is the cause named first?

An edit changes one thing of the task, which is observed at its step, and again wherever it is shown again under the
same actions and keys. So the true cause is known: any step whose observation differs. What an explanation names is
found without the edit, by leaving out one step after another (`steps_left_out`) or one part after another
(`parts_left_out`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt32

from engram.agents.mind import MindSpec
from engram.agents.policy import Mind, PolicyState, Seen, begin, look, still
from engram.encoders.parts import Parts
from engram.envs.device import DeviceEnv
from engram.envs.drawing.pictures import inner
from engram.envs.limit import TimeLimited
from engram.envs.names import SUITS
from engram.envs.tasks.intersection import observe
from engram.explaining.inputs import cover
from engram.precision import in_32_bits

Choose = Callable[[PyTree], Float[Array, "actions"]]  # observations [time, ...] -> preference at the last of them
MOST_FILLS = 8  # observations of other times that stand in for one that is left out


class Edit(NamedTuple):
    """A state in which one thing is another."""

    name: str  # "the cue is down, not up"
    state: Any
    observation: PyTree  # of the edited state
    step: int  # of the episode, whose observation changes; -1 where that is still open
    part: int = -1  # of that observation: the row of a set, the place of a number; -1: all of it


class Answer(NamedTuple):
    """What was asked of one edit."""

    edit: Edit
    before: int  # the action that was chosen
    after: int  # the action that is chosen in the edited world
    effects: Float[np.ndarray, "candidates"]  # by leave-one-out: of each step, or of each part
    first: int  # the largest of them
    named: bool  # whether that is where the worlds differ

    @property
    def changed(self) -> bool:
        """Whether the edit changes the choice."""
        return self.before != self.after


@in_32_bits
def edits(env: DeviceEnv, state: Any) -> list[Edit]:
    """Other worlds that differ from this state in one thing; [] where the task has none, or nothing is shown now.

    | task                          | edits of a state                                                            |
    |-------------------------------|-----------------------------------------------------------------------------|
    | T-mazes                       | the other cue, while it is shown or still to come                           |
    | RepeatFirst                   | another first card, at the first step                                       |
    | RepeatPrevious, Autoencode    | another card now                                                            |
    | MemoryLength, MemorySize      | each bit turned, at the first step                                          |
    | ContextBandit                 | the picture of each other context now                                       |
    | Intersection                  | each vehicle in sight but the agent's own removed                           |
    """
    bare, inside = inner(env, jax.tree.map(np.asarray, state))
    find = _EDITS.get(type(bare).__name__) if type(bare).__module__.startswith("engram.envs.tasks.") else None
    found = [] if find is None else find(bare, inside)
    return [edit._replace(state=_put_back(env, state, edit.state)) for edit in found]


def _put_back(env: Any, state: Any, edited: Any) -> Any:
    return state._replace(inner=_put_back(env.env, state.inner, edited)) if isinstance(env, TimeLimited) else edited


def _t_maze(env: Any, state: Any) -> list[Edit]:
    step, cue = int(state.steps), int(state.cue)
    if 0 <= cue < step:
        return []
    other = state._replace(goal=np.int32(-state.goal))
    words = ("up", "down") if int(other.goal) > 0 else ("down", "up")
    return [Edit(f"the cue is {words[0]}, not {words[1]}", other, np.asarray(env._observe(other)), cue, 1)]


def _repeat_first(env: Any, state: Any) -> list[Edit]:  # noqa: ARG001
    if int(state.steps):
        return []
    return [
        # The rest of the deck stays, so that the same cards follow.
        Edit(f"the first card is one of {SUITS[suit]}", state._replace(first=np.int32(suit)), np.int32(suit), 0)
        for suit in range(len(SUITS))
        if suit != int(state.first)
    ]


def _repeat_previous(env: Any, state: Any) -> list[Edit]:  # noqa: ARG001
    def with_card(suit: int) -> Any:
        return state._replace(recent=np.concatenate([[np.int32(suit)], state.recent[1:]]).astype(np.int32))

    now = int(state.recent[0])
    return [
        Edit(f"the card is one of {SUITS[suit]}", with_card(suit), np.int32(suit), int(state.steps))
        for suit in range(len(SUITS))
        if suit != now
    ]


def _autoencode(env: Any, state: Any) -> list[Edit]:
    step = int(state.steps)
    if step >= env.cards:
        return []
    watching = np.int32(step < env.cards - 1)

    def with_card(suit: int) -> Any:
        suits = state.suits.copy()
        suits[step] = suit
        return state._replace(suits=suits)

    now = int(state.suits[step])
    return [
        Edit(f"the card is one of {SUITS[suit]}", with_card(suit), (watching, np.int32(suit)), step)
        for suit in range(len(SUITS))
        if suit != now
    ]


def _bits(env: Any, state: Any) -> list[Edit]:
    if int(state.steps):
        return []
    found = []
    for place in range(env.size):
        turned = state.context.copy()
        turned[place] = 1 - turned[place]
        other = state._replace(context=turned)
        found.append(Edit(f"bit {place} is {turned[place]}", other, np.asarray(env._observe(other)), 0, place + 2))
    return found


def _bandit(env: Any, state: Any) -> list[Edit]:
    now = min(int(state.steps) // env.pulls, env.contexts * env.exposures - 1)
    shown = int(state.order.reshape(-1)[now])
    found = []
    for context in range(env.contexts):
        if context == shown or np.array_equal(state.pictures[context], state.pictures[shown]):
            continue
        order = state.order.copy()
        order.reshape(-1)[now] = context
        other = state._replace(order=order)
        found.append(Edit(f"picture {context + 1} is shown", other, state.pictures[context], int(state.steps)))
    return found


def _crossing(env: Any, state: Any) -> list[Edit]:  # noqa: ARG001
    look_at = _observe()
    rows = np.asarray(look_at(state.traffic))
    found = []
    for one in np.flatnonzero(state.traffic.present)[1:]:
        present = state.traffic.present.copy()
        present[one] = False
        left = np.asarray(look_at(state.traffic._replace(present=present)))
        gone = [row for row in range(1, len(rows)) if rows[row].any() and not (left == rows[row]).all(1).any()]
        if len(gone) == 1:  # else it was out of sight
            other = state._replace(traffic=state.traffic._replace(present=present))
            found.append(Edit(f"vehicle {gone[0]} is not there", other, left, int(state.steps), gone[0]))
    return found


@lru_cache(maxsize=1)
def _observe() -> Any:
    return jax.jit(observe)


_EDITS: dict[str, Callable[[Any, Any], list[Edit]]] = {
    "TMaze": _t_maze,
    "RepeatFirst": _repeat_first,
    "RepeatPrevious": _repeat_previous,
    "Autoencode": _autoencode,
    "MemoryChain": _bits,
    "ContextBandit": _bandit,
    "Intersection": _crossing,
}


# -- the same episode in another world -------------------------------------------------------------------------------


@in_32_bits
def replayed(
    env: DeviceEnv, edit: Edit, actions: Int[np.ndarray, "steps"], keys: UInt32[np.ndarray, "steps 2"]
) -> PyTree:
    """What is observed from the edited state on, under the same actions and keys. Leaves are [steps + 1, ...].

    The episode must not end before the last action; what follows an end means nothing.
    """
    state = jax.tree.map(jnp.asarray, edit.state)
    following = _replay(env)(state, jnp.asarray(actions, jnp.int32), jnp.asarray(keys, jnp.uint32))
    first = jax.tree.map(lambda leaf: np.asarray(leaf)[None], edit.observation)
    return jax.tree.map(lambda one, rest: np.concatenate([one.astype(rest.dtype), rest]), first, following)


@lru_cache(maxsize=8)
def _replay(env: DeviceEnv) -> Callable[..., PyTree]:
    def step(state: Any, given: Any) -> Any:
        action, key = given
        state, after = env.step(state, action, key)
        return state, after.observation

    def run(state: Any, actions: Array, keys: Array) -> PyTree:
        return jax.lax.scan(step, state, (actions, keys))[1]

    jitted = jax.jit(run)
    return lambda *given: jax.tree.map(np.asarray, jitted(*given))


def chooser(
    spec: MindSpec, mind: Mind, actions: Int[np.ndarray, "steps"], rewards: Float[np.ndarray, "time"]
) -> Choose:
    """An agent's preferences at the last of an episode's observations, of which the first begins it.

    `actions` that were taken at each of them but the last, and `rewards` before each of them, are kept as they were.
    """
    taken = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.asarray(actions, jnp.int32)[: len(rewards) - 1]])

    def step(state: PolicyState, given: Any) -> Any:
        observation, is_first, reward, action = given
        if state.action is not None:
            state = PolicyState(state.frames, state.carry, action[None], state.episode)
        seen = Seen(jax.tree.map(lambda leaf: leaf[None], observation), is_first[None], reward[None])
        looked = look(spec, mind, state, seen, still(mind.network, 1))
        return looked.state, looked.decision.of_actions[0]

    def choose(observations: PyTree) -> Float[Array, "actions"]:
        first = jnp.arange(len(rewards)) == 0
        given = observations, first, jnp.asarray(rewards, jnp.float32), taken
        return jax.lax.scan(step, begin(spec, mind.network, 1), given)[1][-1]

    return choose


# -- what is named ---------------------------------------------------------------------------------------------------


def margin_of(preference: Float[Array, "actions"], action: Int[Array, ""] | int) -> Float[Array, ""]:
    """The preference of an action minus the best of the others."""
    others = jnp.where(jnp.arange(preference.shape[0]) == action, -jnp.inf, preference)
    return preference[action] - others.max()


@in_32_bits
def steps_left_out(choose: Choose, observations: PyTree) -> Float[np.ndarray, "time"]:
    """How far the margin of the last choice moves when the observation of a step is that of another time.

    The mean over up to 8 other times of the same episode, so that one that happens to be alike hides nothing.
    """
    observations = jax.tree.map(jnp.asarray, observations)
    time = jax.tree.leaves(observations)[0].shape[0]
    others = np.unique(np.linspace(0, time - 1, min(time, MOST_FILLS + 1)).round().astype(int))
    steps, sources = (one.reshape(-1) for one in np.meshgrid(np.arange(time), others, indexing="ij"))

    def without(step: Array, source: Array) -> PyTree:
        here = jnp.arange(time) == step
        return jax.tree.map(
            lambda leaf: jnp.where(here.reshape(-1, *[1] * (leaf.ndim - 1)), leaf[source], leaf), observations
        )

    effects = _effects(choose, observations, without, jnp.asarray(steps), jnp.asarray(sources))
    return _mean_of_others(effects, steps, sources, time)


@in_32_bits
def parts_left_out(
    choose: Choose, observations: PyTree, parts: Parts, fills: Sequence[PyTree]
) -> Float[np.ndarray, "parts"]:
    """How far the margin of the last choice moves when a part of the last observation is that of a fill, in the mean.

    `parts` are those of observations that are not stacked.
    """
    observations = jax.tree.map(jnp.asarray, observations)
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *fills)
    count = len(fills)
    which, sources = (one.reshape(-1) for one in np.meshgrid(np.arange(parts.count), np.arange(count), indexing="ij"))

    def without(part: Array, source: Array) -> PyTree:
        last = jax.tree.map(lambda leaf: leaf[-1:], observations)
        fill = jax.tree.map(lambda leaf: leaf[source], stacked)
        covered = cover(parts, last, jnp.arange(parts.count) == part, fill)
        return jax.tree.map(lambda leaf, new: jnp.concatenate([leaf[:-1], new]), observations, covered)

    effects = _effects(choose, observations, without, jnp.asarray(which), jnp.asarray(sources))
    return np.asarray(effects).reshape(parts.count, count).mean(1)


def _effects(
    choose: Choose, observations: PyTree, without: Callable[[Array, Array], PyTree], which: Array, sources: Array
) -> Float[np.ndarray, "tries"]:
    @jax.jit
    def run(which: Array, sources: Array) -> Array:
        preference = choose(observations)
        action = preference.argmax()
        whole = margin_of(preference, action)

        def moved(pair: tuple[Array, Array]) -> Array:
            return jnp.abs(whole - margin_of(choose(without(*pair)), action))

        return jax.lax.map(moved, (which, sources), batch_size=64)

    return np.asarray(run(which, sources))


def _mean_of_others(effects: np.ndarray, steps: np.ndarray, sources: np.ndarray, time: int) -> np.ndarray:
    other = steps != sources
    sums = np.bincount(steps, np.where(other, effects, 0.0), time)
    return sums / np.maximum(np.bincount(steps, other, time), 1)


@in_32_bits
def asked(choose: Choose, history: PyTree, edited: PyTree, edit: Edit, effects: np.ndarray) -> Answer:
    """Whether the choice at the end of a history changes in the edited world, and what leave-one-out names first.

    `effects` are those of the steps, or of the parts of the last observation, for which `edit.part` is what is named.
    """
    before, after = (int(np.argmax(choose(jax.tree.map(jnp.asarray, one)))) for one in (history, edited))
    first = int(np.argmax(effects))
    time = jax.tree.leaves(history)[0].shape[0]
    causes = differing(history, edited) if len(effects) == time and edit.step < time - 1 else [edit.part]
    return Answer(edit, before, after, np.asarray(effects), first, first in causes)


def differing(history: PyTree, edited: PyTree) -> list[int]:
    """The steps whose observations differ in two worlds."""
    pairs = zip(jax.tree.leaves(history), jax.tree.leaves(edited), strict=True)
    rows = [(np.asarray(one) != np.asarray(other)).reshape(len(one), -1).any(1) for one, other in pairs]
    return np.flatnonzero(np.any(rows, 0)).tolist()


@dataclass(frozen=True)
class Asked:
    """Answers to many edits: how many changed the choice, and of how many the true cause was named first."""

    answers: list[Answer]

    @property
    def named(self) -> float:
        """The share of edits that change the choice whose cause was named first; 1 where none does."""
        moving = [answer for answer in self.answers if answer.changed]
        return float(np.mean([answer.named for answer in moving])) if moving else 1.0

    @property
    def changed(self) -> float:
        """The share of edits that change the choice."""
        return float(np.mean([answer.changed for answer in self.answers])) if self.answers else 0.0
