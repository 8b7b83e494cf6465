"""The crossroads are highway-env's: its scenes give its observations, next seconds and rewards; and rules by hand."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram.envs.device import check_device_env, make_device, uniforms
from engram.envs.tasks.intersection import SPAWN_PROBABILITY, Intersection, IntersectionState, observe
from engram.envs.tasks.traffic import (
    LEFT,
    RIGHT,
    STRAIGHT,
    VEHICLES,
    Traffic,
    driven,
    free_road,
    interaction,
    nearest_lanes,
    placed,
    touching,
)
from engram.errors import SpecError

SLOWER, IDLE, FASTER = range(3)
ENV = Intersection(openings=256)
# Decisions of whole episodes with random actions in highway-env 1.12.1, recorded by data/highway_intersection.py.
RECORDED = json.loads((Path(__file__).parent / "data" / "highway_intersection.json").read_text())
# Of 200 episodes of intersection-v2 each, seeds 1000-1099 and 2000-2099: crashed, arrived, mean steps, mean return.
HIGHWAY = {"faster": (0.475, 0.53, 7.58, 4.81), "random": (0.475, 0.18, 10.07, 1.12)}
POLICIES = {
    "slower": lambda bits: jnp.full(bits.shape, SLOWER),
    "faster": lambda bits: jnp.full(bits.shape, FASTER),
    "random": lambda bits: (bits % 3).astype(jnp.int32),
}
BATCH = 100  # episodes that are played side by side
step_of = jax.jit(ENV.step)


def key_without_newcomers():
    """A key with which nobody joins the traffic."""
    keys = (jnp.array([0, word], jnp.uint32) for word in range(100))
    return next(key for key in keys if uniforms(key, 6)[0] > SPAWN_PROBABILITY)


KEY = key_without_newcomers()


def scene(*rows):
    """Traffic of rows (x, y, heading, speed, target, exponent, corner, turn, leg, crashed), the agent's first."""
    table = np.zeros((10, VEHICLES))
    table[:, : len(rows)] = np.transpose(rows)
    x, y, heading, speed, target, exponent = (jnp.asarray(column, jnp.float32) for column in table[:6])
    corner, turn, leg = (jnp.asarray(column, jnp.int32) for column in table[6:9])
    cosine, sine, turn = jnp.cos(heading), jnp.sin(heading), jnp.maximum(turn, RIGHT)
    present, crashed = jnp.arange(VEHICLES) < len(rows), jnp.asarray(table[9] > 0)
    return Traffic(x, y, heading, cosine, sine, speed, target, exponent, corner, turn, leg, present, crashed)


def agent(y, speed=9.0):
    """The row of an agent that comes from the south."""
    return (2, y, -np.pi / 2, speed, 9.0, 4.0, 0, LEFT, 0, 0)


def westbound(x, speed=8.0):
    """The row of another that crosses from the east."""
    return (x, -2, np.pi, speed, 8.0, 4.0, 3, STRAIGHT, 0, 0)


def start(*rows):
    """A first state with that traffic."""
    return IntersectionState(scene(*rows), jnp.int32(0), jnp.bool_(False), jnp.bool_(False))


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def play(name, episodes):
    """Return, last reward, steps, crashed and arrived of episodes with that policy, a batch at a time."""
    bits = jax.random.bits(jax.random.key(0), (ENV.max_steps + 1, episodes, 3), "uint32")
    actions = POLICIES[name](bits[1:, :, 2])
    rows = [slice(first, first + BATCH) for first in range(0, episodes, BATCH)]
    batches = [play_batch(bits[:, row, :2], actions[:, row]) for row in rows]
    return [np.concatenate(column) for column in zip(*batches, strict=True)]


@jax.jit
def play_batch(keys, actions):
    """One program for all policies, which are what is done: actions [max_steps, BATCH]."""

    def second(carry, drawn):
        state, live, total, last, steps = carry
        following, step = ENV.step(state, drawn[1], drawn[0])
        kept = jax.tree.map(lambda new, old: jnp.where(live, new, old), following, state)
        total, last = total + live * step.reward, jnp.where(live, step.reward, last)
        return (kept, live & ~(step.terminated | step.truncated), total, last, steps + live), None

    def episode(keys, actions):
        state, _ = ENV.reset(keys[0])
        first = state, jnp.bool_(True), jnp.float32(0), jnp.float32(0), jnp.int32(0)
        (state, _, *outcome), _ = jax.lax.scan(second, first, (keys[1:], actions))
        return *outcome, state.crashed, state.arrived

    return jax.vmap(episode, in_axes=1)(keys, actions)


@pytest.fixture(scope="module")
def seconds():
    """State and step that the recorded action makes of each recorded scene."""
    states = stacked([start(*case["before"]) for case in RECORDED])
    actions = jnp.array([case["action"] for case in RECORDED])
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(ENV.step, (0, 0, None)))(states, actions, KEY))


def test_the_environment_keeps_the_contract():
    check_device_env(ENV, steps=60)


def test_it_is_listed_and_checks_its_arguments():
    assert make_device("engram/Intersection-v0", openings=256) == ENV
    with pytest.raises(SpecError, match="openings = 0 is too small for Intersection; give 1 or more"):
        make_device("engram/Intersection-v0", openings=0)


def test_highway_envs_scenes_give_highway_envs_observations():
    """To 1e-5: both are rounded. Two vehicles may only swap rows where they are equally far along the agent's lane."""

    def distances(traffic):
        along = placed(traffic).along[nearest_lanes(traffic, placed(traffic))[0]]
        return jnp.abs(along - along[0])

    scenes, ties = stacked([scene(*case["after"]) for case in RECORDED]), 0
    observations = np.asarray(jax.jit(jax.vmap(observe))(scenes))
    distance = np.asarray(jax.jit(jax.vmap(distances))(scenes))
    for case, rows, far in zip(RECORDED, observations, distance, strict=True):
        expected = np.array(case["observation"])
        count = len(expected)
        assert not np.any(rows[count:])
        if not np.allclose(rows[:count], expected, rtol=0, atol=1e-5):
            ties += 1
            assert np.min(np.diff(np.sort(far[1 : len(case["after"])]))) < 1e-4
            rows, expected = (
                table[np.lexsort(np.round(table[:count, 1:3], 4).T)] for table in (rows[:count], expected)
            )
            np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-5)
    assert ties < len(RECORDED) / 5


def test_a_second_of_driving_is_highway_envs(seconds):
    """Who gives way, who crashes and which lane is taken is the same for all.

    Places agree to 1 cm but for vehicles that crashed, which are pushed apart there, and for some of those at walking
    pace, whose steering amplifies what float32 leaves out: less than 3 in 100.
    """
    traffic, far = seconds[0].traffic, []
    for number, case in enumerate(RECORDED):
        after = np.array(case["after"])
        x, y, target, leg, crashed = (
            column[number, : len(after)]
            for column in (traffic.x, traffic.y, traffic.target, traffic.leg, traffic.crashed)
        )
        np.testing.assert_allclose(target, after[:, 4], atol=1e-3)
        np.testing.assert_array_equal(leg, after[:, 8])
        np.testing.assert_array_equal(crashed, after[:, 9])
        far.extend(np.hypot(x - after[:, 0], y - after[:, 1]) > 0.01)
    assert np.mean(far) < 0.03


def test_rewards_and_ends_are_highway_envs(seconds):
    state, step = seconds
    reward, terminated, arrived = (
        np.array([case[name] for case in RECORDED]) for name in ("reward", "terminated", "arrived")
    )
    np.testing.assert_allclose(step.reward, reward, atol=1e-4)
    np.testing.assert_array_equal(step.terminated, terminated)
    np.testing.assert_array_equal(state.arrived, arrived)
    np.testing.assert_array_equal(state.crashed, [bool(case["after"][0][9]) for case in RECORDED])
    np.testing.assert_array_equal(state.crashed | state.arrived, terminated)


def test_the_last_reward_tells_how_an_episode_ended(seconds):
    state, step = seconds
    assert np.any(state.arrived)
    assert np.any(state.crashed)
    np.testing.assert_array_equal(step.reward[state.arrived], 1)
    np.testing.assert_array_equal(step.success, np.asarray(state.arrived) & ~np.asarray(state.crashed))
    lost = step.reward[state.crashed & ~state.arrived]
    assert np.all((lost >= -5) & (lost <= -4))


def test_the_driver_model_by_hand():
    """6 (1 - 0.8⁴) at 8 of 10 m/s on a free road; 6 (w/20)² for a gap of 20 m, of w wanted, closing at 2 m/s."""
    speed, target, exponent = (jnp.array([number]) for number in (8.0, 10.0, 4.0))
    np.testing.assert_allclose(free_road(speed, target, exponent), [6 * (1 - 0.8**4)], rtol=1e-6)
    wanted = 7 + 8 * 1.5 + 8 * 2 / (2 * 18**0.5)
    braking = interaction(speed, jnp.array([2.0]), jnp.array([20.0]))
    np.testing.assert_allclose(braking, [6 * (wanted / 20) ** 2], rtol=1e-6)


def test_a_driver_brakes_for_one_ahead_and_not_for_one_behind():
    """Alone at its target speed a driver keeps it, and so does the first of two; the second, 15 m behind, does not."""
    alone, both = (
        driven(scene(agent(100.0), *others), np.zeros(15, bool))
        for others in ([westbound(60.0)], [westbound(60.0), westbound(75.0)])
    )
    np.testing.assert_allclose([alone.speed[1], both.speed[1]], 8.0, rtol=1e-6)
    assert both.speed[2] < 7


@pytest.mark.parametrize("corner", range(4))
@pytest.mark.parametrize("turn, quarters", [(RIGHT, 1), (LEFT, -1), (STRAIGHT, 0)])
def test_every_route_ends_in_its_lane_to_the_right_of_the_road(corner, turn, quarters):
    """After 12 s at 4.5 m/s from 20 m before the junction: within 5 cm and 0.01 rad, the steering's remaining error."""
    cosine, sine = np.cos(corner * np.pi / 2), np.sin(corner * np.pi / 2)
    place = 2 * cosine - 31 * sine, 2 * sine + 31 * cosine
    row = (*place, (corner - 1) * np.pi / 2, 4.5, 4.5, 4.0, corner, turn, 0, 0)
    moved = jax.jit(lambda traffic: driven(traffic, np.zeros(180, bool)))(scene(row))
    heading = (corner - 1 + quarters) * np.pi / 2
    np.testing.assert_allclose(moved.heading[0], heading, atol=0.01)
    aside = moved.y[0] * np.cos(heading) - moved.x[0] * np.sin(heading)
    np.testing.assert_allclose(aside, 2, atol=0.05)
    assert moved.leg[0] == 2


def test_an_action_moves_the_aim_one_speed_from_the_present_one():
    state, aims = start(agent(100.0)), []
    for action in (SLOWER, SLOWER, IDLE, SLOWER, FASTER, FASTER, FASTER):
        state, _ = step_of(state, jnp.int32(action), KEY)
        aims.append(float(state.traffic.target[0]))
    assert aims == [4.5, 0, 0, 0, 4.5, 9, 9]


def test_whoever_meets_nobody_is_paid_for_its_speed_and_arrives():
    """(9 - 7)/2 for each second; the eighth ends 25 m down the western road."""
    state, rewards, terminated = start(agent(46.0)), [], False
    while not terminated:
        state, step = step_of(state, jnp.int32(IDLE), KEY)
        rewards.append(float(step.reward))
        terminated = bool(step.terminated)
    np.testing.assert_allclose(rewards, 1, atol=1e-6)
    assert rewards[-1] == 1
    assert (bool(state.arrived), bool(state.crashed), bool(step.truncated)) == (True, False, False)
    assert -45 < state.traffic.x[0] <= -36
    assert abs(state.traffic.y[0] + 2) < 0.3


def crossing(action):
    """Agent and a vehicle from the east reach the junction together; what the agent's four seconds lead to."""
    state = start(agent(30.0), westbound(28.0))
    for _ in range(4):
        state, step = step_of(state, jnp.int32(action), KEY)
        if step.terminated:
            break
    return state, step


def test_who_goes_on_crashes():
    """The other does not brake: it has precedence."""
    state, step = crossing(IDLE)
    assert (bool(state.crashed), bool(step.terminated), bool(state.arrived)) == (True, True, False)
    assert -5 <= step.reward <= -4


def test_who_slows_down_lets_it_pass():
    state, step = crossing(SLOWER)
    assert (bool(state.crashed), bool(step.terminated), float(step.reward)) == (False, False, 0.0)


def test_the_time_limit_truncates_and_does_not_terminate():
    state, flags = start(agent(100.0)), []
    for _ in range(13):
        state, step = step_of(state, jnp.int32(SLOWER), KEY)
        flags.append((bool(step.terminated), bool(step.truncated)))
    assert flags == [(False, False)] * 12 + [(False, True)]


@pytest.mark.parametrize("gap, touches", [(4.99, True), (5.01, False)])
def test_vehicles_are_five_metres_long(gap, touches):
    crashed = touching(scene(agent(100.0), westbound(50.0), westbound(50.0 + gap)))
    np.testing.assert_array_equal(crashed[:3], [False, touches, touches])


@pytest.mark.parametrize("gap, touches", [(3.49, True), (3.51, False)])
def test_vehicles_are_two_metres_wide(gap, touches):
    """Nose to flank their middles are half a length and half a width apart."""
    crashed = touching(scene(agent(-2 + gap), westbound(2.0)))
    np.testing.assert_array_equal(crashed[:2], [touches, touches])


def test_the_agent_starts_35_m_before_the_junction_with_nobody_near():
    """65 m along the way in, with a deviation of 5 m; five standard errors. Nobody is within 20 m of it."""
    keys = jax.random.bits(jax.random.key(1), (2000, 2), "uint32")
    state, shown = jax.jit(jax.vmap(ENV.reset))(keys)
    traffic = jax.tree.map(np.asarray, state.traffic)
    y = traffic.y[:, 0]
    assert abs(np.mean(y) - 46) < 5 * 5 / 2000**0.5
    assert abs(np.std(y) / 5 - 1) < 5 / (2 * 2000) ** 0.5
    away = np.hypot(traffic.x - traffic.x[:, :1], traffic.y - traffic.y[:, :1])
    assert np.all(away[:, 1:][traffic.present[:, 1:]] >= 20)
    ones = np.ones_like(y)
    own = np.stack([ones, 0.02 * ones, y / 100, 0 * ones, -0.5 * ones, 0 * ones, -ones], axis=1)
    np.testing.assert_allclose(shown[:, 0], own, atol=1e-6)


def test_every_corner_has_as_much_traffic_as_its_opposite():
    """Scenes are seen from either side: five standard deviations of 4000 coins that move at most 5 vehicles each."""
    keys = jax.random.bits(jax.random.key(2), (4000, 2), "uint32")
    traffic = jax.jit(jax.vmap(ENV.reset))(keys)[0].traffic
    east, west = (int(jnp.sum(traffic.present[:, 1:] & (traffic.corner[:, 1:] == corner))) for corner in (3, 1))
    assert east > 2000
    assert abs(east - west) < 5 * 5 * 4000**0.5


def test_always_slower_never_arrives_and_is_hardly_ever_hit():
    """Highway-env: 0 crashes in 100 episodes. Here 4 in 2000: others that went off course hit who waits."""
    total, _, steps, crashed, arrived = play("slower", 300)
    assert not np.any(arrived)
    assert np.mean(crashed) < 0.02
    np.testing.assert_array_equal(steps[~crashed], 13)
    np.testing.assert_allclose(total[~crashed], 0, atol=1e-6)


@pytest.mark.parametrize("name", HIGHWAY)
def test_episodes_end_as_often_in_each_way_as_in_highway_env(name):
    """Within four standard errors of both samples together."""
    total, _, steps, crashed, arrived = play(name, 400)
    for ours, theirs in zip((crashed, arrived, steps, total), HIGHWAY[name], strict=True):
        error = np.std(ours) * (1 / 200 + 1 / 400) ** 0.5
        assert abs(np.mean(ours) - theirs) < 4 * error


CHOSEN = Intersection(
    openings=256, max_steps=4, order="shuffled", clock=True, late_ends=True, arrive=2, crash=4, late=3, speed=0
)
step_chosen = jax.jit(CHOSEN.step)


def test_shuffled_rows_are_the_same_vehicles_after_the_agents_own():
    """Each of 14 places is as likely for the nearest: five standard errors of 400 draws."""
    keys = jax.random.bits(jax.random.key(3), (400, 2), "uint32")
    shown, plain = (np.asarray(jax.jit(jax.vmap(env.reset))(keys)[1]) for env in (CHOSEN, ENV))
    np.testing.assert_array_equal(shown[:, 0, :7], plain[:, 0])
    for ours, theirs in zip(shown[:20, 1:, :7], plain[:20, 1:], strict=True):
        np.testing.assert_array_equal(*(rows[np.lexsort(rows.T)] for rows in (ours, theirs)))
    place = (shown[:, 1:, :7] == plain[:, 1:2]).all(-1).argmax(1)
    assert abs(place.mean() - 6.5) < 5 * (195 / 12 / 400) ** 0.5


def test_the_clock_is_seen_and_running_out_of_it_may_cost_and_end():
    state, told = start(agent(100.0)), []
    for _ in range(4):
        state, step = step_chosen(state, jnp.int32(SLOWER), KEY)
        told.append((float(step.observation[0, 7]), float(step.reward), bool(step.terminated)))
    np.testing.assert_allclose([clock for clock, *_ in told], [0.15, 0.1, 0.05, 0.0], atol=1e-6)
    assert [rest for _, *rest in told] == [[0, False], [0, False], [0, False], [-3, True]]
    assert not np.any(step.observation[1:, 7])


AT_THE_LINE = (-35, -2, np.pi, 9, 9, 4, 0, LEFT, 2, 0)  # on the way out, a second before it has arrived
ENDS = [([agent(-1.9)], 0), ([agent(30.0), westbound(28.0)], -4), ([AT_THE_LINE], 2)]


@pytest.mark.parametrize(("rows", "reward"), ENDS)
def test_arriving_and_crashing_are_worth_what_was_chosen(rows, reward):
    state = start(*rows)
    for _ in range(4 if reward < 0 else 1):
        state, step = step_chosen(state, jnp.int32(IDLE), KEY)
        if step.terminated:
            break
    assert step.reward == reward


def test_weights_below_nothing_are_refused():
    with pytest.raises(SpecError, match="crash = -1.0 is too small for Intersection; give 0 or more"):
        make_device("engram/Intersection-v0", crash=-1)
    with pytest.raises(
        SpecError, match="order = 'random' does not suit engram/Intersection-v0, which wants one of sorted, shuffled"
    ):
        make_device("engram/Intersection-v0", order="random")
