"""The network: an encoder, a working memory, a head. `step` when acting, `unroll` when learning from a window.

What it sees of an observation is everything but `action_mask` and `offered`; those two say what may be done
(spaces.py).
"""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram import spaces
from engram.types import Decision, Encoding, MemoryRead


class Previous(NamedTuple):
    """What came just before an observation. Means nothing where an episode begins."""

    action: Int[Array, "*batch"]
    reward: Float[Array, "*batch"]


class Network(eqx.Module):
    """(stacked observation, what came before it) -> Encoding -> MemoryRead -> Returns, all of it in the Decision.

    `reads_action` and `reads_reward`: whether the memory is also given the previous action (one-hot) and reward.
    `forget`: a negative control that empties the memory before every step.
    """

    encoder: Any
    working: Any
    external: Any
    head: Any
    space: spaces.Space = eqx.field(static=True)
    actions: int = eqx.field(static=True)
    reads_action: bool = eqx.field(static=True, default=False)
    reads_reward: bool = eqx.field(static=True, default=False)
    forget: bool = eqx.field(static=True, default=False)

    def __call__(self, frames: PyTree) -> Decision:
        """The decision of a network without memory. Leaves of `frames` have a leading axis [stack]."""
        nothing = Previous(jnp.int32(0), jnp.zeros(()))
        return self.step((), frames, jnp.bool_(True), nothing)[1]

    def step(
        self, memory: PyTree, frames: PyTree, is_first: Bool[Array, ""], previous: Previous
    ) -> tuple[PyTree, Decision]:
        """One decision; what was seen is written into the memory first. `memory` begins as `working.init()`."""
        encoding = self._encode(frames)
        inputs = self._inputs(encoding, is_first, previous)
        memory, read = self.working.step(memory, inputs, is_first | self.forget)
        return memory, self._decide(frames, encoding, read)

    def unroll(
        self, memory: PyTree, frames: PyTree, is_first: Bool[Array, "time"], previous: Previous
    ) -> tuple[PyTree, Decision]:
        """`step` along a window; leaves of `frames` and of the decision have a leading axis [time]."""
        encoding = jax.vmap(self._encode)(frames)
        inputs = jax.vmap(self._inputs)(encoding, is_first, previous)
        memory, read = self.working.unroll(memory, inputs, is_first | self.forget)
        return memory, jax.vmap(self._decide)(frames, encoding, read)

    def embed(self, frames: PyTree) -> Float[Array, "embedding"]:
        """The embedding of a stacked observation, of a network without working memory."""
        return self._encode(frames).embedding

    def forgetful(self) -> "Network":
        """The same parameters with the control switched on."""
        return dataclasses.replace(self, forget=True)

    def _encode(self, frames: PyTree) -> Encoding:
        return self.encoder(spaces.seen_of(self.space, frames))

    def _inputs(self, encoding: Encoding, is_first: Bool[Array, ""], previous: Previous) -> Float[Array, "inputs"]:
        parts = [encoding.embedding]
        if self.reads_action:
            taken = jax.nn.one_hot(previous.action, self.actions)
            parts.append(jnp.where(is_first, 0.0, taken))
        if self.reads_reward:
            parts.append(jnp.where(is_first, 0.0, previous.reward)[None])
        return jnp.concatenate(parts) if len(parts) > 1 else parts[0]

    def _decide(self, frames: PyTree, encoding: Encoding, read: MemoryRead) -> Decision:
        newest = jax.tree.map(lambda frame: frame[-1], frames)
        allowed = spaces.mask_of(self.space, newest, self.actions)
        offered = spaces.offered_of(self.space, newest, self.actions)
        return Decision(encoding, read, self.head(read.vector, offered, allowed), allowed)


def memory_inputs(embedding: int, actions: int, reads_action: bool, reads_reward: bool) -> int:
    """How many numbers the working memory is given at each step."""
    return embedding + actions * reads_action + reads_reward
