"""How a Gymnasium environment rewards goals, found by asking its `compute_reward`.

`compute_reward(achieved_goal, desired_goal, info)` is Gymnasium-Robotics' own, and takes arrays of goals. What is
learned from replay with another goal needs its reward in the compiled program. So the rule is found out once, and is
held against the function on random goals: one that is anything else is not taken for it.

Worker processes import this file, so it imports no JAX.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces as gym_spaces

from engram.errors import is_fault
from engram.goals import ACHIEVED, DESIRED, GoalRule

NEAREST, FARTHEST = 1e-6, 1e3  # units of the goal, between which a threshold is looked for
TRIES = 512


def rule_of(env: gymnasium.Env) -> GoalRule | None:
    """The rule of an environment with goals; None for others, and where its rule is none of `GoalRule`."""
    space, compute = getattr(env, "observation_space", None), None if _rewarded_anew(env) else _computes(env)
    goal = space.spaces.get(DESIRED) if isinstance(space, gym_spaces.Dict) and ACHIEVED in space.spaces else None
    if compute is None or goal is None or goal.shape is None or len(goal.shape) != 1:
        return None
    try:
        rule = _found(compute, goal.shape[0])
        return rule and rule.limited(limit_of(env))
    except BaseException as error:
        if not is_fault(error):
            raise
        return None  # it does not take arrays of goals, or needs more of `info` than nobody has


def limit_of(env: gymnasium.Env) -> int | None:
    """Steps after which wrappers of Gymnasium cut an episode off; None for no limit."""
    limits = []
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.TimeLimit):
            limits.append(env._max_episode_steps)
        env = env.env
    return min(limits, default=None)


def _computes(env: Any) -> Any:
    """The outermost `compute_reward`: a wrapper may have its own."""
    return env.get_wrapper_attr("compute_reward") if env.has_wrapper_attr("compute_reward") else None


def _rewarded_anew(env: Any) -> bool:
    """Whether a wrapper changes rewards, or the goals that are seen, of which `compute_reward` knows nothing."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.RewardWrapper | gymnasium.ObservationWrapper):
            return True
        env = env.env
    return False


def _found(compute: Any, size: int) -> GoalRule | None:
    def reward(distance: np.ndarray, goal: np.ndarray, direction: np.ndarray) -> np.ndarray:
        achieved = goal + distance[:, None] * direction
        return np.asarray(compute(achieved, goal, [{}] * len(goal)), np.float64).reshape(len(goal))

    generator = np.random.default_rng(0)
    goal, direction = generator.normal(size=(2, TRIES, size))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    near, far = (reward(np.full(TRIES, distance), goal, direction) for distance in (0.0, FARTHEST))
    rule = GoalRule("distance") if np.allclose(near, 0, atol=1e-9) and np.allclose(far, -FARTHEST) else None
    low, high = NEAREST, FARTHEST
    if rule is None:
        for _ in range(100):
            middle = (low * high) ** 0.5
            hit = reward(np.array([middle]), goal[:1], direction[:1])[0] == near[0]
            low, high = (middle, high) if hit else (low, middle)
        rule = GoalRule("sparse", float(f"{low:.6g}"), float(near[0]) + 0.0, float(far[0]) + 0.0)
    distance = generator.uniform(0, 3 * max(low, NEAREST) if rule.kind == "sparse" else 3.0, TRIES)
    clear = np.abs(distance - rule.within) > 1e-6 * (1 + rule.within)
    asked, told = reward(distance, goal, direction), rule(np, goal + distance[:, None] * direction, goal)
    return rule if np.allclose(asked[clear], told[clear], atol=1e-5) else None
