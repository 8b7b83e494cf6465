"""The host runner: any Gymnasium environment, one collector and one learner.

The collector fills a block of steps. The learner takes it in on a thread of its own, while the collector fills the
next one. So the actor has the mind from before the last block. This lag belongs to the algorithm, not to timing, and a
resumed run has the same lag. For an agent whose rhythm has no lag, the collector waits.

A group of 1 suits networks whose update takes longer than a cycle. For small networks a compiled call costs as much as
its updates, so a few cycles share one call.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from engram.agents.agent import Agent, AgentState, Experience
from engram.agents.policy import Mind
from engram.envs.host.make import HostEnvs
from engram.runners.acting import choose_actor
from engram.runners.collector import Block, Collector
from engram.runners.common import Captured, Ended, Rows, Store, by_observing
from engram.runners.learner import Learner, compiled_init
from engram.trees import copied, restored

FINISH_SECONDS = 1.0  # that a stop waits for the end of an episode


class HostRunner:
    """Drives one agent through host environments. Everything that changes is in `capture`.

    Args:
      group: cycles that share one compiled call; 1 for an agent whose rhythm has no lag.
      state: where to begin, with new episodes; a new agent if None.
      steps: the global step of `state`.
    """

    def __init__(
        self, agent: Agent, envs: HostEnvs, seed: int, group: int = 1, state: AgentState | None = None, steps: int = 0
    ):
        self.agent = agent
        if agent.missing:
            envs.accept_missing()
        state = compiled_init(agent)(jax.random.PRNGKey(seed)) if state is None else state
        # An agent that acts without lag learns after each cycle: several in a call would act with an older mind.
        self.learner = Learner(agent, state, group if agent.rhythm.lag else 1)
        self._acting = self.learner.mind_leaves  # the leaves that act: those from before the last block
        actor = choose_actor(agent, agent.mind(state), state.actor, seed)
        self.collector = Collector(agent, envs, actor, self.learner.size)
        self.collector.steps = steps
        self._seed = seed

    @property
    def ended(self) -> list[Ended] | None:
        """See Runner."""
        return self.collector.ended

    @ended.setter
    def ended(self, episodes: list[Ended] | None) -> None:
        self.collector.ended, self.collector.seed = episodes, self._seed

    @property
    def steps(self) -> int:
        """The global step."""
        return self.collector.steps

    def start(self) -> None:
        """Begins the first episodes. A restored run does not call this."""
        self.collector.start()

    def advance(self, until: int, stop: Callable[[], bool]) -> None:
        """Acts and learns until the global step is at least `until`, or `stop()` is true."""
        collector = self.collector
        while collector.steps < until and not stop():
            if block := collector.step():
                self._settle(block)

    def _settle(self, block: Block) -> None:
        learner = self.learner
        if self.agent.rhythm.lag:
            self._act_with(learner.mind_leaves)  # waits for the call that ran while this block was collected
            learner.settle(block, self.steps)
        else:
            learner.settle(block, self.steps)
            self._act_with(learner.mind_leaves)

    def _act_with(self, mind: list[jax.Array]) -> None:
        self._acting = mind
        self.collector.actor.load(mind)

    def report(self) -> dict[str, Any]:
        """The metrics since the last report."""
        learned = self.learner.report(self.steps)  # first: it may find that something broke
        return self.collector.episodes.report() | learned

    def capture(self) -> Captured:
        """See Runner."""
        self.learner.check(self.steps)
        arrays, rows = self.learner.capture()
        collected, meta = self.collector.capture()
        return Captured(arrays | copied(self.acting, "acting") | collected, meta, rows)

    def restore(
        self,
        arrays: Mapping[str, np.ndarray],
        meta: dict[str, Any],
        rows: Callable[[Rows], Rows],
        new_episodes: bool = False,
    ) -> None:
        """Takes a captured state back; see Runner."""
        self.learner.restore(arrays, rows)
        self._act_with(jax.tree.leaves(restored(self.acting, arrays, "acting")))
        self.collector.restore(arrays, meta, new_episodes)

    def follow(self, agent: Agent) -> None:
        """See Runner."""
        self.agent = agent
        self.learner.follow(agent)
        self.collector.actor.follow(agent)

    def adopt(self, arrays: Mapping[str, np.ndarray], rows: Callable[[Rows], Rows] | None) -> None:
        """See Runner."""
        self.learner.adopt(arrays, rows)
        self._act_with(self.learner.mind_leaves)

    def observe(self, experience: Experience, store: Store = by_observing) -> None:
        """See Runner."""
        self.learner.observe(experience, store)
        self._act_with(self.learner.mind_leaves)  # the leaves before were given away

    def finish(self, stopped: bool) -> str | None:
        """See Runner, and HostEnvs.level."""
        collector = self.collector
        if collector.envs.level != "boundary" or collector.between_episodes:
            return None
        if not stopped or self.agent.envs > 1:  # several are hardly ever between episodes together
            return "an environment cannot be taken up inside an episode: resumed from here, it begins a new one"
        late = time.monotonic() + FINISH_SECONDS
        while not collector.between_episodes:
            if time.monotonic() > late:
                return "an environment cannot be taken up inside an episode: resumed from here, it begins a new one"
            self.advance(self.steps + 1, lambda: False)
        return "the environment cannot be taken up inside an episode: it was run to the end of this one"

    def state(self) -> AgentState:
        """The state without its actor, the steps of an unfinished block included.

        Its buffers are donated when the runner goes on.
        """
        if block := self.collector.cut():
            self.learner.store(block)
        return self.learner.state

    @property
    def acting(self) -> Mind:
        """The mind of one block ago, which the actor uses."""
        return self.learner.mind_of(self._acting)

    def minds(self) -> list[Mind]:
        """The newest parameters, and what is remembered."""
        return [self.learner.mind_of(self.learner.mind_leaves)]

    def close(self) -> None:
        """Lets go of the environments."""
        self.collector.envs.close()
