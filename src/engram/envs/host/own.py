"""Whose an environment object is: who plays in it, and how another one like it is made.

Two that play in one object would disturb each other's episodes. So evaluation plays in an environment of its own, and
of two trainers that are given the same object the later one has it.

Worker processes import this file, so it imports no JAX.
"""

import copy
import hashlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol
from weakref import WeakSet

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv

from engram.envs.host.capture import is_registered, layers_of
from engram.errors import SpecError

_WALK = 200  # steps that show which attributes change while an environment is played
_LOOKS = 10  # steps after which attributes are looked at
_DEPTH = 3  # objects inside objects that are compared


class Player(Protocol):
    """What plays in `env`: `Episodes`, or a whole vector environment."""

    env: Any


_PLAYED: WeakSet[Player] = WeakSet()  # those that play in an environment of this process now


class Taken(gymnasium.Env):
    """Stands in for an environment object that somebody else was given; it does nothing but say so."""

    def reset(self, **_: Any) -> Any:
        raise RuntimeError("another trainer was given this environment object since; give each an object of its own")

    def step(self, action: Any) -> Any:
        return self.reset()


def in_use(env: gymnasium.Env | VectorEnv) -> bool:
    """Whether somebody plays in this environment, or in a layer of it."""
    inside = env.envs if isinstance(env, SyncVectorEnv) else ()
    played = {id(player.env.unwrapped) for player in _PLAYED}
    return any(id(each.unwrapped) in played for each in (env, *inside))


def play_in(player: Player) -> None:
    """`player` has its environment from now on; others that played in the same one are shown the door."""
    for other in list(_PLAYED):
        if other is not player and other.env.unwrapped is player.env.unwrapped:
            other.env = Taken()
            _PLAYED.discard(other)
    _PLAYED.add(player)


def leave(player: Player) -> None:
    """The environment of this player is free for others."""
    _PLAYED.discard(player)


def another(env: gymnasium.Env | VectorEnv) -> Callable[[], gymnasium.Env]:
    """A function that makes environments like this object, which is left as it is.

    | the object                                               | the others                                   |
    |----------------------------------------------------------|----------------------------------------------|
    | of registered classes (`register_exact`) alone           | copies, attributes that were set included    |
    | with a spec, as `gymnasium.make` gives it                | made from its spec                           |
    | of a class that needs no arguments                       | made from its class                          |

    One that is made anew must not differ in what playing does not change. Raises SpecError, naming the call that
    works, where it does or where there is no way.
    """
    if isinstance(env, VectorEnv):
        raise SpecError(
            f"training is in {env}, and no other one like it can be made; write evaluate(env=...) with an environment, "
            f"or give the trainer a function that makes the vector"
        )
    if is_registered(env):
        try:
            model = copy.deepcopy(env)
        except Exception:  # such as one with a window
            pass
        else:
            return partial(copy.deepcopy, model)
    make, way = _maker(env)
    problem = way
    if make is not None:
        try:
            problem = _difference(make(), env, way)
        except Exception as error:
            problem = f"{way} failed: {type(error).__name__}: {' '.join(str(error).split())}"
    if make is None or problem:
        name = type(env.unwrapped).__name__
        raise SpecError(
            f"training is in this {name} object, and no other one like it can be made ({problem}); write "
            f"evaluate(env=...) with a second {name}, or give the trainer a function that makes one"
        )
    return make


def _maker(env: gymnasium.Env) -> tuple[Callable[[], gymnasium.Env] | None, str]:
    """What may make another one, and that in words; or None, and why there is nothing."""
    if env.spec is not None:
        return partial(gymnasium.make, env.spec, disable_env_checker=True), f"gymnasium.make({env.spec.id!r})"
    kind = type(env)
    try:
        parameters = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):
        return None, f"nobody knows which arguments {kind.__name__} takes"
    for one in parameters:
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            continue
        if one.default is one.empty:
            return None, f"{kind.__name__} needs the argument {one.name!r}"
        if not hasattr(env, one.name) or _print(getattr(env, one.name)) != _print(one.default):
            return None, f"it may have been made with another {one.name!r} than {one.default!r}"
    return kind, f"{kind.__name__}()"


def _difference(fresh: gymnasium.Env, env: gymnasium.Env, way: str) -> str:
    """How `env` differs from one that was just made, in attributes that playing leaves alone; empty if it does not.

    `fresh` is played in to see which those are, and closed.
    """
    try:
        kinds = [type(layer) for layer in layers_of(fresh)], [type(layer) for layer in layers_of(env)]
        if kinds[0] != kinds[1]:
            return f"{way} gives {fresh}, and this is {env}"
        before = _attributes(fresh)
        changes, given = _walk(fresh, before), _attributes(env)
    finally:
        fresh.close()
    for place in sorted(before.keys() | given.keys()):
        if place not in changes and before.get(place) != given.get(place):
            return f"its attribute {place[1]!r} is not as {way} has it"
    return ""


def _walk(env: gymnasium.Env, before: dict[tuple[int, str], Any]) -> set[tuple[int, str]]:
    """The attributes that change in a random episode, cut short, and at the beginning of the next."""
    changes: set[tuple[int, str]] = set()

    def look() -> None:
        now = _attributes(env)
        changes.update(place for place in before.keys() | now.keys() if before.get(place) != now.get(place))

    env.action_space.seed(0)
    try:
        env.reset(seed=0)
        look()
        for number in range(_WALK):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            over = terminated or truncated
            if number < _LOOKS or over:
                look()
            if over:
                break
        env.reset(seed=1)
        look()
    except Exception:  # one that fails has shown enough
        look()
    return changes


def _attributes(env: gymnasium.Env) -> dict[tuple[int, str], Any]:
    """What can be compared of every attribute, by layer and name."""
    return {
        (depth, name): _print(value)
        for depth, layer in enumerate(layers_of(env))
        for name, value in vars(layer).items()
        if name not in ("env", "spec", "_np_random", "_np_random_seed", "_cached_spec")
    }


def _print(value: Any, depth: int = _DEPTH) -> Any:
    """A value in a form that is equal for equal values; of what cannot be looked into, its kind."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value)
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufcSU":
        array = np.asarray(value)
        return (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).hexdigest())
    if isinstance(value, gymnasium.Space):
        return repr(value)
    if depth == 0:
        return type(value).__qualname__
    if isinstance(value, list | tuple):
        return (type(value).__qualname__, *(_print(item, depth - 1) for item in value))
    if isinstance(value, dict):
        return tuple(sorted((str(key), str(_print(item, depth - 1))) for key, item in value.items()))
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    inside = sorted((name, str(_print(item, depth - 1))) for name, item in getattr(value, "__dict__", {}).items())
    return (type(value).__qualname__, *inside)
