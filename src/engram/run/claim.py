"""A run directory changes hands: taken for a new run, and given up by one that was refused as it began."""

import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

from engram.checkpoint.files import RunLock
from engram.errors import SpecError
from engram.run.keeper import FOLDER
from engram.run.plan import RUN_FILE, RunPlan, holds_run


def check_free(folder: Path | None) -> None:
    """Raises SpecError for a directory that holds a run."""
    if folder is not None and holds_run(folder):
        raise SpecError(f"{folder} already holds a run; pass resume=True (--resume) to go on with it, or another run")


def claim(folder: Path, plan: RunPlan, opened: ExitStack) -> RunLock:
    """Takes the directory for a new run, unless another trainer began one there meanwhile; `opened` lets go of it."""
    with ExitStack() as held:
        lock = held.enter_context(RunLock(folder))
        check_free(folder)
        plan.write(folder)
        opened.enter_context(held.pop_all())
    return lock


def withdraw(folder: Path) -> None:
    """Takes back what a claim and the first save wrote, so that the directory is free again."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    with suppress(OSError):
        (folder / RUN_FILE).unlink(missing_ok=True)
