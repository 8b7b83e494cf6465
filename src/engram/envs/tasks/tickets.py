"""What a dialogue about cinema tickets is about: a base of showings and the goals of users, made or read from files.

A row of the base gives values to slots (`city`: `seattle`). A goal has values that the user wants (`inform_slots`) and
slots whose values he asks for (`request_slots`). A row meets a goal if it has every wanted value. A slot that no row
has and some goal wants, such as `numberofpeople`, is an amount that is ordered, not looked up.

Files are JSON: the base an object or a list of rows, the goals a list of objects with those two parts.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from jaxtyping import Bool, Int, UInt32

from engram.errors import SpecError

NOTES = logging.getLogger("engram")
SPLITS = ("train", "test", "all")
TICKET = "ticket"  # asked for in every goal
FEWEST = 12  # slots: those of the goals, and frequent ones of the base up to so many
MOST_SLOTS, MOST_ROWS, MOST_GOALS = 40, 20_000, 100_000
ROWS, GOALS = 1_000, 1_000  # of the base and the goals that are made from a seed
UNKNOWN, ANY = -1, -2  # in place of the number of a value: nothing is known; all are alike to the user
SHOWN = 5  # goals that are named in a message


class Goal(NamedTuple):
    """One goal, as it is read: what the user wants, and what he asks for beside a ticket."""

    wants: tuple[tuple[str, str], ...]
    asks: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Tickets:
    """A base and goals as numbers. Values of a slot are numbered from 0, UNKNOWN is none.

    Fields:
      slots: their names. values: of each slot.
      rows: the value of each slot in each showing.
      wanted: the value that each goal wants of each slot. asked: which slots it asks for.
      meetable: whether a row meets the goal. test: whether the goal is held out from training.
      amount: which slots no row has and some goal wants.
    """

    slots: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    rows: Int[np.ndarray, "rows slots"]
    wanted: Int[np.ndarray, "goals slots"]
    asked: Bool[np.ndarray, "goals slots"]
    meetable: Bool[np.ndarray, "goals"]
    test: Bool[np.ndarray, "goals"]
    amount: Bool[np.ndarray, "slots"]

    def of_split(self, split: str) -> Int[np.ndarray, "goals"]:
        """The numbers of a split's goals. A fifth of the distinct goals is `test`; `all` is both."""
        return np.flatnonzero(np.ones_like(self.test) if split == "all" else self.test == (split == "test"))

    def ceiling(self, split: str) -> float:
        """The share of the goals that a row of the base meets: no agent succeeds more often."""
        return float(self.meetable[self.of_split(split)].mean())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of slots, values, rows and goals: what each act means, and what users want."""
        arrays = self.rows, self.wanted, self.asked, self.test
        content = repr((self.slots, self.values)).encode() + b"".join(array.tobytes() for array in arrays)
        return hashlib.sha256(content).hexdigest()

    @property
    def words(self) -> int:
        """32-bit words in a set of rows, one bit for each."""
        return -(-len(self.rows) // 32)

    def having(self) -> tuple[UInt32[np.ndarray, "values words"], Int[np.ndarray, "slots"], UInt32[np.ndarray, "..."]]:
        """Rows as sets of bits: those that have each value, where the values of each slot begin, and, by slot, the rows
        that know it. The last set of the first is that of all rows.
        """
        starts = np.cumsum([0, *(len(values) for values in self.values)])
        by_value, known = (np.zeros((count, self.words), np.uint32) for count in (starts[-1] + 1, len(self.slots)))
        row, slot = np.nonzero(self.rows >= 0)
        word, bit = row // 32, np.uint32(1) << (row % 32).astype(np.uint32)  # the first row in the lowest bit
        np.bitwise_or.at(by_value, (starts[slot] + self.rows[row, slot], word), bit)
        np.bitwise_or.at(known, (slot, word), bit)
        every = np.arange(len(self.rows))
        np.bitwise_or.at(by_value[-1], every // 32, np.uint32(1) << (every % 32).astype(np.uint32))
        return by_value, starts[:-1].astype(np.int32), known


@lru_cache(maxsize=8)
def tickets(base: str, goals: str, seed: int) -> Tickets:
    """Base and goals: made from `seed` where no files are named.

    Args:
      base: a JSON file, or a folder that holds one base and one file of goals. goals: a JSON file.

    Raises SpecError, naming the file, for what cannot be read. What no row can meet is said once.
    """
    if not base and not goals:
        rows = made_rows(seed)
        return numbered(rows, made_goals(rows, seed))
    base_file, goal_file = _files(base, goals)
    found = numbered(read_rows(base_file), read_goals(goal_file))
    _say_unmeetable(found, goal_file)
    return found


def numbered(rows: Sequence[Mapping[str, str]], goals: Sequence[Goal]) -> Tickets:
    """Rows and goals as numbers."""
    slots = _slots(rows, goals)
    if not slots:
        raise SpecError("neither the base nor the goals name a slot; give rows such as {'city': 'seattle'}")
    wants = [dict(goal.wants) for goal in goals]
    values = tuple(tuple(sorted({one[slot] for one in chain(rows, wants) if slot in one})) for slot in slots)
    places = [{value: number for number, value in enumerate(own)} for own in values]

    def table(entries: Iterable[Mapping[str, str]]) -> Int[np.ndarray, "entries slots"]:
        found = [[where.get(one.get(slot, ""), UNKNOWN) for slot, where in zip(slots, places, strict=True)]
                 for one in entries]  # fmt: skip
        return np.array(found, np.int32)

    known, wanted = table(rows), table(wants)
    asked = np.array([[slot in goal.asks for slot in slots] for goal in goals])
    # No row has it, and some user wants so much of it. What is only asked for is answered: nothing is known of it.
    amount = np.asarray(~(known >= 0).any(0) & (wanted >= 0).any(0))
    meetable = np.array([((known == want) | (want < 0) | amount).all(1).any() for want in wanted])
    meetable &= ~(asked & amount).any(1)  # nobody tells a user an amount
    return Tickets(slots, values, known, wanted, asked, meetable, _held_out(goals), amount)


def _slots(rows: Sequence[Mapping[str, str]], goals: Sequence[Goal]) -> tuple[str, ...]:
    """Those of the goals, the most frequent first; then of the base, up to `FEWEST` in all."""
    of_goals = Counter(slot for goal in goals for slot in (*dict(goal.wants), *goal.asks))
    of_rows = Counter(slot for row in rows for slot in row)

    def ranked(counts: Counter[str]) -> list[str]:
        return sorted(counts, key=lambda slot: (-counts[slot], slot))

    first = ranked(of_goals)
    rest = [slot for slot in ranked(of_rows) if slot not in of_goals]
    return tuple(first + rest[: max(0, FEWEST - len(first))])


def _held_out(goals: Sequence[Goal]) -> Bool[np.ndarray, "goals"]:
    """A fifth of the distinct goals, whatever their order: equal goals are on one side."""
    distinct = sorted(set(goals), key=lambda goal: (crc32(repr(goal).encode()), goal))
    held = set(distinct[::5]) if len(distinct) > 1 else set()
    return np.array([goal in held for goal in goals])


# -- from files ------------------------------------------------------------------------------------------------------


def _files(base: str, goals: str) -> tuple[Path, Path]:
    """The two files that were meant."""
    folder = Path(base).expanduser()
    if not goals and folder.is_dir():
        return _only(folder, "base"), _only(folder, "goals")
    if not base or not goals:
        given, lacking = ("goals", "base") if goals else ("base", "goals")
        raise SpecError(
            f"{given} = {base or goals!r} was given without {lacking}; give both files, or as base a folder that "
            "holds one of each"
        )
    return folder, Path(goals).expanduser()


def _only(folder: Path, what: str) -> Path:
    """The one JSON file of a folder whose name has that word."""
    found = sorted(path for path in folder.glob("*.json") if what in path.name)
    if len(found) != 1:
        named = ", ".join(path.name for path in found) or "none"
        raise SpecError(
            f"base = {str(folder)!r} is a folder with {len(found)} files called *{what}*.json ({named}); expected one: "
            "name the files by base=FILE and goals=FILE"
        )
    return found[0]


def _json(path: Path, what: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise SpecError(f"{what} = {str(path)!r} cannot be read: {problem.strerror}; name a JSON file") from problem
    except ValueError as problem:
        raise SpecError(f"{what} = {str(path)!r} is no JSON: {problem}; mend the file") from problem


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a base."""
    content = _json(path, "base")
    rows = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise SpecError(f"base = {str(path)!r} is no list of rows; expected objects such as {{'city': 'seattle'}}")
    if len(rows) > MOST_ROWS:
        raise SpecError(f"base = {str(path)!r} has {len(rows):,} rows; give at most {MOST_ROWS:,}")
    return [_plain(row) for row in rows]


def read_goals(path: Path) -> list[Goal]:
    """The goals of a file."""
    content, goals = _json(path, "goals"), []
    if not isinstance(content, list) or not 0 < len(content) <= MOST_GOALS:
        raise SpecError(f"goals = {str(path)!r} is no list of 1 to {MOST_GOALS:,} goals; see docs/dialogue.md")
    for number, one in enumerate(content):
        wants, asks = (one.get("inform_slots"), one.get("request_slots", {})) if isinstance(one, dict) else (None, None)
        if not isinstance(wants, dict) or not isinstance(asks, dict | list):
            raise SpecError(
                f"goal {number} of {str(path)!r} is {one!r:.80}; expected an object with inform_slots and request_slots"
            )
        asked = sorted({str(slot) for slot in asks} - {TICKET} - set(wants))
        goals.append(Goal(tuple(sorted(_plain(wants).items())), tuple(asked)))
    slots = {slot for goal in goals for slot in (*dict(goal.wants), *goal.asks)}
    if len(slots) > MOST_SLOTS:
        raise SpecError(f"the goals of {str(path)!r} speak of {len(slots)} slots; give at most {MOST_SLOTS}")
    return goals


def _plain(row: Mapping[str, Any]) -> dict[str, str]:
    """A row with small letters and no space around values; without empty ones."""
    texts = {str(slot): str(value).strip().lower() for slot, value in row.items() if value is not None}
    return {slot: text for slot, text in texts.items() if text and slot != TICKET}


def _say_unmeetable(found: Tickets, path: Path) -> None:
    """One sentence about goals that no row meets; SpecError where that is all of them."""
    lost = np.flatnonzero(~found.meetable)
    if len(lost) == len(found.meetable):
        raise SpecError(f"no row of the base meets any of the {len(lost)} goals of {str(path)!r}; mend base or goals")
    if len(lost):
        named = ", ".join(map(str, lost[:SHOWN])) + (", ..." if len(lost) > SHOWN else "")
        NOTES.warning(
            f"{len(lost)} of {len(found.meetable)} goals of {path.name} ({named}, from 0) cannot be met by any row of "
            f"the base: at most {found.ceiling('all'):.4f} of dialogues can succeed; mend the base or the goals"
        )


# -- made from a seed ------------------------------------------------------------------------------------------------

CITIES = {
    "albany": "ny", "austin": "tx", "boston": "ma", "buffalo": "ny", "chicago": "il", "dallas": "tx", "denver": "co",
    "eugene": "or", "houston": "tx", "portland": "or", "salem": "ma", "seattle": "wa",
}  # fmt: skip
OPENINGS = ("silent", "crimson", "last", "hidden", "golden", "broken", "distant", "burning", "winter", "paper")
THINGS = ("harbor", "orchard", "signal", "garden", "comet", "mirror", "voyage", "letter", "river", "lantern")
GENRES = ("action", "animation", "comedy", "drama", "horror", "romance", "science fiction", "thriller")
HOUSES = ("palace", "regent", "odeon", "plaza", "rialto")
CHAINS = ("bluebird cinemas", "northlight", "silver screens", "union pictures")
PLACES = ("near downtown", "near the airport", "near the station", "near the water")
DATES = ("today", "tomorrow", "friday", "saturday", "sunday", "next monday")
TIMES = ("11:15 am", "12:30 pm", "1:45 pm", "3:00 pm", "4:20 pm", "5:30 pm", "6:45 pm", "7:30 pm", "8:15 pm",
         "9:00 pm", "9:40 pm", "10:30 pm")  # fmt: skip
FORMATS = ("standard", "standard", "standard", "3d", "imax")
CERTAIN = ("moviename", "theater", "city", "state", "date", "starttime")  # that every row knows
OFTEN_KNOWN = 0.8  # chance that a row knows another slot
# Chances that a goal wants the value of its row; what it does not want of the last four it may ask for.
WANTED = {
    "state": 0.2, "zip": 0.06, "distanceconstraints": 0.08, "video_format": 0.12, "theater_chain": 0.06, "genre": 0.1,
    "city": 0.8, "date": 0.6, "starttime": 0.5, "theater": 0.45, "moviename": 0.85,
}  # fmt: skip
ASKABLE, ASKED = ("moviename", "theater", "date", "starttime"), 0.85
ASTRAY = 0.03  # chance that a goal wants another value than its row has, which often no row has
PEOPLE = 8


def _one(draws: np.random.Generator, things: Sequence[Any]) -> Any:
    # Other methods of a generator give other numbers from one version of NumPy to the next.
    return things[int(draws.random() * len(things))]


def made_rows(seed: int) -> list[dict[str, str]]:
    """A base of `ROWS` showings."""
    draws = np.random.default_rng([seed, 0])
    films = [(f"the {first} {thing}", _one(draws, GENRES)) for first in OPENINGS for thing in THINGS]
    films = [film for film in films if draws.random() < 0.35]
    houses = [_house(draws, city, name) for city in CITIES for name in HOUSES]
    rows = []
    for _ in range(ROWS):
        film, genre = _one(draws, films)
        row = {**_one(draws, houses), "moviename": film, "genre": genre, "date": _one(draws, DATES),
               "starttime": _one(draws, TIMES), "video_format": _one(draws, FORMATS)}  # fmt: skip
        kept = {slot for slot in row if draws.random() < OFTEN_KNOWN or slot in CERTAIN}
        rows.append({slot: value for slot, value in row.items() if slot in kept})
    return rows


def _house(draws: np.random.Generator, city: str, name: str) -> dict[str, str]:
    zip_code = f"{10_000 + 7 * sorted(CITIES).index(city) * 100 + int(draws.random() * 3):05d}"
    return {"theater": f"{city} {name}", "city": city, "state": CITIES[city], "zip": zip_code,
            "theater_chain": _one(draws, CHAINS), "distanceconstraints": _one(draws, PLACES)}  # fmt: skip


def made_goals(rows: Sequence[Mapping[str, str]], seed: int) -> list[Goal]:
    """Goals of `GOALS` users: each wants some values of a row and asks for others; a few want what no row has."""
    draws, goals = np.random.default_rng([seed, 1]), []
    of_slot = {slot: sorted({row[slot] for row in rows if slot in row}) for slot in WANTED}
    for _ in range(GOALS):
        row = _one(draws, rows)
        wants = {slot: row[slot] for slot, chance in WANTED.items() if draws.random() < chance and slot in row}
        asks = [slot for slot in ASKABLE if draws.random() < ASKED and slot not in wants]
        if draws.random() < ASTRAY and wants:
            slot = _one(draws, sorted(wants))
            wants[slot] = _one(draws, of_slot[slot])
        wants["numberofpeople"] = str(1 + int(draws.random() * PEOPLE))
        goals.append(Goal(tuple(sorted(wants.items())), tuple(sorted(asks))))
    return goals
