"""What every encoder is: a module from one stacked observation to an `Encoding`, and the spec that builds it.

An encoder has no state: what it gives depends on its parameters and on the observation alone. Acting and learning call
it for one example at a time and batch it with `vmap`.

Your own joins with `@register("encoder", "name")` above a spec whose `build(space, stack, key)` makes it.
"""

from typing import Protocol

from jaxtyping import PyTree

from engram import spaces
from engram.types import Encoding, Key


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

    A spec may say what its numbers are by a class attribute `layout`, which flags of missing numbers and statistics of
    normalised ones follow:

    | layout     | numbers are            | flags                | statistics           |
    |------------|------------------------|----------------------|----------------------|
    | (none)     | each for itself        | after the numbers, on the last axis | of each number |
    | `channels` | an image               | channels of their own, last | of each channel |
    | `rows`     | a set, such as entities | features of their own | of each feature, of rows that are there |

    A row of a set is there where one of its features is not 0; where the spec has an attribute `presence` of 0 or
    more, where the feature of that number is above 0.
    """

    def build(self, space: spaces.Space, stack: int, key: Key) -> Encoder:
        """An encoder for `stack` frames of `space`, its parameters drawn with `key`.

        Raises SpaceError, naming another encoder, where this one cannot read the space.
        """
        ...
