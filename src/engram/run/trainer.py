"""The trainer: one object that owns a run, from its first step to its last, over as many processes as it takes.

trainer = Trainer("CartPole-v1", seed=0, run="runs/mine")
trainer.learn(50_000)
trainer.evaluate(episodes=20).mean
"""

import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

from engram import specs
from engram.agents.presets import default_steps, kind_of, reasons
from engram.agents.presets import preset as make_preset
from engram.agents.q_learning import QLearner
from engram.checkpoint.files import RunLock
from engram.checkpoint.store import Saved, SaveFailed
from engram.envs.device import is_device, make_device
from engram.envs.host.make import make_host
from engram.errors import CheckpointError, EngramError, EnvironmentFault, Interrupted, SpecError
from engram.play.evaluation import Evaluation
from engram.play.trained import Environment, TrainedAgent
from engram.run import keeper as keeping
from engram.run.keeper import Keeper
from engram.run.machine import check_fits, keep_freed_memory, use_cache
from engram.run.metrics import RunLog
from engram.run.plan import RunPlan, holds_run, info
from engram.run.settings import FREE, Given, check, check_names, takes_settings
from engram.run.stop import StopRequest
from engram.runners.common import Runner
from engram.runners.device import DeviceRunner
from engram.runners.host import HostRunner

# Metrics lines and checkpoints of a whole run, and the most steps between two of them, unless told otherwise.
LOG_POINTS, LOG_AT_LEAST = 100, 10_000
SAVE_POINTS, SAVE_AT_LEAST = 10, 50_000
MAKING = ("seed", "envs", "asynchronous", "action_bins", "env_args")  # settings that making environments takes
GROUP = 8  # moments of learning in one call, for small networks on the host
FAILED_SAVES = 5  # in a row, before a run gives up


class Trainer:
    """Trains, evaluates, saves and resumes one agent, or one for each of several seeds.

    Args:
      env: a Gymnasium id, a device id (`engram list envs`), a Gymnasium environment, or a function that makes one.
        Not needed when a run is resumed that was started from an id.
      callbacks: objects with any of `on_start(trainer)`, `on_metrics(trainer, metrics)`, `on_save(trainer, saved)`,
        `on_note(trainer, text)`, `on_stop(trainer, reason)`.
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
        callbacks: Iterable[Any] = (),
        overrides: Mapping[str, Any] | None = None,
        **settings: Any,
    ):
        """See `Trainer`."""
        use_cache()
        keep_freed_memory()
        self._given = Given.of({"preset": preset, **settings}, overrides)
        self.callbacks = tuple(callbacks)
        self.folder = self._given.session.run
        self._open = ExitStack()
        self._runner: Runner | None = None
        self._seconds = 0.0
        self._failed_saves = 0
        self._saved_step: int | None = None
        self._predictor: tuple[int, TrainedAgent] | None = None
        begin = self._resume if self._given.session.resume else self._begin
        with self._open as opened:  # what was opened is let go of if the rest fails
            begin(env)
            self._open = opened.pop_all()

    # -- beginning -----------------------------------------------------------------------------------------

    def _begin(self, env: Environment | None) -> None:
        """A new run: environments first, because the agent's shape follows from them."""
        if env is None:
            raise SpecError("no environment was given; name one, such as 'CartPole-v1' (`engram list envs` shows more)")
        self._check_free()
        self._env = env
        self._environment = self._make_environment(env, self._given.run)
        self.plan = self._plan_for(self._given.run.get("steps"))
        self.plan.digest()  # refuses what could not be stored with the run

    def _plan_for(self, steps: int | None) -> RunPlan:
        """The plan for a run of this length; presets scale their schedules to it."""
        chosen, changes = self._given.run, self._given.agent
        space, actions = self._environment.observation_space, self._environment.actions
        total = default_steps(space) if steps is None else steps
        agent = make_preset(chosen.get("preset", "auto"), space, total)
        check_names(agent, changes)
        agent = specs.override_all(agent, changes)
        derived: dict[str, Any] = {
            "log_every": min(max(1, total // LOG_POINTS), LOG_AT_LEAST),
            "save_every": min(max(1, total // SAVE_POINTS), SAVE_AT_LEAST),
            "group": 1 if self.on_device or agent.has_memory or kind_of(space) != "vector" else GROUP,
        }
        return RunPlan(
            env=self._env if isinstance(self._env, str) else None,
            agent=agent,
            space=space,
            actions=actions,
            **{**derived, **chosen, "steps": total},
        )

    def _resume(self, env: Environment | None) -> None:
        """The run in `folder` from its newest verified checkpoint, as it was planned."""
        chosen, changes = self._given.run, self._given.agent
        if self.folder is None:
            raise SpecError("resume=True needs the run to go on with; pass run=FOLDER (--run DIR)")
        plan = RunPlan.read(self.folder)
        check_names(plan.agent, changes)
        if changes:
            raise SpecError(f"{next(iter(changes))!r} cannot be changed in a resumed run; start a new one with it")
        for name, value in chosen.items():
            if name not in FREE and getattr(plan, name) != value:
                raise SpecError(
                    f"{self.folder} was started with {name} = {getattr(plan, name)!r}, not {value!r}; leave it out"
                )
        if isinstance(env, str) and plan.env is not None and env != plan.env:
            raise SpecError(f"{self.folder} is a run of {plan.env!r}, not of {env!r}; leave the environment out")
        if env is None and plan.env is None:
            raise SpecError(f"{self.folder} was started with an environment object; pass the same one again")
        self._env = env if env is not None else plan.env
        self.plan = replace(plan, **{name: value for name, value in chosen.items() if name in FREE})
        self._environment = self._make_environment(self._env, vars(plan))
        if (self._environment.observation_space, self._environment.actions) != (plan.space, plan.actions):
            raise CheckpointError(
                f"the environment now has {self._environment.observation_space} and {self._environment.actions} "
                f"actions, but the run was started with {plan.space} and {plan.actions}; restore its version"
            )
        self._open.enter_context(RunLock(self.folder))
        runner = self._make_runner()
        self._seconds, passed_over = self._keeper.restore(runner, self._given.session.new_episodes)
        self._runner, self._saved_step = runner, runner.steps
        for sentence in passed_over:
            self._tell("on_note", sentence)
        self.plan.write(self.folder)  # its total may be a new one

    def _make_environment(self, env: Any, run: Mapping[str, Any]) -> Any:
        """A device environment, or a batch of host environments, by these settings of the run."""
        arguments = {name: run[name] for name in MAKING if name in run}
        if isinstance(env, str) and is_device(env):
            for name in ("asynchronous", "action_bins"):
                if arguments.get(name):
                    raise SpecError(f"{name} is for host environments; {env!r} runs on the device: leave it out")
            return make_device(env, **(arguments.get("env_args") or {}))
        given: dict[str, Any] = {"seed": 0, "worker_timeout": self._given.session.worker_timeout} | arguments
        return self._open.enter_context(closing(make_host(env, **given)))

    def _make_runner(self) -> Runner:
        """The agent, its memory checked for, and what drives it."""
        plan = self.plan
        agent = QLearner(plan.agent, plan.space, plan.actions, plan.envs)
        # The host acts with a copy of the external memory while the other is written.
        copies = {"external memory": 1 if self.on_device else 2}
        check_fits({name: plan.seeds * copies.get(name, 1) * size for name, size in agent.nbytes().items()})
        seeds = range(plan.seed, plan.seed + plan.seeds)
        self.agent = agent
        if self.on_device:
            return DeviceRunner(agent, self._environment, seeds)
        if plan.seeds > 1:
            raise SpecError(
                f"{plan.env!r} runs on the host, where seeds learn one after another: `engram train` does that, "
                f"and in Python make one Trainer for each seed"
            )
        return HostRunner(agent, self._environment, plan.seed, plan.group)

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
                self._claim()
            self._tell_start()
            self._runner = runner
            if self.folder is not None:
                self.save()  # step 0: from here on there is something to resume
        return self._runner

    def _tell_start(self) -> None:
        plan = self.plan
        self._tell("on_note", f"{plan.preset}: {reasons(plan.agent, plan.space)}; {plan.actions} actions")
        sizes = "; ".join(f"{name}: {size / 1e9:.2f} GB a seed" for name, size in self.agent.nbytes().items() if size)
        self._tell("on_note", f"{plan.agent.replay.capacity:,} rows of replay; {sizes}")
        if plan.steps <= plan.agent.replay.start:
            self._tell("on_note", f"replay.start={plan.agent.replay.start} is not reached: nothing will be learned")
        if not self.on_device:
            environment = self._environment
            self._tell("on_note", f"{environment.description}; state at a checkpoint: {environment.level}")
            for note in environment.notes:
                self._tell("on_note", note)

    # -- learning ------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """The global step."""
        return self._runner.steps if self._runner else 0

    def learn(self, steps: int | None = None) -> "Trainer":
        """Trains for `steps` more environment steps, or up to the planned total.

        The first call may set the plan: `Trainer(env).learn(50_000)` is a run planned for 50,000 steps.

        Raises: Interrupted after a signal, once the state is saved; EngramError if environment or learning fail.
        """
        check({} if steps is None else {"steps": steps})
        if self._runner is None and steps is not None and "steps" not in self._given.run:
            self.plan = self._plan_for(steps)
        runner = self.runner
        goal = self.plan.steps if steps is None else self.steps + steps
        reason = "error"
        self._tell("on_start")
        with StopRequest() as stop, ExitStack() as files:
            log = None
            if self.folder is not None:
                log = files.enter_context(RunLog(self.folder, self.steps, track=self.plan.track))
            try:
                self._run(runner, goal, stop, log)
                reason = "interrupted" if stop() else "done"
            except EnvironmentFault:
                self._save_after_fault()
                raise
            finally:
                self._tell("on_stop", reason)
        if stop():
            where = (
                f"after saving; go on with: engram train --run {self.folder} --resume"
                if self.folder
                else "(nothing is kept without a run directory)"
            )
            raise Interrupted(f"stopped at step {self.steps:,} {where}")
        return self

    def _run(self, runner: Runner, goal: int, stop: StopRequest, log: RunLog | None) -> None:
        plan = self.plan
        while runner.steps < goal and not stop():
            before, began = runner.steps, time.perf_counter()
            border = min(goal, _next(before, plan.log_every), _next(before, plan.save_every))
            runner.advance(border, stop)
            seconds = time.perf_counter() - began
            self._seconds += seconds
            if _crossed(before, runner.steps, plan.log_every) or runner.steps >= goal:
                self._report(runner, (runner.steps - before) / seconds, log)
            if self.folder is not None and _crossed(before, runner.steps, plan.save_every) and runner.steps < goal:
                self._try_to_save()
        if self.folder is not None:
            if note := runner.finish(stop()):
                self._tell("on_note", note)
            if runner.steps != self._saved_step:
                self.save()

    def _save_after_fault(self) -> None:
        """An environment broke, but what was learned before is sound: it is kept, as far as it can be."""
        if self.folder is None or self.on_device:  # on the device, learning went on after the fault
            return
        try:
            self.save()
        except EngramError as problem:
            self._tell("on_note", f"the state before the fault could not be saved: {problem}")

    def _report(self, runner: Runner, speed: float, log: RunLog | None) -> None:
        plan = self.plan
        metrics = {"step": runner.steps, "total": plan.steps, **runner.report()}
        metrics |= {"steps_per_second": speed * plan.seeds, "seconds": self._seconds, "seeds": plan.seeds}
        if log is not None:
            log.write(metrics)
        self._tell("on_metrics", metrics)

    # -- saving --------------------------------------------------------------------------------------------

    def save(self) -> Saved:
        """Writes a checkpoint of everything that changes; when it returns, the checkpoint is on the disk."""
        if self.folder is None:
            raise SpecError("this trainer has no run directory to save into; make it with run=FOLDER")
        saved = self._keeper.save(self.runner, self._seconds)
        self._saved_step = saved.step
        self._tell("on_save", saved)
        return saved

    def _try_to_save(self) -> None:
        """A full disk need not end a run: it goes on, says so, and gives up only after several failures in a row."""
        try:
            self.save()
            self._failed_saves = 0
        except SaveFailed as failure:
            self._failed_saves += 1
            self._tell("on_note", f"{failure} (training goes on; failure {self._failed_saves} of {FAILED_SAVES})")
            if self._failed_saves == FAILED_SAVES:
                raise

    def state_digest(self) -> str:
        """SHA-256 over every leaf of the state, replay and environment included."""
        return keeping.digest(self.runner)

    @cached_property
    def _keeper(self) -> Keeper:
        assert self.folder is not None
        return Keeper(self.folder, self.plan.digest())

    def _claim(self) -> None:
        """Takes the run directory for a new run, unless another trainer began one there meanwhile."""
        assert self.folder is not None
        with ExitStack() as held:
            held.enter_context(RunLock(self.folder))
            self._check_free()
            self.plan.write(self.folder)
            self._open.enter_context(held.pop_all())

    def _check_free(self) -> None:
        if self.folder is not None and holds_run(self.folder):
            raise SpecError(
                f"{self.folder} already holds a run; pass resume=True (--resume) to go on with it, or another run"
            )

    # -- using ---------------------------------------------------------------------------------------------

    def trained(self) -> TrainedAgent:
        """The agent as it is now."""
        runner = self._runner or self._make_runner()
        like = None if self.on_device else self._environment
        return TrainedAgent(self.plan, runner.minds(), self._env, like)

    def evaluate(
        self,
        episodes: int = 20,
        seed: int = 0,
        forget: bool = False,
        env: Environment | None = None,
        env_args: Mapping[str, Any] | None = None,
    ) -> Evaluation:
        """Plays whole episodes greedily with the newest parameters, also elsewhere; see `TrainedAgent.evaluate`."""
        return self.trained().evaluate(episodes, seed, forget, env, env_args)

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

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tell(self, event: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            if hasattr(callback, event):
                getattr(callback, event)(self, *arguments)


def load(run: str | Path, env: Environment | None = None) -> TrainedAgent:
    """The agent of a stored run, to evaluate and predict with; the run itself may go on meanwhile."""
    folder = Path(run)
    use_cache()
    plan = RunPlan.read(folder)
    agent = QLearner(plan.agent, plan.space, plan.actions, plan.envs)
    minds, _ = Keeper(folder, plan.digest()).minds(agent)
    return TrainedAgent(plan, minds, env)


def _next(step: int, every: int) -> int:
    return (step // every + 1) * every


def _crossed(before: int, after: int, every: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]: many environments step over the multiple itself."""
    return before // every != after // every
