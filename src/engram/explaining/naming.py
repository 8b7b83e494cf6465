"""Names: of actions, of the parts of an observation, and of its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import PyTree

from engram import spaces
from engram.agents.sight import parts_of
from engram.encoders.parts import Parts
from engram.envs import names as environment
from engram.envs.limit import TimeLimited
from engram.envs.steady import Steady
from engram.errors import EngramError
from engram.explaining import inputs
from engram.explaining.moments import Part
from engram.explaining.recording import Recording

ELSEWHERE = ("MiniGrid-", "BabyAI-")  # these draw the whole map, and show the agent what lies before it


@dataclass(frozen=True)
class Names:
    """How things are called.

    Fields:
      space: of the observations. seen: what the encoder's attention lies over, or what could be covered of the input.
      actions: a name for each; "action 0" and so on where each step offers others (`called`).
      known: what the environment calls the rest.
      elsewhere: whether the picture is not of what is observed, so that places of a board are not places in it.
      letters: the characters that the symbols of a text stand for, by the text's place in the observation.
    """

    space: spaces.Space
    seen: Parts
    actions: list[str]
    known: environment.Names
    elsewhere: bool = False
    letters: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, recording: Recording) -> "Names":
        """Those of a recording's agent and environment."""
        plan, env, id = recording.agent.plan, recording.env, recording.agent.world_name or recording.agent.plan.env
        inner: Any = env
        while isinstance(inner, TimeLimited | Steady):
            inner = inner.env
        own = [now for episode in recording.episodes for now in episode.names or ()]
        # Words may get their names as they are met; what is told of one step and of another is told by the same names.
        known = replace(own[0], symbols=own[-1].symbols) if own else environment.names_of(inner, id)
        fits = len(known.actions) == plan.actions
        actions = [*known.actions] if fits else _joint(plan) or environment.action_names(inner, id, plan.actions)
        elsewhere = (id or "").startswith(ELSEWHERE)
        letters = {} if known.symbols else _letters(plan.shown)
        return cls(plan.space, parts_of(plan.agent, plan.space), actions, known, elsewhere, letters)

    def at(self, recording: Recording, number: int, step: int) -> "Names":
        """The names at one step: boxes of parts may move, and other actions be offered."""
        own, last = recording.episodes[number].names, recording.episodes[-1].names
        return self if not own or not last else replace(self, known=replace(own[step], symbols=last[-1].symbols))

    def called(self, *may: int) -> list[str]:
        """Names of the actions on offer at this step, [] where each number always stands for the same action.

        Raises EngramError where one that `may` be told has no name.
        """
        offered = [*self.known.offered]
        if offered and not max(may) < len(offered) <= len(self.actions):
            raise EngramError(
                f"the environment names {len(offered)} actions on offer, and row {max(may)} of {len(self.actions)} was "
                "looked at; name each row up to the last on offer, and no more than there are"
            )
        return offered

    def parts(self, frames: PyTree, always: bool = False) -> list[Part]:
        """The parts of a stacked observation that the encoder attends to; `always`: also those it does not."""
        if not (self.seen.attended or always):
            return []
        told = inputs.parts_told(self.seen, frames, self.known)
        if isinstance(self.space, spaces.Text) and self.letters:
            told = [replace(part, value=_read(self.letters["text"], part.value)) for part in told]
        return [replace(part, box=None) for part in told] if self.elsewhere else told

    def facts(self, observation: PyTree) -> list[tuple[str, str]]:
        """Names and values of the numbers of one observation, unless they are an image's."""
        told = inputs.facts(self.space, observation, self.known)
        return [(name, _read(self.letters[name], value) if name in self.letters else value) for name, value in told]


def _joint(plan: Any) -> list[str]:
    """Actions that stand for numbers, such as torques, by these; [] for others."""
    about = (plan.shown or {}).get("actions") or {}
    signed = np.issubdtype(np.dtype(about.get("dtype", "float32")), np.floating)

    def told(one: Any) -> str:
        return "0" if one == 0 else f"{one:+.3g}" if signed else f"{one}"

    return [" ".join(map(told, np.asarray(row).ravel().tolist())) for row in about.get("rows") or []]


def _letters(shown: Mapping[str, Any] | None) -> dict[str, str]:
    """The characters of each text of a host environment's observation, by the name that `inputs.facts` gives it."""
    about = {} if shown is None else shown.get("observation", {})
    texts = about.get("parts", {}) if about.get("kind") == "dict" else {"text": about}
    return {name: one["characters"] for name, one in texts.items() if one.get("kind") == "text"}


def _read(letters: str, symbols: str) -> str:
    """Symbols as the characters that they stand for; 0 is after the end."""
    return "".join(letters[int(one) - 1] for one in symbols.split() if 0 < int(one) <= len(letters))
