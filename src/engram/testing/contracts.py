"""Contracts as functions: hand in a part of your own, and hear in one sentence what it breaks.

    from engram.testing.contracts import check_working
    check_working(MySpec().build(5, key), inputs=5)

Engram's own parts are held to the same.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from engram.errors import EngramError
from engram.external.memory import Entries, ExternalMemory, Store
from engram.trees import named
from engram.types import MemoryRead
from engram.working.memory import Carry, WorkingMemory, scan_steps

__all__ = ["ContractFault", "check_external", "check_working"]

STORED = ("bool", "int32", "float32")  # what a checkpoint holds of a carry
STORED_OUTSIDE = (*STORED, "uint32")  # and of a store, which has hashes


class ContractFault(EngramError):
    """A part does not do what its role promises."""


def check_working(
    memory: WorkingMemory,
    inputs: int,
    *,
    rows: int = 12,
    seed: int = 0,
    tolerance: float = 1e-4,
    unreached: tuple[str, ...] = (),
) -> None:
    """Hold a working memory to its contract, on `rows` random inputs of `inputs` numbers each.

    Checked: every leaf is a learned float32 array; carries are storable and keep their shapes; `unroll`, compiled and
    batched, equals `scan_steps`, from an empty and from a used carry, with episodes that begin anywhere; nothing from
    before `is_first` is left; not even unused in the carry; reads have the shapes, weights and entries that MemoryRead
    promises; gradients are finite and reach every leaf.

    Args:
      tolerance: how far two ways of computing the same may be apart, relative to 1 + the value: sums are taken in
        another order, and recurrences repeat it.
      unreached: names (or their ends) of leaves that need no gradient, such as those of a control that ignores them.

    Raises: ContractFault with the first thing that is wrong.
    """
    window = jax.random.normal(jax.random.PRNGKey(seed), (rows, inputs))
    _check_leaves(memory)
    _check_carry(memory, window)
    compiled = (partial(jax.jit(scan_steps), memory), partial(jax.jit(_second), memory))
    used = compiled[1](memory.init(), window[::-1], _opening(rows))[0]
    starts = {"none": (), "the first": (0,), "some": (0, rows // 3, rows // 3 + 1, rows - 1), "the last": (rows - 1,)}
    for name, places in starts.items():
        for state, carry in (("an empty", memory.init()), ("a used", used)):
            where = f"from {state} carry, with {name} of {rows} rows opening an episode,"
            _check_unroll(memory, compiled, (carry, window, _opening(rows, *places)), where, tolerance)
    _check_forgets(memory, compiled[1], used, window, tolerance)
    _check_gradient(memory, window, unreached)


Compiled = Callable[..., tuple[Carry, MemoryRead]]


def _second(memory: WorkingMemory, *given: Any) -> tuple[Carry, MemoryRead]:
    """`unroll` as learning calls it: batched, here beside a neighbour full of zeros, which must not matter."""
    pairs = jax.tree.map(lambda x: jnp.stack([jnp.zeros_like(x), x]), given)
    return jax.tree.map(lambda x: x[1], jax.vmap(memory.unroll)(*pairs))


def _opening(rows: int, *places: int) -> Bool[Array, "time"]:
    """`is_first` with these rows opening an episode."""
    return jnp.array([row in places for row in range(rows)])


def _check_leaves(memory: WorkingMemory | ExternalMemory) -> None:
    for name, leaf in named(memory).items():
        if not isinstance(leaf, jax.Array) or leaf.dtype != jnp.float32:
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise ContractFault(
                f"the leaf {name!r} is {kind}; expected a learned float32 array: make it one, or a static field"
            )


def _check_carry(memory: WorkingMemory, window: Float[Array, "time inputs"]) -> None:
    empty = memory.init()
    for name, leaf in named(empty).items():
        if not isinstance(leaf, jax.Array) or str(leaf.dtype) not in STORED:
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise ContractFault(f"the carry's leaf {name!r} is {kind}; expected an array of {', '.join(STORED)}")
    carries = {
        "step": jax.eval_shape(memory.step, empty, window[0], jnp.array(True))[0],
        "unroll": jax.eval_shape(memory.unroll, empty, window, _opening(len(window)))[0],
    }
    for way, carry in carries.items():
        if (before := _form(empty)) != (after := _form(carry)):
            raise ContractFault(f"`{way}` made a carry of {before} one of {after}; keep structure, shapes and types")


def _form(tree: Any) -> dict[str, str]:
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in named(tree).items()}


def _check_unroll(
    memory: WorkingMemory, compiled: tuple[Compiled, Compiled], given: tuple, where: str, tolerance: float
) -> None:
    expected_carry, expected = compiled[0](*given)
    got_carry, got = compiled[1](*given)
    _check_read(memory, got, len(given[1]))
    _compare(expected, got, f"{where} `unroll` reads otherwise than steps do", tolerance)
    _compare(expected_carry, got_carry, f"{where} `unroll` ends in another carry than steps do", tolerance)


def _check_read(memory: WorkingMemory, read: MemoryRead, rows: int) -> None:
    if read.vector.shape != (rows, memory.width):
        raise ContractFault(
            f"`unroll` of {rows} rows gave vectors of shape {read.vector.shape}; expected "
            f"({rows}, {memory.width}), with `width` last"
        )
    if read.weights.ndim != 4 or read.weights.shape != read.entries.shape:
        raise ContractFault(
            f"weights have shape {read.weights.shape} and entries {read.entries.shape}; expected both to be "
            "[time heads actions entries], as `no_weights` gives them for a memory without attention"
        )
    weights, entries = np.asarray(read.weights), np.asarray(read.entries)
    total = weights.sum(-1)
    if (weights < 0).any() or not (np.isclose(total, 1, atol=1e-5) | (total == 0)).all():
        raise ContractFault("a row's weights are negative or sum to neither 1 nor 0; use nn.attention.attend")
    if (weights[entries < 0] != 0).any():
        raise ContractFault("an entry of -1, which stands for nothing, has a weight; mask it before the softmax")


def _check_forgets(
    memory: WorkingMemory, unroll: Compiled, used: Carry, window: Float[Array, "time inputs"], tolerance: float
) -> None:
    opening = _opening(len(window), 0)
    fresh = unroll(memory.init(), window, opening)
    _compare(fresh, unroll(used, window, opening), "what came before `is_first` is still remembered", tolerance)
    unopened = unroll(memory.init(), window, _opening(len(window)))
    _compare(fresh, unopened, "an episode that begins and an empty memory are not the same", tolerance)
    # Two pasts that differ, and the same single row of a new episode: nothing of the pasts may be in the carry.
    last = _opening(len(window), len(window) - 1)
    first, second = unroll(used, window, last)[0], unroll(memory.init(), window.at[:-1].set(0), last)[0]
    _compare(first, second, "after `is_first` the carry still holds what came before", tolerance)


def _check_gradient(memory: WorkingMemory, window: Float[Array, "time inputs"], unreached: tuple[str, ...]) -> None:
    opening = _opening(len(window), 0)

    def loss(memory: WorkingMemory) -> Array:
        vectors = memory.unroll(memory.init(), window, opening)[1].vector
        return (vectors * jax.random.normal(jax.random.PRNGKey(1), vectors.shape)).sum()

    for name, slope in named(jax.jit(jax.grad(loss))(memory)).items():
        if not np.isfinite(slope).all():
            raise ContractFault(f"the gradient of {name!r} is not finite; look for a division or a root at 0")
        if not np.any(slope) and not name.endswith(unreached):
            raise ContractFault(f"no gradient reaches {name!r}; use it, remove it, or name it in `unreached`")


def _compare(expected: Any, got: Any, fault: str, tolerance: float) -> None:
    expected, got = named(expected), named(got)
    for name, one in expected.items():
        other = got.get(name)
        if other is None or one.shape != other.shape or one.dtype != other.dtype:
            found = "is missing" if other is None else f"is {other.dtype}{list(other.shape)}"
            raise ContractFault(f"{fault}: {name!r} {found}, not {one.dtype}{list(one.shape)}")
        if not np.allclose(one, other, rtol=tolerance, atol=tolerance):
            apart = float(np.max(np.abs(np.asarray(one, float) - np.asarray(other, float))))
            raise ContractFault(f"{fault}: {name!r} is {apart:.2g} apart")


# -- external memories -------------------------------------------------------------------------------------------


def check_external(
    memory: ExternalMemory,
    embedding: int,
    actions: int,
    *,
    offered: int = 0,
    rows: int = 24,
    seed: int = 0,
    tolerance: float = 1e-4,
    unreached: tuple[str, ...] = (),
) -> None:
    """Hold an external memory to its contract, on blocks of `rows` random entries with keys of `embedding` numbers.

    Checked: every leaf is a learned float32 array; `write` and `touch` keep structure, shapes and dtypes of a storable
    store; nothing is known at first; what is not kept leaves no trace, and what is not finite does not get out again;
    reads have the shapes, weights, entries, q and confidence that ExternalMemory promises, the same compiled and
    batched; gradients are finite, reach every leaf, and none reaches what is stored.

    Args:
      offered: features of each action, 0 for a fixed set.
      tolerance: how far a compiled batch may be from a single read, relative to 1 + the value.
      unreached: names (or their ends) of leaves that need no gradient, such as those of a control that ignores them.

    Raises: ContractFault with the first thing that is wrong.
    """
    _check_leaves(memory)
    keys = jax.random.split(jax.random.PRNGKey(seed), 6)
    blocks = [_entries(key, rows, embedding, actions, offered) for key in keys[:3]]
    queries = jnp.concatenate([blocks[0].key[:3], jax.random.normal(keys[3], (3, embedding))])
    features = jax.random.normal(keys[4], (actions, offered)) if offered else None
    store, kept = memory.init(), jnp.ones(rows, bool)
    write, touch = jax.jit(_write), jax.jit(_touch)
    single, many = jax.jit(_read), jax.jit(jax.vmap(_read, (None, None, 0, None)))
    _check_store(memory, store, blocks[0], actions)
    read = single(memory, store, queries[0], features)
    _check_external_read(read, actions)
    if np.any(read.weights) or np.any(read.q) or np.any(read.confidence):
        raise ContractFault("an empty memory reads something; weights, q and confidence are 0 where nothing is known")
    for block in blocks:
        store = write(memory, store, block, kept)
    ids, weights = jnp.array([-1, -1], jnp.int32), jnp.ones(2)
    _compare(store, touch(memory, store, ids, weights), "touching -1, which stands for nothing, left a trace", 0)
    _check_strays(memory, store, queries, features, blocks[0], (write, single))
    reads = many(memory, store, queries, features)
    for number, query in enumerate(queries):
        read = jax.tree.map(lambda leaf, number=number: leaf[number], reads)
        _check_external_read(read, actions)
        _compare(single(memory, store, query, features), read, "`read` under vmap reads otherwise", tolerance)
    _check_external_gradient(memory, store, queries[-1], features, unreached)


def _write(memory: ExternalMemory, store: Store, entries: Entries, keep: Bool[Array, "block"]) -> Store:
    return memory.write(store, entries, keep)


def _touch(memory: ExternalMemory, store: Store, ids: Array, weights: Array) -> Store:
    return memory.touch(store, ids, weights)


def _read(memory: ExternalMemory, store: Store, query: Array, offered: Array | None) -> MemoryRead:
    return memory.read(store, query, offered)


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


def _check_store(memory: ExternalMemory, store: Store, block: Entries, actions: int) -> None:
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
        if (before := _form(store)) != (found := _form(other)):
            raise ContractFault(f"`{way}` made a store of {before} one of {found}; keep structure, shapes and types")


def _check_strays(
    memory: ExternalMemory,
    store: Store,
    queries: Float[Array, "queries embedding"],
    features: Array | None,
    block: Entries,
    compiled: tuple[Callable[..., Store], Callable[..., MemoryRead]],
) -> None:
    """What is not to be kept, and what must not be."""
    write, read = compiled
    rows = len(block.value)
    stray = Entries(**vars(block) | {"key": block.key + 1, "value": block.value + 100, "hash": block.hash + 1})
    before = read(memory, store, queries[0], features)
    after = read(memory, write(memory, store, stray, jnp.zeros(rows, bool)), queries[0], features)
    _compare(before, after, "entries that were not to be kept changed a read", 0)
    for name in ("key", "value"):
        broken = Entries(**vars(stray) | {name: jnp.full_like(getattr(block, name), jnp.nan)})
        after = read(memory, write(memory, store, broken, jnp.ones(rows, bool)), queries[0], features)
        for part in ("weights", "q", "confidence"):
            if not np.isfinite(getattr(after, part)).all():
                raise ContractFault(f"a {name} that was not finite got into {part!r} of a read; refuse it in `write`")


def _check_external_read(read: MemoryRead, actions: int) -> None:
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


def _check_external_gradient(
    memory: ExternalMemory, store: Store, query: Array, features: Array | None, unreached: tuple[str, ...]
) -> None:
    def total(memory: ExternalMemory, store: Store, query: Array) -> Array:
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
