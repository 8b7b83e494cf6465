"""`prioritized`: rows whose last surprise was large are drawn more often, and weigh less.

The state is a tree of sums beside the ring. Its nodes have 64 children, not 2: a search then takes two to four
small steps where a binary tree takes twenty, each of which depends on the one before and costs a kernel.

A row enters when an example can start at it (its successors are there) and leaves when what it needs is overwritten.
So whatever has a priority may be drawn, and a draw needs no second look at the ring.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from engram.bits import held_back, uniform
from engram.errors import SpecError
from engram.ranges import Linear
from engram.registry import register
from engram.replay.draw import Drawn, Embed, Growth, Reach, Surprise
from engram.replay.ring import Ring
from engram.replay.sampling import startable
from engram.specs import setting, spec

SIDE = 8  # a node's children are looked at as a square of so many
FAN, LEVELS = SIDE**2, 4  # children of a node, and levels at most: room for 16.7 million rows
TINY = 1e-30  # in place of nothing, before anything can be drawn
PAST = 1 << 30  # a place past the end of every level, which a scatter drops


class Priorities(NamedTuple):
    """What is kept about the rows of a ring. The place of row r of a lane is lane * rows + r % rows."""

    sums: tuple[Float[Array, "_"], ...]  # from the top level to the rows: of priority^exponent below each node
    highest: Float[Array, ""]  # the greatest priority so far, which new rows begin with
    updates: Int[Array, ""]  # so far


@register("draw", "prioritized")
@spec
class PrioritizedSpec:
    """Rows in proportion to their last surprise, and weights that undo the bias. Source: Schaul et al. 2016.

    A batch is stratified at the top of the tree. Its weights are divided by their greatest.
    """

    exponent: float = setting(
        0.6, "alpha: 0 draws uniformly, 1 in proportion to the surprise", low=0, high=1, search=Linear(0.1, 1.0)
    )
    correction: float = setting(
        0.4, "beta at the start: the share of the bias that weights undo", low=0, high=1, search=Linear(0.1, 1.0)
    )
    final_correction: float = setting(1.0, "beta at the end", low=0, high=1)
    correction_updates: int = setting(100_000, "updates over which beta changes linearly", low=1)
    by: Literal["error", "loss"] = setting(
        "error", "surprise is the distance of the mean returns (error), or the loss of their distributions (loss)"
    )
    floor: float = setting(1e-3, "added to a surprise, so that no row is forgotten", above=0)

    words = LEVELS
    compares = False

    def init(self, rows: int, lanes: int) -> Priorities:
        nodes, sizes = rows * lanes, []
        if nodes > FAN**LEVELS:
            raise SpecError(
                f"draw=prioritized has room for {FAN**LEVELS:,} rows, but replay.capacity holds {nodes:,}; lower it"
            )
        while not sizes or nodes > 1:
            nodes = -(-nodes // FAN)
            sizes.insert(0, nodes * FAN)
        return Priorities(tuple(map(jnp.zeros, sizes)), jnp.ones(()), jnp.int32(0))

    def grown(self, state: Priorities, growth: Growth) -> Priorities:
        """Rows that have become able to start an example get the greatest priority so far; the others none."""
        reach, rows = growth.reach, growth.after.capacity
        (first, count), (now, more) = (
            startable(ring, reach.after, reach.before) for ring in (growth.before, growth.after)
        )
        # When a ring begins to overwrite, the rows that precede its oldest examples are lost all at once.
        gone = first + jnp.arange(growth.rows + reach.before)[:, None]
        new = first + count + jnp.arange(growth.rows)[:, None]
        left = _places(gone, (gone < now) & (gone < first + count), rows)
        entered = _places(new, (new >= now) & (new < now + more), rows)
        leaves = state.sums[-1].at[left].set(0.0, mode="drop").at[entered].set(self._power(state.highest), mode="drop")
        return state._replace(sums=_summed(state.sums, leaves, jnp.concatenate([left, entered])))

    def draw(
        self, state: Priorities, ring: Ring, reach: Reach, bits: UInt32[Array, "batch words"], embed: Embed
    ) -> Drawn:
        batch, chance = len(bits), uniform(bits)
        chance = chance.at[:, 0].set((jnp.arange(batch) + chance[:, 0]) / batch)
        place = jax.vmap(partial(_found, state.sums))(chance)
        first, _ = startable(ring, reach.after, reach.before)
        lane, at = place // ring.capacity, place % ring.capacity
        row = first[lane] + (at - first[lane]) % ring.capacity
        share = jnp.maximum(state.sums[-1][place], TINY)
        # Relative to the greatest weight, that of the least likely row of the batch: number and total cancel.
        weight = (share / share.min()) ** -self._beta(state)
        return Drawn(row, lane, weight, place)

    def learned(self, state: Priorities, drawn: Drawn, surprise: Surprise, keep: Bool[Array, ""]) -> Priorities:
        """Of a row that was drawn twice the greater surprise counts: a batch has no order.

        A row that has no target, or whose example is not whole any more, is not drawn again. Its priority would be the
        least there is, and all weights are relative to that of the least likely row of a batch.
        """
        priority = (surprise.error if self.by == "error" else surprise.loss) + self.floor
        place, power = jnp.where(keep, drawn.note, PAST), self._power(priority)
        for counts in (drawn.whole, surprise.taught):
            if counts is not None:
                power = jnp.where(counts, power, 0.0)
        leaves = state.sums[-1].at[place].set(0.0, mode="drop").at[place].max(power, mode="drop")
        highest = jnp.where(keep, jnp.maximum(state.highest, priority.max()), state.highest)
        updates = held_back(state.updates, 1) + keep
        return Priorities(_summed(state.sums, leaves, place), highest, updates)

    def _power(self, priority: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return priority**self.exponent

    def _beta(self, state: Priorities) -> Float[Array, ""]:
        done = jnp.minimum(state.updates / self.correction_updates, 1.0)
        return self.correction + (self.final_correction - self.correction) * done


def _places(number: Int[Array, "new lanes"], which: Bool[Array, "new lanes"], rows: int) -> Int[Array, "places"]:
    """The places of rows by their numbers; past the end where not `which`."""
    place = jnp.arange(number.shape[1]) * rows + number % rows
    return jnp.where(which, place, PAST).reshape(-1)


def _children(level: Float[Array, "nodes"], parent: Int[Array, ""]) -> Float[Array, "fan"]:
    return jax.lax.dynamic_slice(level, (parent * FAN,), (FAN,))


def _summed(
    sums: tuple[Float[Array, "_"], ...], leaves: Float[Array, "nodes"], changed: Int[Array, "places"]
) -> tuple[Float[Array, "_"], ...]:
    """The tree over new leaves, which differ at the changed places. Sums are made anew, so none drifts."""
    levels, place = [leaves], changed
    for level in sums[-2::-1]:
        place = place // FAN
        below = jax.vmap(partial(_children, levels[0]))(place).sum(-1)
        levels.insert(0, level.at[place].set(below, mode="drop"))
    return tuple(levels)


def _found(sums: tuple[Float[Array, "_"], ...], chance: Float[Array, "words"]) -> Int[Array, ""]:
    """A leaf in proportion to its sum: at each level a child in proportion to its own, by a number of its own.

    One number for all levels would leave a row among millions to the last bits of a float32.
    """
    place = jnp.int32(0)
    for number, level in enumerate(sums):
        children = _children(level, place).reshape(SIDE, SIDE)
        block, rest = _picked(children.sum(1), chance[number])
        child, _ = _picked(children[block], rest)
        place = place * FAN + block * SIDE + child
    return place


def _picked(sums: Float[Array, "side"], chance: Float[Array, ""]) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """One of a few in proportion to its sum, and how far into its own part the chance reached, 0 to 1.

    Running sums are added one by one: a cumulative sum of XLA takes tens of microseconds on a CPU.
    """
    reached = [sums[0]]
    for number in range(1, SIDE):
        reached.append(reached[-1] + sums[number])
    ends = jnp.stack(reached)
    mass = chance * ends[-1]
    last = SIDE - 1 - (sums > 0)[::-1].argmax()  # rounding must not lead to one without any
    found = jnp.minimum((ends <= mass).sum(), last)
    into = (mass - ends[found] + sums[found]) / jnp.maximum(sums[found], TINY)
    return found, into.clip(0, 1)
