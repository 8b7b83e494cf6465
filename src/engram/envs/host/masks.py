"""Where a host environment says which actions are allowed, and what it says as one flag for each action.

| source   | convention                                                                                     |
|----------|------------------------------------------------------------------------------------------------|
| (none)   | the part `action_mask` of a Dict observation; it comes before all others                        |
| `info`   | `info["action_mask"]` of every reset and step, as Gymnasium's own environments have it          |
| `step`   | the same of every step, but not of a reset: at first everything is allowed                      |
| `method` | `action_masks()` of the environment, a wrapper or `env.unwrapped`, as sb3-contrib has it        |

Worker processes import this file, so it imports no JAX.
"""

from math import prod
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np

from engram.errors import is_fault
from engram.spaces import MASK

Source = Literal["", "info", "step", "method"]
METHOD = "action_masks"
OTHER_NAMES = (
    METHOD,  # in an observation or info
    "legal_actions",
    "valid_actions",
    "available_actions",
    "avail_actions",
    "legal_moves",
)


class Found(NamedTuple):
    """Where an environment tells its masks, and what a user should know of that; empty for nothing."""

    source: Source
    remark: str = ""
    resets: int = 0  # that it took to find out
    steps: int = 0


def find_masks(env: gymnasium.Env, seed: int, action: Any) -> Found:
    """Looks at a reset and, if that tells nothing, at the method and at one step.

    An environment that fails meanwhile is met again, and named, when the run meets it.
    """
    infos: list[dict[str, Any]] = [{}]
    steps = 0
    try:
        infos.append(env.reset(seed=seed)[1])
        if infos[-1].get(MASK) is not None:
            return Found("info", resets=1)
        if method_of(env) is None:
            steps = 1
            infos.append(env.step(action)[4])
            if infos[-1].get(MASK) is not None:
                remark = f"info[{MASK!r}] is told by steps only: after a reset every action is allowed"
                return Found("step", remark, 1, steps)
    except BaseException as error:
        if not is_fault(error):
            raise
        infos.append({})
    if method_of(env) is not None:
        return Found("method", f"{METHOD}() says which actions are allowed", 1, steps)
    shown = env.observation_space.spaces if isinstance(env.observation_space, gymnasium.spaces.Dict) else {}
    other = next((name for name in OTHER_NAMES if name in shown or any(name in info for info in infos)), None)
    return Found("", f"{other!r} is not read as a mask: call it {MASK!r}" if other else "", 1, steps)


def method_of(env: gymnasium.Env) -> Any:
    """`action_masks` of the outermost layer that has it; None where none has."""
    try:
        return env.get_wrapper_attr(METHOD)
    except AttributeError:
        return getattr(env.unwrapped, METHOD, None)


def told(source: Source) -> str:
    """The source in messages."""
    return f"{METHOD}()" if source == "method" else f"info[{MASK!r}]"


def joint(mask: np.ndarray, space: gymnasium.Space, actions: int) -> np.ndarray:
    """A mask of one flag for each value of each number, as sb3-contrib has it, as one for each joint action."""
    sizes = values_of(space)
    if sizes is None or mask.shape != (sum(sizes),) or mask.dtype.kind not in "biu" or (mask > 1).any():
        return mask
    parts = np.split(mask != 0, np.cumsum(sizes)[:-1])
    grid = np.stack(np.meshgrid(*parts, indexing="ij"), axis=-1).reshape(actions, len(sizes))
    return np.asarray(grid.all(-1))


def values_of(space: gymnasium.Space) -> list[int] | None:
    """How many values each number of a joint action has; None where actions are single numbers, or continuous."""
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return space.nvec.reshape(-1).tolist()
    return [2] * prod(space.shape) if isinstance(space, gymnasium.spaces.MultiBinary) else None
