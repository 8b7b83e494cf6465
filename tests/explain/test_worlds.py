"""Edited worlds: exactly one thing is another, and leave-one-out names it first."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram.agents.network import build
from engram.agents.policy import Mind
from engram.agents.spec import AgentSpec, ReplaySpec
from engram.encoders.parts import entity_parts
from engram.envs.device import make_device
from engram.envs.limit import limited
from engram.explaining.worlds import Answer, Asked, asked, chooser, edits, parts_left_out, replayed, steps_left_out
from engram.working.history import HistorySpec


def episode(env: Any, actions: list[int], seed: int = 0) -> tuple[list[Any], Any, np.ndarray]:
    """States and stacked observations of an episode, and its keys."""
    keys = np.array([[seed, 10 + time] for time in range(len(actions))], np.uint32).reshape(-1, 2)
    state, observation = jax.jit(env.reset)(jnp.array([seed, 7], jnp.uint32))
    step, states, seen = jax.jit(env.step), [state], [observation]
    for action, key in zip(actions, keys, strict=True):
        state, after = step(state, jnp.int32(action), jnp.asarray(key))
        states.append(state)
        seen.append(after.observation)
    stack = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *seen)
    return states, stack, keys


def differs(one: Any, other: Any) -> list[int]:
    """The steps at which two stacks of observations differ."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    rows = [np.abs(a.astype(float) - b).reshape(len(a), -1).any(1) for a, b in pairs]
    return np.flatnonzero(np.any(rows, 0)).tolist()


CASES = [
    ("engram/PassiveTMaze-v0", {}, [0] * 10, 0, [0], 1),
    ("engram/PassiveTMaze-v0", {"cue_at": "random", "length": 10}, [0] * 10, 0, None, 1),
    ("engram/RepeatFirst-v0", {}, [0] * 9, 0, [0], 3),
    ("engram/RepeatPrevious-v0", {}, [0] * 9, 4, [4], 3),
    ("engram/Autoencode-v0", {}, [0] * 9, 3, [3], 3),
    ("engram/MemoryLength-v0", {}, [0] * 9, 0, [0, 1], 1),
    ("engram/ContextBandit-v0", {}, [0] * 6, 4, [4, 5, 6], 3),
]


@pytest.mark.parametrize(("id", "arguments", "actions", "at", "steps", "count"), CASES)
def test_an_edit_changes_what_is_seen_at_its_step_and_nothing_else(id, arguments, actions, at, steps, count):
    env = make_device(id, **arguments)
    states, seen, keys = episode(env, actions)
    found = edits(env, states[at])
    assert len(found) == count
    for edit in found:
        other = replayed(env, edit, np.array(actions[at:]), keys[at:])
        own = jax.tree.map(lambda leaf: leaf[at:], seen)
        expected = [edit.step] if steps is None else steps
        assert [at + step for step in differs(own, other)] == expected
        assert edit.step == expected[0]
        assert edit.name


def test_a_vehicle_that_is_removed_is_the_only_one_missing():
    env = make_device("engram/Intersection-v0", openings=4)
    states, _, _ = episode(env, [1])
    found = edits(env, states[1])
    assert found
    from engram.envs.tasks.intersection import observe

    rows = np.asarray(observe(states[1].traffic))
    for edit in found:
        left = [tuple(row) for row in edit.observation if row.any()]
        assert {tuple(row) for row in rows if row.any()} - set(left) == {tuple(rows[edit.part])}


def test_what_was_shown_before_cannot_be_edited_any_more_and_other_tasks_have_no_edits():
    maze = make_device("engram/PassiveTMaze-v0")
    states, _, _ = episode(maze, [0, 0])
    assert edits(maze, states[1]) == []
    cart = make_device("engram/CartPole-v1")
    assert edits(cart, cart.reset(jnp.zeros(2, jnp.uint32))[0]) == []


def test_a_time_limit_stays_around_an_edited_state():
    env = limited(make_device("engram/RepeatFirst-v0"), 20)
    states, seen, keys = episode(env, [0] * 3)
    edit = edits(env, states[0])[0]
    assert differs(seen, replayed(env, edit, np.zeros(3, int), keys)) == [0]


# -- agents whose cause is known -------------------------------------------------------------------------------------


def follows_the_cue(seen: Any) -> jax.Array:
    """Turns where the cue was, and does not look at anything else but by a little."""
    cue = jnp.where(seen[:, 0] == 0, seen[:, 1], 0).sum()
    return jnp.stack([0.01 * seen[-1, 0], cue, -0.5, -cue])


def names_the_first(seen: Any) -> jax.Array:
    return jax.nn.one_hot(seen[0], 4) + 0.05 * jax.nn.one_hot(seen[-1], 4)


def names_the_fourth_last(seen: Any) -> jax.Array:
    return jax.nn.one_hot(seen[-4], 4) + 0.05 * jax.nn.one_hot(seen[0], 4)


def brakes_for_the_nearest(seen: Any) -> jax.Array:
    """Keeps its speed unless something is in the second row; rows further down move it a little."""
    there = seen[-1][1:, 0]
    return jnp.stack([there[0] + 0.02 * there[1:].sum(), 0.5, 0.0])


def of_steps(id: str, choose: Any, actions: list[int], at: int, seeds: range, **arguments: Any) -> list[Answer]:
    env, found = make_device(id, **arguments), []
    for seed in seeds:
        states, seen, keys = episode(env, actions, seed)
        effects = steps_left_out(choose, seen)
        edit = edits(env, states[at])[0]
        other = replayed(env, edit, np.array(actions[at:]), keys[at:])
        whole = jax.tree.map(lambda leaf, new: np.concatenate([leaf[:at], new]), seen, other)
        found.append(asked(choose, seen, whole, edit, effects))
    return found


def test_of_twenty_edited_worlds_the_true_cause_is_named_first():
    found = [
        *of_steps("engram/PassiveTMaze-v0", follows_the_cue, [0] * 10, 0, range(4)),
        *of_steps("engram/PassiveTMaze-v0", follows_the_cue, [0] * 10, 0, range(4), cue_at="random"),
        *of_steps("engram/RepeatFirst-v0", names_the_first, [0] * 12, 0, range(6)),
        *of_steps("engram/RepeatPrevious-v0", names_the_fourth_last, [0] * 12, 9, range(6)),
    ]
    assert len(found) == 20
    assert Asked(found).changed == 1
    assert Asked(found).named >= 0.95


def test_an_agent_that_does_not_look_is_told_apart():
    found = of_steps("engram/RepeatFirst-v0", lambda seen: jax.nn.one_hot(seen[-1], 4), [0] * 12, 0, range(4))
    assert Asked(found).changed == 0
    assert not any(answer.named for answer in found)


def test_the_vehicle_that_an_agent_brakes_for_is_named_first():
    env = make_device("engram/Intersection-v0", openings=16)
    space = env.observation_space
    parts = entity_parts(space, 1, 15)
    states, seen, _ = episode(env, [1], 3)
    assert seen[-1][1].any()
    effects = parts_left_out(brakes_for_the_nearest, seen, parts, [np.zeros((15, 7), np.float32)])
    assert int(np.argmax(effects)) == 1
    removed = next(edit for edit in edits(env, states[1]) if edit.part == 1)
    alone = np.zeros_like(removed.observation)
    alone[0] = removed.observation[0]
    answer = asked(brakes_for_the_nearest, seen, np.concatenate([seen[:-1], alone[None]]), removed, effects)
    assert (answer.before, answer.after, answer.named) == (0, 1, True)


def test_a_trained_form_of_agent_is_asked_the_same_way():
    env = make_device("engram/RepeatFirst-v0")
    memory = HistorySpec(window=8, layers=1, heads=1, hidden_size=8, inner=8)
    spec = AgentSpec(working=memory, replay=ReplaySpec(window=8))
    mind = Mind(build(spec, env.observation_space, env.actions, jax.random.PRNGKey(0)))
    _states, seen, _keys = episode(env, [1, 2, 3, 0])
    choose = chooser(spec, mind, np.array([1, 2, 3, 0]), np.zeros(5, np.float32))
    assert choose(jnp.asarray(seen)).shape == (4,)
    effects = steps_left_out(choose, seen)
    assert effects.shape == (5,)
    assert (effects > 0).all()
