"""Gymnasium's observations as trees of stored arrays.

`Observer` checks an observation and splits it into arrays; `parts.py` says how each of them is stored. `Translator`
does the same outside of Engram's loop, for `TrainedAgent.predict`, and translates actions back.

A part `action_mask` of the outermost Dict says which actions are allowed: see `Observer.mask` and `mask_problem`.
Worker processes import this file, so it imports no JAX.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces as gym_spaces

from engram import spaces
from engram.envs.adapters.adapter import TranslatingSpace
from engram.envs.host.actions import MOST_JOINT_ACTIONS, Grid, Table, found
from engram.envs.host.parts import Part, part_of, reader_of, say, where
from engram.envs.host.stored import space_from_json, space_to_json
from engram.errors import EnvironmentFault, SpaceError
from engram.spaces import MASK


class Observer:
    """Checks and converts the observations of one Gymnasium space.

    Attributes:
      source: that space.
      parts: the arrays of an observation, in the order of `jax.tree.leaves` (dict keys sorted).
      structure: the observation's tree, with an index into `parts` at each leaf.
      space: Engram's own space of what is stored.
      mask: the index of the part `action_mask` of the outermost Dict, or None.

    Raises SpaceError for a space that holds anything but numbers, categories and texts.
    """

    def __init__(self, space: gym_spaces.Space):
        self.source = space
        self.parts: list[Part] = []
        self.structure = self._read(space, "")
        stored = [part.stored for part in self.parts]
        self.space: spaces.Space = _as_space(self.structure, stored, _engram_dict, _engram_tuple)
        self.accept_missing(False)
        mask = self.structure.get(MASK) if isinstance(self.structure, dict) else None
        self.mask: int | None = mask if isinstance(mask, int) else None

    def accept_missing(self, missing: bool) -> None:
        """Whether a NaN is from now on a missing number where one can be, and no fault."""
        self._readers: list[Callable[[Any], Any]] = [
            reader_of(part, missing and part.may_be_missing) for part in self.parts
        ]
        self._single = self._readers[0] if isinstance(self.structure, int) else None

    def __call__(self, observation: Any) -> list[Any]:
        """The observation's arrays, in the order of `parts`.

        An array may be the environment's own, which it may overwrite at its next step. Raises EnvironmentFault,
        naming the part, what was given and what was expected.
        """
        if self._single is not None:
            return [self._single(observation)]
        arrays: list[Any] = []
        self._gather(self.structure, observation, "observation", arrays)
        return arrays

    def tree(self, arrays: list[Any]) -> Any:
        """`arrays` (one per part, any leading axes) as dicts and tuples of the observation."""
        return arrays[0] if self._single is not None else _build(self.structure, arrays)

    def flat(self, tree: Any) -> list[Any]:
        """The inverse of `tree`."""
        return _leaves(self.structure, tree, [])

    def canonical(self) -> gym_spaces.Space:
        """The space of converted observations, as Gymnasium's own: every part a Box."""
        boxes = [gym_spaces.Box(*_limits(part.dtype), part.shape, part.dtype) for part in self.parts]  # pyright: ignore
        return _as_space(self.structure, boxes, gym_spaces.Dict, gym_spaces.Tuple)

    def signature(self) -> list[list[Any]]:
        """What must agree between environments that are batched, as JSON values."""
        return [part.signature() for part in self.parts]

    def _read(self, space: gym_spaces.Space, path: str) -> Any:
        if isinstance(space, gym_spaces.Dict):
            if not space.spaces or any(not isinstance(name, str) for name in space.spaces):
                raise SpaceError(f"{where(path)} is {space}; a Dict needs at least one part, and strings as keys")
            return {name: self._read(space.spaces[name], _join(path, name)) for name in sorted(space.spaces)}
        if isinstance(space, gym_spaces.Tuple):
            if not space.spaces:
                raise SpaceError(f"{where(path)} is an empty Tuple; a Tuple needs at least one part")
            return tuple(self._read(part, _join(path, str(index))) for index, part in enumerate(space.spaces))
        self.parts.append(part_of(space, path))
        return len(self.parts) - 1

    def _gather(self, structure: Any, value: Any, path: str, arrays: list[Any]) -> None:
        if isinstance(structure, int):
            arrays.append(self._readers[structure](value))
        elif isinstance(structure, dict):
            if not isinstance(value, dict) or value.keys() != structure.keys():
                given = f"keys {sorted(map(str, value))}" if isinstance(value, dict) else say(value)
                raise EnvironmentFault(f"{path} has {given}, expected a dict of {sorted(structure)}")
            for name, part in structure.items():
                self._gather(part, value[name], f"{path}.{name}", arrays)
        else:
            if not isinstance(value, tuple | list) or len(value) != len(structure):
                given = f"{len(value)} parts" if isinstance(value, tuple | list) else say(value)
                raise EnvironmentFault(f"{path} has {given}, expected a tuple of {len(structure)} parts")
            for index, part in enumerate(structure):
                self._gather(part, value[index], f"{path}.{index}", arrays)


def mask_problem(mask: np.ndarray) -> str:
    """What is wrong with the numbers of an action mask, as the rest of a sentence; empty where nothing is."""
    other = mask[(mask != 0) & (mask != 1)]
    if other.size:
        return f"holds {other[0]}, expected 0 for each forbidden action and 1 for each allowed one"
    return "" if mask.any() else "forbids every action, expected at least one that is allowed"


class Translator:
    """Converts what was observed and chosen outside.

    Args:
      observer: checks and converts one observation.
      table: what each of the agent's actions is to the environment, row by row (`actions.table_of`).
    """

    def __init__(self, observer: Observer, table: Table):
        self._observer = observer
        self._table = table

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values; `from_json` gives it back."""
        table = self._table
        if isinstance(table, Grid) and len(table) > MOST_JOINT_ACTIONS:
            about = {"dtype": str(table.dtype), "shape": list(table.shape)}
            actions: Any = {**about, "values": [column.tolist() for column in table.values]}
            return {"observation": space_to_json(self._observer.source), "actions": actions}
        table = table[np.arange(len(table))]
        first = int(table.flat[0]) if table.dtype.kind in "iu" else None
        if first is not None and table.ndim == 1 and (table == np.arange(first, first + len(table))).all():
            actions = {"first": first, "number": len(table)}
        else:
            actions = {"dtype": str(table.dtype), "rows": table.tolist()}
        return {"observation": space_to_json(self._observer.source), "actions": actions}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], missing: bool = False) -> "Translator":
        """The inverse of `to_json`; anything else is a SpaceError. `missing`: a NaN is a missing number."""
        try:
            actions = value["actions"]
            if "values" in actions:
                dtype = np.dtype(actions["dtype"])
                columns = [np.array(column) for column in actions["values"]]
                table: Table = Grid(columns, tuple(actions["shape"]), dtype)
            elif "first" in actions:
                table = np.arange(actions["first"], actions["first"] + actions["number"], dtype=np.int64)
            else:
                table = np.array(actions["rows"], actions["dtype"])
            observer = Observer(space_from_json(value["observation"]))
            observer.accept_missing(missing)
            return cls(observer, table)
        except (KeyError, TypeError, ValueError) as error:
            raise SpaceError(f"the stored spaces cannot be read ({type(error).__name__}: {error})") from None

    def is_batched(self, observation: Any) -> bool:
        """Whether the first array (dict keys sorted) has more axes than its space; False where the tree is another."""
        structure, value = self._observer.structure, self._as_shown(observation)
        while not isinstance(structure, int):
            name = next(iter(structure)) if isinstance(structure, dict) else 0
            try:
                structure, value = structure[name], value[name]
            except (KeyError, IndexError, TypeError):
                return False
        try:
            return np.ndim(value) > len(self._observer.parts[0].given_shape)
        except ValueError:  # ragged lists have no number of axes
            return False

    def rows(self, observation: Any, batched: bool) -> Any:
        """New NumPy arrays [envs, ...] in the tree of the observation space; envs = 1 where not `batched`.

        A batch is the tree of one observation with a leading axis on every array. Raises EnvironmentFault where it
        does not belong to the environment's space, or holds NaN or infinity; in a batch the row is named.
        """
        observation = self._as_shown(observation)
        self._check_for_mask(observation)
        if not batched:
            rows = [self._checked(observation)]
        else:
            batch = _arrays(self._observer.structure, observation)
            rows = [self._row(batch, row) for row in range(self._length(batch))]
        columns = zip(self._observer.parts, zip(*rows, strict=True), strict=True)
        return self._observer.tree([np.array(column, part.dtype) for part, column in columns])

    def environment_action(self, index: np.ndarray) -> np.ndarray:
        """The actions 0..actions-1 (int [n]) as the environment expects them: int64 [n], or [n, ...] for a vector."""
        return self._table[np.asarray(index)]

    def numbers(self, taken: np.ndarray, actions: int) -> np.ndarray:
        """The number of each of the environment's actions [n, ...]; -1 for what is none of the agent's `actions`."""
        del actions  # its table has them
        return found(self._table, taken)

    def _as_shown(self, observation: Any) -> Any:
        """What an adapter's wrapper makes of its environment's own observation; any other as it is."""
        space = self._observer.source
        return space.translated(observation) if isinstance(space, TranslatingSpace) else observation

    def _check_for_mask(self, observation: Any) -> None:
        """Names a mask that was left out, which a difference between trees would not."""
        names = self._observer.structure
        if self._observer.mask is None or (isinstance(observation, dict) and MASK in observation):
            return
        bare = sorted(names) == [MASK, "observation"] and not isinstance(observation, dict)
        whole = f"{{'observation': observation, {MASK!r}: mask}}" if bare else f"{{**observation, {MASK!r}: mask}}"
        raise EnvironmentFault(
            f"an observation without its {MASK!r} was given; pass {whole}, with mask = info[{MASK!r}] of the reset or "
            f"step that showed it, or action_masks(): one flag for each action"
        )

    def _row(self, batch: Any, row: int) -> list[Any]:
        try:
            return self._checked(_pick(self._observer.structure, batch, row))
        except EnvironmentFault as fault:
            raise EnvironmentFault(f"row {row} of the batch: {fault}") from fault.__cause__

    def _checked(self, observation: Any) -> list[Any]:
        arrays = self._observer(observation)
        if self._observer.mask is not None and (problem := mask_problem(arrays[self._observer.mask])):
            raise EnvironmentFault(f"observation {MASK!r} {problem}")
        return arrays

    def _length(self, batch: Any) -> int:
        try:
            parts = self._observer.flat(batch)
        except (KeyError, IndexError, TypeError):
            return 1  # another tree than the space's: the first row's check says so
        lengths = {len(part) if np.ndim(part) else 0 for part in parts}
        if len(lengths) != 1 or 0 in lengths:
            shapes = ", ".join(str(np.shape(part)) for part in parts)
            raise EnvironmentFault(
                f"a batch of observations with arrays of shapes {shapes} was given; expected the same leading axis, of "
                f"at least 1, on each of them"
            )
        return lengths.pop()


def _arrays(structure: Any, value: Any) -> Any:
    """The batch with an array at each leaf; a tree that is another stays as it is, for the check to name."""
    if isinstance(structure, dict) and isinstance(value, dict):
        return {name: _arrays(structure.get(name, 0), part) for name, part in value.items()}
    if isinstance(structure, tuple) and isinstance(value, tuple | list):
        return tuple(_arrays(part, each) for part, each in zip(structure, value, strict=False)) + tuple(
            value[len(structure) :]
        )
    if not isinstance(structure, int):
        return value
    try:
        return np.asarray(value)
    except ValueError as error:
        raise EnvironmentFault(f"a batch of observations cannot be read as an array: {error}") from error


def _pick(structure: Any, batch: Any, row: int) -> Any:
    """One row of `_arrays`' result."""
    if isinstance(structure, dict) and isinstance(batch, dict):
        return {name: _pick(structure.get(name, 0), part, row) for name, part in batch.items()}
    if isinstance(structure, tuple) and isinstance(batch, tuple) and len(batch) == len(structure):
        return tuple(_pick(part, each, row) for part, each in zip(structure, batch, strict=True))
    return batch[row] if isinstance(batch, np.ndarray) and batch.ndim else batch


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _limits(dtype: np.dtype) -> tuple[Any, Any]:
    if dtype.kind == "f":
        return -np.inf, np.inf
    return (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)


def _build(structure: Any, arrays: list[Any]) -> Any:
    if isinstance(structure, int):
        return arrays[structure]
    if isinstance(structure, dict):
        return {name: _build(part, arrays) for name, part in structure.items()}
    return tuple(_build(part, arrays) for part in structure)


def _as_space(structure: Any, leaves: Sequence[Any], named: Callable[[Any], Any], ordered: Callable[[Any], Any]) -> Any:
    """The space of a structure, from those of its leaves: `named` makes one of a dict, `ordered` one of a list."""
    if isinstance(structure, int):
        return leaves[structure]
    if isinstance(structure, dict):
        return named({name: _as_space(part, leaves, named, ordered) for name, part in structure.items()})
    return ordered([_as_space(part, leaves, named, ordered) for part in structure])


def _engram_dict(parts: dict[str, spaces.Space]) -> spaces.Dict:
    return spaces.Dict(tuple(parts.items()))


def _engram_tuple(parts: list[spaces.Space]) -> spaces.Tuple:
    return spaces.Tuple(tuple(parts))


def _leaves(structure: Any, tree: Any, arrays: list[Any]) -> list[Any]:
    if isinstance(structure, int):
        arrays.append(tree)
    else:
        for name in structure if isinstance(structure, dict) else range(len(structure)):
            _leaves(structure[name], tree[name], arrays)
    return arrays
