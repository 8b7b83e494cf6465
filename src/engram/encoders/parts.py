"""What the parts of an observation are that an encoder attends to, or that could be covered for one that does not.

A part is a place of a picture, a token, an entity or a number. `Parts` is a static value: hashable, without arrays.
`owners` says which part each number of an observation belongs to, and so what covering a part changes.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

import numpy as np

from engram import spaces

Kind = Literal["grid", "tokens", "entities", "numbers", "none"]
Box = tuple[float, float, float, float]  # left, top, right, bottom in the picture, 0 to 1

MOST_PARTS = 1024  # more numbers than this are no parts of their own
TILES = 8  # along each side of a picture that no encoder divides itself


@dataclass(frozen=True)
class Parts:
    """What the axis `parts` of `Encoding.attention` is; without attention, what of the input could be covered.

    Fields:
      kind: what a part is. space, stack: those of the observations, as the environment gives them.
      shape: how the parts lie; (rows, columns) of a grid, (frames, places) of others, (places,) where a part is the
        same place of all frames. Parts are counted row by row, oldest frame first.
      places: names of the places of one frame; () where places have no names of their own.
      attended: whether `Encoding.attention` lies over these parts.
      edges: of a grid, the pixels at which its rows begin and the last one ends; the same of its columns.
      shown: what the encoder is given where that differs from `space`, as it does with flags of missing numbers.
    """

    kind: Kind
    space: spaces.Space
    stack: int = 1
    shape: tuple[int, ...] = (0,)
    places: tuple[str, ...] = ()
    attended: bool = False
    edges: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    shown: spaces.Space | None = None

    @property
    def count(self) -> int:
        """How many parts there are: the length of the axis of attention."""
        return prod(self.shape)

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each part."""
        if self.kind == "grid":
            rows, columns = self.shape
            return tuple(f"row {row + 1}, column {column + 1}" for row in range(rows) for column in range(columns))
        frames = self.shape[0] if len(self.shape) == 2 else 1
        return tuple(name + ago(frames - 1 - frame) for frame in range(frames) for name in self.places)

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The box of each part of a grid in the picture; () for other kinds."""
        if self.kind != "grid":
            return ()
        rows, columns = ([edge / edges[-1] for edge in edges] for edges in self.edges)
        return tuple(
            (left, top, right, bottom)
            for top, bottom in itertools.pairwise(rows)
            for left, right in itertools.pairwise(columns)
        )

    def named(self, places: Sequence[str]) -> "Parts":
        """The same parts with other names for the places of a frame; as they are where there are not as many names."""
        flags = self.shown is not None and len(self.places) == 2 * len(places)
        known = [*places, *(f"{name} is known" for name in places)] if flags else list(places)
        return replace(self, places=tuple(known)) if len(known) == len(self.places) else self

    def owners(self) -> Any:
        """The part that each number of the stacked observation belongs to, -1 for none: leaves int32[stack, ...].

        Of what an encoder does not see (`action_mask`, `offered`, `team_state`) nothing belongs to a part.
        """
        seen = spaces.seen(self.space)
        found = self._owners(seen)
        if seen is self.space:
            return found
        assert isinstance(self.space, spaces.Dict)  # `seen` takes apart no other
        rest = [name for name, _ in self.space.items if name not in spaces.UNSEEN]
        given = {rest[0]: found} if len(rest) == 1 else found
        return {name: given[name] if name in given else _nobody(part, self.stack) for name, part in self.space.items}

    def _owners(self, seen: spaces.Space) -> Any:
        if self.kind == "none" or self.count == 0:
            return _nobody(seen, self.stack)
        if self.kind == "grid":
            assert isinstance(seen, spaces.Box)  # a grid lies over one image
            return _broadcast(self._cells(seen), seen, self.stack)
        frames = self.shape[0] if len(self.shape) == 2 else 1
        if self.kind == "entities":
            rows = np.arange(self.count, dtype=np.int32).reshape(frames, -1)

            def of_rows(leaf: spaces.Leaf) -> np.ndarray:
                numbers = rows.reshape(*rows.shape, *[1] * (len(leaf.shape) - 1))
                return np.ascontiguousarray(np.broadcast_to(numbers, (self.stack, *leaf.shape)))

            return spaces.map_space(of_rows, seen)
        return self._numbers(seen, frames)

    def _cells(self, box: spaces.Box) -> np.ndarray:
        """The cell of each pixel, in the shape of one image."""
        rows, columns = (np.repeat(np.arange(len(edges) - 1), np.diff(edges)) for edges in self.edges)
        cells = (rows[:, None] * self.shape[1] + columns[None, :]).astype(np.int32)
        if len(box.shape) == 2:
            return cells
        return cells[None] if box.shape[1:] == cells.shape and box.shape[:2] != cells.shape else cells[..., None]

    def _numbers(self, seen: spaces.Space, frames: int) -> Any:
        """Each number is a part; flags of missing numbers, which the encoder is given beside them, own nothing."""
        places = len(self.places)
        shown = [leaf.shape for _, leaf in spaces.leaves(self.shown or seen)]
        begins = iter(np.cumsum([0, *map(prod, shown)]).tolist())
        given = iter(shown)

        def of_numbers(leaf: spaces.Leaf) -> np.ndarray:
            shape, begin = next(given), next(begins)
            own = np.arange(begin, begin + prod(shape), dtype=np.int32).reshape(shape)
            if shape != leaf.shape:
                own = own[..., : leaf.shape[-1]] if leaf.shape else own[0]
            first = (np.arange(frames, dtype=np.int32) * places).reshape(frames, *[1] * own.ndim)
            return np.ascontiguousarray(np.broadcast_to(own[None] + first, (self.stack, *leaf.shape)))

        return spaces.map_space(of_numbers, seen)


def ago(steps: int) -> str:
    """What is added to the name of a part of an older frame."""
    return "" if steps == 0 else f", {steps} step{'s' * (steps > 1)} ago"


def _nobody(space: spaces.Space, stack: int) -> Any:
    return spaces.map_space(lambda leaf: np.full((stack, *leaf.shape), -1, np.int32), space)


def _broadcast(owner: np.ndarray, leaf: spaces.Leaf, stack: int) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(owner, (stack, *leaf.shape)))


# -- the kinds -------------------------------------------------------------------------------------------------------


def grid_parts(
    space: spaces.Space, stack: int, edges: tuple[Sequence[int], Sequence[int]], attended: bool = False
) -> Parts:
    """Places of a picture. `edges`: where its rows begin and the last one ends, in pixels; the same of columns.

    Stacked frames are seen through each other: a place is the same place of all of them.
    """
    rows, columns = (tuple(map(int, one)) for one in edges)
    return Parts("grid", space, stack, (len(rows) - 1, len(columns) - 1), attended=attended, edges=(rows, columns))


def number_parts(space: spaces.Space, stack: int, attended: bool = False) -> Parts:
    """Each number, category and symbol. Of an attended one each frame's; else a part is the same number of all frames.

    No parts for more than `MOST_PARTS`.
    """
    places = (
        tuple(place_names(space)) if sum(prod(leaf.shape) for _, leaf in spaces.leaves(space)) <= MOST_PARTS else ()
    )
    if not places:
        return Parts("none", space, stack)
    only_numbers = all(isinstance(leaf, spaces.Box) for _, leaf in spaces.leaves(space))
    shape = (stack, len(places)) if attended else (len(places),)
    return Parts("numbers" if only_numbers else "tokens", space, stack, shape, places, attended)


def entity_parts(space: spaces.Space, stack: int, entities: int, attended: bool = False) -> Parts:
    """The rows of a set, the first of which is the agent's own."""
    places = ("itself", *(f"entity {number}" for number in range(1, entities)))
    return Parts("entities", space, stack, (stack, entities), places, attended)


def place_names(space: spaces.Space) -> list[str]:
    """A name for each number, category and symbol of an observation: by its part and place, from 1 on."""
    found = []
    for path, leaf in spaces.leaves(space):
        word = path or {"Text": "symbol", "Box": "number"}.get(type(leaf).__name__, "category")
        if leaf.shape == ():
            found.append(word)
        elif len(leaf.shape) == 1:
            found += [f"{word} {place + 1}" for place in range(leaf.shape[0])]
        else:
            found += [f"{word} {','.join(str(one + 1) for one in at)}" for at in np.ndindex(*leaf.shape)]
    return found


def even_edges(side: int, cells: int) -> tuple[int, ...]:
    """Where `cells` equal cells of a side of so many pixels begin, and the last one ends."""
    return tuple(side * cell // cells for cell in range(cells + 1))


def nearest_edges(side: int, layers: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Where the cells that convolutions leave of a side begin, and the last one ends.

    A cell sees more pixels than those; they are the ones whose nearest cell it is, by the middle of what it sees.
    `layers`: size and stride of each, without borders.
    """
    step, size, cells = 1, 1, side
    for kernel, stride in layers:
        size, step, cells = size + (kernel - 1) * step, step * stride, (cells - kernel) // stride + 1
    middles = [cell * step + size / 2 for cell in range(cells)]
    inner = [round((one + other) / 2) for one, other in itertools.pairwise(middles)]
    return (0, *inner, side)
