"""Computing in 32 bits, whatever `jax_enable_x64` says in this process.

State, programs and checkpoints are of 32-bit numbers. A process may have switched JAX to 64 bits for something else,
such as an environment's physics: that keeps them, and what Engram computes does not change.
"""

from collections.abc import Callable
from functools import wraps
from inspect import isfunction
from typing import Any, TypeVar

import jax

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)


def in_32_bits(function: F) -> F:
    """Decorator: `function` traces and computes as without `jax_enable_x64`."""

    @wraps(function)
    def computed(*arguments: Any, **keywords: Any) -> Any:
        if not jax.config.x64_enabled:  # type: ignore[attr-defined]
            return function(*arguments, **keywords)
        with jax.enable_x64(False):
            return function(*arguments, **keywords)

    return computed  # type: ignore[return-value]


def all_in_32_bits(cls: C) -> C:
    """Class decorator: `in_32_bits` for every method and property that the class itself defines."""
    for name, member in list(vars(cls).items()):
        if isfunction(member) and (not name.startswith("__") or name in ("__init__", "__call__")):
            setattr(cls, name, in_32_bits(member))
        elif isinstance(member, property) and member.fget is not None:
            setattr(cls, name, property(in_32_bits(member.fget), member.fset, member.fdel, member.__doc__))
    return cls
