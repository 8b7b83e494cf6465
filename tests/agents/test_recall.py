"""An agent and its external memory: what is written, what is read, and that it is part of the run."""

from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import engram
from engram import Trainer, spaces, specs
from engram.agents import examples, presets
from engram.agents import recall as remembering
from engram.agents.q_learning import Agent, Experience, Mind
from engram.agents.spec import AgentSpec, RecallSpec
from engram.bits import fingerprint
from engram.encoders.vector import VectorSpec
from engram.errors import LearningFault, SpecError
from engram.external.episodic import EpisodicSpec
from engram.heads.attention import AttentionSpec
from engram.losses.bootstrap import MemorySpec, SuccessorsSpec
from engram.types import TimeStep

KEY = jax.random.PRNGKey(0)
SPEC = AgentSpec(
    encoder=VectorSpec(widths=(8,)), external=EpisodicSpec(capacity=200, neighbours=5),
    recall=RecallSpec(n_step=3), discount=0.5, learn_every=2,
)  # fmt: skip
SMALL = {"encoder.widths": (8,), "replay.start": 40, "replay.capacity": 400, "replay.batch_size": 8}


def agent(envs: int = 2, **changes: Any) -> Agent:
    return Agent(replace(SPEC, **changes), spaces.Box((2,)), 2, envs)


class Told:
    """An agent led through scripted rewards and ends, and what its memory should then hold."""

    def __init__(self, one: Agent):
        self.agent, self.state = one, one.init(KEY)
        self.recall, self.actor = self.state.recall, self.state.actor
        self.act, self.remember = jax.jit(one.act), jax.jit(one.remember)
        self.rows: list[list[dict[str, Any]]] = [[] for _ in range(one.envs)]

    def step(
        self,
        observation: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        anew: np.ndarray | None = None,
    ) -> None:
        """`anew`: where another episode begins although the last one did not end."""
        observation = jnp.asarray(observation)
        for env in np.flatnonzero(np.zeros(self.agent.envs) if anew is None else anew):
            if self.rows[env]:
                self.rows[env][-1]["done"] = True
        is_first = jnp.array([not rows or rows[-1]["done"] for rows in self.rows])
        mind = Mind(self.state.learner.params, self.recall)
        self.actor, action, decision, noted = self.act(
            mind, self.actor, observation, is_first, jnp.zeros(self.agent.envs)
        )
        done = terminated | truncated
        row = TimeStep(observation, is_first, action, jnp.asarray(reward), jnp.asarray(terminated))
        experience = Experience(row, jnp.asarray(done), observation, jnp.ones(self.agent.envs, bool), noted)
        experience = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], experience)
        self.recall = self.remember(mind.network, self.recall, experience)
        for env, rows in enumerate(self.rows):
            rows.append({
                "action": int(action[env]), "reward": float(reward[env]), "terminated": bool(terminated[env]),
                "done": bool(done[env]), "best": float(decision.preference[env].max()),
                "key": np.asarray(remembering.key_of(self.agent.spec, decision.working.vector[env])),
            })  # fmt: skip

    def expected(self, n: int, discount: float) -> list[tuple[int, int, float]]:
        """By a plain loop: (environment, step, value) of every action that should have been written."""
        found = []
        for env, rows in enumerate(self.rows):
            for t in range(len(rows) - n):
                value, written = 0.0, True
                for k in range(n):
                    if rows[t + k]["done"] and not rows[t + k]["terminated"]:
                        value += discount**k * rows[t + k]["best"]  # cut off here: what follows is not known
                        written = k > 0
                        break
                    value += discount**k * rows[t + k]["reward"]
                    if rows[t + k]["done"]:
                        break
                else:
                    value += discount**n * rows[t + n]["best"]
                if written:
                    found.append((env, t, value))
        return found


@pytest.mark.parametrize("n", [1, 3])
def test_an_entry_is_the_n_step_return_of_its_action(n: int):
    told = Told(agent(recall=RecallSpec(n_step=n)))
    random = np.random.default_rng(0)
    for _ in range(40):
        ends, anew = random.random(2), random.random(2) < 0.1
        told.step(random.normal(size=(2, 2)).astype(np.float32), random.normal(size=2).astype(np.float32),
                  ends < 0.15, ends > 0.85, anew)  # fmt: skip
    store = told.recall.store
    where = np.argwhere(np.asarray(store.live))
    expected = told.expected(n, 0.5)
    assert len(where) == len(expected)
    assert int(store.clock) == len(expected)
    steps = {}
    for env, rows in enumerate(told.rows):  # (environment, episode, step of it) -> step of the run
        episode, first = 0, 0
        for t, row in enumerate(rows):
            steps[env, episode, t - first] = t
            if row["done"]:
                episode, first = episode + 1, t + 1
    found = {}
    for table, place in where:
        env, episode, moment = np.asarray(store.origin[table, place]).tolist()
        row = told.rows[env][steps[env, episode, moment]]
        assert table == row["action"] == int(store.action[table, place])
        np.testing.assert_allclose(store.key[table, place], row["key"], rtol=1e-6)
        found[env, steps[env, episode, moment]] = float(store.value[table, place])
    assert found.keys() == {(env, t) for env, t, _ in expected}
    for env, t, value in expected:
        np.testing.assert_allclose(found[env, t], value, rtol=1e-5, atol=1e-5)


def test_exactly_what_acting_read_for_its_action_is_touched():
    told = Told(agent())
    random, received, last = np.random.default_rng(0), {}, {}
    for _ in range(25):
        before, params = told.recall.store, told.state.learner.params
        seen = random.normal(size=(2, 2)).astype(np.float32)
        told.step(seen, np.ones(2, np.float32), np.zeros(2, bool), np.zeros(2, bool))
        for rows in told.rows:
            read = params.external.read(before, jnp.asarray(rows[-1]["key"]))
            entries, weights = (np.asarray(leaf)[0, rows[-1]["action"]] for leaf in (read.entries, read.weights))
            for entry, weight in zip(entries[entries >= 0].tolist(), weights[entries >= 0], strict=True):
                received[entry] = received.get(entry, 0.0) + weight
                last[entry] = int(before.clock)
    store = told.recall.store
    assert int(store.live.sum()) == 2 * (25 - 3)
    assert len(received) > 10
    for entry in range(store.capacity):
        place = divmod(entry, store.places)
        np.testing.assert_allclose(store.attention[place], received.get(entry, 0.0), rtol=1e-4, atol=1e-6)
        assert int(store.read[place]) == last.get(entry, 0)


def test_the_share_of_the_memory_is_its_confidence_and_what_it_is_trusted_with():
    one = agent(recall=RecallSpec(n_step=1, trust=True, share=0.5))
    told = Told(one)
    for _ in range(4):
        told.step(np.ones((2, 2), np.float32), np.ones(2, np.float32), np.zeros(2, bool), np.zeros(2, bool))
    trusted = replace_errors(told.recall, [3.0, 1.0])
    consult = partial(remembering.consult, one.spec, trusted, told.state.learner.params, told.state.learner.params)
    frames = jnp.ones((1, 2))
    _, decision = consult(frames, told.state.learner.params(frames))
    np.testing.assert_allclose(decision.share, 0.5 * 0.75 * decision.external.confidence, rtol=1e-6)
    known = np.asarray(decision.external.confidence) > 0
    assert known.any()
    blended = (1 - decision.share) * decision.returns.q + decision.share * decision.external.q
    np.testing.assert_allclose(np.asarray(decision.q)[known], np.asarray(blended)[known], rtol=1e-6)
    sure = replace(one.spec, recall=RecallSpec(n_step=1, trust=False, confidence="known"))
    _, decision = remembering.consult(
        sure, trusted, told.state.learner.params, told.state.learner.params, frames, told.state.learner.params(frames)
    )
    np.testing.assert_array_equal(decision.share, known.astype(np.float32))


def replace_errors(recall: remembering.RecallState, errors: list[float]) -> remembering.RecallState:
    return replace(recall, errors=jnp.array(errors))


def test_an_empty_memory_changes_no_target():
    one, plain = agent(bootstrap=MemorySpec()), agent(external=AgentSpec().external)
    state, random = one.init(KEY), np.random.default_rng(0)
    example = examples.Transition(
        jnp.asarray(random.normal(size=(1, 2)), jnp.float32), jnp.int32(1),
        remembering_step(), jnp.asarray(random.normal(size=(1, 2)), jnp.float32), jnp.float32(1),
    )  # fmt: skip
    params = state.learner.params
    with_memory = examples.score_transition(one.spec, examples.Nets(params, params, state.recall), example)
    without = examples.score_transition(plain.spec, examples.Nets(params, params, ()), example)
    np.testing.assert_array_equal(with_memory.loss, without.loss)


def remembering_step() -> Any:
    from engram.losses.returns import NStep

    return NStep(jnp.float32(1.0), jnp.float32(0.5), jnp.int32(1))


@pytest.mark.parametrize("through", [False, True])
def test_the_gradient_reaches_the_encoder_through_the_read_only_where_asked(through: bool):
    one = agent(recall=RecallSpec(n_step=1, through=through, trust=False, confidence="known"))
    told = Told(one)
    random = np.random.default_rng(0)
    for _ in range(8):
        told.step(random.normal(size=(2, 2)).astype(np.float32), random.normal(size=2).astype(np.float32),
                  np.zeros(2, bool), np.zeros(2, bool))  # fmt: skip
    params = told.state.learner.params
    example = examples.Transition(jnp.ones((1, 2)), jnp.int32(0), remembering_step(), jnp.ones((1, 2)), jnp.float32(1))

    def loss(network: Any) -> Any:
        return examples.score_transition(one.spec, examples.Nets(network, params, told.recall), example).loss

    slope = jax.grad(loss)(params)
    head = float(jnp.abs(slope.head.linear.weight).sum())
    encoder = sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(slope.encoder))
    assert encoder > 0
    assert (head == 0) == through, "where the memory answers alone, the head learns nothing"


def test_the_same_observation_has_the_same_hash_and_others_have_others():
    random = np.random.default_rng(0)
    boards = np.unique(random.integers(0, 2, size=(3000, 5, 5, 2)).astype(bool), axis=0)
    hashes = np.asarray(jax.jit(jax.vmap(fingerprint))(jnp.asarray(boards)))
    assert len(np.unique(hashes, axis=0)) == len(boards)
    np.testing.assert_array_equal(hashes, jax.vmap(fingerprint)(jnp.asarray(boards)))
    assert len(np.unique(hashes[:, 0])) > len(boards) - 5, "each half alone is a good hash too"
    np.testing.assert_array_equal(fingerprint(jnp.array([0.0, 1.0])), fingerprint(jnp.array([-0.0, 1.0])))
    swapped = [np.asarray(fingerprint(jnp.array(x))) for x in ([1.0, 2.0], [2.0, 1.0])]
    assert not np.array_equal(*swapped)


def test_keys_are_computed_anew_in_turn():
    one = agent(recall=RecallSpec(n_step=1, refresh=4), external=EpisodicSpec(capacity=8, neighbours=2))
    told = Told(one)
    random = np.random.default_rng(0)
    for _ in range(10):
        told.step(
            random.normal(size=(2, 2)).astype(np.float32), np.ones(2, np.float32), np.zeros(2, bool), np.zeros(2, bool)
        )
    other = one.init(jax.random.PRNGKey(9)).learner
    fresh = one.refresh(other, one.refresh(other, told.recall))  # two turns of four go through all eight
    store = fresh.store
    for table, place in np.argwhere(np.asarray(store.live)):
        observation = store.observation[table, place]
        embedded = np.asarray(other.params.embed(observation))
        expected = embedded / np.linalg.norm(embedded)
        np.testing.assert_allclose(store.key[table, place], expected, rtol=1e-4, atol=1e-4)
    assert float(fresh.overlap) <= 1.0


RECURRENT = {"working": "gru", "replay.window": 8}


@pytest.mark.parametrize("previous", [False, True])
def test_with_a_working_memory_equal_observations_after_different_pasts_are_two_entries(previous: bool):
    changes = {"encoder": "vector", "external": "episodic", "external.capacity": 200, "external.neighbours": 5,
               "recall.n_step": 1, "observation.previous_reward": previous, **RECURRENT,
               "encoder.widths": (8,)}  # fmt: skip
    one = Agent(specs.override_all(presets.preset("double-dqn", spaces.Box((2,)), 5_000), changes), spaces.Box((2,)), 2)
    told, no = Told(one), np.zeros(1, bool)
    cue, corridor = np.full((1, 2), 1.0, np.float32), np.zeros((1, 2), np.float32)
    episodes = [(cue, 0.0), (-cue, 0.0), (cue, 0.0), (cue, 1.0)]  # what is seen first, and what it pays
    for first, reward in episodes:
        told.step(first, np.full(1, reward, np.float32), no, no)
        told.step(corridor, np.zeros(1, np.float32), no, no)
        told.step(corridor, np.zeros(1, np.float32), ~no, no)
    told.step(corridor, np.zeros(1, np.float32), no, no)
    written = np.asarray(told.recall.store.hash)[np.asarray(told.recall.store.live)]
    # An entry each for the cue and its opposite, and for two steps after each; the last episode had another reward.
    taken = {(bool(first[0, 0] > 0), reward if previous and t else 0.0, t, rows["action"])
             for number, (first, reward) in enumerate(episodes)
             for t, rows in enumerate(told.rows[0][3 * number : 3 * number + 3])}  # fmt: skip
    assert len(written) == len(taken)
    assert len(np.unique(written, axis=0)) == (8 if previous else 6)


def test_what_followed_by_chance_is_kept_beside_what_followed_before():
    spec = replace(SPEC, recall=RecallSpec(n_step=1, trust=False), bootstrap=SuccessorsSpec())
    told, no = Told(agent(**vars_of(spec))), np.zeros(2, bool)
    for number in range(6):  # one and the same observation pays 0 or 1 in turn, and its episode is over
        told.step(np.ones((2, 2), np.float32), np.full(2, number % 2, np.float32), ~no, no)
    told.step(np.ones((2, 2), np.float32), np.zeros(2, np.float32), no, no)
    store, params = told.recall.store, told.state.learner.params
    assert int(store.live.sum()) == 12, "nothing was overwritten"
    frames = jnp.ones((1, 2))
    consulted = remembering.consult(spec, told.recall, params, params, frames, params(frames))[1]
    for action in range(2):
        mine = np.asarray(store.live[action])
        assert mine.sum() >= 5  # as many as are read
        target = remembering.by_successors(told.recall, params, consulted, jnp.int32(action), jnp.float32(9.0))
        read = np.asarray(consulted.external.entries[0, action])
        paid = np.asarray(store.reward).reshape(-1)[read]
        np.testing.assert_allclose(target, paid.mean(), rtol=1e-5)
        assert 0 < paid.mean() < 1
        # Elsewhere the same entries are the nearest, but not near: so far they do not count.
        other = jnp.array([[-2.0, 3.0]])
        asked = remembering.consult(spec, told.recall, params, params, other, params(other))[1]
        certain = float(asked.external.confidence[action])
        assert certain < 0.9
        far = remembering.by_successors(told.recall, params, asked, jnp.int32(action), jnp.float32(9.0))
        np.testing.assert_allclose(far, (1 - certain) * 9 + certain * paid.mean(), rtol=1e-4)


def test_what_followed_is_the_observation_that_the_return_bootstraps_from():
    """With returns of three steps: three steps later, or where the episode was cut off, or none at its end."""
    spec = replace(SPEC, recall=RecallSpec(n_step=3), bootstrap=SuccessorsSpec())
    told, random = Told(agent(**vars_of(spec))), np.random.default_rng(3)
    for number in range(40):
        ends = random.random(2)
        told.step(np.array([[number, 0.0], [number, 1.0]], np.float32), random.normal(size=2).astype(np.float32),
                  ends < 0.15, ends > 0.85)  # fmt: skip
    store = told.recall.store
    steps = {}
    for env, rows in enumerate(told.rows):
        episode, first = 0, 0
        for t, row in enumerate(rows):
            steps[env, episode, t - first] = t
            if row["done"]:
                episode, first = episode + 1, t + 1
    kinds = set()
    for where in map(tuple, np.argwhere(np.asarray(store.live))):
        env, episode, moment = np.asarray(store.origin[where]).tolist()
        t, rows = steps[env, episode, moment], told.rows[env]
        reward, discount, ahead, kind = 0.0, 1.0, 0, "whole"
        while ahead < 3:
            row = rows[t + ahead]
            if row["done"] and not row["terminated"]:
                kind = "cut"
                break
            reward, discount, ahead = reward + discount * row["reward"], discount * 0.5, ahead + 1
            if row["done"]:
                discount, kind = 0.0, "over"
                break
        kinds.add(kind)
        np.testing.assert_allclose(store.reward[where], reward, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(store.discount[where], discount, rtol=1e-6)
        if discount:
            assert np.asarray(store.successor[where])[-1].tolist() == [t + ahead, env]
    assert kinds == {"whole", "cut", "over"}


def vars_of(spec: AgentSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in spec.__dataclass_fields__}


def test_the_pull_is_the_loss_to_what_is_stored_times_its_confidence():
    one = agent(recall=RecallSpec(n_step=1, pull=0.5, share=0.0, trust=False))
    told, random = Told(one), np.random.default_rng(0)
    for _ in range(8):
        told.step(random.normal(size=(2, 2)).astype(np.float32), 5 + random.normal(size=2).astype(np.float32),
                  np.zeros(2, bool), np.zeros(2, bool))  # fmt: skip
    params, frames = told.state.learner.params, jnp.full((1, 2), 0.3)
    example = examples.Transition(frames, jnp.int32(1), remembering_step(), jnp.ones((1, 2)), jnp.float32(1))
    without = replace(one.spec, recall=replace(one.spec.recall, pull=0.0))
    loss, plain = (examples.score_transition(spec, examples.Nets(params, params, told.recall), example).loss
                   for spec in (one.spec, without))  # fmt: skip
    read = params.external.read(told.recall.store, remembering.key_of(one.spec, params.embed(frames)))
    q = params(frames).returns.q[1]
    expected = 0.5 * float(read.confidence[1]) * float(one.spec.loss(q, read.q[1]))
    assert expected > 0.01
    np.testing.assert_allclose(loss - plain, expected, rtol=1e-4)


def test_the_overlap_is_the_share_of_neighbours_that_a_fresh_key_has_too():
    one = agent(recall=RecallSpec(n_step=1, refresh=1), external=EpisodicSpec(capacity=40, neighbours=5))
    told, random = Told(one), np.random.default_rng(0)
    for _ in range(20):
        told.step(random.normal(size=(2, 2)).astype(np.float32), np.ones(2, np.float32), np.zeros(2, bool),
                  np.zeros(2, bool))  # fmt: skip
    other, store = one.init(jax.random.PRNGKey(9)).learner, told.recall.store
    live = np.flatnonzero(np.asarray(store.live[0]))
    keys, fresh = np.asarray(store.key[0]), remembering.key_of(one.spec, other.params.embed(store.observation[0, 0]))
    nearest = [set(live[np.argsort(((keys[live] - key) ** 2).sum(1))[:5]]) for key in (keys[0], np.asarray(fresh))]
    shared = len(nearest[0] & nearest[1]) / 5
    assert shared < 1
    renewed = jax.jit(one.refresh)(other, told.recall)
    np.testing.assert_allclose(renewed.overlap, 1 + 0.01 * (shared - 1), rtol=1e-5)


def test_similar_rows_are_learned_from():
    one = agent(external=AgentSpec().external, replay=replace(SPEC.replay, batch_size=2, candidates=8, start=8))
    replay, params = one.init(KEY).replay, one.init(KEY).learner.params
    write = jax.jit(one.observe)
    for angle in np.linspace(0, 3, 40):
        row = TimeStep(jnp.full((1, 2, 2), angle, jnp.float32).at[..., 1].set(np.cos(angle)), jnp.zeros((1, 2), bool),
                       jnp.zeros((1, 2), jnp.int32), jnp.zeros((1, 2)), jnp.zeros((1, 2), bool))  # fmt: skip
        no = jnp.zeros((1, 2), bool)
        replay = write(replay, Experience(row, no, row.observation, ~no))
    rows, lanes = jnp.arange(1, 33, 4), jnp.zeros(8, jnp.int32)
    kept = np.asarray(examples.similar(one.spec, params, replay, rows, lanes))
    newest = params.embed(replay.rows.observation[39, 0][None])
    embedded = [params.embed(replay.rows.observation[row, 0][None]) for row in rows]
    alike = [float(e @ newest / (jnp.linalg.norm(e) * jnp.linalg.norm(newest) + 1e-9)) for e in embedded]
    assert set(kept.tolist()) == set(np.argsort(alike)[-2:].tolist())


# -- runs ------------------------------------------------------------------------------------------------------

EXTERNAL = {"external": "episodic", "external.capacity": 60, "external.neighbours": 4, "bootstrap": "memory",
            "recall.n_step": 4, "recall.refresh": 3}  # fmt: skip


GRAPH = {"external": "graph", "external.capacity": 60, "external.neighbours": 4, "external.every": 20,
         "recall.n_step": 1}  # fmt: skip
CHUNKED = {"external": "chunked", "external.capacity": 64, "external.size": 8, "external.probes": 2,
           "external.neighbours": 4, "recall.n_step": 4}  # fmt: skip
PRODUCT = {"external": "product-key", "external.codes": 8, "external.neighbours": 4, "recall.n_step": 4,
           "recall.through": True}  # fmt: skip
KINDS = {
    "online": EXTERNAL,
    "target": EXTERNAL | {"recall.keys": "target"},
    "frozen": EXTERNAL | {"recall.keys": "frozen", "recall.refresh": 0},
    "successors": EXTERNAL | {"bootstrap": "successors"},
    "chunked": CHUNKED,
    "graph": GRAPH,
    "product-key": PRODUCT,
    "recurrent": EXTERNAL | {"recall.refresh": 0, "observation.previous_action": True, **RECURRENT},
}


FEW = {("engram/CartPole-v1", "chunked"), ("engram/CartPole-v1", "graph"), ("engram/CartPole-v1", "recurrent"),
       ("CartPole-v1", "online")}  # fmt: skip
EVERY = [
    *[("engram/CartPole-v1", kind) for kind in KINDS],
    *[("CartPole-v1", kind) for kind in ("online", "chunked", "recurrent")],
]


@pytest.mark.parametrize(
    ("env", "kind"), [pytest.param(*each, marks=() if each in FEW else pytest.mark.slow) for each in EVERY]
)
def test_a_run_with_an_external_memory_resumes_exactly(tmp_path, env: str, kind: str):
    options = {"steps": 240, "envs": 2, "save_every": 80, "log_every": 80, "overrides": SMALL | KINDS[kind]}
    with Trainer(env, "double-dqn", run=tmp_path / "whole", **options) as whole:
        whole.learn()
        digest, returns = engram.run.keeper.digest(whole.runner), whole.evaluate(2).returns
        assert whole.runner.report()["memory_entries"] > 0
    with Trainer(env, "double-dqn", run=tmp_path / "parts", **options) as first:
        first.learn(120)
    with Trainer(run=tmp_path / "parts", resume=True) as second:
        second.learn()
        assert engram.run.keeper.digest(second.runner) == digest
    loaded = engram.load(tmp_path / "parts")
    assert loaded.evaluate(2).returns == returns
    assert int(loaded.minds[0].recall.store.live.sum()) > 0


@pytest.mark.parametrize("kind", ["chunked", pytest.param("graph", marks=pytest.mark.slow)])
def test_one_seed_alone_remembers_as_side_by_side(kind: str):
    """Alone there is no axis of seeds, so that a graph propagates, and chunks are cut, only where it is due."""
    options = {"steps": 160, "envs": 2, "overrides": SMALL | KINDS[kind] | {"exploration.end": 1.0}}
    stores = []
    for seeds in (1, 2):
        with Trainer("engram/CartPole-v1", "double-dqn", seeds=seeds, **options) as trainer:
            trainer.learn()
            stores.append(trainer.runner.minds()[0].recall.store)
    for one, other in zip(*map(jax.tree.leaves, stores), strict=True):
        if jnp.issubdtype(one.dtype, jnp.floating):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
        else:
            np.testing.assert_array_equal(one, other)


class Adrift(gymnasium.Env):
    """Episodes of 50 steps that begin with a number no seed decides: none can be taken up where it was."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    made = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        Adrift.made, self.number, self.count = Adrift.made + 1, Adrift.made, 0
        return self.show(), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        return self.show(), 1.0, False, self.count == 50, {}

    def show(self) -> np.ndarray:
        return np.array([self.number, self.count], np.float32)


def test_a_new_episode_after_a_resume_cuts_the_old_one_off(tmp_path):
    """What waits in line of the old episode is not joined with what follows."""
    options = {"steps": 160, "save_every": 160, "envs": 2, "overrides": SMALL | EXTERNAL | {"external.capacity": 400}}
    with Trainer(Adrift, "double-dqn", run=tmp_path, **options) as first:
        first.learn(60)  # inside the first episode of both
        taken = int(first.runner._running_length[0])
    with Trainer(Adrift, run=tmp_path, resume=True, new_episodes=True) as second:
        second.learn()
        store = second.runner.minds()[0].recall.store
    assert 20 < taken < 50
    origins = np.asarray(store.origin)[np.asarray(store.live)]
    for env in range(2):
        mine = origins[origins[:, 0] == env]
        assert sorted(mine[mine[:, 1] == 0, 2].tolist()) == list(range(taken - 1))  # all but its last action
        later = sorted(mine[mine[:, 1] == 1, 2].tolist())
        assert later == list(range(len(later)))
        assert len(later) == 80 - taken - 4


def test_a_run_is_refused_with_another_width_of_the_embedding(tmp_path):
    options = {"steps": 60, "save_every": 60, "overrides": SMALL | EXTERNAL}
    with Trainer("engram/CartPole-v1", "double-dqn", run=tmp_path, **options) as trainer:
        trainer.learn()
        like = Agent(specs.override(trainer.plan.agent, "encoder.widths", "9"), trainer.plan.space, 2, 1)
        captured = trainer.runner.capture()
        other = engram.runners.device.DeviceRunner(like, trainer.runner.env, [0])
        with pytest.raises(engram.errors.CheckpointError, match="resume with the settings that the run was started"):
            other.restore(captured.arrays, captured.meta, lambda empty: empty)


def test_keys_that_are_not_finite_are_named_with_where_they_came_from():
    told, no = Told(agent()), np.zeros(2, bool)
    for number in range(9):
        reward = np.array([0.0, np.inf if number == 4 else 0.0], np.float32)
        told.step(np.full((2, 2), number, np.float32), reward, np.array([False, number == 2]), no)
    assert remembering.refused(told.recall) == (2, [0, 1, 1, 0])  # those of the episode that the reward follows
    with Trainer("engram/CartPole-v1", "double-dqn", steps=200, overrides=SMALL | EXTERNAL) as trainer:
        run = trainer.runner._run
        bad = jnp.array([3], jnp.int32), jnp.array([[0, 7, 12]], jnp.int32)
        trainer.runner._run = eqx.tree_at(
            lambda run: (run.agent.recall.store.refused, run.agent.recall.fault), run, bad
        )
        with pytest.raises(LearningFault, match="of 3 entries .* environment 0 of seed 0, episode 7, step 12 of it"):
            trainer.runner.report()


@pytest.mark.parametrize("name", ["nec", pytest.param("mfec", marks=pytest.mark.slow), "emdqn", "attention-dqn"])
def test_presets_with_a_memory_use_it(name: str):
    made = presets.preset(name, spaces.Box((4,)), 5_000)
    assert made.has_external
    changes = {
        "encoder.widths": (8,),
        "external.capacity": 80,
        "replay.batch_size": 8,
        "recall.n_step": 4,
        "external.neighbours": 1 if name == "emdqn" else 5,
    }
    with Trainer("engram/CartPole-v1", name, steps=600, overrides=changes) as trainer:
        trainer.learn()
        assert trainer.runner.report()["memory_entries"] > 10


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bootstrap": "memory"}, "bootstrap=memory is for an external memory, and there is none"),
        ({"recall.pull": 0.5}, "recall.pull = 0.5 is for an external memory"),
        ({"recall.refresh": 5}, "recall.refresh = 5 is for an external memory"),
        ({**EXTERNAL, "recall.keys": "frozen"}, "recall.keys = frozen never change"),
        ({**EXTERNAL, "working": "gru", "replay.window": 8}, "looks at single observations again"),
        ({"replay.candidates": 2, "working": "gru", "replay.window": 8}, "replay.candidates = 2 compares single"),
        (
            {"external": "episodic", "external.capacity": 10, "external.neighbours": 11},
            "is more than external.capacity",
        ),
    ],
)
def test_what_is_asked_of_a_memory_needs_one_that_can(changes: dict[str, Any], sentence: str):
    with pytest.raises(SpecError, match=sentence):
        specs.override_all(presets.preset("double-dqn", spaces.Box((4,)), 5_000), changes)


def test_zeros_of_both_signs_have_one_hash_when_compiled():
    hashed = jax.jit(fingerprint)
    np.testing.assert_array_equal(hashed(jnp.array([0.0, 1.0])), hashed(jnp.array([-0.0, 1.0])))


def test_keys_of_offered_actions_are_computed_anew():
    space = spaces.Dict((("offered", spaces.Box((3, 4))), ("seen", spaces.Box((2,)))))
    spec = replace(SPEC, head=AttentionSpec(action_width=4), recall=RecallSpec(n_step=1, refresh=4))
    one = Agent(spec, space, 3, 2)
    state = one.init(KEY)
    renewed = jax.jit(one.refresh)(state.learner, state.recall)
    assert int(renewed.turn) == 4


@pytest.mark.parametrize("space", [spaces.Text(8, 4), spaces.Box((4,)), spaces.Box((36, 36), "uint8")])
def test_the_preset_of_the_article_fits_every_kind_of_observation(space):
    assert presets.preset("attention-dqn", space, 1_000).has_external
