"""A set of entities, one of them the agent itself: the ego attends over all of them."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from engram import spaces
from engram.encoders.parts import Parts, entity_parts
from engram.encoders.relative import Frame, differences, frame_of
from engram.errors import SpaceError, SpecError
from engram.nn.attention import MultiHeadAttention, check_heads
from engram.nn.layers import MLP
from engram.nn.observation import scaled
from engram.ranges import OneOf
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Encoding, Key

ROWS, MASK = "entities", "mask"  # the parts of a Dict observation


@register("encoder", "entities")
@spec
class EntitiesSpec:
    """Ego-attention over a set of entities: the order of all but the first, the ego, makes no difference.

    Reads an array of entities x features, or a Dict of `entities` (such an array) and `mask` (a flag for each, 0 where
    there is none). The defaults are those of Leurent & Mercat 2019 (arXiv 1911.12250).

    `auto` takes it for such a Dict, and for an array whose space says that its rows are a set:
    `spaces.Box(unordered=True)`, or an attribute `unordered = True` of Gymnasium's Box. For others: `encoder=entities`.
    """

    token_width: int = setting(64, "length of an entity's embedding", low=1, search=OneOf(32, 64, 128))
    heads: int = setting(2, "attention heads; they must divide token_width", low=1)
    width: int = setting(128, "units of the layer after the attention", low=1, search=OneOf(64, 128, 256))
    presence: int = setting(
        -1, "feature that is above 0 where there is an entity; -1: rows of zeros are none. Not used with a mask", low=-1
    )
    uniform: bool = setting(False, "control: all entities that are there weigh the same")
    relative: bool = setting(
        False,
        "entities are also seen by where they are and how they move from the ego's point of view",
        later=True,
    )
    position: tuple[int, ...] = setting(
        (), "with relative: columns of x and y; () as the observation names them", later=True
    )
    velocity: tuple[int, ...] = setting(
        (), "with a position: columns of the velocity along x and y; () for none", later=True
    )
    heading: tuple[int, ...] = setting(
        (), "with a position: columns of the heading's cosine and sine; () for none", later=True
    )
    units: tuple[float, ...] = setting(
        (1.0, 1.0), "with a position: m that 1 of it stands for, and m/s that 1 of the velocity does",
        above=0, later=True,
    )  # fmt: skip

    layout = "rows"

    def check(self) -> None:
        check_heads(self.heads, self.token_width, ("encoder.heads", "encoder.token_width"))
        given = [name for name in ("position", "velocity", "heading") if getattr(self, name)]
        if given and not self.relative:
            raise SpecError(f"encoder.{given[0]} is for encoder.relative = true; set that too, or leave it out")
        if len(self.units) != 2:
            raise SpecError(f"encoder.units = {self.units} was given; expected two numbers, such as 100,20")

    def build(self, space: spaces.Space, stack: int, key: Key) -> "EntityEncoder":
        features = entity_shape(space)[1]
        if self.presence >= features:
            raise SpecError(
                f"encoder.presence = {self.presence} names none of the {features} features of an entity; "
                f"choose 0 to {features - 1}, or -1 for none"
            )
        return EntityEncoder(space, stack, self, key=key)

    def frame(self, space: spaces.Space) -> Frame | None:
        """Which columns of a row are what; None where rows are seen as they are. Raises as `frame_of` does."""
        if not self.relative:
            return None
        chosen = self.position, self.velocity, self.heading, self.units
        return frame_of(rows_of(space), *chosen)  # type: ignore[arg-type]

    def parts(self, space: spaces.Space, stack: int) -> Parts:
        """The entities of every frame."""
        return entity_parts(space, stack, entity_shape(space)[0], attended=True)


def entity_shape(space: spaces.Space) -> tuple[int, int]:
    """Entities and features of a space that `entities` can read; SpaceError for any other."""
    rows = space
    if isinstance(space, spaces.Dict):
        parts = dict(space.items)
        rows, mask = parts.get(ROWS), parts.get(MASK)
        flags = isinstance(rows, spaces.Box) and isinstance(mask, spaces.Box) and mask.shape == rows.shape[:1]
        rows = rows if flags and len(parts) == 2 else None
    if not isinstance(rows, spaces.Box) or len(rows.shape) != 2 or 0 in rows.shape:
        raise SpaceError(
            f"encoder=entities needs one array of entities x features, or a Dict of {ROWS!r} (such an array) and "
            f"{MASK!r} (one flag for each), but the observation is {space}; use encoder=features"
        )
    return rows.shape[0], rows.shape[1]


def rows_of(space: spaces.Space) -> spaces.Box:
    """The array of entities x features of a space that `entities` can read."""
    rows = dict(space.items)[ROWS] if isinstance(space, spaces.Dict) else space
    assert isinstance(rows, spaces.Box)  # entity_shape saw to it
    return rows


def is_set(space: spaces.Space) -> bool:
    """Whether a space says that it is a set of entities: by the names of its parts, or by `Box.unordered`."""
    if isinstance(space, spaces.Box):
        return space.unordered and len(space.shape) == 2
    try:
        return isinstance(space, spaces.Dict) and min(entity_shape(space)) > 0
    except SpaceError:
        return False


def known_rows(
    rows: Float[Array, "*leading entities features"], mask: Array | None, presence: int
) -> Bool[Array, "*leading entities"]:
    """Which entities are there, by a mask [*leading, entities] or by their features; the ego always is."""
    shown = (rows != 0).any(-1) if presence < 0 else rows[..., presence] > 0
    known = shown if mask is None else mask != 0
    return known | (jnp.arange(known.shape[-1]) == 0)


class EntityEncoder(eqx.Module):
    """Each entity through an MLP (the ego has its own), then the ego's query over all of them, itself included.

    Parts are the entities; those of stacked frames are entities of their own, oldest first, marked with their frame
    (rows need not keep their place from frame to frame). An entity that is not there has weight 0 and its row no
    influence. The ego of every frame counts as there.
    """

    ego: MLP
    others: MLP
    attention: MultiHeadAttention
    dense: MLP
    width: int = eqx.field(static=True)
    space: spaces.Space = eqx.field(static=True)
    presence: int = eqx.field(static=True)
    frame: Frame | None = eqx.field(static=True)

    def __init__(self, space: spaces.Space, stack: int, chosen: EntitiesSpec, *, key: Key):
        keys = jax.random.split(key, 4)
        width = chosen.token_width
        self.frame = chosen.frame(space)
        inputs = entity_shape(space)[1] + (stack if stack > 1 else 0) + (self.frame.features if self.frame else 0)
        self.ego = MLP(inputs, (width, width), key=keys[0])
        self.others = MLP(inputs, (width, width), key=keys[1])
        self.attention = MultiHeadAttention(width, width, width, chosen.heads, uniform=chosen.uniform, key=keys[2])
        self.dense = MLP(width, (chosen.width,), norm=True, key=keys[3])
        self.width, self.space, self.presence = chosen.width, space, chosen.presence

    def __call__(self, observation: PyTree) -> Encoding:
        rows, known = self._rows(observation)
        embedded = jnp.concatenate(
            [jax.vmap(jax.vmap(self.ego))(rows[:, :1]), jax.vmap(jax.vmap(self.others))(rows[:, 1:])], axis=1
        )
        ego = embedded[-1, 0]
        read, weights = self.attention(ego[None], embedded.reshape(-1, ego.size), known.reshape(-1))
        return Encoding(self.dense(ego + read[0]), weights[:, 0])

    def _rows(
        self, observation: PyTree
    ) -> tuple[Float[Array, "stack entities features"], Bool[Array, "stack entities"]]:
        """The entities of each frame, zero where there is none, and which are there."""
        box = rows_of(self.space)
        masked = box is not self.space
        given = observation[ROWS] if masked else observation
        known = known_rows(given, observation[MASK] if masked else None, self.presence)
        rows = scaled(box, given)
        rows = jnp.where(known[..., None], rows, 0)  # whatever stood there: not even a NaN gets through
        stack, entities, _ = rows.shape
        if self.frame is not None:
            plain = jnp.where(known[..., None], given, 0)
            rows = jnp.concatenate([rows, differences(self.frame, plain, plain[-1, 0])], axis=-1)
        if stack > 1:
            frame = jnp.broadcast_to(jnp.eye(stack)[:, None], (stack, entities, stack))
            rows = jnp.concatenate([rows, frame], axis=-1)
        return rows, known
