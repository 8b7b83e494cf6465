"""`hindsight`: some rows are learned from as if what their episode achieved later had been wanted.

The rows of the ring stay as they were played. A drawn example is given another goal when it is made: the desired goal
of its observations, and the rewards of its steps by the rule of that goal.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from engram.bits import below, uniform
from engram.errors import SpecError
from engram.goals import ACHIEVED, DESIRED, GoalRule
from engram.registry import register
from engram.replay import sampling
from engram.replay.draw import Drawn, Embed, Growth, Reach, Surprise
from engram.replay.ring import Ring
from engram.replay.uniform import UniformSpec
from engram.specs import part, setting, spec

NOT_GIVEN = -1.0


@register("draw", "hindsight")
@spec
class HindsightSpec:
    """Hindsight experience replay: of 1 + `goals` examples, `goals` get one that was achieved later in the episode.

    For observations with `desired_goal` and `achieved_goal` (Gymnasium-Robotics). Rewards follow the environment's own
    rule, which is found out and checked when a run begins. Whether an episode terminated stays as it was played.

    Source: Andrychowicz et al. 2017 (arXiv 1707.01495), the strategy `future` of section 4.5, k = `goals`.
    """

    goals: int = setting(4, "examples with an achieved goal for each one with its own; 0: none", low=0)
    horizon: int = setting(100, "steps ahead to look for a goal; by itself an episode's limit, up to 1,000", low=1)
    distance: bool = setting(False, "a step is rewarded by minus the distance to the goal, not by reaching it")
    within: float = setting(
        NOT_GIVEN, "distance at which a goal counts as reached; -1: as the environment has it", low=NOT_GIVEN
    )
    reached: float = setting(0.0, "reward of a step that is there; as the environment has it if within is")
    missed: float = setting(-1.0, "reward of a step that is not; likewise")
    over: Any = part("draw", UniformSpec(), "how the rows themselves are drawn")

    relabels = True

    def check(self) -> None:
        if self.over.relabels:
            raise SpecError("draw.over=hindsight would change goals twice; set draw.over=uniform or prioritized")

    @property
    def words(self) -> int:
        """Two beside those of the draw underneath: whether there is another goal, and which."""
        return self.over.words + 2

    @property
    def compares(self) -> bool:
        return self.over.compares

    @property
    def rule(self) -> GoalRule:
        """How rewards are given."""
        if self.distance:
            return GoalRule("distance")
        return GoalRule("sparse", self.within, self.reached, self.missed)

    def init(self, rows: int, lanes: int) -> PyTree:
        return self.over.init(rows, lanes)

    def grown(self, state: PyTree, growth: Growth) -> PyTree:
        return self.over.grown(state, growth)

    def draw(self, state: PyTree, ring: Ring, reach: Reach, bits: UInt32[Array, "batch words"], embed: Embed) -> Drawn:
        drawn = self.over.draw(state, ring, reach, bits[:, 2:], embed)
        goal, found = jax.vmap(lambda row, lane, word: later(ring, row, lane, word, self.horizon))(
            drawn.row, drawn.lane, bits[:, 1]
        )
        return drawn._replace(goal=jnp.where(found & (uniform(bits[:, 0]) < self.goals / (1 + self.goals)), goal, -1))

    def learned(self, state: PyTree, drawn: Drawn, surprise: Surprise, keep: Bool[Array, ""]) -> PyTree:
        return self.over.learned(state, drawn, surprise, keep)


def later(
    ring: Ring, row: Int[Array, ""], lane: Int[Array, ""], word: UInt32[Array, ""], horizon: int
) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """Any of the rows that follow a row in its episode, at most `horizon` ahead, and whether there is one.

    The episode's final row is one of them: it shows what the last action achieved. Rows that follow are newer, so a
    ring that has wrapped still has them. Of an episode that is being played, those so far.
    """
    ahead = row + 1 + jnp.arange(horizon)
    opens = ring.rows.is_first[ahead % ring.capacity, lane]
    count = jnp.cumsum(jnp.cumsum(opens | (ahead >= ring.cursor[lane])) == 0)[-1]
    return row + 1 + below(word, jnp.maximum(count, 1)), count > 0


def wanting(
    ring: Ring, row: Int[Array, ""], lane: Int[Array, ""], goal: Int[Array, ""], frames: dict[str, Any]
) -> dict[str, Any]:
    """Stacked frames of the observation at `row` with another goal: what was achieved by row `goal`; -1 for their own.

    Frames from before the episode stay blank.
    """
    old = frames[DESIRED]
    new = jnp.broadcast_to(_achieved(ring, goal, lane), old.shape)
    stack = len(old)
    known = sampling.of_episode(ring.rows.is_first[(row - jnp.arange(stack - 1, -1, -1)) % ring.capacity, lane])
    return {**frames, DESIRED: jnp.where(known[:, None] & (goal >= 0), new.astype(old.dtype), old)}


def rewards(
    ring: Ring,
    row: Int[Array, ""],
    lane: Int[Array, ""],
    goal: Int[Array, ""],
    paid: Float[Array, "steps"],
    rule: GoalRule,
) -> Float[Array, "steps"]:
    """What the steps from `row` on are rewarded with another goal; `paid` for their own, -1.

    A step is rewarded by what is achieved after it, which the next row shows.
    """
    achieved = _achieved(ring, row + 1 + jnp.arange(len(paid)), lane)
    return jnp.where(goal >= 0, rule(jnp, achieved, _achieved(ring, goal, lane)), paid)


def _achieved(ring: Ring, row: Int[Array, "*rows"], lane: Int[Array, ""]) -> Float[Array, "*rows size"]:
    return ring.rows.observation[ACHIEVED][row % ring.capacity, lane]
