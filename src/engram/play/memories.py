"""What an agent remembers: `agent.memory`, to look at, to choose from, to take out of, and to change.

    len(agent.memory)                                    entries of the external memory
    agent.memory.where(action=2, value_below=0)          some of them
    agent.memory.forget(where={"episode": 7})            the agent decides as if they had never been written
    agent.memory.edit(12, value=1.5)
    agent.memory.export("memory.csv")

An id names an entry of one seed until entries are forgotten; `episode` and `step` name it for good. What is left of an
entry that was forgotten is told in docs/memory-surgery.md.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, PyTree

from engram import registry
from engram.agents import policy
from engram.agents.policy import Mind
from engram.checkpoint.disk import replace_file
from engram.errors import SpecError, WriteFailed, unwritten
from engram.external import forgetting
from engram.play.choosing import Chosen, Told, check_conditions, read_condition
from engram.precision import in_32_bits

AT_ONCE = 4096  # entries that are fetched together


@dataclass(frozen=True)
class Remembered:
    """One entry. What its kind of memory does not keep is None."""

    id: int
    seed: int  # of the agent that remembers it
    action: int
    value: float  # what it says the action is worth, in units of reward
    td_error: float | None  # how far the network's own Q was below the return that was written
    environment: int | None  # where it was experienced, like the next two; of a demonstration -1, -1 and its row
    episode: int | None
    step: int | None
    age: int | None  # writes since it was last written; with external=graph moments, like the next
    unread: int | None  # writes since acting last read it; -1 for never
    attention: float | None  # that it received while acting, in all
    count: int | None  # experiences in it


COLUMNS = tuple(field.name for field in fields(Remembered))


class Gone(NamedTuple):
    """How much was forgotten."""

    entries: int
    waiting: int  # actions whose return was not known yet; they will not become entries


class Remembering(Protocol):
    """Who has a memory: a part of `play.trained.TrainedAgent`."""

    plan: Any
    minds: list[Mind]

    def take(self, minds: list[Mind]) -> None:
        """Decides with these from now on."""
        ...


class Memories:
    """The entries of an agent's external memory, or some of them. Conditions are those of `where`.

    Raises: SpecError for an agent without an external memory.
    """

    def __init__(self, agent: Remembering, chosen: Chosen | None = None):
        if not agent.plan.agent.has_external:
            raise SpecError(
                "this agent has no external memory (external=none), so there is nothing to show or forget; train one "
                "with external=episodic, as in: engram train ENV --preset nec"
            )
        self._agent = agent
        self._chosen = Chosen() if chosen is None else chosen
        self._looked: list[Mind] | None = None  # at these, when the columns were made

    # -- looking -------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return sum(int(mask.sum()) for mask in self._masks)

    def __iter__(self) -> Iterator[Remembered]:
        for table, mask in zip(self._tables, self._masks, strict=True):
            rows = {name: column[mask].tolist() for name, column in table.items() if column is not None}
            for place in range(int(mask.sum())):
                row: dict[str, Any] = {name: rows[name][place] if name in rows else None for name in COLUMNS}
                yield Remembered(**row)

    def __repr__(self) -> str:
        return f"Memories({len(self):,} entries of external={self.kind}{self._chosen.told})"

    @property
    def kind(self) -> str:
        """The name of the kind of memory."""
        spec = self._agent.plan.agent.external
        return registry.name_of("external", type(spec))

    @property
    def seeds(self) -> list[int]:
        """The seeds of the agents that remember."""
        first = int(self._agent.plan.seed)
        return list(range(first, first + len(self._agent.minds)))

    def table(self) -> dict[str, list[Any]]:
        """The entries as columns, by name, in the order of seeds and ids; columns that are not kept are left out."""
        known = [name for name in COLUMNS if all(table[name] is not None for table in self._tables)]
        return {
            name: [
                one
                for table, mask in zip(self._tables, self._masks, strict=True)
                for one in np.asarray(table[name])[mask].tolist()
            ]
            for name in known
        }

    def where(self, test: Any = None, **conditions: Any) -> "Memories":
        """The entries for which all conditions hold.

        Args:
          test: a function of an entry; or conditions, in a mapping or as text (`action=2`), as if given by name.
          action, environment, episode, step, seed, ids: the number, or several.
          older_than: more writes since it was last written.
          value_below, value_above, attention_below: the number.

        Raises: SpecError for a condition that there is not, or by what this kind of memory does not keep.
        """
        if isinstance(test, str):
            test = dict([read_condition(test)])
        if test is not None and not isinstance(test, Mapping) and not callable(test):
            raise SpecError(f"where = {test!r:.80} was given; write where={{'action': 2}} or a function of an entry")
        given = dict(test) if isinstance(test, Mapping) else {}
        if both := sorted(given.keys() & conditions.keys()):
            raise SpecError(f"{both[0]!r} was given twice; give each condition once")
        function: Any = None if isinstance(test, Mapping) else test
        checked = check_conditions(given | conditions)
        return Memories(self._agent, self._chosen.also(checked, function))

    def observation(self, id: int, seed: int | None = None) -> PyTree:
        """What was seen when an entry was written, frames [stack, ...], oldest first; None where none is kept."""
        number = self._number(seed)
        self._check_held(number, [id])
        mind = self._agent.minds[number]
        found = mind.network.external.fetch(mind.recall.store, jnp.array([id], jnp.int32)).observation  # type: ignore[union-attr]
        return None if not jax.tree.leaves(found) else jax.tree.map(lambda leaf: np.asarray(leaf[0]), found)

    # -- changing ------------------------------------------------------------------------------------------

    def forget(self, where: Any = None, **conditions: Any) -> Gone:
        """Takes these entries out of the agent, as if they had never been written; how many they were.

        Actions that wait for their return are forgotten too, where the conditions are of action, environment, episode,
        step and seed alone: the others are not known of them yet.

        Raises: as `where`; SpecError for an id that names nothing.
        """
        if where is not None or conditions:
            return self.where(where, **conditions).forget()
        minds, entries, waiting = [], 0, 0
        for number, mind in enumerate(self._agent.minds):
            gone, line = self._gone(number), self.waits(number)
            entries, waiting = entries + int(gone.sum()), waiting + int(line.sum())
            touched = gone.any() or line.any()
            minds.append(_programs()[2](mind, jnp.asarray(gone), jnp.asarray(line)) if touched else mind)
        self._agent.take(minds)
        return Gone(entries, waiting)

    def edit(self, id: int, value: float, seed: int | None = None) -> None:
        """Gives an entry another value, in units of reward; all else about it stays.

        Raises: SpecError for an id that names nothing, and for a kind whose values cannot be set.
        """
        number = self._number(seed)
        self._check_held(number, [id])
        if not isinstance(value, Real) or not np.isfinite(np.float32(value)):
            raise SpecError(f"value = {value!r} was given for entry {id}; write a finite number")
        minds = list(self._agent.minds)
        mind = minds[number]
        external, recall = mind.network.external, mind.recall
        store = forgetting.edit(external, recall.store, jnp.array([id], jnp.int32), jnp.array([value], jnp.float32))  # type: ignore[union-attr]
        minds[number] = Mind(mind.network, dataclasses.replace(recall, store=store), mind.target)  # type: ignore[type-var]
        self._agent.take(minds)

    def waits(self, number: int) -> Bool[np.ndarray, "n envs"]:
        """Which actions in line the conditions cover, of the agent with this place among the seeds."""
        found = policy.waiting(self._agent.minds[number])
        return found.due & self.covers(number, found.action, found.origin)

    def covers(
        self, number: int, action: Int[np.ndarray, "*axes"], origin: Int[np.ndarray, "*axes 3"]
    ) -> Bool[np.ndarray, "*axes"]:
        """Which actions that are no entries yet the conditions cover."""
        return self._chosen.covers(self.seeds[number], action, origin)

    # -- writing it down -----------------------------------------------------------------------------------

    def export(self, path: str | Path, observations: bool = False) -> Path:
        """Writes the entries to a file: columns with their names (.csv), or a list of objects (.json).

        `observations`: in JSON also what was seen, where it is kept.

        Raises: SpecError for another ending; WriteFailed.
        """
        path = Path(path)
        if path.suffix.lower() not in (".csv", ".json"):
            raise SpecError(f"{str(path)!r} ends neither in .csv nor in .json; choose one of these")
        rows = [vars(entry) for entry in self]
        if path.suffix.lower() == ".csv":
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            content = text.getvalue()
        else:
            if observations:
                rows = [row | {"observation": self._as_json(row)} for row in rows]
            content = json.dumps(rows, allow_nan=False, indent=1) + "\n"
        try:
            replace_file(path, content.encode())
        except OSError as error:
            raise WriteFailed(unwritten(path, error)) from None
        return path

    def _as_json(self, row: dict[str, Any]) -> Any:
        seen = self.observation(row["id"], row["seed"])
        return None if seen is None else jax.tree.map(_numbers, seen)

    # -- finding -------------------------------------------------------------------------------------------

    @property
    def _tables(self) -> list[dict[str, np.ndarray | None]]:
        if self._looked is not self._agent.minds:  # it may have forgotten something meanwhile
            self._looked = self._agent.minds
            self._made = [_table(mind, seed) for mind, seed in zip(self._looked, self.seeds, strict=True)]
        return self._made

    @property
    def _masks(self) -> list[Bool[np.ndarray, "held"]]:
        """Which entries of each seed are chosen."""
        self._chosen.check_seeds(self.seeds)
        if ids := self._chosen.ids:
            for number, seed in enumerate(self.seeds):
                if self._chosen.of_seed(seed):
                    self._check_held(number, sorted(ids))
        told = Told(self.kind, lambda rows: [Remembered(**row) for row in rows])
        return [self._chosen.masks(table, told) for table in self._tables]

    def _gone(self, number: int) -> Bool[np.ndarray, "capacity"]:
        gone = np.zeros(self._agent.minds[number].network.external.capacity, bool)
        ids = self._tables[number]["id"]
        assert ids is not None
        gone[ids[self._masks[number]]] = True
        return gone

    def _number(self, seed: int | None) -> int:
        """The place of a seed; it must be named where there are several."""
        if seed is None and len(self.seeds) == 1:
            return 0
        if seed not in self.seeds:
            given = "no seed was given" if seed is None else f"seed = {seed} was given"
            raise SpecError(
                f"{given}, and this agent has the seeds {', '.join(map(str, self.seeds))}, each with ids of its own; "
                "name one of them"
            )
        return self.seeds.index(seed)

    def _check_held(self, number: int, ids: list[int]) -> None:
        held = self._tables[number]["id"]
        assert held is not None
        for id in ids:
            if id not in held:
                some = f"it holds {len(held):,} entries" + (f", with ids from {held[0]} on" if len(held) else "")
                raise SpecError(f"no entry of the memory has the id {id}; {some} (`engram memory RUN list` shows them)")


def _numbers(leaf: np.ndarray) -> list[Any]:
    """For JSON, which holds no number that is not finite: null stands for what was missing."""
    found = leaf.astype(object)
    found[~np.isfinite(leaf)] = None
    return found.tolist()


def _table(mind: Mind, seed: int) -> dict[str, np.ndarray | None]:
    """The columns of all entries of one seed, in the order of ids."""
    external, store = mind.network.external, mind.recall.store  # type: ignore[union-attr]
    ids = np.flatnonzero(_held(external, store)) if external.capacity else np.zeros(0, int)
    parts = []
    for first in range(0, len(ids), AT_ONCE):
        count = len(ids[first : first + AT_ONCE])
        padded = np.full(AT_ONCE, -1, np.int32)
        padded[:count] = ids[first : first + count]
        parts.append(_first(_rows(external, store, padded), count))
    columns: dict[str, np.ndarray | None] = dict.fromkeys(COLUMNS)
    if parts:
        columns |= jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    columns |= {"id": ids, "seed": np.full(len(ids), seed)}
    if columns["td_error"] is not None and not columns["td_error"].any():
        columns["td_error"] = None  # zeros stand for what a kind does not keep
    origin = columns.pop("origin", None)
    named = ("environment", "episode", "step")
    kept = origin is not None and (origin[:, 0] >= 0).any()  # of demonstrations nobody knows the environment
    columns |= {name: origin[:, place] if kept else None for place, name in enumerate(named)}  # type: ignore[index]
    if not parts:
        columns |= {name: np.zeros(0) for name in COLUMNS if columns[name] is None}
    return columns


def _first(rows: Any, count: int) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], rows)


@lru_cache(maxsize=1)
def _programs() -> Any:
    """Compiled: which ids are held, and the columns of some."""

    def held(external: Any, store: Any) -> Any:
        return external.holds(store, jnp.arange(external.capacity, dtype=jnp.int32))

    def rows(external: Any, store: Any, ids: Any) -> dict[str, Any]:
        entry, notes = external.fetch(store, ids), forgetting.notes(external, store, ids)
        columns = {name: getattr(entry, name) for name in ("action", "value", "td_error", "origin")}
        return columns | {name: known for name, known in vars(notes).items() if name != "writes"}  # of each entry

    return in_32_bits(jax.jit(held)), in_32_bits(jax.jit(rows)), in_32_bits(jax.jit(policy.forgotten))


def _held(external: Any, store: Any) -> np.ndarray:
    return np.asarray(_programs()[0](external, store))


def _rows(external: Any, store: Any, ids: np.ndarray) -> dict[str, Any]:
    return _programs()[1](external, store, ids)
