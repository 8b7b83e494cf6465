"""Steps as rows of time: each step a row, and after the last of an episode a row for the final observation."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from engram.agents.agent import Experience
from engram.types import TimeStep


def timeline(experience: Experience, carry: PyTree) -> tuple[TimeStep, Bool[Array, "rows envs"]]:
    """The steps, each followed by a final row, and which of these are to be written.

    Args:
      carry: of the working memory before each step, leaves [time, envs, ...]; None where rows do not store it.
    """
    row = dataclasses.replace(experience.row, carry=carry)
    done = experience.done
    final = TimeStep(
        observation=experience.final_observation,
        is_first=jnp.zeros_like(done),
        action=jnp.zeros_like(row.action),
        reward=jnp.zeros_like(row.reward),
        terminated=jnp.zeros_like(done),
        carry=jax.tree.map(jnp.zeros_like, row.carry),
        sign=None if row.sign is None else jnp.zeros_like(row.sign),
    )
    return interleave(row, final), interleave(experience.keep, experience.keep & done)


def interleave(first: PyTree, second: PyTree) -> PyTree:
    """Two trees of [time, ...] as one of [2 * time, ...]: first 0, second 0, first 1, ..."""
    return jax.tree.map(lambda a, b: jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:]), first, second)
