"""A page of what memory surgery changes: the entries, and decisions at stored observations before and after."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from engram import spaces
from engram.agents.policy import Look, Mind, Seen, seen_on_host
from engram.checkpoint.store import Loaded
from engram.errors import WriteFailed, unwritten
from engram.play.memories import COLUMNS, Remembered
from engram.play.playing import Policy
from engram.run import html
from engram.run.metrics import replace_file
from engram.run.plan import RunPlan
from engram.trees import named

LOOKED_AT, SHOWN = 256, 12  # newest stored observations, and how many of them the page shows
ROWS = 1000  # entries on a page
NUMBERS = 8  # of an observation that are written out


class Decisions(NamedTuple):
    """What an agent makes of observations, each taken as the first of an episode."""

    q: np.ndarray  # [observations actions]
    action: np.ndarray
    share: np.ndarray  # of the external memory in the estimate


def write(
    path: Path,
    plan: RunPlan,
    loaded: Loaded,
    before: Sequence[Mind],
    after: Sequence[Mind],
    verb: str,
    told: str,
    changed: Sequence[tuple[Remembered, float | None]],
    left: Sequence[str],
) -> None:
    """Writes the page. `changed`: entries as they were, and the value that each has now, None for one that is gone.

    Raises: WriteFailed.
    """
    parts = [f"<h1>Memory of {html.text(_name(plan))}: {html.text(verb)}</h1>"]
    parts.append(html.sentences([f"Checkpoint {loaded.id}, step {loaded.step:,}.", f"Chosen: {told}.", *left]))
    parts += [f"<h2>{len(changed):,} entries</h2>", _entries(changed)]
    parts += ["<h2>Decisions at stored observations, before and after</h2>"]
    parts += _decisions(plan, loaded, before[0], after[0])
    try:
        replace_file(path, html.page(f"Memory of {_name(plan)}", parts).encode())
    except OSError as error:
        raise WriteFailed(unwritten(path, error)) from None


def _name(plan: RunPlan) -> str:
    return f"{plan.preset} on {plan.env or 'an environment of your own'}"


def _entries(changed: Sequence[tuple[Remembered, float | None]]) -> str:
    rows = [[*map(cell, vars(entry).values()), "gone" if now is None else cell(now)] for entry, now in changed[:ROWS]]
    shown = html.table([*COLUMNS, "value now"], rows)
    return shown if len(changed) <= ROWS else shown + html.sentences([f"The first {ROWS:,} of them are shown."])


def cell(value: Any) -> str:
    """A number for a table; - for what is not kept."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _decisions(plan: RunPlan, loaded: Loaded, before: Mind, after: Mind) -> list[str]:
    observations = stored_observations(plan, loaded)
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
        f"Of the newest {count} stored observations, {flips} are answered by another action, and the estimates of "
        f"{int((moved > 0).sum())} differ; those that differ most are shown.",
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


def stored_observations(plan: RunPlan, loaded: Loaded) -> Any:
    """The newest observations of the first environment in the replay of a checkpoint; None where there are none."""
    example = spaces.zeros(plan.space, (1,))
    names = named(example, "observation")
    newest: dict[str, np.ndarray] = {}
    for lane, _, columns in loaded.replay_blocks() if loaded.cursors is not None else ():
        if lane:
            break
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
