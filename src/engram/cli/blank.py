"""Engram's own files read without JAX, for what a name, a help text or a wrong setting needs of them.

Specs and names stand in the files of the parts that use them, and those import JAX, which takes seconds. Here a blank
takes the place of JAX, of NumPy and of the libraries over them while a few of Engram's files are read. The body of a
file or class may do with a blank what it likes. A function that computes with one is stopped by `NeedsJax`, and whoever
asked then does the same with JAX itself.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from inspect import CO_OPTIMIZED
from types import ModuleType
from typing import Any, TypeVar

from engram import registry
from engram.errors import EngramError

T = TypeVar("T")
# JAX, what stands on it in the core, and packages with environments in JAX, which must not be read with a blank either.
BLANKED = ("numpy", "jax", "jaxlib", "equinox", "optax", "jaxtyping", "pgx", "gymnax", "brax", "craftax")


class NeedsJax(Exception):
    """A blank was asked to compute."""


class Blank:
    """What a blank module's names are."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Blank()

    def __call__(self, *arguments: Any, **_: Any) -> Any:
        _refuse_functions()
        return arguments[0] if len(arguments) == 1 and isinstance(arguments[0], type) else Blank()  # above a class

    def _operate(self, *_: Any) -> "Blank":
        _refuse_functions()
        return Blank()

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _operate
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __matmul__ = __and__ = _operate
    __neg__ = __invert__ = __abs__ = __lt__ = __le__ = __gt__ = __ge__ = _operate

    def __getitem__(self, _: Any) -> "Blank":
        return Blank()

    def __or__(self, _: Any) -> "Blank":
        return Blank()

    __ror__ = __or__

    def __mro_entries__(self, _: Any) -> tuple[type, ...]:
        return (_Base,)

    def _refuse(self, *_: Any) -> Any:
        raise NeedsJax("a number was asked for where JAX is not loaded")

    __iter__ = __bool__ = __float__ = __int__ = __len__ = __array__ = _refuse


def _refuse_functions() -> None:
    """Lets the body of a module or a class that is being read use a blank, and no function: only its code is
    "optimized" in Python's sense.
    """
    if sys._getframe(2).f_code.co_flags & CO_OPTIMIZED:
        raise NeedsJax("a function of JAX was called where JAX is not loaded")


class _Base:
    """The base of a class whose own base is blank."""

    def __init_subclass__(cls, **_: Any) -> None:
        pass


class _Finder(MetaPathFinder, Loader):
    """Gives a blank module for each name of `BLANKED` that is not loaded, and for all inside them."""

    def __init__(self) -> None:
        self.blanked = {name for name in BLANKED if name not in sys.modules}

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.split(".")[0] in self.blanked else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _BlankModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _BlankModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Blank()


def without_jax(work: Callable[[], T]) -> T:
    """What `work` gives, done with blanks if that is possible, else with JAX.

    `work` imports what it needs of Engram inside itself, changes nothing, and gives plain values: names, texts,
    numbers. JAX is used if it is loaded already, if another package brings parts (`engram.parts`), which may need more
    than names, or if anything but a refusal in words came of the blanks.
    """
    if "jax" in sys.modules or entry_points(group=registry.GROUP):
        return work()
    try:
        with _blanks():
            return work()
    except EngramError:
        raise
    except Exception:  # `NeedsJax`, or whatever a library makes of a blank
        return work()


@contextmanager
def _blanks() -> Iterator[None]:
    """Blanks in JAX's place; afterwards every file that was read with them is forgotten, so that JAX finds it new."""
    finder, before, kept = _Finder(), set(sys.modules), registry.snapshot()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        registry.restore(kept)
        for name in set(sys.modules) - before:
            if name.split(".")[0] in finder.blanked | {"engram"}:
                _forget(name)


def _forget(name: str) -> None:
    """As if the module had never been imported: also its package no longer has it."""
    package, _, last = name.rpartition(".")
    vars(sys.modules.get(package, ModuleType(""))).pop(last, None)
    del sys.modules[name]
