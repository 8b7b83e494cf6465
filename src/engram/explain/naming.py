"""Names: of actions, of the parts of an observation, and of its numbers."""

from dataclasses import dataclass

from jaxtyping import PyTree

from engram import spaces
from engram.explain.moments import Part
from engram.explain.recording import Recording

MOST_FACTS = 64  # numbers of an observation that are told
LONGEST = 200  # characters of a name


@dataclass(frozen=True)
class Names:
    """How things are called."""

    space: spaces.Space
    actions: list[str]

    @classmethod
    def of(cls, recording: Recording) -> "Names":
        """Those of a recording's agent and environment."""
        plan = recording.agent.plan
        return cls(plan.space, [f"action {number}" for number in range(plan.actions)])

    def parts(self, frames: PyTree) -> list[Part]:
        """The parts of a stacked observation."""
        return []

    def facts(self, observation: PyTree) -> list[tuple[str, str]]:
        """Names and values of the numbers of one observation, unless they are an image's or too many."""
        return []
