"""Saving environments in mid-episode and going on, bit for bit, in fresh ones."""

import inspect
import json
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from support.bad_envs import LENGTH, Registered, Unseeded, Walk

from engram.envs.host import capture as capturing
from engram.envs.host.episodes import episode_seed
from engram.envs.host.make import HostEnvs, make_host, register_exact
from engram.errors import EXIT_NO_INPUT, CheckpointError, EngramError, SpecError

EXACT: list[tuple[str, dict[str, Any]]] = [
    ("CartPole-v1", {}),
    ("MountainCar-v0", {"env_args": {"max_episode_steps": 25}}),
    ("MountainCarContinuous-v0", {"env_args": {"max_episode_steps": 25}, "action_bins": 3}),
    ("Pendulum-v1", {"env_args": {"max_episode_steps": 25}, "action_bins": 5}),
    ("Acrobot-v1", {"env_args": {"max_episode_steps": 25}}),
    ("Taxi-v4", {"env_args": {"max_episode_steps": 60, "is_rainy": True, "fickle_passenger": True}}),
    ("FrozenLake-v1", {}),
    ("CliffWalking-v1", {"env_args": {"max_episode_steps": 60, "is_slippery": True}}),
]
REPLAYED: list[tuple[Any, dict[str, Any]]] = [
    (Walk, {}),
    ("Blackjack-v1", {}),
    ("MiniGrid-MemoryS7-v0", {"env_args": {"max_episode_steps": 30}}),
    ("popgym-RepeatPreviousEasy-v0", {}),
    ("ALE/Pong-v5", {"env_args": {"max_num_frames_per_episode": 120}}),
]


def advance(envs: HostEnvs, steps: int, seed: int) -> list[Any]:
    generator = np.random.default_rng(seed)
    return [envs.step(generator.integers(envs.actions, size=envs.envs)) for _ in range(steps)]


def through_files(envs: HostEnvs) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A capture as it comes back from JSON and from arrays on disk."""
    meta, arrays = envs.capture()
    return json.loads(json.dumps(meta, allow_nan=False)), {name: np.array(array) for name, array in arrays.items()}


def assert_equal(left: Any, right: Any) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


def assert_same_state(left: HostEnvs, right: HostEnvs) -> None:
    (meta, arrays), (other_meta, other_arrays) = left.capture(), right.capture()
    assert meta == other_meta
    assert_equal(arrays, other_arrays)


def check_continues(env: Any, arguments: dict[str, Any], level: str, before: int, after: int, **fresh: Any) -> None:
    """What follows a capture is what follows its restoration in fresh environments, through ends of episodes."""
    envs = make_host(env, envs=2, seed=3, **arguments)
    assert envs.level == level
    envs.reset()
    last = advance(envs, before, seed=0)[-1].observation
    meta, arrays = through_files(envs)
    assert meta["levels"] == [level, level]
    again = make_host(env, envs=2, seed=3, **arguments, **fresh)
    try:
        assert_equal(again.restore(meta, arrays), last)
        assert_same_state(envs, again)
        steps = advance(envs, after, seed=1)
        assert_equal(advance(again, after, seed=1), steps)
        assert any(step.done.any() for step in steps)
        assert_same_state(envs, again)
    finally:
        envs.close()
        again.close()


@pytest.mark.parametrize(("env", "arguments"), EXACT, ids=[name for name, _ in EXACT])
def test_exact_capture_continues_bit_for_bit(env: str, arguments: dict[str, Any]):
    check_continues(env, arguments, "exact", before=37, after=70)


@pytest.mark.parametrize(("env", "arguments"), REPLAYED, ids=[str(name) for name, _ in REPLAYED])
def test_replayed_capture_continues_bit_for_bit(env: Any, arguments: dict[str, Any]):
    check_continues(env, arguments, "replayed", before=13, after=25 if env == "ALE/Pong-v5" else 70)


@pytest.mark.parametrize(("env", "level"), [("CartPole-v1", "exact"), (Walk, "replayed")])
def test_workers_take_up_what_this_process_saved(env: Any, level: str):
    check_continues(env, {}, level, before=18, after=40, asynchronous=True)


def test_this_process_takes_up_what_workers_saved():
    there, here = (make_host(Walk, envs=2, seed=1, asynchronous=flag) for flag in (True, False))
    there.reset()
    last = advance(there, 6, seed=0)[-1].observation
    assert_equal(here.restore(*through_files(there)), last)
    assert_equal(advance(here, 10, seed=1), advance(there, 10, seed=1))
    there.close()


def test_capture_right_after_reset_and_right_after_an_end():
    for steps in (0, LENGTH):
        envs = make_host(Walk, seed=1)
        observation = envs.reset()
        for step in advance(envs, steps, seed=0):
            observation = step.observation
        again = make_host(Walk, seed=1)
        assert_equal(again.restore(*through_files(envs)), observation)
        assert_same_state(envs, again)


def test_capture_changes_nothing():
    envs, undisturbed = make_host("Taxi-v4", seed=1), make_host("Taxi-v4", seed=1)
    envs.reset(), undisturbed.reset()
    for seed in range(10):
        envs.capture()
        assert_equal(advance(envs, 3, seed), advance(undisturbed, 3, seed))


def test_what_is_saved_is_named():
    envs = make_host(Walk, seed=1)
    envs.reset()
    advance(envs, LENGTH + 2, seed=0)
    meta, arrays = envs.capture()
    saved = meta["environments"][0]
    assert (meta["format"], meta["seed"], meta["levels"]) == (1, 1, ["replayed"])
    assert (saved["episode"], saved["elapsed"], arrays["0.actions"].shape) == (1, 2, (2,))
    assert arrays["0.observation.0"].shape == (2,)


# Levels.


def test_an_unseeded_environment_restores_at_the_next_episode():
    envs = make_host(Unseeded, seed=1)
    assert envs.level == "boundary"
    envs.reset()
    advance(envs, 2, seed=0)
    meta, arrays = through_files(envs)
    assert meta["levels"] == ["boundary"]
    again = make_host(Unseeded, seed=1)
    assert again.restore(meta, arrays)[0, 1] == 0  # no steps yet
    saved = again.capture()[0]["environments"][0]
    assert (saved["episode"], saved["elapsed"]) == (1, 0)


def test_the_level_of_several_is_the_weakest():
    kinds = iter([Walk(), Unseeded(), gymnasium.make("CartPole-v1")])
    episodes = [make_host(next(kinds), seed=0).level for _ in range(3)]
    assert episodes == ["replayed", "boundary", "exact"]
    one_exact = iter([Registered(), Walk()])
    assert make_host(lambda: next(one_exact), envs=2, seed=0).level == "replayed"


def test_an_unknown_wrapper_is_not_captured_exactly():
    class Shaped(gymnasium.RewardWrapper):
        def reward(self, reward: Any) -> float:
            return float(reward) + 1

    assert make_host(Shaped(gymnasium.make("CartPole-v1")), seed=0).level == "replayed"


def test_a_subclass_is_not_its_registered_parent():
    class Windy(type(gymnasium.make("CartPole-v1").unwrapped)):
        pass

    assert make_host(Windy, seed=0).level == "replayed"


# Registration.


register_exact(Registered, ("position", "steps", "given_seed", "more"), constants=("wind",))


@pytest.mark.parametrize("fresh", [{}, {"asynchronous": True}])
def test_a_registered_class_is_captured_exactly(fresh: dict[str, Any]):
    check_continues(Registered, {}, "exact", before=7, after=10, **fresh)


def test_every_kind_of_attribute_comes_back_as_it_was():
    env, other = Registered(), Registered()
    envs, again = make_host(env, seed=0), make_host(other, seed=0)
    envs.reset()
    advance(envs, 2, seed=0)
    again.restore(*through_files(envs))
    steps, text, flag, kinds = other.more
    assert (steps, text, flag, kinds["list"], kinds["none"]) == (1, "text", True, [1, 2.5], None)
    assert kinds["array"].dtype == np.int16
    assert kinds["array"].tolist() == [0, 1, 2]
    assert type(kinds["scalar"]) is np.float32
    assert kinds["scalar"] == np.float32(0.1)


def test_an_attribute_that_cannot_be_saved_is_named():
    env = Registered()
    envs = make_host(env, seed=0)
    envs.reset()
    env.more = {1, 2}
    with pytest.raises(EngramError, match=r"layer0.more holds a set, which exact capture cannot save"):
        envs.capture()
    del env.more
    with pytest.raises(EngramError, match=r"Registered has no attribute 'more'; mend its register_exact"):
        envs.capture()


@pytest.mark.parametrize(
    ("kind", "attributes", "said"),
    [(dict, ("a",), "expected a subclass of gymnasium.Env"), (Walk, "position", "expected a tuple of attribute names")],
)
def test_a_wrong_registration_is_one_sentence(kind: type, attributes: Any, said: str):
    with pytest.raises(SpecError, match=said):
        inspect.unwrap(register_exact)(kind, attributes)  # past the suite's own type check


# Refusals.


def saved(env: Any, steps: int = 3, **arguments: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    envs = make_host(env, seed=1, **arguments)
    envs.reset()
    advance(envs, steps, seed=0)
    return through_files(envs)


def refused(env: Any, meta: dict[str, Any], arrays: dict[str, np.ndarray], said: str, **arguments: Any) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        make_host(env, **{"seed": 1, **arguments}).restore(meta, arrays)
    assert caught.value.exit_code == EXIT_NO_INPUT


def test_another_replay_is_refused():
    meta, arrays = saved(Walk)
    arrays["0.actions"] = 1 - arrays["0.actions"]
    refused(Walk, meta, arrays, r"environment 0 \(Walk\) came to another observation or return when its 3 actions were")


def test_a_replay_that_ends_early_is_refused():
    meta, arrays = saved(Walk)
    refused(lambda: Walk(length=2), meta, arrays, r"ended at step 2 of 3 when its actions were replayed")


def test_a_replay_with_actions_missing_is_refused():
    meta, arrays = saved(Walk)
    arrays["0.actions"] = arrays["0.actions"][:-1]
    refused(Walk, meta, arrays, r"has 2 saved actions for 3 steps")


def test_a_replay_whose_rewards_differ_is_refused():
    class Generous(Walk):
        def step(self, action: Any) -> Any:
            observation, reward, *rest = super().step(action)
            return observation, reward + 1, *rest

    refused(Generous, *saved(Walk), r"came to another observation or return")


def test_a_replay_that_fails_is_refused():
    class Failing(Walk):
        def step(self, action: Any) -> Any:
            if self.given_seed == episode_seed(1, 0, 0):
                raise RuntimeError("no more")
            return super().step(action)

    refused(
        Failing, *saved(Walk), r"failed while it was restored: environment 0, episode 0, step 1: step raised Runtime"
    )


def test_another_environment_is_refused():
    cart = saved("CartPole-v1")
    refused("Acrobot-v1", *cart, r"was captured as .*CartPoleEnv and is .*AcrobotEnv here")
    refused(Walk, *cart, r"was captured exactly, but a layer of it is not registered")
    refused(
        "CartPole-v1",
        *cart,
        r"was captured with another TimeLimit._max_episode_steps",
        env_args={"max_episode_steps": 9},
    )


def test_another_random_map_is_refused():
    lake = saved("FrozenLake-v1", env_args={"desc": ["SF", "FG"]}, steps=1)
    refused("FrozenLake-v1", *lake, r"another FrozenLakeEnv.desc than it has here", env_args={"desc": ["SH", "FG"]})


def test_another_constant_is_refused():
    refused(lambda: Registered(wind=1.0), *saved(Registered), r"was captured with another Registered.wind")


def test_another_number_seed_or_format_is_refused():
    meta, arrays = saved(Walk)
    refused(Walk, meta, arrays, "1 environments were saved, 2 are here", envs=2)
    refused(Walk, meta, arrays, "saved with seed 1, 2 was given", seed=2)
    refused(Walk, {**meta, "format": 9}, arrays, "have format 9, expected 1")
    refused(Walk, meta, {**arrays, "7.actions": arrays["0.actions"]}, "hold '7.actions', which belongs to none of 1")


@pytest.mark.parametrize("missing", ["level", "layers", "generator", "episode", "elapsed", "return", "sha256"])
def test_a_damaged_state_is_refused(missing: str):
    meta, arrays = saved("CartPole-v1")
    del meta["environments"][0][missing]
    refused(
        "CartPole-v1",
        meta,
        arrays,
        rf"environment 0 \(CartPole-v1\) has a damaged or foreign state \(KeyError: '{missing}'\)",
    )


def test_missing_wrong_and_changed_arrays_are_refused():
    meta, arrays = saved("CartPole-v1")
    refused("CartPole-v1", meta, {}, "damaged or foreign state")
    short = {**arrays, "0.observation.0": np.zeros(3, np.float32)}
    refused("CartPole-v1", meta, short, r"has a saved observation of float32\(3,\), and shows float32\(4,\)")
    other = {**arrays, "0.observation.0": arrays["0.observation.0"] + 1}
    refused("CartPole-v1", meta, other, "does not match its SHA-256")


def test_a_failing_restore_in_a_worker_is_the_same_sentence():
    meta, arrays = saved(Walk)
    arrays["0.actions"] = 1 - arrays["0.actions"]
    refused(Walk, meta, arrays, r"^environment 0 \(Walk\) came to another observation", asynchronous=True)


def test_the_example_in_the_documentation_runs():
    import doctest

    outcome = doctest.testmod(capturing, extraglobs={"gymnasium": gymnasium})
    assert (outcome.failed, outcome.attempted) == (0, 2)


@pytest.mark.parametrize("fresh", [{}, {"asynchronous": True}])
def test_new_episodes_begin_where_a_state_cannot_be_reached_again(fresh: dict[str, Any]):
    meta, arrays = saved(Walk, envs=2)
    arrays["1.actions"] = 1 - arrays["1.actions"]
    refused(Walk, meta, arrays, r"^environment 1 .* resume with new_episodes=True \(--new-episodes\) to", envs=2)
    again, other = make_host(Walk, envs=2, seed=1, **fresh), make_host(Walk, seed=1)
    try:
        observation = again.restore(meta, arrays, new_episodes=True)
        assert again.anew.tolist() == [False, True]
        np.testing.assert_array_equal(observation[0], arrays["0.observation.0"])
        state = again.capture()[0]
        assert state["levels"] == ["replayed", "replayed"]
        assert [(each["episode"], each["elapsed"]) for each in state["environments"]] == [(0, 3), (1, 0)]
        good = saved(Walk, envs=2)
        again.restore(*good, new_episodes=True)
        assert not again.anew.any()
        assert not other.anew.any()
    finally:
        again.close()
