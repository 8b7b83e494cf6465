"""Experience from elsewhere: episodes that a controller, a human or another program recorded, put into the replay."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from engram.agents.agent import Experience
from engram.agents.mind import MindSpec
from engram.errors import SpaceError, SpecError
from engram.play.observations import Stored
from engram.registry import name_of
from engram.run.plan import RunPlan
from engram.runners.common import Runner
from engram.types import TimeStep

CHUNK = 64  # steps that are stored at once, so that one program serves episodes of every length


class Episode(NamedTuple):
    """A recorded episode, or a part of one.

    Fields:
      observations: T + 1 of them, the last after the last action: the tree of one observation of the environment, with
        a leading axis on every array.
      actions: T of them, as the environment takes them.
      rewards: T numbers.
      terminated: whether the task was over at its end. An episode that was cut off there goes on in the learner's eyes:
        its last observation is worth what the agent expects of it.
    """

    observations: Any
    actions: Sequence[Any] | np.ndarray
    rewards: Sequence[float] | np.ndarray
    terminated: bool


class Converted(NamedTuple):
    """An episode as rows."""

    observations: PyTree  # leaves [T + 1, ...]
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool


def fill_replay(runner: Runner, plan: RunPlan, environment: Any, device: bool, episodes: Iterable[Any]) -> None:
    """Puts recorded episodes into the replay of a runner that has not begun; all are checked first.

    Raises EngramError for an agent or an episode that cannot be taken.
    """
    _check_takes(plan)
    translator = Stored(plan.space, plan.agent.takes_missing) if device else environment.translator
    store(runner, plan, [converted(episode, translator, plan.actions) for episode in episodes])


def store(runner: Runner, plan: RunPlan, episodes: Iterable["Converted"]) -> None:
    """Puts episodes into the replay as if they had been played."""
    size = max(1, min(CHUNK, plan.agent.replay_rows // plan.envs // 2))
    for experience in chunks(episodes, size, plan.envs):
        runner.observe(experience)


def _check_takes(plan: RunPlan) -> None:
    """Raises SpecError for an agent whose rows need what only its own acting knows."""
    spec = plan.agent
    check_replays(spec, "prefill")
    check_alone(plan, "prefill")
    check_one_side(spec, "prefill")
    if what := own_rows(spec):
        raise SpecError(
            f"prefill is for agents whose rows hold nothing but experience, and this one has {what}, which is written "
            f"while it acts; leave that out, or begin from a run of such an agent (start_from, start_with='all')"
        )


def check_alone(plan: RunPlan, what: str) -> None:
    """Raises SpecError for a team: its agents step together, and recorded episodes are of one each."""
    if plan.agents > 1:
        raise SpecError(
            f"{what} was given for a team of {plan.agents} agents, whose rows are those of one moment, and recorded "
            f"episodes are of one agent each; leave it out"
        )


def check_one_side(spec: MindSpec, what: str) -> None:
    """Raises SpecError for an agent of a game with sides: recorded steps do not say who moves next."""
    if spec.turns:
        raise SpecError(
            f"{what} was given for an agent that counts what the other side is worth against (turns = true), and "
            f"recorded steps do not say who moves next; leave it out"
        )


def check_replays(spec: MindSpec, what: str) -> None:
    """Raises SpecError for an agent without a replay, where `what` is to be put."""
    if not spec.replay_rows:
        raise SpecError(
            f"{what} was given for a replay, but this agent learns {without_replay(spec)}; leave it out, or use one "
            f"that has a replay, such as --preset auto"
        )


def without_replay(spec: MindSpec) -> str:
    """How an agent learns that has no replay."""
    return f"without one (agent={name_of('agent', type(spec))}, {spec.examples})"


def own_rows(spec: MindSpec) -> str | None:
    """What of an agent only its own acting can store; None where its rows hold nothing but experience."""
    return "an external memory" if spec.has_external else "replay.stored_carry" if spec.stores_carry else None


def converted(episode: Any, translator: Any, actions: int) -> Converted:
    """The episode, checked. Raises SpaceError or EnvironmentFault for what does not belong to the environment."""
    observations, taken, rewards, terminated = episode
    rows = translator.rows(observations, True)
    indices = _indices(np.asarray(taken), translator, actions)
    paid = np.asarray(rewards, np.float32)
    counts = len(jax.tree.leaves(rows)[0]), len(indices), len(paid)
    if counts[0] != counts[1] + 1 or counts[1] != counts[2] or counts[1] < 1 or paid.ndim != 1:
        raise SpaceError(
            f"an episode of {counts[0]} observations, {counts[1]} actions and {counts[2]} rewards was given; expected "
            f"as many rewards as actions, at least one, and one observation more"
        )
    if not np.isfinite(paid).all():
        raise SpaceError("an episode with a reward that is not finite was given; leave it out")
    return Converted(rows, indices, paid, bool(terminated))


def _indices(taken: np.ndarray, translator: Any, actions: int) -> np.ndarray:
    """The number of each action among those of the agent."""
    expected = translator.environment_action(np.zeros(1, int)).shape[1:]
    if taken.shape[1:] != expected:
        raise SpaceError(f"actions of shape {taken.shape[1:]} were given; expected {expected}")
    indices = translator.numbers(taken, actions)
    if (indices < 0).any():
        wrong = taken[int(indices.argmin())]
        raise SpaceError(f"the action {wrong} was given, which is none of the agent's {actions} actions")
    return indices.astype(np.int32)


def chunks(episodes: Iterable[Converted], size: int, envs: int) -> Iterable[Experience]:
    """Blocks of `size` steps for each of `envs` lanes; episodes go to the lanes in turn, one after another."""
    for number, episode in enumerate(episodes):
        length = len(episode.actions)
        for start in range(0, length, size):
            yield _chunk(episode, start, min(size, length - start), number % envs, (size, envs))


def _chunk(episode: Converted, start: int, count: int, lane: int, shape: tuple[int, int]) -> Experience:
    place = slice(0, count), lane
    ends = start + count == len(episode.actions)

    def column(values: np.ndarray) -> jax.Array:
        wide = np.zeros((*shape, *values.shape[1:]), values.dtype)
        wide[place] = values
        return jnp.asarray(wide)

    def rows(offset: int) -> PyTree:
        return jax.tree.map(lambda leaf: column(leaf[start + offset : start + offset + count]), episode.observations)

    first, last = np.zeros(count, bool), np.zeros(count, bool)
    first[0], last[-1] = start == 0, ends
    row = TimeStep(
        observation=rows(0),
        is_first=column(first),
        action=column(episode.actions[start : start + count]),
        reward=column(episode.rewards[start : start + count]),
        terminated=column(last & episode.terminated),
    )
    return Experience(row, column(last), rows(1), column(np.ones(count, bool)), None)
