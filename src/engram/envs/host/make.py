"""Host environments: any Gymnasium environment, in this process or in processes of its own, for a runner.

>>> envs = make_host("CartPole-v1", envs=2, seed=0)
>>> observation = envs.reset()
>>> step = envs.step(np.array([0, 1]))
>>> step.observation.shape, step.reward.tolist(), envs.level
((2, 4), [1.0, 1.0], 'exact')

Read `engram.envs.host.episodes` for seeds and checks, `engram.envs.host.capture` for saving and restoring,
`engram.envs.host.parts` for spaces, `engram.envs.adapters.adapter` for adding a family of environments, and
`engram.envs.adapters.atari` for the preprocessing of games.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import PyTree

from engram import spaces
from engram.envs.host.batch import HostEnvs, HostStep, LocalEnvs
from engram.envs.host.build import Builder, EpisodesMaker, builder_of, ids
from engram.envs.host.capture import exact_registry, register_exact
from engram.envs.host.spaces import Observer
from engram.envs.host.workers import AsyncEnvs, looked_at
from engram.errors import SpecError
from engram.spaces import offered_features
from engram.specs import Number, whole

__all__ = ["HostEnvs", "HostStep", "convert_observation", "convert_space", "host_ids", "make_host", "register_exact"]


def make_host(
    env: str | gymnasium.Env | Callable[[], gymnasium.Env],
    *,
    envs: Number = 1,
    seed: Number,
    asynchronous: bool = False,
    action_bins: Number | None = None,
    env_args: dict[str, Any] | None = None,
    worker_timeout: float = 60,
) -> HostEnvs:
    """A batch of `envs` environments.

    Args:
      env: a registered id; or one environment (for envs = 1, in this process); or a function without arguments that
        makes one at each call.
      seed: the run's seed, >= 0; every episode's own is derived from it (`episodes.episode_seed`).
      asynchronous: each environment in a process of its own.
      action_bins: values per number of a continuous action (`actions.joint_actions`).
      env_args: arguments of the environment's constructor, with an id; for games see `atari.make_atari`.
      worker_timeout: seconds a worker has for one answer, > 0.

    Raises UnknownName, SpecError or SpaceError, in one sentence, before the first step.
    """
    envs, seed = whole("envs", envs, 1), whole("seed", seed, 0)
    action_bins = None if action_bins is None else whole("action_bins", action_bins, 2)
    if not worker_timeout > 0:
        raise SpecError(f"worker_timeout = {worker_timeout!r} was given; expected seconds, more than 0")
    if isinstance(env, gymnasium.Env) and (envs != 1 or asynchronous):
        what = f"envs = {envs}" if envs != 1 else "asynchronous"
        raise SpecError(
            f"one environment was given with {what}; give an id, or a function without arguments that makes one"
        )
    builder = builder_of(env, env_args or {})
    makers = [EpisodesMaker(builder, index, seed, action_bins, exact_registry()) for index in range(envs)]
    if asynchronous:
        return _make_asynchronous(builder, makers, worker_timeout)
    return LocalEnvs(list(makers), builder.description)


def host_ids() -> list[str]:
    """The registered Gymnasium ids, sorted; with those of ale-py, minigrid and popgym where installed."""
    return ids()


def convert_space(space: gymnasium.Space) -> spaces.Space:
    """A Gymnasium observation space as Engram's own. Raises SpaceError for a kind it cannot hold."""
    return Observer(space).space


def convert_observation(space: gymnasium.Space, observation: Any) -> PyTree:
    """One observation of `space`, checked and converted to new NumPy arrays in the tree of `convert_space(space)`.

    Raises EnvironmentFault where the observation does not belong to the space.
    """
    observer = Observer(space)
    return observer.tree([np.array(array) for array in observer(observation)])


def _make_asynchronous(builder: Builder, makers: list[EpisodesMaker], worker_timeout: float) -> AsyncEnvs:
    """The spaces must be known before the workers start, which share memory. A worker of its own finds them out.

    An environment that hangs or exits when it is made, reset or closed would else do so in this process.
    """
    seen = looked_at(makers[0], worker_timeout)
    observer = Observer(seen.source)
    offered_features(observer.space, len(seen.table))
    makers = [replace(maker, masked=seen.masked) for maker in makers]
    description = "; ".join(filter(None, (builder.description, seen.remark)))
    return AsyncEnvs(makers, observer, seen.table, description, worker_timeout, seen.clip, seen.notes)
