"""The contract of draws as a function: `check_draw`."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from engram import spaces
from engram.replay import ring as rings
from engram.replay import sampling
from engram.replay.draw import Growth, Reach, Surprise
from engram.replay.ring import Ring
from engram.testing.contracts import STORED, ContractFault, compare, form
from engram.trees import named
from engram.types import TimeStep

STORED_BESIDE = (*STORED, "uint32")
ROWS, LANES, BLOCK, BATCH = 16, 3, 4, 16


class Case(NamedTuple):
    """A replay to draw from."""

    name: str
    blocks: int  # of rows that were written; more than ROWS / BLOCK of them wrap the ring
    reach: Reach


CASES = (
    Case("a ring that is not full", 3, Reach(1, 0)),
    Case("a ring that has wrapped", 9, Reach(1, 0)),
    Case("windows in a ring that has wrapped", 11, Reach(5, 1)),
    Case("stacks in a ring that has wrapped", 7, Reach(1, 3)),
)


def check_draw(spec: Any, *, seed: int = 0) -> None:
    """Hold a draw to its contract, on rings whose lanes differ in length, wrapped and not, with windows and stacks.

    Checked, also compiled, in a scan of updates, and after errors of 0:

    - `words` and `compares` are declared;
    - the state is arrays that can be stored, and keeps structure, shapes and types;
    - only startable rows are drawn, and not always the same;
    - importance is finite and not negative;
    - a refused update leaves no trace.

    Raises: ContractFault with the first thing that is wrong.
    """
    if type(spec.words) is not int or spec.words < 0:
        raise ContractFault(f"`words` is {spec.words!r}; expected how many random words one example takes")
    if not isinstance(spec.compares, bool):
        raise ContractFault(f"`compares` is {spec.compares!r}; expected True if `draw` calls `embed`, else False")
    empty = spec.init(ROWS, LANES)
    for name, leaf in named(empty).items():
        if not isinstance(leaf, jax.Array) or str(leaf.dtype) not in STORED_BESIDE:
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise ContractFault(f"{name!r} of `init` is {kind}; expected an array of {', '.join(STORED_BESIDE)}")
    for number, case in enumerate(CASES):
        _check_case(spec, empty, case, jax.random.fold_in(jax.random.PRNGKey(seed), number))


def _check_case(spec: Any, empty: PyTree, case: Case, key: Array) -> None:
    state, ring = _filled(spec, empty, case)
    bits = jax.random.bits(key, (BATCH, spec.words), jnp.uint32)
    draw = partial(_drawn, spec, case.reach)
    alone, compiled = draw(state, ring, bits), jax.jit(draw)(state, ring, bits)
    _check_drawn(alone, ring, case)
    compare(alone, compiled, f"in {case.name} a compiled draw gives other rows or weights", 1e-5)

    def update(state: PyTree, given: tuple[Array, Array, Array]) -> tuple[PyTree, Any]:
        drawn = draw(state, ring, given[0])
        return spec.learned(state, drawn, Surprise(given[1], given[1]), given[2]), drawn

    after = jax.eval_shape(update, state, (bits, jnp.zeros(BATCH), jnp.bool_(True)))[0]
    _same_form("learned", empty, after)
    refused = jax.jit(update)(state, (bits, jnp.ones(BATCH), jnp.bool_(False)))[0]
    compare(state, refused, f"in {case.name} `learned` changed the state although `keep` is False", 0)
    count = 12
    many = jax.random.bits(key, (count, BATCH, spec.words), jnp.uint32)
    errors = jnp.abs(jax.random.normal(key, (count, BATCH))).at[-4:].set(0.0).at[2, 0].set(1e6)
    given = many, errors, jnp.arange(count) != 5
    _, drawn = jax.jit(lambda state, given: jax.lax.scan(update, state, given))(state, given)
    for number in range(count):
        _check_drawn(jax.tree.map(lambda leaf, at=number: leaf[at], drawn), ring, case)
    if len({*zip(np.ravel(drawn.row).tolist(), np.ravel(drawn.lane).tolist(), strict=True)}) == 1 and spec.words:
        raise ContractFault(f"in {case.name} one row was drawn {count * BATCH} times; use the random words")


def _filled(spec: Any, empty: PyTree, case: Case) -> tuple[PyTree, Ring]:
    """A ring whose lanes grew by different numbers of rows, and what the draw kept about it."""
    ring, state = rings.empty(spaces.Box((2,)), ROWS, LANES), empty
    for block in range(case.blocks):
        state, ring = GROW(spec, case.reach, state, ring, jnp.int32(block))
        _same_form("grown", empty, state)
    return state, ring


def _grown(spec: Any, reach: Reach, state: PyTree, ring: Ring, block: Array) -> tuple[PyTree, Ring]:
    """One block more: of lane 0 every row, of lane 1 the first ones, of lane 2 a single row now and then."""
    shape = (BLOCK, LANES)
    place = jnp.arange(BLOCK * LANES, dtype=jnp.float32).reshape(shape)
    row = TimeStep(
        observation=jnp.sin(jnp.stack([place, place + block], axis=-1)),
        is_first=place % 7 == 0,
        action=jnp.zeros(shape, jnp.int32),
        reward=place,
        terminated=jnp.zeros(shape, bool),
    )
    time = jnp.arange(BLOCK)[:, None]
    keep = jnp.concatenate([time >= 0, time < 3, (time == 1) & (block % 2 == 0)], axis=1)
    after = rings.write(ring, row, keep)
    return spec.grown(state, Growth(ring, after, reach, BLOCK)), after


GROW = jax.jit(_grown, static_argnums=(0, 1))


def _drawn(spec: Any, reach: Reach, state: PyTree, ring: Ring, bits: Array) -> Any:
    def embed(row: Array, lane: Array) -> Array:
        if not spec.compares:
            raise ContractFault("`draw` calls `embed`, but `compares` is False; say True, or leave it alone")
        return sampling.stacked(ring, row, lane, 1).reshape(-1)

    return spec.draw(state, ring, reach, bits, embed)


def _check_drawn(drawn: Any, ring: Ring, case: Case) -> None:
    for name in ("row", "lane"):
        array = getattr(drawn, name)
        if array.shape != (BATCH,) or array.dtype != jnp.int32:
            raise ContractFault(f"`{name}` of the drawn is {array.dtype}{list(array.shape)}; expected int32[{BATCH}]")
    row, lane = np.asarray(drawn.row), np.asarray(drawn.lane)
    if (lane < 0).any() or (lane >= LANES).any():
        raise ContractFault(f"lane {int(lane.max())} was drawn; expected 0 to {LANES - 1}")
    first, count = map(np.asarray, sampling.startable(ring, case.reach.after, case.reach.before))
    inside = (row >= first[lane]) & (row < first[lane] + count[lane])
    if not inside.all():
        at = int(np.argmin(inside))
        begin, end = int(first[lane[at]]), int(first[lane[at]] + count[lane[at]])
        raise ContractFault(
            f"in {case.name} row {row[at]} of lane {lane[at]} was drawn; expected a startable one, from {begin} to "
            f"below {end}: see sampling.startable"
        )
    weight = drawn.importance
    if weight is None:
        return
    if weight.shape != (BATCH,) or weight.dtype != jnp.float32:
        raise ContractFault(f"`importance` is {weight.dtype}{list(weight.shape)}; expected None or float32[{BATCH}]")
    if not np.isfinite(weight).all() or (np.asarray(weight) < 0).any() or not np.any(weight):
        raise ContractFault(f"in {case.name} importance is not finite, negative or 0 everywhere; expected weights")


def _same_form(way: str, empty: PyTree, state: PyTree) -> None:
    if (before := form(empty)) != (after := form(state)) or jax.tree.structure(empty) != jax.tree.structure(state):
        raise ContractFault(f"`{way}` made {before} of `init` {after}; keep structure, shapes and types")
