"""Goals: what of an observation is wanted and what was achieved, and how the one is rewarded by the other.

A goal-conditioned observation is a Dict with two parts of equal shape beside what is seen: `desired_goal` and
`achieved_goal`. The names are those of Gymnasium-Robotics. Worker processes import this file, so it imports no JAX.
"""

from math import prod
from typing import Any, Literal, NamedTuple

from engram import spaces
from engram.errors import SpaceError

ACHIEVED, DESIRED = "achieved_goal", "desired_goal"


class GoalRule(NamedTuple):
    """The reward of a step after which `achieved` is so far from `desired`.

    `sparse`: `reached` where the distance is at most `within`, else `missed`. `distance`: minus the distance.
    """

    kind: Literal["sparse", "distance"]
    within: float = 0.0  # in units of the goal
    reached: float = 0.0
    missed: float = -1.0
    longest: int | None = None  # steps of an episode, where a limit is known: no goal is achieved later than that

    def __call__(self, numbers: Any, achieved: Any, desired: Any) -> Any:
        """Rewards [*leading] of goals [*leading, size]. `numbers`: the module that computes, numpy or jax.numpy."""
        far = numbers.sqrt(((achieved - desired) ** 2).sum(-1))
        if self.kind == "distance":
            return -far
        return numbers.where(far <= self.within, numbers.float32(self.reached), numbers.float32(self.missed))

    def limited(self, steps: int | None) -> "GoalRule":
        """The rule where episodes are cut off after `steps`, or after those that it knows of; None for no limit."""
        known = [limit for limit in (steps, self.longest) if limit is not None]
        return self._replace(longest=min(known, default=None))


def goal_size(space: spaces.Space) -> int:
    """Numbers in a goal of these observations; SpaceError where they have none."""
    parts = dict(space.items) if isinstance(space, spaces.Dict) else {}
    desired, achieved = parts.get(DESIRED), parts.get(ACHIEVED)
    both = isinstance(desired, spaces.Box) and isinstance(achieved, spaces.Box)
    if not both or desired.shape != achieved.shape or len(desired.shape) != 1:  # type: ignore[union-attr]
        raise SpaceError(
            f"draw=hindsight needs a Dict with {DESIRED!r} and {ACHIEVED!r}, two vectors of equal length, but the "
            f"observation is {space}; use draw=uniform"
        )
    return prod(desired.shape)  # type: ignore[union-attr]
