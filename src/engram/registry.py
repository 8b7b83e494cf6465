"""One shelf per role (encoder, head, ...), filled by a decorator above each part's spec.

A spec names its parts by these names. So a run's JSON never holds an import path, and loading it imports no module that
it names. Parts of other packages are found through entry points of the group `engram.parts`. Each names a module that
registers parts. It is imported when a name is not found, and when names are listed.
"""

import warnings
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from engram.errors import UnknownName, hint, is_fault, told

Spec = TypeVar("Spec", bound=type)

GROUP = "engram.parts"  # of entry points
_SHELVES: dict[str, dict[str, type]] = {}
_ABILITIES: dict[str, dict[str, Any]] = {}  # by role: what a spec declares, and the default of one that does not
_FORMER: WeakKeyDictionary[type, str] = WeakKeyDictionary()  # classes that were defined again, which agents still use
_IMPORTED: set[str] = set()  # `GROUP` once its entry points were imported: looking for them takes milliseconds


class UnknownPart(UnknownName):
    """A name that no part is registered under."""

    def __init__(self, role: str, name: str):
        self.role, self.name = role, name
        super().__init__(
            f"no {role} is called {name!r}; {hint(name, names(role))} (a part of your own: --import MODULE)"
        )


def register(role: str, name: str) -> Callable[[Spec], Spec]:
    """Class decorator: `@register("encoder", "vector")` above a spec makes `encoder=vector` a valid setting.

    The same class defined again, as by a notebook's cell that is run twice, takes the place of the former one.
    """

    def put(spec: Spec) -> Spec:
        shelf = _SHELVES.setdefault(role, {})
        if name in shelf and not is_again(spec, shelf[name]):
            raise ValueError(
                f"{role} {name!r} is already {shelf[name].__module__}.{shelf[name].__qualname__}; "
                f"register {spec.__qualname__} under another name"
            )
        if name in shelf:
            _FORMER[shelf[name]] = name
        shelf[name] = spec
        _complete(role, spec)
        return spec

    return put


def stand_in(role: str, name: str) -> Callable[[Spec], Spec]:
    """Class decorator: a spec that takes the place of the one registered as `name`, and that nobody chooses by a name.

    It is told by that name, and is never stored.
    """

    def put(spec: Spec) -> Spec:
        _FORMER[spec] = name
        _complete(role, spec)
        return spec

    return put


def declare(role: str, **abilities: Any) -> None:
    """Abilities that a spec of this role may declare as class attributes, with the value for one that does not.

    Whoever asks for an ability then finds it in every registered spec, whether registered before or after.
    """
    _ABILITIES[role] = abilities
    for spec in _SHELVES.get(role, {}).values():
        _complete(role, spec)


def _complete(role: str, spec: type) -> None:
    for name, default in _ABILITIES.get(role, {}).items():
        if not hasattr(spec, name):
            setattr(spec, name, default)


def is_again(new: type, old: type) -> bool:
    """Whether a class is another one defined again: under the same name, in the same module."""
    return (new.__module__, new.__qualname__) == (old.__module__, old.__qualname__)


def find(role: str, name: str) -> type:
    """The spec class registered as `name` for `role`."""
    if name not in _SHELVES.get(role, {}):
        _import_entry_points()
    if name not in _SHELVES.get(role, {}):
        raise UnknownPart(role, name)
    return _SHELVES[role][name]


def name_of(role: str, spec: type) -> str:
    """The name that `spec` is registered under for `role`."""
    for name, known in _SHELVES.get(role, {}).items():
        if known is spec:
            return name
    if spec in _FORMER:
        return _FORMER[spec]
    raise UnknownName(f'{spec.__qualname__} is not a registered {role}; put @register("{role}", "name") above it')


def roles() -> list[str]:
    """Every role that something is registered for, sorted."""
    _import_entry_points()
    return sorted(_SHELVES)


def names(role: str) -> list[str]:
    """Every name on the shelf of `role`, sorted."""
    _import_entry_points()
    return sorted(_SHELVES.get(role, {}))


def snapshot() -> dict[str, dict[str, type]]:
    """What stands on every shelf, for `restore`."""
    return {role: dict(shelf) for role, shelf in _SHELVES.items()}


def restore(shelves: dict[str, dict[str, type]]) -> None:
    """Puts every shelf back as it was at a `snapshot`: what was registered since is forgotten."""
    _SHELVES.clear()
    _SHELVES.update(shelves)


def _import_entry_points() -> None:
    """Imports the modules that installed packages name, once. One that fails is a warning; the others still work."""
    if GROUP in _IMPORTED:
        return
    _IMPORTED.add(GROUP)
    from importlib.metadata import entry_points

    for point in entry_points(group=GROUP):
        try:
            point.load()
        except BaseException as error:
            if not is_fault(error):
                raise
            warnings.warn(
                f"the entry point {point.name} = {point.value} of {GROUP} could not be imported "
                f"({told(error)}); mend or remove the package that brings it",
                RuntimeWarning,
                stacklevel=2,
            )
