"""Demonstrations that are kept: rows that nothing overwrites, in a ring beside the agent's own.

Of each batch a share (`demos.ratio`) is drawn from them, with the agent's own way of drawing and a state of it beside
them: under `draw=prioritized` a demonstration competes with demonstrations. Checkpoints share these rows as they share
the others (checkpoint/lanes.py). An external memory is written from them by `recall/taught.py`, where asked for.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from engram import spaces
from engram.agents import examples, statistics
from engram.agents.agent import AgentState, Experience
from engram.agents.examples import Transition, Window
from engram.agents.network import Network
from engram.agents.spec import AgentSpec
from engram.agents.timeline import timeline
from engram.replay import ring as rings
from engram.replay.draw import Drawn, Growth, Reach, Replay, Surprise
from engram.replay.ring import Ring
from engram.types import TimeStep

if TYPE_CHECKING:
    from engram.agents.learner import LearnerState
    from engram.agents.q_learning import QLearner


class Both(NamedTuple):
    """The rows of a batch."""

    own: Drawn
    given: Drawn | None  # None where no demonstrations are kept; else these come first in the batch

    @property
    def importance(self) -> Float[Array, "batch"] | None:
        """The weight of each example; those of either kind are relative to the greatest of that kind."""
        if self.given is None or self.own.importance is None or self.given.importance is None:
            return self.own.importance
        return jnp.concatenate([self.given.importance, self.own.importance])


def empty(spec: AgentSpec, space: spaces.Space, rows: int, carry: PyTree) -> Replay | None:
    """Room for so many rows of demonstrations; None where none are kept.

    Behind them is room for as many rows as an example needs after its first. These are never written, and each looks
    like the beginning of an episode. So every row of the last demonstration may start an example.
    """
    if not (rows and spec.demos.ratio):
        return None
    ring = rings.empty(space, rows + spec.reach.after, 1, carry)
    unwritten = dataclasses.replace(ring.rows, is_first=jnp.ones_like(ring.rows.is_first))
    return Replay(Ring(unwritten, ring.cursor), spec.draw.init(ring.capacity, 1))


def _whole(ring: Ring, reach: Reach) -> Ring:
    """The ring as a draw sees it, with the rows behind its last one."""
    return Ring(ring.rows, ring.cursor + reach.after, ring.turns)


def keep(agent: "QLearner", state: AgentState, experience: Experience) -> AgentState:
    """Stores steps [time, 1] of demonstrations, and counts them in the statistics.

    Their working memory starts empty where rows store its carry, which nobody has acted with.
    """
    spec, given = agent.spec, state.replay.given
    carry = None
    if spec.replay.stored_carry:
        like = state.learner.params.working.init()
        carry = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*experience.keep.shape, *leaf.shape)), like)
    rows, written = timeline(experience, carry)
    after = rings.write(given.ring, rows, written)
    growth = Growth(_whole(given.ring, spec.reach), _whole(after, spec.reach), spec.reach, len(written))
    kept = Replay(after, spec.draw.grown(given.drawing, growth))
    replay = Replay(state.replay.ring, state.replay.drawing, kept)
    return dataclasses.replace(state, replay=replay, learner=_counted(agent, state.learner, rows, written, experience))


def _counted(
    agent: "QLearner", learner: "LearnerState", rows: TimeStep, written: Bool[Array, "rows one"], experience: Experience
) -> "LearnerState":
    """The learner with these rows in its statistics; their returns run through the place of the first environment."""
    met = learner.statistics
    if met is None:
        return learner
    one = dataclasses.replace(met, returns=None if met.returns is None else met.returns[:1])
    steps = experience.row, experience.keep
    new: Any = statistics.updated(agent.spec, learner.params.sight, agent.space, one, (rows, written), steps)
    returns = None if met.returns is None else met.returns.at[:1].set(new.returns)
    return dataclasses.replace(learner, statistics=dataclasses.replace(new, returns=returns))


def draw(
    spec: AgentSpec,
    network: Network,
    replay: Replay,
    bits: UInt32[Array, "batch words"],
    annealed: Int[Array, ""] | None = None,
    agents: int = 1,
) -> tuple[Both, Transition | Window]:
    """The rows of a batch and the examples that start at them, those of demonstrations first."""
    if replay.given is None:
        drawn, batch = examples.draw(spec, network, replay, bits, annealed, agents)
        return Both(drawn, None), batch
    count = spec.demos.of(len(bits))
    shown = Replay(_whole(replay.given.ring, spec.reach), replay.given.drawing)
    given, theirs = examples.draw(spec, network, shown, bits[:count], annealed)
    own, ours = examples.draw(spec, network, replay, bits[count:], annealed)
    both = _marked(spec, theirs, 1.0), _marked(spec, ours, 0.0)
    return Both(own, given), jax.tree.map(lambda *parts: jnp.concatenate(parts), *both)


def _marked(spec: AgentSpec, batch: Transition | Window, shown: float) -> Transition | Window:
    """The examples, each of which says whether it is a demonstration where that makes a difference."""
    if not spec.marks_demonstrations:
        return batch
    return batch._replace(start=batch.start._replace(shown=jnp.full_like(batch.start.weight, shown)))


def learned(
    spec: AgentSpec, replay: Replay, drawn: Both, surprise: Surprise, keep: Bool[Array, ""]
) -> tuple[PyTree, PyTree]:
    """What drawing keeps, for either kind of rows, after an update; see `DrawSpec.learned`."""
    if replay.given is None or drawn.given is None:
        return spec.draw.learned(replay.drawing, drawn.own, surprise, keep), None
    count = len(drawn.given.row)
    theirs, ours = (jax.tree.map(lambda leaf, which=which: leaf[which], surprise) for which in (
        slice(count), slice(count, None)
    ))  # fmt: skip
    given = spec.draw.learned(replay.given.drawing, drawn.given, theirs, keep)
    return spec.draw.learned(replay.drawing, drawn.own, ours, keep), given
