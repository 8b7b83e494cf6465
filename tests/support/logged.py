"""Run folders as the trainer leaves them, with any returns, made without training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engram.run.folders import RUN_FILE
from engram.run.metrics import RunLog

AGENT = {"encoder": "vector", "working": "none", "external": "none", "head": "q"}


def logged(
    folder: Path,
    returns: Sequence[Any],
    *,
    seed: int = 0,
    seeds: int = 1,
    env: str | None = "CartPole-v1",
    preset: str = "dqn",
    every: int = 100,
    evaluated: Sequence[Any] = (),
    settings: Mapping[str, Any] | None = None,
    **plan: Any,
) -> Path:
    """A run that logged `returns` at steps `every`, 2 `every`, ..., and `evaluated` at the same steps."""
    folder.mkdir(parents=True, exist_ok=True)
    agent = {role: {"kind": kind} for role, kind in AGENT.items()} | dict(settings or {})
    content = {"env": env, "preset": preset, "steps": every * len(returns), "envs": 1, "agent": agent}
    content |= {"seed": seed, "seeds": seeds, "log_every": every} | plan
    (folder / RUN_FILE).write_text(json.dumps(content))
    with RunLog(folder) as log:
        for place, value in enumerate(returns):
            row = {"step": every * (place + 1), "return_mean": value}
            log.write(row | ({"evaluation_return": evaluated[place]} if place < len(evaluated) else {}))
    return folder


def group(folder: Path, finals: Sequence[float], **more: Any) -> Path:
    """Seeds 0, 1, ... in a folder, each of which rises in ten straight steps to its final return."""
    for seed, final in enumerate(finals):
        logged(folder / f"seed{seed}", [final * step / 10 for step in range(1, 11)], seed=seed, **more)
    return folder
