"""Games of two sides: what the other side is worth counts against, in every target, and by the environment's sign."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import engram
from engram import specs
from engram.agents import presets
from engram.agents.mind import OptimizerSpec, RecallSpec, RewardSpec
from engram.agents.pqn import PQNSpec
from engram.agents.rollout_learning import CollectSpec
from engram.agents.spec import AgentSpec, ReplaySpec, TargetSpec
from engram.encoders.vector import VectorSpec
from engram.envs.device import DeviceStep, check_device_env, make_device
from engram.errors import EnvironmentFault, SpecError
from engram.exploration.greedy import EpsilonGreedySpec
from engram.external.episodic import EpisodicSpec
from engram.heads.q import QSpec
from engram.heads.returns import CategoricalSpec, QuantileSpec
from engram.losses.bootstrap import Following, FromMemorySpec, MunchausenSpec, SuccessorsSpec, double, target
from engram.losses.distributional import CrossEntropySpec, QuantileHuberSpec, projected
from engram.losses.regression import SquaredSpec
from engram.losses.returns import NStep, discounts, lambda_returns, n_step
from engram.replay.prioritized import PrioritizedSpec
from engram.runners import device
from engram.runners.device import DeviceRunner
from engram.types import Distribution, Returns
from engram.working.gated import GRUSpec

GAMMA = 0.5
EXPLORES = EpsilonGreedySpec(start=1.0, end=1.0, steps=1)
NIM: Any = make_device("engram/Nim-v0", pile=6, again=True)


# -- arrays ----------------------------------------------------------------------------------------------------------


def test_a_return_over_turns_is_that_of_whoever_moved_first():
    """Signs -, +, -: rows 1 and 2 are the other side's, row 3 and what follows are ours again."""
    reward, sign = jnp.array([1.0, 2.0, 4.0]), jnp.array([-1.0, 1.0, -1.0])
    no = jnp.zeros(3, bool)
    step = n_step(reward, no, no, discounts(GAMMA, 3), sign=sign)
    np.testing.assert_allclose(step.reward, 1 - 0.5 * 2 - 0.25 * 4)
    np.testing.assert_allclose(step.discount, 0.125)
    cut = n_step(reward, no, jnp.array([False, False, True]), discounts(GAMMA, 3), sign=sign)
    np.testing.assert_allclose([cut.reward, cut.discount, cut.offset], [1 - 0.5 * 2, -0.25, 2])
    ended = n_step(reward, jnp.array([False, True, False]), no, discounts(GAMMA, 3), sign=sign)
    np.testing.assert_allclose([ended.reward, ended.discount], [0.0, 0.0])


def test_signs_of_one_are_no_signs():
    reward, no = jnp.array([1.0, -2.0, 4.0]), jnp.zeros(3, bool)
    plain = n_step(reward, no, no, discounts(0.9, 3))
    signed = n_step(reward, no, no, discounts(0.9, 3), sign=jnp.ones(3))
    np.testing.assert_array_equal(np.array(plain), np.array(signed))


def test_a_lambda_return_over_turns():
    """G2 = 3 - g v3, G1 = 2 + g (v2 / 2 + G2 / 2), G0 = 1 - g (v1 / 2 + G1 / 2)."""
    reward, value = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.2, 0.4, 0.8])
    found = lambda_returns(reward, GAMMA * jnp.array([-1.0, 1.0, -1.0]), value, jnp.array([False, False, True]), 0.5)
    last = 3 - 0.5 * 0.8
    middle = 2 + 0.5 * (0.4 + last) / 2
    np.testing.assert_allclose(found, [1 - 0.5 * (0.2 + middle) / 2, middle, last], rtol=1e-6)


def test_a_target_over_a_turn_is_the_negated_distribution():
    """Of quantiles 1, 2, 6 the negated ones are -6, -2, -1; fixed atoms take it up by projection."""
    theirs = Returns(jnp.array([[1.0, 2.0, 6.0]]), jnp.zeros((1, 3)), jnp.zeros((0, 1)))
    found = target(NStep(jnp.float32(0), jnp.float32(-1), jnp.int32(1)), double(theirs, jnp.zeros(1)))
    np.testing.assert_array_equal(np.sort(found.atoms), [-6, -2, -1])
    skewed = Distribution(jnp.array([-1.0, 0.0, 1.0]), jnp.array([0.1, 0.2, 0.7]))
    against = target(NStep(jnp.float32(0), jnp.float32(-1), jnp.int32(1)), skewed)
    np.testing.assert_allclose(projected(against, jnp.array([-1.0, 0.0, 1.0])), [0.7, 0.2, 0.1], rtol=1e-6)


# -- learning --------------------------------------------------------------------------------------------------------

SMALL = AgentSpec(
    encoder=VectorSpec(widths=(32,)),
    replay=ReplaySpec(capacity=1_000, batch_size=32, start=100),
    optimizer=OptimizerSpec(learning_rate=5e-3, final_fraction=0.01, decay_steps=6_000),
    exploration=EXPLORES,
    target=TargetSpec(every=20),
    discount=0.9,
    turns=True,
)
ROLLOUTS = PQNSpec(
    encoder=VectorSpec(widths=(32,)), rollout=CollectSpec(steps=4, epochs=2, minibatches=2), trace=0.0,
    optimizer=OptimizerSpec(learning_rate=5e-3, final_fraction=0.01, decay_steps=12_000), loss=SquaredSpec(),
    exploration=EXPLORES, discount=0.9, turns=True,
)  # fmt: skip
MEMORY = {"external": EpisodicSpec(capacity=200, neighbours=3), "recall": RecallSpec(n_step=1)}
KINDS: dict[str, Any] = {
    "one step": SMALL,
    "double, prioritized": replace(SMALL, double=True, draw=PrioritizedSpec(correction_updates=1_000)),
    "rescaled": replace(SMALL, reward=RewardSpec(rescale=True)),
    "fixed atoms": replace(
        SMALL, head=QSpec(returns=CategoricalSpec(atoms=21, low=-2, high=2)), loss=CrossEntropySpec()
    ),
    "quantiles": replace(SMALL, head=QSpec(returns=QuantileSpec(quantiles=8)), loss=QuantileHuberSpec()),
    "memory": replace(SMALL, bootstrap=FromMemorySpec(), **MEMORY),
    "successors": replace(SMALL, bootstrap=SuccessorsSpec(), **MEMORY),
    "windows": replace(SMALL, working=GRUSpec(hidden_size=16), replay=replace(SMALL.replay, window=4, batch_size=8)),
    "rollouts": ROLLOUTS,
}
FAST = ("one step", "rollouts")  # the others compile for a minute together


def learned(spec: Any, steps: int = 6_000) -> tuple[np.ndarray, np.ndarray]:
    """Q after random play, and the true Q, of every pile."""
    envs = 8 if isinstance(spec, PQNSpec) else 1
    runner = DeviceRunner(spec.build(NIM.observation_space, NIM.actions, envs), NIM, [0])
    runner.advance(2 * steps if envs > 1 else steps, lambda: False)
    runner.report()
    network = runner.minds()[0].network
    observations, values = zip(*NIM.values(spec.discount), strict=True)
    bits = jnp.broadcast_to(network.still, (len(observations), network.words))
    q = jax.vmap(network)(jnp.array(observations)[:, None], bits).returns.q
    if spec.reward.rescale:
        from engram.losses.returns import stretched

        q = stretched(q)
    return np.asarray(q), np.array(values)


@pytest.mark.parametrize("kind", [pytest.param(k, marks=() if k in FAST else pytest.mark.slow) for k in KINDS])
def test_both_sides_of_nim_are_valued_as_by_minimax(kind):
    q, values = learned(KINDS[kind])
    assert values.min() < -0.5  # lost piles are there
    np.testing.assert_allclose(q, values, atol=0.06)


def test_the_soft_game_of_munchausen_has_its_own_fixed_point():
    """Both sides play softly: r + a t log pi(a | s) + g s V(s') with V the soft value of whoever moves there."""
    step = NStep(jnp.float32(0.0), jnp.float32(-0.9), jnp.int32(1))
    q, here = jnp.array([0.3, -0.2]), jnp.array([0.1, 0.4])
    theirs = Returns(q[:, None], jnp.zeros((2, 1)), jnp.zeros((0, 2)))
    from engram.losses.bootstrap import Here

    chosen = MunchausenSpec(scale=0.9, temperature=0.5)
    found = chosen(step, Following(theirs, q, here=Here(here, jnp.int32(0)))).mean
    soft = 0.5 * np.log(np.exp(np.array(q) / 0.5).sum())
    own = 0.5 * np.log(np.exp(0.1 / 0.5) / np.exp(np.array(here) / 0.5).sum())
    np.testing.assert_allclose(found, 0.9 * max(own, -1.0) - 0.9 * soft, rtol=1e-5)


# -- what a run says -------------------------------------------------------------------------------------------------


def test_a_run_counts_turns_by_itself_and_others_are_as_they_were(tmp_path):
    trainer = engram.Trainer("engram/Nim-v0", "dqn", run=tmp_path / "nim", steps=64, overrides={"replay.start": 16})
    assert trainer.plan.agent.turns
    trainer.learn()
    assert '"turns": true' in (tmp_path / "nim" / "run.json").read_text()
    space = make_device("engram/CartPole-v1").observation_space
    assert "turns" not in specs.to_json(presets.preset("dqn", space))  # older runs are read, and have their digests


def test_returns_are_those_of_who_moved_first():
    """A pile of one is taken by whoever moves first, one of three is lost by the perfect player."""
    runner = DeviceRunner(SMALL.build(NIM.observation_space, 2, 1), NIM, [0])
    runner.ended = []
    runner.advance(400, lambda: False)
    assert runner.ended
    alternating: Any = make_device("engram/Nim-v0")
    runner = DeviceRunner(SMALL.build(alternating.observation_space, 2, 1), alternating, [0])
    runner.ended = []
    runner.advance(400, lambda: False)
    assert {(one.length % 2, one.total) for one in runner.ended} == {(1, 1.0), (0, -1.0)}


def test_an_evaluation_without_a_rival_plays_both_sides():
    """Whoever takes the last one is paid 1: the first side in games of an odd number of moves."""
    with engram.Trainer("engram/Nim-v0", "dqn", steps=64, overrides={"replay.start": 16}) as trainer:
        found = trainer.learn().evaluate(3)
    assert found.returns == [1.0 if length % 2 else -1.0 for length in found.lengths]


def test_past_selves_see_by_todays_statistics_and_a_policy_does_not_learn_of_their_moves():
    """Each is the agent as it began, so it plays as that does; whatever was thought of its moves changes no update."""
    spec = specs.override_all(
        presets.preset("ppo", NIM.observation_space, 1_000),
        {"turns": True, "encoder.widths": (8,), "observation.normalize": True, "pool.size": 1, "pool.share": 0.5,
         "rollout.steps": 4, "rollout.epochs": 1, "rollout.minibatches": 1},
    )  # fmt: skip
    agent = spec.build(NIM.observation_space, NIM.actions, 8)
    run = jax.jit(partial(device.init, agent, NIM))(jax.random.PRNGKey(0))
    step = jax.jit(partial(device.step, agent, NIM))
    for _ in range(4):
        run = step(run)
    alone = replace(spec, pool=replace(spec.pool, share=0.0)).build(NIM.observation_space, NIM.actions, 8)
    acted = (jax.jit(each.act)(agent.mind(run.agent), run.agent.actor, run.seen).action for each in (agent, alone))
    np.testing.assert_array_equal(*acted)

    rollout, learn = run.agent.replay, jax.jit(agent.learn)
    theirs = rollout.known.theirs
    assert 0 < int(theirs.sum()) < theirs.size

    def learned(where: Any) -> list[np.ndarray]:
        own = rollout.known.own
        own = own._replace(log_probability=own.log_probability + 3.0 * where)
        known = rollout.known._replace(own=own)
        return jax.tree.leaves(learn(replace(run.agent, replay=replace(rollout, known=known)))[0].learner.params)

    plain = learned(jnp.zeros_like(theirs))
    assert all((one == two).all() for one, two in zip(plain, learned(theirs), strict=True))
    assert any((one != two).any() for one, two in zip(plain, learned(~theirs), strict=True))


@pytest.mark.parametrize(
    ("env", "overrides", "said"),
    [
        ("engram/CartPole-v1", {"turns": True}, "engram/CartPole-v1 does not say who moves next; leave it out"),
        ("CartPole-v1", {"turns": True}, "CartPole-v1 does not say who moves next; leave it out"),
        ("engram/Nim-v0", {"external": "graph", "recall.n_step": 1}, "here sides take turns; set external=episodic"),
    ],
)
def test_what_cannot_take_turns_is_said_in_a_sentence(env, overrides, said):
    with pytest.raises(SpecError, match=said):
        engram.Trainer(env, "dqn", steps=64, overrides=overrides)


def test_an_environment_that_declares_turns_gives_signs():
    class Mute(type(NIM)):
        def step(self, state, action, key):
            following, step = super().step(state, action, key)
            return following, DeviceStep(*step[:4])

    with pytest.raises(EnvironmentFault, match="turns is True, but its step gives no sign"):
        check_device_env(Mute(), steps=2)
