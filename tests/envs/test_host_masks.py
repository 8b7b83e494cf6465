"""Which actions are allowed, as host environments say it: in the observation, or in info."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces as gym_spaces
from support.bad_envs import LENGTH, Masked, Walk

from engram import spaces
from engram.envs.host.episodes import episode_seed
from engram.envs.host.make import HostEnvs, make_host, register_exact
from engram.errors import EnvironmentFault, SpaceError
from engram.nn.observation import mask_of

SEED, INDEX, EPISODE, STEP = 7, 1, 1, 2
SHOWN = spaces.Dict((("action_mask", spaces.Box((3,), "int8")), ("observation", spaces.Box((2,), "float32"))))


def forbids(step: int) -> list[int]:
    """The mask of Masked after `step` steps: action step % 3 is forbidden."""
    return [int(action != step % 3) for action in range(3)]


def allowed(observation: Any, seed: int = 0) -> np.ndarray:
    """One allowed action for each environment."""
    generator = np.random.default_rng(seed)
    return np.array([generator.choice(np.flatnonzero(mask)) for mask in observation["action_mask"]])


def play(envs: HostEnvs, steps: int = 2 * LENGTH) -> list[Any]:
    observation, seen = envs.reset(), []
    for number in range(steps):
        seen.append(envs.step(allowed(observation, number)))
        observation = seen[-1].observation
    return seen


def assert_equal(left: Any, right: Any) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


# Where a mask is found, and what it becomes.


def test_a_mask_in_info_becomes_a_part_of_the_observation():
    envs = make_host(Masked, envs=2, seed=SEED)
    assert envs.observation_space == SHOWN
    first = envs.reset()
    assert first["action_mask"].tolist() == [forbids(0)] * 2
    assert first["observation"].shape == (2, 2)
    step = envs.step(np.array([1, 2]))
    assert step.observation["action_mask"].tolist() == [forbids(1)] * 2
    assert mask_of(envs.observation_space, step.observation, 3) is not None
    assert spaces.seen(envs.observation_space) == spaces.Box((2,), "float32")


class MaskedDict(Masked):
    """Masked, whose observation is a Dict already."""

    def __init__(self):
        super().__init__()
        self.observation_space = gym_spaces.Dict(z=self.observation_space, a=gym_spaces.Discrete(5))

    def show(self) -> Any:
        return {"z": super().show(), "a": self.steps}


def test_a_dict_gets_one_more_part():
    envs = make_host(MaskedDict, seed=0)
    assert envs.observation_space == spaces.Dict(
        (("a", spaces.Discrete(5)), ("action_mask", spaces.Box((3,), "int8")), ("z", spaces.Box((2,), "float32")))
    )
    step = play(envs, 1)[0]
    assert step.observation["action_mask"].tolist() == [forbids(1)]
    assert step.observation["a"].tolist() == [1]


class Own(Walk):
    """Shows its mask itself, in the space given; counts its resets. What info says besides is another thing."""

    resets = 0

    def __init__(self, part: gymnasium.Space | None = None, actions: gymnasium.Space | None = None):
        super().__init__()
        self.part = gym_spaces.MultiBinary(2) if part is None else part
        self.observation_space = gym_spaces.Dict(x=self.observation_space, action_mask=self.part)
        self.action_space = self.action_space if actions is None else actions

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        type(self).resets += 1
        return super().reset(seed=seed)[0], {"action_mask": "not read"}

    def show(self) -> Any:
        return {"x": super().show(), "action_mask": np.array([1, self.steps % 2], self.part.dtype)}


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, bool, np.int64, np.float32])
def test_a_mask_in_the_observation_is_an_ordinary_part(dtype: type):
    envs = make_host(partial(Own, gym_spaces.Box(0, 1, (2,), dtype)), seed=0)
    masks = [envs.reset()["action_mask"], envs.step(np.array([0])).observation["action_mask"]]
    assert np.array(masks).tolist() == [[[1, 0]], [[1, 1]]]
    assert mask_of(envs.observation_space, {"action_mask": masks[0]}, 2) is not None


def test_an_environment_without_masks_is_shown_as_before():
    assert make_host(Walk, seed=0).observation_space == spaces.Box((2,), "float32")


def test_one_reset_of_one_instance_finds_the_mask():
    seeds: list[int | None] = []  # of all instances

    class Known(Masked):
        def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
            seeds.append(seed)
            return super().reset(seed=seed)

    register_exact(Known, ("position", "steps", "given_seed"))
    envs = make_host(Known, envs=3, seed=SEED)
    assert (envs.level, len(seeds)) == ("exact", 1)
    seeds.clear()
    play(envs, 2 * LENGTH)
    expected = [episode_seed(SEED, index, episode) for episode in range(3) for index in range(3)]
    assert seeds == expected


def test_a_mask_in_the_observation_is_not_looked_for():
    class Known(Own):
        resets = 0

    register_exact(Known, ("position", "steps", "given_seed"))
    make_host(Known, seed=0)
    assert Known.resets == 0


class InSteps(Masked):
    """Masked, whose reset forbids nothing and says nothing. At first everything is allowed."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        return super().reset(seed=seed)[0], {}

    def mask(self) -> np.ndarray:
        return np.ones(3, np.int8) if self.steps == 0 else super().mask()


class ByMethod(Masked):
    """Masked, which tells its masks as sb3-contrib has it, and nothing in info."""

    def info(self, terminated: bool) -> Any:
        return {}

    def action_masks(self) -> np.ndarray:
        return self.mask().astype(bool)


class Unwrapped(gymnasium.Wrapper):
    """A layer that hides the attributes of what it wraps; only `unwrapped` reaches them."""

    def get_wrapper_attr(self, name: str) -> Any:
        raise AttributeError(name)


WAYS = {
    "info of steps": (InSteps, [1, 1, 1]),
    "the method": (ByMethod, forbids(0)),
    "the method of what is wrapped": (lambda: gymnasium.wrappers.TimeLimit(ByMethod(), 50), forbids(0)),
    "the method of unwrapped": (lambda: Unwrapped(ByMethod()), forbids(0)),
}


@pytest.mark.parametrize("way", WAYS)
def test_masks_are_found_by_every_convention(way: str):
    env, first = WAYS[way]
    envs = make_host(env, envs=2, seed=SEED)
    assert envs.observation_space == SHOWN
    assert envs.reset()["action_mask"].tolist() == [first] * 2
    assert envs.step(np.array([1, 2])).observation["action_mask"].tolist() == [forbids(1)] * 2
    play(envs)  # in which a forbidden action would raise
    assert ("only" in envs.description) == (way == "info of steps")
    assert ("action_masks() says" in envs.description) == ("method" in way)


def test_workers_tell_masks_of_every_convention():
    for env in (InSteps, ByMethod):
        here, there = (make_host(env, envs=1, seed=4, asynchronous=flag) for flag in (False, True))
        try:
            assert_equal(play(there), play(here))
            assert there.description == here.description
        finally:
            there.close()


def test_masks_of_a_method_are_saved_and_taken_up():
    envs, again = (make_host(ByMethod, seed=3) for _ in range(2))
    observation = play(envs, 6)[-1].observation
    assert_equal(again.restore(*envs.capture()), observation)


class Late(Walk):
    """Says which actions are allowed from its third step on."""

    def step(self, action: Any) -> Any:
        *rest, _ = super().step(action)
        return *rest, {"action_mask": np.ones(2, np.int8)} if self.steps == 3 else {}


def test_a_mask_that_comes_late_is_named():
    envs = make_host(Late, seed=0)
    with pytest.raises(
        EnvironmentFault, match=r"step 3: info has an 'action_mask', which neither a reset nor the firs"
    ):
        play_free(envs)


def play_free(envs: HostEnvs) -> None:
    envs.reset()
    for _ in range(LENGTH):
        envs.step(np.array([0]))


class Legal(Walk):
    """Tells masks by a name that is not read."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        return super().reset(seed=seed)[0], {"legal_actions": [0, 1]}


def test_masks_by_another_name_are_spoken_of():
    assert "'legal_actions' is not read as a mask: call it 'action_mask'" in make_host(Legal, seed=0).description
    part = gym_spaces.Dict(x=Walk().observation_space, avail_actions=gym_spaces.MultiBinary(2))

    class Part(Walk):
        def __init__(self):
            super().__init__()
            self.observation_space = part

        def show(self) -> Any:
            return {"x": super().show(), "avail_actions": np.ones(2, np.int8)}

    assert "'avail_actions' is not read as a mask" in make_host(Part, seed=0).description
    assert make_host(Walk, seed=0).description == repr_of(Walk)


def repr_of(env: Any) -> str:
    return f"the function {env.__qualname__}"


class Factored(ByMethod):
    """Forbids values of each of two numbers, as sb3-contrib has it: not 1 for the first, not 0 for the second."""

    def __init__(self, actions: gymnasium.Space):
        super().__init__()
        self.action_space = actions

    def step(self, action: Any) -> Any:
        return Walk.step(self, 0)

    def action_masks(self) -> np.ndarray:
        return np.array([1, 0, 0, 1, 1][: sum(self.action_space.nvec)])


@pytest.mark.parametrize(("sizes", "joint"), [((2, 3), [0, 1, 1, 0, 0, 0]), ((2, 2), [0, 1, 0, 0])])
def test_flags_for_each_number_forbid_joint_actions(sizes: tuple[int, ...], joint: list[int]):
    envs = make_host(lambda: Factored(gym_spaces.MultiDiscrete(sizes)), seed=0)
    assert envs.reset()["action_mask"].tolist() == [joint]


class Failing(ByMethod):
    def action_masks(self) -> Any:
        raise RuntimeError("no board")


def test_a_method_that_fails_is_named():
    with pytest.raises(
        EnvironmentFault, match=r"step 0 \(reset\): action_masks\(\) raised RuntimeError: no board; mend"
    ):
        make_host(Failing, seed=0).reset()


# What follows from it.


def test_worker_processes_give_what_this_process_gives():
    here, there = (make_host(Masked, envs=2, seed=4, asynchronous=flag) for flag in (False, True))
    try:
        assert there.observation_space == here.observation_space
        assert_equal(play(there), play(here))
        assert there.level == here.level
    finally:
        there.close()


@pytest.mark.parametrize(("env", "level"), [(Masked, "replayed"), ("Taxi-v4", "exact")])
def test_a_masked_environment_is_saved_and_taken_up(env: Any, level: str):
    """The probe that found the level took allowed actions only: Masked raises at others."""
    arguments = {"env_args": {"max_episode_steps": 30}} if isinstance(env, str) else {}
    envs, again = (make_host(env, envs=2, seed=3, **arguments) for _ in range(2))
    assert envs.level == level
    observation = play(envs, 6)[-1].observation
    assert_equal(again.restore(*envs.capture()), observation)
    for number in range(40):
        steps = [each.step(allowed(observation, number)) for each in (envs, again)]
        assert_equal(*steps)
        observation = steps[0].observation


def test_a_final_steps_mask_is_kept_and_one_without_any_action_allows_all():
    """Masked forbids everything where it terminates (even episodes' seeds), and nothing else where it truncates."""
    final = {}
    for seed in range(20):
        envs = make_host(Masked, seed=seed)
        step = play(envs, LENGTH)[-1]
        assert step.done[0]
        final[bool(step.terminated[0])] = step.final_observation["action_mask"][0].tolist()
        assert step.observation["action_mask"][0].tolist() == forbids(0)
    assert final == {True: [1, 1, 1], False: forbids(LENGTH)}


class Joint(Walk):
    """A mask of a given length for the actions given."""

    def __init__(self, actions: gymnasium.Space, flags: int):
        super().__init__()
        self.action_space, self.flags = actions, flags

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        return super().reset(seed=seed)[0], {"action_mask": np.ones(self.flags, bool)}

    def step(self, action: Any) -> Any:
        return *super().step(0)[:4], {"action_mask": np.ones(self.flags, bool)}


JOINT = [
    (gym_spaces.MultiDiscrete([2, 3]), None, 6, 4),
    (gym_spaces.Box(-1, 1, (2,), np.float32), 3, 9, 2),
    (gym_spaces.MultiBinary(2), None, 4, 2),
]


@pytest.mark.parametrize(("actions", "bins", "flags", "wrong"), JOINT)
def test_joint_actions_have_a_flag_each(actions: gymnasium.Space, bins: int | None, flags: int, wrong: int):
    envs = make_host(Joint(actions, flags), seed=0, action_bins=bins)
    assert envs.reset()["action_mask"].shape == (1, flags)
    said = (
        rf"environment 0, episode 0, step 0 \(reset\): info\['action_mask'\] is .*, expected one flag \(0 or 1\) for "
        rf"each of {flags} joint actions: every combination of .*, the last number changing fastest"
    )
    with pytest.raises(EnvironmentFault, match=said):
        make_host(Joint(actions, wrong), seed=0, action_bins=bins).reset()


# Faults.

Spoil = Callable[[dict[str, Any]], Any]


def put(mask: Any) -> Spoil:
    return lambda info: {**info, "action_mask": mask}


BAD = {
    "all forbidden": (put(np.zeros(3, np.int8)), r"info\['action_mask'\] forbids every action, expected at least one"),
    "too long": (put(np.ones(4, np.int8)), r"info\['action_mask'\] is ndarray .*, expected one flag .* of 3 actions$"),
    "too short": (put([1, 0]), r"info\['action_mask'\] is list \[1, 0\], expected one flag \(0 or 1\) for each of 3"),
    "two axes": (put(np.ones((1, 3), np.int8)), r"info\['action_mask'\] is ndarray .*, expected one flag"),
    "ragged": (put([[1], [1, 0]]), r"info\['action_mask'\] is list .*, expected one flag"),
    "none": (put(None), r"info\['action_mask'\] is NoneType None, expected one flag"),
    "a tuple of masks": (put((np.ones(2, np.int8),)), r"info\['action_mask'\] is a tuple of 1, expected one flag"),
    "logits": (put([0.0, -1e9, 0.0]), r"info\['action_mask'\] is list \[0.0, .*\], expected one flag \(0 or 1\)"),
    "numbers": (put([1, 2, 0]), r"info\['action_mask'\] holds 2, expected 0 for each forbidden action and 1 for each"),
    "missing": (lambda info: {}, r"info has no 'action_mask', as it had before; return it from every reset and every"),
}


@pytest.mark.parametrize("step", [0, STEP])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_mask_is_named(name: str, step: int):
    spoil, said = BAD[name]
    where = "step 0 \\(reset\\)" if step == 0 else f"step {step}"
    envs = make_host(partial(Masked, spoil, SEED, INDEX, EPISODE, step), envs=2, seed=SEED)
    with pytest.raises(EnvironmentFault, match=rf"^environment 1, episode 1, {where}: {said}") as caught:
        play(envs)
    assert "\n" not in str(caught.value)
    levels = envs.capture()[0]["levels"]
    assert levels[1] == "boundary"


def test_a_step_without_info_is_named():
    envs = make_host(partial(Masked, lambda info: None, SEED, INDEX, EPISODE, STEP), envs=2, seed=SEED)
    with pytest.raises(EnvironmentFault, match=r"^environment 1, episode 1, step 2: info has no 'action_mask'"):
        play(envs)


def test_a_bad_mask_in_a_worker_is_the_same_sentence():
    spoil, _ = BAD["too short"]
    envs = make_host(partial(Masked, spoil, SEED, INDEX, EPISODE, STEP), envs=2, seed=SEED, asynchronous=True)
    with pytest.raises(EnvironmentFault, match=r"^environment 1, episode 1, step 2: info\['action_mask'\] is list"):
        play(envs)


class Stuck(Own):
    """Forbids everything after its first step; at its end also, where that is allowed."""

    def show(self) -> Any:
        return {**super().show(), "action_mask": np.full(2, self.steps == 0, np.int8)}


def test_an_observation_that_forbids_everything_is_named():
    envs = make_host(Stuck, seed=0)
    envs.reset()
    with pytest.raises(EnvironmentFault, match=r"step 1: observation 'action_mask' forbids every action, expected at"):
        envs.step(np.array([0]))


@pytest.mark.parametrize(
    ("part", "actions", "said"),
    [
        (gym_spaces.MultiBinary(3), None, r"part 'action_mask' is MultiBinary\(3\), expected .* each of 2 actions"),
        (gym_spaces.MultiBinary((1, 2)), None, r"expected a Box or MultiBinary of one flag"),
        (gym_spaces.Discrete(2), None, r"part 'action_mask' is Discrete\(2\), expected"),
        (gym_spaces.Dict(a=gym_spaces.MultiBinary(2)), None, r"part 'action_mask' is Dict"),
        (
            gym_spaces.MultiBinary(4),
            gym_spaces.MultiDiscrete([2, 2, 2]),
            r"8 joint actions: every combination of Multi",
        ),
    ],
)
def test_a_part_that_is_no_mask_is_one_sentence(part: gymnasium.Space, actions: gymnasium.Space | None, said: str):
    with pytest.raises(SpaceError, match=said):
        make_host(lambda: Own(part, actions), seed=0)


class Offering(Walk):
    """Offers its actions with the features of each."""

    def __init__(self, rows: int):
        super().__init__()
        self.rows = rows
        self.observation_space = gym_spaces.Dict(
            x=self.observation_space, offered=gym_spaces.Box(-1, 1, (rows, 4), np.float32)
        )

    def show(self) -> Any:
        return {"x": super().show(), "offered": np.ones((self.rows, 4), np.float32)}


def test_actions_on_offer_are_one_row_each():
    envs = make_host(partial(Offering, 2), seed=0)
    assert spaces.offered_features(envs.observation_space, envs.actions) == 4
    assert envs.reset()["offered"].shape == (1, 2, 4)
    for asynchronous in (False, True):
        with pytest.raises(SpaceError, match=r"'offered' is .*; expected an array of 2 rows, the features of each"):
            make_host(partial(Offering, 3), seed=0, asynchronous=asynchronous)


# Seen outside of Engram's loop.


def test_an_observation_and_its_mask_are_told_together():
    envs = make_host(Masked, seed=0)
    single = {"observation": np.zeros(2), "action_mask": [True, False, True]}
    batch = {"observation": np.zeros((4, 2)), "action_mask": np.ones((4, 3), np.int64)}
    for observation, batched, rows in ((single, False, 1), (batch, True, 4)):
        assert envs.translator.is_batched(observation) == batched
        told = envs.translator.rows(observation, batched)
        assert (told["action_mask"].shape, told["action_mask"].dtype) == ((rows, 3), np.int8)
        assert told["observation"].shape == (rows, 2)


@pytest.mark.parametrize(
    ("env", "observation", "batched", "said"),
    [
        (
            Masked,
            np.zeros(2),
            False,
            r"without its 'action_mask' was given; pass \{'observation': observation, 'action_",
        ),
        (Masked, np.zeros((3, 2)), False, r"with mask = info\['action_mask'\] of the reset or step that showed it"),
        (Masked, {"observation": np.zeros(2)}, False, r"pass \{\*\*observation, 'action_mask': mask\}"),
        (MaskedDict, {"z": np.zeros(2), "a": 1}, False, r"pass \{\*\*observation, 'action_mask': mask\}"),
        (Masked, {"observation": np.zeros(2), "action_mask": np.zeros(3, int)}, False, r"'action_mask' forbids every"),
        (Masked, {"observation": np.zeros(2), "action_mask": [1, 3, 0]}, False, r"'action_mask' holds 3, expected 0"),
        (
            Masked,
            {"observation": np.zeros((2, 2)), "action_mask": np.array([[1, 1, 1], [0, 0, 0]])},
            True,
            r"^row 1 of the batch: observation 'action_mask' forbids every action",
        ),
    ],
)
def test_a_mask_left_out_or_wrong_is_one_sentence(env: Any, observation: Any, batched: bool, said: str):
    envs = make_host(env, seed=0)
    assert envs.translator.is_batched(observation) == batched
    with pytest.raises(EnvironmentFault, match=said):
        envs.translator.rows(observation, batched)
