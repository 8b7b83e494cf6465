"""Every part of Engram's own keeps the contract that a user's part is held to."""

from dataclasses import replace

import jax
import pytest
from support.kinds import own

from engram import registry, spaces, testing
from engram.agents.presets import preset
from engram.agents.q_learning import QLearner
from engram.specs import override_all

KEY = jax.random.PRNGKey(0)


@pytest.mark.parametrize("name", own("head"))
def test_a_head_keeps_its_contract(name: str):
    spec = registry.find("head", name)()
    apart = ("log_temperature",)  # of `twin`: learned by the loss of the agent
    testing.check_head(spec.build(5, 3, KEY), 5, 3, spec=spec, unreached=apart)
    if spec.reads_offered:
        testing.check_head(spec.build(5, 3, KEY, offered=2), 5, 3, spec=spec, offered=2, unreached=apart)


@pytest.mark.parametrize("returns", own("returns"))
@pytest.mark.parametrize("name", ["q", "dueling", "attention"])
def test_every_kind_of_returns_goes_with_every_head(name: str, returns: str):
    spec = registry.find("head", name)(returns=registry.find("returns", returns)())
    assert spec.predicts == spec.returns.predicts
    testing.check_head(spec.build(5, 3, KEY), 5, 3, spec=spec)


@pytest.mark.parametrize("name", own("exploration"))
def test_an_exploration_keeps_its_contract(name: str):
    testing.check_exploration(registry.find("exploration", name)())


def test_noise_with_a_random_opening_keeps_its_contract():
    testing.check_exploration(registry.find("exploration", "parameter-noise")(random_opening=0.5))


@pytest.mark.parametrize("name", own("draw"))
def test_a_draw_keeps_its_contract(name: str):
    testing.check_draw(registry.find("draw", name)())


@pytest.mark.parametrize("name", own("bootstrap"))
def test_a_bootstrap_keeps_its_contract(name: str):
    testing.check_bootstrap(registry.find("bootstrap", name)())


def test_mellowmax_keeps_the_contract():
    testing.check_bootstrap(registry.find("bootstrap", "actions")(mellow=True))


@pytest.mark.parametrize("name", own("loss"))
def test_a_loss_keeps_its_contract(name: str):
    spec = registry.find("loss", name)()
    for kind in spec.fits:
        testing.check_loss(spec, kind)


MASKED = spaces.Dict((("action_mask", spaces.Box((3,), "bool")), ("seen", spaces.Box((4,)))))
AGENTS = {
    "dqn": {},
    "drqn": {"replay.window": 6, "working.hidden_size": 8},
    "attention-dqn": {"external.capacity": 64, "external.neighbours": 4},
}


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("space", [spaces.Box((4,)), MASKED], ids=["box", "masked"])
def test_a_q_learner_keeps_the_contract_of_agents(name: str, space: spaces.Space):
    small = {"replay.capacity": 200, "replay.start": 40, "replay.batch_size": 4, "encoder.widths": "8"}
    agent = QLearner(override_all(preset(name, space, 1_000), small | AGENTS[name]), space, 3, envs=2)
    testing.check_agent(agent)
    assert replace(agent) == agent
