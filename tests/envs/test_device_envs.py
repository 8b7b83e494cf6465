"""Device environments keep their contract, and the classic ones are Gymnasium's, step for step."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram import spaces
from engram.envs import device
from engram.envs.adapters.minatar import GAMES, MinAtar
from engram.envs.device import (
    DeviceStep,
    check_device_env,
    device_ids,
    is_device,
    make_device,
    register_device,
    uniforms,
)
from engram.envs.tasks.acrobot import Acrobot, AcrobotState
from engram.envs.tasks.cartpole import CartPole, CartPoleState
from engram.errors import EnvironmentFault, SpecError, UnknownName

NO_KEY = jnp.zeros(2, jnp.uint32)
CLASSIC = ["engram/CartPole-v1", "engram/Acrobot-v1"]


def counting_keys(count):
    """PRNGKey(0), PRNGKey(1), ...: the least random keys anyone would give."""
    return jnp.stack([jnp.zeros(count, jnp.uint32), jnp.arange(count, dtype=jnp.uint32)], 1)


def cartpole_states(generator, count):
    """States on both sides of every threshold."""
    return generator.uniform(-1, 1, (count, 4)).astype(np.float32) * np.float32([2.6, 3.0, 0.24, 3.5])


def acrobot_states(generator, count):
    return generator.uniform(-1, 1, (count, 4)).astype(np.float32) * np.float32([np.pi, np.pi, 8.0, 16.0])


def gymnasium_steps(id, states, actions):
    """What Gymnasium makes of each state and action: its state, observation, reward, terminated."""
    env = gymnasium.make(id).unwrapped
    outcomes = []
    for state, action in zip(states, actions, strict=True):
        env.reset(seed=0)
        env.state = state.astype(np.float64)
        observation, reward, terminated, _, _ = env.step(int(action))
        outcomes.append((np.asarray(env.state), observation, reward, terminated))
    return [np.array(column) for column in zip(*outcomes, strict=True)]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_cartpole_step_is_gymnasiums_to_float32_rounding(seed):
    generator = np.random.default_rng(seed)
    states, actions = cartpole_states(generator, 2000), generator.integers(0, 2, 2000)
    expected, observed, rewards, terminated = gymnasium_steps("CartPole-v1", states, actions)
    assert 0.1 < terminated.mean() < 0.9
    state = CartPoleState(jnp.asarray(states), jnp.zeros(2000, jnp.int32))
    following, step = jax.jit(jax.vmap(CartPole().step, (0, 0, None)))(state, jnp.asarray(actions), NO_KEY)
    np.testing.assert_allclose(following.physics, expected, rtol=3e-7, atol=1e-6)
    np.testing.assert_allclose(step.observation, observed, rtol=3e-7, atol=1e-6)
    np.testing.assert_array_equal(step.reward, rewards)
    np.testing.assert_array_equal(step.terminated, terminated)


@pytest.mark.parametrize("seed", [0, 1])
def test_an_acrobot_step_is_gymnasiums_to_float32_rounding(seed):
    """Within 2e-4 at up to 16 rad/s: Runge-Kutta with steps of 0.2 s multiplies rounding by some hundreds there."""
    generator = np.random.default_rng(seed)
    states, actions = acrobot_states(generator, 2000), generator.integers(0, 3, 2000)
    expected, observed, rewards, terminated = gymnasium_steps("Acrobot-v1", states, actions)
    assert 0.1 < terminated.mean() < 0.9
    state = AcrobotState(jnp.asarray(states), jnp.zeros(2000, jnp.int32))
    following, step = jax.jit(jax.vmap(Acrobot().step, (0, 0, None)))(state, jnp.asarray(actions), NO_KEY)
    np.testing.assert_allclose(step.observation, observed, rtol=2e-4, atol=2e-4)
    assert np.all(np.abs(np.asarray(following.physics)[:, :2]) <= np.float32(np.pi) + 1e-6)
    turned = np.asarray(following.physics)[:, :2] - expected[:, :2]
    np.testing.assert_allclose(turned - 2 * np.pi * np.round(turned / (2 * np.pi)), 0, atol=2e-4)
    clear = np.abs(-np.cos(expected[:, 0]) - np.cos(expected[:, 0] + expected[:, 1]) - 1) > 4e-4
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(np.asarray(step.terminated)[clear], terminated[clear])
    np.testing.assert_array_equal(np.asarray(step.reward)[clear], rewards[clear])


@pytest.mark.parametrize("id, env, tolerance", [("CartPole-v1", CartPole(), 2e-6), ("Acrobot-v1", Acrobot(), 1e-4)])
def test_whole_episodes_follow_gymnasium_flags_included(id, env, tolerance):
    """Gymnasium is given our float32 state before each step, so that only single steps are compared."""
    generator, theirs = np.random.default_rng(5), gymnasium.make(id)
    step_of, lengths = jax.jit(env.step), []
    for episode in range(3 if id == "Acrobot-v1" else 20):
        state, _ = env.reset(jnp.array([0, episode], jnp.uint32))
        theirs.reset(seed=episode)
        terminated, truncated, length = False, False, 0
        while not (terminated or truncated):
            length += 1
            action = int(generator.integers(env.actions))
            theirs.unwrapped.state = np.asarray(state.physics, np.float64)
            observed, reward, terminated, truncated, _ = theirs.step(action)
            state, step = step_of(state, jnp.int32(action), NO_KEY)
            np.testing.assert_allclose(step.observation, observed, rtol=tolerance, atol=tolerance)
            assert (float(step.reward), bool(step.terminated), bool(step.truncated)) == (reward, terminated, truncated)
        lengths.append(length)
    assert 500 in lengths if id == "Acrobot-v1" else max(lengths) < 500


@pytest.mark.parametrize("env, over", [(CartPole(), [3.0, 0, 0, 0]), (Acrobot(), [np.pi, 0, 0, 0])])
def test_both_flags_come_together_at_the_last_step(env, over):
    """As in Gymnasium, whose TimeLimit does not look at `terminated`."""
    state, _ = env.reset(NO_KEY)
    state = state._replace(physics=jnp.array(over, jnp.float32), steps=jnp.int32(499))
    _, step = env.step(state, jnp.int32(1), NO_KEY)
    assert (bool(step.terminated), bool(step.truncated)) == (True, True)
    _, step = env.step(state._replace(steps=jnp.int32(498)), jnp.int32(1), NO_KEY)
    assert (bool(step.terminated), bool(step.truncated)) == (True, False)


@pytest.mark.parametrize("id", CLASSIC)
def test_max_steps_is_the_step_that_truncates(id):
    env = make_device(id, max_steps=2)
    state, _ = env.reset(NO_KEY)
    state, first = env.step(state, jnp.int32(0), NO_KEY)
    _, second = env.step(state, jnp.int32(0), NO_KEY)
    assert [bool(first.truncated), bool(second.truncated)] == [False, True]


@pytest.mark.parametrize("id", CLASSIC)
def test_the_step_of_a_deterministic_environment_reads_no_key(id):
    env = make_device(id)
    state, _ = env.reset(NO_KEY)
    outcomes = [env.step(state, jnp.int32(0), jnp.array([word, 7], jnp.uint32)) for word in (0, 123)]
    jax.tree.map(np.testing.assert_array_equal, *outcomes)


@pytest.mark.parametrize("env, half", [(CartPole(), 0.05), (Acrobot(), 0.1)])
def test_first_states_are_uniform_and_independent_even_for_counting_keys(env, half):
    """Kolmogorov-Smirnov distance below 1.95/sqrt(n) (p = 0.001) per entry; correlations within 5/sqrt(n)."""
    count = 20_000
    state, _ = jax.jit(jax.vmap(env.reset))(counting_keys(count))
    unit = np.sort((np.asarray(state.physics, np.float64) / half + 1) / 2, axis=0)
    ranks = (np.arange(count) + 0.5) / count
    assert np.abs(unit - ranks[:, None]).max() < 1.95 / np.sqrt(count)
    correlations = np.corrcoef(np.asarray(state.physics).T) - np.eye(4)
    assert np.abs(correlations).max() < 5 / np.sqrt(count)
    assert np.all(np.asarray(state.steps) == 0)


@pytest.mark.parametrize("word", [0, 1])
def test_uniforms_change_in_every_bit_with_either_word_of_the_key(word):
    """A flipped key bit changes each of the 24 result bits in half of all cases (0.5 ± 5 standard errors)."""
    count = 4000
    keys = jax.random.bits(jax.random.key(3), (count, 2), "uint32")
    flips = jnp.uint32(1) << (jnp.arange(count, dtype=jnp.uint32) % 32)
    draw = jax.jit(jax.vmap(lambda key: (uniforms(key, 3) * 2**24).astype(jnp.uint32)))
    changed = np.asarray(draw(keys) ^ draw(keys.at[:, word].set(keys[:, word] ^ flips)))
    frequency = (changed[:, :, None] >> np.arange(24, dtype=np.uint32) & 1).mean(0)
    assert np.abs(frequency - 0.5).max() < 5 * 0.5 / np.sqrt(count)


@pytest.fixture(scope="module")
def breakout():
    env = make_device("minatar-breakout", sticky_action_probability=0.0)
    return env, jax.jit(env.step)


def test_breakout_ends_on_its_true_last_board_and_starts_on_a_first_one(breakout):
    """Standing still misses the ball: the last board shows the ball in the bottom row, the first one in row 3."""
    env, step_of = breakout
    state, first = env.reset(jnp.array([0, 1], jnp.uint32))
    assert np.argwhere(np.asarray(first[..., 1]))[0][0] == 3
    for length in range(1, 100):
        state, step = step_of(state, jnp.int32(0), jnp.array([0, length], jnp.uint32))
        if step.terminated:
            break
    assert (bool(step.terminated), bool(step.truncated), float(step.reward)) == (True, False, 0.0)
    ball, paddle = (np.argwhere(np.asarray(step.observation[..., channel]))[0] for channel in (1, 0))
    assert ball[0] == 9
    assert ball[1] != paddle[1]


def test_breakout_pays_one_per_brick_and_the_time_limit_truncates(breakout):
    """The ball is followed, so the game goes on; bricks that vanished are rewards that came."""
    env, _ = breakout
    env = make_device("minatar-breakout", sticky_action_probability=0.0, max_steps=60)
    step_of, rewards = jax.jit(env.step), 0.0
    state, board = env.reset(jnp.array([0, 1], jnp.uint32))
    for length in range(1, 61):
        ball, paddle = (int(np.argwhere(np.asarray(board[..., channel]))[0][1]) for channel in (1, 0))
        action = 0 if ball == paddle else (1 if ball < paddle else 2)
        state, step = step_of(state, jnp.int32(action), jnp.array([0, length], jnp.uint32))
        board, rewards = step.observation, rewards + float(step.reward)
        if step.terminated | step.truncated:
            break
    assert rewards == 30 - np.asarray(board[..., 3]).sum() > 0
    assert (length, bool(step.truncated), bool(step.terminated)) == (60, True, False)


def test_sticky_actions_repeat_the_last_action_with_the_given_probability():
    """At 1 the first action of pgx's state (nothing) is repeated for ever: the paddle never moves."""
    env = make_device("minatar-breakout", sticky_action_probability=1)
    state, first = env.reset(NO_KEY)
    _, step = jax.jit(env.step)(state, jnp.int32(1), jnp.array([4, 5], jnp.uint32))
    np.testing.assert_array_equal(step.observation[9, :, 0], first[9, :, 0])


def test_the_full_action_set_has_six_actions_and_its_third_moves_right():
    env = make_device("minatar-breakout", sticky_action_probability=0, minimal_actions=False)
    assert env.actions == 6
    state, first = env.reset(NO_KEY)
    _, step = jax.jit(env.step)(state, jnp.int32(3), NO_KEY)
    paddles = [int(np.argmax(board[9, :, 0])) for board in (first, step.observation)]
    assert paddles[1] == paddles[0] + 1


def test_a_first_use_inside_a_trace_leaves_no_tracer_behind():
    made = jax.jit(lambda key: make_device("minatar-breakout", max_steps=77).reset(key)[1])
    assert made(NO_KEY).shape == (10, 10, 4)
    env = make_device("minatar-breakout", max_steps=77)
    state, _ = env.reset(NO_KEY)
    assert jax.jit(env.step)(state, jnp.int32(0), NO_KEY)[1].observation.shape == (10, 10, 4)


def test_without_pgx_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pgx.minatar.breakout", None)
    with pytest.raises(SpecError, match=r"uv sync --extra board"):
        make_device("minatar-breakout", max_steps=78)


def test_the_catalogue_lists_every_environment():
    kinds = {entry.kind for entry in device._CATALOGUE.values()} if device_ids() else set()
    assert {*CLASSIC, *(f"minatar-{game}" for game in GAMES), "engram/Chain-v0"} <= set(device_ids())
    assert device_ids() == sorted(device_ids())
    folder = Path(device.__file__).parent / "tasks"
    registering = {path.stem for path in folder.glob("*.py") if "@register_device(" in path.read_text()}
    assert registering == {kind.__module__.rpartition(".")[2] for kind in kinds if ".tasks." in kind.__module__}
    assert is_device("engram/CartPole-v1")
    assert not is_device("CartPole-v1")


def test_equal_arguments_make_equal_environments():
    """Static arguments of jit are compared by hash: 1 and 1.0 must not compile twice."""
    one = make_device("minatar-breakout", sticky_action_probability=1)
    other = make_device("minatar-breakout", sticky_action_probability=1.0)
    assert (one, hash(one), repr(one)) == (other, hash(other), repr(other))


@pytest.mark.parametrize(
    "id, arguments, error, message",
    [
        ("engram/CartPole-v0", {}, UnknownName, "did you mean 'engram/CartPole-v1'"),
        ("engram/CartPole-v1", {"max_step": 3}, SpecError, "'max_step' is not an argument .* max_steps"),
        (
            "engram/CartPole-v1",
            {"max_steps": 3.5},
            SpecError,
            "max_steps = 3.5 .* type int; its arguments are max_steps",
        ),
        ("engram/CartPole-v1", {"max_steps": True}, SpecError, "max_steps = True"),
        ("engram/CartPole-v1", {"max_steps": 0}, SpecError, "give 1 or more"),
        ("engram/Acrobot-v1", {"max_steps": "9"}, SpecError, "max_steps = '9'"),
        ("engram/OneState-v0", {"rewards": (2.0,)}, SpecError, "it takes no arguments"),
        ("minatar-freeway", {"game": "breakout"}, SpecError, "'game' is not an argument"),
        ("minatar-freeway", {"sticky_action_probability": 1.5}, SpecError, "give a number in 0..1"),
        ("minatar-freeway", {"sticky_action_probability": float("nan")}, SpecError, "give a number in 0..1"),
        ("minatar-freeway", {"minimal_actions": 1}, SpecError, "type bool"),
    ],
)
def test_a_wrong_request_says_what_to_type_instead(id, arguments, error, message):
    with pytest.raises(error, match=message):
        make_device(id, **arguments)


def test_an_unknown_minatar_game_is_named():
    with pytest.raises(SpecError, match="did you mean 'breakout'"):
        MinAtar("brekout")


class Count(NamedTuple):
    steps: jax.Array


@dataclass(frozen=True)
class Sound:
    """The smallest environment that keeps the contract; the broken ones below differ from it in one thing."""

    size: int
    label: str | None = None

    actions = 2
    observation_space = spaces.Dict((("seen", spaces.Box((2,))), ("kind", spaces.Discrete(3))))

    def reset(self, key):
        return Count(jnp.int32(0)), {"seen": uniforms(key, 2), "kind": jnp.int32(0)}

    def step(self, state, action, key):
        steps = state.steps + 1
        observation = {"seen": uniforms(key, 2), "kind": steps % 3}
        return Count(steps), DeviceStep(observation, jnp.float32(0), steps >= self.size, jnp.bool_(False))


@pytest.fixture
def catalogue(monkeypatch):
    device_ids()  # ours must be loaded before, or they would be lost with the copy
    monkeypatch.setattr(device, "_CATALOGUE", dict(device._CATALOGUE))


def test_a_users_environment_can_be_registered_made_and_checked(catalogue):
    register_device("me/Sound-v0")(Sound)
    env = make_device("me/Sound-v0", size=3, label="x")
    assert is_device("me/Sound-v0")
    assert env == Sound(3, "x")
    check_device_env(env, steps=10)


def test_registering_refuses_a_taken_id_and_a_class_that_is_not_static(catalogue):
    with pytest.raises(
        SpecError, match=r"already engram.envs.tasks.cartpole.CartPole; register Sound under another id"
    ):
        register_device("engram/CartPole-v1")(Sound)
    with pytest.raises(SpecError, match="frozen=True"):
        register_device("me/Plain-v0")(type("Plain", (), {}))


def test_a_required_argument_that_is_missing_is_named(catalogue):
    register_device("me/Sound-v0")(Sound)
    with pytest.raises(SpecError, match="me/Sound-v0 needs size, which was not given; its arguments are size, label"):
        make_device("me/Sound-v0")
    with pytest.raises(SpecError, match="label = 3"):
        make_device("me/Sound-v0", size=2, label=3)


@pytest.mark.parametrize("id", [*CLASSIC, "minatar-breakout", "minatar-space_invaders"])
def test_our_environments_keep_the_contract(id):
    check_device_env(make_device(id), steps=60)


@pytest.mark.slow
@pytest.mark.parametrize("id", ["minatar-asterix", "minatar-freeway", "minatar-seaquest"])
def test_environments_that_compile_for_long_keep_the_contract(id):
    check_device_env(make_device(id), steps=300)


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("minimal", [True, False])
def test_every_game_fits_its_space_and_has_as_many_actions_as_pgx_allows(game, minimal):
    """By tracing only, which takes no compilation."""
    env = make_device(f"minatar-{game}", minimal_actions=minimal)
    state, first = jax.eval_shape(env.reset, NO_KEY)
    following, step = jax.eval_shape(env.step, state, jnp.int32(0), NO_KEY)
    assert state.game.legal_action_mask.shape == (env.actions,)
    assert (step.observation.shape, str(step.observation.dtype)) == (env.observation_space.shape, "bool")
    assert (first.shape, str(first.dtype)) == (env.observation_space.shape, "bool")
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), following
    )


def broken(reset=None, step=None, **attributes):
    """A `Sound` with some attributes or results replaced."""
    members = dict(attributes)
    if reset:
        members["reset"] = lambda self, key: reset(*Sound.reset(self, key))
    if step:
        members["step"] = lambda self, state, action, key: step(*Sound.step(self, state, action, key))
    return dataclass(frozen=True)(type("Broken", (Sound,), members))(3)


def seen(value):
    return lambda state, step: (state, step._replace(observation={**step.observation, "seen": value}))


def counted():
    """A reset that remembers how often it was called."""
    calls = []

    def reset(state, observation):
        calls.append(1)
        return state, {**observation, "seen": observation["seen"] + len(calls)}

    return reset


BROKEN = {
    "actions is 0": broken(actions=0),
    "expected an engram space": broken(observation_space="box"),
    "cannot be jitted": broken(step=lambda state, step: (state, step) if state.steps > 1 else (step, state)),
    "returned tuple": broken(step=lambda state, step: (state, tuple(step))),
    r"state after Broken.step is .*float32\[\].*expected .*int32\[\]": broken(
        step=lambda state, step: (Count(state.steps.astype(jnp.float32)), step)
    ),
    r"observation of Broken.reset is .*float32\[3\].*expected .*float32\[2\]": broken(
        reset=lambda state, seen: (state, {**seen, "seen": jnp.zeros(3)})
    ),
    r"observation of Broken.step is .*float32\[\]": broken(step=seen(jnp.float32(1))),
    r"reward of Broken.step is int32\[\]; expected float32\[\]": broken(
        step=lambda state, step: (state, step._replace(reward=jnp.int32(1)))
    ),
    r"terminated of Broken.step is int32\[\]; expected bool\[\]": broken(
        step=lambda state, step: (state, step._replace(terminated=state.steps))
    ),
    "reward that is not finite": broken(step=lambda state, step: (state, step._replace(reward=jnp.float32(jnp.nan)))),
    "observation seen of Broken is not finite": broken(step=seen(jnp.full(2, jnp.inf))),
    "observation kind of Broken left its space: 0..7": broken(
        step=lambda state, step: (state, step._replace(observation={**step.observation, "kind": jnp.int32(7)}))
    ),
    "two results for one key": broken(reset=counted()),
    "another result under jit": broken(
        reset=lambda state, seen: (state, {**seen, "kind": jnp.int32(isinstance(state.steps, jax.core.Tracer))})
    ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_the_contract_test_names_what_is_broken(message):
    with pytest.raises(EnvironmentFault, match=message):
        check_device_env(BROKEN[message], steps=10)


def test_an_environment_that_cannot_be_static_is_refused():
    with pytest.raises(EnvironmentFault, match="cannot be static"):
        check_device_env(Sound([3]), steps=10)
    plain = type(
        "Plain", (), {name: getattr(Sound, name) for name in ("actions", "observation_space", "reset", "step")}
    )
    with pytest.raises(EnvironmentFault, match="not a dataclass"):
        check_device_env(plain())


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
def test_each_number_of_a_flickering_cartpole_is_missing_with_its_probability(p):
    """4,000 numbers: a share is within four deviations of p; those that are shown are CartPole's."""
    env, plain = make_device("engram/FlickeringCartPole-v0", p=p), CartPole()
    keys = counting_keys(500)
    state, first = jax.vmap(env.reset)(keys)
    _, step = jax.vmap(env.step, (0, None, 0))(state, jnp.int32(1), keys[::-1])
    _, whole = jax.vmap(plain.reset)(keys)
    _, followed = jax.vmap(plain.step, (0, None, None))(state, jnp.int32(1), NO_KEY)
    for seen, truth in ((first, whole), (step.observation, followed.observation)):
        missing = np.isnan(seen)
        assert abs(missing.mean() - p) <= 4 * np.sqrt(p * (1 - p) / missing.size)
        assert np.array_equal(np.asarray(seen)[~missing], np.asarray(truth)[~missing])
    np.testing.assert_array_equal(step.reward, followed.reward)
    zeros = make_device("engram/FlickeringCartPole-v0", p=p, shown="zero").reset(keys[7])[1]
    np.testing.assert_array_equal(zeros, np.nan_to_num(np.asarray(first)[7]))


def test_a_flickering_cartpole_keeps_the_contract_where_numbers_may_be_missing():
    env = make_device("engram/FlickeringCartPole-v0")
    check_device_env(env, missing=True)
    with pytest.raises(EnvironmentFault, match="is not finite; bound it, or pass missing=True"):
        check_device_env(env)
    with pytest.raises(SpecError, match=r"p = 2\.0 was given; expected a probability, 0 to 1"):
        make_device("engram/FlickeringCartPole-v0", p=2)


def test_an_unscaled_cartpole_is_cartpole_in_other_units():
    env, key = make_device("engram/UnscaledCartPole-v0", reward=1000), counting_keys(3)[2]
    check_device_env(env)
    state, first = env.reset(key)
    np.testing.assert_allclose(first / jnp.array([1e-3, 1e6, 1e-3, 1e6]), CartPole().reset(key)[1], rtol=1e-6)
    assert float(env.step(state, jnp.int32(0), key)[1].reward) == 1000
