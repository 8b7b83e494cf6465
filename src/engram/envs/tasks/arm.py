"""Reach with a two-link arm in the plane: a goal-conditioned task of several motors, as pure JAX. The task is ours."""

from dataclasses import dataclass
from math import pi
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from engram.envs.device import DeviceStep, at_least, register_device, uniforms
from engram.goals import ACHIEVED, DESIRED, GoalRule
from engram.spaces import Box, Dict
from engram.types import digits

LENGTH, MASS = 0.5, 1.0  # m, kg: of each link, an even rod
CENTRE, INERTIA = LENGTH / 2, MASS * LENGTH**2 / 12  # m from its joint; kg m², about its centre
TORQUES = (3.0, 1.5)  # N m at most, of shoulder and elbow
DAMPING = 0.5  # N m s, of either joint
TIME_STEP, INNER = 0.05, 5  # s from one action to the next, and steps of the simulation in it
NEAREST, FARTHEST = 0.2, 0.95  # m from the shoulder, where goals are
START = 0.1  # half-width of the first state's distribution, rad and rad/s
WITHIN = 0.05  # m


class ArmState(NamedTuple):
    """The arm, and where its tip is wanted."""

    physics: Float[Array, "4"]  # shoulder, elbow (rad), their velocities (rad/s)
    goal: Float[Array, "2"]  # m
    steps: Int[Array, ""]  # actions taken in this episode


@register_device("engram/TwoLinkArm-v0")
@dataclass(frozen=True)
class TwoLinkArm:
    """Bring the tip of two linked rods to a goal in the plane, without gravity, and hold it there for the episode.

    Reward 0 for a step that ends within 5 cm of the goal, else -1; with `dense` minus the distance in m.

    Observation: `observation` is cosine and sine of shoulder and elbow and their velocities / (10 rad/s);
    `achieved_goal` is where the tip is, `desired_goal` where it is wanted, in m from the shoulder. The elbow is
    relative to the first link. Actions: a torque of each joint, one of `bins` from -3 to 3 N m at the shoulder and from
    -1.5 to 1.5 at the elbow, the elbow's changing fastest. Success: the tip is within 5 cm at the last step.
    Never terminated; truncated at step `max_steps`. The arm begins straight, to ±0.1; the goal is anywhere in a ring
    around the shoulder from 0.2 to 0.95 m, every area as likely. `step` does not read its key.

    Args:
      max_steps: actions in an episode, 50 ms each.
      bins: torques of each joint. Of an odd number the middle one is none.
      dense: whether the distance is the reward.

    Source: the equations of a planar arm of two even rods with damped joints, by Euler steps of 10 ms whose new
    velocities move the angles. It is no copy of Reacher, whose masses and rewards are others.
    """

    max_steps: int = 50
    bins: int = 3
    dense: bool = False

    observation_space = Dict((("observation", Box((6,))), (ACHIEVED, Box((2,))), (DESIRED, Box((2,)))))

    def __post_init__(self):
        at_least(self, "max_steps", 1)
        at_least(self, "bins", 2)

    @property
    def actions(self) -> int:
        return self.bins**2

    @property
    def parts(self) -> dict[str, list[str]]:
        """Actions by their torques in N m, of the shoulder and of the elbow."""
        shares = [2 * one / (self.bins - 1) - 1 for one in range(self.bins)]
        named = [[f"{most * share:+.3g}" if share else "0" for share in shares] for most in TORQUES]
        return {"actions": [f"{shoulder} {elbow}" for shoulder in named[0] for elbow in named[1]]}

    @property
    def action_sizes(self) -> tuple[int, ...]:
        """Values of each joint's torque."""
        return self.bins, self.bins

    @property
    def goal_rule(self) -> GoalRule:
        """How a goal that was achieved is rewarded."""
        return (GoalRule("distance") if self.dense else GoalRule("sparse", WITHIN)).limited(self.max_steps)

    def reset(self, key: UInt32[Array, "2"]) -> tuple[ArmState, dict[str, Array]]:
        draws = uniforms(key, 6)
        radius = jnp.sqrt(NEAREST**2 + draws[4] * (FARTHEST**2 - NEAREST**2))
        angle = 2 * pi * draws[5]
        goal = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        state = ArmState(START * (2 * draws[:4] - 1), goal, jnp.int32(0))
        return state, _observe(state)

    def step(self, state: ArmState, action: Int[Array, ""], key: UInt32[Array, "2"]) -> tuple[ArmState, DeviceStep]:
        torque = jnp.array(TORQUES) * (2 * digits(action, self.action_sizes) / (self.bins - 1) - 1)
        physics = state.physics
        for _ in range(INNER):
            physics = _moved(physics, torque)
        state = ArmState(physics, state.goal, state.steps + 1)
        observation = _observe(state)
        reward = self.goal_rule(jnp, observation[ACHIEVED], state.goal).astype(jnp.float32)
        there = GoalRule("sparse", WITHIN, 1.0, 0.0)(jnp, observation[ACHIEVED], state.goal) > 0
        return state, DeviceStep(observation, reward, jnp.bool_(False), state.steps >= self.max_steps, success=there)


def tip(physics: Float[Array, "4"]) -> Float[Array, "2"]:
    """Where the end of the second link is, in m from the shoulder."""
    both = physics[0] + jnp.stack([jnp.zeros(()), physics[1]])
    return LENGTH * jnp.stack([jnp.cos(both).sum(), jnp.sin(both).sum()])


def _observe(state: ArmState) -> dict[str, Array]:
    cosine, sine = jnp.cos(state.physics[:2]), jnp.sin(state.physics[:2])
    seen = jnp.stack([cosine[0], sine[0], cosine[1], sine[1], *(state.physics[2:] / 10)])
    return {"observation": seen, ACHIEVED: tip(state.physics), DESIRED: state.goal}


def _moved(physics: Float[Array, "4"], torque: Float[Array, "2"]) -> Float[Array, "4"]:
    """10 ms later. M(q) q'' + C(q, q') = torque - damping q'."""
    elbow, spin, elbow_spin = physics[1], physics[2], physics[3]
    coupling = MASS * LENGTH * CENTRE
    own = INERTIA + MASS * CENTRE**2
    inertia = 2 * own + MASS * LENGTH**2 + 2 * coupling * jnp.cos(elbow)
    shared = own + coupling * jnp.cos(elbow)
    swing = coupling * jnp.sin(elbow)
    pull = jnp.stack([-swing * elbow_spin * (2 * spin + elbow_spin), swing * spin**2])
    first, second = torque - DAMPING * physics[2:] - pull
    determinant = inertia * own - shared**2
    rates = jnp.stack([own * first - shared * second, inertia * second - shared * first]) / determinant
    velocity = physics[2:] + TIME_STEP / INNER * rates
    angles = physics[:2] + TIME_STEP / INNER * velocity
    return jnp.concatenate([angles - 2 * pi * jnp.round(angles / (2 * pi)), velocity])
