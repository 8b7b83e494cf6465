"""Contracts as functions: hand in a part of your own, and hear in one sentence what it breaks.

    from engram.testing import check_working
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

from engram.errors import EngramError, SpecError
from engram.nn.welcome import welcome
from engram.trees import named
from engram.types import MemoryRead
from engram.working.memory import Carry, WorkingMemory, scan_steps

__all__ = ["ContractFault", "as_part", "check_leaves", "check_slopes", "check_working", "compare", "form"]

STORED = ("bool", "int32", "float32")  # what a checkpoint holds of a carry


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

    Checked:

    - every leaf is a learned float32 array, or can be a constant;
    - carries can be stored and keep their shapes;
    - `unroll`, compiled and batched, equals `scan_steps`, from an empty and from a used carry, with episodes that begin
      anywhere;
    - nothing from before `is_first` is left in the carry, used or not;
    - reads have the shapes, weights and entries that MemoryRead promises;
    - gradients are finite and reach every leaf.

    Args:
      tolerance: how far two ways of computing the same may be apart, relative to 1 + the value: sums are taken in
        another order, and recurrences repeat it.
      unreached: names (or their ends) of leaves that need no gradient, such as those of a control that ignores them.

    Raises: ContractFault with the first thing that is wrong.
    """
    window = jax.random.normal(jax.random.PRNGKey(seed), (rows, inputs))
    memory = as_part(memory)
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


def as_part(module: Any) -> Any:
    """The module as an agent takes it: see `nn.welcome`. ContractFault where it cannot, or a leaf is not float32."""
    try:
        part = welcome(module)
    except SpecError as error:
        raise ContractFault(str(error)) from error
    check_leaves(part)
    return part


def check_leaves(module: Any) -> None:
    """ContractFault for a leaf that is not a learned float32 array."""
    for name, leaf in named(module).items():
        if not isinstance(leaf, jax.Array) or leaf.dtype != jnp.float32:
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise ContractFault(
                f"the leaf {name!r} is {kind}; expected a learned float32 array: make it one, or a static field"
            )


def check_slopes(slopes: Any, unreached: tuple[str, ...] = ()) -> None:
    """ContractFault for a gradient that is not finite, or that is 0 at a leaf which `unreached` does not name."""
    for name, slope in named(slopes).items():
        if not np.isfinite(slope).all():
            raise ContractFault(f"the gradient of {name!r} is not finite; look for a division or a root at 0")
        if not np.any(slope) and not name.endswith(unreached):
            raise ContractFault(f"no gradient reaches {name!r}; use it, or remove it, or name it in `unreached`")


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
        if (before := form(empty)) != (after := form(carry)):
            raise ContractFault(f"`{way}` made a carry of {before} one of {after}; keep structure, shapes and types")


def form(tree: Any) -> dict[str, str]:
    """The dtype and shape of every named leaf."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in named(tree).items()}


def _check_unroll(
    memory: WorkingMemory, compiled: tuple[Compiled, Compiled], given: tuple, where: str, tolerance: float
) -> None:
    expected_carry, expected = compiled[0](*given)
    got_carry, got = compiled[1](*given)
    _check_read(memory, got, len(given[1]))
    compare(expected, got, f"{where} `unroll` reads otherwise than steps do", tolerance)
    compare(expected_carry, got_carry, f"{where} `unroll` ends in another carry than steps do", tolerance)


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
    compare(fresh, unroll(used, window, opening), "what came before `is_first` is still remembered", tolerance)
    unopened = unroll(memory.init(), window, _opening(len(window)))
    compare(fresh, unopened, "an episode that begins and an empty memory are not the same", tolerance)
    # Two pasts that differ, and the same single row of a new episode: nothing of the pasts may be in the carry.
    last = _opening(len(window), len(window) - 1)
    first, second = unroll(used, window, last)[0], unroll(memory.init(), window.at[:-1].set(0), last)[0]
    compare(first, second, "after `is_first` the carry still holds what came before", tolerance)


def _check_gradient(memory: WorkingMemory, window: Float[Array, "time inputs"], unreached: tuple[str, ...]) -> None:
    opening = _opening(len(window), 0)

    def loss(memory: WorkingMemory) -> Array:
        vectors = memory.unroll(memory.init(), window, opening)[1].vector
        return (vectors * jax.random.normal(jax.random.PRNGKey(1), vectors.shape)).sum()

    check_slopes(jax.jit(jax.grad(loss))(memory), unreached)


def compare(expected: Any, got: Any, fault: str, tolerance: float, equal_nan: bool = False) -> None:
    """ContractFault, in the words of `fault`, for the first leaf of `got` that differs by more than the tolerance."""
    expected, got = named(expected), named(got)
    for name, one in expected.items():
        other = got.get(name)
        if other is None or one.shape != other.shape or one.dtype != other.dtype:
            found = "is missing" if other is None else f"is {other.dtype}{list(other.shape)}"
            raise ContractFault(f"{fault}: {name!r} {found}, not {one.dtype}{list(one.shape)}")
        if not np.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=equal_nan):
            apart = float(np.max(np.abs(np.asarray(one, float) - np.asarray(other, float))))
            raise ContractFault(f"{fault}: {name!r} is {apart:.2g} apart")
