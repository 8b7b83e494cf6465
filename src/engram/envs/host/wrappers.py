"""Gymnasium's wrappers of which Engram has something to say.

Worker processes import this file, so it imports no JAX.
"""

from typing import Any

from gymnasium import wrappers
from gymnasium.wrappers import vector

# What each keeps, and the setting of the agent that does the same.
_NORMALISING: tuple[tuple[tuple[type, ...], str], ...] = (
    ((wrappers.NormalizeObservation, vector.NormalizeObservation), "observation.normalize=true"),
    ((wrappers.NormalizeReward, vector.NormalizeReward), "reward.normalize=true"),
)


def notes_on(env: Any) -> list[str]:
    """A sentence for each wrapper whose statistics are lost, outermost first."""
    notes = []
    while env is not None:
        notes += [
            f"the statistics of {type(env).__name__} are not saved with the run, and evaluation begins with new ones; "
            f"leave the wrapper out and set {setting}"
            for kinds, setting in _NORMALISING
            if isinstance(env, kinds)
        ]
        env = getattr(env, "env", None)
    return notes
