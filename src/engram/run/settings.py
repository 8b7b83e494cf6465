"""The settings of a run, each declared once: its type, range, default, help, and how it looks on the command line.

`Trainer(...)` takes these fields as keywords, `engram train` as flags, and run.json stores them. `RunSettings` is what
a run is. `Session` is what one process is told about it. This file imports no JAX, because `engram train --help`
reads it.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from engram import specs
from engram.errors import SpecError, hint
from engram.specs import NEEDED, setting, spec

SEEDS = 1 << 32  # JAX makes a key of 32 bits of a seed: larger ones would repeat
F = TypeVar("F", bound=Callable[..., Any])


class Flag(NamedTuple):
    """How a setting looks on the command line, and whether a resumed run may be given another value of it.

    default: the default in words, where the field's own does not say it. name: where it is not the field's.
    """

    metavar: str = ""
    default: str = ""
    name: str = ""
    free: bool = False


@spec
class RunSettings:
    """What a run is, apart from its environment and its agent. What has no default is derived by the trainer."""

    preset: str = setting(
        "auto", "which agent; `engram list presets` shows them, auto chooses by the environment", about=Flag("PRESET")
    )
    steps: int = setting(
        NEEDED, "environment steps to train in all, which schedules of `auto` follow; when resuming, the new total",
        low=1, about=Flag("N", "the preset's", free=True),
    )  # fmt: skip
    envs: int = setting(1, "copies of the environment stepped together", low=1, about=Flag("K"))
    asynchronous: bool = setting(False, "step each copy in a process of its own", about=Flag(name="async"))
    seed: int = setting(0, "the seed of everything random", low=0, about=Flag("S"))
    seeds: int = setting(
        1, "learn M times, with seeds S, S+1, ...: side by side on the device, else one after another in DIR/seedS",
        low=1, about=Flag("M"),
    )  # fmt: skip
    action_bins: int | None = setting(
        None, "cut each dimension of a continuous action into N values", low=2, about=Flag("N")
    )
    env_args: dict[str, Any] = setting(
        {}, "an argument for making the environment", about=Flag("NAME=VALUE", name="env-arg")
    )
    track: bool = setting(False, "also write TensorBoard events (extra `track`)", about=Flag(free=True))
    group: int = setting(
        NEEDED, "moments of learning in a compiled call (host): larger is faster, but the actor's parameters are older",
        low=1, about=Flag("G", "8 for vectors, else 1"),
    )  # fmt: skip
    save_every: int = setting(
        NEEDED, "environment steps between checkpoints", low=1, about=Flag("N", "a tenth of the run", free=True)
    )
    log_every: int = setting(
        NEEDED, "environment steps between lines of metrics.jsonl, and of what is shown",
        low=1, about=Flag("N", "a hundredth of the run", free=True),
    )  # fmt: skip

    def check(self) -> None:
        """Every seed makes a key of its own."""
        _check_seeds(self.seed, self.seeds)


@spec
class Session:
    """What one process is told about the run that it works on; none of it is stored."""

    run: Path | None = setting(
        None,
        "where to write checkpoints, metrics and the learning curve; in Python, nothing is written without it",
        about=Flag("DIR", "runs/ENV-PRESET-seedS"),
    )
    resume: bool = setting(False, "go on with the run in DIR from its newest whole checkpoint", about=Flag())
    new_episodes: bool = setting(
        False, "when resuming, begin a new episode in an environment that cannot be taken up where it was; the run "
        "then goes on, but not exactly as it would have", about=Flag(),
    )  # fmt: skip
    worker_timeout: float = setting(
        60.0, "how long the process of an environment may take for one answer", above=0, about=Flag("SECONDS")
    )


RUN, SESSION = ({field.name: field for field in dataclasses.fields(home)} for home in (RunSettings, Session))
FREE = tuple(name for name, field in RUN.items() if field.metadata["about"].free)


def type_of(name: str) -> Any:
    """The type of a setting of a run or a session."""
    return specs.type_of(RunSettings if name in RUN else Session, name)


def default_of(name: str) -> str:
    """The default of a setting in words; empty for what is off, or empty, unless given."""
    field = (RUN | SESSION)[name]
    if field.metadata["about"].default or type_of(name) is bool or field.default is dataclasses.MISSING:
        return field.metadata["about"].default
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default).lower()


# -- what was given ------------------------------------------------------------------------------------------


def check(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as they are held (1e4 steps are 10,000).

    Raises SpecError for the first setting of a run or session with a value of the wrong type or out of range.
    """
    held = {}
    for name, value in given.items():
        home = RunSettings if name in RUN else Session
        try:
            held[name] = specs.fitted(home, name, value)
        except SpecError:
            raise SpecError(f"{name} = {value!r} was given; expected {specs.expected(home, name)}") from None
    _check_seeds(held.get("seed", 0), held.get("seeds", 1))
    return held


def _check_seeds(seed: int, seeds: int) -> None:
    if seed + seeds > SEEDS:
        raise SpecError(f"seed = {seed} was given; expected seeds below 2^32 = {SEEDS}")


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and not value)


class Given(NamedTuple):
    """The keywords of a trainer by what they are about, without those that are None or an empty dict."""

    run: dict[str, Any]
    session: Session
    agent: dict[str, Any]  # settings by path

    @classmethod
    def of(cls, keywords: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> "Given":
        """Raises SpecError for a value of a run's or session's; for the agent's see `check_names` and `override`."""
        known = {name: value for name, value in keywords.items() if name in RUN | SESSION and not _is_nothing(value)}
        for name, make, given in (("env_args", dict, Mapping), ("run", Path, str | os.PathLike)):
            if isinstance(known.get(name), given):
                known[name] = make(known[name])
        known = check(known)
        run = {name: value for name, value in known.items() if name in RUN}
        session = Session(**{name: value for name, value in known.items() if name in SESSION})
        agent = {name.replace("__", "."): value for name, value in keywords.items() if name not in RUN | SESSION}
        return cls(run, session, {**(overrides or {}), **agent})


def check_names(agent: Any, paths: Iterable[str]) -> None:
    """Raises SpecError for a path that begins with no setting of `agent`, with the nearest name of all there are."""
    for path in paths:
        first = path.partition(".")[0]
        if first in RUN | SESSION:
            flag = (RUN | SESSION)[first].metadata["about"].name or first.replace("_", "-")
            raise SpecError(f"{path!r} is a setting of the run, not of its agent; write --{flag}, in Python {first}=")
        if first not in (field.name for field in dataclasses.fields(agent)):
            known = [*RUN, *SESSION, "callbacks", "overrides", *(row[0] for row in specs.describe(agent))]
            raise SpecError(f"{path!r} is not a setting of a run or its agent; {hint(path, known)}")


# -- documentation -------------------------------------------------------------------------------------------


def takes_settings(function: F) -> F:
    """Decorator: shows the settings of a run and a session in the signature and docstring of a function that takes
    them as further keywords.
    """
    shown = {**signature(function).parameters}
    rest = shown.popitem()
    for name, field in (RUN | SESSION).items():
        default = None if field.default is dataclasses.MISSING else field.default
        annotation = type_of(name) | None if default is None else type_of(name)
        shown.setdefault(name, Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    function.__signature__ = Signature([*shown.values(), rest[1]])  # type: ignore[attr-defined]
    lines = (
        f"  {name}: {field.metadata['help']}." + (f" Default: {told}." if (told := default_of(name)) else "")
        for name, field in (RUN | SESSION).items()
    )
    function.__doc__ = "\n".join([function.__doc__ or "", "", "Settings of the run:", *lines])
    return function
