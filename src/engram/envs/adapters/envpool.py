"""One environment of envpool (C++), as Gymnasium environments are used: `envpool/HighwayFast-v0`, any other of its ids.

envpool seeds an environment only when it is made, so each reset makes a new one. That takes 0.5 ms for the driving
tasks, and more for a game or a simulator with assets. An episode thus depends on its own seed alone, as everywhere.

**Some tasks have one episode only.** In envpool 1.2.5 the driving tasks Highway, HighwayFast and Merge differ from seed
to seed. Intersection, Roundabout, Exit, TwoWay, UTurn, LaneKeeping and Racetrack play the same episode whatever their
seed, which a fixed list of actions solves. highway-env's own `intersection-v2` has as many episodes as seeds.

How a driving episode ended is in `info["crashed"]`, and whether it met its goal in `info["is_success"]`: on highways
and roundabouts to last without a crash, elsewhere to have arrived, which is to terminate without one.

Worker processes import this file, so it imports no JAX; envpool, which does, is imported only when it is asked for.
"""

from difflib import get_close_matches
from typing import Any

import gymnasium
import numpy as np

from engram.envs.adapters.adapter import Adapter
from engram.errors import SpecError, UnknownName

PREFIX = "envpool/"
_ROADS = ("Highway-v0", "HighwayFast-v0", "Roundabout-v0")  # whose goal is to last: a crash is their only end
_DRIVING = (*_ROADS, "Intersection-v0", "Merge-v0")


def register_task(env_id: str) -> None:
    """Makes `envpool/<task>` known to Gymnasium. Whether envpool has the task shows when it is made."""
    task = env_id.removeprefix(PREFIX)
    gymnasium.register(env_id, entry_point="engram.envs.adapters.envpool:EnvPool", kwargs={"task": task})


def register_driving() -> None:
    """Makes the driving tasks known to Gymnasium, so that they are listed."""
    for task in _DRIVING:
        if PREFIX + task not in gymnasium.registry:
            register_task(PREFIX + task)


def reward_clip(env: gymnasium.Env) -> float:
    """That of Atari games, the only tasks with a `reward_clip` of their own; theirs is off unless it is asked for."""
    config = env.unwrapped._pool.spec.config  # type: ignore[attr-defined]
    return 1.0 if hasattr(config, "reward_clip") else 0.0


# By hand: envpool does not register its tasks with Gymnasium, and has too many to list.
ADAPTER = Adapter(
    (PREFIX,),
    module="envpool",
    extra="driving",
    by_hand=register_driving,
    register_id=register_task,
    reward_clip=reward_clip,
)


class EnvPool(gymnasium.Env):
    """One environment of `task`; `arguments` are those of `envpool.make`.

    Raises UnknownName for a task that envpool lacks, and SpecError for one with several players.
    """

    def __init__(self, task: str, **arguments: Any):
        import envpool  # pyright: ignore[reportMissingImports], of the extra `driving`

        tasks = envpool.list_all_envs()
        if task not in tasks:
            near = get_close_matches(task, tasks, n=1)
            way_out = f"did you mean {near[0]!r}?" if near else "envpool.list_all_envs() names them"
            raise UnknownName(f"envpool has no task {task!r}; {way_out}")
        self._make, self._task, self._arguments = envpool.make_gymnasium, task, arguments
        self._pool = self._pool_of(0)
        players = getattr(self._pool.spec.config, "max_num_players", 1)
        if players != 1:
            raise SpecError(f"{PREFIX}{task} has {players} players; choose a task with one")
        self.observation_space = self._pool.observation_space
        if task in _DRIVING:  # rows are vehicles, whose order says nothing
            self.observation_space.unordered = True  # type: ignore[attr-defined]
        self.action_space = self._pool.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Gymnasium's, in a new environment."""
        super().reset(seed=seed, options=options)
        self._pool.close()
        self._pool = self._pool_of(int(self.np_random.integers(2**31)) if seed is None else seed)
        observation, info = self._pool.reset()
        return _only(observation), _only(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Gymnasium's."""
        results = self._pool.step(np.asarray(action)[None])
        observation, reward, terminated, truncated, info = map(_only, results)
        if self._task in _DRIVING:
            met = (terminated | truncated) if self._task in _ROADS else terminated
            info["is_success"] = float(met and not info["crashed"])
        return observation, float(reward), bool(terminated), bool(truncated), info

    def close(self) -> None:
        """Ends the environment's thread."""
        self._pool.close()

    def _pool_of(self, seed: int) -> Any:
        return self._make(self._task, **{"num_threads": 1, **self._arguments, "num_envs": 1, "seed": seed})


def _only(batch: Any) -> Any:
    """A tree of batches of one, without their batch axis."""
    if isinstance(batch, dict):
        return {name: _only(part) for name, part in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(_only(part) for part in batch)
    return batch[0] if np.ndim(batch) else batch
