"""`similar`: of several rows drawn uniformly, those most like the present."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree, UInt32

from engram.registry import register
from engram.replay import sampling
from engram.replay.draw import Drawn, Embed, Growth, Reach, Surprise
from engram.replay.ring import Ring
from engram.specs import setting, spec


@register("draw", "similar")
@spec
class SimilarSpec:
    """Attentive experience replay: candidates are drawn uniformly, and the most similar to the present are kept.

    Source: Sun et al. 2020, algorithm 1, there with a number of candidates that falls to 1.
    """

    candidates: int = setting(4, "rows drawn for each one that is learned from", low=2)

    compares = True

    @property
    def words(self) -> int:
        """One for each candidate."""
        return self.candidates

    def init(self, rows: int, lanes: int) -> PyTree:
        return None

    def grown(self, state: PyTree, growth: Growth) -> PyTree:
        return state

    def draw(self, state: PyTree, ring: Ring, reach: Reach, bits: UInt32[Array, "batch words"], embed: Embed) -> Drawn:
        row, lane = sampling.uniform_rows(ring, bits.reshape(-1), reach.after, reach.before)
        kept = most_similar(ring, row, lane, len(bits), embed)
        return Drawn(row[kept], lane[kept])

    def learned(self, state: PyTree, drawn: Drawn, surprise: Surprise, keep: Bool[Array, ""]) -> PyTree:
        return state


def most_similar(
    ring: Ring, row: Int[Array, "drawn"], lane: Int[Array, "drawn"], count: int, embed: Embed
) -> Int[Array, "batch"]:
    """The places of the `count` drawn rows whose embedding is most like that of a newest observation.

    Similarity is the cosine, with several environments to the one that is most alike.
    """

    def direction(row: Array, lane: Array) -> Array:
        found = embed(row, lane)
        return found / jnp.maximum(jnp.linalg.norm(found), 1e-6)

    newest = jax.vmap(direction)(ring.cursor - 1, jnp.arange(ring.envs))
    alike = (jax.vmap(direction)(row, lane) @ newest.T).max(1)
    return jax.lax.top_k(jax.lax.stop_gradient(alike), count)[1]
