"""How a host runner acts: the agent's own compiled `act`, or, for small vector networks, the same in NumPy.

A compiled call costs tens of microseconds before it computes anything, a small network in NumPy about eight. Where
both can act, both are epsilon-greedy on the same Q values (a test compares them); each draws from its own generator,
which is part of the checkpoint. A run uses one of them from its first step to its last.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import PyTree

from engram import spaces
from engram.agents.network import Network
from engram.agents.q_learning import ActorState, Agent, Mind
from engram.encoders.vector import VectorEncoder
from engram.exploration.exploration import EpsilonGreedySpec
from engram.heads.q import DuelingHead, QHead
from engram.nn.layers import EPSILON, MLP
from engram.trees import copied, restored

SMALL = 100_000  # parameters; above it the products cost more than the call


class Actor(Protocol):
    """Chooses actions for every environment. `steps` is the global step before the choice."""

    def load(self, mind: Sequence[jax.Array]) -> None:
        """Acts with these from now on: the leaves of a Mind, those of its network first."""
        ...

    def act(
        self, observation: PyTree, is_first: np.ndarray, reward: np.ndarray, steps: int
    ) -> tuple[np.ndarray, PyTree]:
        """Actions [envs] for observations [envs, ...] that followed `reward`, and what is to be remembered of them."""
        ...

    def memory(self) -> PyTree:
        """The working memory before the next step, NumPy, leading axis [envs]; () without one."""
        ...

    def capture(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What acting changes, as arrays and JSON."""
        ...

    def restore(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        """The inverse of `capture`."""
        ...


def choose_actor(agent: Agent, mind: Mind, state: ActorState, seed: int) -> Actor:
    """The faster of the two for this network."""
    params = mind.network
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    plain = isinstance(params.encoder, VectorEncoder) and isinstance(params.head, QHead | DuelingHead)
    remembers = agent.spec.has_memory or agent.spec.has_external
    greedy = isinstance(agent.spec.exploration, EpsilonGreedySpec) and not remembers
    if plain and greedy and isinstance(agent.space, spaces.Box) and size <= SMALL:
        return NumpyActor(agent, params, seed)
    return CompiledActor(agent, mind, state)


class NumpyActor:
    """Epsilon-greedy through NumPy, for flat observations and networks of linear layers."""

    def __init__(self, agent: Agent, params: Network, seed: int):
        self._exploration, self._actions, self._envs = agent.spec.exploration, agent.actions, agent.envs
        self._scale = np.float32(1 / 255 if agent.space.dtype == "uint8" else 1)  # type: ignore[union-attr]
        self._random = np.random.default_rng([seed, 0xAC70])
        self._frames = spaces.zeros(agent.space, (agent.envs, agent.spec.observation.stack))
        self._network = numpy_network(params)
        self.load(jax.tree.leaves(params))

    def load(self, mind: Sequence[jax.Array]) -> None:
        self._arrays = [np.asarray(leaf) for leaf in mind]

    def act(
        self, observation: np.ndarray, is_first: np.ndarray, reward: np.ndarray, steps: int
    ) -> tuple[np.ndarray, PyTree]:
        return self._choose(observation, is_first, steps), ()

    def _choose(self, observation: np.ndarray, is_first: np.ndarray, steps: int) -> np.ndarray:
        frames = self._push(observation, is_first)
        epsilon = self._exploration.epsilon(steps)
        if self._envs == 1 and self._random.random() < epsilon:  # the common case of one: no forward pass to throw away
            return self._random.integers(self._actions, size=1)
        inputs = frames.reshape(self._envs, -1).astype(np.float32, copy=False)
        inputs = inputs * self._scale if self._scale != 1 else inputs
        greedy = self._network(self._arrays, inputs).argmax(-1)
        if self._envs == 1:
            return greedy
        explore = self._random.random(self._envs) < epsilon
        return np.where(explore, self._random.integers(self._actions, size=self._envs), greedy)

    def memory(self) -> PyTree:
        return ()

    def _push(self, observation: np.ndarray, is_first: np.ndarray) -> np.ndarray:
        frames = self._frames
        if frames.shape[1] == 1:
            self._frames = observation[:, None]
            return self._frames
        frames = np.roll(frames, -1, axis=1)
        frames[is_first] = 0
        frames[:, -1] = observation
        self._frames = frames
        return frames

    def capture(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {"frames": np.array(self._frames)}, {"random": self._random.bit_generator.state}

    def restore(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        self._frames = arrays["frames"]
        self._random.bit_generator.state = meta["random"]


Arrays = Sequence[np.ndarray]
Places = tuple[int, int]  # of a layer's weight and bias among the leaves


def numpy_network(params: Network) -> Callable[[Arrays, np.ndarray], np.ndarray]:
    """A function from the leaves of a small vector network and inputs [batch, features] to Q [batch, actions].

    Which leaf is which is found out once, so that new parameters cost no more than taking their arrays.
    """
    places = jax.tree.unflatten(jax.tree.structure(params), range(len(jax.tree.leaves(params))))
    embed = _mlp(places.encoder.mlp)
    head: Any = places.head
    if isinstance(params.head, QHead):
        last = head.linear.weight, head.linear.bias
        return lambda arrays, x: _linear(arrays, last, embed(arrays, x))
    value, gains = [(_mlp(hidden), (last.weight, last.bias)) for hidden, last in (head.value, head.advantage)]

    def dueling(arrays: Arrays, x: np.ndarray) -> np.ndarray:
        x = embed(arrays, x)
        v, a = (_linear(arrays, last, hidden(arrays, x)) for hidden, last in (value, gains))
        return v + a - a.mean(-1, keepdims=True)

    return dueling


def _mlp(mlp: MLP) -> Callable[[Arrays, np.ndarray], np.ndarray]:
    """The same as the module, on a batch; `mlp` holds the places of its leaves."""
    layers: list[Places] = [(layer.weight, layer.bias) for layer in mlp.layers]  # type: ignore[misc]
    norm = mlp.norm

    def embed(arrays: Arrays, x: np.ndarray) -> np.ndarray:
        for layer in layers:
            x = _linear(arrays, layer, x)
            if norm:
                x -= x.mean(-1, keepdims=True)
                x /= np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(EPSILON))
            np.maximum(x, 0, out=x)
        return x

    return embed


def _linear(arrays: Arrays, layer: Places, x: np.ndarray) -> np.ndarray:
    weight, bias = layer
    return x @ arrays[weight].T + arrays[bias]


class CompiledActor:
    """The agent's own `act`, for every network and every observation."""

    def __init__(self, agent: Agent, mind: Mind, state: ActorState):
        self._state, self._state_tree = jax.tree.flatten(state)
        self._noted_tree = jax.tree.structure(agent.noted()) if agent.spec.has_external else jax.tree.structure(())
        self._act = compiled_act(agent, jax.tree.structure(mind), self._state_tree)
        self.load(jax.tree.leaves(mind))

    def load(self, mind: Sequence[jax.Array]) -> None:
        self._mind = list(mind)

    def act(
        self, observation: PyTree, is_first: np.ndarray, reward: np.ndarray, steps: int
    ) -> tuple[np.ndarray, PyTree]:
        self._state, action, noted = self._act(self._mind, self._state, observation, is_first, reward)
        return np.asarray(action), jax.tree.unflatten(self._noted_tree, map(np.asarray, noted))

    def memory(self) -> PyTree:
        return jax.tree.map(np.asarray, jax.tree.unflatten(self._state_tree, self._state).memory)

    def capture(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return copied(jax.tree.unflatten(self._state_tree, self._state)), {}

    def restore(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        state = restored(jax.tree.unflatten(self._state_tree, self._state), arrays)
        self._state = jax.tree.leaves(state)


@cache
def compiled_act(agent: Agent, mind_tree: Any, state_tree: Any) -> Callable[..., Any]:
    """The agent's `act` from leaves to leaves: flattening Equinox modules at every step would cost more."""

    def act(
        mind: list, state: list, observation: PyTree, is_first: jax.Array, reward: jax.Array
    ) -> tuple[list, jax.Array, list]:
        thinking, actor = jax.tree.unflatten(mind_tree, mind), jax.tree.unflatten(state_tree, state)
        actor, action, _, noted = agent.act(thinking, actor, observation, is_first, reward)
        return jax.tree.leaves(actor), action, jax.tree.leaves(noted)

    return jax.jit(act)
