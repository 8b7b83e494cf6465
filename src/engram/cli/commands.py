"""The command `engram`: train, evaluate, play, match, watch, explain, info, compare, memory, tune, pack, push, pull,
serve, export, show, list, new.

What can be typed is in flags.py; here is what it does. Nothing heavy is imported until a command needs it, so that
help answers at once.
"""

import errno
import os
import select
import sys
from contextlib import redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

import tyro
from tyro.conf import FlagCreatePairsOff

from engram.cli.export import Export, export
from engram.cli.flags import (
    COMMANDS,
    Command,
    Compare,
    Evaluate,
    Explain,
    Info,
    List,
    Memory,
    New,
    Show,
    Train,
    Tune,
    Watch,
    environment_argument,
    in_a_sentence,
    split_settings,
)
from engram.cli.games import Match, Play, match, play
from engram.cli.leave import EXIT_INTERRUPTED
from engram.cli.parts import import_parts, search_here
from engram.cli.places import existing, runs_of
from engram.cli.reports import print_rows, report
from engram.cli.serve_flags import Serve
from engram.cli.share_flags import Pack, Pull, Push
from engram.errors import (
    EXIT_DATA,
    EXIT_INPUT_OUTPUT,
    EXIT_USAGE,
    CheckpointError,
    EngramError,
    SpecError,
    UnknownName,
    hint,
    told,
    unwritten,
)
from engram.run.display import clean, fitting, is_terminal

EXIT_BROKEN_PIPE = 141  # whoever read the output went away
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

DESCRIPTION = (
    "Deep Q-learning with attention and memory; --version prints the version.\n\n"
    "ENGRAM_DEBUG=1 or --traceback shows where a problem arose."
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
            print("\n".join(fitting(f"engram: {clean(sentence)}", sys.stderr)), file=sys.stderr, flush=True)
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
    chosen, settings = _understood(words)
    if chosen is None:
        return 0
    named = [str(getattr(chosen, name, None) or "") for name in ("env", "id", "evaluate_env", "test_env")]
    if any(":" in name for name in named) or getattr(chosen, "trust", False):
        search_here()  # for the module of an environment
    import_parts(getattr(chosen, "imports", ()))
    if isinstance(chosen, Train):
        from engram.cli.train import train

        train(chosen, settings)
    elif isinstance(chosen, Show | List):
        from engram.cli import names

        names.show(chosen, settings) if isinstance(chosen, Show) else names.list_names(chosen)
    elif isinstance(chosen, Compare):
        from engram.cli.compare import compare

        for folder in chosen.runs:
            existing(folder)
        compare(chosen)
    elif isinstance(chosen, Memory):
        from engram.cli.memory import memory

        memory(chosen)
    elif isinstance(chosen, Explain):
        from engram.cli.explain import explain

        explain(chosen)
    elif isinstance(chosen, Watch):
        from engram.cli.watch import watch

        watch(chosen)
    elif isinstance(chosen, Pack | Push | Pull):
        from engram.cli import share

        {Pack: share.pack, Push: share.push, Pull: share.pull}[type(chosen)](chosen)
    elif isinstance(chosen, Serve):
        from engram.cli.serve import serve

        serve(chosen)
    elif isinstance(chosen, Tune):
        from engram.cli.tune import tune

        tune(chosen, settings)
    else:
        {Evaluate: evaluate, Info: info, New: new, Export: export, Play: play, Match: match}[type(chosen)](chosen)
    return 0


def _understood(words: list[str]) -> tuple[Any, dict[str, str]]:
    """The command with its flags, and the settings of an agent; None for it where help was asked for, and printed."""
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
    complaint = StringIO()
    try:
        config = (FlagCreatePairsOff,)  # --resume without a --no-resume
        about = DESCRIPTION if form is Command else None
        with redirect_stderr(complaint):
            return tyro.cli(form, prog=name, description=about, args=words, config=config), settings
    except SystemExit as exit:  # after help or a complaint
        if exit.code in (0, None):
            return None, settings
        raise SpecError(in_a_sentence(complaint.getvalue(), command)) from None


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
        return (
            "the memory of this machine does not suffice; lower --envs, --seeds, or replay.capacity or rollout.steps",
            EXIT_USAGE,
        )
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


# -- commands ----------------------------------------------------------------------------------------------


def evaluate(chosen: Evaluate) -> None:
    """`engram evaluate`."""
    existing(chosen.run)
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
        for folder in runs_of(chosen.run):
            with load(folder, **which) as agent:
                played.append(agent.evaluate(**given))
                steps.append(agent.step)
        returns = [one for evaluation in played for one in evaluation.of_each_seed()]
        lengths = [length for evaluation in played for length in evaluation.lengths]
        told = [evaluation.successes for evaluation in played]
        successes = None if None in told else [met for one in told for met in one or ()]
        found = Evaluation.of(returns, lengths, sum(evaluation.cut for evaluation in played), successes)
        names = ["mean", "std", "episodes", "returns", "per_seed", "lengths", "cut"]
        names += ["success_rate"] if successes is not None else []
        where: dict[str, Any] = {"run": str(chosen.run), "step": steps[0] if len(steps) == 1 else steps}
        where |= {name: given[name] for name in ("env", "env_args") if name in given}
        return where | {name: getattr(found, name) for name in names}

    report(work, chosen.json)


def info(chosen: Info) -> None:
    """`engram info`. Raises CheckpointError, after the report, if --verify found something wrong."""
    from engram.cli import runs
    from engram.cli.blank import without_jax
    from engram.run.folders import holds_packed, holds_run, runs_in

    existing(chosen.run)
    if holds_packed(chosen.run):
        from engram.cli import share

        report(lambda: share.facts(chosen.run), chosen.json)
        return
    folders = [chosen.run] if holds_run(chosen.run) else runs_in(chosen.run) or [chosen.run]
    if not (chosen.json or chosen.all or chosen.verify):
        if folders == [chosen.run]:
            print_rows(runs.facts(chosen.run))
        else:
            columns = get_terminal_size().columns if is_terminal(sys.stdout) else None
            for line in map(clean, runs.lines_of(folders, columns)):
                print(*fitting(line, sys.stdout), sep="\n")
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
