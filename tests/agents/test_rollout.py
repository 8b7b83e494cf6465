"""A rollout holds what acting saw and knew, and what it led to, however its steps arrive."""

from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram import spaces
from engram.agents import rollout as rollouts
from engram.agents.agent import AgentState, Experience
from engram.agents.mind import ObservationSpec, RecallSpec, RewardSpec
from engram.agents.policy import PolicyState, Seen, look, still
from engram.agents.ppo import PPOSpec
from engram.agents.pqn import PQNSpec
from engram.agents.rollout import Rollout
from engram.agents.rollout_learning import CollectSpec, RolloutLearner
from engram.bits import permutation
from engram.encoders.vector import VectorSpec
from engram.errors import SpecError
from engram.exploration.sample import SampleSpec
from engram.external.episodic import EpisodicSpec
from engram.heads.actor_critic import ActorCriticSpec
from engram.losses.regression import SquaredSpec
from engram.types import Decision, TimeStep
from engram.working.gated import GRUSpec

STEPS, ENVS, ACTIONS = 6, 3, 3
SPACE = spaces.Box((2,))
PLAIN: dict[str, Any] = {
    "encoder": VectorSpec(widths=(8,)), "rollout": CollectSpec(steps=STEPS, epochs=2, minibatches=3),
    "loss": SquaredSpec(), "discount": 0.9,
}  # fmt: skip
PPO: dict[str, Any] = PLAIN | {"head": ActorCriticSpec(), "exploration": SampleSpec()}
STACKED = PQNSpec(**PLAIN, observation=ObservationSpec(stack=2), reward_clip=1.0)
RECURRENT = PPOSpec(
    **PPO, working=GRUSpec(hidden_size=8),
    observation=ObservationSpec(stack=2, previous_action=True, previous_reward=True),
)  # fmt: skip
MEMORY: dict[str, Any] = {"external": EpisodicSpec(capacity=20, neighbours=3), "recall": RecallSpec(n_step=2)}
RECALLING, VALUED = PPOSpec(**PPO, **MEMORY), PQNSpec(**PLAIN, **MEMORY)
KINDS = {"frames": STACKED, "memory": RECURRENT, "recall": RECALLING, "recall of values": VALUED}
# Environment 0 meets three time limits, 1 an end, 2 a limit and another in the last step: seven observations whose
# value only a look can tell, in three batches of three.
DONE = np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1]], bool)
ENDED = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]], bool)


class Lived(NamedTuple):
    """Steps, and what acting saw and held at each."""

    state: AgentState  # before they are stored, with the actor after them
    experience: Experience
    policies: list[PolicyState]
    decisions: list[Decision]


def lived(agent: RolloutLearner, state: AgentState, done: np.ndarray = DONE, begins: Any = True) -> Lived:
    """Steps of random observations and rewards, in which episodes end where `done` says."""
    random, opens = np.random.default_rng(len(done)), np.broadcast_to(begins, ENVS)
    mind, reward = agent.mind(state), jnp.zeros(ENVS)
    rows, noted, policies, decisions = [], [], [], []
    act = jax.jit(agent.act)
    for time in range(len(done)):
        shown = jnp.asarray(random.normal(size=(ENVS, 2)), jnp.float32)
        acted = act(mind, state.actor, Seen(shown, jnp.asarray(opens), reward))
        reward = jnp.asarray(2 * random.normal(size=ENVS), jnp.float32)
        ended = jnp.asarray(ENDED[time % STEPS] & done[time])
        rows.append(TimeStep(shown, jnp.asarray(opens), acted.action, reward, ended))
        noted.append(acted.noted)
        policies.append(acted.actor.policy)
        decisions.append(acted.decision)
        state, opens = replace(state, actor=acted.actor), done[time]
    stack = partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
    final = jnp.asarray(random.normal(size=(len(done), ENVS, 2)), jnp.float32)
    keep = jnp.ones(done.shape, bool)
    return Lived(state, Experience(stack(*rows), jnp.asarray(done), final, keep, stack(*noted)), policies, decisions)


def part(experience: Experience, first: int, end: int) -> Experience:
    return jax.tree.map(lambda leaf: leaf[first:end], experience)


def same(one: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


@cache
def begun(spec: Any) -> tuple[RolloutLearner, Lived]:
    agent = RolloutLearner(spec, SPACE, ACTIONS, ENVS)
    state = agent.init(jax.random.PRNGKey(0))
    if not spec.has_external:
        return agent, lived(agent, state)
    before = lived(agent, state)  # of which the memory then holds entries
    filled = agent.observe(before.state, before.experience)
    return agent, lived(agent, replace(filled, replay=state.replay))


# -- storing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(1,) * STEPS, (2, 4), (5, 1)], ids=str)
def test_steps_in_any_blocks_with_padding_among_them_give_the_same_rollout(sizes: tuple[int, ...]):
    _, (state, whole, *_) = begun(RECURRENT)
    expected = rollouts.written(state.replay, whole)
    found, at = state.replay, 0
    for size in sizes:
        block = part(whole, at, at + size)
        padding = part(whole, 0, 2)._replace(keep=jnp.zeros((2, ENVS), bool))
        joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), block, padding)
        found, at = rollouts.written(found, joined), at + size
    same(found, expected)
    assert int(found.place) == STEPS
    assert found.keep.all()


def test_what_no_environment_took_leaves_no_trace():
    _, (state, whole, *_) = begun(STACKED)
    same(rollouts.written(state.replay, whole._replace(keep=jnp.zeros_like(whole.keep))), state.replay)


@pytest.mark.parametrize("kind", ["frames", "memory"])
def test_networks_look_again_at_what_acting_saw_also_in_the_next_rollout(kind: str):
    """Frames, the action and the reward before, and the carry; the first step has those of the rollout before."""
    agent, first = begun(KINDS[kind])
    rollout = rollouts.written(first.state.replay, first.experience)
    rollout = rollouts.learned(rollout, rollouts.stacked(agent.spec, rollout))
    assert int(rollout.place) == 0
    assert not rollout.keep.any()
    done = np.zeros((STEPS, ENVS), bool)
    second = lived(agent, first.state, done, begins=DONE[-1])
    rollout = rollouts.written(rollout, second.experience)
    frames = rollouts.stacked(agent.spec, rollout)
    same(frames, jnp.stack([policy.frames for policy in second.policies]))
    previous = rollouts.previous_of(agent.spec, first.state.learner.params, rollout)
    same(previous.action[0], first.experience.row.action[-1])
    same(previous.action[1:], second.experience.row.action[:-1])
    paid = jnp.concatenate([first.experience.row.reward[-1:], second.experience.row.reward[:-1]])
    same(previous.reward, paid.clip(-1, 1) if agent.spec.reward_clip else paid)
    if agent.spec.has_memory:
        same(jax.tree.map(lambda leaf: leaf[0], rollout.row.carry), first.policies[-1].carry)


# -- what came next --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_came_next_is_worth_what_the_policy_says_of_it(kind: str):
    """Beside a plain loop that looks at the one observation after each step that nothing later in the rollout shows."""
    agent, (state, steps, policies, decisions) = begun(KINDS[kind])
    state = agent.observe(state, steps)
    mind, rollout = agent.mind(state), state.replay
    frames = rollouts.stacked(agent.spec, rollout)
    found = jax.jit(partial(rollouts.steps_of, agent.spec))(mind, rollout, frames, rollout.known.value)
    held = np.stack([decision.value for decision in decisions])
    np.testing.assert_allclose(rollout.known.value, held, rtol=1e-5)
    if agent.spec.has_external:
        shares = np.stack([decision.share for decision in decisions])
        alone = np.stack([decision.returns.q.max(-1) for decision in decisions])
        assert (shares > 0).any(), "a memory that nothing was read from shows nothing"
        assert not np.allclose(alone, held, atol=1e-3)
    expected, bits = np.zeros((STEPS, ENVS)), still(mind.network, ENVS)
    for time in range(STEPS):
        seen = Seen(steps.final_observation[time], jnp.zeros(ENVS, bool), steps.row.reward[time])
        after = np.asarray(look(agent.spec, mind, policies[time], seen, bits).decision.value)
        for env in range(ENVS):
            last = DONE[time, env] or time == STEPS - 1
            expected[time, env] = 0 if ENDED[time, env] else after[env] if last else held[time + 1, env]
    np.testing.assert_allclose(found.following, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.ends, DONE | (np.arange(STEPS) == STEPS - 1)[:, None])
    np.testing.assert_allclose(found.discount, np.where(ENDED, 0, 0.9), rtol=1e-6)
    reward = np.asarray(steps.row.reward)
    np.testing.assert_array_equal(found.reward, reward.clip(-1, 1) if agent.spec.reward_clip else reward)


def test_a_time_limit_at_every_step_is_looked_at_every_time():
    """As many batches as steps."""
    agent, first = begun(RECALLING)
    done = np.ones((STEPS, ENVS), bool)
    steps = lived(agent, first.state, done)
    experience = steps.experience._replace(row=replace(steps.experience.row, terminated=jnp.zeros_like(done)))
    state = agent.observe(steps.state, experience)
    mind, rollout = agent.mind(state), state.replay
    found = rollouts.steps_of(agent.spec, mind, rollout, rollouts.stacked(agent.spec, rollout), rollout.known.value)
    bits, never, reward = still(mind.network, ENVS), jnp.zeros(ENVS, bool), jnp.zeros(ENVS)
    for time in range(STEPS):
        seen = Seen(experience.final_observation[time], never, reward)
        worth = look(agent.spec, mind, steps.policies[time], seen, bits).decision.value
        np.testing.assert_allclose(found.following[time], worth, rtol=1e-4, atol=1e-5)


def short(spec: Any, steps: int) -> tuple[RolloutLearner, Rollout, Lived]:
    """A second rollout of fewer steps, over what is left of a first one."""
    agent, first = begun(spec)
    rollout = rollouts.written(first.state.replay, first.experience)
    rollout = rollouts.learned(rollout, rollouts.stacked(agent.spec, rollout))
    second = lived(agent, first.state, np.zeros((steps, ENVS), bool), begins=DONE[-1])
    return agent, rollouts.written(rollout, second.experience), second


@pytest.mark.parametrize("spec", [STACKED, RECURRENT], ids=["frames", "memory"])
def test_a_rollout_that_was_not_filled_ends_with_its_last_step(spec: Any):
    """As where a ready vector environment took no step while it reset: nothing of the rollout before is learned."""
    agent, rollout, lived = short(spec, 4)
    mind = agent.mind(lived.state)
    frames = rollouts.stacked(agent.spec, rollout)
    steps = rollouts.steps_of(agent.spec, mind, rollout, frames, rollout.known.value)
    assert steps.ends[3].all()
    assert not steps.ends[:3].any()
    seen = Seen(lived.experience.final_observation[3], jnp.zeros(ENVS, bool), lived.experience.row.reward[3])
    worth = look(agent.spec, mind, lived.policies[3], seen, still(mind.network, ENVS)).decision.value
    np.testing.assert_allclose(steps.following[3], worth, rtol=1e-4, atol=1e-5)
    bits = jnp.zeros((STEPS, ENVS, 0), jnp.uint32)
    examples = rollouts.examples_of(agent.spec, mind.network, rollout, frames, steps.reward, bits)
    assert examples.weight.sum() == 4 * ENVS
    after = rollouts.learned(rollout, frames)
    same(after.frames, lived.policies[3].frames)
    same(after.before.action, lived.experience.row.action[3])
    same(rollouts.learned(after, rollouts.stacked(agent.spec, after)).frames, after.frames)


def test_an_episode_that_was_cut_ends_at_the_last_observation_that_was_acted_on():
    """Environment 1 begins anew at step 3, though nothing ended: what step 2 led to is not known, so it counts 0."""
    agent, (state, whole, *_) = begun(STACKED)
    done = jnp.zeros_like(whole.done)
    first = jnp.zeros_like(done).at[3, 1].set(True)
    row = replace(whole.row, is_first=first, terminated=done)
    rollout = rollouts.written(state.replay, whole._replace(row=row, done=done))
    frames = rollouts.stacked(agent.spec, rollout)
    steps = rollouts.steps_of(agent.spec, agent.mind(state), rollout, frames, rollout.known.value)
    np.testing.assert_array_equal(steps.ends[:, 0], [0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(steps.ends[:, 1], [0, 1, 1, 0, 0, 1])
    assert steps.following[1, 1] == rollout.known.value[2, 1]
    bits = jnp.zeros((STEPS, ENVS, 0), jnp.uint32)
    examples = rollouts.examples_of(agent.spec, state.learner.params, rollout, frames, steps.reward, bits)
    np.testing.assert_array_equal(examples.weight.reshape(STEPS, ENVS)[:, 1], [1, 1, 0, 1, 1, 1])
    np.testing.assert_array_equal(examples.weight.reshape(STEPS, ENVS)[:, 0], np.ones(STEPS))


# -- examples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_that_acted_decides_the_same_again(kind: str):
    """Step by step when acting and along windows when learning: the ratio of a first update is 1."""
    agent, (state, steps, _, decisions) = begun(KINDS[kind])
    rollout = rollouts.written(state.replay, steps)
    frames = rollouts.stacked(agent.spec, rollout)
    bits = jnp.zeros((STEPS, ENVS, 0), jnp.uint32)
    network = state.learner.params
    examples = rollouts.examples_of(agent.spec, network, rollout, frames, rollout.row.reward, bits)
    again, rows = rollouts.decisions(agent.spec, network, examples)
    acted = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[decision.preference for decision in decisions])
    preference = again.preference.reshape(ENVS, STEPS, -1) if agent.spec.has_memory else again.preference
    expected = jnp.swapaxes(acted, 0, 1) if agent.spec.has_memory else acted.reshape(STEPS * ENVS, -1)
    if not agent.spec.has_external:
        np.testing.assert_allclose(preference, expected, rtol=1e-4, atol=1e-5)
    # What a memory says is no part of what is learned: the network's own numbers are the same with one.
    atoms = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[decision.returns.atoms for decision in decisions])
    own = (
        jnp.swapaxes(atoms, 0, 1).reshape(again.returns.atoms.shape)
        if agent.spec.has_memory
        else atoms.reshape(again.returns.atoms.shape)
    )
    np.testing.assert_allclose(again.returns.atoms, own, rtol=1e-4, atol=1e-5)
    if hasattr(rollout.known, "log_probability"):
        log = jnp.take_along_axis(jax.nn.log_softmax(again.preference), rows.action[:, None], -1)[:, 0]
        np.testing.assert_allclose(log, rows.known.log_probability, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", [STACKED, RECURRENT], ids=["rows", "windows"])
def test_minibatches_hold_every_step_once_and_with_a_memory_whole_environments(spec: Any):
    _, (state, steps, *_) = begun(spec)
    rollout = rollouts.written(state.replay, steps)
    number = jnp.arange(STEPS * ENVS).reshape(STEPS, ENVS)
    bits = jnp.zeros((STEPS, ENVS, 0), jnp.uint32)
    frames = rollouts.stacked(spec, rollout)
    examples = rollouts.examples_of(spec, state.learner.params, rollout, frames, number, bits)
    count = len(examples.weight)
    assert count == (ENVS if spec.has_memory else STEPS * ENVS)
    order = permutation(jax.random.bits(jax.random.PRNGKey(1), (count,)))
    batches = rollouts.shuffled(order, examples, 3)
    taught = np.asarray(batches.target).reshape(3, -1)
    assert sorted(taught.reshape(-1)) == list(range(STEPS * ENVS))
    if spec.has_memory:
        for batch in np.asarray(batches.target):
            assert (batch == batch[:, :1] + ENVS * np.arange(STEPS)).all()
    actions = np.asarray(rollout.row.action).reshape(-1)
    same(np.asarray(batches.action).reshape(3, -1), actions[taught])


def test_the_order_is_another_in_every_epoch_and_each_number_comes_once():
    for count in (1, 2, 7, 64, 1000):
        drawn = [permutation(jax.random.bits(jax.random.PRNGKey(seed), (count,))) for seed in range(2)]
        for order in drawn:
            assert sorted(order.tolist()) == list(range(count))
        assert count < 3 or not np.array_equal(*drawn)


def test_every_place_is_as_likely_for_every_number():
    bits = jax.random.bits(jax.random.PRNGKey(0), (6_000, 5))
    orders = np.asarray(jax.vmap(permutation)(bits))
    counts = np.stack([np.bincount(orders[:, place], minlength=5) for place in range(5)])
    assert np.abs(counts - 1_200).max() < 5 * np.sqrt(6_000 * 0.2 * 0.8)


# -- learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_learning_makes_as_many_updates_as_asked_for_and_forgets_the_rollout(kind: str):
    agent, (state, steps, *_) = begun(KINDS[kind])
    state, metrics = jax.jit(agent.learn)(agent.observe(state, steps))
    assert int(state.learner.updates) == 6
    assert int(state.replay.place) == 0
    assert not state.replay.keep.any()
    assert set(metrics) == set(agent.metrics)
    assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (replace(STACKED, rollout=CollectSpec(steps=STEPS, minibatches=4)), "does not divide the 18 steps"),
        (replace(RECURRENT, rollout=CollectSpec(steps=STEPS, minibatches=2)), "does not divide the 3 environments"),
    ],
)
def test_minibatches_that_do_not_divide_are_refused_in_a_sentence(spec: Any, told: str):
    with pytest.raises(SpecError, match=f"^rollout.minibatches = . {told} of a rollout; give a number that does, or"):
        RolloutLearner(spec, SPACE, ACTIONS, ENVS)


def test_a_preset_takes_as_many_minibatches_as_divide_and_steps_as_the_run_has():
    spec = replace(STACKED, rollout=CollectSpec(steps=32, minibatches=16))
    assert spec.fitted((), 10_000, 3).rollout == CollectSpec(steps=32, minibatches=12)  # of eight
    assert spec.fitted((), 30, 3).rollout == CollectSpec(steps=10, minibatches=3)  # of ten steps; 15 would have two
    assert spec.fitted((), 5, 1).rollout == CollectSpec(steps=5, minibatches=1)
    assert spec.fitted((), 1, 1).rollout == CollectSpec(steps=2, minibatches=1)
    assert spec.fitted(("rollout.steps", "rollout.minibatches"), 30, 3) == spec
    recurrent = replace(RECURRENT, rollout=CollectSpec(steps=32, minibatches=8))
    assert recurrent.fitted((), 10_000, 6).rollout.minibatches == 6


def test_what_only_a_replay_can_do_is_refused():
    with pytest.raises(SpecError, match="^reward.rescale is of agents that learn from a replay; leave it out, or set"):
        replace(STACKED, reward=RewardSpec(rescale=True))
