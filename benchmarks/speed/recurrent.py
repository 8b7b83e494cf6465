"""Environment steps per second of recurrent Q-learners, beside TorchRL's and memorax's, on CartPole without velocities.

    python -m benchmarks.speed.recurrent                      everything, three rounds
    python -m benchmarks.speed.recurrent --rounds 1 --out RESULT

`drqn`, `r2d2` and TorchRL do the same work: two layers of 128, an LSTM of 128, windows of 16 steps in batches of 32,
one update every 4 environment steps, one environment, one thread for TorchRL. `pqn-rnn` is another algorithm: 64
environments, rollouts of 32 steps, 4 epochs of 8 minibatches, here over an LSTM of 128. memorax does the work of each:
`memorax-pqn` that of `pqn-rnn`, `memorax-dqn` and `memorax-r2d2` that of the other two. The first steps compile and
fill the replay, and are not timed. What differs: the environment is compiled with the learner in Engram and in memorax,
TorchRL's is Gymnasium's; `r2d2` begins its windows with a stored carry and shows previous actions and rewards;
`pqn-rnn` shows previous actions. memorax compiles twice, which takes longer than what is timed.
"""

import argparse
import sys
from statistics import median
from typing import Any

from benchmarks.peers.processes import told_by
from benchmarks.record import Record, add_flags

SIZES = {"every": 4, "window": 16, "batch": 32, "width": 128}
STEPS = {
    "drqn": 8_000, "r2d2": 8_000, "pqn-rnn": 262_144, "torchrl": 800, "memorax-dqn": 2_000, "memorax-r2d2": 2_000,
    "memorax-pqn": 131_072,
}  # fmt: skip
BESIDE = {"drqn": "memorax-dqn", "r2d2": "memorax-r2d2", "pqn-rnn": "memorax-pqn"}


def run(name: str, seed: int) -> dict[str, Any]:
    """One run in a process of its own."""
    given = SIZES | {"warm": 2_048, "steps": STEPS[name], "seed": seed}
    if name == "torchrl":
        return told_by("recurrent", name, given)
    if name.startswith("memorax-"):
        return told_by("recurrent", "memorax", given | {"algorithm": name.removeprefix("memorax-")})
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
    beside = {name: middle[name] / middle[other] for name, other in BESIDE.items() if {name, other} <= middle.keys()}
    for name, rate in middle.items():
        ratios = f", {over[name]:.1f} x torchrl" if name in over else ""
        ratios += f", {beside[name]:.2f} x {BESIDE[name]}" if name in beside else ""
        print(f"{name}: {rate:,.0f} steps/s{ratios}")
    record.summarize({"median": middle, "rates": rates, "over_torchrl": over, "over_memorax": beside})
    return 0


if __name__ == "__main__":
    sys.exit(main())
