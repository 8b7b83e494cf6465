"""Go on a small board, by the rules of pgx (extra `board`).

Both colours are played by whoever acts, so each step has the sign -1: the other side moves next. With an `opponent`
the environment answers itself, and the agent has one colour, drawn for each game.

pgx is Apache-2.0. Its `Go` takes any size; only `pgx.make` is limited to 9 and 19.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree, UInt32

from engram.bits import hashed
from engram.envs.device import DeviceStep, register_device, typed_key
from engram.envs.go import board, players, repetition
from engram.errors import SpecError, install
from engram.spaces import MASK, Box, Dict

KOMI = {5: 0.5, 7: 8.5, 9: 6.5}  # of each size where none is given: Black wins 5 x 5 by the whole board, 7 x 7 by 9
SMALLEST, LARGEST = 3, 19


class GoState(NamedTuple):
    """pgx's own state, with the position in `observation` and the legal moves in `legal_action_mask`."""

    game: PyTree


@register_device("engram/Go-v0")
@dataclass(frozen=True)
class Go:
    """Go on a board of `size` x `size`: area scoring with every stone alive, so a game is played out to the end.

    The observation is what the side to move has, what the other one has, a plane of ones for White, and one where the
    other side has just passed; the mask has the legal points and, last, the pass. Whoever wins is paid 1, and -1
    whoever loses. Two passes end a game. No move may repeat an earlier position of the game (positional superko): the
    mask leaves those out, and who plays one against it loses. Earlier positions are not shown.

    Args:
      size: 3 to 19; 5, 7 and 9 are what results are stated for.
      komi: points that White is given; by default 0.5 on 5 x 5, 8.5 on 7 x 7, 6.5 on all others.
      opponent: `self` where the agent plays both colours; `random` or `capture` where the environment answers.
      max_moves: after so many the game is scored as it is; 0 for three times the points of the board.

    SpecError for a wrong argument, or if pgx is not installed.
    Source: Koyamada et al. 2023 (arXiv 2303.17503).
    """

    size: int = 5
    komi: float | None = None
    opponent: Literal["self", "random", "capture"] = "self"
    max_moves: int = 0

    turns = True

    @property
    def answers(self) -> bool:
        """Whether the environment itself plays the other side."""
        return self.opponent != "self"

    def __post_init__(self):
        if not SMALLEST <= self.size <= LARGEST:
            raise SpecError(f"size = {self.size} was given for a board of Go; expected {SMALLEST} to {LARGEST}")
        if self.max_moves < 0:
            raise SpecError(f"max_moves = {self.max_moves} was given; expected a number of moves, or 0")
        if self.komi is not None and (self.komi * 2) % 2 != 1:
            raise SpecError(f"komi = {self.komi} was given, with which games can be drawn; give one such as 0.5 or 6.5")
        _played(self)  # so that a missing extra is noticed here, not inside a trace

    @property
    def points_to_white(self) -> float:
        """The komi."""
        return KOMI.get(self.size, KOMI[9]) if self.komi is None else float(self.komi)

    @property
    def limit(self) -> int:
        """The most moves of a game."""
        return self.max_moves or 3 * self.size**2

    @property
    def observation_space(self) -> Dict:
        shown = Box((self.size, self.size, 4), "bool")
        return Dict((("board", shown), (MASK, Box((self.actions,), "bool"))))

    @property
    def actions(self) -> int:
        return self.size**2 + 1

    @property
    def parts(self) -> dict[str, list[str]]:
        """The names of the actions."""
        return {"actions": [board.name_of(action, self.size) for action in range(self.actions)]}

    @property
    def to_evaluate(self) -> "Go":
        """Evaluations are played against the player that captures, for two sides of one agent say nothing of it."""
        return replace(self, opponent="capture") if self.opponent == "self" else self

    @property
    def to_match(self) -> "Go":
        """Matches have an opponent outside."""
        return replace(self, opponent="self")

    def reset(self, key: UInt32[Array, "2"]) -> tuple[GoState, dict[str, Array]]:
        game = _played(self).init(typed_key(key))
        if self.opponent != "self":
            first, chance = hashed(key, 3)[0], hashed(key, 3)[1:]
            game = _either(first % 2 == 0, game, self._answer(game, chance))
        return GoState(game), self.show(game)

    def step(self, state: GoState, action: Int[Array, ""], key: UInt32[Array, "2"]) -> tuple[GoState, DeviceStep]:
        me = state.game.current_player
        game = self.moved(state.game, action)
        reward, sign = game.rewards[me], jnp.float32(-1)
        if self.opponent != "self":
            answered = self._answer(game, key)
            reward, sign = jnp.where(game.terminated, reward, answered.rewards[me]), jnp.float32(1)
            game = _either(game.terminated, game, answered)
        return GoState(game), DeviceStep(self.show(game), reward, game.terminated, jnp.bool_(False), sign=sign)

    def show(self, game: PyTree) -> dict[str, Bool[Array, "..."]]:
        """The observation of a position."""
        # Without it a pass that ends the game, and one that does not, would look alike.
        passed = jnp.full((self.size, self.size, 1), game._x.consecutive_pass_count > 0)
        return {"board": jnp.concatenate([game.observation, passed], axis=-1), MASK: game.legal_action_mask}

    def moved(self, game: PyTree, action: Int[Array, ""]) -> PyTree:
        """The position after a move."""
        return self._allowed(_played(self).step(game, action.astype(jnp.int32)))

    def _allowed(self, game: PyTree) -> PyTree:
        """The position without the moves that would repeat an earlier one: pgx's own mask leaves out the simple ko."""
        repeated = repetition.repeating(game._x, self.size, jnp.asarray(_names(self.size)))
        return game.replace(legal_action_mask=game.legal_action_mask & ~jnp.append(repeated, False))

    def player(self, name: str) -> Callable[[PyTree, UInt32[Array, "2"]], Int[Array, ""]]:
        """The move of one of `players.PLAYERS`, of a position and a key."""
        chosen = players.PLAYERS[name]
        return lambda game, key: chosen(_played(self), game, key)

    def _answer(self, game: PyTree, key: UInt32[Array, "2"]) -> PyTree:
        return self.moved(game, self.player(self.opponent)(game, key))

    @property
    def passes(self) -> tuple[int, ...]:
        """Actions that no opening draws."""
        return (self.size**2,)

    @property
    def rivals(self) -> tuple[str, ...]:
        """Whom a match can be against."""
        from engram.envs.go.rivals import NAMES

        return NAMES

    def rival(self, name: str, seed: int) -> Any:
        """The rival of that name; None for none."""
        from engram.envs.go import rivals

        return rivals.rival(self, name, seed)

    def converse(self, agent: Any, ask: Any, tell: Any, seed: int) -> None:
        """A person plays, as `engram play` has it."""
        from engram.envs.go.talk import converse

        converse(self.to_match, agent, ask, tell, seed)

    def draw(self, state: GoState) -> np.ndarray:
        """The board with its stones."""
        from engram.envs.drawing.boards import stones

        return stones(board.stones(np.asarray(state.game.observation)))


def _either(which: Bool[Array, ""], one: PyTree, other: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), one, other)


@cache
def _played(env: Go) -> Any:
    """pgx's environment, which is not hashable and so cannot be a field of a static dataclass."""
    # pgx makes arrays when imported and when built: outside any trace, or a tracer would stay in them.
    with jax.ensure_compile_time_eval():
        try:
            module = import_module("pgx.go")
        except ModuleNotFoundError as problem:
            raise SpecError(f"engram/Go-v0 is played by pgx, which is not installed; {install('board')}") from problem
        about = {"komi": env.points_to_white, "max_terminal_steps": env.limit}
        return module.Go(size=env.size, history_length=1, **about)


@cache
def _names(size: int) -> np.ndarray:
    """pgx's number for what may lie on each point, [nothing, Black, White]."""
    return np.asarray(import_module("pgx._src.games.go").ZOBRIST_BOARD)[:, : size**2]
