"""What every external memory is: a store of past experience that outlives episodes, and four functions of it.

    init() -> store                           nothing remembered
    write(store, entries, keep) -> store      a block of new experience at once, into distinct places
    read(store, query, offered) -> MemoryRead per action: what similar situations came to, and which those were
    touch(store, entries, weights) -> store   what acting has just read; eviction may go by it

One store serves all environments of an agent: blocks are written outside `vmap`. `write` and `touch` carry no gradient;
`read` is differentiable in the query and in the memory's own learned weights, never in what is stored.
"""

from typing import Any, Protocol

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from engram.registry import register
from engram.specs import spec
from engram.types import Key, MemoryRead

# A pytree of arrays; each kind has its own. `live` says which of its places hold something, `refused` how many entries
# were not written because of numbers that are not finite.
Store = Any


class Entries(eqx.Module):
    """A block of experience, offered to a memory. Every leaf has a leading axis [block].

    What a kind does not store may be left (), and costs nothing.
    """

    key: Float[Array, "block embedding"]  # of the observation, as it was when acting
    action: Int[Array, "block"]
    features: Float[Array, "block features"]  # of the action, where actions are offered by their features; else 0 wide
    value: Float[Array, "block"]  # the n-step return, in units of return
    td_error: Float[Array, "block"]  # value minus the network's own Q when it acted
    hash: UInt32[Array, "block 2"]  # of the situation; what is to be one entry has equal ones
    origin: Int[Array, "block 3"]  # environment, its episode, step of that episode
    observation: PyTree = ()
    reward: Float[Array, "block"] | tuple[()] = ()  # sum of the discounted rewards: n, or fewer where an episode ended
    discount: Float[Array, "block"] | tuple[()] = ()  # factor of what follows: 0 where the episode ended
    successor: PyTree = ()  # the observation after those rewards, where the return bootstraps
    following: UInt32[Array, "block 2"] | tuple[()] = ()  # its hash


class ExternalMemory(Protocol):
    """What every kind does. A module: its leaves are learned weights, often none."""

    def init(self) -> Store:
        """A store without entries."""
        ...

    def write(self, store: Store, entries: Entries, keep: Bool[Array, "block"]) -> Store:
        """The store with the entries of the block that are to be kept.

        An entry whose hash and action the store holds already overwrites that one's key and moves its
        value; every other one takes a free place, or that of whatever the eviction gives up. Two entries of a block
        that are the same observation and action count as one after the other.
        """
        ...

    def read(
        self,
        store: Store,
        query: Float[Array, "embedding"],
        offered: Float[Array, "actions features"] | None = None,
    ) -> MemoryRead:
        """Per action the attention-weighted value of similar entries.

        In the read, `q` has a value for each action and `confidence` says how much it is worth, 0 to 1: 0, with
        weights that sum to 0, where nothing is known. `entries` are the ids of what was read, -1 for nothing;
        `vector` has no features.
        """
        ...

    def touch(self, store: Store, entries: Int[Array, "reads"], weights: Float[Array, "reads"]) -> Store:
        """Notes that these entries were read just now, with that much attention; -1 stands for nothing."""
        ...


@register("external", "none")
@spec
class NoExternalSpec:
    """No external memory: Q is the network's alone."""

    def build(self, embedding: int, actions: int, offered: int, key: Key) -> "NoExternal":
        return NoExternal(actions)


class NoExternal(eqx.Module):
    """Stores nothing, reads nothing."""

    actions: int = eqx.field(static=True)

    def init(self) -> Store:
        return ()

    def write(self, store: Store, entries: Entries, keep: Bool[Array, "block"]) -> Store:
        return store

    def read(
        self, store: Store, query: Float[Array, "embedding"], offered: Float[Array, "actions features"] | None = None
    ) -> MemoryRead:
        nothing = jnp.zeros((0, self.actions, 0))
        return MemoryRead(
            jnp.zeros(0), nothing, nothing.astype(jnp.int32), jnp.zeros(self.actions), jnp.zeros(self.actions)
        )

    def touch(self, store: Store, entries: Int[Array, "reads"], weights: Float[Array, "reads"]) -> Store:
        return store
