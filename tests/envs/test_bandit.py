"""Bandits with pictures that come back pay, show and end as they say."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram.envs.device import check_device_env, make_device, uniforms
from engram.envs.tasks.bandit import ContextBandit, _ranks
from engram.errors import SpecError

ID = "engram/ContextBandit-v0"
EPISODES = 300


def keys_of(seed, *shape):
    return jax.random.bits(jax.random.key(seed), (*shape, 2), "uint32")


@partial(jax.jit, static_argnums=(0, 1))
def play(env, policy, keys):
    """Episodes: first observation, and [envs, steps] of states before each action, actions, what they led to.

    A policy is a function of what it noted, the state and chances [2]; what it notes begins as zeros [contexts].
    """

    def episode(key):
        state, first = env.reset(key)

        def advance(carry, words):
            state, noted = carry
            action, noted = policy(env, state, noted, uniforms(words ^ 1, 2))
            following, step = env.step(state, action, words)
            return (following, noted), (state, action, step)

        words = jax.random.key_data(jax.random.split(jax.random.wrap_key_data(key, impl="threefry2x32"), env.max_steps))
        return first, jax.lax.scan(advance, (state, jnp.zeros(env.contexts, jnp.int32)), words)[1]

    return jax.vmap(episode)(keys)


def searches(env, state, noted, chances):
    """The arms one after another until one pays, then that one: what a perfect memory does."""
    context = env.context(state)
    action = jnp.where(state.told[context] >= 0, state.arms[context], noted[context])
    return action, noted.at[context].add(1)


def at_random(env, state, noted, chances):
    return jnp.floor(chances[0] * env.arms).astype(jnp.int32), noted


def regrets(env, step):
    """Missed rewards [envs, exposures], the mean over contexts."""
    return (1 - np.asarray(step.reward)).reshape(-1, env.exposures, env.contexts, env.pulls).sum(-1).mean(-1)


def test_an_episode_by_hand():
    """Two contexts with arms 1 and 0, shown as 0, 1 | 1, 0, two pulls each."""
    env = ContextBandit(contexts=2, arms=2, exposures=2, pulls=2, width=3)
    state, _ = env.reset(jnp.array([0, 1], jnp.uint32))
    pictures = jnp.array([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])
    state = state._replace(pictures=pictures, arms=jnp.array([1, 0]), order=jnp.array([[0, 1], [1, 0]]))
    seen, rewards, told, exposures, relevant, ends = [], [], [], [], [], []
    for action in (0, 1, 1, 1, 0, 0, 1, 0):
        exposures.append(int(env.exposure(state)))
        relevant.append(int(env.relevant_step(state)))
        state, step = env.step(state, jnp.int32(action), jnp.array([0, 5], jnp.uint32))
        seen.append(int(step.observation[0]))
        rewards.append(float(step.reward))
        told.append(state.told.tolist())
        ends.append((bool(step.terminated), bool(step.truncated)))
    assert seen == [1, -1, -1, -1, -1, 1, 1, 1]
    assert rewards == [0, 1, 0, 0, 1, 1, 1, 0]
    assert told == [[-1, -1], [1, -1], [1, -1], [1, -1], [1, 4], [1, 4], [1, 4], [1, 4]]
    assert exposures == [0, 0, 0, 0, 1, 1, 1, 1]
    assert relevant == [-1, -1, -1, -1, -1, 4, 1, 1]
    assert ends == [(False, False)] * 7 + [(True, False)]


def test_a_perfect_memory_regrets_only_the_first_exposure():
    """(0 + 1 + 2 + 3) / 4 misses at the first exposure, within 5 standard errors, and none later."""
    env = make_device(ID)
    _, (_, _, step) = play(env, searches, keys_of(0, EPISODES))
    found = regrets(env, step)
    assert abs(found[:, 0].mean() - 1.5) < 5 * np.sqrt(1.25 / (EPISODES * env.contexts))
    np.testing.assert_array_equal(found[:, 1:], 0)


def test_random_actions_regret_alike_at_every_exposure():
    env = make_device(ID)
    _, (_, _, step) = play(env, at_random, keys_of(1, EPISODES))
    error = np.sqrt(env.pulls * 3 / 16 / (EPISODES * env.contexts))
    np.testing.assert_allclose(regrets(env, step).mean(0), 3.0, atol=5 * error)


def test_every_context_is_shown_once_in_each_round_with_the_same_picture():
    env = make_device(ID, contexts=3, exposures=4, pulls=2, width=16)
    first, (state, _, step) = play(env, at_random, keys_of(2, 50))
    seen = np.concatenate([np.asarray(first)[:, None], np.asarray(step.observation)[:, :-1]], 1)
    context = np.asarray(jax.vmap(jax.vmap(env.context))(state))
    rounds = context.reshape(50, 4, 3, 2)
    assert (rounds[..., 0] == rounds[..., 1]).all()  # all pulls of an exposure
    assert (np.sort(rounds[..., 0], -1) == np.arange(3)).all()
    pictures = np.asarray(state.pictures)[:, 0]
    np.testing.assert_array_equal(seen, np.take_along_axis(pictures, context[..., None], 1))
    exposure = np.asarray(jax.vmap(jax.vmap(env.exposure))(state))
    np.testing.assert_array_equal(exposure, np.broadcast_to(np.repeat(np.arange(4), 6), exposure.shape))


def test_pictures_arms_and_orders_are_even_and_drawn_anew():
    """Within 5 standard errors; no two of 1,200 pictures of 32 numbers are the same."""
    env, count = make_device(ID), 2000
    state, _ = jax.jit(jax.vmap(env.reset))(keys_of(3, count))
    assert set(np.unique(state.pictures)) == {-1.0, 1.0}
    assert np.abs(np.asarray(state.pictures).mean(0)).max() < 5 / np.sqrt(count)
    share = np.bincount(np.asarray(state.arms).ravel(), minlength=4) / (4 * count)
    assert np.abs(share - 0.25).max() < 5 * np.sqrt(3 / 16 / (4 * count))
    orders = np.asarray(state.order)[:, 0]
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert np.abs(counts / count - 1 / 24).max() < 5 * np.sqrt(1 / 24 / count)
    assert len(np.unique(np.asarray(state.pictures)[:300].reshape(-1, 32), axis=0)) == 1200
    arms, later = np.asarray(state.arms), np.asarray(state.order)[:, 1]
    assert abs(np.corrcoef(arms[:, 0], arms[:, 1])[0, 1]) < 5 / np.sqrt(count)
    assert abs(np.corrcoef(orders[:, 0], later[:, 0])[0, 1]) < 5 / np.sqrt(count)


def test_ranks_are_an_order_even_where_chances_are_equal():
    chances = jnp.array([[0.5, 0.1, 0.9], [0.2, 0.2, 0.1]])
    assert _ranks(chances).tolist() == [[1, 0, 2], [1, 2, 0]]


def test_noise_turns_its_share_of_the_rewards():
    env = make_device(ID, noise=0.25)
    _, (state, actions, step) = play(env, at_random, keys_of(4, EPISODES))
    right = np.asarray(actions) == np.asarray(jax.vmap(jax.vmap(env.best))(state))
    turned = (np.asarray(step.reward) > 0) != right
    assert abs(turned.mean() - 0.25) < 5 * np.sqrt(3 / 16 / turned.size)


@pytest.mark.parametrize("arguments", [{}, {"contexts": 1, "exposures": 2, "pulls": 1, "noise": 0.5}])
def test_bandits_keep_the_contract(arguments):
    check_device_env(make_device(ID, **arguments), steps=60)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"arms": 1}, "arms = 1 is too small for ContextBandit; give 2 or more"),
        ({"exposures": 1}, "give 2 or more"),
        ({"noise": 0.6}, "give a number in 0..0.5"),
    ],
)
def test_a_wrong_request_says_what_to_type_instead(arguments, message):
    with pytest.raises(SpecError, match=message):
        make_device(ID, **arguments)
