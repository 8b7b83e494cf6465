"""Between an environment's own observations and actions and the rows that an agent reads and the numbers it chooses.

For whoever drives a Gymnasium environment without Engram's loop (`Trainer.predict`): nothing here asks a worker.
"""

from typing import Any

import numpy as np
from jaxtyping import PyTree

from engram.envs.adapters.minigrid import Tiles
from engram.envs.host.spaces import MASK, Observer, mask_problem
from engram.errors import EnvironmentFault


class Translator:
    """Converts what was observed and chosen outside.

    Args:
      observer: checks and converts one observation.
      table: what each of the agent's actions is to the environment, row by row (`convert.joint_actions`).
    """

    def __init__(self, observer: Observer, table: np.ndarray):
        self._observer = observer
        self._table = table

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

    def convert(self, observation: Any, batched: bool) -> PyTree:
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

    def _as_shown(self, observation: Any) -> Any:
        """What `build` makes of MiniGrid's own observations; any other as it is."""
        tiles = self._observer.source
        if isinstance(tiles, Tiles) and isinstance(observation, dict) and {"image", "direction"} <= set(observation):
            return tiles.board(observation)
        return observation

    def _check_for_mask(self, observation: Any) -> None:
        """Names a mask that was left out, which a difference between trees would not."""
        names = self._observer.structure
        if self._observer.mask is None or (isinstance(observation, dict) and MASK in observation):
            return
        bare = sorted(names) == [MASK, "observation"] and not isinstance(observation, dict)
        whole = f"{{'observation': observation, {MASK!r}: mask}}" if bare else f"{{**observation, {MASK!r}: mask}}"
        raise EnvironmentFault(
            f"an observation without its {MASK!r} was given; pass {whole}, with mask = info[{MASK!r}] of the reset or "
            f"step that showed it: one flag for each action"
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
