"""The sparse maze is walked as drawn, is worth what value iteration says, and every cell reaches the goal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram.envs.device import check_device_env, make_device
from engram.envs.tasks.maze import MOVES, SparseGrid, SparseGridState
from engram.errors import SpecError

ID = "engram/SparseGrid-v0"
NO_KEY = jnp.zeros(2, jnp.uint32)
LAYOUTS = range(8)


def drawing(env):
    """The maze as text, read off the board that an agent sees."""
    board = np.asarray(SparseGrid(env.size, env.layout, view="board").observe(jnp.int32(0)))
    signs = np.where(board[..., 0], "#", np.where(board[..., 1], "s", np.where(board[..., 2], "g", ".")))
    return ["".join(row) for row in signs]


def walked(rows, at, action):
    """A move on the drawing, in plain Python."""
    row, column = at[0] + MOVES[action][0], at[1] + MOVES[action][1]
    inside = 0 <= row < len(rows) and 0 <= column < len(rows)
    return (row, column) if inside and rows[row][column] != "#" else at


def seen_at(env, at):
    place = np.zeros((env.size, env.size), np.float32)
    place[at] = 1
    return place.ravel()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_are_moves_on_the_drawing(layout):
    env = make_device(ID, size=7, layout=layout, max_steps=300)
    rows, step_of = drawing(env), jax.jit(env.step)
    generator = np.random.default_rng(layout)
    state, observation = env.reset(NO_KEY)
    at, steps = (0, 0), 0
    np.testing.assert_array_equal(observation, seen_at(env, at))
    for action in generator.integers(0, 4, 400):
        state, step = step_of(state, jnp.int32(action), NO_KEY)
        at, steps = walked(rows, at, action), steps + 1
        there = rows[at[0]][at[1]] == "g"
        np.testing.assert_array_equal(step.observation, seen_at(env, at))
        assert (float(step.reward), bool(step.terminated), bool(step.truncated)) == (there, there, steps == 300)
        if there or steps == 300:
            state, observation = env.reset(NO_KEY)
            at, steps = (0, 0), 0
            np.testing.assert_array_equal(observation, seen_at(env, at))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [3, 9, 15])
def test_every_free_cell_reaches_the_goal_which_is_the_furthest(size, layout):
    env = make_device(ID, size=size, layout=layout)
    rows = drawing(env)
    assert [len(row) for row in rows] == [size] * size
    assert sum(row.count("g") for row in rows) == 1
    goal = next((r, row.index("g")) for r, row in enumerate(rows) if "g" in row)

    def far_from(cell):
        far, edge = {cell: 0}, [cell]
        for at in edge:
            for action in range(4):
                if (there := walked(rows, at, action)) not in far:
                    far[there] = far[at] + 1
                    edge.append(there)
        return far

    far = far_from((0, 0))
    assert len(far) == sum(row.count(".") + row.count("s") + row.count("g") for row in rows)
    assert far[goal] == max(far.values()) == env.distance
    assert [env.plan.far[r * size + c] for r, c in far] == [far_from(goal)[at] for at in far]


def test_mazes_differ_from_layout_to_layout_and_not_from_run_to_run():
    drawn = [drawing(make_device(ID, layout=layout)) for layout in LAYOUTS]
    assert len({"".join(rows) for rows in drawn}) == len(LAYOUTS)
    assert drawn[3] == drawing(make_device(ID, layout=3))


def test_some_mazes_have_more_than_one_way():
    """A maze without loops has one wall less opened than fields joined: free cells = moves between them + 1."""

    def loops(env):
        free, following = np.array(env.plan.free), np.array(env.plan.following)
        joined = (following != np.arange(len(free))[:, None])[free].sum() // 2
        return joined - (free.sum() - 1)

    assert sum(loops(make_device(ID, layout=layout)) > 0 for layout in LAYOUTS) >= len(LAYOUTS) - 2


@pytest.mark.parametrize("layout", [0, 5])
@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_the_optimal_value_is_the_discount_to_the_steps_that_are_left(layout, discount):
    env = make_device(ID, size=7, layout=layout)
    q, far = env.optimal(discount), np.array(env.plan.far)
    for cell in env.starts:
        for action, there in enumerate(env.plan.following[cell]):
            assert q[cell, action] == pytest.approx(discount ** far[there], rel=1e-12)
    others = np.setdiff1d(np.arange(49), env.starts)
    assert not q[others].any()


def test_following_the_optimal_values_takes_the_fewest_steps():
    env = make_device(ID, layout=2)
    q, step_of = env.optimal(0.9), jax.jit(env.step)
    state, _ = env.reset(NO_KEY)
    for _ in range(env.distance):
        state, step = step_of(state, jnp.int32(q[int(state.place)].argmax()), NO_KEY)
    assert step.terminated
    assert int(state.steps) == env.distance


def test_random_starts_are_even_over_the_cells_one_can_act_in():
    """Each within 5 standard errors."""
    env, count = make_device(ID, size=5, start="random"), 4000
    keys = jax.random.bits(jax.random.key(0), (count, 2), "uint32")
    state, _ = jax.jit(jax.vmap(env.reset))(keys)
    shares = np.bincount(np.asarray(state.place), minlength=25) / count
    expected = np.isin(np.arange(25), env.starts) / len(env.starts)
    assert np.abs(shares - expected).max() < 5 * np.sqrt(1 / len(env.starts) / count)


def test_the_board_shows_walls_agent_and_goal():
    env = make_device(ID, size=5, view="board")
    place = env.starts[3]
    board = np.asarray(env.observe(jnp.int32(place))).reshape(25, 3)
    assert board.dtype == bool
    np.testing.assert_array_equal(board[:, 0], ~np.array(env.plan.free))
    assert np.flatnonzero(board[:, 1]).tolist() == [place]
    assert np.flatnonzero(board[:, 2]).tolist() == [env.plan.goal]
    state, step = env.step(SparseGridState(jnp.int32(place), jnp.int32(0)), jnp.int32(0), NO_KEY)
    np.testing.assert_array_equal(step.observation, env.observe(state.place))


@pytest.mark.parametrize("arguments", [{}, {"view": "board", "size": 5, "start": "random", "max_steps": 7}])
def test_mazes_keep_the_contract(arguments):
    check_device_env(make_device(ID, **arguments), steps=60)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"size": 8}, "size = 8 is even for SparseGrid; give 9"),
        ({"size": 1}, "give 3 or more"),
        ({"layout": -1}, "give 0 or more"),
        ({"view": "pixels"}, "view = 'pixels' does not suit"),
    ],
)
def test_a_wrong_request_says_what_to_type_instead(arguments, message):
    with pytest.raises(SpecError, match=message):
        make_device(ID, **arguments)


@pytest.mark.parametrize("discount", [-0.1, 1.1, float("nan")])
def test_a_discount_outside_its_range_is_refused(discount):
    with pytest.raises(SpecError, match=r"0\.\.1"):
        make_device(ID).optimal(discount)
