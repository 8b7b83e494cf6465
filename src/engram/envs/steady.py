"""An environment of one's own whose dtypes drift, made one whose dtypes stay: loops of JAX demand it.

Rewards may be whole numbers, flags 0 and 1, and a state may begin as a whole number and go on as a float. Where the
step gives other shapes than the reset, or numbers that the space cannot hold, one sentence says so.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree, UInt32

from engram import spaces
from engram.envs.teams import agents_of
from engram.errors import EnvironmentFault
from engram.precision import in_32_bits

ROUNDS = 3  # of a state's dtypes becoming wider: bool, integer, float
PLAYED = ("to_evaluate", "to_match")  # attributes that are environments


@dataclass(frozen=True)
class Steady:
    """`env` with the dtypes that its space declares, and a state of the dtypes that its steps lead to."""

    env: Any
    dtypes: tuple[str, ...]  # of the leaves of the state

    @property
    def observation_space(self) -> spaces.Space:
        return self.env.observation_space

    @property
    def actions(self) -> int:
        return self.env.actions

    def __getattr__(self, name: str) -> Any:
        """What else the environment has, such as `turns` or `converse`."""
        if name == "env" or name.startswith("__"):  # not there yet, as while it is copied
            raise AttributeError(name)
        found = getattr(self.env, name)
        return steady(found, type(found).__name__) if name in PLAYED else found

    def reset(self, key: UInt32[Array, "2"]) -> tuple[PyTree, PyTree]:
        state, observation = self.env.reset(key)
        return _cast(state, self.dtypes), _cast(observation, _stored(self.observation_space))

    def step(self, state: PyTree, action: Int[Array, "*agents"], key: UInt32[Array, "2"]) -> tuple[PyTree, Any]:
        following, step = self.env.step(state, action, key)
        step = step._replace(
            observation=_cast(step.observation, _stored(self.observation_space)),
            reward=jnp.asarray(step.reward).astype(jnp.float32),
            terminated=jnp.asarray(step.terminated).astype(bool),
            truncated=jnp.asarray(step.truncated).astype(bool),
            sign=None if step.sign is None else jnp.asarray(step.sign).astype(jnp.float32),
            success=None if step.success is None else jnp.asarray(step.success).astype(bool),
        )
        return _cast(following, self.dtypes), step


@in_32_bits
def steady(env: Any, name: str) -> Any:
    """`env` itself where its dtypes stay, else wrapped so that they do.

    Raises EnvironmentFault, naming what differs, where they cannot be made to.
    """
    team = () if agents_of(env) == 1 else (agents_of(env),)
    key, action = jax.ShapeDtypeStruct((2,), jnp.uint32), jax.ShapeDtypeStruct(team, jnp.int32)
    try:
        begun, first = jax.eval_shape(env.reset, key)
        state = begun
        following, step = jax.eval_shape(env.step, state, action, key)
        for _ in range(ROUNDS):
            _check_alike(name, state, following)
            state = jax.tree.map(_wider, state, following)
            following, step = jax.eval_shape(env.step, state, action, key)
        shown, ends = step.observation, (step.reward, step.terminated, step.truncated)
        more = ("float32",) * (step.sign is not None) + ("bool",) * (step.success is not None)
    except EnvironmentFault:
        raise
    except Exception as problem:  # whatever the environment raises while it is traced
        reason = str(problem).strip().partition("\n")[0]
        raise EnvironmentFault(f"{name} cannot be jitted: {type(problem).__name__}: {reason}") from problem
    _check_shown(name, env.observation_space, first, "reset", team)
    _check_shown(name, env.observation_space, shown, "step", team)
    dtypes = tuple(str(leaf.dtype) for leaf in jax.tree.leaves(state))
    kept = all(_dtypes(tree) == dtypes for tree in (begun, following))
    stored = all(_dtypes(tree) == _stored(env.observation_space) for tree in (first, shown))
    if kept and stored and _dtypes((*ends, step.sign, step.success)) == ("float32", "bool", "bool", *more):
        return env
    return Steady(env, dtypes)


def _wider(one: Any, other: Any) -> jax.ShapeDtypeStruct:
    """A leaf that holds both; those of random keys stay."""
    keys = jnp.issubdtype(one.dtype, jax.dtypes.extended)
    return jax.ShapeDtypeStruct(one.shape, one.dtype if keys else jnp.promote_types(one.dtype, other.dtype))


def _dtypes(tree: PyTree) -> tuple[str, ...]:
    return tuple(str(leaf.dtype) for leaf in jax.tree.leaves(tree))


def _stored(space: spaces.Space) -> tuple[str, ...]:
    return tuple(str(leaf.dtype) for _, leaf in spaces.leaves(space))


def _cast(tree: PyTree, dtypes: tuple[str, ...]) -> PyTree:
    leaves, form = jax.tree.flatten(tree)
    arrays = [jnp.asarray(leaf) for leaf in leaves]
    pairs = zip(arrays, dtypes, strict=True)
    return jax.tree.unflatten(form, [one if str(one.dtype) == dtype else one.astype(dtype) for one, dtype in pairs])


def _check_alike(name: str, state: PyTree, following: PyTree) -> None:
    one, other = ([leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (state, following))
    if jax.tree.structure(state) != jax.tree.structure(following) or one != other:
        raise EnvironmentFault(
            f"the state of {name} has arrays of shapes {one} after a reset and {other} after a step; keep its form"
        )


def _check_shown(name: str, space: spaces.Space, shown: PyTree, after: str, team: tuple[int, ...]) -> None:
    expected, given = [leaf for _, leaf in spaces.leaves(space)], jax.tree.leaves(shown)
    fits = [leaf.shape for leaf in given] == [(*team, *leaf.shape) for leaf in expected] and not any(
        jnp.issubdtype(leaf.dtype, jnp.floating) and wanted.dtype != "float32"
        for leaf, wanted in zip(given, expected, strict=True)
    )
    if not fits:
        told = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in given)
        each = f"for each of {team[0]} agents " if team else ""
        raise EnvironmentFault(f"the observation of {name}.{after} is {told}; expected {each}{space}")
