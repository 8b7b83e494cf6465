"""What the runners share: the rhythm of acting and learning, and what they offer to whoever owns the run."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from engram.agents.q_learning import Agent, Mind
from engram.replay.ring import Ring
from engram.types import Metrics

T = TypeVar("T")
RECENT = 100  # episodes that `return_mean` averages over


class Cycle(NamedTuple):
    """The rhythm of a run: acts (steps of all environments) and then updates, again and again."""

    acts: int
    updates: int

    @classmethod
    def of(cls, agent: Agent) -> "Cycle":
        """One moment of learning every `learn_every` environment steps, `envs` of which happen at once."""
        every, envs = agent.spec.learn_every, agent.envs
        return cls(max(1, every // envs), agent.spec.updates * max(1, envs // every))


class Tally(NamedTuple):
    """Sums over the updates since the last report."""

    loss: Float[Array, "*seeds"]
    q: Float[Array, "*seeds"]
    updates: Int[Array, ""]

    def add(self, metrics: Metrics) -> "Tally":
        """With one more update."""
        return Tally(self.loss + metrics.loss, self.q + metrics.q_mean, self.updates + 1)


def repeat(function: Callable[[T], T], value: T, times: int) -> T:
    """`function` applied so often; a single time without a loop around it."""
    if times == 1:
        return function(value)
    return jax.lax.scan(lambda carry, _: (function(carry), None), value, None, length=times)[0]


class Captured(NamedTuple):
    """Everything that changes in a run, as it goes into a checkpoint."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    replay: Ring


class Runner(Protocol):
    """Drives one agent (or one for each seed) through environments."""

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
        """The state, copied, except for the replay, which must be read before the next `advance`.

        Raises EngramError if something broke: a state to resume from must be sound.
        """
        ...

    def restore(
        self,
        arrays: Mapping[str, np.ndarray],
        meta: dict[str, Any],
        replay: Callable[[Ring], Ring],
        new_episodes: bool = False,
    ) -> None:
        """Takes a captured state back; `replay` fills an empty ring.

        With `new_episodes`, an environment that cannot be taken up where it was begins a new episode; without, that
        is a CheckpointError.
        """
        ...

    def finish(self, stopped: bool) -> str | None:
        """Before the last save: what is to be said of environments that cannot be taken up inside an episode.

        After a stop on request, one such environment is run on to the end of its episode first.
        """
        ...

    def minds(self) -> list[Mind]:
        """The newest parameters, and what is remembered, for each seed."""
        ...

    def close(self) -> None:
        """Lets go of the environments."""
        ...


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


def not_finite(update: int, step: int) -> str:
    """What is said when an update had to be left out."""
    return (
        f"the loss or its gradient was not finite at update {update} (before step {step}), so that update was not "
        f"applied; start a new run with a lower optimizer.learning_rate, a reward_clip, or a lower optimizer.clip_norm"
    )


def not_remembered(entries: int, first: list[int], step: int, seed: int | None = None) -> str:
    """What is said when an external memory was offered numbers that are not finite.

    `first` says where the first came from: environment, its episode and the step of that.
    """
    env, episode, moment = first
    of = "" if seed is None else f" of seed {seed}"
    return (
        f"the key or the value of {entries} entries for the external memory was not finite (before step {step}; the "
        f"first is of environment {env}{of}, episode {episode}, step {moment} of it), so they were not written; start "
        f"a new run with a lower optimizer.learning_rate or a reward_clip"
    )
