"""What a NumpyProgram computes with: a rule for each operation of JAX, from values to a value.

The rules also make it fast. What counts is the cost of a call, which for 128 numbers is more than that of the numbers:

- Operands of one shape take NumPy's shortest path, so constants are spread to the shape of the result, and a single
  number has no axes.
- x * rsqrt(v), three calls, is x / sqrt(v), two of them.
- A transposed product is a product of transposed factors, which are views.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import prod
from typing import Any

import numpy as np

# (a, b, out) -> the result, written into `out` unless that is None. With one operand a is b; with three or more a is
# the list of them. A view ignores `out`.
Step = Callable[[Any, Any, Any], Any]
Shape = tuple[int, ...]

DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "float32")
CONSTANT, LOADED, CALLED = range(3)  # when a value is computed
VIEWS = ("reshape", "transpose", "broadcast", "slice")
SPREAD = 1 << 16  # constants of more numbers than this are left as they are

_serial = count()


@dataclass(eq=False)
class Node:
    """A value: how it is computed, and when."""

    shape: Shape
    dtype: np.dtype
    stage: int
    kind: str = "given"  # by which views, products and roots are recognised
    step: Step | None = None
    operands: "tuple[Node, ...]" = ()
    array: np.ndarray | None = None  # of a constant
    thin: "Node | None" = None  # of a broadcast: the same with axes of length 1
    serial: int = field(default_factory=_serial.__next__)  # operands are older


@dataclass(frozen=True)
class Out:
    """What an equation gives, and how."""

    shape: Shape
    dtype: np.dtype
    params: dict[str, Any]


Rule = Callable[..., Node | None]  # of an Out and the operands; None where NumPy would not do the same


def constant(value: Any) -> Node | None:
    """A value that is known; None for one of a dtype that is not."""
    if str(value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype) not in DTYPES:
        return None
    array = np.asarray(value)
    return Node(array.shape, array.dtype, CONSTANT, "constant", array=array)


def _node(shape: Shape, dtype: np.dtype, kind: str, step: Step, *operands: Node, thin: Node | None = None) -> Node:
    """A value computed from others: at once, if they are all constants."""
    stage = max(operand.stage for operand in operands)
    if stage != CONSTANT:
        return Node(shape, dtype, stage, kind, step, operands, thin=thin)
    arrays: list[Any] = [operand.array for operand in operands]
    a, b = (arrays[0], arrays[-1]) if len(arrays) < 3 else (arrays, None)
    array = np.asarray(step(a, b, None))
    return Node(shape, dtype, stage, "constant", array=array, thin=thin)


def _into(function: Callable[[Any], Any]) -> Step:
    """A step from a function of one operand, or of a list of them, that takes no `out`."""

    def step(a: Any, _b: Any, out: Any) -> Any:
        if out is None:
            return function(a)
        out[...] = function(a)
        return out

    return step


# -- views ---------------------------------------------------------------------------------------------------


def _reshape(node: Node, shape: Shape) -> Node:
    if node.kind == "reshape":
        node = node.operands[0]
    if node.shape == shape:
        return node
    return _node(shape, node.dtype, "reshape", lambda a, _b, _out: a.reshape(shape), node)


def _transpose(node: Node, axes: Shape) -> Node:
    if axes == tuple(range(len(axes))):
        return node
    if node.kind == "transpose" and len(axes) == 2:
        return node.operands[0]
    if node.kind == "product":  # (W x^T)^T = x W^T
        a, b = node.operands
        return _product(_transpose(b, (1, 0)), _transpose(a, (1, 0)))
    shape = tuple(node.shape[axis] for axis in axes)
    return _node(shape, node.dtype, "transpose", lambda a, _b, _out: a.transpose(axes), node)


def _broadcast(node: Node, shape: Shape, dimensions: Iterable[Any]) -> Node:
    """Axis i of the node becomes axis dimensions[i]; the others are new."""
    middle = [1] * len(shape)
    for length, dimension in zip(node.shape, dimensions, strict=True):
        middle[int(dimension)] = length
    thin = _reshape(node, tuple(middle))
    if thin.shape == shape:
        return thin
    return _node(shape, node.dtype, "broadcast", lambda a, _b, _out: np.broadcast_to(a, shape), thin, thin=thin)


def _slice(out: Out, node: Node) -> Node:
    starts, limits = out.params["start_indices"], out.params["limit_indices"]
    strides = out.params["strides"] or [1] * len(starts)
    index = tuple(slice(*map(int, ends)) for ends in zip(starts, limits, strides, strict=True))
    return _node(out.shape, out.dtype, "slice", lambda a, _b, _out: a[index], node)


# -- elementwise ---------------------------------------------------------------------------------------------


def _elementwise(shape: Shape, dtype: np.dtype, ufunc: Any, *operands: Node, kind: str = "elementwise") -> Node:
    operands = _fitting(shape, operands)
    if ufunc in (np.maximum, np.minimum):  # which would rather not have a third positional argument
        return _node(shape, dtype, kind, lambda a, b, out: ufunc(a, b, out=out), *operands)
    if len(operands) == 1:
        return _node(shape, dtype, kind, lambda a, _b, out: ufunc(a, out), *operands)
    return _node(shape, dtype, kind, ufunc, *operands)


def _fitting(shape: Shape, operands: Sequence[Node]) -> tuple[Node, ...]:
    """The operands in the shapes that NumPy is fastest with and that still give `shape`."""
    thin = [operand.thin or operand for operand in operands]
    if np.broadcast_shapes(*(operand.shape for operand in thin)) == shape:
        operands = thin
    if not any(operand.shape == shape and operand.stage != CONSTANT for operand in operands):
        return tuple(operands)
    return tuple(_fitted(shape, operand) for operand in operands)


def _fitted(shape: Shape, operand: Node) -> Node:
    if operand.stage == CONSTANT and prod(shape) <= SPREAD:
        spread = np.ascontiguousarray(np.broadcast_to(operand.array, shape))  # type: ignore[arg-type]
        return Node(shape, operand.dtype, CONSTANT, "constant", array=spread)
    return _reshape(operand, ()) if prod(operand.shape) == 1 < prod(shape) else operand


NEUTRAL = {np.add: 0, np.subtract: 0, np.multiply: 1, np.divide: 1}


def _arithmetic(ufunc: Any) -> Rule:
    """Of two operands of the dtype of the result, one of which may be the number that changes nothing."""

    def rule(out: Out, a: Node, b: Node) -> Node:
        for one, other in ((a, b), (b, a)) if ufunc in (np.add, np.multiply) else ((a, b),):
            same = one.shape == out.shape and other.array is not None
            if same and (other.array == NEUTRAL[ufunc]).all():  # type: ignore[union-attr]
                return one
        if ufunc is np.multiply:
            for one, other in ((a, b), (b, a)):
                root = _root(other)
                if root is not None:
                    return _elementwise(out.shape, out.dtype, np.divide, one, root)
        return _elementwise(out.shape, out.dtype, ufunc, a, b)

    return rule


def _root(node: Node) -> Node | None:
    """sqrt(v) where the node is rsqrt(v) or a view of it."""
    if node.kind == "rsqrt":
        return node.operands[1]
    root = _root(node.operands[0]) if node.kind in ("reshape", "broadcast") else None
    if root is None:
        return None
    if node.kind == "reshape":
        return _reshape(root, node.shape)
    return _broadcast(root, node.shape, range(len(node.shape)))


def _rsqrt(out: Out, node: Node) -> Node:
    one = Node((), out.dtype, CONSTANT, "constant", array=np.ones((), out.dtype))
    return _elementwise(out.shape, out.dtype, np.divide, one, _elementwise(out.shape, out.dtype, np.sqrt, node),
                        kind="rsqrt")  # fmt: skip


def _power(out: Out, node: Node) -> Node | None:
    times, result = out.params.get("y", 2), node
    if not 1 <= times <= 4:
        return None
    for _ in range(times - 1):
        result = _elementwise(out.shape, out.dtype, np.multiply, result, node)
    return result


def _convert(out: Out, node: Node) -> Node | None:
    if node.dtype == out.dtype:
        return node
    if node.dtype == np.float32 or out.dtype == np.bool_:  # XLA saturates; and a flag is not the lowest bit
        return None
    return _node(out.shape, out.dtype, "convert", _into(lambda a: a.astype(out.dtype)), node)


def _select(out: Out, which: Node, *cases: Node) -> Node | None:
    if which.dtype != np.bool_ or len(cases) != 2:
        return None
    if which.array is not None and (which.array == which.array.flat[0]).all():
        return cases[int(which.array.flat[0])]
    no, yes = (case.thin or case for case in cases)
    if np.broadcast_shapes(which.shape, no.shape, yes.shape) != out.shape:
        no, yes = cases
    return _node(out.shape, out.dtype, "select", _into(lambda a: np.where(*a)), which, yes, no)


# -- over axes -----------------------------------------------------------------------------------------------


def _reduction(ufunc: Any) -> Rule:
    def rule(out: Out, node: Node) -> Node:
        axes = tuple(int(axis) for axis in out.params["axes"])
        if all(node.shape[axis] == 1 for axis in axes):
            return _reshape(node, out.shape)
        axis, dtype, reduce = axes[0] if len(axes) == 1 else axes, out.dtype, ufunc.reduce
        return _node(out.shape, dtype, "reduction", lambda a, _b, to: reduce(a, axis, dtype, to), node)

    return rule


def _argmax(out: Out, node: Node) -> Node:
    [axis] = map(int, out.params["axes"])
    return _node(out.shape, out.dtype, "argmax", _into(lambda a: a.argmax(axis).astype(out.dtype)), node)


def _concatenate(out: Out, *parts: Node) -> Node:
    axis = int(out.params["dimension"])
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2:
        return _node(out.shape, out.dtype, "join", lambda a, b, to: np.concatenate((a, b), axis, to), *parts)
    return _node(out.shape, out.dtype, "join", lambda a, _b, to: np.concatenate(a, axis, to), *parts)


def _iota(out: Out) -> Node | None:
    axis = int(out.params["dimension"])
    thin = np.arange(out.shape[axis], dtype=out.dtype).reshape([-1 if i == axis else 1 for i in range(len(out.shape))])
    return constant(np.broadcast_to(thin, out.shape))


def _dot(out: Out, a: Node, b: Node) -> Node | None:
    """Any product of tensors as one of matrices: the axes of the batch, those that are kept, those summed over."""
    (a_summed, b_summed), (a_batch, b_batch) = (
        [tuple(map(int, axes)) for axes in pair] for pair in out.params["dimension_numbers"]
    )
    if not a.dtype == b.dtype == out.dtype == np.float32:
        return None
    a_kept = tuple(axis for axis in range(len(a.shape)) if axis not in a_summed + a_batch)
    b_kept = tuple(axis for axis in range(len(b.shape)) if axis not in b_summed + b_batch)
    batch = tuple(a.shape[axis] for axis in a_batch)
    summed = prod(a.shape[axis] for axis in a_summed)
    rows, columns = (prod(one.shape[axis] for axis in kept) for one, kept in ((a, a_kept), (b, b_kept)))
    left = _reshape(_transpose(a, a_batch + a_kept + a_summed), (*batch, rows, summed))
    right = _reshape(_transpose(b, b_batch + b_summed + b_kept), (*batch, summed, columns))
    return _reshape(_product(left, right), out.shape)


def _product(a: Node, b: Node) -> Node:
    shape = (*a.shape[:-1], b.shape[-1])
    if len(shape) == 2:
        return _node(shape, a.dtype, "product", np.dot, a, b)  # np.matmul gives the same, later
    return _node(shape, a.dtype, "products", np.matmul, a, b)


def _of_floats(rule: Rule) -> Rule:
    return lambda out, *operands: rule(out, *operands) if out.dtype == np.float32 else None


def _ufunc(ufunc: Any) -> Rule:
    return lambda out, *operands: _elementwise(out.shape, out.dtype, ufunc, *operands)


RULES: dict[str, Rule] = {
    "reshape": lambda out, node: _reshape(node, out.shape) if out.params["dimensions"] is None else None,
    "squeeze": lambda out, node: _reshape(node, out.shape),
    "expand_dims": lambda out, node: _reshape(node, out.shape),
    "transpose": lambda out, node: _transpose(node, tuple(map(int, out.params["permutation"]))),
    "broadcast_in_dim": lambda out, node: _broadcast(node, out.shape, out.params["broadcast_dimensions"]),
    "slice": _slice,
    "copy": lambda _out, node: node,
    "copy_p": lambda _out, node: node,
    "stop_gradient": lambda _out, node: node,
    "convert_element_type": _convert,
    "add": _arithmetic(np.add),
    "sub": _arithmetic(np.subtract),
    "mul": _arithmetic(np.multiply),
    "div": _of_floats(_arithmetic(np.divide)),  # XLA truncates the quotient of integers
    "integer_pow": _power,
    "square": _power,
    "rsqrt": _of_floats(_rsqrt),
    **{name: _of_floats(_ufunc(ufunc)) for name, ufunc in {
        "sqrt": np.sqrt, "exp": np.exp, "log": np.log, "log1p": np.log1p, "expm1": np.expm1, "tanh": np.tanh,
    }.items()},
    **{name: _ufunc(ufunc) for name, ufunc in {
        "max": np.maximum, "min": np.minimum, "neg": np.negative, "abs": np.abs, "eq": np.equal, "ne": np.not_equal,
        "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "and": np.bitwise_and,
        "or": np.bitwise_or, "not": np.invert,
    }.items()},
    "select_n": _select,
    "reduce_sum": _reduction(np.add),
    "reduce_max": _reduction(np.maximum),
    "reduce_min": _reduction(np.minimum),
    "reduce_and": _reduction(np.bitwise_and),
    "reduce_or": _reduction(np.bitwise_or),
    "argmax": _argmax,
    "concatenate": _concatenate,
    "iota": _iota,
    "dot_general": _dot,
}  # fmt: skip
