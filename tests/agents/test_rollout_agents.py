"""Agents that learn from rollouts keep the contract of agents, over every part that they may have.

A few run always; the others are slow tests.
"""

from dataclasses import replace
from typing import Any

import pytest

from engram import spaces, specs
from engram.agents.presets import WITHOUT_REPLAY, preset
from engram.errors import SpecError
from engram.testing import check_agent

ACTIONS, ENVS = 3, 4
VECTOR = spaces.Box((4,))
GRID = spaces.Box((6, 6, 2), "bool")
MASKED = spaces.Dict((("action_mask", spaces.Box((ACTIONS,), "bool")), ("seen", VECTOR)))
OFFERED = spaces.Dict((("offered", spaces.Box((ACTIONS, 2))), ("seen", VECTOR)))
SMALL: dict[str, Any] = {"rollout.steps": 6, "rollout.epochs": 2, "rollout.minibatches": 2}
WIDTHS: dict[str, Any] = {"encoder.widths": (8,)}
BEFORE: dict[str, Any] = {"observation.previous_action": True, "observation.previous_reward": True}
MEMORIES: dict[str, dict[str, Any]] = {
    "gru": {"working.hidden_size": 8},
    "lstm": {"working.hidden_size": 8, "working.layers": 2},
    "mingru": {"working.hidden_size": 8},
    "lru": {"working.hidden_size": 8, "working.state": 4},
    "fast-weights": {"working.hidden_size": 8, "working.head_width": 4, "working.chunk": 4},
    "history": {"working.hidden_size": 8, "working.window": 4, "working.inner": 8},
    "slots": {"working.hidden_size": 8, "working.slots": 4},
}
EXTERNAL = {"external": "episodic", "external.capacity": 32, "external.neighbours": 4, "recall.n_step": 3}
CHUNKED = {
    "external": "chunked",
    "external.capacity": 64,
    "external.size": 16,
    "external.neighbours": 4,
    "recall.n_step": 3,
}
GRAPH = {
    "external": "graph",
    "external.capacity": 32,
    "external.neighbours": 4,
    "external.every": 5,
    "recall.n_step": 1,
}
# Name: the space, what both kinds are given, and what each is given besides.
WITH: dict[str, tuple[spaces.Space, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "vector": (VECTOR, WIDTHS, {}, {}),
    "stack": (VECTOR, WIDTHS | {"observation.stack": 3}, {}, {}),
    "grid": (GRID, {"encoder.width": 8}, {}, {}),
    "masked": (MASKED, WIDTHS, {}, {}),
    "offered": (
        OFFERED, WIDTHS, {"head": "attention", "head.heads": 1}, {"head.policy": "attention", "head.policy.heads": 1},
    ),
    **{name: (VECTOR, WIDTHS | {"working": name} | sizes | BEFORE, {}, {}) for name, sizes in MEMORIES.items()},
    "masked memory": (MASKED, WIDTHS | {"working": "gru"} | MEMORIES["gru"] | BEFORE, {}, {}),
    "external": (VECTOR, WIDTHS | EXTERNAL, {}, {}),
    "external beside a memory": (VECTOR, WIDTHS | EXTERNAL | {"working": "gru"} | MEMORIES["gru"], {}, {}),
    "chunked": (VECTOR, WIDTHS | CHUNKED, {}, {}),
    "graph": (VECTOR, WIDTHS | GRAPH, {}, {}),
    "categorical": (VECTOR, WIDTHS | {"head.returns": "categorical", "loss": "cross-entropy"}, {}, {}),
    "quantile": (VECTOR, WIDTHS | {"head.returns": "quantile", "loss": "quantile-huber"}, {}, {}),
    "implicit": (VECTOR, WIDTHS | {"head.returns": "implicit", "loss": "quantile-huber"}, {}, {}),
    "normalised": (VECTOR, WIDTHS | {"observation.normalize": True, "reward.normalize": True}, {}, {}),
    "missing": (VECTOR, WIDTHS | {"observation.missing": "mask", "observation.stack": 2}, {}, {}),
    "noisy": (VECTOR, WIDTHS, {"head.noise": 0.5}, {"head.policy.noise": 0.5}),
    "parameter noise": (VECTOR, WIDTHS, {"exploration": "parameter-noise"}, {}),
    "clipped value": (VECTOR, WIDTHS, {}, {"value_clip": 0.2, "standardize": False}),
}  # fmt: skip
ALWAYS = {("vector", "pqn"), ("gru", "ppo"), ("masked", "ppo"), ("external", "pqn")}
BOTH = [(name, kind) for name in WITH for kind in ("pqn", "ppo")]


def made(name: str, kind: str) -> Any:
    space, both, pqn, ppo = WITH[name]
    chosen = SMALL | both | (pqn if kind == "pqn" else ppo)
    return specs.override_all(preset(kind, space, 1_000), chosen).build(space, ACTIONS, ENVS)


@pytest.mark.parametrize(
    ("name", "kind"), [pytest.param(*each, marks=() if each in ALWAYS else pytest.mark.slow) for each in BOTH]
)
def test_it_keeps_the_contract_of_agents(name: str, kind: str):
    agent = made(name, kind)
    check_agent(agent)
    assert replace(agent) == agent


@pytest.mark.parametrize(("name", "kind"), BOTH)
def test_it_is_made(name: str, kind: str):
    """Quickly, for every part: shapes alone."""
    agent = made(name, kind)
    assert agent.nbytes()["rollout"] > 0
    assert agent.rhythm == (6, 24, 0)
    assert agent.plain() is None


@pytest.mark.parametrize("kind", sorted(WITHOUT_REPLAY))
def test_every_preset_without_a_replay_says_what_it_is(kind: str):
    for space in (VECTOR, GRID, spaces.Box((84, 84), "uint8")):
        spec = preset(kind, space, 1_000)
        assert spec.replay_rows == 0
        assert spec.has_memory == kind.endswith("-rnn")
        assert spec.has_external == kind.endswith("-memory")
        fitted = spec.fitted((), 100_000, 8)
        assert fitted.build(space, ACTIONS, 8).rhythm.lag == 0
        assert spec.examples == f"rollouts of {spec.rollout.steps}"


REFUSED = {
    "pqn of a policy": ("pqn", {"head": "actor-critic"}, "agent=pqn learns Q, but head=actor-critic has a policy"),
    "ppo of values": ("ppo", {"head": "q"}, "agent=ppo needs a head with a policy, which head=q has not"),
    "ppo of two estimates": ("ppo", {"head": "twin"}, "agent=ppo learns one value, but head=twin has two estimates"),
    "ppo of a greedy policy": ("ppo", {"exploration": "epsilon-greedy"}, "agent=ppo draws actions from its policy"),
    "a clipped distribution": (
        "ppo",
        {"value_clip": 0.2, "head.returns": "quantile", "loss": "quantile-huber"},
        "value_clip = 0.2 bounds a value that is one number",
    ),
    "a clipped value in which a memory has a share": (
        "ppo-memory", {"value_clip": 0.2}, "value_clip = 0.2 holds the network's value near what acting held, in which"
    ),
    "another loss": ("pqn", {"loss": "cross-entropy"}, "loss=cross-entropy compares probabilities of fixed returns"),
    "a policy of values": ("pqn", {"exploration": "sample"}, "exploration=sample draws from a policy, and head=q has"),
    "a q-learner of a policy": ("dqn", {"head": "actor-critic"}, "agent=q-learning learns Q, but head=actor-critic"),
    "what was done before, without a memory": (
        "ppo", {"observation.previous_action": True}, "observation.previous_action = True and observation.prev"
    ),
    "a kind alone": ("dqn", {"agent": "ppo"}, "agent=ppo needs a head with a policy, which head=q has not; set"),
    "imitation": (
        "pqn", EXTERNAL | {"recall.imitation_weight": 0.1}, "recall.imitation_weight is of agents that learn from a"
    ),
    "fresh keys": ("ppo", EXTERNAL | {"recall.refresh": 8}, "recall.refresh is of agents that learn from a replay"),
    "resets": ("pqn", {"optimizer.reset_every": 10}, "optimizer.reset_every is of agents that learn from a replay"),
    "how a reset is made": (
        "ppo", {"optimizer.reset_encoder": 0.1}, "optimizer.reset_encoder is of agents that learn from a replay"
    ),
    "a policy of several numbers": (
        "ppo", {"head.policy": "decoupled"}, "head.policy=decoupled gives the value of an action as the mean"
    ),
    "estimates of several numbers": ("sac", {"head.q": "decoupled"}, "head.q=decoupled gives the value of an action"),
    "entries of demonstrations": (
        "ppo-memory", {"recall.demonstrations": 64}, "recall.demonstrations is of agents that learn from a replay"
    ),
    "nothing of what was played": ("pqn-memory", {"recall.played": False}, "recall.played=false is of agents that"),
    "a distribution for logits": (
        "ppo", {"head.policy.returns": "quantile"}, "head.policy gives one number for each action, but head.policy.ret"
    ),
    "keys of a target": ("ppo", EXTERNAL | {"recall.keys": "target"}, "recall.keys=target is of agents that learn"),
}  # fmt: skip


def test_a_minibatch_of_one_step_teaches_a_policy_nothing_and_is_refused():
    """Its advantage, less its own mean, is 0."""
    one = {"rollout.steps": 4, "rollout.minibatches": 8}
    with pytest.raises(SpecError, match="^standardize = true makes the advantage of a minibatch of one step 0, so no"):
        specs.override_all(preset("ppo", VECTOR, 1_000), one).build(VECTOR, ACTIONS, 2)
    specs.override_all(preset("ppo", VECTOR, 1_000), {**one, "standardize": False}).build(VECTOR, ACTIONS, 2)
    specs.override_all(preset("pqn", VECTOR, 1_000), one).build(VECTOR, ACTIONS, 2)
    specs.override_all(preset("ppo", VECTOR, 1_000), {**one, "rollout.minibatches": 4}).build(VECTOR, ACTIONS, 2)


@pytest.mark.parametrize("name", sorted(WITHOUT_REPLAY - {"go"}))
def test_presets_attend_over_actions_that_are_offered(name: str):
    spec = preset(name, OFFERED, 1_000)
    agent = spec.fitted((), 1_000, 8).build(OFFERED, ACTIONS, 8, agents=2 if name == "smax" else 1)
    assert agent.spec.head.reads_offered
    assert not preset(name, VECTOR, 1_000).head.reads_offered


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence(what: str):
    kind, chosen, told = REFUSED[what]
    with pytest.raises(SpecError) as error:
        specs.override_all(preset(kind, VECTOR, 1_000), chosen)
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)
