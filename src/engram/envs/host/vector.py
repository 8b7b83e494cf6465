"""Ready vector environments: `gymnasium.make_vec`, `SyncVectorEnv`, or any other `gymnasium.vector.VectorEnv`.

A plain SyncVectorEnv is taken apart: its environments are stepped one by one, so that seeds and resuming are as exact
as for others. Any other is stepped as it is. It resets its environments itself, so only their first episodes have
seeds of Engram's, and a resumed run begins new episodes.

| autoreset mode | what happens after an end                                                            |
|----------------|--------------------------------------------------------------------------------------|
| `SAME_STEP`    | the step that ends an episode shows the next one; `info["final_obs"]` is its end      |
| `NEXT_STEP`    | the next step takes no action and shows the next episode: it is marked `idle`         |
| `DISABLED`     | Engram resets what ended, with a seed for each episode                                |
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from gymnasium.error import Error as GymnasiumError
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import iterate
from jaxtyping import PyTree

from engram.envs.host import capture as capturing
from engram.envs.host import own
from engram.envs.host.actions import sizes_of, table_of
from engram.envs.host.batch import HostStep, join_snapshots, split_snapshots, stack
from engram.envs.host.episodes import LARGEST_REWARD, Level, episode_seed, numbers_of, raised
from engram.envs.host.masks import METHOD
from engram.envs.host.spaces import Observer, Translator
from engram.errors import EnvironmentFault, SpaceError, SpecError, is_fault
from engram.goals import GoalRule
from engram.spaces import MASK, offered_features


def separate(vector: VectorEnv) -> list[Any] | None:
    """The environments of a vector that does nothing but step them in turn; None for any other."""
    return list(vector.envs) if type(vector) is SyncVectorEnv else None


def autoreset_mode(vector: VectorEnv) -> AutoresetMode:
    """When a vector environment resets what ended. SpecError for one that does not say."""
    mode = vector.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(mode)
    except ValueError:
        raise SpecError(
            f"{vector} does not say when it resets (metadata['autoreset_mode'] is {mode!r}); set it to a "
            f"gymnasium.vector.AutoresetMode, or name the environment and give envs={vector.num_envs} "
            f"(--envs {vector.num_envs})"
        ) from None


def _asks_masks(vector: VectorEnv) -> bool:
    """Whether the vector or an environment in it says by a method which actions are allowed."""
    inner = vector.unwrapped
    if isinstance(inner, SyncVectorEnv | AsyncVectorEnv):
        return any(inner.call("has_wrapper_attr", METHOD))
    return hasattr(inner, METHOD)


class VectorEnvs:
    """A vector environment as it is; see `HostEnvs`."""

    level: Level = "boundary"
    reward_clip = 0.0
    goal_rule: GoalRule | None = None  # its environments are not asked

    def __init__(self, vector: VectorEnv, seed: int, action_bins: int | None):
        self.env: Any = vector  # Gymnasium's own types leave out lists of seeds
        self._mode = autoreset_mode(vector)
        self._observer = observer = Observer(vector.single_observation_space)
        self._table = table_of(vector.single_action_space, action_bins)
        self.translator = Translator(observer, self._table)
        self.observation_space, self.actions = observer.space, len(self._table)
        self.action_sizes = sizes_of(self._table)
        offered_features(self.observation_space, self.actions)
        if observer.mask is not None and observer.parts[observer.mask].shape != (self.actions,):
            raise SpaceError(f"the observation's part {MASK!r} needs one flag for each of {self.actions} actions")
        if observer.mask is None and _asks_masks(vector):
            raise SpecError(
                f"{METHOD}() of a vector environment is not read; put the mask into a Dict observation, or name the "
                f"environment and give envs={vector.num_envs} (--envs {vector.num_envs})"
            )
        self.envs, self._seed = vector.num_envs, seed
        self._shapes = [((self.envs, *part.shape), part.dtype) for part in observer.parts]
        self.description = f"{vector} (resets: {self._mode.name})"
        self.notes = [
            "a ready vector environment resets itself, so a resumed run begins new episodes; for an exact one, name "
            f"the environment and give envs={self.envs} (--envs {self.envs})"
        ]
        self.anew = np.zeros(self.envs, np.bool_)
        self._episode = np.full(self.envs, -1)
        self._elapsed = np.zeros(self.envs, np.int64)
        self._ended = np.zeros(self.envs, np.bool_)  # in the step before, and not yet reset
        own.play_in(self)

    def accept_missing(self) -> None:
        """See HostEnvs."""
        self._observer.accept_missing(True)

    def reset(self) -> PyTree:
        """See HostEnvs."""
        return self._begin(np.zeros(self.envs, np.int64))

    def step(self, actions: np.ndarray) -> HostStep:
        """See HostEnvs."""
        idle = self._ended.copy()
        self._elapsed += ~idle
        with self._named("step"):
            observation, reward, terminated, truncated, info = self.env.step(self._table[np.asarray(actions)])
        columns = self._columns(observation, info)
        reward = self._rewards(reward)
        terminated = self._numbers("terminated", terminated, "b")
        done = terminated | self._numbers("truncated", truncated, "b")
        final, numbers = columns, {}
        self._ended = done.copy() if self._mode is AutoresetMode.NEXT_STEP else np.zeros_like(done)
        if done.any():
            numbers = self._numbers_in(info, done)
            columns, final = self._after_ends(columns, info, done)
        self._elapsed[done] = 0
        return HostStep(
            self._observer.tree(columns), reward, terminated, done, self._observer.tree(final),
            numbers, idle=idle if idle.any() else None,
        )  # fmt: skip

    def _after_ends(
        self, columns: list[np.ndarray], info: dict[str, Any], done: np.ndarray
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """What is shown next, and the last observations of what ended."""
        self._episode += done
        if self._mode is AutoresetMode.NEXT_STEP:
            return columns, columns
        if self._mode is AutoresetMode.DISABLED:
            with self._named("reset"):
                begun, _ = self._reset(shared=None, options={"reset_mask": done.copy()})
            return self._columns(begun, {}), columns
        final = [column.copy() for column in columns]
        for index in np.flatnonzero(done):
            shown = info.get("final_obs", [None] * self.envs)[index]
            if shown is None:
                raise self._fault(int(index), "info has no 'final_obs' of an episode that ended, as SAME_STEP asks for")
            for column, array in zip(final, self._read(int(index), shown), strict=True):
                column[index] = array
        return columns, final

    def _numbers_in(self, info: Any, done: np.ndarray) -> dict[int, dict[str, float]]:
        """Those that the environments told at the ends of their episodes, by index."""
        if isinstance(info, dict) and self._mode is AutoresetMode.SAME_STEP:  # the rest tells of the next episode
            info = info.get("final_info")
        if not isinstance(info, dict):
            return {}
        rows = {name: values for name, values in info.items() if isinstance(values, np.ndarray) and values.ndim == 1}
        everywhere = np.ones(self.envs, np.bool_)
        found = {
            int(index): numbers_of(
                {
                    name: values[index]
                    for name, values in rows.items()
                    if name[:1] != "_" and len(values) == self.envs and rows.get(f"_{name}", everywhere)[index]
                }
            )
            for index in np.flatnonzero(done)
        }
        return {index: numbers for index, numbers in found.items() if numbers}

    @contextmanager
    def _named(self, call: str) -> Iterator[None]:
        """Names what a call raises, also an exit; a Ctrl-C stays one."""
        try:
            yield
        except BaseException as error:
            if not is_fault(error):
                raise
            raise self._fault(0, raised(call, error)) from error

    def _begin(self, episode: np.ndarray) -> PyTree:
        self._episode, self._elapsed = episode, np.zeros(self.envs, np.int64)
        self._ended = np.zeros(self.envs, np.bool_)
        with self._named("reset"):
            observation, info = self._reset(shared=self._seeds()[0])
        return self._observer.tree(self._columns(observation, info))

    def _reset(self, shared: int | None, **options: Any) -> Any:
        """With a seed for each environment; where they share one generator, with the one seed that they take."""
        try:
            return self.env.reset(seed=self._seeds(), **options)
        except (GymnasiumError, TypeError) as error:
            if "seed" not in str(error).lower():
                raise
            return self.env.reset(seed=shared, **options)

    def _seeds(self) -> list[int]:
        return [episode_seed(self._seed, index, int(episode)) for index, episode in enumerate(self._episode)]

    def _columns(self, observation: Any, info: dict[str, Any]) -> list[np.ndarray]:
        """New arrays [envs, ...] of every part, checked."""
        if MASK in info and self._observer.mask is None:
            raise SpecError(
                f"info[{MASK!r}] of a vector environment is not read; put the mask into a Dict observation, or name "
                f"the environment and give envs={self.envs}"
            )
        parts = self._observer.parts
        whole = observation if isinstance(observation, np.ndarray) else None
        same = whole is not None and len(parts) == 1 and whole.dtype == parts[0].dtype == parts[0].given
        if whole is not None and same and whole.shape == self._shapes[0][0] and np.isfinite(whole).all():
            return [whole.copy()]  # the hot path: nothing to convert
        rows = [self._read(index, row) for index, row in enumerate(iterate(self.env.observation_space, observation))]
        if len(rows) != self.envs:
            raise self._fault(0, f"{len(rows)} observations were shown, expected {self.envs}")
        return stack(rows, self._shapes, list)

    def _read(self, index: int, observation: Any) -> list[Any]:
        try:
            return self._observer(observation)
        except EnvironmentFault as fault:
            raise self._fault(index, f"{fault}: return what observation_space declares") from fault

    def _numbers(self, field: str, values: Any, kinds: str) -> np.ndarray:
        array = np.asarray(values)
        if array.shape != (self.envs,) or array.dtype.kind not in kinds:
            raise self._fault(0, f"{field} is {array.dtype}{array.shape}, expected {self.envs} of them")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            index = int(np.argmin(np.isfinite(array)))
            raise self._fault(index, f"{field} is {array[index]}, expected one finite number")
        return array

    def _rewards(self, values: Any) -> np.ndarray:
        """As float32, which holds no number above 3.4e38."""
        array = self._numbers("reward", values, "biuf")
        large = np.abs(array.astype(np.float64)) > LARGEST_REWARD
        if large.any():
            index = int(np.argmax(large))
            raise self._fault(index, f"reward is {array[index]}, expected one finite number that float32 can hold")
        return array.astype(np.float32)

    def capture(self) -> capturing.Snapshot:
        """See HostEnvs."""
        return join_snapshots([capturing.at_boundary(int(episode)) for episode in self._episode], self._seed)

    def restore(self, meta: dict[str, Any], arrays: dict[str, np.ndarray], new_episodes: bool = False) -> PyTree:
        """See HostEnvs."""
        captured = split_snapshots(meta, arrays, self.envs, self._seed)
        self.anew = np.ones(self.envs, np.bool_)
        return self._begin(np.array([state["episode"] + 1 for state, _ in captured]))

    def close(self) -> None:
        """See HostEnvs."""
        self.leave()
        self.env.close()

    def leave(self) -> None:
        """See HostEnvs."""
        own.leave(self)

    def _fault(self, index: int, problem: str) -> EnvironmentFault:
        where = f"environment {index}, episode {self._episode[index]}, step {self._elapsed[index]}"
        return EnvironmentFault(f"{where}: {problem}")
