"""How layers of one kind of cell become a working memory: one after another, or in residual blocks.

A cell has `init()` and `unroll(carry, inputs, is_first)`; a memory's step is its unroll over one row.
"""

from collections.abc import Sequence
from typing import Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from engram.nn.layers import Linear, normalised
from engram.types import Key, MemoryRead
from engram.working.memory import Carry, WorkingMemory, no_weights


class Cell(Protocol):
    """A module (every leaf a learned float array) that goes along time: one layer of a memory."""

    def init(self) -> Carry:
        """An empty carry."""
        ...

    def unroll(
        self, carry: Carry, inputs: Float[Array, "time inputs"], is_first: Bool[Array, "time"]
    ) -> tuple[Carry, Float[Array, "time width"]]:
        """The carry after the window, and what the cell gives at each row, from that row and earlier ones."""
        ...


def over_rows(linear: Linear, rows: Float[Array, "time inputs"]) -> Float[Array, "time outputs"]:
    """A linear layer of every row, as one matrix product."""
    return rows @ linear.weight.T + linear.bias


def last(states: Shaped[Array, "time *state"]) -> Shaped[Array, "*state"]:
    """The state after the window."""
    return states[-1]


class Chain(eqx.Module):
    """Cells one after another, nothing between them: how gated recurrences are used in DRQN and R2D2."""

    cells: tuple[Cell, ...]
    width: int = eqx.field(static=True)

    def init(self) -> Carry:
        """An empty carry for each layer."""
        return tuple(cell.init() for cell in self.cells)

    def step(self, carry: Carry, inputs: Float[Array, "inputs"], is_first: Bool[Array, ""]) -> tuple[Carry, MemoryRead]:
        """`unroll` over one row."""
        return one_row(self, carry, inputs, is_first)

    def unroll(
        self, carry: Carry, inputs: Float[Array, "time inputs"], is_first: Bool[Array, "time"]
    ) -> tuple[Carry, MemoryRead]:
        """The outputs of the last layer."""
        after, rows = [], inputs
        for cell, one in zip(self.cells, carry, strict=True):
            one, rows = cell.unroll(one, rows, is_first)
            after.append(one)
        return tuple(after), without_weights(rows)


class Residual(eqx.Module):
    """Linear layer, then blocks x + gate(gelu(cell(normalised(x)))), then normalised.

    `gate` is W y * sigmoid(V y), so a block is not linear even where the cell is. What leaves is normalised, as inputs
    that stay the same can let the state of a slow linear recurrence grow a thousandfold.
    Source: Orvieto et al. 2023 (arXiv 2303.06349), section 2.2 and appendix, with normalisation without parameters.
    """

    project: Linear
    cells: tuple[Cell, ...]
    gates: tuple[Linear, ...]
    width: int = eqx.field(static=True)

    def __init__(self, inputs: int, width: int, cells: Sequence[Cell], *, key: Key):
        keys = jax.random.split(key, len(cells) + 1)
        self.project = Linear(inputs, width, key=keys[0])
        self.cells = tuple(cells)
        self.gates = tuple(Linear(width, 2 * width, key=one) for one in keys[1:])
        self.width = width

    def init(self) -> Carry:
        """An empty carry for each layer."""
        return tuple(cell.init() for cell in self.cells)

    def step(self, carry: Carry, inputs: Float[Array, "inputs"], is_first: Bool[Array, ""]) -> tuple[Carry, MemoryRead]:
        """`unroll` over one row."""
        return one_row(self, carry, inputs, is_first)

    def unroll(
        self, carry: Carry, inputs: Float[Array, "time inputs"], is_first: Bool[Array, "time"]
    ) -> tuple[Carry, MemoryRead]:
        """The normalised sum of what the blocks gave."""
        after, rows = [], over_rows(self.project, inputs)
        for cell, gate, one in zip(self.cells, self.gates, carry, strict=True):
            one, found = cell.unroll(one, jax.vmap(normalised)(rows), is_first)
            mixed = over_rows(gate, jax.nn.gelu(found))
            rows = rows + mixed[:, : self.width] * jax.nn.sigmoid(mixed[:, self.width :])
            after.append(one)
        return tuple(after), without_weights(jax.vmap(normalised)(rows))


def one_row(
    memory: WorkingMemory, carry: Carry, inputs: Float[Array, "inputs"], is_first: Bool[Array, ""]
) -> tuple[Carry, MemoryRead]:
    """A step as a window of one row."""
    carry, read = memory.unroll(carry, inputs[None], is_first[None])
    return carry, jax.tree.map(last, read)


def without_weights(vectors: Float[Array, "time width"]) -> MemoryRead:
    """The reads of a memory without attention."""
    weights, entries = (jnp.broadcast_to(part, (len(vectors), *part.shape)) for part in no_weights())
    return MemoryRead(vectors, weights, entries)
