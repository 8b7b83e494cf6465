"""Actors of the host runner: the agent's compiled `act`, or, for small networks, the same function in NumPy.

A compiled call costs tens of microseconds before it computes. A small network in NumPy costs about five in all. Both
are epsilon-greedy on the same Q values, and a test compares them. Each draws from its own generator, which is part of
the checkpoint. A run uses the same actor from its first step to its last.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import PyTree

from engram import spaces
from engram.agents.acting import ahead
from engram.agents.agent import Agent, PlainPolicy
from engram.agents.policy import Mind, Seen, seen_on_host
from engram.precision import all_in_32_bits, in_32_bits
from engram.runners.common import PROGRAMS, Flat
from engram.runners.numpy_program import NumpyProgram, numpy_program
from engram.trees import copied, restored

SMALL = 100_000  # parameters; above it the products cost more than the call


class Actor(Protocol):
    """Chooses actions for every environment. `steps` is the global step before the choice."""

    def load(self, mind: Sequence[jax.Array]) -> None:
        """Acts with this mind from now on: its leaves, in the order of `jax.tree.leaves`."""
        ...

    def act(
        self, observation: PyTree, is_first: np.ndarray, reward: np.ndarray, steps: int
    ) -> tuple[np.ndarray, PyTree]:
        """Actions [envs] for observations [envs, ...] that followed `reward`, and the `noted` to store with them."""
        ...

    def follow(self, agent: Agent) -> None:
        """Acts for an agent that differs in its schedules only."""
        ...

    def undo(self) -> None:
        """As before the last `act`, which nothing came of: an environment failed in the step that it was for."""
        ...

    def noted(self) -> PyTree:
        """Shapes of `noted` as `act` gives it; None for nothing."""
        ...

    def capture(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Everything that acting changes, as arrays and JSON."""
        ...

    def restore(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        """The inverse of `capture`."""
        ...


@in_32_bits
def choose_actor(
    agent: Agent, mind: Mind, state: PyTree, seed: int, others: int = 0, number: tuple[int, ...] = ()
) -> Actor:
    """The faster of the two for this network.

    `others`: environments that other actors of the same seed step at the same time. `number`: which of them this is;
    the first draws as if it were the only one.
    """
    plain = agent.plain()
    program = None if plain is None else acting_program(agent, plain, mind)
    if plain is None or program is None:
        return CompiledActor(agent, mind, state, others)
    return NumpyActor(agent, plain, mind, program, seed, number)


def acting_program(agent: Agent, plain: PlainPolicy, mind: Mind, envs: int | None = None) -> NumpyProgram | None:
    """The agent's preference as a NumPy program: frames [envs, stack, ...] -> [envs, actions].

    None for a large network, and for one with operations that NumpyProgram does not know. `envs`: the agent's own if
    None.
    """
    if sum(leaf.size for leaf in jax.tree.leaves(mind)) > SMALL:
        return None
    return numpy_program(plain.preference, mind, spaces.zeros(agent.space, (envs or agent.envs, plain.stack)))


class Frames:
    """The newest frames of every environment, as a NumPy program takes them: [envs, stack, ...]."""

    def __init__(self, agent: Agent, plain: PlainPolicy, envs: int):
        self.now: np.ndarray = spaces.zeros(agent.space, (envs, plain.stack))
        self._blank = spaces.blank(self.now.dtype, plain.unknown)

    def push(self, observation: np.ndarray, is_first: np.ndarray) -> np.ndarray:
        """With one more observation [envs, ...]; an episode begins with blank ones before it."""
        if self.now.shape[1] == 1:
            self.now = observation[:, None]
            return self.now
        frames = np.roll(self.now, -1, axis=1)
        frames[is_first] = self._blank
        frames[:, -1] = observation
        self.now = frames
        return frames


class NumpyActor:
    """Epsilon-greedy through NumPy, for observations of one array and networks without memory."""

    def __init__(
        self,
        agent: Agent,
        plain: PlainPolicy,
        mind: Mind,
        program: NumpyProgram,
        seed: int,
        number: tuple[int, ...] = (),
    ):
        self._plain, self._actions, self._envs = plain, agent.actions, agent.envs
        self._random = np.random.default_rng([seed, 0xAC70, *number])
        self._frames = Frames(agent, plain, agent.envs)
        self._before = self._frames.now
        self._program = program
        self.load(jax.tree.leaves(mind))

    def load(self, mind: Sequence[jax.Array]) -> None:
        self._program.load([np.asarray(leaf) for leaf in mind])
        self._begin()

    def _begin(self) -> None:
        """From here on the draws are noted: a generator's state takes too long to copy at every step."""
        self._drawn_from, self._chances = self._random.bit_generator.state, list[float]()

    def follow(self, agent: Agent) -> None:
        self._plain = agent.plain() or self._plain

    def act(
        self, observation: np.ndarray, is_first: np.ndarray, reward: np.ndarray, steps: int
    ) -> tuple[np.ndarray, PyTree]:
        return self._choose(observation, is_first, steps), None

    def _choose(self, observation: np.ndarray, is_first: np.ndarray, steps: int) -> np.ndarray:
        self._before = self._frames.now
        frames = self._frames.push(observation, is_first)
        chance = self._plain.chance(steps)
        self._chances.append(chance)
        explore, other = self._draw(chance)
        if other is None:
            return self._program(frames).argmax(-1)
        if self._envs == 1:  # the common case of one: no forward pass to throw away
            return other
        return np.where(explore, other, self._program(frames).argmax(-1))

    def _draw(self, chance: float) -> tuple[Any, np.ndarray | None]:
        """Which environments explore, and their actions; None where a single one does not."""
        if self._envs > 1:
            return self._random.random(self._envs) < chance, self._random.integers(self._actions, size=self._envs)
        explore = self._random.random() < chance
        return explore, self._random.integers(self._actions, size=1) if explore else None

    def undo(self) -> None:
        *earlier, _ = self._chances
        self._frames.now, self._random.bit_generator.state = self._before, self._drawn_from
        for chance in earlier:
            self._draw(chance)
        self._chances = earlier

    def noted(self) -> PyTree:
        return None

    def capture(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {"frames": np.array(self._frames.now)}, {"random": self._random.bit_generator.state}

    def restore(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        self._frames.now = self._before = arrays["frames"]
        self._random.bit_generator.state = meta["random"]
        self._begin()


@all_in_32_bits
class CompiledActor:
    """The agent's own `act`, for every network and every observation."""

    def __init__(self, agent: Agent, mind: Mind, state: PyTree, others: int = 0):
        self._agent, self._state, self._others = agent, Flat.of(state), others
        self._before = self._state
        self._mind, tree = list(jax.tree.leaves(mind)), jax.tree.structure(mind)
        self._tree = tree
        self._act = compiled_act(agent, tree, self._state.tree, others)

    def follow(self, agent: Agent) -> None:
        self._agent, self._act = agent, compiled_act(agent, self._tree, self._state.tree, self._others)

    def load(self, mind: Sequence[jax.Array]) -> None:
        self._mind = list(mind)

    def act(
        self, observation: PyTree, is_first: np.ndarray, reward: np.ndarray, steps: int
    ) -> tuple[np.ndarray, PyTree]:
        leaves, action, noted = self._act(self._mind, self._state.leaves, seen_on_host(observation, is_first, reward))
        self._before, self._state = self._state, Flat(self._state.tree, leaves)
        return np.asarray(action), None if noted is None else jax.tree.map(np.asarray, noted)

    def undo(self) -> None:
        self._state = self._before

    def noted(self) -> PyTree:
        envs = (self._agent.envs,)
        observation = spaces.zeros(self._agent.space, envs)
        seen = seen_on_host(observation, np.zeros(envs, bool), np.zeros(envs, np.float32))
        return jax.eval_shape(self._act, self._mind, self._state.leaves, seen)[2]

    def capture(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return copied(self._state.value), {}

    def restore(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        self._state = self._before = Flat.of(restored(self._state.value, arrays))


@lru_cache(maxsize=PROGRAMS)
def compiled_act(agent: Agent, mind_tree: Any, state_tree: Any, others: int) -> Callable[..., Any]:
    """The agent's `act` from leaves to leaves: flattening Equinox modules at every step would cost more."""

    def act(mind: list, state: list, seen: Seen) -> tuple[list, jax.Array, PyTree]:
        acted = agent.act(jax.tree.unflatten(mind_tree, mind), jax.tree.unflatten(state_tree, state), seen)
        actor = ahead(acted.actor, others) if others else acted.actor
        return jax.tree.leaves(actor), acted.action, acted.noted

    return jax.jit(act)
