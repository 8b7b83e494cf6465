"""The settings of a run, each declared once: its type, range, default, help, and how it looks on the command line.

`Trainer(...)` takes these fields as keywords, `engram train` as flags, and run.json stores them. `RunSettings` is what
a run is. `Session` is what one process is told about it. This file imports no JAX, because `engram train --help`
reads it.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from engram import recipes, registry, specs
from engram.errors import SpecError, hint
from engram.run.familiar import FAMILIAR, familiar, no_setting
from engram.run.loggers import named
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
    recipe: str | None = setting(
        None, "begin with the settings of a published result; `engram list recipes` shows them, best is the best",
        about=Flag("NAME"),
    )  # fmt: skip
    steps: int = setting(
        NEEDED, "environment steps to train in all, which schedules follow; when resuming, the new total",
        low=1, about=Flag("N", "the preset's", free=True),
    )  # fmt: skip
    envs: int = setting(
        1, "copies of the environment stepped together", low=1,
        about=Flag("K", "1; for agents that learn from rollouts 64 on the device, 8 on the host"),
    )  # fmt: skip
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
    max_episode_steps: int | None = setting(
        None, "cut an episode off after N steps, as a time limit, in training and in evaluation",
        low=1, about=Flag("N", "none; evaluation stops at 27,000"),
    )  # fmt: skip
    log: tuple[str, ...] = setting(
        (), "also log to these, separated by commas: csv, tensorboard (extra `track`), wandb, mlflow (extras)",
        about=Flag("NAMES", "metrics.jsonl alone", free=True),
    )  # fmt: skip
    track: bool = setting(False, "the same as --log tensorboard", about=Flag(free=True))
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
    evaluate_every: int = setting(
        NEEDED, "environment steps between evaluations while training: greedy episodes in environments of their own; "
        "0 for none", low=0, about=Flag("N", "a tenth of the run, 0 below 1,000 steps", free=True),
    )  # fmt: skip
    evaluate_episodes: int = setting(5, "episodes of each such evaluation", low=1, about=Flag("K", free=True))
    evaluate_env: str | None = setting(
        None, "another environment for them, with the same observations and actions",
        about=Flag("ID", "that of training", free=True),
    )  # fmt: skip
    start_from: str | None = setting(
        None, "begin with the weights of another run, of its newest checkpoint, its best, or that of a step; the agent "
        "is that run's but for what is given", about=Flag("RUN[@best|@STEP]", name="from"),
    )  # fmt: skip
    start_with: Literal["weights", "replay", "memory", "all"] = setting(
        "weights", "what else to take from that run: its replay, its external memory, or both (all)", about=Flag()
    )
    actors: int = setting(
        0, "collect in so many processes of a cluster, who share the environments; 0 to collect beside the learner",
        low=0, later=True, about=Flag("N", "0", free=True),
    )  # fmt: skip
    shards: int = setting(
        0, "keep replay rows and the external memory's entries in so many processes of a cluster; 0: in the learner",
        low=0, later=True, about=Flag("K", "0", free=True),
    )  # fmt: skip
    demonstrations: str | None = setting(
        None, "learn also from recorded episodes: a file of arrays, the replay of a run, or a data set of Minari; "
        "demos.ratio says how", about=Flag("FILE|RUN|minari:ID"),
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
    trust: bool = setting(
        False, "import the module and hand on the paths that the files of the run to resume, or to begin from, name, "
        "which may run code of whoever made them", about=Flag(),
    )  # fmt: skip
    worker_timeout: float = setting(
        60.0, "how long the process of an environment, an actor or a shard may take for one answer",
        above=0, about=Flag("SECONDS"),
    )  # fmt: skip
    cluster: str | None = setting(
        None, "where actors and shards are: a Ray cluster that is begun on this machine (local), or the address of one",
        about=Flag("local|ADDRESS", "local, where there are actors"),
    )  # fmt: skip


RUN, SESSION = ({field.name: field for field in dataclasses.fields(home)} for home in (RunSettings, Session))
# What may be chosen for the runs of a study (`engram tune`).
OF_TRIALS = (
    "preset", "recipe", "steps", "envs", "asynchronous", "seed", "seeds", "action_bins", "env_args",
    "max_episode_steps", "evaluate_every", "evaluate_episodes",
)  # fmt: skip
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
    typed: frozenset[str] = frozenset()  # those of the agent that are not a recipe's

    @classmethod
    def of(cls, keywords: Mapping[str, Any], overrides: Mapping[str, Any] | None, env: Any = None) -> "Given":
        """With a recipe, its settings stand where nothing was given.

        Raises SpecError for a value of a run's or session's; for the agent's see `check_names` and `override`.
        UnknownName for a recipe that `env` does not have.
        """
        known = {name: value for name, value in keywords.items() if name in RUN | SESSION and not _is_nothing(value)}
        path, words = str | os.PathLike, str | list | tuple
        shapes = (
            ("env_args", dict, Mapping),
            ("run", Path, path),
            ("demonstrations", str, path),
            ("log", named, words),
        )
        for name, make, given in shapes:
            if isinstance(known.get(name), given):
                known[name] = make(known[name])
        known = check(known)
        run = {name: value for name, value in known.items() if name in RUN}
        session = Session(**{name: value for name, value in known.items() if name in SESSION})
        agent = {name.replace("__", "."): value for name, value in keywords.items() if name not in RUN | SESSION}
        agent = {**(overrides or {}), **agent}
        typed = frozenset(agent)
        if "recipe" in run and not session.resume:  # a resumed run has the settings already
            run, agent = with_recipe(run, agent, env)
        return cls(run, session, agent, typed)


def with_recipe(run: Mapping[str, Any], agent: Mapping[str, Any], env: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the recipe that `run` names for `env`, under those that were given.

    Raises: SpecError for an environment that is not named by its id; UnknownName for a recipe that it does not have.
    """
    if not isinstance(env, str):
        raise SpecError(f"recipe = {run['recipe']!r} was given with an environment object; name the environment's id")
    recipe = recipes.find(env, run["recipe"])
    arguments = recipe.run().get("env_args", {}) | run.get("env_args", {})
    chosen = recipe.run() | dict(run) | ({"env_args": arguments} if arguments else {})
    return chosen, recipe.agent() | dict(agent)


LISTED = "engram show PRESET lists the settings of an agent, engram train --help those of a run"


def check_names(agent: Any, changes: Mapping[str, Any]) -> None:
    """Raises SpecError for a path that is no setting of `agent`: with its name here if other libraries have one of
    that name, else with the nearest name of all there are.
    """
    paths = list(changes)
    known = {row[0] for row in specs.describe(agent)}
    # Of another kind of agent, which the paths may choose, whatever any kind has: making it tells the rest.
    kinds = [registry.find(specs.ROOT, name) for name in registry.names(specs.ROOT)] if specs.ROOT in paths else []
    fields = {field.name: field for kind in (*kinds, type(agent)) for field in dataclasses.fields(kind)}
    own_name = registry.name_of(specs.ROOT, type(agent))
    asked = changes.get(specs.ROOT)
    learns = registry.find(specs.ROOT, asked) if asked in registry.names(specs.ROOT) else agent
    kind = "rollouts" if learns.from_rollouts else str(asked or own_name)
    for path in paths:
        first, dot, _ = path.partition(".")
        if path == specs.ROOT:
            continue
        if first in RUN | SESSION:
            raise SpecError(f"{path!r} is a setting of the run, not of its agent; {written(first)}")
        # Below a part, which settings there are depends on its kind, which another path may choose.
        of_a_part = bool(dot) and first in fields and "role" in fields[first].metadata
        way = None if path in known or path in fields else familiar(path, kind)
        if first not in fields and (others := agents_with(path)):
            raise SpecError(
                f"{path!r} is a setting of {' and '.join(f'agent={one}' for one in others)}, which this "
                f"agent={own_name} does not have; leave it out, or choose another preset"
            )
        if way and (not of_a_part or (path in FAMILIAR and not _own(changes, fields, path))):
            note = f" ({way.note})" if way.note else ""
            if (part := way.path.partition(".")[0]) not in fields and part not in RUN | SESSION:
                note = note or f" (of agents that learn from {'a replay' if learns.from_rollouts else 'rollouts'})"
                raise SpecError(
                    f"{path!r} is called {way.path!r} here{note}, which this agent does not have; leave it out"
                )
            raise SpecError(f"{path!r} is called {way.path!r} here{note}; {written(way.path)}")
        if first not in fields:
            instead = no_setting(path) or hint(path, [*RUN, *SESSION, "callbacks", "overrides", *known], LISTED)
            raise SpecError(f"{path!r} is not a setting of a run or its agent; {instead}")


def agents_with(path: str) -> list[str]:
    """The kinds of agent that have a setting of this path."""
    from engram.agents import presets  # noqa: F401, which registers them

    first, _, rest = path.partition(".")
    found = []
    for name in registry.names(specs.ROOT):
        field = {one.name: one for one in dataclasses.fields(registry.find(specs.ROOT, name))}.get(first)
        if field is None:
            continue
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        inner = default if dataclasses.is_dataclass(default) else None
        of_a_part = "role" in field.metadata  # which settings there are depends on its kind
        if not rest or of_a_part or (inner and any(known == rest for known, *_ in specs.describe(inner))):
            found.append(name)
    return found


def _own(changes: Mapping[str, Any], fields: Mapping[str, Any], path: str) -> bool:
    """Whether the kind of part that is chosen beside this path has a setting of that name."""
    part, _, name = path.partition(".")
    kind = changes.get(part)
    if not isinstance(kind, str) or kind not in registry.names(fields[part].metadata["role"]):
        return False
    found = registry.find(fields[part].metadata["role"], kind)
    return name.partition(".")[0] in {field.name for field in dataclasses.fields(found)}


def written(path: str) -> str:
    """How a setting of a run or an agent is written."""
    if path in RUN | SESSION:
        metavar = (RUN | SESSION)[path].metadata["about"].metavar
        return f"write {' '.join(filter(None, (flag_of(path), metavar)))}, in Python {path}="
    python = path.replace(".", "__")
    return f"write {path}=VALUE" + (f", in Python {python}=VALUE" if python != path else "")


def flag_of(name: str) -> str:
    """The flag of a setting of a run or a session."""
    return "--" + ((RUN | SESSION)[name].metadata["about"].name or name.replace("_", "-"))


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
    function.__annotations__ |= {name: shown[name].annotation for name in RUN | SESSION}
    lines = (
        f"  {name}: {field.metadata['help']}." + (f" Default: {told}." if (told := default_of(name)) else "")
        for name, field in (RUN | SESSION).items()
    )
    function.__doc__ = "\n".join([function.__doc__ or "", "", "Settings of the run:", *lines])
    return function
