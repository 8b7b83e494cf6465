"""Measuring: what an agent looked at, as subjects of `faithfulness`: entries, steps of the episode, parts of the input.

Each chooses again with what it was given when it was recorded: the memory is read again, the episode is run again
without some of its steps, the encoder sees the observation with some of its parts covered.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram.agents import network as networks
from engram.agents.mind import MindSpec
from engram.agents.network import Previous
from engram.agents.policy import Mind, decide, still
from engram.agents.statistics import as_learned
from engram.encoders.parts import Parts
from engram.explaining import inputs, rereading, skipping
from engram.explaining.contributions import Choice, Read, entries_of
from engram.explaining.faithfulness import Case, measure
from engram.explaining.moments import Faithful
from engram.explaining.recording import Episode, Recording
from engram.explaining.telling import Teller
from engram.precision import in_32_bits
from engram.runners.common import PROGRAMS

STEPS = {"fast": 16, "full": 100}  # that are sampled
INPUT_STEPS = {"fast": 12, "full": 50}  # the same of the input, where each look is a pass through the whole encoder
ITEMS = {"fast": 32, "full": 128}  # of a step: those looked at most, where there are more
MOST_IDS = 1 << 22  # that are hidden in one call
MOST_ONLY = 1 << 16  # ids of a memory that is read with nothing but a few of its entries
AT_ONCE = 32  # observations that are looked at side by side
Place = tuple[int, int]  # episode, step


def measured(teller: Teller, how: str, seed: int) -> list[Faithful]:
    """Faithfulness of all that the agent looks with, `fast` or `full`."""
    recording, random = teller.recording, np.random.default_rng([seed, 0xFA17])
    found = []
    for subject in (memories(teller, how, random), history(recording, how, random)):
        if subject is not None:
            found.append(measure(subject, random))
    seen = [each for each in observations(teller, how, random) if each is not None]
    if seen:
        each = [measure(subject, random) for subject in seen]
        worst = min(each, key=lambda one: 1.0 if one.score is None else one.score)
        told = ", ".join(f"{subject.fill} {one.score or 0:.2f}" for subject, one in zip(seen, each, strict=True))
        found.append(replace(worst, notes=[*worst.notes, f"the worst of these fills is told: {told}"]))
    return found


def sampled(places: Sequence[Place], count: int, random: np.random.Generator) -> list[Place]:
    """So many of the steps, in order."""
    if len(places) <= count:
        return list(places)
    chosen = random.choice(len(places), count, replace=False)
    return [places[number] for number in sorted(chosen)]


def _fresh(recording: Recording) -> Mind:
    """The mind with layers drawn anew; what it remembers stays."""
    agent, mind = recording.agent.plan, recording.mind
    network = networks.build(recording.spec, agent.space, agent.actions, jax.random.PRNGKey(0xF4E5))
    return replace(mind, network=network.seeing(mind.network.scales), target=network if mind.target else None)


# -- remembered entries ----------------------------------------------------------------------------------------------


@dataclass
class Memories:
    """Entries of the external memory, those that were read for the chosen action and the runner-up."""

    recording: Recording
    places: list[Place]
    cases: list[Case]
    ids: list[np.ndarray]  # of each case
    what: str = "memories"

    def without(self, which: Int[np.ndarray, "asked"], removed: Bool[np.ndarray, "asked items"]) -> np.ndarray:
        """See `Subject`."""
        hidden = np.full(removed.shape, -1)
        for row, number in enumerate(which):
            ids = self.ids[number]
            hidden[row, : len(ids)] = np.where(removed[row, : len(ids)], ids, -1)
        return self._read(which, hidden)

    def only(self, which: Int[np.ndarray, "asked"], removed: Bool[np.ndarray, "asked items"]) -> np.ndarray | None:
        """See `Subject`."""
        size = self.recording.mind.network.external.capacity
        if size > MOST_ONLY:
            return None
        found = []
        rows = max(32, MOST_IDS // size)  # each row holds all ids
        for start in range(0, len(which), rows):
            some = slice(start, start + rows)
            hidden = np.tile(np.arange(size), (len(which[some]), 1))
            for row, (number, mask) in enumerate(zip(which[some], removed[some], strict=True)):
                ids = self.ids[number]
                hidden[row, ids[~mask[: len(ids)]]] = -1
            found.append(self._read(which[some], hidden))
        return np.concatenate(found)

    def _read(self, which: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        return _by_episode(self.recording, self.places, which, hidden, self._of_episode)

    def _of_episode(self, episode: Episode, steps: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        query: Any = episode.kept.query
        return rereading.without(self.recording.spec, self.recording.mind, query, episode.decision, steps, hidden)


def memories(teller: Teller, how: str, random: np.random.Generator) -> Memories | None:
    """What was remembered; None without an external memory, and where it takes no part in the choice."""
    recording = teller.recording
    if teller.ledger is None or teller.by_policy:
        return None
    places = sampled(all_places(recording), STEPS[how], random)
    anew = _fresh(recording)
    cases, ids = [], []
    for number, step in places:
        episode = recording.episodes[number]
        parted, chosen = teller.split(episode, step, teller.read(episode, step)), episode.choice(step)
        entries = [entry for entry in parted.entries if entry.weight > 0][: ITEMS[how]]
        ids.append(np.array([entry.id for entry in entries], int))
        weights = np.array([entry.weight for entry in entries])
        other = _weights_anew(recording.spec, anew, episode, step, chosen)
        fresh = np.array([other.get(entry.id, 0.0) for entry in entries])
        cases.append(Case(weights, chosen.action, chosen.runner_up, fresh, (number, step)))
    return Memories(recording, places, cases, ids)


def _weights_anew(spec: MindSpec, mind: Mind, episode: Episode, step: int, chosen: Choice) -> dict[int, float]:
    """What layers that were drawn anew attend to in the same memory, for the same two actions."""
    return _weights_of(_looked(spec, mind, episode, np.array([step]))[1].external, chosen)


def _weights_of(read: Any, chosen: Choice) -> dict[int, float]:
    """The weight of each entry in a read of one step, as those of the mind that played are told."""
    weights = np.asarray(read.weights[0])
    known = Read(weights, np.asarray(read.entries[0]), np.zeros_like(weights), np.zeros(0))
    return {entry.id: entry.weight for entry in entries_of(chosen, known, np.zeros(0), by_policy=True)}


# -- steps of the episode --------------------------------------------------------------------------------------------


@dataclass
class History:
    """Earlier steps of the episode, as the working memory attends to them."""

    recording: Recording
    places: list[Place]
    cases: list[Case]
    steps: list[np.ndarray]  # of each case
    what: str = "history"

    def without(self, which: Int[np.ndarray, "asked"], removed: Bool[np.ndarray, "asked items"]) -> np.ndarray:
        """See `Subject`."""
        longest = max(episode.length for episode in self.recording.episodes)
        skipped = np.zeros((len(which), longest), bool)
        for row, number in enumerate(which):
            steps = self.steps[number]
            skipped[row, steps] = removed[row, : len(steps)]
        return _by_episode(self.recording, self.places, which, skipped, self._of_episode)

    def only(self, which: Int[np.ndarray, "asked"], removed: Bool[np.ndarray, "asked items"]) -> np.ndarray:
        """See `Subject`."""
        longest = max(episode.length for episode in self.recording.episodes)
        skipped = np.zeros((len(which), longest), bool)
        for row, number in enumerate(which):
            steps = self.steps[number]
            skipped[row, : self.places[number][1]] = True
            skipped[row, steps] = removed[row, : len(steps)]
        return _by_episode(self.recording, self.places, which, skipped, self._of_episode)

    def _of_episode(self, episode: Episode, steps: np.ndarray, skipped: np.ndarray) -> np.ndarray:
        spec, mind = self.recording.spec, self.recording.mind
        return skipping.skipping(spec, mind, episode, skipped[:, : episode.length], steps)


def history(recording: Recording, how: str, random: np.random.Generator) -> History | None:
    """What the working memory attends to; None for one without attention."""
    if recording.episodes[0].decision.working.weights.size == 0:
        return None
    places = sampled([place for place in all_places(recording) if place[1] >= 2], STEPS[how], random)
    if not places:
        return None
    anew = _fresh(recording)
    other = {
        number: skipping.attended_anew(recording.spec, anew, recording.episodes[number])
        for number in sorted({number for number, _ in places})
    }
    cases, steps = [], []
    for number, step in places:
        episode = recording.episodes[number]
        weights = np.zeros(step)
        for past, weight in skipping.attended(episode, step):
            if past < step:  # the present one is what is decided on
                weights[past] = weight
        kept = np.sort(np.argsort(-weights, kind="stable")[: ITEMS[how]])
        chosen = episode.choice(step)
        fresh = other[number][step][kept]
        cases.append(Case(weights[kept], chosen.action, chosen.runner_up, fresh, (number, step)))
        steps.append(kept)
    return History(recording, places, cases, steps)


# -- parts of the input ----------------------------------------------------------------------------------------------


@dataclass
class Observations:
    """Parts of the input that the encoder attends to, each covered by what `fill` says."""

    recording: Recording
    places: list[Place]
    cases: list[Case]
    items: list[np.ndarray]  # of each case, the parts that are there
    parts: Parts
    fill: str
    fills: list[PyTree]  # for each case, stacked frames
    both: bool  # whether parts are also put back one by one
    what: str = "input"

    def without(self, which: Int[np.ndarray, "asked"], removed: Bool[np.ndarray, "asked items"]) -> np.ndarray:
        """See `Subject`."""
        found = np.zeros((len(which), self.recording.agent.plan.actions), np.float32)
        for number in np.unique(which):
            rows = np.flatnonzero(which == number)
            place, step = self.places[number]
            episode = self.recording.episodes[place]
            fill = jax.tree.map(np.asarray, self.fills[number])
            items, masks = self.items[number], np.zeros((len(rows), self.parts.count), bool)
            masks[:, items] = removed[rows, : len(items)]
            found[rows] = covered(self.recording.spec, self.recording.mind, self.parts, episode, step, masks, fill)
        return found

    def only(self, which: Int[np.ndarray, "asked"], removed: Bool[np.ndarray, "asked items"]) -> np.ndarray | None:
        """See `Subject`."""
        return self.without(which, removed) if self.both else None


def observations(teller: Teller, how: str, random: np.random.Generator) -> list[Observations]:
    """What the encoder attends to, with each of the fills; none for one without attention.

    Steps at which less than two parts are there, as a set may have it, are left out.
    """
    recording, parts = teller.recording, teller.names.seen
    if not parts.attended or parts.count < 2:
        return []
    frames = [episode.kept.state.frames for episode in recording.episodes]
    some = sampled(all_places(recording), INPUT_STEPS[how], random)
    there = [np.flatnonzero(inputs.there(parts, rereading.at(frames[number], step))) for number, step in some]
    places = [place for place, each in zip(some, there, strict=True) if len(each) > 1]
    items = [each for each in there if len(each) > 1]
    anew = _fresh(recording)
    cases = []
    for (number, step), which in zip(places, items, strict=True):
        episode, chosen = recording.episodes[number], recording.episodes[number].choice(step)
        other = _looked(recording.spec, anew, episode, np.array([step]))[1].encoding.attention[0]
        attention = episode.decision.encoding.attention[step]
        seen = attention.mean(0)[which], chosen.action, chosen.runner_up, np.asarray(other).mean(0)[which]
        cases.append(Case(*seen, (number, step)))
    if not places:
        return []
    fills = _fills(recording, parts, places, random)
    both = how == "full"
    return [Observations(recording, places, cases, items, parts, name, each, both) for name, each in fills.items()]


def _fills(
    recording: Recording, parts: Parts, places: list[Place], random: np.random.Generator
) -> dict[str, list[PyTree]]:
    """Stacked frames that parts are taken from: the mean of the episode, another time, and for pictures a blur.

    Of a set zeros alone, which leave an entity out.
    """
    space = recording.agent.plan.space
    stacked = [recording.episodes[number].kept.state.frames for number, _ in places]
    if parts.kind == "entities":
        return {"left out": [jax.tree.map(lambda leaf: np.zeros_like(leaf[0]), frames) for frames in stacked]}

    def stack(one: PyTree, like: PyTree) -> PyTree:
        return jax.tree.map(lambda a, b: np.broadcast_to(a[None], b.shape[1:]), one, like)

    means: dict[int, PyTree] = {}
    for (number, _), frames in zip(places, stacked, strict=True):
        if number not in means:
            means[number] = inputs.mean_of(space, jax.tree.map(lambda leaf: leaf[:, -1], frames))
    found = {"mean of the episode": [stack(means[n], f) for (n, _), f in zip(places, stacked, strict=True)]}
    others = [int(random.integers(0, recording.episodes[number].length)) for number, _ in places]
    found["another time"] = [rereading.at(frames, at) for at, frames in zip(others, stacked, strict=True)]
    if any(inputs.is_picture(leaf) for _, leaf in inputs.spaces.leaves(space)):
        found["blur"] = [
            inputs.blurred(space, rereading.at(frames, step)) for (_, step), frames in zip(places, stacked, strict=True)
        ]
    return found


@in_32_bits
def covered(
    spec: MindSpec, mind: Mind, parts: Parts, episode: Episode, step: int, removed: np.ndarray, fill: PyTree
) -> Float[np.ndarray, "asked actions"]:
    """The preferences at a step with some parts of the input covered."""
    count = max(AT_ONCE, 1 << (len(removed) - 1).bit_length())
    masks = np.zeros((count, parts.count), bool)
    masks[: len(removed)] = removed
    given = _given(spec, mind, episode, np.array([step]))
    return np.asarray(_cover_program(spec, parts)(mind, given, masks, fill))[: len(removed)]


@lru_cache(maxsize=PROGRAMS)
def _cover_program(spec: MindSpec, parts: Parts) -> Callable[..., Any]:
    def run(mind: Mind, given: PyTree, masks: Array, fill: PyTree) -> Array:
        carry, frames, is_first, previous = given

        def one(mask: Array) -> Array:
            covered = inputs.cover(parts, jax.tree.map(lambda leaf: leaf[0], frames), mask, fill)
            batched = jax.tree.map(lambda leaf: leaf[None], covered)
            decision = decide(spec, mind, carry, batched, is_first, previous, still(mind.network, 1))[1]
            return decision.of_actions[0]

        return jax.lax.map(one, masks, batch_size=AT_ONCE)

    return jax.jit(run)


# -- looking again ---------------------------------------------------------------------------------------------------


def _given(spec: MindSpec, mind: Mind, episode: Episode, steps: np.ndarray) -> PyTree:
    """What was given at these steps: carry, frames, whether it was the first, and what came before."""
    kept = episode.kept
    before: Any = np.zeros(episode.length, np.int32) if kept.state.action is None else kept.state.action
    reward = as_learned(spec, mind.network.scales, jnp.asarray(kept.reward))
    given = episode.carry, kept.state.frames, kept.is_first, Previous(before, reward)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[steps]), given)


@in_32_bits
def _looked(spec: MindSpec, mind: Mind, episode: Episode, steps: np.ndarray) -> Any:
    """What a mind decides at these steps."""
    return _look_program(spec)(mind, *_given(spec, mind, episode, steps))


@lru_cache(maxsize=PROGRAMS)
def _look_program(spec: MindSpec) -> Callable[..., Any]:
    def run(mind: Mind, carry: PyTree, frames: PyTree, is_first: Array, previous: Previous) -> Any:
        return decide(spec, mind, carry, frames, is_first, previous, still(mind.network, len(is_first)))

    return jax.jit(run)


def all_places(recording: Recording) -> list[Place]:
    """Every step of a recording."""
    return [(number, step) for number, one in enumerate(recording.episodes) for step in range(one.length)]


def _by_episode(
    recording: Recording,
    places: list[Place],
    which: Int[np.ndarray, "asked"],
    rows: np.ndarray,
    ask: Callable[[Episode, np.ndarray, np.ndarray], np.ndarray],
) -> Float[np.ndarray, "asked actions"]:
    """What is asked of each case, one episode after another."""
    owner, step = np.array(places)[which].T
    found = np.zeros((len(which), recording.agent.plan.actions), np.float32)
    for number in np.unique(owner):
        mine = np.flatnonzero(owner == number)
        found[mine] = ask(recording.episodes[number], step[mine], rows[mine])
    return found
