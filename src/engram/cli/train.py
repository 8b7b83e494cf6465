"""`engram train`: one run, or one for each seed, from where it is to its end."""

import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Any

from engram.cli.flags import Train, environment_argument
from engram.cli.leave import kept, undo_when_left
from engram.cli.places import existing, runs_of
from engram.errors import EXIT_RESUME_ME, CheckpointError, EngramError, SpecError
from engram.run.display import clean, fitting


def train(chosen: Train, settings: Mapping[str, str]) -> None:
    """`engram train`: only what was given on the command line is passed on, so that a resumed run keeps the rest."""
    from engram.cli.early import check_words

    given: dict[str, Any] = {
        field.name: getattr(chosen, field.name)
        for field in dataclasses.fields(chosen)
        if field.name not in ("env", "imports") and getattr(chosen, field.name) != field.default
    }
    run = given.pop("run", None)
    _check_start(chosen.env, run, given)
    if "env_args" in given:
        given["env_args"] = dict(map(environment_argument, given["env_args"]))
    if chosen.env is not None and not chosen.imports and not given.get("resume"):
        check_words(chosen.env, given, settings)
    given["overrides"] = dict(settings)
    first_of_all = not Path("runs").exists()
    env = _env_of_source(given) if chosen.env is None and not given.get("resume") else chosen.env
    folder = run or _new_folder(env, given)
    try:
        _learn_all(chosen.env, folder, _runs(env, folder, given), chosen.imports)
    finally:
        if run is None:
            with suppress(OSError):  # unless it holds something, or was moved meanwhile
                folder.rmdir()  # nothing came of it: the name is free again
                if first_of_all:
                    Path("runs").rmdir()


def _learn_all(
    env: str | None, folder: Path, several: list[tuple[Path, dict[str, Any]]], imports: tuple[str, ...]
) -> None:
    """One run after another; several end in one picture and one line."""
    from engram.run.folders import holds_run, whole_path

    for place, arguments in several:
        here = whole_path(place)
        if not holds_run(place):
            undo_when_left(here, [path for path in (here, *here.parents) if not path.exists()])
        try:
            with _staying_here():
                group = _Kept(whole_path(folder), [one.name for one, _ in several]) if len(several) > 1 else _Kept()
                _learn(env, place, arguments, imports, group)
        except EngramError as problem:
            if len(several) > 1 and problem.exit_code == EXIT_RESUME_ME:
                way = f"add --run {quote(str(folder))} --resume to the command"
                print(f"engram: to go on with every seed, {way}", file=sys.stderr)
            raise
    if len(several) > 1:
        _conclude(folder, [place for place, _ in several])
    if env is None and (missing := [name for name in _asked(folder) if not holds_run(folder / name)]):
        print(
            f"engram: {', '.join(missing)} of {folder} {'have' if len(missing) > 1 else 'has'} not begun; to begin "
            f"{'them' if len(missing) > 1 else 'it'}, add --run {quote(str(folder))} --resume to the whole command",
            file=sys.stderr,
        )


GROUP_FILE = "seeds.json"


def _asked(folder: Path) -> list[str]:
    """The folders of the seeds that a group was begun with; none where it is no group, or does not tell."""
    try:
        told = json.loads((folder / GROUP_FILE).read_bytes())
        return [f"seed{int(seed)}" for seed in told["seeds"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


@contextmanager
def _staying_here() -> Iterator[None]:
    """Comes back to the working directory, from where an environment may go elsewhere; unless it was removed."""
    home = None
    with suppress(FileNotFoundError):
        home = Path.cwd()
    try:
        yield
    finally:
        if home is not None:
            with suppress(FileNotFoundError):
                os.chdir(home)


def _runs(env: str | None, folder: Path, given: dict[str, Any]) -> list[tuple[Path, dict[str, Any]]]:
    """The runs to do in turn, each with the trainer's arguments: one, except for several seeds of a host environment.

    Those learn one after another, in `folder`/seed0, seed1, ... When such a group is resumed, a seed that had not
    begun begins.
    """

    from engram.run.folders import holds_run
    from engram.run.plan import RunPlan

    if env is None:  # it is resumed
        return [(place, given) for place in runs_of(folder)]
    if given.get("seeds", 1) == 1:
        return [(folder, given)]
    from engram.envs.device import is_device

    if is_device(env):
        return [(folder, given)]
    found, resume = [], given.get("resume", False)
    begun = [place for place in runs_of(folder) if holds_run(place)] if resume else []
    seeds = range(given.get("seed", 0), given.get("seed", 0) + given["seeds"])
    for seed in seeds:
        place = folder / f"seed{seed}"
        arguments = {name: value for name, value in given.items() if name != "seeds"} | {"seed": seed}
        if resume and holds_run(place):
            arguments |= {"overrides": {}}  # they are part of the run; the trainer refuses to change them
        elif resume:
            del arguments["resume"]
            if begun and "steps" not in given:  # a seed that had not begun gets what the others have
                with suppress(CheckpointError):  # which resuming that one tells
                    arguments["steps"] = RunPlan.read(begun[0]).steps
        found.append((place, arguments))
    return found


class _Kept:
    """From the first save on there is a run to resume, which Ctrl-C may not take back. Then a group names its seeds."""

    def __init__(self, group: Path | None = None, seeds: Sequence[str] = ()):
        self.group, self.seeds = group, seeds

    def on_save(self, trainer: Any, saved: Any) -> None:
        kept()
        if self.group is not None and (missing := [name for name in self.seeds if name not in _asked(self.group)]):
            from engram.checkpoint.disk import replace_file

            every = [int(name.removeprefix("seed")) for name in [*_asked(self.group), *missing]]
            replace_file(self.group / GROUP_FILE, (json.dumps({"seeds": sorted(every)}) + "\n").encode())


def _learn(env: str | None, folder: Path, arguments: dict[str, Any], imports: tuple[str, ...], saves: _Kept) -> None:
    """One run from where it is to its end, with its learning curve drawn however it ends."""
    from engram.cli import runs
    from engram.run.curve import CURVE_FILE
    from engram.run.progress import Progress
    from engram.run.stop import reopening
    from engram.run.trainer import Trainer

    progress = Progress()
    with Trainer(env, run=folder, callbacks=(progress, saves), progress=False, **arguments) as trainer:
        try:
            trainer.learn()
        finally:
            progress.close()
        if trainer.plan.seeds > 1:
            progress.display.note(runs.summary(folder, [runs.outcome(folder)]))
    again = f"engram evaluate {quote(str(folder))}{reopening(trainer.plan, imports)}"
    progress.display.note(f"done: {folder} holds the run and {CURVE_FILE}; next: {again}")


def _conclude(folder: Path, places: list[Path]) -> None:
    """Several seeds end in one picture and one line."""
    from engram.cli import runs
    from engram.run.curve import CURVE_FILE

    _draw(folder, f"{folder.name}, {len(places)} seeds", places)
    found = [runs.outcome(place) for place in places]
    for text in (
        f"done: {runs.summary(folder, found)}",
        f"{folder / CURVE_FILE} shows them; next: engram info {quote(str(folder))}",
    ):
        print(*fitting(clean(text), sys.stdout), sep="\n")


def _draw(folder: Path, title: str, places: Sequence[Path] = ()) -> None:
    from engram.run.curve import plot_curve

    try:
        plot_curve(folder, title=title, runs=places)
    except OSError as problem:  # a picture is no reason to call the run a failure, or to hide why it failed
        print(f"engram: the learning curve was not drawn: {clean(problem)}", file=sys.stderr)


def _check_start(env: str | None, run: Path | None, given: Mapping[str, Any]) -> None:
    """The rules between --run, --resume and ENV."""
    if given.get("resume"):
        if run is None:
            raise SpecError("--resume needs the run to go on with; add --run DIR")
        existing(run)
    elif env is None and "start_from" not in given:
        raise SpecError("engram train needs an environment, such as CartPole-v1; `engram list envs` shows the names")


def _env_of_source(given: Mapping[str, Any]) -> str | None:
    """The environment of the run to begin from; the trainer looks at its arguments, and at whether it is trusted."""
    from engram.run.plan import RunPlan
    from engram.run.warm import folder_of

    folder, _ = folder_of(given["start_from"], given.get("seed", 0))
    return RunPlan.read(folder).env


def _new_folder(env: str | None, given: Mapping[str, Any]) -> Path:
    """A directory of its own for a new run; made here, so that of two runs started at once each gets one."""
    first, several = given.get("seed", 0), given.get("seeds", 1)
    seeds = f"seed{first}" if several == 1 else f"seeds{first}-{first + several - 1}"
    agent = given.get("recipe") or given.get("preset", "auto")
    name = re.sub(r"[^\w.-]+", "-", f"{env}-{agent}-{seeds}")
    number = 1
    while True:
        folder = Path("runs", name if number == 1 else f"{name}-{number}")
        new = [folder] if Path("runs").exists() else [folder, Path("runs")]
        Path("runs").mkdir(exist_ok=True)
        try:
            folder.mkdir()
            undo_when_left(folder.absolute(), [path.absolute() for path in new])
            return folder
        except FileNotFoundError:  # a run that could not begin has just removed `runs`
            continue
        except FileExistsError:
            number += 1
