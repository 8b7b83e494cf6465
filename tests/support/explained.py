"""Agents to explain: not trained, but with memories that hold something."""

from dataclasses import dataclass, field, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from engram.agents.agent import Agent
from engram.agents.mind import MindSpec
from engram.agents.policy import Mind
from engram.envs.device import make_device
from engram.external.memory import Entries
from engram.play.trained import TrainedAgent
from engram.spaces import Space

KEY = jax.random.PRNGKey(3)


@dataclass(frozen=True)
class Plan:
    """What playing asks of a run's plan."""

    env: str | None
    agent: MindSpec
    space: Space
    actions: int
    preset: str = "mine"
    env_args: Any = field(default_factory=dict)
    action_bins: int | None = None
    max_episode_steps: int | None = None
    shown: Any = None
    seed: int = 0


def entries(mind: Mind, count: int, actions: int, seed: int = 0, keys: Any = None, values: Any = None) -> Entries:
    """Random entries of one write; keys near the unit sphere, as `recall.unit_keys` makes them."""
    random = np.random.default_rng(seed)
    recall: Any = mind.recall
    width = recall.line.waiting.key.shape[-1]
    drawn = random.normal(size=(count, width))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return Entries(
        key=jnp.asarray(drawn if keys is None else keys, jnp.float32),
        action=jnp.asarray(np.arange(count) % actions, jnp.int32),
        features=jnp.zeros((count, 0)),
        value=jnp.asarray(random.normal(size=count) if values is None else values, jnp.float32),
        td_error=jnp.zeros(count),
        hash=jnp.asarray(random.integers(0, 2**32, (count, 2), dtype=np.uint32)),
        origin=jnp.asarray(np.stack([np.zeros(count), np.arange(count) // 10, np.arange(count) % 10], 1), jnp.int32),
        reward=jnp.zeros(count),
        discount=jnp.zeros(count),
        following=jnp.asarray(random.integers(0, 2**32, (count, 2), dtype=np.uint32)),
    )


def with_entries(mind: Mind, block: Entries) -> Mind:
    """The mind with these entries in its external memory."""
    recall: Any = mind.recall
    store = mind.network.external.write(recall.store, block, jnp.ones(len(block.value), bool))
    return replace(mind, recall=eqx.tree_at(lambda state: state.store, recall, store))


def trained(spec: Any, env: str = "engram/CartPole-v1", fill: int = 0, seed: int = 0, **about: Any) -> TrainedAgent:
    """An agent with fresh weights, and `fill` random entries in its external memory."""
    world = make_device(env if env.startswith("engram/") else "engram/CartPole-v1")
    agent: Agent = spec.build(world.observation_space, world.actions, 1)
    mind = agent.mind(agent.init(jax.random.fold_in(KEY, seed)))
    if fill:
        mind = with_entries(mind, entries(mind, fill, world.actions, seed))
    return TrainedAgent(Plan(env, spec, world.observation_space, world.actions, **about), [mind], None)
