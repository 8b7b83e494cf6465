"""Runs with an external memory: they resume exactly, cut off what was left behind, and refuse what cannot be."""

from typing import Any

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import engram
from engram import Trainer, spaces, specs
from engram.agents import presets
from engram.agents.q_learning import QLearner
from engram.errors import LearningFault, SpecError

SMALL = {"encoder.widths": (8,), "replay.start": 40, "replay.capacity": 400, "replay.batch_size": 8}
EXTERNAL = {"external": "episodic", "external.capacity": 60, "external.neighbours": 4, "bootstrap": "memory",
            "recall.n_step": 4, "recall.refresh": 3}  # fmt: skip


GRAPH = {"external": "graph", "external.capacity": 60, "external.neighbours": 4, "external.every": 20,
         "recall.n_step": 1}  # fmt: skip
CHUNKED = {"external": "chunked", "external.capacity": 64, "external.size": 8, "external.probes": 2,
           "external.neighbours": 4, "recall.n_step": 4}  # fmt: skip
PRODUCT = {"external": "product-key", "external.codes": 8, "external.neighbours": 4, "recall.n_step": 4,
           "recall.train_through_memory": True}  # fmt: skip
KINDS = {
    "online": EXTERNAL,
    "target": EXTERNAL | {"recall.keys": "target"},
    "frozen": EXTERNAL | {"recall.keys": "frozen", "recall.refresh": 0},
    "successors": EXTERNAL | {"bootstrap": "successors"},
    "chunked": CHUNKED,
    "graph": GRAPH,
    "product-key": PRODUCT,
    "recurrent": EXTERNAL
    | {
        "recall.refresh": 0,
        "observation.previous_action": True,
        "working": "gru",
        "working.hidden_size": 8,
        "replay.window": 8,
    },
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
    if kind == "chunked":  # a rounding may cut a chunk elsewhere: what is held is the same, and not where
        held = [np.sort(np.asarray(store.entries.value)[np.asarray(store.entries.live)]) for store in stores]
        np.testing.assert_allclose(*held, rtol=1e-3, atol=1e-3)
        return
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
        taken = int(first.runner.collector.episodes.capture()["running_length"][0])
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
        like = QLearner(specs.override(trainer.plan.agent, "encoder.widths", "9"), trainer.plan.space, 2, 1)
        captured = trainer.runner.capture()
        other = engram.runners.device.DeviceRunner(like, trainer.runner.env, [0])
        with pytest.raises(engram.errors.CheckpointError, match="resume with the settings that the run was started"):
            other.restore(captured.arrays, captured.meta, lambda empty: empty)


def test_entries_that_a_run_had_to_refuse_are_named():
    with Trainer("engram/CartPole-v1", "double-dqn", steps=200, overrides=SMALL | EXTERNAL) as trainer:
        run = trainer.runner._run
        bad = jnp.array([3], jnp.int32), jnp.array([[0, 7, 12]], jnp.int32)
        trainer.runner._run = eqx.tree_at(
            lambda run: (run.agent.recall.store.refused, run.agent.recall.fault), run, bad
        )
        with pytest.raises(LearningFault, match="of 3 entries .* environment 0, episode 7, step 12 of it"):
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
        ({"recall.imitation_weight": 0.5}, "recall.imitation_weight = 0.5 is for an external memory"),
        ({"recall.refresh": 5}, "recall.refresh = 5 is for an external memory"),
        ({**EXTERNAL, "recall.keys": "frozen"}, "recall.keys = frozen never change"),
        ({**EXTERNAL, "external.eviction": "merge"}, "no memory can with external.eviction = merge"),
        ({**CHUNKED, "recall.refresh": 1}, "computes keys anew, which external=chunked cannot"),
        ({**PRODUCT, "recall.refresh": 1}, "keep their observation, which external=product-key cannot"),
        ({**GRAPH, "bootstrap": "successors"}, "keep their successor, which external=graph cannot"),
        ({**GRAPH, "recall.n_step": 2}, "external=graph keeps single steps .* recall.n_step = 2"),
        ({**EXTERNAL, "working": "gru", "replay.window": 8}, "looks at single observations again"),
        ({"draw": "similar", "working": "gru", "replay.window": 8}, "draw=similar compares single"),
        (
            {"external": "episodic", "external.capacity": 10, "external.neighbours": 11},
            "is more than external.capacity",
        ),
    ],
)
def test_what_is_asked_of_a_memory_needs_one_that_can(changes: dict[str, Any], sentence: str):
    with pytest.raises(SpecError, match=sentence):
        specs.override_all(presets.preset("double-dqn", spaces.Box((4,)), 5_000), changes)
