"""Trying: parts of the input covered one at a time, edited worlds, and a memory that is poisoned by strange frames."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt32

from engram.agents.policy import Mind, Seen, begin, look, still
from engram.bits import next_words
from engram.encoders.parts import Parts
from engram.envs.drawing.pictures import inner
from engram.explaining import inputs, measuring, rereading, worlds
from engram.explaining.moments import Light, Step, World
from engram.explaining.recording import Episode, Recording
from engram.explaining.telling import Teller
from engram.external.memory import Entries
from engram.play.evaluation import evaluation_seed
from engram.precision import in_32_bits

COVERED_STEPS = {"fast": 24, "full": 200}  # at which parts are covered one at a time
MOST_COVERED = {"fast": 32, "full": 128}  # parts of a step: those looked at most, where there are more
UNATTENDED = 128  # parts that are covered of an input over which no attention lies
WORLDS = {"fast": 6, "full": 24}  # edits that are asked about
POISONED = {"fast": 16, "full": 100}  # steps at which the choice is made again
STRANGE = 64  # frames that are written, at the most

# -- parts of the input ----------------------------------------------------------------------------------------------


def with_parts(teller: Teller, told: list[Step], first: list[int], how: str) -> list[Step]:
    """The steps with how far the margin falls when one part of the input is covered by its mean over the episode.

    An entity is left out instead.

    Measured at the places `first` and at some between them.
    """
    parts = teller.names.seen
    if parts.count < 2 or (not parts.attended and parts.count > UNATTENDED):
        return told
    even = np.linspace(0, len(told) - 1, min(len(told), COVERED_STEPS[how])).astype(int).tolist()
    means: dict[int, PyTree] = {}
    found = [*told]
    for place in list(dict.fromkeys([*first, *even]))[: COVERED_STEPS[how]]:
        step = told[place]
        episode = teller.recording.episodes[step.episode]
        if step.episode not in means:
            frames = jax.tree.map(lambda leaf: leaf[:, -1], episode.kept.state.frames)
            if parts.kind == "entities":
                means[step.episode] = jax.tree.map(lambda leaf: np.zeros_like(leaf[0]), frames)
            else:
                means[step.episode] = inputs.mean_of(teller.recording.agent.plan.space, frames)
        mattered = _each_covered(teller, parts, step, episode, means[step.episode], MOST_COVERED[how])
        names = teller.names.at(teller.recording, step.episode, step.t)
        shown = step.parts or names.parts(rereading.at(episode.kept.state.frames, step.t), always=True)
        found[place] = replace(step, parts=shown, parts_mattered=mattered)
    return found


def _each_covered(
    teller: Teller, parts: Parts, step: Step, episode: Episode, mean: PyTree, most: int
) -> list[tuple[int, float]]:
    """Parts and the margin with each minus the margin without it."""
    weights = step.attention.mean(0) if step.attention.shape[0] else np.zeros(parts.count)
    frames = rereading.at(episode.kept.state.frames, step.t)
    order = np.argsort(-weights, kind="stable")
    order = order[inputs.there(parts, frames)[order]]
    which = np.sort(order[: most if parts.attended else UNATTENDED])
    masks = np.concatenate([np.zeros((1, parts.count), bool), np.eye(parts.count, dtype=bool)[which]])
    fill = jax.tree.map(lambda one, like: np.broadcast_to(one[None], like.shape), mean, frames)
    found = measuring.covered(teller.spec, teller.mind, parts, episode, step.t, masks, fill)
    margins = found[:, step.action].astype(np.float64) - found[:, step.runner_up]
    effects = np.nan_to_num(margins[0] - margins[1:], posinf=0.0, neginf=0.0)
    return [(int(part), float(effect)) for part, effect in zip(which, effects, strict=True)]


# -- edited worlds ---------------------------------------------------------------------------------------------------


def edited(teller: Teller, how: str, random: np.random.Generator) -> list[World]:
    """What the agent chooses where one thing of the task is another; [] for a task that cannot be edited."""
    recording = teller.recording
    if recording.env is None:
        return []
    asked = _questions(recording)
    if len(asked) > WORLDS[how]:
        chosen = random.choice(len(asked), WORLDS[how], replace=False).tolist()
        asked = [asked[place] for place in sorted(chosen)]
    return [_asked(teller, number, step, edit) for number, step, edit in asked]


def _questions(recording: Recording) -> list[tuple[int, int, worlds.Edit]]:
    """Episode, step of the choice, and an edit of the step that decides there (or of the present one)."""
    env: Any = recording.env
    found: list[tuple[int, int, worlds.Edit]] = []
    for number, episode in enumerate(recording.episodes):
        for step in range(episode.length):
            bare, inside = inner(env, rereading.at(episode.states, step))
            before = int(bare.relevant_step(inside)) if hasattr(bare, "relevant_step") else step
            if not 0 <= before <= step:
                continue
            each = worlds.edits(env, rereading.at(episode.states, before))
            found += [(number, step, edit) for edit in each if edit.step == before]
    return found


def _asked(teller: Teller, number: int, step: int, edit: worlds.Edit) -> World:
    recording = teller.recording
    episode = recording.episodes[number]
    kept, taken = episode.kept, np.asarray(episode.kept.action, np.int32)
    seen = jax.tree.map(lambda leaf: leaf[: step + 1, -1], kept.state.frames)
    choose = worlds.chooser(teller.spec, teller.mind, taken[:step], np.asarray(kept.reward[: step + 1]))
    env: Any = recording.env
    keys = _keys(recording, number, step)[edit.step :]
    after = worlds.replayed(env, edit, taken[edit.step : step], keys)
    world = jax.tree.map(lambda leaf, new: np.concatenate([leaf[: edit.step], new.astype(leaf.dtype)]), seen, after)
    parts = _of_one_frame(teller.names.seen)
    of_parts = edit.step == step and edit.part >= 0 and parts.kind != "grid" and edit.part < parts.count
    if of_parts:
        times = np.unique(np.linspace(0, episode.length - 1, 8).astype(int))
        fills = [rereading.at(jax.tree.map(lambda leaf: leaf[:, -1], kept.state.frames), time) for time in times]
        if parts.kind == "entities":
            fills = [jax.tree.map(np.zeros_like, fills[0])]
        effects = worlds.parts_left_out(choose, seen, parts, fills)
        candidates = inputs.there(parts, jax.tree.map(lambda leaf: leaf[step, -1:], kept.state.frames))
        candidates[0] &= parts.kind != "entities"  # the agent's own row of a set
    else:
        effects = worlds.steps_left_out(choose, seen)
        # What is seen now is no candidate where the cause lies before it.
        candidates = np.arange(len(effects)) < (step if edit.step < step else step + 1)
    answer = worlds.asked(choose, seen, world, edit, effects)
    first = int(np.argmax(np.where(candidates, effects, -1.0)))
    called = inputs.parts_told(parts, None, teller.names.known)[first].name if of_parts else f"step {first}"
    named = first == edit.part if of_parts else first in worlds.differing(seen, world)
    return World(edit.name, number, edit.step, step, answer.before, answer.after, called, named)


def _of_one_frame(parts: Parts) -> Parts:
    """The parts of the newest of stacked frames, which alone an edit of this step changes."""
    return replace(parts, stack=1, shape=parts.shape[-1:]) if len(parts.shape) == 2 and parts.kind != "grid" else parts


@in_32_bits
def _keys(recording: Recording, number: int, steps: int) -> UInt32[np.ndarray, "steps 2"]:
    """The random words that an episode's environment was given at each step, as `play_device` draws them."""
    count = len(recording.episodes)
    key = next_words(jax.random.PRNGKey(evaluation_seed(recording.seed)), 2 * count)[0]
    found = np.zeros((steps, 2), np.uint32)
    for step in range(steps):
        key, words = next_words(key, 2 * count)
        found[step] = np.asarray(words).reshape(count, 2)[number]
    return found


# -- a poisoned memory -----------------------------------------------------------------------------------------------


def poisoned(teller: Teller, how: str, random: np.random.Generator) -> Light | None:
    """How many choices turn once strange frames are in the memory, each saying more than anything in it."""
    if teller.ledger is None or teller.by_policy or not teller.ledger.live.any():
        return None
    places = measuring.sampled(measuring.all_places(teller.recording), POISONED[how], random)
    count = min(STRANGE, teller.ledger.capacity)
    mind = _with_strange(teller, count, random)
    turned, total, moved = 0, 0, 0.0
    for number in sorted({number for number, _ in places}):
        episode = teller.recording.episodes[number]
        steps = np.array([step for one, step in places if one == number])
        query: Any = episode.kept.query
        nothing = np.full((len(steps), 1), -1)
        whole, other = (
            rereading.without(teller.spec, one, query, episode.decision, steps, nothing) for one in (teller.mind, mind)
        )
        turned += int((whole.argmax(1) != other.argmax(1)).sum())
        with np.errstate(invalid="ignore"):
            moved += float(np.nan_to_num(np.abs(other - whole), posinf=0.0).max(1).sum())
        total += len(steps)
    value = f"{turned} of {total} choices turn; Q moves by {moved / total:.2g}"
    rule = (
        "frames with their numbers shuffled are written, each worth more than all entries; good where no choice turns"
    )
    state = "good" if turned == 0 else "look" if turned <= total / 10 else "bad"
    return Light("poisoned by strange frames (measured)", value, state, rule)


def _with_strange(teller: Teller, count: int, random: np.random.Generator) -> Any:
    """The mind with strange entries in its memory."""
    mind, ledger = teller.mind, teller.ledger
    assert ledger is not None
    episode = teller.recording.episodes[0]
    frames = jax.tree.map(
        lambda leaf: jnp.asarray(_shuffled(np.asarray(leaf), count, random)), episode.kept.state.frames
    )
    known = ledger.entries
    values = np.asarray(known.value)[ledger.live]
    worth = jnp.full(count, values.max() + np.ptp(values) + 1e-3, jnp.float32)

    def zeros(column: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape[1:]), leaf.dtype), column)

    kept: dict[str, Any] = {name: zeros(getattr(known, name)) for name in ("reward", "discount", "successor")}
    kept["observation"] = None if known.observation is None else frames
    kept["reward"] = None if known.reward is None else worth
    words = random.integers(0, 1 << 32, (2, count, 2), dtype=np.uint32)
    entries = Entries(
        key=_keys_of(teller, frames),
        action=jnp.asarray(random.integers(0, teller.recording.agent.plan.actions, count), jnp.int32),
        features=jnp.zeros((count, known.features.shape[1])),
        value=worth,
        td_error=jnp.zeros(count),
        hash=jnp.asarray(words[0]),
        origin=jnp.full((count, 3), -1, jnp.int32),
        following=None if known.following is None else jnp.asarray(words[1]),
        **kept,
    )
    recall: Any = mind.recall
    write = in_32_bits(jax.jit(mind.network.external.write))
    store = write(recall.store, entries, jnp.ones(count, bool))
    return replace(mind, recall=replace(recall, store=store))


def _shuffled(frames: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Frames of the episode whose numbers stand in other places."""
    rows = frames[random.integers(0, len(frames), count)]
    return random.permuted(rows.reshape(count, -1), axis=1).reshape(rows.shape)


@in_32_bits
def _keys_of(teller: Teller, frames: PyTree) -> Float[Array, "count embedding"]:
    """By what the memory is asked where an episode begins with each of these frames."""
    spec, count = teller.spec, len(jax.tree.leaves(frames)[0])

    def run(mind: Mind, newest: PyTree) -> Float[Array, "count embedding"]:
        seen = Seen(newest, jnp.ones(count, bool), jnp.zeros(count))
        query: Any = look(spec, mind, begin(spec, mind.network, count), seen, still(mind.network, count)).query
        return query.key

    return jax.jit(run)(teller.mind, jax.tree.map(lambda leaf: leaf[:, -1], frames))
