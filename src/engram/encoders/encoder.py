"""What every encoder is: a module from one stacked observation to an `Encoding`, and the spec that builds it.

An encoder has no state: what it gives depends on its parameters and on the observation alone. Acting and learning call
it for one example at a time and batch it with `vmap`.

Your own joins with `@register("encoder", "name")` above a spec whose `build(space, stack, key)` makes it.
`engram.testing.check_encoder` holds it to this page.
"""

from typing import Literal, Protocol

from jaxtyping import PyTree

from engram import spaces
from engram.encoders.parts import TILES, Parts, entity_parts, even_edges, grid_parts, number_parts
from engram.registry import declare
from engram.types import Encoding, Key

Layout = Literal["numbers", "channels", "rows"]


class Encoder(Protocol):
    """A module that is called with an observation. Its JAX float arrays are learned, the rest is constant."""

    @property
    def width(self) -> int:
        """Length of `Encoding.embedding`."""
        ...

    def __call__(self, observation: PyTree) -> Encoding:
        """The embedding of an observation, whose every leaf has the stacked frames as its first axis, oldest first.

        `Encoding.attention` is [heads, parts], [0, 0] for an encoder without attention.
        """
        ...


class EncoderSpec(Protocol):
    """The settings of an encoder: a frozen value, made by `@spec`.

    A spec may declare what its numbers are by a class attribute `layout`. Flags of missing numbers and statistics of
    normalised ones follow it:

    | layout     | numbers are            | flags                | statistics           |
    |------------|------------------------|----------------------|----------------------|
    | `numbers` (default) | each for itself | after the numbers, on the last axis | of each number |
    | `channels` | an image               | channels of their own, last | of each channel |
    | `rows`     | a set, such as entities | features of their own | of each feature, of rows that are there |

    With `rows`, a spec may also declare `presence`, the index of the feature that is above 0 in every row that is
    there. With -1, the default, a row is there where one of its features is not 0. The first row, the agent's own,
    always is. A spec whose `relative` is true reads distances, so it is given numbers in their own units only.
    """

    @property
    def layout(self) -> Layout:
        """How its numbers lie."""
        ...

    @property
    def presence(self) -> int:
        """The feature that tells which rows are there; -1 for none."""
        ...

    @property
    def relative(self) -> bool:
        """Whether it reads distances between rows, so numbers must keep their units."""
        ...

    def parts(self, space: spaces.Space, stack: int) -> Parts:
        """What the axis `parts` of `Encoding.attention` is, for an encoder of `stack` frames of `space`.

        Without attention: what of the input could be covered. A spec that declares none has `default_parts`, which are
        not attended: its attention, if there is any, is then shown without names.
        """
        ...

    def build(self, space: spaces.Space, stack: int, key: Key) -> Encoder:
        """An encoder for `stack` frames of `space`, its parameters drawn with `key`.

        Raises SpaceError, naming another encoder, where this one cannot read the space.
        """
        ...


def default_parts(chosen: EncoderSpec, space: spaces.Space, stack: int) -> Parts:
    """Parts by the spec's `layout`: rows of a set, tiles of an image, else numbers, and tiles where they are many."""
    if chosen.layout == "rows":
        rows = next((leaf.shape[0] for _, leaf in spaces.leaves(space) if len(leaf.shape) == 2), 0)
        return entity_parts(space, stack, rows) if rows else Parts("none", space, stack)
    numbers = Parts("none", space, stack) if chosen.layout == "channels" else number_parts(space, stack)
    if numbers.kind != "none" or not isinstance(space, spaces.Box) or len(space.shape) not in (2, 3):
        return numbers
    first = len(space.shape) == 3 and space.shape[0] <= 16 < min(space.shape[1:])  # channels, then rows and columns
    rows, columns = (even_edges(side, min(side, TILES)) for side in space.shape[1 if first else 0 :][:2])
    return grid_parts(space, stack, (rows, columns))


declare("encoder", layout="numbers", presence=-1, parts=default_parts, relative=False)
