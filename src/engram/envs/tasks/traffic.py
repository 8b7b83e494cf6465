"""Vehicles at a crossroads of two roads, each with one lane a way: where lanes run, and how those on them drive.

                 north, corner 2
                     |   :   |
                     |   :   |
            ---------+       +---------      x points east, y points south, angles turn from x to y;
    west, 1  . . . . .       . . . . . 3     the middle of the crossing is (0, 0), lanes are 4 m wide.
            ---------+       +---------
                     |   : a |               a: the agent comes from the south and leaves to the west.
                     |   :   |
                 south, corner 0

There are five kinds of lane, and four lanes of a kind, one to a corner: the way in; the right turn, the left turn and
the straight crossing that begin where it ends; and the way out of the right turn. Turned by 90° times the corner, all
corners are alike. A place on a lane is told by `along` (m from where the lane begins) and `aside` (m to the right of
its middle).

XLA computes the result of a loop once, but recomputes other values for every element that reads them. So the values
that pairs of vehicles read come from `lax.map`, or are carried by a scan. A step then takes a third of the time.
"""

from math import atan, pi, sin, tan
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

VEHICLES = 16  # places for them, the agent's included
TIME_STEP = 1 / 15  # s
LENGTH, WIDTH = 5.0, 2.0  # m, of a vehicle
SPEED_LIMIT = 10.0  # m/s
ACCELERATION, BRAKING, JAM_DISTANCE, HEADWAY = 6.0, 3.0, 7.0, 1.5  # m/s², m/s², m, s: of the driver model
SPEED_DELAY, HEADING_DELAY, ASIDE_DELAY, LOOKAHEAD = 0.6, 0.2, 0.6, 0.1  # s, of the agent's speed; of all steering
MOST_SLIP = sin(atan(tan(pi / 3) / 2))  # sine of the angle between heading and motion when steering by 60°, the most
STILL = 0.01  # m or m/s; less counts as this where it divides
ASIDE_NOISE = 1e-4  # m; float32 errs by a tenth of this, which steering would blow up at walking pace
HORIZON = np.arange(0.25, 3, 0.25, dtype=np.float32)  # s ahead, where conflicts are looked for
FAR = 1e6  # m, where there is no vehicle

IN, RIGHT, LEFT, STRAIGHT, OUT = range(5)  # lane `4 * kind + corner`
LANES = 20
ACCESS, OUTER, MIDDLE = 100.0, 11.0, 2.0  # m: length of ways in and out, centre to these, lane to road
RIGHT_RADIUS, LEFT_RADIUS = 9.0, 13.0  # m
COSINES, SINES = np.array([1, 0, -1, 0], np.float32), np.array([0, 1, 0, -1], np.float32)  # of the corners' angles
_LENGTHS = [ACCESS, RIGHT_RADIUS * pi / 2, LEFT_RADIUS * pi / 2, 2 * OUTER, ACCESS]
LENGTHS = np.repeat(np.array(_LENGTHS, np.float32), 4)  # m
CURVATURES = np.repeat(np.array([0, 1 / RIGHT_RADIUS, -1 / LEFT_RADIUS, 0, 0], np.float32), 4)  # 1/m
HEADINGS = (
    np.add.outer([-pi / 2] * 4 + [0], np.arange(4) * pi / 2).reshape(LANES).astype(np.float32)
)  # at the beginning
PRIORITIES = np.add.outer([0, 0, -1, 0, 0], [1, 3, 1, 3]).reshape(LANES).astype(np.int32)  # east-west; left turns least
_RIGHT = np.array([MIDDLE, MIDDLE, MIDDLE, MIDDLE, OUTER], np.float32)
_DOWN = np.array([OUTER + ACCESS, OUTER, OUTER, OUTER, MIDDLE], np.float32)
STARTS_X = (np.outer(_RIGHT, COSINES) - np.outer(_DOWN, SINES)).reshape(LANES)  # m, where the lane begins
STARTS_Y = (np.outer(_RIGHT, SINES) + np.outer(_DOWN, COSINES)).reshape(LANES)
EXITS = np.array(
    [0, 2, 3], np.int32
)  # from a corner to that of the way out: after a right turn, a left turn, a crossing

AGENT = np.arange(VEHICLES) == 0
NOT_ITSELF = ~np.eye(VEHICLES, dtype=bool)

Column = Float[Array, "vehicles"]
Lanes = Int[Array, "vehicles"]  # lane numbers, or legs


class Traffic(NamedTuple):
    """All vehicles, the agent's first. Of one that is not `present` the other numbers mean nothing."""

    x: Column  # m
    y: Column  # m
    heading: Column  # rad
    cosine: Column  # of the heading
    sine: Column
    speed: Column  # m/s
    target: Column  # m/s, the speed aimed at; for others 0 says that they give way
    exponent: Column  # of the driver model
    corner: Int[Array, "vehicles"]  # where it comes from
    turn: Int[Array, "vehicles"]  # RIGHT, LEFT or STRAIGHT
    leg: Int[Array, "vehicles"]  # the lane that it steers along: 0 the way in, 1 the turn, 2 the way out
    present: Bool[Array, "vehicles"]
    crashed: Bool[Array, "vehicles"]


class Places(NamedTuple):
    """All vehicles in the coordinates of all lanes."""

    along: Float[Array, "lanes vehicles"]  # m
    aside: Float[Array, "lanes vehicles"]  # m


def driven(traffic: Traffic, settled: Bool[np.ndarray, "steps"]) -> Traffic:
    """`traffic` after as many simulation steps; precedence is settled in those that are marked."""
    return jax.lax.scan(lambda traffic, settle: (_moved(traffic, settle), None), traffic, jnp.asarray(settled))[0]


def _moved(traffic: Traffic, settle: Bool[Array, ""]) -> Traffic:
    """`traffic` after one simulation step, but for the crashes at its end: the next step sees them."""
    places = placed(traffic)
    here, lane = nearest_lanes(traffic, places), _lane(traffic, traffic.leg)
    passed = in_lane(places.along, lane) > jnp.asarray(LENGTHS)[lane] - LENGTH / 2
    traffic = traffic._replace(leg=jnp.minimum(traffic.leg + passed, 2), crashed=traffic.crashed | touching(traffic))
    lane = _lane(traffic, traffic.leg)
    slip = jnp.where(traffic.crashed, 0.0, _steering(traffic, places, lane))
    own = (traffic.target - traffic.speed) / SPEED_DELAY
    acceleration = jnp.where(AGENT, own, _driver(traffic, places, here, lane))
    acceleration = jnp.where(traffic.crashed, -traffic.speed, acceleration)
    target = jax.lax.cond(settle, _precedence, lambda traffic, places, here: traffic.target, traffic, places, here)
    forward, distance = jnp.sqrt(1 - slip**2), TIME_STEP * traffic.speed
    heading = traffic.heading + distance * slip / (LENGTH / 2)
    return traffic._replace(
        x=traffic.x + distance * (traffic.cosine * forward - traffic.sine * slip),
        y=traffic.y + distance * (traffic.sine * forward + traffic.cosine * slip),
        heading=heading,
        cosine=jnp.cos(heading),
        sine=jnp.sin(heading),
        speed=traffic.speed + TIME_STEP * acceleration,
        target=target,
    )


def placed(traffic: Traffic) -> Places:
    """Where all are on all lanes; on a turn by the angle around its centre, up to half a circle either way."""

    def from_corner(corner: tuple[Array, Array]) -> tuple[Array, ...]:
        cosine, sine = corner
        right, down = traffic.x * cosine + traffic.y * sine, traffic.y * cosine - traffic.x * sine
        east, south = OUTER - right, OUTER - down
        return right, down, jnp.arctan2(south, east), jnp.sqrt(south**2 + east**2)

    right, down, angle, radius = jax.lax.map(from_corner, (jnp.asarray(COSINES), jnp.asarray(SINES)))
    # The centre of a left turn is that of the next corner's right turn.
    left_angle, left_radius = pi / 2 - _next(angle, 1), _next(radius, 1)
    left_angle = jnp.where(left_angle > pi, left_angle - 2 * pi, left_angle)
    crossed, middle = OUTER - down, right - MIDDLE
    along = [ACCESS + crossed, RIGHT_RADIUS * angle, LEFT_RADIUS * left_angle, crossed, right - OUTER]
    aside = [middle, RIGHT_RADIUS - radius, left_radius - LEFT_RADIUS, middle, down - MIDDLE]
    return Places(jnp.concatenate(along), jnp.concatenate(aside))


def nearest_lanes(traffic: Traffic, places: Places) -> Lanes:
    """The lane that each vehicle is on: the nearest one, where a radian between the headings counts as a metre."""
    turned = _wrapped(traffic.heading - HEADINGS[:, None] - places.along * CURVATURES[:, None])
    beyond = jnp.maximum(places.along - LENGTHS[:, None], 0) + jnp.maximum(-places.along, 0)
    distance = jnp.abs(places.aside) + beyond + jnp.abs(turned)
    numbers = np.arange(LANES, dtype=np.int32)[:, None]
    return jnp.min(jnp.where(distance == jnp.min(distance, axis=0), numbers, LANES - 1), axis=0)


def _lane(traffic: Traffic, leg: Lanes | int) -> Lanes:
    """The lane of each vehicle's route on that leg."""
    out = 4 * OUT + (traffic.corner + jnp.asarray(EXITS)[traffic.turn - 1]) % 4
    return jnp.where(leg == 0, traffic.corner, jnp.where(leg == 1, 4 * traffic.turn + traffic.corner, out))


def in_lane(table: Float[Array, "lanes vehicles"], lanes: Lanes) -> Column:
    """Each vehicle's entry for the lane given for it."""
    return jnp.take_along_axis(table, lanes[None], axis=0)[0]


def _next(table: Float[Array, "corners vehicles"], by: int) -> Float[Array, "corners vehicles"]:
    """At each corner what stands at the one `by` further."""
    return jnp.concatenate([table[by:], table[:by]])


def _wrapped(angle: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return angle - 2 * pi * jnp.round(angle / (2 * pi))


def _divisor(value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jnp.where(jnp.abs(value) > STILL, value, jnp.where(value >= 0, STILL, -STILL))


def _steering(traffic: Traffic, places: Places, lane: Lanes) -> Column:
    """Sine of the slip angle: steer for the lane's heading a little ahead, bent towards its middle by at most 45°."""
    speed, aside = _divisor(traffic.speed), in_lane(places.aside, lane)
    ahead = in_lane(places.along, lane) + LOOKAHEAD * traffic.speed
    inwards = -jnp.where(jnp.abs(aside) < ASIDE_NOISE, 0.0, aside) / ASIDE_DELAY / speed
    wanted = jnp.asarray(HEADINGS)[lane] + ahead * jnp.asarray(CURVATURES)[lane]
    wanted += jnp.arcsin(jnp.clip(inwards, -(0.5**0.5), 0.5**0.5))
    rate = _wrapped(wanted - traffic.heading) / HEADING_DELAY
    return jnp.clip(LENGTH / 2 / speed * rate, -MOST_SLIP, MOST_SLIP)


def _driver(traffic: Traffic, places: Places, here: Lanes, lane: Lanes) -> Column:
    """Acceleration (m/s²) by the driver model: the lesser for the lane one is on, `here`, and the one steered along."""
    queues = _queues(places)
    braking = jax.lax.map(lambda lane: _for_first(traffic, places, queues, here, lane), jnp.stack([here, lane]))
    free = free_road(traffic.speed, jnp.clip(traffic.target, 0, SPEED_LIMIT), traffic.exponent)
    return jnp.clip(free - jnp.maximum(braking[0], braking[1]), -ACCELERATION, ACCELERATION)


def free_road(speed: Column, target: Column, exponent: Column) -> Column:
    """a (1 - (v/v0)^exponent), in m/s²: acceleration where nobody is ahead.

    Source: Treiber, Hennecke and Helbing 2000, the intelligent driver model, first term.
    """
    return ACCELERATION * (1 - (jnp.maximum(speed, 0) / _divisor(target)) ** exponent)


def interaction(speed: Column, closing: Column, gap: Column) -> Column:
    """a ((s0 + v T + v dv / (2 sqrt(a b))) / gap)², in m/s²: braking for a vehicle ahead, nearing at dv.

    Source: the same, second term. As in highway-env the gap (m) is between the middles.
    """
    wanted = JAM_DISTANCE + speed * HEADWAY + speed * closing / (2 * (ACCELERATION * BRAKING) ** 0.5)
    return ACCELERATION * (wanted / _divisor(gap)) ** 2


def _queues(places: Places) -> Float[Array, "lanes vehicles"]:
    """How far along each lane a driver on it takes each vehicle to be, also on lanes that follow; FAR if on none."""
    on = (jnp.abs(places.aside) <= 3) & (places.along >= -LENGTH) & (places.along < LENGTHS[:, None] + LENGTH)
    here = jnp.where(on, places.along, FAR)
    way_in, right, left, straight, out = here.reshape(5, 4, VEHICLES)
    turns = jnp.where(right < FAR, right, jnp.where(left < FAR, left, straight))
    # The way in of the same road follows the way out: as in highway-env, drivers brake for who comes towards them.
    following = jnp.concatenate([turns, out, _next(out, 2), _next(out, 3), _next(way_in, 3)])
    return jnp.where(on, here, following + LENGTHS[:, None])


def _for_first(
    traffic: Traffic,
    places: Places,
    queues: Float[Array, "lanes vehicles"],
    here: Lanes,
    lane: Lanes,
) -> Column:
    """Braking (m/s²) of each vehicle for the first one ahead in its lane's queue; how far it is, `here` decides."""
    line = queues[lane]
    ahead = NOT_ITSELF & traffic.present & (line >= in_lane(places.along, lane)[:, None])
    line = jnp.where(ahead, line, FAR)
    first = jnp.argmin(line, axis=1)
    found = jnp.take_along_axis(line, first[:, None], axis=1)[:, 0] < FAR / 2
    gap = places.along[here, first] - in_lane(places.along, here)
    along_x, along_y = traffic.speed * traffic.cosine, traffic.speed * traffic.sine
    closing = (along_x - along_x[first]) * traffic.cosine + (along_y - along_y[first]) * traffic.sine
    return jnp.where(found, interaction(traffic.speed, closing, gap), 0.0)


def touching(traffic: Traffic) -> Bool[Array, "vehicles"]:
    """Whose rectangle overlaps another's: no side of either keeps them apart."""
    right, down = traffic.x - traffic.x[:, None], traffic.y - traffic.y[:, None]
    cosine, sine = traffic.cosine[:, None], traffic.sine[:, None]
    aligned = jnp.abs(traffic.cosine * cosine + traffic.sine * sine)
    crossed = jnp.abs(traffic.sine * cosine - traffic.cosine * sine)
    close = jnp.abs(right * cosine + down * sine) <= (LENGTH * (1 + aligned) + WIDTH * crossed) / 2
    close &= jnp.abs(down * cosine - right * sine) <= (WIDTH * (1 + aligned) + LENGTH * crossed) / 2
    return jnp.any(close & close.T & _pairs(traffic), axis=1)


def _pairs(traffic: Traffic) -> Bool[Array, "vehicles vehicles"]:
    return traffic.present & traffic.present[:, None] & NOT_ITSELF


def _precedence(traffic: Traffic, places: Places, here: Lanes) -> Column:
    """New target speeds: of two who would meet within 3 s the one on the lesser lane stops, or the one behind."""
    met = _meetings(traffic, in_lane(places.along, here))
    priority = jnp.asarray(PRIORITIES)[here]
    right, down = traffic.x - traffic.x[:, None], traffic.y - traffic.y[:, None]
    front = right * traffic.cosine[:, None] + down * traffic.sine[:, None]
    second = (priority[:, None] < priority) | ((priority[:, None] == priority) & (front > front.T))
    stops = jnp.any((met | met.T) & second & _pairs(traffic), axis=1)
    free = jnp.where(traffic.target == 0, SPEED_LIMIT, traffic.target)
    return jnp.where(AGENT, traffic.target, jnp.where(stops, 0.0, free))


def _meetings(traffic: Traffic, along: Column) -> Bool[Array, "vehicles vehicles"]:
    """Who would meet whom if all kept their speeds and routes, from so far along: see `_meeting`."""

    def moment(time: Float[Array, ""]) -> tuple[Column, ...]:
        return _predicted(traffic, along + time * traffic.speed)

    def look(carry, time):
        met, places = carry  # places are carried, so that they are computed once for all pairs
        return (met | _meeting(*places), moment(time)), None

    nobody = jnp.zeros((VEHICLES, VEHICLES), bool)
    (met, places), _ = jax.lax.scan(look, (nobody, moment(jnp.float32(HORIZON[0]))), jnp.asarray(HORIZON[1:]))
    return met | _meeting(*places)


def _predicted(traffic: Traffic, along: Column) -> tuple[Column, ...]:
    """x, y, cosine and sine of the heading of vehicles so far along their routes, from the lane they steer along."""
    lane = _lane(traffic, traffic.leg)
    for _ in range(2):
        length = jnp.asarray(LENGTHS)[lane]
        passed = (lane < 4 * OUT) & (along > length)
        along = jnp.where(passed, along - length, along)
        lane = jnp.where(passed, _lane(traffic, jnp.where(lane < 4, 1, 2)), lane)
    curvature, start = jnp.asarray(CURVATURES)[lane], jnp.asarray(HEADINGS)[lane]
    half = along * curvature / 2
    chord = jnp.where(curvature == 0, along, 2 * jnp.sin(half) / jnp.where(curvature == 0, 1.0, curvature))
    x = jnp.asarray(STARTS_X)[lane] + chord * jnp.cos(start + half)
    y = jnp.asarray(STARTS_Y)[lane] + chord * jnp.sin(start + half)
    return x, y, jnp.cos(start + 2 * half), jnp.sin(start + 2 * half)


def _meeting(x: Column, y: Column, cosine: Column, sine: Column) -> Bool[Array, "vehicles vehicles"]:
    """[i, j]: j is within 5 m of i, and one of its corners, the middle of a side, or its middle is inside of i.

    Both count as half as long again. As in highway-env, i is turned the wrong way, which only matters in turns.
    """
    long, wide = 1.5 * LENGTH / 2, 0.9 * WIDTH / 2
    right, down = x - x[:, None], y - y[:, None]
    own, other = (cosine[:, None], sine[:, None]), (cosine, sine)
    ahead, aside = right * own[0] - down * own[1], right * own[1] + down * own[0]
    cosine, sine = other[0] * own[0] - other[1] * own[1], other[0] * own[1] + other[1] * own[0]
    inside = jnp.zeros_like(right, bool)
    for front in (-long, 0.0, long):
        for side in (-wide, 0.0, wide):
            point = jnp.abs(ahead + front * cosine - side * sine), jnp.abs(aside + front * sine + side * cosine)
            inside |= (point[0] <= long) & (point[1] <= wide)
    return inside & (right**2 + down**2 <= LENGTH**2)
