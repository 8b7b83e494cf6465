"""The numbers that a preset chose, fitted to a run, so that none of them is the reason of a refusal."""

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a method of it
    from engram.agents.spec import AgentSpec


def fitted(spec: "AgentSpec", given: Collection[str], steps: int, envs: int) -> "AgentSpec":
    """The spec with the numbers that its preset chose fitted to a run of `steps` steps in `envs` environments.

    Settings by the paths in `given` stay. So a number that nobody typed never is the reason of a refusal.
    """
    replay, free = spec.replay, {path: path not in given for path in FITTED}
    every, burn_in, n_step = spec.learn_every, replay.burn_in, spec.n_step
    if free["learn_every"] and every % envs and envs % every:
        every = max(1, round(every / envs)) * envs
    if free["replay.burn_in"] and burn_in >= replay.window:
        burn_in = replay.window // 3  # as R2D2's 40 of 120
    beside = spec.rows_before + 2 * max(1, every // envs) + 1  # rows that a lane holds beside those of an example
    if free["n_step"] and not free["replay.start"]:
        n_step = min(n_step, replay.start // envs - replay.window)
    if free["n_step"] and not free["replay.capacity"]:
        n_step = min(n_step, replay.capacity // envs - replay.window - beside)
    n_step = max(1, n_step)
    most = max(n_step, spec.anneal.n_step if spec.anneal.updates else 1)
    capacity, start, needed = replay.capacity, replay.start, envs * (replay.window + most)
    if free["replay.capacity"]:
        capacity = max(capacity, needed + envs * beside)
    if free["replay.start"]:
        start = min(start, steps // 10) if start >= steps else start
        start = max(start, needed)
    replay = replace(replay, burn_in=burn_in, capacity=capacity, start=start)
    return replace(spec, learn_every=every, n_step=n_step, replay=replay)


FITTED = ("learn_every", "n_step", "replay.burn_in", "replay.capacity", "replay.start")
