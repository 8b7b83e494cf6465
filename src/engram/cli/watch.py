"""`engram watch`: an episode in the terminal, as lines, as a picture or as a film."""

import os
import select
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from engram.cli.flags import Watch, environment_argument
from engram.cli.places import existing, runs_of
from engram.errors import SpecError
from engram.run.display import clean, is_terminal, is_tty

if TYPE_CHECKING:
    from engram.explaining.moments import Step
    from engram.explaining.panel import Watched

PACE = 10.0  # steps a second at --speed 1
FASTER = 1.5  # times as fast, by a key
SLOWEST, FASTEST = 0.01, 1000.0  # of --speed
LAST = 1 << 62  # no step is later

Range = tuple[int, int]


def watch(chosen: Watch) -> None:
    """Play, and show. Raises KeyboardInterrupt after Ctrl-C, once the terminal is as it was."""
    _check(chosen)
    shown = _steps(chosen.steps)
    existing(chosen.run)
    if chosen.png is not None:
        shown = chosen.png, chosen.png + 1
    if is_terminal(sys.stdout):
        print("loading; the first time also compiling ...", flush=True)
    agent, watched = _loaded(chosen)
    with closing(_played(chosen, agent, watched, shown)) as found:
        if chosen.png is not None:
            _picture(chosen, found, watched)
        elif chosen.video is not None:
            _film(chosen, found, watched)
        elif is_terminal(sys.stdout):
            _live(found, watched, chosen.speed or 1.0)
        else:
            _lines(found, watched)


def _check(chosen: Watch) -> None:
    """What can be said before JAX is loaded."""
    from engram.explaining.film import FILMS, PICTURES, check_ending

    if chosen.png is not None and chosen.video is not None:
        raise SpecError("--png and --video were both given; write one at a time")
    if chosen.out is not None and chosen.png is None:
        raise SpecError("--out was given without --png; add --png STEP, or write a film with --video FILE")
    if chosen.png is not None and chosen.steps is not None:
        raise SpecError("--steps was given with --png, which shows one step; leave one of them out")
    if chosen.png is not None and (chosen.episodes or 1) > 1:
        raise SpecError("--episodes was given with --png, which shows one step of the first; leave it out")
    if chosen.png is not None and chosen.speed is not None:
        raise SpecError("--speed was given with --png, which is one picture; leave one of them out")
    if chosen.speed is not None and not SLOWEST <= chosen.speed <= FASTEST:
        raise SpecError(f"--speed {chosen.speed:g} was given; expected {SLOWEST:g} to {FASTEST:g}")
    if chosen.png is not None:
        check_ending(_out(chosen), PICTURES, "--out")
    if chosen.video is not None:
        check_ending(chosen.video, FILMS, "--video")


def _out(chosen: Watch) -> Path:
    return chosen.out or Path(f"step-{chosen.png}.png")


def _steps(text: str | None) -> Range:
    """The steps that A:B names: from A on, and before B.

    >>> _steps("10:20"), _steps("5:")[0]
    ((10, 20), 5)
    """
    if text is None:
        return 0, LAST
    first, colon, last = text.partition(":")
    try:
        begin, end = int(first or 0), int(last or LAST) if colon else int(first) + 1
    except ValueError:
        begin, end = 0, 0
    if not 0 <= begin < end:
        raise SpecError(f"--steps {text!r} was given; write A:B, the steps from A to before B, as in --steps 10:60")
    return begin, end


def _loaded(chosen: Watch) -> tuple[Any, "Watched"]:
    """The agent, in the environment that was asked for, and what the display is told of both."""
    from engram.explaining.panel import Watched
    from engram.run.stored import load

    given: dict[str, Any] = {} if chosen.at is None else {"at": chosen.at}
    agent = load(runs_of(chosen.run)[0], trust=chosen.trust, **given)
    env_args = dict(map(environment_argument, chosen.env_arg)) if chosen.env_arg else None
    agent = agent.elsewhere(chosen.env, env_args)
    unit = "log-probability" if agent.plan.agent.head.has_policy else "Q"
    return agent, Watched(f"{agent.plan.preset} on {agent.world_name or 'an environment of its own'}", unit=unit)


def _played(chosen: Watch, agent: Any, watched: "Watched", shown: Range) -> Generator["Step", None, None]:
    """The steps to show; the rest is played without being told, and nothing after the last one."""
    from engram.explaining import watching

    given: dict[str, Any] = {
        "episodes": chosen.episodes or 1,
        "seed": chosen.seed or 0,
        "max_episode_steps": chosen.max_episode_steps,
    }
    given |= {"shown": lambda step: shown[0] <= step < shown[1], "pass_by": watched.pass_by, "called": watched.call}
    found = False
    with closing(watching.watch(agent, **given)) as steps:
        for step in steps:
            found = True
            yield step
            if step.t + 1 == shown[1] and step.episode + 1 == given["episodes"]:
                return
    if not found and chosen.png is None:
        raise SpecError(f"no episode had a step {shown[0]}; give --steps an earlier one, or another --seed")


# -- files -----------------------------------------------------------------------------------------------------------


def _picture(chosen: Watch, steps: Iterator["Step"], watched: "Watched") -> None:
    from engram.explaining.film import write_picture

    step = next(steps, None)
    if step is None:
        raise SpecError(f"the episode ended before step {chosen.png}; give --png a lower step, or another --seed")
    watched.add(step)
    write_picture(step, watched, _out(chosen))
    print(clean(f"{_out(chosen)} shows step {step.t}"))


def _film(chosen: Watch, steps: Iterator["Step"], watched: "Watched") -> None:
    from engram.explaining.film import framed, write_film

    assert chosen.video is not None

    def frames() -> Iterator[Any]:
        for step in steps:
            watched.add(step)
            yield framed(step, watched)

    count = write_film(frames(), chosen.video, PACE * (chosen.speed or 1.0))
    print(clean(f"{chosen.video} shows {count:,} steps"))


# -- lines and the panel ---------------------------------------------------------------------------------------------


def _lines(steps: Iterable["Step"], watched: "Watched") -> None:
    from engram.explaining.panel import line

    for step in steps:
        watched.add(step)
        print(clean(line(step, watched)), flush=True)


def _live(steps: Iterator["Step"], watched: "Watched", speed: float) -> None:
    """The panel, redrawn at every step, until the episode is over or somebody ends it."""
    from rich.console import Console
    from rich.live import Live

    from engram.explaining.panel import PLAIN, SPARKS, panel
    from engram.run.stop import StopRequest

    console = Console(highlight=False)  # heeds NO_COLOR, TERM and COLUMNS by itself
    blocks = SPARKS if console.encoding.lower().startswith("utf") else PLAIN
    pictured = blocks is SPARKS and console.color_system is not None and not console.no_color
    first = next(steps, None)  # compiled, and written to nothing, before the terminal is taken
    if first is None:
        raise SpecError("the episode was over before the first of these --steps; give lower ones")
    with StopRequest() as stop, _Keys(speed) as keys, Live(console=console, auto_refresh=False) as live:
        for step in _with(first, steps):
            began = time.monotonic()
            watched.add(step)
            drawn = panel(step, watched, console.width - 1, console.height, blocks, pictured)
            live.update(drawn, refresh=True)
            if not keys.wait(began, stop):
                break
    if stop():
        raise KeyboardInterrupt


def _with(first: "Step", steps: Iterator["Step"]) -> Iterator["Step"]:
    yield first
    yield from steps


class _Keys(AbstractContextManager["_Keys"]):
    """Keys that are read as they are typed, where there is a keyboard; what the terminal was is put back at the end."""

    def __init__(self, speed: float):
        self._speed, self._paused, self._before = speed, False, None
        self._file = -1

    def __enter__(self) -> "_Keys":
        if not is_tty(sys.stdin):
            return self
        with suppress(ImportError, OSError, ValueError):  # no POSIX; no file
            import termios
            import tty

            self._file = sys.stdin.fileno()
            self._before = termios.tcgetattr(self._file)
            tty.setcbreak(self._file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            import termios

            termios.tcsetattr(self._file, termios.TCSADRAIN, self._before)

    def wait(self, began: float, stop: Any) -> bool:
        """Until the next step is due, of one that was shown at `began`. False where somebody ends it."""
        while not stop():
            left = 3600.0 if self._paused else began + 1 / (PACE * self._speed) - time.monotonic()
            key = self._key(max(0.0, min(left, 0.1)))
            if key in ("q", "Q", "\x1b", "\x04"):
                return False
            if key == " ":
                self._paused = not self._paused
            elif key in ("+", "="):
                self._speed = min(self._speed * FASTER, FASTEST)
            elif key == "-":
                self._speed = max(self._speed / FASTER, SLOWEST)
            elif key in ("\x1b[C", ".", "n"):
                return True
            if left <= 0:
                return True
        return False

    def _key(self, seconds: float) -> str:
        """What was typed within so many seconds; "" for nothing."""
        if self._before is None:
            time.sleep(seconds)
            return ""
        try:
            ready, _, _ = select.select([self._file], [], [], seconds)
            return os.read(self._file, 8).decode("utf-8", "replace") if ready else ""
        except (OSError, ValueError, InterruptedError):
            return ""
