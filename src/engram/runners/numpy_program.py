"""A JAX function as a flat list of NumPy calls, for networks so small that a compiled call costs more than they do.

The function is traced once. Each equation of its jaxpr that the result depends on becomes a NumPy call, with slots for
its operands and its result. Constants are computed at once, values that depend on the parameters alone when parameters
arrive, and only the rest at each call. Buffers are allocated at the start, and views of them are made once. So nothing
is written twice: NumPy runs the network that JAX trains.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal
from jaxtyping import PyTree

from engram.runners.numpy_rules import CALLED, DTYPES, LOADED, RULES, VIEWS, Node, Out, Step, constant

CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call")  # written out in place


def numpy_program(function: Callable[[Any, Any], Any], parameters: PyTree, inputs: PyTree) -> "NumpyProgram | None":
    """`function(parameters, inputs)`, one array, as a program of NumPy calls.

    Args:
      parameters, inputs: examples, of which only structures, shapes and dtypes count. Batch with `vmap` inside.

    Returns: the program, which computes the function to rounding; None where it needs an operation or a dtype that
    is not known here, or would differ in NumPy.
    """
    closed = jax.make_jaxpr(function)(parameters, inputs)
    loaded = len(jax.tree.leaves(parameters))
    nodes = [
        Node(tuple(var.aval.shape), np.dtype(var.aval.dtype), LOADED if place < loaded else CALLED)
        for place, var in enumerate(closed.jaxpr.invars)
    ]
    [result] = _interpreted(closed, nodes)
    return None if result is None else NumpyProgram(nodes[:loaded], nodes[loaded:], result)


class NumpyProgram:
    """`load` parameters, then call it on inputs: one call at a time, since its buffers are its own.

    NumPy may warn of an overflow or of an invalid value, where JAX says nothing and gives the same number.
    """

    def __init__(self, parameters: Sequence[Node], inputs: Sequence[Node], result: Node):
        own = result.step is not None and result.stage == CALLED and result.kind not in VIEWS
        if not own or result.shape == ():  # else it would be someone's memory, or a number instead of an array
            result = Node(result.shape, result.dtype, CALLED, "copy", lambda a, _b, _out: np.array(a), (result,))
        computed = _ancestors(result)
        nodes = [*parameters, *inputs, *(node for node in computed if node.kind != "given")]
        places = {id(node): place for place, node in enumerate(nodes)}
        self._slots: list[Any] = [node.array for node in nodes]
        self._loaded, self._given = len(parameters), slice(len(parameters), len(parameters) + len(inputs))
        self._loading = [self._line(node, places) for node in computed if node.step and node.stage == LOADED]
        self._calls = self._allocated([node for node in computed if node.stage == CALLED and node.step], places)
        self._last = self._line(result, places)[:3]

    def load(self, leaves: Sequence[np.ndarray]) -> None:
        """Computes with these parameters from now on: their leaves, in the order of `jax.tree.leaves`."""
        slots = self._slots
        slots[: self._loaded] = leaves
        for step, a, b, out in self._loading:
            slots[out] = step(slots[a], slots[b], None)

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        """A new array: the function of the loaded parameters and of the inputs, whose leaves are given."""
        slots = self._slots
        slots[self._given] = inputs
        for step, a, b, out in self._calls:
            slots[out] = step(slots[a], slots[b], slots[out])
        step, a, b = self._last
        return step(slots[a], slots[b], None)

    def _line(self, node: Node, places: dict[int, int]) -> tuple[Step, int, int, int]:
        """The call of a node, with places for its operands."""
        slots, step, operands = self._slots, node.step, [places[id(operand)] for operand in node.operands]
        if len(operands) < 3:
            return step, operands[0], operands[-1], places[id(node)]  # type: ignore[return-value]

        def gathered(_a: Any, _b: Any, out: Any) -> Any:
            return step([slots[place] for place in operands], None, out)  # type: ignore[misc]

        return gathered, 0, 0, places[id(node)]

    def _allocated(self, steps: Sequence[Node], places: dict[int, int]) -> list[tuple[Step, int, int, int]]:
        """The calls but for the last, once each has its buffer and each view of a buffer is made."""
        slots, lines = self._slots, []
        ends = _last_uses(steps)
        for index, node in enumerate(steps[:-1]):
            line, place = self._line(node, places), places[id(node)]
            if node.kind in VIEWS:
                buffer = slots[line[1]]  # None of inputs, which come with each call
                view = None if buffer is None else node.step(buffer, buffer, None)  # type: ignore[misc]
                if view is not None and np.may_share_memory(view, buffer):
                    slots[place] = view
                    continue
            else:
                dying = [slots[places[id(one)]] for one in _reusable(node) if ends[id(one)] == index]
                slots[place] = dying[0] if dying else np.empty(node.shape, node.dtype)
            lines.append(line)
        return lines


def _ancestors(result: Node) -> list[Node]:
    """Everything that a value depends on, and itself, operands first."""
    found, waiting = {}, [result]
    while waiting:
        node = waiting.pop()
        if id(node) not in found:
            found[id(node)] = node
            waiting += node.operands
    return sorted(found.values(), key=lambda node: node.serial)


def _last_uses(steps: Sequence[Node]) -> dict[int, int]:
    """The last step that reads the memory of each value, itself or through views of it."""
    owners: dict[int, int] = {}
    last = {}
    for index, node in enumerate(steps):
        read = [owners.get(id(operand), id(operand)) for operand in node.operands]
        last.update(dict.fromkeys(read, index))
        if node.kind in VIEWS:
            owners[id(node)] = read[0]
    return last


def _reusable(node: Node) -> Iterator[Node]:
    """Operands into whose buffer an elementwise step may write, if nobody reads them later."""
    for operand in node.operands if node.kind in ("elementwise", "rsqrt") else ():
        own = operand.stage == CALLED and operand.step and operand.kind not in VIEWS
        if own and (operand.shape, operand.dtype) == (node.shape, node.dtype):
            yield operand


# -- from equations to values --------------------------------------------------------------------------------


def _interpreted(closed: Any, operands: Sequence[Node | None]) -> list[Node | None]:
    """The results of a closed jaxpr; None for each that something unknown is needed for."""
    values: dict[Any, Node | None] = dict(zip(closed.jaxpr.constvars, map(constant, closed.consts), strict=True))
    values.update(zip(closed.jaxpr.invars, operands, strict=True))

    def value(atom: Any) -> Node | None:
        return constant(atom.val) if isinstance(atom, Literal) else values[atom]

    for equation in closed.jaxpr.eqns:
        results = _results(equation, [value(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [value(atom) for atom in closed.jaxpr.outvars]


def _results(equation: Any, operands: Sequence[Node | None]) -> list[Node | None]:
    name, params = equation.primitive.name, equation.params
    if name in CALLS:
        return _interpreted(params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"], operands)
    outs = [var.aval for var in equation.outvars]
    if name not in RULES or None in operands or any(str(out.dtype) not in DTYPES for out in outs):
        return [None] * len(outs)
    [out] = outs
    return [RULES[name](Out(tuple(out.shape), np.dtype(out.dtype), params), *operands)]
