"""The protocol of runners, and the code that they share."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from engram.agents.agent import Agent, AgentState, Experience
from engram.agents.policy import Mind
from engram.replay.ring import Rows
from engram.types import Metrics

T = TypeVar("T")
Store = Callable[[Any, AgentState, Experience], AgentState]  # of an agent
# Agents whose compiled programs a process keeps when nobody uses them any more: a search for settings has many. Runners
# and policies hold their own.
PROGRAMS = 2
RECENT = 100  # episodes that `return_mean` averages over
CALL_SECONDS = 0.5  # what one compiled call on the device should take: the longest that a stop has to wait


class Tally(NamedTuple):
    """Sums over the moments of learning since the last report."""

    sums: Metrics
    moments: Int[Array, ""]

    @classmethod
    def empty(cls, agent: Agent, *seeds: int) -> "Tally":
        """Sums of nothing yet; leaves have the axes `seeds`, `moments` has none."""
        zeros = np.zeros(seeds, np.float32)  # NumPy's: zeros of the device would be small programs to compile
        return cls({name: jnp.asarray(zeros) for name in agent.metrics}, jnp.asarray(np.int32(0)))

    def add(self, metrics: Metrics) -> "Tally":
        """With one more moment."""
        return Tally(jax.tree.map(jnp.add, self.sums, metrics), self.moments + 1)

    def means(self) -> dict[str, Any]:
        """The mean of each metric, a list where there are several seeds; None where nothing was learned."""
        count = int(self.moments)
        return {name: _each(np.asarray(sums), count) for name, sums in self.sums.items()}


def _each(sums: np.ndarray, count: int) -> Any:
    means = [one / count if count else None for one in sums.reshape(-1).tolist()]
    return means if len(means) > 1 else means[0]


class Flat(NamedTuple):
    """A tree as its leaves: flattening modules at every compiled call would cost as much as a small update."""

    tree: Any
    leaves: list[Any]

    @classmethod
    def of(cls, value: PyTree) -> "Flat":
        """The leaves of a tree, and its structure."""
        leaves, tree = jax.tree.flatten(value)
        return cls(tree, leaves)

    @property
    def value(self) -> Any:
        """The tree again."""
        return jax.tree.unflatten(self.tree, self.leaves)


def next_size(size: int, done: int, seconds: float, growth: int) -> int:
    """How much the next compiled call does, at least 1, so that it takes CALL_SECONDS.

    The call before did `done` in so many seconds. No call does more than `growth` times `size`, which that one could
    have done. How a loop is cut into calls changes nothing in it, so the clock may decide.
    """
    return max(1, min(growth * size, int(CALL_SECONDS * done / seconds)))


def repeat(function: Callable[[T], T], value: T, times: int) -> T:
    """`function` applied so often; a single time without a loop around it."""
    if times == 1:
        return function(value)
    return jax.lax.scan(lambda carry, _: (function(carry), None), value, None, length=times)[0]


def by_observing(agent: Any, state: AgentState, experience: Experience) -> AgentState:
    """As the steps of the environments are stored."""
    return agent.observe(state, experience)


class Captured(NamedTuple):
    """Everything that changes in a run, as it goes into a checkpoint."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    rows: Rows  # append-only, and shared by checkpoints


class Ended(NamedTuple):
    """An episode that ended."""

    step: int  # the global step, after it
    seed: int  # of the agent
    total: float  # its return: undiscounted, as the environment paid
    length: int
    numbers: Mapping[str, float]  # in the environment's last `info`; empty on the device


class Runner(Protocol):
    """Drives one agent (or one for each seed) through environments."""

    @property
    def ended(self) -> list[Ended] | None:
        """Episodes that ended since whoever reads this last set it; None while nobody asks."""
        ...

    @ended.setter
    def ended(self, episodes: list[Ended] | None) -> None: ...

    @property
    def steps(self) -> int:
        """The global step: actions taken, over all environments of one seed."""
        ...

    def start(self) -> None:
        """Begins the first episodes. A restored run does not call this."""
        ...

    def advance(self, until: int, stop: Callable[[], bool]) -> None:
        """Acts and learns until the global step is at least `until`, or `stop()` is true."""
        ...

    def report(self) -> dict[str, Any]:
        """The metrics since the last report; a value per seed is a list. Raises EngramError if something broke."""
        ...

    def capture(self) -> Captured:
        """The state, copied, except for the rows, which must be read before the next `advance`.

        Raises EngramError if something broke: a state to resume from must be sound.
        """
        ...

    def restore(
        self,
        arrays: Mapping[str, np.ndarray],
        meta: dict[str, Any],
        rows: Callable[[Rows], Rows],
        new_episodes: bool = False,
    ) -> None:
        """Takes a captured state back; `rows` fills an empty ring.

        With `new_episodes`, an environment that cannot be taken up where it was begins a new episode; without, that
        is a CheckpointError.
        """
        ...

    def follow(self, agent: Agent) -> None:
        """Goes on with an agent that differs in its schedules only."""
        ...

    def adopt(self, arrays: Mapping[str, np.ndarray], rows: Callable[[Rows], Rows] | None) -> None:
        """Before the first step: takes over leaves of the agent's state, named as in `capture`, and with `rows` a
        filled ring.

        Raises CheckpointError for a leaf of another shape.
        """
        ...

    def observe(self, experience: Experience, store: Store = by_observing) -> None:
        """Before the first step: stores steps [time, envs] that were recorded elsewhere, the same for every seed.

        `store` says how the agent does it: a function of a module, since it is compiled.
        """
        ...

    def finish(self, stopped: bool) -> str | None:
        """Before the last save: a sentence about environments that cannot be resumed inside an episode, or None.

        After a stop on request, one such environment is run on to the end of its episode first.
        """
        ...

    def minds(self) -> list[Mind]:
        """The newest parameters, and what is remembered, for each seed."""
        ...

    def close(self) -> None:
        """Lets go of the environments."""
        ...


def overlaid(
    own: Mapping[str, np.ndarray],
    ring: Rows,
    given: Mapping[str, np.ndarray],
    rows: Callable[[Rows], Rows] | None,
) -> tuple[dict[str, np.ndarray], Callable[[Rows], Rows]]:
    """What `Runner.adopt` restores: own leaves with given ones in their places, and the own ring without `rows`."""
    kept = (lambda _: ring) if rows is None else rows
    return {name: given.get(name, array) for name, array in own.items()}, kept


def summary(returns: np.ndarray, lengths: np.ndarray) -> dict[str, Any]:
    """Mean, least and greatest return and mean length of the newest episodes; None before the first ends."""
    if not len(returns):
        return {"return_mean": None, "return_min": None, "return_max": None, "length_mean": None}
    return {
        "return_mean": float(np.mean(returns)),
        "return_min": float(np.min(returns)),
        "return_max": float(np.max(returns)),
        "length_mean": float(np.mean(lengths)),
    }
