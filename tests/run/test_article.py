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
    assert len(replay_buffer) == min(600, sum(first) + 12)  # a reward of 1 for each step, and a row at each end
    q = model(state, model.memory)
    assert q.shape == (2,)
    assert not np.array_equal(q, before)
    steps, entries = model._steps, int(model.memory.store.clock)
    assert steps == sum(first)
    assert entries == steps - 20, "all but what waits for its return"
    assert int(model._acting[0]["steps"]) == steps, "exploration goes on where it was"
    second = train(env, model, replay_buffer, epochs=3, batch_size=16)
    assert len(second) == 3
    assert model._steps == steps + sum(second)
    assert int(model.memory.store.clock) == model._steps - 20
    batch = model(np.zeros((5, 4)))
    assert batch.shape == (5, 2)


class Counted(gymnasium.Env):
    """Episodes of five steps that pay by their number; `log` has the actions, and whether it was closed."""

    observation_space, action_space = gymnasium.spaces.Box(-9, 9, (2,), np.float32), gymnasium.spaces.Discrete(2)

    def __init__(self):
        self.log, self.closed, self.step_number = [], False, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_number = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.log.append(int(action))
        self.step_number += 1
        return np.full(2, self.step_number, np.float32), 1.0, self.step_number == 5, False, {}

    def close(self):
        self.closed = True


def test_a_second_call_explores_anew_and_leaves_the_environment_open():
    env, model, replay_buffer = Counted(), AttentionDQN(2, 2, 16), ReplayBuffer(600)
    for _ in range(2):
        assert train(env, model, replay_buffer, epochs=8, batch_size=16) == [5.0] * 8
    assert not env.closed
    taken = env.log[-80:]  # what was probed came before
    assert taken[:40] != taken[40:]
    assert len(replay_buffer) == 96
    # Every last step of an episode was written with the reward that ended it, also those of an unfinished block.
    rows = replay_buffer._replay.ring.rows
    assert int(rows.terminated[:96].sum()) == 16
    assert float(rows.reward[:96].sum()) == 80.0


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
        (lambda: AttentionDQN(4, 2, 8, capacity=10**11), SpecError, "GB for the external memory, but"),
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
