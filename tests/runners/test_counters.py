"""Counters of long runs: 2^31 steps, rows and updates are passed as if they were any others."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.bad_envs import Walk

from engram import bits, spaces
from engram.agents.q_learning import QLearner
from engram.agents.spec import AgentSpec, ReplaySpec, TargetSpec
from engram.checkpoint import lanes
from engram.encoders.vector import VectorSpec
from engram.envs.device import make_device
from engram.envs.host.make import make_host
from engram.errors import SpecError
from engram.exploration.greedy import EpsilonGreedySpec
from engram.external.episodic import EpisodicSpec
from engram.replay import ring
from engram.run.plan import RunPlan
from engram.runners.device import DeviceRunner
from engram.runners.host import HostRunner
from engram.working.gated import GRUSpec

SPEC = AgentSpec(
    encoder=VectorSpec(widths=(8,)),
    replay=ReplaySpec(capacity=100, batch_size=8, start=60),
    target=TargetSpec(every=3, rate=1.0),
    learn_every=2,
)
TOP = 1 << 31


def never() -> bool:
    return False


@pytest.mark.parametrize("capacity", [1, 7, 1000, 1024, (1 << 29) + 1])
def test_a_turn_is_a_multiple_of_the_capacity(capacity: int):
    assert ring.turn_of(capacity) % capacity == 0
    assert capacity <= ring.turn_of(capacity) <= max(capacity, 1 << 29)


def test_a_whole_number_is_found_again_from_what_a_counter_shows():
    for turn in (bits.TURN, 3 * 1000):
        for number in (0, 5, turn - 1, turn, 7 * turn + 3, 10**14):
            for off in (0, turn // 2 - 1, -(turn // 2) + 1):
                assert bits.whole(number % turn, max(0, number + off), turn) == number


def filled(capacity: int, start: int, rows: int) -> Any:
    """A ring that holds rows before `start` and is then written one by one: row number r has reward r % 1000."""
    space = spaces.Box((1,))
    empty = ring.empty(space, capacity, 1)
    turn = ring.turn_of(capacity)
    turns = max(start // turn - 1, 0)
    lane = ring.Ring(empty.rows, jnp.array([start - turns * turn], jnp.int32), jnp.array([turns], jnp.int32))
    for number in range(start, start + rows):
        row = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype), empty.rows)
        row = replace(row, reward=jnp.full((1, 1), number % 1000, jnp.float32))
        lane = ring.write(ring.renumbered(lane), row, jnp.ones((1, 1), bool))
    return lane


@pytest.mark.parametrize("capacity", [8, 12])
@pytest.mark.parametrize("turns", [2, 3, 5])
def test_a_ring_whose_numbers_begin_anew_keeps_every_row_in_its_place(capacity: int, turns: int):
    """Before, at, and after a turn: what a checkpoint reads by rising numbers are the rows that were written."""
    start = turns * ring.turn_of(capacity) - 3
    lane = filled(capacity, start, 10)
    end = start + 10
    assert lanes.cursors((lane,)).tolist() == [end]
    assert 0 < int(lane.cursor[0]) < 2 * ring.turn_of(capacity)
    read = lanes.read_rows((lane,), 0, end - 8, end)
    assert read["reward"].tolist() == [number % 1000 for number in range(end - 8, end)]
    fresh = ring.empty(spaces.Box((1,)), capacity, 1)
    (again,) = lanes.fill((fresh,), lanes.cursors((lane,)), [(0, end - 8, read)])
    assert (again.cursor.tolist(), again.turns.tolist()) == (lane.cursor.tolist(), lane.turns.tolist())
    assert lanes.read_rows((again,), 0, end - 8, end)["reward"].tolist() == read["reward"].tolist()


def moved_device(runner: DeviceRunner, ahead: int) -> None:
    """As if `ahead` steps, all even, lay behind a run."""
    run, agent = runner._run, runner._run.agent
    far = jnp.int32((runner.steps + ahead) % bits.TURN)
    updates = agent.learner.updates + (1 << 30) - (1 << 30) % 3 - 5
    runner._run = eqx.tree_at(
        lambda run: (run.steps, run.agent.learner.updates, run.agent.actor.steps, run.agent.replay.ring),
        run,
        (far, updates, jnp.int32(TOP - 40), moved_ring(agent.replay.ring, ahead)),
    )
    runner._steps += ahead


def moved_ring(rows: ring.Ring, ahead: int) -> ring.Ring:
    """The same rows with numbers that are `ahead` higher, a multiple of the capacity."""
    capacity = lanes.capacity((rows,))
    numbers = lanes.cursors((rows,)) + ahead // capacity * capacity
    return lanes.fill((rows,), numbers, [])[0]


def test_a_device_run_goes_on_beyond_31_bits_and_comes_back_from_there():
    env = make_device("engram/CartPole-v1")
    agent = QLearner(SPEC, env.observation_space, env.actions, 1)
    runner = DeviceRunner(agent, env, (0,))
    runner.advance(300, never)
    moved_device(runner, TOP - 500)
    start = runner.steps
    runner.advance(start + 400, never)
    assert runner.steps == start + 400 > TOP
    found = runner.report()
    assert found["loss"] is not None
    assert found["updates"] > 0
    saved = runner.capture()
    assert saved.meta["steps"] == start + 400
    assert len(saved.rows) == 1
    assert (lanes.cursors(saved.rows) > TOP - 1000).all()
    counters = [name for name in saved.arrays if name.endswith(("steps", "updates", "fault"))]
    assert all((saved.arrays[name] >= -1).all() for name in counters)
    assert saved.arrays["agent.actor.steps"] == TOP - 1
    other = DeviceRunner(agent, env, (0,))
    other.restore(saved.arrays, saved.meta, lambda empty: saved.rows or empty)
    assert other.steps == runner.steps


def test_a_host_run_with_a_compiled_actor_goes_on_beyond_31_bits():
    envs = make_host(Walk, envs=2, seed=0)
    spec = replace(SPEC, working=GRUSpec(hidden_size=4), replay=replace(SPEC.replay, window=4))
    agent = QLearner(spec, envs.observation_space, envs.actions, 2)
    runner = HostRunner(agent, envs, 0)
    runner.start()
    runner.advance(200, never)
    runner.collector.steps += TOP
    state: Any = runner.learner.state
    far = eqx.tree_at(lambda state: state.replay.ring, state, moved_ring(state.replay.ring, 3 * (1 << 29) - 50))
    runner.learner._set(far, runner.learner.tally)
    goal = runner.steps + 300
    runner.advance(goal, never)
    found, saved = runner.report(), runner.capture()
    assert (runner.steps, saved.meta["steps"], found["epsilon"]) == (goal, goal, spec.exploration.end)
    assert found["loss"] is not None
    assert len(saved.rows) == 1
    assert (lanes.cursors(saved.rows) > 3 * (1 << 29)).all()
    runner.close()


def test_the_target_follows_at_the_same_updates_beyond_a_turn():
    agent = QLearner(SPEC, spaces.Box((2,)), 2, 1)
    assert agent._turn % 3 == 0
    last = int(bits.counted(jnp.int32(agent._turn - 1), 1, agent._turn))
    assert last == 0
    moments = 10**10
    step = 60 + (moments - 1) * agent.rhythm.acts
    assert agent._number(moments % agent._turn, step) == moments


def test_a_schedule_longer_than_31_bits_is_computed_without_overflow():
    chosen = EpsilonGreedySpec(start=1.0, end=0.0, steps=4 * 10**9)
    assert float(jax.jit(chosen.epsilon)(jnp.int32(10**9))) == pytest.approx(0.75)
    assert chosen.epsilon(10**9) == 0.75


def test_a_run_that_the_clocks_of_a_memory_cannot_count_is_refused():
    agent = replace(SPEC, external=EpisodicSpec(capacity=50))
    chosen = {
        "env": None,
        "agent": agent,
        "space": spaces.Box((2,)),
        "actions": 2,
        "group": 1,
        "evaluate_every": 0,
        "horizon": 9,
    }
    plan = RunPlan(steps=10**9, save_every=1, log_every=1, **chosen)
    for longer in (lambda: replace(plan, steps=TOP), lambda: plan.check_length(TOP)):
        with pytest.raises(
            SpecError, match=r"the run of 2,147,483,648 steps is longer than an external memory can count"
        ):
            longer()
    assert RunPlan(steps=TOP, save_every=1, log_every=1, **chosen | {"agent": SPEC}).steps == TOP


def test_a_clock_at_its_end_stays_there():
    clock = bits.held_back(jnp.int32(bits.LAST - 2), 8) + jnp.arange(8)
    assert np.asarray(clock).tolist() == list(range(bits.LAST - 8, bits.LAST))
