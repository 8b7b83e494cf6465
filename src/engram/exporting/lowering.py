"""A JAX function in operations that other libraries have.

Calls are written out, what depends on constants alone is computed at once, what nothing depends on is left out, and a
few operations are replaced by equivalent ones. Only what is exported goes through here: training computes with the
operations as they are written.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Literal
from jaxtyping import Array

CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint")
Rule = Callable[[list[Any], dict[str, Any]], list[Any]]


class Plain:
    """A function of arrays in plain operations. Calling it inside of another trace writes these operations there.

    Attributes:
      reads: which of the inputs it depends on.
      distinct: places of outputs that are values of their own. repeated: the place of every other, with the one of
        `distinct` that it equals.
    """

    def __init__(self, function: Callable[..., tuple[Array, ...]], inputs: Sequence[jax.ShapeDtypeStruct]):
        closed = jax.make_jaxpr(function)(*inputs)
        closed = jax.make_jaxpr(lambda *arrays: _run(closed.jaxpr, closed.consts, arrays))(*inputs)
        self._closed, self.reads = _needed(closed)
        results = self._closed.jaxpr.outvars
        first = [next(place for place, other in enumerate(results) if other is result) for result in results]
        self.distinct = [place for place, known in enumerate(first) if place == known]
        self.repeated = {place: known for place, known in enumerate(first) if place != known}

    def __call__(self, *arrays: Any) -> tuple[Array, ...]:
        return tuple(_run(self._closed.jaxpr, self._closed.consts, arrays))

    def once(self, *arrays: Any) -> tuple[Array, ...]:
        """The outputs in `distinct` places."""
        found = self(*arrays)
        return tuple(found[place] for place in self.distinct)


def _needed(closed: ClosedJaxpr) -> tuple[ClosedJaxpr, list[bool]]:
    """The equations that the outputs depend on, and which of the inputs they do."""
    jaxpr = closed.jaxpr
    needed = {var for var in jaxpr.outvars if not isinstance(var, Literal)}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if needed.intersection(eqn.outvars):
            needed |= {var for var in eqn.invars if not isinstance(var, Literal)}
            kept.append(eqn)
    return ClosedJaxpr(jaxpr.replace(eqns=kept[::-1]), closed.consts), [var in needed for var in jaxpr.invars]


def _run(jaxpr: Any, consts: Sequence[Any], arrays: Sequence[Any]) -> list[Any]:
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    known |= dict(zip(jaxpr.invars, arrays, strict=True))

    def value(var: Any) -> Any:
        return var.val if isinstance(var, Literal) else known[var]

    for eqn in jaxpr.eqns:
        known |= dict(zip(eqn.outvars, _equation(eqn, [value(var) for var in eqn.invars]), strict=True))
    return [value(var) for var in jaxpr.outvars]


def _equation(eqn: Any, given: list[Any]) -> list[Any]:
    name, params = eqn.primitive.name, eqn.params
    if name in CALLS:
        inner = params.get("jaxpr") or params.get("call_jaxpr")
        return _run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), given)
    if not any(isinstance(array, Tracer) for array in given):
        with jax.ensure_compile_time_eval():
            return _bound(eqn, given)
    if name == "scan" and params["length"] == 1:
        return _once(params, given)
    return RULES[name](given, params) if name in RULES else _bound(eqn, given)


def _bound(eqn: Any, given: list[Any]) -> list[Any]:
    found = eqn.primitive.bind(*given, **eqn.params)
    return list(found) if eqn.primitive.multiple_results else [found]


def _once(params: dict[str, Any], given: list[Any]) -> list[Any]:
    """A loop of one turn, without the loop."""
    first, carried = params["num_consts"], params["num_carry"]
    rows = [array[0] for array in given[first + carried :]]
    closed = params["jaxpr"]
    found = _run(closed.jaxpr, closed.consts, [*given[: first + carried], *rows])
    return [*found[:carried], *(array[None] for array in found[carried:])]


def _selected(given: list[Any], _: dict[str, Any]) -> list[Any]:
    """A choice by a constant is no choice."""
    which, *cases = given
    if not isinstance(which, Tracer) and (flat := np.asarray(which)).size and (flat == flat.flat[0]).all():
        return [cases[int(flat.flat[0])]]
    if cases[0].dtype == bool and len(cases) == 2:  # others choose between numbers only
        return [(which & cases[1]) | (~which & cases[0])]
    return [jax.lax.select_n(which, *cases)]


def _remainder(given: list[Any], _: dict[str, Any]) -> list[Any]:
    """Of whole numbers: division cuts off towards 0 in both libraries."""
    whole, divisor = given
    if not jnp.issubdtype(whole.dtype, jnp.integer):
        return [jax.lax.rem(whole, divisor)]
    return [jax.lax.sub(whole, jax.lax.mul(divisor, jax.lax.div(whole, divisor)))]


def _padded(given: list[Any], params: dict[str, Any]) -> list[Any]:
    """Edges put beside the array, or cut off, one axis after the other."""
    array, filling = given
    if any(between for _, _, between in params["padding_config"]):
        return [jax.lax.pad(array, filling, **params)]
    for axis, (low, high, _) in enumerate(params["padding_config"]):
        array = jax.lax.slice_in_dim(array, max(0, -low), array.shape[axis] - max(0, -high), axis=axis)
        parts = [
            jnp.broadcast_to(filling, (*array.shape[:axis], count, *array.shape[axis + 1 :])) for count in (low, high)
            if count > 0
        ]  # fmt: skip
        edges = iter(parts)
        array = (
            jax.lax.concatenate(
                [*([next(edges)] if low > 0 else []), array, *([next(edges)] if high > 0 else [])], axis
            )
            if parts
            else array
        )
    return [array]


def _gathered(given: list[Any], params: dict[str, Any]) -> list[Any]:
    """Rows of one table: the axes that are indexed become its first, and indices the number of a row.

    A gather of parts of an axis, which is none of these, stays as it is.
    """
    operand, indices = given
    numbers, sizes, shape = params["dimension_numbers"], params["slice_sizes"], operand.shape
    aside = numbers.operand_batching_dims
    indexed = (*aside, *numbers.start_index_map)
    rest = [axis for axis in range(len(shape)) if axis not in indexed]
    if set(numbers.start_index_map) != set(numbers.collapsed_slice_dims) or any(sizes[i] != shape[i] for i in rest):
        return [jax.lax.gather(operand, indices, **params)]
    batch, limits = indices.shape[:-1], [shape[axis] for axis in indexed]
    places = [jax.lax.broadcasted_iota(jnp.int32, batch, axis) for axis in numbers.start_indices_batching_dims]
    places += [indices[..., i].astype(jnp.int32) for i in range(indices.shape[-1])]
    row, known = jnp.zeros(batch, jnp.int32), jnp.ones(batch, bool)
    for place, limit in zip(places, limits, strict=True):
        known &= (place >= 0) & (place < limit)
        row = row * limit + jnp.clip(place, 0, limit - 1)
    table = jnp.transpose(operand, (*indexed, *rest)).reshape(-1, *(shape[axis] for axis in rest))
    found = rows(table, row)
    if params["mode"] == jax.lax.GatherScatterMode.FILL_OR_DROP:
        filling = _filling(operand.dtype, params["fill_value"])
        found = jnp.where(known.reshape(*batch, *[1] * len(rest)), found, filling)
    return [jnp.moveaxis(found, range(len(batch), found.ndim), numbers.offset_dims)]


def rows(table: Any, numbers: Any) -> Array:
    """The rows of these numbers, which are all there."""
    whole = tuple(range(numbers.ndim, numbers.ndim + table.ndim - 1))
    form = jax.lax.GatherDimensionNumbers(whole, (0,), (0,))
    inside = jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS
    return jax.lax.gather(table, numbers[..., None], form, (1, *table.shape[1:]), mode=inside)


def _filling(dtype: Any, value: Any) -> Any:
    """What a gather puts in the place of rows that there are not."""
    if value is not None:
        return jnp.asarray(value, dtype)
    if jnp.issubdtype(dtype, jnp.inexact):
        return jnp.asarray(jnp.nan, dtype)
    return jnp.asarray(1 if jnp.issubdtype(dtype, jnp.bool_) else jnp.iinfo(dtype).min, dtype)


def _same(given: list[Any], _: dict[str, Any]) -> list[Any]:
    return list(given)


RULES: dict[str, Rule] = {
    "optimization_barrier": _same,
    "copy": _same,
    "stop_gradient": _same,
    "select_n": _selected,
    "rem": _remainder,
    "pad": _padded,
    "gather": _gathered,
}
