"""Environments that are pure JAX functions: their protocol, their list, and a test of the protocol.

A device environment steps one episode of one environment. The runner batches it (`vmap`) and resets it after an end.
So the observation of a step is always the result of its action, never the first one of the next episode.

    >>> env = make_device("engram/CartPole-v1", max_steps=200)
    >>> state, observation = env.reset(key)
    >>> state, step = env.step(state, action, key)

Your own environment joins with `@register_device("me/Maze-v0")` above a frozen dataclass, and
`check_device_env(env)` holds it to the protocol.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib import import_module
from inspect import getdoc
from pkgutil import iter_modules
from types import UnionType
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from engram import spaces
from engram.bits import hashed, uniform
from engram.envs.steady import steady
from engram.envs.teams import agents_of
from engram.errors import EnvironmentFault, SpecError, UnknownName, hint
from engram.precision import in_32_bits
from engram.registry import is_again
from engram.specs import plain

EnvState = Any  # a pytree of arrays (a NamedTuple here), known to its environment only
E = TypeVar("E")


class DeviceStep(NamedTuple):
    """The result of one action."""

    observation: PyTree  # after the action; the last one of the episode where it ended
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]  # the task is over: nothing follows, the value of what follows is 0
    truncated: Bool[Array, ""]  # the clock ran out: the value of what would follow still counts
    # Of an environment with `turns`: 1 where the same side moves next, -1 where the other does. The reward is that of
    # whoever moved, and the value of what follows is that of whoever moves next, so it counts with this sign.
    sign: Float[Array, ""] | None = None
    success: Bool[Array, ""] | None = None  # whether the episode's goal is met now; None where a task has none


class DeviceEnv(Protocol):
    """One environment as three pure functions of arrays; implemented by frozen (so hashable, static) dataclasses.

    It may have more attributes: `turns`, which is True where its steps have a `sign`, and `to_evaluate`, the
    environment that evaluations play in. An action of several numbers is numbered, the last number fastest; an
    environment with such actions may say how many values each of them has (`action_sizes`). One with goals may say
    how they are rewarded (`goal_rule`).

    Keys are raw threefry words, because the runner draws all bits of a step at once. They may be treated as
    independent uniform bits (`uniforms`), or wrapped for `jax.random` (`typed_key`).

    Several agents that are paid together act in one environment that says so: see teams.py.
    """

    @property
    def observation_space(self) -> spaces.Space: ...

    @property
    def actions(self) -> int:
        """How many actions there are; an action is an integer in 0..actions-1."""
        ...

    def reset(self, key: UInt32[Array, "2"]) -> tuple[EnvState, PyTree]:
        """A first state and its observation."""
        ...

    def step(self, state: EnvState, action: Int[Array, ""], key: UInt32[Array, "2"]) -> tuple[EnvState, DeviceStep]:
        """The next state; after an end (either flag) the state must not be stepped again."""
        ...


def has_turns(env: Any) -> bool:
    """Whether the steps of an environment say who moves next. Host environments have no such sign."""
    return bool(getattr(env, "turns", False))


def to_evaluate(env: DeviceEnv) -> DeviceEnv:
    """The environment that evaluations play in: the same, but for games whose other side must be somebody's."""
    return getattr(env, "to_evaluate", env)


def typed_key(key: UInt32[Array, "2"]):
    """The raw key as `jax.random` wants it, threefry whatever the process default is."""
    return jax.random.wrap_key_data(key, impl="threefry2x32")


def uniforms(key: UInt32[Array, "2"], count: int) -> Float[Array, "count"]:
    """Numbers in [0, 1), multiples of 2⁻²⁴, from a key of any structure (0, 1, 2, ... included).

    A reset inside a masked step runs at every step of every environment, and there one threefry draw costs more than
    the whole of CartPole. This is an integer hash instead (bits.py).
    """
    return uniform(hashed(key, count))


class _Entry(NamedTuple):
    kind: type
    fixed: Mapping[str, Any]  # fields that the id decides

    @property
    def arguments(self) -> list[str]:
        return [field.name for field in fields(self.kind) if field.init and field.name not in self.fixed]


_CATALOGUE: dict[str, _Entry] = {}


def register_device(id: str, **fixed: Any) -> Callable[[type[E]], type[E]]:
    """Class decorator: lists a frozen dataclass under `id`, with some of its fields `fixed` by that id.

    Its other fields are the arguments of `make_device(id, ...)`.
    The same class defined again, as by a notebook's cell that is run twice, takes the place of the former one.
    SpecError if it is no frozen dataclass, or another class has the `id`.
    """

    def put(kind: type[E]) -> type[E]:
        parameters = getattr(kind, "__dataclass_params__", None)
        if parameters is None or not parameters.frozen:
            raise SpecError(
                f"{kind.__qualname__} cannot be registered as {id!r}: it must be static under jit; "
                "put @dataclass(frozen=True) below @register_device"
            )
        if id in _CATALOGUE and not is_again(kind, _CATALOGUE[id].kind):
            taken = _CATALOGUE[id].kind
            raise SpecError(
                f"environment {id!r} is already {taken.__module__}.{taken.__qualname__}; "
                f"register {kind.__qualname__} under another id"
            )
        _CATALOGUE[id] = _Entry(kind, fixed)
        return kind

    return put


class _Family(NamedTuple):
    make: Callable[[str, dict[str, Any]], DeviceEnv]
    names: Callable[[], list[str]]


_FAMILIES: dict[str, _Family] = {}  # by prefix: `gymnax` for `gymnax:CartPole-v1`


def register_family(
    prefix: str, make: Callable[[str, dict[str, Any]], DeviceEnv], names: Callable[[], list[str]]
) -> None:
    """Makes every id `prefix:NAME` an environment that `make(NAME, arguments)` gives; `names` lists some of them."""
    if prefix in _FAMILIES or not prefix.isidentifier():
        raise SpecError(f"prefix = {prefix!r} was given; expected a word that no family of environments has yet")
    _FAMILIES[prefix] = _Family(make, names)


def _family_of(id: str) -> _Family | None:
    prefix, colon, _ = id.partition(":")
    return _FAMILIES.get(prefix) if colon else None


@cache
def _load_ours() -> None:
    # They import this module for `register_device`, so they cannot be imported at its top.
    tasks = import_module("engram.envs.tasks")
    ours = [
        "adapters.minatar",
        "adapters.smax",
        "adapters.gymnax_style",
        "go.game",
        "probes",
        *sorted(f"tasks.{module.name}" for module in iter_modules(tasks.__path__)),
    ]
    for name in ours:
        import_module(f"engram.envs.{name}")


def device_ids() -> list[str]:
    """The ids that `make_device` knows, sorted; those of an extra that is not installed included."""
    _load_ours()
    families = [f"{prefix}:{name}" for prefix, family in _FAMILIES.items() for name in family.names()]
    return sorted([*_CATALOGUE, *families])


class About(NamedTuple):
    """What a device environment says of itself."""

    doc: str
    defaults: dict[str, Any]  # its arguments; "" for one that must be given


def catalogue() -> dict[str, About]:
    """Every id that `make_device` knows, sorted, with its description and its arguments."""
    return {id: about for id in device_ids() if (about := about_of(id)) is not None}


def about_of(id: str) -> About | None:
    """What the device environment of this id says of itself; None if no such id can be made on the device."""
    _load_ours()
    if id in _CATALOGUE:
        return _about(_CATALOGUE[id])
    return About(f"An environment of {id.partition(':')[0]}.", {}) if _family_of(id) else None


def _about(entry: _Entry) -> About:
    known = entry.arguments
    defaults = {field.name: _default(field) for field in fields(entry.kind) if field.name in known}
    return About(getdoc(entry.kind) or "", defaults)


def _default(field: Any) -> Any:
    if _required(field):
        return ""
    return field.default if field.default_factory is MISSING else field.default_factory()


def is_device(id: str) -> bool:
    """Whether `make_device` knows `id`."""
    _load_ours()
    return id in _CATALOGUE or _family_of(id) is not None


def make_device(id: str, **env_args: Any) -> DeviceEnv:
    """The environment registered as `id`.

    Raises UnknownName, with the nearest id, if there is none. SpecError for an argument that it does not have, for a
    wrong type or value, and for an extra that is not installed.
    """
    if not is_device(id):
        raise UnknownName(f"no device environment is called {id!r}; {hint(id, _CATALOGUE)}")
    if family := _family_of(id):
        return family.make(id.partition(":")[2], env_args)
    entry = _CATALOGUE[id]
    known = entry.arguments
    listed = f"its arguments are {', '.join(known)}" if known else "it takes no arguments"
    types = get_type_hints(entry.kind)
    env_args = {name: _as_whole(plain(value), types.get(name)) for name, value in env_args.items()}
    for name, value in env_args.items():
        if name not in known:
            raise SpecError(f"{name!r} is not an argument of {id}; {listed}")
        if not _fits(value, types[name]):
            wanted = f"a value of type {getattr(types[name], '__name__', str(types[name]))}"
            if get_origin(types[name]) is Literal:
                wanted = f"one of {', '.join(map(str, get_args(types[name])))}"
            raise SpecError(f"{name} = {value!r} does not suit {id}, which wants {wanted}; {listed}")
    missing = [field.name for field in fields(entry.kind) if field.name in known and _required(field)]
    missing = [name for name in missing if name not in env_args]
    if missing:
        raise SpecError(f"{id} needs {', '.join(missing)}, which was not given; {listed}")
    # 1 and 1.0 must be one environment: the same hash, the same compiled program.
    env_args = {name: float(value) if types[name] is float else value for name, value in env_args.items()}
    env = entry.kind(**entry.fixed, **env_args)
    return env if entry.kind.__module__.startswith("engram.") else steady(env, id)  # ours are tested


def _as_whole(value: Any, wanted: Any) -> Any:
    """1e4 as 10,000 where a whole number is wanted."""
    return int(value) if wanted is int and isinstance(value, float) and value.is_integer() else value


def _required(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _fits(value: Any, wanted: Any) -> bool:
    """Whether `value` is of the annotated type; annotations that cannot be checked are taken on trust."""
    origin = get_origin(wanted)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(wanted))
    if origin is Literal:
        return value in get_args(wanted)
    wanted = origin or wanted
    if wanted in (int, float):
        return isinstance(value, (int, wanted)) and not isinstance(value, bool)
    return isinstance(value, wanted) if isinstance(wanted, type) else True


def at_least(env: Any, name: str, smallest: int) -> None:
    """SpecError unless the field `name` of `env` is `smallest` or more; for `__post_init__`."""
    value = getattr(env, name)
    if value < smallest:
        raise SpecError(f"{name} = {value!r} is too small for {type(env).__name__}; give {smallest} or more")


@in_32_bits
def check_device_env(env: DeviceEnv, *, steps: int = 200, seed: int = 0, missing: bool = False) -> None:
    """EnvironmentFault, naming what is broken, unless `env` keeps the contract of `DeviceEnv`.

    Checked:

    - the environment is static;
    - observations, rewards, flags and states keep shapes, dtypes and structure;
    - numbers are finite and categories in range, over `steps` random actions in 4 environments;
    - equal keys give equal results;
    - a plain call and a jitted batch agree (floats to 1e-5, because fused operations round differently).

    Args:
      steps: 2 or more.
      missing: whether numbers that are seen may be NaN, which agents with `observation.missing=mask` take.
    """
    name = type(env).__name__
    _check_static(env, name)
    _check_types(env, name)
    agents = agents_of(env)
    bits = jax.random.bits(jax.random.key(seed, impl="threefry2x32"), (steps + 1, 4, 2 + agents), "uint32")
    keys, actions = bits[..., :2], (bits[1:, :, 2:] % env.actions).astype(jnp.int32)
    actions = actions[..., 0] if agents == 1 else actions

    def advance(state: EnvState, action: Int[Array, "*agents"], key: UInt32[Array, "2"]) -> tuple[EnvState, PyTree]:
        """A step, and the first state of the next episode where it ended one, as a runner has it."""
        following, step = env.step(state, action, key)
        over = step.terminated | step.truncated
        begun, _ = env.reset(key)
        return jax.tree.map(lambda new, old: jnp.where(over, new, old), begun, following), (following, step)

    with jax.disable_jit():
        plain = _play(env.reset, advance, keys[:3, 0], actions[:2, 0])
        again = _play(env.reset, advance, keys[:3, 0], actions[:2, 0])
    batch = _play(jax.jit(jax.vmap(env.reset)), jax.jit(jax.vmap(advance)), keys, actions)
    first = jax.tree.map(lambda leaf: leaf[0], batch[:3])
    _same_values(f"{name} gave two results for one key; draw from the key alone", plain, again, 0.0)
    _same_values(f"{name} gives another result under jit and vmap; keep to array functions", plain, first, 1e-5)
    _check_numbers(env, name, batch, missing)


def _play(reset: Callable, advance: Callable, keys: UInt32[Array, "..."], actions: Int[Array, "..."]) -> list[PyTree]:
    """(state, first observation), then (state, step) for each action."""
    state, observation = reset(keys[0])
    happened: list[PyTree] = [(state, observation)]
    for action, key in zip(actions, keys[1:], strict=True):
        state, outcome = advance(state, action, key)
        happened.append(outcome)
    return happened


def _check_static(env: DeviceEnv, name: str) -> None:
    if not is_dataclass(env):
        raise EnvironmentFault(f"{name} is not a dataclass; write @dataclass(frozen=True) above it")
    try:
        same = hash(env) == hash(env) and env == env
    except TypeError as problem:
        raise EnvironmentFault(f"{name} cannot be static under jit: {problem}; freeze it, keep arrays out") from problem
    if not same:
        raise EnvironmentFault(f"{name} differs from itself; compare and hash its fields only")
    if not isinstance(agents_of(env), int) or agents_of(env) < 1:
        raise EnvironmentFault(f"{name}.agents is {agents_of(env)!r}; expected a whole number of 1 or more")
    if not isinstance(env.actions, int) or env.actions < 1:
        raise EnvironmentFault(f"{name}.actions is {env.actions!r}; expected a whole number of 1 or more")
    if not isinstance(env.observation_space, spaces.Space):
        raise EnvironmentFault(f"{name}.observation_space is {env.observation_space!r}; expected an engram space")


def _check_types(env: DeviceEnv, name: str) -> None:
    """Shapes, dtypes and structure, by tracing only."""
    team = () if agents_of(env) == 1 else (agents_of(env),)
    key, action = jax.ShapeDtypeStruct((2,), jnp.uint32), jax.ShapeDtypeStruct(team, jnp.int32)
    try:
        state, first = jax.eval_shape(env.reset, key)
        following, step = jax.eval_shape(env.step, state, action, key)
    except Exception as problem:  # whatever the environment raises while it is traced
        reason = str(problem).strip().partition("\n")[0]
        raise EnvironmentFault(f"{name} cannot be jitted: {type(problem).__name__}: {reason}") from problem
    if not isinstance(step, DeviceStep):
        raise EnvironmentFault(f"{name}.step returned {type(step).__name__} beside the state; expected a DeviceStep")
    _same_types(f"the state after {name}.step", following, state)
    space = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, spaces.zeros(env.observation_space, team)))
    _same_types(f"the observation of {name}.reset", first, space)
    _same_types(f"the observation of {name}.step", step.observation, space)
    flag = jax.ShapeDtypeStruct((), jnp.bool_)
    _same_types(f"the reward of {name}.step", step.reward, jax.ShapeDtypeStruct((), jnp.float32))
    _same_types(f"terminated of {name}.step", step.terminated, flag)
    _same_types(f"truncated of {name}.step", step.truncated, flag)
    if has_turns(env) != (step.sign is not None):
        raise EnvironmentFault(
            f"{name}.turns is {has_turns(env)}, but its step gives {'no' if step.sign is None else 'a'} sign; make the "
            f"two agree"
        )
    if step.sign is not None:
        _same_types(f"the sign of {name}.step", step.sign, jax.ShapeDtypeStruct((), jnp.float32))
    if step.success is not None:
        _same_types(f"success of {name}.step", step.success, flag)


def _same_types(what: str, given: PyTree, expected: PyTree) -> None:
    def described(tree: PyTree) -> str:
        return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)).replace("'", "")

    if described(given) != described(expected) or jax.tree.structure(given) != jax.tree.structure(expected):
        raise EnvironmentFault(f"{what} is {described(given)}; expected {described(expected)}")


def _same_values(problem: str, left: PyTree, right: PyTree, tolerance: float) -> None:
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        exact = not jnp.issubdtype(jnp.asarray(one).dtype, jnp.floating)
        allowed = 0.0 if exact else tolerance
        if not np.allclose(one, other, rtol=allowed, atol=allowed, equal_nan=True):
            raise EnvironmentFault(problem)


def _check_numbers(env: DeviceEnv, name: str, happened: list[PyTree], missing: bool) -> None:
    steps = [step for _, step in happened[1:]]
    if not np.all(np.isfinite([step.reward for step in steps])):
        raise EnvironmentFault(f"{name} gave a reward that is not finite; bound it")
    if has_turns(env) and not np.all(np.abs([step.sign for step in steps]) == 1):
        raise EnvironmentFault(f"{name} gave a sign that is neither 1 nor -1; give one of them at every step")
    observations = [happened[0][1], *(step.observation for step in steps)]
    columns = zip(*(jax.tree.leaves(observation) for observation in observations), strict=True)
    for (path, leaf), values in zip(spaces.leaves(env.observation_space), columns, strict=True):
        part = f" {path}" if path else ""
        seen = path not in (spaces.MASK, spaces.OFFERED)
        _check_leaf(f"the observation{part} of {name}", leaf, np.stack(values), missing and seen)


def _check_leaf(what: str, leaf: spaces.Leaf, value: np.ndarray, missing: bool) -> None:
    if isinstance(leaf, spaces.Box):
        unknown = np.isnan(value)
        if not np.all(np.isfinite(value) | (unknown & missing)):
            may = unknown.any() and not missing
            way_out = ", or pass missing=True if a NaN is a missing number" if may else ""
            raise EnvironmentFault(f"{what} is not finite; bound it{way_out}")
        return
    if isinstance(leaf, spaces.Text):
        sizes = np.asarray(leaf.symbols + 1)
    else:
        sizes = np.asarray(leaf.n if isinstance(leaf, spaces.Discrete) else leaf.nvec)
    if np.any(value < 0) or np.any(value >= sizes):
        raise EnvironmentFault(f"{what} left its space: {value.min()}..{value.max()}; expected 0 up to below {sizes}")


def where_done(done: Bool[Array, "envs"], fresh: Array, old: Array) -> Array:
    """`fresh` for the environments that are done, `old` for the others, along the leading axis."""
    return jnp.where(done.reshape(-1, *[1] * (old.ndim - 1)), fresh, old)
