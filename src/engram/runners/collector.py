"""The collector: acts in host environments and gathers the steps in blocks.

It knows nothing of learning. Its owner takes the blocks, and gives the actor newer minds.
"""

from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from engram import spaces
from engram.agents.agent import Agent, Experience
from engram.envs.host.batch import HostStep
from engram.envs.host.make import HostEnvs
from engram.runners.acting import Actor
from engram.runners.common import RECENT, Ended, summary
from engram.trees import copied, named
from engram.types import TimeStep

COLUMNS = ("is_first", "action", "reward", "terminated", "done", "keep")
KEEP = COLUMNS.index("keep")
NUMBERS = 32  # at most so many numbers of an environment's `info` are logged


class Block(NamedTuple):
    """Successive steps, [steps, envs] each: an Experience that packs its small columns into one array."""

    observation: PyTree
    final_observation: PyTree
    noted: PyTree  # `Acted.noted` of each step; None for nothing
    columns: np.ndarray | Array  # float32 [steps, envs, 6]: see COLUMNS


def unpack(block: Block) -> Experience:
    """The block as an Experience. Actions pass through float32 exactly (they are far below 2^24)."""
    is_first, action, reward, terminated, done, keep = jnp.moveaxis(block.columns, -1, 0)
    row = TimeStep(block.observation, is_first > 0, action.astype(jnp.int32), reward, terminated > 0)
    return Experience(row, done > 0, block.final_observation, keep > 0, block.noted)


class EpisodeBook:
    """Returns and lengths: of the running episodes, and of the newest finished ones."""

    def __init__(self, envs: int):
        self.returns: deque[float] = deque(maxlen=RECENT)
        self.numbers: dict[str, deque[float]] = {}  # of the environments' own `info`, by name
        self.lengths: deque[int] = deque(maxlen=RECENT)
        self.finished = 0
        self._return = np.zeros(envs, np.float64)
        self._length = np.zeros(envs, np.int64)

    def add(self, reward: np.ndarray) -> None:
        """One step of every environment."""
        self._return += reward
        self._length += 1

    def end(self, done: np.ndarray, numbers: Mapping[int, Mapping[str, float]]) -> list[tuple[int, float, int]]:
        """The episodes of these environments are over: environment, return and length of each.

        numbers: those in the last `info` of an environment, where there were any.
        """
        over = [(int(env), float(self._return[env]), int(self._length[env])) for env in np.flatnonzero(done)]
        for env, total, length in over:
            self.note(total, length, numbers.get(env, {}))
        self.forget(done)
        return over

    def note(self, total: float, length: int, numbers: Mapping[str, float]) -> None:
        """One episode is over; its return, its length and the numbers in its last `info`."""
        for name in numbers:
            if name in self.numbers or len(self.numbers) < NUMBERS:
                self.numbers.setdefault(name, deque(maxlen=RECENT)).append(numbers[name])
        self.returns.append(total)
        self.lengths.append(length)
        self.finished += 1

    def forget(self, envs: np.ndarray) -> None:
        """Drops the running episodes of these environments."""
        self._return[envs] = 0
        self._length[envs] = 0

    def report(self) -> dict[str, Any]:
        """What a line of metrics says of episodes."""
        means = {f"info/{name}": float(np.mean(values)) for name, values in self.numbers.items()}
        return {"episodes": self.finished, **summary(np.array(self.returns), np.array(self.lengths)), **means}

    def capture(self) -> dict[str, np.ndarray]:
        """Everything, as arrays."""
        return {
            "running_return": self._return.copy(),
            "running_length": self._length.copy(),
            "returns": np.array(self.returns, np.float64),
            "lengths": np.array(self.lengths, np.int64),
            "finished": np.array(self.finished, np.int64),
            **{f"info.{name}": np.array(values, np.float64) for name, values in self.numbers.items()},
        }

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """The inverse of `capture`."""
        self._return, self._length = np.array(arrays["running_return"]), np.array(arrays["running_length"])
        self.returns = deque(arrays["returns"].tolist(), maxlen=RECENT)
        self.lengths = deque(arrays["lengths"].tolist(), maxlen=RECENT)
        self.finished = int(arrays["finished"])
        self.numbers = {name: deque(array.tolist(), maxlen=RECENT) for name, array in below("info", arrays).items()}


class Collector:
    """One agent's actor in a batch of environments. Everything that changes is in `capture`.

    Args:
      size: steps of a block.
      others: environments of the same seed that others collect from beside it, and which step when these do.
    """

    def __init__(self, agent: Agent, envs: HostEnvs, actor: Actor, size: int, others: int = 0):
        self.envs, self.actor, self.size = envs, actor, size
        self._each = agent.envs + others
        self.steps, self.phase = 0, 0  # the global step; steps in the unfinished block
        self.episodes = EpisodeBook(agent.envs)
        self.ended: list[Ended] | None = None  # see Runner
        self.seed = 0  # of the agent, as `ended` tells it
        self._shows_next = agent.rhythm.lag == 0  # who learns from a block as it is bootstraps from what follows it
        self._observations = partial(spaces.zeros, agent.space, (size, agent.envs))
        self._block = self._empty()
        self._is_first = np.ones(agent.envs, bool)
        self._reward = np.zeros(agent.envs, np.float32)  # of the last step
        self._observation: PyTree = None

    def start(self) -> None:
        """Begins the first episodes."""
        self.begin(self.envs.reset())

    def begin(self, observation: PyTree) -> None:
        """Begins with what the environments show, each at the start of an episode."""
        self._observation = observation

    @property
    def between_episodes(self) -> bool:
        """Whether every environment is about to begin an episode."""
        return bool(self._is_first.all())

    def step(self) -> Block | None:
        """One step of every environment; the block, if this step filled it. A block is never written to again."""
        observation, is_first, time, block = self._observation, self._is_first, self.phase, self._block
        action, noted = self.actor.act(observation, is_first, self._reward, self.steps)
        try:
            taken = self.envs.step(action)
        except BaseException:
            # What is saved now is the state before this step, in which environments that did not move act anew.
            self.actor.undo()
            raise
        put(block.observation, time, observation)
        if noted is not None:
            if block.noted is None:
                block = self._block = block._replace(noted=rows_for(noted, self.size))
            put(block.noted, time, noted)
        columns = block.columns[time]
        columns[:, 0], columns[:, 1], columns[:, 2] = is_first, action, taken.reward
        columns[:, 3], columns[:, 4] = taken.terminated, taken.done
        self.episodes.add(taken.reward)
        begins = taken.done
        if taken.done.any():
            put(block.final_observation, time, taken.final_observation)
            over = self.episodes.end(taken.done, taken.numbers)
            if self.ended is not None:
                step = self.steps + self._each
                self.ended += [
                    Ended(step, self.seed, total, length, taken.numbers.get(env, {})) for env, total, length in over
                ]
        if self._shows_next and time == self.size - 1:
            put(block.final_observation, time, _following(taken))
        if taken.idle is not None:
            columns[:, KEEP] = taken.idle  # `cut` turns this around
            self.episodes.forget(taken.idle)
            begins = taken.done | taken.idle
        self._observation, self._is_first, self._reward = taken.observation, begins, taken.reward
        self.steps += self._each
        self.phase += 1
        return self.cut() if self.phase == self.size else None

    def cut(self) -> Block | None:
        """The unfinished block, padded to its size, or None if it is empty. A new block begins."""
        block, self._block = self._block, self._empty()
        filled, self.phase = self.phase, 0
        block.columns[:filled, :, KEEP] = 1 - block.columns[:filled, :, KEEP]  # type: ignore[index]
        return block if filled else None

    def _empty(self) -> Block:
        steps, envs = self.size, self.envs.envs
        columns = np.zeros((steps, envs, len(COLUMNS)), np.float32)
        return Block(self._observations(), self._observations(), None, columns)

    def capture(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and JSON."""
        actor_arrays, actor_meta = self.actor.capture()
        env_meta, env_arrays = self.envs.capture()
        parts = {"actor": actor_arrays, "env": env_arrays, "episodes": self.episodes.capture()}
        arrays = {f"{part}.{name}": array for part, given in parts.items() for name, array in given.items()}
        arrays |= copied(jax.tree.map(lambda leaf: leaf[: self.phase], self._block), "block")
        arrays |= {"is_first": np.array(self._is_first), "reward": np.array(self._reward)}
        return arrays, {"steps": self.steps, "phase": self.phase, "actor": actor_meta, "env": env_meta}

    def restore(self, arrays: Mapping[str, np.ndarray], meta: dict[str, Any], new_episodes: bool) -> None:
        """The inverse of `capture`; see `Runner.restore`."""
        self.actor.restore(below("actor", arrays), meta["actor"])
        self.episodes.restore(below("episodes", arrays))
        self.steps, self.phase = meta["steps"], meta["phase"]
        self._block = self._refilled(below("block", arrays))
        self._is_first, self._reward = np.array(arrays["is_first"]), np.array(arrays["reward"])
        self._observation = self.envs.restore(meta["env"], below("env", arrays), new_episodes)
        anew = self.envs.anew
        self._is_first |= anew  # those could not be taken up inside their episode and began another
        self.episodes.forget(anew)

    def _refilled(self, arrays: Mapping[str, np.ndarray]) -> Block:
        """The unfinished block, whose filled rows are given."""
        block = self._empty()
        if self.phase and (noted := self.actor.noted()) is not None:
            block = block._replace(noted=rows_for(noted, self.size))
        for name, leaf in named(block).items():
            leaf[: self.phase] = arrays[name]
        return block


def rows_for(noted: PyTree, size: int) -> PyTree:
    """Empty rows for `Acted.noted` of each step of a block."""
    return jax.tree.map(lambda leaf: np.zeros((size, *leaf.shape), leaf.dtype), noted)


def put(block: PyTree, time: int, rows: PyTree) -> None:
    """Copies one row of every environment into a block."""
    if isinstance(block, np.ndarray):
        block[time] = rows
    else:
        jax.tree.map(lambda to, new: to.__setitem__(time, new), block, rows)


def _following(taken: HostStep) -> PyTree:
    """What each environment showed after a step: the last observation of an episode that ended, else the next one."""

    def one(next: np.ndarray, last: np.ndarray) -> np.ndarray:
        return np.where(taken.done.reshape(-1, *[1] * (next.ndim - 1)), last, next)

    if not taken.done.any():
        return taken.observation
    return jax.tree.map(one, taken.observation, taken.final_observation)


def below(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix` and a dot, without that."""
    start = prefix + "."
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
