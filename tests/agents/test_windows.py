"""Learning from windows: their targets against plain loops, the memory that acting and learning share, masks."""

from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram import spaces, specs
from engram.agents import examples
from engram.agents.examples import Nets
from engram.agents.mind import ObservationSpec, OptimizerSpec
from engram.agents.network import Previous, build
from engram.agents.policy import Mind, Seen
from engram.agents.q_learning import QLearner
from engram.agents.spec import AgentSpec, ReplaySpec, TargetSpec
from engram.checkpoint import lanes
from engram.encoders.vector import VectorSpec
from engram.envs.device import make_device
from engram.errors import SpecError
from engram.exploration.boltzmann import BoltzmannSpec
from engram.exploration.greedy import EpsilonGreedySpec
from engram.exploration.noise import ParameterNoiseSpec
from engram.losses.returns import NStep
from engram.play.playing import Policy
from engram.registry import register
from engram.replay import ring, sampling
from engram.replay.draw import Replay
from engram.run.trainer import Trainer
from engram.runners.device import DeviceRunner
from engram.types import Decision, Encoding, MemoryRead, Returns

KEY = jax.random.PRNGKey(0)
NO_BITS = jnp.zeros(0, jnp.uint32)


def no_bits(time: int) -> jax.Array:
    return jnp.zeros((time, 0), jnp.uint32)


cut_window = jax.jit(examples.window, static_argnums=0)
cut_transition = jax.jit(examples.transition, static_argnums=0)
shifts = jax.jit(jax.vmap(partial(sampling.back_to_start, reach=3, before=0), (None, None, None, 0)))


@register("working", "test-counter")
@specs.spec
class CounterSpec:
    """A memory that counts the steps of the episode and shows its inputs beside that."""

    present = True

    def build(self, inputs: int, key: object) -> "Counter":
        return Counter(inputs)


class Counter(eqx.Module):
    inputs: int = eqx.field(static=True)

    @property
    def width(self) -> int:
        return self.inputs + 1

    def init(self):
        return jnp.zeros((), jnp.int32)

    def step(self, carry, inputs, is_first):
        carry = jnp.where(is_first, 1, carry + 1)
        read = jnp.concatenate([inputs, carry[None].astype(jnp.float32)])
        return carry, MemoryRead(read, jnp.zeros((0, 1, 0)), jnp.zeros((0, 1, 0), jnp.int32))

    def unroll(self, carry, inputs, is_first):
        return jax.lax.scan(lambda carry, row: self.step(carry, *row), carry, (inputs, is_first))


SPEC = AgentSpec(
    encoder=VectorSpec(widths=(8,)),
    working=CounterSpec(),
    replay=ReplaySpec(capacity=32, batch_size=4, window=4, start=16),
    optimizer=OptimizerSpec(learning_rate=1e-3),
    exploration=EpsilonGreedySpec(start=0.3, end=0.3),
    target=TargetSpec(every=5),
    discount=0.9,
)


def filled(agent: QLearner, kinds: list[str]) -> tuple[ring.Ring, list[dict[str, float]]]:
    """A ring of one lane with the rows of some steps, and those rows; a final row follows each end."""
    rows: list[dict[str, float]] = []
    opens = True
    for kind in kinds:
        number = len(rows) + 1.0
        rows.append({"o": number, "first": opens, "a": len(rows) % 2, "r": 10 * number, "end": kind == "terminated",
                     "final": False})  # fmt: skip
        opens = kind != "step"
        if opens:
            rows.append({"o": number + 1, "first": False, "a": 0, "r": 0.0, "end": False, "final": True})
    columns = {name: np.array([row[key] for row in rows], dtype) for name, key, dtype in
               (("observation", "o", np.float32), ("is_first", "first", bool), ("action", "a", np.int32),
                ("reward", "r", np.float32), ("terminated", "end", bool))}  # fmt: skip
    columns["observation"] = columns["observation"][:, None]
    empty = ring.empty(agent.space, agent.rows_per_lane, 1)
    put = lanes.write_rows(empty, 0, 0, columns)
    return ring.Ring(put.rows, jnp.array([len(rows)], jnp.int32)), rows


def target(rows: list[dict[str, float]], row: int, n: int, discount: float) -> tuple[float, float, int]:
    """By a plain loop: the known return of a row, the discount of its bootstrap, and the row that is taken from."""
    total, factor, at = 0.0, 1.0, row
    for _ in range(n):
        total += factor * rows[at]["r"]
        factor *= discount
        at += 1
        if rows[at - 1]["end"]:
            factor = 0.0
        if rows[at]["final"]:
            break
    return total, factor, at


KINDS = st.lists(st.sampled_from(["step", "step", "step", "terminated", "truncated"]), min_size=8, max_size=40)


@settings(max_examples=20)
@given(KINDS, st.sampled_from([1, 3]), st.sampled_from([1, 2]), st.sampled_from([0, 2]))
def test_every_row_of_a_window_has_the_target_of_a_plain_loop(kinds, n, stack, burn_in):
    """Over both kinds of ends, and a ring of 32 rows that wraps."""
    observation = ObservationSpec(stack=stack, previous_action=True, previous_reward=True)
    spec = replace(SPEC, n_step=n, observation=observation, replay=replace(SPEC.replay, burn_in=burn_in))
    agent = QLearner(spec, spaces.Box((1,)), 2)
    kept, rows = filled(agent, kinds)
    first, count = (int(value[0]) for value in sampling.startable(kept, spec.rows - 1, spec.rows_before))
    for start in range(first, first + count):
        window = jax.device_get(cut_window(spec, kept, jnp.int32(start), jnp.int32(0), NO_BITS))
        begun = False
        for t in range(spec.replay.window):
            row = rows[start + t]
            begun |= row["first"]
            assert float(window.start.weight[t]) == float(not row["final"] and (begun or t >= burn_in))
            assert float(window.frames[t, -1, 0]) == row["o"]
            if stack == 2:
                assert float(window.frames[t, 0, 0]) == (0.0 if row["first"] else rows[start + t - 1]["o"])
            if not row["first"]:
                assert int(window.previous.action[t]) == rows[start + t - 1]["a"]
                assert float(window.previous.reward[t]) == rows[start + t - 1]["r"]
            if row["final"]:
                continue
            total, factor, at = target(rows, start + t, n, spec.discount)
            np.testing.assert_allclose(window.start.step.reward[t], total, rtol=1e-5)
            np.testing.assert_allclose(window.start.step.discount[t], factor, rtol=1e-5)
            assert int(window.start.step.offset[t]) == at - start - t
            assert int(window.start.action[t]) == row["a"]


@settings(max_examples=20)
@given(KINDS)
def test_an_aligned_window_begins_with_its_episode_where_that_is_within_reach(kinds):
    agent = QLearner(SPEC, spaces.Box((1,)), 2)
    kept, rows = filled(agent, kinds)
    oldest = max(0, len(rows) - agent.rows_per_lane)
    words = jnp.arange(8, dtype=jnp.uint32)
    for row in range(oldest, len(rows)):
        starts = [other for other in range(max(oldest, row - 3), row + 1) if rows[other]["first"]]
        begins = set(shifts(kept, jnp.int32(row), jnp.int32(0), words).tolist())
        assert begins == ({starts[-1]} if starts else {max(oldest, row - shift) for shift in range(4)})


def test_every_step_of_a_long_episode_is_learned_from_and_none_much_more_than_others():
    """An episode of 27 steps, windows of 4 with a burn-in of 2: no row is left to windows that do not count it."""
    spec = replace(SPEC, replay=replace(SPEC.replay, burn_in=2))
    agent = QLearner(spec, spaces.Box((1,)), 2)
    kept, rows = filled(agent, ["step"] * 27)
    bits = jax.random.bits(KEY, (4_000, 2))
    _, batch = jax.jit(partial(examples.draw, spec, build(spec, agent.space, 2, KEY)))(Replay(kept, None), bits)
    shown = np.asarray(batch.frames[:, : spec.replay.window, 0, 0], int)
    learned = np.bincount(shown[np.asarray(batch.start.weight) > 0], minlength=len(rows) + 1)[1:]
    inner = learned[: len(rows) - spec.rows]
    assert inner.min() > 0.25 * inner.mean()


@pytest.mark.parametrize("double", [False, True])
def test_without_a_memory_the_rows_of_a_window_lose_what_their_transitions_lose(double):
    """The same network scored by both: windows only order the work differently."""
    kinds = ["step"] * 5 + ["terminated"] + ["step"] * 4 + ["truncated"] + ["step"] * 9
    plain = replace(SPEC, working=AgentSpec().working, double=double, n_step=2,
                    replay=replace(SPEC.replay, window=1, burn_in=0))  # fmt: skip
    kept, rows = filled(QLearner(SPEC, spaces.Box((1,)), 2), kinds)
    params, lagged = (build(plain, spaces.Box((1,)), 2, key) for key in jax.random.split(KEY))
    windowed = replace(SPEC, double=double, n_step=2)
    nets = Nets(params, lagged, None)
    score_window = jax.jit(partial(examples.score_window, windowed, nets, by=examples.score))
    score_one = jax.jit(partial(examples.score_transition, plain, nets, by=examples.score))
    for start in range(len(rows) - windowed.rows):
        scored = jax.device_get(score_window(cut_window(windowed, kept, jnp.int32(start), jnp.int32(0), NO_BITS)))
        for t in range(windowed.replay.window):
            one = cut_transition(plain, kept, jnp.int32(start + t), jnp.int32(0), NO_BITS)
            alone = score_one(one)
            assert float(alone.weight) == float(scored.weight[t])
            if alone.weight:
                np.testing.assert_allclose(scored.q[t], alone.q, rtol=1e-5)
                np.testing.assert_allclose(scored.loss[t], alone.loss, rtol=1e-4)
                np.testing.assert_allclose(scored.error[t], alone.error, rtol=1e-4)


def test_acting_step_by_step_and_unrolling_see_the_same():
    """The memory, the previous action and the previous reward of acting are those of learning."""
    observation = ObservationSpec(previous_action=True, previous_reward=True)
    agent = QLearner(replace(SPEC, observation=observation, learn_every=2, reward_clip=1.0), spaces.Box((1,)), 3, 2)
    state = agent.init(KEY)
    params, actor = state.learner.params, state.actor
    generator = np.random.default_rng(0)
    seen = generator.normal(size=(12, 2, 1)).astype(np.float32)
    first = generator.random((12, 2)) < 0.3
    first[0] = True
    reward = (3 * generator.normal(size=(12, 2))).astype(np.float32)
    decisions, actions = [], []
    act = jax.jit(agent.act)
    for t in range(12):
        before = reward[t - 1] if t else np.zeros(2, np.float32)
        actor, action, decision, _ = act(Mind(params), actor, Seen(seen[t], first[t], before))
        decisions.append(decision)
        actions.append(np.asarray(action))
    for env in range(2):
        previous = Previous(
            jnp.array([0, *(action[env] for action in actions[:-1])]),
            jnp.array([0.0, *reward[:-1, env]]).clip(-1, 1),
        )
        memory = params.working.init()
        frames = jnp.array(seen[:, env])[:, None]
        _, unrolled = params.unroll(memory, frames, jnp.array(first[:, env]), previous, no_bits(12))
        for t in range(12):
            np.testing.assert_allclose(unrolled.returns.q[t], decisions[t].returns.q[env], rtol=1e-5, atol=1e-6)


def test_a_stored_memory_is_what_acting_had_before_the_row():
    """The counter before step t of an episode is t; windows begin with it, whatever row they begin at."""
    stored = replace(SPEC, replay=replace(SPEC.replay, stored_carry=True, align=False), learn_every=2)
    env = make_device("engram/Termination-v0", length=7)
    agent = QLearner(stored, env.observation_space, env.actions, 2)
    runner = DeviceRunner(agent, env, [0])
    runner.advance(24, lambda: False)
    (kept,) = jax.tree.map(lambda leaf: leaf[0], runner.capture().rows)
    for lane in range(2):
        step = 0
        for row in range(int(kept.cursor[lane]) - stored.rows):
            first = bool(kept.rows.is_first[row, lane])
            final = bool(kept.rows.is_first[row + 1, lane])
            step = 0 if first else step + 1
            window = cut_window(stored, kept, jnp.int32(row), jnp.int32(lane), NO_BITS)
            if not first and not final:
                assert int(window.carry) == step
    before = ring.nbytes(env.observation_space, 10)
    assert ring.nbytes(env.observation_space, 10, jnp.zeros((), jnp.int32)) == before + 10 * 4
    emptied = QLearner(replace(SPEC, learn_every=2), env.observation_space, env.actions, 2).nbytes()["replay"]
    assert agent.nbytes()["replay"] == emptied + 4 * stored.replay.capacity


def test_predict_step_by_step_is_the_network_unrolled():
    """A batch of three whose episodes begin at different steps, with the previous action and reward."""
    overrides = {"working.hidden_size": 8, "working.state": 8, "encoder.widths": (8,), "replay.window": 8,
                 "observation.previous_action": True, "observation.previous_reward": True}  # fmt: skip
    with Trainer("engram/RepeatPrevious-v0", "lru-dqn", envs=8, steps=400, overrides=overrides) as trainer:
        agent, generator = trainer.trained(), np.random.default_rng(0)
        network = agent.minds[0].network
        seen = generator.integers(0, 4, size=(9, 3)).astype(np.int32)
        first = generator.random((9, 3)) < 0.3
        first[0] = True
        reward = generator.normal(size=(9, 3)).astype(np.float32)
        state, actions = None, []
        for t in range(9):
            before = reward[t - 1] if t else None
            action, state = agent.predict(seen[t], state, episode_start=first[t], reward=before)
            actions.append(action)
        for env in range(3):
            previous = Previous(jnp.array([0, *(a[env] for a in actions[:-1])]), jnp.array([0.0, *reward[:-1, env]]))
            frames = jnp.array(seen[:, env])[:, None]
            _, unrolled = network.unroll(network.working.init(), frames, jnp.array(first[:, env]), previous, no_bits(9))
            np.testing.assert_array_equal([a[env] for a in actions], unrolled.preference.argmax(-1))
        with pytest.raises(SpecError, match="this agent reads the reward of the step before; pass it too"):
            agent.predict(seen[0], state)
        emptied = trainer.evaluate(episodes=4, forget=True)
        assert emptied.episodes == 4
    with (
        Trainer("engram/CartPole-v1", steps=100) as plain,
        pytest.raises(SpecError, match="forget empties a memory, and this"),
    ):
        plain.evaluate(episodes=1, forget=True)


def test_a_forgetful_network_counts_every_step_as_the_first():
    params = build(replace(SPEC, forget=True), spaces.Box((1,)), 2, KEY)
    plain = build(SPEC, spaces.Box((1,)), 2, KEY)
    nothing = Previous(jnp.zeros(3, jnp.int32), jnp.zeros(3))
    frames = jnp.ones((3, 1, 1))
    is_first = jnp.array([True, False, False])
    _, forgotten = params.unroll(params.working.init(), frames, is_first, nothing, no_bits(3))
    np.testing.assert_array_equal(forgotten.working.vector[:, -1], [1, 1, 1])
    for network in (plain, plain.forgetful()):
        _, decided = network.unroll(network.working.init(), frames, is_first, nothing, no_bits(3))
        expected = [1, 2, 3] if network is plain else [1, 1, 1]
        np.testing.assert_array_equal(decided.working.vector[:, -1], expected)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"replay.burn_in": 4}, r"replay\.burn_in = 4 leaves nothing to learn from in replay\.window = 4 rows"),
        ({"replay.window": 1}, r"learns from windows, but replay\.window = 1; set replay\.window=64"),
        ({"replay.window": 40}, r"replay\.capacity = 32 cannot hold one window of 40 rows"),
        ({"working": "none"}, r"replay\.window = 4.*are for a working memory; choose one, such as working=gru"),
        ({"working": "none", "replay.window": 1, "forget": "true"}, r"forget = true empties a working memory"),
    ],
)
def test_windows_that_cannot_be_are_refused_in_one_sentence(changes, sentence):
    with pytest.raises(SpecError, match=sentence):
        specs.override_all(SPEC, changes)


def test_settings_that_only_fit_together_may_be_given_in_any_order():
    for order in (["replay.window", "working"], ["working", "replay.window"]):
        changes = {"replay.window": "8", "working": "test-counter"}
        made = specs.override_all(AgentSpec(), {name: changes[name] for name in order})
        assert made.replay.window == 8
        assert made.has_memory


# -- masks ---------------------------------------------------------------------------------------------------

MASKED = spaces.Dict((("observation", spaces.Box((2,))), ("action_mask", spaces.Box((4,), "int8"))))
EXPLORATIONS = [
    EpsilonGreedySpec(start=1.0, end=1.0),
    EpsilonGreedySpec(start=0.0, end=0.0),
    BoltzmannSpec(temperature=50.0),
    ParameterNoiseSpec(scale=1.0),
    ParameterNoiseSpec(scale=1.0, random_opening=0.9),
]


@pytest.mark.parametrize("exploration", EXPLORATIONS, ids=str)
def test_a_forbidden_action_is_never_taken(exploration):
    spec = AgentSpec(encoder=VectorSpec(widths=(8,)), exploration=exploration, learn_every=512,
                     replay=ReplaySpec(capacity=512 * 8, start=1_024))  # fmt: skip
    agent = QLearner(spec, MASKED, 4, 512)
    state = agent.init(KEY)
    mask = jax.random.bernoulli(jax.random.PRNGKey(1), 0.4, (512, 4)).at[:, 2].set(True).astype(jnp.int8)
    observation = {"observation": jax.random.normal(KEY, (512, 2)), "action_mask": mask}
    seen = Seen(observation, jnp.ones(512, bool), jnp.zeros(512))
    _, action, decision, _ = jax.jit(agent.act)(agent.mind(state), state.actor, seen)
    allowed = np.asarray(mask)[np.arange(512), np.asarray(action)]
    assert allowed.all()
    unmasked = np.asarray(decision.returns.q).argmax(-1)
    assert not np.asarray(mask)[np.arange(512), unmasked].all(), (
        "some of the best actions are forbidden, or this shows nothing"
    )
    if not isinstance(exploration, EpsilonGreedySpec) or exploration.start == 1.0:
        counts = np.bincount(np.asarray(action), minlength=4)
        assert (counts > 0).all(), "every action is explored where it is allowed"


@pytest.mark.parametrize("double", [False, True])
def test_a_forbidden_action_is_never_bootstrapped_from(double):
    """The only target is reward + discount * the best *allowed* Q, however high a forbidden one is."""
    spec = replace(AgentSpec(encoder=VectorSpec(widths=(8,)), discount=0.5), double=double)
    params = build(spec, MASKED, 4, KEY)
    params = eqx.tree_at(lambda network: network.head.linear.bias, params, jnp.array([0.0, 1.0, 2.0, 1e6]))
    params = eqx.tree_at(lambda network: network.head.linear.weight, params, jnp.zeros((4, 8)))
    see = lambda mask: {"observation": jnp.zeros((1, 2)), "action_mask": jnp.array([mask], jnp.int8)}  # noqa: E731
    step = NStep(jnp.float32(3.0), jnp.float32(0.5), jnp.int32(1))
    start = examples.Start(jnp.int32(0), step, jnp.float32(1))
    for mask, best in (([1, 1, 1, 0], 2.0), ([1, 1, 0, 0], 1.0), ([1, 0, 0, 1], 1e6)):
        one = examples.Transition(start, see([1, 1, 1, 1]), see(mask), jnp.zeros((3, 0), jnp.uint32))
        scored = score(replace(spec, loss=Distance()), Nets(params, params, None), one)
        np.testing.assert_allclose(scored.loss, 3.0 + 0.5 * best, rtol=1e-6)


score = jax.jit(partial(examples.score_transition, by=examples.score), static_argnums=0)


@register("loss", "test-distance")
@specs.spec
class Distance:
    """The target itself, since the prediction is 0 here."""

    fits = ("number",)

    def __call__(self, predicted, target):
        return target.mean - predicted.mean


def decided(q: list[float], features: list[float] | None = None) -> Decision:
    """A decision of which exploration sees Q and what the head read."""
    nothing = jnp.zeros((0, 1, 0))
    read = MemoryRead(jnp.array(features or [1.0]), nothing, nothing.astype(jnp.int32))
    values = jnp.array(q)[:, None]
    return Decision(Encoding(read.vector, jnp.zeros((0, 0))), read,
                    Returns(values, jnp.zeros_like(values), jnp.zeros((0, len(q)))), None)  # fmt: skip


def test_boltzmann_exploration_draws_by_the_softmax_of_q():
    """Within four standard deviations of exp(q / T) / sum, over 20,000 draws."""
    spec = BoltzmannSpec(temperature=2.0, final_temperature=1.0, steps=10)
    q = [0.0, 1.0, -1.0]
    bits = jax.random.bits(KEY, (20_000, 2))
    for step, temperature in ((0, 2.0), (5, 1.5), (10, 1.0), (99, 1.0)):
        drawn = jax.vmap(lambda one, step=step: spec.choose(decided(q), one, one, step))(bits)
        expected = np.asarray(jax.nn.softmax(jnp.array(q) / temperature))
        share = np.bincount(np.asarray(drawn), minlength=3) / 20_000
        assert (np.abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 20_000)).all()
    assert spec.report(5) == {"temperature": 1.5}


def test_parameter_noise_is_one_choice_for_an_episode_and_another_for_the_next():
    """In steps that look alike one episode always chooses alike; over episodes, actions that tie are equally often."""
    spec = ParameterNoiseSpec(scale=1.0, final_scale=1.0)
    features = np.random.default_rng(0).normal(size=64).tolist()
    episodes = jax.random.bits(KEY, (4_000, 2))
    steps = jax.random.bits(jax.random.PRNGKey(1), (4_000, 2))
    choose = jax.vmap(lambda now, episode: spec.choose(decided([0.0] * 4, features), now, episode, 7))
    chosen = choose(steps, episodes)
    np.testing.assert_array_equal(chosen, choose(steps[::-1], episodes))
    share = np.bincount(np.asarray(chosen), minlength=4) / 4_000
    assert (np.abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4_000)).all()


def test_an_episode_may_open_with_random_actions_and_then_keeps_to_its_noise():
    """After k random actions another follows with the chance that was set; the first is as likely to be random."""
    spec, count, length = ParameterNoiseSpec(scale=1.0, final_scale=1.0, random_opening=0.6), 4_000, 8
    features = np.random.default_rng(0).normal(size=64).tolist()
    words = jax.random.bits(KEY, (length, 3, count, 2))
    episode, opened, chosen = jnp.zeros((count, 2), jnp.uint32), [], []
    for time in range(length):
        now, fresh, _ = words[time]
        episode = jax.vmap(spec.kept)(episode, jnp.full(count, time == 0), now, fresh)
        opened.append(np.asarray((episode == 0).all(1)))
        chosen.append(
            np.asarray(jax.vmap(lambda n, e: spec.choose(decided([0.0] * 4, features), n, e, 7))(now, episode))
        )
    opened, chosen = np.stack(opened), np.stack(chosen)
    for time in range(4):
        expected = 0.6 ** (time + 1)
        assert abs(opened[time].mean() - expected) < 4 * (expected * (1 - expected) / count) ** 0.5
    assert (opened[1:] <= opened[:-1]).all(), "it does not come back"
    settled = ~opened[3]
    np.testing.assert_array_equal(chosen[4][settled], chosen[3][settled])
    random = opened[3] & opened[4]
    share = (chosen[4] == chosen[3])[random].mean()
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / random.sum()) ** 0.5
    none = ParameterNoiseSpec()
    kept = jax.vmap(none.kept)(episode, jnp.ones(count, bool), words[0, 0], words[0, 1])
    np.testing.assert_array_equal(kept, words[0, 1])


def test_openings_are_played_when_exploring_outside_of_training_too():
    spec = AgentSpec(
        encoder=VectorSpec(widths=(8,)), exploration=ParameterNoiseSpec(final_scale=0.0, random_opening=0.5)
    )
    policy, rows = Policy(Mind(build(spec, spaces.Box((2,)), 4, KEY)), spec), np.ones((4_000, 2), np.float32)
    generator, first = np.random.default_rng(0), np.zeros(4_000, bool)
    greedy, _ = policy.act(rows, None, None, None, None)
    action, state = policy.act(rows, None, None, None, generator)
    for expected in (0.5, 0.25):  # of these one in four is the best one by chance
        away = (action != greedy).mean()
        assert abs(away - 0.75 * expected) < 0.035
        action, state = policy.act(rows, state, first, None, generator)


def test_parameter_noise_has_the_standard_deviation_that_was_set_whatever_the_features():
    """Two actions, one standard deviation of the difference apart: the worse one is taken in 16 % of the episodes."""
    episodes = jax.random.bits(KEY, (8_000, 2))
    spec = ParameterNoiseSpec(scale=0.5, final_scale=0.5)
    gap = 0.5 * 2**0.5
    for size in (0.01, 100.0):
        features = (size * np.random.default_rng(1).normal(size=128)).tolist()
        chosen = jax.vmap(lambda one, f=features: spec.choose(decided([0.0, gap], f), one, one, 0))(episodes)
        assert abs(float((chosen == 0).mean()) - 0.1587) < 4 * (0.1587 * 0.8413 / 8_000) ** 0.5
