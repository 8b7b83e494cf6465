"""Parts of a user's own: `--import MODULE`."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from engram.errors import EngramError, UnknownName, is_fault, told


def search_here() -> None:
    """Lets modules of the current folder be found, where the user has named one.

    Last: a file in it must not stand in for a module of Python's. And only then: the folder may be a stranger's.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def import_parts(modules: Sequence[str]) -> None:
    """Imports these modules, so that what they register is known. The current folder is searched last.

    Raises: UnknownName for a module that is not there; EngramError for one that cannot be imported.
    """
    if modules:
        import_module("engram.agents.presets")  # Engram's own parts first: a name that is taken is the user's mistake
        search_here()
    for name in modules:
        try:
            import_module(name)
        except BaseException as error:
            if not is_fault(error):
                raise
            if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
                way_out = f"write --import {name[:-3]}" if name.endswith(".py") else "name one, as mine for mine.py"
                raise UnknownName(
                    f"--import {name}: there is no module of that name in this folder or in Python's path; {way_out}"
                ) from error
            raise EngramError(
                f"--import {name} failed ({told(error)}); mend the module (--traceback shows where)"
            ) from error
