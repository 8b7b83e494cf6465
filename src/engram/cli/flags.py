"""The words of the command line: each command's flags, and the settings `path=value` between them.

Flags are read by tyro from the dataclasses below; those of `train` come from `engram.run.settings`. The settings of
the agent are taken out before tyro sees the rest, because which settings there are depends on the preset.
"""

import ast
import dataclasses
import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from tyro.conf import Positional, UseAppendAction, arg, subcommand

from engram.cli.explain_flags import Explain
from engram.cli.export import Export
from engram.cli.games import Match, Play
from engram.cli.memory_flags import Memory
from engram.cli.new import TRY
from engram.cli.serve_flags import Serve
from engram.cli.share_flags import Pack, Pull, Push
from engram.cli.typed import Imports
from engram.cli.typed import note as _note
from engram.cli.typed import whole as _whole
from engram.errors import SpecError, UnknownName, hint
from engram.run.familiar import FAMILIAR, familiar, no_setting
from engram.run.settings import OF_TRIALS, RUN, SESSION, default_of, type_of, written

T = TypeVar("T")
SETTING = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z0-9_]+)*=.*", re.DOTALL)


LISTS = ("envs", "presets", "parts", "recipes")


def _with_settings(names: Iterable[str]) -> Callable[[type[T]], type[T]]:
    """Class decorator: gives a command a flag for each of these settings of a run or a session. What is not typed is
    None, False for a switch, () for what may be repeated.
    """
    flags = [_flag(name, (RUN | SESSION)[name]) for name in names]

    def with_flags(command: type[T]) -> type[T]:
        namespace = {"__doc__": command.__doc__}
        return dataclasses.make_dataclass(command.__name__, flags, bases=(command,), namespace=namespace, frozen=True)

    return with_flags


def _flag(name: str, field: "dataclasses.Field[Any]") -> tuple[str, Any, Any]:
    """The field of a command that is the flag of one setting: its name, type and default."""
    about, help, kind = field.metadata["about"], field.metadata["help"], type_of(name)
    told: Any = partial(
        arg, name=about.name or None, metavar=about.metavar or None, help=f"{help[0].upper()}{help[1:]}."
    )
    if get_origin(kind) is dict:
        return name, Annotated[UseAppendAction[tuple[str, ...]], told()], ()
    if kind is bool:
        return name, Annotated[bool, told(help_behavior_hint="")], False
    told = told(help_behavior_hint=f"(default: {default_of(name)})")
    if kind in (int, int | None):
        return name, Annotated[int | None, _whole(field.metadata["low"], about.metavar), told], None
    if get_origin(kind) is tuple:  # words with commas between them; `Given` takes them apart
        return name, Annotated[str | None, told], None
    return name, Annotated[kind | None, told], None


@_with_settings(RUN | SESSION)
@dataclasses.dataclass(frozen=True)
class Train:
    """Train an agent, or go on with a run.

    Settings of the agent follow as path=value, such as replay.capacity=50000.

    `engram show PRESET` lists them.
    """

    env: Annotated[
        Positional[str | None], arg(metavar="ENV", help_behavior_hint="(not needed with --resume or --from)")
    ] = None
    """What to learn: a Gymnasium id or one from `engram list envs`."""
    imports: Imports = ()


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Play episodes with a trained agent, without learning, and report their returns."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's directory."""
    at: Annotated[str | None, arg(metavar="newest|best|STEP"), _note("(default: newest)")] = None
    """Which checkpoint: the newest, the best by the evaluations while training, or that of a step."""
    episodes: Annotated[int | None, _whole(1, "N"), _note("(default: 20)")] = None
    """How many episodes."""
    seed: Annotated[int | None, _whole(0, "S"), _note("(default: 0)")] = None
    """The seed of the episodes, which are never those of training."""
    env: Annotated[str | None, arg(metavar="ENV"), _note("(default: that of training)")] = None
    """Another environment to play in, with the same observations and actions."""
    env_arg: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """An argument for making the environment; without --env it changes one of training."""
    max_episode_steps: Annotated[int | None, _whole(1, "N"), _note("(default: as in training, else 27,000)")] = None
    """Cut an episode off after N steps."""
    forget: Annotated[bool, _note("")] = False
    """A negative control: empty the working memory before every step, and the external one for good."""
    trust: Annotated[bool, _note("")] = False
    """Import the module and hand on the paths that the run's files name, which may run code of whoever made them."""
    imports: Imports = ()
    json: Annotated[bool, _note("")] = False
    """Print one JSON object and nothing else to standard output."""


@dataclasses.dataclass(frozen=True)
class Watch:
    """Play a greedy episode and show each step: what was seen, estimated, looked at.

    Keys: space pauses, right arrow one step, + and - change the speed, q ends.

    Into a file or a pipe: one line for each step.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's directory."""
    at: Annotated[str | None, arg(metavar="newest|best|STEP"), _note("(default: newest)")] = None
    """Which checkpoint: the newest, the best by the evaluations while training, or that of a step."""
    episodes: Annotated[int | None, _whole(1, "N"), _note("(default: 1)")] = None
    """How many episodes."""
    steps: Annotated[str | None, arg(metavar="A:B"), _note("(default: all)")] = None
    """Show the steps from A to before B of each episode."""
    seed: Annotated[int | None, _whole(0, "S"), _note("(default: 0)")] = None
    """The seed of the episodes, which are never those of training."""
    speed: Annotated[float | None, arg(metavar="X"), _note("(default: 1)")] = None
    """Times 10 steps a second."""
    env: Annotated[str | None, arg(metavar="ENV"), _note("(default: that of training)")] = None
    """Another environment to play in, with the same observations and actions."""
    env_arg: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """An argument for making the environment; without --env it changes one of training."""
    max_episode_steps: Annotated[int | None, _whole(1, "N"), _note("(default: as in training, else 27,000)")] = None
    """Cut an episode off after N steps."""
    png: Annotated[int | None, _whole(0, "STEP"), _note("(default: none)")] = None
    """Write one step as a picture instead."""
    out: Annotated[Path | None, arg(metavar="FILE"), _note("(default: step-STEP.png)")] = None
    """Where --png writes it."""
    video: Annotated[Path | None, arg(metavar="FILE.gif|FILE.mp4"), _note("(default: none)")] = None
    """Write a film instead; an mp4 needs the extra video."""
    trust: Annotated[bool, _note("")] = False
    """Import the module and hand on the paths that the run's files name, which may run code of whoever made them."""
    imports: Imports = ()


@dataclasses.dataclass(frozen=True)
class Info:
    """Say what came of a run, or of each run in a folder."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's directory, or a folder of runs."""
    all: Annotated[bool, _note("")] = False
    """Also every setting, and the digest of the whole state."""
    json: Annotated[bool, _note("")] = False
    """Print one JSON object, with all of --all, and nothing else to standard output."""
    verify: Annotated[bool, _note("")] = False
    """Also read every checkpoint and compare it with its digest."""
    imports: Imports = ()


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare runs by their logs: learning speed, convergence and final level.

    Runs that differ in nothing but their seed are a group.

    Every number has an interval over seeds.

    Runs that cannot be compared are named and left out.
    """

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN ...", help_behavior_hint="")]
    """Run directories, or folders of runs or of seeds."""
    reference: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="[ENV=]RETURN"), _note("(default: the best)")
    ] = ()
    """The return whose 50 and 90 % are to be reached; by default the final level of the best group."""
    normalize: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="minmax|[ENV=]LOW,HIGH")] = ()
    """Average over environments, where 0 is LOW and 1 is HIGH, or the extremes of all groups (minmax)."""
    test_env: Annotated[str | None, arg(metavar="ID"), _note("(default: none)")] = None
    """Also play greedily in the environment of training and in this one, and tell the gap."""
    test_env_arg: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """An argument for making that environment; without --test-env it changes one of training."""
    episodes: Annotated[int | None, _whole(1, "N"), _note("(default: 20)")] = None
    """How many episodes each seed then plays in each."""
    trust: Annotated[bool, _note("")] = False
    """Let these environments be made by the module that the run's files name, which may run code of whoever made it."""
    seed: Annotated[int | None, _whole(0, "S"), _note("(default: 0)")] = None
    """The seed of the bootstrap: the same seed, the same intervals."""
    plot: Annotated[Path | None, arg(metavar="FILE"), _note("(default: none)")] = None
    """Write a picture with curves and intervals, as PNG."""
    html: Annotated[Path | None, arg(metavar="FILE"), _note("(default: none)")] = None
    """Write one page with tables and the picture."""
    imports: Imports = ()
    json: Annotated[bool, _note("")] = False
    """Print one JSON object and nothing else to standard output."""


@_with_settings(OF_TRIALS)
@dataclasses.dataclass(frozen=True)
class Tune:
    """Search good settings of an agent, with Optuna (extra tune).

    The same command again goes on with the study.

    Settings of the agent that follow as path=value are fixed.

    A trial's score: its greedy evaluations in the last tenth of its steps.

    Trial 0 runs the preset's defaults.
    """

    env: Annotated[Positional[str], arg(metavar="ENV", help_behavior_hint="")]
    """What to learn: a Gymnasium id or one from `engram list envs`."""
    search: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(metavar="PATH[=LOW..HIGH|=A|B]"),
        _note("(default: all with a range)"),
    ] = ()
    """Search this setting, in its own range or in one of yours."""
    trials: Annotated[int | None, _whole(1, "N"), _note("(default: 20)")] = None
    """How many trials in all, with those of before."""
    study: Annotated[Path | None, arg(metavar="DIR"), _note("(default: runs/ENV-PRESET-tune)")] = None
    """Where the study and its trials are kept."""
    timeout: Annotated[float | None, arg(metavar="SECONDS"), _note("(default: none)")] = None
    """Stop after so many seconds; a trial that runs then is saved, to be gone on with."""
    jobs: Annotated[int | None, _whole(1, "J"), _note("(default: 1)")] = None
    """Processes that work on the study; a second command on the same folder joins, too."""
    pruning: Annotated[str | None, arg(metavar="median|none"), _note("(default: median)")] = None
    """Give a trial up whose best evaluation is below the median of whole trials at that point, or none."""
    keep: Annotated[str | None, arg(metavar="all|best"), _note("(default: all)")] = None
    """Whose checkpoints stay on the disk once a trial is over: of all trials, or of the best."""
    resume: Annotated[bool, _note("")] = False
    """Refuse to begin a new study."""
    show: Annotated[bool, _note("")] = False
    """Print what would be searched, and run nothing."""
    imports: Imports = ()
    json: Annotated[bool, _note("")] = False
    """Print one JSON object and nothing else to standard output."""


@dataclasses.dataclass(frozen=True)
class Show:
    """Print every setting of a preset as path=value; or what an environment is.

    Settings that follow as path=value are applied first.

    `engram show env ID` tells the observation, actions and arguments.
    """

    preset: Annotated[Positional[str], arg(metavar="PRESET|env")]
    """One of `engram list presets`; or the word env, with an ID after it."""
    id: Annotated[Positional[str | None], arg(metavar="ID", help_behavior_hint="(after env)")] = None
    """One of `engram list envs`."""
    env: Annotated[str, arg(metavar="ENV")] = "engram/CartPole-v1"
    """The environment to make the preset for: its numbers depend on what is observed."""
    steps: Annotated[int | None, _whole(1, "N"), _note("(default: the preset's)")] = None
    """Environment steps of the run to make it for."""
    action_bins: Annotated[int | None, _whole(2, "N"), _note("(default: none)")] = None
    """Cut each dimension of a continuous action into N values."""
    env_arg: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """An argument for making the environment."""
    imports: Imports = ()


@dataclasses.dataclass(frozen=True)
class List:
    """Print the names that can be used, each with what it stands for."""

    what: Annotated[Positional[str], arg(metavar="|".join(LISTS))]
    """What to list."""
    text: Annotated[Positional[str | None], arg(metavar="TEXT", help_behavior_hint="(default: all)")] = None
    """Only lines that hold this text; small and capital letters are alike."""
    filter: Annotated[str | None, arg(metavar="TEXT"), _note("(default: all)")] = None
    """The same."""
    imports: Imports = ()


@dataclasses.dataclass(frozen=True)
class New:
    """Write a part of your own to begin with: NAME.py and its test, test_NAME.py."""

    role: Annotated[Positional[str], arg(metavar="|".join(TRY))]
    """What the part is."""
    name: Annotated[Positional[str], arg(metavar="NAME")]
    """What it is called: small letters, digits and _."""


COMMANDS: dict[str, type] = {
    "train": Train, "evaluate": Evaluate, "play": Play, "match": Match, "watch": Watch, "explain": Explain,
    "info": Info, "compare": Compare, "memory": Memory, "tune": Tune, "pack": Pack, "push": Push, "pull": Pull,
    "serve": Serve, "export": Export, "show": Show, "list": List, "new": New,
}  # fmt: skip
TAKE_SETTINGS = ("train", "tune", "show")
Command = (
    Annotated[Train, subcommand("train")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Play, subcommand("play")]
    | Annotated[Match, subcommand("match")]
    | Annotated[Watch, subcommand("watch")]
    | Annotated[Explain, subcommand("explain")]
    | Annotated[Info, subcommand("info")]
    | Annotated[Compare, subcommand("compare")]
    | Annotated[Memory, subcommand("memory")]
    | Annotated[Tune, subcommand("tune")]
    | Annotated[Pack, subcommand("pack")]
    | Annotated[Push, subcommand("push")]
    | Annotated[Pull, subcommand("pull")]
    | Annotated[Serve, subcommand("serve")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Show, subcommand("show")]
    | Annotated[List, subcommand("list")]
    | Annotated[New, subcommand("new")]
)


# -- reading ---------------------------------------------------------------------------------------------


def flags_of(command: type) -> dict[str, bool]:
    """Every flag of a command, with whether a value follows it."""
    flags = {"--help": False, "-h": False}
    for field in dataclasses.fields(command):
        if not _is_positional(field):
            name = next((about.name for about in get_args(field.type) if getattr(about, "name", "")), field.name)
            flags["--" + name.replace("_", "-")] = get_args(field.type)[0] is not bool
    return flags


def _is_positional(field: dataclasses.Field[Any]) -> bool:
    return get_args(Positional[int])[1] in get_args(field.type)


def split_settings(command: str, words: list[str]) -> tuple[list[str], dict[str, str]]:
    """The words that are flags and their values, and the settings among them. A later setting wins.

    Raises: UnknownName for a flag that the command does not have; SpecError where no settings are taken.
    """
    flags = flags_of(COMMANDS[command])
    rest: list[str] = []
    settings: dict[str, str] = {}
    value_follows = False
    for word in words:
        name = word.partition("=")[0].replace("_", "-")
        if value_follows:
            rest.append(word)
            value_follows = False
        elif word.startswith("-") and len(word) > 1:
            if name not in flags:
                raise UnknownName(f"engram {command} has no flag {name!r}; {_flag_hint(command, name)}")
            rest.append(word)
            value_follows = flags[name] and "=" not in word
        elif SETTING.fullmatch(word):
            path, _, value = word.partition("=")
            settings[path] = value
        else:
            rest.append(word)
    if settings and command not in TAKE_SETTINGS:
        given = "=".join(next(iter(settings.items())))
        raise SpecError(f"engram {command} takes no settings, but {given!r} was given; leave it out")
    return rest, settings


def _flag_hint(command: str, name: str) -> str:
    words = [field.name for field in dataclasses.fields(COMMANDS[command]) if _is_positional(field)]
    if name[2:] in words:
        return f"write {name[2:].upper()} alone, as in: engram {command} {name[2:].upper()}"
    word = name.lstrip("-")
    if command in ("train", "tune") and (way := familiar(word)):
        note = f" ({way.note})" if way.note else ""
        return f"it is called {way.path!r} here{note}: {written(way.path)}"
    if command in ("train", "tune") and (instead := no_setting(word)):
        return instead
    told = hint(name, flags_of(COMMANDS[command]))
    known = {way.path for way in FAMILIAR.values()} - {*RUN}  # of the agent; to ask all parts would load JAX
    if command in TAKE_SETTINGS and (path := word.replace("-", "_")) in known:
        return f"settings of the agent have no dashes: write {path}=VALUE"
    if command in TAKE_SETTINGS and not told.startswith("did you mean"):
        return f"settings of the agent have no dashes, as in discount=0.99; flags are told by engram {command} --help"
    return f"{told} (see engram {command} --help)"


def in_a_sentence(box: str, command: str) -> str:
    """What tyro says in a box, as one sentence: the first paragraph, before the help of the flag.

    >>> in_a_sentence("╭─ Value error ─╮\\n│ Error parsing │\\n│ --x: no │\\n│ ─────── │\\n│ --x X │\\n╰──╯", "train")
    '--x: no (see engram train --help)'
    """
    _, *lines = [line.strip("│| \t") for line in box.splitlines() if line.strip()] or [""]  # without the title
    after = dropwhile(_is_rule, lines)  # where no box can be drawn, the title is underlined
    paragraph = takewhile(lambda line: not _is_rule(line), after)
    text = " ".join(paragraph).removeprefix("Error parsing ")
    if text.startswith("Unrecognized options") and command in TAKE_SETTINGS:
        text += "; a setting is written path=value, without spaces, as in discount=0.99"
    return f"{text.replace(' (required)', '')} (see engram {command} --help)"


def _is_rule(line: str) -> bool:
    return set(line) <= set("─-╰╯+ ")


def environment_argument(text: str) -> tuple[str, Any]:
    """`name=value` as a name and a JSON value: numbers, true, false, none, lists and dicts as such, all else as text.

    >>> environment_argument("is_slippery=false"), environment_argument("map_name=8x8")
    (('is_slippery', False), ('map_name', '8x8'))
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise SpecError(f"--env-arg {text!r} is not of the form name=value; write for example --env-arg map_name=8x8")
    words = {"true": True, "false": False, "none": None, "null": None}
    if value.lower() in words:
        return name, words[value.lower()]
    try:  # through JSON, because a resumed run reads the value back from there
        return name, json.loads(json.dumps(ast.literal_eval(value), allow_nan=False))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return name, value
