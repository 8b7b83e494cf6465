"""A time limit of the user's for environments on the device: `max_episode_steps` of a run."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree, UInt32

from engram.envs.device import DeviceEnv, DeviceStep, has_turns
from engram.envs.teams import agents_of
from engram.goals import GoalRule
from engram.spaces import Space


class Timed(NamedTuple):
    """The environment's state, and the actions taken in the episode."""

    inner: PyTree
    elapsed: Int[Array, ""]


@dataclass(frozen=True)
class TimeLimited:
    """`env`, whose episodes are truncated after `steps` actions where they have not ended before."""

    env: Any  # a DeviceEnv
    steps: int

    @property
    def observation_space(self) -> Space:
        return self.env.observation_space

    @property
    def actions(self) -> int:
        return self.env.actions

    @property
    def turns(self) -> bool:
        return has_turns(self.env)

    @property
    def action_sizes(self) -> tuple[int, ...]:
        return getattr(self.env, "action_sizes", ())

    @property
    def goal_rule(self) -> GoalRule | None:
        rule = getattr(self.env, "goal_rule", None)
        return rule and rule.limited(self.steps)

    @property
    def answers(self) -> bool:
        """See `Go.answers`."""
        return getattr(self.env, "answers", False)

    @property
    def data_digest(self) -> str | None:
        """See `Translate.data_digest`."""
        return getattr(self.env, "data_digest", None)

    @property
    def agents(self) -> int:
        return agents_of(self.env)

    def reset(self, key: UInt32[Array, "2"]) -> tuple[Timed, PyTree]:
        state, observation = self.env.reset(key)
        return Timed(state, jnp.int32(0)), observation

    def step(self, state: Timed, action: Int[Array, "*agents"], key: UInt32[Array, "2"]) -> tuple[Timed, DeviceStep]:
        inner, step = self.env.step(state.inner, action, key)
        elapsed = state.elapsed + 1
        return Timed(inner, elapsed), step._replace(truncated=step.truncated | (elapsed >= self.steps))


def limited(env: DeviceEnv, steps: int | None) -> DeviceEnv:
    """`env` itself where there is no limit."""
    return env if steps is None else TimeLimited(env, steps)
