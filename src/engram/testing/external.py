"""The contract of external memories.

from engram.testing import check_external
check_external(spec.build(5, 3, 0, key), embedding=5, actions=3, spec=spec)
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from engram.errors import SpecError
from engram.external.forgetting import forget, hide
from engram.external.memory import OPTIONAL, Entries, ExternalMemory, ExternalSpec
from engram.testing.contracts import STORED, ContractFault, as_part, compare, form
from engram.trees import named
from engram.types import MemoryRead

__all__ = ["check_external"]

STORED_OUTSIDE = (*STORED, "uint32")  # what a checkpoint holds of a store, which has hashes
ABILITIES = {"present": bool, "keeps": frozenset, "one_step": bool, "refreshes": bool}


class Given(NamedTuple):
    """What a memory is tried with."""

    blocks: list[Entries]
    queries: Float[Array, "queries embedding"]
    features: Array | None  # of the actions on offer
    rows: int
    actions: int
    tolerance: float


def check_external(
    memory: ExternalMemory,
    embedding: int,
    actions: int,
    *,
    spec: ExternalSpec | None = None,
    offered: int = 0,
    rows: int = 24,
    seed: int = 0,
    tolerance: float = 1e-4,
    unreached: tuple[str, ...] = (),
) -> None:
    """Hold an external memory to its contract, on blocks of `rows` random entries with keys of `embedding` numbers.

    Checked:

    - leaves, stores and reads have their forms;
    - an empty memory knows nothing;
    - entries that are not kept leave no trace, and numbers that are not finite do not come back;
    - compiled, batched and single reads agree;
    - gradients are finite, reach every leaf, and do not reach the store;
    - an entry is read at its key, and `fetch` gives it back;
    - what is hidden is not read, and nothing else changes;
    - what is forgotten leaves nothing, the other entries stay, and the memory can be written again.

    Args:
      spec: what the memory was built by. Its abilities are then checked too; None leaves them unchecked.
      offered: features of each action, 0 for a fixed set.
      tolerance: how far a compiled batch may be from a single read, relative to 1 + the value.
      unreached: names (or their ends) of leaves that need no gradient, such as those of a control that ignores them.

    Raises: ContractFault with the first thing that is wrong.
    """
    memory = as_part(memory)
    given = _given(embedding, actions, offered, rows, seed, tolerance)
    _check_store(memory, memory.init(), given.blocks[0], actions)
    _check_empty(memory, given)
    store = _check_filled(memory, given, unreached)
    _check_fetched(memory, given, {})
    if spec is not None:
        _check_abilities(spec, memory, given)
    _check_hidden(memory, store, given)
    _check_forgotten(memory, store, given)


# Module-level, so that each is compiled once for every memory of one structure.
WRITE = jax.jit(lambda memory, *given: memory.write(*given))
TOUCH = jax.jit(lambda memory, *given: memory.touch(*given))
READ = jax.jit(lambda memory, *given: memory.read(*given))
READ_MANY = jax.jit(jax.vmap(lambda memory, *given: memory.read(*given), (None, None, 0, None)))
FETCH = jax.jit(lambda memory, store, ids: (memory.fetch(store, ids), memory.holds(store, ids)))
HIDE: Any = jax.jit(hide)
FORGET: Any = jax.jit(forget)
REKEY = jax.jit(lambda memory, *given: memory.rekey(*given))


def _given(embedding: int, actions: int, offered: int, rows: int, seed: int, tolerance: float) -> Given:
    keys = jax.random.split(jax.random.PRNGKey(seed), 6)
    blocks = [_entries(key, rows, embedding, actions, offered) for key in keys[:3]]
    queries = jnp.concatenate([blocks[0].key[:3], jax.random.normal(keys[3], (3, embedding))])
    features = jax.random.normal(keys[4], (actions, offered)) if offered else None
    return Given(blocks, queries, features, rows, actions, tolerance)


def _entries(key: Array, rows: int, embedding: int, actions: int, offered: int) -> Entries:
    """A random block with every column that a kind may ask for; a quarter of it comes twice."""
    keys = jax.random.split(key, 7)
    again = jnp.arange(rows) % (rows - rows // 4)
    hashes = jax.random.bits(keys[0], (rows, 2), jnp.uint32)
    observations = jax.random.normal(keys[1], (rows, embedding))
    return Entries(
        key=observations[again],
        action=jax.random.randint(keys[2], (rows,), 0, actions)[again],
        features=jax.random.normal(keys[3], (rows, offered))[again],
        value=jax.random.normal(keys[4], (rows,)),
        td_error=jax.random.normal(keys[5], (rows,)),
        hash=hashes[again],
        origin=jnp.stack([jnp.zeros(rows, jnp.int32), jnp.arange(rows) // 4, jnp.arange(rows) % 4], 1),
        observation=observations[again],
        reward=jax.random.normal(keys[6], (rows,)),
        discount=jnp.full(rows, 0.9),
        successor=jnp.roll(observations[again], -1, 0),
        following=jnp.roll(hashes[again], -1, 0),
    )


def _check_store(memory: ExternalMemory, store: Any, block: Entries, actions: int) -> None:
    for name, leaf in named(store).items():
        if not isinstance(leaf, jax.Array) or str(leaf.dtype) not in STORED_OUTSIDE:
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise ContractFault(
                f"the store's leaf {name!r} is {kind}; expected an array of {', '.join(STORED_OUTSIDE)}"
            )
    after = {
        "write": jax.eval_shape(memory.write, store, block, jnp.ones(len(block.value), bool)),
        "touch": jax.eval_shape(memory.touch, store, jnp.zeros(actions, jnp.int32), jnp.zeros(actions)),
    }
    for way, other in after.items():
        if (before := form(store)) != (found := form(other)):
            raise ContractFault(f"`{way}` made a store of {before} one of {found}; keep structure, shapes and types")


def _check_empty(memory: ExternalMemory, given: Given) -> None:
    store = memory.init()
    for name in ("held", "refused"):
        if int(getattr(store, name, -1)) != 0:
            raise ContractFault(f"{name!r} of an empty store is not 0; give it that property, see Store")
    read = READ(memory, store, given.queries[0], given.features)
    _check_read(read, given.actions)
    if np.any(read.weights) or np.any(read.q) or np.any(read.confidence):
        raise ContractFault("an empty memory reads something; weights, q and confidence are 0 where nothing is known")


def _check_filled(memory: ExternalMemory, given: Given, unreached: tuple[str, ...]) -> Any:
    """A store that holds every block: what leaves no trace in it, its reads, and their gradients. The store."""
    store = memory.init()
    for block in given.blocks:
        store = WRITE(memory, store, block, jnp.ones(given.rows, bool))
    ids, weights = jnp.array([-1, -1], jnp.int32), jnp.ones(2)
    compare(store, TOUCH(memory, store, ids, weights), "touching -1, which stands for nothing, left a trace", 0)
    _check_strays(memory, store, given)
    _check_reads(memory, store, given)
    _check_gradient(memory, store, given.queries[-1], given.features, unreached)
    return store


def _check_strays(memory: ExternalMemory, store: Any, given: Given) -> None:
    """What is not to be kept, and what must not be."""
    block, query, features = given.blocks[0], given.queries[0], given.features
    stray = Entries(**vars(block) | {"key": block.key + 1, "value": block.value + 100, "hash": block.hash + 1})
    before = READ(memory, store, query, features)
    after = READ(memory, WRITE(memory, store, stray, jnp.zeros(given.rows, bool)), query, features)
    compare(before, after, "entries that were not to be kept changed a read", 0)
    for name in ("key", "value"):
        broken = Entries(**vars(stray) | {name: jnp.full_like(getattr(block, name), jnp.nan)})
        after = READ(memory, WRITE(memory, store, broken, jnp.ones(given.rows, bool)), query, features)
        for part in ("weights", "q", "confidence"):
            if not np.isfinite(getattr(after, part)).all():
                raise ContractFault(f"a {name} that was not finite got into {part!r} of a read; refuse it in `write`")


def _check_hidden(memory: ExternalMemory, store: Any, given: Given) -> None:
    """An entry that a query reads is hidden from it; one without a `hide` is served by the other verbs."""
    own, query, features = hasattr(memory, "hide"), given.queries[0], given.features
    read = READ(memory, store, query, features)
    seen = np.asarray(read.entries)[np.asarray(read.weights) > 0]
    id = int(seen[0]) if len(seen) else -1
    nothing, one = (HIDE(memory, store, jnp.array(ids, jnp.int32)) for ids in ([-1, -1], [id, -1]))
    if (before := form(store)) != (after := form(one)):
        raise ContractFault(f"`hide` made a store of {before} one of {after}; keep structure, shapes and types")
    if own:
        compare(store, nothing, "hiding -1, which stands for nothing, left a trace", 0)
    after = READ(memory, one, query, features)
    _check_read(after, given.actions)
    if id < 0:
        return
    fewer = int(jnp.sum(jnp.asarray(one.held))) < int(jnp.sum(jnp.asarray(store.held)))
    if own and (np.any(np.asarray(after.entries) == id) or FETCH(memory, one, jnp.array([id], jnp.int32))[1][0]):
        raise ContractFault("an entry is still read, or held, after it was hidden; see ForgettingMemory.hide")
    if not own and not fewer:
        raise ContractFault(
            "the memory without an entry cannot be made by writing what `fetch` gives of the others; give it a `hide`"
        )
    _check_others_seen(memory, store, one, id)


def _check_others_seen(memory: ExternalMemory, store: Any, hidden: Any, id: int) -> None:
    """Whatever else the store held is what it was."""
    if not hasattr(memory, "hide"):
        return
    ids = jnp.arange(memory.capacity, dtype=jnp.int32)
    (before, held), (after, kept) = FETCH(memory, store, ids), FETCH(memory, hidden, ids)
    others = np.asarray(held) & (np.asarray(ids) != id)
    if not np.array_equal(others, kept):
        raise ContractFault("other entries vanished, or came back, when one was hidden; hide what is named alone")
    one, other = (jax.tree.map(lambda leaf: np.asarray(leaf)[others], rows) for rows in (before, after))
    compare(one, other, "another entry changed when one was hidden", 0, equal_nan=True)


def _check_forgotten(memory: ExternalMemory, store: Any, given: Given) -> None:
    """Every second entry is forgotten, then all of them; one without a `forget` is served by the other verbs."""
    query, features, every = given.queries[0], given.features, jnp.ones(memory.capacity, bool)
    entries, held = FETCH(memory, store, jnp.arange(memory.capacity, dtype=jnp.int32))
    gone = held & (jnp.cumsum(held) % 2 == 0)
    half, none = FORGET(memory, store, gone), FORGET(memory, store, every)
    if (before := form(store)) != (after := form(half)):
        raise ContractFault(f"`forget` made a store of {before} one of {after}; keep structure, shapes and types")
    found, kept = FETCH(memory, half, jnp.arange(memory.capacity, dtype=jnp.int32))
    expected, got = _as_rows(entries, np.asarray(held & ~gone)), _as_rows(found, np.asarray(kept))
    if not np.array_equal(expected, got):
        raise ContractFault(
            f"{int(gone.sum())} of {int(held.sum())} entries were forgotten, and the {len(got)} that remain are not "
            "the others; " + ("see ForgettingMemory.forget" if hasattr(memory, "forget") else "give it a `forget`")
        )
    read = READ(memory, none, query, features)
    if np.any(read.weights) or np.any(read.q) or np.any(read.confidence) or int(none.held):
        raise ContractFault("a memory that has forgotten everything reads, or holds, something")
    _check_read(READ(memory, half, query, features), given.actions)
    again = WRITE(memory, half, given.blocks[0], jnp.ones(given.rows, bool))
    _check_read(READ(memory, again, query, features), given.actions)
    if memory.capacity and not np.any(READ(memory, again, query, features).weights):
        raise ContractFault("an entry that is written after others were forgotten is not read at its own key")


def _as_rows(entries: Entries, which: np.ndarray) -> np.ndarray:
    """Key, features, action, hash and origin of some entries, the rows sorted: values may be those of neighbours."""
    columns = (entries.key, entries.features, entries.action[:, None], entries.hash, entries.origin)
    rows = np.concatenate([np.asarray(column, np.float64)[which] for column in columns], axis=1)
    return rows[np.lexsort(rows.T)] if rows.size else rows


def _check_reads(memory: ExternalMemory, store: Any, given: Given) -> None:
    reads = READ_MANY(memory, store, given.queries, given.features)
    for number, query in enumerate(given.queries):
        read = jax.tree.map(lambda leaf, number=number: leaf[number], reads)
        _check_read(read, given.actions)
        alone = READ(memory, store, query, given.features)
        compare(alone, read, "`read` under vmap reads otherwise", given.tolerance)


def _check_read(read: MemoryRead, actions: int) -> None:
    shape, q, confidence = read.weights.shape, np.asarray(read.q), np.asarray(read.confidence)
    if len(shape) != 3 or shape[1] != actions or read.entries.shape != shape or read.entries.dtype != jnp.int32:
        raise ContractFault(
            f"weights have shape {shape} and entries {read.entries.dtype}{list(read.entries.shape)}; expected both to "
            f"be [heads {actions} entries], and int32 ids"
        )
    if q.shape != (actions,) or confidence.shape != (actions,) or read.vector.shape != (0,):
        raise ContractFault(
            f"q, confidence and vector have shapes {q.shape}, {confidence.shape} and {read.vector.shape}; expected "
            f"({actions},) twice, and (0,)"
        )
    weights, entries = np.asarray(read.weights), np.asarray(read.entries)
    total = weights.sum(-1)
    if not np.isfinite(q).all() or not np.isfinite(weights).all():
        raise ContractFault("q or a weight is not finite; look for a division by 0 or a softmax over nothing")
    if (weights < 0).any() or not (np.isclose(total, 1, atol=1e-5) | (total == 0)).all():
        raise ContractFault("an action's weights are negative or sum to neither 1 nor 0; use nn.attention.attend")
    if (entries < -1).any() or (weights[entries < 0] != 0).any():
        raise ContractFault("an entry is below -1, or one of -1, which stands for nothing, has a weight")
    ordered = np.sort(entries, -1)
    if ((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).any():
        raise ContractFault("an action reads the same entry twice; the ids in a row must differ")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ContractFault(f"confidence is {confidence.tolist()}; expected numbers from 0 to 1")
    unknown = (total == 0).all(0)
    if confidence[unknown].any() or q[unknown].any():
        raise ContractFault("q or confidence is not 0 for an action of which nothing is known")


def _check_gradient(
    memory: ExternalMemory, store: Any, query: Array, features: Array | None, unreached: tuple[str, ...]
) -> None:
    def total(memory: ExternalMemory, store: Any, query: Array) -> Array:
        read = memory.read(store, query, features)
        return jnp.asarray(read.q).sum() + jnp.asarray(read.confidence).sum()

    slopes = jax.jit(jax.grad(total, (0, 1, 2), allow_int=True))(memory, store, query)
    for name, slope in named(slopes[1]).items():
        if slope.dtype != jax.dtypes.float0 and np.any(slope):
            raise ContractFault(f"a gradient reaches {name!r} of the store; stop it where the store is read")
    for name, slope in ({"the query": slopes[2]} | named(slopes[0])).items():
        if not np.isfinite(slope).all():
            raise ContractFault(f"the gradient of {name!r} is not finite; look for a division, root or log at 0")
    for name, slope in named(slopes[0]).items():
        if not np.any(slope) and not name.endswith(unreached):
            raise ContractFault(f"no gradient reaches {name!r}; use it, remove it, or name it in `unreached`")


# -- what was written comes back ---------------------------------------------------------------------------------


def _check_fetched(memory: ExternalMemory, given: Given, kept: Mapping[str, PyTree]) -> tuple[Any, int]:
    """One entry is written, read at its key and fetched by its id. The store with it, and that id; -1 for no store."""
    if not memory.capacity:
        return memory.init(kept), -1
    block, first = given.blocks[0], jnp.arange(given.rows) == 0
    store, action = WRITE(memory, memory.init(kept), block, first), int(block.action[0])
    features = None if given.features is None else given.features.at[action].set(block.features[0])
    read = READ(memory, store, block.key[0], features)
    weights, ids = (np.asarray(part[:, action]).reshape(-1) for part in (read.weights, read.entries))
    if not weights.any():
        raise ContractFault("the only entry is not read at its own key; read what was written")
    id = int(ids[weights.argmax()])
    if id >= memory.capacity:
        raise ContractFault(f"an id is {id}, but `capacity` is {memory.capacity}; ids run from 0 to capacity - 1")
    found, held = FETCH(memory, store, jnp.array([id, -1], jnp.int32))
    if held.tolist() != [True, False] or int(store.held) < 1:
        raise ContractFault(
            f"one entry was written; `holds` of its id and of -1 are {held.tolist()}, and `held` of the store is "
            f"{int(store.held)}; expected [True, False], and 1 or more"
        )
    for name, column in vars(found).items():
        _check_column(name, column, getattr(block, name), name in kept)
    return store, id


def _check_column(name: str, found: PyTree, written: PyTree, wanted: bool) -> None:
    """A fetched column, of the entry that was written first and of -1."""
    got, expected = jax.tree.leaves(found), jax.tree.leaves(written)
    if not got and (wanted or name not in OPTIONAL):
        raise ContractFault(f"`fetch` gives no {name!r}, which `init` was asked for; keep it, or take it from `keeps`")
    for one, other in zip(got, expected, strict=bool(got)):
        blank = np.full_like(one[0], -1 if name == "origin" else 0)
        same = one[0].shape == other[0].shape and np.allclose(one[0], other[0], rtol=1e-5, atol=1e-5)
        absent = not wanted and name != "value" and np.array_equal(one[0], blank)
        if not (same or absent):
            raise ContractFault(
                f"`fetch` gives another {name!r} than was written; give it back, or zeros (-1 for an origin) where the "
                "kind does not store it"
            )
        if np.any(one[1]):
            raise ContractFault(f"`fetch` gives a {name!r} for -1, which stands for nothing; give zeros")


def _check_abilities(spec: ExternalSpec, memory: ExternalMemory, given: Given) -> None:
    for name, kind in ABILITIES.items():
        if not isinstance(getattr(spec, name, None), kind):
            raise ContractFault(f"the spec has no {name!r} of type {kind.__name__}; declare it, see ExternalSpec")
    if strange := sorted(spec.keeps - set(OPTIONAL)):
        raise ContractFault(f"the spec's `keeps` has {strange[0]!r}; expected names of {', '.join(OPTIONAL)}")
    try:
        memory.init({"no such column": jnp.zeros(())})
    except SpecError:
        pass
    else:
        raise ContractFault("`init` keeps a column that is not in `keeps`; raise SpecError, see memory.check_kept")
    block = given.blocks[0]
    kept = {name: jax.tree.map(lambda leaf: leaf[0], getattr(block, name)) for name in spec.keeps}
    store, id = _check_fetched(memory, given, kept)
    if spec.refreshes:
        if "observation" not in spec.keeps:
            raise ContractFault("the spec `refreshes`, but does not keep 'observation'; keys are computed from that")
        _check_rekey(memory, store, jnp.array([id], jnp.int32), given.queries[-1:])


def _check_rekey(memory: Any, store: Any, ids: Int[Array, "one"], fresh: Float[Array, "one embedding"]) -> None:
    if not hasattr(memory, "rekey"):
        raise ContractFault("the spec `refreshes`, but the memory has no `rekey`; see RekeyedMemory")
    renewed = REKEY(memory, store, ids, fresh)
    if (before := form(store)) != (after := form(renewed)):
        raise ContractFault(f"`rekey` made a store of {before} one of {after}; keep structure, shapes and types")
    faults = ((fresh, "is not the fresh one"), (fresh * jnp.nan, "changed where the fresh one is not finite"))
    for given, fault in faults:
        key = FETCH(memory, REKEY(memory, renewed, ids, given), ids)[0].key
        compare({"key": fresh}, {"key": key}, f"after `rekey` a key {fault}", 1e-5)
