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
from engram.losses.bootstrap import Following, Similar
from engram.losses.regression import HuberSpec, SquaredSpec
from engram.losses.returns import NStep
from engram.types import Decision, Distribution, Encoding, MemoryRead, Returns

numbers = st.floats(-10, 10, width=32)
STEP = NStep(jnp.float32(1.5), jnp.float32(0.9), jnp.int32(1))


def returns(q: jax.Array) -> Returns:
    return Returns(q[:, None], jnp.zeros((len(q), 1)), jnp.zeros((0, len(q))))


def following(
    q: list[float], memory: list[float], share: list[float], selector: list[float] | None = None
) -> Following:
    made = jnp.array(q, jnp.float32)
    picks = made if selector is None else jnp.array(selector, jnp.float32)
    return Following(returns(made), picks, jnp.array(memory, jnp.float32), jnp.array(share, jnp.float32))


def worth(distribution: Distribution) -> float:
    return float(distribution.mean)


def greedy(q: jax.Array) -> Distribution:
    return bootstrap.double(returns(q), q)


def literal(step: NStep, following: jax.Array, weights: jax.Array) -> jax.Array:
    """The article's sum read as it stands: r + gamma sum_i w_i max_a' Q(s', a')."""
    total = jnp.where(weights.sum() > 0, weights.sum(), 1.0)
    return step.reward + step.discount * total * following.max()


# -- literal ---------------------------------------------------------------------------------------------------


@given(st.lists(numbers, min_size=1, max_size=5), st.lists(st.floats(0.125, 8, width=32), min_size=0, max_size=6))
@settings(max_examples=50, deadline=None)
def test_the_literal_sum_is_plain_q_learning(q: list[float], scores: list[float]):
    """Whatever the weights are, as long as they sum to 1, or nothing is known."""
    weights = jnp.array(scores, jnp.float32)
    weights = weights / weights.sum() if scores else weights
    plain = bootstrap.target(STEP, greedy(jnp.array(q, jnp.float32)))
    found = literal(STEP, jnp.array(q, jnp.float32), weights)
    np.testing.assert_allclose(found, worth(plain), rtol=1e-6, atol=1e-6)


# -- 1: memory -------------------------------------------------------------------------------------------------


def test_a_memory_that_knows_nothing_leaves_the_plain_bootstrap_to_the_last_bit():
    q = [0.1, 0.7, 0.3]
    silent = following(q, [np.nan, 9.0, 9.0], [0, 0, 0])
    assert worth(bootstrap.remembered(silent)) == worth(greedy(jnp.array(q, jnp.float32)))


def test_a_certain_memory_is_the_bootstrap_and_a_doubtful_one_a_part_of_it():
    assert worth(bootstrap.remembered(following([0, 1, 2], [5, 3, 4], [1, 1, 1]))) == 5
    np.testing.assert_allclose(worth(bootstrap.remembered(following([0, 1, 2], [4, 0, 0], [0.5, 0, 0]))), 2)
    np.testing.assert_allclose(worth(bootstrap.remembered(following([0, 1, 2], [8, 0, 0], [0.5, 0, 0]))), 4)


def test_the_memory_cannot_bring_back_a_forbidden_action():
    told = following([0, 1, 2], [0, 0, 100], [1, 1, 1], selector=[0, 1, -np.inf])
    assert worth(bootstrap.remembered(told)) == 0


@partial(jax.jit, static_argnames="discount")
def backup(memory, store, rewards, queries, discount: float):
    """One synchronous backup of all stored values of an episodic memory whose share is 1."""

    def one(reward, query):
        read = memory.read(store, query)
        q = jnp.zeros_like(read.q)
        told = Following(returns(q), q, read.q, (read.confidence > 0).astype(jnp.float32))
        return reward + discount * bootstrap.remembered(told).mean

    return jax.vmap(one)(rewards, queries)


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
    drawn = (jnp.asarray(random.normal(size=size), jnp.float32) for size in (20, (20, 4)))
    step = partial(backup, memory, rewards=next(drawn), queries=next(drawn), discount=0.9)
    write = jax.jit(lambda *given: memory.write(*given))
    for _ in range(5):
        u, v = random.normal(size=(2, 20))
        stores = [write(memory.init(), block(keys, actions, values), jnp.ones(20, bool)) for values in (u, v)]
        apart = np.abs(step(stores[0]) - step(stores[1]))
        assert apart.max() <= 0.9 * np.abs(u - v).max() + 1e-5


def test_a_kernel_that_narrows_to_a_point_gives_tabular_q_learning():
    """One-hot keys and a tiny delta: the stored values follow Q(s, a) <- Q + alpha (r + gamma max Q(s', .) - Q)."""
    states, actions, alpha, discount = 4, 2, 0.5, 0.8
    spec = EpisodicSpec(capacity=16, neighbours=4, delta=1e-9, alpha=alpha)
    memory = spec.build(states, actions, 0, jax.random.PRNGKey(0))
    random, table = np.random.default_rng(1), np.zeros((states, actions))
    known = np.zeros((states, actions), bool)
    store, write, read = memory.init(), jax.jit(memory.write), jax.jit(memory.read)
    picked = jax.jit(lambda told: bootstrap.remembered(told).mean)
    eye = np.eye(states, dtype=np.float32)
    for _ in range(60):
        state, action, reward, after = random.integers(4), random.integers(2), random.normal(), random.integers(4)
        found = read(store, eye[after])
        exact = np.asarray(found.confidence) > 0.5
        told = Following(returns(jnp.zeros(2)), jnp.zeros(2), found.q, jnp.asarray(exact, jnp.float32))
        target = reward + discount * float(picked(told))
        expected = reward + discount * np.where(known[after], table[after], 0).max()
        np.testing.assert_allclose(target, expected, rtol=1e-4, atol=1e-4)
        entry = block(eye[[state]], [action], [target])
        entry = Entries(**{**vars(entry), "hash": jnp.array([[state, action]], jnp.uint32)})
        store = write(store, entry, jnp.ones(1, bool))
        table[state, action] = (
            target if not known[state, action] else (1 - alpha) * table[state, action] + alpha * target
        )
        known[state, action] = True
    np.testing.assert_allclose([read(store, row).q for row in eye], table, rtol=1e-3, atol=1e-3)


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


CERTAIN = jnp.float32(1.0)


def number(value: float) -> Distribution:
    return Distribution(jnp.array([value], jnp.float32), jnp.ones(1))


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
        found.append(worth(bootstrap.from_successors(Similar(weights, *given, CERTAIN), number(99.0))))
    error = np.std(found) / len(found) ** 0.5
    assert abs(np.mean(found) - true) < 4 * error


def test_without_successors_the_target_is_plain_and_an_end_is_worth_its_reward():
    none = jnp.zeros(3)
    assert worth(bootstrap.from_successors(Similar(none, none, none, none, CERTAIN), number(7.0))) == 7
    one = jnp.array([1.0, 0.0, 0.0])
    assert worth(bootstrap.from_successors(Similar(one, 2 * one, 0 * one, 9 * one, CERTAIN), number(7.0))) == 2


def test_a_spec_gives_its_reading():
    told = following([0, 1, 2], [5, 3, 4], [1, 1, 1])
    one = jnp.array([1.0, 0.0, 0.0])
    similar = told._replace(similar=Similar(one, 7 * one, one, 3 * one, jnp.float32(0.25)))
    nothing = told._replace(similar=Similar(0 * one, 7 * one, one, 3 * one, jnp.float32(0.25)))
    step = NStep(jnp.float32(0.0), jnp.float32(1.0), jnp.int32(1))  # the target is what follows
    assert worth(bootstrap.PlainSpec()(step, told)) == worth(bootstrap.SuccessorsSpec()(step, nothing)) == 2
    assert worth(bootstrap.SuccessorsSpec()(step, similar)) == 0.75 * 2 + 0.25 * 10
    assert worth(bootstrap.FromMemorySpec()(step, told)) == 5
    np.testing.assert_allclose(worth(bootstrap.ActionsSpec(temperature=1e5)(step, told)), 1, rtol=1e-3)
    mellow = partial(bootstrap.ActionsSpec, mellow=True)
    np.testing.assert_allclose(worth(mellow(temperature=1e-3)(step, told)), 2, atol=1e-2)
    with pytest.raises(SpecError, match=r"temperature = 0.* is out of range"):
        bootstrap.ActionsSpec(temperature=0.0)


def test_a_spec_adds_the_rewards_and_names_what_it_was_not_given():
    told = following([0, 1, 2], [5, 3, 4], [1, 1, 1])
    np.testing.assert_allclose(worth(bootstrap.PlainSpec()(STEP, told)), 1.5 + 0.9 * 2, rtol=1e-6)
    np.testing.assert_allclose(worth(bootstrap.FromMemorySpec()(STEP, told)), 1.5 + 0.9 * 5, rtol=1e-6)
    bare = Following(told.returns, told.selector)
    with pytest.raises(ValueError, match="asks the memory"):
        bootstrap.FromMemorySpec()(STEP, bare)
    with pytest.raises(ValueError, match="asks for successors"):
        bootstrap.SuccessorsSpec()(STEP, bare)


# -- numbers ---------------------------------------------------------------------------------------------------


def random_case(seed: int):
    """Q of the target network and of the selector, a memory's word and its share, a step: float32, as when learning."""
    random = np.random.default_rng(seed)
    q, selector, memory = (jnp.asarray(row, jnp.float32) for row in random.normal(size=(3, 64, 5)) * 10)
    share = jnp.asarray(np.where(random.random((64, 5)) < 0.3, 0, random.random((64, 5))), jnp.float32)
    reward, discount = (jnp.asarray(row, jnp.float32) for row in random.normal(size=(2, 64)))
    return q, selector, memory, share, NStep(reward, discount, jnp.ones(64, jnp.int32))


def plain_target(q, selector, memory, share, step):
    return step.reward + step.discount * q.max()


def double_target(q, selector, memory, share, step):
    return step.reward + step.discount * q[selector.argmax()]


def memory_target(q, selector, memory, share, step):
    joint = lambda own: jnp.where(share > 0, (1 - share) * own + share * memory, own)  # noqa: E731
    return step.reward + step.discount * joint(q)[joint(selector).argmax()]


TARGETS = {
    "plain": (bootstrap.PlainSpec(), lambda q, selector: q, plain_target),
    "double": (bootstrap.PlainSpec(), lambda q, selector: selector, double_target),
    "memory": (bootstrap.FromMemorySpec(), lambda q, selector: selector, memory_target),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_targets_of_one_atom_are_the_plain_formulas_to_the_last_bit(kind: str):
    made, picks, formula = TARGETS[kind]

    def one(q, selector, memory, share, step):
        return made(step, Following(returns(q), picks(q, selector), memory, share)).mean

    given = random_case(0)
    found, expected = (jax.jit(jax.vmap(function))(*given) for function in (one, formula))
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) == 64


def squared_error(prediction, target):
    return 0.5 * (target - prediction) ** 2


def huber_error(prediction, target):
    size = jnp.abs(target - prediction)
    return jnp.where(size <= 0.7, 0.5 * size**2, 0.7 * (size - 0.5 * 0.7))


@pytest.mark.parametrize(
    ("made", "formula"), [(SquaredSpec(), squared_error), (HuberSpec(width=0.7), huber_error)], ids=["squared", "huber"]
)
def test_losses_and_slopes_of_one_atom_are_the_plain_formulas_to_the_last_bit(made, formula):
    random = np.random.default_rng(1)
    prediction, target = (jnp.asarray(row, jnp.float32) for row in random.normal(size=(2, 256)))

    def one(prediction, target):
        return made(returns(prediction[None]).of(jnp.int32(0)), Distribution(target[None], jnp.ones(1)))

    found, expected = (
        jax.jit(jax.vmap(jax.value_and_grad(function)))(prediction, target) for function in (one, formula)
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert (np.abs(target - prediction) > 0.7).any()
    assert (np.abs(target - prediction) < 0.7).any()


# -- two atoms -------------------------------------------------------------------------------------------------

# Logits that give 1/4 and 3/4, and 1/2 and 1/2: means 3 and 1.
TWO = Returns(jnp.array([[0.0, 4.0], [-1.0, 3.0]]), jnp.log(jnp.array([[1.0, 3.0], [2.0, 2.0]])), jnp.zeros((0, 2)))


def test_the_mean_of_two_atoms_by_hand():
    np.testing.assert_allclose(TWO.probabilities, [[0.25, 0.75], [0.5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(TWO.q, [3.0, 1.0], rtol=1e-6)
    for action, mean in enumerate([3.0, 1.0]):
        one = TWO.of(jnp.int32(action))
        np.testing.assert_array_equal(one.atoms, TWO.atoms[action])
        np.testing.assert_array_equal(one.logits, TWO.logits[action])
        np.testing.assert_allclose(one.probabilities, TWO.probabilities[action], rtol=1e-6)
        np.testing.assert_allclose(one.mean, mean, rtol=1e-6)
        assert one.levels is None
    quantiles = Returns(TWO.atoms, jnp.zeros((2, 2)), TWO.attention, jnp.array([[0.25, 0.75], [0.1, 0.9]]))
    np.testing.assert_allclose(quantiles.of(jnp.int32(1)).levels, [0.1, 0.9])
    np.testing.assert_allclose(quantiles.q, [2.0, 1.0])


def test_a_memory_moves_the_mean_of_two_atoms_by_its_share_of_the_gap():
    """Shares 1/2 and 0 of what the memory says, 7 and anything: 3 goes to 3 + (7 - 3) / 2, and 1 stays."""
    read = MemoryRead(jnp.zeros(0), jnp.zeros((0, 2, 0)), jnp.zeros((0, 2, 0), jnp.int32), jnp.array([7.0, jnp.nan]))
    share = jnp.array([0.5, 0.0])
    decision = Decision(Encoding(jnp.zeros(1), jnp.zeros((0, 0))), read, TWO, None, read, share)
    np.testing.assert_allclose(decision.q, [3 + 0.5 * (7 - 3), 1.0], rtol=1e-6)
    moved = decision.returned(jnp.int32(0))
    np.testing.assert_allclose(moved.atoms, [3.5, 5.5], rtol=1e-6)
    np.testing.assert_allclose(moved.mean, 5.0, rtol=1e-6)
    np.testing.assert_array_equal(moved.probabilities, TWO.of(jnp.int32(0)).probabilities)
    jax.tree.map(np.testing.assert_array_equal, decision.returned(jnp.int32(1)), TWO.of(jnp.int32(1)))
    told = Following(TWO, TWO.q, jnp.array([7.0, 0.0]), share)
    np.testing.assert_allclose(bootstrap.remembered(told).mean, 5.0, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, bootstrap.remembered(told).atoms, moved.atoms)
