"""Environment steps per second of recurrent Q-learners, beside TorchRL's, on CartPole without velocities.

    python -m benchmarks.speed.recurrent                      everything, three rounds
    python -m benchmarks.speed.recurrent --rounds 1 --out RESULT

`drqn`, `r2d2` and TorchRL do the same work: two layers of 128, an LSTM of 128, windows of 16 steps in batches of 32,
one update every 4 environment steps, one environment, one thread for TorchRL. `pqn-rnn` is another algorithm: 64
environments, rollouts of 32 steps, 4 epochs of 8 minibatches, here over an LSTM of 128. The first steps compile and
fill the replay, and are not timed. What differs: Engram's environment is compiled with the learner, TorchRL's is
Gymnasium's.
"""

import argparse
import sys
from statistics import median
from typing import Any

from benchmarks.peers.processes import told_by
from benchmarks.record import Record, add_flags

SIZES = {"every": 4, "window": 16, "batch": 32, "width": 128}
STEPS = {"drqn": 8_000, "r2d2": 8_000, "pqn-rnn": 262_144, "torchrl": 800}


def run(name: str, seed: int) -> dict[str, Any]:
    """One run in a process of its own."""
    given = SIZES | {"warm": 2_048, "steps": STEPS[name], "seed": seed}
    if name == "torchrl":
        return told_by("recurrent", name, given)
    return told_by("recurrent", "engram", given | {"preset": name})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="*", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--rounds", type=int, default=3)
    add_flags(parser, "recurrent")
    options = parser.parse_args()
    record = Record(options, {"sizes": SIZES, "steps": STEPS})
    for number in range(options.rounds):
        for name in options.agents:
            if (part := f"{name}, round {number}") not in record.parts:
                record.put(part, run(name, number))
    rates: dict[str, list[float]] = {}
    for part, found in record.parts.items():
        rates.setdefault(part.split(", ")[0], []).append(found["steps_per_second"])
    middle = {name: median(found) for name, found in rates.items()}
    peer = middle.get("torchrl")
    over = {name: rate / peer for name, rate in middle.items() if peer and name != "torchrl"}
    for name, rate in middle.items():
        print(f"{name}: {rate:,.0f} steps/s" + (f", {over[name]:.1f} x torchrl" if name in over else ""))
    record.summarize({"median": middle, "rates": rates, "over_torchrl": over})
    return 0


if __name__ == "__main__":
    sys.exit(main())
