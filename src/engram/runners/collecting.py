"""One actor of a cluster: the host runner's collector, which sends its blocks to a learner elsewhere.

It acts in its share of a run's environments. It is given the parameters for each block, and knows nothing of learning.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from engram.agents.acting import ahead
from engram.agents.agent import Agent
from engram.cluster.blocks import Name, Sent
from engram.envs.host import capture as capturing
from engram.envs.host.batch import join_snapshots
from engram.envs.host.make import HostEnvs
from engram.precision import all_in_32_bits
from engram.runners.acting import Actor, choose_actor
from engram.runners.collector import COLUMNS, Block, Collector
from engram.runners.common import Ended
from engram.runners.learner import places_of_mind


class Collected(NamedTuple):
    """What a block holds: its steps, and the episodes that ended in them.

    Few steps end an episode, so of `final_observation` only the rows travel that mean something: those of the steps in
    `finals`. An image would else be sent twice.
    """

    block: Block
    finals: np.ndarray
    ended: list[Ended]
    level: str  # how exactly the environments can be saved; see HostEnvs

    @classmethod
    def of(cls, block: Block, ended: list[Ended], level: str) -> "Collected":
        """Packs a block. Its last step may show what follows, also where the episode goes on."""
        done = np.asarray(block.columns)[:, :, COLUMNS.index("done")]
        finals = np.union1d(np.flatnonzero(done.any(axis=1)), len(done) - 1)
        rows = jax.tree.map(lambda leaf: leaf[finals], block.final_observation)
        return cls(block._replace(final_observation=rows), finals, ended, level)

    @property
    def whole(self) -> Block:
        """The block as it was, but for what no step shows, which is zeros."""
        steps = len(self.block.columns)

        def spread(rows: np.ndarray) -> np.ndarray:
            leaf = np.zeros((steps, *rows.shape[1:]), rows.dtype)
            leaf[self.finals] = rows
            return leaf

        return self.block._replace(final_observation=jax.tree.map(spread, self.block.final_observation))


class Beginning(NamedTuple):
    """Where an actor begins: at the last episode of each of its environments, which is over, or inside episodes.

    captured: what `capture` gave, to go on inside episodes; None to begin the ones after `episodes`.
    """

    episodes: list[int]
    captured: tuple[Mapping[str, np.ndarray], dict[str, Any]] | None = None
    new_episodes: bool = False  # where an environment cannot be taken up


@all_in_32_bits
class Collecting:
    """One actor.

    Args:
      agent: for the environments of this actor alone.
      others: environments of the other actors.
      size: steps of a block.
      number, incarnation: which actor it is, and how often it was made anew.
    """

    def __init__(
        self, agent: Agent, envs: HostEnvs, seed: int, size: int, number: int = 0, incarnation: int = 0, others: int = 0
    ):
        if agent.missing:
            envs.accept_missing()
        self.agent, self.envs, self._seed, self._others = agent, envs, seed, others
        self.number, self.incarnation = number, incarnation
        self._drawn_by = (number, incarnation) if number or incarnation else ()
        self._size = size
        self._collector: Collector | None = None
        self._beginning: Beginning | None = None
        self.collected = 0  # steps, for accounts that do not trust the learner's

    def begin(self, beginning: Beginning) -> None:
        """Where to begin; at the first block there are parameters to act with."""
        self._beginning = beginning

    def collect(self, name: Name, version: int, steps: int, mind: Sequence[Any]) -> Sent:
        """A block with these parameters (leaves), from this global step on. Raises EnvironmentFault."""
        leaves = jax.device_put(list(mind))
        collector = self._begun(leaves, steps)
        collector.steps = steps
        collector.actor.load(leaves)
        collector.ended = []
        block = None
        while block is None:
            block = collector.step()
        taken, content = self._size * self.agent.envs, Collected.of(block, collector.ended or [], self.envs.level)
        self.collected += taken
        return Sent(name, version, taken, content)

    def _begun(self, mind: Sequence[Any], steps: int) -> Collector:
        if self._collector is None:
            tree = places_of_mind(self.agent)[2]
            mind = jax.tree.unflatten(tree, mind)
            actor = new_actor(self.agent, mind, self._seed, self._others, self._drawn_by, steps)
            self._collector = Collector(self.agent, self.envs, actor, self._size, self._others)
            self._collector.seed = self._seed
            self._take_up(self._collector)
        return self._collector

    def _take_up(self, collector: Collector) -> None:
        beginning = self._beginning or Beginning([-1] * self.agent.envs)
        if beginning.captured is not None:
            arrays, meta = beginning.captured
            collector.restore(arrays, meta, beginning.new_episodes)
        elif any(episode >= 0 for episode in beginning.episodes):
            at = [capturing.at_boundary(episode) for episode in beginning.episodes]
            collector.begin(self.envs.restore(*join_snapshots(at, self._seed), True))
        else:
            collector.start()

    def capture(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Everything that changes; None before the first block."""
        return None if self._collector is None else self._collector.capture()

    def close(self) -> None:
        """Lets go of the environments."""
        self.envs.close()


def new_actor(
    agent: Agent, mind: Any, seed: int, others: int = 0, number: tuple[int, ...] = (), steps: int = 0
) -> Actor:
    """What acts in an actor's environments. The first of a run draws as the only one would.

    `steps`: of the run so far, which schedules follow also in an actor that was made anew.
    """
    key = jax.random.PRNGKey(seed)
    for one in number:
        key = jax.random.fold_in(key, one)
    state = jax.jit(_actor_of(agent))(key)  # of a whole state, which would hold a replay, the actor's part alone
    return choose_actor(agent, mind, ahead(state, steps) if steps else state, seed, others, number)


def _actor_of(agent: Agent) -> Callable[[Any], Any]:
    return lambda key: agent.init(key).actor
