"""Returns, bootstraps and regressions against numbers worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram.losses import bootstrap, regression
from engram.losses.returns import NStep, annealed, discounts, n_step, squashed, stretched
from engram.nn.layers import normalised
from engram.types import Distribution, Returns

jitted_n_step = jax.jit(n_step)


def flags(*values: int):
    return jnp.array(values, bool)


def scalar_returns(*q: float) -> Returns:
    return Returns(jnp.array(q)[:, None], jnp.zeros((len(q), 1)), jnp.zeros((0, len(q))))


def greedy(following: Returns) -> Distribution:
    """`double` by the network's own Q."""
    return bootstrap.double(following, following.q)


def number(value: float) -> Distribution:
    """A number, as a distribution: one atom."""
    return Distribution(jnp.array([value], jnp.float32), jnp.ones(1))


@pytest.mark.parametrize("jit", [False, True])
def test_constant_reward_is_a_geometric_series(jit):
    """r = 1 for ever is worth 1 / (1 - gamma): the bootstrap reproduces itself."""
    gamma, n = 0.9, 7
    function = jax.jit(n_step) if jit else n_step
    step = function(jnp.ones(n), jnp.zeros(n, bool), jnp.zeros(n, bool), discounts(gamma, n))
    np.testing.assert_allclose(step.reward + step.discount / (1 - gamma), 1 / (1 - gamma), rtol=1e-6)
    assert step.offset == n


def test_nothing_follows_a_termination():
    """Rewards after it are another episode's, and it does not bootstrap."""
    step = n_step(jnp.array([1.0, 2.0, 50.0]), flags(0, 1, 0), flags(0, 0, 1), discounts(0.5, 3))
    assert step.reward == 1.0 + 0.5 * 2.0
    assert step.discount == 0.0


def test_a_time_limit_bootstraps_from_the_final_row():
    """Row 2 is final (row 3 opens an episode) and nothing terminated: the value of row 2 still counts."""
    step = n_step(jnp.array([1.0, 2.0, 99.0, 99.0]), flags(0, 0, 0, 0), flags(0, 0, 1, 0), discounts(0.5, 4))
    assert (float(step.reward), float(step.discount), int(step.offset)) == (2.0, 0.25, 2)


def test_one_step_is_the_textbook_target():
    """n = 1: r + gamma * (1 - terminated) at the next row, whatever that row is."""
    for ended in (0, 1):
        for next_opens in (0, 1):
            step = n_step(jnp.array([3.0]), flags(ended), flags(next_opens), discounts(0.9, 1))
            assert (float(step.reward), int(step.offset)) == (3.0, 1)
            np.testing.assert_allclose(step.discount, 0.9 * (1 - ended))


@settings(deadline=None)
@given(st.data())
def test_n_step_equals_a_plain_loop(data):
    n = data.draw(st.integers(1, 6))
    rewards = data.draw(st.lists(st.floats(-5, 5, width=32), min_size=n, max_size=n))
    # Rows of a real timeline: a termination is followed by its final row, which is followed by an opening.
    kinds = data.draw(st.lists(st.sampled_from(["step", "terminated", "truncated"]), min_size=n + 1, max_size=n + 1))
    rows = []
    for kind in kinds:
        rows.append((False, kind == "terminated", False))
        if kind != "step":
            rows += [(False, False, True)]
    opens = [False] + [rows[i - 1][2] for i in range(1, len(rows))]
    terminated = [row[1] for row in rows]
    reward = [rewards[i] if i < n else 0.0 for i in range(n)]
    expected, discount, offset = 0.0, 1.0, 0
    for k in range(n):
        if k > 0 and opens[k + 1]:
            break  # row k is final
        expected += 0.9**k * reward[k]
        offset += 1
        if terminated[k]:
            discount = 0.0
            break
    discount *= 0.9**offset
    ends = flags(*terminated[:n]), flags(*opens[1 : n + 1])
    step = jitted_n_step(jnp.array(reward, jnp.float32), *ends, discounts(0.9, n))
    np.testing.assert_allclose(step.reward, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(step.discount, discount, rtol=1e-6)
    assert int(step.offset) == offset


@given(st.data())
@settings(max_examples=30)
def test_fewer_rewards_that_count_are_a_smaller_n(data):
    """In one program n can change: the first `count` of n rows give what `count` rows give alone."""
    n = 5
    count = data.draw(st.integers(1, n))
    terminated, first = (np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n))) for _ in range(2))
    terminated, first, reward = jnp.asarray(terminated), jnp.asarray(first), jnp.arange(1.0, n + 1)
    powers = discounts(0.5, n)
    some = jitted_n_step(reward, terminated, first, powers, jnp.int32(count))
    alone = n_step(reward[:count], terminated[:count], first[:count], powers[: count + 1])
    np.testing.assert_allclose([some.reward, some.discount], [alone.reward, alone.discount], rtol=1e-6)
    assert some.offset == alone.offset


def test_n_and_the_discount_move_by_equal_factors():
    """From 8 and 1 - 1/10 to 2 and 1 - 1/1000: half of the way is 4 and 1 - 1/100."""
    for done, n, gamma in ((0, 8, 0.9), (0.5, 4, 0.99), (1, 2, 0.999)):
        count, powers = annealed(jnp.float32(done), (8, 0.9), (2, 0.999))
        assert int(count) == n
        np.testing.assert_allclose(powers, gamma ** np.arange(9), rtol=1e-5)


def test_a_discount_of_one_can_be_moved_to():
    _, powers = annealed(jnp.ones(()), (1, 0.9), (1, 1.0))
    np.testing.assert_allclose(powers, [1, 1], atol=1e-6)


SIZES = np.array([0.0, 1e-6, 1e-3, 0.5, 1.0, 3.0, 1e3, 1e6, -1e-3, -3.0, -1e5])


def test_squashed_returns_are_the_formula_of_the_paper_in_64_bits():
    formula = np.sign(SIZES) * (np.sqrt(np.abs(SIZES) + 1) - 1) + 1e-3 * SIZES
    np.testing.assert_allclose(squashed(jnp.float32(SIZES)), formula, rtol=1e-6)
    np.testing.assert_allclose(squashed(jnp.float32(3)), 1.003, rtol=1e-6)  # sqrt(4) - 1 + 0.003


def test_stretching_undoes_squashing_to_the_last_digits():
    formula = np.sign(SIZES) * (np.sqrt(np.abs(SIZES) + 1) - 1) + 1e-3 * SIZES
    np.testing.assert_allclose(stretched(jnp.float32(formula)), SIZES, rtol=2e-6)
    assert jax.grad(squashed)(0.0) == np.float32(0.501), "the slope at 0 is finite"


def test_greedy_takes_the_highest_mean():
    assert greedy(scalar_returns(1.0, 5.0, 3.0)).mean == 5.0


def test_greedy_ranks_distributions_by_mean_not_by_their_best_atom():
    following = Returns(jnp.array([[0.0, 10.0], [6.0, 6.0]]), jnp.zeros((2, 2)), jnp.zeros((0, 2)))
    np.testing.assert_array_equal(greedy(following).atoms, [6.0, 6.0])


def test_double_takes_the_value_of_the_action_that_the_other_network_prefers():
    chosen = bootstrap.double(scalar_returns(1.0, 5.0, 3.0), jnp.array([9.0, 0.0, 0.0]))
    assert chosen.mean == 1.0


def test_double_with_its_own_q_is_greedy():
    following = scalar_returns(1.0, 5.0, 3.0)
    assert bootstrap.double(following, following.q).mean == following.q.max()


def test_target_adds_the_rewards_and_stops_the_gradient():
    step = NStep(jnp.float32(2.0), jnp.float32(0.5), jnp.int32(1))

    def value(q):
        return bootstrap.target(step, greedy(scalar_returns(q, 0.0))).mean

    assert value(4.0) == 2.0 + 0.5 * 4.0
    assert jax.grad(value)(4.0) == 0.0


def test_huber_is_squared_inside_and_linear_outside():
    assert regression.huber(jnp.float32(0.0), jnp.float32(0.5)) == 0.125
    assert regression.huber(jnp.float32(0.0), jnp.float32(4.0)) == 3.5
    assert regression.huber(jnp.float32(0.0), jnp.float32(4.0), width=2.0) == 6.0


def test_hubers_slope_never_exceeds_its_width():
    slopes = jax.vmap(jax.grad(lambda p: regression.huber(p, jnp.float32(0.0), width=0.5)))(jnp.linspace(-3, 3, 61))
    assert float(jnp.abs(slopes).max()) == 0.5


def test_a_wide_huber_is_the_squared_loss():
    for error in (-3.0, 0.1, 2.0):
        zero, target = jnp.float32(0.0), jnp.float32(error)
        assert regression.huber(zero, target, width=100.0) == regression.squared(zero, target)


def test_loss_specs_call_the_functions():
    assert regression.HuberSpec(width=2.0)(number(0.0), number(4.0)) == 6.0
    assert regression.SquaredSpec()(number(0.0), number(4.0)) == 8.0


def test_normalised_features_have_mean_zero_and_variance_one_whatever_their_scale():
    for scale in (1e-1, 1.0, 1e4):
        x = normalised(scale * jnp.array([1.0, 2.0, 3.0, 6.0]))
        np.testing.assert_allclose(x.mean(), 0.0, atol=1e-6)
        np.testing.assert_allclose(x.var(), 1.0, rtol=1e-2)
    np.testing.assert_array_equal(normalised(jnp.ones(3)), jnp.zeros(3))
