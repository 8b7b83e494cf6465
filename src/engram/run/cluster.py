"""A run on a cluster: what may be asked of one, and its runner. What is Ray's own is in `rays.py`.

Actors and shards are told by plain values, not by objects of this process: the plan as JSON, arrays, and numbers.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from engram import registry
from engram.agents import presets  # noqa: F401, its parts are registered
from engram.agents.agent import Agent
from engram.agents.mind import MindSpec
from engram.cluster.epochs import FOLDER as SHARDS
from engram.cluster.memory import ShardedMemory
from engram.cluster.replay import ShardedReplay
from engram.cluster.rows import RowShape
from engram.cluster.shard import Shape
from engram.cluster.shards import Holding, Place, Shards
from engram.cluster.sharing import places_of, shares
from engram.envs.device import is_device
from engram.envs.host.make import make_host
from engram.errors import SpecError
from engram.external.sharded import LINKS, UNFIT, ShardedSpec, check_shardable
from engram.replay import elsewhere
from engram.replay.elsewhere import layout
from engram.replay.prioritized import PrioritizedSpec
from engram.replay.uniform import UniformSpec
from engram.run.keeper import FOLDER
from engram.run.plan import RunPlan, agent_from_json
from engram.run.settings import Given
from engram.runners.cluster import ClusterRunner, InShards
from engram.runners.collecting import Collecting
from engram.spaces import from_json

LOCAL = "local"
LINK = "shards of this run"  # in every process: it has one run
DRAWS = (UniformSpec, PrioritizedSpec)  # which choose rows by their numbers alone
MAKING = ("action_bins", "env_args", "max_episode_steps", "asynchronous")


def check_cluster(env: Any, given: Given) -> None:
    """Raises SpecError for a cluster that cannot be, as far as that can be said before anything is made."""
    run, session = given.run, given.session
    actors, shards = run.get("actors", 0), run.get("shards", 0)
    if session.resume:
        return
    if not actors:
        what = f"shards = {shards}" if shards else f"cluster = {session.cluster!r}" if session.cluster else None
        if what:
            raise SpecError(f"{what} was given without actors; say how many, such as --actors 2 (actors=2)")
        return
    if not isinstance(env, str):
        raise SpecError("actors make environments of their own, and an object was given; name the environment's id")
    if is_device(env):
        raise SpecError(f"{env!r} runs on the device, in the learner's own loop; leave actors out, or take --envs more")
    if run.get("seeds", 1) > 1:
        raise SpecError(f"seeds = {run['seeds']} was given with actors; begin one run for each seed")
    shares(run.get("envs", actors), actors)
    if shards and session.run is None:
        raise SpecError("shards keep what they hold in a run directory, and there is none; name one with run=FOLDER")


def check_as_before(plan: RunPlan, given: Given, folder: Path) -> None:
    """Raises SpecError where a run is to be resumed with actors or shards and had none, or the other way round."""
    for name in ("actors", "shards"):
        before, now = getattr(plan, name), given.run.get(name, getattr(plan, name))
        if bool(before) != bool(now):
            raise SpecError(
                f"{folder} was begun with {before or 'no'} {name}, and cannot go on with {now or 'none'}; "
                + (f"give as many {name} as you like, at least 1" if before else f"leave {name} out")
            )
    if plan.actors:
        shares(plan.envs, given.run.get("actors", plan.actors))
    elif given.session.cluster:
        raise SpecError(f"{folder} was begun without actors, and needs no cluster; leave cluster out")


def with_actors(given: Given) -> Given:
    """With an environment for each actor, where nobody said how many."""
    actors = given.run.get("actors", 0)
    return given if not actors or "envs" in given.run else given._replace(run={**given.run, "envs": actors})


def stand_in_for(run: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one environment like those of the actors, to look at; of a run without actors all of them."""
    return {**run, "envs": 1, "asynchronous": False} if run.get("actors") else dict(run)


def check_shards(agent: MindSpec) -> None:
    """Raises SpecError for an agent of which shards can keep nothing, or not all that they should."""
    if not (agent.has_external or agent.replay_rows):
        raise SpecError(
            f"shards keep the rows of a replay and the entries of {UNFIT}, and this agent has neither; leave them out"
        )
    if agent.has_external:
        check_shardable(agent.external)
    if agent.demonstrated:
        raise SpecError(
            f"shards were asked for with demos.ratio = {agent.demonstrated:g}, but demonstrations that are kept for "
            f"ever lie in the learner; set demos.ratio=0, so that they are rows like others, or leave --shards out"
        )
    draw = getattr(agent, "draw", None)
    if agent.replay_rows and type(draw) not in DRAWS:
        name = registry.name_of("draw", type(draw))
        raise SpecError(
            f"shards were asked for with draw={name}, which looks at rows that shards keep elsewhere; set "
            f"draw=uniform or draw=prioritized, or leave --shards out"
        )


def sharded(agent: MindSpec, shards: int, tables: int) -> MindSpec:
    """The agent with its external memory's entries in shards. Raises SpecError for one that cannot be."""
    check_shards(agent)
    if not agent.has_external:
        return agent
    for what, wanted in {
        "recall.refresh": bool(agent.recall.refresh),
        f"{agent.asks_by}, which asks for successors,": agent.asks == "successors",
    }.items():
        if wanted:
            raise SpecError(
                f"{what} needs the entries themselves, which shards keep elsewhere; leave it out, or --shards"
            )
    old = agent.external
    places = places_of(old.capacity // tables, shards, old.neighbours)
    values = {name: getattr(old, name) for name in old.__dataclass_fields__}
    keys = agent.recall.train_through_memory
    return replace(agent, external=ShardedSpec(**values, link=LINK, shards=shards, places=places, keys=keys))


def tables_of(plan: RunPlan) -> int:
    """Tables of the external memory: one for each action, or one where actions are offered by features."""
    from engram.spaces import offered_features

    return 1 if offered_features(plan.space, plan.actions) else plan.actions


def agent_of(plan: RunPlan, envs: int | None = None) -> Agent:
    """The agent of a plan as it is on a cluster, for so many environments; all of them if None."""
    spec: Any = sharded(plan.agent, plan.shards, tables_of(plan)) if plan.shards else plan.agent
    if envs is not None and hasattr(spec, "learn_every"):  # one that acts alone, and for which a rhythm must fit too
        spec = replace(spec, learn_every=envs)
    if envs is not None and hasattr(spec, "rollout"):
        spec = replace(spec, rollout=replace(spec.rollout, minibatches=1))
    agent = spec.build(plan.space, plan.actions, envs or plan.envs, plan.demonstration_rows)
    return replace(agent, link=LINK) if plan.shards and plan.agent.replay_rows else agent


def holdings_of(plan: RunPlan) -> list[Holding]:
    """What each shard of a plan holds."""
    from engram.agents.agent import shape_of
    from engram.spaces import offered_features

    agent, features, whole = plan.agent, 0, range(plan.shards)
    shapes: list[Any] = [None] * plan.shards
    rows: list[Any] = [None] * plan.shards
    if agent.has_external:
        recall: Any = shape_of(agent_of(plan)).recall
        tables, external = tables_of(plan), sharded(agent, plan.shards, tables_of(plan)).external
        features = offered_features(plan.space, plan.actions)
        width = recall.line.waiting.key.shape[-1] + features
        rule = external.update, external.alpha, external.eviction
        shapes = [Shape(one, plan.shards, tables, external.places, width, *rule) for one in whole]
    if agent.replay_rows:
        ring = shape_of(agent.build(plan.space, plan.actions, plan.envs, plan.demonstration_rows)).replay.ring
        form = layout(ring)
        rows = [RowShape(one, plan.shards, ring.envs, ring.capacity, form) for one in whole]
    return [Holding(shapes[one], features, rows[one]) for one in whole]


def in_words(plan: RunPlan) -> str:
    """What the shards of a plan keep, for people."""
    parts = {"the replay": plan.agent.replay_rows, "the external memory": plan.agent.has_external}
    return " and ".join(part for part, there in parts.items() if there)


def in_shards(place: Place, holdings: Sequence[Holding], seconds: float) -> InShards:
    """What shards keep, known in this process by LINK, where compiled programs ask for it, until they are closed.

    Raises SpecError while another run of this process has shards: programs of both would ask those of one.
    """
    known: list[Any] = [links[LINK] for links in (LINKS, elsewhere.LINKS) if LINK in links]
    if not all(one.shards.closed for one in known):
        raise SpecError("another run of this process has its shards open; close its trainer first (trainer.close())")
    LINKS.pop(LINK, None)
    elsewhere.LINKS.pop(LINK, None)
    shards = Shards(place, len(holdings), seconds)
    memory = replay = None
    if shapes := [one.memory for one in holdings if one.memory is not None]:
        LINKS[LINK] = memory = ShardedMemory(shards, shapes)
    if rows := [one.rows for one in holdings if one.rows is not None]:
        elsewhere.LINKS[LINK] = replay = ShardedReplay(shards, rows)
    return InShards(shards, memory, replay)


def make_cluster_runner(
    plan: RunPlan, agent: Agent, address: str, folder: Path | None, seconds: float
) -> ClusterRunner:
    """The runner of a plan with actors. Raises EngramError where there is no such cluster, or it cannot take them."""
    from engram.run import rays

    shares(plan.envs, plan.actors)  # before anything is begun
    holdings = holdings_of(plan) if plan.shards else []
    place = None if folder is None else folder / FOLDER / SHARDS
    crew, shards = rays.carry(address, told(plan), plan.actors, holdings, place, seconds)
    try:
        kept = None if shards is None else in_shards(shards, holdings, seconds)
        return ClusterRunner(agent, crew, plan.actors, plan.seed, plan.group, kept)
    except BaseException:
        crew.close()
        raise


def told(plan: RunPlan) -> str:
    """What an actor is told of a run, as JSON."""
    modules = {spec.__module__ for shelf in registry.snapshot().values() for spec in shelf.values()}
    own = sorted(name for name in modules if name.split(".")[0] not in ("engram", "__main__"))
    return json.dumps({"plan": plan.json(), "modules": own, "path": [one for one in sys.path if one]})


def make_collecting(text: str, number: int, incarnation: int, timeout: float) -> Collecting:
    """An actor, in a process of its own, by what it was told."""
    values = json.loads(text)
    sys.path += [one for one in values["path"] if one not in sys.path]
    for name in values["modules"]:
        import_module(name)
    plan = plan_of(values["plan"])
    share = shares(plan.envs, plan.actors)[number]
    each = share.stop - share.start
    making = {name: getattr(plan, name) for name in MAKING}
    envs = make_host(plan.env, envs=each, seed=plan.seed, first_index=share.start, worker_timeout=timeout, **making)  # type: ignore[arg-type]
    agent = agent_of(plan, each)
    whole = agent_of(plan)
    size = whole.rhythm.acts * (plan.group if whole.rhythm.lag else 1)
    return Collecting(agent, envs, plan.seed, size, number, incarnation, plan.envs - each)


def plan_of(values: dict[str, Any]) -> RunPlan:
    """The inverse of `RunPlan.json`."""
    values = {name: value for name, value in values.items() if name != "format"}
    for name in ("log", "follows"):
        values[name] = tuple(values[name])
    return RunPlan(agent=agent_from_json(values.pop("agent")), space=from_json(values.pop("space")), **values)
