"""The cluster runner, with actors in this process: what is learned is the host runner's, whatever the network does."""

import dataclasses
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.crew import Fault, HereCrew

from engram.agents.agent import Agent
from engram.agents.mind import RecallSpec
from engram.agents.spec import AgentSpec, ReplaySpec
from engram.cluster.blocks import Name, Sent
from engram.cluster.memory import ShardedMemory
from engram.cluster.shard import Shape
from engram.cluster.shards import Here, Holding, Keeping, Shards
from engram.encoders.vector import VectorSpec
from engram.envs.host.make import make_host
from engram.errors import EngramError
from engram.exploration.greedy import EpsilonGreedySpec
from engram.external.episodic import EpisodicSpec
from engram.external.sharded import LINKS
from engram.losses.bootstrap import FromMemorySpec
from engram.run.cluster import LINK, sharded
from engram.run.keeper import digest
from engram.runners.cluster import ClusterRunner, InShards
from engram.runners.collecting import Collecting
from engram.runners.host import HostRunner

ENV = "CartPole-v1"
PLAIN = AgentSpec(
    encoder=VectorSpec(widths=(8,)),
    replay=ReplaySpec(capacity=600, batch_size=8, start=64),
    exploration=EpsilonGreedySpec(start=1.0, end=0.1, steps=300),
    learn_every=4,
)
REMEMBERS = AgentSpec(
    encoder=VectorSpec(widths=(8,)),
    replay=ReplaySpec(capacity=600, batch_size=8, start=64),
    exploration=EpsilonGreedySpec(start=1.0, end=0.1, steps=300),
    learn_every=4,
    external=EpisodicSpec(capacity=200, neighbours=5),
    recall=RecallSpec(n_step=5),
    bootstrap=FromMemorySpec(),
)


def never() -> bool:
    return False


def agent_for(spec: AgentSpec, envs: int, link: str = "") -> Agent:
    batch = make_host(ENV, envs=1, seed=0)
    batch.close()
    agent: Any = spec.build(batch.observation_space, batch.actions, envs)
    return dataclasses.replace(agent, link=link)


def clustered(
    spec: AgentSpec,
    envs: int,
    actors: int,
    group: int = 2,
    fault: Fault | None = None,
    shards: InShards | None = None,
    link: str = "",
) -> ClusterRunner:
    agent, each = agent_for(spec, envs, link), envs // actors
    own = agent_for(dataclasses.replace(spec, learn_every=each), each, link)
    size = group * agent.rhythm.acts

    def one(number: int, incarnation: int) -> Collecting:
        batch = make_host(ENV, envs=each, seed=3, first_index=number * each)
        return Collecting(own, batch, 3, size, number, incarnation, envs - each)

    return ClusterRunner(agent, HereCrew(one, actors, fault), actors, 3, group, shards)


def of_agent(runner: Any) -> dict[str, np.ndarray]:
    captured = runner.capture()
    arrays = {
        name: array for name, array in captured.arrays.items() if name.startswith(("agent.", "tally", "episodes."))
    }
    return {name: array for name, array in arrays.items() if "running" not in name}


@pytest.mark.parametrize("spec", [PLAIN, REMEMBERS], ids=["plain", "with a memory"])
def test_one_actor_learns_what_the_host_runner_learns_to_the_last_bit(spec: AgentSpec):
    batch = make_host(ENV, envs=2, seed=3)
    host = HostRunner(agent_for(spec, 2), batch, 3, 2)
    host.start()
    cluster = clustered(spec, envs=2, actors=1)
    cluster.start()
    host.advance(320, never)
    cluster.advance(320, never)
    here, there = of_agent(host), of_agent(cluster)
    assert here.keys() == there.keys()
    assert host.steps == cluster.steps == 320
    assert [name for name in here if not np.array_equal(here[name], there[name])] == []


@pytest.mark.parametrize(("spec", "stop"), [(PLAIN, 0), (PLAIN, 192), (REMEMBERS, 64)])
def test_two_actors_that_stopped_and_were_resumed_are_as_if_they_had_not_stopped(spec: AgentSpec, stop: int):
    whole = clustered(spec, envs=4, actors=2)
    whole.start()
    whole.advance(320, never)
    first = clustered(spec, envs=4, actors=2)
    first.start()
    first.advance(stop, never)
    saved = first.capture()
    again = clustered(spec, envs=4, actors=2)
    again.restore(saved.arrays, saved.meta, lambda _: saved.rows)
    again.advance(320, never)
    assert digest(again) == digest(whole)


# Faults.


class Faults:
    """Draws a fault for each message: it is lost, comes twice or again after it was learned, or its actor dies."""

    def __init__(self, seed: int, many: int):
        self.random, self.left = np.random.default_rng(seed), many
        self.kinds = {"none": 0, "twice": 0, "again": 0, "dies": 0, "dies after": 0, "swallowed": 0}
        self.old: list[Sent] = []

    def __call__(self, crew: HereCrew, sent: Sent) -> None:
        kind = str(self.random.choice(list(self.kinds))) if self.left else "none"
        self.left -= kind != "none"
        self.kinds[kind] += 1
        if kind in ("dies", "dies after"):
            crew.dead.add(sent.name.actor)
        if kind not in ("dies", "swallowed"):
            crew.inbox.append(sent)
        if kind == "swallowed":  # its actor hangs: nothing more comes of it
            crew.asked = deque(entry for entry in crew.asked if entry[0].actor != sent.name.actor)
        if kind == "twice":
            crew.inbox.append(sent)
        if kind == "again" and self.old:
            crew.inbox.append(self.old[int(self.random.integers(len(self.old)))])
        self.old.append(sent)


def test_after_fifty_faults_the_run_ends_and_every_step_is_accounted_for(monkeypatch: pytest.MonkeyPatch):
    faults = Faults(seed=1, many=50)
    runner = clustered(PLAIN, envs=4, actors=4, fault=faults)
    runner.start()
    learned: list[Name] = []
    take = runner.ledger.take

    def noted() -> list[Sent]:
        taken = take()
        learned.extend(sent.name for sent in taken)
        return taken

    monkeypatch.setattr(runner.ledger, "take", noted)
    while faults.left:
        runner.advance(runner.steps + 24, never)
    runner.advance(runner.steps + 24, never)
    account, crew = runner.ledger.account, runner._crew
    assert isinstance(crew, HereCrew)
    assert min(count for kind, count in faults.kinds.items()) >= 3, faults.kinds
    assert runner.ledger.balances
    # Each block once, in order; what was learned is what was accepted, and the ring holds as many rows.
    assert [(name.sequence, name.actor) for name in learned] == [(at // 4, at % 4) for at in range(len(learned))]
    assert account.accepted_steps == runner.steps == len(learned) * runner.ledger.steps
    arrays = runner.capture()
    ends = int(arrays.arrays["episodes.finished"])
    assert int(np.asarray(arrays.rows[0].cursor).sum()) in range(runner.steps, runner.steps + ends + 1)
    # Of what actors collected, what was not learned is lost and named, or waits.
    waiting = sum(map(len, runner.ledger.waiting()))
    assert len(crew.collected) - len(learned) - waiting <= account.lost_blocks == len(account.lost)
    assert arrays.meta["repeatable"] is False


def test_a_run_whose_messages_come_twice_learns_what_it_would_have_learned():
    plain = clustered(PLAIN, envs=2, actors=2)
    plain.start()
    plain.advance(160, never)

    def twice(crew: HereCrew, sent: Sent) -> None:
        crew.inbox.extend([sent, sent])

    other = clustered(PLAIN, envs=2, actors=2, fault=twice)
    other.start()
    other.advance(160, never)
    here, there = of_agent(plain), of_agent(other)
    assert [name for name in here if not np.array_equal(here[name], there[name])] == []
    assert other.ledger.account.duplicates >= 18
    assert other.repeatable


def test_the_new_episodes_of_an_actor_that_was_made_anew_are_none_that_it_played():
    runner = clustered(PLAIN, envs=2, actors=2)
    runner.start()
    runner.advance(96, never)
    crew: Any = runner._crew
    before = crew.actors[1].envs._episodes[0].episode
    crew.dead.add(1)
    runner.advance(128, never)
    assert crew.actors[1].incarnation == 1
    assert crew.actors[1].envs._episodes[0].episode > before
    assert runner.ledger.account.lost == [[1, 0, 12], [1, 0, 13]]  # rounds of 8 steps


def test_a_run_that_is_resumed_with_other_actors_begins_no_episode_again_after_one_was_made_anew():
    runner = clustered(PLAIN, envs=2, actors=2)
    runner.start()
    runner.advance(96, never)
    crew: Any = runner._crew
    crew.dead.add(1)
    runner.advance(160, never)
    saved = runner.capture()
    playing = [crew.actors[env].envs._episodes[0].episode for env in range(2)]
    assert saved.meta["begun"] == playing
    again = clustered(PLAIN, envs=2, actors=1)
    again.restore(saved.arrays, saved.meta, lambda _: saved.rows)
    again.advance(192, never)
    begun = [one.episode for one in again._crew.actors[0].envs._episodes]  # type: ignore[attr-defined]
    assert all(now > before for now, before in zip(begun, playing, strict=True))
    assert not again.repeatable


def test_what_is_not_as_it_would_have_been_is_not_called_repeatable(tmp_path: Path):
    """A block that waits and was read of fewer shards; new episodes; a memory in another number of shards."""
    runner = with_shards(tmp_path, 2)
    runner.start()
    runner.advance(128, never)
    saved = runner.capture()
    assert saved.meta["repeatable"]
    for shards, new_episodes in ((2, False), (2, True), (3, False)):
        again = with_shards(tmp_path, shards)
        again.restore(saved.arrays, saved.meta, lambda _: saved.rows, new_episodes)
        assert again.repeatable == ((shards, new_episodes) == (2, False))
    waiting = runner.ledger._waiting[1]
    number, sent = next(iter(waiting.items()))
    waiting[number] = sent._replace(partial=1)
    assert not runner.capture().meta["repeatable"]


def test_what_a_shard_refuses_is_said_although_jax_says_only_that_a_callback_failed(tmp_path: Path):
    runner = with_shards(tmp_path, 2)
    runner.start()
    runner.advance(64, never)
    place: Any = LINKS[LINK].shards.place
    ask, answers = place.ask, place.answers

    def asked(shard: int, verb: str, *given: Any) -> Any:
        return "full" if verb == "read" else ask(shard, verb, *given)

    def answered(handles: Any, seconds: float) -> Any:
        if any(isinstance(handle, str) for _, handle in handles):
            raise EngramError("the object store of the cluster is full")
        return answers(handles, seconds)

    place.ask, place.answers = asked, answered

    def learned_and_told() -> None:
        runner.advance(320, never)
        runner.report()

    with pytest.raises(EngramError, match=r"^the object store of the cluster is full$") as refused:
        learned_and_told()
    assert not isinstance(refused.value.__cause__, EngramError)  # but an error of JAX's, in which nothing is said
    assert refused.value.__cause__ is not None


def test_a_run_whose_actors_die_again_and_again_gives_up_with_a_sentence():
    def dies(crew: HereCrew, sent: Sent) -> None:
        crew.dead.add(sent.name.actor)

    runner = clustered(PLAIN, envs=2, actors=2, fault=dies)
    runner.start()
    with pytest.raises(
        EngramError,
        match=r"made anew 20 times and nothing could be learned .* its process ended",
    ):
        runner.advance(640, never)


# Shards of the external memory.


@pytest.fixture(autouse=True)
def no_shards_left() -> Iterator[None]:
    """Another run of this process would be refused while shards are open."""
    yield
    LINKS.pop(LINK, None)


def with_shards(folder: Path, shards: int, actors: int = 2) -> ClusterRunner:
    """A runner whose agent's entries are in shards in this process."""
    spec = sharded(REMEMBERS, shards, 2)
    places = spec.external.places
    shapes = [Shape(one, shards, 2, places, 8, eviction="least-read") for one in range(shards)]
    place = Here(lambda shard, epoch: Keeping(Holding(shapes[shard]), folder, epoch), shards)
    memory = ShardedMemory(Shards(place, shards), shapes)
    LINKS[LINK] = memory
    return clustered(spec, envs=4, actors=actors, shards=InShards(memory.shards, memory))


def learned(runner: ClusterRunner) -> dict[str, np.ndarray]:
    return {name: array for name, array in runner.capture().arrays.items() if name.startswith("agent.")}


def test_what_is_learned_does_not_depend_on_the_number_of_shards(tmp_path: Path):
    found = []
    for shards in (1, 2, 5):
        runner = with_shards(tmp_path / str(shards), shards)
        runner.start()
        runner.advance(192, never)  # 192 of 200 entries: nothing gives way
        found.append(learned(runner))
        assert 150 < LINKS[LINK].held <= 192
    for other in found[1:]:
        assert [name for name in found[0] if not np.array_equal(found[0][name], other[name])] == []


def test_with_shards_a_resumed_run_is_as_if_it_had_not_stopped(tmp_path: Path):
    whole = with_shards(tmp_path / "whole", 2)
    whole.start()
    whole.advance(320, never)
    end = digest(whole)
    first = with_shards(tmp_path / "first", 2)
    first.start()
    first.advance(128, never)
    saved = first.capture()
    again = with_shards(tmp_path / "first", 2)
    again.restore(saved.arrays, saved.meta, lambda _: saved.rows)
    again.advance(320, never)
    assert digest(again) == end


def test_an_actor_that_was_made_anew_explores_as_far_along_as_the_run_is():
    """One that is compiled follows its own count of steps, and not the block's."""
    cluster = clustered(REMEMBERS, envs=4, actors=2)
    cluster.start()
    cluster.advance(192, never)
    saved = cluster.capture()
    again = clustered(REMEMBERS, envs=4, actors=4)
    again.restore(saved.arrays, saved.meta, lambda _: saved.rows)
    again.advance(224, never)
    for one in again._crew.actors:  # type: ignore[attr-defined]
        state = one._collector.actor._state.value  # type: ignore[union-attr]
        assert int(np.asarray(state.steps).max()) >= 192
