"""What every working memory is: `init`, `step`, `unroll`; and the memory that remembers nothing.

A working memory lives for one episode of one environment, and gradients flow through what it writes. Acting calls
`step` with one input at a time, learning calls `unroll` with a window of them. Both give the same numbers:
`engram.testing.check_working` holds any memory to that.

Your own joins with `@register("working", "name")` above a spec whose `build(inputs, key)` makes it.
"""

from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from engram.registry import register
from engram.specs import spec
from engram.types import Key, MemoryRead

Carry = Any  # a pytree of arrays, known to its memory only


class WorkingSpec(Protocol):
    """What was chosen about a working memory."""

    present: bool  # whether there is a memory at all: False for `none` alone

    def build(self, inputs: int, key: Key) -> "WorkingMemory":
        """A memory that is given `inputs` numbers at each step."""
        ...


class WorkingMemory(Protocol):
    """A module (every leaf a learned float array) of three pure functions, for one episode at a time."""

    @property
    def width(self) -> int:
        """Length of `MemoryRead.vector`."""
        ...

    def init(self) -> Carry:
        """An empty memory. All its leaves are arrays of fixed shape; it holds no learned values."""
        ...

    def step(self, carry: Carry, inputs: Float[Array, "inputs"], is_first: Bool[Array, ""]) -> tuple[Carry, MemoryRead]:
        """Writes one input and reads. Where `is_first`, whatever was there before is forgotten first."""
        ...

    def unroll(
        self, carry: Carry, inputs: Float[Array, "time inputs"], is_first: Bool[Array, "time"]
    ) -> tuple[Carry, MemoryRead]:
        """`step` along a window; the leaves of the read get a leading axis [time]. Equal to `scan_steps`."""
        ...


def scan_steps(
    memory: WorkingMemory, carry: Carry, inputs: Float[Array, "time inputs"], is_first: Bool[Array, "time"]
) -> tuple[Carry, MemoryRead]:
    """`unroll` as its definition has it: a scan of steps. What a faster one is compared with."""
    return jax.lax.scan(lambda carry, row: memory.step(carry, *row), carry, (inputs, is_first))


def forgotten(carry: Carry, empty: Carry, is_first: Bool[Array, ""]) -> Carry:
    """The carry, or an empty one where an episode begins."""
    return jax.tree.map(lambda old, new: jnp.where(is_first, new, old), carry, empty)


def no_weights() -> tuple[Array, Array]:
    """The weights and entries of a memory without attention."""
    return jnp.zeros((0, 1, 0)), jnp.zeros((0, 1, 0), jnp.int32)


@register("working", "none")
@spec
class NoMemorySpec:
    """No working memory: each decision is made from one (stacked) observation."""

    present = False

    def build(self, inputs: int, key: Key) -> "NoMemory":
        return NoMemory(inputs)


class NoMemory(eqx.Module):
    """Gives back what it is given."""

    width: int = eqx.field(static=True)

    def init(self) -> Carry:
        """Nothing."""
        return ()

    def step(
        self,
        carry: Carry,
        inputs: Float[Array, "inputs"],
        is_first: Bool[Array, ""],
    ) -> tuple[Carry, MemoryRead]:
        """The input."""
        return carry, MemoryRead(inputs, *no_weights())

    def unroll(
        self, carry: Carry, inputs: Float[Array, "time inputs"], is_first: Bool[Array, "time"]
    ) -> tuple[Carry, MemoryRead]:
        """The inputs."""
        return scan_steps(self, carry, inputs, is_first)
