"""What every agent is, and what flows between an agent and whoever runs it.

    state = agent.init(key)
    actor, action, decision, noted = agent.act(agent.mind(state), state.actor, seen)
    state = agent.observe(state, experience)              what the environments answered becomes part of the replay
    state, metrics = agent.learn(state)                   one moment of learning

The state is opaque to runners: they carry it, save it, and ask the agent about it. Its four parts are there so that an
actor may act on one thread while the rest learns on another: `act` changes the actor alone, `observe` and `learn` all
but the actor. Every function is pure; axes are [envs] when acting. `engram.testing.check_agent` holds an agent of your
own to this page.

A kind of agent is chosen by a spec over `MindSpec` (mind.py) that is registered for the role `agent`; its `build` makes
the agent. A runner drives any agent, also one without such a spec, from Python.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram.agents.policy import Mind, Seen
from engram.replay.ring import Rows
from engram.spaces import Space
from engram.types import Decision, Key, Metrics, TimeStep


class AgentState(eqx.Module):
    """Everything that changes. Saving it is the checkpoint of an agent."""

    actor: PyTree  # what acting changes; None where a runner keeps it elsewhere
    learner: PyTree  # what learning changes
    replay: PyTree  # what was experienced and is learned from
    recall: PyTree  # what an external memory holds; None without one


class Rhythm(NamedTuple):
    """When an agent acts and learns."""

    acts: int  # steps of all environments from one moment of learning to the next
    first: int  # environment steps before the first moment of learning
    lag: int  # blocks of steps that acting may be behind learning: 1 where both go on at once, 0 where acting waits


class Acted(NamedTuple):
    """What one action of every environment gave."""

    actor: PyTree
    action: Int[Array, "envs"]
    decision: Decision
    noted: PyTree  # kept with these steps and passed to `observe`; None for nothing


class PlainPolicy(NamedTuple):
    """All that acting is, where it is no more than this: the preferred action, now and then one drawn from all.

    A runner may play it without the agent's compiled `act`. So every action is always allowed, observations are one
    array, `observe` needs nothing noted, and the actor's state is not used.
    """

    stack: int  # newest observations that are looked at together
    chance: Callable[[int], float]  # probability of a uniformly random action at a global step
    preference: Callable[[Mind, PyTree], Float[Array, "envs actions"]]  # of frames [envs, stack, ...]
    unknown: bool = False  # whether frames from before an episode are NaN (see `spaces.blank`), else 0


class Experience(NamedTuple):
    """What successive steps of every environment brought. Leading axes [time, envs].

    `row` is the step itself, without a carry. Where `done`, its episode is over and `final_observation` is its last.
    In the last row of a block for an agent that acts without lag, it is what follows, also where the episode goes on.
    `keep` is False for padding, which leaves no trace.
    """

    row: TimeStep
    done: Bool[Array, "time envs"]
    final_observation: PyTree
    keep: Bool[Array, "time envs"]
    noted: PyTree  # of `Acted`


class Agent(Protocol):
    """A frozen, hashable value: static under `jit`."""

    @property
    def space(self) -> Space:
        """What it observes."""
        ...

    @property
    def actions(self) -> int:
        """How many actions it chooses among."""
        ...

    @property
    def envs(self) -> int:
        """Environments that it acts in at once."""
        ...

    @property
    def rhythm(self) -> Rhythm:
        """When it acts and learns."""
        ...

    @property
    def missing(self) -> bool:
        """Whether a NaN in what it observes is a number that is missing, and else a fault of the environment."""
        ...

    @property
    def branches(self) -> bool:
        """Whether `observe` or `learn` has conditions, which `vmap` over seeds would turn into selections."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of what `learn` reports."""
        ...

    def init(self, key: Key) -> AgentState:
        """A new agent, before its first step."""
        ...

    def mind(self, state: AgentState) -> Mind:
        """What it decides with now: leaves of the state without its actor, each at most once, none of those `shared`.

        Runners also ask with numbers in the places of the arrays, and with actor None.
        """
        ...

    def act(self, mind: Mind, actor: PyTree, seen: Seen) -> Acted:
        """Actions for one observation of every environment, and all that the agent knew."""
        ...

    def plain(self) -> PlainPolicy | None:
        """What acting comes to; None where it is more than that."""
        ...

    def observe(self, state: AgentState, experience: Experience) -> AgentState:
        """The state after a few successive steps."""
        ...

    def learn(self, state: AgentState) -> tuple[AgentState, Metrics]:
        """The state after one moment of learning, and what it reports, averaged over its updates."""
        ...

    def rows(self, state: AgentState) -> Rows:
        """The rings that are only ever appended to, which checkpoints share; () if it keeps none.

        Rings behind the first are filled once, such as with demonstrations: their rows may not be overwritten.
        """
        ...

    def with_rows(self, state: AgentState, rows: Rows) -> AgentState:
        """The state with other rows in the place of those that `rows` gives; () takes them out."""
        ...

    def shared(self, state: AgentState) -> Sequence[Any]:
        """The leaves that are the same for agents that learn side by side from different seeds, such as counters.

        A runner may ask with numbers or axes in the places of the arrays.
        """
        ...

    def fault(self, state: AgentState, step: int, seeds: Sequence[int]) -> str | None:
        """What went wrong in learning, as a sentence; None if nothing did.

        `step` is the global step. With `seeds`, leaves (but the shared ones) have a leading axis for them; on the host
        there are none.
        """
        ...

    def report(self, state: AgentState, step: int) -> dict[str, Any]:
        """What a line of metrics says of the state at a global step; what differs between seeds is a list.

        A sentence called `warning` is told to the user, once, and is no part of the line.
        """
        ...

    def nbytes(self) -> dict[str, int]:
        """Bytes of the largest parts of the state, by what they are called."""
        ...


@lru_cache(maxsize=4)  # not for ever: a search for settings has many agents
def shape_of(agent: Agent) -> AgentState:
    """Shapes and dtypes of an agent's state, traced once for each agent."""
    return jax.eval_shape(agent.init, jax.ShapeDtypeStruct((2,), jnp.uint32))


@lru_cache(maxsize=4)  # not for ever: a search for settings has many agents
def numbered_mind(agent: Agent) -> tuple[AgentState, Any]:
    """Shapes of a state without its actor, and the mind of such a state whose leaves are numbered in order.

    The numbers say which leaves of a state a mind is made of.
    """
    shape = replace(shape_of(agent), actor=None)
    leaves, tree = jax.tree.flatten(shape)
    return shape, agent.mind(jax.tree.unflatten(tree, range(len(leaves))))
