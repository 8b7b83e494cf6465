"""The command `engram`: train, evaluate, info, compare, tune, show, list, new.

What can be typed is in flags.py; here is what it does. Nothing heavy is imported until a command needs it, so that
help answers at once.
"""

import dataclasses
import errno
import os
import re
import select
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from shlex import quote
from typing import Any

import tyro
from tyro.conf import FlagCreatePairsOff

from engram.cli.flags import (
    COMMANDS,
    Command,
    Compare,
    Evaluate,
    Info,
    List,
    New,
    Show,
    Train,
    Tune,
    environment_argument,
    split_settings,
)
from engram.cli.leave import EXIT_INTERRUPTED, kept, undo_when_left
from engram.cli.parts import import_parts, search_here
from engram.cli.reports import report
from engram.errors import (
    EXIT_DATA,
    EXIT_INPUT_OUTPUT,
    EXIT_RESUME_ME,
    EXIT_USAGE,
    CheckpointError,
    EngramError,
    SpecError,
    UnknownName,
    hint,
    told,
    unwritten,
)
from engram.run.display import clean

EXIT_BROKEN_PIPE = 141  # whoever read the output went away
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

DESCRIPTION = (
    "Deep Q-learning with attention and memory. "
    "ENGRAM_DEBUG=1 or --traceback shows where a problem arose; --version prints the version."
)


def main(argv: list[str] | None = None) -> int:
    """Run one command line (`sys.argv` if None) and give its exit code. Never raises for a problem of the user's."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--traceback" in words or os.environ.get("ENGRAM_DEBUG", "") not in ("", "0")
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal's encoding lacks must not end a run
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = _run([word for word in words if word != "--traceback"])
        sys.stdout.flush()
        return code
    except BaseException as problem:  # also an exit: the commands exit by returning, so it is somebody else's
        if isinstance(problem, BrokenPipeError) and _reader_left():
            return _silence()
        explained = _explain(problem)
        if debug or explained is None:
            raise
        sentence, code = explained
        with suppress(OSError, ValueError):  # nobody may be reading
            print(f"engram: {clean(sentence)}", file=sys.stderr, flush=True)
        return code


def _open_standard_streams() -> None:
    """Puts nothing in the place of standard streams that are closed, as `>&-` has them.

    A file that is opened later would else become standard output, and be written into by whoever prints.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 (as long as the process)


def _run(words: list[str]) -> int:
    if words == ["--version"]:
        from importlib.metadata import version

        print(version("engram-rl"))
        return 0
    command = words[0] if words else "--help"
    form: Any = Command
    name = "engram"
    if command in COMMANDS:  # only its own flags are prepared
        words, settings = split_settings(command, words[1:])
        form, name = COMMANDS[command], f"engram {command}"
    elif command not in ("--help", "-h"):
        raise UnknownName(f"{command!r} is not a command of engram; {hint(command, COMMANDS)} (see engram --help)")
    else:
        words, settings = ["--help"], {}
    try:
        config = (FlagCreatePairsOff,)  # --resume without a --no-resume
        about = DESCRIPTION if form is Command else None
        chosen: Any = tyro.cli(form, prog=name, description=about, args=words, config=config)
    except SystemExit as exit:  # after help or a complaint
        return exit.code if isinstance(exit.code, int) else 0
    if ":" in (getattr(chosen, "env", None) or "") or getattr(chosen, "trust", False):
        search_here()  # for the module of an environment
    import_parts(getattr(chosen, "imports", ()))
    if isinstance(chosen, Train):
        train(chosen, settings)
    elif isinstance(chosen, Show | List):
        from engram.cli import names

        names.show(chosen, settings) if isinstance(chosen, Show) else names.list_names(chosen)
    elif isinstance(chosen, Compare):
        from engram.cli.compare import compare

        for folder in chosen.runs:
            _existing(folder)
        compare(chosen)
    elif isinstance(chosen, Tune):
        from engram.cli.tune import tune

        tune(chosen, settings)
    else:
        {Evaluate: evaluate, Info: info, New: new}[type(chosen)](chosen)
    return 0


def _explain(problem: BaseException) -> tuple[str, int] | None:
    """The sentence and exit code for a problem that a user can do something about; None for a fault of ours."""
    if isinstance(problem, EngramError):
        return str(problem), problem.exit_code
    if isinstance(problem, KeyboardInterrupt):
        return "stopped; nothing was left to save", EXIT_INTERRUPTED
    if isinstance(problem, SystemExit | GeneratorExit):
        return f"{told(problem)} was raised by code that is not Engram's; it must not end a run: mend it", EXIT_DATA
    # XLA reports a full device memory as a RuntimeError with this word in its text.
    if isinstance(problem, MemoryError) or (isinstance(problem, RuntimeError) and "RESOURCE_EXHAUSTED" in str(problem)):
        return "the memory of this machine does not suffice; lower replay.capacity, --envs or --seeds", EXIT_USAGE
    if isinstance(problem, OSError) and problem.errno in NO_ROOM:
        return unwritten(problem.filename or "a file", problem), EXIT_INPUT_OUTPUT
    if isinstance(problem, OSError) and problem.filename is not None:
        sentence = f"{problem.filename}: {problem.strerror}; mend that and try again (--traceback shows where)"
        return sentence, EXIT_INPUT_OUTPUT
    return None


def _reader_left() -> bool:
    """Whether standard output is a pipe that nobody reads; other pipes, such as a worker's, break for other reasons."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):
        return False


def _silence() -> int:
    """Leave quietly after the reader of our output has gone; Python would complain once more while closing."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BROKEN_PIPE


# -- train -------------------------------------------------------------------------------------------------


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
        _learn_all(chosen.env, folder, _runs(env, folder, given))
    finally:
        if run is None:
            with suppress(OSError):  # unless it holds something, or was moved meanwhile
                folder.rmdir()  # nothing came of it: the name is free again
                if first_of_all:
                    Path("runs").rmdir()


def _learn_all(env: str | None, folder: Path, several: list[tuple[Path, dict[str, Any]]]) -> None:
    """One run after another; several end in one picture and one line."""
    from engram.run.folders import holds_run

    for place, arguments in several:
        if not holds_run(place):
            undo_when_left(place, [path for path in (place, *place.parents) if not path.exists()])
        try:
            _learn(env, place, arguments)
        except EngramError as problem:
            if len(several) > 1 and problem.exit_code == EXIT_RESUME_ME:
                print(f"engram: to go on with every seed, add --run {folder} --resume to the command", file=sys.stderr)
            raise
    if len(several) > 1:
        _conclude(folder, [place for place, _ in several])


def _runs(env: str | None, folder: Path, given: dict[str, Any]) -> list[tuple[Path, dict[str, Any]]]:
    """The runs to do in turn, each with the trainer's arguments: one, except for several seeds of a host environment.

    Those learn one after another, in `folder`/seed0, seed1, ... When such a group is resumed, a seed that had not
    begun begins.
    """

    from engram.run.folders import holds_run

    if env is None:  # it is resumed
        return [(place, given) for place in _runs_of(folder)]
    if given.get("seeds", 1) == 1:
        return [(folder, given)]
    from engram.envs.device import is_device

    if is_device(env):
        return [(folder, given)]
    found, resume = [], given.get("resume", False)
    for seed in range(given.get("seed", 0), given.get("seed", 0) + given["seeds"]):
        place = folder / f"seed{seed}"
        arguments = {name: value for name, value in given.items() if name != "seeds"} | {"seed": seed}
        if resume and holds_run(place):
            arguments |= {"overrides": {}}  # they are part of the run; the trainer refuses to change them
        elif resume:
            del arguments["resume"]
        found.append((place, arguments))
    return found


class _Kept:
    """From the first save on there is a run to resume, which Ctrl-C may not take back."""

    def on_save(self, trainer: Any, saved: Any) -> None:
        kept()


def _learn(env: str | None, folder: Path, arguments: dict[str, Any]) -> None:
    """One run from where it is to its end, with its learning curve drawn however it ends."""
    from engram.cli import runs
    from engram.run.curve import CURVE_FILE
    from engram.run.progress import Progress
    from engram.run.trainer import Trainer

    progress = Progress()
    with Trainer(env, run=folder, callbacks=(progress, _Kept()), progress=False, **arguments) as trainer:
        try:
            trainer.learn()
        finally:
            progress.close()
        if trainer.plan.seeds > 1:
            progress.display.note(runs.summary(folder, [runs.outcome(folder)]))
    progress.display.note(f"done: {folder} holds the run and {CURVE_FILE}; next: engram evaluate {quote(str(folder))}")


def _conclude(folder: Path, places: list[Path]) -> None:
    """Several seeds end in one picture and one line."""
    from engram.cli import runs
    from engram.run.curve import CURVE_FILE

    _draw(folder, f"{folder.name}, {len(places)} seeds", places)
    found = [runs.outcome(place) for place in places]
    print(clean(f"done: {runs.summary(folder, found)}"))
    print(clean(f"{folder / CURVE_FILE} shows them; next: engram info {quote(str(folder))}"))


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
        _existing(run)
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
            undo_when_left(folder, new)
            return folder
        except FileNotFoundError:  # a run that could not begin has just removed `runs`
            continue
        except FileExistsError:
            number += 1


def _existing(folder: Path) -> Path:
    """`folder`, or a CheckpointError with the nearest run directory beside it or under runs/."""
    from engram.run.metrics import METRICS_FILE

    if folder.is_dir():
        return folder
    known = [str(path.parent) for beside in {folder.parent, Path("runs")} for path in beside.glob(f"*/{METRICS_FILE}")]
    near = get_close_matches(str(folder), known, n=1)
    way_out = f"did you mean {near[0]!r}?" if near else "start a run with: engram train ENV"
    raise CheckpointError(f"there is no run directory {str(folder)!r}; {way_out}")


def _runs_of(folder: Path) -> list[Path]:
    """The run directory itself, or those in it that `--seeds` of a host environment made, by seed."""
    from engram.run.folders import holds_run

    seeds = [path for path in folder.glob("seed*") if path.name[4:].isdigit() and holds_run(path)]
    if holds_run(folder) or not seeds:
        return [folder]
    return sorted(seeds, key=lambda path: int(path.name[4:]))


# -- the other commands ------------------------------------------------------------------------------------


def evaluate(chosen: Evaluate) -> None:
    """`engram evaluate`."""
    _existing(chosen.run)
    given = {
        name: value
        for name in ("episodes", "seed", "max_episode_steps")
        if (value := getattr(chosen, name)) is not None
    }
    given |= {"forget": True} if chosen.forget else {}
    given |= {"env": chosen.env} if chosen.env is not None else {}
    given |= {"env_args": dict(map(environment_argument, chosen.env_arg))} if chosen.env_arg else {}

    which: dict[str, Any] = {} if chosen.at is None else {"at": chosen.at}
    which |= {"trust": True} if chosen.trust else {}

    def work() -> dict[str, Any]:
        from engram.play.evaluation import Evaluation
        from engram.run.trainer import load

        played: list[Evaluation] = []
        steps: list[int | None] = []
        for folder in _runs_of(chosen.run):
            with load(folder, **which) as agent:
                played.append(agent.evaluate(**given))
                steps.append(agent.step)
        returns = [one for evaluation in played for one in evaluation.of_each_seed()]
        lengths = [length for evaluation in played for length in evaluation.lengths]
        found = Evaluation.of(returns, lengths, sum(evaluation.cut for evaluation in played))
        names = ("mean", "std", "episodes", "returns", "per_seed", "lengths", "cut")
        where: dict[str, Any] = {"run": str(chosen.run), "step": steps[0] if len(steps) == 1 else steps}
        where |= {name: given[name] for name in ("env", "env_args") if name in given}
        return where | {name: getattr(found, name) for name in names}

    report(work, chosen.json)


def info(chosen: Info) -> None:
    """`engram info`. Raises CheckpointError, after the report, if --verify found something wrong."""
    from engram.cli import runs
    from engram.cli.blank import without_jax
    from engram.run.folders import holds_run, runs_in

    _existing(chosen.run)
    folders = [chosen.run] if holds_run(chosen.run) else runs_in(chosen.run) or [chosen.run]
    if not (chosen.json or chosen.all or chosen.verify):
        if folders == [chosen.run]:
            runs.print_rows(runs.facts(chosen.run))
        else:
            print(*map(clean, runs.lines_of(folders)), sep="\n")
        return

    import numpy  # noqa: F401, the digest computes with it, so it must be no blank

    def work() -> dict[str, Any]:
        from engram.run.plan import info

        each = {str(folder.relative_to(chosen.run)): dict(info(folder, verify=chosen.verify)) for folder in folders}
        if folders == [chosen.run]:
            return each["."]
        return {"runs": each, "problems": [problem for one in each.values() for problem in one.get("problems", ())]}

    problems = report(lambda: without_jax(work), chosen.json).get("problems")
    if problems:
        raise CheckpointError(
            f"{chosen.run} is damaged: {problems[0]}; resuming uses the newest checkpoint that is whole"
        )


def new(chosen: New) -> None:
    """`engram new`: the two files, and what to do with them."""
    from engram.cli.new import TRY, new_part

    part, test = new_part(chosen.role, chosen.name, Path())
    print(f"{part} is a part that works; change it. Check it with: pytest {test}")
    print(f"Train with it: engram train {TRY[chosen.role].format(name=chosen.name)}")
