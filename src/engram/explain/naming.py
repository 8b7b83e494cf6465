"""Names: of actions, of the parts of an observation, and of its numbers."""

from dataclasses import dataclass, replace
from typing import Any

import jax
from jaxtyping import PyTree

from engram import spaces
from engram.agents.sight import parts_of
from engram.encoders.parts import Parts
from engram.envs import names as naming
from engram.envs.device import DeviceEnv
from engram.envs.drawing.pictures import boxes, inner
from engram.explain import inputs
from engram.explain.moments import Part
from engram.explain.recording import Recording

LONGEST = 200  # characters of a name


@dataclass(frozen=True)
class Names:
    """How things are called: `known` of the environment, `about` for what the encoder attends to."""

    space: spaces.Space
    actions: list[str]
    about: Parts
    known: naming.Names = naming.NOTHING
    env: DeviceEnv | None = None

    @classmethod
    def of(cls, recording: Recording) -> "Names":
        """Those of a recording's agent and environment. Raises EnvironmentFault for names of another form."""
        agent = recording.agent
        plan, env = agent.plan, recording.env
        bare = None if env is None else inner(env, None)[0]
        known = (recording.named or naming.names_of(bare, agent.world_name)).over(naming.names_of(id=agent.world_name))
        actions = [name[:LONGEST] for name in known.actions]
        if len(actions) != plan.actions:
            actions = naming.action_names(None, agent.world_name, plan.actions)
        return cls(plan.space, actions, parts_of(plan.agent, plan.space), known, env)

    def parts(self, frames: PyTree, state: PyTree = None, named: naming.Names | None = None) -> list[Part]:
        """The parts of a stacked observation; [] where the encoder attends to none.

        `state`: of the environment on the device. `named`: what one on the host calls its parts at this moment.
        """
        if not self.about.attended:
            return []
        known = self._now(frames, state) if named is None else named.over(self.known)
        return inputs.parts_told(self.about, frames, known)

    def facts(self, observation: PyTree) -> list[tuple[str, str]]:
        """Names and values of the numbers of one observation, but for those of pictures."""
        return inputs.facts(self.space, observation, self.known)

    def _now(self, frames: PyTree, state: Any) -> naming.Names:
        """The names with the boxes of this moment."""
        if self.env is None or state is None:
            return self.known
        bare, inside = inner(self.env, state)
        own = naming.names_of(bare, state=inside).over(self.known)
        seen = jax.tree.map(lambda leaf: leaf[-1], frames)
        return own if own.boxes else replace(own, boxes=boxes(bare, inside, seen))
