"""`product-key`: a fixed grid of slots that holds a million values and is read in well under a millisecond.

A key is cut into two halves, and each half is compared with `codes` learned codes. A slot is a pair of codes, and its
score is the sum of theirs. So the best of codes x codes slots are found among the best codes of each half: exactly,
after 2 x codes comparisons.

Nothing is searched for, built or ever full, and no key is stored: what a slot stands for is learned. Where two
situations share their best slot, they share its value. What another memory evicts is here overwritten, bit by bit.

Source: Lample et al. 2019 (arXiv 1907.05242), section 3.1. Departures: slots hold a value for each action that is moved
towards returns, as a table's is (Pritzel et al. 2017, arXiv 1703.01988, eq. 4), and is not learned by gradients; keys
are normalised by what was written so far, where the paper takes the batch, and to one length.

Without the first of these, the keys of one network would hardly spread: they have most of their length in common, and
a million of them shared a hundred slots.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from engram.errors import SpaceError, SpecError
from engram.external.memory import Entries
from engram.nn.attention import attend
from engram.nn.layers import normalised
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

    codes: int = setting(1024, "codes for each half of a key; there are codes x codes slots for each action", low=1)
    neighbours: int = setting(50, "slots that a read attends to", low=1)
    spread: int = setting(1, "slots that a write moves, in proportion to their attention", low=1)
    alpha: float = setting(
        0.1, "step size: share of the way to a new return that a value moves at most", above=0, high=1
    )
    temperature: float = setting(0.2, "divides the scores: lower attends more to the best slot", above=0)
    doubt: float = setting(1.0, "writes at which a slot is trusted by half", low=0)
    uniform: bool = setting(False, "control: all slots that are read weigh the same")

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


class Slots(NamedTuple):
    """What is known of each slot and action. Where actions are offered by their features there is one column.

    A slot and action is named by one number, its id: slot x columns + column, where the slot is first code x codes +
    second code.
    """

    clock: Int[Array, ""]  # writes so far
    refused: Int[Array, ""]  # entries offered with numbers that are not finite, or for an action that there is not
    value: Float[Array, "slots columns"]  # in units of return
    writes: Int[Array, "slots columns"]  # writes of it; 0 where nothing is known
    written: Int[Array, "slots columns"]  # the clock at its last write
    read: Int[Array, "slots columns"]  # the clock when it was last touched
    attention: Float[Array, "slots columns"]  # received since the beginning
    hash: UInt32[Array, "slots columns 2"]  # of the observation that wrote it last
    origin: Int[Array, "slots columns 3"]  # where that came from
    mean: Float[Array, "width"]  # of the keys written so far
    variance: Float[Array, "width"]  # of the same

    @property
    def live(self) -> Bool[Array, "*seeds slots columns"]:
        """Which slots know something of which action."""
        return self.writes > 0


class ProductKey(eqx.Module):
    """Two tables of codes; the gradient of a read reaches the codes that it attended to, and the query.

    Weights are the softmax of the scores over those of the `neighbours` best slots that know the action. Confidence is
    the share of the attention over all of these slots that falls on slots that know the action, each trusted by
    count / (count + doubt).
    """

    codes: Float[Array, "2 codes half"]
    neighbours: int = eqx.field(static=True)
    spread: int = eqx.field(static=True)
    columns: int = eqx.field(static=True)
    offered: int = eqx.field(static=True)
    alpha: float = eqx.field(static=True)
    temperature: float = eqx.field(static=True)
    doubt: float = eqx.field(static=True)
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
        self.alpha, self.temperature, self.doubt = numbers.alpha, numbers.temperature, numbers.doubt
        self.uniform = numbers.uniform

    def init(self) -> Slots:
        """Slots that know nothing."""
        shape = (self.codes.shape[1] ** 2, self.columns)

        def zeros(kind: type, *more: int) -> Array:
            return jnp.zeros((*shape, *more), kind)

        return Slots(
            jnp.zeros((), jnp.int32),
            jnp.zeros((), jnp.int32),
            zeros(jnp.float32),
            zeros(jnp.int32),
            zeros(jnp.int32),
            zeros(jnp.int32),
            zeros(jnp.float32),
            zeros(jnp.uint32, 2),
            zeros(jnp.int32, 3),
            jnp.zeros(2 * self.codes.shape[2]),
            jnp.ones(2 * self.codes.shape[2]),
        )

    def write(self, store: Slots, entries: Entries, keep: Bool[Array, "block"]) -> Slots:
        """Each kept entry moves the values of its action in its `spread` best slots by alpha x weight of the way.

        The first value that a slot learns, it takes whole. Entries of the same slot move it one after the other. Which
        slots are best goes by the keys of all blocks so far, this one included. What is not finite is not written, but
        counted in `refused`, and so is a key with numbers beyond `LARGEST`.
        """
        if len(keep) == 1:  # a second one, not kept: XLA writes single rows in a way that copies the tables
            entries, keep = jax.tree.map(lambda x: jnp.concatenate([x, x]), entries), jnp.append(keep, False)
        block, spread = len(keep), self.spread
        keys = jnp.concatenate([entries.key, entries.features], axis=1) if self.offered else entries.key
        column = jnp.zeros(block, jnp.int32) if self.offered else entries.action
        fit = (jnp.abs(keys) < LARGEST).all(1) & jnp.isfinite(entries.value) & (column >= 0) & (column < self.columns)
        refused, keep = store.refused + (keep & ~fit).sum(dtype=jnp.int32), keep & fit
        mean, variance = _seen(store, keys, keep)
        scores, slots = self._best(standardised(keys, mean, variance), spread)
        step = self.alpha * jax.nn.softmax(scores).reshape(-1)
        size = store.value.size
        cell = jnp.where(keep[:, None], slots * self.columns + column[:, None], size).reshape(-1)
        clock = store.clock + jnp.cumsum(keep, dtype=jnp.int32)
        order = jnp.argsort(cell, stable=True)
        entry, cell, step = order // spread, cell[order], step[order]
        opens = jnp.concatenate([jnp.ones(1, bool), cell[1:] != cell[:-1]])
        closes = jnp.concatenate([opens[1:], jnp.ones(1, bool)])
        nth = jnp.arange(block * spread)
        since = nth - jax.lax.cummax(jnp.where(opens, nth, 0)) + 1  # writes of the slot in this block so far
        place = (jnp.minimum(cell, size - 1) // self.columns, cell % self.columns)
        # Held back until both are taken: a table that is still to be read would be copied before it is written to.
        value, count = jax.lax.optimization_barrier((store.value[place], store.writes[place]))
        step = jnp.where(opens & (count == 0), 1.0, step)
        value = _moved(value, entries.value[entry], step, opens)
        # What only the last write of a slot leaves there; what must not be written goes past the end, and is dropped.
        row = cell // self.columns
        last = (jnp.where(closes, row, len(store.value)), place[1])
        return store._replace(
            clock=clock[-1],
            refused=refused,
            value=store.value.at[last].set(value, mode="drop"),
            writes=store.writes.at[last].set(count + since, mode="drop"),
            written=store.written.at[last].set(clock[entry], mode="drop"),
            hash=store.hash.at[last].set(entries.hash[entry], mode="drop"),
            origin=store.origin.at[last].set(entries.origin[entry], mode="drop"),
            mean=mean,
            variance=variance,
        )

    def read(
        self,
        store: Slots,
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
        trust = jnp.where(known, count / (count + self.doubt), 0.0)
        return MemoryRead(
            jnp.zeros(0),
            weights[None],
            jnp.where(known, ids, -1)[None],
            (weights * value).sum(-1),
            (jax.nn.softmax(scores) * trust).sum(-1),
        )

    def touch(self, store: Slots, entries: Int[Array, "reads"], weights: Float[Array, "reads"]) -> Slots:
        """Notes the time and the attention; nothing here is evicted by them."""
        cell = jnp.where(entries < 0, store.value.size, entries)
        place = (cell // self.columns, cell % self.columns)
        return store._replace(
            read=store.read.at[place].set(store.clock, mode="drop"),
            attention=store.attention.at[place].add(weights, mode="drop"),
        )

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
    store: Slots, keys: Float[Array, "block width"], keep: Bool[Array, "block"]
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
