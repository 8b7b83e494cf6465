"""Names for what an environment shows and takes."""

from dataclasses import dataclass
from typing import Any

import gymnasium
import pytest

from engram.envs.device import make_device
from engram.envs.names import Names, action_names, names_of
from engram.errors import EnvironmentFault
from engram.spaces import Box


class Falling(gymnasium.Env):
    """A host environment that names its parts by `metadata`."""

    metadata = {"parts": {"numbers": ["height (m)", "speed (m/s)"], "actions": ["fall", "push"]}}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)


class Moving(Falling):
    """One whose boxes move."""

    place = 0.25

    def parts(self) -> dict[str, Any]:
        return {"entities": ["itself", "car"], "boxes": [None, (self.place, 0, 1, 2)]}


@dataclass(frozen=True)
class Sliding:
    """A device environment that names its parts by its state."""

    observation_space = Box((1,))
    actions = 2

    def parts(self, state: float) -> dict[str, Any]:
        return {"numbers": ["place"], "boxes": [(state, 0, 1, 1)]}


def test_an_environment_may_name_its_parts():
    env = gymnasium.wrappers.TimeLimit(Falling(), 5)
    assert names_of(env) == Names(("height (m)", "speed (m/s)"), actions=("fall", "push"))
    assert action_names(env, None, 2) == ["fall", "push"]
    moving = Moving()
    assert names_of(moving).boxes == (None, (0.25, 0.0, 1.0, 1.0))
    moving.place = 0.5
    assert names_of(moving).boxes[1] == (0.5, 0.0, 1.0, 1.0)
    assert names_of(Sliding(), state=0.75) == Names(("place",), boxes=((0.75, 0.0, 1.0, 1.0),))
    assert names_of(Sliding()) == Names()


def test_own_names_come_before_known_ones():
    env = Falling()
    known = names_of(env, "CartPole-v1")
    assert known.numbers == ("height (m)", "speed (m/s)")
    assert names_of(None, "CartPole-v1").numbers[2] == "pole angle (rad)"


@pytest.mark.parametrize(
    ("id", "count", "expected"),
    [
        ("CartPole-v1", 2, ["left", "right"]),
        ("engram/CartPole-v1", 2, ["left", "right"]),
        ("Acrobot-v1", 3, ["torque -1", "torque 0", "torque +1"]),
        ("MountainCar-v0", 3, ["left", "nothing", "right"]),
        ("LunarLander-v3", 4, ["nothing", "left engine", "main engine", "right engine"]),
        ("engram/PassiveTMaze-v0", 4, ["right", "up", "left", "down"]),
        ("engram/RepeatFirst-v0", 4, ["spades", "diamonds", "clubs", "hearts"]),
        ("minatar-breakout", 3, ["nothing", "left", "right"]),
        ("minatar-breakout", 6, ["nothing", "left", "up", "right", "down", "fire"]),
        ("engram/ContextBandit-v0", 3, ["arm 1", "arm 2", "arm 3"]),
        ("engram/Battleship-v0", 64, None),
        ("mine/Env-v0", 2, ["action 0", "action 1"]),
        ("CartPole-v1", 5, [f"action {number}" for number in range(5)]),
    ],
)
def test_actions_of_well_known_environments_have_names(id: str, count: int, expected: list[str] | None):
    found = action_names(None, id, count)
    assert len(found) == count
    assert found == (expected or found)
    if id == "engram/Battleship-v0":
        assert (found[0], found[9], found[-1]) == ("A1", "B2", "H8")


def test_known_names_fit_the_device_tasks():
    for id in ("engram/CartPole-v1", "engram/NoVelocityCartPole-v0", "engram/Acrobot-v1", "engram/ActiveTMaze-v0"):
        env = make_device(id)
        assert len(names_of(env, id).numbers) == env.observation_space.shape[0], id  # type: ignore[union-attr]
        assert not action_names(env, id, env.actions)[0].startswith("action"), id


def test_atari_names_its_actions():
    pytest.importorskip("ale_py")
    from engram.envs.host.build import builder_of

    env = builder_of("ALE/Pong-v5", {})()
    try:
        assert action_names(env, "ALE/Pong-v5", 6) == ["noop", "fire", "right", "left", "rightfire", "leftfire"]
    finally:
        env.close()


@pytest.mark.parametrize("declared", [["a"], {"number": ["a"]}, {"numbers": "ab"}, {"boxes": [(1, 2)]}, {"numbers": 3}])
def test_names_of_another_form_are_refused(declared: Any):
    env = Falling()
    env.parts = declared  # type: ignore[attr-defined]
    with pytest.raises(EnvironmentFault, match="the parts of Falling are .*; expected"):
        names_of(env)


def test_parts_that_fail_are_named():
    env = Falling()
    env.parts = lambda: 1 / 0  # type: ignore[attr-defined]
    with pytest.raises(EnvironmentFault, match="Falling.parts failed \\(ZeroDivisionError"):
        names_of(env)
