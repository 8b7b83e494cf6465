"""What every draw is: which rows of the replay to learn from, and what is learned of them.

    @register("draw", "mine")
    @spec
    class MySpec:
        @property
        def words(self): return 1

        def init(self, rows, lanes): return None
        def grown(self, state, growth): return state
        def draw(self, state, ring, reach, bits, embed): ...
        def learned(self, state, drawn, surprise, keep): return state

The ring stays append-only; what a draw keeps about its rows is a tree of arrays beside it, in every checkpoint.
`engram.testing.check_draw` holds a draw of your own to this page.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from engram.registry import declare
from engram.replay.ring import Ring, Rows


class Reach(NamedTuple):
    """What an example needs around the row it starts at, beside that row."""

    after: int  # rows that follow it
    before: int  # rows that precede it: the frames of a stack, the previous action


class Growth(NamedTuple):
    """What writing rows changed: row numbers before.cursor to after.cursor of each lane are new."""

    before: Ring
    after: Ring
    reach: Reach
    rows: int  # new rows of a lane, at most


class Drawn(NamedTuple):
    """The rows that examples start at. Leading axis [batch]."""

    row: Int[Array, "batch"]  # row numbers, as the ring counts them
    lane: Int[Array, "batch"]
    importance: Float[Array, "batch"] | None = None  # weight of each example's loss; None where all weigh the same
    note: PyTree = None  # whatever `learned` is to be given back
    goal: Int[Array, "batch"] | None = (
        None  # row whose achieved goal an example is given, -1 for its own; see hindsight
    )
    whole: Bool[Array, "batch"] | None = None  # whether all its rows are there; None where none can be lost


class Surprise(NamedTuple):
    """How wrong the example of each drawn row was, before the update.

    Of a window it is 0.9 of the greatest and 0.1 of the mean over its rows (Kapturowski et al. 2019, section 2.3),
    wherever the window was moved to: it is what drawing that row brings.
    """

    error: Float[Array, "batch"]  # absolute TD error: the distance of the means, in units of return
    loss: Float[Array, "batch"]  # of the predicted return against its target; for distributions more than the error
    taught: Bool[Array, "batch"] | None = None  # whether it has a target; None where all do


# Whether examples are given other goals, for which observations need some; see hindsight.py.
declare("draw", relabels=False)

Embed = Callable[[Int[Array, ""], Int[Array, ""]], Float[Array, "embedding"]]  # of the observation at a row and lane


class DrawSpec(Protocol):
    """What was chosen about drawing; it has no learned weights, so the spec itself is called."""

    @property
    def words(self) -> int:
        """Random 32-bit words that drawing one example takes."""
        ...

    @property
    def compares(self) -> bool:
        """Whether it calls `embed`: then it is for networks without a working memory."""
        ...

    def init(self, rows: int, lanes: int) -> PyTree:
        """What is kept about an empty ring of `rows` rows for each lane: a tree of arrays, or None."""
        ...

    def grown(self, state: PyTree, growth: Growth) -> PyTree:
        """The state after rows were written.

        Keep places (row % capacity), not row numbers: those of a lane begin anew once in 2^29 rows.
        """
        ...

    def draw(self, state: PyTree, ring: Ring, reach: Reach, bits: UInt32[Array, "batch words"], embed: Embed) -> Drawn:
        """The rows of a batch. Only rows that `sampling.startable` allows may be drawn."""
        ...

    def learned(self, state: PyTree, drawn: Drawn, surprise: Surprise, keep: Bool[Array, ""]) -> PyTree:
        """The state after an update; where not `keep` the update was refused, and the state stays as it is.

        A batch may hold a row twice. Write past the end where not `keep`: selecting between two states copies them.
        """
        ...


class Replay(eqx.Module):
    """What an agent that replays keeps: the rows, and what drawing keeps about them."""

    ring: Any  # a Ring; None while a runner keeps the rows elsewhere
    drawing: PyTree
    given: "Replay | None" = None  # demonstrations that are kept for ever; None without any

    @property
    def rows(self) -> Rows:
        """The rows alone: the agent's own, and then those of demonstrations."""
        return (self.ring,) if self.given is None else (self.ring, self.given.ring)

    @property
    def drawings(self) -> tuple[PyTree, PyTree]:
        """What drawing keeps about the agent's own rows, and about those of demonstrations."""
        return self.drawing, None if self.given is None else self.given.drawing

    def with_rows(self, rows: Rows) -> "Replay":
        """The same with these rows, as `rows` gives them; nothing takes them out."""
        own, *further = rows or (None, None)
        return Replay(own, self.drawing, None if self.given is None else Replay(further[0], self.given.drawing))

    def with_drawings(self, drawings: tuple[PyTree, PyTree]) -> "Replay":
        """The same with these, as `drawings` gives them."""
        own, given = drawings
        return Replay(self.ring, own, None if self.given is None else Replay(self.given.ring, given))
