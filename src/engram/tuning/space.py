"""The search space of an agent: which of its settings are searched, and where.

Settings declare their range (`engram.ranges`). By default the space is all of these in the parts that a preset chose.
Words narrow it: `PATH` alone, `PATH=LOW..HIGH` or `PATH=A|B|C`. A value of the space is written as a text, as in
`path=value`, so that what is recorded, what is run and what a user types are the same.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from typing import Any

from engram import registry, specs
from engram.agents.mind import MindSpec
from engram.agents.unread import Unread, lacking
from engram.errors import SpecError
from engram.ranges import Linear, OneOf, Range, Times
from engram.run.settings import check_names

BETWEEN, OR = "..", "|"
WIDE = 10.0  # a range whose ends differ by this factor is searched by factors
DIGITS = 3  # of a number that is tried: more would tell of an accuracy that no search has


@dataclass(frozen=True)
class Number:
    """Numbers from low to high; by factors if `log`."""

    path: str
    low: float
    high: float
    whole: bool
    log: bool

    def text(self, value: float) -> str:
        """A number of the range as it is typed, rounded to three digits within the range."""
        if self.whole:
            return str(round(value))
        return repr(min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high))

    def nearest(self, value: Any) -> Any:
        """The number of the range that is nearest to an agent's own; the lowest where it has none."""
        return self.low if value is None else min(max(value, self.low), self.high)

    @property
    def told(self) -> str:
        """The range in words."""
        kind = "whole numbers" if self.whole else "numbers"
        return f"{kind} from {self.low:g} to {self.high:g}" + (", by factors" if self.log else "")


@dataclass(frozen=True)
class Choice:
    """A few values, as texts."""

    path: str
    values: tuple[str, ...]

    def text(self, value: str) -> str:
        """The value as it is typed."""
        return value

    def nearest(self, value: Any) -> str:
        """The value itself, or the first where it is none of them."""
        return text if (text := specs.show(value)) in self.values else self.values[0]

    @property
    def told(self) -> str:
        """The values in words."""
        return "one of " + ", ".join(self.values)


Dimension = Number | Choice


def to_json(space: Sequence[Dimension]) -> dict[str, Any]:
    """The space by path."""
    return {one.path: {name: value for name, value in vars(one).items() if name != "path"} for one in space}


def from_json(value: Mapping[str, Any]) -> list[Dimension]:
    """What `to_json` wrote."""
    return [
        Choice(path, tuple(one["values"])) if "values" in one else Number(path, **one) for path, one in value.items()
    ]


def space_of(agent: MindSpec, fixed: Collection[str], words: Sequence[str] = ()) -> list[Dimension]:
    """The settings of `agent` that are searched, by path in the order of the spec.

    Args:
      fixed: paths that the user has set, which are not searched.
      words: what narrows the space.

    Raises: SpecError for a path that is no setting, or not searchable, for a range that the setting does not allow, and
      for a space with nothing in it.
    """
    declared = {path: made for path, found in _searched(agent) if (made := _dimension(agent, path, found)) is not None}
    if words:
        space = _chosen(agent, fixed, words, declared)
    else:
        space = [one for path, one in declared.items() if path not in fixed and _in_use(agent, path)]
    if not space:
        raise SpecError("nothing is left to search; name a setting and its range, such as --search discount=0.9..0.999")
    return space


def value_at(agent: MindSpec, path: str) -> Any:
    """The value of a setting; of a part, its name."""
    value = reduce(getattr, path.split("."), agent)
    if not dataclasses.is_dataclass(value):
        return value
    return registry.name_of(path.rpartition(".")[2], type(value))


# -- what settings declare -------------------------------------------------------------------------------------------


def _searched(value: Any, prefix: str = "") -> Iterator[tuple[str, Range]]:
    for field in dataclasses.fields(value):
        inner, path = getattr(value, field.name), prefix + field.name
        if dataclasses.is_dataclass(inner):
            yield from _searched(inner, path + ".")
        elif (found := field.metadata.get("search")) is not None:
            yield path, found


def _in_use(agent: MindSpec, path: str) -> bool:
    """Whether a setting does anything in this agent."""
    if lacking(agent, path) is not None:
        return False
    if path in ("target.every", "target.rate"):  # copied now and then, or followed slowly
        return (value_at(agent, "target.rate") == 1) == (path == "target.every")
    if path.startswith("exploration."):
        values = {path: value for path, _, value, _ in specs.describe(agent.exploration)}
        return values.get("start", 1) > 0
    return True


def _dimension(agent: MindSpec, path: str, found: Range) -> Dimension | None:
    """A declared range with the agent's own value in it; None where that value is 0, so that it is off."""
    own = value_at(agent, path)
    if isinstance(found, OneOf):
        values = [*found.values, *[own] * (own not in found.values)]
        if all(isinstance(value, int | float) for value in values):
            values = sorted(values)
        return Choice(path, tuple(map(specs.show, values)))
    if not isinstance(found, Linear) and own == 0:
        return None
    by = own if isinstance(found, Times) else 1
    whole = isinstance(own, int)
    low, high = found.low * by, found.high * by
    low, high = (max(1, round(low)), round(high)) if whole else (low, high)
    return Number(path, min(own, low), max(own, high), whole, not isinstance(found, Linear))


# -- what words say --------------------------------------------------------------------------------------------------


def _chosen(
    agent: MindSpec, fixed: Collection[str], words: Sequence[str], declared: Mapping[str, Dimension]
) -> list[Dimension]:
    """One dimension for each word; kinds of parts come first, because which settings there are depends on them."""
    given: dict[str, str] = {}
    for word in words:
        path, equals, said = word.partition("=")
        if path in given:
            raise SpecError(f"--search {path} was given twice; write it once, with all of its values")
        if path in fixed:
            raise SpecError(f"{path!r} is fixed by {path}=VALUE and searched by --search {word}; leave one of them out")
        if equals and not said:
            raise SpecError(f"--search {word} names no range; write {path}=LOW{BETWEEN}HIGH, or '{path}=A{OR}B'")
        given[path] = said
    check_names(agent, given)
    for path in given:
        if (needs := lacking(agent, path, but=given)) is not None:
            raise Unread(agent, path, needs, f"--search {path}")
    agents, found = [agent], []
    for path in sorted(given, key=lambda path: path.count(".")):
        made = _declared(agents, path, declared) if not given[path] else _own(agents, path, given[path], declared)
        found.append(made)
        if path.rpartition(".")[2] in registry.roles() and isinstance(made, Choice):
            agents += [one for value in made.values if (one := _with(agent, path, value)) is not None]
    return found


def _with(agent: MindSpec, path: str, value: str) -> MindSpec | None:
    with suppress(SpecError):
        return specs.unfinished(agent, {path: value})
    return None


def _declared(agents: Sequence[MindSpec], path: str, declared: Mapping[str, Dimension]) -> Dimension:
    if path in declared:
        return declared[path]
    for agent in agents[1:]:  # of another kind of a part, which is searched too
        for one, found in _searched(agent):
            if one == path and (made := _dimension(agent, path, found)) is not None:
                return made
    if not any(path == known for agent in agents for known, *_ in specs.describe(agent)):
        _held(agents, path, "0")  # says that it is none, or which there are in this group
    raise SpecError(
        f"{path!r} has no range of its own to search here; write one, such as --search {path}=LOW{BETWEEN}HIGH or "
        f"--search '{path}=A{OR}B'"
    )


def _own(agents: Sequence[MindSpec], path: str, said: str, declared: Mapping[str, Dimension]) -> Dimension:
    """A range of the user's, of values that the setting allows."""
    if BETWEEN not in said:
        values = [word.strip() for word in said.split(OR) if word.strip()]
        if len(set(values)) < 2:
            raise SpecError(f"--search {path}={said} is one value; write {path}={said} alone to fix it")
        return Choice(path, tuple(dict.fromkeys(specs.show(_held(agents, path, value)) for value in values)))
    ends = [_held(agents, path, word.strip()) for word in said.split(BETWEEN, 1)]
    if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
        raise SpecError(f"--search {path}={said}: {path!r} is no number; write its values as '{path}=A{OR}B'")
    low, high = ends
    if not low < high:
        raise SpecError(f"--search {path}={said} has its ends in the wrong order; write LOW{BETWEEN}HIGH")
    known = declared.get(path)
    log = known.log if isinstance(known, Number) else low > 0 and high >= WIDE * low
    return Number(path, low, high, isinstance(low, int), log and low > 0)


def _held(agents: Sequence[MindSpec], path: str, text: str) -> Any:
    """The value that a setting would hold. Raises SpecError of the first agent where none has such a setting."""
    refused: SpecError | None = None
    for agent in agents:
        try:
            return value_at(specs.unfinished(agent, {path: text}), path)
        except SpecError as problem:
            refused = refused or problem
    assert refused is not None
    raise SpecError(f"--search: {refused}")
