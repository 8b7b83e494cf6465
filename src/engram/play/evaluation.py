"""Evaluation: whole episodes played greedily, on seeds that no training uses."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram import spaces
from engram.agents import q_learning
from engram.agents.examples import previous_of
from engram.agents.network import Network
from engram.agents.q_learning import Mind, push, repeated
from engram.agents.spec import AgentSpec
from engram.bits import draw
from engram.envs.device import DeviceEnv
from engram.envs.host.make import HostEnvs
from engram.errors import SpaceError, SpecError
from engram.runners.device import choose
from engram.types import Decision


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted, unclipped returns of greedy episodes, and how many steps each took."""

    mean: float
    std: float
    episodes: int
    returns: list[float]
    per_seed: list[float]  # the mean of each seed's agent
    lengths: list[int]  # of the episodes in `returns`

    @classmethod
    def of(cls, returns: list[list[float]], lengths: list[int]) -> "Evaluation":
        """From the returns of each seed's agent, and the lengths of all their episodes in the same order."""
        flat = [value for one in returns for value in one]
        means = [float(np.mean(one)) for one in returns]
        return cls(float(np.mean(flat)), float(np.std(flat)), len(flat), flat, means, lengths)

    def of_each_seed(self) -> list[list[float]]:
        """The returns of each seed's agent, all of which played as many episodes."""
        share = self.episodes // len(self.per_seed)
        return [self.returns[first : first + share] for first in range(0, self.episodes, share)]


def evaluation_seed(seed: int) -> int:
    """A seed for environments that is unlike any that training derives from the same number."""
    return int(np.random.SeedSequence([seed, 0xE7A1]).generate_state(1, np.uint32)[0])


class PolicyState(NamedTuple):
    """What a policy keeps from one observation to the next; leading axis [envs]."""

    frames: PyTree
    memory: PyTree
    action: Array | np.ndarray  # int32, the newest
    episode: Array | np.ndarray  # uint32 [envs, 2]: bits drawn when an episode began, where actions explore


class Policy:
    """A network with its frame stack and its working memory, for anything with a leading axis [envs]."""

    def __init__(self, mind: Mind, spec: AgentSpec):
        self._mind, self._spec, self._space, self.actions = mind, spec, mind.network.space, mind.network.actions

    def begin(self, envs: int) -> PolicyState:
        """The state before the first observation."""
        return begin(self._mind.network, self._spec.observation.stack, envs)

    def prefer(
        self, state: PolicyState, observation: PyTree, is_first: np.ndarray, reward: np.ndarray
    ) -> tuple[PolicyState, Array]:
        """The state with this observation in it, and Q [envs, actions]: minus infinity where an action is forbidden."""
        return _prefer(self._spec, self._mind, state, observation, is_first, reward)

    def act(
        self,
        rows: PyTree,
        state: PolicyState | None,
        is_first: np.ndarray | None,
        reward: np.ndarray | None,
        generator: np.random.Generator | None,
    ) -> tuple[np.ndarray, PolicyState]:
        """Actions [envs] for stored observations [envs, ...], and the next state.

        They are greedy, or with a `generator` explore as at the end of training. `reward` [envs] is that of the step
        before. Raises SpecError where the agent reads it and it was not given.
        """
        envs = jax.tree.leaves(rows)[0].shape[0]
        starts = np.zeros(envs, bool) if is_first is None else np.asarray(is_first, bool).reshape(envs)
        starts = starts | (state is None)
        if reward is None and self._spec.observation.previous_reward and not starts.all():
            raise SpecError(
                "this agent reads the reward of the step before; pass it too, predict(..., reward=reward), or let "
                "`evaluate` play"
            )
        reward = np.zeros(envs, np.float32) if reward is None else np.asarray(reward, np.float32).reshape(envs)
        current = self.begin(envs) if state is None else state
        if generator is None:
            current, preference = self.prefer(current, rows, starts, reward)
            action = np.asarray(preference).argmax(-1)
            return action, current._replace(action=action.astype(np.int32))
        now, fresh = generator.integers(0, 1 << 32, size=(2, envs, 2), dtype=np.uint32)
        exploration = self._spec.exploration
        if exploration.by_episode:
            episode = jax.vmap(exploration.kept)(jnp.asarray(current.episode), starts, now, fresh)
            current = current._replace(episode=episode)
        current, chosen = _explore(self._spec, self._mind, current, rows, starts, reward, now)
        return np.asarray(chosen), current._replace(action=chosen)

    def is_batched(self, observation: PyTree) -> bool:
        """Whether a stored observation has a leading axis [envs]."""
        _, leaf = next(spaces.leaves(self._space))
        return np.ndim(jax.tree.leaves(observation)[0]) == len(leaf.shape) + 1

    def rows(self, observation: PyTree, batched: bool) -> PyTree:
        """A device environment's observation as stored, with a leading axis [envs]. SpaceError if it is another's."""
        given, expected = jax.tree.leaves(observation), list(spaces.leaves(self._space))
        if len(given) != len(expected):
            raise SpaceError(
                f"an observation of {len(given)} arrays was given; expected {len(expected)}: {self._space}"
            )
        rows = []
        for value, (name, leaf) in zip(given, expected, strict=True):
            row = np.asarray(value) if batched else np.asarray(value)[None]
            where = f"the observation{' ' + name if name else ''}"
            if row.shape[1:] != tuple(leaf.shape):
                raise SpaceError(
                    f"{where} has shape {row.shape[1:]}; expected {tuple(leaf.shape)}, or several of those in one array"
                )
            if row.dtype.kind == "f" and not np.isfinite(row).all():
                raise SpaceError(f"{where} holds a NaN or an infinity; expected finite numbers")
            rows.append(row.astype(leaf.dtype))
        return jax.tree.unflatten(jax.tree.structure(observation), rows)


def begin(params: Network, stack: int, envs: int) -> PolicyState:
    """The state of a policy before the first observation."""
    frames = jax.tree.map(jnp.asarray, spaces.zeros(params.space, (envs, stack)))
    return PolicyState(frames, repeated(params.working.init(), envs), jnp.zeros(envs, jnp.int32),
                       jnp.zeros((envs, 2), jnp.uint32))  # fmt: skip


def decide(
    spec: AgentSpec,
    mind: Mind,
    state: PolicyState,
    observation: PyTree,
    is_first: Bool[Array, "envs"],
    reward: Float[Array, "envs"],
) -> tuple[PolicyState, Decision]:
    """The state with this observation in it, and all that the agent knew. The action is the caller's to set."""
    frames = push(state.frames, observation, is_first)
    previous = previous_of(spec, jnp.asarray(state.action), reward)
    memory, decision, _ = q_learning.decide(spec, mind, state.memory, frames, is_first, previous)
    return state._replace(frames=frames, memory=memory), decision


@partial(jax.jit, static_argnums=0)
def _prefer(
    spec: AgentSpec, mind: Mind, state: PolicyState, observation: PyTree, is_first: Array, reward: Array
) -> tuple[PolicyState, Float[Array, "envs actions"]]:
    state, decision = decide(spec, mind, state, observation, is_first, reward)
    return state, decision.preference


@partial(jax.jit, static_argnums=0)
def _explore(
    spec: AgentSpec,
    mind: Mind,
    state: PolicyState,
    observation: PyTree,
    is_first: Array,
    reward: Array,
    bits: Array,
) -> tuple[PolicyState, Int[Array, "envs"]]:
    """The state with this observation in it, and actions that explore as at the end of training."""
    state, decision = decide(spec, mind, state, observation, is_first, reward)
    choose = partial(spec.exploration.choose, step=spec.exploration.steps)
    return state, jax.vmap(choose)(decision, bits, state.episode)


def play_host(policy: Policy, envs: HostEnvs, episodes: int) -> tuple[list[float], list[int]]:
    """Returns and lengths of greedy episodes. Each environment plays its share, so that short ones count no more."""
    shares = [episodes // envs.envs + (index < episodes % envs.envs) for index in range(envs.envs)]
    finished: list[list[tuple[float, int]]] = [[] for _ in shares]
    running, lengths, reward = np.zeros(envs.envs), np.zeros(envs.envs, int), np.zeros(envs.envs, np.float32)
    observation, is_first, state = envs.reset(), np.ones(envs.envs, bool), policy.begin(envs.envs)
    while any(len(done) < share for done, share in zip(finished, shares, strict=True)):
        action, state = policy.act(observation, state, is_first, reward, None)
        step = envs.step(action)
        running += step.reward
        lengths += 1
        for env in np.flatnonzero(step.done):
            finished[env].append((float(running[env]), int(lengths[env])))
            running[env] = lengths[env] = 0
        observation, is_first, reward = step.observation, step.done, step.reward
    played = [one for done, share in zip(finished, shares, strict=True) for one in done[:share]]
    return [value for value, _ in played], [length for _, length in played]


@partial(jax.jit, static_argnums=0, static_argnames=("spec", "episodes"))
def play_device(
    env: DeviceEnv, mind: Mind, key: Array, *, spec: AgentSpec, episodes: int
) -> tuple[Float[Array, "episodes"], Int[Array, "episodes"]]:
    """Returns and lengths of `episodes` greedy episodes, all played side by side until the longest ends."""
    key, bits = draw(key, 2 * episodes)
    env_state, observation = jax.vmap(env.reset)(bits.reshape(episodes, 2))

    def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        key, env_state, observation, state, is_first, reward, running, returns, lengths = carry
        state, decision = decide(spec, mind, state, observation, is_first, reward)
        action = decision.preference.argmax(-1).astype(jnp.int32)
        key, bits = draw(key, 2 * episodes)
        moved, out = jax.vmap(env.step)(env_state, action, bits.reshape(episodes, 2))
        # An ended environment must not be stepped on: it repeats its last step instead, which counts for nothing.
        over = (out.terminated | out.truncated) | ~running
        env_state = jax.tree.map(partial(choose, over), env_state, moved)
        returns = returns + jnp.where(running, out.reward, 0.0)
        lengths = lengths + running
        running = running & ~(out.terminated | out.truncated)
        state = state._replace(action=action)
        first = jnp.zeros(episodes, bool)
        return key, env_state, out.observation, state, first, out.reward, running, returns, lengths

    state, first = begin(mind.network, spec.observation.stack, episodes), jnp.ones(episodes, bool)
    zeros, none = jnp.zeros(episodes), jnp.zeros(episodes, jnp.int32)
    start = (key, env_state, observation, state, first, zeros, first, zeros, none)
    return jax.lax.while_loop(lambda carry: carry[6].any(), step, start)[-2:]
