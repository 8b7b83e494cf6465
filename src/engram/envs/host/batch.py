"""What a runner sees of host environments, and the loop over those that live in this process."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

import gymnasium
import numpy as np
from jaxtyping import PyTree

from engram.envs.host import capture as capturing
from engram.envs.host import own
from engram.envs.host.actions import sizes_of
from engram.envs.host.build import reward_clip
from engram.envs.host.episodes import Episodes, Level
from engram.envs.host.spaces import Translator
from engram.errors import CheckpointError, EngramError, EnvironmentFault
from engram.goals import GoalRule
from engram.spaces import Space, offered_features

_LEVELS: tuple[Level, ...] = ("boundary", "replayed", "exact")  # weakest first
FORMAT = 1


class HostStep(NamedTuple):
    """What one action in every environment led to. All arrays are new.

    `idle` marks steps that were none: a ready vector environment that resets in the step after an end takes no action
    there. Nothing is learned from them. Their observation is the first one of the next episode.
    """

    observation: PyTree  # [envs, ...] what to act on next: the next episode's first observation where done
    reward: np.ndarray  # float32 [envs], as the environment gave it
    terminated: np.ndarray  # bool [envs]
    done: np.ndarray  # bool [envs]: terminated or truncated; the environment has been reset in the same step
    final_observation: PyTree  # [envs, ...] the ended episode's last observation where done, anything elsewhere
    numbers: Mapping[int, Mapping[str, float]] = MappingProxyType({})  # in an ended episode's last `info`, by index
    idle: np.ndarray | None = None  # bool [envs]; None where every step was one
    cut: tuple[int, ...] = ()  # where max_episode_steps alone ended an episode; ready vectors do not tell


class HostEnvs(Protocol):
    """A batch of environments, stepped together."""

    observation_space: Space
    actions: int
    action_sizes: tuple[int, ...]  # how many values each number of an action has; () for single numbers
    goal_rule: GoalRule | None  # how a goal that was achieved is rewarded; None where there is no such rule
    envs: int
    level: Literal["exact", "replayed", "boundary"]
    description: str
    reward_clip: float  # what the field clips rewards to while learning; 0 for nothing
    translator: Translator  # for observations and actions of somebody else's loop; asks no environment
    notes: list[str]  # sentences about the environments that a user should read
    anew: np.ndarray  # bool [envs]: where the last restore began a new episode; False before any

    def accept_missing(self) -> None:
        """From now on a NaN in what is seen is a missing number, and no fault."""
        ...

    def reset(self) -> PyTree:
        """Starts episode 0 of every environment; returns observations [envs, ...]."""
        ...

    def step(self, actions: np.ndarray) -> HostStep:
        """One action (int, 0..actions-1) in each of the environments."""
        ...

    def capture(self) -> capturing.Snapshot:
        """The environments' state: JSON values (`levels`: how exactly each can be restored) and arrays.

        Also possible after an EnvironmentFault, until `close`: what can no longer be saved within its episode has
        level "boundary" then. At level "replayed" the actions saved grow with the episode.
        """
        ...

    def restore(self, meta: dict[str, Any], arrays: dict[str, np.ndarray], new_episodes: bool = False) -> PyTree:
        """Takes up a captured state; returns its observations [envs, ...], and sets `anew`.

        Raises CheckpointError for another number of environments or seed, and where an environment cannot be restored
        exactly; with `new_episodes` that environment begins its next episode, as at level "boundary".
        """
        ...

    def close(self) -> None:
        """Frees everything held; nothing can be done afterwards."""
        ...

    def leave(self) -> None:
        """In place of `close`, for environments that were given: they stay open, and others may play in them."""
        ...


class LocalEnvs:
    """Environments in this process, one after the other.

    Gymnasium's SyncVectorEnv would do, at several times the cost per step of a small environment.

    Args:
      fewer: whether fewer environments than makers will do, where no more can be made beside the first.
    """

    def __init__(self, makers: list[Callable[..., Episodes]], description: str, fewer: bool = False):
        self._episodes = made(makers, fewer)
        first = self._episodes[0]
        self._observer = first.observer
        self.notes = first.notes
        self.translator = Translator(first.observer, first.action_table)
        self.envs = len(self._episodes)
        self._shapes = [((self.envs, *part.shape), part.dtype) for part in first.observer.parts]
        self.observation_space = shown_space(first)
        self.actions, self.action_sizes = first.actions, sizes_of(first.action_table)
        self.goal_rule = first.goal_rule
        self.level: Level = weakest([episodes.level for episodes in self._episodes])
        self.description = "; ".join(filter(None, (description, first.remark)))
        self.reward_clip = reward_clip(first.env)
        self.anew = np.zeros(self.envs, np.bool_)

    def accept_missing(self) -> None:
        """See HostEnvs."""
        for episodes in self._episodes:
            episodes.accept_missing()

    @property
    def instances(self) -> list[gymnasium.Env]:
        """The environments themselves, so that nobody else plays in them."""
        return [episodes.env for episodes in self._episodes]

    def reset(self) -> PyTree:
        """See HostEnvs."""
        return self._batch([episodes.begin(0) for episodes in self._episodes])

    def step(self, actions: np.ndarray) -> HostStep:
        """See HostEnvs."""
        reward = np.empty(self.envs, np.float32)
        terminated = np.empty(self.envs, np.bool_)
        done = np.empty(self.envs, np.bool_)
        columns = [np.empty(shape, dtype) for shape, dtype in self._shapes]
        finals: list[tuple[int, list[Any]]] = []
        numbers: dict[int, dict[str, float]] = {}
        cut: list[int] = []
        for index, (episodes, action) in enumerate(zip(self._episodes, actions.tolist(), strict=True)):
            try:
                arrays, reward[index], terminated[index], ended = episodes.step(action)
                done[index] = ended
                if ended:
                    finals.append((index, [np.array(array) for array in arrays]))  # the reset may use its buffer
                    if episodes.numbers:
                        numbers[index] = episodes.numbers
                    if episodes.cut:
                        cut.append(index)
                    arrays = episodes.begin()
            except BaseException:
                for moved in self._episodes[:index]:  # nobody will see what they did in this step
                    moved.torn = True
                raise
            for column, array in zip(columns, arrays, strict=True):
                column[index] = array
        observation = self._observer.tree(columns)
        final = self._finals(columns, finals) if finals else observation
        return HostStep(observation, reward, terminated, done, final, numbers, cut=tuple(cut))

    def capture(self) -> capturing.Snapshot:
        """See HostEnvs."""
        return join_snapshots([capturing.capture(episodes) for episodes in self._episodes], self._episodes[0].seed)

    def restore(self, meta: dict[str, Any], arrays: dict[str, np.ndarray], new_episodes: bool = False) -> PyTree:
        """See HostEnvs."""
        captured = split_snapshots(meta, arrays, self.envs, self._episodes[0].seed)
        parts = zip(self._episodes, captured, strict=True)
        restored = [capturing.restore(episodes, state, new_episodes) for episodes, state in parts]
        self.anew = np.array([anew for _, anew in restored], np.bool_)
        return self._batch([rows for rows, _ in restored])

    def close(self) -> None:
        """See HostEnvs."""
        self.leave()
        for episodes in self._episodes:
            episodes.close()

    def leave(self) -> None:
        """See HostEnvs."""
        for episodes in self._episodes:
            own.leave(episodes)

    def _batch(self, rows: list[list[Any]]) -> PyTree:
        return stack(rows, self._shapes, self._observer.tree)

    def _finals(self, columns: list[np.ndarray], finals: list[tuple[int, list[Any]]]) -> PyTree:
        columns = [column.copy() for column in columns]
        for index, arrays in finals:
            for column, array in zip(columns, arrays, strict=True):
                column[index] = array
        return self._observer.tree(columns)


def made(makers: list[Callable[..., Episodes]], fewer: bool) -> list[Episodes]:
    """The episodes of every maker, alike and of distinct environments, or of those that could be made if `fewer`.

    If the rest fails, what was made is closed again.
    """
    episodes: list[Episodes] = []
    try:
        for maker in makers:
            try:
                another = maker(*episodes[:1])
                check_distinct([*episodes, another])
            except EngramError:
                if fewer and episodes:
                    break
                raise
            episodes.append(another)
            own.play_in(another)
            first = episodes[0]
            check_alike(
                another.index,
                (another.observer.signature(), another.actions),
                (first.observer.signature(), first.actions),
            )
    except BaseException:
        for each in episodes:
            own.leave(each)
            each.close()
        raise
    return episodes


def shown_space(episodes: Episodes) -> Space:
    """What the agent will be shown; SpaceError where the actions on offer are not one row for each action."""
    offered_features(episodes.observer.space, episodes.actions)
    return episodes.observer.space


def stack(
    rows: list[list[Any]], shapes: list[tuple[tuple[int, ...], np.dtype]], tree: Callable[[list[Any]], Any]
) -> PyTree:
    """The arrays of each environment's observation as one new observation [envs, ...]."""
    columns = [np.empty(shape, dtype) for shape, dtype in shapes]
    for index, arrays in enumerate(rows):
        for column, array in zip(columns, arrays, strict=True):
            column[index] = array
    return tree(columns)


def weakest(levels: list[Level]) -> Level:
    """The capture level of environments together."""
    return min(levels, key=_LEVELS.index)


def check_alike(index: int, given: Any, expected: Any) -> None:
    """Raises EnvironmentFault unless environment `index` has the observations and actions of environment 0."""
    if given != expected:
        raise EnvironmentFault(
            f"environment {index} has observations {given[0]} and {given[1]} actions, environment 0 has {expected[0]} "
            f"and {expected[1]}; environments that are stepped together must agree"
        )


def check_distinct(episodes: list[Episodes]) -> None:
    """Raises EnvironmentFault if a function returned one instance more than once."""
    if len({id(each.env) for each in episodes}) < len(episodes):
        raise EnvironmentFault("the function returned the same environment twice; it must make a new one at each call")


def join_snapshots(snapshots: list[capturing.Snapshot], seed: int) -> capturing.Snapshot:
    """The states of single environments as one: names in `arrays` begin with the environment's index."""
    metas = [meta for meta, _ in snapshots]
    joined = {"format": FORMAT, "seed": seed, "levels": [meta["level"] for meta in metas], "environments": metas}
    return joined, {
        f"{index}.{name}": array for index, (_, arrays) in enumerate(snapshots) for name, array in arrays.items()
    }


def split_snapshots(
    meta: dict[str, Any], arrays: dict[str, np.ndarray], envs: int, seed: int
) -> list[capturing.Snapshot]:
    """The inverse of `join_snapshots`. Raises CheckpointError for a state of other environments or another seed."""
    if meta.get("format") != FORMAT or not isinstance(meta.get("environments"), list):
        raise CheckpointError(
            f"the saved environments have format {meta.get('format')!r}, expected {FORMAT}; start the run again"
        )
    if len(meta["environments"]) != envs:
        raise CheckpointError(
            f"{len(meta['environments'])} environments were saved, {envs} are here; resume with the same number"
        )
    if meta.get("seed") != seed:
        raise CheckpointError(
            f"the environments were saved with seed {meta.get('seed')}, {seed} was given; resume with the same seed"
        )
    split: list[capturing.Snapshot] = [(state, {}) for state in meta["environments"]]
    for name, array in arrays.items():
        index, _, rest = name.partition(".")
        if not index.isdigit() or int(index) >= envs:
            raise CheckpointError(
                f"the saved environments hold {name!r}, which belongs to none of {envs}; start the run again"
            )
        split[int(index)][1][rest] = array
    return split
