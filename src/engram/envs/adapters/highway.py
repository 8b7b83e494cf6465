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
    kind: Any = getattr(env.unwrapped, "observation_type", None)
    if type(kind).__name__ == "KinematicObservation" and isinstance(env.observation_space, gym_spaces.Box):
        env.observation_space.unordered = True  # type: ignore[attr-defined]  # see spaces.Box
        env.observation_space.columns = columns(kind)  # type: ignore[attr-defined]
    return env


def columns(kind: Any) -> tuple[tuple[str, float], ...]:
    """Names and units of a row's numbers, by the settings of a `Kinematics` observation; () where its rows are told
    from the agent's own place already (`absolute=False`), or their units are not.
    """
    ranges = (kind.features_range or {}) if kind.normalize else dict.fromkeys(kind.features, (-1, 1))
    measured = [name for name in kind.features if name in ("x", "y", "vx", "vy")]
    if not kind.absolute or any(name not in ranges for name in measured):
        return ()
    halves = {name: (ranges[name][1] - ranges[name][0]) / 2 for name in measured}
    return tuple((name, float(halves.get(name, 1.0))) for name in kind.features)


ADAPTER = Adapter(
    ("intersection-", "highway-", "merge-", "roundabout-"), module="highway_env", extra="driving", make=make
)
