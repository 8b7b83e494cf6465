"""Requests: strict JSON, and the observation in it as the rows that a policy takes."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import PyTree

from engram import spaces
from engram.checkpoint.disk import strict_json
from engram.envs.host.parts import Part, reader_of
from engram.envs.host.spaces import Translator, mask_problem
from engram.errors import CheckpointError, EngramError, hint
from engram.play.observations import Stored
from engram.play.trained import TrainedAgent
from engram.serving.refusals import Refusal

FIELDS = ("observation", "session", "step", "episode_start", "reward", "memories")
ROOM, EACH = 16_384, 32  # bytes of a request: for all else, and for one number of an observation


def largest(space: spaces.Space) -> int:
    """How many bytes a request may have."""
    numbers = sum(int(np.prod(leaf.shape, dtype=np.int64)) for _, leaf in spaces.leaves(space))
    return ROOM + EACH * numbers


def parsed(body: bytes) -> dict[str, Any]:
    """The fields of a request. Refusal 400 for anything but one JSON object with known ones."""
    try:
        value = strict_json(body, "the request")
    except CheckpointError as problem:
        raise Refusal(400, f'{problem}; send one JSON object, as in {{"observation": [0.1, 0.2]}}') from None
    if type(value) is not dict or "observation" not in value:
        raise Refusal(400, 'the request has no observation; send one JSON object with "observation" in it')
    if unknown := sorted(set(value) - set(FIELDS)):
        raise Refusal(400, f"the request has the field {unknown[0][:60]!r}; {hint(unknown[0][:60], FIELDS)}")
    _check(value, "session", (str,), "the text that the last answer gave")
    _check(value, "step", (int,), "a whole number")
    _check(value, "episode_start", (bool,), "true or false")
    _check(value, "reward", (int, float), "a number")
    _check(value, "memories", (int,), "a whole number")
    return value


def _check(value: dict[str, Any], name: str, kinds: tuple[type, ...], expected: str) -> None:
    given = value.get(name)
    if given is None:
        value.pop(name, None)
    elif type(given) not in kinds or (type(given) is not str and not abs(given) < 1 << 62):
        raise Refusal(400, f"{name} is {type(given).__name__}; expected {expected}, or leave it out")


class Reader:
    """From the observation of a request to rows of arrays [1, ...], as strictly as an environment's are read.

    Raises Refusal 422 for one of another shape, type or range.
    """

    def __init__(self, agent: TrainedAgent):
        plan: Any = agent.plan
        self._missing = bool(plan.agent.takes_missing)
        if plan.shown is None:
            self.translator: Stored | Translator = Stored(plan.space, self._missing)
            self._read: Callable[[Any], PyTree] = _device_reader(plan.space, self._missing)
        else:
            self.translator = translator = Translator.from_json(plan.shown, self._missing)
            self._read = lambda value: translator.rows(value, False)

    def __call__(self, value: Any) -> PyTree:
        try:
            return self._read(_with_nan(value) if self._missing else value)
        except EngramError as problem:
            raise Refusal(422, str(problem)) from None
        except (RecursionError, OverflowError, TypeError, ValueError, KeyError) as problem:
            raise Refusal(422, f"the observation cannot be read ({type(problem).__name__}); expected {self}") from None

    def __str__(self) -> str:
        return "the observation of the environment that the agent learned in (GET /agent tells it)"


def _with_nan(value: Any) -> Any:
    """null stands for a number that is missing."""
    if isinstance(value, list):
        return [_with_nan(one) for one in value]
    if isinstance(value, dict):
        return {name: _with_nan(one) for name, one in value.items()}
    return float("nan") if value is None else value


def _device_reader(space: spaces.Space, missing: bool) -> Callable[[Any], PyTree]:
    """Reads what an environment on the device shows, with the readers of host environments."""
    readers = {name: reader_of(_part(name, leaf), missing and leaf.dtype == "float32") for name, leaf in
               spaces.leaves(space)}  # fmt: skip

    def read(part: spaces.Space, value: Any, path: str) -> PyTree:
        if isinstance(part, spaces.Dict):
            names = sorted(name for name, _ in part.items)
            if not isinstance(value, dict) or sorted(value) != names:
                raise Refusal(422, f"observation {path!r} must be an object with {', '.join(names)}")
            return {name: read(one, value[name], f"{path}.{name}" if path else name) for name, one in part.items}
        if isinstance(part, spaces.Tuple):
            if not isinstance(value, list) or len(value) != len(part.items):
                raise Refusal(422, f"observation {path!r} must be a list of {len(part.items)} parts")
            return tuple(
                read(one, each, f"{path}.{place}" if path else str(place))
                for place, (one, each) in enumerate(zip(part.items, value, strict=True))
            )
        row = np.asarray(readers[path](value))
        if path == spaces.MASK and (problem := mask_problem(row)):
            raise Refusal(422, f"observation {path!r} {problem}")
        return row.astype(part.dtype)[None]

    return lambda value: read(space, value, "")


def _part(path: str, leaf: spaces.Leaf) -> Part:
    """A leaf as a part of a host environment that shows exactly what is stored."""
    if isinstance(leaf, spaces.Discrete):
        return Part(path, leaf, np.dtype("int64"), (), 0, leaf.n)
    if isinstance(leaf, spaces.MultiDiscrete):
        sizes = np.asarray(leaf.nvec, np.int64)
        return Part(path, leaf, np.dtype("int64"), leaf.shape, np.zeros_like(sizes), sizes)
    if isinstance(leaf, spaces.Text):  # numbered symbols, as the device has them
        return Part(path, spaces.Box(leaf.shape, leaf.dtype), np.dtype(leaf.dtype), leaf.shape, 0, 0)
    return Part(path, leaf, np.dtype(leaf.dtype), leaf.shape, 0, 0)
