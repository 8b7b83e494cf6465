"""Environments written for the interface of gymnax, as environments on the device: `gymnax:CartPole-v1`,
`craftax:Craftax-Classic-Symbolic-v1`.

That interface is `reset(key, params) -> observation, state` and `step(key, state, action, params) -> observation,
state, reward, done, info`, with the spaces as functions of `params`. Other libraries share it. A library of your own
joins with `register_gymnax_style(prefix, make)`.

`step` of gymnax resets what ended by itself, and so hides the last observation; `step_env` does not, and is what is
called where there is one. `done` does not tell a time limit from an end of the task. Where the parameters have
a time limit (`CLOCKS`), the end is looked for once more without it: what only the clock ended is a truncation.

Brax does not join: its actions are continuous, and on the device Engram chooses among a fixed number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree, UInt32

from engram import spaces
from engram.envs.device import DeviceStep, register_family, typed_key
from engram.errors import SpaceError, SpecError, UnknownName, hint, install, told

Make = Callable[[str, dict[str, Any]], tuple[Any, Any]]  # name and arguments -> environment and params
CLOCKS = ("max_steps_in_episode", "max_timesteps")  # what gymnax and Craftax call the time limit among their parameters
CRAFTAX = tuple(f"Craftax-{kind}-v1" for kind in ("Symbolic", "Pixels", "Classic-Symbolic", "Classic-Pixels"))
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
        return _made(self).space

    @property
    def actions(self) -> int:
        return _made(self).actions

    def reset(self, key: UInt32[Array, "2"]) -> tuple[PyTree, PyTree]:
        env, params, space, *_ = _made(self)
        observation, state = getattr(env, "reset_env", env.reset)(typed_key(key), params)
        return jax.tree.map(_plain, state), _stored(space, observation)

    def step(self, state: PyTree, action: Int[Array, ""], key: UInt32[Array, "2"]) -> tuple[PyTree, DeviceStep]:
        env, params, space, _, keys = _made(self)
        state = jax.tree.map(lambda leaf, is_key: typed_key(leaf) if is_key else leaf, state, keys)
        given = getattr(env, "step_env", env.step)(typed_key(key), state, action, params)
        observation, following, reward, done, _ = given
        done = jnp.asarray(done, bool)
        truncated = done & ~_ended(env, params, following, done)
        # A loop needs the same types at every step.
        following = jax.tree.map(lambda new, old: jnp.asarray(_plain(new), _plain(old).dtype), following, state)
        reward = jnp.asarray(reward, jnp.float32).reshape(())
        return following, DeviceStep(_stored(space, observation), reward, done & ~truncated, truncated)


class _Made(NamedTuple):
    env: Any
    params: Any
    space: spaces.Space
    actions: int
    keys: PyTree  # the tree of its state: whether each leaf is a typed key of JAX


def _plain(leaf: Any) -> Array:
    """A leaf of a state as numbers: a checkpoint keeps no typed key, and Python numbers would change their types."""
    if _is_key(leaf):
        return jax.random.key_data(leaf)
    return jnp.asarray(leaf, jnp.result_type(leaf))


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _ended(env: Any, params: Any, state: Any, done: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether the task is over, whatever the clock says."""
    clocks = {name: _NEVER for name in CLOCKS if hasattr(params, name)}
    if not (clocks and hasattr(params, "replace") and hasattr(env, "is_terminal")):
        return done
    return jnp.asarray(env.is_terminal(state, params.replace(**clocks)), bool)


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
def _made(env: GymnaxStyle) -> _Made:
    """What was made of a name and arguments: nothing that a dataclass could hold."""
    with jax.ensure_compile_time_eval():  # outside any trace, or a tracer would stay in what the library keeps
        made, params = _MAKERS[env.family](env.name, dict(env.arguments))
        actions = getattr(made.action_space(params), "n", None)
        if actions is None:
            raise SpecError(
                f"{env.family}:{env.name} has continuous actions, and on the device Engram chooses among a fixed "
                f"number; wrap it so that it offers some"
            )
        key = typed_key(jnp.zeros(2, jnp.uint32))
        shown, state = jax.eval_shape(lambda: getattr(made, "reset_env", made.reset)(key, params))
    space = _space(made.observation_space(params), shown)
    return _Made(made, params, space, int(actions), jax.tree.map(_is_key, state))


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
    low, high = (_bound(space, name, shown.shape) for name in ("low", "high"))
    return spaces.Box(tuple(shown.shape), narrowed.get(dtype, dtype), low, high)


def _bound(space: Any, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """The `low` or `high` of a Box; None where it is not said, or not for this shape."""
    bound = np.asarray(getattr(space, name, np.nan), np.float64)
    if np.isnan(bound).any() or not (bound.size == 1 or bound.shape == shape):
        return None
    return np.broadcast_to(bound.reshape(() if bound.size == 1 else shape), shape)


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
    try:
        made = gymnax.make(name)
    except Exception as error:  # MNISTBandit downloads its digits
        raise SpecError(f"gymnax cannot make {name}: {told(error)}; mend that, or take another") from error
    return _with_params(made, about, f"gymnax:{name}")


def _craftax(name: str, about: dict[str, Any]) -> tuple[Any, Any]:
    if name not in CRAFTAX:
        raise UnknownName(f"craftax has no environment {name!r}; {hint(name, CRAFTAX)}")
    made = _library("craftax.craftax_env", "", name).make_craftax_env_from_name(name, auto_reset=False)
    return _with_params((made, made.default_params), about, f"craftax:{name}")


def _library(module: str, extra: str, name: str) -> Any:
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ImportError as error:
        way_out = install(extra) if extra else f"install it beside Engram: uv pip install {package}"
        raise SpecError(f"{package}:{name} needs the package {package} ({error}); {way_out}") from error


def _installed(package: str) -> bool:
    """Which a list without JAX may ask, while a module of JAX may not be looked for."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _gymnax_names() -> list[str]:
    return list(import_module("gymnax").registered_envs) if _installed("gymnax") else []


def _craftax_names() -> list[str]:
    return list(CRAFTAX) if _installed("craftax") else []


register_gymnax_style("gymnax", _gymnax, _gymnax_names)
register_gymnax_style("craftax", _craftax, _craftax_names)
