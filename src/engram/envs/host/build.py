"""From what a user names (an id, an instance, a function) to Gymnasium environments, or a sentence.

Worker processes import this file, so it imports no JAX.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from engram.envs.adapters import plain
from engram.envs.adapters.families import FAMILIES
from engram.envs.host import capture
from engram.envs.host.episodes import Episodes
from engram.errors import SpecError, UnknownName, install


@dataclass(frozen=True)
class Builder:
    """Makes instances of one environment; a value that is sent to workers whole."""

    make: Callable[[], gymnasium.Env]
    name: str
    description: str

    def __call__(self) -> gymnasium.Env:
        try:
            env = self.make()
        except (SpecError, UnknownName):
            raise
        except Exception as error:
            text = " ".join(str(error).split())
            raise SpecError(f"{self.name} could not be built: {type(error).__name__}: {text}") from error
        if not isinstance(env, gymnasium.Env):
            raise SpecError(
                f"{self.name} gave a {type(env).__module__}.{type(env).__name__}; expected a gymnasium.Env "
                f"(not one of the old gym package, and no vector environment)"
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
    masked: bool | None = None  # see Episodes

    def __call__(self, first: Episodes | None = None) -> Episodes:
        """`first` is another instance from the same builder: what it was found to be saves probing this one."""
        capture.adopt(self.registry)
        masked = self.masked if first is None else first.masked
        episodes = Episodes(
            self.builder(), index=self.index, seed=self.seed, action_bins=self.action_bins, masked=masked
        )
        episodes.observer.accept_missing(True)  # whether the agent takes a NaN is not known yet
        episodes.level = capture.choose_level(episodes, None if first is None else first.level)
        episodes.observer.accept_missing(False)
        return episodes


def ids() -> list[str]:
    """All ids that can be made here, those of installed extras included."""
    _register_families()
    return sorted(name for name, spec in gymnasium.registry.items() if spec.entry_point is not None)


def builder_of(env: str | gymnasium.Env | Callable[[], gymnasium.Env], env_args: dict[str, Any]) -> Builder:
    """Checks the name and the arguments, and builds nothing yet.

    Raises UnknownName with the nearest ids, or SpecError with what to install or to mend.
    """
    if isinstance(env, str):
        return _builder_of_spec(_find(env), env_args)
    if env_args:
        raise SpecError(f"env_args = {env_args} was given beside {env!r}; they go with an id: build them in instead")
    if isinstance(env, gymnasium.Env):
        return Builder(lambda: env, str(env), str(env))
    if callable(env):
        name = f"the function {getattr(env, '__qualname__', repr(env))}"
        return Builder(env, name, name)
    raise SpecError(f"{env!r} is no environment; give an id, a gymnasium.Env or a function that returns one")


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
        except ImportError as error:
            raise UnknownName(
                f"the module {module!r} of {name!r} cannot be imported ({error}); install it or mend its name"
            ) from error
    if env_id not in gymnasium.registry:
        _register_families()
    family = next((family for family in FAMILIES if family.owns(env_id)), None)
    if env_id not in gymnasium.registry and family is not None and family.installed:
        family.register_id(env_id)
    if env_id in gymnasium.registry:
        return gymnasium.registry[env_id]
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
