"""What waits in line for its return, and what is then written, touched and kept."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.told import Told, agent, compiled

from engram import spaces, specs
from engram.agents import presets
from engram.agents.mind import RecallSpec
from engram.agents.q_learning import QLearner
from engram.agents.recall import line, reading
from engram.agents.recall import state as recalls
from engram.external.episodic import EpisodicSpec
from engram.losses.bootstrap import SuccessorsSpec
from engram.losses.returns import discounts, n_step
from engram.types import TimeStep


@pytest.mark.parametrize("n", [1, 3])
def test_an_entry_is_the_n_step_return_of_its_action(n: int):
    told = Told(agent(recall=RecallSpec(n_step=n)))
    random = np.random.default_rng(0)
    for _ in range(40):
        ends, anew = random.random(2), random.random(2) < 0.1
        told.step(random.normal(size=(2, 2)).astype(np.float32), random.normal(size=2).astype(np.float32),
                  ends < 0.15, ends > 0.85, anew)  # fmt: skip
    store = jax.device_get(told.recall.store)
    where = np.argwhere(store.live)
    expected = told.expected(n, 0.5)
    assert len(where) == len(expected)
    assert int(store.clock) == len(expected)
    steps, found = told.numbered(), {}
    for table, place in where:
        env, episode, moment = store.origin[table, place].tolist()
        row = told.rows[env][steps[env, episode, moment]]
        assert table == row["action"] == int(store.action[table, place])
        np.testing.assert_allclose(store.key[table, place], row["key"], rtol=1e-6)
        found[env, steps[env, episode, moment]] = float(store.value[table, place])
    assert found.keys() == {(env, t) for env, t, _ in expected}
    for env, t, value in expected:
        np.testing.assert_allclose(found[env, t], value, rtol=1e-5, atol=1e-5)


def test_exactly_what_acting_read_for_its_action_is_touched():
    told = Told(agent())
    random, received, last = np.random.default_rng(0), {}, {}
    read_of = jax.jit(told.params.external.read)
    for _ in range(25):
        before = told.recall.store
        seen = random.normal(size=(2, 2)).astype(np.float32)
        told.step(seen, np.ones(2, np.float32), np.zeros(2, bool), np.zeros(2, bool))
        for rows in told.rows:
            read = read_of(before, jnp.asarray(rows[-1]["key"]))
            entries, weights = (np.asarray(leaf)[0, rows[-1]["action"]] for leaf in (read.entries, read.weights))
            for entry, weight in zip(entries[entries >= 0].tolist(), weights[entries >= 0], strict=True):
                received[entry] = received.get(entry, 0.0) + weight
                last[entry] = int(before.clock)
    store = jax.device_get(told.recall.store)
    assert int(store.live.sum()) == 2 * (25 - 3)
    assert len(received) > 10
    for entry in range(told.params.external.capacity):
        place = divmod(entry, store.live.shape[1])
        np.testing.assert_allclose(store.attention[place], received.get(entry, 0.0), rtol=1e-4, atol=1e-6)
        assert int(store.read[place]) == last.get(entry, 0)


@pytest.mark.parametrize("previous", [False, True])
def test_with_a_working_memory_equal_observations_after_different_pasts_are_two_entries(previous: bool):
    changes = {"encoder": "vector", "external": "episodic", "external.capacity": 200, "external.neighbours": 5,
               "recall.n_step": 1, "observation.previous_reward": previous, "working": "gru", "working.hidden_size": 8,
               "replay.window": 8, "encoder.widths": (8,)}  # fmt: skip
    spec = specs.override_all(presets.preset("double-dqn", spaces.Box((2,)), 5_000), changes)
    told, no = Told(QLearner(spec, spaces.Box((2,)), 2)), np.zeros(1, bool)
    cue, corridor = np.full((1, 2), 1.0, np.float32), np.zeros((1, 2), np.float32)
    episodes = [(cue, 0.0), (-cue, 0.0), (cue, 0.0), (cue, 1.0)]  # what is seen first, and what it pays
    for first, reward in episodes:
        told.step(first, np.full(1, reward, np.float32), no, no)
        told.step(corridor, np.zeros(1, np.float32), no, no)
        told.step(corridor, np.zeros(1, np.float32), ~no, no)
    told.step(corridor, np.zeros(1, np.float32), no, no)
    written = np.asarray(told.recall.store.hash)[np.asarray(told.recall.store.live)]
    # An entry each for the cue and its opposite, and for two steps after each; the last episode had another reward.
    taken = {(bool(first[0, 0] > 0), reward if previous and t else 0.0, t, rows["action"])
             for number, (first, reward) in enumerate(episodes)
             for t, rows in enumerate(told.rows[0][3 * number : 3 * number + 3])}  # fmt: skip
    assert len(written) == len(taken)
    assert len(np.unique(written, axis=0)) == (8 if previous else 6)


def test_what_followed_is_the_observation_that_the_return_bootstraps_from():
    """With returns of three steps: three steps later, or where the episode was cut off, or none at its end."""
    told, random = Told(agent(recall=RecallSpec(n_step=3), bootstrap=SuccessorsSpec())), np.random.default_rng(3)
    for number in range(40):
        ends = random.random(2)
        told.step(np.array([[number, 0.0], [number, 1.0]], np.float32), random.normal(size=2).astype(np.float32),
                  ends < 0.15, ends > 0.85)  # fmt: skip
    store = jax.device_get(told.recall.store)
    steps, kinds = told.numbered(), set()
    for where in map(tuple, np.argwhere(store.live)):
        env, episode, moment = store.origin[where].tolist()
        t, rows = steps[env, episode, moment], told.rows[env]
        reward, discount, ahead, kind = 0.0, 1.0, 0, "whole"
        while ahead < 3:
            row = rows[t + ahead]
            if row["done"] and not row["terminated"]:
                kind = "cut"
                break
            reward, discount, ahead = reward + discount * row["reward"], discount * 0.5, ahead + 1
            if row["done"]:
                discount, kind = 0.0, "over"
                break
        kinds.add(kind)
        np.testing.assert_allclose(store.reward[where], reward, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(store.discount[where], discount, rtol=1e-6)
        if discount:
            assert store.successor[where][-1].tolist() == [t + ahead, env]
    assert kinds == {"whole", "cut", "over"}


def test_keys_that_are_not_finite_are_named_with_where_they_came_from():
    told, no = Told(agent()), np.zeros(2, bool)
    assert told.agent.fault(told.state, 0, [0]) is None
    for number in range(9):
        reward = np.array([0.0, np.inf if number == 4 else 0.0], np.float32)
        told.step(np.full((2, 2), number, np.float32), reward, np.array([False, number == 2]), no)
    assert reading.refused(told.recall) == (2, [0, 1, 1, 0])  # those of the episode that the reward follows
    sentence = "of 2 entries for the external memory was not finite (before step 18; the first is of environment 1"
    assert f"{sentence}, episode 1, step 0 of it)" in told.agent.fault(told.state, 18, [0])
    two = jax.tree.map(lambda *leaves: jnp.stack(leaves), Told(told.agent).state, told.state)
    assert f"{sentence} of seed 7, episode 1, step 0 of it)" in told.agent.fault(two, 18, [3, 7])


# -- lanes that do not move in step ------------------------------------------------------------------------------

ONE = EpisodicSpec(capacity=64, neighbours=3)
LANES = [dict(recall=RecallSpec(n_step=3), external=ONE), dict(recall=RecallSpec(n_step=1), external=ONE)]


def only(experience: Any, keep: list[bool]) -> Any:
    return experience._replace(keep=jnp.array([keep]))


def script(told: Told, steps: int) -> None:
    """Random steps with ends and cuts, and episodes that are begun although the last did not end."""
    random = np.random.default_rng(1)
    for _ in range(steps):
        ends, anew = random.random(2), random.random(2) < 0.1
        told.step(random.normal(size=(2, 2)).astype(np.float32), random.normal(size=2).astype(np.float32),
                  ends < 0.15, ends > 0.85, anew)  # fmt: skip


def of_lane(recall: recalls.RecallState, env: int) -> list[np.ndarray]:
    """All that is kept of one environment but its entries."""
    waiting = [np.asarray(leaf)[:, env] for leaf in jax.tree.leaves(recall.line)]
    return [*waiting, *(np.asarray(leaf)[env] for leaf in (recall.steps, recall.episode, recall.moment))]


def entries_of(recall: recalls.RecallState, env: int) -> dict[tuple[int, ...], list[np.ndarray]]:
    """What the store holds of one environment, by the action it came from, wherever it lies."""
    store = jax.device_get(recall.store)
    columns = ("key", "value", "td_error", "hash", "action", "attention")
    held = (tuple(place) for place in np.argwhere(store.live) if store.origin[tuple(place)][0] == env)
    return {tuple(store.origin[place].tolist()): [getattr(store, name)[place] for name in columns] for place in held}


@pytest.mark.parametrize("changes", LANES, ids=["three", "one"])
def test_lanes_need_not_move_in_step(changes: dict[str, Any]):
    """Steps taken in by both at once, and each lane's fed apart, the other's between them, in two other orders."""
    told = Told(agent(**changes))
    script(told, 20)
    observe, start = compiled(told.agent).observe, Told(told.agent).state
    sides = [[True, False], [False, True]]
    later = [only(one, side) for side in sides for one in told.experiences]  # all of lane 0, then all of lane 1
    turns = [only(one, side) for one in told.experiences for side in sides]  # one after the other
    for order in (later, turns):
        state = start
        for experience in order:
            state = observe(state, experience)
        for env in range(2):
            for left, right in zip(of_lane(state.recall, env), of_lane(told.recall, env), strict=True):
                np.testing.assert_array_equal(left, right)
            apart, together = entries_of(state.recall, env), entries_of(told.recall, env)
            assert apart.keys() == together.keys()
            assert len(together) > 10
            for origin, columns in together.items():
                for left, right in zip(apart[origin][:5], columns[:5], strict=True):
                    np.testing.assert_array_equal(left, right)
        assert int(state.recall.store.clock) == int(told.recall.store.clock)
        np.testing.assert_array_equal(state.replay.ring.cursor, told.state.replay.ring.cursor)


@pytest.mark.parametrize("changes", LANES, ids=["three", "one"])
def test_a_lane_whose_step_is_not_kept_stays_as_it_was(changes: dict[str, Any]):
    told = Told(agent(**changes))
    script(told, 12)
    observe, before = compiled(told.agent).observe, told.state
    strange = Told(told.agent)
    script(strange, 15)
    for experience in strange.experiences[-3:]:  # begins, ends and entries read that must leave no trace
        after = observe(before, only(experience, [False, True]))
        for left, right in zip(of_lane(after.recall, 0), of_lane(before.recall, 0), strict=True):
            np.testing.assert_array_equal(left, right)
        held = entries_of(after.recall, 0)
        assert held.keys() == entries_of(before.recall, 0).keys()
        np.testing.assert_array_equal(after.replay.ring.cursor[0], before.replay.ring.cursor[0])
        assert int(after.recall.steps[1]) == int(before.recall.steps[1]) + 1
        nothing = observe(before, only(experience, [False, False]))
        jax.tree.map(np.testing.assert_array_equal, nothing, before)


# -- the return of what waits ------------------------------------------------------------------------------------

N, DISCOUNT = 3, 0.5


@cache
def remembering() -> Any:
    """One step of one environment, from numbers; and the state before it."""
    one = agent(envs=1, recall=RecallSpec(n_step=N), external=EpisodicSpec(capacity=64, neighbours=1))
    state = compiled(one).init(jax.random.PRNGKey(0))
    external = state.learner.params.external

    def step(recall: Any, record: Any, row: Any, done: Any) -> Any:
        return line.remember(one.spec, external, recall, record, row, done, jnp.ones(1, bool))

    return jax.jit(step), state.recall


def record(number: int, best: float) -> recalls.Record:
    """An action whose key and hash say which one it is."""
    waiting = recalls.Waiting(
        key=jnp.full((1, 8), number, jnp.float32), features=jnp.zeros((1, 0)),
        hash=jnp.full((1, 2), number, jnp.uint32), action=jnp.zeros(1, jnp.int32), network=jnp.zeros(1),
        memory=jnp.zeros(1), known=jnp.zeros(1, bool), best=jnp.full(1, best, jnp.float32), frames=None,
    )  # fmt: skip
    return recalls.Record(waiting, jnp.full((1, 1), -1, jnp.int32), jnp.zeros((1, 1)))


returns = jax.jit(partial(n_step, powers=discounts(DISCOUNT, N)))


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["step", "step", "terminated", "cut", "anew"]), min_size=N + 1, max_size=14), st.data())
def test_the_return_of_the_line_is_the_replays_n_step_return_of_the_same_rows(kinds: list[str], data: Any):
    """`cut` is a time limit, `anew` an episode that another one replaces; in the replay a final row follows an end.

    Where an episode was cut off, the line takes its last action for the final row: nothing newer was seen of it.
    """
    size = len(kinds)
    reward, best = (data.draw(st.lists(st.integers(-8, 8), min_size=size, max_size=size)) for _ in range(2))
    step, recall = remembering()
    first = True
    for number, kind in enumerate(kinds):
        row = TimeStep(None, jnp.array([first]), jnp.zeros(1, jnp.int32),
                            jnp.full(1, reward[number], jnp.float32), jnp.array([kind == "terminated"]))  # fmt: skip
        recall = step(recall, record(number, best[number]), row, jnp.array([kind in ("terminated", "cut")]))
        first = kind != "step"
    store = jax.device_get(recall.store)
    held = {int(store.hash[tuple(place)][0]): float(store.value[tuple(place)]) for place in np.argwhere(store.live)}
    # The rows of the replay: the last action of an episode that was cut off is its final row.
    rows = []
    for number, kind in enumerate(kinds):
        rows.append((number, reward[number], kind == "terminated", not rows or rows[-1][4] != "step", kind))
        if kind == "terminated":
            rows[-1] = (*rows[-1][:4], "step")
            rows.append((None, 0, False, False, "terminated"))
    for place, (number, *_, kind) in enumerate(rows):
        if number is None or number >= size - N:
            continue
        if kind in ("cut", "anew"):
            assert number not in held
            continue
        window = rows[place : place + N + 1]
        window += [(size, 0, False, False, "step")] * (N + 1 - len(window))
        columns = (jnp.array([one[at] for one in window]) for at in (1, 2, 3))
        gains, ends, opens = columns
        known = returns(gains[:N].astype(jnp.float32), ends[:N], opens[1:])
        after = window[int(known.offset)][0]
        value = float(known.reward) + (float(known.discount) * best[after] if known.discount else 0.0)
        np.testing.assert_allclose(held[number], value, rtol=1e-6)
    assert int(recall.store.clock) == len(held)
