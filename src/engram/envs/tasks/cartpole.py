"""Balance a pole on a cart, as in Gymnasium's CartPole-v1, as pure JAX; and the same with less to see, or unscaled."""

from dataclasses import dataclass
from math import pi
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from engram.envs.device import DeviceStep, at_least, register_device, uniforms
from engram.errors import SpecError
from engram.spaces import Box

GRAVITY = 9.8  # m/s²
CART_MASS = 1.0  # kg
POLE_MASS = 0.1  # kg
HALF_POLE = 0.5  # m, from the joint to the centre of mass
FORCE = 10.0  # N
TIME_STEP = 0.02  # s
POSITION_LIMIT = 2.4  # m
ANGLE_LIMIT = 12 * pi / 180  # rad
UNITS = (1e-3, 1e6, 1e-3, 1e6)  # of UnscaledCartPole, for one of CartPole's
START = 0.05  # half-width of the first state's distribution, in the unit of each quantity


class CartPoleState(NamedTuple):
    """The unrounded truth: unlike in Gymnasium the observation is the state itself, both float32."""

    physics: Float[Array, "4"]  # position (m), velocity (m/s), angle (rad), angular velocity (rad/s)
    steps: Int[Array, ""]  # actions taken in this episode


@register_device("engram/CartPole-v1")
@dataclass(frozen=True)
class CartPole:
    """Balance a pole on a cart. Reward 1 for every step, the one at which the pole falls included.

    Observation: position (m), velocity (m/s), pole angle (rad, 0 upright), angular velocity (rad/s).
    Actions: 0 pushes left, 1 pushes right. Terminated beyond ±2.4 m or ±12°; truncated at step `max_steps`; both
    flags may come together. The first state is uniform in ±0.05. `step` does not read its key.

    Source: Barto, Sutton and Anderson 1983; constants and explicit Euler step as in Gymnasium, here in float32.
    """

    max_steps: int = 500

    observation_space = Box((4,))
    actions = 2

    def __post_init__(self):
        at_least(self, "max_steps", 1)

    def reset(self, key: UInt32[Array, "2"]) -> tuple[CartPoleState, Float[Array, "4"]]:
        physics = START * (2 * uniforms(key, 4) - 1)
        return CartPoleState(physics, jnp.int32(0)), physics

    def step(
        self, state: CartPoleState, action: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[CartPoleState, DeviceStep]:
        physics = _move(state.physics, jnp.where(action == 1, FORCE, -FORCE))
        steps = state.steps + 1
        step = DeviceStep(physics, jnp.float32(1.0), _fallen(physics), steps >= self.max_steps)
        return CartPoleState(physics, steps), step


def _move(physics: Float[Array, "4"], force: Float[Array, ""]) -> Float[Array, "4"]:
    """One explicit Euler step: positions move by the velocities from before."""
    _, velocity, angle, spin = physics
    mass = CART_MASS + POLE_MASS
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    push = (force + POLE_MASS * HALF_POLE * spin**2 * sine) / mass
    inertia = HALF_POLE * (4 / 3 - POLE_MASS * cosine**2 / mass)
    spin_rate = (GRAVITY * sine - cosine * push) / inertia
    acceleration = push - POLE_MASS * HALF_POLE * spin_rate * cosine / mass
    return physics + TIME_STEP * jnp.stack([velocity, acceleration, spin, spin_rate])


def _fallen(physics: Float[Array, "4"]) -> Bool[Array, ""]:
    return (jnp.abs(physics[0]) > POSITION_LIMIT) | (jnp.abs(physics[2]) > ANGLE_LIMIT)


@register_device("engram/NoVelocityCartPole-v0")
@dataclass(frozen=True)
class NoVelocityCartPole:
    """CartPole that shows position (m) and pole angle (rad) only: velocities must be inferred from earlier ones.

    Everything else is `CartPole`'s: two actions, reward 1 for every step, truncated at step `max_steps`. The best
    return is `max_steps`; random actions get about 22. Correlation horizon: 2 observations.
    """

    max_steps: int = 500

    observation_space = Box((2,))
    actions = 2

    def __post_init__(self):
        at_least(self, "max_steps", 1)

    def reset(self, key: UInt32[Array, "2"]) -> tuple[CartPoleState, Float[Array, "2"]]:
        state, physics = CartPole(self.max_steps).reset(key)
        return state, physics[::2]

    def step(
        self, state: CartPoleState, action: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[CartPoleState, DeviceStep]:
        following, step = CartPole(self.max_steps).step(state, action, key)
        return following, step._replace(observation=step.observation[::2])


@register_device("engram/FlickeringCartPole-v0")
@dataclass(frozen=True)
class FlickeringCartPole:
    """CartPole of which each number is missing with probability `p`, at every step anew and independently.

    A missing number is NaN, which agents with `observation.missing=mask` take. `shown="zero"` shows 0 in its place,
    which nothing tells from a number that is 0. Everything else is `CartPole`'s. The best return is `max_steps`, as far
    as what is left to see allows it; random actions get about 22.

    Source of flickering: Hausknecht & Stone 2015 (arXiv 1507.06527), section 5.1, where whole screens are missing.
    """

    p: float = 0.2
    shown: Literal["nan", "zero"] = "nan"
    max_steps: int = 500

    observation_space = Box((4,))
    actions = 2

    def __post_init__(self):
        at_least(self, "max_steps", 1)
        if not 0 <= self.p <= 1:
            raise SpecError(f"p = {self.p} was given; expected a probability, 0 to 1")

    def reset(self, key: UInt32[Array, "2"]) -> tuple[CartPoleState, Float[Array, "4"]]:
        state, physics = CartPole(self.max_steps).reset(key)
        return state, self._flickering(physics, uniforms(key, 8)[4:])  # the first four were the state's

    def step(
        self, state: CartPoleState, action: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[CartPoleState, DeviceStep]:
        following, step = CartPole(self.max_steps).step(state, action, key)
        return following, step._replace(observation=self._flickering(step.observation, uniforms(key, 4)))

    def _flickering(self, physics: Float[Array, "4"], chance: Float[Array, "4"]) -> Float[Array, "4"]:
        return jnp.where(chance < self.p, jnp.nan if self.shown == "nan" else 0.0, physics)


@register_device("engram/UnscaledCartPole-v0")
@dataclass(frozen=True)
class UnscaledCartPole:
    """CartPole in units that nobody scaled: its numbers times 1e-3, 1e6, 1e-3 and 1e6, and `reward` for every step.

    All else is `CartPole`'s.
    """

    reward: float = 1.0
    max_steps: int = 500

    observation_space = Box((4,))
    actions = 2

    def __post_init__(self):
        at_least(self, "max_steps", 1)

    def reset(self, key: UInt32[Array, "2"]) -> tuple[CartPoleState, Float[Array, "4"]]:
        state, physics = CartPole(self.max_steps).reset(key)
        return state, physics * jnp.asarray(UNITS, jnp.float32)

    def step(
        self, state: CartPoleState, action: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[CartPoleState, DeviceStep]:
        following, step = CartPole(self.max_steps).step(state, action, key)
        observation = step.observation * jnp.asarray(UNITS, jnp.float32)
        return following, step._replace(observation=observation, reward=step.reward * jnp.float32(self.reward))
