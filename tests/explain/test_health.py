"""The health of a memory, by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.explained import entries, trained, with_entries

from engram.agents.spec import AgentSpec
from engram.encoders.vector import VectorSpec
from engram.explaining.health import effective_entries, gini, health
from engram.explaining.ledger import Ledger
from engram.explaining.recording import record
from engram.external.episodic import EpisodicSpec
from engram.play.trained import TrainedAgent

SPEC = AgentSpec(encoder=VectorSpec(widths=(8,)), external=EpisodicSpec(capacity=40, neighbours=4))


def test_effective_entries_and_gini_by_hand():
    weights = np.array([[[[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]]], [[[0.0] * 4, [0.5, 0.5, 0.0, 0.0]]]])
    assert effective_entries(weights) == pytest.approx([(4 + 1) / 2, 2.0])
    assert gini(np.ones(5)) == pytest.approx(0.0)
    assert gini(np.array([0.0, 0.0, 0.0, 4.0])) == pytest.approx(0.75)
    assert gini(np.zeros(3)) == 0.0


def test_what_a_memory_holds_is_told_with_the_rule():
    agent = trained(SPEC)
    keys = np.tile(np.eye(8)[:5], (4, 1))  # 20 entries, of 2 actions; each key twice with each action
    mind = with_entries(agent.minds[0], entries(agent.minds[0], 20, 2, keys=keys))
    recording = record(TrainedAgent(agent.plan, [mind], None), pictured=False, max_episode_steps=2)
    found = health(recording, Ledger.of(SPEC, mind))
    lights = {light.name: light for light in found.lights}
    assert (found.entries, found.capacity) == (20, 40)
    assert (lights["fill"].value, lights["fill"].state) == ("20 of 40 (50%)", "good")
    assert lights["duplicates"].value == "50%"
    assert (lights["never read"].value, lights["never read"].state) == ("100%", "bad")
    assert all(light.rule for light in found.lights)
    assert sum(count for _, _, count in found.ages) == 20
    assert len(found.effective) == 2


def test_keys_that_no_longer_mean_the_same_are_stale():
    spec = replace(SPEC, recall=replace(SPEC.recall, refresh=4))
    agent = trained(spec)
    block = entries(agent.minds[0], 10, 2)
    seen = np.random.default_rng(0).normal(size=(10, 1, 4)).astype(np.float32)
    import jax

    from engram.agents.recall.keys import key_of

    network: Any = agent.minds[0].network
    today = jax.vmap(lambda one: key_of(spec, network.embed(one)))(seen)
    for keys, stale in ((today, "0% stale"), (-np.asarray(today), "100% stale")):
        held = replace(block, observation=jax.numpy.asarray(seen), key=jax.numpy.asarray(keys))
        mind = with_entries(agent.minds[0], held)
        recording = record(TrainedAgent(agent.plan, [mind], None), pictured=False, max_episode_steps=1)
        drift = {light.name: light for light in health(recording, Ledger.of(spec, mind)).lights}["key drift"]
        assert drift.value.startswith(stale)
