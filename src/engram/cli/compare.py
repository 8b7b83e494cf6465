"""`engram compare`: its words, and how a comparison is shown. No JAX is loaded but for --test-env."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from engram.cli.flags import Compare, environment_argument
from engram.cli.reports import report
from engram.errors import SpecError
from engram.run.display import clean, is_terminal

T = TypeVar("T")
MINMAX = "minmax"  # that of comparison/compare.py, which imports NumPy


def compare(chosen: Compare) -> None:
    """Compare, write the files that are asked for, and print a table, lines or one JSON object."""
    given: dict[str, Any] = {
        "normalize": _normalize(chosen.normalize),
        "reference": _by_environment("--reference", chosen.reference, _reference),
        "test_env": chosen.test_env,
        "test_env_args": dict(map(environment_argument, chosen.test_env_arg)),
        "trust": chosen.trust,
    }
    given |= {name: value for name in ("episodes", "seed") if (value := getattr(chosen, name)) is not None}

    def work() -> Any:
        from engram.comparison.compare import compare

        found = compare(chosen.runs, **given)
        if chosen.plot is not None:
            found.plot(chosen.plot)
        if chosen.html is not None:
            found.html(chosen.html)
        return found

    if chosen.json:
        report(lambda: work().json(), True)
        return
    _show(work())
    for path, what in ((chosen.plot, "the picture"), (chosen.html, "the page")):
        if path is not None:
            print(clean(f"{path} holds {what}"))


def _show(found: Any) -> None:
    """Tables on a terminal, plain lines anywhere else."""
    if not is_terminal(sys.stdout):
        print(found)
        return
    from rich.console import Console

    from engram.comparison.report import show

    show(found, Console(highlight=False))


def _normalize(words: Sequence[str]) -> Any:
    """What `engram.compare` takes for it."""
    return MINMAX if tuple(words) == (MINMAX,) else _by_environment("--normalize", words, _pair)


def _by_environment(flag: str, words: Sequence[str], read: Callable[[str, str], T]) -> T | dict[str, T] | None:
    """One value for all environments, or one for each by name; a name may hold `=` itself."""
    named = {name: read(flag, value) for name, _, value in (word.rpartition("=") for word in words)}
    if "" not in named:
        return named or None
    if len(words) > 1:
        raise SpecError(f"{flag} was given {len(words)} times and once without an environment; write ENV= in each")
    return named[""]


def _pair(flag: str, text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise SpecError(f"{flag} {text!r} is not LOW,HIGH; write {MINMAX}, {flag}=0,500 or ENV=0,500") from None
    return low, high


def _reference(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"{flag} {text!r} is no number; write for example {flag}=475 or ENV=475") from None
