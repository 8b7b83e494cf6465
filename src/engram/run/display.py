"""What a person sees while an agent learns: one panel in a terminal or a notebook, plain lines anywhere else.

Nothing here can stop a run: when whoever reads the output goes away, the display goes quiet and learning goes on.
"""

import math
import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import suppress
from html import escape
from importlib import import_module
from shutil import get_terminal_size
from textwrap import wrap
from types import TracebackType
from typing import Any

_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, formatting (text direction too), surrogates, line separators
_WIDE = 70  # columns from which two facts stand side by side
_LINES = 20  # plain lines of a whole run in a notebook's cell, which keeps all of them
# The panel in a notebook: its box, and the cells of its table, which notebooks would else stripe and put to the right.
_BOX = (
    "max-width:44em;margin:6px 0;padding:4px 12px;border:1px solid rgba(128,128,128,.5);border-radius:4px;"
    "font-family:monospace"
)
_CELL = "background:none;border:0;padding:2px 8px;text-align:left"
_PROSE = re.compile(r"[;,] | \(")  # in what follows a name: then it is no command, but goes on as a sentence
_ECHO = 2  # columns beside the panel for the "^C" of Ctrl-C, which would else begin a line and shift the panel
_LATEST = 0.5  # weight of the newest stretch in the pace that the time left is told by
_STAYS = (
    "return_mean",
    "loss",
    "q_mean",
    "entropy",
)  # shown as last known: a line of metrics may lie between two updates
# What the panel says of a fact that is not known yet.
_UNKNOWN = {
    "return": "no episode ended yet", "loss": "nothing learned yet", "Q": "nothing learned yet",
    "entropy": "nothing learned yet",
}  # fmt: skip
# What tells how an agent judges, by the metric that it is made of: an agent with a policy alone has no Q.
JUDGES = {"q_mean": "Q", "entropy": "entropy"}


def _is_absent(value: Any) -> bool:
    """Whether a metric has no value, of any seed. NaN is a value."""
    return all(one is None for one in value) if isinstance(value, list) else value is None


def clean(text: object) -> str:
    r"""`text` on one line, with every character that could steer a terminal written as an escape.

    >>> clean("a\x1b[31mred\n")
    'a\\x1b[31mred\\n'
    """
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _UNSAFE else character
        for character in str(text)
    )


class Display:
    """The progress of one run.

    Args:
      total_steps: planned environment steps, None if unknown; `metrics["total"]` takes its place.
      stream: a text file to write to; standard output if None.
      title: what is being learned, such as the environment's name.
      interval: least seconds between two plain lines; the first and the last are always written.
      clock: seconds, for tests.
    """

    def __init__(
        self,
        total_steps: int | None = None,
        stream: Any = None,
        *,
        title: str = "",
        interval: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total = total_steps
        self.title = title
        self.explores: tuple[str, ...] = ("epsilon",)  # the metrics that tell of exploration
        self.judges: tuple[str, ...] = ("q_mean",)  # of JUDGES, those that the agent reports
        self.stream: Any = sys.stdout if stream is None else stream
        self._interval, self._clock = interval, clock
        self._metrics: dict[str, Any] = {}
        self._greedy: float | None = None  # the return of the newest evaluation; few lines of metrics hold one
        self._begun: tuple[float, float] | None = None  # the step, and seconds without compiling, of the last update
        self._pace: float | None = None  # steps a second, what compiling took left out
        self._compiled = 0.0  # seconds
        self._saved: int | None = None
        self._over = False
        self._started = self._updated = clock()
        self._written: float | None = None  # when the last plain line was written
        self._pending = False  # an update that no line has shown
        self._live: Any = None
        self._cell = _in_cell() and is_tty(self.stream)  # a terminal that is none: `!engram train` in a notebook
        self._shown = 0.0  # the share of the run that the last plain line told of

    @property
    def sparing(self) -> bool:
        """Whether few lines are wanted: all of them are kept in a notebook."""
        return self._cell or in_notebook()

    def __enter__(self) -> "Display":
        self._started = self._updated = self._clock()
        if self._live is None and self.stream is not None:
            if in_notebook() and self.stream is sys.stdout:
                self._live = _Cell(self)
            elif is_terminal(self.stream):
                self._live = _panel(self)
            if self._live is not None:
                self._safely(self._live.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        live, self._live = self._live, None
        if live is not None:
            self._safely(live.stop)
        elif self._pending:
            self._line()

    def begin(self, known: Mapping[str, Any]) -> None:
        """What is known before anything is learned, `step` among it: the panel shows it until the first `update`."""
        self._metrics = dict(known)
        self.total = self._metrics.get("total") or self.total
        self._begun, self._pace, self._over = (float(known["step"]), self._clock()), None, False

    def compiled(self, seconds: float) -> None:
        """A program took so long to compile."""
        self._compiled += seconds

    def saved(self, step: int) -> None:
        """A checkpoint was written: a fact of the panel; elsewhere a line is (`note`)."""
        self._saved = step

    def end(self, step: int) -> None:
        """The run stopped at this step, which need not be that of the last update."""
        self._over = True
        if _number(self._metrics.get("step")) != step:
            self._metrics |= {"step": step}
            self._pending = self._written is not None

    @property
    def in_panel(self) -> bool:
        """Whether facts are shown in a panel that is drawn anew."""
        return self._live is not None

    def update(self, metrics: Mapping[str, Any]) -> None:
        """Show `metrics` (the trainer's names); absent ones and NaN are shown as unknown, but for `_STAYS`."""
        unknown = [name for name in _STAYS if _is_absent(metrics.get(name)) and name in self._metrics]
        self._metrics = {**metrics, **{name: self._metrics[name] for name in unknown}}
        self.total = self._metrics.get("total") or self.total
        greedy = _number(self._metrics.get("evaluation_return"))
        self._greedy = self._greedy if greedy is None else greedy
        self._updated = self._clock()
        self._measure()
        if self._live is not None:
            self._safely(self._live.refresh)
            return
        self._pending = True
        if self._is_due():
            self._line()

    def _measure(self) -> None:
        """The pace since the update before, which the pace so far is moved towards."""
        step, now = _number(self._metrics.get("step")), self._updated - self._compiled
        if step is None:
            return
        if self._begun is not None and step > self._begun[0] and now > self._begun[1]:
            newest = (step - self._begun[0]) / (now - self._begun[1])
            self._pace = newest if self._pace is None else self._pace + _LATEST * (newest - self._pace)
        self._begun = (step, now)

    def note(self, text: str) -> None:
        """Write a line that stays; in a terminal, lines that fit it."""
        if self._live is not None and self._live.console is not None:
            from rich.text import Text

            console = self._live.console
            lines = Text("\n".join(wrapped(clean(text), console.width)))
            self._safely(lambda: console.print(lines, soft_wrap=True))
        else:
            self._print("\n".join(fitting(clean(text), self.stream)))

    def facts(self) -> list[tuple[str, str]]:
        """What is shown, as (name, value) of plain text; unknown values are "-"."""
        known = self._metrics
        step, total = _number(known.get("step")), self.total
        seconds = _number(known.get("seconds"))
        now = self._clock()
        elapsed = now - self._started if seconds is None else seconds + now - self._updated
        speed = _number(known.get("steps_per_second"))
        pace = self._pace or (None if self._compiled else speed)
        left = (total - step) / pace if total and step is not None and pace else None
        explores = [(name, _text(_number(known.get(name)), ".3f")) for name in self.explores]
        judges = [(JUDGES[name], _text(_number(known.get(name)), ".4g")) for name in self.judges]
        return [
            ("step", f"{_text(step, ',.0f')}{f'/{total:,}' if total else ''}"),
            ("done", _text(self.share(), ".0%")),
            ("return", _text(_number(known.get("return_mean")), ".4g")),
            *([] if self._greedy is None else [("greedy", _text(self._greedy, ".4g"))]),
            ("episodes", _text(_number(known.get("episodes")), ",.0f")),
            ("loss", _text(_number(known.get("loss")), ".4g")),
            *judges,
            *explores,
            ("steps/s", _text(self._pace or speed, ",.0f")),
            ("elapsed", _duration(elapsed)),
            ("left", "stopped" if self._over and left and left > 0 else _duration(left)),
        ]

    def panel(self) -> list[tuple[str, str]]:
        """The facts of the panel: those of a line, with words where nothing is known yet, and the newest checkpoint."""
        facts = [(name, _UNKNOWN.get(name, "-") if value == "-" else value) for name, value in self.facts()]
        if self._pace is None:
            doing = "stopped before" if self._over else f"compiling ... {_duration(self._clock() - self._started)}"
            facts = [(name, doing if name in ("left", "steps/s") and value == "-" else value) for name, value in facts]
        return [*facts, ("saved", "-" if self._saved is None else f"step {self._saved:,}")]

    def share(self) -> float | None:
        """The part of the planned steps that is done, 0 to 1; None when unknown."""
        step = _number(self._metrics.get("step"))
        return min(step / self.total, 1.0) if step is not None and self.total else None

    def _is_due(self) -> bool:
        """Whether it is time for a plain line: in a notebook's cell, a few of a whole run are enough."""
        if self._written is None:
            return True
        waited, share = self._updated - self._written, self.share()
        if not self._cell:
            return waited >= self._interval
        if share is None:  # how long the run is nobody knows: lines become rare
            return waited >= max(self._interval, (self._updated - self._started) / 4)
        return waited >= self._interval and share - self._shown >= 1 / _LINES

    def _line(self) -> None:
        self._pending, self._written, self._shown = False, self._clock(), self.share() or 0.0
        self._print(self.text())

    def text(self) -> str:
        """What is shown, on one line."""
        return "  ".join(f"{name} {value}" for name, value in self.facts())

    def _print(self, text: str) -> None:
        stream = self.stream
        if stream is None:
            return
        encoding = getattr(stream, "encoding", None) or "utf-8"
        safe = text.encode(encoding, "backslashreplace").decode(encoding)
        self._safely(lambda: print(safe, file=stream, flush=True))

    def _safely(self, show: Callable[[], Any]) -> None:
        try:
            show()
        except (OSError, ValueError) as problem:  # a ValueError if the stream is closed
            if isinstance(problem, ValueError) and self.stream is not None and not self.stream.closed:
                raise
            live, self.stream, self._live = self._live, None, None
            if live is not None:  # it holds sys.stdout
                with suppress(OSError, ValueError):
                    live.stop()


def is_terminal(stream: Any) -> bool:
    """Whether a panel can be drawn on `stream` and moved about in."""
    return is_tty(stream) and os.environ.get("TERM") not in ("dumb", "unknown") and not _in_cell()


def is_tty(stream: Any) -> bool:
    """Whether `stream` says that it is a terminal."""
    try:
        return stream is not None and bool(stream.isatty())
    except (AttributeError, ValueError):  # no file; closed
        return False


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook. (IPython in a terminal has no kernel.)"""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def _in_cell() -> bool:
    """Whether a notebook's kernel started this process, as `!engram train` does.

    It gives a terminal, whose output is kept in the cell and in which no cursor moves. A kernel's environment has the
    first of these from Jupyter and the second from itself; a terminal that Jupyter opens has neither.
    """
    inline = os.environ.get("MPLBACKEND", "").startswith("module://matplotlib_inline")
    return "JPY_PARENT_PID" in os.environ or inline


class _Cell:
    """The panel as HTML in a notebook's cell, replaced in place, at most twice a second."""

    console = None  # what else is written goes to the cell's text

    def __init__(self, display: Display):
        self._display = display
        self._handle: Any = None
        self._drawn = 0.0

    def start(self) -> None:
        """The panel appears."""
        self._handle = import_module("IPython.display").display(self._content(), raw=True, display_id=True)

    def refresh(self) -> None:
        """The panel shows what is known now."""
        if time.monotonic() - self._drawn >= 0.5:
            self.stop()

    def stop(self) -> None:
        """The panel stays, with the newest numbers."""
        self._drawn = time.monotonic()
        self._handle.update(self._content(), raw=True)

    def _content(self) -> dict[str, str]:
        return {"text/html": as_html(self._display), "text/plain": self._display.text()}


def as_html(display: Display) -> str:
    """The panel of a display as a table of HTML, which fits a page of any width. Its styles stand in the elements."""
    cells = [
        f'<td style="{_CELL};opacity:.6">{escape(name)}</td><td style="{_CELL}">{escape(value)}</td>'
        for name, value in display.panel()
    ]
    rows = "".join(f'<tr style="background:none">{"".join(cells[at : at + 2])}</tr>' for at in range(0, len(cells), 2))
    done = f'<div style="width:{display.share() or 0.0:.1%};height:4px;background:#2a8a4a"></div>'
    return (
        f'<div style="{_BOX}"><div>{escape(clean(display.title) or "engram")}</div>'
        f'<div style="margin:4px 0;background:rgba(128,128,128,.3)">{done}</div>'
        f'<table style="width:100%;margin:0;border:0">{rows}</table></div>'
    )


def fitting(text: str, stream: Any, indent: int | str = 2) -> list[str]:
    """The text in lines for `stream`: those of `wrapped` in a terminal, else one, as programs read it."""
    return wrapped(text, get_terminal_size().columns, indent) if is_terminal(stream) else [text]


def wrapped(text: str, width: int, indent: int | str = 2) -> list[str]:
    """The text in lines of at most `width`, cut between words; those after the first stand in by `indent`.

    A command that ends a text is not cut: copied, it must be one line.

    >>> wrapped("stopped at step 900; go on with: engram train --run a/b --resume", 40)
    ['stopped at step 900; go on with:', '  engram train --run a/b --resume']
    """
    margin = indent if isinstance(indent, str) else " " * indent
    if len(text) <= width:
        return [text]
    told, colon, command = text.rpartition(": engram ")
    if colon and told != "engram" and not _PROSE.search(command):
        return [*wrapped(f"{told}:", width, indent), f"{margin}engram {command}"]
    width = max(width, len(margin) + 20)
    return wrap(text, width, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False) or [""]


def _panel(display: Display) -> Any:
    """A rich Live that redraws the display by itself four times a second, so that the clock runs while XLA compiles."""
    from rich.console import Console
    from rich.live import Live

    console = Console(file=display.stream, highlight=False)  # heeds NO_COLOR, TERM and COLUMNS by itself
    return Live(console=console, get_renderable=lambda: _render(display, console.width - _ECHO), refresh_per_second=4)


def _render(display: Display, width: int) -> Any:
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    pairs = 2 if width >= _WIDE else 1
    table = Table.grid(padding=(0, 2), expand=True)
    for _ in range(pairs):
        table.add_column(style="dim", no_wrap=True)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    cells = [(Text(name), Text(value)) for name, value in display.panel()]
    cells += [(Text(""), Text(""))] * (-len(cells) % pairs)
    for row in range(0, len(cells), pairs):
        table.add_row(*(cell for pair in cells[row : row + pairs] for cell in pair))
    whole = Table.grid(expand=True)  # as a cell, the bar ends its line also where it is drawn in part
    whole.add_row(ProgressBar(total=1.0, completed=display.share() or 0.0))
    whole.add_row(table)
    return Panel(whole, title=Text(clean(display.title) or "engram"), title_align="left", width=width)


def _number(value: Any) -> float | None:
    """A metric as one finite number (the mean over seeds of a list), or None."""
    if isinstance(value, list | tuple):
        known = [number for number in map(_number, value) if number is not None]
        return sum(known) / len(known) if known else None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _text(number: float | None, form: str) -> str:
    return "-" if number is None else format(number, form)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
