"""Environments with the interface of gymnax join by their prefix, and are found as sound as Engram's own."""

import sys
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import engram
from engram import spaces
from engram.envs.adapters import gymnax_style
from engram.envs.adapters.gymnax_style import register_gymnax_style
from engram.envs.device import (
    about_of,
    catalogue,
    check_device_env,
    device_ids,
    make_device,
    register_family,
)
from engram.errors import SpecError, UnknownName


@dataclass(frozen=True)
class Params:
    goal: int = 5
    max_steps_in_episode: int = 8

    def replace(self, **changes: Any) -> "Params":
        return replace(self, **changes)


class Of:
    """A space, as libraries of this kind have them."""

    def __init__(self, **about: Any):
        vars(self).update(about)


class Line:
    """A walk to `goal`; `step` resets by itself, `step_env` does not. The state counts with a Python number."""

    def observation_space(self, params: Params) -> Any:
        return Of(spaces={"place": Of(n=100), "clock": Of(low=0.0, high=jnp.float32(64), shape=(1,))})

    def action_space(self, params: Params) -> Any:
        return Of(n=2)

    def reset(self, key: jax.Array, params: Params) -> Any:
        state = Of_state(jnp.int32(0), 0)  # type: ignore[arg-type]
        return self.show(state), state

    def step_env(self, key: jax.Array, state: Any, action: jax.Array, params: Params) -> Any:
        state = Of_state(state.place + action, state.time + 1.0)
        done = self.is_terminal(state, params)
        return self.show(state), state, state.place >= params.goal, done, {}

    def step(self, *given: Any) -> Any:
        raise AssertionError("this one resets by itself")

    def is_terminal(self, state: Any, params: Params) -> jax.Array:
        return (state.place >= params.goal) | (state.time >= params.max_steps_in_episode)

    def show(self, state: Any) -> Any:
        return {"place": state.place, "clock": jnp.asarray(state.time, jnp.float16)[None]}


@jax.tree_util.register_dataclass
@dataclass
class Of_state:
    place: jax.Array
    time: jax.Array


@dataclass(frozen=True)
class Timed:
    """The same parameters, with Craftax's name of the clock."""

    goal: int = 5
    max_timesteps: int = 8

    def replace(self, **changes: Any) -> "Timed":
        return replace(self, **changes)


class TimedLine(Line):
    def is_terminal(self, state: Any, params: Any) -> jax.Array:
        return (state.place >= params.goal) | (state.time >= params.max_timesteps)


class Keyed(Line):
    """As Craftax: the state holds a key of JAX's typed kind."""

    def reset(self, key: jax.Array, params: Params) -> Any:
        observation, state = super().reset(key, params)
        return observation, (state, key)

    def step_env(self, key: jax.Array, state: Any, action: jax.Array, params: Params) -> Any:
        shown, following, *rest = super().step_env(key, state[0], action, params)
        return shown, (following, jax.random.split(state[1])[0]), *rest

    def is_terminal(self, state: Any, params: Params) -> jax.Array:
        return super().is_terminal(state[0] if isinstance(state, tuple) else state, params)


class Steered(Line):
    def action_space(self, params: Params) -> Any:
        return Of(shape=(1,))


def make(name: str, about: dict[str, Any]) -> tuple[Any, Any]:
    if name == "Steered":
        return Steered(), Params()
    if name == "Keyed":
        return Keyed(), Params()
    if name == "Timed":
        return TimedLine(), Timed()
    if name != "Line":
        raise UnknownName(f"line has no environment {name!r}")
    return Line(), Params(**about)


register_gymnax_style("line", make, lambda: ["Line"])
KEY = jnp.zeros(2, jnp.uint32)


def walk(env: Any, actions: list[int]) -> list[Any]:
    state, _ = env.reset(KEY)
    steps = []
    for action in actions:
        state, step = env.step(state, jnp.int32(action), KEY)
        steps.append(step)
    return steps


def test_it_keeps_the_contract_and_has_the_spaces_of_what_it_shows():
    env = make_device("line:Line")
    check_device_env(env)
    expected = (("clock", spaces.Box((1,), low=0.0, high=64.0)), ("place", spaces.Discrete(100)))
    assert (env.observation_space, env.actions) == (spaces.Dict(expected), 2)
    assert make_device("line:Line") == env
    assert hash(make_device("line:Line", goal=3)) != hash(env)


def test_the_clock_truncates_and_the_goal_terminates():
    reached, late = walk(make_device("line:Line"), [1] * 5), walk(make_device("line:Line"), [0] * 8)
    ends = [(bool(step.terminated), bool(step.truncated)) for step in (reached[3], reached[4], late[6], late[7])]
    assert ends == [(False, False), (True, False), (False, False), (False, True)]
    assert int(reached[4].observation["place"]) == 5  # the last one of its episode
    both = walk(make_device("line:Line", goal=8), [1] * 8)[-1]
    assert (bool(both.terminated), bool(both.truncated)) == (True, False)


def test_the_clock_of_craftax_truncates_too():
    late = walk(make_device("line:Timed"), [0] * 8)[-1]
    assert (bool(late.terminated), bool(late.truncated)) == (False, True)


def test_a_typed_key_in_the_state_is_kept_as_numbers():
    env = make_device("line:Keyed")
    check_device_env(env)
    state, _ = env.reset(KEY)
    assert [str(leaf.dtype) for leaf in jax.tree.leaves(state)] == ["int32", "int32", "uint32"]


@pytest.mark.parametrize(
    ("box", "bounds"),
    [
        (Of(low=-1, high=np.array([1.0, np.inf], np.float32)), (-1.0, (1.0, None))),
        (Of(low=np.zeros(5), high=5 * np.ones(5)), (None, None)),  # of another shape
        (Of(low=np.float32(np.nan), high=np.array([3.0])), (None, 3.0)),
        (Of(), (None, None)),
    ],
)
def test_numbers_are_scaled_by_the_bounds_that_are_said(box: Any, bounds: tuple[Any, Any]):
    space = gymnax_style._space(box, jax.ShapeDtypeStruct((2,), jnp.float32))
    assert space == spaces.Box((2,), low=bounds[0], high=bounds[1])


def test_an_agent_learns_and_is_evaluated_in_it():
    small = dict(encoder__widths=(16,), replay__capacity=300, replay__start=60, replay__batch_size=16, seed=0)
    with engram.Trainer("line:Line", "dqn", env_args={"goal": 3}, **small) as trainer:
        trainer.learn(120)
        assert max(trainer.evaluate(4).lengths) <= 8
        assert np.isfinite(trainer.evaluate(4, env_args={"goal": 2}).mean)


def test_an_environment_that_gymnax_cannot_make_is_named(monkeypatch: pytest.MonkeyPatch):
    def make(name: str) -> Any:
        raise OSError("no network")

    monkeypatch.setitem(sys.modules, "gymnax", Of(registered_envs=["MNISTBandit-bsuite"], make=make))
    with pytest.raises(SpecError, match="gymnax cannot make MNISTBandit-bsuite: OSError: no network"):
        make_device("gymnax:MNISTBandit-bsuite")


def test_its_names_are_listed_and_wrong_ones_refused():
    assert "line:Line" in device_ids()
    assert catalogue()["line:Line"].doc == "An environment of line."
    assert about_of("line:Unlisted") == catalogue()["line:Line"]
    assert about_of("nobody:Line") is None
    for name, kind, said in (
        ("line:Lin", UnknownName, "line has no environment 'Lin'"),
        ("line:Steered", SpecError, "continuous actions, and on the device Engram chooses among a fixed number"),
        ("craftax:Craftax-Symbolic-v2", UnknownName, "did you mean 'Craftax-Symbolic-v1'"),
        ("gymnax:CartPole-v1", SpecError, r"needs the package gymnax \(.*\); .* --extra gymnax"),
        ("craftax:Craftax-Pixels-v1", SpecError, r"needs the package craftax \(.*\); .* uv pip install craftax"),
    ):
        if name in device_ids():
            continue  # installed here
        with pytest.raises(kind, match=said):
            make_device(name)
    with pytest.raises(SpecError, match="prefix = 'line' was given; expected a word that no family"):
        register_family("line", lambda name, about: make_device(name), list)
