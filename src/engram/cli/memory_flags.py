"""The words of `engram memory`."""

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from engram.cli.typed import Imports, note, whole

VERBS = ("list", "show", "delete", "edit", "export")


@dataclasses.dataclass(frozen=True)
class Memory:
    """Look at what a run remembers of earlier episodes, or take entries out.

    delete and edit write a new checkpoint, from which the run then goes on.

    Without --yes they only tell what they would do.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's directory."""
    verb: Annotated[Positional[str], arg(metavar="|".join(VERBS))]
    """What to do."""
    id: Annotated[Positional[int | None], whole(0, "ID"), note("(for show, delete, edit)")] = None
    """The entry; `list` tells the ids."""
    where: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE"), note("(default: all)")] = ()
    """Only entries with this action, environment, episode, step, seed (one or several, as in 2,7), or
    older_than, value_below, value_above, attention_below a number. All must hold."""
    seed: Annotated[int | None, whole(0, "S"), note("(default: the only one)")] = None
    """Whose entry, where the run has several seeds."""
    value: Annotated[float | None, arg(metavar="NUMBER"), note("(for edit)")] = None
    """What the entry is to say from now on, in units of reward."""
    all: Annotated[bool, note("")] = False
    """Delete everything."""
    yes: Annotated[bool, note("")] = False
    """Do it."""
    limit: Annotated[int | None, whole(1, "N"), note("(default: 20)")] = None
    """How many entries to list."""
    sort: Annotated[str | None, arg(metavar="COLUMN"), note("(default: id)")] = None
    """List the greatest first, as in --sort attention."""
    out: Annotated[Path | None, arg(metavar="FILE"), note("(for export)")] = None
    """The file to export to: .csv or .json."""
    observations: Annotated[bool, note("")] = False
    """Export what was seen too, where it is kept; in JSON."""
    page: Annotated[Path | None, arg(metavar="FILE"), note("(default: none)")] = None
    """Write a page: what is deleted or edited, and some decisions before and after."""
    imports: Imports = ()
    json: Annotated[bool, note("")] = False
    """Print one JSON object and nothing else to standard output."""
