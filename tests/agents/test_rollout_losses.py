"""What PPO and PQN lose on a minibatch, and teach a rollout: the whole formula in NumPy with 64 bits."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram.agents.ppo import KnownChoice, PPOSpec, Taught
from engram.agents.pqn import PQNSpec
from engram.agents.rollout import Examples, Steps
from engram.exploration.sample import SampleSpec
from engram.heads.actor_critic import ActorCriticSpec
from engram.heads.q import QSpec
from engram.heads.returns import QuantileSpec
from engram.losses.distributional import QuantileHuberSpec
from engram.losses.regression import SquaredSpec
from engram.types import Decision, Encoding, MemoryRead, Returns

ROWS, ACTIONS = 6, 3
RANDOM = np.random.default_rng(3)
LOGITS, Q = RANDOM.normal(size=(2, ROWS, ACTIONS))
VALUE, HELD, RETURNED, GAIN = RANDOM.normal(size=(4, ROWS))
# What acting knew is not far from the policy, so that some ratios lie within the bounds and some do not.
LOGS = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
ACTION = np.array([0, 1, 1, 2, 0, 1])
KNEW = np.take_along_axis(LOGS, ACTION[:, None], 1)[:, 0] + np.array([0.5, -0.4, 0.1, -0.1, 0.0, 0.3])
WEIGHT = np.array([1.0, 1, 1, 1, 1, 0])  # the last row is not real
ALLOWED = np.ones((ROWS, ACTIONS), bool)
ALLOWED[:2, 2] = False

PPO = PPOSpec(
    head=ActorCriticSpec(), exploration=SampleSpec(), loss=SquaredSpec(), clip=0.2, value_weight=0.5,
    entropy_weight=0.1, standardize=False,
)  # fmt: skip
PQN = PQNSpec(loss=SquaredSpec())


def decision(q: Any, policy: Any = None, allowed: Any = None) -> Decision:
    """What a network says of every row."""
    atoms = jnp.asarray(q, jnp.float32)[..., None]
    policy = None if policy is None else jnp.asarray(policy, jnp.float32)
    returns = Returns(atoms, jnp.zeros_like(atoms), jnp.zeros((ROWS, 0, ACTIONS)), policy=policy)
    nothing = jnp.zeros((ROWS, 0, 1, 0))
    read = MemoryRead(jnp.ones((ROWS, 1)), nothing, nothing.astype(jnp.int32))
    return Decision(Encoding(read.vector, jnp.zeros((ROWS, 0, 0))), read, returns, allowed)


def rows(target: Any, known: Any = None) -> Examples:
    """A minibatch of which only what a loss reads is there."""
    nothing: Any = None
    action, weight = jnp.asarray(ACTION, jnp.int32), jnp.asarray(WEIGHT, jnp.float32)
    return Examples(nothing, nothing, nothing, nothing, nothing, action, weight, known, target)


def numbers(*arrays: np.ndarray) -> list[jax.Array]:
    return [jnp.asarray(array, jnp.float32) for array in arrays]


def lost(spec: PPOSpec, logits: Any = LOGITS, value: Any = VALUE, gain: Any = GAIN, allowed: Any = None) -> Any:
    """PPO's loss, and what it tells."""
    value = jnp.broadcast_to(jnp.asarray(value, jnp.float32)[:, None], (ROWS, ACTIONS))
    taught, known = Taught(*numbers(gain, RETURNED)), KnownChoice(*numbers(HELD, KNEW))
    return spec.loss_of(decision(value, logits, allowed), rows(taught, known))


def mean(each: np.ndarray) -> float:
    return (WEIGHT * each).sum() / WEIGHT.sum()


@pytest.mark.parametrize("value_clip", [0.0, 0.3])
@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_of_ppo_is_the_formula(value_clip: float, masked: bool):
    loss, told = lost(replace(PPO, value_clip=value_clip), allowed=jnp.asarray(ALLOWED) if masked else None)
    chances = np.exp(LOGITS) * (ALLOWED if masked else 1)
    chances /= chances.sum(-1, keepdims=True)
    ratio = np.take_along_axis(chances, ACTION[:, None], 1)[:, 0] / np.exp(KNEW)
    policy = -mean(np.minimum(ratio * GAIN, ratio.clip(0.8, 1.2) * GAIN))
    squares = (VALUE - RETURNED) ** 2 / 2
    if value_clip:
        squares = np.maximum(squares, (HELD + (VALUE - HELD).clip(-0.3, 0.3) - RETURNED) ** 2 / 2)
        assert (squares > (VALUE - RETURNED) ** 2 / 2).any()
    logs = np.log(chances, where=chances > 0, out=np.zeros_like(chances))
    spread = mean(-(chances * logs).sum(-1))
    expected = {
        "policy_loss": policy, "value_loss": mean(squares), "entropy": spread, "clipped": mean(abs(ratio - 1) > 0.2),
    }  # fmt: skip
    assert told.keys() == expected.keys()
    for name, number in expected.items():
        np.testing.assert_allclose(told[name], number, rtol=1e-5, err_msg=name)
    assert 0 < told["clipped"] < 1
    np.testing.assert_allclose(loss, policy + 0.5 * mean(squares) - 0.1 * spread, rtol=1e-5)


def test_the_loss_of_pqn_over_quantiles_is_the_formula():
    """Each quantile is drawn to the lambda-return by its level: two levels, an error within the width and beyond."""
    atoms = np.random.default_rng(5).normal(size=(ROWS, ACTIONS, 2)) * 2
    levels = np.broadcast_to([0.25, 0.75], atoms.shape)
    made = decision(Q)
    returns = Returns(*numbers(atoms, np.zeros_like(atoms)), jnp.zeros((ROWS, 0, ACTIONS)), *numbers(levels))
    spec = PQNSpec(head=QSpec(returns=QuantileSpec(quantiles=2)), loss=QuantileHuberSpec(width=1.0))
    loss, told = spec.loss_of(replace(made, returns=returns), rows(numbers(RETURNED)[0]))
    own = atoms[np.arange(ROWS), ACTION]
    error = RETURNED[:, None] - own
    assert (abs(error) < 1).any()
    assert (abs(error) > 1).any()
    huber = np.where(abs(error) <= 1, error**2 / 2, abs(error) - 0.5)
    each = (abs(np.array([0.25, 0.75]) - (error < 0)) * huber).sum(1)
    np.testing.assert_allclose(loss, mean(each), rtol=1e-5)
    np.testing.assert_allclose(told["q_mean"], mean(own.mean(1)), rtol=1e-5)


def test_a_step_raises_the_entropy_where_nothing_else_is_asked():
    def of(logits: jax.Array) -> jax.Array:
        return lost(replace(PPO, value_weight=0.0), logits, gain=np.zeros(ROWS))[0]

    logits = jnp.asarray(LOGITS, jnp.float32)
    stepped = logits - 0.1 * jax.grad(of)(logits)
    before, after = (lost(PPO, each)[1]["entropy"] for each in (logits, stepped))
    assert after > before


def test_what_is_forbidden_and_what_is_not_real_teaches_nothing():
    def of(logits: jax.Array, value: jax.Array) -> jax.Array:
        return lost(replace(PPO, value_clip=0.3, standardize=True), logits, value, allowed=jnp.asarray(ALLOWED))[0]

    of_logits, of_value = jax.grad(of, argnums=(0, 1))(*numbers(LOGITS, VALUE))
    np.testing.assert_array_equal(of_logits[~ALLOWED], 0)
    np.testing.assert_array_equal(of_logits[-1], 0)
    assert (of_logits[:2, :2] != 0).all()
    assert (of_value[-1], np.isfinite(of_value).all()) == (0, True)


def test_only_how_advantages_differ_in_a_minibatch_matters_where_they_are_standardized():
    spec = replace(PPO, standardize=True)
    strange = np.where(WEIGHT == 1, 7 * GAIN + 40, 1e6)
    np.testing.assert_allclose(lost(spec)[0], lost(spec, gain=strange)[0], rtol=1e-4)
    assert abs(lost(PPO)[0] - lost(PPO, gain=strange)[0]) > 1


def test_the_loss_of_pqn_is_the_squared_error_of_the_actions_taken():
    def of(q: jax.Array) -> Any:
        return PQN.loss_of(decision(q), rows(numbers(RETURNED)[0]))

    (loss, told), slope = jax.value_and_grad(of, has_aux=True)(numbers(Q)[0])
    chosen = np.take_along_axis(Q, ACTION[:, None], 1)[:, 0]
    np.testing.assert_allclose(loss, mean((chosen - RETURNED) ** 2 / 2), rtol=1e-5)
    np.testing.assert_allclose(told["q_mean"], mean(chosen), rtol=1e-5)
    expected = np.zeros((ROWS, ACTIONS))
    expected[np.arange(ROWS), ACTION] = WEIGHT * (chosen - RETURNED) / WEIGHT.sum()
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-7)


def test_acting_knows_the_value_and_of_a_policy_how_likely_the_action_was():
    policy = decision(np.broadcast_to(VALUE[:, None], (ROWS, ACTIONS)), LOGITS, jnp.asarray(ALLOWED))
    chances = np.exp(LOGITS) * ALLOWED
    chances /= chances.sum(-1, keepdims=True)
    found = jax.vmap(PPO.known)(policy, jnp.asarray(ACTION))
    np.testing.assert_allclose(found.value, VALUE, rtol=1e-5)
    np.testing.assert_allclose(np.exp(found.log_probability), chances[np.arange(ROWS), ACTION], rtol=1e-5)
    best = np.where(ALLOWED, Q, -np.inf).max(-1)
    known = jax.vmap(PQN.known)(decision(Q, allowed=jnp.asarray(ALLOWED)), jnp.asarray(ACTION))
    np.testing.assert_allclose(known.value, best, rtol=1e-6, err_msg="of the best action, not of the one taken")


def test_both_are_taught_the_lambda_return_and_a_policy_what_it_is_above_the_value():
    """Two steps, lambda and gamma 1/2: the second return is 4 + 6 / 2, the first 2 + (3 / 2 + 7 / 2) / 2."""
    steps = Steps(
        *(jnp.array([[first], [second]], jnp.float32) for first, second in ((2, 4), (0.5, 0.5), (3, 6))),
        jnp.array([[False], [True]]), KnownChoice(jnp.array([[1.0], [3.0]]), jnp.zeros((2, 1))),
    )  # fmt: skip
    np.testing.assert_array_equal(replace(PQN, trace=0.5).targets(steps), [[4.5], [7]])
    taught = replace(PPO, trace=0.5).targets(steps)
    np.testing.assert_array_equal(taught.returned, [[4.5], [7]])
    np.testing.assert_array_equal(taught.advantage, [[3.5], [4]])
