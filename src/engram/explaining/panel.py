"""One step in a terminal: a live panel, or one line where there is no terminal."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engram.explaining.moments import Memory, Part, Picture, Step
from engram.explaining.overlay import looked_at, overlaid, resized
from engram.explaining.sentences import memory_name
from engram.run.display import clean

if TYPE_CHECKING:
    from rich.console import RenderableType

TALLEST = 20  # lines of a terminal that a picture takes
SHOWN = 5  # memories, past steps, and parts of the input
MOST_ACTIONS = 18
WIDE = 84  # columns from which the picture stands beside the estimates
SPARKS = "▁▂▃▄▅▆▇█"
PLAIN = "_.-=+*#@"  # where the terminal's encoding has no blocks
LONGEST = 24  # characters of a name


@dataclass
class Watched:
    """What is known of an episode while it is shown: names, and the steps so far.

    Fields:
      title: of the panel. actions: their names. unit: of `Step.preference`.
      values, rewards: of each step of this episode that was played.
    """

    title: str
    actions: Sequence[str] = ()
    unit: str = "Q"
    values: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    lowest: float = np.inf
    highest: float = -np.inf

    def call(self, actions: Sequence[str]) -> None:
        """The names of all actions."""
        self.actions = actions

    def add(self, step: Step) -> None:
        """One more step that is shown."""
        self.pass_by(step.t, step.value, step.reward, step.preference)

    def pass_by(self, t: int, value: float, reward: float, preference: Sequence[float]) -> None:
        """One more step, shown or not; the first one of an episode begins anew."""
        if t == 0:
            self.values, self.rewards = [], []
        self.values.append(value)
        self.rewards.append(reward)
        known = [one for one in preference if np.isfinite(one)]
        self.lowest, self.highest = min([self.lowest, *known]), max([self.highest, *known])

    @property
    def paid(self) -> float:
        """The return so far."""
        return float(sum(self.rewards))

    def name(self, action: int, step: Step) -> str:
        """An action's name at a step, safe for a terminal. Of a long one the end is kept: commands differ there."""
        return short((step.called or self.actions)[action], middle=True)


def short(text: str, longest: int = LONGEST, middle: bool = False) -> str:
    """A text of somebody's on one line, no longer than so many characters; `middle`: that is where it is cut."""
    text, kept = clean(text), longest - 1
    if len(text) <= longest:
        return text
    return f"{text[: kept - kept // 2]}…{text[-(kept // 2) :]}" if middle else f"{text[:kept]}…"


def signed(value: float) -> str:
    """A number to three digits, with its sign.

    >>> signed(0.25), signed(-1234.5)
    ('+0.25', '-1.23e+03')
    """
    return f"{value:+.3g}"


def spark(values: Sequence[float], width: int, blocks: str = SPARKS) -> str:
    """The last `width` values as a line of blocks, the lowest of them the lowest block.

    >>> spark([0, 1, 2, 7], 8)
    '▁▂▃█'
    """
    shown = np.asarray(values[-width:], np.float64)
    shown = shown[np.isfinite(shown)]
    if len(shown) == 0:
        return ""
    low, span = shown.min(), np.ptp(shown)
    levels = np.zeros(len(shown), int) if span == 0 else np.round((shown - low) / span * (len(blocks) - 1)).astype(int)
    return "".join(blocks[level] for level in levels)


# -- one line --------------------------------------------------------------------------------------------------------


def line(step: Step, watched: Watched) -> str:
    """All that matters of one step on one line, as programs and screen readers read it."""
    estimates = " ".join(
        f"{watched.name(action, step).replace(' ', '-')}={step.preference[action]:.4g}"
        for action in _shown_actions(step)
        if step.allowed[action]
    )
    told = [
        f"step {step.t}",
        watched.name(step.action, step),
        f"{watched.unit} {estimates}",
        f"margin {step.margin:.3g}",
        f"value {step.value:.4g}",
        f"reward {step.reward:g}",
        f"return {watched.paid:g}",
    ]
    if step.memories:
        told.append("memories " + ", ".join(_memory(one) for one in step.memories[:3]))
    if step.recalled:
        told.append("looked back at " + ", ".join(f"step {at} {share:.0%}" for at, share in most_recalled(step)[:3]))
    if (parts := _attended(step)[:3]) and step.picture is None:
        told.append("attended to " + ", ".join(f"{short(part.label)} {share:.0%}" for part, share in parts))
    if step.terminated or step.truncated:
        told.append("the episode is over" if step.terminated else "the clock ran out")
    return "  ".join(told)


def _shown_actions(step: Step, most: int = MOST_ACTIONS) -> list[int]:
    """All actions in their order; of very many the best, the chosen one among them."""
    if len(step.rows) <= most:
        return [*step.rows]
    best = sorted(step.rows, key=lambda action: (action != step.action, -step.preference[action]))[:most]
    return sorted(best)


def _memory(memory: Memory) -> str:
    gave = f" gave {signed(memory.gave)}" if np.isfinite(memory.gave) else ""
    return f"{memory_name(memory)} {memory.looked_at:.0%}{gave}"


def most_recalled(step: Step) -> list[tuple[int, float]]:
    """Steps of this episode that the working memory attended to, the most first."""
    return sorted(((at, share) for at, share in step.recalled if at >= 0), key=lambda pair: -pair[1])[:SHOWN]


def most_attended(step: Step) -> list[tuple[str, str, float]]:
    """Parts of the input that the encoder attended to, the most first: name, value, weight."""
    return [(short(part.name), short(part.value, 16), weight) for part, weight in _attended(step)]


def _attended(step: Step) -> list[tuple[Part, float]]:
    weights = looked_at(step)
    return [(step.parts[one], float(weights[one])) for one in np.argsort(-weights, kind="stable")[:SHOWN]]


def told_beside(step: Step) -> bool:
    """Whether the facts, which stand in the place of a picture, show what was attended to beside each of them."""
    return step.picture is None and {part.name for part in step.parts} <= {name for name, _ in step.facts}


# -- the panel -------------------------------------------------------------------------------------------------------


def panel(
    step: Step, watched: Watched, width: int, height: int, blocks: str = SPARKS, pictured: bool = True
) -> "RenderableType":
    """The step for a terminal of so many columns and lines. A picture needs colours: `pictured` says that there are."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    step = step if pictured else replace(step, picture=None)
    wide, room = width >= WIDE, max(8, height - 6 - bool(step.sentence))
    lines = min(TALLEST, room if wide else room // 2)
    seen = _seen(step, (width - 8) // 2 if wide else width - 6, lines)
    room -= 0 if wide else lines if step.picture is not None else min(lines, len(step.facts))
    most = max(3, min(MOST_ACTIONS, room // 2))
    estimates = _estimates(step, watched, blocks, most)
    room -= min(len(step.rows), most) + len(estimates) - 1
    known = Group(*estimates, *_remembered(step, watched, blocks, room))
    if wide:
        body: Any = Table.grid(padding=(0, 2))
        body.add_column(no_wrap=True)
        body.add_column(ratio=1)
        body.add_row(seen, known)
    else:
        body = Group(seen, known)
    strip = spark(watched.values, max(8, min(60, width - 24)), blocks)
    ends = "  · the episode is over" if step.terminated else "  · the clock ran out" if step.truncated else ""
    foot = Text.assemble(
        ("value ", "dim"), f"{step.value:.4g} ", (strip, "cyan"), ("\nreward ", "dim"), f"{step.reward:g}",
        ("  return ", "dim"), f"{watched.paid:g}", ("  margin ", "dim"), f"{step.margin:.3g}", (ends, "bold"),
        (f"\n{short(step.sentence, width - 4)}" if step.sentence else "", "italic"),
    )  # fmt: skip
    number = f", episode {step.episode + 1}" if step.episode else ""
    title = Text(f"{short(watched.title, 60)}  step {step.t}{number}")
    return Panel(Group(body, foot), title=title, title_align="left", width=width)


def _seen(step: Step, columns: int, lines: int) -> "RenderableType":
    """The picture, or names and values of what was seen."""
    from rich.table import Table
    from rich.text import Text

    picture = overlaid(step)
    if picture is not None:
        return half_blocks(picture, columns, lines)
    weights = {name: share for name, _, share in most_attended(step)}
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(no_wrap=True)
    for name, value in step.facts[: max(lines, 1)]:
        share = weights.get(short(name))
        table.add_row(
            Text(short(name), "dim"),
            Text(short(value, max(8, columns - 38))),
            Text("" if share is None else _bar(share, 8)),
        )
    return table if step.facts else Text("nothing draws this environment", "dim")


def half_blocks(picture: Picture, columns: int, lines: int) -> "RenderableType":
    """A picture in so many columns and lines at most: each character is two pixels, one above the other."""
    from rich.style import Style
    from rich.text import Text

    height, width, _ = picture.shape
    scale = min(columns / width, 2 * lines / height)
    wide, tall = max(1, int(width * scale)), max(2, int(height * scale) // 2 * 2)
    pixels = resized(picture, tall, wide)
    text = Text(no_wrap=True, end="")
    for row in range(0, tall, 2):
        for upper, lower in zip(pixels[row].tolist(), pixels[row + 1].tolist(), strict=True):
            text.append("▀", Style(color=_hex(upper), bgcolor=_hex(lower)))
        text.append("\n" if row + 2 < tall else "")
    return text


def _hex(colour: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _bar(share: float, width: int, block: str = "█") -> str:
    return block * max(0, min(width, round(share * width)))


def _estimates(step: Step, watched: Watched, blocks: str, most: int) -> "list[RenderableType]":
    """A bar for the estimate of every action, the chosen one marked by an arrow, forbidden ones by a cross."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    span = watched.highest - watched.lowest
    for action in (shown := _shown_actions(step, most)):
        value, chosen = step.preference[action], action == step.action
        allowed = step.allowed[action]
        share = (value - watched.lowest) / span if np.isfinite(value) and span > 0 else 0.0
        bar = _bar(0.05 + 0.95 * share, 20, blocks[-1]) if allowed else ""
        style = "bold green" if chosen else "" if allowed else "dim"
        table.add_row(
            Text("▶" if chosen else " " if allowed else "×", style),
            Text(watched.name(action, step), style),
            Text(bar.ljust(20), style or "blue"),
            Text(f"{value:.4g}" if allowed else "not allowed", style),
        )
    left_out = len(step.rows) - len(shown)
    more = [Text(f"and {left_out} more actions", "dim")] if left_out else []
    return [Text(watched.unit, "dim"), table, *more]


def _remembered(step: Step, watched: Watched, blocks: str, room: int) -> "list[RenderableType]":
    """What was attended to, in so many lines at most."""
    from rich.table import Table
    from rich.text import Text

    found: list[Any] = []
    groups = attended_groups(step, watched)[: max(0, room // 3)]
    for place, (head, rows) in enumerate(groups):
        shown = rows[: max(1, room // (len(groups) - place) - 2)]
        room -= len(shown) + 2
        table = Table.grid(padding=(0, 1))
        for _ in range(3):
            table.add_column(no_wrap=True)
        for name, share, more in shown:
            bar = _bar(share, 10, blocks[-1]).ljust(10)
            table.add_row(Text(name), Text(bar, "yellow"), Text(f"{share:.0%}  {more}".rstrip()))
        found.extend([Text(f"\n{head}", "dim"), table])
    return found


def attended_groups(step: Step, watched: Watched) -> list[tuple[str, list[tuple[str, float, str]]]]:
    """What was attended to under each heading: names, weights, and what there is to add.

    Of remembered experiences these are the action whose read it was, as each action has its own, and the part of the
    margin that it gave; or how far the margin moves without it, where that was measured.
    """
    found = []
    if step.memories:
        measured = step.memories[0].mattered is not None
        rows = [(memory_name(one), one.looked_at, _effect(one, step, watched)) for one in step.memories[:SHOWN]]
        found.append((f"looked at in memory, and {'mattered (measured)' if measured else 'gave'}", rows))
    if step.recalled:
        found.append(("looked back at", [(f"step {at}", share, "") for at, share in most_recalled(step)]))
    if (parts := most_attended(step)) and not told_beside(step):
        found.append(("attended to", [(name, share, value) for name, value, share in parts]))
    return found


def _effect(memory: Memory, step: Step, watched: Watched) -> str:
    effect = memory.gave if memory.mattered is None else memory.mattered
    return (
        f"{short(watched.name(memory.action, step), 8, middle=True)}  {signed(effect) if np.isfinite(effect) else ''}"
    )
