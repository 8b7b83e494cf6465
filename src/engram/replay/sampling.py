"""Drawing from the ring: uniform over the rows that may start a target, work proportional to the batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree, UInt32

from engram import spaces
from engram.bits import below
from engram.replay.ring import Ring
from engram.types import TimeStep


def startable(ring: Ring, after: int, before: int) -> tuple[Int[Array, "envs"], Int[Array, "envs"]]:
    """For each lane, the first row number that may start an example, and how many may.

    An example needs the `after` rows that follow its first, so as many of the newest rows are excluded; and the
    `before` rows that precede it (frames of a stack), so that the oldest rows of a ring that has wrapped are excluded.
    Final rows are among the startable ones (a draw that had to step around them could not be uniform); whoever draws
    one gives it weight 0. A draw by priority draws one until it was learned from once.
    """
    oldest = oldest_row(ring) + jnp.where(ring.cursor > ring.capacity, before, 0)
    return oldest, jnp.maximum(ring.cursor - after - oldest, 0)


def oldest_row(ring: Ring) -> Int[Array, "envs"]:
    """The number of the oldest row that each lane still has."""
    return jnp.maximum(ring.cursor - ring.capacity, 0)


def uniform_rows(
    ring: Ring, bits: UInt32[Array, "batch"], after: int, before: int
) -> tuple[Int[Array, "batch"], Int[Array, "batch"]]:
    """Row numbers and lanes, uniform over the startable rows of all lanes, with replacement."""
    first, count = startable(ring, after, before)
    ends = jnp.cumsum(count)
    drawn = below(bits, jnp.maximum(ends[-1], 1))
    lane = (drawn[:, None] >= ends[None, :]).sum(-1).clip(0, ring.envs - 1)
    return first[lane] + drawn - (ends - count)[lane], lane


def of_team(
    row: Int[Array, "batch"], lane: Int[Array, "batch"], agents: int
) -> tuple[Int[Array, "batch_agents"], Int[Array, "batch_agents"]]:
    """The same rows of all agents of each lane's team, next to each other.

    Teams step together, so a row has the same number in all of their lanes.
    """
    first = lane - lane % agents
    return jnp.repeat(row, agents), (first[:, None] + jnp.arange(agents)).reshape(-1)


def back_to_start(
    ring: Ring, row: Int[Array, ""], lane: Int[Array, ""], bits: UInt32[Array, ""], *, reach: int, before: int
) -> Int[Array, ""]:
    """Where to begin the window of a drawn row: with its episode if that began at most `reach` rows earlier.

    A window that begins with its episode fills a working memory as acting filled it. Where the beginning is out of
    reach, the drawn row is anywhere in the window, 0 to `reach` rows from its first: so every row of a long episode is
    learned from, at every distance from the beginning of a window.
    """
    earlier = row - jnp.arange(reach + 1)
    first = startable(ring, 0, before)[0][lane]
    begins = ring.rows.is_first[earlier % ring.capacity, lane] & (earlier >= first)
    back = jnp.where(begins.any(), begins.argmax(), below(bits, reach + 1))
    return jnp.maximum(row - back, first)


def rows_from(ring: Ring, row: Int[Array, ""], lane: Int[Array, ""], length: int) -> TimeStep:
    """Rows row..row+length-1 of one lane, without their observations (see `stacked` for those)."""
    place = (row + jnp.arange(length)) % ring.capacity
    rows = ring.rows
    return TimeStep(
        observation=None,
        is_first=rows.is_first[place, lane],
        action=rows.action[place, lane],
        reward=rows.reward[place, lane],
        terminated=rows.terminated[place, lane],
        sign=None if rows.sign is None else rows.sign[place, lane],
    )


def stacked(ring: Ring, row: Int[Array, ""], lane: Int[Array, ""], stack: int, unknown: bool = False) -> PyTree:
    """The observation at `row` with the `stack - 1` before it, oldest first; `spaces.blank` from before its episode.

    Leaves get a leading axis [stack], also when it is 1.
    """
    place = (row - jnp.arange(stack - 1, -1, -1)) % ring.capacity
    frames = jax.tree.map(lambda column: column[place, lane], ring.rows.observation)
    return hide(frames, ring.rows.is_first[place, lane], unknown) if stack > 1 else frames


def carry_at(ring: Ring, row: Int[Array, ""], lane: Int[Array, ""]) -> PyTree:
    """The working memory's carry that acting had before the observation of one row; None where rows store none."""
    return jax.tree.map(lambda column: column[row % ring.capacity, lane], ring.rows.carry)


def stacked_window(
    ring: Ring, row: Int[Array, ""], lane: Int[Array, ""], length: int, stack: int, unknown: bool = False
) -> PyTree:
    """`stacked` at each of rows row..row+length-1; leaves [length, stack, ...]."""
    if stack == 1:
        place = (row + jnp.arange(length)) % ring.capacity
        return jax.tree.map(lambda column: column[place, lane][:, None], ring.rows.observation)
    return jax.vmap(lambda number: stacked(ring, number, lane, stack, unknown))(row + jnp.arange(length))


def of_episode(is_first: Bool[Array, "stack"]) -> Bool[Array, "stack"]:
    """Which of successive rows belong to the newest one's episode."""
    opened_later = jnp.cumsum(is_first[::-1])[::-1] - is_first
    return opened_later == 0


def hide(frames: PyTree, is_first: Bool[Array, "stack"], unknown: bool = False) -> PyTree:
    """`spaces.blank` for every frame that is older than the newest episode begun within the stack."""
    known = of_episode(is_first)

    def mask(frame: Array) -> Array:
        return jnp.where(
            known.reshape(-1, *[1] * (frame.ndim - 1)),
            frame,
            jnp.asarray(spaces.blank(frame.dtype, unknown), frame.dtype),
        )

    return jax.tree.map(mask, frames)
