"""One shelf per role (encoder, head, ...), filled by a decorator above each part's spec.

A spec names its parts by these names, so a run's JSON never holds an import path and loading one never
imports anything that was not already there.
"""

from collections.abc import Callable
from typing import TypeVar

from engram.errors import UnknownName, hint

Spec = TypeVar("Spec", bound=type)

_SHELVES: dict[str, dict[str, type]] = {}


def register(role: str, name: str) -> Callable[[Spec], Spec]:
    """Class decorator: `@register("encoder", "vector")` above a spec makes `encoder=vector` a valid setting."""

    def put(spec: Spec) -> Spec:
        shelf = _SHELVES.setdefault(role, {})
        if name in shelf:
            raise ValueError(
                f"{role} {name!r} is already {shelf[name].__module__}.{shelf[name].__qualname__}; "
                f"register {spec.__qualname__} under another name"
            )
        shelf[name] = spec
        return spec

    return put


def find(role: str, name: str) -> type:
    """The spec class registered as `name` for `role`."""
    shelf = _SHELVES.get(role, {})
    if name not in shelf:
        raise UnknownName(f"no {role} is called {name!r}; {hint(name, shelf)}")
    return shelf[name]


def name_of(role: str, spec: type) -> str:
    """The name that `spec` is registered under for `role`."""
    for name, known in _SHELVES.get(role, {}).items():
        if known is spec:
            return name
    raise UnknownName(f'{spec.__qualname__} is not a registered {role}; put @register("{role}", "name") above it')


def roles() -> list[str]:
    """Every role that something is registered for, sorted."""
    return sorted(_SHELVES)


def names(role: str) -> list[str]:
    """Every name on the shelf of `role`, sorted."""
    return sorted(_SHELVES.get(role, {}))
