"""Evaluating again and again while an agent learns: environments are made and programs compiled once.

Every call plays the same episodes, on seeds that neither training nor `evaluate` uses, so that two calls compare two
agents and not two sets of episodes. Nothing of the run is touched: environments, policies and keys are the evaluator's
own. `stop` is asked after each step on the host, about twice a second on the device.

An episode that has not ended after `limit` steps is cut off there. Its return counts as far as it went, so that a task
without an end can be evaluated too.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

from engram.agents.agent import Agent
from engram.agents.mind import MindSpec
from engram.agents.policy import Mind
from engram.envs.device import DeviceEnv
from engram.envs.host.make import HostEnvs
from engram.errors import Interrupted
from engram.play.evaluation import Evaluation
from engram.play.playing import Choose, Stop, device_programs, play_device, play_host, successes_of
from engram.precision import all_in_32_bits
from engram.runners.acting import Frames, acting_program
from engram.runners.numpy_program import NumpyProgram


class Evaluator(Protocol):
    """Plays the same greedy episodes with whatever mind it is given."""

    cut: int  # episodes of the last call that had not ended at the limit

    def play(self, minds: Sequence[Mind], stop: Stop) -> Evaluation | None:
        """What each seed's mind reaches; None if it was stopped."""
        ...

    def close(self) -> None:
        """Lets go of the environments."""
        ...


@all_in_32_bits
class HostEvaluator:
    """On the host; in NumPy for a small network, as when acting.

    Args:
      envs: made with `max_episode_steps` of at most `limit`, so that a new episode begins where one is cut.
    """

    def __init__(self, agent: Agent, spec: MindSpec, envs: HostEnvs, episodes: int, limit: int):
        self._agent, self._spec, self._envs, self._episodes, self._limit = agent, spec, envs, episodes, limit
        self._program: NumpyProgram | None = None
        self.cut = 0

    def play(self, minds: Sequence[Mind], stop: Stop) -> Evaluation | None:
        """See Evaluator."""
        self.cut = 0
        about: dict[str, Any] = {"limit": self._limit, "stop": stop}
        try:
            played = [
                play_host(mind, self._spec, self._envs, self._episodes, choose=self._in_numpy(mind), **about)
                for mind in minds
            ]
        except Interrupted:
            return None
        self.cut = sum(one.cut for one in played)
        lengths = [length for one in played for length in one.lengths]
        return Evaluation.of([list(one.returns) for one in played], lengths, self.cut, successes_of(played))

    def _in_numpy(self, mind: Mind) -> Choose | None:
        """Greedy actions in NumPy, for observations of one array and small networks without memory; else None."""
        if (plain := self._agent.plain()) is None:
            return None
        count = self._envs.envs
        program = self._program = self._program or acting_program(self._agent, plain, mind, count)
        if program is None:
            return None
        program.load([np.asarray(leaf) for leaf in jax.tree.leaves(mind)])
        frames = Frames(self._agent, plain, count)
        return lambda observation, is_first, _: program(frames.push(observation, is_first)).argmax(-1)

    def close(self) -> None:
        """See Evaluator."""
        self._envs.close()


@all_in_32_bits
class DeviceEvaluator:
    """On the device: all episodes side by side, in compiled calls of at most half a second."""

    def __init__(self, spec: MindSpec, env: DeviceEnv, seed: int, episodes: int, limit: int):
        self._env, self._spec, self._episodes, self._limit = env, spec, episodes, limit
        self._key = jax.random.PRNGKey(seed)
        self._programs = device_programs(env, spec, episodes, None, None)  # held while this lives
        self.cut = 0

    def play(self, minds: Sequence[Mind], stop: Stop) -> Evaluation | None:
        """See Evaluator."""
        self.cut = 0
        about: dict[str, Any] = {"spec": self._spec, "episodes": self._episodes, "limit": self._limit, "stop": stop}
        try:
            played = [play_device(self._env, mind, self._key, programs=self._programs, **about) for mind in minds]
        except Interrupted:
            return None
        self.cut = sum(one.cut for one in played)
        lengths = [length for one in played for length in np.asarray(one.lengths).tolist()]
        returns = [np.asarray(one.returns).tolist() for one in played]
        return Evaluation.of(returns, lengths, self.cut, successes_of(played))

    def close(self) -> None:
        """Nothing to let go of."""
