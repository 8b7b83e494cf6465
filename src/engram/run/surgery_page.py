"""A page of what memory surgery changes: the entries, and decisions at stored observations before and after."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from engram import spaces
from engram.agents.policy import Look, Mind, Seen, seen_on_host
from engram.checkpoint.disk import replace_file
from engram.checkpoint.store import Loaded
from engram.errors import WriteFailed, unwritten
from engram.play.memories import COLUMNS, Remembered
from engram.play.playing import Policy
from engram.run import html
from engram.run.plan import RunPlan
from engram.trees import named

LOOKED_AT, SHOWN = 256, 12  # newest stored observations, and how many of them the page shows
ROWS = 1000  # entries on a page
NUMBERS = 8  # of an observation that are written out


class Changed(NamedTuple):
    """What was changed, or would be."""

    verb: str
    told: str  # what was chosen
    entries: Sequence[Remembered]  # as they were
    value: float | None  # that they have now; None for entries that are gone
    left: Sequence[str]  # what remains of them elsewhere


class Decisions(NamedTuple):
    """What an agent makes of observations, each taken as the first of an episode."""

    q: np.ndarray  # [observations actions]
    action: np.ndarray
    share: np.ndarray  # of the external memory in the estimate


def write(
    path: Path, plan: RunPlan, loaded: Loaded, before: Sequence[Mind], after: Sequence[Mind], changed: Changed
) -> None:
    """Writes the page. The decisions are those of the seed whose entries come first. Raises: WriteFailed."""
    number = changed.entries[0].seed - plan.seed if changed.entries else 0
    parts = [f"<h1>Memory of {html.text(_name(plan))}: {html.text(changed.verb)}</h1>"]
    about = [f"Checkpoint {loaded.id}, step {loaded.step:,}.", f"Chosen: {changed.told}."]
    parts.append(html.sentences([*about, *changed.left]))
    parts += [f"<h2>{len(changed.entries):,} entries</h2>", _entries(changed)]
    parts += ["<h2>Decisions at stored observations, before and after</h2>"]
    observations = stored_observations(plan, loaded, number * plan.envs)
    parts += _decisions(plan, observations, before[number], after[number])
    try:
        replace_file(path, html.page(f"Memory of {_name(plan)}", parts).encode())
    except OSError as error:
        raise WriteFailed(unwritten(path, error)) from None


def _name(plan: RunPlan) -> str:
    return f"{plan.preset} on {plan.env or 'an environment of your own'}"


def _entries(changed: Changed) -> str:
    now = "gone" if changed.value is None else cell(changed.value)
    shown = html.table(
        [*COLUMNS, "value now"], [[*map(cell, vars(one).values()), now] for one in changed.entries[:ROWS]]
    )
    more = [f"The first {ROWS:,} of them are shown."] if len(changed.entries) > ROWS else []
    return shown + html.sentences(more)


def cell(value: Any) -> str:
    """A number for a table; - for what is not kept."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _decisions(plan: RunPlan, observations: Any, before: Mind, after: Mind) -> list[str]:
    if observations is None:
        return [html.sentences(["This run keeps no replay, so it has no stored observations to decide at."])]
    one, other = (decide(plan, mind, observations) for mind in (before, after))
    moved = np.abs(other.q - one.q).max(1)
    order = np.argsort(-moved, kind="stable")[:SHOWN]
    rows = [
        [
            _seen(jax.tree.map(lambda leaf, row=row: leaf[row], observations)),
            *(" ".join(f"{value:.4g}" for value in each.q[row]) for each in (one, other)),
            str(one.action[row]),
            str(other.action[row]) + ("" if one.action[row] == other.action[row] else " (another)"),
            *(f"{each.share[row].max():.0%}" for each in (one, other)),
        ]
        for row in order
    ]
    head = ["observed", "Q before", "Q after", "chosen before", "after", "share of the memory before", "after"]
    count, flips = len(moved), int((one.action != other.action).sum())
    told = [
        f"Stored observations looked at: the newest {count}. Another estimate: {int((moved > 0).sum())}. "
        f"Another action: {flips}. Those whose estimates differ most are shown; Q stands in the order of actions.",
        "Each is looked at as the first of an episode: without frames before it, and with an empty working memory.",
    ]
    return [html.sentences(told), html.table(head, rows)]


def _seen(observation: Any) -> str:
    """An observation as text."""
    words = []
    for name, leaf in named(observation).items():
        numbers = np.asarray(leaf)
        few = numbers.size <= NUMBERS
        text = " ".join(f"{number:.3g}" for number in numbers.reshape(-1).tolist()) if few else f"{list(numbers.shape)}"
        words.append(f"{name} {text}".strip())
    return "; ".join(words)


def stored_observations(plan: RunPlan, loaded: Loaded, lane: int) -> Any:
    """The newest observations of one lane in the replay of a checkpoint; None where there are none."""
    example = spaces.zeros(plan.space, (1,))
    names = named(example, "observation")
    newest: dict[str, np.ndarray] = {}
    for this, _, columns in loaded.replay_blocks() if loaded.cursors is not None else ():
        if this != lane:
            continue
        parts = {name: [newest[name]] if name in newest else [] for name in names}
        newest = {name: np.concatenate([*parts[name], columns[name]])[-LOOKED_AT:] for name in names}
    if not newest:
        return None
    return jax.tree.unflatten(jax.tree.structure(example), [np.array(newest[name]) for name in names])


def decide(plan: RunPlan, mind: Mind, observations: Any) -> Decisions:
    """What a mind makes of observations [count, ...]."""
    count = len(jax.tree.leaves(observations)[0])
    player = Policy(mind, plan.agent)
    seen = seen_on_host(observations, np.ones(count, bool), np.zeros(count, np.float32))
    _, action, (q, share) = player.look(player.begin(count), seen, _kept)
    return Decisions(np.asarray(q), np.asarray(action), np.asarray(share))


def _kept(_: Seen, looked: Look) -> Any:
    return looked.decision.preference, looked.decision.share
