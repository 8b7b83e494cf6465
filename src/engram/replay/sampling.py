"""Drawing from the ring: uniform over the rows that may start a target, work proportional to the batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree, UInt32

from engram.bits import below
from engram.replay.ring import Ring
from engram.types import TimeStep


def startable(ring: Ring, n: int, stack: int) -> tuple[Int[Array, "envs"], Int[Array, "envs"]]:
    """For each lane, the first row number that may start an n-step target, and how many may.

    The n newest rows are excluded, for their windows are not complete; so are the oldest `stack - 1` rows of a
    ring that has wrapped, for the frames before them are gone. Final rows are among the startable ones (a draw
    that had to step around them could not be uniform); whoever draws one gives it weight 0.
    """
    wrapped = ring.cursor > ring.capacity
    oldest = jnp.where(wrapped, ring.cursor - ring.capacity + (stack - 1), 0)
    return oldest, jnp.maximum(ring.cursor - n - oldest, 0)


def uniform_rows(
    ring: Ring, bits: UInt32[Array, "batch"], n: int, stack: int
) -> tuple[Int[Array, "batch"], Int[Array, "batch"]]:
    """Row numbers and lanes, uniform over the startable rows of all lanes, with replacement."""
    first, count = startable(ring, n, stack)
    ends = jnp.cumsum(count)
    drawn = below(bits, jnp.maximum(ends[-1], 1))
    lane = (drawn[:, None] >= ends[None, :]).sum(-1).clip(0, ring.envs - 1)
    return first[lane] + drawn - (ends - count)[lane], lane


def window(ring: Ring, row: Int[Array, ""], lane: Int[Array, ""], length: int) -> TimeStep:
    """Rows row..row+length-1 of one lane, without their observations (see `stacked` for those)."""
    place = (row + jnp.arange(length)) % ring.capacity
    rows = ring.rows
    return TimeStep(
        observation=None,
        is_first=rows.is_first[place, lane],
        action=rows.action[place, lane],
        reward=rows.reward[place, lane],
        terminated=rows.terminated[place, lane],
    )


def stacked(ring: Ring, row: Int[Array, ""], lane: Int[Array, ""], stack: int) -> PyTree:
    """The observation at `row` with the `stack - 1` before it, oldest first; zeros from before its episode.

    Leaves get a leading axis [stack], also when it is 1.
    """
    place = (row - jnp.arange(stack - 1, -1, -1)) % ring.capacity
    frames = jax.tree.map(lambda column: column[place, lane], ring.rows.observation)
    return hide(frames, ring.rows.is_first[place, lane]) if stack > 1 else frames


def hide(frames: PyTree, is_first: Bool[Array, "stack"]) -> PyTree:
    """Zeros for every frame that is older than the newest episode begun within the stack."""
    opened_later = jnp.cumsum(is_first[::-1])[::-1] - is_first
    known = opened_later == 0

    def mask(frame: Array) -> Array:
        return jnp.where(known.reshape(-1, *[1] * (frame.ndim - 1)), frame, jnp.zeros((), frame.dtype))

    return jax.tree.map(mask, frames)
