"""`engram export`: a trained agent in formats of others."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from engram.cli.places import existing
from engram.cli.reports import report
from engram.cli.typed import Imports, note, whole
from engram.errors import SpecError, hint
from engram.run.display import clean, fitting

FORMATS = ("onnx", "stablehlo", "folder")  # those of exporting/export.py, which imports JAX


@dataclasses.dataclass(frozen=True)
class Export:
    """Write the policy of a run as ONNX, StableHLO, or a folder for other libraries.

    What was written is run beside the agent, and refused if it differs.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's directory."""
    to: Annotated[str | None, arg(metavar="|".join(FORMATS)), note("(default: folder)")] = None
    """The format: one file, or a folder with the ONNX file, weights, an example and scripts. All need the extra
    export."""
    out: Annotated[Path | None, arg(metavar="PATH"), note("(default: RUN.onnx, RUN.stablehlo, RUN-export)")] = None
    """Where to write it; what is there already is not touched."""
    at: Annotated[str | None, arg(metavar="newest|best|STEP"), note("(default: newest)")] = None
    """Which checkpoint: the newest, the best by the evaluations while training, or that of a step."""
    opset: Annotated[int | None, whole(1, "N"), note("(default: 17)")] = None
    """The version of ONNX's operations, 17 to 23."""
    seed: Annotated[int | None, whole(0, "S"), note("(default: 0)")] = None
    """Which agent, where the run has several seeds: 0 for its first."""
    trust: Annotated[bool, note("")] = False
    """Import the module and hand on the paths that the run's files name, which may run code of whoever made them."""
    imports: Imports = ()
    json: Annotated[bool, note("")] = False
    """Print one JSON object and nothing else to standard output."""


def export(chosen: Export) -> None:
    """Write, and say what was written."""
    if chosen.to is not None and chosen.to not in FORMATS:
        raise SpecError(f"--to {chosen.to} was given; {hint(chosen.to, FORMATS)}")
    existing(chosen.run)
    names = ("to", "out", "at", "opset", "seed")
    given = {name: value for name in names if (value := getattr(chosen, name)) is not None}

    def work() -> Any:
        from engram.exporting.export import export

        return export(chosen.run, trust=chosen.trust, **given)

    if chosen.json:
        report(lambda: _facts(work()), True)
        return
    found = work()
    names = ", ".join(path.name for path in found.files)
    where = f"{found.path} holds {names}" if found.path.is_dir() else f"wrote {', '.join(map(str, found.files))}"
    for line in (where, f"largest difference from the agent: {found.difference:.1e}"):
        print(*fitting(clean(line), sys.stdout), sep="\n")


def _facts(found: Any) -> dict[str, Any]:
    files = [str(path) for path in found.files]
    return {"path": str(found.path), "files": files, "difference": found.difference, "about": found.about}
