"""A program of NumPy calls computes what the traced function computes."""

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax import lax

from engram.encoders.vector import VectorSpec
from engram.heads.q import DuelingSpec, QSpec
from engram.nn.layers import MLP, Linear, normalised
from engram.runners.numpy_program import NumpyProgram, numpy_program
from engram.spaces import Box, Discrete, MultiDiscrete, Text

KEY = jax.random.PRNGKey(2)
X = np.array([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]], np.float32)
P = np.array([[2.0, 1.0, -1.0], [0.25, 3.0, 5.0]], np.float32)


def compiled(function: Callable[..., Any], parameters: Any, inputs: Any) -> NumpyProgram:
    """The program, with these parameters."""
    program = numpy_program(function, parameters, inputs)
    assert program is not None
    program.load([np.asarray(leaf) for leaf in jax.tree.leaves(parameters)])
    return program


def assert_same(function: Callable[..., Any], parameters: Any, inputs: Any, exact: bool = False) -> None:
    """Program and function agree, twice in a row: to rounding, some 1e-7 for each of a few operations, or exactly."""
    program, expected = compiled(function, parameters, inputs), jax.jit(function)(parameters, inputs)
    for _ in range(2):
        result = program(*jax.tree.leaves(inputs))
        assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(result, expected, rtol=0 if exact else 1e-5, atol=0 if exact else 1e-6)


# -- networks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [Box((3,)), Box((2, 2), "uint8"), Box((2,), "bool"), Box((2,), "int16"), Discrete(3),
                                   MultiDiscrete((3, 2)), Text(3, 4)], ids=str)  # fmt: skip
@pytest.mark.parametrize("envs", [1, 3])
def test_the_vector_encoder_of_every_space(space: Any, envs: int):
    encoder = VectorSpec(widths=(8, 5)).build(space, 2, KEY)
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 3, size=(envs, 2, *space.shape)).astype(space.dtype)
    assert_same(lambda encoder, frames: jax.vmap(encoder)(frames).embedding, encoder, frames)


@pytest.mark.parametrize("head", [QSpec(), DuelingSpec(), DuelingSpec(width=4)], ids=str)
@pytest.mark.parametrize("envs", [1, 3])
def test_heads_that_see_an_embedding(head: Any, envs: int):
    x = np.random.default_rng(0).normal(size=(envs, 6)).astype(np.float32)
    assert_same(lambda head, x: jax.vmap(head)(x).q, head.build(6, 4, KEY), x)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 7])
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_network_of_layers_over_random_inputs(norm: bool, batch: int, seed: int):
    x = np.random.default_rng(seed).normal(size=(batch, 5)).astype(np.float32)
    mlp, program = LAYERS[norm, batch]
    np.testing.assert_allclose(program(x), jax.vmap(mlp)(x), rtol=1e-5, atol=1e-6)


def layers(norm: bool, batch: int) -> tuple[MLP, NumpyProgram]:
    mlp = MLP(5, (16, 9), norm=norm, key=KEY)
    return mlp, compiled(lambda mlp, x: jax.vmap(mlp)(x), mlp, np.zeros((batch, 5), np.float32))


LAYERS = {(norm, batch): layers(norm, batch) for norm in (False, True) for batch in (1, 2, 7)}


def test_a_product_is_written_as_by_hand():
    """x W^T + b to the last bit, so that a run acts as it did when this was written by hand."""
    layer = Linear(64, 33, key=KEY)
    for batch in (1, 3, 8):
        x = np.random.default_rng(batch).normal(size=(batch, 64)).astype(np.float32)
        by_hand = x @ np.asarray(layer.weight).T + np.asarray(layer.bias)
        np.testing.assert_array_equal(compiled(lambda layer, x: jax.vmap(layer)(x), layer, x)(x), by_hand)


def test_normalising_divides_by_the_root():
    """To the last bit, as written by hand: x / sqrt(v) rather than x * (1 / sqrt(v))."""
    x = np.random.default_rng(0).normal(size=(3, 10)).astype(np.float32)
    by_hand = x - x.mean(-1, keepdims=True)
    by_hand /= np.sqrt((by_hand * by_hand).mean(-1, keepdims=True) + np.float32(1e-5))
    np.testing.assert_array_equal(compiled(lambda _, x: jax.vmap(normalised)(x), (), x)(x), by_hand)


# -- one operation at a time ---------------------------------------------------------------------------------

OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda p, x: p + x,
    "sub": lambda p, x: p - x,
    "mul": lambda p, x: p * x,
    "div": lambda p, x: x / p,
    "neg": lambda _, x: -x,
    "abs": lambda _, x: jnp.abs(x),
    "max": lambda p, x: jnp.maximum(p, x),
    "min": lambda p, x: jnp.minimum(p, x),
    "exp": lambda _, x: jnp.exp(x),
    "expm1": lambda _, x: jnp.expm1(x),
    "log": lambda _, x: jnp.log(jnp.abs(x) + 1),
    "log1p": lambda _, x: jnp.log1p(jnp.abs(x) + 1),
    "tanh": lambda _, x: jnp.tanh(x),
    "sqrt": lambda _, x: jnp.sqrt(jnp.abs(x) + 1),
    "rsqrt": lambda _, x: lax.rsqrt(jnp.abs(x) + 1),
    "rsqrt of one number for all": lambda _, x: x * lax.rsqrt(jnp.abs(x).sum()),
    "square": lambda _, x: jnp.square(x),
    "integer_pow": lambda _, x: x**3,
    "compare": lambda p, x: (p < x) | (p >= 3) & ~(x > 2) | (x <= -2) | (x == 0.5) | (x != x),
    "select_n": lambda p, x: jnp.where(x > 0, x, p),
    "select_n of a constant": lambda p, x: jnp.where(jnp.zeros(3, bool), x, p + x),
    "select_n of a number": lambda _, x: jnp.where(x > 0, x, -jnp.inf),
    "reduce_sum": lambda _, x: x.sum(0),
    "reduce_sum over two axes": lambda _, x: x.sum(),
    "reduce_sum of integers": lambda _, x: (x > 0).astype(jnp.int32).sum(1),
    "mean": lambda _, x: x - x.mean(1, keepdims=True),
    "reduce_max": lambda _, x: x.max(1),
    "reduce_min": lambda _, x: x.min(0),
    "reduce_and": lambda _, x: (x > -1.5).all(1),
    "reduce_or": lambda _, x: (x > 3.5).any(1),
    "argmax": lambda _, x: x.argmax(-1),
    "concatenate two": lambda p, x: jnp.concatenate([x, p], 1),
    "concatenate three": lambda p, x: jnp.concatenate([x, p, x]) + 1,
    "slice": lambda _, x: x[:, 1:3] + 1,
    "slice with strides": lambda _, x: x[:, ::2],
    "squeeze": lambda _, x: x[:, 1],
    "expand_dims": lambda p, x: x[:, None] * p[None],
    "transpose": lambda p, x: x.T @ p,
    "transpose twice": lambda p, x: (x.T + 1).T * p,
    "reshape of a transpose": lambda _, x: (x + 1).T.reshape(-1) * 2,
    "broadcast": lambda _, x: jnp.broadcast_to(x[:, :1], (2, 2)) @ x,
    "broadcast of both": lambda p, x: jnp.broadcast_to(p[0], (2, 3)) + jnp.broadcast_to(x[0], (2, 3)),
    "iota": lambda _, x: x * lax.iota(jnp.float32, 3),
    "one_hot": lambda _, x: jax.nn.one_hot(x.argmax(1), 3),
    "convert to float": lambda _, x: (x > 0).astype(jnp.float32),
    "softmax": lambda p, x: jax.nn.softmax(x) @ p.T,
    "stop_gradient": lambda _, x: lax.stop_gradient(x),
    "a product of vectors": lambda p, x: p[0] @ x[0],
    "a product with a batch": lambda p, x: jnp.einsum("ij,ik->ijk", p, x),
    "products with a batch": lambda p, x: jnp.einsum("bij,bjk->bik", x[:, :, None] + p[:, None], x[:, :, None]),
    "a product over two axes": lambda p, x: jnp.einsum("ij,ij->", p, x),
    "nothing to do": lambda _, x: x,
    "only parameters": lambda p, _: jnp.exp(p) + 1,
    "only constants": lambda _p, _x: jnp.arange(3.0) + 1,
    "nested calls": lambda p, x: jax.jit(lambda y: jax.nn.relu(y) + 1)(p * x),
    "kept and overwritten": lambda p, x: (lambda y: (y + 1) * (y + 2) - y.T.reshape(2, 3))(p + x),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation(operation: str):
    """Once on numbers of which both are matrices, and once for each row of them."""
    assert_same(OPERATIONS[operation], P, X)
    assert_same(lambda p, x: jax.vmap(OPERATIONS[operation], in_axes=(None, 0))(p, x), P, np.stack([X, X + 1, -X]))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
def test_integers_wrap_as_in_xla(dtype: str):
    x = np.array([1, 100, 127], dtype)
    assert_same(lambda p, x: (x + p) * x - 3, x[1], x, exact=True)
    assert_same(lambda _, x: x.astype(jnp.int16) * 300, (), x, exact=True)


def test_parameters_and_inputs_may_be_trees():
    assert_same(lambda p, x: p["b"] + p["a"] @ x[1] * x[0], {"b": X[:, 0], "a": X}, (np.array(2, np.float32), X[1]))


# -- random expressions --------------------------------------------------------------------------------------

UNARY: list[Callable[..., Any]] = [jnp.tanh, jnp.negative, jax.nn.relu, lambda a: a.T.reshape(3, 3) * 0.5,
         lambda a: a - a.mean(0), lambda a: a.max(1, keepdims=True) + jnp.zeros(3), lambda a: a.T]  # fmt: skip
BINARY: list[Callable[..., Any]] = [jnp.add, jnp.subtract, jnp.maximum, lambda a, b: jnp.tanh(a) @ jnp.tanh(b),
          lambda a, b: jnp.where(a > b, a, 2.0), lambda a, b: a + b[0]]  # fmt: skip
LEAVES: list[Callable[..., Any]] = [lambda p, _: p, lambda _, x: x, lambda _p, _x: jnp.arange(9.0).reshape(3, 3) / 9]


def expressions(inner: st.SearchStrategy) -> st.SearchStrategy:
    unary = st.builds(lambda f, a: lambda p, x: f(a(p, x)), st.sampled_from(UNARY), inner)
    binary = st.builds(lambda f, a, b: lambda p, x: f(a(p, x), b(p, x)), st.sampled_from(BINARY), inner, inner)
    shared = st.builds(lambda f, g, a: lambda p, x: (lambda y: f(g(y), y))(a(p, x)),
                       st.sampled_from(BINARY), st.sampled_from(UNARY), inner)  # fmt: skip
    return unary | binary | shared


@settings(max_examples=60)
@given(function=st.recursive(st.sampled_from(LEAVES), expressions, max_leaves=6), seed=st.integers(0, 99))
def test_random_expressions(function: Callable[..., Any], seed: int):
    """Against JAX, which here computes one operation after another; every buffer is used a second time."""
    generator = np.random.default_rng(seed)
    p, *inputs = generator.normal(size=(3, 3, 3)).astype(np.float32)
    program = compiled(function, p, inputs[0])
    results = [program(x) for x in inputs]
    for x, result in zip(inputs, results, strict=True):
        np.testing.assert_allclose(result, function(jnp.asarray(p), jnp.asarray(x)), rtol=1e-5, atol=1e-5)


# -- what is not known, and what stays -----------------------------------------------------------------------


@pytest.mark.parametrize("function", [
    lambda _, x: jnp.sort(x),
    lambda _, x: lax.while_loop(lambda y: y[0, 0] < 9, lambda y: y + 1, x),
    lambda _, x: x.astype(jnp.int32),  # XLA saturates
    lambda _, x: x.astype(jnp.float16).astype(jnp.float32),
    lambda _, x: x.argmax(1) // 2,  # XLA truncates
    lambda _, x: x**7,
])  # fmt: skip
def test_none_for_what_numpy_is_not_known_to_do_alike(function: Callable[..., Any]):
    assert numpy_program(function, (), X) is None


def test_what_the_result_does_not_need_may_be_unknown():
    assert_same(lambda _, x: (jnp.sort(x), x + 1)[1], (), X, exact=True)


def test_new_parameters_are_those_that_were_loaded_last():
    program = compiled(lambda p, x: jnp.exp(p).T @ x, P, X)
    for p in (P, P + 1, P * 0):
        program.load([p])
        np.testing.assert_allclose(program(X), np.exp(p).T @ X, rtol=1e-5)


def test_a_result_and_the_inputs_are_never_written_again():
    for function in (lambda p, x: p @ x.T, lambda _, x: (x + 1).T, lambda _, x: x, lambda p, _: p):
        program, x = compiled(function, P, X), X.copy()
        first = program(x)
        kept = first.copy()
        first_again = program(x * 2)
        np.testing.assert_array_equal(first, kept)
        np.testing.assert_array_equal(x, X)
        assert not np.shares_memory(first, x)
        assert not np.shares_memory(first, first_again)
