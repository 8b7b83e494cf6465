"""A working memory: Equinox's GRU cell and a layer norm."""

import equinox as eqx
import jax.numpy as jnp

from engram import MemoryRead, register, setting, spec
from engram.working.memory import forgotten, no_weights, scan_steps


@register("working", "mine-working")
@spec
class MineWorkingSpec:
    """`eqx.nn.GRUCell`, whose switches are among its fields."""

    hidden_size: int = setting(8, "numbers that are remembered", low=1)

    present = True

    def build(self, inputs, key):
        return MineWorking(
            eqx.nn.GRUCell(inputs, self.hidden_size, key=key), eqx.nn.LayerNorm(self.hidden_size), jnp.tanh
        )


class MineWorking(eqx.Module):
    cell: eqx.nn.GRUCell
    norm: eqx.nn.LayerNorm
    squash: object  # a function among the leaves

    @property
    def width(self):
        return self.cell.hidden_size

    def init(self):
        return jnp.zeros(self.width)

    def step(self, carry, inputs, is_first):
        carry = self.cell(inputs, forgotten(carry, self.init(), is_first))
        return carry, MemoryRead(self.squash(self.norm(carry)), *no_weights())

    def unroll(self, carry, inputs, is_first):
        return scan_steps(self, carry, inputs, is_first)
