"""The learner: an agent's state without its actor, and the compiled call that takes in a block of steps.

For each cycle of the block, the call stores the steps of that cycle and then learns. It runs on XLA's thread. Reading
one of its results waits for it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from engram.agents.agent import Agent, AgentState, Experience, numbered_mind
from engram.agents.policy import Mind
from engram.errors import LearningFault
from engram.precision import all_in_32_bits, in_32_bits
from engram.runners.collector import Block, unpack
from engram.runners.common import PROGRAMS, Flat, Rows, Store, Tally, overlaid
from engram.trees import copied, restored

Progress = tuple[AgentState, Tally]  # changed by each cycle of a compiled block


@lru_cache(maxsize=PROGRAMS)
def compiled_init(agent: Agent) -> Callable[..., AgentState]:
    """The agent's `init`, compiled once for all runners of an agent."""
    return in_32_bits(jax.jit(agent.init))


@lru_cache(maxsize=PROGRAMS)
def places_of_mind(agent: Agent) -> tuple[Any, list[int], Any]:
    """The structure of the state without its actor, the places of the mind's leaves in it, and the mind's structure."""
    shape, numbered = numbered_mind(agent)
    places, mind = jax.tree.flatten(numbered)
    return jax.tree.structure(shape), places, mind


@lru_cache(maxsize=PROGRAMS)
def compiled_settle(agent: Agent, group: int) -> Callable[..., tuple[list, list, list]]:
    """The compiled end of a block: `settle(first, ...)` goes through its cycles, and learns in those from `first` on.

    Leaves go in and out flat: those of the mind, which the actor still reads, and all others, whose buffers are
    donated.
    """
    tree, places, _ = places_of_mind(agent)
    acts, empty = agent.rhythm.acts, Flat.of(jax.eval_shape(partial(Tally.empty, agent))).tree

    # A group of one is not a loop: a loop would keep convolutions from using both cores.
    @partial(jax.jit, static_argnums=0 if group == 1 else (), donate_argnums=(2,))
    def settle(first: int | Array, mind: list, rest: list, tally: list, block: Block) -> tuple[list, list, list]:
        cycles = jax.tree.map(lambda leaf: leaf.reshape(group, acts, *leaf.shape[1:]), block)

        def store(number: int | Array, carry: Progress) -> Progress:
            state, tally = carry
            return agent.observe(state, unpack(jax.tree.map(lambda leaf: leaf[number], cycles))), tally

        def store_and_learn(number: int | Array, carry: Progress) -> Progress:
            state, tally = store(number, carry)
            state, metrics = agent.learn(state)
            return state, tally.add(metrics)

        loop: Any = _python_loop if group == 1 else jax.lax.fori_loop
        state = jax.tree.unflatten(tree, joined(mind, rest, places))
        carry = loop(0, first, store, (state, jax.tree.unflatten(empty, tally)))
        state, counted = loop(first, group, store_and_learn, carry)
        return *parted(jax.tree.leaves(state), places), jax.tree.leaves(counted)

    return settle


@lru_cache(maxsize=PROGRAMS)
def compiled_store(agent: Agent, store: Store) -> Callable[[AgentState, Experience], AgentState]:
    """Compiled: the state once it has stored some steps. It gives away the buffers of the state."""
    return jax.jit(partial(store, agent), donate_argnums=0)


def parted(leaves: Sequence[Any], places: Sequence[int]) -> tuple[list, list]:
    """The leaves at these places, in their order, and the others."""
    taken = set(places)
    return [leaves[place] for place in places], [leaf for place, leaf in enumerate(leaves) if place not in taken]


def joined(some: Sequence[Any], others: Sequence[Any], places: Sequence[int]) -> list:
    """The inverse of `parted`."""
    left, whole = iter(others), dict(zip(places, some, strict=True))
    return [whole[place] if place in whole else next(left) for place in range(len(some) + len(others))]


def _python_loop(first: int, end: int, body: Callable[[int, Any], Any], carry: Any) -> Any:
    for number in range(first, end):
        carry = body(number, carry)
    return carry


@all_in_32_bits
class Learner:
    """One agent's state without its actor. Everything that changes is in `capture`.

    Args:
      group: cycles in a block, which share one compiled call.
    """

    def __init__(self, agent: Agent, state: AgentState, group: int):
        self.agent, self.group = agent, group
        self._settle = compiled_settle(agent, group)
        self._tree, self._places, self._mind_tree = places_of_mind(agent)
        self._set(state, Tally.empty(agent))

    @property
    def size(self) -> int:
        """Steps of a block."""
        return self.group * self.agent.rhythm.acts

    def settle(self, block: Block, steps: int) -> None:
        """Takes in a block that ends at this global step; learning begins where the agent's rhythm says."""
        each = self.agent.rhythm.acts * self.agent.envs
        before = (self.agent.rhythm.first - 1 - (steps - self.group * each)) // each  # cycles before learning
        self._take_in(min(max(before, 0), self.group), block)

    def store(self, block: Block) -> None:
        """Takes in a block without learning from it."""
        self._take_in(self.group, block)

    def follow(self, agent: Agent) -> None:
        """Goes on with an agent that differs in its schedules only."""
        self.agent, self._settle = agent, compiled_settle(agent, self.group)

    def adopt(self, arrays: Mapping[str, np.ndarray], rows: Callable[[Rows], Rows] | None) -> None:
        """See `Runner.adopt`."""
        self.restore(*overlaid(*self.capture(), arrays, rows))

    def observe(self, experience: Experience, store: Store) -> None:
        """See `Runner.observe`."""
        self._set(compiled_store(self.agent, store)(self.state, experience), self.tally)

    def _take_in(self, first: int, block: Block) -> None:
        self.mind_leaves, self._rest, self._tally = self._settle(
            first, self.mind_leaves, self._rest, self._tally, block
        )

    def _set(self, state: AgentState, tally: Tally) -> None:
        self.mind_leaves, self._rest = parted(jax.tree.leaves(replace(state, actor=None)), self._places)
        self._tally = jax.tree.leaves(tally)
        self._tally_tree = jax.tree.structure(tally)

    @property
    def state(self) -> AgentState:
        """The state. Its buffers are given away at the next block, so nothing may keep them."""
        return jax.tree.unflatten(self._tree, joined(self.mind_leaves, self._rest, self._places))

    def mind_of(self, leaves: Sequence[Any]) -> Mind:
        """The mind of these leaves, such as `mind_leaves`."""
        return jax.tree.unflatten(self._mind_tree, leaves)

    @property
    def tally(self) -> Tally:
        """Sums since the last report."""
        return jax.tree.unflatten(self._tally_tree, self._tally)

    def report(self, steps: int) -> dict[str, Any]:
        """The metrics since the last report. Raises LearningFault where something broke."""
        self.check(steps)
        means = self.tally.means()
        self._tally = jax.tree.leaves(Tally.empty(self.agent))
        return means | self.agent.report(self.state, steps)

    def check(self, steps: int) -> None:
        """Raises LearningFault where something broke."""
        if problem := self.agent.fault(self.state, steps, ()):
            raise LearningFault(problem)

    def capture(self) -> tuple[dict[str, np.ndarray], Rows]:
        """Arrays, copied, and the rows, which must be read before the next block."""
        state = self.state
        without = self.agent.with_rows(state, ())
        return copied(without, "agent") | copied(self.tally, "tally"), self.agent.rows(state)

    def restore(self, arrays: Mapping[str, np.ndarray], rows: Callable[[Rows], Rows]) -> None:
        """The inverse of `capture`; `rows` fills an empty ring."""
        state, empty = self.state, self.agent.rows(self.state)
        taken = restored(self.agent.with_rows(state, ()), arrays, "agent")
        tally = restored(self.tally, arrays, "tally")
        self._set(self.agent.with_rows(taken, rows(empty) if empty else ()), tally)
