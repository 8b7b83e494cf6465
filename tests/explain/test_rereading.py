"""Leaving something out is really choosing again without it."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.explained import entries, trained, with_entries

from engram.agents.network import Previous
from engram.agents.policy import decide, still
from engram.agents.recall.reading import consult
from engram.agents.spec import AgentSpec, ReplaySpec
from engram.encoders.vector import VectorSpec
from engram.explaining.naming import Names
from engram.explaining.recording import record
from engram.explaining.rereading import without
from engram.explaining.skipping import AT_ONCE, attended, density, each_skipped, skipping
from engram.explaining.telling import Teller
from engram.external.episodic import EpisodicSpec
from engram.play.trained import TrainedAgent
from engram.working.gated import GRUSpec
from engram.working.history import HistorySpec

PLAIN = AgentSpec(encoder=VectorSpec(widths=(8,)))
RECALLS = replace(PLAIN, external=EpisodicSpec(capacity=40, neighbours=5, half_confidence_distance=1.0))
HISTORY = HistorySpec(window=6, layers=1, heads=2, hidden_size=8, inner=8)
WORKING = {"gru": GRUSpec(hidden_size=4), "history": HISTORY}
MAZE = "engram/PassiveTMaze-v0"


def test_without_an_entry_is_what_a_memory_that_never_held_it_says():
    agent = trained(RECALLS)
    block = entries(agent.minds[0], 30, 2)
    mind = with_entries(agent.minds[0], block)
    recording = record(TrainedAgent(agent.plan, [mind], None), pictured=False)
    episode = recording.episodes[0]
    query: Any = episode.kept.query
    read: Any = episode.decision.external
    for gone in (int(read.entries[3, 0, 0, 0]), int(read.entries[3, 0, 1, 2])):
        other: Any = mind.recall
        values = mind.network.external.fetch(other.store, jnp.array([gone]))
        keep = np.asarray(block.value) != float(values.value[0])
        fewer = jax.tree.map(lambda leaf, keep=keep: leaf[keep], block)
        rest = with_entries(agent.minds[0], fewer)
        given = jax.tree.map(jnp.asarray, (episode.carry, episode.kept.state.frames, episode.kept.is_first))
        previous = Previous(jnp.zeros(episode.length, jnp.int32), jnp.asarray(episode.kept.reward))
        expected = decide(RECALLS, rest, *given, previous, still(mind.network, episode.length))[1].preference
        hidden = np.full((episode.length, 1), gone)
        found = without(RECALLS, mind, query, episode.decision, np.arange(episode.length), hidden)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert np.abs(found - episode.kept.preference).max() > 1e-3


def test_the_entry_that_decides_is_found_first_in_each_of_a_hundred_agents():
    """All values are alike but one. The decoy, of the other action, is looked at most, and says what the others say."""
    spec = replace(RECALLS, recall=replace(RECALLS.recall, confidence="known", weigh_by_error=False))
    agent = trained(spec)
    asked = record(agent, max_episode_steps=1, pictured=False)
    query: Any = asked.episodes[0].kept.query
    names = Names.of(asked)
    for seed in range(100):
        random = np.random.default_rng(seed)
        keys = query.key[0] + 0.3 * random.normal(size=(12, query.key.shape[1]))
        known, decoy = 2 * random.integers(6), 2 * random.integers(6) + 1  # of actions 0 and 1
        keys[known], keys[decoy] = query.key[0] + 0.1, query.key[0] + 0.01
        values = np.ones(12)
        values[known] = 5.0
        mind = with_entries(agent.minds[0], entries(agent.minds[0], 12, 2, seed, keys, values))
        recording = record(TrainedAgent(agent.plan, [mind], None), max_episode_steps=1, pictured=False)
        step = Teller(recording, names).steps(0, [0], {})[0]
        first, most = step.memories[0], max(step.memories, key=lambda one: one.looked_at)
        assert (first.value, first.action, step.action) == (5.0, 0, 0)
        assert first.mattered == pytest.approx(step.margin, abs=1e-5)
        assert (most.value, most.action) == (1.0, 1)
        assert most.looked_at > 0.8
        assert most.mattered == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("kind", WORKING)
def test_an_episode_without_some_steps_is_run_again(kind: str):
    spec = replace(PLAIN, working=WORKING[kind], replay=ReplaySpec(window=4))
    agent = trained(spec, MAZE)
    recording = record(agent, pictured=False)
    episode, mind = recording.episodes[0], recording.mind
    length = episode.length
    skipped = np.zeros((3, length), bool)
    skipped[1, 0] = skipped[2, [0, 3]] = True
    found = skipping(spec, mind, episode, skipped, np.array([7, 7, 7]))
    np.testing.assert_allclose(found[0], episode.kept.preference[7], rtol=1e-4, atol=1e-6)
    network, kept = mind.network, episode.kept
    for row, mask in zip(found, skipped, strict=True):
        left = np.flatnonzero(~mask[:8])
        frames = jax.tree.map(lambda leaf, left=left: jnp.asarray(leaf[left]), kept.state.frames)
        previous = Previous(jnp.zeros(len(left), jnp.int32), jnp.asarray(kept.reward[left]))
        first = jnp.arange(len(left)) == 0
        again = network.unroll(network.working.init(), frames, first, previous, still(network, len(left)))[1]
        np.testing.assert_allclose(row, again.preference[-1], rtol=1e-4, atol=1e-6)


def test_the_external_memory_is_read_at_the_step_that_is_asked_for_alone(monkeypatch):
    recall = replace(RECALLS.recall, refresh=0)
    spec = replace(RECALLS, recall=recall, working=HISTORY, replay=ReplaySpec(window=4))
    agent = trained(spec, MAZE)
    mind = with_entries(agent.minds[0], entries(agent.minds[0], 30, 4))
    recording = record(TrainedAgent(agent.plan, [mind], None), pictured=False)
    episode, read = recording.episodes[0], []
    skipped = np.eye(3, episode.length, 4, dtype=bool)  # steps 4, 5 and 6, which are in the window

    def counted(*given: Any) -> Any:
        jax.debug.callback(lambda _: read.append(1), given[-1].preference)
        return consult(*given)

    monkeypatch.setattr("engram.explaining.skipping.consult", counted)
    found = skipping(spec, mind, episode, skipped, np.array([7, 8, 9]))
    jax.effects_barrier()
    assert len(read) <= AT_ONCE  # one for each set, of which there are as many as run side by side
    all_steps = each_skipped(spec, mind, episode, np.array([4, 5, 6]))[1]
    np.testing.assert_allclose(found, all_steps[np.arange(3), [7, 8, 9]], rtol=1e-4, atol=1e-6)
    assert np.abs(found - episode.kept.own[[7, 8, 9]]).max() > 1e-3  # what it remembers counts


def test_recall_density_finds_the_cue_and_attention_is_told_by_step():
    """Of the steps in the corridor, which all look the same, only the first differs: it shows the cue."""
    spec = replace(PLAIN, working=HISTORY, replay=ReplaySpec(window=4))
    recording = record(trained(spec, MAZE), pictured=False)
    episode = recording.episodes[0]
    moves = density(spec, recording.mind, episode)
    assert [len(moves[step]) for step in range(episode.length)] == list(range(episode.length))
    assert max(moves[4], key=lambda pair: pair[1])[0] == 0
    assert attended(episode, 4)[0][0] == 0
    assert sum(weight for _, weight in attended(episode, 4)) == pytest.approx(1.0)
    assert [step for step, _ in attended(episode, 9)] == [4, 5, 6, 7, 8, 9]  # the window
