"""What drawing by priority costs a whole agent: the same one, `draw=prioritized` beside `draw=uniform`.

    python -m benchmarks.memory.priorities                     CartPole on the host, MinAtar Breakout on the device
    python -m benchmarks.memory.priorities --rounds 3 --out /tmp/quick.json

Both agents learn in one process. They take turns, in the other order each time, so that a machine that changes its
speed meets both. A turn is long enough for hundreds of updates and is timed by the wall clock and by the time of the
processor. Nothing is evaluated, saved or shown.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.record import Record, add_flags

DRAWS = ("uniform", "prioritized")


@dataclass(frozen=True)
class Task:
    """What is trained, and the steps of one turn."""

    env: str
    preset: str
    turn: int


TASKS = {
    "cartpole-host": Task("CartPole-v1", "double-dqn", 8_000),
    "minatar-device": Task("minatar-breakout", "double-dqn", 8_000),
}


def timed(task: Task, rounds: int) -> list[dict[str, Any]]:
    """Seconds of each turn of both agents, after one that compiles and begins to learn."""
    from engram import Trainer

    steps = task.turn * (rounds + 1)
    quiet: dict[str, Any] = {"steps": steps, "evaluate_every": 0, "log_every": task.turn, "progress": False}
    agents = {draw: Trainer(task.env, task.preset, draw=draw, **quiet) for draw in DRAWS}
    for agent in agents.values():
        agent.learn(task.turn)
    found = []
    for turn in range(rounds):
        row: dict[str, Any] = {"round": turn}
        for draw in DRAWS if turn % 2 else reversed(DRAWS):
            wall, own = time.perf_counter(), time.process_time()
            agents[draw].learn(task.turn)
            row[draw] = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - own}
        found.append(row)
    for agent in agents.values():
        agent.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS), help="separated by commas")
    parser.add_argument("--rounds", type=int, default=10)
    add_flags(parser, "priorities")
    options = parser.parse_args()
    record = Record(options, {"rounds": options.rounds, "turns": {name: task.turn for name, task in TASKS.items()}})
    for name in options.tasks.split(","):
        if name not in record.parts:
            record.put(name, {"turns": timed(TASKS[name], options.rounds)})
    print("| task | uniform, steps/s | prioritized, steps/s | time | processor time |\n" + "|---" * 5 + "|")
    summary: dict[str, Any] = {}
    for name, part in record.parts.items():
        ratios = {
            by: median(row["prioritized"][by] / row["uniform"][by] for row in part["turns"])
            for by in ("seconds", "processor_seconds")
        }
        rates = {draw: TASKS[name].turn / median(row[draw]["seconds"] for row in part["turns"]) for draw in DRAWS}
        summary[name] = {"ratio": ratios, "steps_per_second": rates}
        print(f"| {name} | {rates['uniform']:,.0f} | {rates['prioritized']:,.0f} | {ratios['seconds']:.2f}x "
              f"| {ratios['processor_seconds']:.2f}x |")  # fmt: skip
    record.summarize(summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
