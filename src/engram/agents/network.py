"""The network: an encoder, a working memory, a head. `step` when acting, `unroll` when learning from a window.

It also holds the learned weights of the external memory, which `agents/recall` reads with.

What it sees of an observation is everything but `action_mask` and `offered`; those two say what may be done
(spaces.py).
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from engram import spaces
from engram.agents.mind import MindSpec
from engram.agents.sight import Sight, sight_of
from engram.agents.statistics import Scales
from engram.errors import SpaceError, SpecError
from engram.nn.observation import mask_of, offered_of
from engram.nn.welcome import built
from engram.registry import name_of
from engram.types import Decision, Encoding, Key, MemoryRead, digits


class Previous(NamedTuple):
    """What came just before an observation. Means nothing where an episode begins."""

    action: Int[Array, "*batch"]
    reward: Float[Array, "*batch"]


class Network(eqx.Module):
    """(stacked observation, what came before it) -> Encoding -> MemoryRead -> Returns, all of it in the Decision.

    `reads_action` and `reads_reward`: whether the memory is also given the previous action (one-hot) and reward.
    `forget`: a negative control that empties the memory before every step.
    `sight`: how numbers that may be missing or are normalised reach the encoder; None where they do as they are.
    `scales`: by which statistics, where some are kept (`seeing`). They are no parameters: parameters hold None there.
    `mixing`: what the actions of a team are worth together; None for agents that learn by themselves.
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
    sight: Sight | None = eqx.field(static=True, default=None)
    sizes: tuple[int, ...] = eqx.field(static=True, default=())  # of decoupled actions; see `Returns`
    scales: Scales | None = None
    mixing: Any = None
    reads_state: bool = eqx.field(static=True, default=False)  # the mixing does

    @property
    def words(self) -> int:
        """Random 32-bit words that one look takes."""
        return self.head.words

    @property
    def still(self) -> UInt32[Array, "words"]:
        """Words for looks that are to be repeatable: the middle of each draw, which is no noise, and even levels."""
        return jnp.full(self.words, 1 << 31, jnp.uint32)

    def __call__(self, frames: PyTree, bits: UInt32[Array, "words"]) -> Decision:
        """The decision of a network without working memory. Leaves of `frames` have a leading axis [stack]."""
        nothing = Previous(jnp.int32(0), jnp.zeros(()))
        return self.step(self.working.init(), frames, jnp.bool_(True), nothing, bits)[1]

    def step(
        self,
        carry: PyTree,
        frames: PyTree,
        is_first: Bool[Array, ""],
        previous: Previous,
        bits: UInt32[Array, "words"],
    ) -> tuple[PyTree, Decision]:
        """One decision; what was seen is written into the memory first. `carry` begins as `working.init()`."""
        return self.step_encoded(carry, frames, self._encode(frames), is_first, previous, bits)

    def step_encoded(
        self,
        carry: PyTree,
        frames: PyTree,
        encoding: Encoding,
        is_first: Bool[Array, ""],
        previous: Previous,
        bits: UInt32[Array, "words"],
    ) -> tuple[PyTree, Decision]:
        """`step` where the encoder's view of the frames is known already."""
        inputs = self._inputs(encoding, is_first, previous)
        carry, read = self.working.step(carry, inputs, is_first | self.forget)
        return carry, self._decide(frames, encoding, read, bits)

    def unroll(
        self,
        carry: PyTree,
        frames: PyTree,
        is_first: Bool[Array, "time"],
        previous: Previous,
        bits: UInt32[Array, "time words"],
    ) -> tuple[PyTree, Decision]:
        """`step` along a window; leaves of `frames` and of the decision have a leading axis [time]."""
        encoding = jax.vmap(self._encode)(frames)
        inputs = jax.vmap(self._inputs)(encoding, is_first, previous)
        carry, read = self.working.unroll(carry, inputs, is_first | self.forget)
        return carry, jax.vmap(self._decide)(frames, encoding, read, bits)

    def embed(self, frames: PyTree) -> Float[Array, "embedding"]:
        """The embedding of a stacked observation, of a network without working memory."""
        return self._encode(frames).embedding

    def seen(self, frames: PyTree) -> PyTree:
        """What the encoder is given of a stacked observation."""
        seen = spaces.seen_of(self.space, frames)
        if self.sight is None:
            return seen
        return self.sight(None if self.scales is None else self.scales.observation, seen)

    def seeing(self, scales: Scales | None) -> "Network":
        """The same parameters, and what they see and are paid scaled by these statistics."""
        return self if scales is None else dataclasses.replace(self, scales=scales)

    def forgetful(self) -> "Network":
        """The same parameters with the control switched on."""
        return dataclasses.replace(self, forget=True)

    def _encode(self, frames: PyTree) -> Encoding:
        encoding = self.encoder(self.seen(frames))
        _check_width("encoder", self.encoder, encoding.embedding)
        return encoding

    def _inputs(self, encoding: Encoding, is_first: Bool[Array, ""], previous: Previous) -> Float[Array, "inputs"]:
        parts = [encoding.embedding]
        if self.reads_action:
            taken = self._one_hot(previous.action)
            parts.append(jnp.where(is_first, 0.0, taken))
        if self.reads_reward:
            parts.append(jnp.where(is_first, 0.0, previous.reward)[None])
        return jnp.concatenate(parts) if len(parts) > 1 else parts[0]

    def _one_hot(self, action: Int[Array, ""]) -> Float[Array, "places"]:
        """One place for each action, or one for each value of each number of a decoupled one."""
        if not self.sizes:
            return jax.nn.one_hot(action, self.actions)
        parts = zip(digits(action, self.sizes), self.sizes, strict=True)
        return jnp.concatenate([jax.nn.one_hot(value, size) for value, size in parts])

    def _decide(self, frames: PyTree, encoding: Encoding, read: MemoryRead, bits: UInt32[Array, "words"]) -> Decision:
        _check_width("working memory", self.working, read.vector)
        newest = jax.tree.map(lambda frame: frame[-1], frames)
        allowed = mask_of(self.space, newest, self.actions)
        offered = offered_of(self.space, newest, self.actions)
        return Decision(encoding, read, self.head(read.vector, offered, allowed, bits), allowed)


def build(spec: MindSpec, space: spaces.Space, actions: int, key: Key, agents: int = 1) -> Network:
    """A network with fresh parameters for observations of `space` and `actions` actions, shared by `agents` of a team.

    Raises: SpecError or SpaceError where a part cannot serve what it is given.
    """
    encoder_key, head_key = jax.random.split(key)
    offered = spaces.offered_features(space, actions)
    if offered and not spec.head.reads_offered:
        inner = [name for name in ("policy", "q") if dataclasses.is_dataclass(getattr(spec.head, name, None))]
        raise SpecError(
            f"the observation offers {actions} actions by their features, which head="
            f"{name_of('head', type(spec.head))} does not read; use "
            f"{' '.join(f'head.{name}=attention' for name in inner) or 'head=attention'}"
        )
    if offered and spec.observation.previous_action:
        raise SpecError(
            "observation.previous_action = true gives a memory the number of the action, which means nothing where "
            "actions are offered by their features; set observation.previous_action=false"
        )
    sizes = _decoupled(spec, space, actions)
    sight = sight_of(spec, space)
    shown = spaces.seen(space) if sight is None else sight.shown
    encoder = built(partial(spec.encoder.build, shown, spec.observation.stack), encoder_key)
    reads = spec.observation.previous_action, spec.observation.previous_reward
    inputs = memory_inputs(encoder.width, sum(sizes) or actions, *reads)
    working = built(partial(spec.working.build, inputs), jax.random.fold_in(key, 2))
    width = spec.recall.key_width(working.width)
    external = built(partial(spec.external.build, width, actions, offered), jax.random.fold_in(key, 3))
    head = built(partial(spec.head.build, working.width, actions, offered=offered), head_key)
    check_mixing(spec, space)
    mix = partial(spec.mixing.build, agents, spaces.team_state(space))
    mixing = built(mix, jax.random.fold_in(key, 4)) if spec.mixing.present else None
    about: dict[str, Any] = {"forget": spec.forget, "sight": sight, "sizes": sizes, "mixing": mixing}
    return Network(
        encoder, working, external, head, space, actions, *reads, reads_state=spec.mixing.reads_state, **about
    )


def _decoupled(spec: MindSpec, space: spaces.Space, actions: int) -> tuple[int, ...]:
    """The values of each number of an action, for a head that has a value for each of these; else ().

    Raises SpecError where actions are allowed or offered as wholes, which such a head cannot tell apart.
    """
    sizes = spec.head.sizes if len(spec.head.sizes) > 1 else ()
    if sizes and spaces.has(space, spaces.MASK):
        raise SpecError(
            f"the observation says which of {actions:,} joint actions are allowed, and head=decoupled has values of "
            f"their numbers alone; set head=q"
        )
    return sizes


def check_mixing(spec: MindSpec, space: spaces.Space) -> None:
    """Raises SpaceError where a mixing reads the state of a world that does not show it."""
    if spec.mixing.reads_state and not spaces.team_state(space):
        raise SpaceError(
            f"mixing={name_of('mixing', type(spec.mixing))} mixes by the state of the world, but the observation has "
            f"no part {spaces.TEAM_STATE!r}; set mixing=sum, or let the environment show one"
        )


def _check_width(what: str, part: Any, given: Float[Array, "..."]) -> None:
    """Raises SpecError where a part, which may be a user's own, gives another number of numbers than it says."""
    if given.shape != (part.width,):
        raise SpecError(
            f"the {what} gives an array {list(given.shape)} where its `width` {part.width} promises [{part.width}]; "
            "make the two agree (engram.testing has a check for every part)"
        )


def memory_inputs(embedding: int, actions: int, reads_action: bool, reads_reward: bool) -> int:
    """How many numbers the working memory is given at each step."""
    return embedding + actions * reads_action + reads_reward
