"""A look at an environment in a process of its own, before the workers start that share memory with this one."""

from collections.abc import Callable
from multiprocessing import parent_process
from typing import Any, NamedTuple

import gymnasium

from engram.envs.host.actions import Table
from engram.envs.host.build import reward_clip
from engram.envs.host.episodes import Episodes, Level, fault_of, leave_signals_to_the_main_process
from engram.goals import GoalRule


class Looked(NamedTuple):
    """What has to be known of an environment before its workers start."""

    source: gymnasium.Space  # what is observed, the mask included
    table: Table  # the environment's action for each index
    masked: Any  # see `Episodes`
    level: Level  # how exactly it can be captured
    clip: float  # what the field of the environment clips rewards to, 0 for nothing
    remark: str  # what is to be said of it
    notes: list[str]  # see `Episodes`
    goal_rule: GoalRule | None  # see `Episodes`


class LookingEnvironment(gymnasium.Env):
    """Finds `Looked` out in a worker process. Sent there empty, as `WorkerEnvironment` is."""

    observation_space = action_space = gymnasium.spaces.Discrete(1)

    def __init__(self, make: Callable[[], "Episodes"]):
        self._make = make
        self._episodes: Episodes | None = None

    def look(self) -> Looked | dict[str, Any]:
        """Makes the environment; what it is, or a fault."""
        if parent_process() is not None:
            leave_signals_to_the_main_process()
        try:
            episodes = self._episodes = self._make()
            seen, clip = episodes.observer.source, reward_clip(episodes.env)
            about = episodes.masked, episodes.level, clip, episodes.remark, episodes.notes, episodes.goal_rule
            return Looked(seen, episodes.action_table, *about)
        except BaseException as error:
            return fault_of(error)

    def close(self) -> None:
        """Closes the environment, if it was made."""
        if self._episodes is not None:
            self._episodes.close()
