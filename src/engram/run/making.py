"""What a run is made of: its environments, and the runner that drives its agent through them."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from engram.agents.agent import Agent, Rhythm
from engram.agents.told import assumptions, reasons, why_so_many
from engram.agents.without_replay import MANY
from engram.envs.device import is_device, make_device
from engram.envs.host.build import check_unasked
from engram.envs.host.make import make_host
from engram.envs.limit import limited
from engram.errors import SpecError, Warned
from engram.run import demonstrations
from engram.run.cluster import LOCAL, agent_of, in_words, make_cluster_runner, stand_in_for
from engram.run.machine import amount, check_fits
from engram.run.plan import RunPlan, team_of
from engram.run.settings import Given, Session
from engram.runners.common import Runner
from engram.runners.device import DeviceRunner
from engram.runners.host import HostRunner

ALONE = Session()  # told nothing
# Settings that making environments takes.
MAKING = ("seed", "envs", "asynchronous", "action_bins", "env_args", "max_episode_steps")


def make_environment(env: Any, run: Mapping[str, Any], worker_timeout: float, opened: ExitStack) -> Any:
    """A device environment, or a batch of host environments, by these settings of the run.

    `opened` closes what was made. Raises EngramError for what cannot be made.
    """
    run = stand_in_for(run)  # actors make their own
    arguments = {name: run[name] for name in MAKING if name in run}
    if isinstance(env, str) and is_device(env):
        for name in ("asynchronous", "action_bins"):
            if arguments.get(name):
                raise SpecError(f"{name} is for host environments; {env!r} runs on the device: leave it out")
        made = make_device(env, **(arguments.get("env_args") or {}))
        return limited(made, arguments.get("max_episode_steps"))
    given: dict[str, Any] = {"seed": 0, "worker_timeout": worker_timeout} | arguments
    return opened.enter_context(closing(make_host(env, **given)))


def make_agent(plan: RunPlan, stored: bool = False) -> Agent:
    """The agent of a plan. `stored`: as it is looked at outside of its run, with all that it remembers in one place."""
    if plan.shards and not stored:
        return agent_of(plan)
    return plan.agent.build(plan.space, plan.actions, plan.envs, plan.demonstration_rows, **team_of(plan.agents))


def make_runner(
    plan: RunPlan,
    agent: Agent,
    environment: Any,
    device: bool,
    session: Session = ALONE,
    folder: Path | None = None,
    opened: ExitStack | None = None,
) -> Runner:
    """What drives the agent, once its memory was checked for. Raises SpecError where it does not suffice.

    `opened` ends the actors of a cluster.
    """
    # The host acts with a copy of the external memory while the other is written.
    copies = {"external memory": 1 if device else 2}
    check_fits({name: plan.seeds * copies.get(name, 1) * size for name, size in agent.nbytes().items()})
    if device:
        return DeviceRunner(agent, environment, range(plan.seed, plan.seed + plan.seeds))
    if plan.seeds > 1:
        raise SpecError(
            f"{plan.env!r} runs on the host, where seeds learn one after another: `engram train` does that, "
            f"and in Python make one Trainer for each seed"
        )
    if plan.actors:
        runner = make_cluster_runner(plan, agent, session.cluster or LOCAL, folder, session.worker_timeout)
        if opened is not None:
            opened.callback(runner.close)
        return runner
    return HostRunner(agent, environment, plan.seed, plan.group)


def check_trust(plan: RunPlan, given: Given, named: bool) -> None:
    """Raises Untrusted where the run's files alone name an environment, for training or evaluation, that runs code.

    `named`: whether the user has named the environment too.
    """
    if given.session.trust:
        return
    if plan.env is not None and not is_device(plan.env):
        check_unasked(plan.env, plan.env_args, named=named)
    other = plan.evaluate_env
    if other is not None and "evaluate_env" not in given.run and not is_device(other):
        check_unasked(other, {})


def learns(plan: RunPlan, rhythm: Rhythm, on_device: bool) -> bool:
    """Whether the run is long enough for one moment of learning.

    A run on the device ends with a whole cycle. On the host it ends with a step of all environments, and learns where
    a block of cycles is full.
    """
    each = rhythm.acts * plan.envs
    first = _up(max(rhythm.first, 1), each)
    if on_device:
        return _up(plan.steps, each) >= first
    block = each * (plan.group if rhythm.lag else 1)
    return _up(plan.steps, plan.envs) // block * block >= first


def _up(steps: int, each: int) -> int:
    """The first multiple of `each` that is not below `steps`."""
    return -(-steps // each) * each


def _instead(plan: RunPlan) -> str | None:
    """What learns from rollouts in place of this agent, as it is typed after `--preset`; None where nothing does, and
    for an agent that does.
    """
    spec = plan.agent
    relabels = getattr(getattr(spec, "draw", None), "relabels", False)
    if not spec.replay_rows or plan.demonstration_rows or relabels:  # those are for a replay, as hindsight is
        return None
    if plan.agents > 1:
        return "smax"
    if spec.turns:
        return "go"
    if spec.has_memory:
        return "pqn-rnn"
    if spec.head.decouples:
        return "pqn head=decoupled"
    return "pqn-memory" if spec.has_external else "pqn"


def notes_at_start(plan: RunPlan, agent: Agent, environment: Any, on_device: bool) -> Iterator[str]:
    """What is said before a run begins: what was chosen and why, how large it is, what a checkpoint holds."""
    yield f"{plan.preset}: {reasons(plan.agent, plan.space)}; {plan.actions} actions"
    yield from assumptions(plan.agent, plan.space)
    each = " a seed" if plan.seeds > 1 else ""
    sizes = {name: size for name, size in agent.nbytes().items() if size}
    names = [plan.agent.kept, *list(sizes)[1:]]  # the first of them is what it learns from
    told = "; ".join(f"{name}: {amount(size)}{each}" for name, size in zip(names, sizes.values(), strict=False))
    yield f"{told}{why_so_many(plan.preset, plan.agent, plan.space)}"
    if not learns(plan, agent.rhythm, on_device):
        yield Warned(f"{plan.agent.begins} is not reached: nothing will be learned")
    whole = agent.rhythm.acts * plan.envs
    if on_device and (end := _up(plan.steps, whole)) >= 1.01 * plan.steps:
        what = "rollouts" if plan.agent.from_rollouts else "cycles"
        yield f"the run ends at step {end:,}: with whole {what}, of {whole:,} steps each"
    looks_back = plan.agent.has_memory or plan.agent.observation.stack > 1
    if plan.agent.turns and looks_back and getattr(environment, "to_evaluate", None) is not None:
        yield Warned(
            "evaluations show one side's positions alone, and what looks back learns from those of both sides: judge "
            "it by engram match"
        )
    if plan.agent.from_rollouts and plan.envs == 1:
        yield Warned("a rollout of one environment is one course of events: give it several, such as envs=8 (--envs 8)")
    if on_device and plan.envs >= MANY and (other := _instead(plan)):
        yield (
            f"{plan.envs} environments on the device are many: --preset {other} learns from rollouts of them, without "
            f"a replay, and makes more steps in a second"
        )
    if plan.actors:
        yield (
            f"{plan.actors} actors with {plan.envs // plan.actors} environments each"
            + (f", {plan.shards} shards of {in_words(plan)}" if plan.shards else "")
        )
    if not on_device:
        yield f"{environment.description}; state at a checkpoint: {environment.level}"
        yield from environment.notes
    yield from demonstrations.notes(plan)
    if plan.start_from is not None:
        yield f"begins with the {plan.start_with} of {plan.start_from}; exploration starts anew"
