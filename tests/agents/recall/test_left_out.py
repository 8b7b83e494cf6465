"""What waits for its return is forgotten with its episode, and nothing else of the line is touched."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from support.told import Told, agent

from engram.agents.recall.forgetting import forgotten, waiting
from engram.agents.recall.line import NOT_NOTED


def origins(store):
    return {tuple(row) for row in np.asarray(store.origin)[np.asarray(store.live)].tolist()}


def led(told, count, seed):
    random = np.random.default_rng(seed)
    for _ in range(count):
        told.step(random.normal(size=(2, 2)).astype(np.float32), random.normal(size=2).astype(np.float32),
                  random.random(2) < 0.2, np.zeros(2, bool))  # fmt: skip


def test_an_action_that_waited_is_never_written_and_all_others_are():
    told, other = Told(agent()), Told(agent())
    for one in (told, other):
        led(one, 12, 0)
    found = waiting(told.recall)
    assert found.due.sum() == 6
    covered = np.zeros((3, 2), bool)
    covered[:, 1] = True
    gone = {tuple(row) for row in found.origin[covered].tolist()}
    none = jnp.zeros(told.params.external.capacity, bool)
    recall = jax.jit(forgotten)(told.params.external, told.recall, none, jnp.asarray(covered))
    told.state = replace(told.state, recall=recall)
    for one in (told, other):
        led(one, 6, 1)
    assert gone <= origins(other.recall.store)
    assert not gone & origins(told.recall.store)
    assert origins(told.recall.store) == origins(other.recall.store) - gone


def test_actions_on_their_way_into_the_line_can_be_left_out_too():
    told = Told(agent())
    led(told, 5, 0)
    last = told.experiences[-1]
    record = last.noted.record
    left_out = record._replace(entries=jnp.full_like(record.entries, NOT_NOTED))
    experience = last._replace(noted=last.noted._replace(record=left_out))
    before = told.recall
    after = jax.jit(told.agent.observe)(told.state, experience).recall
    assert waiting(before).due.all()
    assert (waiting(after).due.sum(0) == 2).all()
    np.testing.assert_array_equal(after.store.attention, before.store.attention)


def test_those_who_cannot_be_written_are_not_told_to_wait():
    told = Told(agent())
    assert not waiting(told.recall).due.any()
    no = np.zeros(2, bool)
    told.step(np.zeros((2, 2), np.float32), np.zeros(2, np.float32), no, np.array([True, False]))
    assert waiting(told.recall).due.sum() == 1  # the last action of an episode that was cut off is not written
