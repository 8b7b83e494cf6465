"""A text game as an environment: what it tells is a text of words, what may be typed are the actions on offer.

    text      the last command, what the game said to it, what is carried, where the player is; a symbol for each word
    offered   a row of features for each command that the game admits now, and rows of zeros
    reward    the change of the score, as a share of the most that can be scored; with `discovery` more for what is new
    success   `info["is_success"]`: whether the game was won

Worker processes import this file, so it imports no JAX.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces as gym_spaces

from engram.envs.textgames.words import (
    LARGEST,
    MOST_FEATURES,
    MOST_SYMBOLS,
    features_of,
    letter,
    letters,
    symbol,
    words_of,
)
from engram.errors import EnvironmentFault, SpecError

OPEN = 8  # games that stay begun
LOOKS = ("examine", "look", "inventory")  # verbs of commands that change nothing
# The line below what a game of TextWorld says: the place, the points, and how often something was typed.
_STATUS = re.compile(r"^[> \t]*-= .* =-\s*-?\d+/\d+\s*$", re.MULTILINE)


class Game(Protocol):
    """A game in the manner of TextWorld's interface for Gym.

    Its `infos` tell `admissible_commands`, a list of texts, and may tell `description`, `inventory`, `max_score` and
    `won`.
    """

    def reset(self) -> tuple[str, Mapping[str, Any]]:
        """Begins the game anew: what it says, and its infos."""
        ...

    def step(self, command: str) -> tuple[str, float, bool, Mapping[str, Any]]:
        """What the game says, the score until now, whether it is over, and its infos."""
        ...


class TextGame(gymnasium.Env):
    """One of several text games in each episode, drawn by the episode's seed.

    Args:
      games: functions that start one game each; a game is started when it is first drawn.
      words: the most words of a text; what is longer is cut off at its end, where the description of the place is.
      rows: the most commands on offer. Of more, those are left out first that only look, the last ones first; how many
        were left out is in `info["left_out"]`.
      symbols: how many symbols words are divided among. features: numbers that tell a command, a multiple of 8.
      commanded: whether the text begins with the last command. Without it an agent must remember where it came from.
      discovery: what a place and what is carried there are rewarded with when they are first met in an episode, 0 for
        nothing (the episodic discovery bonus of Yuan et al. 2018, arXiv 1806.11525, section 3). It is for training:
        the way to a score that chance does not find is paid. `info["score"]` is without it.
      render_mode: "ansi" for the last command and what the game said to it.
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012

    def __init__(
        self,
        games: Sequence[Callable[[], Game]],
        *,
        words: int = 160,
        rows: int = 32,
        symbols: int = 2048,
        features: int = 64,
        commanded: bool = True,
        discovery: float = 0.0,
        render_mode: str | None = None,
    ):
        check_discovery(discovery)
        _check(len(games), words=words, rows=rows, symbols=symbols, features=features)
        self._games, self._started = list(games), dict[int, Game]()
        self._words, self._rows, self._symbols, self._features = words, rows, symbols, features
        self._commanded, self.render_mode = commanded, render_mode
        self.commands: list[str] = []
        self._words_met: set[str] = set()
        self._told, self._score = "", 0.0
        self._discovery, self._met = float(discovery), set[tuple[str, str]]()
        self.action_space = gym_spaces.Discrete(rows)
        self.observation_space = gym_spaces.Dict(
            action_mask=gym_spaces.MultiBinary(rows),
            offered=gym_spaces.Box(-LARGEST, LARGEST, (rows, features), np.int8),
            text=gym_spaces.Text(words, min_length=0, charset=letters(symbols)),
        )

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begins one of the games; `info["game"]` is its number."""
        super().reset(seed=seed)
        number = int(self.np_random.integers(len(self._games)))
        self._game, self._score = self._opened(number), 0.0
        said, infos = self._game.reset()
        self._met = {_where(infos)}
        return self._observed("", said, infos, over=False), {"game": number}

    def _opened(self, number: int) -> Game:
        """The game of that number, begun if it is none of the last few: each holds an interpreter in memory."""
        game = self._started.pop(number, None) or self._games[number]()
        self._started[number] = game
        while len(self._started) > OPEN:
            _close(self._started.pop(next(iter(self._started))))
        return game

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Types the command of a row."""
        if not 0 <= action < len(self.commands):
            raise EnvironmentFault(
                f"command {action} was chosen, and {len(self.commands)} are on offer; keep to action_mask"
            )
        command = self.commands[action]
        said, score, over, infos = self._game.step(command)
        score = float(score) / (float(infos.get("max_score") or 1))
        reward, self._score = score - self._score, score
        if (here := _where(infos)) not in self._met:
            self._met.add(here)
            reward += self._discovery
        observation = self._observed(command, said, infos, over=bool(over))
        info = {"is_success": float(bool(infos.get("won"))), "score": score, "left_out": self._left_out}
        return observation, reward, bool(over), False, info

    def render(self) -> str | None:
        """The last command and what the game said to it."""
        return self._told if self.render_mode == "ansi" else None

    def parts(self) -> dict[str, Any]:
        """Names of the symbols of words that were met so far, and of the commands on offer at this step."""
        symbols = [""] * self._symbols
        for word in sorted(self._words_met):
            place = symbol(word, self._symbols)
            symbols[place] = f"{symbols[place]}/{word}" if symbols[place] else word
        return {"symbols": symbols, "offered": self.commands}

    def close(self) -> None:
        """Closes the games that can be closed."""
        for game in self._started.values():
            _close(game)

    def _observed(self, command: str, said: str, infos: Mapping[str, Any], over: bool) -> dict[str, Any]:
        said = _STATUS.sub("", said).strip()
        self._told = f"> {command}\n{said}" if command else said
        words = self._read(command if self._commanded else "", said, infos)
        self._words_met.update(words)
        self.commands, self._left_out = self._offer(infos, over)
        offered = np.zeros((self._rows, self._features), np.int8)
        for row, one in enumerate(self.commands):
            offered[row] = features_of(one, self._features)
        mask = (np.arange(self._rows) < len(self.commands)).astype(np.int8)
        text = "".join(letter(word, self._symbols) for word in words)
        return {"action_mask": mask, "offered": offered, "text": text}

    def _read(self, command: str, said: str, infos: Mapping[str, Any]) -> list[str]:
        """The words of the text, each section behind its name. A place is not described twice."""
        here, answer = words_of(infos.get("description") or ""), " ".join(words_of(said))
        if here:
            answer = answer.replace(" ".join(here), " ")
        sections = {
            "command": words_of(command),
            "said": answer.split(),
            "carried": words_of(infos.get("inventory") or ""),
            "here": here,
        }
        told = [word for name, section in sections.items() if section for word in (f"[{name}]", *section)]
        return told[: self._words]

    def _offer(self, infos: Mapping[str, Any], over: bool) -> tuple[list[str], int]:
        """The commands on offer, and how many were left out."""
        given = infos.get("admissible_commands")
        if given is None:
            raise EnvironmentFault(
                "the game's infos have no 'admissible_commands'; let it tell them, in TextWorld by "
                "request_infos=EnvInfos(admissible_commands=True)"
            )
        commands = [str(command) for command in given]
        if not commands and not over:
            raise EnvironmentFault("the game is not over and admits no command; end it, or admit one")
        surplus = max(0, len(commands) - self._rows)
        looks = [place for place, command in enumerate(commands) if command.split(" ")[0] in LOOKS]
        others = [place for place in range(len(commands)) if place not in looks]
        dropped = {*(looks[::-1] + others[::-1])[:surplus]}
        return [command for place, command in enumerate(commands) if place not in dropped], surplus


def _close(game: Game) -> None:
    getattr(game, "close", lambda: None)()


def check_discovery(given: Any) -> None:
    """SpecError for what is no reward from 0 on."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < np.inf:
        raise SpecError(f"discovery = {given!r} was given; expected a number from 0 on")


def _where(infos: Mapping[str, Any]) -> tuple[str, str]:
    """What is told of the place and of what is carried."""
    return str(infos.get("description") or ""), str(infos.get("inventory") or "")


def _check(games: int, **sizes: int) -> None:
    """SpecError for no game, and for numbers that no text or command can be told by."""
    if games == 0:
        raise SpecError("no game was given; give functions that start one each")
    for name, most in (("words", 1024), ("rows", 1024), ("symbols", MOST_SYMBOLS), ("features", MOST_FEATURES)):
        given, low = sizes[name], 8 if name == "features" else 1
        if type(given) is not int or not low <= given <= most or (name == "features" and given % 8):
            kind = "a multiple of 8" if name == "features" else "a whole number"
            raise SpecError(f"{name} = {given!r} was given; expected {kind} from {low} to {most:,}")
