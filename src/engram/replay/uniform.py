"""`uniform`: every row that may start an example is as likely as any other."""

from jaxtyping import Array, Bool, PyTree, UInt32

from engram.registry import register
from engram.replay import sampling
from engram.replay.draw import Drawn, Embed, Growth, Reach, Surprise
from engram.replay.ring import Ring
from engram.specs import spec


@register("draw", "uniform")
@spec
class UniformSpec:
    """Uniform with replacement over the rows of all lanes. Source: Mnih et al. 2015 (Nature 518)."""

    words = 1
    compares = False

    def init(self, rows: int, lanes: int) -> PyTree:
        return None

    def grown(self, state: PyTree, growth: Growth) -> PyTree:
        return state

    def draw(self, state: PyTree, ring: Ring, reach: Reach, bits: UInt32[Array, "batch words"], embed: Embed) -> Drawn:
        return Drawn(*sampling.uniform_rows(ring, bits[:, 0], reach.after, reach.before))

    def learned(self, state: PyTree, drawn: Drawn, surprise: Surprise, keep: Bool[Array, ""]) -> PyTree:
        return state
