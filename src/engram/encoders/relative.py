"""What differs between the rows of a set and the agent's own row: where others are and how they move, as it sees them.

The ego's heading is ahead, so that what matters looks the same on every road. Differences are bounded: what is far away
makes little of a difference, and a metre counts most where it is near.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from engram import spaces
from engram.errors import SpaceError, SpecError

REACH, PACE, NEAR, FURTHER = 20.0, 10.0, 10.0, 30.0  # m; m/s; m; m

POSITION, VELOCITY, HEADING = ("x", "y"), ("vx", "vy"), ("cos_h", "sin_h")
Pair = tuple[int, int]


class Frame(NamedTuple):
    """Which columns of a row are what, and what 1 of them stands for. Static under jit."""

    position: Pair
    velocity: Pair | None  # None where rows have none: then nothing is said of speeds
    heading: Pair | None  # cosine and sine; None where rows have none: then x is ahead
    metres: float
    metres_a_second: float

    @property
    def features(self) -> int:
        """How many numbers `differences` gives of a row."""
        return 4 + 2 * (self.velocity is not None) + 2 * (self.heading is not None)


def frame_of(
    rows: spaces.Box,
    position: tuple[int, ...] = (),
    velocity: tuple[int, ...] = (),
    heading: tuple[int, ...] = (),
    units: tuple[float, float] = (1.0, 1.0),
) -> Frame:
    """The frame of rows whose columns were given, or else as the space names them.

    Args:
      rows: the Box of entities x features.
      position, velocity: columns of x and y. heading: columns of its cosine and its sine. () for none given.
      units: m that 1 of a given position stands for, and m/s that 1 of a given velocity does.

    Raises SpecError for columns that there are not; SpaceError where nobody says which columns are the position.
    """
    given = {"position": position, "velocity": velocity, "heading": heading}
    features = rows.shape[1]
    for name, pair in given.items():
        if pair and (len(set(pair)) != 2 or len(pair) != 2 or not all(0 <= one < features for one in pair)):
            raise SpecError(
                f"encoder.{name} = {','.join(map(str, pair))} was given; expected two columns of 0 to {features - 1}, "
                f"such as encoder.{name}=1,2"
            )
    if position:
        return Frame(position, velocity or None, heading or None, *units)  # type: ignore[arg-type]
    if velocity or heading:
        raise SpecError("encoder.velocity and encoder.heading go with encoder.position; give that too")
    if units != (1.0, 1.0):
        raise SpecError(f"encoder.units = {','.join(map(str, units))} goes with encoder.position; give that too")
    found = {name: _columns(rows, name) for name in (POSITION, VELOCITY, HEADING)}
    if found[POSITION] is None:
        raise SpaceError(
            "encoder.relative = true needs to know which numbers of a row are its place, and the observation does not "
            "say; give encoder.position=1,2 (and encoder.velocity, encoder.heading, encoder.units), or name them: "
            "spaces.Box(columns=...)"
        )
    return Frame(*found.values(), _unit(rows, POSITION), _unit(rows, VELOCITY))  # type: ignore[arg-type]


def differences(
    frame: Frame, rows: Float[Array, "*leading entities features"], ego: Float[Array, "features"]
) -> Float[Array, "*leading entities differences"]:
    """What is to be known of each row beside its own numbers, for the ego's row. A row of zeros gives zeros.

        tanh(ahead / 20 m), tanh(aside / 20 m), exp(-d / 10 m), exp(-d / 30 m)     d: the distance
        the same of the difference of velocities, / 10 m/s                         where rows have a velocity
        cosine and sine of the angle between the headings                          where rows have a heading

    Args:
      rows, ego: as the environment gives them. The first axis of directions is the ego's heading, the second lies to
        the right of it where y points down, to the left where it points up.
    """
    cosine, sine = (ego[column] for column in frame.heading) if frame.heading else (1.0, 0.0)

    def turned(pair: Pair, unit: float) -> tuple[Array, Array]:
        x, y = ((rows[..., column] - ego[column]) * unit for column in pair)
        return x * cosine + y * sine, y * cosine - x * sine

    ahead, aside = turned(frame.position, frame.metres)
    far = jnp.sqrt(ahead**2 + aside**2)
    found = [jnp.tanh(ahead / REACH), jnp.tanh(aside / REACH), jnp.exp(-far / NEAR), jnp.exp(-far / FURTHER)]
    if frame.velocity:
        found += [difference / PACE for difference in turned(frame.velocity, frame.metres_a_second)]
    if frame.heading:
        other = [rows[..., column] for column in frame.heading]
        found += [other[0] * cosine + other[1] * sine, other[1] * cosine - other[0] * sine]
    there: Bool[Array, "*leading entities"] = (rows != 0).any(-1)
    return jnp.where(there[..., None], jnp.stack(found, axis=-1), 0.0)


def _columns(rows: spaces.Box, names: tuple[str, str]) -> Pair | None:
    places = {column.name: place for place, column in enumerate(rows.columns)}
    return (places[names[0]], places[names[1]]) if all(name in places for name in names) else None


def _unit(rows: spaces.Box, names: tuple[str, str]) -> float:
    """What 1 of both columns stands for; SpaceError where they differ, for then angles would be bent."""
    units = {column.unit for column in rows.columns if column.name in names}
    if len(units) > 1:
        raise SpaceError(f"the columns {' and '.join(names)} have the units {units}; give both the same")
    return next(iter(units), 1.0)
