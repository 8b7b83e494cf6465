"""Losses of a soft actor-critic: by hand, and in NumPy with 64 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram.losses.bootstrap import soft, target
from engram.losses.policy import entropy, soft_improvement, temperature_loss
from engram.losses.returns import NStep
from engram.types import Returns

ALLOWED = np.array([True, False, True, True])
LOGITS = np.array([0.3, 9.0, -1.2, 0.8])
Q = np.array([1.5, 77.0, -0.5, 0.25])


def policy_of(logits: np.ndarray) -> np.ndarray:
    """Probabilities in 64 bits; forbidden actions have none."""
    weights = np.where(ALLOWED, np.exp(logits), 0)
    return weights / weights.sum()


def logs_of(logits: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(jnp.where(ALLOWED, logits, -jnp.inf))


def returns(q: np.ndarray) -> Returns:
    return Returns(jnp.float32(q)[:, None], jnp.zeros((len(q), 1)), jnp.zeros((0, len(q))))


def test_a_soft_target_by_hand():
    """Two actions of 3/4 and 1/4 worth 4 and 0, at a temperature of 2, after a reward of 1 with gamma^n of 1/2."""
    step = NStep(jnp.float32(1), jnp.float32(0.5), jnp.int32(2))
    logs = jnp.log(jnp.array([0.75, 0.25]))
    found = target(step, soft(returns(np.array([4.0, 0.0])), logs, 2.0)).mean
    nats = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    np.testing.assert_allclose(found, 1 + 0.5 * (3 + 2 * nats), rtol=1e-6)


def test_a_soft_value_leaves_forbidden_actions_out():
    probabilities = policy_of(LOGITS)
    some = probabilities[ALLOWED]
    expected = (some * (Q[ALLOWED] - 0.7 * np.log(some))).sum()
    np.testing.assert_allclose(soft(returns(Q), logs_of(jnp.float32(LOGITS)), 0.7).mean, expected, rtol=1e-6)


def test_the_gradient_of_the_policy_is_that_of_the_formula():
    """d/d logit_a of E[T log pi - Q] is pi(a) (T log pi(a) - Q(a) - E[T log pi - Q]), and 0 where it is forbidden."""
    found = jax.grad(lambda logits: soft_improvement(logs_of(logits), jnp.float32(Q), 0.7))(jnp.float32(LOGITS))
    probabilities = policy_of(LOGITS)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(ALLOWED, 0.7 * np.log(probabilities) - Q, 0)
    np.testing.assert_allclose(found, probabilities * (each - (probabilities * each).sum()), rtol=1e-5, atol=1e-7)


def test_the_policy_is_at_rest_at_the_softmax_of_q_over_the_temperature_and_q_is_not_taught():
    slope = jax.grad(lambda logits, q: soft_improvement(logs_of(logits), q, 0.7), argnums=(0, 1))
    at_rest, of_q = slope(jnp.float32(Q / 0.7), jnp.float32(Q))
    np.testing.assert_allclose(at_rest, 0, atol=1e-6)
    np.testing.assert_array_equal(of_q, 0)
    pulled, _ = slope(jnp.zeros(4), jnp.float32(Q))
    assert pulled[0] < 0 < pulled[2], "a step along it makes the better action likelier"


@pytest.mark.parametrize(("logits", "sign"), [((0.0, 0.0), 1), ((5.0, -5.0), -1)])
def test_a_step_lowers_the_temperature_of_a_policy_with_too_much_entropy_and_raises_that_of_one_with_too_little(
    logits: tuple[float, float], sign: int
):
    def loss(log_temperature: jax.Array, logits: jax.Array) -> jax.Array:
        spread = entropy(jax.nn.log_softmax(logits))
        return temperature_loss(log_temperature, spread, 0.5 * jnp.log(2.0))

    slope, of_policy = jax.grad(loss, argnums=(0, 1))(jnp.float32(-3.0), jnp.array(logits))
    p = 1 / (1 + np.exp(logits[1] - logits[0]))
    nats = -(p * np.log(p) + (1 - p) * np.log1p(-p))
    np.testing.assert_allclose(slope, nats - 0.5 * np.log(2), rtol=1e-5)
    assert np.sign(slope) == sign
    np.testing.assert_array_equal(of_policy, 0)
