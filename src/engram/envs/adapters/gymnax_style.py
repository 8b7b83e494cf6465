"""Environments written for the interface of gymnax, as environments on the device: `gymnax:CartPole-v1`, `craftax:...`.

That interface is `reset(key, params) -> observation, state` and `step(key, state, action, params) -> observation,
state, reward, done, info`, with the spaces as functions of `params`. Other libraries share it. A library of your own
joins with `register_gymnax_style(prefix, make)`.

`step` of gymnax resets what ended by itself, and so hides the last observation; `step_env` does not, and is what is
called where there is one. `done` does not tell a time limit from an end of the task. Where the parameters have
`max_steps_in_episode`, the end is looked for once more without it: what only the clock ended is a truncation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree, UInt32

from engram import spaces
from engram.envs.device import DeviceStep, register_family, typed_key
from engram.errors import SpaceError, SpecError, UnknownName, hint, install

Make = Callable[[str, dict[str, Any]], tuple[Any, Any]]  # name and arguments -> environment and params
_NEVER = 1 << 30  # a time limit that is never reached
_MAKERS: dict[str, Make] = {}


@dataclass(frozen=True)
class GymnaxStyle:
    """One environment; `arguments` change what its family allows, such as fields of its params."""

    family: str
    name: str
    arguments: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self):
        _made(self)

    @property
    def observation_space(self) -> spaces.Space:
        return _made(self)[2]

    @property
    def actions(self) -> int:
        return _made(self)[3]

    def reset(self, key: UInt32[Array, "2"]) -> tuple[PyTree, PyTree]:
        env, params, space, _ = _made(self)
        observation, state = getattr(env, "reset_env", env.reset)(typed_key(key), params)
        # Python numbers would change their types at the first step.
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), state), _stored(space, observation)

    def step(self, state: PyTree, action: Int[Array, ""], key: UInt32[Array, "2"]) -> tuple[PyTree, DeviceStep]:
        env, params, space, _ = _made(self)
        given = getattr(env, "step_env", env.step)(typed_key(key), state, action, params)
        observation, following, reward, done, _ = given
        # A loop needs the same types at every step.
        following = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), following, state)
        done = jnp.asarray(done, bool)
        truncated = done & ~_ended(env, params, following, done)
        reward = jnp.asarray(reward, jnp.float32).reshape(())
        return following, DeviceStep(_stored(space, observation), reward, done & ~truncated, truncated)


def _ended(env: Any, params: Any, state: Any, done: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether the task is over, whatever the clock says."""
    if not (hasattr(params, "max_steps_in_episode") and hasattr(params, "replace") and hasattr(env, "is_terminal")):
        return done
    return jnp.asarray(env.is_terminal(state, params.replace(max_steps_in_episode=_NEVER)), bool)


def register_gymnax_style(prefix: str, make: Make, names: Callable[[], list[str]] = list) -> None:
    """Makes `prefix:NAME` an environment on the device.

    Args:
      make: an environment and its params, from NAME and arguments; it may raise UnknownName or SpecError.
      names: the names that there are, for lists.

    The environment's `step` (or `step_env`) must not reset by itself. SpecError if the prefix is taken.
    """
    register_family(prefix, partial(_make, prefix), names)
    _MAKERS[prefix] = make


def _make(prefix: str, name: str, env_args: dict[str, Any]) -> GymnaxStyle:
    return GymnaxStyle(prefix, name, tuple(sorted((key, _frozen(value)) for key, value in env_args.items())))


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


@lru_cache(maxsize=32)
def _made(env: GymnaxStyle) -> tuple[Any, Any, spaces.Space, int]:
    """The environment, its params, what it shows, and how many actions it has: nothing that a dataclass could hold."""
    with jax.ensure_compile_time_eval():  # outside any trace, or a tracer would stay in what the library keeps
        made, params = _MAKERS[env.family](env.name, dict(env.arguments))
        actions = getattr(made.action_space(params), "n", None)
        if actions is None:
            raise SpecError(
                f"{env.family}:{env.name} has continuous actions, and on the device Engram chooses among a fixed "
                f"number; wrap it so that it offers some"
            )
        key = typed_key(jnp.zeros(2, jnp.uint32))
        shown = jax.eval_shape(lambda: getattr(made, "reset_env", made.reset)(key, params)[0])
    return made, params, _space(made.observation_space(params), shown), int(actions)


def _space(space: Any, shown: Any) -> spaces.Space:
    """A space of gymnax's own kinds, with the shapes of what is really shown, which a Box sometimes misstates."""
    parts = getattr(space, "spaces", None)
    if isinstance(parts, dict):
        return spaces.Dict(tuple((name, _space(part, shown[name])) for name, part in parts.items()))
    if isinstance(parts, list | tuple):
        return spaces.Tuple(tuple(_space(part, each) for part, each in zip(parts, shown, strict=True)))
    if hasattr(space, "n") and shown.shape == ():
        return spaces.Discrete(int(space.n))
    if not hasattr(shown, "dtype"):
        raise SpaceError(f"an observation of {space} is {shown}; expected arrays")
    dtype = str(shown.dtype)
    narrowed = {"float16": "float32", "bfloat16": "float32", "float64": "float32", "int64": "int32", "uint32": "int32"}
    return spaces.Box(tuple(shown.shape), narrowed.get(dtype, dtype))


def _stored(space: spaces.Space, observation: PyTree) -> PyTree:
    """An observation in the dtypes of its space."""
    if isinstance(space, spaces.Dict):
        return {name: _stored(part, observation[name]) for name, part in space.items}
    if isinstance(space, spaces.Tuple):
        return tuple(_stored(part, each) for part, each in zip(space.items, observation, strict=True))
    return jnp.asarray(observation, space.dtype)


def _with_params(made: tuple[Any, Any], about: dict[str, Any], name: str) -> tuple[Any, Any]:
    """The environment with some fields of its params changed."""
    env, params = made
    known = list(getattr(params, "__dataclass_fields__", ()))
    for field in about:
        if field not in known:
            raise SpecError(f"{name} has no argument {field!r}; {hint(field, known)}")
    return env, params.replace(**about) if about else params


def _gymnax(name: str, about: dict[str, Any]) -> tuple[Any, Any]:
    gymnax = _library("gymnax", "gymnax", name)
    if name not in gymnax.registered_envs:
        raise UnknownName(f"gymnax has no environment {name!r}; {hint(name, gymnax.registered_envs)}")
    return _with_params(gymnax.make(name), about, f"gymnax:{name}")


def _library(module: str, extra: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise SpecError(f"{module}:{name} needs the package {module} ({error}); {install(extra)}") from error


def _gymnax_names() -> list[str]:
    try:
        version("gymnax")  # which a list without JAX may ask, while a module of JAX may not be looked for
    except PackageNotFoundError:
        return []
    return list(import_module("gymnax").registered_envs)


register_gymnax_style("gymnax", _gymnax, _gymnax_names)
