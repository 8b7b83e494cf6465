"""Evaluation: whole episodes played greedily, on seeds that no training uses."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from engram import spaces
from engram.agents.q_learning import push
from engram.bits import draw
from engram.envs.device import DeviceEnv
from engram.envs.host import HostEnvs
from engram.errors import SpaceError
from engram.network import Network
from engram.runners.device import choose


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted, unclipped returns of greedy episodes."""

    mean: float
    std: float
    episodes: int
    returns: list[float]
    per_seed: list[float]  # the mean of each seed's agent

    @classmethod
    def of(cls, returns: list[list[float]]) -> "Evaluation":
        """From the returns of each seed's agent."""
        flat = [value for one in returns for value in one]
        means = [float(np.mean(one)) for one in returns]
        return cls(float(np.mean(flat)), float(np.std(flat)), len(flat), flat, means)

    def of_each_seed(self) -> list[list[float]]:
        """The returns of each seed's agent, all of which played as many episodes."""
        share = self.episodes // len(self.per_seed)
        return [self.returns[first : first + share] for first in range(0, self.episodes, share)]


def evaluation_seed(seed: int) -> int:
    """A seed for environments that is unlike any that training derives from the same number."""
    return int(np.random.SeedSequence([seed, 0xE7A1]).generate_state(1, np.uint32)[0])


class Policy:
    """A network and its frame stack, for anything with a leading axis [envs]."""

    def __init__(self, params: Network, space: spaces.Space, stack: int, actions: int):
        self._params, self._space, self._stack, self.actions = params, space, stack, actions

    def begin(self, envs: int) -> PyTree:
        """Frames before the first observation."""
        return spaces.zeros(self._space, (envs, self._stack))

    def q(self, frames: PyTree, observation: PyTree, is_first: np.ndarray) -> tuple[PyTree, np.ndarray]:
        """The frames with this observation at their end, and Q [envs, actions]."""
        frames, q = _q(self._params, frames, observation, is_first)
        return frames, np.asarray(q)

    def act(
        self,
        rows: PyTree,
        frames: PyTree | None,
        is_first: np.ndarray | None,
        epsilon: float,
        generator: np.random.Generator,
    ) -> tuple[np.ndarray, PyTree]:
        """Actions [envs] for stored observations [envs, ...], random with probability `epsilon`, and the frames."""
        envs = jax.tree.leaves(rows)[0].shape[0]
        starts = np.zeros(envs, bool) if is_first is None else np.asarray(is_first, bool).reshape(envs)
        frames, q = self.q(self.begin(envs) if frames is None else frames, rows, starts)
        action = q.argmax(-1)
        if epsilon:
            explore = generator.random(envs) < epsilon
            action = np.where(explore, generator.integers(self.actions, size=envs), action)
        return action, frames

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


@jax.jit
def _q(
    params: Network, frames: PyTree, observation: PyTree, is_first: Array
) -> tuple[PyTree, Float[Array, "envs actions"]]:
    frames = push(frames, observation, is_first)
    return frames, jax.vmap(params)(frames).returns.q


def play_host(policy: Policy, envs: HostEnvs, episodes: int) -> list[float]:
    """Returns of `episodes` greedy episodes. Each environment plays its share, so that short ones count no more."""
    shares = [episodes // envs.envs + (index < episodes % envs.envs) for index in range(envs.envs)]
    finished: list[list[float]] = [[] for _ in shares]
    running = np.zeros(envs.envs)
    observation, is_first, frames = envs.reset(), np.ones(envs.envs, bool), policy.begin(envs.envs)
    while any(len(done) < share for done, share in zip(finished, shares, strict=True)):
        frames, q = policy.q(frames, observation, is_first)
        step = envs.step(q.argmax(-1))
        running += step.reward
        for env in np.flatnonzero(step.done):
            finished[env].append(float(running[env]))
            running[env] = 0
        observation, is_first = step.observation, step.done
    return [value for done, share in zip(finished, shares, strict=True) for value in done[:share]]


@partial(jax.jit, static_argnums=0, static_argnames=("stack", "episodes"))
def play_device(env: DeviceEnv, params: Network, key: Array, *, stack: int, episodes: int) -> Float[Array, "episodes"]:
    """Returns of `episodes` greedy episodes, all played side by side until the longest ends."""
    key, bits = draw(key, 2 * episodes)
    state, observation = jax.vmap(env.reset)(bits.reshape(episodes, 2))
    frames = jax.tree.map(jnp.asarray, spaces.zeros(env.observation_space, (episodes, stack)))

    def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        key, state, observation, frames, is_first, running, returns = carry
        frames = push(frames, observation, is_first)
        action = jax.vmap(params)(frames).returns.q.argmax(-1)
        key, bits = draw(key, 2 * episodes)
        moved, out = jax.vmap(env.step)(state, action, bits.reshape(episodes, 2))
        # An ended environment must not be stepped on: it repeats its last step instead, which counts for nothing.
        over = (out.terminated | out.truncated) | ~running
        state = jax.tree.map(partial(choose, over), state, moved)
        returns = returns + jnp.where(running, out.reward, 0.0)
        running = running & ~(out.terminated | out.truncated)
        return key, state, out.observation, frames, jnp.zeros(episodes, bool), running, returns

    first, zeros = jnp.ones(episodes, bool), jnp.zeros(episodes)
    start = (key, state, observation, frames, first, first, zeros)
    return jax.lax.while_loop(lambda carry: carry[5].any(), step, start)[-1]
