"""How much slower an agent trains with an external memory, by capacity.

    python -m benchmarks.memory.memory_training  CartPole (MLP) and MinAtar (small CNN) on the device, Pong (Nature CNN)
    python -m benchmarks.memory.memory_training --tasks cartpole --capacities 0,1000 --out /tmp/quick.json

The same agent with memories of more and more entries, and with none (0). Each run is a process of its own; its speed is
the median over log lines of the steps per second after learning began, so without compilation. What a read costs does
not depend on how full the memory is; it fills up, and evicts, where the run has more steps than it has places. Runs
take turns: every capacity once, then all again. `floor` is the time that the reads of a step alone must take, each of
which passes over all keys: bytes of keys over the measured memory bandwidth, once for acting and once for each update.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.memory.memory_bandwidth import bandwidth
from benchmarks.peers import machine
from benchmarks.record import ROOT, Record, add_flags, surroundings

MEMORY = {"external": "episodic", "external.neighbours": 25, "recall.n_step": 20, "bootstrap": "memory"}


@dataclass(frozen=True)
class Task:
    """What is trained for how long, and how wide its keys are."""

    env: str
    steps: int
    width: int
    settings: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    updates_per_step: float = 0.25


TASKS = {
    "cartpole": Task("engram/CartPole-v1", 6_000, 128, {"replay.start": 1_000, "learn_every": 4}),
    "minatar": Task("minatar-breakout", 6_000, 128, {"replay.start": 1_000}),
    # Wide embeddings would make wide keys; a random projection of the frames to 64 numbers is MFEC's way.
    "pong": Task("ALE/Pong-v5", 2_400, 64, {"replay.start": 400}, {"recall.keys": "frozen"}),
}


def speed(task: Task, capacity: int) -> dict[str, Any]:
    """In a process of its own: steps per second while learning."""
    from engram import Trainer

    rows: list[tuple[int, float]] = []

    class Watch:
        def on_metrics(self, trainer: Any, metrics: dict[str, Any]) -> None:
            rows.append((metrics["step"], metrics["steps_per_second"]))

    memory = {} if not capacity else MEMORY | task.memory | {"external.capacity": capacity}
    start = task.settings["replay.start"]
    with Trainer(task.env, "double-dqn", steps=task.steps, envs=1, overrides=task.settings | memory,
                 log_every=task.steps // 20, callbacks=(Watch(),)) as trainer:  # fmt: skip
        trainer.learn()
    rates = [rate for step, rate in rows if step > start + 2 * task.steps // 20]
    return {"steps_per_second": median(rates), "all": rates}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS), help="separated by commas")
    parser.add_argument("--capacities", default="0,1000,10000,30000,100000", help="separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    add_flags(parser, "memory-training")
    options = parser.parse_args()
    capacities = [int(capacity) for capacity in options.capacities.split(",")]
    if options.one:
        print(json.dumps(speed(TASKS[options.one], capacities[0])))
        return 0
    record = Record(options, {"rounds": options.rounds})
    if "bandwidth" not in record.parts:
        record.put("bandwidth", {"bytes_per_second": max(median(rates) for rates in bandwidth(10).values())})
    fastest = record.parts["bandwidth"]["bytes_per_second"]
    for turn in range(options.rounds):
        for name in options.tasks.split(","):
            for capacity in capacities:
                part = f"{name}, {capacity}: round {turn}"
                if part in record.parts:
                    continue
                watch = machine.Watch.start()
                words = [
                    sys.executable,
                    "-m",
                    "benchmarks.memory.memory_training",
                    "--one",
                    name,
                    "--capacities",
                    str(capacity),
                ]
                done = subprocess.run(words, capture_output=True, text=True, env=surroundings(), cwd=ROOT)
                if done.returncode:
                    raise SystemExit(f"exit code {done.returncode} from: {' '.join(words)}\n{done.stderr[-1_000:]}")
                record.put(part, json.loads(done.stdout.splitlines()[-1]) | watch.stop())
                print(part, record.parts[part]["steps_per_second"], file=sys.stderr, flush=True)
    print("| task | entries | steps/s | time of a step against none | floor [us] | added [us] |\n" + "|---" * 6 + "|")
    found: dict[str, Any] = {}
    for name, task in TASKS.items():
        per_step: dict[int, float] = {}
        for capacity in capacities:
            rows = [part for key, part in record.parts.items() if key.partition(":")[0] == f"{name}, {capacity}"]
            if not rows:
                continue
            per_step[capacity] = 1 / median(row["steps_per_second"] for row in rows)
            slower = per_step[capacity] / per_step.get(0, per_step[capacity])
            floor = capacity * task.width * 4 / fastest * (1 + task.updates_per_step)
            added = per_step[capacity] - per_step.get(0, per_step[capacity])
            found[f"{name}, {capacity}"] = {"seconds_per_step": per_step[capacity], "slower": slower, "floor": floor}
            print(f"| {name} | {capacity:,} | {1 / per_step[capacity]:,.0f} | {slower:.2f} | {1e6 * floor:.0f} "
                  f"| {1e6 * added:.0f} |")  # fmt: skip
    record.summarize(found)
    foreign = [part["cores_foreign"] or 0 for part in record.parts.values() if "cores_foreign" in part]
    print(f"\nMedians of {options.rounds} rounds. Foreign cores: up to {max(foreign, default=0):.2f}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
