"""Host environments: spaces, actions, names, seeds, and what a step returns."""

import inspect
import subprocess
import sys
import types
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces as gym_spaces
from gymnasium.envs.registration import EnvSpec
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bad_envs import LENGTH, Aliased, Walk

from engram import spaces
from engram.agents.presets import preset
from engram.encoders.entities import EntitiesSpec
from engram.envs.adapters import adapter
from engram.envs.adapters.minigrid import Tiles
from engram.envs.host import build
from engram.envs.host.actions import found, joint_actions, table_of
from engram.envs.host.episodes import Episodes, episode_seed
from engram.envs.host.make import HostStep, convert_observation, convert_space, host_ids, make_host
from engram.envs.host.spaces import Observer
from engram.errors import EnvironmentFault, SpaceError, SpecError, UnknownName

# Observation spaces.

SEQUENCE = gym_spaces.Sequence(gym_spaces.Discrete(2))
NESTED = gym_spaces.Dict(
    z=gym_spaces.Tuple([gym_spaces.Discrete(3, start=-1), gym_spaces.Box(-1, 1, (2, 2), np.float64)]),
    a=gym_spaces.MultiDiscrete([[2, 3], [4, 5]]),
    m=gym_spaces.MultiBinary(3),
    i=gym_spaces.Box(0, 255, (4, 4, 1), np.uint8),
    b=gym_spaces.Box(0, 1, (1,), bool),
    n=gym_spaces.Box(-9, 9, (1,), np.int64),
)
CONVERTED = spaces.Dict(
    (
        ("z", spaces.Tuple((spaces.Discrete(3), spaces.Box((2, 2), "float32")))),
        ("a", spaces.MultiDiscrete((2, 3, 4, 5))),
        ("m", spaces.Box((3,), "int8")),
        ("i", spaces.Box((4, 4, 1), "uint8")),
        ("b", spaces.Box((1,), "bool")),
        ("n", spaces.Box((1,), "int32")),
    )
)


def test_a_nested_space_becomes_its_counterpart():
    assert convert_space(NESTED) == CONVERTED


def test_converted_observations_have_the_converted_spaces_tree_shapes_and_dtypes():
    NESTED.seed(0)
    for _ in range(5):
        observation = convert_observation(NESTED, NESTED.sample())
        expected = spaces.zeros(CONVERTED)
        assert jax.tree.structure(observation) == jax.tree.structure(expected)
        for value, zero in zip(jax.tree.leaves(observation), jax.tree.leaves(expected), strict=True):
            assert (value.shape, value.dtype) == (zero.shape, zero.dtype)


def test_starts_are_taken_off():
    assert convert_observation(gym_spaces.Discrete(3, start=5), 7) == 2
    space = gym_spaces.MultiDiscrete([2, 3], start=[10, 20])
    assert convert_observation(space, np.array([11, 20])).tolist() == [1, 0]


def leaf_spaces() -> st.SearchStrategy[gym_spaces.Space]:
    shape = st.lists(st.integers(1, 3), max_size=2).map(tuple)
    dtype = st.sampled_from([np.float32, np.float64, np.uint8, np.int64])
    return st.one_of(
        st.builds(lambda s, d: gym_spaces.Box(0, 5, s, d), shape, dtype),
        st.builds(lambda n, start: gym_spaces.Discrete(n, start=start), st.integers(1, 5), st.integers(-3, 3)),
        st.builds(gym_spaces.MultiDiscrete, st.lists(st.integers(1, 4), min_size=1, max_size=3)),
        st.builds(gym_spaces.Text, st.integers(1, 5)),
    )


ANY_SPACE = st.recursive(
    leaf_spaces(),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(gym_spaces.Tuple),
        st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3).map(gym_spaces.Dict),
    ),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(space=ANY_SPACE, seed=st.integers(0, 99))
def test_every_sample_of_every_space_fits_and_flattening_is_undone(space: gym_spaces.Space, seed: int):
    space.seed(seed)
    observer = Observer(space)
    tree = observer.tree(observer(space.sample()))
    assert [leaf.shape for _, leaf in spaces.leaves(convert_space(space))] == [
        np.shape(x) for x in jax.tree.leaves(tree)
    ]
    assert all(a is b for a, b in zip(observer.flat(tree), jax.tree.leaves(tree), strict=True))


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (
            gym_spaces.Text(5, charset="", min_length=0),
            r"is a Text of at most 5 out of 0 characters; expected a length of",
        ),
        (gym_spaces.Dict(a=gym_spaces.Tuple([SEQUENCE])), r"the observation's part 'a.0' is a Sequence space"),
        (SEQUENCE, r"the observation space is a Sequence space; Engram reads Box, .*, Text, .*FilterObservation"),
        (gym_spaces.Graph(gym_spaces.Discrete(2), None), r"is a Graph space"),
        (gym_spaces.Tuple([]), r"is an empty Tuple"),
        (gym_spaces.Dict(), r"a Dict needs at least one part"),
        (gym_spaces.Box(0, 1, (0,)), r"a Box of shape \(0,\), which holds no number"),
    ],
)
def test_an_unusable_observation_space_is_one_sentence(space: gymnasium.Space, said: str):
    with pytest.raises(SpaceError, match=said):
        convert_space(space)


def test_a_text_becomes_the_numbers_of_its_characters():
    space = gym_spaces.Text(5, charset="cab")
    assert convert_space(space) == spaces.Text(5, 3)
    symbols = convert_observation(space, "cab")
    assert (symbols.dtype, symbols.tolist()) == (np.int16, [3, 1, 2, 0, 0])
    assert convert_observation(space, np.array("aa")).tolist() == [1, 1, 0, 0, 0]
    assert convert_observation(space, "").tolist() == [0] * 5


@given(characters=st.permutations("zyxab"), text=st.text("zyxab", max_size=4))
@settings(max_examples=30, deadline=None)
def test_symbols_do_not_depend_on_the_order_of_the_characters_and_are_undone(characters: list[str], text: str):
    symbols = convert_observation(gym_spaces.Text(4, charset="".join(characters)), text).tolist()
    assert symbols == convert_observation(gym_spaces.Text(4, charset=frozenset("abxyz")), text).tolist()
    assert "".join(sorted(characters)[number - 1] for number in symbols if number) == text


class Spoken(Walk):
    """Says where it is, besides showing it."""

    def __init__(self):
        super().__init__()
        self.observation_space = gym_spaces.Dict(
            said=gym_spaces.Text(8, charset="step 0123456789"), at=gym_spaces.Discrete(9)
        )

    def show(self) -> Any:
        return {"said": f"step {self.steps}", "at": self.steps}


def test_texts_are_observed_here_and_in_workers():
    here, there = (make_host(Spoken, envs=2, seed=0, asynchronous=flag) for flag in (False, True))
    try:
        assert here.observation_space == there.observation_space
        first = here.reset()
        equal(there.reset(), first)
        assert first["said"].dtype == np.int16
        expected = convert_observation(gym_spaces.Text(8, charset="step 0123456789"), "step 0")
        np.testing.assert_array_equal(first["said"], [expected] * 2)
        for _ in range(LENGTH):
            equal(there.step(np.zeros(2, np.int64)), here.step(np.zeros(2, np.int64)))
    finally:
        there.close()


def test_a_batch_of_texts_becomes_rows():
    envs = make_host(Spoken, seed=0)
    batch = {"said": ["step 1", "2"], "at": np.array([1, 2])}
    assert envs.translator.is_batched(batch)
    assert envs.translator.rows(batch, True)["said"][1].tolist() == [4, *[0] * 7]  # sorted: space, 0, 1, 2
    assert not envs.translator.is_batched({"said": "step 1", "at": 1})
    with pytest.raises(
        EnvironmentFault, match=r"row 1 of the batch: observation 'said' holds the character 'x', which"
    ):
        envs.translator.rows({"said": ["step 1", "x"], "at": np.array([1, 2])}, True)


# Actions.


@pytest.mark.parametrize("count", [0, -3, 10_000_000])
def test_a_number_of_actions_that_no_agent_can_have_is_refused(count: int):
    space = gym_spaces.Discrete(1)
    space.n = np.int64(count)  # Gymnasium refuses what is not positive only where a space is made
    with pytest.raises(SpaceError, match=f"has {count:,} actions; from 1 to 100,000 are possible"):
        joint_actions(space)


def test_joint_actions_by_hand():
    assert joint_actions(gym_spaces.Discrete(3, start=-1)).tolist() == [-1, 0, 1]
    pairs = joint_actions(gym_spaces.MultiDiscrete([2, 3], start=[0, 5]))
    assert pairs.tolist() == [[0, 5], [0, 6], [0, 7], [1, 5], [1, 6], [1, 7]]
    assert joint_actions(gym_spaces.MultiBinary(2)).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    box = gym_spaces.Box(np.array([-1, 0], np.float32), np.array([1, 4], np.float32))
    assert joint_actions(box, 3)[:4].tolist() == [[-1, 0], [-1, 2], [-1, 4], [0, 0]]


@pytest.mark.parametrize(
    ("space", "bins"),
    [
        (gym_spaces.Discrete(3, start=4), None),
        (gym_spaces.MultiDiscrete([[2, 2], [3, 1]]), None),
        (gym_spaces.MultiBinary((2, 2)), None),
        (gym_spaces.Box(-2, 3, (2, 2), np.float32), 4),
    ],
)
def test_every_joint_action_belongs_to_the_space_and_none_comes_twice(space: gymnasium.Space, bins: int | None):
    actions = joint_actions(space, bins)
    assert all(space.contains(action) for action in actions)
    assert len(np.unique(actions, axis=0)) == len(actions)


@pytest.mark.parametrize(
    ("space", "bins", "said"),
    [
        (gym_spaces.Box(-1, 1, (2,)), None, r"continuous .* give --action-bins N"),
        (gym_spaces.Box(-1, 1, (2,)), 33, r"33 x 33 = 1,089 joint actions; at most 1,024"),
        (gym_spaces.Box(-1, 1, (2,)), 1, r"action_bins = 1 was given; at least 2"),
        (gym_spaces.Box(-np.inf, 1, (2,)), 3, r"no finite bounds"),
        (gym_spaces.MultiDiscrete([32, 33]), None, r"32 x 33 = 1,056 joint actions"),
        (gym_spaces.Discrete(2), 3, r"action_bins = 3 was given, but .* not continuous"),
        (gym_spaces.Tuple([gym_spaces.Discrete(2)]), None, r"the actions are Tuple"),
    ],
)
def test_unusable_actions_are_one_sentence(space: gymnasium.Space, bins: int | None, said: str):
    with pytest.raises(SpaceError, match=said):
        joint_actions(space, bins)


def test_actions_are_found_in_a_grid_that_is_too_large_to_list():
    """3 values of each of 18 numbers are 387 million actions; what is none of them is told."""
    table = table_of(gym_spaces.Box(-1, 1, (18,)), 3)
    index = np.array([0, 1, 5_000_000, len(table) - 1])
    assert found(table, table[index]).tolist() == index.tolist()
    assert found(table, table[index] + np.float32(0.5)).tolist() == [-1] * 4
    small = table_of(gym_spaces.MultiDiscrete([2, 3], start=[0, 5]))
    assert found(small, np.array([[1, 5], [0, 7], [0, 8]])).tolist() == [3, 2, -1]
    assert found(np.array([-1, 0, 1]), np.array([1, 2])).tolist() == [2, -1]


def test_the_largest_grid_is_possible():
    assert len(joint_actions(gym_spaces.Box(-1, 1, (2,)), 32)) == 1024


class Told(Walk):
    """Keeps the actions it is given; spoils the array, as a careless environment may."""

    def __init__(self, space: gymnasium.Space):
        super().__init__()
        self.action_space, self.told = space, []

    def step(self, action: Any) -> Any:
        self.told.append(np.array(action).tolist())
        if isinstance(action, np.ndarray):
            action[...] = 0
        return super().step(0)


def test_the_environment_is_told_its_own_actions():
    env = Told(gym_spaces.MultiDiscrete([2, 2], start=[1, 1]))
    envs = make_host(env, seed=0)
    env.told.clear()  # of the probe
    envs.reset()
    for action in (3, 3, 0):
        envs.step(np.array([action]))
    assert env.told == [[2, 2], [2, 2], [1, 1]]
    assert envs.actions == 4


# Names and arguments.


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("CartPol-v1", "no environment is called 'CartPol-v1'; did you mean 'CartPole-v1'"),
        ("cartpole-v1", "did you mean 'CartPole-v1'"),
        ("ALE/Pongg-v5", "did you mean 'ALE/Pong-v5'"),
        ("minatar-brekout", "no environment is called 'minatar-brekout'; did you mean '.*[Mm]in[Aa]tar.*[Bb]reakout"),
        ("engram/CartPol-v1", "did you mean 'engram/CartPole-v1'"),
        ("engram/CartPole-v1", "'engram/CartPole-v1' runs on the device and is no Gymnasium environment"),
        ("zzzzzzzzzz", r"no environment is called 'zzzzzzzzzz'; there are \d+"),
        ("no_such_module:Env-v0", "the module 'no_such_module' of 'no_such_module:Env-v0' cannot be imported"),
    ],
)
def test_an_unknown_name_says_what_was_meant(name: str, said: str):
    with pytest.raises(UnknownName, match=said):
        make_host(name, seed=0)


@pytest.mark.parametrize(
    ("name", "missing", "said"),
    [
        ("ALE/Nogame-v5", "ale_py", r"needs the package ale_py; in Engram's folder type: uv sync --extra atari"),
        ("NogameNoFrameskip-v4", "ale_py", r"uv sync --extra atari"),
        (
            "MiniGrid-Nogame-v0",
            "minigrid",
            r"needs the package minigrid; in Engram's folder type: uv sync --extra memory",
        ),
        ("popgym-Nogame-v0", "popgym", r"needs the package popgym; in Engram's folder type: uv sync --extra memory"),
        (
            "envpool/HighwayFast-v0",
            "envpool",
            r"needs the package envpool; in Engram's folder type: uv sync --extra driv",
        ),
        (
            "intersection-v2",
            "highway_env",
            r"needs the package highway_env; in Engram's folder type: uv sync --extra dri",
        ),
        (
            "FetchReach-v4",
            "gymnasium_robotics",
            r"needs the package gymnasium_robotics; in Engram's folder type: uv sync --extra rob",
        ),
        (
            "textworld/Cooking-v0",
            "textworld",
            r"needs the package textworld; in Engram's folder type: uv sync --extra t",
        ),
    ],
)
def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch, name: str, missing: str, said: str):
    monkeypatch.setattr(adapter, "find_spec", lambda module: None if module == missing else find_spec(module))
    with pytest.raises(UnknownName, match=said):
        make_host(name, seed=0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"env": "CartPole-v1", "env_args": {"sutton_barto": 1}},
            "has no argument 'sutton_barto'; did you mean 'sutton_",
        ),
        (
            {"env": "FrozenLake-v1", "env_args": {"map_name": "9x9"}},
            "FrozenLake-v1 with .* could not be built: KeyError",
        ),
        ({"env": "CartPole-v1", "env_args": {"disable_env_checker": True}}, "leave it out"),
        ({"env": "ALE/Pong-v5", "env_args": {"stickyy": 0.0}}, "has no argument 'stickyy'; did you mean 'sticky'"),
        ({"env": "ALE/Pong-v5", "env_args": {"sticky": 2}}, "sticky = 2; expected a probability"),
        ({"env": "ALE/Pong-v5", "env_args": {"life_loss": "yes"}}, "life_loss = 'yes'; expected true or false"),
        ({"env": "ALE/Pong-v5", "env_args": {"frame_skip": 0}}, "frame_skip = 0; expected an integer of at least 1"),
        ({"env": Walk, "env_args": {"length": 3}}, "they go with an id"),
        ({"env": Walk(), "envs": 2}, "one environment was given with envs = 2; give an id, or a function"),
        ({"env": Walk(), "asynchronous": True}, "one environment was given with asynchronous"),
        ({"env": lambda: 3}, "gave a builtins.int; expected a gymnasium.Env"),
        ({"env": Walk, "envs": 0}, "envs = 0 was given"),
        ({"env": Walk, "seed": -1}, "seed = -1 was given"),
        ({"env": Walk, "worker_timeout": 0}, "worker_timeout = 0 was given"),
        ({"env": gymnasium.Env}, "lacks a space .*observation_space"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments: dict[str, Any], said: str):
    with pytest.raises((SpecError, SpaceError), match=said) as caught:
        make_host(**{"seed": 0, **arguments})
    assert "\n" not in str(caught.value)


def test_what_is_no_environment_is_refused():
    with pytest.raises(SpecError, match=r"3 is no environment; give an id, a gymnasium.Env or a function"):
        inspect.unwrap(build.builder_of)(3, {})  # past the suite's own type check


def test_a_function_must_make_a_new_environment_each_time():
    env = Walk()
    with pytest.raises(EnvironmentFault, match="returned the same environment twice"):
        make_host(lambda: env, envs=2, seed=0)


def test_environments_that_differ_are_refused():
    kinds = iter([Walk(), gymnasium.make("CartPole-v1")])
    with pytest.raises(
        EnvironmentFault, match=r"environment 1 has .* environments that are stepped together must agree"
    ):
        make_host(lambda: next(kinds), envs=2, seed=0)


def test_ids_of_installed_extras_are_listed():
    known = host_ids()
    assert known == sorted(known)
    assert {"CartPole-v1", "ALE/Pong-v5", "MiniGrid-MemoryS7-v0", "popgym-RepeatPreviousEasy-v0"} <= set(known)


@pytest.mark.parametrize("name", ["popgym-RepeatPreviousEasy-v0", "MiniGrid-MemoryS7-v0", "Blackjack-v1"])
def test_memory_environments_and_tuples_run(name: str):
    envs = make_host(name, envs=2, seed=0)
    observation = envs.reset()
    for _ in range(5):
        observation = envs.step(np.zeros(2, np.int64)).observation
    expected = spaces.zeros(envs.observation_space, (2,))
    assert jax.tree.map(lambda x: (x.shape, str(x.dtype)), observation) == jax.tree.map(
        lambda x: (x.shape, str(x.dtype)), expected
    )


def test_a_minigrid_is_seen_as_a_board_without_its_mission():
    envs = make_host("MiniGrid-MemoryS7-v0", seed=0)
    assert envs.observation_space == spaces.Box((7, 7, 21), "bool")
    assert "mission's text left out" in envs.description
    wide = make_host("MiniGrid-MemoryS7-v0", seed=0, env_args={"agent_view_size": 9})
    assert wide.observation_space == spaces.Box((9, 9, 21), "bool")


def test_a_tile_has_a_one_in_the_planes_of_its_codes():
    """A green (1) ball (6), a yellow (4), locked (2) door (4), a red (0) key (5) and nothing else; looking up (3)."""
    image = np.zeros((3, 3, 3), np.uint8)
    image[0, 1], image[1, 2], image[2, 2] = (6, 1, 0), (4, 4, 2), (5, 0, 0)
    board = Tiles(3, 3, (11, 6, 3)).board({"image": image, "direction": 3, "mission": "find it"})
    assert board.shape == (3, 3, 10 + 5 + 2 + 4)
    ones = {place: np.flatnonzero(board[place]).tolist() for place in np.ndindex(3, 3) if board[place].any()}
    assert ones == {
        (0, 1): [6 - 1, 10 + 1 - 1],
        (1, 2): [4 - 1, 10 + 4 - 1, 10 + 5 + 2 - 1, 10 + 5 + 2 + 3],  # where the agent stands: its direction as well
        (2, 2): [5 - 1],
    }


@pytest.mark.parametrize(
    ("image", "direction", "said"),
    [
        (np.full((2, 3, 3), 5, np.uint8), 0, r"a tile of \[5, 5, 5\] was given; expected .* below \[11, 6, 3\]"),
        (np.zeros((2, 3, 3), np.uint8), 4, r"direction 4 was given; .* and a direction below 4"),
        (np.zeros((2, 3, 3), np.int16) - 1, 0, r"a tile of \[-1, -1, -1\]"),
        (np.zeros((2, 2, 3), np.uint8), 0, r"expected integer codes of shape \(2, 3, 3\) and one direction"),
        (np.zeros((2, 3, 3)), 0, r"a view of float64 \(2, 3, 3\)"),
    ],
)
def test_what_is_no_view_of_a_minigrid_is_refused(image: np.ndarray, direction: int, said: str):
    with pytest.raises(EnvironmentFault, match=said):
        Tiles(2, 3, (11, 6, 3)).board({"image": image, "direction": direction})


def test_nothing_that_minigrid_shows_is_lost():
    """Its codes can be had back from the board: code 0 where none of the others is."""
    pytest.importorskip("minigrid")
    env = build.builder_of("MiniGrid-MemoryS7-v0", {})()
    board, _ = env.reset(seed=0)
    for action in (0, 2, 1, 1, 2):
        view = env.unwrapped.gen_obs()  # type: ignore[attr-defined]
        for kind, planes in enumerate((board[..., :10], board[..., 10:15], board[..., 15:17])):
            codes = np.where(planes.any(-1), planes.argmax(-1) + 1, 0)
            np.testing.assert_array_equal(codes, view["image"][..., kind])
        assert board[3, 6, 17:].argmax() == view["direction"]
        assert board[..., 17:].sum() == 1
        board, *_ = env.step(action)


# Seeds.


def test_episode_seeds_are_31_bit_numbers_that_depend_on_everything():
    seeds = [episode_seed(run, index, episode) for run in range(5) for index in range(5) for episode in range(40)]
    assert len(set(seeds)) == len(seeds)
    assert 0 <= min(seeds) <= max(seeds) < 2**31
    assert episode_seed(0, 0, 0) == int(np.random.SeedSequence(0, spawn_key=(0, 0)).generate_state(1)[0]) // 2


class Recorder(Walk):
    """Keeps the seeds it is reset with."""

    def __init__(self, seeds: list[int]):
        super().__init__()
        self.seeds = seeds

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        self.seeds.append(-1 if seed is None else seed)
        return super().reset(seed=seed)


def test_every_episode_gets_its_seed_whatever_the_probe_did():
    seeds: list[int] = []
    envs = make_host(Recorder(seeds), seed=11)
    assert seeds  # the probe's
    seeds.clear()
    envs.reset()
    for _ in range(2 * LENGTH):
        envs.step(np.zeros(1, np.int64))
    assert seeds == [episode_seed(11, 0, episode) for episode in range(3)]


def test_an_episode_does_not_depend_on_the_one_before():
    """Two runs that end their first episode after other actions start the second alike."""
    starts = []
    for action in (0, 1):
        envs = make_host("CartPole-v1", seed=3)
        envs.reset()
        step = envs.step(np.array([action]))
        while not step.done[0]:
            step = envs.step(np.array([action]))
        starts.append(step.observation)
    np.testing.assert_array_equal(*starts)


@pytest.mark.parametrize(
    "kind", ["RepeatFirst", "RepeatPrevious", "Autoencode", "CountRecall", "Concentration", "Battleship"]
)
@pytest.mark.parametrize("size", ["Easy", "Medium", "Hard"])
def test_a_popgym_episode_is_its_seeds_whatever_came_before(kind: str, size: str):
    check_episode_is_its_seeds(f"popgym-{kind}{size}-v0")


@pytest.mark.parametrize("size", ["S7", "S9", "S11", "S13", "S13Random", "S17Random"])
def test_a_minigrid_episode_is_its_seeds_whatever_came_before(size: str):
    check_episode_is_its_seeds(f"MiniGrid-Memory{size}-v0")


def check_episode_is_its_seeds(name: str) -> None:
    """Episode 2 of an instance that played others is that of a fresh one; ten episodes are not one."""
    used, fresh = (Episodes(build.builder_of(name, {})(), index=0, seed=5) for _ in range(2))
    starts = [seen(used, episode) for episode in (*range(10), 2)]
    assert starts[-1] == starts[2] == seen(fresh, 2)
    assert len(set(starts)) > 1


def seen(episodes: Episodes, episode: int) -> bytes:
    """All that an episode shows within 20 actions."""
    arrays = [np.array(array) for array in episodes.begin(episode)]
    for action in np.random.default_rng(episode).integers(episodes.actions, size=20):
        shown, reward, terminated, done = episodes.step(int(action))
        arrays += [*(np.array(array) for array in shown), np.array([reward, terminated, done])]
        if done:
            break
    return b"".join(array.tobytes() for array in arrays)


class Pool:
    """What envpool makes, as far as it is used: a batch of one that counts from its seed, in memory of its own."""

    spec = type("Spec", (), {"config": type("Config", (), {"max_num_players": 1})})
    observation_space = gym_spaces.Dict(x=gym_spaces.Box(-np.inf, np.inf, (2,), np.float32))
    action_space = gym_spaces.Discrete(3)

    def __init__(self, task: str, *, num_envs: int, num_threads: int, seed: int):
        assert (num_envs, num_threads) == (1, 1)
        self.x = np.full((1, 2), seed % 1000, np.float32)
        self.steps = 0

    def reset(self) -> Any:
        return {"x": self.x}, {"crashed": np.zeros(1, bool)}

    def step(self, actions: np.ndarray) -> Any:
        self.x += actions[:, None]
        self.steps += 1
        end = np.array([self.steps == 3])
        return {"x": self.x}, np.float32(actions), end, ~end & False, {"crashed": end, "env_id": np.zeros(1, int)}

    def close(self) -> None:
        self.x[:] = np.nan


@pytest.fixture
def envpool(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A stand-in for the package, which is too large for the tests' environment; `gymnasium.registry` is put back."""
    module = types.ModuleType("envpool")
    module.list_all_envs = lambda: ["Count-v0", "Intersection-v0", "HighwayFast-v0", "Roundabout-v0"]  # pyright: ignore
    module.make_gymnasium = Pool  # pyright: ignore
    monkeypatch.setitem(sys.modules, "envpool", module)
    monkeypatch.setattr(adapter, "find_spec", lambda name: object() if name == "envpool" else None)
    before = set(gymnasium.registry)
    yield
    for name in set(gymnasium.registry) - before:
        del gymnasium.registry[name]


@pytest.mark.usefixtures("envpool")
def test_an_environment_of_envpool_is_one_environment_seeded_at_each_reset():
    envs = make_host("envpool/Count-v0", seed=2)
    assert (envs.level, envs.actions) == ("replayed", 3)
    assert envs.observation_space == spaces.Dict((("x", spaces.Box((2,), "float32")),))
    first = envs.reset()["x"]
    assert first.tolist() == [[episode_seed(2, 0, 0) % 1000] * 2]
    steps = [envs.step(np.array([action])) for action in (1, 2, 0)]
    assert [step.observation["x"][0, 0] - first[0, 0] for step in steps[:2]] == [1, 3]
    assert [step.reward[0] for step in steps] == [1, 2, 0]
    assert steps[2].terminated[0]
    assert steps[2].observation["x"][0, 0] == episode_seed(2, 0, 1) % 1000
    envs.close()


@pytest.mark.usefixtures("envpool")
def test_vehicles_of_envpools_driving_tasks_are_a_set_to_attend_to(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Pool, "observation_space", gym_spaces.Box(-1, 1, (5, 5), np.float32))
    envs = make_host("envpool/HighwayFast-v0", seed=0)
    assert envs.observation_space.unordered
    for name in ("auto", "driving"):
        assert isinstance(preset(name, envs.observation_space, 1_000).encoder, EntitiesSpec)
    envs.close()


@pytest.mark.usefixtures("envpool")
@pytest.mark.parametrize(("task", "crashes", "truncated", "success"), [
    ("HighwayFast-v0", False, True, 1.0), ("HighwayFast-v0", True, False, 0.0),
    ("Intersection-v0", False, False, 1.0), ("Intersection-v0", False, True, 0.0), ("Roundabout-v0", False, True, 1.0),
])  # fmt: skip
def test_a_drive_that_ended_well_is_told(
    monkeypatch: pytest.MonkeyPatch, task: str, crashes: bool, truncated: bool, success: float
):
    """To last on a highway, to arrive elsewhere. Before the end nothing is met."""

    class Road(Pool):
        def step(self, actions: np.ndarray) -> Any:
            shown, reward, end, _, info = super().step(actions)
            return shown, reward, end & (not truncated), end & truncated, {**info, "crashed": end & crashes}

    monkeypatch.setattr(sys.modules["envpool"], "make_gymnasium", Road)
    host_ids()  # which makes the driving tasks known to Gymnasium
    env = gymnasium.make(f"envpool/{task}", disable_env_checker=True)
    env.reset(seed=0)
    assert [env.step(1)[4]["is_success"] for _ in range(3)] == [0.0, 0.0, success]


@pytest.mark.usefixtures("envpool")
def test_envpools_tasks_are_listed_and_looked_up():
    assert "envpool/Intersection-v0" in host_ids()
    with pytest.raises(UnknownName, match=r"envpool has no task 'Coun-v0'; did you mean 'Count-v0'\?"):
        make_host("envpool/Coun-v0", seed=0)
    with pytest.raises(UnknownName, match=r"envpool has no task 'zzz'; envpool.list_all_envs\(\) names them"):
        make_host("envpool/zzz", seed=0)


@pytest.mark.usefixtures("envpool")
def test_a_game_of_envpool_by_its_old_name_is_envpools():
    with pytest.raises(UnknownName, match=r"envpool has no task 'PongNoFrameskip-v4'"):
        make_host("envpool/PongNoFrameskip-v4", seed=0)


class Halves(gym_spaces.Box):
    """Half of what Walk shows."""

    def translated(self, observation: Any) -> Any:
        return observation[None] / 2 if observation.shape == (2,) else observation


def make_halved(spec: EnvSpec, env_args: dict[str, Any]) -> gymnasium.Env:
    walk = gymnasium.make(spec, disable_env_checker=True, **env_args)
    return gymnasium.wrappers.TransformObservation(walk, lambda shown: shown[None] / 2, Halves(-np.inf, np.inf, (1, 2)))


def test_a_family_plugs_in_by_its_prefix(monkeypatch: pytest.MonkeyPatch):
    """Its ids are registered when one is asked for; then it makes, describes and translates."""
    spec = EnvSpec("Halved-v0", entry_point=Walk)
    family = adapter.Adapter(
        ("Halved-",),
        module="walks",
        extra="memory",
        by_hand=lambda: monkeypatch.setitem(gymnasium.registry, spec.id, spec),
        make=make_halved,
        describe=lambda spec, env_args: f"{spec.id}, halved",
    )
    monkeypatch.setattr(build, "FAMILIES", (*build.FAMILIES, family))
    with pytest.raises(UnknownName, match=r"Halved-v0 needs the package walks; .* uv sync --extra memory"):
        make_host("Halved-v0", seed=0)
    monkeypatch.setattr(adapter, "find_spec", lambda name: object() if name == "walks" else None)
    envs = make_host("Halved-v0", seed=0)
    assert envs.description == "Halved-v0, halved"
    assert envs.reset().tolist() == (make_host(Walk, seed=0).reset()[:, None] / 2).tolist()
    raw = np.array([2, 4], np.float32)
    assert envs.translator.rows(raw, False).tolist() == [[[1, 2]]]
    assert envs.translator.rows(raw[None], False).tolist() == [[[2, 4]]]


@pytest.mark.usefixtures("envpool")
def test_a_task_with_several_players_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Pool.spec.config, "max_num_players", 2)
    with pytest.raises(SpecError, match=r"envpool/Count-v0 has 2 players; choose a task with one"):
        make_host("envpool/Count-v0", seed=0)


# Steps.


def walk(seed: int, index: int, episode: int, actions: list[int]) -> list[tuple[float, float]]:
    """Positions of Walk, in plain Python."""
    generator = np.random.default_rng(episode_seed(seed, index, episode))
    positions = [(float(generator.normal()), 0.0)]
    for number, action in enumerate(actions):
        positions.append((positions[-1][0] + float(generator.normal()) + 10 * action, number + 1.0))
    return positions


@pytest.mark.parametrize("kind", [Walk, Aliased])
def test_a_step_returns_the_old_episodes_end_and_the_new_ones_start(kind: type):
    seed, actions = 5, [1, 0, 1, 1]
    envs = make_host(kind, envs=2, seed=seed)
    shown = [envs.reset()]
    steps = [envs.step(np.array([action, action])) for action in actions]
    shown += [step.observation for step in steps]
    for index in range(2):
        old, new = walk(seed, index, 0, actions), walk(seed, index, 1, [])
        expected = np.array([*old[:-1], new[0]], np.float32)
        np.testing.assert_array_equal([observation[index] for observation in shown], expected)
        np.testing.assert_array_equal(steps[-1].final_observation[index], np.array(old[-1], np.float32))
        np.testing.assert_array_equal(
            [step.reward[index] for step in steps], np.array([p for p, _ in old[1:]], np.float32)
        )
        assert [bool(step.done[index]) for step in steps] == [False, False, False, True]
        assert bool(steps[-1].terminated[index]) == (episode_seed(seed, index, 0) % 2 == 0)


def test_arrays_have_the_promised_types():
    envs = make_host("CartPole-v1", envs=3, seed=0)
    envs.reset()
    step = envs.step(np.array([0, 1, 0]))
    assert isinstance(step, HostStep)
    assert (step.observation.shape, step.observation.dtype) == ((3, 4), np.float32)
    assert [step.reward.dtype, step.terminated.dtype, step.done.dtype] == [np.float32, np.bool_, np.bool_]
    assert (envs.envs, envs.actions, envs.level, envs.description) == (3, 2, "exact", "CartPole-v1")


def test_reset_starts_the_first_episode_again():
    envs = make_host("CartPole-v1", envs=2, seed=0)
    first = envs.reset()
    for _ in range(40):
        envs.step(np.zeros(2, np.int64))
    np.testing.assert_array_equal(envs.reset(), first)


def equal(left: Any, right: Any) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["CartPole-v1", "MiniGrid-MemoryS7-v0", "Blackjack-v1"])
def test_worker_processes_give_what_this_process_gives(name: str):
    """Flat observations, a nested one, and many ends of episodes, bit for bit."""
    arguments = {"env_args": {"max_episode_steps": 7}, "envs": 2, "seed": 4}
    here, there = make_host(name, **arguments), make_host(name, **arguments, asynchronous=True)
    equal(there.reset(), here.reset())
    generator = np.random.default_rng(0)
    for _ in range(30):
        actions = generator.integers(here.actions, size=2)
        one, other = here.step(actions), there.step(actions)
        equal(other, one)
    assert (there.level, there.actions, there.observation_space) == (here.level, here.actions, here.observation_space)
    there.close()
    there.close()  # closing twice is nothing


def test_a_class_defined_in_a_function_reaches_the_workers():
    class Local(Walk):
        def show(self) -> np.ndarray:
            return np.array([1.0, 2.0], np.float32)

    envs = make_host(Local, seed=0, asynchronous=True)
    assert envs.reset().tolist() == [[1.0, 2.0]]
    envs.close()


@pytest.mark.parametrize("module", ["engram.spaces", "engram.envs.host.build"])
def test_what_workers_import_does_not_import_jax(module: str):
    """A second and 150 MB per worker. The package's own front door is left aside: it is bare here."""
    code = (
        "import importlib.util, sys, types\n"
        "path = importlib.util.find_spec('engram').submodule_search_locations\n"
        "engram = sys.modules['engram'] = types.ModuleType('engram')\n"
        "engram.__path__ = path\n"
        f"import {module}\n"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# Atari.


def test_a_game_is_preprocessed_as_described():
    envs = make_host("ALE/Pong-v5", seed=0)
    assert envs.observation_space == spaces.Box((84, 84), "uint8")
    assert (envs.actions, envs.level) == (6, "replayed")
    for said in (
        "4 frames",
        "maximum",
        "84x84",
        "sticky actions 0.25",
        "30 no-op",
        "stacking and clipping are the agent's",
    ):
        assert said in envs.description
    envs.close()


def test_arguments_change_the_game():
    changed = {"sticky": 0.0, "life_loss": True, "noop_max": 0, "frame_skip": 2, "screen_size": 42}
    envs = make_host("ALE/Breakout-v5", seed=0, env_args={**changed, "full_action_space": True})
    assert (envs.observation_space, envs.actions) == (spaces.Box((42, 42), "uint8"), 18)
    for said in (
        "2 frames",
        "sticky actions 0.0",
        "42x42",
        "up to 0 no-op",
        "each lost life ends",
        "full_action_space",
    ):
        assert said in envs.description
    envs.close()


@pytest.mark.parametrize("given", [{"env_args": {"max_episode_steps": 12}}, {"max_episode_steps": 12}])
def test_a_time_limit_of_a_game_is_in_steps_not_in_frames(given: dict):
    envs = make_host("ALE/Breakout-v5", seed=0, **given)
    envs.reset()
    cut = [bool(envs.step(np.array([0])).done[0]) for _ in range(12)]
    envs.close()
    assert cut == [False] * 11 + [True]


def test_two_instances_of_a_game_agree_and_two_seeds_do_not():
    """The number of no-ops and the sticky actions come from the episode's seed."""

    def seen(seed: int) -> np.ndarray:
        envs = make_host("ALE/Breakout-v5", seed=seed)
        frames = [envs.reset()] + [envs.step(np.array([number % 4])).observation for number in range(12)]
        envs.close()
        return np.array(frames)

    np.testing.assert_array_equal(seen(1), seen(1))
    assert (seen(1) != seen(2)).any()


def test_sticky_actions_follow_the_id():
    assert "sticky actions 0.0" in make_host("PongNoFrameskip-v4", seed=0).description


def test_partial_functions_are_environments_too():
    assert make_host(partial(Walk, length=2), seed=0).actions == 2


# What an agent sees and does outside of these loops.


class Shown(Walk):
    """Walk with a nested observation and categories that do not start at 0."""

    def __init__(self):
        super().__init__()
        self.observation_space = gym_spaces.Dict(
            b=gym_spaces.Tuple([gym_spaces.Discrete(3, start=5), gym_spaces.Box(-9, 9, (2,), np.float32)]),
            a=gym_spaces.Box(0, 255, (2, 1), np.uint8),
        )
        self.action_space = gym_spaces.Discrete(3, start=-1)

    def show(self) -> Any:
        return {"a": np.ones((2, 1), np.uint8), "b": (6, np.zeros(2, np.float32))}


@pytest.mark.parametrize("fresh", [{}, {"asynchronous": True}])
def test_what_was_seen_outside_becomes_rows(fresh: dict[str, Any]):
    envs = make_host(Shown, seed=0, **fresh)
    single = Shown().show()
    batch = {"a": np.ones((4, 2, 1), np.uint8), "b": (np.array([5, 6, 7, 5]), np.zeros((4, 2)))}
    flags = [envs.translator.is_batched(each) for each in (single, batch)]
    rows = [envs.translator.rows(each, batched) for each, batched in zip((single, batch), flags, strict=True)]
    envs.close()
    assert flags == [False, True]
    assert rows[0]["b"][0].tolist() == [1]
    assert rows[1]["b"][0].tolist() == [0, 1, 2, 0]
    for tree, count in zip(rows, (1, 4), strict=True):
        assert [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(tree)] == [
            ((count, 2, 1), "uint8"),
            ((count,), "int32"),
            ((count, 2), "float32"),
        ]
    assert envs.translator.environment_action(np.array([0, 2], np.int32)).tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("observation", "batched", "said"),
    [
        (np.array([np.nan, 0], np.float32), False, r"^observation holds nan at \[0\]"),
        (np.array([[0, 0], [0, np.inf]], np.float32), True, r"^row 1 of the batch: observation holds inf at \[1\]"),
        (np.zeros((3, 5), np.float32), True, r"^row 0 of the batch: observation has shape \(5,\), expected"),
        (np.zeros((0, 2), np.float32), True, r"arrays of shapes \(0, 2\) was given; expected the same leading axis"),
        ([[0.0], [1.0, 2.0]], True, "cannot be read as an array"),
        ({"a": 1}, True, r"arrays of shapes \(\) was given; expected the same leading axis"),
    ],
)
def test_what_cannot_have_been_seen_is_refused(observation: Any, batched: bool, said: str):
    with pytest.raises(EnvironmentFault, match=said):
        make_host(Walk, seed=0).translator.rows(observation, batched)


def test_parts_of_a_batch_must_be_of_one_length():
    batch = {"a": np.ones((4, 2, 1), np.uint8), "b": (np.array([5, 6]), np.zeros((4, 2)))}
    with pytest.raises(EnvironmentFault, match=r"shapes \(4, 2, 1\), \(2,\), \(4, 2\) was given"):
        make_host(Shown, seed=0).translator.rows(batch, True)
    with pytest.raises(EnvironmentFault, match=r"expected a dict of \['a', 'b'\]"):
        make_host(Shown, seed=0).translator.rows({"a": batch["a"]}, True)


def test_a_raw_minigrid_observation_becomes_a_board():
    """Alone and in a batch, as Gymnasium's vectors give it; what already is a board stays one."""
    pytest.importorskip("minigrid")
    envs = make_host("MiniGrid-MemoryS7-v0", seed=0)
    raw, _ = gymnasium.make("MiniGrid-MemoryS7-v0").reset(seed=0)
    assert "mission" in raw
    assert not envs.translator.is_batched(raw)
    board = envs.translator.rows(raw, False)
    assert (board.shape, str(board.dtype)) == ((1, 7, 7, 21), "bool")
    batch = {"image": np.stack([raw["image"]] * 2), "direction": np.array([raw["direction"]] * 2), "mission": ("", "")}
    assert envs.translator.is_batched(batch)
    np.testing.assert_array_equal(envs.translator.rows(batch, True), np.concatenate([board, board]))
    np.testing.assert_array_equal(envs.translator.rows(board[0], False), board)
    with pytest.raises(EnvironmentFault, match=r"observation has shape \(\), expected bool of shape \(7, 7, 21\)"):
        envs.translator.rows({"image": raw["image"]}, False)


def test_plain_and_joint_actions_are_what_the_environment_expects():
    index = np.array([1, 0, 1])
    plain = make_host(Walk, seed=0).translator.environment_action(index)
    assert plain.dtype == np.int64
    assert plain.tolist() == index.tolist()
    grid = make_host("Pendulum-v1", seed=0, action_bins=3).translator.environment_action(np.array([0, 2]))
    assert (grid.dtype, grid.tolist()) == (np.float32, [[-2.0], [2.0]])
