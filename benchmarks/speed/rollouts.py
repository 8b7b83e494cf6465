"""Environment steps per second of agents that learn from rollouts, beside peers on the same work.

    python -m benchmarks.speed.rollouts                      everything, three rounds
    python -m benchmarks.speed.rollouts --tasks ppo-host --rounds 1 --out RESULT
    PUREJAXQL=CHECKOUT python -m benchmarks.speed.rollouts   with the code of PQN's authors, which is no package

The same environments, steps of a rollout, epochs, minibatches and width of two layers for all. What differs: rejax and
Stable-Baselines3 have a network each for policy and value, ours share the layers; rejax looks at every observation
twice while it collects; purejaxql has RAdam, stores every next observation and starts anew at each call. Peers take
turns within each round. A first call compiles and is not timed. The floor is the speed that bare environments and the
bare network of Engram would leave, see `peers/rollouts_floor.py`; the ratio to it is the share that is reached. The
variable PUREJAXQL is the folder of a checkout of mttga/purejaxql; without it that peer is left out. (A variable, since
result files keep the command line.)
"""

import argparse
import os
import sys
from statistics import median
from typing import Any, NamedTuple

from benchmarks.peers.processes import told_by
from benchmarks.record import Record, add_flags


class Task(NamedTuple):
    """What is done by each peer: the environment by its name there, the sizes, and what sees."""

    algorithm: str
    envs: dict[str, str]
    sizes: dict[str, int]
    layers: str = "dense"


DEVICE = {"envs": 1024, "steps": 32, "epochs": 1, "minibatches": 8, "rollouts": 60, "width": 64}
MINATAR = {"envs": 128, "steps": 32, "epochs": 2, "minibatches": 16, "rollouts": 30}
TASKS = {
    "pqn-device": Task(
        "pqn", {"engram": "engram/CartPole-v1", "rejax": "CartPole-v1", "purejaxql": "CartPole-v1"}, DEVICE
    ),
    "ppo-device": Task("ppo", {"engram": "engram/CartPole-v1", "rejax": "CartPole-v1"}, DEVICE),
    "ppo-host": Task(
        "ppo",
        {"engram": "CartPole-v1", "sb3": "CartPole-v1"},
        {"envs": 8, "steps": 64, "epochs": 10, "minibatches": 8, "rollouts": 20, "width": 64},
    ),
    "pqn-minatar": Task(
        "pqn",
        {"engram": "minatar-breakout", "rejax": "Breakout-MinAtar", "purejaxql": "Breakout-MinAtar"},
        MINATAR | {"width": 64},
    ),
    # A 3 x 3 convolution of 16 channels and a layer of 128, as in `pqn` itself; rejax has no convolution. Few rollouts,
    # since XLA's own convolutions are slow inside a compiled loop on the processor.
    "pqn-minatar-convolution": Task(
        "pqn",
        {"engram": "minatar-breakout", "purejaxql": "Breakout-MinAtar"},
        MINATAR | {"width": 128, "rollouts": 10},
        layers="convolution",
    ),
}


def peers_of(task: Task) -> list[str]:
    """Who does the work here, and the floor of it."""
    return [peer for peer in (*task.envs, "floor") if peer != "purejaxql" or "PUREJAXQL" in os.environ]


def run(task: Task, peer: str, seed: int) -> dict[str, Any]:
    """One run in a process of its own."""
    env = task.envs["engram" if peer == "floor" else peer]
    given = {"algorithm": task.algorithm, "env": env, "layers": task.layers, "seed": seed} | task.sizes
    return told_by("rollouts", peer, given)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--rounds", type=int, default=3)
    add_flags(parser, "rollouts")
    options = parser.parse_args()
    if "PUREJAXQL" not in os.environ:
        print("purejaxql is left out: PUREJAXQL names no checkout", file=sys.stderr)
    record = Record(options, {"tasks": {name: task._asdict() for name, task in TASKS.items()}})
    for number in range(options.rounds):
        for name in options.tasks:
            for peer in peers_of(TASKS[name]):
                if (part := f"{name}, {peer}, round {number}") not in record.parts:
                    record.put(part, run(TASKS[name], peer, number))
    summary: dict[str, Any] = {}
    for part, found in record.parts.items():
        name, peer, _ = part.split(", ")
        summary.setdefault(name, {}).setdefault(peer, []).append(found["steps_per_second"])
    for name, peers in summary.items():
        middle = {peer: median(rates) for peer, rates in peers.items()}
        ratios = {peer: middle["engram"] / rate for peer, rate in middle.items() if peer != "engram"}
        summary[name] = {"median": middle, "rates": peers, "engram_over": ratios}
        rates = ", ".join(f"{peer} {rate:,.0f}" for peer, rate in middle.items())
        print(f"{name}: {rates} steps/s; {', '.join(f'{ratio:.2f} x {peer}' for peer, ratio in ratios.items())}")
    record.summarize(summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
