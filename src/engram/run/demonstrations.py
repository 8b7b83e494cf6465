"""Learning from demonstrations: what a run was given before its first step, by `demonstrations` (--demonstrations).

    demos.ratio = 0   they go into the replay like the agent's own steps, and are overwritten when it is full
    demos.ratio > 0   they are kept beside it for ever, and each batch has this share of them (agents/demos.py)

They are read once, before a run begins. From its first checkpoint on they are part of its state, so that a run is
resumed without the file.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from engram.agents.demos import keep
from engram.errors import EngramError, SpaceError, SpecError, Warned
from engram.play.observations import Stored
from engram.run.plan import RunPlan
from engram.run.prefill import (
    CHUNK,
    Converted,
    check_alone,
    check_one_side,
    check_replays,
    chunks,
    converted,
    own_rows,
    store,
)
from engram.run.recorded import recorded
from engram.run.warm import WITH_REPLAY, Source
from engram.runners.common import Runner


class Lesson(NamedTuple):
    """Demonstrations as rows."""

    name: str
    episodes: list[Converted]

    @property
    def rows(self) -> int:
        """Their steps, and the final observation of each episode."""
        return sum(len(episode.actions) + 1 for episode in self.episodes)


def planned(
    plan: RunPlan, environment: Any, device: bool, source: Source | None, known: Lesson | None
) -> tuple[RunPlan, Lesson | None]:
    """The plan with the demonstrations that it names, and these; they are read unless they are `known`.

    Raises EngramError, in one sentence, for what cannot be read or learned from.
    """
    if plan.demonstrations is None:
        return (_with_those_of(plan, source) if plan.agent.demonstrated else plan), None
    if plan.agent.demonstrated and source is not None and plan.start_with in WITH_REPLAY:
        raise SpecError(
            f"demonstrations and start_with = {plan.start_with!r} were given, which both say what is kept in the "
            f"replay; leave one out"
        )
    _check_takes(plan)
    lesson = _read(plan, environment, device) if known is None else known
    return replace(plan, demonstrations=lesson.name, demonstration_rows=lesson.rows), lesson


def _with_those_of(plan: RunPlan, source: Source | None) -> RunPlan:
    """The plan of a run that takes the replay of another one with its demonstrations."""
    if source is not None and plan.start_with in WITH_REPLAY and source.plan.demonstration_rows:
        there = source.plan
        return replace(plan, demonstrations=there.demonstrations, demonstration_rows=there.demonstration_rows)
    raise SpecError(
        f"demos.ratio = {plan.agent.demonstrated} is the share of demonstrations in a batch, and none were given; name "
        f"them with demonstrations= (--demonstrations FILE), or set demos.ratio=0"
    )


def _check_takes(plan: RunPlan) -> None:
    """SpecError for an agent whose own rows need more than demonstrations tell."""
    spec = plan.agent
    check_replays(spec, "demonstrations")
    check_one_side(spec, "demonstrations")
    if not spec.demonstrated:
        check_alone(plan, "demonstrations")
    if not spec.demonstrated and (what := own_rows(spec)):
        raise SpecError(
            f"demonstrations would lie among rows that hold what acting knew, because of {what}; set demos.ratio=0.25, "
            f"which keeps them apart"
        )


def _read(plan: RunPlan, environment: Any, device: bool) -> Lesson:
    found = recorded(str(plan.demonstrations), plan)
    stored = Stored(plan.space, plan.agent.observation.missing == "mask")
    if not device and plan.agent.observation.missing == "mask":
        environment.accept_missing()
    translator = stored if device or found.stored else environment.translator
    episodes = []
    for number, episode in enumerate(found.episodes):
        try:
            episodes.append(converted(episode, translator, plan.actions))
        except EngramError as problem:
            raise SpaceError(f"episode {number} of {found.name}: {problem}") from None
    if not episodes:
        raise SpaceError(f"{found.name} holds no episode; give at least one")
    return Lesson(found.name, episodes)


def teach(runner: Runner, plan: RunPlan, lesson: Lesson | None) -> None:
    """Puts demonstrations into a runner that has not begun."""
    if lesson is None:
        return
    if not plan.agent.demonstrated:
        store(runner, plan, lesson.episodes)
        return
    for experience in chunks(lesson.episodes, CHUNK, 1):
        runner.observe(experience, keep)


def notes(plan: RunPlan) -> Iterator[str]:
    """What is said of demonstrations before a run begins."""
    rows = plan.demonstration_rows
    if plan.agent.demonstrated:
        share = f"{plan.agent.demonstrated:.0%} of the examples of each batch are drawn from them"
        yield f"{rows:,} rows of demonstrations from {plan.demonstrations}, kept for ever; {share}"
    elif plan.demonstrations is not None:
        yield f"{rows:,} rows of demonstrations from {plan.demonstrations} lie in the replay until they are overwritten"
        if rows > plan.agent.replay_rows:
            yield Warned(f"the replay has room for {plan.agent.replay_rows:,} rows of them; raise replay.capacity")
