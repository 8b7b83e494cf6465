"""`product-key`: a fixed grid of slots that holds a million values and is read in well under a millisecond.

A key is cut into two halves. Each half is compared with `codes` learned codes. A slot is a pair of codes, and its score
is the sum of their scores. The best of codes x codes slots are found exactly after 2 x codes comparisons: they are
among the best codes of each half.

The grid is never full, and there is no index to build. No key is stored: the codes, which are learned, say what a slot
stands for. Two situations with the same best slot share its value. Nothing is evicted; a value is overwritten bit by
bit.

Source: Lample et al. 2019 (arXiv 1907.05242), section 3.1. Departures:
- A slot holds a value for each action. It moves towards returns as the value of a table does (Pritzel et al. 2017,
  arXiv 1703.01988, eq. 4), and is not learned by gradients.
- Keys are normalised by the mean and variance of all keys written so far (the paper: of the batch), then to one length.
  Without this the keys of one network hardly spread, because most of their length is in common: a million of them
  shared a hundred slots.
"""

from collections.abc import Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram.bits import TURN
from engram.errors import SpaceError, SpecError
from engram.external.memory import Entries, Notes, check_kept, known_rows
from engram.nn.attention import attend
from engram.nn.layers import normalised
from engram.ranges import OneOf
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Key, MemoryRead

HORIZON = 10_000  # writes, in the end, that the mean and variance of keys are taken over
FARTHEST = 5.0  # standard deviations: a feature that has long been silent must not outweigh all others when it speaks
LARGEST = 1e15  # of a key's numbers: the variance of greater ones would not be finite


@register("external", "product-key")
@spec
class ProductKeySpec:
    """A fixed grid of slots, found by the two halves of a key: the same cost however much is written."""

    codes: int = setting(
        1024,
        "codes for each half of a key; there are codes x codes slots for each action",
        low=1,
        search=OneOf(256, 512, 1024),
    )
    neighbours: int = setting(50, "slots that a read attends to", low=1, search=OneOf(10, 25, 50))
    spread: int = setting(1, "slots that a write moves, in proportion to their attention", low=1)
    alpha: float = setting(
        0.1, "step size: share of the way to a new return that a value moves at most", above=0, high=1
    )
    temperature: float = setting(0.2, "divides the scores: lower attends more to the best slot", above=0)
    pseudo_count: float = setting(1.0, "writes at which a slot is trusted by half", low=0)
    uniform: bool = setting(False, "control: all slots that are read weigh the same")

    present = True
    keeps = frozenset[str]()
    one_step = False
    refreshes = False  # it stores no keys

    def check(self) -> None:
        """No more slots are asked for than there are."""
        for name in ("neighbours", "spread"):
            if (asked := getattr(self, name)) > self.codes**2:
                raise SpecError(
                    f"external.{name} = {asked} exceeds the {self.codes**2} slots of external.codes = {self.codes}; "
                    f"lower {name} or raise codes"
                )

    def build(self, embedding: int, actions: int, offered: int, key: Key) -> "ProductKey":
        return ProductKey(self, embedding, actions, offered, key=key)


class Grid(NamedTuple):
    """The value of each slot and action. Where actions are offered by their features, there is one column.

    The id of a slot and action is slot x columns + column; the number of a slot is first code x codes + second code.
    """

    clock: Int[Array, ""]  # writes so far
    refused: Int[Array, ""]  # entries offered with numbers that are not finite, or for an action that there is not
    value: Float[Array, "slots columns"]  # in units of return
    writes: Int[Array, "slots columns"]  # writes of it; 0 where nothing is known
    mean: Float[Array, "width"]  # of the keys written so far
    variance: Float[Array, "width"]  # of the same

    @property
    def live(self) -> Bool[Array, "*seeds slots columns"]:
        """Which slots know something of which action."""
        return self.writes > 0

    @property
    def held(self) -> Int[Array, "*seeds"]:
        """See `memory.Store.held`; of slots and actions."""
        return self.live.sum((-2, -1))


class ProductKey(eqx.Module):
    """Two tables of codes; the gradient of a read reaches the codes that it attended to, and the query.

    Weights are the softmax of the scores over those of the `neighbours` best slots that know the action. Confidence is
    the share of the attention over all of these slots that falls on slots that know the action, each trusted by
    count / (count + pseudo_count).
    """

    codes: Float[Array, "2 codes half"]
    neighbours: int = eqx.field(static=True)
    spread: int = eqx.field(static=True)
    columns: int = eqx.field(static=True)
    offered: int = eqx.field(static=True)
    alpha: float = eqx.field(static=True)
    temperature: float = eqx.field(static=True)
    pseudo_count: float = eqx.field(static=True)
    uniform: bool = eqx.field(static=True)

    def __init__(self, numbers: ProductKeySpec, embedding: int, actions: int, offered: int, *, key: Key):
        """`embedding` numbers in a query; `offered` features of an action, 0 where actions are known by their number.

        Raises SpecError if a key cannot be cut into halves, or if ids would not fit into 32 bits.
        """
        width, self.columns = embedding + offered, 1 if offered else actions
        if width % 2:
            of = f"an embedding of {embedding}" + (f" and {offered} features of an action" if offered else "")
            raise SpecError(
                f"external 'product-key' cuts keys into halves, but {of} makes keys of {width} numbers; make the last "
                "layer before it one unit wider"
            )
        if numbers.codes**2 * self.columns >= 2**31:
            most = int(((2**31 - 1) / self.columns) ** 0.5)
            raise SpecError(
                f"external.codes = {numbers.codes} with {self.columns} actions makes more entries than 32 bits can "
                f"count; lower external.codes to {most}"
            )
        drawn = jax.random.normal(key, (2, numbers.codes, width // 2))
        # Of one length: of random codes the longer ones would be the best for nearly every query.
        self.codes = drawn * jax.lax.rsqrt((drawn**2).mean(-1, keepdims=True))
        self.neighbours, self.spread, self.offered = numbers.neighbours, numbers.spread, offered
        self.alpha, self.temperature, self.pseudo_count = numbers.alpha, numbers.temperature, numbers.pseudo_count
        self.uniform = numbers.uniform

    @property
    def capacity(self) -> int:
        """Number of ids: slots x columns."""
        return self.codes.shape[-2] ** 2 * self.columns

    def init(self, kept: Mapping[str, PyTree] | None = None) -> Grid:
        """Grid that know nothing. See `ExternalMemory.init`."""
        check_kept("product-key", ProductKeySpec.keeps, kept)
        shape = (self.codes.shape[1] ** 2, self.columns)

        width = 2 * self.codes.shape[2]
        return Grid(
            clock=jnp.zeros((), jnp.int32),
            refused=jnp.zeros((), jnp.int32),
            value=jnp.zeros(shape),
            writes=jnp.zeros(shape, jnp.int32),
            mean=jnp.zeros(width),
            variance=jnp.ones(width),
        )

    def write(self, store: Grid, entries: Entries, keep: Bool[Array, "block"]) -> Grid:
        """Each kept entry moves the values of its action in its `spread` best slots by alpha x weight of the way.

        The first value that a slot learns, it takes whole. Entries of the same slot move it one after the other. Which
        slots are best goes by the keys of all blocks so far, this one included. What is not finite is not written, but
        counted in `refused`, and so is a key with numbers beyond `LARGEST`.
        """
        if len(keep) == 1:  # a second one, not kept: XLA writes single rows in a way that copies the tables
            entries, keep = jax.tree.map(lambda x: jnp.concatenate([x, x]), entries), jnp.append(keep, False)
        keys = jnp.concatenate([entries.key, entries.features], axis=1) if self.offered else entries.key
        column = jnp.zeros(len(keep), jnp.int32) if self.offered else entries.action
        fit = (jnp.abs(keys) < LARGEST).all(1) & jnp.isfinite(entries.value) & (column >= 0) & (column < self.columns)
        refused, keep = store.refused + (keep & ~fit).sum(dtype=jnp.int32), keep & fit
        mean, variance = _seen(store, keys, keep)
        scores, slots = self._best(standardised(keys, mean, variance), self.spread)
        step = self.alpha * jax.nn.softmax(scores).reshape(-1)
        cell = jnp.where(keep[:, None], slots * self.columns + column[:, None], store.value.size).reshape(-1)
        value, writes = self._written(store, cell, jnp.repeat(entries.value, self.spread), step)
        clock = jnp.minimum(store.clock + keep.sum(dtype=jnp.int32), TURN)  # far beyond what a rate of it can tell
        return Grid(clock, refused, value, writes, mean, variance)

    def _written(
        self, store: Grid, cell: Int[Array, "writes"], target: Float[Array, "writes"], step: Float[Array, "writes"]
    ) -> tuple[Float[Array, "slots columns"], Int[Array, "slots columns"]]:
        """Values and counts after these cells were moved towards their targets, one after the other.

        A cell past the end is dropped.
        """
        order = jnp.argsort(cell, stable=True)
        cell, target, step = cell[order], target[order], step[order]
        opens = jnp.concatenate([jnp.ones(1, bool), cell[1:] != cell[:-1]])
        closes = jnp.concatenate([opens[1:], jnp.ones(1, bool)])
        nth = jnp.arange(len(cell))
        since = nth - jax.lax.cummax(jnp.where(opens, nth, 0)) + 1  # writes of the slot in this block so far
        place = (jnp.minimum(cell, store.value.size - 1) // self.columns, cell % self.columns)
        # Held back until both are taken: a table that is still to be read would be copied before it is written to.
        value, count = jax.lax.optimization_barrier((store.value[place], store.writes[place]))
        value = _moved(value, target, jnp.where(opens & (count == 0), 1.0, step), opens)
        # The last write of a slot leaves its numbers there; the others, and what is not kept, go past the end.
        last = (jnp.where(closes, cell // self.columns, len(store.value)), place[1])
        return store.value.at[last].set(value, mode="drop"), store.writes.at[last].set(
            jnp.minimum(count, TURN) + since, mode="drop"
        )

    def read(
        self,
        store: Grid,
        query: Float[Array, "embedding"],
        offered: Float[Array, "actions features"] | None = None,
    ) -> MemoryRead:
        """The attention-weighted value for each action, of those of the best slots that know it.

        Raises SpaceError where features of actions are missing or unexpected.
        """
        given = 0 if offered is None else offered.shape[1]
        if given != self.offered:
            raise SpaceError(
                f"external=product-key was built for {self.offered} features of each action, but {given} were given; "
                "build it with as many as the observation's 'offered' has, 0 for a fixed set"
            )
        store = jax.lax.stop_gradient(store)
        queries = query[None]
        if offered is not None:
            queries = jnp.concatenate([jnp.tile(query, (len(offered), 1)), offered], axis=1)
        scores, slots = self._best(standardised(queries, store.mean, store.variance), self.neighbours)
        count, value = store.writes[slots], store.value[slots]  # [rows, neighbours, columns]: 1 row, or 1 column
        scores, ids = scores[..., None], slots[..., None] * self.columns + jnp.arange(self.columns)
        scores, ids, count, value = (_by_action(part, self.columns) for part in (scores, ids, count, value))
        known = count > 0
        weights = attend(jnp.zeros_like(value) if self.uniform else scores, known)
        trust = jnp.where(known, count / (count + self.pseudo_count), 0.0)
        return MemoryRead(
            jnp.zeros(0),
            weights[None],
            jnp.where(known, ids, -1)[None],
            (weights * value).sum(-1),
            (jax.nn.softmax(scores) * trust).sum(-1),
        )

    def fetch(self, store: Grid, ids: Int[Array, "block"]) -> Entries:
        """See `ExternalMemory.fetch`. Action and value alone are stored, of offered actions the value alone."""
        count, width = len(ids), 2 * self.codes.shape[-1]
        slot, column = self._cells(ids)
        found = Entries(
            key=jnp.zeros((count, width - self.offered)),
            action=column,
            features=jnp.zeros((count, self.offered)),
            value=store.value[slot, column],
            td_error=jnp.zeros(count),
            hash=jnp.zeros((count, 2), jnp.uint32),
            origin=jnp.full((count, 3), -1, jnp.int32),
        )
        return known_rows(found, ids)

    def holds(self, store: Grid, ids: Int[Array, "block"]) -> Bool[Array, "block"]:
        """See `ExternalMemory.holds`."""
        return (ids >= 0) & store.live[self._cells(ids)]

    def hide(self, store: Grid, ids: Int[Array, "block"]) -> Grid:
        """See `ForgettingMemory.hide`. What hides is all that was written into a slot for an action."""
        slot, column = self._cells(ids)
        row = jnp.where(ids >= 0, slot, len(store.writes))
        return store._replace(writes=store.writes.at[row, column].set(0, mode="drop"))

    def forget(self, store: Grid, gone: Bool[Array, "capacity"]) -> Grid:
        """See `ForgettingMemory.forget`. No keys are stored: their mean and variance still count those that are gone.

        All else is as if nothing had been written into these slots for these actions. Ids stay.
        """
        gone = gone.reshape(store.writes.shape)
        return store._replace(value=jnp.where(gone, 0, store.value), writes=jnp.where(gone, 0, store.writes))

    def notes(self, store: Grid, ids: Int[Array, "block"]) -> Notes:
        """See `ForgettingMemory.notes`: how often a slot was written to for an action."""
        return Notes(count=store.writes[self._cells(ids)], writes=store.clock)

    def edit(self, store: Grid, ids: Int[Array, "block"], values: Float[Array, "block"]) -> Grid:
        """See `forgetting.edit`."""
        slot, column = self._cells(ids)
        row = jnp.where(ids >= 0, slot, len(store.value))
        return store._replace(value=store.value.at[row, column].set(values, mode="drop"))

    def _cells(self, ids: Int[Array, "block"]) -> tuple[Int[Array, "block"], Int[Array, "block"]]:
        """Slot and column of each id; those of 0 for -1."""
        known = jnp.maximum(ids, 0)
        return known // self.columns, known % self.columns

    def touch(self, store: Grid, entries: Int[Array, "reads"], weights: Float[Array, "reads"]) -> Grid:
        """The store as it is: nothing is evicted here, so no read needs to be noted."""
        return store

    def _best(self, keys: Float[Array, "rows width"], k: int) -> tuple[Float[Array, "rows k"], Int[Array, "rows k"]]:
        """Scores and numbers of the k best slots, best first. The choice has no gradient; the scores have."""
        halves = keys.reshape(len(keys), 2, -1) * (keys.shape[1] ** -0.5 / self.temperature)
        scores = jnp.einsum("rhd,hcd->hrc", halves, self.codes)
        halted = jax.lax.stop_gradient(scores)
        first, second = best_pairs(halted[0], halted[1], k)
        total = jnp.take_along_axis(scores[0], first, 1) + jnp.take_along_axis(scores[1], second, 1)
        return total, first * self.codes.shape[1] + second


def standardised(
    keys: Float[Array, "rows width"], mean: Float[Array, "width"], variance: Float[Array, "width"]
) -> Float[Array, "rows width"]:
    """What is compared with the codes: of length sqrt(width), as they are at the start."""
    apart = (keys - mean) * jax.lax.rsqrt(variance + 1e-12)
    return jax.vmap(normalised)(apart.clip(-FARTHEST, FARTHEST))


def _seen(
    store: Grid, keys: Float[Array, "block width"], keep: Bool[Array, "block"]
) -> tuple[Float[Array, "width"], Float[Array, "width"]]:
    """Mean and variance of all keys written, those to keep of this block included; the newest count more in the end.

    One key of 0 with a variance of 1 stands at the beginning.
    """
    count = keep.sum(dtype=jnp.int32)
    rate = jnp.maximum(count / (store.clock + count + 1), jnp.minimum(count / HORIZON, 1.0))
    kept = jnp.where(keep[:, None], keys, 0)  # what is not kept may be NaN, which 0 would not cancel
    mean = kept.sum(0) / jnp.maximum(count, 1)
    spread = jnp.where(keep[:, None], (keys - mean) ** 2, 0).sum(0) / jnp.maximum(count, 1)
    apart = mean - store.mean
    variance = (1 - rate) * store.variance + rate * spread + rate * (1 - rate) * apart**2
    return store.mean + rate * apart, variance


def best_pairs(
    first: Float[Array, "rows codes"], second: Float[Array, "rows codes"], k: int
) -> tuple[Int[Array, "rows k"], Int[Array, "rows k"]]:
    """The k pairs (i, j) with the greatest first[i] + second[j], best first, of all codes x codes pairs.

    With both sides in falling order, places counted from 1, a pair at (a, b) has a x b - 1 others that are at least as
    good. So only those with a x b <= k can be needed: about k ln k of the k x k. Among equal sums any may be chosen.
    """
    near = min(k, first.shape[1])
    (one, i), (two, j) = jax.lax.top_k(first, near), jax.lax.top_k(second, near)
    places = np.arange(1, near + 1)
    a, b = np.nonzero(places[:, None] * places <= k)
    best = jax.lax.top_k(one[:, a] + two[:, b], k)[1]
    return jnp.take_along_axis(i, jnp.asarray(a)[best], 1), jnp.take_along_axis(j, jnp.asarray(b)[best], 1)


def _moved(
    before: Float[Array, "writes"], target: Float[Array, "writes"], step: Float[Array, "writes"], opens: Array
) -> Float[Array, "writes"]:
    """v <- v + step (target - v) one after the other, beginning with `before` at each place that opens a slot."""
    keep = jnp.where(opens, 0.0, 1 - step)
    add = step * target + jnp.where(opens, (1 - step) * before, 0.0)
    return jax.lax.associative_scan(lambda x, y: (x[0] * y[0], y[0] * x[1] + y[1]), (keep, add))[1]


def _by_action(part: Array, columns: int) -> Array:
    """[rows, neighbours, columns], of which one is 1, as [actions, neighbours]."""
    if part.shape[-1] == 1 and columns == 1:
        return part[..., 0]
    return jnp.broadcast_to(part[0].T, (columns, part.shape[1]))
