"""A run directory changes hands: taken for a new run, and given up by one that was refused as it began."""

import os
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

from engram.checkpoint.files import RunLock
from engram.errors import SpecError
from engram.run.curve import CURVE_FILE
from engram.run.keeper import FOLDER
from engram.run.loggers import CSV_FILE
from engram.run.metrics import METRICS_FILE
from engram.run.plan import RUN_FILE, RunPlan, holds_run

# What a run writes anew under a name that others use too. In a folder that is claimed, none of them is the user's.
MADE = (RUN_FILE, FOLDER, METRICS_FILE, CSV_FILE, CURVE_FILE)


def check_free(folder: Path | None) -> None:
    """Raises SpecError for a directory that holds a run, or files of another's that a run would write over."""
    if folder is None:
        return
    if holds_run(folder):
        raise SpecError(f"{folder} already holds a run; pass resume=True (--resume) to go on with it, or another run")
    if found := [name for name in MADE if os.path.lexists(folder / name)]:
        raise SpecError(
            f"{folder} holds no run but {found[0]!r}, which a run would write over; "
            f"choose another folder (run, --run DIR), or move that away"
        )


def claim(folder: Path, plan: RunPlan, opened: ExitStack) -> RunLock:
    """Takes the directory for a new run, unless another trainer began one there meanwhile; `opened` lets go of it."""
    with ExitStack() as held:
        lock = held.enter_context(RunLock(folder))
        check_free(folder)
        plan.write(folder)
        opened.enter_context(held.pop_all())
    return lock


def withdraw(folder: Path) -> None:
    """Takes back what was written since the claim, so that the directory is free again. The lock is left."""
    for name in MADE:
        path = folder / name
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
