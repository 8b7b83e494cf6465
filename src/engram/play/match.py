"""Matches: a trained agent against somebody, in a game whose sides take turns. Each opening is played twice.

A *rival* is another agent, or one that the environment knows by name: it then has a method `rival(name, seed)`, which
gives None for a name that it does not know, and `rivals`, the names. An environment that may have an opponent inside
names the one without in `to_match`. Two deterministic sides would play one game again
and again, so games begin with random moves, and how many different ones there were is told.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from engram.bits import of_moves
from engram.envs.device import DeviceEnv, has_turns, where_done
from engram.errors import SpecError
from engram.nn.observation import mask_of
from engram.play.playing import Policy
from engram.precision import in_32_bits

Side = Literal["both", "first", "second"]
GIVES_UP = -1  # the action of a rival that gives a game up
DRAWS = 2_000  # of the bootstrap


class Rival(Protocol):
    """Whoever is played against, in some games side by side."""

    at_once: int  # games that it plays side by side, at most

    def begin(self, games: Sequence[int]) -> None:
        """New games, by their numbers in the match."""
        ...

    def choose(self, states: PyTree, observation: PyTree, turn: np.ndarray, side: np.ndarray) -> np.ndarray:
        """An action for each game; only those of games whose `turn` it is count. `side`: 1 for who moved first."""
        ...

    def hear(self, turn: np.ndarray, side: np.ndarray, action: np.ndarray) -> None:
        """The moves that were made in the games of `turn`, which go on, except its own."""
        ...

    def close(self) -> None: ...


class AgentRival:
    """Another trained agent, such as a past self."""

    at_once = 1 << 20

    def __init__(self, mind: Any, spec: Any):
        self._player = _Player(mind, spec)

    def begin(self, games: Sequence[int]) -> None:
        self._player.begin(len(games))

    def choose(self, states: PyTree, observation: PyTree, turn: np.ndarray, side: np.ndarray) -> np.ndarray:
        del states, turn, side
        return self._player.look(observation)

    def hear(self, turn: np.ndarray, side: np.ndarray, action: np.ndarray) -> None:
        del turn, side
        self._player.took(action)

    def close(self) -> None: ...


class _Player:
    """Greedy actions of a mind that sees every position, as when it played both sides."""

    def __init__(self, mind: Any, spec: Any):
        self._policy, self._first = Policy(mind, spec), np.zeros(0, bool)
        self._state: Any = None

    def begin(self, games: int) -> None:
        self._state, self._first = self._policy.begin(games), np.ones(games, bool)

    def look(self, observation: PyTree) -> np.ndarray:
        none = np.zeros(len(self._first), np.float32)
        action, self._state = self._policy.act(observation, self._state, self._first, none, None)
        self._first = np.zeros_like(self._first)
        return action

    def took(self, action: np.ndarray) -> None:
        """What was really played, by whichever side."""
        self._state = self._policy.took(self._state, action)


class Rate(NamedTuple):
    """A share of games with its 95 % interval, `low` to `high`; both are None without a game."""

    games: int
    won: int
    rate: float
    low: float | None
    high: float | None


def rate(won: int, games: int, distinct: int | None = None) -> Rate:
    """The share of games that were won, with Wilson's interval.

    `distinct`: how many of the games differ; by default all do. The interval takes games for independent, and a game
    that is played again says nothing new. So it is as wide as for so many games with this share.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if not games:
        return Rate(games, won, 0.0, None, None)
    z, share, n = 1.959964, won / games, games if distinct is None else distinct
    middle, spread = share + z**2 / (2 * n), z * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    scale = 1 + z**2 / n
    return Rate(games, won, share, max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale))


@dataclass(frozen=True)
class Match:
    """What a match came to. Games that nobody won count for nobody.

    Fields:
      first, second: the games in which the agent moved first, and those in which it moved second.
      all_games: both. pairs: of each opening that was played twice, how many of the two the agent won.
      pair_interval: the 95 % interval of the rate over openings, by a bootstrap of those that differ. None where they
        all came out alike, for such a bootstrap knows no spread.
      distinct: games that differ. length: moves of a game, on average. given_up: games the rival gave up or forfeited.
    """

    first: Rate
    second: Rate
    all_games: Rate
    pairs: tuple[int, int, int]
    pair_interval: tuple[float, float] | None
    distinct: int
    length: float
    given_up: int
    seconds: float


class Game(NamedTuple):
    """One game of a match."""

    opening: int
    agent: int  # 1 where it moved first, -1 where second
    result: float  # what it was worth to the agent
    moves: tuple[int, ...]
    given_up: bool


@in_32_bits
def play_match(
    env: DeviceEnv,
    mind: Any,
    spec: Any,
    rival: Rival,
    *,
    games: int,
    opening_moves: int = 2,
    free_moves: int = 0,
    side: Side = "both",
    seed: int = 0,
) -> tuple[Match, list[Game]]:
    """Plays the games, as many side by side as the rival takes.

    `free_moves`: that the sides choose before the random ones. Raises SpecError where sides do not take turns.
    """
    if not has_turns(env):
        raise SpecError("a match needs a game whose sides take turns, and this environment has one side")
    env = getattr(env, "to_match", env)
    opening = range(free_moves, free_moves + opening_moves)
    began, table = time.perf_counter(), _Table(env, spec, mind, rival, opening, seed)
    played: list[Game] = []
    while len(played) < games:
        numbers = range(len(played), min(games, len(played) + rival.at_once))
        played += table.play(numbers, side)
    return summed_up(played, time.perf_counter() - began, seed, paired=free_moves == 0), played


class _Table:
    """Games side by side."""

    def __init__(self, env: DeviceEnv, spec: Any, mind: Any, rival: Rival, opening: range, seed: int):
        self._env, self._rival, self._agent = env, rival, _Player(mind, spec)
        self._opening, self._seed = opening, seed
        self._reset, self._step = jax.jit(jax.vmap(env.reset)), jax.jit(partial(_moved, env))
        self._passes = [*getattr(env, "passes", ())]

    def play(self, numbers: Sequence[int], side: Side) -> list[Game]:
        """Whole games of these numbers; two of the same opening follow each other."""
        count = len(numbers)
        openings = [number // 2 if side == "both" else number for number in numbers]
        agent = np.array([1 if side == "first" or (side == "both" and n % 2 == 0) else -1 for n in numbers])
        draws = [np.random.default_rng([self._seed, 0x6A3E, one]) for one in openings]
        states, observation = self._reset(of_moves(self._seed, 0, openings))
        self._agent.begin(count)
        self._rival.begin(numbers)
        mover, going = np.ones(count, int), np.ones(count, bool)
        total, given_up, time_ = np.zeros(count), np.zeros(count, bool), 0
        moves: list[list[int]] = [[] for _ in range(count)]
        while going.any():
            shown = jax.tree.map(np.asarray, observation)
            own = self._agent.look(shown)
            turn = going & (mover != agent)
            theirs = self._rival.choose(states, shown, turn & (time_ not in self._opening), mover)
            action = np.where(mover == agent, own, theirs)
            if time_ in self._opening:
                action = np.array([self._drawn(draw, shown, game) for game, draw in enumerate(draws)])
            lost = turn & ((action == GIVES_UP) | ~self._allowed(shown, action))
            total[lost] += -mover[lost]
            given_up |= lost
            going &= ~lost
            action = np.where(lost, 0, action).astype(np.int32)
            self._agent.took(action)
            states, observation, reward, over, sign = self._step(
                states, jnp.asarray(action), jnp.asarray(going), of_moves(self._seed, time_ + 1, openings)
            )
            # What ends a game need not be heard, and may be forbidden by the rival's own rules.
            goes_on = going & ~np.asarray(over)
            self._rival.hear(goes_on if time_ in self._opening else goes_on & (mover == agent), mover, action)
            total += going * mover * np.asarray(reward)
            for game in np.flatnonzero(going):
                moves[game].append(int(action[game]))
            going = goes_on
            mover = mover * np.asarray(sign).astype(int)
            time_ += 1
        each = zip(openings, agent, total, moves, given_up, strict=True)
        return [Game(one, int(who), float(who * worth), tuple(made), bool(up)) for one, who, worth, made, up in each]

    def _masks(self, shown: PyTree) -> np.ndarray:
        mask = mask_of(self._env.observation_space, shown, self._env.actions)
        count = len(jax.tree.leaves(shown)[0])
        return np.ones((count, self._env.actions), bool) if mask is None else np.asarray(mask)

    def _allowed(self, shown: PyTree, action: np.ndarray) -> np.ndarray:
        return self._masks(shown)[np.arange(len(action)), np.maximum(action, 0)]

    def _drawn(self, draw: np.random.Generator, shown: PyTree, game: int) -> int:
        """A random allowed action that is no pass, where there is one."""
        allowed = self._masks(shown)[game].copy()
        allowed[self._passes] &= not np.delete(allowed, self._passes).any()
        return int(draw.choice(np.flatnonzero(allowed)))


def _moved(env: DeviceEnv, states: PyTree, action: Any, going: Any, keys: Any) -> tuple[Any, ...]:
    """One step of every game that goes on; the others stay."""
    following, step = jax.vmap(env.step)(states, action, keys)
    states = jax.tree.map(partial(where_done, going), following, states)
    return states, step.observation, step.reward, step.terminated | step.truncated, step.sign


def summed_up(played: Sequence[Game], seconds: float, seed: int, paired: bool = True) -> Match:
    """What the games came to. `paired`: whether both games of an opening begin alike, which free moves end."""
    won = np.array([game.result > 0 for game in played])
    first = np.array([game.agent > 0 for game in played])
    openings = np.array([game.opening for game in played])
    differing: dict[Any, list[int]] = {}  # pairs of games by their moves: one that was played again says nothing new
    twice = []
    for one in np.unique(openings) if paired else ():
        pair = np.flatnonzero(openings == one).tolist()
        if len(pair) == 2:
            twice.append(int(won[pair].sum()))
            differing.setdefault(tuple(played[game].moves for game in pair), []).append(twice[-1])
    interval = None
    if len(set(twice)) > 1:
        worth, often = np.array([each[0] for each in differing.values()]), np.array([*map(len, differing.values())])
        generator = np.random.default_rng([seed, 0xB007])
        draw = generator.choice(len(worth), (DRAWS, len(worth)), p=often / often.sum())
        low, high = np.quantile(worth[draw].mean(1) / 2, [0.025, 0.975])
        interval = float(low), float(high)

    def of(which: np.ndarray) -> Rate:
        chosen = [game for game, flag in zip(played, which, strict=True) if flag]
        return rate(int(won[which].sum()), len(chosen), _distinct(chosen))

    return Match(
        first=of(first),
        second=of(~first),
        all_games=of(np.ones(len(played), bool)),
        pairs=(twice.count(0), twice.count(1), twice.count(2)),
        pair_interval=interval,
        distinct=_distinct(played),
        length=float(np.mean([len(game.moves) for game in played])),
        given_up=sum(game.given_up for game in played),
        seconds=seconds,
    )


def _distinct(played: Sequence[Game]) -> int:
    """How many games differ, in who began or in a move."""
    return len({(game.agent, game.moves) for game in played})
