"""Evaluating again and again while an agent learns: environments are made and programs compiled once.

Every call plays the same episodes, on seeds that neither training nor `evaluate` uses, so that two calls compare two
agents and not two sets of episodes. Nothing of the run is touched: environments, policies and keys are the evaluator's
own. `stop` is asked after each step on the host, about twice a second on the device.

An episode that has not ended after `limit` steps is cut off there. Its return counts as far as it went, so that a task
without an end can be evaluated too.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import numpy as np
from jaxtyping import PyTree

from engram import spaces
from engram.agents.agent import Agent, PlainPolicy
from engram.agents.policy import Mind, seen_on_host
from engram.agents.spec import AgentSpec
from engram.envs.device import DeviceEnv
from engram.envs.host.make import HostEnvs
from engram.play.evaluation import Evaluation
from engram.play.playing import Policy, Stop, device_programs
from engram.runners.acting import SMALL
from engram.runners.numpy_program import NumpyProgram, numpy_program

NO_LIMIT = np.iinfo(np.int32).max  # steps of an episode: what is cut off is counted here
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
            idle = np.zeros(envs.envs, bool) if step.idle is None else step.idle
            returns += step.reward
            lengths += ~idle
            for env in np.flatnonzero(step.done | (lengths >= self._limit)):
                self.cut += int(not step.done[env] and len(finished[env]) < self._shares[env])
                finished[env].append((float(returns[env]), int(lengths[env])))
                returns[env] = lengths[env] = 0
            observation, is_first, reward = step.observation, step.done | idle, step.reward
        return [one for done, share in zip(finished, self._shares, strict=True) for one in done[:share]]

    def _greedy(self, mind: Mind) -> Callable[..., np.ndarray]:
        """Greedy actions [envs] from one observation to the next; in NumPy for a small network, as when acting."""
        if self._plain is not None and sum(leaf.size for leaf in jax.tree.leaves(mind)) <= SMALL:
            frames = spaces.zeros(self._agent.space, (self._envs.envs, self._plain.stack))
            self._program = self._program or numpy_program(self._plain.preference, mind, frames)
            if self._program is not None:
                return _NumpyGreedy(self._program, mind, frames, self._plain.unknown)
        return _CompiledGreedy(Policy(mind, self._spec), self._envs.envs)

    def close(self) -> None:
        """See Evaluator."""
        self._envs.close()


class _NumpyGreedy:
    """The preferred action through NumPy, for observations of one array and networks without memory."""

    def __init__(self, program: NumpyProgram, mind: Mind, frames: np.ndarray, unknown: bool):
        self._program, self._frames = program, frames
        self._blank = spaces.blank(frames.dtype, unknown)
        program.load([np.asarray(leaf) for leaf in jax.tree.leaves(mind)])

    def __call__(self, observation: np.ndarray, is_first: np.ndarray, reward: np.ndarray) -> np.ndarray:
        if self._frames.shape[1] == 1:
            return self._program(observation[:, None]).argmax(-1)
        frames = np.roll(self._frames, -1, axis=1)
        frames[is_first] = self._blank
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


class DeviceEvaluator:
    """On the device: all episodes side by side, in compiled calls of at most half a second."""

    def __init__(self, spec: AgentSpec, env: DeviceEnv, seed: int, episodes: int, limit: int):
        self._limit = limit
        self._programs = device_programs(env, spec, episodes, None, None)  # held while this lives
        self._key = jax.random.PRNGKey(seed)
        self._steps = 64  # in the next compiled call
        self.cut = 0

    def play(self, minds: Sequence[Mind], stop: Stop) -> Evaluation | None:
        """See Evaluator."""
        self.cut = 0
        returns, lengths = [], []
        for mind in minds:
            playing, played, running = self._programs.begin(mind, self._key), 0, True
            while played < self._limit and running:
                if stop():
                    return None
                began = time.perf_counter()
                steps = min(self._steps, self._limit - played)
                played += steps
                playing, goes_on = self._programs.advance(mind, playing, NO_LIMIT, played)
                running = bool(goes_on)  # waits for the call
                # How the episodes are cut into calls changes nothing in them, so the clock may decide.
                speed = steps / (time.perf_counter() - began)
                self._steps = max(1, min(2 * self._steps, int(CALL_SECONDS * speed)))
            self.cut += int(np.asarray(playing.running).sum())
            returns.append(np.asarray(playing.returns).tolist())
            lengths += np.asarray(playing.lengths).tolist()
        return Evaluation.of(returns, lengths)

    def close(self) -> None:
        """Nothing to let go of."""
