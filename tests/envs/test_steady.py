"""Environments whose dtypes drift, that are defined twice, or run in 64 bits: they learn, or it is said."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram import registry
from engram.envs import device
from engram.envs.device import DeviceStep, make_device, register_device
from engram.envs.steady import Steady, steady
from engram.errors import EnvironmentFault, SpecError
from engram.run.trainer import Trainer
from engram.spaces import Box, Discrete
from engram.specs import spec


@dataclass(frozen=True)
class Drift:
    """Five steps. What it pays and shows is given in some dtypes; its state begins as a whole number."""

    pays: str = "int32"
    shows: str = "float32"
    moves: float = 0.5
    flag: str = "bool"
    observation_space = Box((2,))
    actions = 2

    def reset(self, key: Any) -> Any:
        return {"place": jnp.int32(0), "time": 0}, jnp.zeros(2, self.shows)

    def step(self, state: Any, action: Any, key: Any) -> Any:
        place, time = state["place"] + self.moves, state["time"] + 1
        reward = (2 * place).astype(self.pays)
        shown = jnp.stack([place, place]).astype(self.shows)
        return {"place": place, "time": time}, DeviceStep(
            shown, reward, (time >= 5).astype(self.flag), jnp.zeros((), bool)
        )


@pytest.fixture(params=[False, True], ids=["32 bits", "64 bits"])
def bits(request: Any) -> Iterator[bool]:
    with jax.enable_x64(request.param):
        yield request.param


@pytest.fixture
def listed() -> Iterator[None]:
    device.catalogue()  # all of ours are listed by now, and stay
    kept = dict(device._CATALOGUE)
    yield
    device._CATALOGUE.clear()
    device._CATALOGUE.update(kept)


@pytest.mark.parametrize(
    "arguments", [{}, {"shows": "int32"}, {"flag": "int32"}, {"pays": "float32", "moves": 1}], ids=str
)
def test_drifting_dtypes_learn_and_are_evaluated(bits: bool, listed: None, arguments: dict):
    register_device("me/Drift-v0")(Drift)
    with Trainer("me/Drift-v0", "dqn", steps=40, env_args=arguments) as trainer:
        trainer.learn()
        moves = arguments.get("moves", 0.5)
        assert trainer.evaluate(2).returns == [2 * moves * 15] * 2


def test_whether_a_goal_is_met_is_a_flag():
    class Reaching(Drift):
        def step(self, state: Any, action: Any, key: Any) -> Any:
            following, step = super().step(state, action, key)
            return following, step._replace(success=(following["time"] >= 5).astype(jnp.int32))

    made = steady(Reaching(pays="float32", moves=1), "Reaching")
    state, _ = made.reset(jnp.zeros(2, jnp.uint32))
    assert made.step(state, jnp.int32(0), jnp.zeros(2, jnp.uint32))[1].success.dtype == bool


def test_a_state_is_as_wide_as_its_steps_make_it():
    env = steady(Drift(), "it")
    assert isinstance(env, Steady)
    assert env.dtypes == ("float32", "int32")
    state, _ = env.reset(jnp.zeros(2, jnp.uint32))
    state, step = env.step(state, jnp.int32(0), jnp.zeros(2, jnp.uint32))
    assert (float(state["place"]), float(step.reward), step.reward.dtype) == (0.5, 1.0, jnp.float32)


@dataclass(frozen=True)
class Talks(Drift):
    """A person can talk to it, it is evaluated elsewhere, and says as a number whether a goal is met."""

    def converse(self, agent: Any, ask: Any, tell: Any, seed: int) -> None:
        tell(f"{self.pays} {seed}")

    @property
    def to_evaluate(self) -> "Talks":
        return replace(self, moves=1.5)

    def step(self, state: Any, action: Any, key: Any) -> Any:
        state, step = super().step(state, action, key)
        return state, step._replace(success=jnp.int32(1))


def test_what_else_an_environment_has_is_still_there():
    env, heard = steady(Talks(), "it"), []
    assert isinstance(env, Steady)
    env.converse(None, None, heard.append, 7)
    assert heard == ["int32 7"]
    assert isinstance(env.to_evaluate, Steady)
    assert env.to_evaluate.env == Talks(moves=1.5)
    assert not hasattr(env, "to_match")
    assert copy.deepcopy(env) == env
    state, _ = env.reset(jnp.zeros(2, jnp.uint32))
    assert env.step(state, jnp.int32(0), jnp.zeros(2, jnp.uint32))[1].success.dtype == bool


def test_an_environment_that_keeps_its_dtypes_is_left_alone():
    env = make_device("engram/CartPole-v1")
    assert steady(env, "it") is env


@dataclass(frozen=True)
class Wrong(Drift):
    what: str = ""

    def step(self, state: Any, action: Any, key: Any) -> Any:
        following, step = super().step(state, action, key)
        if self.what == "state":
            return jnp.zeros(3), step
        if self.what == "shape":
            return following, step._replace(observation=jnp.zeros(3))
        if self.what == "raises":
            raise TypeError("no such thing")
        return following, (0, 1)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            "state",
            r"the state of it has arrays of shapes \[\(\), \(\)\] after a reset and \[\(3,\)\] after a",
        ),
        ("shape", r"the observation of it.step is float32\[3\]; expected Box\(shape=\(2,\)"),
        ("raises", "it cannot be jitted: TypeError: no such thing"),
        ("tuple", "it cannot be jitted: AttributeError: 'tuple' object has no attribute 'observation'"),
    ],
)
def test_what_cannot_be_made_steady_is_one_sentence(what: str, said: str):
    with pytest.raises(EnvironmentFault, match=said):
        steady(Wrong(what=what), "it")


def test_floats_for_categories_are_one_sentence():
    @dataclass(frozen=True)
    class Categories(Drift):
        observation_space = Discrete(3)  # type: ignore[assignment]

        def reset(self, key: Any) -> Any:
            return super().reset(key)[0], jnp.float32(1)

    with pytest.raises(EnvironmentFault, match=r"the observation of it.reset is float32\[\]; expected Discrete\(n=3\)"):
        steady(Categories(), "it")


@pytest.mark.parametrize(
    ("env", "preset"), [("CartPole-v1", "nec"), ("engram/RepeatPrevious-v0", "dtqn"), ("engram/CartPole-v1", "dqn")]
)
def test_sixty_four_bits_change_nothing(env: str, preset: str):
    """The same returns and the same parameters as in a process of 32 bits."""

    class Watch:
        def on_evaluate(self, trainer: Any, evaluation: Any) -> None:
            seen.append(evaluation.returns)

    seen: list[Any] = []

    def found() -> Any:
        seen.clear()
        rhythm: dict[str, Any] = {"learn_every": 4, "evaluate_every": 80, "evaluate_episodes": 1}
        with Trainer(env, preset, steps=80, replay__start=64, callbacks=[Watch()], **rhythm) as trainer:
            trainer.learn()
            return trainer.state_digest(), trainer.evaluate(1).returns, list(seen)

    with jax.enable_x64(True):
        wide = found()
        assert jnp.zeros(1).dtype == np.float64  # what the process had chosen still holds
    assert wide == found()


CELL = """
@dataclass(frozen=True)
class Cell(Drift):
    pays: str = {pays!r}
"""


def run_cell(pays: str) -> type:
    made = {"Drift": Drift, "dataclass": dataclass, "__name__": __name__}
    exec(CELL.format(pays=pays), made)  # noqa: S102, as a notebook does
    return made["Cell"]


def test_a_cell_that_is_run_twice_replaces_its_environment(listed: None):
    for pays in ("int32", "float32"):
        register_device("me/Cell-v0")(run_cell(pays))
        assert make_device("me/Cell-v0").env.pays == pays  # type: ignore[attr-defined]
    with pytest.raises(SpecError, match="'me/Cell-v0' is already .*Cell; register Drift under another id"):
        register_device("me/Cell-v0")(Drift)


def test_a_cell_that_is_run_twice_replaces_its_part():
    def define() -> type:
        @registry.register("loss", "twice")
        @spec
        class Twice:
            """Nothing."""

        return Twice

    try:
        first, second = define(), define()
        assert registry.find("loss", "twice") is second
        assert registry.name_of("loss", first) == registry.name_of("loss", second) == "twice"
    finally:
        del registry._SHELVES["loss"]["twice"]
