"""Plans: from what was given to what a run is, and how a plan grows when a run is made longer.

The *horizon* is the number of steps that schedules follow (exploration, step size), and by which lines of metrics,
evaluations and checkpoints are spread. It is the total, where one was stated, or the steps of the first `learn`. What
was given outright (`exploration.steps=1000`, `log_every=50`) follows nothing.

A run that goes on beyond its horizon gets a new one, from that step on:

    a new total (`steps`, --steps)     that total
    `learn(n)`, a total was stated     twice the steps so far, or the new end if that is later
    `learn(n)`, none was ever stated   the same, but at least a run of the usual length (`default_steps`)

A resumed run follows the schedules of run.json from where it is, so it stays exact. A new horizon counts from the step
at which it is set: what was learned before it, was learned by the old one.

So forty calls of `learn(500)` explore and slow down as one long run, and not forty times within 500 steps. Sizes (of
the replay, of networks) and the start of learning stay as they were first planned.
"""

from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

from engram import registry, specs
from engram.agents.mind import MindSpec
from engram.agents.presets import WITHOUT_REPLAY, preset
from engram.agents.unread import check_read, of_chosen_parts
from engram.agents.usual import default_steps, kind_of
from engram.agents.without_replay import ENVS, ENVS_OF
from engram.envs.device import has_turns, is_device
from engram.envs.host.actions import check_few_of
from engram.envs.teams import agents_of
from engram.errors import CheckpointError, SpecError
from engram.run.cluster import check_as_before, check_cluster, with_actors
from engram.run.machine import SHARE, available
from engram.run.plan import OF_AGENT, RunPlan, team_of
from engram.run.settings import FREE, Given, check_names
from engram.spaces import Space, same

# Lines, checkpoints and evaluations of a whole run, and the most steps between two of them, unless told otherwise.
LOG_POINTS, LOG_AT_LEAST = 100, 10_000
SAVE_POINTS, SAVE_AT_LEAST = 10, 50_000
EVALUATION_POINTS, TRIAL = 10, 1_000  # a run shorter than TRIAL is not evaluated unless that is asked for
FARTHEST = 1_000  # steps ahead in which a goal is looked for, unless told otherwise: each example looks at them all
GROUP = 8  # moments of learning in one call, for small networks on the host

# Settings of an agent that presets scale to the horizon.
SCHEDULES = ("exploration.steps", "optimizer.decay_steps", "draw.correction_updates")
RHYTHM = ("log_every", "save_every", "evaluate_every")


def with_envs(env: Any, given: Given, like: RunPlan | None) -> Given:
    """With as many environments as an agent without replay steps together, where nobody said how many; with actors, one
    for each of them. `like` is the plan of the run to begin from. Raises SpecError for a cluster that cannot be.
    """
    check_cluster(env, given)
    given = with_actors(given)
    like = None if "preset" in given.run else like
    if "envs" in given.run or not isinstance(env, str) or not _from_rollouts(given, like):
        return given
    on_device, on_host = ENVS_OF.get(given.run.get("preset", like.preset if like else ""), ENVS)
    many = on_device if is_device(env) else on_host
    if like is not None and like.agent.from_rollouts and like.env and is_device(like.env) == is_device(env):
        many = like.envs
    return given._replace(run={**given.run, "envs": many})


def _from_rollouts(given: Given, like: RunPlan | None) -> bool:
    """Whether the agent learns from rollouts: as its kind says, else the preset, else the run to begin from."""
    kind = given.agent.get("agent")
    if isinstance(kind, str):
        return getattr(registry.find("agent", kind), "from_rollouts", False)
    if "preset" in given.run:
        return given.run["preset"] in WITHOUT_REPLAY
    return like is not None and like.agent.from_rollouts


def new_plan(
    env: str | None, given: Given, made: Any, device: bool, steps: int | None, like: RunPlan | None
) -> RunPlan:
    """The plan of a new run of `steps`, or of the usual length.

    `made` is the environment, or the batch of them. `like` is the plan
    of a run whose weights this one begins with: its agent is changed by what was given, unless
    another preset was named.
    """
    if not device and not given.run.get("actors"):
        given = given._replace(run={**given.run, "envs": made.envs})  # of a ready vector environment
    chosen, changes, space = given.run, given.agent, made.observation_space
    total = default_steps(space) if steps is None else steps
    name = chosen.get("preset", like.preset if like else "auto")
    kept = like if like and "preset" not in chosen else None
    agent = kept.agent if kept else preset(name, space, total, getattr(made, "reward_clip", 0.0))
    check_names(agent, changes)
    changes = of_chosen_parts(agent, changes, given.typed)

    def fit(agent: MindSpec) -> MindSpec:
        """A replay that is taken over has the size that it had; a rollout is fitted to the environments of now."""
        fits = kept is None or agent.from_rollouts
        if not fits:
            return agent
        known = [path for path, *_ in specs.describe(agent) if _given(changes, path)]
        envs = chosen.get("envs", 1)
        if agent.from_rollouts and kept is not None:  # minibatches that divide stay as they were
            as_before = agent.fitted([*known, "rollout.minibatches"], total, envs)
            if as_before.divides(envs):
                return as_before
        return agent.fitted(known, total, envs)

    agent = specs.unfinished(agent, changes, fit)
    check_read(agent, given.typed)
    agent = specs.checked(agent)
    agent = of_environment(with_turns(agent, changes, made, env), changes, made)
    agent = agent if kept else within_memory(to_the_end(agent, changes, made), given, made)
    stated = () if kept is None else [path for path in SCHEDULES if path not in kept.schedules]
    schedules = [path for path in SCHEDULES if _has(agent, path) and not _given(changes, path) and path not in stated]
    follows = [item for item in ("steps", *RHYTHM) if item not in chosen] + [OF_AGENT + path for path in schedules]
    agent = _scheduled(agent, name, space, total, schedules)
    single = device or agent.has_memory or kind_of(space) != "vector"
    derived: dict[str, Any] = {**_rhythm(total, chosen), "group": 1 if single else GROUP, "preset": name}
    shown = None if device else made.translator.to_json()
    return RunPlan(
        env=env, agent=agent, space=space, actions=made.actions, agents=agents_of(made), shown=shown, horizon=total,
        data=getattr(made, "data_digest", None),
        follows=tuple(follows),
        **{**derived, **chosen, "steps": total},
    )  # fmt: skip


def with_turns(agent: MindSpec, changes: dict[str, Any], made: Any, env: str | None) -> MindSpec:
    """The agent that counts what the other side is worth against, where the environment says who moves next.

    Raises SpecError where that was asked for, and the environment does not say it.
    """
    if has_turns(made):
        if getattr(getattr(agent, "draw", None), "relabels", False):
            raise SpecError(
                f"draw=hindsight was given, but in {env or 'this environment'} two sides take turns, and a goal is one "
                f"side's; set draw=uniform"
            )
        pool = getattr(agent, "pool", None)
        if pool is not None and pool.share and getattr(made, "answers", False):
            if "pool.share" in changes:
                raise SpecError(
                    f"pool.share = {pool.share} lets past selves play one side, but the environment plays it itself; "
                    f"set pool.share=0, or leave its opponent out"
                )
            agent = specs.override(agent, "pool.share", 0.0)
        return agent if "turns" in changes else specs.override(agent, "turns", True)
    if agent.turns:
        raise SpecError(
            f"turns = true was given, but {env or 'this environment'} does not say who moves next; leave it out "
            f"(an environment of your own says it by a sign in DeviceStep)"
        )
    return agent


def of_environment(agent: MindSpec, changes: dict[str, Any], made: Any) -> MindSpec:
    """The agent with what only the environment knows, where nobody gave it: its joint actions, its rule of goals.

    Raises SpaceError for more joint actions than can have a value each. SpecError where goals were said to be rewarded
    in another way than the environment rewards them.
    """
    sizes = getattr(made, "action_sizes", ())
    if agent.head.decouples and not agent.head.sizes and len(sizes) > 1:
        agent = specs.override(agent, "head.sizes", sizes)
    elif agent.head.decouples and len(sizes) > 1 and tuple(agent.head.sizes) != tuple(sizes):
        given, has = (",".join(map(str, each)) for each in (agent.head.sizes, sizes))
        raise SpecError(f"head.sizes = {given} was given, but the numbers of an action have {has} values; leave it out")
    elif not agent.head.decouples:
        check_few_of(sizes)
    draw, rule = getattr(agent, "draw", None), getattr(made, "goal_rule", None)
    if draw is None or not draw.relabels or rule is None:
        return agent
    told = {"distance": rule.kind == "distance"}
    told |= {} if told["distance"] else {name: getattr(rule, name) for name in ("within", "reached", "missed")}
    for name in ("within", "reached", "missed") if told["distance"] else ():
        if (path := f"draw.{name}") in changes:
            raise SpecError(
                f"{path} = {changes[path]} was given, but this environment rewards the distance; leave it out"
            )
    for name, value in told.items():
        if changes.get(path := f"draw.{name}", value) != value:
            has = (
                f"has {value:g}" if name != "distance" else f"rewards {'the distance' if value else 'reaching a goal'}"
            )
            raise SpecError(f"{path} = {changes[path]} was given, but this environment {has}; leave it out")
    return specs.override_all(agent, {f"draw.{name}": value for name, value in told.items()})


def to_the_end(agent: MindSpec, changes: dict[str, Any], made: Any) -> MindSpec:
    """The agent that looks for goals as far as the environment's time limit says, where nobody said how far."""
    rule, relabels = getattr(made, "goal_rule", None), getattr(getattr(agent, "draw", None), "relabels", False)
    if not relabels or rule is None or rule.longest is None or _given(changes, "draw.horizon"):
        return agent
    return specs.override(agent, "draw.horizon", min(rule.longest, FARTHEST))


def within_memory(agent: MindSpec, given: Given, made: Any) -> MindSpec:
    """The agent with as many rows of replay as this machine holds, where nobody said how many.

    Rows in shards are on other machines; what stays here of each is some bytes.
    """
    if not agent.replay_rows or "replay.capacity" in given.agent or given.run.get("shards"):
        return agent
    if (free := available()) is None:
        return agent
    sizes = agent.build(
        made.observation_space, made.actions, given.run.get("envs", 1), **team_of(agents_of(made))
    ).nbytes()
    size = given.run.get("seeds", 1) * sizes["replay"]
    if size <= SHARE * free:
        return agent
    return specs.override(agent, "replay.capacity", int(agent.replay_rows * free / 2 / size))


def longer(plan: RunPlan, goal: int, now: int) -> RunPlan:
    """The plan of a run that `learn` takes from step `now` to `goal`, which may lie beyond it."""
    usual = default_steps(plan.space) if "steps" in plan.follows else 0
    horizon = plan.horizon if goal <= plan.horizon else max(goal, 2 * now, usual)
    return replanned(plan, max(goal, plan.steps), horizon)


def resumed(plan: RunPlan, changes: dict[str, Any]) -> RunPlan:
    """The plan of a resumed run with these settings of the run; schedules follow a new total."""
    plan = replace(plan, follows=tuple(name for name in plan.follows if name not in changes), **changes)
    return replanned(plan, plan.steps, plan.steps) if "steps" in changes else plan


def check_unchanged(plan: RunPlan, given: Given, env: Any, folder: Path) -> None:
    """Raises SpecError where a run in `folder` was given another environment to be resumed in, or none where it needs
    one, or settings that a resumed run keeps.
    """
    check_names(plan.agent, given.agent)
    check_as_before(plan, given, folder)
    if given.agent:
        raise SpecError(
            f"{next(iter(given.agent))!r} cannot be changed in a resumed run; start a new one that begins with what "
            f"this one learned: engram train ENV --from {folder} (start_from), and the setting"
        )
    for name, value in given.run.items():
        if name not in FREE and getattr(plan, name) != value:
            raise SpecError(f"{folder} was started with {name} = {getattr(plan, name)!r}, not {value!r}; leave it out")
    if isinstance(env, str) and plan.env is not None and env != plan.env:
        raise SpecError(f"{folder} is a run of {plan.env!r}, not of {env!r}; leave the environment out")
    if env is None and plan.env is None:
        raise SpecError(f"{folder} was started with an environment object; pass the same one again")


def check_same_task(plan: RunPlan, made: Any) -> None:
    """Raises CheckpointError where an environment is not the one that a run was started with."""
    has, had = form(made.observation_space, made.actions, agents_of(made)), form(plan.space, plan.actions, plan.agents)
    if not same(made.observation_space, plan.space) or (made.actions, agents_of(made)) != (plan.actions, plan.agents):
        raise CheckpointError(f"the environment now has {has}, but the run was started with {had}; restore its version")
    if plan.data is not None and getattr(made, "data_digest", None) != plan.data:
        raise CheckpointError(
            f"{plan.env} is not made of the data that the run was started with, so its words and acts would mean "
            f"something else; restore what its arguments name, or start a new run"
        )


def form(space: Space, actions: int, agents: int) -> str:
    """What is seen and done, in words."""
    return f"{space} and {actions} actions" + f" for each of {agents} agents" * (agents > 1)


def replanned(plan: RunPlan, steps: int, horizon: int) -> RunPlan:
    """The plan with another total, and with what follows its horizon scaled to another one."""
    if horizon == plan.horizon:
        return replace(plan, steps=steps)
    fixed = {name: getattr(plan, name) for name in RHYTHM if name not in plan.follows}
    agent = _scheduled(plan.agent, plan.preset, plan.space, horizon, plan.schedules)
    return replace(plan, steps=steps, horizon=horizon, agent=agent, **{**_rhythm(horizon, fixed), **fixed})


def _rhythm(total: int, given: dict[str, Any]) -> dict[str, int]:
    """How often a run of this length writes, saves and evaluates; evaluations fall on lines of metrics."""
    log_every = given.get("log_every", min(max(1, total // LOG_POINTS), LOG_AT_LEAST))
    lines = max(1, round(total / EVALUATION_POINTS / log_every))
    return {
        "log_every": log_every,
        "save_every": min(max(1, total // SAVE_POINTS), SAVE_AT_LEAST),
        "evaluate_every": lines * log_every if total >= TRIAL else 0,
    }


def _scheduled(agent: MindSpec, name: str, space: Space, horizon: int, paths: list[str]) -> MindSpec:
    """The agent with the schedules at these paths as its preset has them for this horizon."""
    like = preset(name, space, horizon)
    return specs.override_all(agent, {path: _at(like, path) for path in paths if _has(like, path)})


def _given(changes: dict[str, Any], path: str) -> bool:
    """Whether the setting was given, alone or within a whole spec; the name of a part alone does not set it."""
    whole = (name for name, value in changes.items() if not isinstance(value, str))
    return path in changes or any(path.startswith(name + ".") for name in whole)


def _has(agent: MindSpec, path: str) -> bool:
    return any(known == path for known, *_ in specs.describe(agent))


def _at(agent: MindSpec, path: str) -> Any:
    return reduce(getattr, path.split("."), agent)
