"""Returns along rollouts and losses of a policy: by hand, by identities, and beside a recursion in 64 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram.losses.policy import clipped_surrogate, entropy, standardized
from engram.losses.returns import advantages, lambda_returns

RETURNS = jax.jit(lambda_returns, static_argnums=4)
ADVANTAGES = jax.jit(advantages, static_argnums=5)
TIME = 6  # steps of a random rollout


def column(*values: float) -> jax.Array:
    return jnp.array(values, jnp.float32)


# -- returns along a rollout -----------------------------------------------------------------------------------------

# Step 1 terminates, a time limit ends step 3, and the rollout ends with step 5. Discount and trace are 1/2.
REWARD = column(1, 2, 4, 8, 16, 32)
DISCOUNT = column(0.5, 0, 0.5, 0.5, 0.5, 0.5)
VALUE = column(1, 2, 3, 4, 5, 6)
FOLLOWING = column(2, 99, 4, 40, 6, 80)  # 99: after a termination it counts for nothing
ENDS = jnp.array([0, 1, 0, 1, 0, 1], bool)


def test_lambda_returns_are_those_worked_by_hand():
    expected = [
        1 + 0.5 * (0.5 * 2 + 0.5 * 2),
        2,
        4 + 0.5 * (0.5 * 4 + 0.5 * 28),
        8 + 0.5 * 40,  # the final observation of the time limit
        16 + 0.5 * (0.5 * 6 + 0.5 * 72),
        32 + 0.5 * 80,  # what the last step of the rollout led to
    ]
    assert expected == [2, 2, 12, 28, 35.5, 72]
    np.testing.assert_array_equal(RETURNS(REWARD, DISCOUNT, FOLLOWING, ENDS, 0.5), expected)


def test_advantages_are_those_worked_by_hand():
    """The errors r + gamma v' - v are 1, 0, 3, 24, 14 and 66; each adds a quarter of what the next one comes to."""
    found = ADVANTAGES(REWARD, DISCOUNT, VALUE, FOLLOWING, ENDS, 0.5)
    np.testing.assert_array_equal(found, [1 + 0 / 4, 0, 3 + 24 / 4, 24, 14 + 66 / 4, 66])


def test_with_trace_1_only_the_end_bootstraps():
    """Monte Carlo: rewards up to the termination, the time limit or the rollout's end, and the value there."""
    expected = [1 + 2 / 2, 2, 4 + 8 / 2 + 40 / 4, 8 + 40 / 2, 16 + 32 / 2 + 80 / 4, 32 + 80 / 2]
    np.testing.assert_array_equal(RETURNS(REWARD, DISCOUNT, FOLLOWING, ENDS, 1.0), expected)


def test_with_trace_0_each_step_bootstraps():
    one_step = REWARD + DISCOUNT * FOLLOWING
    np.testing.assert_array_equal(RETURNS(REWARD, DISCOUNT, FOLLOWING, ENDS, 0.0), one_step)
    np.testing.assert_array_equal(ADVANTAGES(REWARD, DISCOUNT, VALUE, FOLLOWING, ENDS, 0.0), one_step - VALUE)


def test_values_that_are_true_are_their_own_returns():
    """A constant reward for ever is worth 1 / (1 - gamma), whatever the trace; its advantage is 0."""
    ones, worth, never = jnp.ones(TIME), jnp.full(TIME, 10.0), jnp.zeros(TIME, bool)
    for trace in (0.0, 0.3, 1.0):
        arguments = ones, jnp.full(TIME, 0.9), worth, never, trace
        np.testing.assert_allclose(RETURNS(*arguments), worth, rtol=1e-6)
        np.testing.assert_allclose(ADVANTAGES(*arguments[:2], worth, *arguments[2:]), np.zeros(TIME), atol=1e-5)


NUMBERS = st.lists(st.floats(-5, 5, width=32), min_size=2 * TIME, max_size=2 * TIME)
KINDS = st.lists(st.sampled_from(["step", "step", "limit", "end"]), min_size=2 * TIME, max_size=2 * TIME)


@settings(deadline=None, max_examples=50)
@given(NUMBERS, NUMBERS, NUMBERS, KINDS, st.sampled_from([0.0, 0.3, 0.95, 1.0]))
def test_both_are_a_plain_recursion(reward, value, shown, kinds, trace):
    """Two environments, episodes that end anywhere, in 64 bits: the return backwards, the advantage as a sum."""
    gamma = 0.9
    reward, value, shown = (np.array(each).reshape(TIME, 2) for each in (reward, value, shown))
    kind = np.array(kinds).reshape(TIME, 2)
    ends, discount = kind != "step", np.where(kind == "end", 0.0, gamma)
    ends[-1] = True
    following = np.where(ends, shown, np.roll(value, -1, axis=0))
    returns, gains = np.zeros((TIME, 2)), np.zeros((TIME, 2))
    for env in range(2):
        for t in reversed(range(TIME)):
            after = following[t, env]
            if not ends[t, env]:
                after = (1 - trace) * after + trace * returns[t + 1, env]
            returns[t, env] = reward[t, env] + discount[t, env] * after
        for t in range(TIME):
            factor = 1.0
            for k in range(t, TIME):
                error = reward[k, env] + discount[k, env] * following[k, env] - value[k, env]
                gains[t, env] += factor * error
                if ends[k, env]:
                    break
                factor *= gamma * trace
    arrays = [jnp.asarray(each, jnp.float32) for each in (reward, discount, value, following)]
    arguments = *arrays[:2], *arrays[3:], jnp.asarray(ends), trace
    np.testing.assert_allclose(RETURNS(*arguments), returns, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(ADVANTAGES(*arrays, *arguments[3:]), gains, rtol=1e-5, atol=1e-4)


# -- losses of a policy ----------------------------------------------------------------------------------------------

SLOPE = jax.vmap(jax.grad(clipped_surrogate), (0, None, 0, None))


def test_at_a_ratio_of_1_the_gradient_is_that_of_the_policy_gradient():
    """By the logits of three actions: -A (1 - p) of the action taken, A p of the others."""
    logits, gain = column(0.3, -1.0, 2.0), 2.5

    def loss(logits: jax.Array) -> jax.Array:
        log = jax.nn.log_softmax(logits)[1]
        return clipped_surrogate(log, jax.lax.stop_gradient(log), jnp.float32(gain), 0.2)

    chances = jax.nn.softmax(logits)
    np.testing.assert_allclose(jax.grad(loss)(logits), gain * (chances - column(0, 1, 0)), rtol=1e-5)
    np.testing.assert_allclose(loss(logits), -gain, rtol=1e-6)


def test_nothing_is_gained_beyond_the_bound_and_what_was_lost_is_won_back():
    """A gradient of -ratio A, and of 0 where the ratio has already gone the way that the advantage asks for."""
    ratio = np.array([0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 2.0], np.float32)
    better, worse = jnp.ones(7), -jnp.ones(7)
    log = jnp.log(ratio)
    np.testing.assert_allclose(SLOPE(log, jnp.zeros(()), better, 0.2), np.where(ratio > 1.2, 0, -ratio), rtol=1e-6)
    np.testing.assert_allclose(SLOPE(log, jnp.zeros(()), worse, 0.2), np.where(ratio < 0.8, 0, ratio), rtol=1e-6)
    losses = clipped_surrogate(log, jnp.zeros_like(log), better, 0.2)
    np.testing.assert_allclose(losses, -np.minimum(ratio, 1.2), rtol=1e-6)


@pytest.mark.parametrize("actions", [1, 2, 7])
def test_the_entropy_of_a_uniform_policy_is_the_logarithm_of_the_number_of_actions(actions: int):
    logs = jax.nn.log_softmax(jnp.full(actions, 3.0))
    np.testing.assert_allclose(entropy(logs), np.log(actions), atol=1e-6)


def test_actions_that_are_forbidden_add_no_entropy_and_no_gradient():
    def spread(logits: jax.Array) -> jax.Array:
        return entropy(jax.nn.log_softmax(jnp.where(jnp.array([True, False, True]), logits, -jnp.inf)))

    value, slope = jax.value_and_grad(spread)(column(1, 5, 1))
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(slope, np.zeros(3), atol=1e-6)
    slope = jax.grad(spread)(column(1, 5, 0))
    assert np.isfinite(slope).all()
    assert slope[1] == 0 > float(slope[0]) == pytest.approx(-float(slope[2]), rel=1e-5)


def test_advantages_have_mean_0_and_deviation_1_over_those_that_count():
    weight = column(1, 1, 0, 1, 1)
    found = standardized(column(1, 2, 1e6, 3, 6), weight)
    counted = np.asarray(found)[np.asarray(weight) == 1]
    np.testing.assert_allclose([counted.mean(), counted.std()], [0, 1], atol=1e-6)
    np.testing.assert_allclose(counted[-1], (6 - 3) / np.sqrt(3.5), rtol=1e-6)


def test_equal_advantages_and_none_are_finite():
    np.testing.assert_array_equal(standardized(column(3, 3), column(1, 1)), [0, 0])
    assert np.isfinite(standardized(column(3, 4), column(0, 0))).all()
