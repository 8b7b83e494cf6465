"""`slots`: a small table of keys and values, written and read by attention.

A step binds what came of the step before to where it happened: the key is that of the observation before, the value is
made of both, and with `observation.previous_action` and `previous_reward` the present input tells what was done there
and what it paid. So an agent can look up what it once did in a situation like this one, which no weight has to hold.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from engram.nn.attention import attend
from engram.nn.layers import Linear, normalised
from engram.ranges import OneOf
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Key, MemoryRead
from engram.working.memory import forgotten
from engram.working.stack import one_row, over_rows

FAINT = 0.01  # a step with a smaller share in a slot's key is not what the slot holds
SHARPNESS = 10.0  # of attention at the start: keys have length 1, so scores lie between -10 and 10
FADE = 0.99  # of what counts as use, per step
NOVEL = 0.9  # similarity to the nearest slot under which a key opens a slot of its own, at the start


@register("working", "slots")
@spec
class SlotsSpec:
    """Slots of a key and a value, opened for what is new and updated for what is known; read by several heads."""

    slots: int = setting(16, "how many keys with values are held", low=1, search=OneOf(8, 16, 32))
    hidden_size: int = setting(
        64, "features of a key, of a value, and of what is read", low=1, search=OneOf(32, 64, 128)
    )
    heads: int = setting(2, "reads at each step, each with its own query", low=1)
    uniform: bool = setting(False, "equal weights for all slots in use when reading: a control")

    present = True

    def build(self, inputs: int, key: Key) -> "Slots":
        return Slots(self, inputs, key=key)


class SlotsCarry(NamedTuple):
    """The table, who wrote it, and the input before."""

    before: Float[Array, "*batch inputs"]
    keys: Float[Array, "*batch slots width"]  # mixtures of keys of length 1: shorter where little was written
    values: Float[Array, "*batch slots width"]
    used: Float[Array, "*batch slots"]  # writes and reads, fading
    share: Float[Array, "*batch slots"]  # of the step with the greatest share in the key
    step: Int[Array, "*batch slots"]  # that step of the episode; -1 for a slot that holds nothing
    steps: Int[Array, "*batch"]  # steps of the episode so far


class Given(NamedTuple):
    """What the inputs of one row ask for; computed for all rows at once."""

    inputs: Float[Array, "*time inputs"]
    key: Float[Array, "*time width"]  # of the row before, length 1
    value: Float[Array, "*time width"]
    erase: Float[Array, "*time width"]  # 0..1
    write: Float[Array, "*time"]  # 0..1
    novel: Float[Array, "*time"]  # added to the score for opening a slot
    queries: Float[Array, "*time heads width"]
    is_first: Bool[Array, "*time"]


class Slots(eqx.Module):
    """Each step writes with weights w over the slots, then each head reads with weights r:

        k = unit(A x')                        the address of the input before, x'
        h = relu(W [x', x])                   value v, erase gate e, write gate g and novelty n are linear in h
        c = softmax(b K k)                    attention over the slots in use
        f = sigmoid(b' (novel - max K k) + n) how new the key is; 1 where no slot is in use
        w = g (f l + (1 - f) c)               l: the slot that was used least
        K = (1 - w) K + w k^T
        V = (1 - g f l) (1 - w e^T) V + w v^T an opened slot is emptied first
        r = softmax(s unit(A x + B x) K^T)    each head with its own B and sharpness s
        y = normalised(relu(M [r V, x]))

    The first step of an episode writes nothing. As A is shared, a situation finds what was bound to it before anything
    is learned. A slot belongs to the step that has the greatest share in its key.

    Source: gated writes with content addressing and erasing after Graves et al. 2014 (arXiv 1410.5401), section 3.3;
    the least used slot after Santoro et al. 2016 (arXiv 1605.06065), section 3.1; a new slot only for what is new, the
    address of the step before, and no controller with a state of its own are ours.
    """

    address: Linear  # A
    different: Float[Array, "heads width inputs"]  # B
    hidden: Linear  # W
    asked: Linear  # of h: value, erase, write, novelty
    sharpness: Float[Array, "heads_2"]  # logarithms: of each head, of writing, of novelty
    novel: Float[Array, ""]
    outward: Linear  # M
    slots: int = eqx.field(static=True)
    width: int = eqx.field(static=True)
    uniform: bool = eqx.field(static=True)

    def __init__(self, numbers: SlotsSpec, inputs: int, *, key: Key):
        keys = jax.random.split(key, 5)
        width, heads = numbers.hidden_size, numbers.heads
        self.address = Linear(inputs, width, key=keys[0])
        self.different = jax.random.normal(keys[1], (heads, width, inputs)) * 0.1 / math.sqrt(inputs)
        self.hidden = Linear(2 * inputs, width, key=keys[2])
        drawn = Linear(width, 2 * width + 2, key=keys[3])
        # Writes begin nearly whole, and erase little: what is not written cannot be found to have been worth it.
        bias = drawn.bias.at[width : 2 * width].add(-2.0).at[2 * width].add(2.0)
        self.asked = eqx.tree_at(lambda linear: linear.bias, drawn, bias)
        self.sharpness = jnp.full(heads + 2, math.log(SHARPNESS), jnp.float32)
        self.novel = jnp.array(NOVEL, jnp.float32)
        self.outward = Linear(heads * width + inputs, width, key=keys[4])
        self.slots, self.width, self.uniform = numbers.slots, width, numbers.uniform

    def init(self) -> SlotsCarry:
        """No slot in use."""
        table, size = (self.slots, self.width), self.address.weight.shape[1]
        return SlotsCarry(
            before=jnp.zeros(size),
            keys=jnp.zeros(table),
            values=jnp.zeros(table),
            used=jnp.zeros(self.slots),
            share=jnp.zeros(self.slots),
            step=jnp.full(self.slots, -1, jnp.int32),
            steps=jnp.zeros((), jnp.int32),
        )

    def step(
        self, carry: SlotsCarry, inputs: Float[Array, "inputs"], is_first: Bool[Array, ""]
    ) -> tuple[SlotsCarry, MemoryRead]:
        """`unroll` over one row."""
        return one_row(self, carry, inputs, is_first)

    def unroll(
        self, carry: SlotsCarry, inputs: Float[Array, "time inputs"], is_first: Bool[Array, "time"]
    ) -> tuple[SlotsCarry, MemoryRead]:
        """What depends on the inputs alone is computed for all rows; the table then goes through them one by one."""
        given = self._given(carry.before, inputs, is_first)
        empty = self.init()
        carry, (reads, weights, steps) = jax.lax.scan(
            lambda carry, row: self._row(forgotten(carry, empty, row.is_first), row), carry, given
        )
        found = over_rows(self.outward, jnp.concatenate([reads.reshape(len(inputs), -1), inputs], axis=1))
        entries = jnp.broadcast_to(steps[:, None, None], weights[:, :, None].shape)
        return carry, MemoryRead(jax.vmap(normalised)(jax.nn.relu(found)), weights[:, :, None], entries)

    def _given(
        self, before: Float[Array, "inputs"], inputs: Float[Array, "time inputs"], is_first: Bool[Array, "time"]
    ) -> Given:
        earlier = jnp.concatenate([before[None], inputs[:-1]])
        hidden = jax.nn.relu(over_rows(self.hidden, jnp.concatenate([earlier, inputs], axis=1)))
        asked = over_rows(self.asked, hidden)
        value, erase, write, novel = jnp.split(asked, (self.width, 2 * self.width, 2 * self.width + 1), axis=1)
        own = over_rows(self.address, jnp.concatenate([before[None], inputs]))
        queries = own[1:, None] + jnp.einsum("hwi,ti->thw", self.different, inputs)
        return Given(
            inputs, _unit(own[:-1]), value, jax.nn.sigmoid(erase), jax.nn.sigmoid(write[:, 0]), novel[:, 0],
            _unit(queries), is_first,
        )  # fmt: skip

    def _row(self, carry: SlotsCarry, row: Given) -> tuple[SlotsCarry, tuple[Array, Array, Array]]:
        """The carry after the row; what each head read, its weights, and the steps that they belong to."""
        sharpness = jnp.exp(self.sharpness)
        carry = self._written(carry, row, sharpness)
        scores = sharpness[:-2, None] * (row.queries @ carry.keys.T)
        weights = attend(jnp.zeros_like(scores) if self.uniform else scores, carry.step >= 0)
        used = carry.used + jax.lax.stop_gradient(weights.mean(0))
        return carry._replace(used=used, steps=carry.steps + 1), (weights @ carry.values, weights, carry.step)

    def _written(self, carry: SlotsCarry, row: Given, sharpness: Float[Array, "heads_2"]) -> SlotsCarry:
        in_use = carry.step >= 0
        write = jnp.where(carry.steps > 0, row.write, 0.0)  # before the first step there is nothing to be written
        similar = carry.keys @ row.key
        nearest = jnp.max(jnp.where(in_use, similar, -1.0))
        fresh = jax.nn.sigmoid(sharpness[-1] * (self.novel - nearest) + row.novel)
        fresh = write * jnp.where(in_use.any(), fresh, 1.0)
        opened = fresh * (jnp.arange(self.slots) == jnp.argmin(carry.used))
        weights = opened + (write - fresh) * attend(sharpness[-2] * similar, in_use)
        keys = carry.keys + weights[:, None] * (row.key - carry.keys)
        values = (1 - opened)[:, None] * (1 - weights[:, None] * row.erase) * carry.values
        values = values + weights[:, None] * row.value
        share = carry.share * (1 - weights)
        strongest = (weights > share) & (weights >= FAINT)
        return SlotsCarry(
            row.inputs,
            keys,
            values,
            jax.lax.stop_gradient(FADE * carry.used + weights),
            jax.lax.stop_gradient(jnp.where(strongest, weights, share)),
            jnp.where(strongest, carry.steps - 1, carry.step),
            carry.steps,
        )


def _unit(rows: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
    """Rows of length 1."""
    return rows * jax.lax.rsqrt((rows**2).sum(-1, keepdims=True) + 1e-6)
