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
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv
from jaxtyping import PyTree

from engram import spaces
from engram.envs.host import own
from engram.envs.host.batch import HostEnvs, HostStep, LocalEnvs
from engram.envs.host.build import Builder, EpisodesMaker, builder_of, ids
from engram.envs.host.capture import exact_registry, register_exact
from engram.envs.host.spaces import Observer
from engram.envs.host.vector import VectorEnvs, separate
from engram.envs.host.workers import AsyncEnvs, looked_at
from engram.errors import SpecError
from engram.spaces import offered_features
from engram.specs import Number, whole, whole_if_given

__all__ = ["HostEnvs", "HostStep", "convert_observation", "convert_space", "host_ids", "make_host", "register_exact"]


Given = str | gymnasium.Env | VectorEnv | Callable[[], gymnasium.Env] | Callable[[], VectorEnv]


def make_host(
    env: Given,
    *,
    envs: Number = 1,
    seed: Number,
    asynchronous: bool = False,
    action_bins: Number | None = None,
    env_args: dict[str, Any] | None = None,
    worker_timeout: float = 60,
    max_episode_steps: Number | None = None,
    to_play: bool = False,
    first_index: int = 0,
) -> HostEnvs:
    """A batch of `envs` environments.

    Args:
      env: a registered id; or one environment (for envs = 1, in this process); or a function without arguments that
        makes one at each call; or a vector environment, or a function that makes one.
      seed: the run's seed, >= 0; every episode's own is derived from it (`episodes.episode_seed`).
      asynchronous: each environment in a process of its own.
      action_bins: values per number of a continuous action (`actions.joint_actions`).
      env_args: arguments of the environment's constructor, with an id; for games see `atari.make_atari`.
      worker_timeout: seconds a worker has for one answer, > 0.
      max_episode_steps: an episode that has not ended after so many steps is truncated.
      to_play: for evaluation. Nothing will be saved, so nothing is tried out; fewer environments than `envs` will do
        where no more can be made; and an environment that somebody plays in already is refused.
      first_index: of the environments of a run, where others are made elsewhere; their seeds follow from it.

    Raises UnknownName, SpecError or SpaceError, in one sentence, before the first step.
    """
    envs, seed = whole("envs", envs, 1), whole("seed", seed, 0)
    action_bins = whole_if_given("action_bins", action_bins, 2)
    max_episode_steps = whole_if_given("max_episode_steps", max_episode_steps, 1)
    if not worker_timeout > 0:
        raise SpecError(f"worker_timeout = {worker_timeout!r} was given; expected seconds, more than 0")
    if isinstance(env, gymnasium.Env | VectorEnv):
        _check_alone(env, envs, asynchronous)
    builder = replace(builder_of(env, env_args or {}), apart=to_play)
    first: Any = None if isinstance(env, str) or asynchronous else builder.made()
    if isinstance(first, VectorEnv) and not to_play:  # where another number will do
        _check_alone(first, envs, asynchronous)
    builders = _builders(builder, first, envs)
    if builders is None:
        if first_index:
            raise SpecError(f"{first} steps its environments together, and they cannot be shared among actors")
        return _make_vector(first, seed, action_bins, max_episode_steps, to_play)
    about = {"limit": max_episode_steps, "alone": asynchronous or len(builders) == 1}
    about |= {"level": "boundary"} if to_play else {}
    makers = [
        EpisodesMaker(each, index, seed, action_bins, exact_registry(), **about)
        for index, each in enumerate(builders, start=first_index)
    ]
    if asynchronous:
        return _make_asynchronous(builder, makers, worker_timeout)
    return LocalEnvs(list(makers), builder.description, fewer=to_play)


def _builders(builder: Builder, first: Any, envs: int) -> list[Builder] | None:
    """One for each environment, of which `first` may have been made; None for a vector that is stepped as a whole."""
    if first is None:
        return [builder] * envs
    parts = separate(first) if isinstance(first, VectorEnv) else [first]
    if parts is None:
        return None
    made = [replace(builder, make=partial(_once, [part])) for part in parts]
    return made if isinstance(first, VectorEnv) else [*made, *[builder] * (envs - 1)]


def _once(given: list[Any]) -> Any:
    """What is given, which can be taken once only."""
    return given.pop()


def _check_alone(env: gymnasium.Env | VectorEnv, envs: int, asynchronous: bool) -> None:
    """SpecError where more is asked of a ready environment than it is."""
    ready = env.num_envs if isinstance(env, VectorEnv) else 1
    if envs not in (1, ready) or asynchronous:
        what = f"envs = {envs}" if envs not in (1, ready) else "asynchronous"
        given = "one environment" if ready == 1 else f"a vector environment of {ready}"
        raise SpecError(
            f"{given} was given with {what}; give an id, or a function without arguments that makes one environment"
        )


def _make_vector(
    vector: VectorEnv, seed: int, action_bins: int | None, max_episode_steps: int | None, to_play: bool
) -> VectorEnvs:
    """A vector environment that cannot be taken apart."""
    if to_play and own.in_use(vector):
        raise SpecError(
            f"training is in {vector}, and evaluation plays in an environment of its own; write evaluate(env=...) with "
            f"another, or give a function that makes one"
        )
    if max_episode_steps is not None and not to_play:
        raise SpecError(
            f"max_episode_steps = {max_episode_steps} was given, and {vector} ends its episodes itself; make it with "
            f"that limit, or name the environment and give envs={vector.num_envs}"
        )
    return VectorEnvs(vector, seed, action_bins)


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

    An environment that hangs or exits when it is made, reset or closed would else do so in this process. What it was
    found to be is told to all others, so that none of them is tried out again.
    """
    seen = looked_at(makers[0], worker_timeout)
    observer = Observer(seen.source)
    offered_features(observer.space, len(seen.table))
    makers = [replace(maker, masked=seen.masked, level=seen.level) for maker in makers]
    description = "; ".join(filter(None, (builder.description, seen.remark)))
    return AsyncEnvs(makers, observer, seen.table, description, worker_timeout, seen.clip, seen.notes, seen.goal_rule)
