"""Specs: frozen dataclasses that say what was chosen, and nothing else.

A spec is declared with `@spec` and `setting(...)` in the file of the part that it configures:

    @register("head", "q")
    @spec
    class QSpec:
        width: int = setting(0, "units of a hidden layer; 0 for none", low=0)

It is hashable if its values are, checks itself when made, round-trips through JSON, and can be changed by a path and a
text (`replay.capacity=50000`), as the command line does. A field whose type is another spec nests; a field made by
`part(role, default)` holds any spec registered for that role and is written `head=dueling head.width=64`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, SupportsFloat, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

from engram import registry
from engram.errors import SpecError, hint
from engram.ranges import OneOf, Range, Times

T = TypeVar("T")
Number = SupportsFloat  # as people give them: see `whole`

ROOT = "agent"  # the path, and the role, of the whole spec of an agent
NEEDED = dataclasses.MISSING  # the default of a setting that has none


def setting(
    default: Any,
    help: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    about: Any = None,
    search: Range | None = None,
    later: bool = False,
) -> Any:
    """A field with its help text and its range: low <= value <= high and above < value < below.

    default: `NEEDED` for a setting that must be given. about: kept in the field's metadata for whoever reads the spec.
    search: where `engram tune` searches it (`engram.ranges`); without it, only where a range is given by hand.
    later: whether runs were stored before there was this setting. Its default is then not stored, so that those can be
    read, and that their digests stay.
    """
    metadata = {"help": help, "low": low, "high": high, "above": above, "below": below, "about": about}
    metadata |= {"search": search, "later": later}
    _check_search(search, metadata)
    if dataclasses.is_dataclass(default) or isinstance(default, dict):
        return dataclasses.field(
            default_factory=lambda: dict(default) if isinstance(default, dict) else default, metadata=metadata
        )
    return dataclasses.field(default=default, metadata=metadata)


def _check_search(search: Range | None, limits: Mapping[str, Any]) -> None:
    """Raises SpecError for a range that is searched and not allowed."""
    if search is None or isinstance(search, Times):
        return
    for value in search.values if isinstance(search, OneOf) else (search.low, search.high):
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float):
                _check_range(number, f"search of {limits['help']!r}", limits)


def part(role: str, default: Any, help: str, later: bool = False) -> Any:
    """A field that holds any spec registered for `role`. `later`: as in `setting`."""
    return dataclasses.field(default_factory=lambda: default, metadata={"help": help, "role": role, "later": later})


@dataclass_transform(kw_only_default=True, frozen_default=True)
def spec(cls: type[T]) -> type[T]:
    """Class decorator: a frozen keyword-only dataclass that checks types and ranges when it is made.

    A class may define `check(self)` for rules between fields; it raises SpecError.
    """

    def __post_init__(self: Any) -> None:
        for field in dataclasses.fields(self):
            value = _coerce(_hints(cls)[field.name], getattr(self, field.name), field.name, field.metadata)
            object.__setattr__(self, field.name, value)
        if hasattr(self, "check") and not _UNFINISHED.get():
            self.check()

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


# Whether specs are being changed one setting at a time, so that rules between settings need not hold yet.
_UNFINISHED: ContextVar[bool] = ContextVar("unfinished", default=False)


# -- JSON --------------------------------------------------------------------------------------------------


def to_json(value: Any) -> dict[str, Any]:
    """A spec as JSON values. A part carries its registered name as `kind`."""
    out: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if field.metadata.get("later") and inner == _default(field):
            continue
        if dataclasses.is_dataclass(inner):
            role = field.metadata.get("role")
            kind = {"kind": registry.name_of(role, type(inner))} if role else {}
            out[field.name] = kind | to_json(inner)
        else:
            out[field.name] = list(inner) if isinstance(inner, tuple) else inner
    return out


def _default(field: "dataclasses.Field[Any]") -> Any:
    """What a setting is where nobody said."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def from_json(cls: type[T], value: dict[str, Any], path: str = "") -> T:
    """The spec of class `cls` that `to_json` wrote. Unknown and missing names are SpecErrors."""
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = [name for name in value if name not in fields]
    if unknown:
        raise SpecError(f"{path}{unknown[0]!r} is not a setting of {cls.__name__}; {hint(unknown[0], fields)}")
    later = {name: _default(field) for name, field in fields.items() if field.metadata.get("later")}
    value = later | value
    missing = [name for name in fields if name not in value]
    if missing:
        raise SpecError(
            f"{path}{missing[0]!r} is missing from a stored {cls.__name__}; was it written by another version?"
        )
    made: dict[str, Any] = {}
    for name, field in fields.items():
        kind = _hints(cls)[name]
        inner = value[name]
        if dataclasses.is_dataclass(inner):
            made[name] = inner  # the default of a later setting
        elif role := field.metadata.get("role"):
            chosen = registry.find(role, inner.get("kind", "")) if isinstance(inner, dict) else None
            if chosen is None:
                raise SpecError(
                    f"{path}{name!r} of a stored {cls.__name__} must be an object with a 'kind', not {inner!r}"
                )
            rest = {key: item for key, item in inner.items() if key != "kind"}
            made[name] = from_json(chosen, rest, f"{path}{name}.")
        elif dataclasses.is_dataclass(kind):
            made[name] = from_json(kind, inner, f"{path}{name}.")  # type: ignore[arg-type]
        else:
            made[name] = tuple(inner) if isinstance(inner, list) else inner
    return cls(**made)


# -- paths -------------------------------------------------------------------------------------------------


def override(value: T, path: str, text: Any) -> T:
    """`value` with the setting at the dotted `path` replaced.

    `text` is a string as typed on a command line (`3e-4`, `128,128`, `true`, `none`) or already a value of the
    right type. For a part, the name of another kind (`head=dueling`) takes that kind with its defaults, keeping
    of what both kinds have that which is not the default: 0 may mean one thing here, and another there.
    """
    if path == ROOT and isinstance(text, str):
        return _switch(ROOT, value, text)
    return _override(value, path, path, text)


def override_all(value: T, changes: Mapping[str, Any], finish: Callable[[T], T] | None = None) -> T:
    """`override` for each path of `changes`, in any order: kinds of parts come before their settings, and rules between
    settings must hold only at the end. `finish` may change what came of it before they must.
    """
    return checked(unfinished(value, changes, finish))


def unfinished(value: T, changes: Mapping[str, Any], finish: Callable[[T], T] | None = None) -> T:
    """What `override_all` makes before rules between settings must hold. Each setting keeps its own range."""
    token = _UNFINISHED.set(True)
    try:
        for path in sorted(changes, key=lambda path: (path.count("."), path != ROOT)):
            value = override(value, path, changes[path])
        return value if finish is None else finish(value)
    finally:
        _UNFINISHED.reset(token)


def checked(value: Any) -> Any:
    """The same spec made anew from the innermost outwards, so that each checks itself."""
    fields = dataclasses.fields(value)
    inner = {field.name: getattr(value, field.name) for field in fields if field.init}
    return type(value)(**{name: checked(one) if dataclasses.is_dataclass(one) else one for name, one in inner.items()})


def _override(value: Any, path: str, whole: str, text: Any) -> Any:
    name, _, rest = path.partition(".")
    fields = {field.name: field for field in dataclasses.fields(value)}
    if name not in fields:
        prefix = whole.removesuffix(path)
        near = [prefix + known for known in fields]
        raise SpecError(f"{whole!r} is not a setting; {hint(prefix + name, near)}")
    inner = getattr(value, name)
    if dataclasses.is_dataclass(inner):
        role = fields[name].metadata.get("role")
        if rest:
            return dataclasses.replace(value, **{name: _override(inner, rest, whole, text)})
        if role and isinstance(text, str):
            return dataclasses.replace(value, **{name: _switch(role, inner, text)})
        if type(text) is type(inner) or (role and dataclasses.is_dataclass(text)):
            return dataclasses.replace(value, **{name: text})
        raise SpecError(
            f"{whole!r} is a group of settings; name one of {', '.join(p for p, *_ in describe(inner, whole + '.'))}"
        )
    if rest:
        raise SpecError(f"{whole!r} goes too deep: {whole.removesuffix('.' + rest)!r} is a single setting")
    parsed = _coerce(_hints(type(value))[name], _parse(text), whole, fields[name].metadata)
    return dataclasses.replace(value, **{name: parsed})


def _switch(role: str, old: Any, kind: str) -> Any:
    """The spec registered as `kind`, keeping the settings that it shares with the old one.

    Of a part, those that were chosen: what is a default of the old kind says nothing of the new one.
    """
    new = registry.find(role, kind)
    if type(old) is new:
        return old
    names = {field.name for field in dataclasses.fields(new)}
    own = {field.name: (getattr(old, field.name), _default(field)) for field in dataclasses.fields(old)}
    return new(
        **{name: value for name, (value, usual) in own.items() if name in names and (role == ROOT or value != usual)}
    )


def describe(value: Any, prefix: str = "") -> list[tuple[str, str, Any, str]]:
    """Every setting as (path, type, value, help), in the order of declaration."""
    rows: list[tuple[str, str, Any, str]] = []
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        path = prefix + field.name
        if dataclasses.is_dataclass(inner):
            if role := field.metadata.get("role"):
                rows.append(
                    (
                        path,
                        f"one of {'|'.join(registry.names(role))}",
                        registry.name_of(role, type(inner)),
                        field.metadata["help"],
                    )
                )
            rows += describe(inner, path + ".")
        else:
            rows.append((path, _type_name(_hints(type(value))[field.name]), inner, field.metadata.get("help", "")))
    return rows


def against_defaults(value: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every single setting as (path, value, default); of a part, the defaults are those of its kind."""
    for field in dataclasses.fields(value):
        inner, path = getattr(value, field.name), prefix + field.name
        if dataclasses.is_dataclass(inner):
            yield from against_defaults(inner, path + ".")
        else:
            yield path, inner, _default(field)


def show(value: Any) -> str:
    """A setting's value as `override` reads it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


# -- types -------------------------------------------------------------------------------------------------


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def type_of(cls: type, name: str) -> Any:
    """The type that the setting `name` of the spec `cls` is declared with."""
    return _hints(cls)[name]


def fitted(cls: type, name: str, value: Any) -> Any:
    """`value` as the setting `name` of the spec `cls` holds it: 1e4 as 10,000, a NumPy number as Python's.

    Raises SpecError for another type, and out of range.
    """
    return _coerce(_hints(cls)[name], value, name, _field(cls, name).metadata)


def whole(name: str, value: Any, low: int) -> int:
    """A whole number as people give it (`1e4`, a NumPy integer), as an int; SpecError below `low`, or for another."""
    number = _fit(int, plain(value))
    if number is _UNFIT or number < low:
        raise SpecError(f"{name} = {value!r} was given; expected a whole number of at least {low}")
    return number


def whole_if_given(name: str, value: Any, low: int) -> int | None:
    """`whole` of a number that may be left out, which None stands for."""
    return None if value is None else whole(name, value, low)


def plain(value: Any) -> Any:
    """NumPy's numbers, texts and arrays, of any library that has `tolist`, as Python's; inside of containers too."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map(plain, value)) if type(value) in (tuple, list) else value
    return value.tolist() if hasattr(value, "dtype") and hasattr(value, "tolist") else value


def expected(cls: type, name: str) -> str:
    """The legal values of a setting in words: `a whole number, at least 1`."""
    kind, limits = _hints(cls)[name], _field(cls, name).metadata
    words = _type_name(kind).replace("an integer", "a whole number")
    bounds = (f"{words} {limits[name]:g}" for name, words, _ in _RANGE if math.isfinite(limits.get(name, math.inf)))
    return ", ".join([words, *bounds])


def _field(cls: type, name: str) -> "dataclasses.Field[Any]":
    return next(field for field in dataclasses.fields(cls) if field.name == name)


def _parse(text: Any) -> Any:
    """A typed text as the plainest Python value it can mean; `_coerce` then fits it to the field."""
    if not isinstance(text, str):
        return text
    word = text.strip()
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    if word.lower() == "none":
        return None
    if "," in word:
        return tuple(_parse(item) for item in word.split(",") if item.strip())
    for number in (int, float):
        try:
            return number(word.replace("_", ""))
        except ValueError:
            continue
    return word


def _coerce(kind: Any, value: Any, path: str, limits: Any) -> Any:
    """`value` as type `kind` within its limits, or a SpecError naming `path`."""
    if role := limits.get("role"):
        registry.name_of(role, type(value))
        return value
    fitted = _fit(kind, plain(value))
    if fitted is _UNFIT:
        raise SpecError(f"{path} = {show(value)} has the wrong type; expected {_type_name(kind)}")
    for number in fitted if isinstance(fitted, tuple) else (fitted,):
        if isinstance(number, int | float) and not isinstance(number, bool):
            _check_range(number, path, limits)
    return fitted


_UNFIT = object()


def _fit(kind: Any, value: Any) -> Any:
    origin = get_origin(kind)
    if origin is UnionType or str(origin) == "typing.Union":
        options = (_fit(option, value) for option in get_args(kind))
        return next((fitted for fitted in options if fitted is not _UNFIT), _UNFIT)
    if kind is NoneType:
        return None if value is None else _UNFIT
    if origin is dict:
        return value if isinstance(value, dict) else _UNFIT
    if origin is Literal:
        return value if value in get_args(kind) else _UNFIT
    if origin is tuple:
        items = value if isinstance(value, tuple | list) else () if value == "" else (value,)  # "" as it is shown
        fitted = tuple(_fit(get_args(kind)[0], item) for item in items)
        return _UNFIT if any(item is _UNFIT for item in fitted) else fitted
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)  # 1e6 is how people write a million
    if kind is Any or type(value) is kind:
        return value
    if isinstance(kind, type) and kind not in (int, float, bool, str) and isinstance(value, kind):
        return value
    return _UNFIT


# Of each bound: its name, how it is said, and whether a number breaks it.
_RANGE: tuple[tuple[str, str, Callable[[float, float], bool]], ...] = (
    ("low", "at least", lambda number, bound: number < bound),
    ("high", "at most", lambda number, bound: number > bound),
    ("above", "more than", lambda number, bound: number <= bound),
    ("below", "less than", lambda number, bound: number >= bound),
)


def _check_range(number: float, path: str, limits: Any) -> None:
    if not math.isfinite(number):
        raise SpecError(f"{path} = {number} is not a finite number; give one that is")
    for name, words, broken in _RANGE:
        bound = limits.get(name, None)
        if bound is not None and math.isfinite(bound) and broken(number, bound):
            raise SpecError(f"{path} = {number} is out of range; expected {words} {bound}")


_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a text", Path: "a path", NoneType: "none"}
_PLURALS = {int: "integers", float: "numbers", str: "texts"}


def _type_name(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return " or ".join(map(str, get_args(kind)))
    if origin is dict:
        return "values by name"
    if origin is tuple:
        return f"{_PLURALS.get(get_args(kind)[0], 'values')} separated by commas"
    if origin is UnionType or str(origin) == "typing.Union":
        return " or ".join(_type_name(option) for option in get_args(kind))
    return _NAMES.get(kind, getattr(kind, "__name__", str(kind)))
