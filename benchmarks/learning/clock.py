"""A control: POPGym's tasks of which nothing is shown but how many steps the episode has lasted.

`clock:TASK` is `engram/TASK-v0` with that in place of the observation. What an agent scores here it has not remembered:
it is what fixed answers at fixed times are worth.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree, UInt32

from engram.envs.device import DeviceEnv, DeviceStep, make_device, register_family
from engram.envs.limit import Timed
from engram.spaces import Discrete, Space

LONGEST = 1_024  # steps; later ones look like the last of these


@dataclass(frozen=True)
class Clock:
    """`env`, seen as the number of steps taken, 0 to 1,023."""

    env: Any  # a DeviceEnv

    @property
    def observation_space(self) -> Space:
        return Discrete(LONGEST)

    @property
    def actions(self) -> int:
        return self.env.actions

    def reset(self, key: UInt32[Array, "2"]) -> tuple[Timed, PyTree]:
        return Timed(self.env.reset(key)[0], jnp.int32(0)), jnp.int32(0)

    def step(self, state: Timed, action: Int[Array, ""], key: UInt32[Array, "2"]) -> tuple[Timed, DeviceStep]:
        inner, step = self.env.step(state.inner, action, key)
        elapsed = state.elapsed + 1
        return Timed(inner, elapsed), step._replace(observation=jnp.minimum(elapsed, LONGEST - 1))


def _make(task: str, arguments: dict[str, Any]) -> DeviceEnv:
    return Clock(make_device(f"engram/{task}-v0", **arguments))


def listed() -> None:
    """Makes `clock:TASK` an id; called once in each process that plays it."""
    register_family("clock", _make, lambda: [])
