"""The policy and the agent's `act` are one; and the Q-learner is all that `Agent` says."""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.kinds import own

from engram import registry, spaces, specs
from engram.agents import agent as protocol
from engram.agents import policy
from engram.agents.agent import Experience
from engram.agents.mind import ObservationSpec
from engram.agents.network import build
from engram.agents.policy import Seen
from engram.agents.presets import preset
from engram.agents.q_learning import QLearner
from engram.agents.spec import AgentSpec, ReplaySpec
from engram.bits import next_words, uniform
from engram.encoders.vector import VectorSpec
from engram.exploration.greedy import EpsilonGreedySpec
from engram.exploration.noise import ParameterNoiseSpec
from engram.external.episodic import EpisodicSpec
from engram.heads.head import scalar
from engram.registry import register
from engram.types import Decision, Encoding, MemoryRead, Returns, TimeStep
from engram.working.gated import GRUSpec

KEY = jax.random.PRNGKey(0)
ENVS = 4


@register("head", "test-told")
@specs.spec
class ToldSpec:
    """A head that gives back the two words it was given, as the Q of two actions."""

    reads_offered = False
    predicts = "number"

    def build(self, width, actions, key, offered=0):
        return ToldHead()


class ToldHead(eqx.Module):
    words = 2

    def __call__(self, embedding, offered=None, allowed=None, bits=None):
        return scalar(uniform(bits))


PLAIN = AgentSpec(
    encoder=VectorSpec(widths=(4,)), replay=ReplaySpec(capacity=64, start=16, batch_size=4), learn_every=ENVS,
    exploration=EpsilonGreedySpec(start=0.5, end=0.5),
)  # fmt: skip
NOISY = replace(PLAIN, exploration=ParameterNoiseSpec(scale=5.0, random_opening=0.5))
RECURRENT = replace(
    NOISY, working=GRUSpec(hidden_size=4), replay=replace(PLAIN.replay, window=2),
    observation=ObservationSpec(stack=2, previous_action=True, previous_reward=True), reward_clip=1.0,
)  # fmt: skip
RECALLING = replace(PLAIN, external=EpisodicSpec(capacity=16, neighbours=2))
SPECS = {
    "plain": PLAIN, "noisy": NOISY, "recurrent": RECURRENT, "recalling": RECALLING,
    "told": replace(PLAIN, head=ToldSpec()), "told-noisy": replace(NOISY, head=ToldSpec()),
}  # fmt: skip


def learner(spec: AgentSpec) -> QLearner:
    return QLearner(spec, spaces.Box((2,)), 2, ENVS)


@cache
def begun(spec: AgentSpec) -> tuple[QLearner, Any]:
    one = learner(spec)
    return one, jax.jit(one.init)(KEY)


def seen_at(step: int) -> Seen:
    random = np.random.default_rng(step)
    first = jnp.asarray(random.random(ENVS) < (0.3 if step else 2.0))
    return Seen(
        jnp.asarray(random.normal(size=(ENVS, 2)), jnp.float32),
        first,
        jnp.asarray(random.normal(size=ENVS) * 3, jnp.float32),
    )


def same(left: Any, right: Any) -> None:
    """Equal, but for the last bit of numbers that two programs add up in another order."""
    if jnp.issubdtype(left.dtype, jnp.floating):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("kind", SPECS)
def test_begin_look_and_explore_are_what_acting_does(kind: str):
    """Over five steps, with the words of one draw: two or four for each environment, then those of the head."""
    spec = SPECS[kind]
    one, state = begun(spec)
    mind, actor = one.mind(state), state.actor
    held = policy.begin(spec, mind.network, ENVS)
    jax.tree.map(np.testing.assert_array_equal, held, actor.policy)
    count = ENVS * (4 if spec.exploration.by_episode else 2)
    assert 2 * ENVS * policy.draws(spec) == count
    act = jax.jit(one.act)

    @jax.jit
    def by_hand(held: Any, seen: Seen, key: Any, step: Any) -> Any:
        words = 2 if kind.startswith("told") else 0
        key, bits = next_words(key, count + ENVS * words)
        looked = policy.look(spec, mind, held, seen, bits[count:].reshape(ENVS, words))
        return key, looked, *policy.explore(spec, looked, seen.is_first, bits[:count].reshape(-1, ENVS, 2), step), bits

    key, taken = actor.key, []
    for step in range(5):
        seen = seen_at(step)
        acted = act(mind, actor, seen)
        key, looked, held, action, bits = by_hand(held, seen, key, actor.steps)
        actor = acted.actor
        np.testing.assert_array_equal(acted.action, action)
        np.testing.assert_array_equal(acted.actor.key, key)
        jax.tree.map(same, acted.decision, looked.decision)
        jax.tree.map(same, acted.actor.policy, held)
        after, preferred = policy.greedy(looked)
        np.testing.assert_array_equal(preferred, np.asarray(looked.decision.preference).argmax(-1))
        assert (after.action is None) == (held.action is None)
        if after.action is not None:
            np.testing.assert_array_equal(after.action, preferred)
        taken.append(np.asarray(action != preferred))
        if kind.startswith("told"):
            told = np.asarray(bits[count:]).reshape(ENVS, 2) >> 8
            np.testing.assert_array_equal(looked.decision.returns.q, (told / 2**24).astype(np.float32))
    assert np.concatenate(taken).any(), "something was explored, or this shows less"
    assert int(actor.steps) == 5 * ENVS


@pytest.mark.parametrize("kind", own("head"))
def test_no_head_of_ours_takes_words(kind: str):
    space, head = spaces.Box((2,)), registry.find("head", kind)()
    of_a_policy = preset("sac" if head.has_twins else "ppo", space, 100)
    chosen = replace(of_a_policy if head.has_policy else PLAIN, head=head)
    made = build(chosen, space, 2, KEY)
    assert made.words == 0
    assert policy.still(made, ENVS).shape == (ENVS, 0)


def test_still_bits_are_the_same_for_all_and_at_every_step():
    words = np.asarray(policy.still(begun(SPECS["told"])[1].learner.params, ENVS))
    assert words.shape == (ENVS, 2)
    assert (words == 1 << 31).all()


def test_an_update_gives_a_head_its_words_anew():
    """A transition has three looks; two updates draw different words, so the reported Q differs."""
    one, state = begun(SPECS["told"])
    shape = (8, ENVS)
    row = TimeStep(jnp.ones((*shape, 2)), jnp.zeros(shape, bool), jnp.zeros(shape, jnp.int32), jnp.ones(shape),
                   jnp.zeros(shape, bool))  # fmt: skip
    state = jax.jit(one.observe)(state, Experience(row, row.terminated, row.observation, ~row.terminated, None))
    learn, told = jax.jit(one.learn), []
    for _ in range(2):
        state, metrics = learn(state)
        told.append(float(metrics["q_mean"]))
    assert told[0] != told[1]
    assert all(0 < q < 1 for q in told)


# -- the protocol --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "recurrent", "recalling"])
def test_a_q_learner_is_an_agent(kind: str):
    one, state = begun(SPECS[kind])
    members = [name for name in vars(protocol.Agent) if not name.startswith("_")]
    assert {"space", "rhythm", "act", "learn", "with_rows", "nbytes"} <= set(members)
    for name in members:
        assert hasattr(one, name), name
    assert hash(one) == hash(learner(SPECS[kind]))
    assert one == learner(SPECS[kind])
    assert [id(leaf) for leaf in one.shared(state)] == [id(state.actor.steps), id(state.learner.updates)]
    apart = replace(state, actor=None)
    assert [id(leaf) for leaf in one.shared(apart)] == [id(state.learner.updates)]
    shape = jax.eval_shape(partial(one.learn), state)[1]
    assert tuple(shape) == one.metrics
    leaves = {id(leaf) for leaf in jax.tree.leaves(state)}
    assert all(id(leaf) in leaves for leaf in jax.tree.leaves(one.mind(state)))


@pytest.mark.parametrize("kind", ["plain", "recalling"])
def test_rows_can_be_taken_out_and_put_back(kind: str):
    one, state = begun(SPECS[kind])
    rows = one.rows(state)
    without = one.with_rows(state, ())
    assert without.replay.ring is None
    assert len(jax.tree.leaves(without)) == len(jax.tree.leaves(state)) - len(jax.tree.leaves(rows))
    again = one.with_rows(without, rows)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert all(left is right for left, right in zip(*map(jax.tree.leaves, (again, state)), strict=True))


@pytest.mark.parametrize("kind", ["plain", "recurrent", "recalling"])
def test_nbytes_are_those_of_the_arrays_of_a_new_agent(kind: str):
    one, state = begun(SPECS[kind])
    held = {"replay": state.replay, "external memory": state.recall}
    expected = {name: sum(leaf.nbytes for leaf in jax.tree.leaves(part)) for name, part in held.items()}
    assert one.nbytes() == expected
    assert (expected["external memory"] > 0) == (kind == "recalling")


def test_where_nothing_is_allowed_every_action_counts():
    """As after a termination: minus infinity times a discount of 0 would be no number."""
    q = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    allowed = jnp.array([[True, False, True], [False, False, False]])
    returns = Returns(q[..., None], jnp.zeros((2, 3, 1)), jnp.zeros((2, 0, 3)))
    encoding = Encoding(jnp.zeros((2, 1)), jnp.zeros((2, 0, 0)))
    nothing = jnp.zeros((2, 0, 1, 0))
    read = MemoryRead(jnp.zeros((2, 1)), nothing, nothing.astype(jnp.int32))
    decision = Decision(encoding, read, returns, allowed)
    np.testing.assert_array_equal(decision.preference, [[1.0, -np.inf, 3.0], [4.0, 5.0, 6.0]])
