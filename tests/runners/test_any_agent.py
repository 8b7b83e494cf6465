"""Runners know an agent by its protocol only: collector and learner apart, either lag, and an agent with no ring."""

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from support.bad_envs import Walk

from engram import spaces
from engram.agents.agent import Acted, AgentState, Experience, PlainPolicy, Rhythm
from engram.agents.policy import Mind, Seen
from engram.agents.q_learning import QLearner
from engram.agents.spec import AgentSpec, ReplaySpec
from engram.bits import next_words
from engram.encoders.vector import VectorSpec
from engram.envs.device import make_device
from engram.envs.host.make import make_host
from engram.run.keeper import Keeper, Milestones, digest
from engram.runners.collector import Collector, unpack
from engram.runners.common import Flat, Tally
from engram.runners.device import DeviceRunner
from engram.runners.host import HostRunner
from engram.runners.learner import Learner, joined, parted
from engram.types import Decision, Encoding, MemoryRead, Returns

SPEC = AgentSpec(encoder=VectorSpec(widths=(8,)), replay=ReplaySpec(capacity=200, batch_size=8, start=8))
WALK = spaces.Box((2,))
KEY = jax.random.PRNGKey(1)


def never() -> bool:
    return False


class Fixed:
    """An actor that always does the same, and has nothing stored with it."""

    def load(self, mind: Any) -> None:
        pass

    def act(self, observation: Any, is_first: np.ndarray, reward: np.ndarray, steps: int) -> tuple[np.ndarray, None]:
        return np.ones(len(is_first), np.int64), None

    def follow(self, agent: Any) -> None:
        pass

    def undo(self) -> None:
        pass

    def noted(self) -> None:
        return None

    def capture(self) -> tuple[dict, dict]:
        return {}, {}

    def restore(self, arrays: Any, meta: Any) -> None:
        pass


# -- a collector without a learner, a learner without a collector ----------------------------------------------------


def test_a_collector_needs_no_learner_and_what_it_pads_leaves_no_trace():
    """Episodes of Walk take 4 steps, so that the fourth step of two environments ends both of their first ones."""
    agent = QLearner(replace(SPEC, learn_every=6), WALK, 2, 2)
    with closing(make_host(Walk, seed=3, envs=2)) as envs:
        collector = Collector(agent, envs, Fixed(), 3)
        collector.start()
        blocks = [collector.step() for _ in range(5)]
        assert [block is not None for block in blocks] == [False, False, True, False, False]
        whole, cut = blocks[2], collector.cut()
        assert (collector.steps, collector.phase, collector.cut()) == (10, 0, None)
    assert whole is not None
    assert cut is not None
    assert whole.columns.shape == cut.columns.shape == (3, 2, 6)
    assert unpack(whole).keep.all()
    np.testing.assert_array_equal(unpack(cut).keep, [[True, True], [True, True], [False, False]])
    np.testing.assert_array_equal(unpack(cut).done, [[True, True], [False, False], [False, False]])
    state = agent.init(KEY)
    given = unpack(cut)
    garbage = given._replace(
        row=jax.tree.map(lambda leaf: leaf.at[2].set(jnp.ones((), leaf.dtype)), jax.tree.map(jnp.asarray, given.row)),
        done=given.done.at[2].set(True),
    )
    padded, spoiled = agent.observe(state, given), agent.observe(state, garbage)
    alone = agent.observe(state, jax.tree.map(lambda leaf: leaf[:2], given))
    assert padded.replay.ring.cursor.tolist() == [3, 3], "two steps, and the final row of one episode"
    for other in (padded, spoiled):
        for one, two in zip(jax.tree.leaves(alone), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(one, two)


def test_a_learner_needs_no_collector():
    agent = QLearner(SPEC, WALK, 2)
    with closing(make_host(Walk, seed=3)) as envs:
        collector = Collector(agent, envs, Fixed(), 4)
        collector.start()
        blocks = [block for _ in range(16) if (block := collector.step())]
    learner = Learner(agent, agent.init(KEY), 1)
    before = jax.tree.map(np.array, learner.state.learner.params)
    learner.store(blocks[0])
    learner.store(blocks[1])
    assert int(learner.state.learner.updates) == int(learner.tally.moments) == 0
    for number, block in enumerate(blocks[2:], 2):
        learner.settle(block, 4 * (number + 1))
    assert int(learner.state.learner.updates) == int(learner.tally.moments) == 2
    assert int(learner.state.replay.ring.cursor[0]) == 16 + 4
    assert not np.array_equal(before.head.linear.bias, learner.state.learner.params.head.linear.bias)
    assert learner.report(16)["updates"] == 2
    assert learner.tally.means() == {"loss": None, "q_mean": None}


# -- lag ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompt(QLearner):
    """A Q-learner whose acting waits for learning."""

    @property
    def rhythm(self) -> Rhythm:
        return super().rhythm._replace(lag=0)


def test_an_agent_without_lag_learns_after_each_cycle_whatever_group_was_asked_for():
    with closing(make_host(Walk, seed=3)) as envs:
        assert HostRunner(Prompt(SPEC, WALK, 2), envs, 0, group=8).learner.size == Prompt(SPEC, WALK, 2).rhythm.acts


@pytest.mark.parametrize("kind", [Prompt, QLearner])
def test_an_agent_acts_with_the_newest_mind_or_with_that_of_a_block_ago(kind: type[QLearner]):
    agent = kind(SPEC, WALK, 2)
    with closing(make_host(Walk, seed=3)) as envs:
        runner = HostRunner(agent, envs, 0)
        runner.start()
        newest = older = [np.array(leaf) for leaf in runner.learner.mind_leaves]
        moved = 0
        for step in range(1, 33):
            runner.advance(step, never)
            learned = [np.array(leaf) for leaf in runner.learner.mind_leaves]
            if step % 4 == 0:
                older, newest = newest, learned
                moved += any((a != b).any() for a, b in zip(older, newest, strict=True))
            expected = newest if kind is Prompt else older
            for acts, meant in zip(jax.tree.leaves(runner.acting), expected, strict=True):
                np.testing.assert_array_equal(acts, meant)
        assert moved == 7, "each block from step 8 on moves the parameters"


# -- an agent that is not the Q-learner ------------------------------------------------------------------------------


class Beliefs(NamedTuple):
    """What a bandit knows of each action."""

    mean: Any
    count: Any
    moments: Any


class Preference(Mind):
    """What it acts with; it has no network."""

    mean: Any

    def __init__(self, mean: Any):
        self.network, self.recall, self.target = None, None, None  # type: ignore[assignment]
        self.mean = mean


class Explorer(NamedTuple):
    """What its acting changes."""

    key: Any
    steps: Any


@dataclass(frozen=True)
class Bandit:
    """Knows the mean reward of each action, whatever it observes; explores in a tenth of the steps. It has no ring."""

    space: spaces.Box
    actions: int
    envs: int = 1

    metrics = ("surprise",)
    branches = missing = False
    rhythm = Rhythm(acts=3, first=1, lag=1)

    def init(self, key: Any) -> AgentState:
        zeros = jnp.zeros(self.actions)
        return AgentState(Explorer(key, jnp.int32(0)), Beliefs(zeros, zeros, jnp.int32(0)), zeros, None)

    def mind(self, state: AgentState) -> Any:
        return Preference(state.learner.mean)

    def act(self, mind: Any, actor: Explorer, seen: Seen) -> Acted:
        key, bits = next_words(actor.key, 2 * self.envs)
        chance, which = bits.reshape(2, self.envs)
        action = jnp.where(chance < 2**32 // 10, which % self.actions, mind.mean.argmax()).astype(jnp.int32)
        return Acted(Explorer(key, actor.steps + self.envs), action, self._decision(mind), None)

    def _decision(self, mind: Any) -> Decision:
        def each(*shape: int) -> Any:
            return jnp.zeros((self.envs, *shape))

        atoms = jnp.broadcast_to(mind.mean[None, :, None], (self.envs, self.actions, 1))
        nothing = MemoryRead(each(1), each(0, 1, 0), each(0, 1, 0).astype(jnp.int32))
        returns = Returns(atoms, jnp.zeros_like(atoms), each(0, self.actions))
        return Decision(Encoding(each(1), each(0, 0)), nothing, returns, None)

    def plain(self) -> PlainPolicy | None:
        return None

    def observe(self, state: AgentState, experience: Experience) -> AgentState:
        """Sums what each action paid since the last moment of learning; its store is these sums, and the counts."""
        taken = jax.nn.one_hot(experience.row.action, self.actions) * experience.keep[..., None]
        paid = (taken * experience.row.reward[..., None]).sum((0, 1))
        count = state.learner.count + taken.sum((0, 1))
        return replace(state, replay=state.replay + paid, learner=state.learner._replace(count=count))

    def learn(self, state: AgentState) -> tuple[AgentState, Any]:
        old = state.learner
        mean = state.replay / jnp.maximum(old.count, 1)
        surprise = jnp.abs(mean - old.mean).mean()
        return replace(state, learner=Beliefs(mean, old.count, old.moments + 1)), {"surprise": surprise}

    def rows(self, state: AgentState) -> tuple[()]:
        return ()

    def with_rows(self, state: AgentState, rows: Any) -> AgentState:
        return state

    def shared(self, state: AgentState) -> Any:
        return [*([] if state.actor is None else [state.actor.steps]), state.learner.moments]

    def fault(self, state: AgentState, step: int, seeds: Any) -> None:
        return None

    def report(self, state: AgentState, step: int) -> dict[str, Any]:
        return {"moments": int(state.learner.moments)}

    def nbytes(self) -> dict[str, int]:
        return {}


def on_host() -> HostRunner:
    envs = make_host(Walk, seed=3, envs=2)
    return HostRunner(Bandit(envs.observation_space, envs.actions, 2), envs, 0)  # type: ignore[arg-type]


def on_device() -> DeviceRunner:
    env = make_device("engram/CartPole-v1")
    return DeviceRunner(Bandit(env.observation_space, env.actions, 2), env, [0, 7])  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [on_host, on_device])
def test_an_agent_without_ring_or_recall_runs_and_resumes_exactly(tmp_path: Path, make: Any):
    """Stopped inside a block on the host: steps come in pairs, and a block is three of them."""
    with closing(make()) as whole, closing(make()) as first, closing(make()) as second:
        whole.start()
        whole.advance(240, never)
        first.start()
        first.advance(100, never)
        Keeper(tmp_path, "plan").save(first, Milestones())
        assert Keeper(tmp_path, "plan").restore(second) == (Milestones(), [])
        assert second.steps == first.steps < 240
        assert digest(second) == digest(first)
        second.advance(240, never)
        assert digest(second) == digest(whole)
        report = whole.report()
        assert report["moments"] == 240 // 6
        minds = [np.asarray(mind.mean) for mind in whole.minds()]
        stored = Keeper(tmp_path, "plan").minds(whole.agent).minds
        assert len(stored) == len(minds)
    if make is on_host:
        assert minds[0].argmax() == 1, "the second action moves Walk to where it pays more"


# -- small parts -------------------------------------------------------------------------------------------------


@given(
    values=st.lists(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=2), min_size=1, max_size=6),
    seeds=st.booleans(),
)
def test_a_tally_gives_the_mean_of_each_metric_for_every_seed(values: list[list[float]], seeds: bool):
    agent = Bandit(spaces.Box((1,)), 2)
    tally = Tally.empty(agent, *([2] if seeds else []))  # type: ignore[arg-type]
    assert tally.means() == {"surprise": [None, None] if seeds else None}
    for pair in values:
        tally = tally.add({"surprise": jnp.float32(pair) if seeds else jnp.float32(pair[0])})
    expected = np.mean(values, axis=0) if seeds else np.mean([pair[0] for pair in values])
    np.testing.assert_allclose(tally.means()["surprise"], expected, rtol=1e-4, atol=1e-4)


TREES = st.recursive(
    st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(TREES)
def test_a_flat_tree_is_the_tree_again(tree: Any):
    flat = Flat.of(tree)
    assert flat.value == tree
    assert flat.leaves == jax.tree.leaves(tree)


@given(st.data())
def test_what_is_parted_is_joined_again(data: Any):
    leaves = data.draw(st.lists(st.integers(), max_size=12))
    places = data.draw(st.permutations(range(len(leaves))).flatmap(lambda all: st.integers(0, len(all)).map(
        lambda count: all[:count])))  # fmt: skip
    some, others = parted(leaves, places)
    assert some == [leaves[place] for place in places]
    assert len(others) == len(leaves) - len(places)
    assert joined(some, others, places) == leaves
