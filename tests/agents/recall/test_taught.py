"""Demonstrations become entries: their keys, their returns, and each of them in turn."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram import spaces, specs
from engram.agents import demos
from engram.agents.agent import Experience
from engram.agents.policy import Mind
from engram.agents.presets import preset
from engram.agents.q_learning import QLearner
from engram.agents.recall.taught import SHOWN, taught
from engram.errors import SpecError
from engram.play import memories
from engram.types import TimeStep

SPACE = spaces.Box((3,))
EPISODES, LENGTH = 2, 3
SETTINGS: dict[str, Any] = {
    "encoder.widths": (8,), "replay.capacity": 60, "replay.batch_size": 8, "replay.start": 20, "discount": 0.5,
    "demos.ratio": 0.5, "external": "votes", "external.capacity": 16, "external.neighbours": 2,
    "recall.demonstrations": 5, "recall.played": False, "recall.n_step": 10,
}  # fmt: skip


def demonstrations() -> Experience:
    """Two episodes of three steps with rewards 1, 2, 4, which end."""
    number = jnp.arange(EPISODES * LENGTH)
    inside = number % LENGTH
    shown = jnp.broadcast_to(number[:, None, None] / 10.0, (len(number), 1, 3))
    last = (inside == LENGTH - 1)[:, None]
    row = TimeStep(shown, (inside == 0)[:, None], (number % 3)[:, None], (2.0**inside)[:, None], last)
    return Experience(row, last, shown + 5, jnp.ones_like(last), None)


def test_each_step_of_them_becomes_an_entry_with_its_return_and_todays_key():
    spec = specs.override_all(preset("dqn", SPACE, 100), SETTINGS)
    agent = QLearner(spec, SPACE, 3, 1, EPISODES * (LENGTH + 1))
    state = demos.keep(agent, agent.init(jax.random.PRNGKey(0)), demonstrations())
    network, recall = state.learner.params, state.recall
    write = jax.jit(partial(taught, spec))
    for turn in range(2):  # 2 x 5 rows: the 8 that there are, and two again
        recall = write(network, state.learner.target, state.replay.given.ring, recall, jnp.int32(turn))
    store = recall.store
    assert int(store.held) == EPISODES * LENGTH
    found = jax.tree.map(np.asarray, network.external.fetch(store, jnp.arange(EPISODES * LENGTH)))
    np.testing.assert_allclose(sorted(found.value), [3, 3, 4, 4, 4, 4])  # 1 + 2/2 + 4/4, 2 + 4/2, 4
    assert (found.origin[:, 0] == SHOWN).all()
    first = jnp.full((1, 3), 0.0)
    key = network.embed(first)
    np.testing.assert_allclose(found.key[0], key / jnp.sqrt((key**2).sum() + 1e-6), atol=1e-5)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"demos.ratio": 0.0}, "set demos.ratio=0.25"),
        ({"recall.demonstrations": 0}, "leaves nothing to become an entry"),
        ({"external": "none"}, "choose one, such as external=episodic"),
        ({"external": "graph", "recall.n_step": 1}, "keeps single steps"),
        ({"working": "gru", "replay.window": 8}, "tell nothing of a working memory"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str):
    wanted = {path: value for path, value in SETTINGS.items() if not path.startswith("external")}
    with pytest.raises(SpecError, match=said):
        specs.override_all(preset("dqn", SPACE, 100), wanted | {"external": "votes"} | changes)


def test_for_successors_equal_situations_stay_entries_of_their_own():
    """As when acting: chance may follow them by different ones. Met again, a row is the entry that it was."""
    wanted = SETTINGS | {"external": "episodic", "external.capacity": 48, "bootstrap": "successors"}
    spec = specs.override_all(preset("dqn", SPACE, 100), wanted)
    agent = QLearner(spec, SPACE, 3, 1, EPISODES * (LENGTH + 1))
    one = demonstrations()
    row = dataclasses.replace(one.row, observation=0 * one.row.observation, action=0 * one.row.action)
    state = demos.keep(agent, agent.init(jax.random.PRNGKey(0)), one._replace(row=row))
    recall, write = state.recall, jax.jit(partial(taught, spec))
    for turn in range(3):
        recall = write(state.learner.params, state.learner.target, state.replay.given.ring, recall, jnp.int32(turn))
    assert int(recall.store.held) == EPISODES * LENGTH


def test_entries_of_play_tell_where_they_were_made_beside_those_of_demonstrations():
    spec = specs.override_all(preset("dqn", SPACE, 100), SETTINGS)
    agent = QLearner(spec, SPACE, 3, 1, EPISODES * (LENGTH + 1))
    state = demos.keep(agent, agent.init(jax.random.PRNGKey(0)), demonstrations())
    network = state.learner.params
    recall = taught(spec, network, state.learner.target, state.replay.given.ring, state.recall, jnp.int32(0))
    shown = network.external.fetch(recall.store, jnp.array([0]))
    played = dataclasses.replace(shown, origin=jnp.array([[0, 7, 3]]), hash=shown.hash + 1)
    store = network.external.write(recall.store, played, jnp.array([True]))
    table = memories._table(Mind(network, dataclasses.replace(recall, store=store)), 0)
    assert table["episode"] is not None
    assert sorted(set(table["episode"].tolist())) == [SHOWN, 7]
