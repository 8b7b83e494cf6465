"""Spaces: bounds and what they scale by, digits of many categories, what is stored alike."""

import json
from math import prod

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces as gym_spaces
from hypothesis import given
from hypothesis import strategies as st

from engram import spaces
from engram.envs.device import make_device
from engram.envs.host.make import convert_space
from engram.errors import SpaceError
from engram.spaces import Box


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 255, (0, 1 / 255)),
        (0, 1000, (0, 1 / 1000)),
        (-50, 100, (0, 1 / 100)),
        (0, 0.001, (0, 1000)),
        (1000, 1010, (1005, 1 / 5)),
        (0, 1_000_000, (0, 1e-6)),
        (0, 1, None),
        (0, 4, None),
        (-32, 32, None),
        (-9.5, 9.5, None),
        (0, np.inf, None),
        (-np.inf, np.inf, None),
        (-1e9, 1e9, None),
        (float(np.finfo(np.float32).min), float(np.finfo(np.float32).max), None),
        (7, 7, None),
        (0, 0, None),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_finite_bounds_that_are_not_of_order_one_scale_whatever_the_dtype(low, high, expected, dtype):
    assert Box((3,), dtype, low, high).scale == expected


def test_each_number_is_scaled_by_its_own_bounds():
    scale = Box((4,), low=np.array([0, -np.inf, 0, 100]), high=np.array([1, np.inf, 200, 300])).scale
    assert scale is not None
    np.testing.assert_array_equal(scale.middle, [0, 0, 0, 200])
    np.testing.assert_allclose(scale.factor, [1, 1, 1 / 200, 1 / 100], rtol=1e-7)


def test_an_image_of_bytes_has_the_bounds_of_one_and_other_bytes_have_none():
    assert Box((4, 4), "uint8").scale == Box((4, 4, 3), "uint8").scale == (0, 1 / 255)
    assert Box((4, 4), "uint8", 0, 4).scale is None
    assert Box((4,), "uint8").scale is None
    assert spaces.unbounded(Box((4, 4), "uint8")).scale is None


@pytest.mark.parametrize("env", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1"])
def test_the_classic_tasks_are_taken_as_they_are(env):
    assert convert_space(gymnasium.make(env).observation_space) == Box(gymnasium.make(env).observation_space.shape)


def test_of_a_gymnasium_space_only_the_bounds_that_scale_are_kept():
    assert convert_space(gym_spaces.Box(0, 1, (3,), np.uint8)) == Box((3,), "uint8")
    assert convert_space(gym_spaces.Box(0, 4, (3, 3), np.uint8)).scale is None
    assert convert_space(gym_spaces.Box(0, 255, (3,), np.uint8)) == Box((3,), "uint8", 0, 255)
    assert convert_space(gym_spaces.Box(0, 255, (3, 3), np.uint8)) == Box((3, 3), "uint8")


def test_bounds_and_order_survive_json():
    mixed = Box((2,), low=np.array([0, -np.inf]), high=np.array([200, np.inf]))
    for space in (mixed, Box((2, 2), unordered=True), Box((4, 4), "uint8"), spaces.unbounded(Box((4, 4), "uint8"))):
        again = spaces.from_json(json.loads(json.dumps(spaces.to_json(space), allow_nan=False)))
        assert (again, hash(again), again.scale is None) == (space, hash(space), space.scale is None)
    assert str(mixed) == "Box(shape=(2,), dtype='float32', low=(0, none), high=(200, none))"
    assert str(Box((4,))) == "Box(shape=(4,), dtype='float32')"


def test_bounds_that_cannot_be_are_one_sentence():
    with pytest.raises(SpaceError, match="low = 3 and high = 1 holds no number; exchange its bounds"):
        Box((2,), low=3, high=1)
    with pytest.raises(SpaceError, match=r"3 bounds were given for a Box of shape \(2,\); give one, or one for each"):
        Box((2,), low=(1.0, 2.0, 3.0))
    with pytest.raises(SpaceError, match="holds no number"):
        Box((2,), low=float("nan"))


def test_spaces_that_are_stored_alike_are_the_same_whatever_their_bounds():
    one, other = (spaces.Dict((("a", Box((2,), "int8", 0, high)), ("b", spaces.Discrete(3)))) for high in (100, 50))
    assert one != other
    assert spaces.same(one, other)
    assert not spaces.same(one, spaces.unbounded(spaces.Dict((("a", Box((2,))), ("b", spaces.Discrete(3))))))


@given(st.integers(1, 2**31 - 1), st.sampled_from([64, 1000, 16_384]))
def test_digits_tell_every_category_apart_with_few_places(n, most):
    base, count = spaces.digits(n, most)
    assert base**count >= n
    assert (base, count) == (n, 1) if n <= most else base * count <= 4 * spaces.MOST_BASE
    assert spaces.features(spaces.Discrete(n)) == prod(spaces.digits(n, spaces.MOST_ONE_HOT))


def test_usual_categories_have_a_place_each():
    for space, length in (
        (spaces.Discrete(500), 500),
        (spaces.MultiDiscrete((5, 7)), 12),
        (spaces.Discrete(9999), 9999),
    ):
        assert spaces.features(space) == length
    assert spaces.features(spaces.Discrete(300_000)) == 2 * 548
    assert spaces.features(spaces.MultiDiscrete((1000,) * 100)) == 100 * 2 * 32


def test_more_categories_than_can_be_numbered_are_refused_with_the_numbers():
    for space in (gym_spaces.Discrete(10**12), gym_spaces.MultiDiscrete([3, 10**12])):
        with pytest.raises(SpaceError, match=r"has 1,000,000,000,000 categories, more than the 2,147,483,647 that"):
            convert_space(space)


def test_rows_may_be_said_to_be_a_set():
    rows = gym_spaces.Box(-np.inf, np.inf, (5, 3), np.float32)
    assert convert_space(rows) == Box((5, 3))
    rows.unordered = True  # type: ignore[attr-defined]
    assert convert_space(rows) == Box((5, 3), unordered=True)
    named = make_device("engram/Intersection-v0").observation_space
    assert isinstance(named, Box)
    assert (named.shape, named.unordered, named.columns[1]) == ((15, 7), True, ("x", 100.0))
