"""The command `engram`: train, evaluate, info, show, list, new.

What can be typed is in flags.py; here is what it does. Nothing heavy is imported until a command needs it, so that
help answers at once.
"""

import dataclasses
import os
import re
import select
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from shlex import quote
from typing import Any

import tyro
from tyro.conf import FlagCreatePairsOff

from engram.cli.curve import CURVE_FILE, plot_curve
from engram.cli.display import Display, clean
from engram.cli.flags import (
    COMMANDS,
    Command,
    Evaluate,
    Info,
    List,
    New,
    Show,
    Train,
    environment_argument,
    split_settings,
)
from engram.cli.new import TRY, new_part
from engram.cli.parts import import_parts
from engram.cli.reports import report
from engram.errors import EXIT_RESUME_ME, EXIT_USAGE, CheckpointError, EngramError, SpecError, UnknownName, hint
from engram.run.metrics import METRICS_FILE

EXIT_INPUT_OUTPUT = 74  # a file could not be read or written (sysexits: EX_IOERR)
EXIT_INTERRUPTED = 130  # Ctrl-C where there was nothing to save
EXIT_BROKEN_PIPE = 141  # whoever read the output went away

DESCRIPTION = (
    "Deep Q-learning with attention and memory. "
    "ENGRAM_DEBUG=1 or --traceback shows where a problem arose; --version prints the version."
)


def main(argv: list[str] | None = None) -> int:
    """Run one command line (`sys.argv` if None) and give its exit code. Never raises for a problem of the user's."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--traceback" in words or os.environ.get("ENGRAM_DEBUG", "") not in ("", "0")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal's encoding lacks must not end a run
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = _run([word for word in words if word != "--traceback"])
        sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as problem:
        if isinstance(problem, BrokenPipeError) and _reader_left():
            return _silence()
        explained = _explain(problem)
        if debug or explained is None:
            raise
        sentence, code = explained
        print(f"engram: {clean(sentence)}", file=sys.stderr)
        return code


def _run(words: list[str]) -> int:
    if words == ["--version"]:
        from importlib.metadata import version

        print(version("engram-rl"))
        return 0
    command = words[0] if words else "--help"
    if command in COMMANDS:
        rest, settings = split_settings(command, words[1:])
        words = [command, *rest]
    elif command not in ("--help", "-h"):
        raise UnknownName(f"{command!r} is not a command of engram; {hint(command, COMMANDS)} (see engram --help)")
    else:
        words, settings = ["--help"], {}
    try:
        config = (FlagCreatePairsOff,)  # --resume without a --no-resume
        chosen: Any = tyro.cli(Command, prog="engram", description=DESCRIPTION, args=words, config=config)
    except SystemExit as exit:  # after help or a complaint
        return exit.code if isinstance(exit.code, int) else 0
    import_parts(getattr(chosen, "imports", ()))
    if isinstance(chosen, Train):
        train(chosen, settings)
    elif isinstance(chosen, Show):
        show(chosen, settings)
    else:
        {Evaluate: evaluate, Info: info, List: list_names, New: new}[type(chosen)](chosen)
    return 0


def _explain(problem: BaseException) -> tuple[str, int] | None:
    """The sentence and exit code for a problem that a user can do something about; None for a fault of ours."""
    if isinstance(problem, EngramError):
        return str(problem), problem.exit_code
    if isinstance(problem, KeyboardInterrupt):
        return "stopped; nothing was left to save", EXIT_INTERRUPTED
    # XLA reports a full device memory as a RuntimeError with this word in its text.
    if isinstance(problem, MemoryError) or (isinstance(problem, RuntimeError) and "RESOURCE_EXHAUSTED" in str(problem)):
        return "the memory of this machine does not suffice; lower replay.capacity, --envs or --seeds", EXIT_USAGE
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


class Progress:
    """The trainer's callback that shows what happens."""

    def __init__(self, display: Display):
        self.display = display
        self._open = ExitStack()

    def on_start(self, trainer: Any) -> None:
        self.display.title = _title(trainer.plan)
        self.display.explores = tuple(trainer.plan.agent.exploration.report(0))
        self._open.enter_context(self.display)

    def on_metrics(self, trainer: Any, metrics: Mapping[str, Any]) -> None:
        self.display.update(metrics)

    def on_save(self, trainer: Any, saved: Any) -> None:
        self.display.note(f"saved step {saved.step:,} id {saved.id}")

    def on_note(self, trainer: Any, text: str) -> None:
        self.display.note(text)

    def close(self) -> None:
        """End the panel, leaving its last state on the screen."""
        self._open.close()


def train(chosen: Train, settings: Mapping[str, str]) -> None:
    """`engram train`: only what was given on the command line is passed on, so that a resumed run keeps the rest."""
    given: dict[str, Any] = {
        field.name: getattr(chosen, field.name)
        for field in dataclasses.fields(chosen)
        if field.name not in ("env", "imports") and getattr(chosen, field.name) != field.default
    }
    run = given.pop("run", None)
    _check_start(chosen.env, run, given)
    if "env_args" in given:
        given["env_args"] = dict(map(environment_argument, given["env_args"]))
    given["overrides"] = dict(settings)
    first_of_all = not Path("runs").exists()
    folder = run or _new_folder(chosen.env, given)
    try:
        runs = _runs(chosen.env, folder, given)
        for place, arguments in runs:
            try:
                _learn(chosen.env, place, arguments)
            except EngramError as problem:
                if len(runs) > 1 and problem.exit_code == EXIT_RESUME_ME:
                    print(
                        f"engram: to go on with every seed, add --run {folder} --resume to the command", file=sys.stderr
                    )
                raise
    finally:
        if run is None and not any(folder.iterdir()):
            folder.rmdir()  # nothing came of it: the name is free again
            if first_of_all:
                with suppress(OSError):  # unless another run began there meanwhile
                    Path("runs").rmdir()


def _runs(env: str | None, folder: Path, given: dict[str, Any]) -> list[tuple[Path, dict[str, Any]]]:
    """The runs to do in turn, each with the trainer's arguments: one, except for several seeds of a host environment.

    Those learn one after another, in `folder`/seed0, seed1, ... When such a group is resumed, a seed that had not
    begun begins.
    """
    from engram.envs.device import is_device
    from engram.run.plan import holds_run

    if env is None:
        begun = sorted(filter(holds_run, folder.glob("seed*")), key=lambda path: (len(path.name), path.name))
        return [(folder, given)] if holds_run(folder) or not begun else [(place, given) for place in begun]
    if given.get("seeds", 1) == 1 or is_device(env):
        return [(folder, given)]
    runs, resume = [], given.get("resume", False)
    for seed in range(given.get("seed", 0), given.get("seed", 0) + given["seeds"]):
        place = folder / f"seed{seed}"
        arguments = {name: value for name, value in given.items() if name != "seeds"} | {"seed": seed}
        if resume and holds_run(place):
            arguments |= {"overrides": {}}  # they are part of the run; the trainer refuses to change them
        elif resume:
            del arguments["resume"]
        runs.append((place, arguments))
    return runs


def _learn(env: str | None, folder: Path, arguments: dict[str, Any]) -> None:
    """One run from where it is to its end, with its learning curve drawn however it ends."""
    from engram.run.trainer import Trainer

    progress = Progress(Display())
    with Trainer(env, run=folder, callbacks=(progress,), **arguments) as trainer:
        try:
            trainer.learn()
        finally:
            progress.close()
            if (folder / METRICS_FILE).exists():
                _draw(folder, _title(trainer.plan))
    progress.display.note(f"done: {folder} holds the run and {CURVE_FILE}; next: engram evaluate {quote(str(folder))}")


def _title(plan: Any) -> str:
    """What a run is, in a few words."""
    seeds = f"seed {plan.seed}" if plan.seeds == 1 else f"seeds {plan.seed} to {plan.seed + plan.seeds - 1}"
    return f"{plan.env}, {plan.preset}, {seeds}"


def _draw(folder: Path, title: str) -> None:
    try:
        plot_curve(folder, title=title)
    except OSError as problem:  # a picture is no reason to call the run a failure, or to hide why it failed
        print(f"engram: the learning curve was not drawn: {clean(problem)}", file=sys.stderr)


def _check_start(env: str | None, run: Path | None, given: Mapping[str, Any]) -> None:
    """The rules between --run, --resume and ENV."""
    if given.get("resume"):
        if run is None:
            raise SpecError("--resume needs the run to go on with; add --run DIR")
        _existing(run)
    elif env is None:
        raise SpecError("engram train needs an environment, such as CartPole-v1; `engram list envs` shows the names")


def _new_folder(env: str | None, given: Mapping[str, Any]) -> Path:
    """A directory of its own for a new run; made here, so that of two runs started at once each gets one."""
    first, several = given.get("seed", 0), given.get("seeds", 1)
    seeds = f"seed{first}" if several == 1 else f"seeds{first}-{first + several - 1}"
    name = re.sub(r"[^\w.-]+", "-", f"{env}-{given.get('preset', 'auto')}-{seeds}")
    number = 1
    while True:
        folder = Path("runs", name if number == 1 else f"{name}-{number}")
        Path("runs").mkdir(exist_ok=True)
        try:
            folder.mkdir()
            return folder
        except FileNotFoundError:  # a run that could not begin has just removed `runs`
            continue
        except FileExistsError:
            number += 1


def _existing(folder: Path) -> Path:
    """`folder`, or a CheckpointError with the nearest run directory beside it or under runs/."""
    if folder.is_dir():
        return folder
    known = [str(path.parent) for beside in {folder.parent, Path("runs")} for path in beside.glob(f"*/{METRICS_FILE}")]
    near = get_close_matches(str(folder), known, n=1)
    way_out = f"did you mean {near[0]!r}?" if near else "start a run with: engram train ENV"
    raise CheckpointError(f"there is no run directory {str(folder)!r}; {way_out}")


def _runs_of(folder: Path) -> list[Path]:
    """The run directory itself, or those in it that `--seeds` of a host environment made, by seed."""
    from engram.run.plan import holds_run

    seeds = [path for path in folder.glob("seed*") if path.name[4:].isdigit() and holds_run(path)]
    if holds_run(folder) or not seeds:
        return [folder]
    return sorted(seeds, key=lambda path: int(path.name[4:]))


# -- the other commands ------------------------------------------------------------------------------------


def evaluate(chosen: Evaluate) -> None:
    """`engram evaluate`."""
    _existing(chosen.run)
    given = {name: value for name in ("episodes", "seed") if (value := getattr(chosen, name)) is not None}
    given |= {"forget": True} if chosen.forget else {}
    given |= {"env": chosen.env} if chosen.env is not None else {}
    given |= {"env_args": dict(map(environment_argument, chosen.env_arg))} if chosen.env_arg else {}

    def work() -> dict[str, Any]:
        from engram.play.evaluation import Evaluation
        from engram.run.trainer import load

        played: list[Evaluation] = []
        for folder in _runs_of(chosen.run):
            with load(folder) as agent:
                played.append(agent.evaluate(**given))
        returns = [one for evaluation in played for one in evaluation.of_each_seed()]
        found = Evaluation.of(returns, [length for evaluation in played for length in evaluation.lengths])
        names = ("mean", "std", "episodes", "returns", "per_seed", "lengths")
        where = {"run": str(chosen.run)} | {name: given[name] for name in ("env", "env_args") if name in given}
        return where | {name: getattr(found, name) for name in names}

    report(work, chosen.json)


def info(chosen: Info) -> None:
    """`engram info`. Raises CheckpointError, after the report, if --verify found something wrong."""
    _existing(chosen.run)

    def work() -> dict[str, Any]:
        from engram.run.trainer import info

        folders = _runs_of(chosen.run)
        each = {folder.name: dict(info(folder, verify=chosen.verify)) for folder in folders}
        if folders == [chosen.run]:
            return each[chosen.run.name]
        return {"runs": each, "problems": [problem for one in each.values() for problem in one.get("problems", ())]}

    problems = report(work, chosen.json).get("problems")
    if problems:
        raise CheckpointError(
            f"{chosen.run} is damaged: {problems[0]}; resuming uses the newest checkpoint that is whole"
        )


def show(chosen: Show, settings: Mapping[str, str]) -> None:
    """`engram show`: lines that a shell reads as settings, what follows # being a comment."""
    from engram import specs
    from engram.agents.presets import preset

    space, clip = _seen(chosen)
    spec: Any = preset(chosen.preset, space, chosen.steps, clip)
    spec = specs.override_all(spec, settings)
    rows = [(quote(f"{path}={specs.show(value)}"), kind, text) for path, kind, value, text in specs.describe(spec)]
    width = max(len(setting) for setting, _, _ in rows)
    print(clean(f"# {chosen.preset} for {chosen.env}"))
    for setting, kind, text in rows:
        print(clean(f"{setting:{width}}  # {text} ({kind})"))


def _seen(chosen: Show) -> tuple[Any, float]:
    """What an observation of the environment looks like, and what its field clips rewards to."""
    from engram.envs.device import is_device, make_device
    from engram.envs.host.make import make_host

    arguments = dict(map(environment_argument, chosen.env_arg))
    if is_device(chosen.env):
        return make_device(chosen.env, **arguments).observation_space, 0.0
    host = make_host(chosen.env, seed=0, action_bins=chosen.action_bins, env_args=arguments)
    try:
        return host.observation_space, host.reward_clip
    finally:
        host.close()


def list_names(chosen: List) -> None:
    """`engram list`: one name a line."""
    if chosen.what == "envs":
        from engram.envs.device import device_ids
        from engram.envs.host.make import host_ids

        rows = [(name, "device (JAX)") for name in device_ids()] + [(name, "host (Gymnasium)") for name in host_ids()]
    elif chosen.what == "presets":
        from engram.agents.presets import PRESETS

        rows = [(name, text) for name, (_, text) in PRESETS.items()]
    else:
        from engram import registry

        import_module("engram.agents.presets")  # which imports, and so registers, every part
        rows = [(f"{role}={name}", "") for role in registry.roles() for name in registry.names(role)]
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        print(clean(f"{name:{width}}  {text}".rstrip()))


def new(chosen: New) -> None:
    """`engram new`: the two files, and what to do with them."""
    part, test = new_part(chosen.role, chosen.name, Path())
    print(f"{part} is a part that works; change it. Check it with: pytest {test}")
    print(f"Train with it: engram train {TRY[chosen.role].format(name=chosen.name)}")
