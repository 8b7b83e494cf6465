"""Turn left at a crossroads through traffic that does not wait: highway-env's intersection task as pure JAX."""

from dataclasses import dataclass
from functools import cache
from math import pi
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from engram.envs.device import DeviceStep, at_least, register_device, typed_key, uniforms
from engram.envs.tasks.kept import kept
from engram.envs.tasks.traffic import (
    ACCESS,
    AGENT,
    COSINES,
    FAR,
    LEFT,
    LENGTH,
    MIDDLE,
    OUT,
    OUTER,
    RIGHT,
    SINES,
    SPEED_LIMIT,
    STRAIGHT,
    VEHICLES,
    Places,
    Traffic,
    driven,
    in_lane,
    nearest_lanes,
    placed,
    touching,
)
from engram.envs.tasks.traffic import __file__ as traffic_source
from engram.spaces import Box, columns_of

ROWS = 15  # vehicles in an observation
UNITS = {"presence": 1.0, "x": 100.0, "y": 100.0, "vx": 20.0, "vy": 20.0, "cos_h": 1.0, "sin_h": 1.0}  # 1, m, m/s
LONG = 20.0  # s, that 1 of the time left stands for
TARGET_SPEED = 4.5  # m/s; the agent aims at 0, 1 or 2 times this
SPAWN_PROBABILITY, SPAWN_SPEED, SPAWN_ALONG = 0.6, 8.0, 5.0  # of a vehicle per second; m/s; m
OPENING_VEHICLES = 9  # attempts to put a vehicle on the road three seconds before an episode
ARRIVED, LEFT_BEHIND = 25.0, 80.0  # m along the way out where the agent has arrived, and where others vanish
# Precedence is settled twice a second. In highway-env it is at every 7th simulation step, so that the moments drift
# from second to second; here they always are those of an episode's first second. Before an episode nothing differs.
SETTLED = np.isin(np.arange(15), [3, 10])
OPENING_SETTLED = np.arange(1, 46) % 7 == 0


class IntersectionState(NamedTuple):
    """The traffic, and whether the agent crashed or arrived."""

    traffic: Traffic  # for the next decision: those who left are gone, and a new one may have come
    steps: Int[Array, ""]  # actions taken in this episode
    crashed: Bool[Array, ""]  # whether the agent has hit a vehicle
    arrived: Bool[Array, ""]  # whether it is 25 m down the western road


@register_device("engram/Intersection-v0")
@dataclass(frozen=True)
class Intersection:
    """Drive through the crossroads in 13 s without a crash, choosing the speed once a second. Nobody gives way to you.

    Observation: a row for each vehicle: 1, x/100 m, y/100 m, vx/(20 m/s), vy/(20 m/s), cosine and sine of the heading;
    places and speeds are cut off at ±1. The agent's is the first; then the others, from the nearest to the farthest
    *along the agent's lane*, without those over 10 m behind it; then zeros. Nothing shows where the others mean to go.
    Actions: aim at the next lower of the speeds 0, 4.5 and 9 m/s; keep the aim; aim at the next higher. It starts at 9.
    Reward: (speed - 7)/2 cut off to 0..1, less 5 in a crash; 1 on arrival, 25 m down the western road. Not normalised.
    Terminated on a crash or an arrival, truncated at step `max_steps`; both flags may come together. The last reward
    tells how it terminated: by default it is 1 on arrival, -4 or less in a crash. So do `crashed` and `arrived` of the
    state; in about one episode of a hundred both hold, for the agent crashes and slides over the line: its reward is 1.
    Success: it has arrived and not crashed.

    In highway-env's terms this is `intersection-v2` with its default settings: the same lanes, spawning, steering,
    driver model, precedence, observation and rewards, so that a policy can be run there as it is. A second of driving
    from its own states agrees to a centimetre, but for these departures:
    - a crash does not push the vehicles apart;
    - precedence is settled at fixed moments of each second (there at every seventh simulation step);
    - there are at most 15 others at once (there hardly ever more), and leaving the road costs nothing, as no one does;
    - all is float32, in which those at walking pace steer a little differently;
    - the traffic at the first moment is one of `openings` scenes that were simulated for 3 s, as there, and half of the
      time seen from the other side. The agent and the vehicle put 35 m before the junction are drawn anew.

    Args:
      max_steps: seconds until truncation.
      openings: how many scenes there are to begin with. They are made when the environment is first traced.
      order: `sorted` as above, or `shuffled`: the others' rows, empty ones too, in an order that is drawn at each step.
      clock: whether rows have another number, the seconds left / 20 s in the agent's own row and 0 in others.
      late_ends: whether running out of time terminates the episode, so that nothing is thought to follow.
      arrive, crash, late, speed: weights of the reward: for arriving; what a crash costs; what running out of time
        costs; and for each second of driving at 9 m/s or more.

    Source: Leurent and Mercat 2019 (arXiv 1911.12250) for the task; highway-env 1.12.1, of which this is a rewriting.
    """

    max_steps: int = 13
    openings: int = 4096
    order: Literal["sorted", "shuffled"] = "sorted"
    clock: bool = False
    late_ends: bool = False
    arrive: float = 1.0
    crash: float = 5.0
    late: float = 0.0
    speed: float = 1.0

    actions = 3

    def __post_init__(self):
        at_least(self, "max_steps", 1)
        at_least(self, "openings", 1)
        for name in ("arrive", "crash", "late", "speed"):
            at_least(self, name, 0)

    @property
    def observation_space(self) -> Box:
        columns = columns_of([*UNITS.items(), *([("time left", LONG)] if self.clock else [])])
        return Box((ROWS, len(columns)), unordered=True, columns=columns)

    def reset(self, key: UInt32[Array, "2"]) -> tuple[IntersectionState, Float[Array, "15 features"]]:
        which, half, corner, exponent, *noise = uniforms(key, 6)
        others = jnp.asarray(_openings(self.openings))[jnp.floor(which * self.openings).astype(jnp.int32)]
        traffic = _half_turned(_unpacked(others), half < 0.5)
        against, own = _normals(jnp.stack(noise))
        traffic = _joined(
            traffic, jnp.bool_(True), 65 + 0.1 * against, SPAWN_SPEED, _choice(corner, 4), STRAIGHT, 3.5 + exponent
        )
        traffic = _with_agent(traffic, 65 + 5 * own)
        state = IntersectionState(traffic, jnp.int32(0), jnp.bool_(False), jnp.bool_(False))
        return state, self._told(observe(traffic), state.steps, key)

    def step(
        self, state: IntersectionState, action: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[IntersectionState, DeviceStep]:
        traffic = driven(_aimed(state.traffic, action), SETTLED)
        traffic = traffic._replace(crashed=traffic.crashed | touching(traffic))
        places = placed(traffic)
        lanes = nearest_lanes(traffic, places)
        out = jnp.where(lanes // 4 == OUT, in_lane(places.along, lanes), 0.0)
        crashed, arrived, steps = traffic.crashed[0], out[0] >= ARRIVED, state.steps + 1
        over = steps >= self.max_steps
        reward = self.speed * jnp.clip((traffic.speed[0] - 7) / 2, 0, 1) - self.crash * crashed
        reward = jnp.where(arrived, self.arrive, reward)
        if self.late:
            reward -= self.late * (over & ~crashed & ~arrived)
        shown = self._told(_shown(traffic, places, lanes[0]), steps, key)
        ends, success = crashed | arrived | (over & self.late_ends), arrived & ~crashed
        step = DeviceStep(shown, reward.astype(jnp.float32), ends, over, success=success)
        traffic = traffic._replace(present=traffic.present & ((out < LEFT_BEHIND) | AGENT))
        return IntersectionState(_spawned(traffic, uniforms(key, 6)), steps, crashed, arrived), step

    def _told(
        self, rows: Float[Array, "15 7"], steps: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> Float[Array, "15 features"]:
        """The rows as these settings show them."""
        if self.order == "shuffled":
            drawn = uniforms(key ^ jnp.uint32(0x5AFF1ED), ROWS - 1)  # not those that newcomers are drawn by
            numbers = np.arange(ROWS - 1)
            before = (drawn < drawn[:, None]) | ((drawn == drawn[:, None]) & (numbers < numbers[:, None]))
            chosen = jnp.sum(before, axis=1) == numbers[:, None]
            rows = rows.at[1:].set(jnp.sum(jnp.where(chosen[:, :, None], rows[1:], 0.0), axis=1))
        if self.clock:
            left = (self.max_steps - steps) / LONG
            rows = jnp.concatenate([rows, jnp.zeros((ROWS, 1)).at[0, 0].set(left)], axis=1)
        return rows


def observe(traffic: Traffic) -> Float[Array, "15 7"]:
    """What the agent sees of `traffic`."""
    places = placed(traffic)
    return _shown(traffic, places, nearest_lanes(traffic, places)[0])


def _shown(traffic: Traffic, places: Places, lane: Int[Array, ""]) -> Float[Array, "15 7"]:
    ahead = places.along[lane] - places.along[lane, 0]
    near = (traffic.x - traffic.x[0]) ** 2 + (traffic.y - traffic.y[0]) ** 2 < 200**2
    seen = AGENT | (traffic.present & near & (ahead > -2 * LENGTH))
    distance = jnp.where(AGENT, -1.0, jnp.where(seen, jnp.abs(ahead), FAR))
    numbers = np.arange(VEHICLES)
    before = (distance < distance[:, None]) | ((distance == distance[:, None]) & (numbers < numbers[:, None]))
    place = jnp.clip(jnp.stack([traffic.x, traffic.y]) / 100, -1, 1)
    motion = jnp.clip(traffic.speed * jnp.stack([traffic.cosine, traffic.sine]) / 20, -1, 1)
    rows = jnp.stack([jnp.ones_like(traffic.x), *place, *motion, traffic.cosine, traffic.sine], axis=1)
    # A sum of one row and zeros: exact, and much cheaper under vmap than a sort.
    chosen = (jnp.sum(before, axis=1) == numbers[:ROWS, None]) & seen
    return jnp.sum(jnp.where(chosen[:, :, None], rows, 0.0), axis=1)


def _aimed(traffic: Traffic, action: Int[Array, ""]) -> Traffic:
    """The agent's action: one speed up or down from the one nearest to its speed, not from the one it aims at."""
    nearest = jnp.clip(jnp.round(traffic.speed[0] / TARGET_SPEED), 0, 2)
    aim = TARGET_SPEED * jnp.clip(nearest + action - 1, 0, 2)
    return traffic._replace(target=jnp.where(AGENT & (action != 1), aim, traffic.target))


def _spawned(traffic: Traffic, draws: Float[Array, "6"], along: Float[Array, ""] | float = SPAWN_ALONG) -> Traffic:
    """With a vehicle more at times, from any corner to any other, about `along` m from where it comes in."""
    place, speed = _normals(draws[4:])
    corner, turn = _choice(draws[1], 4), RIGHT + _choice(draws[2], 3)
    allowed = draws[0] <= SPAWN_PROBABILITY
    return _joined(traffic, allowed, along + place, SPAWN_SPEED + speed, corner, turn, 3.5 + draws[3])


def _joined(
    traffic: Traffic,
    allowed: Bool[Array, ""],
    along: Float[Array, ""],
    speed: Float[Array, ""] | float,
    corner: Int[Array, ""],
    turn: Int[Array, ""] | int,
    exponent: Float[Array, ""],
) -> Traffic:
    """With a vehicle more on a way in, if that is `allowed`, nobody is within 15 m, and there is a place for it."""
    down = OUTER + ACCESS - along
    cosine, sine = jnp.asarray(COSINES)[corner], jnp.asarray(SINES)[corner]
    x, y = MIDDLE * cosine - down * sine, MIDDLE * sine + down * cosine
    close = traffic.present & ((traffic.x - x) ** 2 + (traffic.y - y) ** 2 < 15**2)
    place = jnp.argmin(traffic.present | AGENT)
    joins = allowed & ~jnp.any(close) & ~traffic.present[place]
    heading = (corner - 1) * jnp.float32(pi / 2)
    new = (x, y, heading, sine, -cosine, speed, speed, exponent, corner, turn, 0, True, False)
    return _put(traffic, joins & (np.arange(VEHICLES) == place), new)


def _with_agent(traffic: Traffic, along: Float[Array, ""]) -> Traffic:
    """With the agent's vehicle, and without those that are within 20 m of it."""
    y = OUTER + ACCESS - along
    agent = (MIDDLE, y, -pi / 2, 0.0, -1.0, SPEED_LIMIT, 2 * TARGET_SPEED, 4.0, 0, LEFT, 0, True, False)
    traffic = _put(traffic, jnp.asarray(AGENT), agent)
    near = (traffic.x - MIDDLE) ** 2 + (traffic.y - y) ** 2 < 20**2
    return traffic._replace(present=traffic.present & (AGENT | ~near))


def _put(traffic: Traffic, place: Bool[Array, "vehicles"], one: tuple) -> Traffic:
    """`traffic` with `one` vehicle, scalars in the order of its columns, at the marked place."""
    return Traffic(*(jnp.where(place, jnp.asarray(new, old.dtype), old) for new, old in zip(one, traffic, strict=True)))


def _half_turned(traffic: Traffic, half: Bool[Array, ""]) -> Traffic:
    """Seen from the other side where `half`: opposite corners have the same rules."""
    sign = jnp.where(half, -1.0, 1.0)
    x, y, cosine, sine = (sign * column for column in (traffic.x, traffic.y, traffic.cosine, traffic.sine))
    heading, corner = traffic.heading + jnp.where(half, pi, 0.0), (traffic.corner + jnp.where(half, 2, 0)) % 4
    return traffic._replace(x=x, y=y, cosine=cosine, sine=sine, heading=heading, corner=corner)


@cache
def _openings(count: int) -> Float[np.ndarray, "count columns others"]:
    """The traffic of first moments: simulated once, because a reset runs at every step of every environment."""

    def make() -> np.ndarray:
        with jax.ensure_compile_time_eval():  # also where the caller is being traced
            key = typed_key(jnp.array([0, count], jnp.uint32))
            return np.asarray(jax.jit(jax.vmap(_opening))(jax.random.uniform(key, (count, OPENING_VEHICLES, 6))))

    return kept("openings", make, (count, len(Traffic._fields), OPENING_VEHICLES), (__file__, traffic_source))


def _opening(draws: Float[Array, "others 6"]) -> Float[Array, "columns others"]:
    places = jnp.linspace(0.0, 80.0, OPENING_VEHICLES + 1)[:-1] + SPAWN_ALONG
    nobody = _unpacked(jnp.zeros((len(Traffic._fields), OPENING_VEHICLES)))
    traffic = jax.lax.scan(lambda traffic, new: (_spawned(traffic, *new), None), nobody, (draws, places))[0]
    traffic = driven(traffic, OPENING_SETTLED)
    return jnp.stack([column[1 : 1 + OPENING_VEHICLES].astype(jnp.float32) for column in traffic])


def _unpacked(columns: Float[Array, "columns others"]) -> Traffic:
    """The others of an opening, with the places of the agent and of those still to come empty."""
    columns = jnp.pad(columns, ((0, 0), (1, VEHICLES - 1 - OPENING_VEHICLES)))
    kinds = [jnp.float32] * 8 + [jnp.int32] * 3 + [jnp.bool_] * 2
    traffic = Traffic(*(column.astype(kind) for column, kind in zip(columns, kinds, strict=True)))
    return traffic._replace(turn=jnp.maximum(traffic.turn, RIGHT))


def _choice(uniform: Float[Array, ""], count: int) -> Int[Array, ""]:
    return jnp.floor(uniform * count).astype(jnp.int32)


def _normals(uniform: Float[Array, "n"]) -> Float[Array, "n"]:
    """Standard normal numbers; their tails end at ±5.4."""
    return jax.lax.map(lambda u: jnp.float32(2**0.5) * jax.lax.erf_inv(2 * u + jnp.float32(2**-24) - 1), uniform)
