"""Two small games of a team, whose best values are known: what a mixing can learn of them, and what it cannot.

| id                     | what is known                                                                       |
|------------------------|-------------------------------------------------------------------------------------|
| `engram/MatrixGame-v0` | one step; no mixing that rises with each agent's value can say what is best         |
| `engram/TwoStepGame-v0`| two steps; a sum of values misses the better half by 1.5, a monotonic mixing does not |

Explored evenly, a sum of values tends to the best additive fit of the payoffs (`additive`).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from engram.envs.device import DeviceStep, register_device
from engram.errors import SpecError
from engram.spaces import TEAM_STATE, Box, Dict

AGENTS = 2
Payoffs = tuple[tuple[float, ...], ...]  # of the first agent's action (rows) and the second's
PENALTY: Payoffs = ((8.0, -12.0, -12.0), (-12.0, 0.0, 0.0), (-12.0, 0.0, 0.0))
SAFE: Payoffs = ((7.0, 7.0), (7.0, 7.0))
SPLIT: Payoffs = ((0.0, 1.0), (1.0, 8.0))
STATES = 3  # of the two-step game: the choice, the safe half, the split half


class Place(NamedTuple):
    """Where a game is."""

    state: Int[Array, ""]


def additive(payoffs: Payoffs) -> np.ndarray:
    """The sums a_i + b_j nearest to the payoffs, when every pair of actions is as frequent as any other."""
    table = np.asarray(payoffs)
    return table.mean(1, keepdims=True) + table.mean(0, keepdims=True) - table.mean()


def _is_number(given: object) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool)


def _seen(state: Int[Array, ""], states: int) -> dict[str, Array]:
    """Each agent sees which one it is and where the game is, both one-hot; a mixing sees where the game is."""
    where = (jnp.arange(states) == state).astype(jnp.float32)
    shown = jnp.concatenate([jnp.eye(AGENTS, dtype=jnp.float32), jnp.tile(where, (AGENTS, 1))], axis=1)
    return {"seen": shown, TEAM_STATE: jnp.tile(where, (AGENTS, 1))}


def _space(states: int) -> Dict:
    return Dict((("seen", Box((AGENTS + states,))), (TEAM_STATE, Box((states,)))))


@register_device("engram/MatrixGame-v0")
@dataclass(frozen=True)
class MatrixGame:
    """One step: two agents choose, and the table says what both are paid; each of three actions.

    Together they should choose the first, but whoever does so alone is punished: explored evenly, it looks worst.

    Source: Claus & Boutilier 1998, the penalty game; its numbers are those of Son et al. 2019 (arXiv 1905.05408).
    """

    payoffs: tuple | list = PENALTY

    agents = AGENTS

    def __post_init__(self):
        table = self.payoffs
        rows = table if isinstance(table, tuple | list) and all(isinstance(row, tuple | list) for row in table) else ()
        if {len(row) for row in rows} != {len(rows)} or not all(_is_number(one) for row in rows for one in row):
            raise SpecError(f"payoffs = {table!r} is no square table; give as many rows as each row has numbers")
        object.__setattr__(self, "payoffs", tuple(tuple(float(one) for one in row) for row in table))

    @property
    def observation_space(self) -> Dict:
        return _space(1)

    @property
    def actions(self) -> int:
        return len(self.payoffs)

    def reset(self, key: UInt32[Array, "2"]) -> tuple[Place, dict[str, Array]]:
        return Place(jnp.int32(0)), _seen(jnp.int32(0), 1)

    def step(self, state: Place, action: Int[Array, "2"], key: UInt32[Array, "2"]) -> tuple[Place, DeviceStep]:
        table = jnp.array(self.payoffs, jnp.float32)
        best = table[action[0], action[1]] == table.max()
        over, runs = jnp.bool_(True), jnp.bool_(False)
        return state, DeviceStep(_seen(jnp.int32(0), 1), table[action[0], action[1]], over, runs, success=best)


@register_device("engram/TwoStepGame-v0")
@dataclass(frozen=True)
class TwoStepGame:
    """Two steps: the first agent chooses a half, and there both choose; one half always pays 7, the other up to 8.

    Source: Rashid et al. 2018 (arXiv 1803.11485), section 5 and table 1.
    """

    observation_space = _space(STATES)
    actions = 2
    agents = AGENTS

    def reset(self, key: UInt32[Array, "2"]) -> tuple[Place, dict[str, Array]]:
        return Place(jnp.int32(0)), _seen(jnp.int32(0), STATES)

    def step(self, state: Place, action: Int[Array, "2"], key: UInt32[Array, "2"]) -> tuple[Place, DeviceStep]:
        halves = jnp.array([SAFE, SPLIT], jnp.float32)
        paid: Float[Array, ""] = halves[jnp.maximum(state.state - 1, 0), action[0], action[1]]
        over = state.state > 0
        following = jnp.where(over, state.state, 1 + action[0])
        reward = jnp.where(over, paid, 0.0)
        step = DeviceStep(
            _seen(following, STATES), reward, over, jnp.bool_(False), success=over & (paid == halves.max())
        )
        return Place(following), step
