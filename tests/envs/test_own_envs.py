"""Whose an environment is: who plays in an object, how another like it is made, and ready vector environments."""

import re
import sys
from contextlib import closing
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from support.bad_envs import LENGTH, Aliased, Unseeded, Walk

from engram.envs.host import own
from engram.envs.host.episodes import episode_seed
from engram.envs.host.make import HostEnvs, make_host
from engram.envs.host.spaces import Observer, Translator
from engram.envs.host.stored import space_from_json, space_to_json
from engram.errors import EnvironmentFault, SpecError


class Long(Walk):
    def __init__(self, length: int = 9, wind: float = 0.0):
        super().__init__(length)
        self.wind = wind


class Needy(Walk):
    def __init__(self, port: int):
        super().__init__()


def play(envs: HostEnvs, steps: int, action: int = 0) -> list[Any]:
    envs.reset()
    return [envs.step(np.full(envs.envs, action)) for _ in range(steps)]


# Another one like an object.


def test_a_registered_object_is_copied_with_what_was_set_on_it():
    env = gymnasium.make("CartPole-v1", max_episode_steps=100)
    env.unwrapped.theta_threshold_radians = 0.001
    other = own.another(env)()
    assert other is not env
    assert other.unwrapped.theta_threshold_radians == 0.001


def test_an_object_is_made_anew_where_its_class_gives_the_same():
    env = Long()
    make_host(env, seed=0)  # has been played in
    other = own.another(env)()
    assert (type(other), other.length, other is env) == (Long, 9, False)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (
            Needy(3),
            r"no other one like it can be made \(Needy needs the argument 'port'\); write evaluate\(env=\.\.\.\)",
        ),
        (Long(5), r"may have been made with another 'length' than 9"),
    ],
)
def test_an_object_that_cannot_be_made_anew_names_the_call(env: gymnasium.Env, said: str):
    with pytest.raises(SpecError, match=said):
        own.another(env)


def test_an_object_that_was_changed_is_not_made_anew():
    env = Long()
    env.wind = 2.0  # pyright: ignore
    with pytest.raises(SpecError, match="another 'wind' than 0.0"):
        own.another(env)
    env = Long()
    env.mass = 3.0  # pyright: ignore
    with pytest.raises(SpecError, match=r"its attribute 'mass' is not as Long\(\) has it"):
        own.another(env)


def test_of_two_that_are_given_one_object_the_later_has_it():
    env = Walk()
    first = make_host(env, seed=0)
    first.reset()
    second = make_host(env, seed=1)
    with pytest.raises(EnvironmentFault, match="another trainer was given this environment object since"):
        first.step(np.zeros(1, int))
    first.close()
    play(second, 2 * LENGTH)
    assert own.in_use(env)
    second.leave()
    assert not own.in_use(env)


def test_to_play_an_environment_in_use_is_refused_untouched():
    env = Walk()
    training = make_host(lambda: env, seed=0)
    training.reset()
    training.step(np.zeros(1, int))
    with pytest.raises(SpecError, match=r"gave an environment that is in use, .* evaluate\(env=\.\.\.\)"):
        make_host(lambda: env, seed=0, to_play=True)
    assert env.steps == 1


def test_to_play_one_will_do_where_no_more_can_be_made():
    env = Walk()
    assert make_host(lambda: env, envs=4, seed=0, to_play=True).envs == 1
    with pytest.raises(EnvironmentFault, match="returned the same environment twice"):
        make_host(lambda: Walk() and env, envs=2, seed=0)


def test_to_play_nothing_is_tried_out():
    class Counted(Walk):
        taken = 0

        def step(self, action: Any) -> Any:
            Counted.taken += 1
            return super().step(action)

    make_host(Counted, envs=3, seed=0, to_play=True)
    assert Counted.taken == 1, "it shows where masks are told"


# A limit on steps.


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_episode_is_truncated_at_the_limit(asynchronous: bool):
    envs = make_host(partial(Walk, 100), envs=2, seed=0, max_episode_steps=3, asynchronous=asynchronous)
    try:
        steps = play(envs, 7)
        assert [bool(step.done.all()) for step in steps] == [False, False, True, False, False, True, False]
        assert [step.cut for step in steps] == [(0, 1) if step.done.any() else () for step in steps]
        assert not any(step.terminated.any() for step in steps)
        np.testing.assert_array_equal(steps[2].final_observation[:, 1], [3, 3])
        np.testing.assert_array_equal(steps[2].observation[:, 1], [0, 0])
    finally:
        envs.close()


# Trying out.


class Globally(Walk):
    """Draws from NumPy's global generator; `seeds` it at each reset."""

    seeds = False

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        if self.seeds:
            np.random.seed(seed)  # noqa: NPY002
        return super().reset(seed=seed)

    def show(self) -> np.ndarray:
        return np.array([np.random.random(), self.steps], np.float32)  # noqa: NPY002


class Seeding(Globally):
    seeds = True


def test_what_was_tried_out_is_said_and_counted():
    calls = {"reset": 0, "step": 0}

    class Counted(Walk):
        def reset(self, **given: Any) -> Any:
            calls["reset"] += 1
            return super().reset(**given)

        def step(self, action: Any) -> Any:
            calls["step"] += 1
            return super().step(action)

    envs = make_host(Counted, envs=3, seed=0)
    assert calls == {"reset": 3, "step": 1 + 2 * LENGTH}
    assert envs.notes == [f"before training the environment was tried out: 3 resets and {1 + 2 * LENGTH} steps"]
    assert make_host("CartPole-v1", seed=0).notes == []


@pytest.mark.parametrize(
    ("kind", "envs", "level", "said"),
    [
        (Unseeded, 1, "boundary", "cannot be repeated: it draws from a generator that no seed reaches"),
        (Globally, 1, "boundary", r"cannot be repeated: it draws from NumPy's global generator \(np.random\)"),
        (Seeding, 1, "replayed", ""),
        (Seeding, 2, "boundary", "cannot be resumed inside an episode: it draws from NumPy's global generator"),
    ],
)
def test_what_cannot_be_repeated_is_called_so(kind: type, envs: int, level: str, said: str):
    made = make_host(kind, envs=envs, seed=0)
    assert made.level == level
    text = " | ".join(made.notes[1:])
    assert (text == "") == (said == "")
    assert re.search(said, text)


# Ready vector environments.


def vector(mode: AutoresetMode, envs: int = 2, kind: type[Walk] = Walk) -> SyncVectorEnv:
    class Whole(SyncVectorEnv):  # not to be taken apart
        pass

    return Whole([kind] * envs, autoreset_mode=mode)


def test_a_sync_vector_is_taken_apart_and_exact():
    given = make_host(SyncVectorEnv([Walk, Walk]), seed=3)
    named = make_host(Walk, envs=2, seed=3)
    assert (given.envs, given.level) == (2, "replayed")
    for one, other in zip(play(given, 10, 1), play(named, 10, 1), strict=True):
        np.testing.assert_array_equal(one.observation, other.observation)
        np.testing.assert_array_equal(one.final_observation[one.done], other.final_observation[one.done])
        np.testing.assert_array_equal(one.reward, other.reward)


def test_a_function_may_make_the_vector():
    assert make_host(lambda: gymnasium.make_vec("CartPole-v1", 3, "sync"), seed=0).envs == 3


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_every_autoreset_mode_gives_whole_episodes(mode: AutoresetMode):
    """Walk shows its steps: a transition leads from n to n + 1, an episode begins at 0 and ends at LENGTH."""
    envs = make_host(vector(mode), seed=5)
    shown, ends, idles = envs.reset(), 0, 0
    starts = np.ones(2, bool)
    for _ in range(4 * LENGTH + 3):
        step = envs.step(np.zeros(2, int))
        idle = np.zeros(2, bool) if step.idle is None else step.idle
        for index in range(2):
            if idle[index]:
                idles += 1
                assert (step.reward[index], step.done[index], step.observation[index, 1]) == (0, False, 0)
                continue
            after = step.final_observation if step.done[index] else step.observation
            assert after[index, 1] == shown[index, 1] + 1
            assert not starts[index] or shown[index, 1] == 0
            assert step.done[index] == (after[index, 1] == LENGTH)
            ends += bool(step.done[index])
        starts = step.done | idle if mode is not AutoresetMode.NEXT_STEP else idle
        shown = step.observation
    assert ends >= 6
    assert (idles > 0) == (mode is AutoresetMode.NEXT_STEP)


def test_the_first_episodes_of_a_vector_have_their_seeds():
    whole = vector(AutoresetMode.SAME_STEP)
    make_host(whole, seed=5).reset()
    assert [env.given_seed for env in whole.envs] == [episode_seed(5, index, 0) for index in range(2)]


def test_a_vector_is_taken_up_at_new_episodes():
    envs = make_host(vector(AutoresetMode.SAME_STEP), seed=5)
    play(envs, LENGTH + 1)
    meta, arrays = envs.capture()
    again = make_host(vector(AutoresetMode.SAME_STEP), seed=5)
    assert again.restore(meta, arrays)[:, 1].tolist() == [0, 0]
    assert again.anew.all()
    assert again.level == "boundary"
    assert "for an exact one, name the environment and give envs=2" in again.notes[0]


def silent() -> SyncVectorEnv:
    made = vector(AutoresetMode.SAME_STEP)
    del made.metadata["autoreset_mode"]
    return made


@pytest.mark.parametrize(
    ("env", "arguments", "said"),
    [
        (lambda: vector(AutoresetMode.SAME_STEP), {"envs": 3}, "a vector environment of 2 was given with envs = 3"),
        (silent, {}, r"does not say when it resets .* name the environment and give envs=2"),
        (lambda: vector(AutoresetMode.SAME_STEP), {"max_episode_steps": 5}, "ends its episodes itself"),
        (lambda: SyncVectorEnv([Walk] * 2), {"asynchronous": True}, r"a function that makes a single one, .*envs=2"),
    ],
)
def test_what_a_vector_cannot_be_is_one_sentence(env: Any, arguments: dict[str, Any], said: str):
    with pytest.raises(SpecError, match=said):
        make_host(env, seed=0, **arguments)


class Exiting(Walk):
    """Ends the process in its third step, or in its second reset."""

    at = ""

    def reset(self, **given):
        if self.at == "reset" and self.given_seed >= 0:
            sys.exit(0)
        return super().reset(**given)

    def step(self, action):
        if self.at == "step" and self.steps == 2:
            sys.exit(0)
        return super().step(action)


@pytest.mark.parametrize("at", ["step", "reset"])
def test_an_exit_in_a_vector_is_a_fault(monkeypatch: pytest.MonkeyPatch, at: str):
    monkeypatch.setattr(Exiting, "at", at)
    envs = make_host(vector(AutoresetMode.DISABLED, kind=Exiting), seed=0)
    with pytest.raises(EnvironmentFault, match=f"{at} raised SystemExit: 0; report a problem by an ordinary exception"):
        play(envs, LENGTH + 1)


class Rich(Walk):
    """Pays more in its third step than float32 can hold."""

    def step(self, action):
        seen, reward, *rest = super().step(action)
        return seen, 1e39 if self.steps == 3 else reward, *rest


def test_a_reward_that_float32_cannot_hold_is_refused_in_a_vector():
    envs = make_host(vector(AutoresetMode.SAME_STEP, kind=Rich), seed=0)
    with pytest.raises(EnvironmentFault, match=r"reward is 1e\+39, expected one finite number that float32 can hold"):
        play(envs, LENGTH)


class Judged(Walk):
    """Tells at every step how far it is, and at its end whether that was well."""

    def step(self, action):
        *rest, _ = super().step(action)
        ends = {"is_success": self.given_seed % 2 == 0} if self.steps == self.length else {}
        return *rest, {"far": float(self.steps), "text": "no number", **ends}


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_numbers_of_ended_episodes_are_told(mode: AutoresetMode):
    envs = make_host(vector(mode, kind=Judged), seed=5)
    envs.reset()
    steps = [envs.step(np.zeros(2, int)) for _ in range(LENGTH)]
    assert [dict(step.numbers) for step in steps[:-1]] == [{}] * (LENGTH - 1)
    success = [episode_seed(5, index, 0) % 2 == 0 for index in range(2)]
    assert steps[-1].numbers == {index: {"far": LENGTH, "is_success": success[index]} for index in range(2)}


class Masked(Walk):
    def action_masks(self):
        return [True, False]


@pytest.mark.parametrize("made", [SyncVectorEnv, AsyncVectorEnv])
def test_masks_by_a_method_in_a_vector_are_refused_and_not_ignored(made: Any):
    class Whole(made):
        pass

    whole = Whole([Masked, Masked], autoreset_mode=AutoresetMode.SAME_STEP)
    with closing(whole), pytest.raises(SpecError, match=r"action_masks\(\) of a vector .*name the env.* give envs=2"):
        make_host(whole, seed=0)


# Spaces of a run.


@pytest.mark.parametrize("env", ["CartPole-v1", "Taxi-v4", "Blackjack-v1", "MiniGrid-MemoryS7-v0", Aliased])
def test_spaces_are_stored_and_read_back(env: Any):
    translator = make_host(env, seed=0).translator
    again = Translator.from_json(translator.to_json())
    assert again.to_json() == translator.to_json()
    index = np.arange(2)
    np.testing.assert_array_equal(again.environment_action(index), translator.environment_action(index))


def test_every_kind_of_space_comes_back():
    kinds = gymnasium.spaces
    space = kinds.Dict(
        a=kinds.Box(np.array([-np.inf, 0], np.float32), np.array([1, np.inf], np.float32)),
        b=kinds.Tuple([kinds.Discrete(3, start=-1), kinds.MultiBinary((2, 2))]),
        c=kinds.MultiDiscrete([2, 3], start=[1, 0]),
        d=kinds.Text(4, charset="ba"),
        e=kinds.Box(0, 255, (2, 2, 3), np.uint8),
    )
    again = space_from_json(space_to_json(space))
    assert Observer(again).signature() == Observer(space).signature()
    assert (again["a"], again["e"], again["b"], again["c"]) == (space["a"], space["e"], space["b"], space["c"])


def test_environments_that_share_a_generator_take_one_seed():
    """As those of Gymnasium that are written in arrays, which its `make_vec` prefers."""
    envs = make_host(lambda: gymnasium.make_vec("CartPole-v1", num_envs=2), seed=3)
    again = make_host(lambda: gymnasium.make_vec("CartPole-v1", num_envs=2), seed=3)
    other = make_host(lambda: gymnasium.make_vec("CartPole-v1", num_envs=2), seed=4)
    first = envs.reset()
    np.testing.assert_array_equal(first, again.reset())
    assert not np.array_equal(first, other.reset())
    assert not np.array_equal(first[0], first[1])
    for _ in range(40):
        step = envs.step(np.zeros(2, np.int64))
    assert step.observation.shape == (2, 4)
