"""Working memories whose cells come from memax: `s6`, `ffm`, `mgu`, `elman`, `spherical` and `linear-rnn`.

One adapter makes a memax cell keep our rules: its arrays are the only leaves, its carry is real and holds no flag for
resets, and along time goes a scan that keeps what the cell's output needs and no more. memax's maps from inputs to the
recurrence and from the recurrence to outputs are used as they are.

Source: Morad et al., memax (https://github.com/smorad/memax), version 0.1.1.
"""

from functools import lru_cache, partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from engram.nn.layers import Linear
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Key
from engram.working.gated import make_chain, make_residual
from engram.working.memory import Carry
from engram.working.recurrences import diagonal
from engram.working.stack import Chain, Residual, last, over_rows


@register("working", "s6")
@spec
class S6Spec:
    """State space whose step size depends on the input (Mamba's, with one number of state per channel)."""

    width: int = setting(128, "units of each layer", low=1)
    layers: int = setting(1, "residual blocks", low=1)

    def build(self, inputs: int, key: Key) -> Residual:
        make = partial(Foreign, Recipe("S6", self.width))
        return make_residual(lambda key: make(key=key), inputs, self.width, self.layers, key)


@register("working", "ffm")
@spec
class FFMSpec:
    """Fast and forgetful memory: fading traces, each seen at several frequencies."""

    width: int = setting(128, "units of each layer", low=1)
    layers: int = setting(1, "residual blocks", low=1)
    traces: int = setting(32, "traces, which fade at different rates", low=1)
    contexts: int = setting(4, "frequencies of each trace", low=1)

    def build(self, inputs: int, key: Key) -> Residual:
        make = partial(Foreign, Recipe("FFM", self.width, (self.traces, self.contexts)))
        return make_residual(lambda key: make(key=key), inputs, self.width, self.layers, key)


@register("working", "mgu")
@spec
class MGUSpec:
    """Minimal gated unit: a GRU with one gate."""

    width: int = setting(128, "units of each layer", low=1)
    layers: int = setting(1, "layers, one after another", low=1)

    def build(self, inputs: int, key: Key) -> Chain:
        return make_chain(partial(_projected, Recipe("MGU", self.width)), inputs, self.width, self.layers, key)


@register("working", "elman")
@spec
class ElmanSpec:
    """The simplest recurrent network, without gates: a floor to compare with."""

    width: int = setting(128, "units of each layer", low=1)
    layers: int = setting(1, "layers, one after another", low=1)

    def build(self, inputs: int, key: Key) -> Chain:
        return make_chain(partial(_projected, Recipe("Elman", self.width)), inputs, self.width, self.layers, key)


@register("working", "spherical")
@spec
class SphericalSpec:
    """A point on a sphere that every input rotates: nothing fades, whatever the number of steps."""

    width: int = setting(128, "units of each layer", low=1)
    layers: int = setting(1, "residual blocks", low=1)
    dimensions: int = setting(11, "dimensions of the sphere's space", low=2)

    def build(self, inputs: int, key: Key) -> Residual:
        make = partial(Foreign, Recipe("PSpherical", self.width, (self.dimensions,)))
        return make_residual(lambda key: make(key=key), inputs, self.width, self.layers, key)


@register("working", "linear-rnn")
@spec
class LinearRNNSpec:
    """The sum of all inputs since the episode began: nothing fades, nothing is ordered."""

    width: int = setting(128, "units of each layer", low=1)
    layers: int = setting(1, "residual blocks", low=1)

    def build(self, inputs: int, key: Key) -> Residual:
        make = partial(Foreign, Recipe("LinearRecurrent", self.width))
        return make_residual(lambda key: make(key=key), inputs, self.width, self.layers, key)


class Recipe(NamedTuple):
    """Which memax cell, and its numbers: all of it that is not an array, in a form that compares quickly."""

    cell: str
    width: int
    sizes: tuple[int, ...] = ()

    def make(self, key: Key) -> Any:
        """A memax cell that takes and gives `width` numbers."""
        import memax.equinox.train_utils as cells  # slow, and only these kinds need it

        width, make = self.width, getattr(cells, self.cell)
        if self.cell == "FFM":
            return make(width, *self.sizes, key=key)
        if self.cell == "PSpherical":
            return make(*self.sizes, width, key=key)
        if self.cell in ("S6", "Elman"):
            return make(width, width, key=key)
        return make(width, key=key)


@lru_cache(maxsize=64)
def _frame(recipe: Recipe) -> Any:
    """The memax cell without its arrays."""
    shapes = eqx.filter_eval_shape(recipe.make, jax.ShapeDtypeStruct((2,), jnp.uint32))
    return eqx.filter(shapes, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct), inverse=True)


class Foreign(eqx.Module):
    """A memax cell, of which only the arrays are leaves."""

    arrays: Any
    recipe: Recipe = eqx.field(static=True)

    def __init__(self, recipe: Recipe, *, key: Key):
        self.arrays = eqx.filter(recipe.make(key), eqx.is_inexact_array)
        self.recipe = recipe

    def init(self) -> Carry:
        """The cell's own empty state, without its flag; see `_real`."""
        return _real(self._empty())

    def unroll(
        self, carry: Carry, inputs: Float[Array, "time width"], is_first: Bool[Array, "time"]
    ) -> tuple[Carry, Float[Array, "time width"]]:
        """The cell's outputs."""
        cell, empty = self._cell(), self._empty()
        written, _ = jax.vmap(cell.forward_map)((inputs, is_first))
        states = self._scan(cell, empty, _like(empty, carry), written, is_first)
        outputs = jax.vmap(cell.backward_map)((states, is_first), (inputs, is_first))
        return _real(jax.tree.map(last, states)), outputs

    def _scan(self, cell: Any, empty: Any, state: Any, written: Any, is_first: Bool[Array, "time"]) -> Any:
        if self.recipe.cell == "S6":  # its semigroup also multiplies up all factors, which nothing reads
            factor, rows = written
            return jnp.ones_like(factor), diagonal(jnp.where(is_first[:, None], 0.0, factor), rows, state[1])
        algebra = cell.algebra.algebra  # inside what resets

        def row(state: Any, given: tuple) -> tuple[Any, Any]:
            state = jax.tree.map(lambda old, new: jnp.where(given[1], new, old), state, empty)
            state = algebra(state, given[0])
            return state, state

        return jax.lax.scan(row, state, (written, is_first))[1]

    def _cell(self) -> Any:
        return eqx.combine(self.arrays, _frame(self.recipe))

    def _empty(self) -> Any:
        return self._cell().algebra.algebra.initialize_carry()


class Projected(eqx.Module):
    """A linear layer in front of a cell that takes as many numbers as it gives."""

    project: Linear
    cell: Foreign

    def init(self) -> Carry:
        """The cell's."""
        return self.cell.init()

    def unroll(
        self, carry: Carry, inputs: Float[Array, "time inputs"], is_first: Bool[Array, "time"]
    ) -> tuple[Carry, Float[Array, "time width"]]:
        """The cell's outputs."""
        return self.cell.unroll(carry, over_rows(self.project, inputs), is_first)


def _projected(recipe: Recipe, inputs: int, key: Key) -> Projected:
    project, cell = jax.random.split(key)
    return Projected(Linear(inputs, recipe.width, key=project), Foreign(recipe, key=cell))


# -- complex numbers, which checkpoints do not store -----------------------------------------------------------------


def _real(state: Any) -> Carry:
    """The leaves of a state, a complex one as an array with an axis of two in front."""
    return tuple(
        jnp.stack([leaf.real, leaf.imag]) if jnp.iscomplexobj(leaf) else leaf for leaf in jax.tree.leaves(state)
    )


def _like(state: Any, carry: Carry) -> Any:
    """A state of the form of `state` from what `_real` gave."""
    leaves, form = jax.tree.flatten(state)
    pairs = zip(leaves, carry, strict=True)
    return jax.tree.unflatten(
        form, [jax.lax.complex(new[0], new[1]) if jnp.iscomplexobj(old) else new for old, new in pairs]
    )
