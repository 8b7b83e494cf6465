"""Swing up a two-link arm by its elbow, as in Gymnasium's Acrobot-v1, as pure JAX."""

from dataclasses import dataclass
from math import pi
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from engram.envs.device import DeviceStep, at_least, register_device, uniforms
from engram.spaces import Box

GRAVITY = 9.8  # m/s²
MASS = 1.0  # kg, of each link
LENGTH = 1.0  # m, of the first link
CENTRE = 0.5  # m, from a link's joint to its centre of mass
INERTIA = 1.0  # kg m², of each link
TIME_STEP = 0.2  # s
SPIN_LIMITS = (4 * pi, 9 * pi)  # rad/s
START = 0.1  # half-width of the first state's distribution, rad and rad/s


class AcrobotState(NamedTuple):
    """Angles and velocities; the observation shows the angles by cosine and sine."""

    physics: Float[Array, "4"]  # shoulder, elbow (rad, within ±π), their velocities (rad/s)
    steps: Int[Array, ""]  # actions taken in this episode


@register_device("engram/Acrobot-v1")
@dataclass(frozen=True)
class Acrobot:
    """Swing the free end of two linked bars up.

    Reward -1 for every step until the tip is one link's length above the shoulder, 0 at the step that gets there.

    Observation: cosine and sine of the shoulder, cosine and sine of the elbow, their velocities (rad/s). Both angles 0
    is hanging down; the elbow is relative to the first link. Actions: elbow torque -1, 0, 1 N m.
    Terminated at the goal; truncated at step `max_steps`; both flags may come together. The first state is uniform in
    ±0.1. `step` does not read its key.

    Source: Sutton 1996 with the equations of Sutton and Barto's book, one Runge-Kutta step of order 4 per action, as in
    Gymnasium; here in float32.
    """

    max_steps: int = 500

    observation_space = Box((6,))
    actions = 3

    def __post_init__(self):
        at_least(self, "max_steps", 1)

    def reset(self, key: UInt32[Array, "2"]) -> tuple[AcrobotState, Float[Array, "6"]]:
        physics = START * (2 * uniforms(key, 4) - 1)
        return AcrobotState(physics, jnp.int32(0)), _observe(physics)

    def step(
        self, state: AcrobotState, action: Int[Array, ""], key: UInt32[Array, "2"]
    ) -> tuple[AcrobotState, DeviceStep]:
        physics = _move(state.physics, (action - 1).astype(jnp.float32))
        steps = state.steps + 1
        height = -jnp.cos(physics[0]) - jnp.cos(physics[0] + physics[1])
        reached = height > LENGTH
        reward = jnp.where(reached, jnp.float32(0), jnp.float32(-1))
        return AcrobotState(physics, steps), DeviceStep(_observe(physics), reward, reached, steps >= self.max_steps)


def _observe(physics: Float[Array, "4"]) -> Float[Array, "6"]:
    cosine, sine = jnp.cos(physics[:2]), jnp.sin(physics[:2])
    return jnp.stack([cosine[0], sine[0], cosine[1], sine[1], physics[2], physics[3]])


def _move(physics: Float[Array, "4"], torque: Float[Array, ""]) -> Float[Array, "4"]:
    """One Runge-Kutta step; angles wrapped to ±π, velocities cut at their limits."""
    one = _rates(physics, torque)
    two = _rates(physics + TIME_STEP / 2 * one, torque)
    three = _rates(physics + TIME_STEP / 2 * two, torque)
    four = _rates(physics + TIME_STEP * three, torque)
    moved = physics + TIME_STEP / 6 * (one + 2 * two + 2 * three + four)
    angles = moved[:2] - 2 * pi * jnp.round(moved[:2] / (2 * pi))
    limits = jnp.array(SPIN_LIMITS, jnp.float32)
    return jnp.concatenate([angles, jnp.clip(moved[2:], -limits, limits)])


def _rates(physics: Float[Array, "4"], torque: Float[Array, ""]) -> Float[Array, "4"]:
    """Time derivative of the physics. cos(θ - π/2) of the source is written as sin θ, which rounds less."""
    shoulder, elbow, spin, elbow_spin = physics
    cosine, sine = jnp.cos(elbow), jnp.sin(elbow)
    coupling = MASS * LENGTH * CENTRE
    own = MASS * CENTRE**2 + INERTIA
    inertia = own + MASS * (LENGTH**2 + CENTRE**2) + 2 * coupling * cosine + INERTIA
    shared = own + coupling * cosine
    elbow_pull = MASS * CENTRE * GRAVITY * jnp.sin(shoulder + elbow)
    pull = (
        MASS * (CENTRE + LENGTH) * GRAVITY * jnp.sin(shoulder)
        + elbow_pull
        - coupling * sine * elbow_spin * (elbow_spin + 2 * spin)
    )
    drive = torque + shared / inertia * pull - coupling * spin**2 * sine - elbow_pull
    elbow_rate = drive / (own - shared**2 / inertia)
    rate = -(shared * elbow_rate + pull) / inertia
    return jnp.stack([spin, elbow_spin, rate, elbow_rate])
