"""A ring whose observations and carries lie elsewhere: in shards, which other processes keep (`engram.cluster`).

The learner keeps what a draw looks at, the narrow columns of a row: is_first, action, reward, terminated, sign. The
wide ones, observation and carry, are sent away when a row is written, and fetched for the rows of a batch. The learner
calls out for both from its compiled program. What was drawn is as it would be here, so a batch is the same to the last
bit.

No clock and no token orders the calls, but what each of them needs. A write gives the cursor back, and a draw is made
with the cursor. A write is given a number that the update before it gave, so it comes after that update's fetch.
"""

from typing import Any, NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jaxtyping import Array, Bool, Int, PyTree

from engram.replay import ring as rings
from engram.replay.draw import Reach
from engram.replay.ring import Ring, turn_of
from engram.trees import named
from engram.types import TimeStep


class Link(Protocol):
    """What a ring calls out to, with NumPy arrays. Row numbers are modulo `ring.turn_of(capacity)`."""

    def store(self, lane: np.ndarray, row: np.ndarray, columns: list[np.ndarray]) -> None:
        """New rows of these lanes [rows]; leaves of the wide columns [rows, ...]."""
        ...

    def fetch(self, lane: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Whether each row is there [rows], and the leaves of its wide columns; zeros where it is not."""
        ...


LINKS: dict[str, Link] = {}  # by the name that a ring has: what a compiled program calls is no value of it


class Elsewhere(eqx.Module):
    """In the place of a ring's observations: who is asked for them, and their form. It has no leaves."""

    link: str = eqx.field(static=True)
    form: Any = eqx.field(static=True)  # structure of (observation, carry)
    leaves: tuple[jax.ShapeDtypeStruct, ...] = eqx.field(static=True)  # of one row


class Batch(NamedTuple):
    """The rows of a batch as a ring of their own, with a lane for each example."""

    ring: Ring
    row: Int[Array, "batch"]  # where each example begins
    lane: Int[Array, "batch"]
    whole: Bool[Array, "batch"]  # whether all its rows are there, but for those from before the first of its lane


def wide(rows: TimeStep) -> PyTree:
    """The columns that are kept elsewhere."""
    return {"observation": rows.observation, "carry": rows.carry}


def layout(ring: Ring) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """Name, dtype and shape of one row for each leaf of the wide columns of a ring that has them, or of its shapes."""
    return tuple((name, str(leaf.dtype), tuple(leaf.shape[2:])) for name, leaf in named(wide(ring.rows)).items())


def without_wide(ring: Ring, link: str) -> Ring:
    """An empty ring without its wide columns, which `link` keeps from now on."""
    leaves, form = jax.tree.flatten(wide(ring.rows))
    each = tuple(jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype) for leaf in leaves)
    return Ring(_narrow(ring.rows, Elsewhere(link, form, each)), ring.cursor, ring.turns)


def _narrow(rows: TimeStep, observation: PyTree, carry: PyTree = None) -> TimeStep:
    return TimeStep(observation, rows.is_first, rows.action, rows.reward, rows.terminated, carry, rows.sign)


def write(ring: Ring, rows: TimeStep, keep: Bool[Array, "time envs"], after: Int[Array, ""]) -> Ring:
    """See `ring.write`. `after`: a number that was computed from all that was fetched before."""
    away: Elsewhere = ring.rows.observation
    number = rings.numbers(ring, keep)
    written = rings.write(ring, _narrow(rows, away), keep)
    pairs = zip(jax.tree.leaves(wide(rows)), away.leaves, strict=True)
    leaves = [leaf.astype(like.dtype) for leaf, like in pairs]

    def store(cursor: Any, _: Any, number: Any, keep: Any, *leaves: Any) -> np.ndarray:
        taken = np.asarray(keep)
        lane = np.broadcast_to(np.arange(taken.shape[1]), taken.shape)[taken]
        row = np.asarray(number)[taken] % turn_of(ring.capacity)
        LINKS[away.link].store(lane, row, [np.asarray(leaf)[taken] for leaf in leaves])
        return np.asarray(cursor)

    shape = jax.ShapeDtypeStruct(written.cursor.shape, written.cursor.dtype)
    cursor = io_callback(store, shape, written.cursor, after, number, keep, *leaves)
    return Ring(written.rows, cursor, written.turns)


def fetched(ring: Ring, row: Int[Array, "batch"], lane: Int[Array, "batch"], reach: Reach) -> Batch:
    """What examples that begin at these rows need. One request brings all of it.

    Where an example begins comes with the answer, though it is known: what follows is then compiled as from a ring that
    is here, and not with slices in the place of gathers, which would round otherwise.
    """
    away: Elsewhere = ring.rows.observation
    span, batch = reach.before + 1 + reach.after, len(row)
    number = row - reach.before + jnp.arange(span)[:, None]
    kinds = [jax.ShapeDtypeStruct((span, batch, *leaf.shape), leaf.dtype) for leaf in away.leaves]

    def fetch(_: Any, number: Any, lane: Any) -> tuple[np.ndarray, ...]:
        numbers, lanes = np.asarray(number), np.broadcast_to(np.asarray(lane), (span, batch))
        exists = numbers >= 0
        there, found = LINKS[away.link].fetch(lanes[exists], numbers[exists] % turn_of(ring.capacity))
        whole, leaves = np.ones((span, batch), bool), [np.zeros(kind.shape, kind.dtype) for kind in kinds]
        whole[exists] = there
        for leaf, column in zip(leaves, found, strict=True):
            leaf[exists] = column
        complete = np.asarray(whole.all(0))
        return complete, np.full(batch, reach.before, np.int32), np.arange(batch, dtype=np.int32), *leaves

    flags, numbers = (jax.ShapeDtypeStruct((batch,), kind) for kind in (jnp.bool_, jnp.int32))
    whole, first, where, *leaves = io_callback(fetch, (flags, numbers, numbers, *kinds), ring.cursor, number, lane)
    brought = jax.tree.unflatten(away.form, leaves)
    place = number % ring.capacity
    rows = _narrow(ring.rows, None)
    rows = jax.tree.map(lambda column: column[place, lane], rows)
    rows = _narrow(rows, brought["observation"], brought["carry"])
    return Batch(Ring(rows, jnp.full(batch, span, jnp.int32)), first, where, whole)
