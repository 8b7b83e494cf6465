"""The runs that the safety benchmarks damage: what each kind keeps besides a network and a replay.

plain           what `auto` keeps
rainbow         priorities, atoms of the return, learned noise
demonstrations  rows that nothing overwrites, drawn by priorities of their own, with the margin loss
sac             two estimates of Q, a policy and a temperature, each with a target or an optimizer of its own
ppo-rnn         no replay: the rollout so far, and the carry that each environment began it with
pqn-memory      no replay, and an external memory with what waits to be written
"""

import argparse
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

DEMONSTRATIONS = "shown.npz"  # in the folder of the benchmark
EPISODES = 20
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rainbow": {"preset": "rainbow", "overrides": {"head.returns.low": 0.0, "head.returns.high": 100.0}},
    "demonstrations": {"preset": "per-dqn", "overrides": {"demos.ratio": 0.25, "demos.margin_weight": 0.5}},
    "sac": {"preset": "sac"},
    "ppo-rnn": {"preset": "ppo-rnn", "envs": 8},
    "pqn-memory": {"preset": "pqn-memory", "envs": 8, "overrides": {"external.capacity": 2000}},
}
ROLLOUTS = ("ppo-rnn", "pqn-memory")  # kinds that have no replay to set


def add_kind(parser: argparse.ArgumentParser) -> None:
    """The flag --kind. The results of another kind than `plain` lie in a file of their own."""
    parser.add_argument("--kind", choices=KINDS, default="plain", help="what the run keeps; see benchmarks/safety")


def of_kind(options: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """What the record says of the kind; names the result file after it where none was named."""
    if options.kind == "plain":
        return {}
    if options.out == parser.get_default("out"):
        options.out = options.out.with_stem(f"{options.out.stem}-{options.kind}")
    return {"kind": options.kind}


def arguments(kind: str, work: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a trainer: those of the kind, with a benchmark's own settings first."""
    kept = {name: value for name, value in settings.items() if kind not in ROLLOUTS or not name.startswith("replay.")}
    made = dict(KINDS[kind]) | {"overrides": kept | KINDS[kind].get("overrides", {})}
    if kind == "demonstrations":
        made["demonstrations"] = str(demonstrations(work))
    return made


def demonstrations(work: Path) -> Path:
    """A file of episodes of CartPole, which pushes where the pole falls; the same ones at every call."""
    path = work / DEMONSTRATIONS
    if path.exists():
        return path
    columns: dict[str, list[Any]] = {name: [] for name in ("observation", "action", "reward", "terminated")}
    columns |= {"truncated": [], "final_observation": []}
    env = gymnasium.make("CartPole-v1")
    for episode in range(EPISODES):
        seen, over = env.reset(seed=episode)[0], False
        while not over:
            action = int(seen[2] + 0.3 * seen[3] > 0)
            after, reward, terminated, truncated, _ = env.step(action)
            step = (seen, action, reward, terminated, truncated)
            for name, value in zip(columns, step, strict=False):
                columns[name].append(value)
            seen, over = after, terminated or truncated
        columns["final_observation"].append(seen)
    env.close()
    work.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {name: np.array(column) for name, column in columns.items()}
    np.savez(path, **arrays)
    return path
