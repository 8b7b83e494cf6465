"""What every learner of ours keeps, and one step of its parameters along a gradient."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram import spaces
from engram.agents import statistics
from engram.agents.agent import AgentState, Experience
from engram.agents.mind import MindSpec
from engram.agents.network import Network
from engram.agents.optimizing import accepted
from engram.agents.recall import reading
from engram.agents.statistics import Scales, Statistics, beyond
from engram.agents.timeline import timeline
from engram.errors import SpecError
from engram.types import Key, TimeStep

if TYPE_CHECKING:
    import optax


class LearnerState(eqx.Module):
    """What learning changes."""

    params: Network
    target: Any  # the network that lags behind; None for agents without one
    optimizer: PyTree
    key: Key
    updates: Int[Array, ""]  # gradient steps so far
    fault: Int[Array, "*seeds"]  # number of the first update that was not finite, or -1
    statistics: Statistics | None = None  # of what was met, where anything is normalised or has limits
    annealed: Int[Array, ""] | None = None  # updates of the annealing of n and the discount so far; None without one
    pool: Any = None  # a PoolState, of an agent that plays against its past

    @property
    def scales(self) -> Scales | None:
        """What the networks scale by."""
        return None if self.statistics is None else self.statistics.scales


def of_turns(spec: MindSpec, experience: Experience) -> Experience:
    """The steps with signs for an agent that counts them, and without for others.

    Raises SpecError where it counts them and there are none.
    """
    if not spec.turns:
        return experience._replace(row=dataclasses.replace(experience.row, sign=None))
    if experience.row.sign is None:
        raise SpecError(
            "turns = true counts what the other side is worth against, but these steps do not say who moves next; "
            "leave it out, or give DeviceStep a sign"
        )
    return experience


def with_met(
    spec: MindSpec,
    space: spaces.Space,
    learner: LearnerState,
    experience: Experience,
    rows: tuple[TimeStep, Bool[Array, "rows envs"]] | None = None,
) -> LearnerState:
    """The learner with these steps in its statistics. `rows`: their `timeline`, where that is known."""
    if learner.statistics is None:
        return learner
    rows = rows or timeline(experience, None)
    steps = experience.row, experience.keep
    met = statistics.updated(spec, learner.params.sight, space, learner.statistics, rows, steps)
    return dataclasses.replace(learner, statistics=met)


class Stepped(NamedTuple):
    """What one gradient step gave."""

    params: Network
    optimizer: PyTree
    finite: Bool[Array, ""]  # whether the step was applied
    loss: Float[Array, ""]
    told: Any  # what the loss gave besides


def stepped(
    optimizer: "optax.GradientTransformation",
    learner: LearnerState,
    loss_of: Callable[[Network], tuple[Float[Array, ""], Any]],
    sound: Callable[[Any], Bool[Array, ""]] | None = None,
) -> Stepped:
    """One step along the gradient of a loss; none where it is not finite, or what the loss told is not `sound`."""
    import optax

    (loss, told), gradient = jax.value_and_grad(loss_of, has_aux=True)(learner.params)
    finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradient))
    finite = finite if sound is None else finite & sound(told)
    changes, state = optimizer.update(gradient, learner.optimizer, learner.params)  # type: ignore[arg-type]
    params = accepted(finite, optax.apply_updates(learner.params, changes), learner.params)  # type: ignore[arg-type]
    return Stepped(params, accepted(finite, state, learner.optimizer), finite, loss, told)


def first_fault(fault: Int[Array, ""], finite: Bool[Array, ""], updates: Int[Array, ""]) -> Int[Array, ""]:
    """The number of the first update that was not finite, after one more."""
    return jnp.where(finite | (fault >= 0), fault, updates)


def fault(state: AgentState, number: Callable[[int], int], step: int, seeds: Sequence[int]) -> str | None:
    """An update that was not finite, or entries that the external memory had to refuse; see `Agent.fault`.

    `number`: of an update over all turns of its counter.
    """
    updates = [update for update in np.asarray(state.learner.fault).reshape(-1).tolist() if update >= 0]
    if updates:
        return not_finite(number(updates[0]), step)
    refused, (seed, *first) = reading.refused(state.recall)
    return not_remembered(refused, first, step, seeds[seed] if len(seeds) > 1 else None) if refused else None


def report(spec: MindSpec, state: AgentState, updates: int, step: int) -> dict[str, Any]:
    """Exploration, the external memory, the number of updates, and returns that the head cannot predict."""
    warning = beyond(spec, state.learner.statistics)
    return {
        **spec.exploration.report(step),
        **reading.report(spec, state.recall),
        "updates": updates,
        **({} if warning is None else {"warning": warning}),
    }


def nbytes(sizes: dict[str, PyTree]) -> dict[str, int]:
    """Bytes of trees of arrays, or of their shapes."""
    return {
        name: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(part)) for name, part in sizes.items()
    }


def not_finite(update: int, step: int) -> str:
    """What is said when an update had to be left out."""
    return (
        f"the loss, its gradient or an error was not finite at update {update} (before step {step}), so that update "
        f"was not applied; start a new run with a lower optimizer.learning_rate, a reward_clip, or a lower "
        f"optimizer.clip_norm"
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
