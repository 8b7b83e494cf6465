"""`encoder.relative`: what differs from the agent's own row, worked by hand, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram import specs
from engram.agents.presets import preset
from engram.encoders.entities import EntitiesSpec
from engram.encoders.relative import differences, frame_of
from engram.envs.device import make_device
from engram.errors import SpaceError, SpecError
from engram.spaces import Box, columns_of

KEY = jax.random.PRNGKey(0)
NAMES = [("x", 100.0), ("y", 100.0), ("vx", 20.0), ("vy", 20.0), "cos_h", "sin_h"]
ROWS = Box((3, 6), unordered=True, columns=columns_of(NAMES))
# An ego that drives north (y points down) at 9 m/s; 20 m ahead of it somebody who drives east at 6 m/s; nobody.
EGO = [0.02, 0.30, 0.0, -0.45, 0.0, -1.0]
OTHER = [0.02, 0.10, 0.30, 0.0, 1.0, 0.0]
SCENE = jnp.array([EGO, OTHER, [0.0] * 6])


def test_differences_are_those_of_a_scene_worked_by_hand():
    told = np.asarray(differences(frame_of(ROWS), SCENE, SCENE[0]))
    # Ahead is north: 20 m; aside, to the right, is east. East at 6 and not north at 9: -9 ahead, 6 to the right.
    other = [np.tanh(1.0), 0.0, np.exp(-2.0), np.exp(-20 / 30), -0.9, 0.6, 0.0, 1.0]
    np.testing.assert_allclose(told[1], other, atol=1e-6)
    np.testing.assert_allclose(told[0], [0, 0, 1, 1, 0, 0, 1, 0], atol=1e-6)
    assert (told[2] == 0).all()


def test_a_scene_that_is_turned_and_moved_differs_in_nothing():
    cosine, sine = np.cos(0.7), np.sin(0.7)
    turn = np.array([[cosine, sine], [-sine, cosine]])
    rows = np.concatenate([np.asarray(SCENE[:2, pair : pair + 2]) @ turn for pair in (0, 2, 4)], axis=1)
    rows[:, :2] += [0.3, -0.2]
    frame = frame_of(ROWS)
    seen = differences(frame, jnp.asarray(rows), jnp.asarray(rows[0]))
    np.testing.assert_allclose(seen, differences(frame, SCENE[:2], SCENE[0]), atol=1e-5)


def test_columns_that_are_given_are_those_that_are_named():
    bare = Box((3, 6), unordered=True)
    given = {"position": (0, 1), "velocity": (2, 3), "heading": (4, 5), "units": (100.0, 20.0)}
    assert frame_of(bare, **given) == frame_of(ROWS)
    without = frame_of(bare, position=(0, 1), units=(100.0, 1.0))
    far = differences(without, SCENE, SCENE[0])  # x is ahead where nobody says a heading
    np.testing.assert_allclose(far[1], [0, np.tanh(-1.0), np.exp(-2.0), np.exp(-20 / 30)], atol=1e-6)


def test_units_go_with_a_position_that_is_given():
    with pytest.raises(SpecError, match=r"encoder.units = 50.0,10.0 goes with encoder.position; give that too"):
        frame_of(ROWS, units=(50.0, 10.0))


def test_older_frames_are_seen_from_where_the_ego_is_now():
    spec = EntitiesSpec(relative=True)
    encoder = spec.build(ROWS, 2, KEY)
    before = jnp.array([EGO, [0.02, 0.20, 0.3, 0, 1, 0], [0.0] * 6])
    rows, _ = encoder._rows(jnp.stack([before, SCENE]))
    assert rows.shape == (2, 3, 6 + 8 + 2)
    np.testing.assert_allclose(rows[0, 1, 6], np.tanh(0.5), atol=1e-6)
    assert (rows[0, 2, :14] == 0).all()


def test_the_crossroads_name_their_columns_in_metres():
    env = make_device("engram/Intersection-v0", clock=True, order="shuffled")
    chosen = specs.override(preset("double-dqn", env.observation_space), "encoder.relative", True)
    assert chosen.encoder.frame(env.observation_space) == frame_of(
        Box((15, 8)), position=(1, 2), velocity=(3, 4), heading=(5, 6), units=(100.0, 20.0)
    )


@pytest.mark.parametrize(
    ("space", "chosen", "sentence"),
    [
        (Box((3, 6)), {}, "needs to know which numbers of a row are its place, and the observation does not say"),
        (ROWS, {"position": (0, 6)}, "expected two columns of 0 to 5, such as encoder.position=1,2"),
        (ROWS, {"velocity": (2, 3)}, "go with encoder.position"),
        (Box((2, 2), columns=columns_of([("x", 1.0), ("y", 2.0)])), {}, "give both the same"),
    ],
)
def test_what_nobody_can_know_is_asked_for(space, chosen, sentence):
    with pytest.raises((SpaceError, SpecError), match=sentence):
        EntitiesSpec(relative=True, **chosen).build(space, 1, KEY)


def test_relative_refuses_numbers_without_units():
    agent = specs.override(preset("double-dqn", ROWS), "encoder.relative", True)
    with pytest.raises(SpecError, match="reads distances, which observation.normalize = true gives no units of"):
        specs.override(agent, "observation.normalize", True)
    with pytest.raises(SpecError, match=r"encoder.position is for encoder.relative = true"):
        EntitiesSpec(position=(0, 1))
    with pytest.raises(SpaceError, match="expected names, or pairs of a name and its unit"):
        columns_of([1, 2])
