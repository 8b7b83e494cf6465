"""Run directories without JAX: which there are in a folder, and what is told of their run.json."""

import os
from pathlib import Path
from typing import Any

from engram.checkpoint.disk import Disk, read_small, strict_json
from engram.errors import CheckpointError, SpecError
from engram.run.metrics import number

RUN_FILE, LARGEST = "run.json", 8 << 20  # those of run/plan.py, which imports JAX
COUNTS, ROLES = ("seed", "seeds", "steps", "envs"), ("encoder", "working", "external", "head")


def whole_path(folder: Path) -> Path:
    """The path from the root on, which stays the same when an environment changes the working directory.

    Raises: SpecError where that directory was removed, and the path begins in it.
    """
    try:
        return folder.absolute()
    except FileNotFoundError:
        raise SpecError(
            f"the folder {str(folder)!r} is to be in the current one, which was removed; go to another one (cd), or "
            f"give the path from / on"
        ) from None


def holds_run(folder: Path) -> bool:
    """Whether `folder` is a run directory."""
    return (folder / RUN_FILE).is_file()


def no_run(folder: Path) -> str:
    """What to do instead, where a run was asked for and there is none."""
    if holds_packed(folder):
        return "it is a shared folder, which can be played and served; what learns or compares needs the run itself"
    if inside := runs_in(folder) if folder.is_dir() else []:
        return f"it holds runs: name one of them, such as {inside[0]}"
    return "start one with: engram train ENV"


def holds_packed(folder: Path) -> bool:
    """Whether `folder` is a shared folder (`run/packed.py`) and no run directory."""
    return not os.path.lexists(folder / RUN_FILE) and os.path.lexists(folder / "config.json")


def runs_in(folder: Path) -> list[Path]:
    """The run directories in a folder, and in folders of it that are groups of seeds; seed2 comes before seed10."""

    def inside(path: Path) -> list[Path]:
        folders = [one for one in path.iterdir() if one.is_dir() and not one.name.startswith(".")]
        return sorted(folders, key=_order)

    found: list[Path] = []
    for path in inside(folder):
        found += [path] if holds_run(path) else filter(holds_run, inside(path))
    return found


def _order(path: Path) -> tuple[str, int, str]:
    """By name, and numbers at the end of a name by size."""
    stem = path.name.rstrip("0123456789")
    return stem, int(path.name[len(stem) :] or 0), path.name


def plan_of(folder: Path) -> dict[str, Any]:
    """What is told of run.json, of its form. Raises CheckpointError. It may be a stranger's: see `RunPlan.read`."""
    path = folder / RUN_FILE
    try:
        plan = strict_json(read_small(Disk(), path, LARGEST), RUN_FILE)
    except FileNotFoundError:
        way_out = no_run(folder)
        raise CheckpointError(f"{folder} holds no run ({RUN_FILE} is missing); {way_out}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}); restore it from a copy") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path} is damaged: {error}; restore it from a copy") from None
    if wrong := _wrong(plan):
        raise CheckpointError(f"{path} is damaged: {wrong}; restore it from a copy")
    return plan


def _wrong(plan: Any) -> str | None:
    """What is wrong with the form of a plan; None where it can be told."""
    if not isinstance(plan, dict):
        return "it is no object"
    if lacking := [name for name in ("env", "preset", *COUNTS, "agent") if name not in plan]:
        return f"it was found without {lacking[0]!r}"
    if wrong := [name for name in COUNTS if type(plan[name]) is not int or not 0 <= plan[name] < 1 << 62]:
        return f"{wrong[0]!r} is no whole number from 0 to 2^62-1"
    agent = plan["agent"]
    parts = [agent.get(role) if isinstance(agent, dict) else None for role in ROLES]
    kinds = [part.get("kind") if isinstance(part, dict) else None for part in parts]
    return None if all(isinstance(kind, str) for kind in kinds) else "its agent names no part for each role"


def of_each(value: Any, seeds: int) -> list[float | None]:
    """A metric of a log as one number for each seed; None where it is unknown."""
    return [number(one) for one in value] if isinstance(value, list) else [number(value)] * seeds


def checkpoint_of(text: str) -> tuple[Path, str | None]:
    """The directory that RUN, RUN@newest, RUN@best or RUN@STEP names, and which checkpoint in words; None for RUN."""
    run, mark, at = text.rpartition("@")
    return (Path(text), None) if not mark or Path(text).is_dir() else (Path(run), at)
