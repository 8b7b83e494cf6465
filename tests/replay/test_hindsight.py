"""`draw=hindsight`: goals and rewards against plain Python, over seams of episodes and a ring that wraps."""

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces as gym_spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from engram import specs
from engram.agents import examples
from engram.agents.presets import preset
from engram.agents.q_learning import QLearner
from engram.agents.spec import AgentSpec
from engram.envs.host.goals import rule_of
from engram.errors import SpaceError, SpecError
from engram.goals import GoalRule
from engram.replay import ring as rings
from engram.replay.draw import Reach
from engram.replay.hindsight import HindsightSpec, later, wanting
from engram.spaces import Box, Dict
from engram.types import TimeStep

SPACE = Dict((("observation", Box((1,))), ("achieved_goal", Box((1,))), ("desired_goal", Box((1,)))))
CAPACITY, WANTED = 12, 100.0
LATER = jax.jit(jax.vmap(later, in_axes=(None, None, None, 0, None)), static_argnums=4)
SPEC = specs.override_all(
    AgentSpec(), {"draw": HindsightSpec(within=0.5), "n_step": 3, "discount": 0.5, "replay.capacity": CAPACITY}
)
CUT = jax.jit(
    lambda ring, row, goal: examples.transition(SPEC, ring, row, jnp.int32(0), jnp.zeros(3, jnp.uint32), goal=goal)
)


def filled(lengths: list[int]) -> tuple[rings.Ring, list[tuple[int, float, bool]]]:
    """A ring after episodes of so many steps, and the same rows as a list: (episode, achieved, final).

    Each step achieves the number of its row, so that no two achieve the same.
    """
    rows = [
        (episode, final == length, step == 0)
        for episode, length in enumerate(lengths)
        for step, final in enumerate(range(length + 1))
    ]
    ring = rings.empty(SPACE, CAPACITY, 1)
    for number, (_, _, first) in enumerate(rows):
        seen = {"observation": [number], "achieved_goal": [number], "desired_goal": [WANTED]}
        row = TimeStep(
            {name: jnp.array([[value]], jnp.float32) for name, value in seen.items()},
            jnp.array([[first]]), jnp.zeros((1, 1), jnp.int32), jnp.full((1, 1), -7.0), jnp.zeros((1, 1), bool),
        )  # fmt: skip
        ring = WRITE(ring, row, jnp.ones((1, 1), bool))
    return ring, [(episode, float(number), final) for number, (episode, final, _) in enumerate(rows)]


WRITE = jax.jit(rings.write)
EPISODES = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@given(EPISODES, st.integers(0, 30), st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_goals_are_those_of_later_rows_of_the_same_episode(lengths: list[int], at: int, horizon: int):
    ring, rows = filled(lengths)
    oldest = max(0, len(rows) - CAPACITY)
    row = oldest + at % (len(rows) - oldest)
    mine = [number for number in range(row + 1, len(rows)) if rows[number][0] == rows[row][0]][:horizon]
    found, any_found = LATER(ring, jnp.int32(row), jnp.int32(0), jnp.arange(120, dtype=jnp.uint32), horizon)
    assert bool(any_found[0]) == bool(mine)
    if mine:
        assert {int(one) for one in found} == set(mine)
        counts = np.bincount(np.asarray(found) - row - 1)
        assert counts.max() - counts.min() <= 1  # each as likely


@given(EPISODES, st.integers(0, 30), st.integers(0, 5), st.booleans())
@settings(max_examples=25, deadline=None)
def test_an_example_is_what_plain_python_makes_of_its_episode(lengths: list[int], at: int, ahead: int, own: bool):
    """Rewards -1 until the achieved number is that of the goal, 0 there; -7 a step for the goal that was wanted.

    A step's reward is of what the next row shows. The example bootstraps three steps later, or from the final row.
    """
    ring, rows = filled(lengths)
    oldest = max(0, len(rows) - CAPACITY)
    row = oldest + at % (len(rows) - oldest)
    episode = [number for number in range(row, len(rows)) if rows[number][0] == rows[row][0]]
    if len(episode) < 2 or row + 3 >= len(rows):
        return  # a final row, or one whose successors are not there yet
    goal = episode[1:][ahead % (len(episode) - 1)]
    example = CUT(ring, jnp.int32(row), jnp.int32(-1 if own else goal))
    steps = episode[1:4]
    paid = [-7.0 if own else (0.0 if number == goal else -1.0) for number in steps]
    assert float(example.start.step.reward) == sum(0.5**n * reward for n, reward in enumerate(paid))
    assert float(example.start.step.discount) == 0.5 ** len(steps)  # a time limit is no end
    for seen, number in ((example.observation, row), (example.following, steps[-1])):
        assert float(seen["achieved_goal"][0, 0]) == number
        assert float(seen["desired_goal"][0, 0]) == (WANTED if own else goal)


def test_four_of_five_examples_get_another_goal():
    ring, _ = filled([5, 5])
    bits = jax.random.bits(jax.random.PRNGKey(0), (2_000, 3), "uint32")
    drawn = HindsightSpec(within=0.5).draw(None, ring, Reach(1, 0), bits, lambda *_: jnp.zeros(1))
    goals = np.asarray(drawn.goal)[np.asarray(drawn.row) != 5]  # the final row has nothing later
    assert abs((goals >= 0).mean() - 0.8) < 5 * (0.16 / len(goals)) ** 0.5
    drawn = HindsightSpec(within=0.5, goals=0).draw(None, ring, Reach(1, 0), bits, lambda *_: jnp.zeros(1))
    assert (np.asarray(drawn.goal) == -1).all()


def test_frames_from_before_the_episode_stay_blank():
    ring, _ = filled([3, 5])
    frames = {"desired_goal": jnp.array([[0.0], [WANTED], [WANTED]])}
    seen = wanting(ring, jnp.int32(5), jnp.int32(0), jnp.int32(7), frames)  # row 4 opens the episode
    assert seen["desired_goal"].tolist() == [[0.0], [7.0], [7.0]]


class Reaching(gymnasium.Env):
    """An arm of one number, as Gymnasium-Robotics has them."""

    observation_space = gym_spaces.Dict({
        name: gym_spaces.Box(-10, 10, (2,)) for name in ("observation", "achieved_goal", "desired_goal")
    })  # fmt: skip
    action_space = gym_spaces.Box(-1, 1, (7,))

    def __init__(self, rule: Any = "sparse"):
        self.rule, self.at, self.goal = rule, np.zeros(2), np.ones(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.goal = np.zeros(2), self.np_random.uniform(-1, 1, 2)
        return self._seen(), {}

    def step(self, action):
        self.at = self.at + 0.1 * np.asarray(action)[:2]
        return self._seen(), float(self.compute_reward(self.at, self.goal, {})), False, False, {}

    def _seen(self):
        both = {"achieved_goal": self.at, "desired_goal": self.goal}
        return {name: np.asarray(one, np.float32) for name, one in {"observation": self.at, **both}.items()}

    def compute_reward(self, achieved, desired, info):
        far = np.linalg.norm(achieved - desired, axis=-1)
        kinds = {"sparse": -(far > 0.05).astype(np.float32), "distance": -far, "square": -(far**2)}
        return {**kinds, "bonus": np.where(far > 0.3, 0.0, 10.0)}[self.rule]


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("sparse", GoalRule("sparse", 0.05, 0.0, -1.0)),
        ("bonus", GoalRule("sparse", 0.3, 10.0, 0.0)),
        ("distance", GoalRule("distance")),
        ("square", None),
    ],
)
def test_the_rule_of_an_environment_is_found_and_held_against_it(rule: str, found: GoalRule | None):
    assert rule_of(Reaching(rule)) == found


class Own(gymnasium.Wrapper):
    """Rewards by a rule of its own."""

    def compute_reward(self, achieved, desired, info):
        return -np.linalg.norm(achieved - desired, axis=-1)


def test_the_rule_is_that_of_the_outermost_wrapper_and_none_where_rewards_are_made_anew():
    assert rule_of(Own(Reaching())) == GoalRule("distance")
    assert rule_of(gymnasium.wrappers.TimeLimit(Own(Reaching()), 5)) == GoalRule("distance", longest=5)
    assert rule_of(gymnasium.wrappers.TransformReward(Reaching(), lambda reward: 10 * reward)) is None
    far = gymnasium.wrappers.TransformObservation(
        Reaching(), lambda seen: {name: 10 * one for name, one in seen.items()}, Reaching().observation_space
    )
    assert rule_of(far) is None  # goals are seen in other units than they are rewarded in


def test_a_run_takes_the_environments_rule_and_joint_actions_and_resumes_exactly(tmp_path):
    from engram import Trainer
    from engram.run.plan import info

    short = {"encoder.widths": (8,), "replay.batch_size": 8, "head.sizes": (), "replay.start": 50}
    given = {"preset": "her", "action_bins": 3, "max_episode_steps": 10, "seed": 3, "overrides": short}
    for name, steps in (("whole", (120,)), ("parts", (60, 120))):
        with Trainer(Reaching, run=tmp_path / name, steps=120, evaluate_every=0, **given) as trainer:
            trainer.learn(steps[0])
            draw, sizes = trainer.plan.agent.draw, trainer.plan.agent.head.sizes
        for _ in steps[1:]:
            with Trainer(Reaching, run=tmp_path / name, resume=True) as trainer:
                trainer.learn()
    assert (draw.within, draw.reached, draw.missed, sizes) == (0.05, 0.0, -1.0, (3,) * 7)
    assert info(tmp_path / "whole")["state_digest"] == info(tmp_path / "parts")["state_digest"]


@pytest.mark.parametrize(
    ("space", "changes", "sentence"),
    [
        (Box((3,)), {}, "draw=hindsight needs a Dict with 'desired_goal' and 'achieved_goal', two vectors"),
        (SPACE, {"draw.within": -1.0}, "was not told how goals are rewarded"),
        (SPACE, {"working": "gru", "replay.window": 4}, "but a working memory learns from windows"),
        (SPACE, {"draw.over": "hindsight"}, "would change goals twice"),
    ],
)
def test_what_cannot_be_learned_in_hindsight_is_refused(space, changes, sentence):
    with pytest.raises((SpaceError, SpecError), match=sentence):
        QLearner(specs.override_all(preset("her", SPACE), {"draw.within": 0.5, **changes}), space, 3)


@pytest.mark.parametrize(
    ("made", "given", "horizon"),
    [
        (Reaching, {}, 100),  # nobody knows how long an episode is
        (lambda: gymnasium.wrappers.TimeLimit(Reaching(), 30), {}, 30),
        (lambda: gymnasium.wrappers.TimeLimit(Reaching(), 30), {"max_episode_steps": 20}, 20),
        (lambda: gymnasium.wrappers.TimeLimit(Reaching(), 30), {"max_episode_steps": 40}, 30),
        (lambda: gymnasium.wrappers.TimeLimit(Reaching(), 5_000), {}, 1_000),
        (lambda: gymnasium.wrappers.TimeLimit(Reaching(), 30), {"draw__horizon": 7}, 7),
        (lambda: gymnasium.wrappers.TimeLimit(Reaching(), 30), {"overrides": {"draw": HindsightSpec(horizon=7)}}, 7),
        ("engram/TwoLinkArm-v0", {"env_args": {"max_steps": 25}}, 25),
        ("engram/TwoLinkArm-v0", {"max_episode_steps": 12}, 12),
    ],
)
def test_goals_are_looked_for_as_far_as_an_episode_goes(made, given: dict, horizon: int):
    from engram import Trainer

    bins = {} if isinstance(made, str) else {"action_bins": 3}
    with Trainer(made, preset="her", steps=100, evaluate_every=0, **bins, **given) as trainer:
        assert trainer.plan.agent.draw.horizon == horizon


def test_robots_learn_from_targets_of_one_reward():
    """Of three they take in what motors did at random, and hindsight takes single steps."""
    assert preset("her", SPACE).n_step == preset("decqn", Box((3,))).n_step == 1
