"""The cluster runner: actors anywhere, one learner here, and blocks in a fixed order.

    block s of every actor acts with the parameters of round s - lag, where round r is what was learned of blocks r - 1

So a run is the host runner's with its environments shared among actors. With one actor it is the same to the last bit.
With several, each draws its exploration by itself. Nothing depends on which actor is faster: the learner waits for the
next block of each, and an actor for parameters, while it owes two blocks. Learning keeps to the agent's rhythm, so the
samples learned for each step are what the agent's settings say.

An actor that is gone, or answers too late, is made anew. Its environments begin new episodes. The run then goes on, but
not as it would have: `repeatable` in every checkpoint says which of both holds.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from engram import spaces
from engram.agents.agent import Agent, AgentState, Experience
from engram.agents.policy import Mind
from engram.cluster import epochs
from engram.cluster.blocks import Ledger, Name, Sent, Verdict
from engram.cluster.memory import ShardedMemory
from engram.cluster.replay import ShardedReplay
from engram.cluster.shards import Shards, telling
from engram.cluster.sharing import shares
from engram.errors import CheckpointError, EngramError
from engram.runners.collecting import Beginning, Collected, new_actor
from engram.runners.collector import COLUMNS, Block, EpisodeBook, below, rows_for
from engram.runners.common import Captured, Ended, Rows, Store, by_observing
from engram.runners.learner import Learner, compiled_init
from engram.trees import named

LOG = logging.getLogger("engram")
LEVELS = ("boundary", "replayed", "exact")
RESTARTS = 20  # of actors without a round that was learned, before a run gives up


class ActorGone(NamedTuple):
    """An actor is no more, or did not answer in time."""

    actor: int
    why: str


class Crew(Protocol):
    """The actors of a run, wherever they are."""

    @property
    def description(self) -> str:
        """Where they are, for people."""
        ...

    def make(self, actor: int, incarnation: int, beginning: Beginning) -> None:
        """A new actor, in the place of the one before it if there was one."""
        ...

    def publish(self, version: int, mind: Sequence[np.ndarray]) -> None:
        """Parameters, for blocks that will be asked for."""
        ...

    def ask(self, name: Name, version: int, steps: int) -> None:
        """Has an actor collect a block with published parameters, from this global step on."""
        ...

    def wait(self) -> list[Sent | ActorGone]:
        """What arrived, at least one; an ActorGone for an actor whose time is up. Raises EngramError of an actor's."""
        ...

    def capture(self, actor: int) -> tuple[dict[str, np.ndarray], dict[str, Any]] | ActorGone | None:
        """See `Collecting.capture`; nothing may be asked of it that it has not sent."""
        ...

    def forget(self, version: int) -> None:
        """Parameters before this version are not asked for any more."""
        ...

    def close(self) -> None:
        """Lets go of all actors."""
        ...


class InShards(NamedTuple):
    """The shards of a run, and which of its parts they keep."""

    shards: Shards | None
    memory: ShardedMemory | None = None  # the entries of its external memory
    replay: ShardedReplay | None = None  # observations and carries of its replay rows


class ClusterRunner:
    """Drives one agent through host environments of several actors. Everything that changes is in `capture`.

    Args:
      agent: for all environments together.
      shards: what shards keep of it, where there are any.
    """

    def __init__(
        self, agent: Agent, crew: Crew, actors: int, seed: int, group: int = 1, shards: InShards | None = None
    ):
        self.agent, self._crew, self._seed = agent, crew, seed
        self._shards, self._memory, self._replay = shards or InShards(None)
        state = compiled_init(agent)(jax.random.PRNGKey(seed))
        self.learner = Learner(agent, state, group if agent.rhythm.lag else 1)
        self._shares = shares(agent.envs, actors)
        self._each = self.learner.size * agent.envs  # steps of a round
        self._lag = agent.rhythm.lag
        self.ledger: Ledger = Ledger(actors, self._each // actors, 1 + self._lag)
        self.book = EpisodeBook(agent.envs)
        self.ended: list[Ended] | None = None
        self.repeatable = True
        self._published = -1
        self._moments: dict[int, int] = {}
        self._begun = [0] * agent.envs  # episodes of each environment that were begun, as far as blocks tell
        self._level = "exact"  # how exactly environments can be saved, of the weakest
        self._restarts = 0
        self._lags: list[int] = []
        self._waited, self._since = 0.0, time.monotonic()

    @property
    def steps(self) -> int:
        """The global step."""
        return self.ledger.accepted * self._each

    def start(self) -> None:
        """Makes the actors, which begin the first episodes."""
        if self._shards is not None:
            self._shards.begin()
        for actor in range(self.ledger.actors):
            self._crew.make(actor, 0, Beginning([-1] * (self.agent.envs // self.ledger.actors)))

    @telling
    def advance(self, until: int, stop: Callable[[], bool]) -> None:
        """Learns whole rounds until the global step is at least `until`, or `stop()` is true."""
        while self.steps < until and not stop():
            self._issue()
            self._wait_for(lambda: self.ledger.ready)
            self._learn(self.ledger.take())

    # -- one round -----------------------------------------------------------------------------------------------

    def _issue(self) -> None:
        for name in self.ledger.due():
            self.ledger.issue(name)
            self._ask(name)

    def _ask(self, name: Name) -> None:
        """Block s acts with the parameters of round s - lag, the first ones with those of the beginning."""
        version = max(0, name.sequence - self._lag)
        if version > self._published:
            self._publish(version)
        self._crew.ask(name, version, name.sequence * self._each)

    def _publish(self, version: int) -> None:
        """The parameters of this round: waits until they are learned, and what was written is in the shards."""
        leaves = [np.asarray(leaf) for leaf in self.learner.mind_leaves]
        oldest = max(0, self.ledger.accepted - self._lag)
        if self._memory is not None:
            self._moments[version] = self._memory.moment
            self._memory.settle(min(moment for one, moment in self._moments.items() if one >= min(oldest, version)))
        if self._replay is not None:
            self._replay.flush()
        if self._shards is not None and self._shards.mend():
            self.repeatable = False
        self._moments = {one: moment for one, moment in self._moments.items() if one >= oldest}
        self._crew.publish(version, leaves)
        self._crew.forget(oldest)
        self._published = version

    def _wait_for(self, there: Callable[[], bool]) -> None:
        began = time.monotonic()
        while not there():
            for event in self._crew.wait():
                if isinstance(event, ActorGone):
                    self._make_anew(event)
                elif (verdict := self.ledger.offer(event)) is Verdict.TAKEN:
                    self._count_episodes(event)
                else:
                    LOG.warning("block %s was not taken: %s", tuple(event.name), verdict.value)
        self._waited += time.monotonic() - began

    def _count_episodes(self, sent: Sent) -> None:
        self._level = min(self._level, sent.content.level, key=LEVELS.index)
        done = np.asarray(sent.content.block.columns)[:, :, COLUMNS.index("done")]
        for env, ends in enumerate(done.sum(0).tolist(), start=self._shares[sent.name.actor].start):
            self._begun[env] += int(ends)

    def _make_anew(self, gone: ActorGone) -> None:
        """The next incarnation of an actor; its environments begin episodes that none of theirs has played."""
        self._restarts += 1
        if self._restarts > RESTARTS:
            raise EngramError(
                f"actors were made anew {RESTARTS} times and nothing could be learned meanwhile, the last one because "
                f"{gone.why}; mend that, then resume the run"
            )
        owed = self.ledger.outstanding(gone.actor)
        first = self.ledger.begin_anew(gone.actor)
        self.repeatable = False
        LOG.warning(
            "actor %d is made anew (%s); up to %d steps of it are lost",
            gone.actor,
            gone.why,
            len(owed) * self.ledger.steps,
        )
        # Of a block that nobody saw, each step may have begun an episode.
        unseen = (1 + self._lag) * self.learner.size + 1
        share = self._shares[gone.actor]
        for env in range(share.start, share.stop):
            self._begun[env] += unseen
        self._crew.make(gone.actor, first.incarnation, self._at_boundary(share))
        for name in self.ledger.due():
            if name.actor == gone.actor and name.sequence in owed:
                self.ledger.issue(name)
                self._ask(name)

    def _at_boundary(self, share: slice) -> Beginning:
        """New episodes for these environments, which are then the ones that they are in."""
        beginning = Beginning(self._begun[share])
        for env in range(share.start, share.stop):
            self._begun[env] += 1
        return beginning

    def _learn(self, taken: list[Sent]) -> None:
        self._restarts = 0
        block, ended = together([sent.content for sent in taken])
        self._lags += [self.ledger.accepted - 1 - sent.version for sent in taken]
        if self._memory is not None and (partial := sum(sent.partial for sent in taken)):
            self._memory.partial_reads += partial
            self.repeatable = False
        self._note(ended)
        self.learner.settle(block, self.steps)

    def _note(self, ended: list[Ended]) -> None:
        for one in ended:
            self.book.note(one.total, one.length, one.numbers)
        if self.ended is not None:
            self.ended += ended

    # -- what a runner is asked ----------------------------------------------------------------------------------

    @telling
    def report(self) -> dict[str, Any]:
        """The metrics since the last report: those of any runner, and how far actors and shards are behind.

        `actor_lag` is in rounds, `learner_waited` the share of the time.
        """
        learned = self.learner.report(self.steps)
        now = time.monotonic()
        about = {
            "actor_lag": float(np.mean(self._lags)) if self._lags else None,
            "learner_waited": self._waited / max(now - self._since, 1e-9),
            "blocks_lost": self.ledger.account.lost_blocks,
            "actor_restarts": self.ledger.account.restarts,
        }
        if self._shards is not None:
            about["shards_silent"] = len(self._shards.gone)
        if self._memory is not None and self._shards is not None:
            about["memory_partial_reads"] = self._memory.partial_reads
            about["memory_entries_lost"] = sum(one.entries for one in self._shards.lost)
        if self._replay is not None and self._shards is not None:
            about["replay_rows_missed"] = self._replay.missing
            about["replay_rows_lost"] = sum(one.rows for one in self._shards.lost)
        self._lags, self._waited, self._since = [], 0.0, now
        return self.book.report() | learned | about

    @telling
    def capture(self) -> Captured:
        """See Runner. Blocks that actors are at are waited for: they are part of the state."""
        self.learner.check(self.steps)
        while True:
            self._wait_for(lambda: not any(map(self.ledger.outstanding, range(self.ledger.actors))))
            found = [self._crew.capture(actor) for actor in range(self.ledger.actors)]
            if not (gone := [one for one in found if isinstance(one, ActorGone)]):
                break
            for one in gone:
                self._make_anew(one)
        arrays, rows = self.learner.capture()
        epoch = [] if self._shards is None else self._shards.write_epoch()
        self.repeatable &= self._shards is None or not self._shards.lost
        self.repeatable &= self._replay is None or not self._replay.missing
        self.repeatable &= not any(sent.partial for waiting in self.ledger.waiting() for sent in waiting)
        meta: dict[str, Any] = {
            "steps": self.steps,
            "ledger": self.ledger.to_json(),
            "repeatable": self.repeatable,
            "level": self._level,
            "begun": list(self._begun),
            "actors": [],
            "pending": [],
        }
        arrays |= {f"episodes.{name}": array for name, array in self.book.capture().items()}
        levels = []
        for actor, one in enumerate(found):
            meta["actors"].append(None if one is None else one[1])  # type: ignore[index]
            if one is not None:
                self._count_begun(actor, one[1]["env"]["environments"])  # type: ignore[index]
                arrays |= {f"actors.{actor}.{name}": array for name, array in one[0].items()}  # type: ignore[union-attr]
                levels += one[1]["env"]["levels"]  # type: ignore[index]
        for number, blocks in enumerate(zip(*self.ledger.waiting(), strict=True)):
            block, ended = together([sent.content for sent in blocks])
            arrays |= {f"pending.{number}.{name}": np.array(leaf) for name, leaf in named(block).items()}
            meta["pending"].append({"version": blocks[0].version, "ended": [list(one) for one in ended]})
        meta["env"] = {"levels": levels or ["exact"]}
        if self._shards is not None:
            meta["shards"] = epochs.to_json(epoch)
        return Captured(arrays, _plain(meta), rows)

    def _count_begun(self, actor: int, environments: Sequence[Mapping[str, Any]]) -> None:
        """One that was taken up at a boundary is in a later episode than blocks tell."""
        for env, about in enumerate(environments, start=self._shares[actor].start):
            self._begun[env] = max(self._begun[env], about["episode"])

    def restore(
        self,
        arrays: Mapping[str, np.ndarray],
        meta: dict[str, Any],
        rows: Callable[[Rows], Rows],
        new_episodes: bool = False,
    ) -> None:
        """Takes a captured state back; see Runner.

        With as many actors as then, all of it. With another number, the learner, the replay, the external memory and
        the blocks that wait are as they were; environments begin new episodes, and exploration draws anew.
        """
        self.learner.restore(arrays, rows)
        self.book.restore(below("episodes", arrays))
        self._begun, self.repeatable = list(meta["begun"]), bool(meta["repeatable"])
        epoch = epochs.epoch_of(meta)
        self._open_shards(epoch)
        actors = self.ledger.actors
        same = len(meta["actors"]) == actors
        # A full table gives up other entries where shards are more or fewer.
        alike = self._memory is None or self._shards is None or len(epoch) == self._shards.count
        self.ledger.restore(meta["ledger"], self._pending(arrays, meta))
        self._published = self.ledger.accepted - 1
        self._level = meta["level"]
        self.repeatable &= same and alike and not new_episodes and self._level != "boundary"
        for actor, share in enumerate(self._shares):
            state = meta["actors"][actor] if same else None
            captured = None if state is None else (below(f"actors.{actor}", arrays), state)
            began = self.ledger.accepted > 0 or bool(meta["pending"]) or self.ledger.account.restarts > 0
            if began and captured is None:
                beginning = self._at_boundary(share)
            else:
                first = self._begun[share] if began else [-1] * (share.stop - share.start)
                beginning = Beginning(first, captured, new_episodes)
            self._crew.make(actor, self.ledger.incarnations[actor], beginning)

    def _open_shards(self, epoch: epochs.Epoch) -> None:
        """As they were. Raises CheckpointError where shards kept something else, or nothing."""
        in_shards = bool(epochs.parts_of(epoch))
        if in_shards != (self._memory is not None):
            was, way = ("in", "as many --shards as you like, but some") if in_shards else ("not in", "no --shards")
            raise CheckpointError(f"the external memory of this run is {was} shards; resume it with {way}")
        if any(kept.rows is not None for kept in epoch) != (self._replay is not None):
            raise CheckpointError(
                "the replay of this run lies elsewhere than this version of Engram keeps it; resume the run with the "
                "version that wrote it"
            )
        if self._shards is not None:
            self._shards.open(epoch)

    def _pending(self, arrays: Mapping[str, np.ndarray], meta: dict[str, Any]) -> list[list[Sent]]:
        """The blocks that wait, cut into the shares of the actors."""
        found: list[list[Sent]] = [[] for _ in self._shares]
        if not meta["pending"]:
            return found
        template = _empty_round(self.agent, self.learner, self._seed)
        for number, one in enumerate(meta["pending"]):
            held = below(f"pending.{number}", arrays)
            if names := set(held) ^ set(named(template)):
                raise CheckpointError(
                    f"the checkpoint's blocks have another {min(names)!r}; use the version that wrote it"
                )
            whole = jax.tree.unflatten(jax.tree.structure(template), [held[name] for name in named(template)])
            ended = [Ended(*values) for values in one["ended"]]
            for actor, share in enumerate(self._shares):
                block = jax.tree.map(lambda leaf, share=share: np.array(leaf[:, share]), whole)
                name = Name(actor, self.ledger.incarnations[actor], meta["ledger"]["accepted"] + number)
                content = Collected.of(block, [] if actor else ended, meta["level"])
                found[actor].append(Sent(name, one["version"], self.ledger.steps, content))
        return found

    def follow(self, agent: Agent) -> None:
        """Not on a cluster: actors would have to be told. Raises EngramError."""
        raise EngramError(
            "the schedules of a run on a cluster cannot be made longer while it is open; close it, and resume it with "
            "a larger --steps"
        )

    def adopt(self, arrays: Mapping[str, np.ndarray], rows: Callable[[Rows], Rows] | None) -> None:
        """See Runner."""
        self.learner.adopt(arrays, rows)

    def observe(self, experience: Experience, store: Store = by_observing) -> None:
        """See Runner."""
        self.learner.observe(experience, store)

    def finish(self, stopped: bool) -> str | None:
        """See Runner, and HostEnvs.level."""
        if self._level != "boundary":
            return None
        return "an environment cannot be taken up inside an episode: resumed from here, it begins a new one"

    def state(self) -> AgentState:
        """The state without its actors. Its buffers are donated when the runner goes on."""
        return self.learner.state

    def minds(self) -> list[Mind]:
        """The newest parameters, and what is remembered."""
        return [self.learner.mind_of(self.learner.mind_leaves)]

    def close(self) -> None:
        """Lets go of the actors, and of the shards."""
        if self._shards is not None:
            self._shards.closed = True
        self._crew.close()


def together(parts: Sequence[Collected]) -> tuple[Block, list[Ended]]:
    """The blocks of all actors as one, copied, and the episodes that ended in them in the order of time."""
    block = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *(part.whole for part in parts))
    return block, sorted((one for part in parts for one in part.ended), key=lambda one: one.step)


def _empty_round(agent: Agent, learner: Learner, seed: int) -> Block:
    """A block of all environments, of zeros: its form."""
    noted = new_actor(agent, learner.mind_of(learner.mind_leaves), seed).noted()
    leading = learner.size, agent.envs
    observation = spaces.zeros(agent.space, leading)
    rows = None if noted is None else rows_for(noted, learner.size)
    return Block(observation, observation, rows, np.zeros((*leading, len(COLUMNS)), np.float32))


def _plain(value: Any) -> Any:
    """Plain JSON: lists for tuples, numbers of Python for those of NumPy."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.item() if isinstance(value, np.generic) else value
