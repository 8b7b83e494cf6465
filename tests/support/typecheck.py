"""The checker behind every annotated call of the test suite: beartype, in two ways less strict."""

from collections.abc import Callable
from typing import Any, get_args, get_type_hints, runtime_checkable

from beartype import BeartypeConf, beartype

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as static checkers hold


def check(function: Callable) -> Callable:
    """`function`, checking its arguments and result; what a protocol lists must be there, of any type."""
    for hint in _hints(function).values():
        _make_checkable(hint)
    return _beartype(function)


def _hints(function: Callable) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except (NameError, SyntaxError):  # names of shapes, and classes that are not defined yet
        return dict(getattr(function, "__annotations__", {}))


def _make_checkable(hint: Any) -> None:
    """Let isinstance work with the protocols in `hint`; the package itself never asks it."""
    if isinstance(hint, type) and getattr(hint, "_is_protocol", False):
        runtime_checkable(hint)
    for part in get_args(hint):
        _make_checkable(part)
