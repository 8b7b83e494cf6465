"""Memory tasks on the device: T-mazes, memory chains and cards do what their papers and packages say."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram.envs.device import check_device_env, make_device, uniforms
from engram.envs.tasks.cards import draw, without
from engram.envs.tasks.cartpole import CartPole
from engram.errors import SpecError

NO_KEY = jnp.zeros(2, jnp.uint32)
CARD_TASKS = ["RepeatFirst", "RepeatPrevious", "Autoencode", "CountRecall", "Concentration", "Battleship"]
BSUITE = Path(__file__).parent / "data" / "bsuite_memory_chain.json"
EPISODES = 200  # the same in many tests, which then share their compiled programs
MAZES = [
    ("engram/PassiveTMaze-v0", {"length": 1}),
    ("engram/PassiveTMaze-v0", {"length": 7}),
    ("engram/PassiveTMaze-v0", {"length": 9, "cue_at": "random"}),
    ("engram/ActiveTMaze-v0", {"length": 6}),
]


def keys_of(seed, *shape):
    return jax.random.bits(jax.random.key(seed), (*shape, 2), "uint32")


@partial(jax.jit, static_argnums=(0, 1, 3))
def play(env, policy, keys, steps):
    """Episodes [envs] of `steps` actions: first observation, states before each action, actions, what they led to.

    A policy is a function of the state, of chances [2] in 0..1 and of the environment.
    """

    def episode(key):
        keys = jax.random.key_data(jax.random.split(jax.random.wrap_key_data(key, impl="threefry2x32"), steps + 1))
        state, first = env.reset(keys[0])

        def advance(state, key):
            action = jnp.int32(policy(env, state, uniforms(key ^ 1, 2)))
            following, step = env.step(state, action, key)
            return following, (state, action, step)

        return first, jax.lax.scan(advance, state, keys[1:])[1]

    return jax.vmap(episode)(keys)


def lengths_of(step):
    """Steps of each episode, up to its first end."""
    over = np.asarray(step.terminated | step.truncated)
    assert over.any(1).all()
    return over.argmax(1) + 1


def returns_of(step):
    lived = np.arange(step.reward.shape[1])[None, :] < lengths_of(step)[:, None]
    return (np.asarray(step.reward, np.float64) * lived).sum(1)


def at_random(env, state, chances):
    return jnp.floor(chances[0] * env.actions)


# T-maze


def walk(env, goal, cue, actions):
    """The maze as a walk on a drawing, in plain Python: observations, rewards, ends."""
    length, oracle = env.length, env.oracle
    fields = {(x, 0) for x in range(oracle + length + 1)} | {(oracle + length, y) for y in (1, -1)}
    at, shown = (oracle, 0), set()
    steps_in_all = length + 1 + 2 * oracle

    def look(steps):
        if at[0] == oracle + length:
            return 1, at[1]
        told = steps == cue if oracle == 0 else at == (0, 0) and not shown
        if at == (0, 0):
            shown.add(True)
        return 0, goal if told else 0

    observations, rewards = [look(0)], []
    for steps, action in enumerate(actions, 1):
        dx, dy = [(1, 0), (0, 1), (-1, 0), (0, -1)][action]
        at = (at[0] + dx, at[1] + dy) if (at[0] + dx, at[1] + dy) in fields else at
        observations.append(look(steps))
        if steps == steps_in_all:
            rewards.append(1.0 if at == (oracle + length, goal) else 0.0)
        else:
            rewards.append(-1 / length if at[0] < steps - oracle else 0.0)
    return observations, rewards


def forward(env, state, chances):
    """Mostly to the right, so that junction and arms are met."""
    turned = jnp.floor(chances[1] * 4)
    return jnp.where(chances[0] < 0.75, 0, turned)


@pytest.mark.parametrize("id, arguments", MAZES)
def test_a_maze_is_a_walk_on_its_drawing(id, arguments):
    env = make_device(id, **arguments)
    first, (state, actions, step) = play(env, forward, keys_of(0, EPISODES), env.max_steps)
    assert (lengths_of(step) == env.max_steps).all()
    assert not np.asarray(step.truncated).any()
    seen = np.concatenate([np.asarray(first)[:, None], step.observation], 1)
    for row in range(40):  # plain Python takes its time
        goal, cue = int(state.goal[row, 0]), int(state.cue[row, 0])
        observations, rewards = walk(env, goal, cue, np.asarray(actions[row]).tolist())
        np.testing.assert_array_equal(seen[row], observations)
        np.testing.assert_allclose(step.reward[row], rewards, rtol=1e-6)


def knows_the_goal(env, state, chances):
    """Back to the oracle first, then right, then the arm: what an agent does that remembers."""
    fork = state.place == env.oracle + env.length
    arm = jnp.where(state.goal == 1, 1, 3)
    return jnp.where((env.oracle == 1) & (state.cue < 0), 2, jnp.where(fork, arm, 0))


def never_looks_back(env, state, chances):
    return jnp.where(state.place == env.oracle + env.length, 1, 0)


@pytest.mark.parametrize("id, arguments", [*MAZES, ("engram/PassiveTMaze-v0", {"length": 500})])
def test_the_best_walk_returns_one_and_guessing_the_arm_half(id, arguments):
    env = make_device(id, **arguments)
    _, (_, _, step) = play(env, knows_the_goal, keys_of(1, EPISODES), env.max_steps)
    np.testing.assert_array_equal(returns_of(step), 1.0)
    _, (_, _, step) = play(env, never_looks_back, keys_of(2, EPISODES), env.max_steps)
    returns = returns_of(step)
    assert abs(np.mean(returns > 0.5) - 0.5) < 5 * 0.5 / np.sqrt(EPISODES)
    assert set(np.unique(returns)) == {0.0, 1.0}


def test_standing_still_costs_one():
    """-1/length for each of `length` steps behind; the last step costs nothing."""
    env = make_device("engram/PassiveTMaze-v0", length=8)
    _, (_, _, step) = play(env, lambda env, state, chances: 1, keys_of(3, 2), env.max_steps)
    np.testing.assert_allclose(returns_of(step), -1.0, rtol=1e-6)


@partial(jax.jit, static_argnums=0)
def replay(env, states, actions):
    """Observations [envs, steps + 1] of the same actions from other first states; for what reads no key."""

    def episode(state, actions):
        def advance(state, action):
            state, step = env.step(state, action, NO_KEY)
            return state, step.observation

        _, later = jax.lax.scan(advance, state, actions)
        return jnp.concatenate([env._observe(state)[None], later])

    return jax.vmap(episode)(states, actions)


@pytest.mark.parametrize("id, arguments", MAZES)
def test_the_goal_shows_in_one_observation_and_nowhere_else(id, arguments):
    """Two episodes that differ in the goal alone look the same but for the step that is called the cue."""
    env = make_device(id, **arguments)
    for policy in (knows_the_goal, never_looks_back, forward):
        first, (state, actions, step) = play(env, policy, keys_of(4, EPISODES), env.max_steps)
        seen = np.concatenate([np.asarray(first)[:, None], step.observation], 1)
        begun = jax.tree.map(lambda leaf: leaf[:, 0], state)
        other = np.asarray(replay(env, begun._replace(goal=-begun.goal), actions))
        differs = (seen != other).any(-1)
        before = jax.tree.map(lambda leaf: leaf[:, -1], state)
        last, _ = jax.vmap(env.step, (0, 0, None))(before, actions[:, -1], NO_KEY)
        np.testing.assert_array_equal(differs, np.asarray(last.cue)[:, None] == np.arange(env.max_steps + 1))
        shown = np.stack([np.zeros(EPISODES), begun.goal], -1)
        np.testing.assert_array_equal(seen[differs], shown[differs.any(1)])


def test_a_random_cue_falls_evenly_on_the_first_half_of_the_corridor():
    """Length 9: steps 0..4, a fifth of the episodes each, and both goals at each step (5 standard errors)."""
    env, count = make_device("engram/PassiveTMaze-v0", length=9, cue_at="random"), 5000
    state, _ = jax.jit(jax.vmap(env.reset))(keys_of(5, count))
    for cue in range(5):
        share = np.mean(np.asarray(state.cue) == cue)
        assert abs(share - 0.2) < 5 * np.sqrt(0.16 / count)
    assert set(np.unique(state.cue)) == {0, 1, 2, 3, 4}
    correlation = np.corrcoef(state.cue, state.goal)[0, 1]
    assert abs(correlation) < 5 / np.sqrt(count)
    assert abs(np.mean(state.goal)) < 5 / np.sqrt(count)


@pytest.mark.parametrize("id, arguments", MAZES)
def test_the_relevant_step_of_the_fork_is_the_cues(id, arguments):
    env = make_device(id, **arguments)
    first, (state, _, step) = play(env, knows_the_goal, keys_of(6, EPISODES), env.max_steps)
    named = np.asarray(jax.vmap(jax.vmap(env.relevant_step))(state))
    seen = np.concatenate([np.asarray(first)[:, None], step.observation], 1)
    told = (seen[..., 0] == 0) & (seen[..., 1] != 0)  # as anyone can read it off the observations
    assert (told.sum(1) == 1).all()
    np.testing.assert_array_equal(named[:, -1], told.argmax(1))
    assert (named[:, :-1] == -1).all()


def test_no_cue_was_seen_so_no_step_is_relevant():
    env = make_device("engram/ActiveTMaze-v0", length=6)
    _, (state, _, _) = play(env, never_looks_back, keys_of(7, EPISODES), env.max_steps)
    assert (np.asarray(jax.vmap(jax.vmap(env.relevant_step))(state)) == -1).all()


# Memory chains


def remembers(env, state, chances):
    return state.context[state.query]


@pytest.mark.parametrize("case", json.loads(BSUITE.read_text()), ids=lambda case: f"{case['length']}-{case['size']}")
def test_a_memory_chain_is_bsuites(case):
    """Recorded from bsuite 0.3.6 by data/bsuite_memory_chain.py: its bits and its actions, our steps."""
    length, size = case["length"], case["size"]
    env = (
        make_device("engram/MemoryLength-v0", length=length)
        if size == 1
        else make_device("engram/MemorySize-v0", size=size)
    )
    assert (env.length, env.size) == (length, size)
    step_of = jax.jit(env.step)
    for episode in case["episodes"]:
        state, _ = env.reset(NO_KEY)
        state = state._replace(context=jnp.array(episode["context"]), query=jnp.int32(episode["query"]))
        np.testing.assert_allclose(env._observe(state), episode["observations"][0], atol=1e-6)
        rewards, ends, seen = [], [], []
        for action in episode["actions"]:
            state, step = step_of(state, jnp.int32(action), NO_KEY)
            seen.append(step.observation)
            rewards.append(float(step.reward))
            ends.append((bool(step.terminated), bool(step.truncated)))
        np.testing.assert_allclose(np.stack(seen), episode["observations"][1:], atol=1e-6)
        assert rewards == episode["rewards"]
        assert ends == [(False, False)] * length + [(True, False)]


@pytest.mark.parametrize("id, arguments", [("MemoryLength", {"length": 5}), ("MemorySize", {"size": 40})])
def test_a_chains_bits_and_queries_are_even_and_remembering_them_returns_one(id, arguments):
    """Each mean within 5 standard errors; random actions return 0 in the mean."""
    env, count = make_device(f"engram/{id}-v0", **arguments), 4000
    steps = env.length + 1
    _, (state, _, step) = play(env, remembers, keys_of(8, count), steps)
    np.testing.assert_array_equal(returns_of(step), 1.0)
    context, query = np.asarray(state.context[:, 0]), np.asarray(state.query[:, 0])
    assert np.abs(context.mean(0) - 0.5).max() < 5 * 0.5 / np.sqrt(count)
    assert np.abs(np.bincount(query, minlength=env.size) / count - 1 / env.size).max() < 5 * np.sqrt(
        1 / env.size / count
    )
    correlation = np.corrcoef(context.T) - np.eye(env.size) if env.size > 1 else np.zeros(1)
    assert np.abs(correlation).max() < 5 / np.sqrt(count)
    _, (_, _, step) = play(env, at_random, keys_of(9, count), steps)
    assert abs(returns_of(step).mean()) < 5 / np.sqrt(count)
    named = np.asarray(jax.vmap(jax.vmap(env.relevant_step))(state))
    assert (named[:, -1] == 0).all()
    assert (named[:, :-1] == -1).all()


# Cards


def test_a_card_is_drawn_as_from_a_shuffled_deck():
    """All 2²⁴ chances are equal, so the kinds' shares are read off a fine grid; used up kinds never come."""
    left = jnp.array([0, 3, 0, 1, 4, 0])
    chances = (jnp.arange(8000) + 0.5) / 8000
    kinds = np.asarray(jax.vmap(partial(draw, left))(chances))
    np.testing.assert_array_equal(np.bincount(kinds, minlength=6), np.asarray(left) * 1000)


@pytest.mark.parametrize("total", [1, 2, 3, 51, 208, 831, 832])
def test_the_greatest_chance_still_draws_a_card_that_is_there(total):
    left = jnp.array([total, 0])
    assert int(draw(left, jnp.float32(1 - 2**-24))) == 0
    assert int(draw(left, jnp.float32(0))) == 0


def test_a_drawn_card_is_gone():
    np.testing.assert_array_equal(without(jnp.array([2, 1]), jnp.int32(1)), [2, 0])


def answers(env, state, chances):
    """The right answer, read from the state."""
    kind = type(env).__name__
    if kind == "RepeatFirst":
        return state.first
    if kind == "RepeatPrevious":
        return state.recent[-1]
    if kind == "Autoencode":
        return state.suits[env.relevant_step(state)]
    return state.counts[state.query]


@pytest.mark.parametrize("level", ["easy", "hard"])
@pytest.mark.parametrize("task", ["RepeatFirst", "RepeatPrevious", "Autoencode", "CountRecall"])
def test_right_answers_return_one_and_random_ones_what_guessing_is_worth(task, level):
    """2/choices - 1 in the mean, within 5 standard errors of at most 1/sqrt(decisions)."""
    env = make_device(f"engram/{task}-v0", level=level)
    steps = 2 * env.cards - 1 if task == "Autoencode" else env.cards - 1
    _, (_, _, step) = play(env, answers, keys_of(10, 16), steps)
    np.testing.assert_allclose(returns_of(step), 1.0, atol=1e-4)  # the rounding of up to 831 float32 rewards
    assert (lengths_of(step) == steps).all()
    assert not np.asarray(step.truncated).any()
    _, (_, _, step) = play(env, at_random, keys_of(11, 16), steps)
    decisions = np.count_nonzero(np.asarray(step.reward[0]))
    assert abs(returns_of(step).mean() - (2 / env.actions - 1)) < 5 / np.sqrt(16 * decisions)


@pytest.mark.parametrize("level", ["easy", "hard"])
@pytest.mark.parametrize("task", ["RepeatFirst", "RepeatPrevious", "Autoencode"])
def test_the_suit_of_the_relevant_step_is_the_answer(task, level):
    """Followed to the letter it earns every reward; where it is -1 nothing can be earned."""
    env = make_device(f"engram/{task}-v0", level=level)
    steps = 2 * env.cards - 1 if task == "Autoencode" else env.cards - 1
    first, (state, actions, step) = play(env, answers, keys_of(12, 16), steps)
    named = np.asarray(jax.vmap(jax.vmap(env.relevant_step))(state))
    seen, begun = (step.observation[1], first[1]) if task == "Autoencode" else (step.observation, first)
    suits = np.concatenate([np.asarray(begun)[:, None], seen], 1)
    earned = np.asarray(step.reward) > 0
    np.testing.assert_array_equal(named >= 0, earned)
    assert (named <= np.arange(steps)).all()
    rows = np.arange(16)[:, None]
    np.testing.assert_array_equal(suits[rows, named][earned], np.asarray(actions)[earned])


def test_dealt_suits_are_a_shuffled_deck():
    """13 of each suit; any two of the 52 are of one suit with probability 12/51 (5 standard errors)."""
    env, count = make_device("engram/RepeatFirst-v0"), 4000
    first, (_, _, step) = play(env, at_random, keys_of(13, count), 51)
    suits = np.concatenate([np.asarray(first)[:, None], step.observation], 1)
    assert ((suits[..., None] == np.arange(4)).sum(1) == 13).all()
    for one, other in [(0, 1), (0, 51), (25, 26), (50, 51), (10, 40)]:
        share = np.mean(suits[:, one] == suits[:, other])
        assert abs(share - 12 / 51) < 5 * np.sqrt(12 / 51 * 39 / 51 / count)
    shares = (suits[..., None] == np.arange(4)).mean(0)
    assert np.abs(shares - 0.25).max() < 5 * np.sqrt(3 / 16 / count)


def test_an_unknown_level_names_the_nearest():
    for task in CARD_TASKS:
        with pytest.raises(SpecError, match="no level is called 'esay'; did you mean 'easy'"):
            make_device(f"engram/{task}-v0", level="esay")


# All


def test_a_cartpole_without_velocities_is_cartpole_seen_through_two_numbers():
    env, whole = make_device("engram/NoVelocityCartPole-v0", max_steps=30), CartPole(30)
    keys = keys_of(14, 16)
    first, (state, actions, step) = play(env, at_random, keys, 30)
    also, (same, moves, outcome) = play(whole, at_random, keys, 30)
    jax.tree.map(np.testing.assert_array_equal, (state, actions), (same, moves))
    np.testing.assert_array_equal(first, also[:, ::2])
    np.testing.assert_array_equal(step.observation, outcome.observation[..., ::2])
    for name in ("reward", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(step, name), getattr(outcome, name))


@pytest.mark.parametrize(
    "id, arguments",
    [
        *MAZES,
        ("engram/MemoryLength-v0", {"length": 1}),
        ("engram/MemorySize-v0", {"size": 3}),
        ("engram/NoVelocityCartPole-v0", {}),
        *((f"engram/{task}-v0", {"level": level}) for task in CARD_TASKS for level in ("easy", "hard")),
    ],
)
def test_every_task_keeps_the_contract(id, arguments):
    check_device_env(make_device(id, **arguments), steps=60)


@pytest.mark.parametrize(
    "id, arguments, message",
    [
        ("engram/PassiveTMaze-v0", {"length": 0}, "length = 0 is too small for TMaze; give 1 or more"),
        (
            "engram/PassiveTMaze-v0",
            {"cue_at": "end"},
            "cue_at = 'end' does not suit .* its arguments are length, cue_at",
        ),
        ("engram/ActiveTMaze-v0", {"cue_at": "start"}, "'cue_at' is not an argument .* its arguments are length"),
        ("engram/MemoryLength-v0", {"size": 2}, "'size' is not an argument .* its arguments are length"),
        ("engram/MemorySize-v0", {"size": 0}, "give 1 or more"),
        ("engram/Battleship-v0", {"level": 3}, "level = 3 does not suit"),
    ],
)
def test_a_wrong_request_says_what_to_type_instead(id, arguments, message):
    with pytest.raises(SpecError, match=message):
        make_device(id, **arguments)
