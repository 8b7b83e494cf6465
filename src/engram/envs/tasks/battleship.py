"""Sink hidden ships by naming fields; hits and misses are all that is seen."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from engram.envs.device import DeviceStep, register_device, uniforms
from engram.envs.tasks.cards import at_level, check_level, draw
from engram.spaces import Discrete

SHIPS = (2, 3, 3, 4)  # their lengths, in the order in which they are placed
SHIP_FIELDS = sum(SHIPS)


class BattleshipState(NamedTuple):
    """The board, and the fields that were shot at."""

    ships: Bool[Array, "size size"]
    shots: Bool[Array, "size size"]
    hits: Int[Array, ""]  # fields of ships that were shot at
    steps: Int[Array, ""]  # actions taken in this episode


@register_device("engram/Battleship-v0")
@dataclass(frozen=True)
class Battleship:
    """Shoot at the fields of a board on which ships of 2, 3, 3 and 4 fields lie hidden.

    `popgym-Battleship<Level>-v0` of popgym 1.0.7, step for step. The board is 8 x 8 (easy), 10 x 10 (medium) or 12 x 12
    (hard). Ships lie along rows or columns and may touch; each is placed uniformly where it covers none before it.
    Observation: 1 after a hit, else 0; it does not tell where, so the agent must be given its previous action.
    Actions: row * size + column (in popgym the pair). Reward: 1/12 for a hit; for a miss, or a field that was shot at
    before, -1/(fields - 12). Terminated when all 12 fields of ships are hit; truncated after as many shots as there are
    fields; both flags may come together.
    A hit with every shot gives 1, the best return. Shooting once at every field gives 0 at worst. Random actions get
    -0.45, -0.41 or -0.40 in the mean. Correlation horizon: the whole episode, up to 64, 100 or 144 observations.

    `step` does not read its key. Source: Morad et al. 2023, "POPGym" (arXiv 2303.01859).
    """

    level: str = "easy"

    observation_space = Discrete(2)

    def __post_init__(self):
        check_level(self.level)

    @property
    def size(self) -> int:
        """Rows, and columns, of the board."""
        return at_level(self.level, 8, 10, 12)

    @property
    def actions(self) -> int:
        return self.size**2

    def reset(self, key: UInt32[Array, "2"]) -> tuple[BattleshipState, Int[Array, ""]]:
        nothing = jnp.zeros((self.size, self.size), bool)
        ships = nothing
        for length, chances in zip(SHIPS, uniforms(key, 2 * len(SHIPS)).reshape(-1, 2), strict=True):
            ships |= _place(ships, length, chances)
        return BattleshipState(ships, nothing, jnp.int32(0), jnp.int32(0)), jnp.int32(0)

    def step(
        self, state: BattleshipState, action: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[BattleshipState, DeviceStep]:
        fields = self.size**2
        here = (jnp.arange(fields) == action).reshape(self.size, self.size)
        hit = (here & state.ships & ~state.shots).any()
        hits, steps = state.hits + hit, state.steps + 1
        reward = jnp.where(hit, jnp.float32(1 / SHIP_FIELDS), jnp.float32(-1 / (fields - SHIP_FIELDS)))
        following = BattleshipState(state.ships, state.shots | here, hits, steps)
        return following, DeviceStep(hit.astype(jnp.int32), reward, hits == SHIP_FIELDS, steps >= fields)


def _place(ships: Bool[Array, "size size"], length: int, chances: Float[Array, "2"]) -> Bool[Array, "size size"]:
    """The fields of one more ship, uniformly among the placements that cover no ship.

    The rows and the columns are lines; first a line is drawn by how many placements it has, then one of those.
    """
    size = ships.shape[0]
    free = jnp.concatenate([~ships, ~ships.T])
    starts = size - length + 1
    fits = jnp.stack([free[:, i : i + starts] for i in range(length)]).all(0).astype(jnp.int32)
    line = jnp.arange(2 * size) == draw(fits.sum(1), chances[0])
    along = jnp.arange(size) - draw(jnp.where(line[:, None], fits, 0).sum(0), chances[1])
    ship = line[:, None] & (along >= 0) & (along < length)
    return ship[:size] | ship[size:].T
