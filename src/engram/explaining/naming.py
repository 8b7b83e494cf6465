"""Names: of actions, of the parts of an observation, and of its numbers."""

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import PyTree

from engram import spaces
from engram.agents.sight import parts_of
from engram.encoders.parts import Parts
from engram.envs import names as environment
from engram.envs.limit import TimeLimited
from engram.envs.steady import Steady
from engram.explaining import inputs
from engram.explaining.moments import Part
from engram.explaining.recording import Recording


@dataclass(frozen=True)
class Names:
    """How things are called.

    Fields:
      space: of the observations. seen: what the encoder's attention lies over, or what could be covered of the input.
      actions: a name for each. known: what the environment calls the rest.
    """

    space: spaces.Space
    seen: Parts
    actions: list[str]
    known: environment.Names

    @classmethod
    def of(cls, recording: Recording) -> "Names":
        """Those of a recording's agent and environment."""
        plan, env, id = recording.agent.plan, recording.env, recording.agent.world_name or recording.agent.plan.env
        inner: Any = env
        while isinstance(inner, TimeLimited | Steady):
            inner = inner.env
        own = recording.episodes[0].names
        known = environment.names_of(inner, id) if own is None else own[0]
        fits = len(known.actions) == plan.actions
        actions = [*known.actions] if fits else environment.action_names(inner, id, plan.actions)
        return cls(plan.space, parts_of(plan.agent, plan.space), actions, known)

    def at(self, recording: Recording, number: int, step: int) -> "Names":
        """The names at one step: boxes of parts may move."""
        own = recording.episodes[number].names
        return self if own is None else replace(self, known=own[step])

    def parts(self, frames: PyTree, always: bool = False) -> list[Part]:
        """The parts of a stacked observation that the encoder attends to; `always`: also those it does not."""
        return inputs.parts_told(self.seen, frames, self.known) if self.seen.attended or always else []

    def facts(self, observation: PyTree) -> list[tuple[str, str]]:
        """Names and values of the numbers of one observation, unless they are an image's."""
        return inputs.facts(self.space, observation, self.known)
