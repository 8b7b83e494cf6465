"""`engram play`, in which a person plays with a trained agent, and `engram match`: their words, and what they do."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from engram.cli.places import existing, runs_of
from engram.cli.reports import report
from engram.cli.typed import Imports, note, whole
from engram.errors import SpecError
from engram.run.display import clean, fitting, is_terminal, is_tty
from engram.run.folders import checkpoint_of

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


@dataclasses.dataclass(frozen=True)
class Match:
    """Let a trained agent play a match, in a game whose sides take turns.

    Each opening of random moves is played twice, with sides swapped.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's directory."""
    against: Annotated[str | None, arg(metavar="NAME|RUN"), note("(default: the first that the game knows)")] = None
    """Whom to play: one that the game knows, such as random, capture or gnugo:1; or another run, as RUN or RUN@STEP."""
    at: Annotated[str | None, arg(metavar="newest|best|STEP"), note("(default: newest)")] = None
    """Which checkpoint: the newest, the best by the evaluations while training, or that of a step."""
    games: Annotated[int | None, whole(1, "N"), note("(default: 400)")] = None
    """How many games."""
    opening_moves: Annotated[int | None, whole(0, "N"), note("(default: 2)")] = None
    """Random moves that a game begins with."""
    free_moves: Annotated[int | None, whole(0, "N"), note("(default: 0)")] = None
    """Moves before these that the sides choose themselves: with 1, the first move is free."""
    side: Annotated[str | None, arg(metavar="both|first|second"), note("(default: both)")] = None
    """Which side the agent has; Black moves first."""
    seed: Annotated[int | None, whole(0, "S"), note("(default: 0)")] = None
    """The seed of openings and of whom is played."""
    env_arg: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """An argument for making the environment, in place of the one of training."""
    trust: Annotated[bool, note("")] = False
    """Import the module and hand on the paths that the run's files name, which may run code of whoever made them."""
    imports: Imports = ()
    json: Annotated[bool, note("")] = False
    """Print one JSON object and nothing else to standard output."""


SIDES = ("both", "first", "second")


def match(chosen: Match) -> None:
    """`engram match`."""
    existing(chosen.run)
    if chosen.side is not None and chosen.side not in SIDES:
        raise SpecError(f"--side {chosen.side} was given; expected {', '.join(SIDES)}")

    def work() -> dict[str, Any]:
        from engram.play.match import play_match

        agent = _loaded(chosen)
        env = _two_sided(agent)
        name = chosen.against or next(iter(getattr(env, "rivals", ())), "")
        if not name:
            raise SpecError("--against was not given, and this game knows nobody; name a run, as in --against RUN")
        rival = _rival(chosen, env, name)
        given = {"games": chosen.games or 400, "side": chosen.side or "both", "seed": chosen.seed or 0}
        given["free_moves"] = chosen.free_moves or 0
        given["opening_moves"] = 2 if chosen.opening_moves is None else chosen.opening_moves
        try:
            found, _ = play_match(env, agent.minds[0], agent.plan.agent, rival, **given)
        finally:
            rival.close()
        about = {"run": str(chosen.run), "step": agent.step, "against": name, **given}
        return about | _rows(found)

    report(work, chosen.json)


def _two_sided(agent: Any) -> Any:
    from engram.envs.device import has_turns

    name = agent.world_name or "this environment"
    env = agent.device_world() if agent.on_device else None
    if env is None or not has_turns(env):
        raise SpecError(f"{name} has one side only, so no match can be played; use engram evaluate")
    return env


def _rival(chosen: Match, env: Any, name: str) -> Any:
    """One that the game knows, or the agent of another run."""
    from engram.play.match import AgentRival
    from engram.run.stored import load

    known = env.rival(name, chosen.seed or 0) if hasattr(env, "rival") else None
    if known is not None:
        return known
    folder, at = checkpoint_of(name)
    if not folder.is_dir():
        names = ", ".join(getattr(env, "rivals", ())) or "none"
        raise SpecError(f"--against {name} is no run directory and nobody that the game knows ({names})")
    other = load(runs_of(folder)[0], trust=chosen.trust, **({"at": at} if at else {}))
    agent = other.elsewhere(None, None)
    if (agent.plan.space, agent.plan.actions) != (env.observation_space, env.actions):
        raise SpecError(f"--against {name} has learned from other observations; name a run of the same board")
    return AgentRival(agent.minds[0], agent.plan.agent)


def _rows(found: Any) -> dict[str, Any]:
    """The result as names and numbers."""

    def told(one: Any) -> dict[str, Any]:
        return {"games": one.games, "won": one.won, "rate": one.rate, "interval": [one.low, one.high]}

    rates = {"all": found.all_games, "as_first": found.first, "as_second": found.second}
    lost, split, won = found.pairs
    return {
        **{name: told(one) for name, one in rates.items() if one.games},
        "openings": {"both_lost": lost, "one_each": split, "both_won": won, "interval": found.pair_interval},
        "distinct_games": found.distinct,
        "moves": found.length,
        "given_up": found.given_up,
        "seconds": found.seconds,
    }


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


def _loaded(chosen: Play | Match) -> Any:
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
