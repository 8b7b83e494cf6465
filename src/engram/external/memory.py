"""What every external memory does: a store of past experience that outlives episodes, and the functions of it.

    init(kept) -> store                       a store without entries
    write(store, entries, keep) -> store      a block of new experience at once, into distinct places
    read(store, query, offered) -> MemoryRead per action: the value of similar situations, and the ids of their entries
    touch(store, ids, weights) -> store       acting has read these entries; the eviction may go by it
    fetch(store, ids) -> entries              the inverse of write: the entries that these ids name
    holds(store, ids) -> bool                 which of these ids name an entry now

An id names one entry of one action, from 0 to `capacity` - 1; -1 stands for nothing. Agents, runners and pages ask
nothing else: the leaves of a store are its kind's own, but for `held` and `refused` (see `Store`).

One store serves all environments of an agent: blocks are written outside `vmap`. `write` and `touch` carry no gradient;
`read` is differentiable in the query and in the memory's own learned weights, never in what is stored.

A kind is registered by a spec, which says what the kind can do: see `ExternalSpec`. `engram.testing.check_external`
holds spec, memory and store to this page.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from engram.errors import SpecError
from engram.registry import register
from engram.specs import spec
from engram.types import Key, MemoryRead


class Store(Protocol):
    """A pytree of arrays; each kind has a class of its own. Several seeds add a leading axis to every leaf."""

    @property
    def held(self) -> Int[Array, "*seeds"]:
        """Entries that the store holds now, as a log line counts them."""
        ...

    @property
    def refused(self) -> Int[Array, "*seeds"]:
        """Entries that were offered to `write` and not written, because a number was not finite."""
        ...


class Entries(eqx.Module):
    """A block of experience. Every leaf has a leading axis [block].

    `write` takes one. Columns that the kind does not store may be None, and cost nothing. `fetch` gives one back. An
    optional column that the store does not keep is then None. Any other that the kind does not store is zeros, an
    origin -1.
    """

    key: Float[Array, "block embedding"]  # of the observation, as it was when acting
    action: Int[Array, "block"]
    features: Float[Array, "block features"]  # of the action, where actions are offered by their features; else 0 wide
    value: Float[Array, "block"]  # written: the n-step return; fetched: the value that a read uses; in units of return
    td_error: Float[Array, "block"]  # value minus the network's own Q when it acted
    hash: UInt32[Array, "block 2"]  # of the situation; equal situations have equal hashes and become one entry
    origin: Int[Array, "block 3"]  # environment, its episode, step of that episode
    observation: PyTree = None
    reward: Float[Array, "block"] | None = None  # sum of the discounted rewards: n, or fewer where an episode ended
    discount: Float[Array, "block"] | None = None  # factor of what follows: 0 where the episode ended
    successor: PyTree = None  # the observation after those rewards, where the return bootstraps
    following: UInt32[Array, "block 2"] | None = None  # its hash


OPTIONAL = ("observation", "reward", "discount", "successor", "following")  # columns of Entries that may be None


class ExternalSpec(Protocol):
    """The spec of a kind, and what the kind can do. Agents ask these attributes, never for the class of a spec."""

    @property
    def present(self) -> bool:
        """Whether there is a memory at all: False for `none` alone."""
        ...

    @property
    def keeps(self) -> frozenset[str]:
        """The optional columns of `Entries` that a store can keep when `init` asks for them."""
        ...

    @property
    def one_step(self) -> bool:
        """Whether entries must be transitions of one step, because the kind adds up rewards itself."""
        ...

    @property
    def refreshes(self) -> bool:
        """Whether keys can be computed anew: the memory is then a `RekeyedMemory`, and keeps "observation"."""
        ...

    def build(self, embedding: int, actions: int, offered: int, key: Key) -> "ExternalMemory":
        """A memory for queries of `embedding` numbers and `actions` fixed actions.

        Where `offered` is above 0, actions are offered by that many features each instead. Raises SpecError where the
        kind cannot serve these sizes.
        """
        ...


class ExternalMemory(Protocol):
    """The functions of every kind. A module: its leaves are learned weights, often none.

    Signatures say Any for a store, since each kind takes the class of store that its own `init` makes.
    """

    @property
    def capacity(self) -> int:
        """Number of ids; what an id can name is not always in use at once."""
        ...

    def init(self, kept: Mapping[str, PyTree] | None = None) -> Store:
        """A store without entries.

        `kept` names the optional columns of `Entries` to keep as well, each with one example of it (arrays, or their
        shapes and dtypes). Raises SpecError for a column that is not in the spec's `keeps`.
        """
        ...

    def write(self, store: Any, entries: Entries, keep: Bool[Array, "block"]) -> Store:
        """The store with the entries of the block that `keep` marks.

        Where the store holds the entry's hash and action already, its key is overwritten and its value moved. Any other
        entry takes a free place, or the place that the eviction gives up. Two entries of a block with the same
        observation and action count as one after the other.
        """
        ...

    def read(
        self,
        store: Any,
        query: Float[Array, "embedding"],
        offered: Float[Array, "actions features"] | None = None,
    ) -> MemoryRead:
        """Per action the attention-weighted value of similar entries.

        In the read, `q` has a value for each action and `confidence` says how much it is worth, 0 to 1: 0, with
        weights that sum to 0, where nothing is known. `entries` are the ids of what was read, -1 for nothing;
        `vector` has no features.
        """
        ...

    def touch(self, store: Any, entries: Int[Array, "reads"], weights: Float[Array, "reads"]) -> Store:
        """The store after acting read the entries of these ids with these attention weights; ids may repeat."""
        ...

    def fetch(self, store: Any, ids: Int[Array, "block"]) -> Entries:
        """The entries that these ids name, in their order: what `write` was given, as far as the kind stores it.

        An id of -1 gives zeros. An id that names nothing now gives numbers without meaning; `holds` tells.
        """
        ...

    def holds(self, store: Any, ids: Int[Array, "block"]) -> Bool[Array, "block"]:
        """Which of these ids name an entry now; False for -1."""
        ...


class RekeyedMemory(ExternalMemory, Protocol):
    """A memory whose spec says `refreshes`."""

    def rekey(self, store: Any, ids: Int[Array, "block"], embeddings: Float[Array, "block embedding"]) -> Store:
        """The store with fresh embeddings in the keys of these entries; where one is not finite the old key stays.

        Ids are distinct. Ids of places without an entry are allowed, and what they name stays nothing.
        """
        ...


class Notes(eqx.Module):
    """What a store knows of entries beside what was written. None for what the kind does not keep."""

    age: Int[Array, "block"] | None = None  # writes since the entry was last written; of `graph`, moments
    unread: Int[Array, "block"] | None = None  # the same since acting last read it; -1 for never
    attention: Float[Array, "block"] | None = None  # received while acting, in all
    count: Int[Array, "block"] | None = None  # experiences in it that are known of
    writes: Int[Array, ""] | None = None  # into the whole store, in all


class ForgettingMemory(ExternalMemory, Protocol):
    """A memory with verbs of its own to take entries out, as Engram's kinds have.

    `external.forgetting` has the same verbs for every kind: one without them is served by its other verbs.
    """

    def notes(self, store: Any, ids: Int[Array, "block"]) -> Notes:
        """What is known of these entries beside what `fetch` gives. Means nothing where an id names nothing."""
        ...

    def hide(self, store: Any, ids: Int[Array, "block"]) -> Store:
        """The store whose reads, and `holds`, no longer see the entries of these ids; all else stays as it is.

        An id of -1, or one that names nothing, hides nothing; ids may repeat. For looking, such as at what a decision
        would be without an entry: a store that goes on to be written wants `forget`.
        """
        ...

    def forget(self, store: Any, gone: Bool[Array, "capacity"]) -> Store:
        """The store as it would be had the entries that are gone never been written.

        It is the store that writing the entries that remain makes, each as `fetch` gives it, in the order in which they
        were last written: its reads are the same, to 0 ulp, and so are its free places, its index and what gives way
        next. Beside that:

        - What an entry was made of goes with it as a whole, such as experiences that were merged into it.
        - Times, counts of reads and attention, and the counters of the store stay what they were.
        - Ids are given anew. Of the entries that are gone no number is left in the columns of the store.
        - A return that was written while the memory held them stays as it was written.

        Each kind says in its docstring what else it keeps. It is compiled and batched like any other verb, but may cost
        as much as writing everything that remains: it is for use outside of training.
        """
        ...


def known_rows(column: PyTree, ids: Int[Array, "block"]) -> PyTree:
    """Rows that were taken from a column for these ids, with zeros for the ids of -1."""

    def zeroed(rows: Array) -> Array:
        return jnp.where((ids >= 0).reshape(-1, *[1] * (rows.ndim - 1)), rows, jnp.zeros((), rows.dtype))

    return jax.tree.map(zeroed, column)


def check_kept(kind: str, keeps: frozenset[str], kept: Mapping[str, PyTree] | None) -> None:
    """SpecError where `kept` names a column that this kind cannot keep."""
    for name in kept or ():
        if name not in keeps:
            raise SpecError(
                f"external={kind} was asked to keep {name!r}, but can keep {', '.join(sorted(keeps)) or 'no column'}; "
                "leave it out, or use external=episodic"
            )


@register("external", "none")
@spec
class NoExternalSpec:
    """No external memory: Q is the network's alone."""

    present = False
    keeps = frozenset[str]()
    one_step = False
    refreshes = False

    def build(self, embedding: int, actions: int, offered: int, key: Key) -> "NoExternal":
        return NoExternal(actions)


class Nothing(NamedTuple):
    """The store of `none`: no arrays."""

    @property
    def held(self) -> Int[Array, ""]:
        return jnp.zeros((), jnp.int32)

    @property
    def refused(self) -> Int[Array, ""]:
        return jnp.zeros((), jnp.int32)


class NoExternal(eqx.Module):
    """Stores nothing, reads nothing."""

    actions: int = eqx.field(static=True)

    @property
    def capacity(self) -> int:
        return 0

    def init(self, kept: Mapping[str, PyTree] | None = None) -> Nothing:
        check_kept("none", NoExternalSpec.keeps, kept)
        return Nothing()

    def write(self, store: Nothing, entries: Entries, keep: Bool[Array, "block"]) -> Nothing:
        return store

    def read(
        self, store: Nothing, query: Float[Array, "embedding"], offered: Float[Array, "actions features"] | None = None
    ) -> MemoryRead:
        nothing = jnp.zeros((0, self.actions, 0))
        return MemoryRead(
            jnp.zeros(0), nothing, nothing.astype(jnp.int32), jnp.zeros(self.actions), jnp.zeros(self.actions)
        )

    def touch(self, store: Nothing, entries: Int[Array, "reads"], weights: Float[Array, "reads"]) -> Nothing:
        return store

    def fetch(self, store: Nothing, ids: Int[Array, "block"]) -> Entries:
        """Zeros; keys and features of no numbers."""
        none, count = jnp.zeros((len(ids), 0)), jnp.zeros(len(ids), jnp.int32)
        pair, triple = jnp.zeros((len(ids), 2), jnp.uint32), jnp.zeros((len(ids), 3), jnp.int32)
        return Entries(none, count, none, jnp.zeros(len(ids)), jnp.zeros(len(ids)), pair, triple)

    def holds(self, store: Nothing, ids: Int[Array, "block"]) -> Bool[Array, "block"]:
        return jnp.zeros(len(ids), bool)

    def hide(self, store: Nothing, ids: Int[Array, "block"]) -> Nothing:
        return store

    def forget(self, store: Nothing, gone: Bool[Array, "capacity"]) -> Nothing:
        return store
