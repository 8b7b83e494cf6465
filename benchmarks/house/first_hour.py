"""What a first hour costs: seconds of the processor for names and lists, and for evaluating while an agent trains.

    python -m benchmarks.house.first_hour --old OLD              both parts, 5 pairs: about 6 minutes
    python -m benchmarks.house.first_hour --parts commands       the commands alone; --old may then be left out

`commands`: user and system seconds of whole processes, with warm caches of files; the median of `--pairs` starts.
`evaluation`: CartPole-v1 on the host and on the device, `auto`, 50,000 steps, with the default evaluation (ten points
of five greedy episodes) and without; processes in turn. The cost is the share of the time that evaluation adds.
"""

import argparse
import os
import sys
import time
from statistics import median
from typing import Any

from benchmarks.house.pairs import Checkout, add_checkouts, checkouts, record_of, say
from benchmarks.peers.machine import Watch

COMMANDS = {
    "--help": ["--help"], "list presets": ["list", "presets"], "list parts": ["list", "parts"],
    "list envs": ["list", "envs"], "show auto --env CartPole-v1": ["show", "auto", "--env", "CartPole-v1"],
    "a wrong preset": ["train", "CartPole-v1", "--preset", "dnq"], "a wrong environment": ["train", "CartPol-v1"],
}  # fmt: skip
RUNS = {"host": "CartPole-v1", "device": "engram/CartPole-v1"}
TRAIN = """
import sys, time
import engram
env, every = sys.argv[1], sys.argv[2]
given = {} if every == "default" else {"evaluate_every": 0}
with engram.Trainer(env, seed=0, **given) as trainer:
    trainer.learn(2_000)
    began = time.perf_counter()
    trainer.learn(48_000)
    print(time.perf_counter() - began)
"""


def processor(side: Checkout, words: list[str]) -> float:
    """User and system seconds of one process. A wrong name ends with 2, which is right."""
    before = os.times()
    try:
        side.run(["-m", "engram", *words])
    except SystemExit as problem:
        if "exit code 2" not in str(problem):
            raise
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def commands(sides: list[Checkout], pairs: int) -> dict[str, Any]:
    """The median of each command and side."""
    found = {}
    for name, words in COMMANDS.items():
        for side in sides:
            processor(side, words)  # fills the caches
        found[name] = {side.name: round(median(processor(side, words) for _ in range(pairs)), 3) for side in sides}
        say(f"{name}: {found[name]}")
    return found


def evaluation(side: Checkout, pairs: int) -> dict[str, Any]:
    """What the default evaluation adds to the time of a run, by pairs of processes."""
    found: dict[str, Any] = {}
    for name, env in RUNS.items():
        parts = []
        for number in range(pairs):
            watch = Watch.start()
            order = ("0", "default") if number % 2 else ("default", "0")
            seconds = {every: float(side.run(["-c", TRAIN, env, every]).splitlines()[-1]) for every in order}
            parts.append({"cost": seconds["default"] / seconds["0"] - 1, **seconds} | watch.stop())
            say(f"{name}, pair {number}: {100 * parts[-1]['cost']:.1f} %")
        costs = [part["cost"] for part in parts]
        found[name] = {"median": median(costs), "least": min(costs), "greatest": max(costs), "pairs": parts}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="commands,evaluation")
    parser.add_argument("--pairs", type=int, default=5)
    add_checkouts(parser, "first-hour", needs_old=False)
    options = parser.parse_args()
    sides = checkouts(options)
    record = record_of(options, sides, {})
    began = time.perf_counter()
    if "commands" in options.parts:
        record.put("commands", commands(sides, options.pairs))
    if "evaluation" in options.parts:
        record.put("evaluation", evaluation(sides[-1], options.pairs))
    record.summarize({"seconds": round(time.perf_counter() - began)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
