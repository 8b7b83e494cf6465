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
    """The settings of an encoder: a frozen value, made by `@spec`."""

    def build(self, space: spaces.Space, stack: int, key: Key) -> Encoder:
        """An encoder for `stack` frames of `space`, its parameters drawn with `key`.

        Raises SpaceError, naming another encoder, where this one cannot read the space.
        """
        ...
