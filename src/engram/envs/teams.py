"""Device environments of several agents that are paid together.

Such an environment has an attribute `agents`, the number of its agents, and differs in two places from others:

    observation   every leaf has a leading axis [agents]; the space is that of one agent
    action        an array [agents]

Reward, ends and success are those of the team: numbers without an axis. The last part that a space may name
is `team_state` (spaces.py): what only a mixing of the agents' values is given.

Runners and whoever plays see each agent as a lane of its own, those of one environment next to each other. With one
agent every function here gives back what it was given.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree


def agents_of(env: Any) -> int:
    """How many agents act in one environment."""
    return getattr(env, "agents", 1)


def as_lanes(env: Any, tree: PyTree) -> PyTree:
    """What each agent of each environment sees, [envs agents ...], as [lanes ...]."""
    if agents_of(env) == 1:
        return tree
    return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:]), tree)


def for_each(env: Any, tree: PyTree) -> PyTree:
    """What is one for an environment, [envs ...], for each of its agents: [lanes ...]."""
    if agents_of(env) == 1:
        return tree
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, agents_of(env), axis=0), tree)


def together(env: Any, action: Int[Array, "lanes"]) -> Int[Array, "envs *agents"]:
    """The actions of lanes as each environment takes them."""
    return action if agents_of(env) == 1 else action.reshape(-1, agents_of(env))


def of_any(env: Any, flags: Array) -> Array:
    """Whether a flag holds for any agent of each environment: [... lanes] to [... envs]."""
    agents = agents_of(env)
    return flags if agents == 1 else flags.reshape(*flags.shape[:-1], -1, agents).any(-1)
