"""Evaluating again and again while an agent learns: environments are made and programs compiled once.

Every call plays the same episodes, on seeds that neither training nor `evaluate` uses, so that two calls compare two
agents and not two sets of episodes. Nothing of the run is touched: environments, policies and keys are the evaluator's
own. `stop` is asked after each step on the host, about twice a second on the device.

An episode that has not ended after `limit` steps is cut off there. Its return counts as far as it went, so that a task
without an end can be evaluated too.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from engram import spaces
from engram.agents import policy
from engram.agents.agent import Agent, PlainPolicy
from engram.agents.policy import Mind, Seen, seen_on_host
from engram.agents.spec import AgentSpec
from engram.bits import next_words
from engram.envs.device import DeviceEnv
from engram.envs.host.make import HostEnvs
from engram.play.evaluation import Evaluation
from engram.play.playing import Playing, Policy, step_device
from engram.runners.acting import SMALL
from engram.runners.numpy_program import NumpyProgram, numpy_program

Stop = Callable[[], bool]
CALL_SECONDS = 0.5  # what one compiled call should take: the longest that a stop has to wait


class Evaluator(Protocol):
    """Plays the same greedy episodes with whatever mind it is given."""

    cut: int  # episodes of the last call that had not ended at the limit

    def play(self, minds: Sequence[Mind], stop: Stop) -> Evaluation | None:
        """What each seed's mind reaches; None if it was stopped."""
        ...

    def close(self) -> None:
        """Lets go of the environments."""
        ...


class HostEvaluator:
    """On the host. Each environment plays its share of the episodes, so that short ones count no more."""

    def __init__(self, agent: Agent, spec: AgentSpec, envs: HostEnvs, episodes: int, limit: int):
        self._agent, self._spec, self._envs, self._limit = agent, spec, envs, limit
        self._shares = [episodes // envs.envs + (index < episodes % envs.envs) for index in range(envs.envs)]
        self._plain: PlainPolicy | None = agent.plain()
        self._program: NumpyProgram | None = None
        self.cut = 0

    def play(self, minds: Sequence[Mind], stop: Stop) -> Evaluation | None:
        """See Evaluator."""
        self.cut = 0
        played = []
        for mind in minds:
            if (found := self._episodes(self._greedy(mind), stop)) is None:
                return None
            played.append(found)
        return Evaluation.of(
            [[value for value, _ in one] for one in played], [length for one in played for _, length in one]
        )

    def _episodes(self, act: Callable[..., np.ndarray], stop: Stop) -> list[tuple[float, int]] | None:
        envs = self._envs
        finished: list[list[tuple[float, int]]] = [[] for _ in self._shares]
        returns, lengths = np.zeros(envs.envs), np.zeros(envs.envs, int)
        observation, is_first, reward = envs.reset(), np.ones(envs.envs, bool), np.zeros(envs.envs, np.float32)
        while any(len(done) < share for done, share in zip(finished, self._shares, strict=True)):
            if stop():
                return None
            step = envs.step(act(observation, is_first, reward))
            returns += step.reward
            lengths += 1
            for env in np.flatnonzero(step.done | (lengths >= self._limit)):
                self.cut += int(not step.done[env] and len(finished[env]) < self._shares[env])
                finished[env].append((float(returns[env]), int(lengths[env])))
                returns[env] = lengths[env] = 0
            observation, is_first, reward = step.observation, step.done, step.reward
        return [one for done, share in zip(finished, self._shares, strict=True) for one in done[:share]]

    def _greedy(self, mind: Mind) -> Callable[..., np.ndarray]:
        """Greedy actions [envs] from one observation to the next; in NumPy for a small network, as when acting."""
        if self._plain is not None and sum(leaf.size for leaf in jax.tree.leaves(mind)) <= SMALL:
            frames = spaces.zeros(self._agent.space, (self._envs.envs, self._plain.stack))
            self._program = self._program or numpy_program(self._plain.preference, mind, frames)
            if self._program is not None:
                return _NumpyGreedy(self._program, mind, frames)
        return _CompiledGreedy(Policy(mind, self._spec), self._envs.envs)

    def close(self) -> None:
        """See Evaluator."""
        self._envs.close()


class _NumpyGreedy:
    """The preferred action through NumPy, for observations of one array and networks without memory."""

    def __init__(self, program: NumpyProgram, mind: Mind, frames: np.ndarray):
        self._program, self._frames = program, frames
        program.load([np.asarray(leaf) for leaf in jax.tree.leaves(mind)])

    def __call__(self, observation: np.ndarray, is_first: np.ndarray, reward: np.ndarray) -> np.ndarray:
        if self._frames.shape[1] == 1:
            return self._program(observation[:, None]).argmax(-1)
        frames = np.roll(self._frames, -1, axis=1)
        frames[is_first] = 0
        frames[:, -1] = observation
        self._frames = frames
        return self._program(frames).argmax(-1)


class _CompiledGreedy:
    """The preferred action through the agent's own policy."""

    def __init__(self, player: Policy, envs: int):
        self._player, self._state = player, player.begin(envs)

    def __call__(self, observation: PyTree, is_first: np.ndarray, reward: np.ndarray) -> np.ndarray:
        self._state, action, _ = self._player.look(self._state, seen_on_host(observation, is_first, reward), None)
        return action


class _Chunk(NamedTuple):
    playing: Playing
    steps: Int[Array, ""]


class DeviceEvaluator:
    """On the device: all episodes side by side, in compiled calls of at most half a second."""

    def __init__(self, spec: AgentSpec, env: DeviceEnv, seed: int, episodes: int, limit: int):
        self._spec, self._env, self._episodes, self._limit = spec, env, episodes, limit
        self._key = jax.random.PRNGKey(seed)
        self._steps = 64  # in the next compiled call
        self.cut = 0

    def play(self, minds: Sequence[Mind], stop: Stop) -> Evaluation | None:
        """See Evaluator."""
        self.cut = 0
        returns, lengths = [], []
        for mind in minds:
            playing = _begin(self._env, self._spec, self._episodes, mind, self._key)
            played = 0
            while played < self._limit and np.asarray(playing.running).any():
                if stop():
                    return None
                began = time.perf_counter()
                steps = min(self._steps, self._limit - played)
                playing = jax.block_until_ready(_go_on(self._env, self._spec, mind, playing, steps))
                played += steps
                # How the episodes are cut into calls changes nothing in them, so the clock may decide.
                speed = steps / (time.perf_counter() - began)
                self._steps = max(1, min(2 * self._steps, int(CALL_SECONDS * speed)))
            self.cut += int(np.asarray(playing.running).sum())
            returns.append(np.asarray(playing.returns).tolist())
            lengths += np.asarray(playing.lengths).tolist()
        return Evaluation.of(returns, lengths)

    def close(self) -> None:
        """Nothing to let go of."""


@partial(jax.jit, static_argnums=(0, 1, 2))
def _begin(env: DeviceEnv, spec: AgentSpec, episodes: int, mind: Mind, key: Array) -> Playing:
    key, bits = next_words(key, 2 * episodes)
    state, observation = jax.vmap(env.reset)(bits.reshape(episodes, 2))
    first, zeros = jnp.ones(episodes, bool), jnp.zeros(episodes)
    begun = policy.begin(spec, mind.network, episodes)
    return Playing(key, state, begun, Seen(observation, first, zeros), first, zeros, jnp.zeros(episodes, jnp.int32))


@partial(jax.jit, static_argnums=(0, 1))
def _go_on(env: DeviceEnv, spec: AgentSpec, mind: Mind, playing: Playing, steps: Int[Array, ""] | int) -> Playing:
    """At most so many steps, fewer where every episode ends before."""

    def one(now: _Chunk) -> _Chunk:
        return _Chunk(step_device(env, mind, spec, None, now.playing, None)[0], now.steps + 1)

    def more(now: _Chunk) -> Any:
        return now.playing.running.any() & (now.steps < steps)

    return jax.lax.while_loop(more, one, _Chunk(playing, jnp.int32(0))).playing
