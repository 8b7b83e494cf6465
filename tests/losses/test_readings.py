"""The readings of sum_i w_i Q(s', a') in the article's update of Q, and what each of them promises."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram.errors import SpecError
from engram.external.episodic import EpisodicSpec
from engram.external.memory import Entries
from engram.losses import bootstrap
from engram.losses.bootstrap import Following
from engram.losses.returns import NStep
from engram.types import Returns

numbers = st.floats(-10, 10, width=32)
STEP = NStep(jnp.float32(1.5), jnp.float32(0.9), jnp.int32(1))


def returns(q: jax.Array) -> Returns:
    return Returns(q[:, None], jnp.ones((len(q), 1)), jnp.zeros((0, len(q))))


def following(
    q: list[float], memory: list[float], share: list[float], selector: list[float] | None = None
) -> Following:
    made = jnp.array(q, jnp.float32)
    picks = made if selector is None else jnp.array(selector, jnp.float32)
    return Following(returns(made), picks, jnp.array(memory, jnp.float32), jnp.array(share, jnp.float32))


def worth(distribution: bootstrap.Distribution) -> float:
    return float(bootstrap.mean(distribution))


# -- literal ---------------------------------------------------------------------------------------------------


@given(st.lists(numbers, min_size=1, max_size=5), st.lists(st.floats(0.125, 8, width=32), min_size=0, max_size=6))
@settings(max_examples=50, deadline=None)
def test_the_literal_sum_is_plain_q_learning(q: list[float], scores: list[float]):
    """Whatever the weights are, as long as they sum to 1, or nothing is known."""
    weights = jnp.array(scores, jnp.float32)
    weights = weights / weights.sum() if scores else weights
    plain = bootstrap.target(STEP, bootstrap.greedy(returns(jnp.array(q, jnp.float32))))
    found = bootstrap.literal(STEP, jnp.array(q, jnp.float32), weights)
    np.testing.assert_allclose(found, worth(plain), rtol=1e-6, atol=1e-6)


# -- 1: memory -------------------------------------------------------------------------------------------------


def test_a_memory_that_knows_nothing_leaves_the_plain_bootstrap_to_the_last_bit():
    q = [0.1, 0.7, 0.3]
    silent = following(q, [np.nan, 9.0, 9.0], [0, 0, 0])
    assert worth(bootstrap.remembered(silent)) == worth(bootstrap.greedy(returns(jnp.array(q, jnp.float32))))


def test_a_certain_memory_is_the_bootstrap_and_a_doubtful_one_a_part_of_it():
    assert worth(bootstrap.remembered(following([0, 1, 2], [5, 3, 4], [1, 1, 1]))) == 5
    np.testing.assert_allclose(worth(bootstrap.remembered(following([0, 1, 2], [4, 0, 0], [0.5, 0, 0]))), 2)
    np.testing.assert_allclose(worth(bootstrap.remembered(following([0, 1, 2], [8, 0, 0], [0.5, 0, 0]))), 4)


def test_the_memory_cannot_bring_back_a_forbidden_action():
    told = following([0, 1, 2], [0, 0, 100], [1, 1, 1], selector=[0, 1, -np.inf])
    assert worth(bootstrap.remembered(told)) == 0


def backup(memory, store, transitions, discount: float) -> np.ndarray:
    """One synchronous backup of all stored values of an episodic memory whose share is 1."""
    targets = []
    for reward, query in transitions:
        read = memory.read(store, query)
        q = jnp.zeros_like(read.q)
        told = Following(returns(q), q, read.q, (read.confidence > 0).astype(jnp.float32))
        targets.append(reward + discount * worth(bootstrap.remembered(told)))
    return np.array(targets)


def block(keys, actions, values) -> Entries:
    count = len(actions)
    hashes = jnp.stack([jnp.arange(count), jnp.asarray(actions)], 1).astype(jnp.uint32)
    return Entries(
        key=jnp.asarray(keys, jnp.float32), action=jnp.asarray(actions, jnp.int32), features=jnp.zeros((count, 0)),
        value=jnp.asarray(values, jnp.float32), td_error=jnp.zeros(count), hash=hashes,
        origin=jnp.zeros((count, 3), jnp.int32),
    )  # fmt: skip


@pytest.mark.parametrize("kernel", ["inverse-distance", "dot", "scaled-dot", "multi-head"])
def test_for_fixed_keys_the_memory_backup_is_a_contraction(kernel: str):
    """sup |T v - T u| <= discount * sup |v - u|, since weights that sum to 1 average and a maximum expands nothing."""
    spec = EpisodicSpec(capacity=24, neighbours=4, kernel=kernel, heads=2, delta=0.5, alpha=1.0)
    memory = spec.build(4, 2, 0, jax.random.PRNGKey(3))
    random = np.random.default_rng(0)
    keys, actions = random.normal(size=(20, 4)), np.arange(20) % 2
    transitions = [(random.normal(), jnp.asarray(random.normal(size=4), jnp.float32)) for _ in range(20)]
    write = jax.jit(lambda *given: memory.write(*given))
    for _ in range(5):
        u, v = random.normal(size=(2, 20))
        stores = [write(memory.init(), block(keys, actions, values), jnp.ones(20, bool)) for values in (u, v)]
        apart = np.abs(backup(memory, stores[0], transitions, 0.9) - backup(memory, stores[1], transitions, 0.9))
        assert apart.max() <= 0.9 * np.abs(u - v).max() + 1e-5


def test_a_kernel_that_narrows_to_a_point_gives_tabular_q_learning():
    """One-hot keys and a tiny delta: the stored values follow Q(s, a) <- Q + alpha (r + gamma max Q(s', .) - Q)."""
    states, actions, alpha, discount = 4, 2, 0.5, 0.8
    spec = EpisodicSpec(capacity=16, neighbours=4, delta=1e-9, alpha=alpha)
    memory = spec.build(states, actions, 0, jax.random.PRNGKey(0))
    random, table = np.random.default_rng(1), np.zeros((states, actions))
    known = np.zeros((states, actions), bool)
    store, write, read = memory.init(), jax.jit(memory.write), jax.jit(memory.read)
    eye = np.eye(states, dtype=np.float32)
    for _ in range(60):
        state, action, reward, after = random.integers(4), random.integers(2), random.normal(), random.integers(4)
        found = read(store, jnp.asarray(eye[after]))
        exact = np.asarray(found.confidence) > 0.5
        told = Following(returns(jnp.zeros(2)), jnp.zeros(2), found.q, jnp.asarray(exact, jnp.float32))
        target = reward + discount * worth(bootstrap.remembered(told))
        expected = reward + discount * np.where(known[after], table[after], 0).max()
        np.testing.assert_allclose(target, expected, rtol=1e-4, atol=1e-4)
        entry = block(eye[[state]], [action], [target])
        entry = Entries(**{**vars(entry), "hash": jnp.array([[state, action]], jnp.uint32)})
        store = write(store, entry, jnp.ones(1, bool))
        table[state, action] = (
            target if not known[state, action] else (1 - alpha) * table[state, action] + alpha * target
        )
        known[state, action] = True
    np.testing.assert_allclose([read(store, jnp.asarray(row)).q for row in eye], table, rtol=1e-3, atol=1e-3)


# -- 2: actions ------------------------------------------------------------------------------------------------


def test_action_attention_goes_from_the_greedy_action_to_the_mean():
    q = returns(jnp.array([1.0, 2.0, 4.0]))
    selector = jnp.array([1.0, 2.0, 4.0])
    np.testing.assert_allclose(worth(bootstrap.weighted(q, selector, 1e-3)), 4, rtol=1e-6)
    np.testing.assert_allclose(worth(bootstrap.weighted(q, selector, 1e5)), 7 / 3, rtol=1e-3)
    weights = np.exp([1, 2, 4]) / np.exp([1, 2, 4]).sum()
    np.testing.assert_allclose(worth(bootstrap.weighted(q, selector, 1.0)), weights @ [1, 2, 4], rtol=1e-5)
    forbidden = selector.at[2].set(-jnp.inf)
    np.testing.assert_allclose(worth(bootstrap.weighted(q, forbidden, 1e5)), 1.5, rtol=1e-3)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5), st.floats(0.05, 20))
@settings(max_examples=50, deadline=None)
def test_mellowmax_never_expands_and_has_the_same_limits(pairs: list[tuple[float, float]], temperature: float):
    u, v = (jnp.array(column, jnp.float32) for column in zip(*pairs, strict=True))
    apart = abs(worth(bootstrap.mellowmax(u, u, temperature)) - worth(bootstrap.mellowmax(v, v, temperature)))
    assert apart <= float(jnp.abs(u - v).max()) + 1e-4
    assert worth(bootstrap.mellowmax(u, u, temperature)) <= float(u.max()) + 1e-4
    np.testing.assert_allclose(worth(bootstrap.mellowmax(u, u, 1e-3)), u.max(), atol=2e-2)


# -- 3: successors ---------------------------------------------------------------------------------------------


def test_successors_are_unbiased_on_a_random_chain():
    """The mean over stored transitions of one (s, a) estimates r + gamma E[max Q(s')]; a max over a mean would not."""
    random = np.random.default_rng(0)
    values, chances, rewards = np.array([0.0, 1.0, 4.0]), np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.2, -0.5])
    true = (chances * (rewards + 0.9 * values)).sum()
    found = []
    for _ in range(400):
        drawn = random.choice(3, size=16, p=chances)
        weights = jnp.full(16, 1 / 16)
        given = (jnp.asarray(rewards[drawn]), jnp.full(16, 0.9), jnp.asarray(values[drawn]))
        found.append(float(bootstrap.from_successors(weights, *given, jnp.float32(99.0))))
    error = np.std(found) / len(found) ** 0.5
    assert abs(np.mean(found) - true) < 4 * error


def test_without_successors_the_target_is_plain_and_an_end_is_worth_its_reward():
    none = jnp.zeros(3)
    assert bootstrap.from_successors(none, none, none, none, jnp.float32(7.0)) == 7
    one = jnp.array([1.0, 0.0, 0.0])
    assert bootstrap.from_successors(one, 2 * one, 0 * one, 9 * one, jnp.float32(7.0)) == 2


def test_a_spec_gives_its_reading():
    told = following([0, 1, 2], [5, 3, 4], [1, 1, 1])
    assert worth(bootstrap.PlainSpec()(told)) == worth(bootstrap.SuccessorsSpec()(told)) == 2
    assert worth(bootstrap.MemorySpec()(told)) == 5
    np.testing.assert_allclose(worth(bootstrap.ActionsSpec(temperature=1e5)(told)), 1, rtol=1e-3)
    mellow = partial(bootstrap.ActionsSpec, mellow=True)
    np.testing.assert_allclose(worth(mellow(temperature=1e-3)(told)), 2, atol=1e-2)
    with pytest.raises(SpecError, match=r"temperature = 0.* is out of range"):
        bootstrap.ActionsSpec(temperature=0.0)
