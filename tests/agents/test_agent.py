"""The agent: what it learns on probes whose values are known, and each of its four functions."""

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram import spaces
from engram.agents import examples
from engram.agents.agent import AgentState, Experience
from engram.agents.mind import ObservationSpec, OptimizerSpec, RewardSpec
from engram.agents.network import build
from engram.agents.policy import Seen, push
from engram.agents.q_learning import QLearner
from engram.agents.spec import AgentSpec, AnnealSpec, ReplaySpec, TargetSpec
from engram.checkpoint import lanes
from engram.encoders.features import FeaturesSpec
from engram.encoders.vector import VectorSpec
from engram.envs.device import make_device
from engram.errors import SpecError
from engram.exploration.greedy import EpsilonGreedySpec
from engram.heads.q import DuelingSpec, QSpec
from engram.heads.returns import CategoricalSpec, ImplicitSpec, QuantileSpec
from engram.losses.bootstrap import MunchausenSpec
from engram.losses.distributional import CrossEntropySpec, HLGaussSpec, QuantileHuberSpec
from engram.losses.regression import SquaredSpec
from engram.losses.returns import squashed
from engram.replay import ring, sampling
from engram.replay.prioritized import PrioritizedSpec
from engram.runners.device import DeviceRunner
from engram.types import TimeStep

SMALL = AgentSpec(
    encoder=VectorSpec(widths=(32,)),
    replay=ReplaySpec(capacity=1_000, batch_size=32, start=100),
    optimizer=OptimizerSpec(learning_rate=5e-3, final_fraction=0.01, decay_steps=6_000),
    exploration=EpsilonGreedySpec(start=1.0, end=1.0, steps=1),
    target=TargetSpec(every=20),
    discount=0.9,
)
KEY = jax.random.PRNGKey(0)
PROBES = ["OneState", "OneAction", "TwoActions", "ObservationValue", "OneDelay", "Chain", "Truncation", "Termination"]


def learned(probe: str, spec: AgentSpec, steps: int = 6_000) -> tuple[np.ndarray, np.ndarray]:
    """Q after training on a probe, and the true Q, for each of its observations.

    A stack of two shows each observation after the one that is listed before it.
    """
    env = make_device(f"engram/{probe}-v0")
    runner = DeviceRunner(QLearner(spec, env.observation_space, env.actions), env, [0])
    runner.advance(steps, lambda: False)
    runner.report()
    network = runner.minds()[0].network
    observations, values = zip(*env.values(spec.discount), strict=True)
    frames = [[shown] for shown in observations]
    if spec.observation.stack == 2:
        before = [np.zeros_like(observations[0]), *observations[:-1]]
        frames = list(zip(before, observations, strict=True))
    bits = jnp.broadcast_to(network.still, (len(frames), network.words))
    return np.asarray(jax.vmap(network)(jnp.array(frames), bits).returns.q), np.array(values)


@pytest.mark.parametrize("probe", PROBES)
def test_the_learned_q_of_a_probe_is_its_true_value(probe):
    """Within 2 % of the largest value, or 0.03: the step size has fallen to a hundredth by the end."""
    q, values = learned(probe, SMALL)
    np.testing.assert_allclose(q, values, atol=max(0.03, 0.02 * np.abs(values).max()))


@pytest.mark.slow
@pytest.mark.parametrize("probe", ["Chain", "Truncation", "TwoActions"])
@pytest.mark.parametrize(
    "change",
    [
        {"n_step": 3},
        {"double": True},
        {"head": DuelingSpec(width=8)},
        {"loss": SquaredSpec()},
        {"encoder": VectorSpec(widths=(32,), norm=True)},
        {"encoder": FeaturesSpec(token_width=16, heads=2, width=32)},
        {"target": TargetSpec(every=1, rate=0.05)},
    ],
    ids=str,
)
def test_every_variant_learns_the_true_value(probe, change):
    q, values = learned(probe, replace(SMALL, **change))
    np.testing.assert_allclose(q, values, atol=max(0.03, 0.02 * np.abs(values).max()))


DISTRIBUTIONS = {
    "categorical": {"head": QSpec(returns=CategoricalSpec(atoms=21, low=-2, high=2)), "loss": CrossEntropySpec()},
    "hl-gauss": {"head": QSpec(returns=CategoricalSpec(atoms=21, low=-2, high=2)), "loss": HLGaussSpec()},
    "quantile": {"head": DuelingSpec(returns=QuantileSpec(quantiles=8)), "loss": QuantileHuberSpec()},
    "implicit": {"head": QSpec(returns=ImplicitSpec(samples=8, cosines=16)), "loss": QuantileHuberSpec()},
    "prioritized": {"draw": PrioritizedSpec(correction_updates=1_000)},
    "annealed": {"anneal": AnnealSpec(updates=500, n_step=4, discount=0.5), "n_step": 2},
    "prioritized by the loss": {
        "head": QSpec(returns=CategoricalSpec(atoms=21, low=-2, high=2)), "loss": CrossEntropySpec(), "n_step": 2,
        "draw": PrioritizedSpec(by="loss", correction_updates=1_000),
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
@pytest.mark.parametrize("probe", ["Chain", pytest.param("TwoActions", marks=pytest.mark.slow)])
def test_distributions_and_priorities_learn_the_true_value(probe, kind):
    """Their mean; a classification ends a little wider of it than a regression."""
    q, values = learned(probe, replace(SMALL, **DISTRIBUTIONS[kind]))
    np.testing.assert_allclose(q, values, atol=max(0.05, 0.05 * np.abs(values).max()))


@pytest.mark.parametrize("head", [QSpec(), QSpec(returns=QuantileSpec(quantiles=4))], ids=["scalar", "quantile"])
def test_rescaled_returns_are_learned_as_their_roots(head):
    """OneDelay pays its return a step later: each Q is h of what it is worth, and the discount acts on the return."""
    loss = SquaredSpec() if head == QSpec() else QuantileHuberSpec()
    rescaled = replace(SMALL, head=head, loss=loss, reward=RewardSpec(rescale=True))
    q, values = learned("Chain", rescaled)
    np.testing.assert_allclose(q, squashed(jnp.asarray(values)), atol=0.03)


def test_the_annealing_counts_updates_stops_at_its_end_and_begins_anew_with_a_reset():
    one = agent(
        anneal=AnnealSpec(updates=3), optimizer=replace(SMALL.optimizer, reset_every=6),
        replay=replace(SMALL.replay, start=12),
    )  # fmt: skip
    steps = experience([[False]] * 12, [[True]] * 12)
    state = compiled(one).observe(one.init(KEY), steps)
    counts = []
    for _ in range(8):
        state = compiled(one).learn(state)[0]
        counts.append(int(state.learner.annealed))
    assert counts == [1, 2, 3, 3, 3, 0, 1, 2]


def test_munchausen_learns_its_own_fixed_point():
    """Two actions worth 1 and -1, once: Q = r + 0.5 T log softmax(Q / T), bounded below; solved by iteration."""
    bootstrap = MunchausenSpec(scale=0.5, temperature=1.0, floor=-5.0)
    q, values = learned("TwoActions", replace(SMALL, bootstrap=bootstrap, loss=SquaredSpec()))
    for found, reward in zip(q, values, strict=True):
        fixed = reward.copy()
        for _ in range(200):
            fixed = reward + 0.5 * (fixed - np.log(np.exp(fixed).sum()))
        np.testing.assert_allclose(found, fixed, atol=0.06)


def test_a_stack_of_two_learns_the_chain():
    q, values = learned("Chain", replace(SMALL, observation=ObservationSpec(stack=2)))
    np.testing.assert_allclose(q, values, atol=0.03)


class Compiled(NamedTuple):
    act: Any
    observe: Any
    learn: Any


@cache
def compiled(one: QLearner) -> Compiled:
    return Compiled(jax.jit(one.act), jax.jit(one.observe), jax.jit(one.learn))


# -- act -----------------------------------------------------------------------------------------------------


def agent(envs: int = 1, actions: int = 3, **changes: object) -> QLearner:
    return QLearner(replace(SMALL, **changes), spaces.Box((2,)), actions, envs)


def test_without_exploration_the_best_action_is_taken():
    greedy = agent(envs=8, learn_every=8, exploration=EpsilonGreedySpec(start=0.0, end=0.0))
    state = greedy.init(KEY)
    observation = jax.random.normal(KEY, (8, 2))
    seen = Seen(observation, jnp.ones(8, bool), jnp.zeros(8))
    _, action, decision, _ = compiled(greedy).act(greedy.mind(state), state.actor, seen)
    np.testing.assert_array_equal(action, decision.returns.q.argmax(-1))


def test_epsilon_is_the_share_of_random_actions():
    """With epsilon 1/2 and 3 actions, the greedy one is taken in 1/2 + 1/6 of the cases."""
    half = agent(envs=4096, learn_every=4096, exploration=EpsilonGreedySpec(start=0.5, end=0.5),
                 replay=replace(SMALL.replay, capacity=4096 * 16, start=4096 * 2))  # fmt: skip
    state = half.init(KEY)
    seen, act = Seen(jnp.ones((4096, 2)), jnp.ones(4096, bool), jnp.zeros(4096)), compiled(half).act
    actor, action, decision, _ = act(half.mind(state), state.actor, seen)
    share = float((action == decision.returns.q.argmax(-1)).mean())
    assert abs(share - 2 / 3) < 4 * (2 / 9 / 4096) ** 0.5  # four standard deviations
    assert int(actor.steps) == 4096
    again = act(half.mind(state), actor, seen).action
    assert not np.array_equal(action, again), "each step draws anew"


def test_the_stack_is_pushed_and_emptied_where_an_episode_begins():
    frames = jnp.array([[[1.0], [2.0]], [[3.0], [4.0]]])  # two environments, a stack of two
    pushed = push(frames, jnp.array([[5.0], [6.0]]), jnp.array([False, True]))
    np.testing.assert_array_equal(pushed[..., 0], [[2.0, 5.0], [0.0, 6.0]])


# -- observe -------------------------------------------------------------------------------------------------


def experience(done: list[list[bool]], keep: list[list[bool]]) -> Experience:
    """Steps numbered 1, 2, ... by time and environment; final observations are their negatives."""
    shape = np.shape(done)
    number = jnp.arange(1, 1 + np.prod(shape)).reshape(shape)
    observation = jnp.stack([number, number], -1).astype(jnp.float32)
    row = TimeStep(observation, jnp.zeros(shape, bool), number, number.astype(jnp.float32), jnp.array(done))
    return Experience(row, jnp.array(done), -observation, jnp.array(keep), None)


def stored(one: QLearner, given: Experience) -> ring.Ring:
    return compiled(one).observe(one.init(KEY), given).replay.ring


def test_an_ended_episode_gets_a_final_row_after_its_last_step():
    one = agent(envs=2, learn_every=2)
    replay = stored(one, experience([[False, True], [True, False]], [[True, True], [True, True]]))
    assert replay.cursor.tolist() == [3, 3]
    assert replay.rows.observation[:3, 0, 0].tolist() == [1.0, 3.0, -3.0]
    assert replay.rows.observation[:3, 1, 0].tolist() == [2.0, -2.0, 4.0]
    assert replay.rows.terminated[:3, 1].tolist() == [True, False, False]


def test_padding_writes_nothing():
    one = agent()
    replay = stored(one, experience([[True], [False]], [[False], [True]]))
    assert replay.cursor.tolist() == [1]
    assert replay.rows.reward[0, 0] == 2.0


# -- learn ---------------------------------------------------------------------------------------------------


def filled(one: QLearner, reward: float = 1.0, rows: int = 64) -> AgentState:
    """A state whose replay holds one long episode."""
    shape = (rows, 1)
    row = TimeStep(jnp.ones((*shape, 2)), jnp.zeros(shape, bool), jnp.zeros(shape, jnp.int32),
                   jnp.full(shape, reward), jnp.zeros(shape, bool))  # fmt: skip
    no = jnp.zeros(shape, bool)
    return compiled(one).observe(one.init(KEY), Experience(row, no, row.observation, ~no, None))


def bias(network: Any) -> jax.Array:
    return network.head.linear.bias


def test_a_hard_target_copies_and_a_soft_one_follows():
    hard, soft = agent(target=TargetSpec(every=2)), agent(target=TargetSpec(every=1, rate=0.25))
    state = filled(hard)
    after_one, _ = compiled(hard).learn(state)
    assert bool(jnp.array_equal(bias(after_one.learner.target), bias(state.learner.target)))
    after_two, _ = compiled(hard).learn(after_one)
    assert bool(jnp.array_equal(bias(after_two.learner.target), bias(after_two.learner.params)))
    state = filled(soft)
    after, _ = compiled(soft).learn(state)
    old, new = bias(state.learner.target), bias(after.learner.params)
    np.testing.assert_allclose(bias(after.learner.target), old + 0.25 * (new - old), rtol=1e-5, atol=1e-7)


def test_an_update_that_is_not_finite_leaves_no_trace_and_is_named():
    one = agent(loss=SquaredSpec())
    state = filled(one, reward=float("inf"))
    after, _ = compiled(one).learn(state)
    assert int(after.learner.fault) == 1
    assert one.fault(after, 100, [0]).startswith(
        "the loss, its gradient or an error was not finite at update 1 (before step 100)"
    )
    assert one.fault(state, 100, [0]) is None
    for left, right in zip(jax.tree.leaves(after.learner.params), jax.tree.leaves(state.learner.params), strict=True):
        np.testing.assert_array_equal(left, right)
    optimizers = after.learner.optimizer, state.learner.optimizer
    for left, right in zip(*map(jax.tree.leaves, optimizers), strict=True):
        np.testing.assert_array_equal(left, right)
    again, _ = compiled(one).learn(after)
    assert int(again.learner.fault) == 1, "the first one is remembered"


def test_clipped_rewards_teach_what_their_clips_teach():
    clipped, plain = agent(reward_clip=1.0), agent()
    huge, _ = compiled(clipped).learn(filled(clipped, reward=7.0))
    one, _ = compiled(plain).learn(filled(plain, reward=1.0))
    np.testing.assert_array_equal(bias(huge.learner.params), bias(one.learner.params))


def test_the_step_size_falls_to_its_final_fraction():
    """Adam's step is the step size while gradients keep their sign, so the last bias moves show the schedule."""
    one = agent(optimizer=OptimizerSpec(learning_rate=1e-3, final_fraction=0.1, decay_steps=40), discount=0.0)
    state = filled(one, reward=100.0)
    moves = []
    for _ in range(12):
        after, _ = compiled(one).learn(state)
        moves.append(float(abs(bias(after.learner.params)[0] - bias(state.learner.params)[0])))
        state = after
    np.testing.assert_allclose(moves[0], 1e-3, rtol=0.01)
    np.testing.assert_allclose(moves[-1], 1e-4, rtol=0.05)


# -- what does not fit ---------------------------------------------------------------------------------------


def test_environments_and_the_rhythm_of_learning_must_fit():
    with pytest.raises(SpecError, match="learn_every = 4 and 3 environments do not fit"):
        agent(envs=3)


def test_lanes_too_short_for_a_window_are_refused():
    with pytest.raises(SpecError, match=r"leaves 2 rows for each of 400 environments"):
        agent(envs=400)


# -- targets -------------------------------------------------------------------------------------------------


def timeline(kinds: list[str]) -> list[dict[str, float]]:
    """Rows of one lane: steps, and a final row after each that ends its episode."""
    rows: list[dict[str, float]] = []
    opens = True
    for kind in kinds:
        number = len(rows) + 1.0
        rows.append({"o": number, "first": opens, "r": 10 * number, "end": kind == "terminated", "final": False})
        opens = kind != "step"
        if opens:
            rows.append({"o": number + 1, "first": False, "r": 0.0, "end": False, "final": True})
    return rows


def expected(rows: list[dict[str, float]], row: int, n: int, stack: int, discount: float) -> tuple:
    """By plain loops: stacked observation, return, discount of the bootstrap, and the observation it is taken from."""
    total, factor, at = 0.0, 1.0, row
    for _ in range(n):
        total += factor * rows[at]["r"]
        factor *= discount
        at += 1
        if rows[at - 1]["end"]:
            factor = 0.0
        if rows[at]["final"]:
            break

    def frames(newest: int) -> list[float]:
        out, alive = [], True
        for back in range(stack):
            out.insert(0, rows[newest - back]["o"] if alive and newest >= back else 0.0)
            alive = alive and newest >= back and not rows[newest - back]["first"]
        return out

    return frames(row), total, factor, frames(at)


transition = jax.jit(examples.transition, static_argnums=0)


@settings(max_examples=25)
@given(
    st.lists(st.sampled_from(["step", "step", "terminated", "truncated"]), min_size=6, max_size=24),
    st.sampled_from([1, 3]),
    st.sampled_from([1, 2]),
)
def test_every_row_that_can_be_drawn_gives_the_target_of_a_plain_loop(kinds, n, stack):
    """Over episode ends of both kinds, stacks, n-step windows and a ring of 16 rows that wraps."""
    replay = replace(SMALL.replay, capacity=16, start=10)
    one = QLearner(
        replace(SMALL, n_step=n, observation=ObservationSpec(stack=stack), replay=replay), spaces.Box((1,)), 2
    )
    rows = timeline(kinds)
    ring_ = one.init(KEY).replay.ring
    columns = {name: [row[key] for row in rows] for name, key in
               (("observation", "o"), ("is_first", "first"), ("reward", "r"), ("terminated", "end"))}  # fmt: skip
    observation = np.array(columns["observation"], np.float32)[:, None]
    ring_ = lanes.write_rows(
        ring_, 0, 0, {"observation": observation, "is_first": np.array(columns["is_first"]),
                      "action": np.zeros(len(rows), np.int32), "reward": np.array(columns["reward"], np.float32),
                      "terminated": np.array(columns["terminated"])})  # fmt: skip
    ring_ = ring.Ring(ring_.rows, jnp.array([len(rows)], jnp.int32))
    first, count = (int(value[0]) for value in sampling.startable(ring_, n, stack - 1))
    for row in range(first, first + count):
        made = transition(one.spec, ring_, jnp.int32(row), jnp.int32(0), jnp.zeros(0, jnp.uint32))
        assert float(made.start.weight) == (0.0 if rows[row]["final"] else 1.0)
        if rows[row]["final"]:
            continue
        shown, total, factor, following = expected(rows, row, n, stack, SMALL.discount)
        np.testing.assert_array_equal(made.observation[:, 0], shown)
        np.testing.assert_allclose(made.start.step.reward, total, rtol=1e-5)
        np.testing.assert_allclose(made.start.step.discount, factor, rtol=1e-5)
        if factor:
            np.testing.assert_array_equal(made.following[:, 0], following)


# -- resets and decay ------------------------------------------------------------------------------------------


def test_a_reset_makes_the_head_fresh_and_half_of_the_encoder_and_keeps_the_replay():
    optimizer = OptimizerSpec(learning_rate=0.01, final_fraction=0.5, decay_steps=1_000, reset_every=3)
    one = agent(optimizer=optimizer, learn_every=1)
    state = filled(one)
    for _ in range(2):
        state, _ = compiled(one).learn(state)
    plain = replace(one, spec=replace(one.spec, optimizer=replace(optimizer, reset_every=0)))
    reset, without = (compiled(each).learn(state)[0].learner for each in (one, plain))
    key = jax.random.fold_in(reset.key, 0x5EED)
    fresh = build(one.spec, one.space, one.actions, key)
    np.testing.assert_array_equal(reset.params.head.linear.weight, fresh.head.linear.weight)
    for found, old, new in zip(*map(jax.tree.leaves, (reset.params.encoder, without.params.encoder, fresh.encoder)),
                               strict=True):  # fmt: skip
        np.testing.assert_allclose(found, 0.5 * old + 0.5 * new, rtol=1e-4, atol=1e-6)
    for found, expected in zip(*map(jax.tree.leaves, (reset.target, reset.params)), strict=True):
        np.testing.assert_array_equal(found, expected)
    counts = [int(leaf) for leaf in jax.tree.leaves(reset.optimizer) if leaf.ndim == 0]
    assert sorted(counts) == [0, 3], "of Adam, and of the step size, which goes on falling"
    assert int(reset.updates) == 3


def test_weight_decay_takes_a_share_of_every_weight():
    """Decoupled from the gradient: AdamW moves a weight further by step size x decay x weight."""
    found = []
    for decay in (0.0, 0.1):
        one = agent(optimizer=OptimizerSpec(learning_rate=0.01, weight_decay=decay), learn_every=1)
        state = filled(one)
        found.append((state.learner.params, compiled(one).learn(state)[0].learner.params))
    (before, plain), (_, decayed) = found
    for old, one, other in zip(*map(jax.tree.leaves, (before, plain, decayed)), strict=True):
        np.testing.assert_allclose(one - other, 0.01 * 0.1 * old, rtol=2e-3, atol=1e-7)
