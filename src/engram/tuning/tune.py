"""`engram.tune`: searches the settings of an agent, in this process or in several.

    engram.tune("CartPole-v1", "dqn", study="runs/tuned", trials=30, steps=20_000, seeds=3)

Trial 0 runs the preset's defaults. The same call goes on with a study that was stopped or killed.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from engram import specs
from engram.agents.unread import where_read
from engram.envs.device import is_device
from engram.errors import EngramError, Interrupted, LearningFault, SpaceError, SpecError, told
from engram.run.loggers import LOG
from engram.run.making import learns, make_agent
from engram.run.plan import RunPlan
from engram.run.settings import OF_TRIALS, Given, flag_of
from engram.run.stop import StopRequest
from engram.run.trainer import Trainer
from engram.tuning.result import Tuned
from engram.tuning.space import Choice, Dimension, space_of, value_at
from engram.tuning.study import COMPLETE, PRUNED, Study, Taken, Task, holds_study, the_library
from engram.tuning.trial import GivenUp, Left, Report, Unscored, forget_programs, play
from engram.tuning.workers import work_in_processes

EVALUATIONS = 10  # of a trial that is too short for a run to be evaluated by itself
TRIALS = 20

Player = Callable[[Task, Taken, Report, Callable[[], bool]], float]
Tell = Callable[[str], None]


def tune(
    env: str,
    preset: str | None = None,
    *,
    study: str | Path,
    trials: specs.Number = TRIALS,
    search: Sequence[str] = (),
    timeout: float | None = None,
    jobs: specs.Number = 1,
    pruning: str = "median",
    keep: str = "all",
    resume: bool = False,
    imports: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    tell: Tell | None = None,
    **settings: Any,
) -> Tuned:
    """Searches settings with Optuna (extra `tune`); what was found.

    A trial is scored by its greedy evaluations from 90 % of its steps on: of each seed their mean, and of these the
    mean over seeds. Trial n learns with the seeds from `seed + n * seeds` on, so no two trials share one.

    Args:
      env: an id. preset: which agent, as for `Trainer`.
      study: the folder. One that holds this study already is gone on with; `resume` requires that it does.
      trials: in all, with those of before.
      search: what narrows the space: "PATH", "PATH=LOW..HIGH" or "PATH=A|B|C". By default all settings of the chosen
        parts that declare a range.
      timeout: seconds until this call stops; a trial that runs then is left, to be gone on with.
      jobs: processes. Several calls may also work on one study at the same time.
      pruning: `median` gives a trial up whose best evaluation is below the median of whole trials at that point;
        `none` gives none up.
      keep: whose checkpoints stay on the disk: of `all` trials, or only of the `best`.
      imports: modules with parts of one's own, which several processes import.
      tell: takes a sentence about each trial; the logger `engram` by default.
      overrides, and further keywords: fixed settings of the agent by path, and `steps`, `seeds`, `seed`, `envs` and
        others of the runs, as `Trainer` takes them.

    Raises: Interrupted after a signal; EngramError before anything is run, for whatever cannot work.
    """
    most, count = specs.whole("trials", trials, 1), specs.whole("jobs", jobs, 1)
    if timeout is not None and not timeout > 0:
        raise SpecError(f"timeout = {timeout!r} was given; expected more than 0 seconds")
    if pruning not in ("median", "none"):
        raise SpecError(f"pruning = {pruning!r} was given; expected median or none")
    if keep not in ("all", "best"):
        raise SpecError(f"keep = {keep!r} was given; expected all or best")
    the_library()
    folder, say = Path(study), tell or LOG.info
    if resume and not holds_study(folder):
        raise SpecError(f"there is no study in {folder} to go on with; leave resume (--resume) out to begin it")
    task, notes = task_of(env, preset, search, pruning, overrides, settings)
    made = Study(folder, task)
    for sentence in notes:
        say(sentence)
    until = None if timeout is None else time.monotonic() + timeout
    if made.count >= most:
        say(f"the study has {made.count} of {most} trials; to go on, give a larger total (trials, --trials)")
    if count == 1:
        left = work_here(made, most, until, say, keep)
    else:
        left = work_in_processes(made, count, imports, {"trials": most, "keep": keep}, until)
    if left:
        over = sum(row.outcome not in ("running", "stopped") for row in made.rows)
        raise Interrupted(f"stopped; {over} of {most} trials are over, and the same command goes on ({folder})")
    _draw(made)
    return Tuned(made)


def task_of(
    env: Any,
    preset: str | None,
    search: Sequence[str],
    pruning: str,
    overrides: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
) -> tuple[Task, list[str]]:
    """What is asked, checked as far as it can be before a trial runs, and what is to be said of it.

    Raises EngramError.
    """
    if not isinstance(env, str):
        raise SpecError(f"env = {env!r} was given; tuning makes environments anew, so name one by its id")
    given = Given.of({"preset": preset, **{k: v for k, v in settings.items() if k != "recipe"}}, overrides)
    run = given.run | ({"recipe": settings["recipe"]} if settings.get("recipe") is not None else {})
    session = [name for name in ("run", "resume", "trust") if name in settings]
    if wrong := [*(name for name in run if name not in OF_TRIALS), *session]:
        raise SpecError(f"{flag_of(wrong[0])} ({wrong[0]}) is not for the trials of a study; leave it out")
    fixed = {path: _text(path, value) for path, value in given.agent.items()}
    searched = {word.partition("=")[0] for word in ([search] if isinstance(search, str) else search)}
    with where_read(lambda read: Trainer(env, progress=False, overrides=read, **run), fixed, searched) as trainer:
        plan = trainer.plan
    seed = run.pop("seed", 0)
    run |= {"steps": plan.steps, "preset": plan.preset} | _evaluated(run, plan)
    run |= {"env_args": plan.env_args} if plan.env_args else {}
    words = [search] if isinstance(search, str) else list(search)
    space = [
        one if f"{one.path}=" in "".join(words) else _possible(plan, one) for one in space_of(plan.agent, fixed, words)
    ]
    own = {one.path: _own(plan, one) for one in space}
    defaults = {one.path: one.nearest(own[one.path]) for one in space}
    notes = [
        f"trial 0 runs the default {path}={specs.show(value)}, which lies outside of the range that is searched"
        for path, value in own.items() if value is not None and specs.show(value) != specs.show(defaults[path])
    ]  # fmt: skip
    if not learns(plan, make_agent(plan).rhythm, is_device(env)):
        notes.append(f"{plan.agent.begins} is not reached: nothing will be learned; give more --steps")
    points = -(-plan.steps // (run.get("evaluate_every") or plan.evaluate_every))
    return Task(env, run, fixed, tuple(space), defaults, points, seed, pruning), notes


def _possible(plan: RunPlan, one: Dimension) -> Dimension:
    """The dimension without what these environments rule out: minibatches of whole environments must divide them."""
    if not (isinstance(one, Choice) and one.path == "rollout.minibatches" and plan.agent.has_memory):
        return one
    return Choice(one.path, tuple(value for value in one.values if plan.envs % int(value) == 0))


def _own(plan: RunPlan, one: Dimension) -> Any:
    """The agent's own value; None where its parts have no such setting."""
    try:
        return value_at(plan.agent, one.path)
    except AttributeError:
        return None


def _evaluated(run: Mapping[str, Any], plan: RunPlan) -> dict[str, int]:
    """How often a trial is evaluated, where a run of its length would not be."""
    if run.get("evaluate_every") == 0:
        raise SpecError("evaluate_every = 0 was given, but trials are scored by their evaluations; leave it out")
    return {} if plan.evaluate_every else {"evaluate_every": max(1, plan.steps // EVALUATIONS)}


def _text(path: str, value: Any) -> str:
    if not isinstance(value, str | int | float | bool | tuple | list | None):
        raise SpecError(f"{path} = {value!r} was given; in a study, write the name of a part and its settings by path")
    return specs.show(tuple(value) if isinstance(value, list) else value)


# -- trials one after another ----------------------------------------------------------------------------------------


def work_here(study: Study, trials: int, until: float | None, tell: Tell, keep: str = "all") -> bool:
    """Works on trials in this process, up to a number of them, a signal, or a time; whether a signal came."""
    with StopRequest() as stop:

        def asked() -> bool:
            return stop() or (until is not None and time.monotonic() >= until)

        def player(task: Task, taken: Taken, report: Report, asked: Callable[[], bool]) -> float:
            return play(task, taken, report, asked, None if until is None else until - time.monotonic())

        def told_of(text: str) -> None:
            tell(text)
            _draw(study)  # now, because a stop has no time for it
            if keep == "best":
                study.drop_checkpoints()
            forget_programs()

        left = work(study, trials, asked, player, told_of)
    return stop() or (left and (until is None or time.monotonic() < until))


def work(study: Study, trials: int, asked: Callable[[], bool], player: Player, tell: Tell) -> bool:
    """One trial after another; whether one was left before its end."""
    while not asked():
        taken = study.take(trials)
        if taken is None:
            return False
        try:
            _play(study, taken, asked, player, tell)
        except Left:
            return True
        finally:
            taken.claim.release()
    return False


def _play(study: Study, taken: Taken, asked: Callable[[], bool], player: Player, tell: Tell) -> None:
    """One trial to its end. What its settings are to blame for ends the trial, all else the study."""
    try:
        value = player(study.task, taken, partial(study.report, taken.number), asked)
    except GivenUp:
        outcome, why, value = PRUNED, "its evaluations are below the median of whole trials", None
    except LearningFault as problem:
        outcome, why, value = "diverged", str(problem), None
    except (SpecError, SpaceError) as problem:
        if not taken.settings:  # the defaults: nothing else can be better
            raise
        outcome, why, value = "refused", str(problem), None
    except Unscored as problem:
        outcome, why, value = "failed", str(problem), None
    except (MemoryError, RuntimeError) as problem:
        if not isinstance(problem, MemoryError) and "RESOURCE_EXHAUSTED" not in str(problem):
            raise
        outcome, why, value = "failed", f"the memory of this machine does not suffice ({told(problem)})", None
    else:
        outcome, why = COMPLETE, None
    study.finish(taken.number, outcome, value, why)
    tell(_line(study, taken, outcome, value, why))


def _draw(study: Study) -> None:
    with suppress(EngramError):  # a picture is no reason to end a study
        Tuned(study).plot()


def _line(study: Study, taken: Taken, outcome: str, value: float | None, why: str | None) -> str:
    best = max((row.value for row in study.rows if row.value is not None), default=None)
    settings = " ".join(f"{path}={text}" for path, text in taken.settings.items()) or "the defaults"
    result = f"{value:.4g}" if value is not None else f"{outcome}: {why}"
    return f"trial {taken.number}: {result}" + ("" if best is None else f" (best {best:.4g})") + f"; {settings}"
