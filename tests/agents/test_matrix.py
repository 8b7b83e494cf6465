"""Presets of value learning with every memory that fits them find the true values of a probe.

Of presets, each way to learn a return; those that are one of these with a memory (`drqn`, `nec`) are not repeated. A
few run always; the others are slow tests.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.kinds import own

from engram import specs
from engram.agents.presets import preset
from engram.agents.q_learning import QLearner
from engram.envs.device import make_device
from engram.errors import SpecError
from engram.losses.returns import stretched
from engram.play.playing import play_device
from engram.runners.device import DeviceRunner

STEPS = 5_000
SIZES: dict[str, Any] = {
    "encoder.widths": (16,), "replay.capacity": 1_000, "replay.batch_size": 16, "replay.start": 200, "discount": 0.9,
    "optimizer.learning_rate": 5e-3, "optimizer.final_fraction": 0.02, "optimizer.decay_steps": STEPS,
    "exploration.steps": 1_000, "target.every": 20, "target.rate": 1.0, "n_step": 2, "learn_every": 4,
}  # fmt: skip
# Atoms that hold the returns of the probe, which are within 0..1.
ATOMS: dict[str, Any] = {"head.returns.low": -0.5, "head.returns.high": 1.5, "head.returns.atoms": 21}
SMALLER: dict[str, Any] = {
    "c51": ATOMS, "rainbow": ATOMS | {"head.width": 16, "exploration.start": 0.0},
    "rainbow-memory": ATOMS | {"head.width": 16, "exploration.start": 0.0}, "qr-dqn": {"head.returns.quantiles": 8},
    "iqn": {"head.returns.samples": 8, "head.returns.cosines": 16},
    "btr": {
        "head.returns.samples": 8, "head.returns.cosines": 16, "head.width": 16, "bootstrap.scale": 0.0,
        "bootstrap.temperature": 1e-3,
    },
    # A soft target is not the value of the probe unless it is nearly hard and pays nothing.
    "m-dqn": {"bootstrap.scale": 0.0, "bootstrap.temperature": 1e-3},
    "r2d2": {"replay.burn_in": 2},
}  # fmt: skip
WINDOW = {"replay.window": 6, "replay.capacity": 1_200}
MEMORIES: dict[str, dict[str, Any]] = {
    "none": {},
    "lstm": {"working": "lstm", "working.hidden_size": 16, **WINDOW},
    "gru": {"working": "gru", "working.hidden_size": 16, **WINDOW},
    "lru": {"working": "lru", "working.hidden_size": 16, "working.state": 8, **WINDOW},
    "history": {"working": "history", "working.hidden_size": 16, "working.window": 6, "working.inner": 16, **WINDOW},
    "episodic": {"external": "episodic", "external.capacity": 200, "recall.n_step": 5},
    "mingru": {"working": "mingru", "working.hidden_size": 16, **WINDOW},
    "fast-weights": {
        "working": "fast-weights", "working.hidden_size": 16, "working.heads": 2, "working.head_width": 8, **WINDOW,
    },
    "slots": {"working": "slots", "working.hidden_size": 16, "working.slots": 4, **WINDOW},
    "votes": {"external": "votes", "external.capacity": 200, "recall.n_step": 5},
    "chunked": {"external": "chunked", "external.capacity": 512, "external.size": 16, "recall.n_step": 5},
    "product-key": {"external": "product-key", "external.codes": 8, "recall.n_step": 5},
    "graph": {"external": "graph", "external.capacity": 200, "external.every": 10, "recall.n_step": 1},
    "lstm-episodic": {
        "working": "lstm", "working.hidden_size": 16, **WINDOW, "external": "episodic", "external.capacity": 200,
        "recall.n_step": 5, "recall.refresh": 0,
    },
}  # fmt: skip
EXTERNAL = [name for name, chosen in MEMORIES.items() if "external" in chosen and "working" not in chosen]
PRESETS = ("double-dqn", "per-dqn", "c51", "qr-dqn", "iqn", "m-dqn", "btr", "rainbow", "rainbow-memory", "r2d2")
ALWAYS = {("per-dqn", "gru"), ("rainbow-memory", "none"), ("qr-dqn", "history")}


def fits(name: str, memory: str) -> bool:
    """r2d2 is nothing without a working memory. The entries of `rainbow-memory` are of single observations."""
    if name == "r2d2":
        return memory not in ("none", *EXTERNAL)
    return memory == "none" or name != "rainbow-memory"


def test_every_memory_of_the_package_is_in_the_matrix():
    for role in ("working", "external"):
        assert {chosen.get(role, "none") for chosen in MEMORIES.values()} == set(own(role))


def agent(name: str, memory: str, space: Any) -> Any:
    made = preset(name, space, STEPS)
    chosen = SIZES | SMALLER.get(name, {}) | MEMORIES[memory]
    if name == "rainbow-memory":
        chosen |= {"external.capacity": 200, "recall.n_step": 5}
    return specs.override_all(made, chosen)


@pytest.mark.parametrize(
    ("name", "memory"),
    [
        pytest.param(name, memory, marks=() if (name, memory) in ALWAYS else pytest.mark.slow)
        for name in PRESETS
        for memory in MEMORIES
        if fits(name, memory)
    ],
)
def test_it_finds_the_values_of_the_chain(name: str, memory: str):
    """0.9^(steps to go), along one greedy episode: what the network itself says, without the external memory."""
    env = make_device("engram/Chain-v0")
    spec = agent(name, memory, env.observation_space)
    runner = DeviceRunner(QLearner(spec, env.observation_space, env.actions), env, [0])
    runner.advance(STEPS, lambda: False)
    runner.report()
    keep = lambda seen, looked: looked.decision.returns.q  # noqa: E731
    played = play_device(env, runner.minds()[0], jax.random.PRNGKey(1), spec=spec, episodes=1, keep=keep, steps=5)
    found = np.asarray(played.kept)[:, 0, 0]
    if spec.reward.rescale:
        found = stretched(jnp.asarray(found))
    np.testing.assert_allclose(found, 0.9 ** np.arange(4, -1, -1), atol=0.08)


def test_a_memory_that_does_not_fit_is_refused_in_a_sentence():
    space = make_device("engram/Chain-v0").observation_space
    with pytest.raises(SpecError, match=r"recall.refresh = 32 looks at single observations again, which tell nothing"):
        agent("rainbow-memory", "gru", space)
