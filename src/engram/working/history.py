"""`history`: a causal transformer over the last steps of the episode.

It keeps the keys and values of the newest `window` rows, oldest first, for each layer. Learning unrolls it in blocks of
`window` rows, each of which sees itself and the `window` rows before it. So cost grows linearly with the number of rows
that are learned from, not with its square.

A query attends to its own row and the `window` - 1 before it. With several layers, a read can reach back
layers x (`window` - 1) steps.
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from engram.nn.attention import attend, check_heads, join_heads, scaled_dot, split_heads
from engram.nn.layers import Linear, normalised
from engram.ranges import OneOf
from engram.registry import register
from engram.specs import part, setting, spec
from engram.types import Key, MemoryRead
from engram.working.memory import Carry, NoMemorySpec, WorkingMemory
from engram.working.stack import one_row, over_rows


@register("working", "history")
@spec
class HistorySpec:
    """Transformer over the newest steps of the episode; its weights tell which of them a decision came from."""

    window: int = setting(64, "steps that a layer looks at, the present one included", low=1)
    layers: int = setting(2, "blocks of attention and MLP", low=1, search=OneOf(1, 2, 3))
    heads: int = setting(4, "attention heads of each layer; they share the hidden size", low=1)
    hidden_size: int = setting(128, "features of a step", low=1, search=OneOf(64, 128, 256))
    inner: int = setting(256, "hidden units of each MLP", low=1)
    clock: bool = setting(False, "steps also carry waves of their number in the episode: absolute positions")
    uniform: bool = setting(False, "equal weights for all steps in the window: a control")
    over: Any = part("working", NoMemorySpec(), "what it attends over: `none` for embeddings, or a recurrence")

    present = True

    def check(self) -> None:
        """The heads divide the hidden size."""
        check_heads(self.heads, self.hidden_size, ("working.heads", "working.hidden_size"))

    def build(self, inputs: int, key: Key) -> "History":
        return History(self, inputs, key=key)


class Layer(eqx.Module):
    """Attention over the window, then an MLP; each sees normalised rows and is added to them ("pre-norm").

    Positions are a learned number per head and distance, added to the scores; they start at 0, where only content
    counts.
    Source: Vaswani et al. 2017 (arXiv 1706.03762); Xiong et al. 2020 (arXiv 2002.04745) for pre-norm; Raffel et al.
    2020 (arXiv 1910.10683), section 2.1, for the positions.
    """

    query_key_value: Linear
    position: Float[Array, "heads window"]  # by distance, 0 first
    outward: Linear
    up: Linear
    down: Linear

    def __init__(self, numbers: HistorySpec, *, key: Key):
        keys = jax.random.split(key, 6)  # two more than are used: fewer would be other numbers
        width = numbers.hidden_size
        self.query_key_value = Linear(width, 3 * width, key=keys[0])
        self.position = jnp.zeros((numbers.heads, numbers.window))
        self.outward = Linear(width, width, key=keys[1])
        self.up = Linear(width, numbers.inner, key=keys[2])
        self.down = Linear(numbers.inner, width, key=keys[3])

    def read(
        self, kept: Float[Array, "2 window width"], rows: Float[Array, "time width"], reach: "Visible", uniform: bool
    ) -> tuple[Float[Array, "2 all width"], Float[Array, "time width"], Float[Array, "blocks heads queries keys"]]:
        """All keys and values (the kept ones, then those of the rows), what each row read, and its weights."""
        deal = jax.vmap(partial(split_heads, heads=self.position.shape[0]))
        query, *new = jnp.split(over_rows(self.query_key_value, jax.vmap(normalised)(rows)), 3, axis=1)
        written = jnp.concatenate([kept, jnp.stack(new)], axis=1)
        queries = deal(reach.of_queries(query))
        keys, values = (deal(reach.of_keys(x)) for x in written)
        if uniform:
            weights = attend(jnp.zeros((*queries.shape[:3], keys.shape[2])), reach.known[:, None])
        else:
            bias = jnp.take(self.position, reach.distance, axis=1)
            weights = attend(scaled_dot(queries, keys), reach.known[:, None], bias)
        read = jax.vmap(join_heads)(weights @ values).reshape(-1, rows.shape[1])[: len(rows)]
        return written, over_rows(self.outward, read), weights

    def mlp(self, rows: Float[Array, "time width"]) -> Float[Array, "time width"]:
        """The second half of the block."""
        return over_rows(self.down, jax.nn.relu(over_rows(self.up, jax.vmap(normalised)(rows))))


class Visible:
    """Who sees whom when `time` rows follow `window` kept ones: in blocks of queries, each with the keys it can reach.

    Fields:
      size: queries per block; a block has `window` + size keys, the last of them its own rows.
      distance: steps from a query back to a key, [queries keys], the same in all blocks; clipped to the window.
      known: [blocks queries keys], whether the key is of the same episode and in the window.
      age: [time], the step of the episode that each row is.
    """

    def __init__(self, window: int, is_first: Bool[Array, "time"], steps: Int[Array, ""]):
        time = len(is_first)
        self.window, self.time, self.size = window, time, min(window, time)
        self.blocks = -(-time // self.size)
        rows = jnp.arange(time)
        began = jax.lax.cummax(jnp.where(is_first, rows, -1))
        self.age = jnp.where(began >= 0, rows - began, steps + rows)
        ages = self.of_queries(self.age)
        queries, keys = jnp.arange(self.size)[:, None], jnp.arange(window + self.size)
        distance = queries + window - keys
        # A row's own age says how far back its episode goes: further than the kept rows only if they belong to it.
        self.known = (distance >= 0) & (distance < window) & (distance <= ages[:, :, None])
        self.distance = jnp.clip(distance, 0, window - 1)

    def of_queries(self, rows: Shaped[Array, "time *features"]) -> Shaped[Array, "blocks queries *features"]:
        """Rows cut into blocks, the last one filled up with zeros."""
        missing = self.blocks * self.size - self.time
        return jnp.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1)).reshape(-1, self.size, *rows.shape[1:])

    def of_keys(self, rows: Float[Array, "all width"]) -> Float[Array, "blocks keys width"]:
        """For each block, what it can reach of the kept rows followed by the new ones."""
        if self.blocks == 1:
            return rows[None]
        missing = self.blocks * self.size - self.time
        own = jnp.pad(rows, ((0, missing), (0, 0))).reshape(-1, self.size, rows.shape[1])
        return jnp.concatenate([own[:-1], own[1:]], axis=1)  # with several blocks, their size is the window

    def by_distance(self, weights: Float[Array, "blocks heads queries keys"]) -> Float[Array, "time heads 1 window"]:
        """The weights of each row, ordered by time: the oldest step of the window first, the present one last."""
        places = jnp.arange(self.size)[:, None] + 1 + jnp.arange(self.window)
        rows = jnp.take_along_axis(weights, places[None, None], axis=3).swapaxes(1, 2)
        return rows.reshape(-1, weights.shape[1], 1, self.window)[: self.time]


def waves(steps: Int[Array, "time"], width: int) -> Float[Array, "time width"]:
    """Sines, then cosines, of the steps' numbers, with wavelengths from 2 pi to 10,000 * 2 pi.

    The product of two such rows can depend on the sum of their numbers as well as on the difference, which is what
    reading something backwards takes. Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.5.
    """
    half = (width + 1) // 2
    angles = steps[:, None] * 10_000.0 ** (-jnp.arange(half) / half)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)[:, :width]


class HistoryCarry(NamedTuple):
    """What a layer may look back at. Rows from before the episode are 0."""

    over: Carry  # of the memory that this one attends over
    rows: Float[Array, "*batch layers 2 window width"]  # keys and values, oldest first
    steps: Int[Array, "*batch"]  # steps of the episode so far


class History(eqx.Module):
    """[a memory,] a linear layer [and a clock], blocks, then normalised.

    The read has the weights of every layer's heads, the last layer's last. They are over the steps of the window in the
    order of time. `entries` are the numbers of these steps in the episode, from 0.
    """

    over: WorkingMemory
    project: Linear
    blocks: tuple[Layer, ...]
    width: int = eqx.field(static=True)
    clock: bool = eqx.field(static=True)
    uniform: bool = eqx.field(static=True)

    def __init__(self, numbers: HistorySpec, inputs: int, *, key: Key):
        keys = jax.random.split(key, numbers.layers + 2)
        self.over = numbers.over.build(inputs, keys[0])
        self.project = Linear(self.over.width, numbers.hidden_size, key=keys[1])
        self.blocks = tuple(Layer(numbers, key=one) for one in keys[2:])
        self.width, self.clock, self.uniform = numbers.hidden_size, numbers.clock, numbers.uniform

    def init(self) -> HistoryCarry:
        """No steps."""
        window = self.blocks[0].position.shape[1]
        rows = jnp.zeros((len(self.blocks), 2, window, self.width))
        return HistoryCarry(self.over.init(), rows, jnp.zeros((), jnp.int32))

    def step(
        self, carry: HistoryCarry, inputs: Float[Array, "inputs"], is_first: Bool[Array, ""]
    ) -> tuple[HistoryCarry, MemoryRead]:
        """`unroll` over one row: one query, at most `window` keys."""
        return one_row(self, carry, inputs, is_first)

    def unroll(
        self, carry: HistoryCarry, inputs: Float[Array, "time inputs"], is_first: Bool[Array, "time"]
    ) -> tuple[HistoryCarry, MemoryRead]:
        """Reads for all rows at once."""
        over, read = self.over.unroll(carry.over, inputs, is_first)
        window = carry.rows.shape[2]
        reach = Visible(window, is_first, carry.steps)
        rows, kept, weights = over_rows(self.project, read.vector), [], []
        rows = rows + waves(reach.age, self.width) if self.clock else rows
        for block, old in zip(self.blocks, carry.rows, strict=True):
            written, found, one = block.read(old, rows, reach, self.uniform)
            rows = rows + found
            rows = rows + block.mlp(rows)
            kept.append(written[:, -window:])
            weights.append(reach.by_distance(one))
        ago = jnp.arange(window)[::-1]
        live = ago <= reach.age[-1]
        after = HistoryCarry(over, jnp.where(live[:, None], jnp.stack(kept), 0.0), reach.age[-1] + 1)
        joined = jnp.concatenate(weights, axis=1)
        entries = jnp.maximum(reach.age[:, None] - ago, -1)[:, None, None]
        return after, MemoryRead(jax.vmap(normalised)(rows), joined, jnp.broadcast_to(entries, joined.shape))
