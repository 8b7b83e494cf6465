"""Any `equinox.Module` as a part: what is learned as leaves, everything else as static values.

An agent's parameters are a tree whose every leaf is learned. `eqx.nn.MLP` has functions among its leaves, and
`eqx.nn.Dropout` a number and a switch: `welcome` takes such a module as it is.
"""

from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from engram.errors import SpecError
from engram.types import Key


def welcome(part: Any) -> Any:
    """The part itself where every leaf is a learned array; else a module that behaves as it and has only such leaves.

    Learned are the inexact JAX arrays. Functions, numbers, texts, integer and bool arrays, and every NumPy array are
    constants: compared by value, so that a program compiled for one part serves every equal one.

    Raises: SpecError for a leaf that can be neither, or an integer array that is not known before a program runs.
    """
    leaves, form = jax.tree.flatten(part)
    if all(map(is_learned, leaves)):
        return part
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(part)[0]]
    constants = tuple(
        None if is_learned(leaf) else Constant(leaf, name) for name, leaf in zip(names, leaves, strict=True)
    )
    learned = form.unflatten([leaf if is_learned(leaf) else None for leaf in leaves])
    return Welcomed(learned, form, constants)


def built(build: Callable[[Key], Any], key: Key) -> Any:
    """`welcome(build(key))`, also while a program is traced, where an integer array of the part has no value yet.

    Constants are then those of a part that is built with another key: they are the same for every key.
    """
    part = build(key)
    if not any(isinstance(leaf, Tracer) and not is_learned(leaf) for leaf in jax.tree.leaves(part)):
        return welcome(part)
    with jax.ensure_compile_time_eval():
        known = jax.tree.leaves(build(jnp.zeros(2, jnp.uint32)))
    leaves, form = jax.tree.flatten(part)
    return welcome(form.unflatten([a if is_learned(a) else b for a, b in zip(leaves, known, strict=True)]))


def is_learned(leaf: Any) -> bool:
    """Whether a leaf is an array that gradients can change."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact)


class Constant:
    """A leaf that is not learned. Hashable, and equal to every other of the same type and value."""

    def __init__(self, leaf: Any, name: str):
        self._is_jax = isinstance(leaf, jax.Array)
        if isinstance(leaf, Tracer) or (self._is_jax and jnp.issubdtype(leaf.dtype, jax.dtypes.extended)):
            raise SpecError(f"{name} of the part is {leaf.dtype}; expected numbers known when it is built: use NumPy's")
        self._leaf = np.asarray(leaf) if self._is_jax else leaf
        self._identity = (self._is_jax, _identity(self._leaf))
        try:
            hash(self._identity)
        except TypeError as error:
            kind = type(leaf).__name__
            raise SpecError(
                f"{name} of the part is a {kind}, which cannot be compared by value; make it an array, or hashable"
            ) from error

    @property
    def value(self) -> Any:
        """The leaf as it was given."""
        return jnp.asarray(self._leaf) if self._is_jax else self._leaf

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        return f"Constant({self._leaf!r})"


def _identity(leaf: Any) -> Any:
    """What equals for equal leaves. Two functions made by one line of source are equal if they close over equals."""
    if isinstance(leaf, np.ndarray):
        return leaf.shape, str(leaf.dtype), leaf.tobytes()
    if isinstance(leaf, partial):
        keywords = tuple((name, _identity(value)) for name, value in sorted(leaf.keywords.items()))
        return _identity(leaf.func), tuple(map(_identity, leaf.args)), keywords
    if isinstance(leaf, FunctionType):
        cells = tuple(_identity(cell.cell_contents) for cell in leaf.__closure__ or ())
        return leaf.__code__, leaf.__module__, tuple(map(_identity, leaf.__defaults__ or ())), cells
    return type(leaf), leaf


class Welcomed(eqx.Module):
    """A part of which only what is learned is a leaf. Calls, methods and attributes are those of the whole part."""

    learned: PyTree  # the part, with None for every constant
    form: Any = eqx.field(static=True)  # the structure of the whole part
    constants: tuple[Constant | None, ...] = eqx.field(static=True)  # None where a leaf is learned

    @property
    def whole(self) -> Any:
        """The part as it was built, with the learned leaves as they are now."""
        learned = iter(jax.tree.leaves(self.learned))
        return self.form.unflatten([next(learned) if one is None else one.value for one in self.constants])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.whole(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        # What Python and JAX ask of any object by a name of theirs is not the part's to answer.
        if name.startswith("__") or name in ("learned", "form", "constants"):
            raise AttributeError(name)
        return getattr(self.whole, name)
