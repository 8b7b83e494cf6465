"""A person plays Go with a trained agent."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from engram.bits import of_moves
from engram.envs.go import board
from engram.envs.go.board import BLACK, NAMES, WHITE
from engram.spaces import MASK

HELP = "a point such as {point}, pass, undo, resign, or quit"


def converse(env: Any, agent: Any, ask: Any, tell: Any, seed: int) -> None:
    """Games, until the person has enough."""
    game = 0
    while True:
        own = _colour(ask, tell)
        _game(env, agent, own, ask, tell, seed, game)
        game += 1
        if ask("another game? (y/n) ").lower() not in ("y", "yes"):
            return


def _colour(ask: Any, tell: Any) -> int:
    while True:
        word = ask("your colour, black or white: ").lower()
        for colour in (BLACK, WHITE):
            if word and NAMES[colour].lower().startswith(word):
                return colour
        tell(f"{word!r} is no colour; type b or w")


def _game(env: Any, agent: Any, own: int, ask: Any, tell: Any, seed: int, number: int) -> None:
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    # State, observation, who moves, the move before, what the agent remembers of the moves until then.
    past: list[Any] = [(*reset(of_moves(seed, 0, [number])[0]), BLACK, None, None)]
    tell(f"You are {NAMES[own]}: X is Black, O is White, komi {env.points_to_white:g}.")
    while True:
        state, shown, mover, last, memory = past[-1]
        chosen, memory = agent.predict(jax.tree.map(np.asarray, shown), memory)  # as when it played both sides
        if mover == own:
            tell(board.drawn(board.stones(np.asarray(state.game.observation)), last))
            action = _move(env, np.asarray(shown[MASK]), past, own, ask, tell)
            if action is None:
                continue
            if action < 0:
                tell(f"You resign; {NAMES[-own]} wins.")
                return
        else:
            action = int(chosen)
            tell(f"{NAMES[mover]} plays {board.name_of(action, env.size)}.")
        following, out = step(state, jnp.int32(action), of_moves(seed, len(past), [number])[0])
        past.append((following, out.observation, -mover, action, agent.took(memory, action)))
        if out.terminated:
            _end(env, following, float(out.reward) * mover, tell)
            return


def _move(env: Any, legal: np.ndarray, past: list[Any], own: int, ask: Any, tell: Any) -> int | None:
    """What the person plays; -1 to resign, None after an undo."""
    while True:
        word = ask(f"{NAMES[own]}: ")
        if word.lower() == "resign":
            return -1
        if word.lower() == "undo":
            if len(past) < 3:
                tell("there is no move of yours to take back")
                continue
            del past[-2:]
            return None
        action = board.action_of(word, env.size)
        if action is None:
            tell(f"{word!r} is no move; type {HELP.format(point=board.name_of(env.size**2 // 2, env.size))}")
        elif not legal[action]:
            point = board.name_of(action, env.size)
            tell(f"{point} is not allowed here: it is taken, without a liberty, or repeats a position")
        else:
            return action


def _end(env: Any, state: Any, black: float, tell: Any) -> None:
    stones = board.stones(np.asarray(state.game.observation))
    ours, theirs = board.area(stones)
    tell(board.drawn(stones))
    winner = NAMES[BLACK if black > 0 else WHITE]
    tell(f"Black {ours}, White {theirs} and komi {env.points_to_white:g}: {winner} wins.")
