"""Settings that nothing reads while another one is off: whoever gives one of them is told which other it waits for."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from functools import reduce
from typing import Any, NamedTuple, TypeVar

from engram import specs
from engram.agents.mind import MindSpec
from engram.errors import SpecError

T = TypeVar("T")


class Needs(NamedTuple):
    """What a setting, or all settings of a group, are only read with.

    switch: the path of the other setting. on: how to turn it on, as words of a command. where: whether a value is on.
    """

    switch: str
    on: str
    where: Callable[[Any], bool] = bool


def _is(value: str) -> Callable[[Any], bool]:
    return lambda other: other == value


ANNEAL = Needs("anneal.updates", "anneal.updates=10000")
CONSERVATIVE = Needs("conservative.weight", "conservative.weight=1")
RESET = Needs("optimizer.reset_every", "optimizer.reset_every=40000")
POOL = Needs("pool.share", "pool.share=0.2")
RELATIVE = Needs("encoder.relative", "encoder.relative=true")
EXTERNAL = Needs("external", "external=episodic", lambda kind: kind != "none")
WORKING = Needs("working", "working=gru replay.window=64", lambda kind: kind != "none")

# By path, or by the name of a group; a path of its own counts first. An agent without the switch always reads.
NEEDS: dict[str, tuple[Needs, ...]] = {
    "anneal.n_step": (ANNEAL,),
    "anneal.discount": (ANNEAL,),
    "demos.margin": (Needs("demos.margin_weight", "demos.margin_weight=1 demos.ratio=0.25"),),
    "conservative.temperature": (CONSERVATIVE,),
    "conservative.on": (CONSERVATIVE,),
    "optimizer.reset_encoder": (RESET,),
    "optimizer.reset_rest": (RESET,),
    "optimizer.decay_steps": (Needs("optimizer.final_fraction", "optimizer.final_fraction=0", lambda to: to < 1),),
    "pool.size": (POOL,),
    "pool.every": (POOL,),
    "exploration.opening_share": (Needs("exploration.opening", "exploration.opening=2"),),
    "encoder.position": (RELATIVE,),
    "encoder.velocity": (RELATIVE,),
    "encoder.heading": (RELATIVE,),
    "encoder.units": (RELATIVE,),
    "external.heads": (Needs("external.kernel", "external.kernel=multi-head", _is("multi-head")),),
    "external.delta": (Needs("external.kernel", "external.kernel=inverse-distance", _is("inverse-distance")),),
    "external.alpha": (Needs("external.update", "external.update=tabular", _is("tabular")),),
    "recall.frozen_width": (EXTERNAL, Needs("recall.keys", "recall.keys=frozen", _is("frozen"))),
    "recall": (EXTERNAL,),
    "replay.window": (WORKING,),
    "replay.burn_in": (WORKING,),
    "replay.align": (WORKING,),
    "replay.stored_carry": (WORKING,),
    "working.horizon": (Needs("working.rule", "working.rule=gated-delta", _is("gated-delta")),),
}


class Unread(SpecError):
    """A setting was given that nothing reads. `path`: that setting. `switch`: the one that it waits for."""

    def __init__(self, agent: MindSpec, path: str, needs: Needs, word: str = ""):
        """`word`: how the setting was given, where that is not as a value."""
        self.path, self.switch = path, needs.switch
        shown = {known: specs.show(value) for known, _, value, _ in specs.describe(agent)}
        way = f"set {needs.on}, or leave it out" if _may_be_on(agent, needs) else "leave it out"
        super().__init__(
            f"{word or f'{path} = {shown[path]}'} was given, but nothing reads it while {needs.switch} = "
            f"{shown[needs.switch]}; {way}"
        )


def _may_be_on(agent: MindSpec, needs: Needs) -> bool:
    with suppress(SpecError):
        specs.override_all(agent, dict(word.split("=") for word in needs.on.split()))
        return True
    return False


def lacking(agent: MindSpec, path: str, but: Collection[str] = ()) -> Needs | None:
    """What must be on for the setting to be read, and is not; None where the agent reads it.

    but: switches that count as on.
    """
    found = NEEDS.get(path) or NEEDS.get(path.partition(".")[0], ())
    values = {known: value for known, _, value, _ in specs.describe(agent)} if found else {}
    for needs in found:
        if needs.switch in values and needs.switch not in but and not needs.where(values[needs.switch]):
            return needs
    return None


def check_read(agent: MindSpec, given: Collection[str]) -> None:
    """Raises Unread for the first of the paths `given` that nothing reads in this agent.

    A value that is the setting's default asks for nothing. Some must be given to turn another setting off.
    """
    for path in _changed(agent, given):
        if (needs := lacking(agent, path)) is not None:
            raise Unread(agent, path, needs)


def what_is_read(agent: MindSpec, given: Mapping[str, T], keep: Collection[str] = ()) -> dict[str, T]:
    """The settings of `given` that something reads where they change this agent, in their order.

    What is a default stays, because it may turn another setting off; so do the paths in `keep`.
    """
    known = {path for path, *_ in specs.describe(agent)}
    able = {path: value for path, value in given.items() if path in keep or path in known or path == specs.ROOT}
    try:
        made = specs.unfinished(agent, able)
    except SpecError:  # of what is kept: the agent itself refuses it
        return able
    waits = {path for path in _changed(made, able) if lacking(made, path) is not None}
    return {path: value for path, value in able.items() if path in keep or path not in waits}


def _changed(agent: MindSpec, given: Collection[str]) -> Iterator[str]:
    """The single settings at these paths, or below them, that do not have their defaults."""
    single = {path for path, *_ in specs.describe(agent)}  # and parts, which are chosen by their kind
    groups = tuple(f"{path}." for path in given if path not in single and _is_group(agent, path))
    for path, value, default in specs.against_defaults(agent):
        if (path in given or path.startswith(groups)) and value != default:
            yield path


def _is_group(agent: MindSpec, path: str) -> bool:
    """Whether a path is that of settings that belong together, or of a part."""
    return is_dataclass(reduce(lambda outer, name: getattr(outer, name, None), path.split("."), agent))


def where_read(make: Callable[[Mapping[str, Any]], T], given: Mapping[str, Any], switches: Collection[str]) -> T:
    """What `make` makes of the settings but for those that wait for one of the `switches`, which others choose."""
    while True:
        try:
            return make(given)
        except Unread as refused:
            if refused.switch not in switches:
                raise
            given = {path: value for path, value in given.items() if path != refused.path}


def of_chosen_parts(agent: MindSpec, changes: Mapping[str, Any], typed: Collection[str]) -> dict[str, Any]:
    """The changes of `agent`, but of a recipe's settings those alone that are read beside what was typed.

    So whoever takes a recipe and turns one of its parts off need not turn off all that belongs to it.
    """
    if not typed:
        return dict(changes)
    return what_is_read(_with_kinds(agent, changes), changes, keep=typed)


def _with_kinds(agent: MindSpec, changes: Mapping[str, Any]) -> MindSpec:
    """The agent with the kinds of parts that were chosen; a part of a part comes after it."""
    for path in sorted(changes, key=lambda path: (path.count("."), path != specs.ROOT)):
        parts = [known for known, kind, *_ in specs.describe(agent) if kind.startswith("one of ")]
        if path == specs.ROOT or path in parts:
            agent = specs.unfinished(agent, {path: changes[path]})
    return agent
