"""`engram.explain`: episodes of an agent, told step by step, with what was measured of the telling."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from engram.errors import SpecError
from engram.explaining import page, skipping, trying
from engram.explaining.health import health
from engram.explaining.highlights import key_moments
from engram.explaining.measuring import measured
from engram.explaining.moments import Faithful, Memory, Step, Told
from engram.explaining.naming import Names
from engram.explaining.recording import Recording, record
from engram.explaining.tables import write_csv
from engram.explaining.telling import Teller
from engram.play.playing import Stop, never
from engram.play.trained import Environment, TrainedAgent
from engram.registry import name_of
from engram.run.stored import load
from engram.specs import Number, whole, whole_if_given

How = Literal["fast", "full", "off"]
MOST_TOLD = 5_000  # steps; more would make a page that nobody reads
PARTS = ("encoder", "working", "external", "head")
INEXACT = {
    "graph": "external=graph: without an entry, what it brought to the values of others stays; mattered is approximate",
    "chunked": "external=chunked: without an entry, the same chunks are opened as with it; mattered is approximate",
}
PACKAGES = ("engram-rl", "jax", "numpy")


def explain(
    agent: Any,
    episodes: Number = 1,
    steps: tuple[int | None, int | None] | None = None,
    faithfulness: str = "fast",
    seed: Number | None = None,
    env: Environment | None = None,
    env_args: Mapping[str, Any] | None = None,
    at: Any = "newest",
    max_episode_steps: Number | None = None,
    trust: bool = False,
    stop: Stop = never,
) -> "Explanation":
    """Plays whole greedy episodes and tells of every step what was chosen, over what, and what gave how much of it.

    Everything told is what was decided with. What is called measured was tested by removing it: entries of an external
    memory by reading again, steps of the episode by running it again, parts of the input by covering them.

    Args:
      agent: a run's directory, a `Trainer`, or what `engram.load` gives.
      episodes: how many are played, on seeds that no training uses; the same seed gives the same explanation.
      steps: (first, end) of the steps that are told of each episode; by default all, up to 5,000.
      faithfulness: how much is measured of whether what was looked at is what mattered; "off" for nothing.
      env: another environment than that of training, with `env_args` for its constructor.
      at: of a run, which checkpoint: "newest", "best", or that of a step. trust: as for `engram.load`.
      max_episode_steps: an episode that has not ended after so many steps is cut off.
      stop: is asked between steps on the host; Interrupted is raised where it is true.

    Raises: SpecError for what cannot be told, CheckpointError where there is no such run, and what playing raises.
    """
    episodes, seed = whole("episodes", episodes, 1), whole("seed", 0 if seed is None else seed, 0)
    limit = whole_if_given("max_episode_steps", max_episode_steps, 1)
    if faithfulness not in get_args(How):
        raise SpecError(f"faithfulness = {faithfulness!r} was given; expected {', '.join(get_args(How))}")
    told = window(steps)
    player, trained = trained_of(agent, at, trust)
    recording = record(player.elsewhere(env, env_args), episodes, seed, limit, stop=stop)
    return Explanation(_told(recording, trained, told, faithfulness))


class Explanation:
    """What `engram.explain` found.

    Fields:
      told: all of it, as plain values (`engram.explaining.moments`).
    """

    def __init__(self, told: Told):
        self.told = told

    def step(self, t: int, episode: int = 0) -> Step:
        """What was chosen at step `t` of an episode. SpecError for a step that is not told."""
        for step in self.told.steps:
            if (step.episode, step.t) == (episode, t):
                return step
        known = [step.t for step in self.told.steps if step.episode == episode]
        if not known:
            raise SpecError(f"episode {episode} is not told; there are {len(self.told.returns)}, counted from 0")
        raise SpecError(f"step {t} is not told of episode {episode}; its steps {known[0]} to {known[-1]} are")

    def memories(self, t: int, episode: int = 0) -> list[Memory]:
        """The remembered experiences of a step, those first that mattered most; none without an external memory."""
        return self.step(t, episode).memories

    @property
    def faithfulness(self) -> list[Faithful]:
        """Whether what was looked at is what mattered: memories, history, input; empty where it was not measured."""
        return self.told.faithful

    def without_pictures(self) -> "Explanation":
        """The same without thumbnails, which may show what is private."""
        steps = [_unpictured(step) for step in self.told.steps]
        holds = [line for line in self.told.holds if not line.startswith("pictures")]
        return Explanation(replace(self.told, steps=steps, holds=holds, notes=[*self.told.notes, "without pictures"]))

    def save(self, path: str | Path, max_mb: float | None = None) -> Path:
        """Writes one page of HTML that needs no other file and no network; its path.

        Raises: EngramError where it would be too large, WriteFailed if the disk refuses it.
        """
        return page.write(self.told, path, max_mb=max_mb)

    def json(self) -> dict[str, Any]:
        """Everything but pictures as one object that JSON can hold; what is infinite or unknown is None."""
        return _plain(self.told)

    def csv(self, folder: str | Path) -> list[Path]:
        """Writes steps, actions on offer, memories, attention, recall, what was observed and measured as CSV files.

        Raises: WriteFailed if the disk refuses it.
        """
        return write_csv(self.told, folder)

    def _repr_html_(self) -> str:
        return page.notebook(self.told)

    def __str__(self) -> str:
        from engram.explaining.text import lines

        return "\n".join(lines(self.told))

    def __repr__(self) -> str:
        told = self.told
        return f"Explanation({told.env}, {told.agent}: {len(told.steps)} steps of {len(told.returns)} episodes)"


# -- from a recording ------------------------------------------------------------------------------------------------


def trained_of(agent: Any, at: Any, trust: bool) -> tuple[TrainedAgent, int]:
    """What plays, and how many steps it was trained."""
    if isinstance(agent, str | Path):
        agent = load(agent, at=at, trust=trust)
    if isinstance(agent, TrainedAgent):
        return agent, agent.step or 0
    if hasattr(agent, "trained") and hasattr(agent, "steps"):
        return agent.trained(), int(agent.steps)
    given = type(agent).__name__
    raise SpecError(f"{given} was given; expected a run's directory, a Trainer, or what engram.load gives")


def window(steps: tuple[int | None, int | None] | None) -> tuple[int, int | None]:
    """The first step that is told, and the one after the last. SpecError where none lies between."""
    first, end = (None, None) if steps is None else steps
    first, end = whole("steps", first or 0, 0), whole_if_given("steps", end, 1)
    if end is not None and end <= first:
        raise SpecError(f"steps = {first}:{end} holds no step; write the first and the one after the last, as in 0:50")
    return first, end


def _told(recording: Recording, trained: int, which: tuple[int, int | None], how: str) -> Told:
    agent, names = recording.agent, Names.of(recording)
    teller = Teller(recording, names)
    steps, notes = _steps(teller, which)
    spec: Any = recording.spec
    units = spec.reward.normalize or spec.reward.rescale or spec.turns
    kept = recording.episodes[0].kept
    moments = key_moments(steps, None if units or kept.value is None else spec.discount)
    random = np.random.default_rng([recording.seed, 0x7219])
    if how != "off":
        steps = trying.with_parts(teller, steps, [place for place, _ in moments], how)
    return Told(
        agent=_agent(agent),
        env=agent.world_name or agent.plan.env or "an environment of one's own",
        checkpoint=agent.checkpoint or "unsaved",
        trained=trained,
        seed=recording.seed,
        actions=names.actions,
        unit="log-probability" if teller.by_policy else "Q",
        steps=steps,
        returns=[episode.total for episode in recording.episodes],
        moments=moments,
        faithful=[] if how == "off" else measured(teller, how, recording.seed),
        health=None if teller.ledger is None else _health(teller, steps, trained, how, random),
        notes=[*recording.notes, *notes, *_about(teller)],
        holds=_holds(steps, teller.ledger is not None),
        versions={package: version(package) for package in PACKAGES},
        worlds=[] if how == "off" else trying.edited(teller, how, random),
    )


def _steps(teller: Teller, told_of: tuple[int, int | None]) -> tuple[list[Step], list[str]]:
    """The steps that are told, and what was left out. SpecError where none is."""
    first, end = told_of
    told: list[Step] = []
    left_out = 0
    for number, episode in enumerate(teller.recording.episodes):
        which = range(first, episode.length if end is None else min(end, episode.length))
        room = max(0, MOST_TOLD - len(told))
        left_out += max(0, len(which) - room)
        which = which[:room]
        if not which:
            continue
        moves = skipping.density(teller.spec, teller.mind, episode, which[-1] + 1) if teller.spec.has_memory else {}
        told += teller.steps(number, which, moves)
    if not told:
        raise outside(teller.recording, first, end)
    return told, [f"{left_out:,} steps are not told: at most {MOST_TOLD:,} are"] if left_out else []


def _holds(steps: Sequence[Step], remembers: bool) -> list[str]:
    """What somebody should know before the page is given away."""
    holds = ["numbers of observations, actions, estimates and rewards of the episodes told"]
    memories = [memory for step in steps for memory in step.memories]
    if any(one.picture is not None for one in (*steps, *memories)):
        holds.append("pictures of what was seen")
    if remembers:
        holds.append("values of remembered experiences, and in which episode of training they were made")
    if any(memory.facts for memory in memories):
        holds.append("numbers of the observations of training that were remembered")
    return holds


def outside(recording: Recording, first: int, end: int | None) -> SpecError:
    """The error of steps that no episode had."""
    longest = max(episode.length for episode in recording.episodes)
    return SpecError(
        f"steps = {first}:{'' if end is None else end} lies outside of the episode, which had {longest} steps; "
        f"write a first step below {longest}"
    )


def _health(teller: Teller, steps: Sequence[Step], trained: int, how: str, random: np.random.Generator) -> Any:
    assert teller.ledger is not None
    found = health(teller.recording, teller.ledger, trained)
    starts = np.cumsum([0, *(episode.length for episode in teller.recording.episodes)])
    poisoned = None if how == "off" else trying.poisoned(teller, how, random)
    lights = found.lights if poisoned is None else [*found.lights, poisoned]
    effective = [found.effective[starts[step.episode] + step.t] for step in steps]
    return replace(found, lights=lights, effective=effective)


def _agent(agent: TrainedAgent) -> str:
    """The preset, and what it is made of."""
    spec: Any = agent.plan.agent
    made_of = ", ".join(f"{role}={name_of(role, type(getattr(spec, role)))}" for role in PARTS)
    return f"{agent.plan.preset} ({made_of})"


def _about(teller: Teller) -> list[str]:
    """What a reader must know of this kind of agent."""
    notes = []
    if teller.by_policy:
        apart = ", of which the external memory is no part" if teller.ledger is not None else ""
        notes.append(f"this agent chooses by a policy{apart}: what it prefers are logarithms of probabilities")
    if teller.spec.has_memory:
        notes.append("leaving a step out runs the episode again without it; later steps move up by one")
        if teller.spec.observation.stack > 1:
            notes.append("a step left out is still among the stacked frames of the steps after it")
        if any(episode.length > skipping.MOST_SKIPPED for episode in teller.recording.episodes):
            notes.append(f"of a long episode at most {skipping.MOST_SKIPPED} steps were left out, one at a time")
    if teller.ledger is not None:
        notes.append("leaving a remembered experience out reads the memory again; the next nearest takes its place")
        if (kind := name_of("external", type(teller.spec.external))) in INEXACT:
            notes.append(INEXACT[kind])
    return notes


def _unpictured(step: Step) -> Step:
    return replace(step, picture=None, memories=[replace(memory, picture=None) for memory in step.memories])


def _plain(value: Any) -> Any:
    """Plain JSON values; pictures are left out."""
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value) if one.name != "picture"}
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def dumped(explanation: Explanation) -> str:
    """The object as text, the same for the same explanation."""
    return json.dumps(explanation.json(), ensure_ascii=False, allow_nan=False)
