"""Soft actor-critic: one update by hand, values and policies in closed form, and what it goes with or refuses."""

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Int, UInt32

from engram import spaces, specs
from engram.agents import sac
from engram.agents.examples import Nets, Scored, Start, told
from engram.agents.network import Previous
from engram.agents.presets import preset
from engram.agents.sac import SACLearner, SACSpec
from engram.agents.spec import ReplaySpec, TargetSpec
from engram.encoders.vector import VectorSpec
from engram.envs.device import DeviceStep, make_device
from engram.errors import SpecError
from engram.losses.bootstrap import Following
from engram.losses.regression import SquaredSpec
from engram.losses.returns import NStep
from engram.runners import device
from engram.runners.common import Tally
from engram.runners.device import DeviceRunner
from engram.testing import check_agent
from engram.types import Decision, Encoding, MemoryRead, Returns

STEPS = 6_000
SMALL: Any = specs.override_all(
    SACSpec(
        encoder=VectorSpec(widths=(32,)),
        replay=ReplaySpec(capacity=1_000, batch_size=32, start=100),
        target=TargetSpec(every=20),
        loss=SquaredSpec(),
        discount=0.9,
    ),
    {"optimizer.learning_rate": 5e-3, "optimizer.final_fraction": 0.01, "optimizer.decay_steps": STEPS},
)


def changed(**changes: Any) -> SACSpec:
    return specs.override_all(SMALL, {path.replace("__", "."): value for path, value in changes.items()})


# -- one update ------------------------------------------------------------------------------------------------------

TEMPERATURE = 0.7
LOG = float(np.log(TEMPERATURE))
TWINS, LAGGING = np.array([[1.0, -2.0, 8.0], [1.5, -2.5, 9.0]]), np.array([[3.0, 1.0, 50.0], [2.0, 4.0, 60.0]])
LOGITS, NEXT = np.array([0.4, -0.3, 5.0]), np.array([-0.2, 0.9, 7.0])
ALLOWED = np.array([True, True, False])


def decision(logits: np.ndarray, twins: np.ndarray) -> Decision:
    """What a network says of three actions, the last of which is forbidden."""
    nothing = jnp.zeros((0, 1, 0))
    read = MemoryRead(jnp.ones(1), nothing, nothing.astype(jnp.int32))
    q = jnp.float32(twins).min(0)[:, None]
    returns = Returns(q, jnp.zeros_like(q), jnp.zeros((0, 3)), policy=jnp.float32(logits), twins=jnp.float32(twins))
    return Decision(Encoding(read.vector, jnp.zeros((0, 0))), read, returns, jnp.asarray(ALLOWED))


def scored(log_temperature: Any = LOG, logits: Any = LOGITS, twins: Any = TWINS) -> Any:
    """The second action, whose two estimates are 2 and 2.5 below 0; three steps later the others bootstrap."""
    nets: Any = Nets(SimpleNamespace(head=SimpleNamespace(log_temperature=jnp.float32(log_temperature))), None, None)
    start = Start(jnp.int32(1), NStep(jnp.float32(0.5), jnp.float32(0.729), jnp.int32(3)), jnp.float32(1))
    ahead, lagged = decision(NEXT, TWINS), decision(LOGITS, LAGGING)
    following = Following(lagged.returns, ahead.preference)
    return sac.score(SMALL, nets, None, decision(logits, twins), start, following)


def probabilities(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits[:2])
    return weights / weights.sum()


def test_every_part_of_one_update_is_the_formula_in_64_bits():
    found, here, there = scored(), probabilities(LOGITS), probabilities(NEXT)
    value = (there * (LAGGING[:, :2].min(0) - TEMPERATURE * np.log(there))).sum()
    errors = 0.5 + 0.729 * value - TWINS[:, 1]
    nats = -(here * np.log(here)).sum()
    policy = (here * (TEMPERATURE * np.log(here) - TWINS[:, :2].min(0))).sum()
    own = (errors**2 / 2).sum()
    np.testing.assert_allclose(found.own, own, rtol=1e-5)
    np.testing.assert_allclose(found.error, np.abs(errors).max(), rtol=1e-5, err_msg="the larger of two errors")
    np.testing.assert_allclose(found.q, -2.5)
    wanted = SMALL.target_entropy * np.log(2)
    np.testing.assert_allclose(found.loss, own + policy + LOG * (nats - wanted), rtol=1e-5)
    expected = {"loss": own, "policy_loss": policy, "entropy": nats, "temperature": TEMPERATURE}
    for name, value in expected.items():
        np.testing.assert_allclose(found.told[name], value, rtol=1e-5)


def test_each_estimate_learns_of_the_target_and_the_policy_of_the_least_estimate():
    of_log, of_logits, of_twins = jax.grad(lambda *given: scored(*given).loss, argnums=(0, 1, 2))(
        jnp.float32(LOG), jnp.float32(LOGITS), jnp.float32(TWINS)
    )
    here, there = probabilities(LOGITS), probabilities(NEXT)
    goal = 0.5 + 0.729 * (there * (LAGGING[:, :2].min(0) - TEMPERATURE * np.log(there))).sum()
    expected = np.zeros((2, 3))
    expected[:, 1] = TWINS[:, 1] - goal
    np.testing.assert_allclose(of_twins, expected, rtol=1e-5)
    each = TEMPERATURE * np.log(here) - TWINS[:, :2].min(0)
    np.testing.assert_allclose(of_logits[:2], here * (each - (here * each).sum()), rtol=1e-5)
    assert of_logits[2] == 0, "nothing is learned of a forbidden action"
    nats = -(here * np.log(here)).sum()
    np.testing.assert_allclose(of_log, nats - SMALL.target_entropy * np.log(2), rtol=1e-4)


# -- closed forms ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TwoSteps:
    """A first step at which both actions are the same, and a second one that pays -1 or 1 and ends the episode."""

    observation_space = spaces.Box((2,))
    actions = 2

    def reset(self, key: UInt32[Array, "2"]) -> tuple[Int[Array, ""], Array]:
        return jnp.int32(0), self._show(jnp.int32(0))

    def step(self, state: Int[Array, ""], action: Int[Array, ""], key: UInt32[Array, "2"]) -> tuple[Array, DeviceStep]:
        reward = jnp.where(state == 1, 2.0 * action - 1.0, 0.0)
        return state + 1, DeviceStep(self._show(state + 1), reward, state == 1, jnp.bool_(False))

    def _show(self, state: Int[Array, ""]) -> Array:
        return (jnp.arange(2) == state).astype(jnp.float32)


def trained(env: Any, spec: SACSpec, steps: int = STEPS) -> Any:
    """The network that learned in an environment."""
    runner = DeviceRunner(SACLearner(spec, env.observation_space, env.actions), env, [0])
    runner.advance(steps, lambda: False)
    runner.report()
    return runner.minds()[0].network


def sharp(nats: float) -> float:
    """The greater probability of two that have this entropy."""
    low, high = 0.5, 1 - 1e-9
    for _ in range(60):
        p = (low + high) / 2
        low, high = (p, high) if -(p * np.log(p) + (1 - p) * np.log1p(-p)) > nats else (low, p)
    return low


def test_values_policy_and_temperature_are_those_of_the_entropy_that_was_asked_for():
    """At the first step the policy is uniform. So 0.75 log 2 on average leaves 0.5 log 2 for the second one, where
    logits differ by 2 / temperature. The first step is worth that entropy, too.
    """
    network = trained(TwoSteps(), changed(target_entropy=0.75))
    look = jax.jit(lambda shown: network(shown[None], network.still).returns)
    first, second = look(jnp.array([1.0, 0.0])), look(jnp.array([0.0, 1.0]))
    p = sharp(0.5 * np.log(2))
    temperature = 2 / np.log(p / (1 - p))
    np.testing.assert_allclose(jnp.exp(network.head.log_temperature), temperature, rtol=0.05)
    np.testing.assert_allclose(jax.nn.softmax(second.policy), [1 - p, p], atol=0.02)
    np.testing.assert_allclose(jax.nn.softmax(first.policy), [0.5, 0.5], atol=0.05)
    np.testing.assert_allclose(second.twins, [[-1, 1], [-1, 1]], atol=0.03)
    value = 0.9 * (2 * p - 1 + temperature * 0.5 * np.log(2))
    np.testing.assert_allclose(first.twins, np.full((2, 2), value), atol=0.04)


WINDOWS: dict[str, Any] = {"working": "gru", "working__hidden_size": 16, "replay__window": 6}


@pytest.mark.parametrize(
    ("probe", "changes"),
    [
        ("Truncation", {}),
        ("Chain", {"n_step": 3, "draw": "prioritized", "double": False}),
        ("Chain", WINDOWS),
    ],
)
def test_where_there_is_one_action_q_is_the_return(probe: str, changes: dict[str, Any]):
    """Then there is no entropy. With a memory an episode is played, for what a window knows."""
    env: Any = make_device(f"engram/{probe}-v0")
    network = trained(env, changed(**changes))
    observations, values = zip(*env.values(0.9), strict=True)
    bits = jnp.zeros((len(observations), network.words), jnp.uint32)
    frames = jnp.array(observations)[:, None]
    previous = Previous(jnp.zeros(len(observations), jnp.int32), jnp.zeros(len(observations)))
    first = jnp.arange(len(observations)) == 0
    if not changes.get("working"):
        first = jnp.ones_like(first)
    q = network.unroll(network.working.init(), frames, first, previous, bits)[1].returns.twins
    np.testing.assert_allclose(q, np.stack([values, values], 1), atol=0.03 * max(1, np.abs(values).max()))
    assert jnp.exp(network.head.log_temperature) == 1, "nothing to learn it from"


# -- what it goes with -----------------------------------------------------------------------------------------------

TINY: dict[str, Any] = {"encoder__widths": (8,), "replay__capacity": 200, "replay__batch_size": 4, "replay__start": 16}
BOX = spaces.Box((2,))
MASKED = spaces.Dict((("action_mask", spaces.Box((3,), "int8")), ("observation", BOX)))
OFFERED = spaces.Dict((("observation", BOX), ("offered", spaces.Box((3, 4)))))
ATTENTION: dict[str, Any] = {
    f"head__{name}": value for of in ("policy", "q") for name, value in {of: "attention", f"{of}__hidden": 8}.items()
}
AGENTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "priorities, masks, three steps": (MASKED, {"draw": "prioritized", "n_step": 3}),
    "vectors, joined by the mean": (BOX, {"head__join": "mean", "head__train_through_policy": True}),
    "offered actions": (OFFERED, ATTENTION),
    "a gru, masks, priorities": (MASKED, {
        "working": "gru", "working__hidden_size": 8, "replay__window": 4, "replay__stored_carry": True,
        "draw": "prioritized", "observation__previous_action": True,
    }),
    "normalised rewards, resets": (BOX, {"reward__normalize": True, "optimizer__reset_every": 2}),
}  # fmt: skip


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if "three" in kind else pytest.mark.slow) for kind in AGENTS]
)
def test_it_keeps_the_contract_of_agents(kind: str):
    space, changes = AGENTS[kind]
    check_agent(SACLearner(changed(**TINY, learn_every=2, **changes), space, 3, 2))


def test_a_window_teaches_the_policy_and_the_temperature_at_the_rows_of_its_loss_alone():
    """Rows of the burn-in, and rows without a successor, have no weight in any of the three losses."""
    each = {"entropy": jnp.array([[9.0, 0.2, 0.4]]), "policy_loss": jnp.array([[9.0, 1.0, 3.0]])}
    one = jnp.ones((1, 3))
    found = told(Scored(one, one, one, one, jnp.array([[0.0, 1.0, 1.0]]), each))
    np.testing.assert_allclose([found["entropy"], found["policy_loss"], found["q_mean"]], [0.3, 2.0, 1.0], rtol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"target_entropy": 0.2}, {"double": False}, {"head__join": "mean"}, {"head__train_through_policy": True},
        {"head__temperature": 0.5}, {"head__policy": "dueling"}, {"head__q": "dueling"},
    ],
    ids=str,
)  # fmt: skip
def test_each_of_its_settings_changes_the_program(changes: dict[str, Any]):
    base = changed(**TINY)
    assert program(base) == program(base) != program(changed(**TINY, **changes))


def program(spec: SACSpec) -> str:
    """What is computed at the start and in one cycle of acting and learning, and on what."""
    env: Any = TwoSteps()
    agent = SACLearner(spec, env.observation_space, env.actions)
    start, run = jax.make_jaxpr(partial(device.init, agent, env), return_shape=True)(jax.random.PRNGKey(0))
    cycle = jax.make_jaxpr(partial(device.cycle, agent, env, True))(run, jax.eval_shape(lambda: Tally.empty(agent)))
    return f"{start} {cycle} {[np.asarray(number).tolist() for made in (start, cycle) for number in made.consts]}"


# -- what it does not go with ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"head": "q"}, r"agent=sac needs a head with a policy and two estimates of Q, which head=q has not; set"),
        ({"head": "actor-critic"}, r"which head=actor-critic has not; set head=twin, or use --preset sac$"),
        ({"exploration": "boltzmann"}, r"agent=sac draws actions from its policy, which exploration=boltzmann does"),
        ({"bootstrap": "munchausen"}, r"^bootstrap=munchausen is not asked by agent=sac, whose policy says what"),
        ({"external": "episodic"}, r"^external=episodic remembers returns without the entropy that Q of agent=sac"),
        ({"reward.rescale": True}, r"^reward.rescale = true learns roots of returns, to which agent=sac cannot add"),
        ({"demos.margin_weight": 1.0, "demos.ratio": 0.25}, r"^demos.margin_weight = 1.0 holds Q of other actions"),
        ({"optimizer.weight_decay": 0.1}, r"^optimizer.weight_decay = 0.1 would draw the temperature of agent=sac"),
        ({"loss": "cross-entropy"}, r"^loss=cross-entropy compares distributions, but agent=sac learns two numbers"),
        ({"head.q.returns": "quantile"}, r"^head.q gives one number for each action, but head.q.returns gives a"),
        ({"target_entropy": 1.0}, r"^target_entropy = 1.0 is out of range; expected less than 1"),
        ({"agent": "q-learning"}, r"^agent=q-learning learns Q, but head=twin has a policy; set head=q, or use"),
    ],
)  # fmt: skip
def test_what_it_cannot_learn_with_is_refused_in_one_sentence(changes: dict[str, Any], sentence: str):
    with pytest.raises(SpecError, match=sentence) as refusal:
        specs.override_all(preset("sac", BOX, 1_000), changes)
    assert str(refusal.value).count("\n") == 0


def test_actions_on_offer_need_heads_that_read_them():
    with pytest.raises(SpecError, match="which head=twin does not read; use head.policy=attention head.q=attention$"):
        SACLearner(changed(**TINY), OFFERED, 3).init(jax.random.PRNGKey(0))
    chosen: Any = preset("sac", OFFERED, 1_000)
    assert chosen.head.reads_offered


def test_the_preset_keeps_what_sees_and_can_be_stored():
    made: Any = preset("sac", BOX, 50_000)
    assert type(made) is SACSpec
    assert made.encoder == preset("auto", BOX, 50_000).encoder
    assert specs.from_json(SACSpec, specs.to_json(made)) == made
    assert isinstance(made.build(BOX, 3, 1), SACLearner)
