"""What a page shows, as one JSON object of format "explain/1"; `page/schema.json` says what stands where."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from engram.errors import EngramError
from engram.explaining.columns import Column, floats, integers, packed
from engram.explaining.moments import Faithful, Health, Memory, Part, Step, Told, World
from engram.explaining.pictures import Pictures

FORMAT = "explain/1"
NAME, TEXT = 200, 2000  # characters that are shown of a name, and of any other text
EXACT = 64  # weights of one step's attention that are kept as float32; more are kept as 255ths of the greatest

# What a reader would not see, or what would turn the text around it: shown as \u202e.
UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def shown(text: str, limit: int = TEXT) -> str:
    """`text`, at most `limit` characters of it, with every character that is not seen written as an escape."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return UNSEEN.sub(lambda found: SHORT.get(found[0], f"\\u{ord(found[0]):04x}"), cut)


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of the format."""
    return json.loads(resources.files("engram.explaining").joinpath("page", "schema.json").read_text("utf-8"))


def encode(told: Told, keep: Sequence[bool] | None = None) -> dict[str, Any]:
    """`told` as the JSON object that a page carries. Pure: the same `told` gives the same object.

    Steps outside `keep` lose what is large (picture, attention, memories, facts); their numbers stay.
    """
    check(told)
    kept = [True] * len(told.steps) if keep is None else list(keep)
    texts, pictures = Texts(), Pictures()
    full = [step if whole else None for step, whole in zip(told.steps, kept, strict=True)]
    count = len(told.actions)
    called: dict[tuple[str, ...], int] = {}
    which = [called.setdefault(tuple(step.called), len(called)) if step.called else -1 for step in told.steps]
    body = {
        "format": FORMAT,
        "actions": [shown(name, NAME) for name in told.actions],
        "called": [[texts.add(name, NAME) for name in names] for names in called],
        "count": len(told.steps),
        "steps": {
            **_numbers(told.steps),
            **_per_step(full, told.steps, kept, texts, pictures),
            "called": integers(which),
        },
        "q": _table([step.q for step in told.steps], count),
        "preference": _table([step.preference for step in told.steps], count),
        "allowed": integers([int(may) for step in told.steps for may in step.allowed], (len(told.steps), count)),
        "without_memories": _rows([step and step.without_memories for step in full], count),
        "share": _rows([step and step.share for step in full], count),
        "distribution": _distributions([step and step.distribution for step in full]),
        "attention": _attention([step and step.attention for step in full]),
        "parts": _parts([step.parts if step else [] for step in full], texts),
        "facts": _facts([step.facts if step else [] for step in full], texts),
        **_memories([step.memories if step else [] for step in full], count, texts, pictures),
        "recalled": _pairs([step.recalled if step else [] for step in full]),
        "still_moves": _pairs([step.still_moves if step else [] for step in full]),
        "parts_mattered": _pairs([step.parts_mattered if step else [] for step in full]),
        "moments": [{"place": place, "why": shown(why)} for place, why in told.moments],
        "faithful": [_faithful(each) for each in told.faithful],
        "worlds": [_world(each) for each in told.worlds],
        "health": None if told.health is None else _health(told.health),
    }
    images = pictures.encoded()
    return {**body, "meta": _meta(told, kept), "texts": texts.list, "images": images}


def dumps(value: Any) -> str:
    """`value` as JSON in ASCII that cannot end a script block or start a tag, wherever it stands in a page."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


class Texts:
    """A list of texts, each once."""

    def __init__(self) -> None:
        self.list: list[str] = []
        self.places: dict[str, int] = {}
        self.met: dict[tuple[str, int], int] = {}

    def add(self, text: str, limit: int = TEXT) -> int:
        """The place of `text` as it is shown."""
        place = self.met.get((text, limit))
        if place is None:
            seen = shown(text, limit)
            place = self.met[text, limit] = self.places.setdefault(seen, len(self.list))
            if place == len(self.list):
                self.list.append(seen)
        return place


def check(told: Told) -> None:
    """Refuse what cannot be shown, in one sentence that names the step."""
    count = len(told.actions)
    for place, step in enumerate(told.steps):
        where = f"step {place} of what is told"
        lists = {"q": step.q, "preference": step.preference, "allowed": step.allowed}
        lists |= {"without_memories": step.without_memories, "share": step.share, "distribution": step.distribution}
        for name, values in lists.items():
            if values is not None and len(values) != count:
                raise EngramError(f"{where} has {len(values)} values of `{name}` for {count} actions: give one each.")
        if len(step.called) > count:
            raise EngramError(f"{where} has names for {len(step.called)} actions on offer, but {count} actions.")
        for name, action in (("action", step.action), ("runner_up", step.runner_up)):
            if count and not 0 <= action < count:
                raise EngramError(f"{where} has {name} {action}, but actions go from 0 to {count - 1}.")
        if step.attention.shape[0] and step.attention.shape[1] != len(step.parts):
            raise EngramError(
                f"{where} has attention over {step.attention.shape[1]} parts and {len(step.parts)} parts: name each."
            )
        _check_memories(step, where, count)
        if any(not 0 <= part < len(step.parts) for part, _ in step.parts_mattered):
            raise EngramError(f"{where} has parts that mattered past its {len(step.parts)} parts: name each.")
    for place, _ in told.moments:
        if not 0 <= place < len(told.steps):
            raise EngramError(f"a key moment is at place {place}, but {len(told.steps)} steps are told.")


def _check_memories(step: Step, where: str, count: int) -> None:
    for memory in step.memories:
        if memory.without is not None and len(memory.without) != count:
            raise EngramError(
                f"{where} has memory {memory.id} with {len(memory.without)} values of `without` for {count} actions."
            )
        if count and not 0 <= memory.action < count:
            raise EngramError(f"{where} has memory {memory.id} of action {memory.action}; there are {count} actions.")


def _meta(told: Told, kept: Sequence[bool]) -> dict[str, Any]:
    return {
        "agent": shown(told.agent, NAME),
        "env": shown(told.env, NAME),
        "checkpoint": shown(told.checkpoint, NAME),
        "trained": int(told.trained),
        "seed": int(told.seed),
        "unit": shown(told.unit, NAME),
        "returns": floats(told.returns),
        "notes": [shown(note) for note in told.notes],
        "holds": [shown(each) for each in told.holds],
        "versions": {shown(name, NAME): shown(text, NAME) for name, text in sorted(told.versions.items())},
        "kept": sum(kept),
    }


def _numbers(steps: Sequence[Step]) -> dict[str, Column]:
    whole = ("t", "episode", "action", "runner_up", "terminated", "truncated")
    real = ("reward", "value", "margin", "from_network", "from_memories", "rest")
    return {
        **{name: integers([int(getattr(step, name)) for step in steps]) for name in whole},
        **{name: floats([getattr(step, name) for step in steps]) for name in real},
    }


def _per_step(
    full: Sequence[Step | None], steps: Sequence[Step], kept: Sequence[bool], texts: Texts, pictures: Pictures
) -> dict[str, Column]:
    return {
        "sentence": integers([texts.add(step.sentence) for step in steps]),
        "picture": integers([pictures.add(step.picture) if step else -1 for step in full]),
        "kept": integers([int(whole) for whole in kept]),
        "others": integers([step.others[0] if step else 0 for step in full]),
        "others_weight": floats([step.others[1] if step else 0.0 for step in full]),
        "others_gave": floats([step.others[2] if step else 0.0 for step in full]),
    }


def _table(rows: Sequence[Sequence[float]], width: int) -> Column:
    return floats([value for row in rows for value in row], (len(rows), width))


def _rows(rows: Sequence[Sequence[float] | None], width: int) -> dict[str, Column]:
    """Rows of which some are missing."""
    there = [row for row in rows if row is not None]
    return {"has": integers([int(row is not None) for row in rows]), "rows": _table(there, width)}


def _counts(lists: Iterable[Sequence[Any]]) -> Column:
    return integers([len(each) for each in lists])


def _distributions(rows: Sequence[list[list[tuple[float, float]]] | None]) -> dict[str, Any]:
    """Each action's returns and probabilities; rows of returns that come again are kept once."""
    supports: dict[tuple[float, ...], int] = {}
    which: list[int] = []
    masses: list[np.ndarray] = []
    for row in rows:
        for pairs in row or []:
            support = tuple(float(at) for at, _ in pairs)
            which.append(supports.setdefault(support, len(supports)))
            mass = np.nan_to_num(np.asarray([chance for _, chance in pairs], np.float64), posinf=0, neginf=0)
            greatest = mass.max(initial=0.0)
            masses.append(np.rint(mass.clip(0) / greatest * 255 if greatest > 0 else 0 * mass).astype(np.uint8))
    return {
        "has": integers([int(row is not None) for row in rows]),
        "support": integers(which),
        "atoms": _counts(list(supports)),
        "returns": floats([at for support in supports for at in support]),
        "mass": packed(np.concatenate(masses) if masses else np.zeros(0, np.uint8)),
    }


def _attention(maps: Sequence[np.ndarray | None]) -> dict[str, Any]:
    """Exact where it is small; otherwise 255ths of each head's greatest weight."""
    present = [np.zeros((0, 0), np.float32) if each is None else np.asarray(each, np.float32) for each in maps]
    exact = all(each.size <= EXACT or not np.isfinite(each).all() for each in present)
    heads = [row for each in present for row in each] if all(each.ndim == 2 for each in present) else []
    scales = [0.0 if exact else float(np.nan_to_num(np.abs(row)).max(initial=0.0)) for row in heads]
    flat: list[np.ndarray] = []
    for row, scale in zip(heads, scales, strict=True):
        part = np.nan_to_num(row).clip(0) / (scale or 1.0)
        flat.append(row.astype(np.float32) if exact else np.rint(part.clip(0, 1) * 255).astype(np.uint8))
    empty = np.zeros(0, np.float32 if exact else np.uint8)
    return {
        "heads": integers([each.shape[0] for each in present]),
        "width": integers([each.shape[1] for each in present]),
        "scale": None if exact else floats(scales),
        "weights": packed(np.concatenate(flat) if flat else empty),
    }


def _parts(rows: Sequence[Sequence[Part]], texts: Texts) -> dict[str, Any]:
    """Names and boxes are kept once for each different set; values by step."""
    layouts: dict[tuple[Any, ...], int] = {}
    which: list[int] = []
    for parts in rows:
        which.append(layouts.setdefault(tuple((part.name, part.box) for part in parts), len(layouts)))
    boxed = [[part.box or (math.nan,) * 4 for part in map(_part, layout)] for layout in layouts]
    return {
        "layout": integers(which),
        "layouts": [
            {
                "names": integers([texts.add(name, NAME) for name, _ in layout]),
                "boxes": floats([edge for box in boxes for edge in box], (len(boxes), 4)),
            }
            for layout, boxes in zip(layouts, boxed, strict=True)
        ],
        "values": integers([texts.add(part.value) for parts in rows for part in parts]),
    }


def _part(pair: tuple[str, Any]) -> Part:
    return Part(pair[0], box=pair[1])


def _facts(rows: Sequence[Sequence[tuple[str, str]]], texts: Texts) -> dict[str, Column]:
    return {
        "count": _counts(rows),
        "name": integers([texts.add(name, NAME) for facts in rows for name, _ in facts]),
        "value": integers([texts.add(value) for facts in rows for _, value in facts]),
    }


def _memories(
    rows: Sequence[Sequence[Memory]], count: int, texts: Texts, pictures: Pictures
) -> dict[str, dict[str, Any]]:
    """Entries, each once, and what each step read of which."""
    entries: dict[tuple[Any, ...], int] = {}
    which: list[int] = []
    for memory in (memory for memories in rows for memory in memories):
        key = (memory.id, memory.action, memory.environment, memory.episode, memory.step)
        key += (pictures.add(memory.picture), tuple((name, value) for name, value in memory.facts))
        which.append(entries.setdefault(key, len(entries)))
    columns = ("id", "action", "environment", "episode", "step", "picture")
    every = [memory for memories in rows for memory in memories]
    real = ("looked_at", "gave", "mattered", "value", "reads", "age")
    return {
        "entries": {
            **{name: integers([entry[place] for entry in entries]) for place, name in enumerate(columns)},
            "facts": _facts([entry[-1] for entry in entries], texts),
        },
        "reads": {
            "count": _counts(rows),
            "entry": integers(which),
            **{name: floats([getattr(memory, name) for memory in every]) for name in real},
            "without": _rows([memory.without for memory in every], count),
        },
    }


def _pairs(rows: Sequence[Sequence[tuple[int, float]]]) -> dict[str, Column]:
    return {
        "count": _counts(rows),
        "step": integers([step for pairs in rows for step, _ in pairs]),
        "weight": floats([weight for pairs in rows for _, weight in pairs]),
    }


def _number(value: float | None) -> float | None:
    """`value` where JSON can hold it."""
    return None if value is None or not math.isfinite(value) else float(value)


def _range(pair: tuple[float, float] | None) -> list[float | None] | None:
    return None if pair is None else [_number(pair[0]), _number(pair[1])]


def _faithful(told: Faithful) -> dict[str, Any]:
    single = ("score", "agreement", "shuffled", "reinitialised", "flips")
    return {
        "what": shown(told.what, NAME),
        **{name: _number(getattr(told, name)) for name in single},
        "interval": _range(told.interval),
        "agreement_interval": _range(told.agreement_interval),
        "samples": told.samples,
        "verdict": shown(told.verdict),
        "notes": [shown(note) for note in told.notes],
        "curves": [
            {
                "what": shown(curve.what, NAME),
                "way": shown(curve.way, NAME),
                "sizes": list(curve.sizes),
                **{
                    name: [_number(at) for at in getattr(curve, name)] for name in ("ours", "random", "least", "oracle")
                },
                "random_interval": [_range(pair) for pair in curve.random_interval],
            }
            for curve in told.curves
        ],
    }


def _world(told: World) -> dict[str, Any]:
    return {**asdict(told), "edit": shown(told.edit, NAME), "first": shown(told.first, NAME)}


def _health(told: Health) -> dict[str, Any]:
    return {
        "entries": told.entries,
        "capacity": told.capacity,
        "lights": [
            {name: shown(getattr(light, name)) for name in ("name", "value", "state", "rule")} for light in told.lights
        ],
        "ages": floats([at for bar in told.ages for at in bar], (len(told.ages), 3)),
        "reads": floats([at for bar in told.reads for at in bar], (len(told.reads), 3)),
        "effective": floats(told.effective),
    }
