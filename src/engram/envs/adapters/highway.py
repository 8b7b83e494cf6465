"""highway-env's tasks: Gymnasium's own, and their rows of vehicles are told to be a set.

Worker processes import this file, so it imports no JAX; highway-env is imported only when one of its tasks is made.
"""

from typing import Any

import gymnasium
from gymnasium import spaces as gym_spaces
from gymnasium.envs.registration import EnvSpec

from engram.envs.adapters import plain
from engram.envs.adapters.adapter import Adapter


def make(spec: EnvSpec, env_args: dict[str, Any]) -> gymnasium.Env:
    """The environment. A row of its `Kinematics` observation is a vehicle, the first one the agent's own."""
    env = plain.make(spec, env_args)
    seen = type(getattr(env.unwrapped, "observation_type", None)).__name__
    if seen == "KinematicObservation" and isinstance(env.observation_space, gym_spaces.Box):
        env.observation_space.unordered = True  # type: ignore[attr-defined]  # see spaces.Box
    return env


ADAPTER = Adapter(
    ("intersection-", "highway-", "merge-", "roundabout-"), module="highway_env", extra="driving", make=make
)
