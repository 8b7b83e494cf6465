"""Operations that are written in others: the same numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram.exporting.lowering import Plain

TABLE = jnp.arange(24.0).reshape(2, 3, 4)
WHOLE = jnp.array([[0, 2, 1, 7], [-1, 3, 0, -9]])

CASES: dict[str, tuple[Any, ...]] = {
    "take of rows": (lambda x, i: x[i % 2], TABLE, WHOLE),
    "take that fills": (lambda x, i: jnp.take(x, i, axis=1), TABLE, WHOLE),
    "take that clips": (lambda x, i: jnp.take(x, i, axis=1, mode="clip"), TABLE, WHOLE),
    "whole numbers that are filled": (lambda x, i: jnp.take(x.astype(int), i, axis=2), TABLE, WHOLE),
    "flags that are filled": (lambda x, i: jnp.take(x > 3, i, axis=2), TABLE, WHOLE),
    "along an axis": (lambda x, i: jnp.take_along_axis(x, i[:, None] % 4, -1), TABLE, WHOLE),
    "two indices": (lambda x, i: x[i % 2, (i + 1) % 3], TABLE, WHOLE),
    "two indices with a slice between": (lambda x, i: x[i % 2, :, (i + 1) % 4], TABLE, WHOLE),
    "a part of an axis": (lambda x, i: jax.lax.dynamic_slice(x, (0, i[0, 1], 0), (2, 1, 3)), TABLE, WHOLE),
    "one for each of a batch": (jax.vmap(lambda x, i: x[i % 3]), TABLE, WHOLE),
    "remainder of whole numbers": (lambda x, i: jax.lax.rem(i, jnp.int32(3)) + i % 5, TABLE, WHOLE),
    "remainder of numbers": (lambda x, i: x % 2.5, TABLE, WHOLE),
    "edges": (lambda x, i: jnp.pad(x, ((0, 1), (2, 0), (1, 3)), constant_values=7), TABLE, WHOLE),
    "edges that are cut": (lambda x, i: jax.lax.pad(x, 1.0, ((-1, 2, 0), (0, -1, 0), (1, 0, 0))), TABLE, WHOLE),
    "edges with gaps": (lambda x, i: jax.lax.pad(x, 1.0, ((0, 0, 1), (0, 0, 0), (0, 0, 0))), TABLE, WHOLE),
    "a choice of flags": (lambda x, i: jnp.where(i > 0, i > 1, i < -2), TABLE, WHOLE),
    "a choice by a constant": (lambda x, i: jnp.where(jnp.arange(4) < 9, i, -i), TABLE, WHOLE),
    "a loop of one turn": (lambda x, i: jax.lax.scan(lambda s, r: (s + r, s * r), x[0], x[1:])[0], TABLE, WHOLE),
    "a loop of two": (lambda x, i: jax.lax.scan(lambda s, r: (s + r, s * r), x[0], x)[1], TABLE, WHOLE),
    "a call": (lambda x, i: jax.jit(jax.nn.gelu)(jax.nn.relu(x)), TABLE, WHOLE),
    "numbers added to places": (lambda x, i: jnp.zeros(4).at[i].add(x[:, 0], mode="drop"), TABLE, WHOLE),
    "rows added to places": (lambda x, i: jnp.zeros((4, 2)).at[i[0]].add(x[0, 0, :2]), TABLE, WHOLE),
    "heads of constant matrices": (
        lambda x, i: jnp.einsum("hqs,whs->qhw", x, jnp.arange(40.0).reshape(5, 2, 4)), TABLE, WHOLE,
    ),
    "heads of matrices that are given": (lambda x, i: jnp.einsum("hqs,hws->hqw", x, x), TABLE, WHOLE),
    "a barrier": (lambda x, i: jax.lax.optimization_barrier((x, i))[0], TABLE, WHOLE),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("batched", [False, True])
def test_the_numbers_are_the_same(case: tuple[Any, ...], batched: bool):
    function, *inputs = case
    plain = Plain(lambda *arrays: (function(*arrays),), [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in inputs])
    expected: Any = function(*inputs)
    twice = (jnp.stack([one, one]) for one in inputs)
    found = jax.vmap(plain)(*twice)[0][1] if batched else plain(*inputs)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == expected.dtype


def names(function: Any, *inputs: Any) -> list[str]:
    plain = Plain(function, [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in inputs])
    return [eqn.primitive.name for eqn in jax.make_jaxpr(plain)(*inputs).jaxpr.eqns]


def test_what_depends_on_constants_alone_is_computed_at_once():
    assert names(lambda x: (x + jnp.cumsum(jnp.arange(4.0)),), jnp.ones(4)) == ["add"]


def test_what_nothing_depends_on_is_left_out():
    def function(x: Any) -> Any:
        jnp.sin(x)
        return (x * 2,)

    assert names(function, jnp.ones(4)) == ["mul"]


def test_an_input_that_nothing_reads_is_told():
    shapes = [jax.ShapeDtypeStruct((2,), "float32")] * 3
    assert Plain(lambda x, y, z: (x + z * 1,), shapes).reads == [True, False, True]


def test_an_output_that_equals_another_is_told():
    shapes = [jax.ShapeDtypeStruct((2,), "float32")]
    plain = Plain(lambda x: ((y := x + 1), x * 2, y), shapes)
    assert (plain.distinct, plain.repeated) == ([0, 1], {2: 0})
    assert len(plain.once(jnp.ones(2))) == 2
