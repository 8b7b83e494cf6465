"""Why an agent chose: what it looked at, what it remembered, and whether that is true.

`engram.explain(run)` is the function of `engram.explain.explanation`: this folder has its name, so it can be called.
"""

import sys
from types import ModuleType
from typing import Any


class _Called(ModuleType):
    def __call__(self, *given: Any, **named: Any) -> Any:
        """See `engram.explain.explanation.explain`."""
        from engram.explain.explanation import explain

        return explain(*given, **named)


sys.modules[__name__].__class__ = _Called
