"""What an agent counts of what it meets, and what it learns from then: by hand, and for whole agents."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram import spaces, specs
from engram.agents import statistics
from engram.agents.agent import Experience
from engram.agents.policy import Seen, look
from engram.agents.presets import PRESETS  # noqa: F401, registers the parts
from engram.agents.q_learning import QLearner
from engram.agents.recall.reading import consult
from engram.agents.spec import AgentSpec
from engram.agents.statistics import Scales, as_learned, beyond, in_network, in_reward
from engram.errors import SpecError
from engram.nn.running import Running
from engram.testing.agents import check_agent
from engram.types import TimeStep

NAN = float("nan")
SMALL = {
    "encoder.widths": (8,), "replay.capacity": 200, "replay.start": 8, "replay.batch_size": 4, "discount": 0.5,
    "learn_every": 4,
}  # fmt: skip
FLOATS, PAIR = spaces.Box((2,)), spaces.Dict((("a", spaces.Box((2,))), ("b", spaces.Discrete(3))))


def agent(space: spaces.Space = FLOATS, envs: int = 1, **settings) -> QLearner:
    changes = SMALL | {name.replace("__", "."): value for name, value in settings.items()}
    return QLearner(specs.override_all(AgentSpec(), changes), space, 2, envs)


def steps(rewards, observations=None, first=None, keep=None, done=None) -> Experience:
    """One environment's steps, [time, 1] each."""
    time = len(rewards)
    seen = jnp.zeros((time, 1, 2)) if observations is None else jnp.asarray(observations, jnp.float32)[:, None]
    flags = [jnp.asarray(given if given is not None else [False] * time, bool)[:, None] for given in (first, done)]
    kept = jnp.asarray([True] * time if keep is None else keep, bool)[:, None]
    row = TimeStep(
        seen, flags[0], jnp.zeros((time, 1), jnp.int32), jnp.asarray(rewards, jnp.float32)[:, None], flags[1]
    )
    return Experience(row, flags[1], seen + 100, kept, None)


def test_the_discounted_return_by_hand():
    """Rewards of 1 at a discount of 1/2 come to 1, 3/2, 7/4; the next episode begins with its own reward."""
    one = agent(reward__normalize=True)
    state = one.observe(one.init(jax.random.PRNGKey(0)), steps([1, 1, 1, 8], first=[1, 0, 0, 1], keep=[1, 1, 1, 0]))
    met = state.learner.statistics
    assert met.returns.tolist() == [1.75]
    np.testing.assert_allclose(met.scales.reward.variance, np.var([1, 1.5, 1.75]), rtol=1e-6)
    state = one.observe(state, steps([8.0], first=[True]))
    assert state.learner.statistics.returns.tolist() == [8.0]
    np.testing.assert_allclose(state.learner.statistics.scales.reward.variance, np.var([1, 1.5, 1.75, 8]), rtol=1e-6)


FIXED = {"head__returns": "categorical", "loss": "cross-entropy"}


def test_returns_that_fixed_atoms_cannot_hold_are_said():
    """Rewards of 8, 8, 8 at a discount of 1/2 come to 8, 12, 14; a row that is not kept does not count."""
    one = agent(**FIXED, head__returns__low=-1.0, head__returns__high=13.0)
    state = one.observe(one.init(jax.random.PRNGKey(0)), steps([8, 8, 99], first=[1, 0, 0], keep=[1, 1, 0]))
    assert state.learner.statistics.extremes.tolist() == [0.0, 12.0]
    assert "warning" not in one.report(state, 2)
    state = one.observe(state, steps([8.0], first=[0]))
    assert one.report(state, 3)["warning"].startswith("returns up to 14 lie outside of [-1, 13]")
    worst = one.observe(state, steps([-90.0], first=[1]))
    assert one.report(worst, 4)["warning"].startswith("returns up to -90 lie")
    clipped = agent(**FIXED, head__returns__low=-1.0, head__returns__high=13.0, reward_clip=1.0)
    state = clipped.observe(clipped.init(jax.random.PRNGKey(0)), steps([8, 8, 8], first=[1, 0, 0]))
    assert state.learner.statistics.extremes.tolist() == [0.0, 1.75]


def test_rescaled_returns_are_held_to_the_limits_as_they_are_learned():
    one = agent(**FIXED, head__returns__low=-4.0, head__returns__high=4.0, reward__rescale=True)
    [state] = [one.observe(one.init(jax.random.PRNGKey(0)), steps([8, 8, 8], first=[1, 0, 0]))]
    assert beyond(one.spec, state.learner.statistics) is None  # sqrt(15) - 1 is below 4
    state = one.observe(state, steps([80.0], first=[1]))
    told = beyond(one.spec, state.learner.statistics)
    assert told is not None
    assert told.startswith("returns up to 80 (8.08 as rescaled) lie outside of [-4, 4]")


def test_several_seeds_are_held_to_the_limits_together():
    one = agent(**FIXED, head__returns__low=-1.0, head__returns__high=1.0)
    met = statistics.Statistics(Scales(None, None), jnp.zeros((2, 1)), jnp.array([[-1.0, 1.0], [0.0, 3.0]]))
    assert "up to 3 lie" in (beyond(one.spec, met) or "")


def test_rewards_are_divided_by_the_deviation_of_the_return():
    scales = Scales(None, Running(jnp.float32(9), jnp.float32(0), jnp.float32(5), jnp.float32(16)))
    spec = specs.override(AgentSpec(), "reward.normalize", True)
    np.testing.assert_allclose(as_learned(spec, scales, jnp.array([8.0, -2.0, 1e6])), [2.0, -0.5, 10.0], rtol=1e-6)
    np.testing.assert_allclose(in_network(spec, scales, jnp.array([3.0])), [0.75], rtol=1e-6)
    for each in (spec, specs.override(spec, "reward.rescale", True)):
        back = in_reward(each, scales, in_network(each, scales, jnp.array([3.0])))
        np.testing.assert_allclose(back, [3.0], rtol=1e-6)
    assert as_learned(AgentSpec(), None, jnp.array([8.0])).tolist() == [8.0]


def test_observations_count_once_each_final_ones_too_and_padding_not_at_all():
    """Seen were 1 and 3, the last observation of the episode was 103; the padded row does not count."""
    one = agent(observation__normalize=True, observation__missing="mask")
    seen = [[1.0, NAN], [3.0, 5.0], [77.0, 77.0]]
    state = one.observe(one.init(jax.random.PRNGKey(0)), steps([0, 0, 0], seen, done=[0, 1, 1], keep=[1, 1, 0]))
    [scale] = state.learner.statistics.scales.observation
    assert scale.count.tolist() == [3.0, 2.0]
    np.testing.assert_allclose(scale.origin + scale.mean, [(1 + 3 + 103) / 3, (5 + 105) / 2], rtol=1e-6)


def test_the_next_observation_is_looked_at_through_what_was_counted():
    """The decision of numbers that are normalised is that of the same numbers, normalised by hand."""
    plain, one = agent(), agent(observation__normalize=True)
    state = one.observe(one.init(jax.random.PRNGKey(0)), steps([0.0] * 4, [[0, 10], [4, 30], [0, 10], [4, 30]]))
    bits = jnp.zeros((1, 0), jnp.uint32)

    def q(chosen, mind, observation):
        seen = Seen(jnp.asarray([observation], jnp.float32), jnp.ones(1, bool), jnp.zeros(1))
        return look(chosen.spec, mind, state.actor.policy, seen, bits).decision.q

    bare = plain.mind(replace(state, learner=replace(state.learner, statistics=None)))
    bare = replace(bare, network=replace(bare.network, sight=None))
    np.testing.assert_allclose(q(one, one.mind(state), [3, 40]), q(plain, bare, [0.5, 2.0]), rtol=1e-5)


def test_a_memory_keeps_returns_in_units_of_reward():
    """Episodes of one step that pay 100 are remembered as 100, and read in the network's units of the moment."""
    one = agent(reward__normalize=True, external="episodic", recall__n_step=1, recall__weigh_by_error=False)
    state = one.init(jax.random.PRNGKey(0))
    observe = jax.jit(one.observe)
    for number in range(6):
        seen = Seen(jnp.full((1, 2), float(number)), jnp.ones(1, bool), jnp.zeros(1))
        acted = one.act(one.mind(state), state.actor, seen)
        paid = jnp.asarray([100.0 * (1 + number % 2)])
        row = TimeStep(seen.observation, seen.is_first, acted.action, paid, jnp.ones(1, bool))
        over = Experience(row, jnp.ones(1, bool), seen.observation, jnp.ones(1, bool), acted.noted)
        state = observe(replace(state, actor=acted.actor), jax.tree.map(lambda leaf: leaf[None], over))
    mind = one.mind(state)
    frames = jnp.full((1, 2), 2.0)
    decision = mind.network(frames, jnp.zeros(0, jnp.uint32))
    told = consult(one.spec, mind.recall, mind.network, mind.network, frames, decision)[1]
    raw = mind.network.external.read(
        mind.recall.store, told.working.vector / jnp.sqrt((told.working.vector**2).sum() + 1e-6), None
    )
    unit = statistics.unit(state.learner.scales)
    known = np.asarray(raw.confidence) > 0
    assert unit is not None
    assert abs(float(unit) - 1 / 50) < 1e-4, "returns of 100 and 200 deviate by 50"
    np.testing.assert_allclose(told.external.q, raw.q * unit, rtol=1e-5)
    assert (np.asarray(raw.q)[known] >= 99).all()
    assert (np.asarray(raw.q)[known] <= 201).all()


def test_equal_observations_are_one_situation_whatever_the_bits_of_a_nan():
    one = agent(observation__missing="mask", external="episodic", recall__n_step=1)
    state = one.init(jax.random.PRNGKey(0))
    hashes = []
    for bits, other in ((0x7FC00000, 5.0), (0xFFC00001, 5.0), (0x7FC00000, 6.0), (0x00000000, 5.0)):
        number = np.array([bits], np.uint32).view(np.float32)[0]
        seen = Seen(jnp.asarray(np.array([[number, other]], np.float32)), jnp.ones(1, bool), jnp.zeros(1))
        hashes.append(one.act(one.mind(state), state.actor, seen).noted.record.waiting.hash.tolist())
    assert hashes[0] == hashes[1]
    assert hashes[2] != hashes[0] != hashes[3], "another number, or 0 in the place of what is missing, is another"


@pytest.mark.parametrize(
    ("space", "settings"),
    [
        (FLOATS, {}),
        (PAIR, {"observation__stack": 2, "draw": "similar"}),
        (PAIR, {"working": "gru", "replay__window": 4, "observation__previous_reward": True, "replay__start": 12}),
        (FLOATS, {"external": "episodic", "recall__n_step": 3, "bootstrap": "successors"}),
        (FLOATS, {"external": "episodic", "recall__keys": "target", "bootstrap": "memory", "recall__refresh": 2}),
        (FLOATS, {"external": "episodic", "recall__keys": "frozen"}),
    ],
    ids=["plain", "stacked", "windows", "successors", "keys of the target", "frozen keys"],
)  # fmt: skip
def test_an_agent_that_keeps_statistics_keeps_the_contract(space, settings):
    changes = {"observation__missing": "mask", "observation__normalize": True, "reward__normalize": True} | settings
    check_agent(agent(space, envs=2, **changes))


def test_off_nothing_is_kept():
    state = agent().init(jax.random.PRNGKey(0))
    assert state.learner.statistics is None
    assert agent().mind(state).network.scales is None


def test_a_reward_is_bounded_in_one_way_only():
    with pytest.raises(SpecError, match="both bound rewards; set reward_clip=0, or leave reward.normalize out"):
        agent(reward__normalize=True, reward_clip=1.0)
