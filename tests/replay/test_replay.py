"""The ring and its sampling against a plain-Python model: lists of rows that only grow."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram import spaces
from engram.checkpoint import lanes
from engram.errors import CheckpointError
from engram.replay import ring, sampling
from engram.types import TimeStep

SPACE = spaces.Box((2,), "float32")
write = jax.jit(ring.write)
uniform_rows = jax.jit(sampling.uniform_rows, static_argnums=(2, 3))
stacked = jax.jit(sampling.stacked, static_argnums=3)


class Model:
    """Per lane, every row ever written, as (number, is_first)."""

    def __init__(self, capacity: int, envs: int):
        self.capacity, self.lanes, self.count = capacity, [[] for _ in range(envs)], 0

    def block(self, keep: np.ndarray, is_first: np.ndarray) -> TimeStep:
        """Rows for `ring.write`, numbered in the order they are made, appended here where kept."""
        numbers = np.zeros(keep.shape, np.float32)
        for time, lane in np.ndindex(keep.shape):
            self.count += 1
            numbers[time, lane] = self.count
            if keep[time, lane]:
                self.lanes[lane].append((float(self.count), bool(is_first[time, lane])))
        observation = np.stack([numbers, -numbers], -1)
        columns = (observation, is_first, numbers.astype(np.int32), numbers, np.zeros(keep.shape, bool))
        return TimeStep(*map(jnp.array, columns))

    def live(self, lane: int) -> range:
        return range(max(0, len(self.lanes[lane]) - self.capacity), len(self.lanes[lane]))


@st.composite
def histories(draw):
    capacity, envs = draw(st.sampled_from([8, 11])), draw(st.integers(1, 2))
    model, filled = Model(capacity, envs), ring.empty(SPACE, capacity, envs)
    for _ in range(draw(st.integers(1, 12))):
        shape = (2, envs)
        keep = np.array(draw(st.lists(st.booleans(), min_size=2 * envs, max_size=2 * envs))).reshape(shape)
        first = np.array(draw(st.lists(st.booleans(), min_size=2 * envs, max_size=2 * envs))).reshape(shape)
        for lane in range(envs):  # a lane's very first row opens an episode
            if not model.lanes[lane] and keep[:, lane].any():
                first[keep[:, lane].argmax(), lane] = True
        filled = write(filled, model.block(keep, first), jnp.array(keep))
    return model, filled


@settings(deadline=None, max_examples=40)
@given(histories())
def test_a_ring_holds_the_newest_rows_of_each_lane(history):
    model, filled = history
    np.testing.assert_array_equal(filled.cursor, [len(rows) for rows in model.lanes])
    for lane, rows in enumerate(model.lanes):
        for number in model.live(lane):
            place = number % model.capacity
            assert filled.rows.reward[place, lane] == rows[number][0]
            assert filled.rows.action[place, lane] == int(rows[number][0])
            assert bool(filled.rows.is_first[place, lane]) == rows[number][1]
            np.testing.assert_array_equal(filled.rows.observation[place, lane], [rows[number][0], -rows[number][0]])


@settings(deadline=None, max_examples=40)
@given(histories(), st.integers(1, 3), st.integers(1, 3))
def test_draws_are_exactly_the_rows_with_a_whole_window_and_a_whole_stack(history, n, stack):
    model, filled = history
    allowed = set()
    for lane, rows in enumerate(model.lanes):
        oldest = model.live(lane).start + (stack - 1 if len(rows) > model.capacity else 0)
        allowed |= {(row, lane) for row in range(oldest, len(rows) - n)}
    total = len(allowed)
    bits = jnp.arange(4 * 24, dtype=jnp.uint32)  # at most 24 rows in all
    rows, places = (drawn[: 4 * total] for drawn in uniform_rows(filled, bits, n, stack - 1))
    if total:
        drawn = list(zip(rows.tolist(), places.tolist(), strict=True))
        assert set(drawn) == allowed
        assert all(drawn.count(one) == 4 for one in allowed), "each startable row has the same chance"


@settings(deadline=None, max_examples=40)
@given(histories(), st.integers(1, 4))
def test_a_stack_shows_its_own_episode_and_zeros_before_it(history, stack):
    model, filled = history
    for lane, rows in enumerate(model.lanes):
        live = model.live(lane)
        first = live.start + (stack - 1 if len(rows) > model.capacity else 0)
        for number in list(range(first, live.stop))[-3:]:
            expected, alive = [], True
            for back in range(stack):
                alive = alive and number - back >= 0
                expected.insert(0, rows[number - back][0] if alive else 0.0)
                alive = alive and not rows[number - back][1]
            shown = stacked(filled, jnp.int32(number), jnp.int32(lane), stack)
            np.testing.assert_array_equal(shown[:, 0], expected)


@settings(deadline=None, max_examples=25)
@given(histories())
def test_rows_read_and_written_back_make_the_same_ring(history):
    model, filled = history
    again = ring.empty(SPACE, model.capacity, filled.envs)
    for lane in range(filled.envs):
        live = model.live(lane)
        if len(live):
            again = lanes.write_rows(again, lane, live.start, lanes.read_rows((filled,), lane, live.start, live.stop))
    again = ring.Ring(again.rows, filled.cursor)
    for left, right in zip(jax.tree.leaves(again), jax.tree.leaves(filled), strict=True):
        np.testing.assert_array_equal(left, right)


def test_rows_of_seeds_are_lanes_of_their_own():
    def one(value):
        rows = TimeStep(jnp.full((1, 2, 2), value), jnp.ones((1, 2), bool), jnp.zeros((1, 2), jnp.int32),
                        jnp.full((1, 2), value), jnp.zeros((1, 2), bool))  # fmt: skip
        return ring.write(ring.empty(SPACE, 8, 2), rows, jnp.array([[True, True]]))

    both = jax.vmap(one)(jnp.array([1.0, 2.0]))
    assert lanes.cursors((both,)).tolist() == [1, 1, 1, 1]
    assert [float(lanes.read_rows((both,), lane, 0, 1)["reward"][0]) for lane in range(4)] == [1, 1, 2, 2]
    moved = lanes.write_rows(jax.tree.map(jnp.copy, both), 3, 1, lanes.read_rows((both,), 0, 0, 1))
    assert moved.rows.reward[1, 1, 1] == 1.0
    assert moved.rows.reward[1, 0, 1] == 2.0
    assert moved.rows.reward[0, 1, 1] == 0.0


def test_a_million_frames_with_a_stack_of_four_fit_in_7_2_gigabytes():
    assert ring.nbytes(spaces.Box((84, 84), "uint8"), 1_000_000) <= 7.2e9


def test_nbytes_is_what_the_ring_takes():
    space = spaces.Dict((("a", spaces.Box((3, 2), "uint8")), ("b", spaces.Discrete(4))))
    filled = ring.empty(space, 10, 2)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(filled.rows)) == ring.nbytes(space, 20)


def test_writing_a_donated_ring_happens_in_place():
    """A second table would show as another buffer address; the write must keep the first."""
    filled = ring.empty(spaces.Box((64,), "float32"), 4096, 1)
    rows = TimeStep(jnp.ones((1, 1, 64)), jnp.ones((1, 1), bool), jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1)),
                    jnp.zeros((1, 1), bool))  # fmt: skip
    write = jax.jit(ring.write, donate_argnums=0)
    filled = write(filled, rows, jnp.ones((1, 1), bool))
    before = filled.rows.observation.unsafe_buffer_pointer()
    lanes.read_rows((filled,), 0, 0, 1)  # a saver that leaves no view behind
    filled = write(filled, rows, jnp.ones((1, 1), bool))
    assert filled.rows.observation.unsafe_buffer_pointer() == before


@pytest.mark.parametrize("lane", [0, 1])
def test_more_rows_than_a_chunk_go_back_in_order(lane):
    count = lanes.CHUNK + 5
    columns = {
        "observation": np.zeros((count, 2), np.float32),
        "is_first": np.zeros(count, bool),
        "action": np.arange(count, dtype=np.int32),
        "reward": np.arange(count, dtype=np.float32),
        "terminated": np.zeros(count, bool),
    }
    filled = lanes.write_rows(ring.empty(SPACE, 2048, 2), lane, 0, columns)
    np.testing.assert_array_equal(filled.rows.action[:count, lane], np.arange(count))
    assert not filled.rows.action[:, 1 - lane].any()


def test_rows_of_several_rings_come_back_in_pieces_and_none_that_was_overwritten():
    """Two seeds; the first ring has been written around its end, the second is longer and filled once."""
    own, given = (ring.empty(SPACE, kept, envs) for kept, envs in ((4, 2), (10, 1)))

    def written(empty: ring.Ring, first: float, count: int) -> ring.Ring:
        for number in range(count):
            row = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype), empty.rows)
            row = dataclasses.replace(row, reward=jnp.full((1, empty.envs), first + number, jnp.float32))
            empty = ring.write(empty, row, jnp.ones((1, empty.envs), bool))
        return empty

    seeds = [(written(own, 100 * seed, 6), written(given, 100 * seed + 50, 7)) for seed in range(2)]
    rows = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    known = lanes.cursors(rows)
    assert known.tolist() == [6, 6, 6, 6, 4, 3, 0, 4, 3, 0]
    blocks = [
        (lane, max(0, count - 4), lanes.read_rows(rows, lane, max(0, count - 4), count))
        for lane, count in enumerate(known.tolist())
    ]
    assert blocks[5][2]["reward"].tolist() == [54, 55, 56]
    empty = jax.tree.map(jnp.zeros_like, rows)
    again = lanes.fill(empty, known, blocks)
    jax.tree.map(np.testing.assert_array_equal, again, rows)
    with pytest.raises(CheckpointError, match="holds 10 rows and 11 were written"):
        lanes.cursors((own, written(given, 0, 11)))
