"""Directories of runs that were named on the command line."""

from difflib import get_close_matches
from pathlib import Path

from engram.errors import CheckpointError


def existing(folder: Path) -> Path:
    """`folder`, or a CheckpointError with the nearest run directory beside it or under runs/."""
    from engram.run.metrics import METRICS_FILE

    if folder.is_dir():
        return folder
    known = [str(path.parent) for beside in {folder.parent, Path("runs")} for path in beside.glob(f"*/{METRICS_FILE}")]
    near = get_close_matches(str(folder), known, n=1)
    way_out = f"did you mean {near[0]!r}?" if near else "start a run with: engram train ENV"
    raise CheckpointError(f"there is no run directory {str(folder)!r}; {way_out}")


def runs_of(folder: Path) -> list[Path]:
    """The run directory itself, or those in it that `--seeds` of a host environment made, by seed."""
    from engram.run.folders import holds_run

    seeds = [path for path in folder.glob("seed*") if path.name[4:].isdigit() and holds_run(path)]
    if holds_run(folder) or not seeds:
        return [folder]
    return sorted(seeds, key=lambda path: int(path.name[4:]))
