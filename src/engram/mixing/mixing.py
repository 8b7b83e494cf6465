"""What every mixing is: from the values of the actions that the agents of a team took, the value of all together.

    @register("mixing", "mine")
    @spec
    class MySpec:
        present = True
        reads_state = False

        def build(self, agents, state, key): ...

A mixing must not fall in any agent's value. Then each agent's preferred action is its part of the team's, so that
agents can act alone with what they learned together.
"""

from typing import Any, Protocol

import equinox as eqx
from jaxtyping import Array, Float

from engram.registry import register
from engram.specs import spec
from engram.types import Key


class Mixing(Protocol):
    """A module. Its JAX float arrays are learned, the rest is constant."""

    def __call__(self, q: Float[Array, "agents"], state: Float[Array, "numbers"] | None) -> Float[Array, ""]:
        """The team's value. `state`: the part `team_state` of the observation, `scaled`; None where none is read."""
        ...


class MixingSpec(Protocol):
    """What was chosen about a mixing."""

    present: bool  # False where each agent learns by itself
    reads_state: bool  # whether it needs the part `team_state`

    def build(self, agents: int, state: int, key: Key) -> Any:
        """A `Mixing` of so many agents, given so many numbers of the state; None where there is none."""
        ...


@register("mixing", "none")
@spec
class NoMixingSpec:
    """Each agent learns by itself, with the reward of the team. Source: Tan 1993, independent Q-learning."""

    present = False
    reads_state = False

    def build(self, agents: int, state: int, key: Key) -> None:
        return None


@register("mixing", "sum")
@spec
class SumSpec:
    """The sum of the agents' values. Source: Sunehag et al. 2018 (arXiv 1706.05296), value decomposition (VDN)."""

    present = True
    reads_state = False

    def build(self, agents: int, state: int, key: Key) -> "Sum":
        return Sum()


class Sum(eqx.Module):
    """q_1 + ... + q_n; nothing is learned."""

    def __call__(self, q: Float[Array, "agents"], state: Float[Array, "numbers"] | None) -> Float[Array, ""]:
        return q.sum()
