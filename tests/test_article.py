"""The article's own names: they work with its arguments, over the library's parts."""

import gymnasium
import numpy as np
import pytest

import engram
from engram import AttentionDQN, ReplayBuffer, train
from engram.errors import SpaceError, SpecError


def test_the_sketch_of_the_article_runs_and_goes_on():
    env = gymnasium.make("CartPole-v1")
    model, replay_buffer = AttentionDQN(state_size=4, action_size=2, hidden_size=16), ReplayBuffer(capacity=600)
    state = np.zeros(4, np.float32)
    before = model(state)
    first = train(env, model, replay_buffer, epochs=12, batch_size=16)
    assert len(first) == 12
    assert len(replay_buffer) >= sum(first)  # a reward of 1 for each step
    q = model(state, model.memory)
    assert q.shape == (2,)
    assert not np.array_equal(q, before)
    steps, entries = model._steps, int(model.memory.store.clock)
    assert entries > 0
    second = train(env, model, replay_buffer, epochs=3, batch_size=16)
    assert len(second) == 3
    assert model._steps == steps + sum(second)
    assert int(model.memory.store.clock) > entries
    batch = model(np.zeros((5, 4)))
    assert batch.shape == (5, 2)


def test_a_state_is_judged_by_the_memory_that_is_given():
    model = AttentionDQN(4, 2, 16)
    empty = model.memory
    train("CartPole-v1", model, ReplayBuffer(600), epochs=12, batch_size=16)
    state = np.array([0.0, 0.1, 0.0, -0.1])
    assert not np.array_equal(model(state), model(state, empty))


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: AttentionDQN(0, 2, 16), SpecError, "state_size = 0 was given; expected a whole number of at least 1"),
        (lambda: ReplayBuffer(3), SpecError, "capacity = 3 was given; expected a whole number of at least 32"),
        (lambda: AttentionDQN(4, 2, 8)(np.zeros(3)), SpaceError, r"a state of shape \(3,\) was given; expected \(4,\)"),
        (
            lambda: train("CartPole-v1", AttentionDQN(3, 2, 8), ReplayBuffer(600), 1, 8),
            SpaceError,
            "2 actions, the model",
        ),
        (
            lambda: train("CartPole-v1", AttentionDQN(4, 2, 8), ReplayBuffer(600), 0, 8),
            SpecError,
            "epochs = 0 was given",
        ),
    ],
)
def test_bad_input_is_answered_in_one_sentence(call, error: type, sentence: str):
    with pytest.raises(error, match=sentence):
        call()


def test_the_names_are_public():
    assert {"AttentionDQN", "ReplayBuffer", "train"} <= set(engram.__all__)
