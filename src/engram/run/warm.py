"""A new run that begins with what another one learned: its weights, and if asked its replay and external memory.

What is taken over is the agent's alone. Counters, schedules, the optimizer and the environments begin anew, so that
exploration starts at its first value again unless it is set (`exploration.start=0.1`).
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engram.checkpoint.store import Loaded
from engram.envs.device import is_device
from engram.envs.host.build import check_unasked
from engram.errors import CheckpointError, SpecError
from engram.run.folders import checkpoint_of
from engram.run.keeper import BEST, NEWEST, At, Keeper, fill
from engram.run.plan import RunPlan, holds_run
from engram.run.prefill import check_replays, without_replay
from engram.run.settings import Given
from engram.runners.common import Runner

WEIGHTS, REPLAY, MEMORY = "agent.learner.", "agent.replay.", "agent.recall."  # beginnings of names in a checkpoint
TASK = ("action_bins", "max_episode_steps")  # what an environment is made with, beside `env_args`
WITH_REPLAY = ("replay", "all")  # values of start_with
# Of the learner's state: its weights, and the statistics by which they see. Running returns belong to old episodes.
TAKEN = ("params.", "target.", "statistics.scales.")
PAST = WEIGHTS + "pool.past."


class Source(NamedTuple):
    """A stored run to begin from."""

    name: str  # RUN@STEP
    plan: RunPlan
    loaded: Loaded


def parse_at(text: str) -> At:
    """`newest`, `best` or a step out of a text.

    >>> parse_at("best"), parse_at("20_000")
    ('best', 20000)
    """
    if text in (NEWEST, BEST):
        return text
    if not text.replace("_", "").isdigit():
        raise SpecError(f"checkpoint {text!r} was given; expected newest, best or a step")
    return int(text)


def source_of(text: str, seed: int = 0) -> Source:
    """The run that RUN, RUN@newest, RUN@best or RUN@STEP names; of runs of several seeds in one folder, that of `seed`.

    Raises CheckpointError if there is none.
    """
    folder, at = folder_of(text, seed)
    plan = RunPlan.read(folder)
    loaded = Keeper(folder, plan.digest()).load(parse_at(at))
    return Source(f"{folder}@{loaded.step}", plan, loaded)


def folder_of(text: str, seed: int = 0) -> tuple[Path, str]:
    """The directory of the run that `source_of` reads, and which checkpoint in words."""
    folder, at = checkpoint_of(text)
    if not holds_run(folder) and holds_run(folder / f"seed{seed}"):
        folder = folder / f"seed{seed}"
    return folder, at or NEWEST


def task_of(plan: RunPlan, name: str, given: Given) -> tuple[str, Given]:
    """The environment of the run to begin from, which `name` tells, and what was given with its way of making it.

    That is `TASK`, where nothing was given. Files of a run may be a stranger's. So without `trust` they alone import no
    module and hand on no text that could be code.

    Raises SpecError and Untrusted.
    """
    env, trust = plan.env, given.session.trust
    if env is None:
        raise SpecError(f"{name} learned in an environment object; pass the environment to learn in")
    if ":" in env and not trust:
        raise SpecError(
            f"{name} learned in {env!r}, for which a module would be imported; name that environment yourself"
        )
    arguments = given.run.get("env_args", {})
    learned = {argument: value for argument, value in plan.env_args.items() if argument not in arguments}
    if not trust and not is_device(env):
        check_unasked(env, learned)
    task = {setting: value for setting in TASK if (value := getattr(plan, setting)) is not None}
    return env, given._replace(run={**task, **given.run, "env_args": {**learned, **arguments}})


def source_given(given: Given) -> Source | None:
    """The run to begin from, if one was named. CheckpointError for a replay that its checkpoint does not hold."""
    if "start_from" in given.run:
        source, what = source_of(given.run["start_from"], given.run.get("seed", 0)), given.run.get("start_with")
        if what in WITH_REPLAY and not source.plan.agent.replay_rows:
            raise CheckpointError(
                f"start_with = {what!r} was given, but {source.name} learned {without_replay(source.plan.agent)}; take "
                f"less from it (start_with=weights)"
            )
        if what in WITH_REPLAY and source.loaded.cursors is None:
            folder = source.name.rpartition("@")[0]
            raise CheckpointError(
                f"start_with = {what!r} was given, but {source.name} is a best checkpoint, which holds no replay; "
                f"begin from the newest one (--from {folder}), or take less from this one (start_with)"
            )
        return source
    if "start_with" in given.run:
        raise SpecError("start_with says what to take from another run; name it with start_from (--from)")
    return None


def begin_from(source: Source | None, runner: Runner, plan: RunPlan) -> None:
    """Puts what was learned into the runner of a plan that has not begun.

    `plan.start_with` says what: `weights` (and the statistics by which they see), or also the `replay`, the external
    `memory`, or `all`. Of several seeds each takes the weights of the source's agent of its own place.

    Raises CheckpointError in a sentence for what does not fit.
    """
    if source is None:
        return
    what, seeds = plan.start_with, plan.seeds
    if what in ("memory", "all") and any(one.shards and one.agent.has_external for one in (plan, source.plan)):
        raise SpecError(
            f"start_with = {what!r} was given, but entries in shards can be taken neither from another run nor by one; "
            f"begin with start_with=weights"
        )
    if what in WITH_REPLAY and plan.shards:
        raise SpecError(
            f"start_with = {what!r} was given, but a replay in shards begins empty; begin with start_with=weights, or "
            f"without --shards"
        )
    if what in WITH_REPLAY:
        check_replays(plan.agent, f"start_with = {what!r}")
    _check_meaning(source, plan)
    prefixes = [WEIGHTS + name for name in TAKEN]
    prefixes += [REPLAY] * (what in WITH_REPLAY) + [MEMORY] * (what in ("memory", "all"))
    own = runner.capture().arrays
    needed = {name: array for name, array in own.items() if name.startswith(tuple(prefixes))}
    if what in ("memory", "all") and not any(name.startswith(MEMORY) for name in needed):
        raise SpecError(f"start_with = {what!r} was given, but this agent has no external memory; leave it out")
    taken = {name: array for name, array in source.loaded.arrays.items() if name.startswith(tuple(prefixes))}
    taken = _for_seeds(taken, _has_seeds(source.loaded.arrays), _has_seeds(own), seeds)
    _check_fits(source.name, taken, needed)
    try:
        runner.adopt(taken | _past_of(taken, own), partial(fill, source.loaded) if what in WITH_REPLAY else None)
    except CheckpointError as problem:
        raise CheckpointError(
            f"the replay of {source.name} does not fit this run ({problem}); begin without its replay"
        ) from None


def _check_meaning(source: Source, plan: RunPlan) -> None:
    """CheckpointError where Q of the source is in other units than that of the plan, or of something else."""
    there, here = (one.agent.reward.rescale for one in (source.plan, plan))
    if there != here:
        raise CheckpointError(
            f"what {source.name} learned has reward.rescale = {str(there).lower()}, so its Q is in other units than "
            f"those of this run; begin with reward.rescale={str(there).lower()}, or without --from (start_from)"
        )
    there, here = (one.agent.turns for one in (source.plan, plan))
    if there != here:
        told = "counts what the other side is worth against" if there else "knows one side only"
        raise CheckpointError(
            f"what {source.name} learned {told}, so its Q means something else than that of this run; begin without "
            f"--from (start_from)"
        )


def _past_of(taken: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The past selves of an agent that plays against some: each is what it begins with."""
    place = int(_has_seeds(own))  # of their axis
    return {
        name: np.broadcast_to(np.expand_dims(taken[WEIGHTS + TAKEN[0] + name.removeprefix(PAST)], place), array.shape)
        for name, array in own.items()
        if name.startswith(PAST)
    }


def _has_seeds(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether a runner's arrays have an axis of seeds: then running returns are [seeds, envs], else [envs]."""
    return arrays["episodes.running_return"].ndim == 2


def _for_seeds(arrays: Mapping[str, np.ndarray], have: bool, want: bool, seeds: int) -> dict[str, np.ndarray]:
    """The arrays with the axis of seeds that the new run has, or without one."""
    stacks = {name: array if have else array[None] for name, array in arrays.items()}
    if not want:
        return {name: stack[0] for name, stack in stacks.items()}
    return {name: stack[np.arange(seeds) % len(stack)] for name, stack in stacks.items()}


def _check_fits(source: str, taken: Mapping[str, np.ndarray], needed: Mapping[str, np.ndarray]) -> None:
    """CheckpointError for the first array that one side lacks, or that has another shape."""
    way_out = "leave out the settings that change the network, or begin without --from (start_from)"
    for name in sorted({*taken, *needed}):
        there, here = (f"{group[name].shape}" if name in group else "nothing" for group in (taken, needed))
        if there != here or taken[name].dtype != needed[name].dtype:
            short = name.removeprefix("agent.").removeprefix("learner.")
            raise CheckpointError(
                f"what {source} learned does not fit this agent: {short} has shape {there} there and {here} here; "
                f"{way_out}"
            )
