"""Two agents on what one of them saw: where would the other have chosen differently?"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from engram.errors import SpaceError
from engram.explaining.explanation import outside, trained_of, window
from engram.explaining.naming import Names
from engram.explaining.recording import record
from engram.explaining.skipping import rerun
from engram.play.trained import Environment, TrainedAgent
from engram.spaces import same
from engram.specs import Number, whole, whole_if_given


class Differs(NamedTuple):
    """One step that both were asked about."""

    episode: int
    t: int
    first: int  # what the first chose, and took
    second: int  # what the second would have chosen
    first_margin: float
    second_margin: float
    called: tuple[str, str]  # the names of both


class Compared(NamedTuple):
    """What was found. `names`: of the two checkpoints."""

    names: tuple[str, str]
    actions: list[str]
    steps: int
    differences: list[Differs]

    def json(self) -> dict[str, Any]:
        """One object that JSON can hold."""
        return {**self._asdict(), "differences": [one._asdict() for one in self.differences]}

    def lines(self) -> list[str]:
        """In words."""
        first, second = self.names
        share = len(self.differences) / self.steps
        told = [f"{second} would have chosen otherwise at {len(self.differences)} of {self.steps} steps ({share:.0%})"]
        for one in self.differences:
            told.append(
                f"episode {one.episode}, step {one.t}: {first} {one.called[0]} (by {one.first_margin:.3g}), "
                f"{second} {one.called[1]} (by {one.second_margin:.3g})"
            )
        return told


def compare(
    first: Any,
    second: Any,
    episodes: Number = 1,
    steps: tuple[int | None, int | None] | None = None,
    seed: Number | None = None,
    env: Environment | None = None,
    env_args: Mapping[str, Any] | None = None,
    at: Any = "newest",
    max_episode_steps: Number | None = None,
    trust: bool = False,
) -> Compared:
    """Lets the first play and asks the second what it would have chosen, with a memory of the same past.

    Arguments are those of `engram.explain`. Raises: SpaceError where the two see or do different things, SpecError
      where no step of an episode is among `steps`.
    """
    start, end = window(steps)
    limit = whole_if_given("max_episode_steps", max_episode_steps, 1)
    one, other = (trained_of(agent, at, trust)[0] for agent in (first, second))
    if not same(one.plan.space, other.plan.space) or one.plan.actions != other.plan.actions:
        raise SpaceError(
            f"the first learned from {one.plan.space} and {one.plan.actions} actions, the second from "
            f"{other.plan.space} and {other.plan.actions}; compare two that see and do the same"
        )
    seed = whole("seed", 0 if seed is None else seed, 0)
    one = one.elsewhere(env, env_args)
    recording = record(one, whole("episodes", episodes, 1), seed, limit, pictured=False)
    names, found, count = Names.of(recording), [], 0
    for number, episode in enumerate(recording.episodes):
        theirs = rerun(other.plan.agent, other.minds[0], episode)
        which = range(start, episode.length if end is None else min(end, episode.length))
        count += len(which)
        for t in which:
            mine = episode.kept.preference[t]
            if (chosen := int(theirs[t].argmax())) != int(episode.kept.action[t]):
                action = int(episode.kept.action[t])
                there = names.at(recording, number, t).called(action, chosen) or names.actions
                leads = _lead(mine), _lead(theirs[t])
                found.append(Differs(number, t, action, chosen, *leads, (there[action], there[chosen])))
    if not count:
        raise outside(recording, start, end)
    return Compared((_called(one, "A"), _called(other, "B")), names.actions, count, found)


def _lead(preference: np.ndarray) -> float:
    """How far the best lies before the next."""
    ordered = np.sort(preference[np.isfinite(preference)])
    return float(ordered[-1] - ordered[-2]) if len(ordered) > 1 else 0.0


def _called(agent: TrainedAgent, letter: str) -> str:
    return f"{letter} ({agent.plan.preset}, checkpoint {agent.checkpoint or 'unsaved'})"
