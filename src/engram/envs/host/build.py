"""From what a user names (an id, an instance, a function) to Gymnasium environments, or a sentence.

Worker processes import this file, so it imports no JAX.
"""

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from engram.envs.adapters import plain
from engram.envs.adapters.families import FAMILIES
from engram.envs.host import capture, own
from engram.envs.host.episodes import Episodes, Level
from engram.envs.host.masks import Source
from engram.errors import SpecError, UnknownName, Untrusted, install, is_fault, told

_WORD = re.compile(r"[\w +-]*", re.ASCII)  # text that is no path, no address and no dotted name


@dataclass(frozen=True)
class Builder:
    """Makes instances of one environment; a value that is sent to workers whole.

    With `apart`, an instance that somebody plays in already is refused, and left as it is.
    """

    make: Callable[[], Any]
    name: str
    description: str
    apart: bool = False

    def made(self) -> Any:
        """What `make` gives; SpecError where it fails."""
        try:
            return self.make()
        except (SpecError, UnknownName):
            raise
        except BaseException as error:
            if not is_fault(error):
                raise
            raise SpecError(f"{self.name} could not be built: {told(error)}") from error

    def __call__(self) -> gymnasium.Env:
        env = self.made()
        if isinstance(env, VectorEnv):
            env.close()
            raise SpecError(
                f"{self.name} gave a vector environment of {env.num_envs}, and one environment was needed; give a "
                f"function that makes a single one, and how many with envs={env.num_envs} (--envs {env.num_envs})"
            )
        if not isinstance(env, gymnasium.Env):
            raise SpecError(
                f"{self.name} gave a {type(env).__module__}.{type(env).__name__}; expected a gymnasium.Env "
                f"(not one of the old gym package)"
            )
        if self.apart and own.in_use(env):
            raise SpecError(
                f"{self.name} gave an environment that is in use, and evaluation plays in one of its own; let it make "
                f"a new one at each call, or pass another: evaluate(env=...)"
            )
        return env


@dataclass(frozen=True)
class EpisodesMaker:
    """Makes the `Episodes` of one index; a value that is sent to workers whole."""

    builder: Callable[[], gymnasium.Env]
    index: int
    seed: int
    action_bins: int | None
    registry: capture.Registry
    masked: Source | None = None  # see Episodes
    limit: int | None = None  # see Episodes
    level: Level | None = None  # what another instance was found to be
    alone: bool = True  # whether no other environment of the run is in its process

    def __call__(self, first: Episodes | None = None) -> Episodes:
        """`first` is another instance from the same builder: what it was found to be saves probing this one."""
        capture.adopt(self.registry)
        masked, level = (self.masked, self.level) if first is None else (first.masked, first.level)
        env = self.builder()
        episodes = Episodes(
            env, index=self.index, seed=self.seed, action_bins=self.action_bins, masked=masked, limit=self.limit
        )
        episodes.observer.accept_missing(True)  # whether the agent takes a NaN is not known yet
        episodes.level = capture.choose_level(episodes, level, self.alone)
        episodes.observer.accept_missing(False)
        return episodes


def ids() -> list[str]:
    """All ids that can be made here, those of installed extras included."""
    _register_families()
    return sorted(name for name, spec in gymnasium.registry.items() if spec.entry_point is not None)


def check_unasked(env: str, env_args: Mapping[str, Any], named: bool = False) -> None:
    """Refuses an environment that only the files of a run name, where making it would run code that they choose.

    An id chooses code if it names a module that is not imported yet. An argument may, if its text could be a module, a
    file or an address, because some environments import what an argument names. Known ids and other arguments are
    accepted. `named`: whether the user has named the id too, which asks for its module.

    Raises: Untrusted, which says what would be imported or opened, and how to allow it.
    """
    module = _module_of(env)
    if module and not named and module not in sys.modules:
        raise Untrusted(
            f"the files of this run name the environment {env!r}, which would import the module {module!r} and run its "
            f"code; if you trust them, add --trust (in Python: trust=True), or import {module} yourself before"
        )
    for name, value in env_args.items():
        if (text := _suspect(value)) is not None:
            raise Untrusted(
                f"the files of this run give {env!r} the argument {name!r} with the text {text[:80]!r}, "
                f"which could name a module or a file; if you trust them, add --trust (in Python: trust=True)"
            )


def needs_trust(env: str, env_args: Mapping[str, Any]) -> bool:
    """Whether `check_unasked` refuses it in a process that has imported nothing yet."""
    return bool(_module_of(env)) or any(_suspect(value) is not None for value in env_args.values())


def _module_of(env: str) -> str:
    """The module that an id names; empty where none has to be imported, or a family of Engram's takes the id."""
    return "" if any(family.owns(env) for family in FAMILIES) else env.rpartition(":")[0]


def _suspect(value: Any) -> str | None:
    """The first text in a JSON value that could be the name of a module, a file or an address; None if none could."""
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        return next((found for found in map(_suspect, value) if found is not None), None)
    if not isinstance(value, str) or (_WORD.fullmatch(value) and not _is_module(value)):
        return None
    return value


def _is_module(word: str) -> bool:
    """Whether importing this name would run a module; none is imported to find out."""
    try:
        return word.isidentifier() and word not in sys.modules and importlib.util.find_spec(word) is not None
    except (ImportError, ValueError):
        return True


def builder_of(env: str | gymnasium.Env | VectorEnv | Callable[[], Any], env_args: dict[str, Any]) -> Builder:
    """Checks the name and the arguments, and builds nothing yet.

    Raises UnknownName with the nearest ids, or SpecError with what to install or to mend.
    """
    if isinstance(env, str):
        return _builder_of_spec(_find(env), env_args)
    if env_args:
        raise SpecError(f"env_args = {env_args} was given beside {env!r}; they go with an id: build them in instead")
    if isinstance(env, gymnasium.Env | VectorEnv):
        return Builder(lambda: env, str(env), str(env))
    if callable(env):
        name = f"the function {getattr(env, '__qualname__', repr(env))}"
        return Builder(env, name, name)
    raise SpecError(f"{env!r} is no environment; give an id, a gymnasium.Env or a function that returns one")


def reward_clip(env: gymnasium.Env) -> float:
    """What the field of this environment clips rewards to while learning; 0 for nothing, and for unknown ones."""
    spec = env.spec
    family = next((family for family in FAMILIES if spec is not None and family.claims(spec)), None)
    return 0.0 if family is None else family.reward_clip(env)


def _builder_of_spec(spec: EnvSpec, env_args: dict[str, Any]) -> Builder:
    adapter = next((family for family in FAMILIES if family.claims(spec)), plain)
    description = adapter.describe(spec, env_args)  # first, because it checks the arguments
    name = f"{spec.id} with {env_args}" if env_args else spec.id
    return Builder(partial(adapter.make, spec, env_args), name, description)


def _find(name: str) -> EnvSpec:
    """The registered spec of an id, `module:Id-v0` included."""
    module, _, env_id = name.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except BaseException as error:
            if not is_fault(error):
                raise
            way_out = "install it or mend its name" if isinstance(error, ImportError) else "mend it"
            raise UnknownName(
                f"the module {module!r} of {name!r} cannot be imported ({told(error)}); {way_out}"
            ) from error
    if env_id not in gymnasium.registry:
        _register_families()
    family = next((family for family in FAMILIES if family.owns(env_id)), None)
    if env_id not in gymnasium.registry and family is not None and family.installed:
        family.register_id(env_id)
    if env_id in gymnasium.registry:
        spec = gymnasium.registry[env_id]
        if str(spec.entry_point).startswith("gymnasium.envs.box2d") and find_spec("Box2D") is None:
            raise UnknownName(f"{env_id} needs the package Box2D; {install('box2d')}")
        if str(spec.entry_point).startswith("gymnasium.envs.mujoco") and find_spec("mujoco") is None:
            raise UnknownName(f"{env_id} needs the package mujoco; {install('robotics')}")
        return spec
    if family is not None and not family.installed:
        raise UnknownName(f"{env_id} needs the package {family.module}; {install(family.extra)}")
    from engram.envs.device import device_ids  # imports JAX; workers, which must not, are sent what was found here

    on_device = device_ids()
    if env_id in on_device:
        raise UnknownName(
            f"{env_id!r} runs on the device and is no Gymnasium environment; leave out what only those have "
            f"(asynchronous, action_bins)"
        )
    known = sorted({*ids(), *on_device})
    near = get_close_matches(env_id, known, n=3, cutoff=0.6)
    folded = {known_id.lower(): known_id for known_id in known}
    if env_id.lower() in folded:
        near = [folded[env_id.lower()]]
    way_out = (
        f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {len(known)}, such as 'CartPole-v1'"
    )
    raise UnknownName(f"no environment is called {env_id!r}; {way_out}")


def _register_families() -> None:
    for family in FAMILIES:
        family.register()
