"""Presets that learn from rollouts find the values and policies of probes; with a memory, also what needs one.

A few run always; the others are slow tests.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram import Trainer, specs
from engram.agents.presets import preset
from engram.envs.device import make_device
from engram.runners.device import DeviceRunner
from engram.types import Decision

STEPS, ENVS = 12_000, 16
SIZES: dict[str, Any] = {
    "encoder.widths": (16,), "discount": 0.9, "rollout.steps": 8, "rollout.epochs": 2, "rollout.minibatches": 4,
    "trace": 0.8, "optimizer.learning_rate": 5e-3, "optimizer.final_fraction": 0.01,
}  # fmt: skip
POLICY: dict[str, Any] = SIZES | {"head.width": 16, "entropy_weight": 0.0}
ENTRIES: dict[str, Any] = {"external.capacity": 200, "recall.n_step": 5}
PRESETS: dict[str, dict[str, Any]] = {
    "pqn": SIZES,
    "ppo": POLICY,
    "a2c": POLICY | {  # an eighth of the updates of the others
        "rollout.epochs": 1, "rollout.minibatches": 1, "rollout.steps": 5, "trace": 1.0,
        "optimizer.learning_rate": 4e-2,
    },
    "pqn-rnn": SIZES | {"working.hidden_size": 16},
    "ppo-rnn": POLICY | {"working.hidden_size": 16},
    "pqn-memory": SIZES | ENTRIES,
    "ppo-memory": POLICY | ENTRIES,
}  # fmt: skip
PROBES = ("OneState", "OneAction", "TwoActions", "ObservationValue", "OneDelay", "Chain", "Truncation", "Termination")
ALWAYS = {("pqn", "Truncation"), ("ppo", "TwoActions"), ("ppo", "Chain"), ("pqn-memory", "Chain")}


def decided(name: str, probe: str) -> tuple[Decision, np.ndarray]:
    """What the network itself decides at each observation of a probe once it has learned, and the true Q."""
    env = make_device(f"engram/{probe}-v0")
    spec = specs.override_all(preset(name, env.observation_space, STEPS), PRESETS[name])
    runner = DeviceRunner(spec.build(env.observation_space, env.actions, ENVS), env, [0])
    runner.advance(STEPS, lambda: False)
    runner.report()
    network = runner.minds()[0].network
    observations, values = zip(*env.values(spec.discount), strict=True)
    frames = jnp.array([[shown] for shown in observations])
    return jax.vmap(network)(frames, jnp.zeros((len(frames), network.words), jnp.uint32)), np.array(values)


@pytest.mark.parametrize(
    ("name", "probe"),
    [
        pytest.param(name, probe, marks=() if (name, probe) in ALWAYS else pytest.mark.slow)
        for name in PRESETS
        for probe in PROBES
        # What a network with a working memory knows of an observation depends on those before it.
        if not name.endswith("-rnn") or probe in ("OneState", "OneAction", "TwoActions", "ObservationValue")
    ],
)
def test_it_finds_the_values_and_the_policy_of_a_probe(name: str, probe: str):
    """Within 3 % of the largest value, or 0.05; a policy takes the best action in 19 of 20 draws."""
    decision, values = decided(name, probe)
    atol = max(0.05, 0.03 * np.abs(values).max())
    if decision.returns.policy is None:
        np.testing.assert_allclose(decision.returns.q, values, atol=atol)
        return
    chances = jax.nn.softmax(decision.returns.policy)
    best = np.take_along_axis(np.asarray(chances), values.argmax(-1)[:, None], -1)
    assert best.min() > 0.95
    np.testing.assert_allclose(decision.value, values.max(-1), atol=2 * atol)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pqn-rnn", "ppo-rnn"])
def test_a_bit_shown_5_steps_before_it_is_asked_for_is_told_and_guessed_with_an_emptied_memory(name: str):
    """The return is 1 for the right answer and -1 for the wrong one, so 1 with a memory and 0 on average without."""
    chosen = PRESETS[name] | {"trace": 0.95, "rollout.steps": 12, "optimizer.learning_rate": 3e-3}
    steps, sizes = 60_000, {"envs": 32, "seed": 0, "env_args": {"length": 5}}
    with Trainer("engram/MemoryLength-v0", preset=name, steps=steps, overrides=chosen, **sizes) as trainer:
        trainer.learn()
        assert trainer.evaluate(episodes=60).mean == 1.0
        # Sixty coins: 4 standard deviations of their mean.
        assert abs(trainer.evaluate(episodes=60, forget=True).mean) < 0.52
