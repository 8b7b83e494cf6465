"""A registered environment as it is: Gymnasium makes it, from arguments that its constructor takes.

Worker processes import this file, so it imports no JAX.
"""

import inspect
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from engram.errors import SpecError, hint, is_fault, told


def make(spec: EnvSpec, env_args: dict[str, Any]) -> gymnasium.Env:
    """The environment, without Gymnasium's checker: Engram checks what it reads, at a fraction of the time."""
    return gymnasium.make(spec, disable_env_checker=True, **env_args)


def describe(spec: EnvSpec, env_args: dict[str, Any]) -> str:
    """The id, and the arguments if there are any.

    Raises SpecError for an argument that the environment's constructor does not take, if its signature tells, and for
    an environment that cannot be loaded.
    """
    if "disable_env_checker" in env_args:
        raise SpecError(f"{spec.id} was given disable_env_checker; Engram checks environments itself: leave it out")
    taken = _arguments(spec)
    for name in env_args:
        if taken is not None and name not in taken:
            raise SpecError(f"{spec.id} has no argument {name!r}; {hint(name, taken)}")
    return f"{spec.id} with {env_args}" if env_args else spec.id


def _arguments(spec: EnvSpec) -> list[str] | None:
    """The names of arguments; None where any may be given, or nobody knows."""
    creator = spec.entry_point
    try:
        creator = load_env_creator(creator) if isinstance(creator, str) else creator
    except BaseException as error:
        if not is_fault(error):
            raise
        raise SpecError(f"{spec.id} cannot be loaded ({told(error)}); install what it needs") from error
    try:
        parameters = inspect.signature(creator).parameters if creator is not None else {}
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return [*parameters, "max_episode_steps"]
