"""Each probe's closed-form values are what value iteration finds by playing it."""

from itertools import product

import jax.numpy as jnp
import numpy as np
import pytest

from engram.envs.device import check_device_env, make_device
from engram.errors import SpecError

PROBES = {
    "engram/OneState-v0": {},
    "engram/OneAction-v0": {},
    "engram/TwoActions-v0": {},
    "engram/ObservationValue-v0": {},
    "engram/OneDelay-v0": {},
    "engram/Chain-v0": {"length": 4},
    "engram/Truncation-v0": {"max_steps": 3},
    "engram/Termination-v0": {"length": 4},
    "engram/Nim-v0": {"pile": 6, "again": True},
}
NO_KEY = jnp.zeros(2, jnp.uint32)


def seen(observation):
    return tuple(np.asarray(observation).ravel().tolist())


def played(env, resets=6):
    """Every transition that can be met: {observation: {action: (reward, next, terminated, sign)}}.

    Fails if two states that look alike behave differently: then no function of the observation could be the value.
    """
    model = {}
    waiting = [env.reset(jnp.array([0, number], jnp.uint32)) for number in range(resets)]
    while waiting:
        state, observation = waiting.pop()
        for action in range(env.actions):
            following, step = env.step(state, jnp.int32(action), NO_KEY)
            sign = 1.0 if step.sign is None else float(step.sign)
            outcome = (float(step.reward), seen(step.observation), bool(step.terminated), sign)
            assert model.setdefault(seen(observation), {}).setdefault(action, outcome) == outcome
            if not (step.terminated or step.truncated):
                waiting.append((following, step.observation))
    return model


def iterated(model, discount):
    """Optimal Q of every observation, by value iteration; a time limit does not end the sum, an end does."""
    q = {observation: dict.fromkeys(actions, 0.0) for observation, actions in model.items()}
    for _ in range(2000):
        q = {
            observation: {
                action: reward + (0.0 if terminated else sign * discount * max(q[following].values()))
                for action, (reward, following, terminated, sign) in actions.items()
            }
            for observation, actions in model.items()
        }
    return q


ENDLESS = ("engram/Truncation-v0", 1.0)  # worth infinitely much


@pytest.mark.parametrize("id, discount", sorted({*product(PROBES, [0.0, 0.5, 0.9, 0.99, 1.0])} - {ENDLESS}))
def test_the_closed_form_is_what_value_iteration_finds(id, discount):
    env = make_device(id, **PROBES[id])
    found = iterated(played(env), discount)
    listed = env.values(discount)
    assert {seen(observation) for observation, _ in listed} == set(found)
    for observation, q in listed:
        assert q.shape == (env.actions,)
        np.testing.assert_allclose(q, [found[seen(observation)][action] for action in range(env.actions)], rtol=1e-6)


def test_values_by_hand():
    """Discount 0.5."""
    expected = {
        "engram/OneState-v0": [[1.0]],
        "engram/OneAction-v0": [[-1.0]],
        "engram/TwoActions-v0": [[-1.0, 1.0]],
        "engram/ObservationValue-v0": [[-1.0], [1.0]],
        "engram/OneDelay-v0": [[0.5], [1.0]],
        "engram/Chain-v0": [[0.125], [0.25], [0.5], [1.0]],
        "engram/Truncation-v0": [[2.0]],
        "engram/Termination-v0": [[1.875], [1.75], [1.5], [1.0]],
        # Piles 6 to 1. Of 1 and 2 the last is taken. 3: the other side takes all. 4: one more move, on a pile of 3.
        "engram/Nim-v0": [[0.125, 0.125], [0.125, 0.25], [-0.25, -0.5], [-0.5, -0.5], [0.5, 1.0], [1.0, 1.0]],
    }
    for id, arguments in PROBES.items():
        assert [q.tolist() for _, q in make_device(id, **arguments).values(0.5)] == expected[id]


@pytest.mark.parametrize("id", PROBES)
def test_probes_keep_the_contract(id):
    check_device_env(make_device(id, **PROBES[id]), steps=20)


def flags(env, steps):
    state, _ = env.reset(NO_KEY)
    happened = []
    for _ in range(steps):
        state, step = env.step(state, jnp.int32(0), NO_KEY)
        happened.append((bool(step.terminated), bool(step.truncated)))
    return happened


def test_one_ends_where_the_other_is_cut():
    assert flags(make_device("engram/Truncation-v0", max_steps=3), 3) == [(False, False)] * 2 + [(False, True)]
    assert flags(make_device("engram/Termination-v0", length=3), 3) == [(False, False)] * 2 + [(True, False)]


def test_both_observations_come_equally_often_for_counting_keys():
    """Within 5 standard errors of one half."""
    env = make_device("engram/ObservationValue-v0")
    shown = [float(env.reset(jnp.array([0, number], jnp.uint32))[1][0]) for number in range(400)]
    assert set(shown) == {-1.0, 1.0}
    assert abs(np.mean(shown)) < 5 / np.sqrt(400)


@pytest.mark.parametrize("id", PROBES)
@pytest.mark.parametrize("discount", [-0.1, 1.1, float("nan")])
def test_a_discount_outside_its_range_is_refused(id, discount):
    with pytest.raises(SpecError, match=r"0\.\.1"):
        make_device(id, **PROBES[id]).values(discount)


def test_a_constant_reward_for_ever_has_no_value_without_discount():
    with pytest.raises(SpecError, match="less than 1"):
        make_device("engram/Truncation-v0").values(1.0)


@pytest.mark.parametrize("id, argument", [("Chain", "length"), ("Termination", "length"), ("Truncation", "max_steps")])
def test_a_probe_takes_at_least_one_step(id, argument):
    with pytest.raises(SpecError, match="give 1 or more"):
        make_device(f"engram/{id}-v0", **{argument: 0})
