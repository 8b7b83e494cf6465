"""The trainer: one object that owns a run, from its first step to its last, over as many processes as it takes.

trainer = Trainer("CartPole-v1", seed=0, run="runs/mine")
trainer.learn(50_000)
trainer.evaluate(episodes=20).mean
"""

import weakref
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import PyTree

from engram import specs
from engram.checkpoint.files import RunLock
from engram.checkpoint.store import Saved
from engram.envs.device import is_device
from engram.errors import EngramError, EnvironmentFault, SpecError, Warned, WriteFailed
from engram.play.evaluation import Evaluation
from engram.play.playing import Stop, never
from engram.play.trained import Environment, TrainedAgent, environment_first
from engram.run import keeper as keeping
from engram.run.callbacks import Callback, hears, several
from engram.run.claim import check_free, claim, withdraw
from engram.run.course import Course
from engram.run.demonstrations import Lesson, planned, teach
from engram.run.divergence import DivergenceWatch
from engram.run.evaluating import Evaluating
from engram.run.folders import whole_path
from engram.run.keeper import Keeper, Milestones
from engram.run.loggers import EVENTS, Logger, Loggers, check_loggers, loggers_for
from engram.run.machine import keep_freed_memory, use_cache
from engram.run.making import check_trust, make_agent, make_environment, make_runner, notes_at_start
from engram.run.metrics import RunLog
from engram.run.plan import RunPlan, info
from engram.run.planning import check_same_task, check_unchanged, longer, new_plan, resumed, with_envs
from engram.run.prefill import fill_replay
from engram.run.progress import callbacks_of, title_of
from engram.run.settings import FREE, Given, check, takes_settings
from engram.run.stop import StopRequest, interrupted, reopening
from engram.run.stored import load
from engram.run.warm import Source, begin_from, source_given, task_of
from engram.runners.common import Runner

__all__ = ["Trainer", "info", "load"]

FAILED_SAVES = 5  # in a row, before a run gives up


class Trainer:
    """Trains, evaluates, saves and resumes one agent, or one for each of several seeds.

    Args:
      env: a Gymnasium id, a device id (`engram list envs`), a Gymnasium environment, or a function that makes one.
        Not needed when a run is resumed that was started from an id.
      callbacks: objects with any of the methods of `engram.Callback`; one that returns False stops the run.
      loggers: objects that take the numbers of the run (`engram.Logger`), beside those that `log` names.
      progress: whether a display shows how the run goes; if None, in a terminal and in a notebook.
      overrides, and further keywords: settings of the agent by path: {"replay.capacity": 50_000}, or as keywords
        with the dots as double underscores: replay__capacity=50_000.
      preset, and the other settings of the run: `help(Trainer.__init__)` lists them. They are declared in
        `engram.run.settings`. Without `run` nothing is written to the disk.

    Raises: EngramError, before anything is trained, for every setting that cannot work.
    """

    @takes_settings
    def __init__(
        self,
        env: Environment | None = None,
        preset: str | None = None,
        *,
        callbacks: Any = (),
        loggers: Any = (),
        progress: bool | None = None,
        overrides: Mapping[str, Any] | None = None,
        **settings: Any,
    ):
        """See `Trainer`."""
        self._no_cache = use_cache()
        keep_freed_memory()
        self._given = Given.of({"preset": preset, **settings}, overrides, env)
        self.callbacks, loggers = several(callbacks, Callback), several(loggers, Logger)
        self.folder = whole_path(named) if (named := self._given.session.run) else None
        self._shown = callbacks_of(progress, writes=self.folder is not None)
        self._open = ExitStack()
        self._runner: Runner | None = None
        self._progress = Milestones()
        self._source: Source | None = None
        self._lesson: Lesson | None = None
        self._stopping = self._callback_failed = False
        self._asked: Stop = never  # by a signal
        self._failed_saves = 0
        self._saved_step: int | None = None
        self._lock: RunLock | None = None
        self._predictor: tuple[int, TrainedAgent] | None = None
        begin = self._resume if self._given.session.resume else self._begin
        with self._open as opened:  # what was opened is let go of if the rest fails
            begin(env)
            assert self._env is not None
            self._divergence = DivergenceWatch(has_target=not self.plan.agent.from_rollouts)
            self._evaluating = opened.enter_context(closing(Evaluating(self._env)))
            self._evaluating.prepare(self.plan)  # says at once what it cannot do
            names = (*self.plan.log, EVENTS) if self.plan.track else self.plan.log
            self._loggers = loggers_for(names, loggers, self.folder)
            self._open = opened.pop_all()
        # A trainer that nobody holds any more must not lock its run.
        weakref.finalize(self, self._open.close).atexit = False

    # -- beginning -----------------------------------------------------------------------------------------

    def _begin(self, env: Environment | None) -> None:
        """A new run: environments first, because the agent's shape follows from them."""
        self._source = source_given(self._given)
        if env is None and self._source is not None:
            env, self._given = task_of(self._source.plan, self._source.name, self._given)
        if env is None:
            raise SpecError("no environment was given; name one, such as 'CartPole-v1' (`engram list envs` shows more)")
        check_free(self._given.session.run)
        check_loggers([*self._given.run.get("log", ()), *[EVENTS] * self._given.run.get("track", False)])
        self._env, self._given = env, with_envs(env, self._given, self._source and self._source.plan)
        self._environment = make_environment(env, self._given.run, self._given.session.worker_timeout, self._open)
        self.plan = self._plan_for(self._given.run.get("steps"))
        self.plan.digest()  # refuses what could not be stored with the run
        self.agent = make_agent(self.plan)  # refuses numbers that do not go together

    def _plan_for(self, steps: int | None) -> RunPlan:
        """The plan for a run of this length; presets scale their schedules to it."""
        env, like = self._env if isinstance(self._env, str) else None, self._source and self._source.plan
        plan = new_plan(env, self._given, self._environment, self.on_device, steps, like)
        plan = plan if self._source is None else replace(plan, start_from=self._source.name)
        plan, self._lesson = planned(plan, self._environment, self.on_device, self._source, self._lesson)
        return plan

    def _resume(self, env: Environment | None) -> None:
        """The run in `folder` from its newest verified checkpoint, as it was planned."""
        chosen, named = self._given.run, self._given.session.run
        if self.folder is None or named is None:
            raise SpecError("resume=True needs the run to go on with; pass run=FOLDER (--run DIR)")
        plan = RunPlan.read(named)
        check_unchanged(plan, self._given, env, self.folder)
        check_trust(plan, self._given, named=env is not None)
        self._env = env if env is not None else plan.env
        self.plan = resumed(plan, {name: value for name, value in chosen.items() if name in FREE})
        self._environment = make_environment(self._env, vars(plan), self._given.session.worker_timeout, self._open)
        check_same_task(plan, self._environment)
        self._lock = self._open.enter_context(RunLock(self.folder))
        runner = self._make_runner()
        self._progress, passed_over = self._keeper.restore(runner, self._given.session.new_episodes)
        if self.plan.evaluate_env != plan.evaluate_env:  # returns of two environments do not compare
            self._progress.best_step = self._progress.best_return = None
        self._runner, self._saved_step = runner, runner.steps
        for sentence in (*map(Warned, passed_over), *getattr(self._environment, "notes", ())):
            self.note(sentence)
        if self.plan != plan:  # its total may be a new one
            self.plan.write(self.folder)

    def _make_runner(self) -> Runner:
        self.agent = make_agent(self.plan)
        where = self._given.session, self.folder, self._open
        runner = make_runner(self.plan, self.agent, self._environment, self.on_device, *where)
        begin_from(self._source, runner, self.plan)
        teach(runner, self.plan, self._lesson)
        return runner

    @property
    def on_device(self) -> bool:
        """Whether environments run in the compiled loop."""
        return isinstance(self._env, str) and is_device(self._env)

    @property
    def runner(self) -> Runner:
        """What drives the agent, made at the first use."""
        if self._runner is None:
            runner = self._make_runner()
            runner.start()
            if self.folder is not None:
                self._lock = claim(self.folder, self.plan, self._open)
            self._runner = runner
            try:
                self._tell_and_save_first()
            except BaseException:
                self._withdraw()
                raise
        return self._runner

    # -- learning ------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """The global step."""
        return self._runner.steps if self._runner else 0

    def learn(self, steps: specs.Number | None = None) -> "Trainer":
        """Trains for `steps` more environment steps, or up to the planned total.

        The first call may set the plan: `Trainer(env).learn(50_000)` is a run planned for 50,000 steps. Steps beyond
        the plan make it longer; `engram.run.planning` says what schedules follow then.

        Raises: Interrupted after a signal, once the state is saved; EngramError if environment or learning fail.
        """
        more: int | None = None if steps is None else check({"steps": steps})["steps"]
        self._stopping = self._callback_failed = False
        if more is not None:
            self._plan_ahead(more)
        begins, runner = self._runner is None, self.runner
        goal = self.plan.steps if more is None else self.steps + more
        self.plan.check_length(goal)
        if self.steps >= goal:
            self.note(f"already at {self.steps:,} of {goal:,} steps; to go on, add --steps with a larger total")
        runner.ended = [] if any(hears(callback, "on_episode") for callback in self.callbacks) else None
        reason = "error"
        with StopRequest() as asked, ExitStack() as files:
            try:
                self._run(runner, goal, asked, files)
                reason = "interrupted" if asked() else "stopped" if self._stopping else "done"
            except BaseException as problem:
                self._save_what_is_sound(problem, begins)
                raise
            finally:
                runner.ended = None
                self._tell("on_stop", reason)
        if asked():
            raise interrupted(self.steps, self._given.session.run, reopening(self.plan), self.plan.env is not None)
        return self

    def prefill(self, episodes: Iterable[Any]) -> "Trainer":
        """Puts recorded episodes into the replay, before the first step. The steps of the run count none of them.

        Each is (observations, actions, rewards, terminated), see `engram.run.prefill.Episode`. This begins the run, so
        its total should be stated before (`steps`).

        Raises: EngramError for what does not belong to the environment, and for a run that has begun.
        """
        if self.steps:
            raise SpecError(f"the run is at step {self.steps:,}; prefill comes before its first step")
        fill_replay(self.runner, self.plan, self._environment, self.on_device, episodes)
        if self.folder is not None:
            self.save()
        return self

    def stop(self) -> None:
        """Asks `learn` to end: within the running step, with the newest step saved. Also from another thread.

        `learn` then returns as if it were done; called again, it goes on.
        """
        self._stopping = True

    def asked_to_stop(self) -> bool:
        """Whether `learn` was asked to end: by a signal, a callback, or `stop`."""
        return self._stopping or self._asked()

    def note(self, text: str) -> None:
        """Tells the callbacks a sentence for people."""
        self._tell("on_note", text)

    def warn(self, text: str) -> None:
        """Tells the callbacks that something is wrong, which the run goes on in spite of."""
        self.note(Warned(text))

    def _plan_ahead(self, steps: int) -> None:
        """The plan before `steps` more: the first call may set it, and later ones may make it longer."""
        if self._runner is None and "steps" not in self._given.run:
            self.plan = self._plan_for(steps)
            return
        before, self.plan = self.plan, longer(self.plan, self.steps + steps, self.steps)
        if self._runner is None or self.plan == before:
            return
        if self.plan.agent != before.agent:
            self.agent = make_agent(self.plan)
            self._runner.follow(self.agent)
            self.note(f"schedules now follow a run of {self.plan.horizon:,} steps, where they had {before.horizon:,}")
        if self.folder is not None:
            self.plan.write(self.folder)

    def _open_log(self, files: ExitStack) -> RunLog | None:
        if self.folder is None:
            return None
        track, also = self.plan.track or EVENTS in self.plan.log, Loggers(self._loggers, self.note)
        return files.enter_context(RunLog(self.folder, self.steps, track=track, tell=self.warn, also=also))

    def _run(self, runner: Runner, goal: int, asked: StopRequest, files: ExitStack) -> None:
        saves = (None, None) if self.folder is None else (self._try_to_save, self._save_best)
        self._asked, stop = asked, self.asked_to_stop
        self._tell("on_start")  # first: who refuses the run finds nothing of it with loggers
        self._source = self._lesson = None  # their arrays have been taken
        told = self._open_log(files), self._tell, stop
        course = Course(self.plan, runner, self._progress, self._evaluating, *told, *saves, self._divergence.look)
        course.run(goal)
        if self.folder is not None:
            if note := runner.finish(stop()):
                self.note(note)
            if runner.steps != self._saved_step:
                self.save()

    def _save_what_is_sound(self, problem: BaseException, begins: bool) -> None:
        """After a fault of an environment or an error of a callback: what was learned before is kept, as far as it can
        be. A run that was refused as it began leaves nothing.
        """
        if self.folder is None:
            return
        if begins and self.steps == 0 and isinstance(problem, SpecError):
            self._withdraw()
            return
        # On the device, learning went on after the fault of an environment.
        sound = self._callback_failed or (isinstance(problem, EnvironmentFault) and not self.on_device)
        if not sound or self._saved_step == self.steps:
            return
        try:
            self.save()
        except EngramError as failure:
            self.warn(f"the state before the fault could not be saved: {failure}")

    # -- saving --------------------------------------------------------------------------------------------

    def save(self) -> Saved:
        """Writes a checkpoint of everything that changes; when it returns, the checkpoint is on the disk."""
        if self.folder is None:
            raise SpecError("this trainer has no run directory to save into; make it with run=FOLDER")
        if self._lock is not None:
            self._lock.check()
        saved = self._keeper.save(self.runner, self._progress)
        self._saved_step = saved.step
        self._tell("on_save", saved)
        return saved

    def _try_to_save(self) -> None:
        """A full disk need not end a run: it goes on, says so, and gives up only after several failures in a row."""
        try:
            self.save()
            self._failed_saves = 0
        except WriteFailed as failure:
            self._failed_saves += 1
            self.warn(f"{failure} (training goes on; failure {self._failed_saves} of {FAILED_SAVES})")
            if self._failed_saves == FAILED_SAVES:
                raise

    def _save_best(self) -> bool:
        try:
            self._keeper.save_best(self.runner, self._progress)
        except WriteFailed as failure:
            self.warn(f"{failure} (training goes on)")
            return False
        return True

    def state_digest(self) -> str:
        """SHA-256 over every leaf of the state, replay and environment included."""
        return keeping.digest(self.runner)

    @cached_property
    def _keeper(self) -> Keeper:
        assert self.folder is not None
        return Keeper(self.folder, self.plan.digest())

    def _tell_and_save_first(self) -> None:
        """What is said before a run begins, and step 0, from where on there is something to resume."""
        for sentence in notes_at_start(self.plan, self.agent, self._environment, self.on_device):
            self.note(sentence)
        if self._no_cache:
            self.note(self._no_cache)
        if self.folder is not None:
            self.save()

    def _withdraw(self) -> None:
        """As if the run had not begun: the folder is free, and `learn` may begin it anew, also with another plan."""
        self._runner = self._saved_step = None
        vars(self).pop("_keeper", None)  # it knows the plan
        if self.folder is not None and self._lock is not None:
            with suppress(WriteFailed):
                self._lock.check()  # what is at its path now may be another's
                withdraw(self.folder)
            self._lock.release()
            self._lock = None

    # -- using ---------------------------------------------------------------------------------------------

    def trained(self) -> TrainedAgent:
        """The agent as it is now."""
        runner = self._runner or self._make_runner()
        return TrainedAgent(self.plan, runner.minds(), self._env, trust=True, of_training=True)  # resuming has asked

    @environment_first
    def evaluate(
        self,
        episodes: Any = 20,
        seed: specs.Number = 0,
        forget: bool = False,
        env: Environment | None = None,
        env_args: Mapping[str, Any] | None = None,
        max_episode_steps: int | None = None,
    ) -> Evaluation:
        """Plays whole episodes greedily with the newest parameters, also elsewhere; see `TrainedAgent.evaluate`."""
        return self.trained().evaluate(episodes, seed, forget, env, env_args, max_episode_steps)

    def predict(
        self,
        observation: PyTree,
        state: PyTree | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
        reward: Any = None,
    ) -> tuple[Any, PyTree]:
        """The action for one observation, or a batch of them, and the next state; see `TrainedAgent.predict`."""
        if self._predictor is None or self._predictor[0] != self.steps:
            self._predictor = self.steps, self.trained()
        return self._predictor[1].predict(observation, state, episode_start, deterministic, reward)

    def info(self) -> dict[str, Any]:
        """What `engram info` shows, for this trainer's run directory."""
        if self.folder is None:
            raise SpecError("this trainer has no run directory; make it with run=FOLDER")
        return info(self.folder)

    def close(self) -> None:
        """Lets go of the environments and of the run directory."""
        self._open.close()

    def __getstate__(self) -> Any:
        told = "a trainer holds environments and cannot be copied or pickled; copy what it has learned"
        raise SpecError(f"{told}: trainer.trained()")

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        plan, named = self.plan, self._given.session.run
        where = f", run {str(named)!r}" if named else ""
        return f"Trainer({title_of(plan)}: step {self.steps:,} of {plan.steps:,}{where})"

    def _tell(self, event: str, *arguments: Any) -> None:
        for callback in (*self._shown, *self.callbacks):
            if not hasattr(callback, event):
                continue
            try:
                answer = getattr(callback, event)(self, *arguments)
            except BaseException:
                self._callback_failed = True
                raise
            if answer is False:
                self.stop()
