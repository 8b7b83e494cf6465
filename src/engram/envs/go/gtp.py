"""Go engines that speak the Go Text Protocol (GTP) over a pipe, such as GNU Go.

    with Engine(gnu_go(level=1)) as engine:
        engine.begin(size=5, komi=0.5)
        engine.play(BLACK, 12)
        engine.choose(WHITE)

Source: Farneback 2002, "Specification of the Go Text Protocol, version 2, draft 2".
"""

import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from engram.envs.go.board import BLACK, action_of, name_of
from engram.errors import EnvironmentFault, SpecError

GAMES = Path("/usr/games/gnugo")  # where Debian puts it, which is not on the path of most users
LEVELS = range(11)
RESIGNS = -1  # what `choose` gives for a game that was given up
PATIENCE = 300.0  # seconds for one answer


def gnu_go(level: int, seed: int = 0) -> list[str]:
    """The command of GNU Go that plays a game out to its end: dead stones are captured, and nothing is given up.

    It is told not to repeat a position, which nobody may: by itself it forbids the simple ko alone.

    Raises SpecError where it is not installed, or has no such level.
    """
    if level not in LEVELS:
        raise SpecError(f"level {level} of GNU Go was given; expected {LEVELS[0]} to {LEVELS[-1]}, as in gnugo:1")
    found = shutil.which("gnugo") or (str(GAMES) if GAMES.exists() else None)
    if found is None:
        raise SpecError("GNU Go is not installed; on Debian or Ubuntu: apt-get install gnugo")
    rules = ["--chinese-rules", "--positional-superko", "--capture-all-dead", "--never-resign"]
    return [found, "--mode", "gtp", "--level", str(level), "--seed", str(1 + seed), *rules]


class Engine:
    """One engine in a process of its own."""

    def __init__(self, command: Sequence[str], patience: float = PATIENCE):
        self._name, self._patience, self._size, self._read = command[0], patience, 0, b""
        self._thinking = ""
        try:
            self._process = subprocess.Popen(
                list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise SpecError(f"{command[0]} cannot be started ({error.strerror}); name a program that can") from None

    def begin(self, size: int, komi: float) -> None:
        """A new game on an empty board."""
        self._size = size
        for words in (f"boardsize {size}", "clear_board", f"komi {komi}"):
            self._ask(words)

    def play(self, colour: int, action: int) -> None:
        """Tells the engine of a move of that colour, 1 for Black."""
        self._ask(f"play {_letter(colour)} {name_of(action, self._size)}")

    def choose(self, colour: int) -> int:
        """The engine's own move, which it has made; RESIGNS where it gives up."""
        self.think(colour)
        return self.chosen()

    def think(self, colour: int) -> None:
        """Lets the engine begin with its own move. Several engines think at once; `chosen` must follow."""
        self._thinking = f"genmove {_letter(colour)}"
        self._say(self._thinking)

    def chosen(self) -> int:
        """The move that the engine was told to think of; RESIGNS where it gives up."""
        word = self._heard(self._thinking)
        if word.lower() == "resign":
            return RESIGNS
        action = action_of(word, self._size)
        if action is None:
            raise EnvironmentFault(f"{self._name} answered {word!r} for a move on {self._size} x {self._size}")
        return action

    def _ask(self, words: str) -> str:
        """What the engine answers to a command, without the sign before it."""
        self._say(words)
        return self._heard(words)

    def _say(self, words: str) -> None:
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(words.encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise EnvironmentFault(f"{self._name} has ended before {words!r}; start it by hand to see why") from None

    def _heard(self, words: str) -> str:
        answer = self._answer(words)
        if not answer.startswith("="):
            raise EnvironmentFault(f"{self._name} refused {words!r}: {answer[1:].strip() or 'no reason given'}")
        return answer[1:].strip()

    def _answer(self, words: str) -> str:
        """All up to the empty line that ends an answer."""
        assert self._process.stdout is not None
        file, until = self._process.stdout.fileno(), time.monotonic() + self._patience
        while b"\n\n" not in (read := self._read.replace(b"\r", b"")):
            if not select.select([file], [], [], max(0.0, until - time.monotonic()))[0]:
                raise EnvironmentFault(f"{self._name} did not answer {words!r} within {self._patience:g} s")
            part = os.read(file, 4096)
            if not part:
                raise EnvironmentFault(f"{self._name} has ended at {words!r}; start it by hand to see why")
            self._read += part
        answer, _, rest = read.lstrip(b"\n").partition(b"\n\n")
        self._read = rest
        return answer.decode("utf-8", "replace")

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _letter(colour: int) -> str:
    return "B" if colour == BLACK else "W"
