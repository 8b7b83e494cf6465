"""The words of `engram play`, and what it does: a person plays with a trained agent in the terminal."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from engram.cli.places import existing, runs_of
from engram.cli.typed import Imports, note, whole
from engram.run.display import clean, fitting, is_terminal, is_tty

LEAVE = "quit"  # or the end of the input


@dataclasses.dataclass(frozen=True)
class Play:
    """Play with a trained agent yourself, where its environment lets a person play.

    Type quit, or press Ctrl-D, to leave.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's directory."""
    at: Annotated[str | None, arg(metavar="newest|best|STEP"), note("(default: newest)")] = None
    """Which checkpoint: the newest, the best by the evaluations while training, or that of a step."""
    seed: Annotated[int | None, whole(0, "S"), note("(default: 0)")] = None
    """The seed of all that is drawn."""
    env_arg: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """An argument for making the environment, in place of the one of training."""
    trust: Annotated[bool, note("")] = False
    """Import the module and hand on the paths that the run's files name, which may run code of whoever made them."""
    imports: Imports = ()


def play(chosen: Play) -> None:
    """`engram play`."""
    existing(chosen.run)
    if is_terminal(sys.stdout):
        print("loading; the first time also compiling ...", flush=True)
    from engram.play.conversation import conversing

    agent, seed = _loaded(chosen), chosen.seed or 0
    with conversing(agent, seed) as env:
        try:
            env.converse(agent, ask, tell, seed)
        except EOFError:
            print()


def _loaded(chosen: Play) -> Any:
    """The agent, in the environment that was asked for."""
    from engram.cli.flags import environment_argument
    from engram.run.stored import load

    given: dict[str, Any] = {} if chosen.at is None else {"at": chosen.at}
    agent = load(runs_of(chosen.run)[0], trust=chosen.trust, **given)
    return agent.elsewhere(None, dict(map(environment_argument, chosen.env_arg)) if chosen.env_arg else None)


def ask(prompt: str) -> str:
    """The next line of the input, without blanks around it. Raises EOFError at its end, and where it says to leave."""
    if is_tty(sys.stdin) and is_tty(sys.stdout):
        line = input(clean(prompt))  # with the keys of an editor
    else:
        print(clean(prompt), end="", flush=True)
        line = sys.stdin.readline()
        print(line, end="" if line.endswith("\n") else "\n", flush=True)  # a pipe has no echo
        if not line:
            raise EOFError
    word = line.strip()
    if word.lower() == LEAVE:
        raise EOFError
    return word


def tell(text: str) -> None:
    """Prints some lines, each as wide as the terminal at most."""
    for line in text.split("\n"):
        print(*fitting(clean(line), sys.stdout), sep="\n", flush=True)
