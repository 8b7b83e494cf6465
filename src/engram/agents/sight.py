"""Sight: what an encoder is given of an observation in which numbers may be missing, or are normalised.

    sight = sight_of(spec, space)           None where observations are given as they are
    sight.shown                             the space that the encoder is built for
    sight(scales, observation)              what the encoder is called with

Numbers are the parts of type float32. A missing one (NaN) becomes 0, which is the mean where numbers are normalised.
With `observation.missing=mask` a flag goes with each number, 1 where it is present and 0 where it is missing. How the
flags lie follows from `layout` of the encoder's spec (`encoders/encoder.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from engram import spaces
from engram.agents.mind import MindSpec
from engram.encoders.encoder import EncoderSpec, Layout
from engram.encoders.entities import MASK, ROWS, entity_shape, known_rows
from engram.encoders.parts import Parts
from engram.encoders.pixels import channels_first
from engram.errors import SpaceError, SpecError
from engram.nn.observation import filled, scaled
from engram.nn.running import Running


@dataclass(frozen=True)
class Sight:
    """How the numbers of `space` reach an encoder, of which the spec is given. Static under jit."""

    encoder: EncoderSpec
    space: spaces.Space
    missing: bool  # flags go with the numbers
    normalize: bool

    @property
    def numbers(self) -> list[spaces.Leaf]:
        """The parts that hold numbers, in the order of their statistics."""
        return [leaf for path, leaf in spaces.leaves(self.space) if self._holds_numbers(path, leaf)]

    @property
    def shown(self) -> spaces.Space:
        """What the encoder sees."""
        if self._are_rows:
            rows, features = entity_shape(self.space)
            width = 2 * features if self.missing else features
            return spaces.Dict(((ROWS, spaces.Box((rows, width))), (MASK, spaces.Box((rows,), "bool"))))
        return spaces.changed(lambda leaf: self._shown(leaf) if self._holds_numbers("", leaf) else leaf, self.space)

    def empty(self) -> tuple[Running, ...]:
        """The statistics of each part before the first observation."""
        return tuple(Running.empty(self._own(leaf)) for leaf in self.numbers)

    def counted(
        self, scales: tuple[Running, ...], observation: PyTree, keep: Bool[Array, "*leading"]
    ) -> tuple[Running, ...]:
        """The statistics with those observations that `keep` marks. Leaves are [*leading, ...]."""
        known = self._known(observation)
        return tuple(
            scale.updated(value, _over(keep, value) & self._present(value, known))
            for scale, value in zip(scales, self._values(observation), strict=True)
        )

    def __call__(self, scales: tuple[Running, ...] | None, observation: PyTree) -> PyTree:
        """What is seen of stacked observations, whose leaves are [stack, ...]."""
        known = self._known(observation)
        turn: Iterator[Any] = iter(scales if self.normalize else (None,) * len(self.numbers))  # type: ignore[arg-type]
        leaves = [
            self._read(leaf, value, next(turn), known) if self._holds_numbers(path, leaf) else filled(value)
            for (path, leaf), value in zip(spaces.leaves(self.space), jax.tree.leaves(observation), strict=True)
        ]
        seen = jax.tree.unflatten(jax.tree.structure(observation), leaves)
        if known is None:
            return seen
        return {ROWS: seen[ROWS] if isinstance(seen, dict) else seen, MASK: known}

    def _read(self, leaf: spaces.Leaf, value: Array, scale: Running | None, known: Array | None) -> Array:
        present = self._present(value, known)
        assert isinstance(leaf, spaces.Box)  # `_holds_numbers` saw to it
        number = jnp.where(present, scaled(leaf, value) if scale is None else scale.normalised(value), 0.0)
        if not self.missing:
            return number
        flags = present.astype(number.dtype)
        if not leaf.shape or (self._is_image(leaf) and len(leaf.shape) == 2):
            return jnp.stack([number, flags], axis=-1)
        if self._is_image(leaf) and channels_first(leaf):  # type: ignore[arg-type]
            number, flags = jnp.moveaxis(number, 1, -1), jnp.moveaxis(flags, 1, -1)
        return jnp.concatenate([number, flags], axis=-1)

    def _shown(self, leaf: spaces.Leaf) -> spaces.Leaf:
        """The part as `_read` gives it: its own shape, or with flags."""
        shape = leaf.shape
        if not self.missing:
            return spaces.Box(shape)
        if not shape or (self._is_image(leaf) and len(shape) == 2):
            return spaces.Box((*shape, 2))
        if self._is_image(leaf) and channels_first(leaf):  # type: ignore[arg-type]
            shape = (*shape[1:], shape[0])
        return spaces.Box((*shape[:-1], 2 * shape[-1]))

    def _own(self, leaf: spaces.Leaf) -> tuple[int, ...]:
        """The shape of a part's statistics: rows of a set share them, and so do the places of an image."""
        if self._are_rows:
            return 1, entity_shape(self.space)[1]
        if not self._is_image(leaf):
            return leaf.shape
        if len(leaf.shape) == 2:
            return 1, 1
        return (leaf.shape[0], 1, 1) if channels_first(leaf) else (1, 1, leaf.shape[2])  # type: ignore[arg-type]

    def _known(self, observation: PyTree) -> Bool[Array, "*leading rows"] | None:
        """Which rows of a set are there; None for what is no set."""
        if not self._are_rows:
            return None
        rows, mask = (observation[ROWS], observation[MASK]) if isinstance(observation, dict) else (observation, None)
        mask = None if mask is None else filled(mask)
        return known_rows(filled(rows), mask, self.encoder.presence)

    def _present(self, value: Float[Array, "*values"], known: Array | None) -> Bool[Array, "*values"]:
        present = ~jnp.isnan(value)
        return present if known is None else present & known[..., None]

    def _values(self, observation: PyTree) -> list[Array]:
        leaves = zip(spaces.leaves(self.space), jax.tree.leaves(observation), strict=True)
        return [value for (path, leaf), value in leaves if self._holds_numbers(path, leaf)]

    def _holds_numbers(self, path: str, leaf: spaces.Leaf) -> bool:
        flags = self._are_rows and path == MASK
        return isinstance(leaf, spaces.Box) and leaf.dtype == "float32" and not flags

    @property
    def _are_rows(self) -> bool:
        return self.encoder.layout == "rows"

    def _is_image(self, leaf: spaces.Leaf) -> bool:
        return self.encoder.layout == "channels" and len(leaf.shape) in (2, 3)


def sight_of(spec: MindSpec, space: spaces.Space) -> Sight | None:
    """How an agent sees observations of `space`; None where its encoder is given them as they are.

    Raises SpaceError where nothing can be missing or normalised, because no part is of type float32. SpecError where
    the encoder declares a layout that there is not.
    """
    chosen = spec.observation
    if not spec.may_be_blank:
        return None
    if spec.encoder.layout not in get_args(Layout):
        raise SpecError(
            f"{type(spec.encoder).__name__}.layout is {spec.encoder.layout!r}; expected {', '.join(get_args(Layout))}"
        )
    sight = Sight(spec.encoder, spaces.seen(space), spec.takes_missing, chosen.normalize)
    if not sight.numbers:
        asked = "observation.missing = mask" if spec.takes_missing else "observation.normalize = true"
        raise SpaceError(f"{asked} is for numbers of type float32, but the observation is {space}; leave it out")
    return sight


def parts_of(spec: MindSpec, space: spaces.Space) -> Parts:
    """The parts of an agent's observations, which are of `space` and stacked as the agent stacks them.

    Flags of missing numbers, where the encoder attends to them, are parts that own nothing of an observation.
    """
    sight, stack = sight_of(spec, space), spec.observation.stack
    shown = spaces.seen(space) if sight is None else sight.shown
    parts = spec.encoder.parts(shown, stack)
    flagged = sight is not None and sight.missing and spec.encoder.layout == "numbers"
    return replace(parts, space=space, shown=shown if flagged else None)


def _over(keep: Bool[Array, "*leading"], value: Array) -> Bool[Array, "*values"]:
    return keep.reshape(*keep.shape, *[1] * (value.ndim - keep.ndim))
