"""The runners: when they act, learn and write, and what stops them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Int, UInt32
from support.bad_envs import LENGTH, Broken, Walk, leave

from engram import spaces
from engram.agents.mind import ObservationSpec, OptimizerSpec
from engram.agents.policy import Seen
from engram.agents.q_learning import QLearner
from engram.agents.spec import AgentSpec, ReplaySpec
from engram.encoders.vector import VectorSpec
from engram.envs.device import DeviceStep, make_device
from engram.envs.host.episodes import episode_seed
from engram.envs.host.make import make_host
from engram.errors import EnvironmentFault, LearningFault
from engram.exploration.boltzmann import BoltzmannSpec
from engram.exploration.greedy import EpsilonGreedySpec
from engram.exploration.noise import ParameterNoiseSpec
from engram.external.episodic import EpisodicSpec
from engram.heads.attention import AttentionSpec
from engram.heads.q import DuelingSpec, QSpec
from engram.losses.regression import SquaredSpec
from engram.runners.acting import CompiledActor, NumpyActor, acting_program, choose_actor, compiled_act
from engram.runners.device import DeviceRunner
from engram.runners.host import HostRunner
from engram.runners.learner import compiled_settle
from engram.working.gated import GRUSpec

SPEC = AgentSpec(
    encoder=VectorSpec(widths=(8,)),
    replay=ReplaySpec(capacity=400, batch_size=8, start=60),
    exploration=EpsilonGreedySpec(start=1.0, end=0.1, steps=100),
)
KEY = jax.random.PRNGKey(1)


def never() -> bool:
    return False


@pytest.fixture
def walking() -> Iterator[Any]:
    """Makes host runners on Walk, begun, and closes them."""
    made = []

    def make(spec: AgentSpec = SPEC, envs: int = 1, seed: int = 0, group: int = 1) -> HostRunner:
        batch = make_host(Walk, envs=envs, seed=seed)
        runner = HostRunner(QLearner(spec, batch.observation_space, batch.actions, envs), batch, seed, group)
        runner.start()
        made.append(runner)
        return runner

    yield make
    for runner in made:
        runner.close()


def on_device(spec: AgentSpec = SPEC, envs: int = 1, seeds: tuple[int, ...] = (0,), env: Any = None) -> DeviceRunner:
    env = make_device("engram/CartPole-v1") if env is None else env
    return DeviceRunner(QLearner(spec, env.observation_space, env.actions, envs), env, seeds)


# -- acting --------------------------------------------------------------------------------------------------

GREEDY = replace(SPEC, exploration=EpsilonGreedySpec(start=0.0, end=0.0))


@pytest.mark.parametrize("space", [spaces.Box((3,)), spaces.Box((2, 2), "uint8")], ids=str)
@pytest.mark.parametrize("stack", [1, 2])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("head", [QSpec(), DuelingSpec(), DuelingSpec(width=4)], ids=str)
def test_both_actors_see_the_same_and_choose_the_same(space: spaces.Box, stack: int, head: Any, norm: bool):
    """Q of every action to 1e-5, and the best action, over twenty steps of three environments."""
    spec = replace(GREEDY, head=head, encoder=VectorSpec(widths=(8,), norm=norm), learn_every=3)
    agent = QLearner(replace(spec, observation=ObservationSpec(stack=stack)), space, 5, 3)
    state = agent.init(KEY)
    mind, policy = agent.mind(state), agent.plain()
    assert policy is not None
    program = acting_program(agent, policy, mind)
    assert program is not None
    plain, compiled = NumpyActor(agent, policy, mind, program, 0), CompiledActor(agent, mind, state.actor)
    actor, generator = state.actor, np.random.default_rng(0)
    nothing = np.zeros(3, np.float32)
    act = jax.jit(agent.act)
    for step in range(20):
        observation = (100 * generator.normal(size=(3, *space.shape))).astype(space.dtype)
        is_first = (generator.random(3) < 0.3) | (step == 0)
        actor, _, decision, _ = act(mind, actor, Seen(observation, is_first, nothing))
        chosen, _ = plain.act(observation, is_first, nothing, step)
        q = program(np.asarray(actor.policy.frames))
        np.testing.assert_allclose(q, decision.returns.q, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(chosen, q.argmax(-1))
        np.testing.assert_array_equal(compiled.act(observation, is_first, nothing, step)[0], chosen)


@pytest.mark.parametrize("kind", [NumpyActor, CompiledActor])
@pytest.mark.parametrize("envs", [1, 64])
def test_epsilon_falls_with_the_global_step(kind: type, envs: int):
    """The best of 4 actions is taken in 1 - 3/4 epsilon of the cases, within four standard deviations."""
    spec = replace(SPEC, exploration=EpsilonGreedySpec(start=1.0, end=0.0, steps=100), learn_every=envs,
                   replay=ReplaySpec(capacity=100 * envs))  # fmt: skip
    agent = QLearner(spec, spaces.Box((3,)), 4, envs)
    state = agent.init(KEY)
    observation = np.asarray(jax.random.normal(KEY, (envs, 3)))
    is_first = np.ones(envs, bool)
    ask = partial(state.learner.params, bits=jnp.zeros(0, jnp.uint32))
    best = np.asarray(jax.vmap(ask)(observation[:, None]).returns.q.argmax(-1))
    for step, epsilon in ((0, 1.0), (50, 0.5), (100, 0.0), (10_000, 0.0)):
        if kind is NumpyActor:
            actor = choose_actor(agent, agent.mind(state), state.actor, 0)
            assert isinstance(actor, NumpyActor)
        else:
            actor = CompiledActor(agent, agent.mind(state), replace(state.actor, steps=jnp.int32(step)))
        draws = 1280 // envs
        hits = 0
        for _ in range(draws):
            hits += int((actor.act(observation, is_first, np.zeros(envs, np.float32), step)[0] == best).sum())
            if isinstance(actor, CompiledActor):
                actor.restore({**actor.capture()[0], "steps": np.int32(step)}, {})  # it counts the steps itself
        expected = 1 - 0.75 * epsilon
        assert abs(hits / (draws * envs) - expected) <= 4 * (expected * (1 - expected) / (draws * envs)) ** 0.5


def test_small_vector_networks_act_in_numpy_and_others_compiled():
    kinds = {}
    for space, width in ((spaces.Box((3,)), 8), (spaces.Box((3,)), 50_000), (spaces.Discrete(3), 8)):
        agent = QLearner(replace(SPEC, encoder=VectorSpec(widths=(width,))), space, 2)
        state = jax.jit(agent.init)(KEY)
        kinds[type(space), width] = type(choose_actor(agent, agent.mind(state), state.actor, 0))
    assert kinds == {
        (spaces.Box, 8): NumpyActor,
        (spaces.Box, 50_000): CompiledActor,  # faster above some 100,000 parameters
        (spaces.Discrete, 8): CompiledActor,
    }


@pytest.mark.parametrize("changed", [
    {"exploration": BoltzmannSpec()}, {"exploration": ParameterNoiseSpec()}, {"head": AttentionSpec(hidden=8)},
    {"working": GRUSpec(hidden_size=4), "replay": replace(SPEC.replay, window=4)},
    {"external": EpisodicSpec(capacity=8, neighbours=2)},
], ids=lambda changed: next(iter(changed)))  # fmt: skip
def test_what_numpy_cannot_do_alike_acts_compiled(changed: dict[str, Any]):
    """Exploration that is more than random actions, an operation that is not known, or a memory."""
    agent = QLearner(replace(SPEC, **changed), spaces.Box((3,)), 2)
    state = jax.jit(agent.init)(KEY)
    assert type(choose_actor(agent, agent.mind(state), state.actor, 0)) is CompiledActor


def test_chance_is_epsilon_where_exploring_is_no_more_than_random_actions():
    greedy = EpsilonGreedySpec(start=1.0, end=0.2, steps=100)
    assert [greedy.chance(step) for step in (0, 50, 100, 10_000)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert BoltzmannSpec().chance(0) is None
    assert ParameterNoiseSpec().chance(0) is None


# -- learning ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "calls"), [(1, 36), (3, 13)])
def test_the_host_actor_has_the_parameters_from_before_the_last_call(walking, group: int, calls: int):
    """One call for each of the 36 moments of learning from 60 to 200; or one for every 12 steps from 60 to 204."""
    runner = walking(group=group)
    older = newer = bias_of(runner)
    updates = changes = 0
    for step in range(1, 205 if group == 3 else 204):
        runner.advance(step, never)
        if updates != updates_of(runner):
            older, newer = newer, bias_of(runner)
            updates = updates_of(runner)
            changes += 1
            assert not np.array_equal(older, newer), "learning moves the parameters"
        np.testing.assert_array_equal(runner.acting.network.head.linear.bias, older)
        held_by_actor = runner.collector.actor._program._slots[: runner.collector.actor._program._loaded]
        for held, meant in zip(held_by_actor, jax.tree.leaves(runner.acting), strict=True):
            np.testing.assert_array_equal(held, meant)
    assert changes == calls


def test_moments_that_share_a_call_learn_what_they_learn_alone(walking):
    """Actions are all random here, so that it does not matter which parameters act; 204 steps are 17 blocks of 12."""
    spec = replace(SPEC, exploration=EpsilonGreedySpec(start=1.0, end=1.0))
    alone, together = walking(spec), walking(spec, group=3)
    for runner in (alone, together):
        runner.advance(204, never)
    assert updates_of(alone) == updates_of(together) == 37
    one_by_one, at_once = alone.learner.state, together.learner.state
    for one, other in zip(jax.tree.leaves(one_by_one.learner), jax.tree.leaves(at_once.learner), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    for one, other in zip(jax.tree.leaves(one_by_one.replay), jax.tree.leaves(at_once.replay), strict=True):
        np.testing.assert_array_equal(one, other)


def bias_of(runner: HostRunner) -> np.ndarray:
    return np.array(runner.learner.state.learner.params.head.linear.bias)


def updates_of(runner: HostRunner) -> int:
    return int(runner.learner.state.learner.updates)


@pytest.mark.parametrize(("envs", "changes", "expected"), [
    (1, {}, 36),  # 60, 64, ..., 200
    (4, {"learn_every": 8, "updates": 2}, 36),  # two each at 64, 72, ..., 200
    (8, {}, 36),  # two each at 64, 72, ..., 200, as each step of all environments passes two multiples of 4
])  # fmt: skip
def test_both_runners_make_the_same_number_of_updates(walking, envs: int, changes: dict[str, int], expected: int):
    """In 200 steps, the first 59 of which only fill the replay."""
    spec = replace(SPEC, **changes)
    for runner in (walking(spec, envs), on_device(spec, envs)):
        runner.advance(200, never)
        assert runner.steps == 200
        assert runner.report()["updates"] == expected
    assert updates_due(spec, envs, 200) == expected


def updates_due(spec: AgentSpec, envs: int, steps: int) -> int:
    """Plain counting: at each step of all environments that completes a moment of learning, or several."""
    made = 0
    for step in range(envs, steps + 1, envs):
        if step >= spec.replay.start and step % spec.learn_every == 0:
            made += spec.updates * max(1, envs // spec.learn_every)
    return made


def test_a_report_covers_what_happened_since_the_last(walking):
    """Two reports of one stretch each hold the updates of their own; a report of nothing has no loss."""
    for make in (walking, on_device):
        runner, halves = make(), make()
        runner.advance(120, never)
        whole = runner.report()
        sums = []
        for until in (88, 120):
            halves.advance(until, never)
            sums.append(halves.report())
        first, second = (88 - 60) // 4 + 1, (120 - 88) // 4
        loss = (sums[0]["loss"] * first + sums[1]["loss"] * second) / (first + second)
        np.testing.assert_allclose(loss, whole["loss"], rtol=1e-5)
        assert halves.report()["loss"] is None
        assert {**sums[1], "loss": 0, "q_mean": 0} == {**whole, "loss": 0, "q_mean": 0}


# -- writing -------------------------------------------------------------------------------------------------


def test_the_rows_of_a_host_run_are_what_a_plain_loop_sees(walking):
    """Two environments whose episodes end by an end or by a time limit, each with a final row."""
    runner = walking(replace(SPEC, replay=replace(SPEC.replay, start=1_000)), envs=2, seed=3)
    taken = []
    act = runner.collector.actor.act
    runner.collector.actor.act = lambda *arguments: taken.append(act(*arguments)) or taken[-1]
    runner.advance(80, never)
    rows, cursor = runner.state().replay.ring.rows, runner.state().replay.ring.cursor
    ends = set()
    for env in range(2):
        expected = list(plain_rows(3, env, [int(action[env]) for action, _ in taken]))
        assert int(cursor[env]) == len(expected)
        ends |= {row[4] for row in expected if row[5]}
        for number, (observation, is_first, action, reward, terminated, _) in enumerate(expected):
            np.testing.assert_array_equal(rows.observation[number, env], observation)
            seen = rows.is_first[number, env], rows.reward[number, env], rows.terminated[number, env]
            assert seen == (is_first, np.float32(reward), terminated)
            assert rows.action[number, env] == action
    assert ends == {True, False}, "both kinds of ends were met"


def plain_rows(seed: int, index: int, actions: list[int]) -> Iterator[tuple[Any, ...]]:
    """(observation, is_first, action, reward, terminated, over) of every row; a final row acts and earns nothing."""
    env, episode = Walk(), 0
    observation, is_first = env.reset(seed=episode_seed(seed, index, 0))[0], True
    for action in actions:
        following, reward, terminated, truncated, _ = env.step(action)
        yield observation, is_first, action, reward, terminated, terminated or truncated
        observation, is_first = following, False
        if terminated or truncated:
            yield observation, False, 0, 0.0, False, False
            episode += 1
            observation, is_first = env.reset(seed=episode_seed(seed, index, episode))[0], True


# -- what stops a run ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")  # the actor says so too
@pytest.mark.parametrize("kind", ["host", "device"])
def test_learning_that_runs_away_is_reported_and_not_captured(walking, kind: str):
    """A step size beyond float32's range makes parameters infinite at once and the next loss not a number."""
    spec = replace(SPEC, loss=SquaredSpec(), optimizer=OptimizerSpec(learning_rate=1e38, clip_norm=0.0))
    runner = walking(spec) if kind == "host" else on_device(spec)
    runner.advance(80, never)
    with pytest.raises(LearningFault, match=r"not finite at update \d .* start a new run with a lower optimizer"):
        runner.report()
    with pytest.raises(LearningFault, match="not finite at update"):
        runner.capture()


@dataclass(frozen=True)
class Leaving:
    """Exits when it is compiled, in the function of this name."""

    where: str
    observation_space = spaces.Box((1,))
    actions = 2

    def reset(self, key: UInt32[Array, "2"]) -> tuple[Array, Array]:
        if self.where == "reset":
            raise SystemExit(0)
        return jnp.zeros(()), jnp.zeros(1)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, DeviceStep]:
        raise SystemExit(0)


@pytest.mark.parametrize("where", ["reset", "step"])
def test_a_device_environment_that_exits_is_named(where: str):
    with pytest.raises(EnvironmentFault, match="^SystemExit: 0 was raised while the environment was compiled; report"):
        on_device(env=Leaving(where)).advance(10, never)


FRAMES = replace(SPEC, observation=ObservationSpec(stack=3))


@pytest.mark.parametrize("envs", [1, 2, 3])
@pytest.mark.parametrize(
    "spec",
    [FRAMES, replace(FRAMES, working=GRUSpec(hidden_size=4), replay=replace(SPEC.replay, window=4))],
    ids=["numpy", "compiled"],
)
def test_a_step_that_an_environment_breaks_leaves_no_trace_in_the_actor(spec: AgentSpec, envs: int):
    """Environments after the broken one did not move, and go on where they are: to act in them twice on one
    observation would push it twice into the frames and the memory, and draw other numbers.
    """
    last = 22  # with learning, and blocks of several steps, behind it
    broken = partial(Broken, partial(leave, RuntimeError), 0, 0, last // LENGTH, last % LENGTH + 1)
    batch = make_host(broken, envs=envs, seed=0)
    runner = HostRunner(QLearner(replace(spec, learn_every=envs), batch.observation_space, 2, envs), batch, 0, 3)
    runner.start()
    runner.advance(last * envs, never)
    before = runner.capture()
    with pytest.raises(EnvironmentFault):
        runner.advance(runner.steps + envs, never)
    after = runner.capture()
    of_actor = {name for name in before.arrays if not name.startswith("env.")}
    assert of_actor == {name for name in after.arrays if not name.startswith("env.")}
    assert all(np.array_equal(before.arrays[name], after.arrays[name]) for name in of_actor)
    assert {**before.meta, "env": None} == {**after.meta, "env": None}
    assert after.meta["env"]["levels"] == ["boundary", *["replayed"] * (envs - 1)]
    runner.close()


@dataclass(frozen=True)
class Breaking:
    """The `at`-th action of an episode (its reset, for 0) gives a NaN as observation or as reward."""

    at: int
    field: str

    observation_space = spaces.Box((1,))
    actions = 2

    def reset(self, key: UInt32[Array, "2"]) -> tuple[Int[Array, ""], Float[Array, "1"]]:
        return jnp.int32(0), jnp.full(1, 0.0 if self.at else jnp.nan)

    def step(
        self, state: Int[Array, ""], action: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[Int[Array, ""], DeviceStep]:
        steps = state + 1
        value = jnp.where(steps == self.at, jnp.nan, 1.0)
        broken = {self.field: value}
        observation, reward = broken.get("observation", jnp.float32(0)), broken.get("reward", jnp.float32(0))
        return steps, DeviceStep(observation[None], reward, jnp.bool_(False), jnp.bool_(False))


@pytest.mark.parametrize(("at", "field"), [(0, "observation"), (7, "observation"), (7, "reward")])
def test_a_device_environment_that_gives_no_number_is_named(at: int, field: str):
    runner = on_device(envs=2, seeds=(5, 6), env=Breaking(at, field))
    runner.advance(40, never)
    good = max(at - 1, 0)
    where = rf"environment 0 of seed 5 gave an? {field} that is not finite.* in episode 0, at step {2 * good}"
    for use in (runner.report, runner.capture):
        with pytest.raises(EnvironmentFault, match=where):
            use()
    replay = runner._run.agent.replay.ring
    assert replay.cursor.tolist() == [[good, good], [good, good]], "the good rows, then nothing"
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(replay.rows))


# -- speed ---------------------------------------------------------------------------------------------------


def test_a_run_compiles_each_program_once(walking):
    """Two for the end of a cycle (with and without updates), but one for that of a group; one to act; two for the
    device (before learning and after); reports and restoring need no more."""
    for group, programs in ((1, 2), (3, 1)):
        host, restored = walking(group=group), walking(group=group)
        host.advance(100, never)
        host.report()
        captured = host.capture()
        restored.restore(captured.arrays, captured.meta, lambda empty, host=host: host.learner.state.replay.rows)
        restored.advance(160, never)
        assert compiled_settle(host.agent, group)._cache_size() == programs
    runner = on_device()
    for until in (20, 100, 101, 160):
        runner.advance(until, never)
        runner.report()
    captured = runner.capture()
    runner.restore(captured.arrays, captured.meta, lambda empty: empty)
    runner.advance(180, never)
    assert all(each._cache_size() <= 1 for each in runner._advance)


def test_a_compiled_actor_compiles_once():
    agent = QLearner(SPEC, spaces.Discrete(3), 2)
    state = agent.init(KEY)
    actor = CompiledActor(agent, agent.mind(state), state.actor)
    for step in range(5):
        actor.act(np.array([step % 3], np.int32), np.array([step == 0]), np.zeros(1, np.float32), step)
        actor.load(jax.tree.leaves(state.learner.target))
    trees = jax.tree.structure(agent.mind(state)), jax.tree.structure(state.actor)
    assert compiled_act(agent, *trees, 0)._cache_size() == 1
