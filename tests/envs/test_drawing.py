"""Device tasks are drawn: small pictures that change with the state and show the cue."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram.envs.device import make_device
from engram.envs.drawing import battles, boxes, draw
from engram.envs.drawing.canvas import Canvas
from engram.envs.limit import limited
from engram.errors import EnvironmentFault
from engram.spaces import Box

TASKS: list[tuple[str, dict[str, Any]]] = [
    ("engram/CartPole-v1", {}),
    ("engram/NoVelocityCartPole-v0", {}),
    ("engram/Acrobot-v1", {}),
    ("engram/PassiveTMaze-v0", {}),
    ("engram/ActiveTMaze-v0", {"length": 100}),
    ("engram/SparseGrid-v0", {}),
    ("engram/SparseGrid-v0", {"size": 31}),
    ("engram/RepeatFirst-v0", {}),
    ("engram/RepeatPrevious-v0", {}),
    ("engram/Autoencode-v0", {}),
    ("engram/CountRecall-v0", {}),
    ("engram/CountRecall-v0", {"level": "hard"}),
    ("engram/Concentration-v0", {"level": "medium"}),
    ("engram/Concentration-v0", {"level": "hard"}),
    ("engram/ContextBandit-v0", {"width": 7, "arms": 9}),
    ("engram/Battleship-v0", {"level": "hard"}),
    ("engram/MemoryLength-v0", {}),
    ("engram/MemorySize-v0", {"size": 40}),
    ("engram/Dialogue-v0", {}),
]


def played(env: Any, actions: list[int], seed: int = 0) -> list[tuple[Any, Any]]:
    """Every state of an episode with its observation, as arrays of NumPy."""
    step = jax.jit(env.step)
    state, observation = jax.jit(env.reset)(jnp.array([seed, 1], jnp.uint32))
    found = [(state, observation)]
    for time, action in enumerate(actions):
        state, after = step(state, jnp.int32(action), jnp.array([seed, 2 + time], jnp.uint32))
        found.append((state, after.observation))
    return [jax.tree.map(np.asarray, one) for one in found]


def pictures(env: Any, actions: list[int], seed: int = 0) -> list[np.ndarray]:
    found = [draw(env, state, observation) for state, observation in played(env, actions, seed)]
    assert all(one is not None for one in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize(("id", "arguments"), TASKS, ids=lambda value: value if isinstance(value, str) else None)
def test_every_task_is_drawn_small_and_changes_with_the_state(id: str, arguments: dict[str, Any]):
    env = make_device(id, **arguments)
    first, second = pictures(env, [0])
    for picture in (first, second):
        assert picture.dtype == np.uint8
        assert max(picture.shape[:2]) <= 160
        assert picture.shape[2] == 3
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 2
    actions = [0] if id != "engram/SparseGrid-v0" else [0, 1, 2, 3]
    assert any((one != first).any() for one in pictures(env, actions)[1:])


def test_boards_of_minatar_are_their_channels_cell_by_cell():
    pytest.importorskip("pgx")
    env = make_device("minatar-breakout")
    ((state, observation), *_) = played(env, [])
    picture = draw(env, state)
    assert picture is not None
    assert picture.shape == (160, 160, 3)
    lit = picture.reshape(10, 16, 10, 16, 3)[:, 8, :, 8].max(-1) > 60
    assert (lit == observation.any(-1)).all()


def test_the_cue_of_a_maze_is_seen_in_the_picture_when_it_is_observed():
    env = make_device("engram/PassiveTMaze-v0")
    episodes = [played(env, [0], seed) for seed in range(8)]
    up = next(one for one in episodes if one[0][0].goal == 1)
    down = next(one for one in episodes if one[0][0].goal == -1)
    sign = np.s_[2:32, 6:36]
    signs = [draw(env, one[step][0])[sign] for one in (up, down) for step in (0, 1)]  # type: ignore[index]
    assert (signs[0] != signs[2]).any()
    assert (signs[1] == signs[3]).all()
    assert (signs[0] != signs[1]).any()


def test_the_first_card_stays_in_the_picture():
    env = make_device("engram/RepeatFirst-v0")
    by_suit = {}
    for seed in range(12):
        (state, observation), *_ = played(env, [], seed)
        by_suit[int(observation)] = draw(env, state, observation)
    assert len(by_suit) == 4
    assert len({picture.tobytes() for picture in by_suit.values()}) == 4  # type: ignore[union-attr]
    state, observation = played(env, [0, 0, 0])[3]
    left = [draw(env, state._replace(first=np.int32(suit)), observation)[:60, :44] for suit in (0, 1)]  # type: ignore[index]
    assert (left[0] != left[1]).any()


def test_vehicles_are_where_their_boxes_are():
    env = make_device("engram/Intersection-v0", openings=4)
    state, observation = played(env, [2, 2])[-1]
    picture = draw(env, state)
    assert picture is not None
    found = boxes(env, state, observation)
    assert len(found) == 15
    assert found[0] is not None
    orange = (np.abs(picture.astype(int) - (226, 122, 44)).sum(-1) < 40) | (picture[..., 0] > 190) & (
        picture[..., 2] < 110
    )
    rows, columns = np.nonzero(orange)
    left, top, right, bottom = (160 * one for one in found[0])
    assert left - 1 <= columns.min() <= columns.max() <= right + 1
    assert top - 1 <= rows.min() <= rows.max() <= bottom + 1
    assert all(box is None for box, row in zip(found, observation, strict=True) if row[0] == 0)


def test_a_time_limit_changes_no_picture():
    env = make_device("engram/CartPole-v1")
    ((state, _), *_) = played(limited(env, 5), [])
    assert (draw(limited(env, 5), state) == draw(env, state.inner)).all()


@dataclass(frozen=True)
class Own:
    """An environment of a user's own, with a picture or a fault."""

    fault: str = ""

    observation_space = Box((1,))
    actions = 1

    def draw(self, state: Any) -> Any:
        if self.fault == "raises":
            raise KeyError("row")
        if self.fault == "none":
            return None
        return np.zeros((4, 5, 3), np.float32 if self.fault == "type" else np.uint8) + np.uint8(state)


def test_an_environment_of_ones_own_draws_itself():
    assert (draw(Own(), 7) == np.full((4, 5, 3), 7)).all()
    assert draw(Own("none"), 7) is None
    with pytest.raises(EnvironmentFault, match="Own.draw failed \\(KeyError: 'row'\\); mend it, or remove it"):
        draw(Own("raises"), 7)
    with pytest.raises(
        EnvironmentFault, match=r"Own.draw gave float32\[4, 5, 3\]; expected uint8 \[height, width, 3\]"
    ):
        draw(Own("type"), 7)


def test_what_nobody_draws_has_no_picture():
    env = make_device("engram/Chain-v0")
    ((state, _), *_) = played(env, [])
    assert draw(env, state) is None
    assert boxes(env, state) == ()


def test_a_canvas_is_smooth_at_edges_and_writes():
    canvas = Canvas(20, 10, (0, 0, 0))
    canvas.rectangle(2 + 1 / 3, 0, 5, 10, (255, 255, 255))
    found = canvas.picture()
    assert (found[5, 2, 0], found[5, 3, 0], found[5, 6, 0]) == (170, 255, 0)
    canvas.text("1", 10, 5, (255, 0, 0))
    assert canvas.picture()[5, 9].tolist() == [255, 0, 0]


class Units(NamedTuple):
    """What the drawing of a battle reads of jaxmarl's state."""

    unit_positions: np.ndarray
    unit_alive: np.ndarray
    unit_types: np.ndarray
    unit_health: np.ndarray
    prev_attack_actions: np.ndarray


def battle(alive: list[bool], health: list[float]) -> np.ndarray:
    """One marine of ours at (10, 20) against one at (14, 20) and one at (14, 18), which is 15 of 45 healthy."""
    units = Units(
        np.array([[10.0, 20.0], [14.0, 20.0], [14.0, 18.0]]), np.array(alive), np.zeros(3, int), np.array(health),
        np.zeros(3, int),
    )  # fmt: skip
    return battles.field(SimpleNamespace(agents=1), SimpleNamespace(game=SimpleNamespace(state=units)))


def like(picture: np.ndarray, colour: Any) -> np.ndarray:
    """Where a picture has a colour."""
    return np.all(np.abs(picture.astype(int) - np.asarray(colour)) < 12, axis=-1)


def test_a_battle_shows_sides_health_and_the_dead():
    whole = battle([True, True, True], [45.0, 45.0, 15.0])
    blue, red = like(whole, battles.BLUE), like(whole, battles.RED)
    assert np.nonzero(blue)[1].mean() < np.nonzero(red)[1].mean()  # ours are on the left
    assert red.sum() > 1.7 * blue.sum()
    green = like(whole, battles.GREEN).sum()
    assert green < like(battle([True, True, True], [45.0, 45.0, 45.0]), battles.GREEN).sum()
    one_dead = battle([True, True, False], [45.0, 45.0, 0.0])
    assert like(one_dead, battles.RED).sum() < 0.6 * red.sum()


def test_the_view_of_a_battle_holds_its_units_and_is_no_larger_than_the_map():
    assert battles.view(np.array([[10.0, 20.0], [14.0, 18.0]])) == (8.0, 16.0, 12.0)
    assert battles.view(np.array([[1.0, 1.0]])) == (0.0, 0.0, 12.0)  # at the map's edge
    assert battles.view(np.array([[31.0, 31.0]])) == (20.0, 20.0, 12.0)
    assert battles.view(np.array([[1.0, 1.0], [31.0, 31.0]])) == (0.0, 0.0, 32.0)
    random = np.random.default_rng(0)
    for _ in range(200):
        places = random.uniform(0, 32, (random.integers(1, 11), 2))
        left, low, side = battles.view(places)
        assert (places >= (left, low)).all()
        assert (places <= (left + side, low + side)).all()
        assert left >= 0
        assert low >= 0
        assert max(left, low) + side <= battles.MAP
