"""The article's example as the README shows it, on CartPole-v1: five seeds, and what a first and a second start take.

    python -m benchmarks.learning.article

`AttentionDQN`, `ReplayBuffer` and `train` with their defaults, 250 episodes. A seed's score is the mean return of its
last 50 episodes, which explore. Seeds 0 to 2 served to choose the defaults; those of the claim are 10 to 14. A start is
the time from before the process begins until 30 episodes are played and learned from: first with no compiled programs
in ENGRAM_CACHE, then again. Each run is a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from benchmarks.record import ROOT, Record, add_flags, surroundings

SEEDS, EPOCHS, LAST, ASKED = (10, 11, 12, 13, 14), 250, 50, 195.0
START_EPOCHS = 30
CHILD = """
import json, sys, time, gymnasium
from engram import AttentionDQN, ReplayBuffer, train
seed, epochs = map(int, sys.argv[1:])
model = AttentionDQN(state_size=4, action_size=2, hidden_size=64, seed=seed)
replay_buffer = ReplayBuffer(capacity=10_000)
returns = train(gymnasium.make("CartPole-v1"), model, replay_buffer, epochs=epochs, batch_size=32)
print(json.dumps({"returns": returns, "cpu_seconds": round(time.process_time(), 1)}))
"""


def run(seed: int, epochs: int, cache: str | None = None) -> dict[str, Any]:
    """One process of the example: the return of every episode, and the seconds that it took."""
    environment = surroundings() | ({"ENGRAM_CACHE": cache} if cache else {})
    began = time.perf_counter()
    words = [sys.executable, "-c", CHILD, str(seed), str(epochs)]
    done = subprocess.run(words, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout) | {"wall_seconds": round(time.perf_counter() - began, 1)}


def score(part: dict[str, Any]) -> float:
    """The mean return of the last episodes."""
    return round(sum(part["returns"][-LAST:]) / LAST, 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser, "article")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="seeds of the models")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="episodes of each seed")
    parser.add_argument("--workers", type=int, default=1, help="seeds at once; their seconds are then longer")
    options = parser.parse_args()
    os.chdir(ROOT)
    record = Record(options, {"epochs": options.epochs, "last": LAST, "start_epochs": START_EPOCHS})
    with tempfile.TemporaryDirectory() as cache:
        for start in ("first start", "second start"):
            if "second start" not in record.parts:
                record.put(start, run(options.seeds[0], START_EPOCHS, cache))
            part = record.parts[start]
            print(f"{start}: {part['wall_seconds']} s, of which {part['cpu_seconds']} s of a processor", flush=True)
    missing = [seed for seed in options.seeds if f"seed {seed}" not in record.parts]
    with ThreadPoolExecutor(options.workers) as pool:
        going = {pool.submit(run, seed, options.epochs): seed for seed in missing}
        for one in as_completed(going):
            record.put(f"seed {going[one]}", one.result())
    for seed in options.seeds:
        part = record.parts[f"seed {seed}"]
        print(f"seed {seed}: {score(part)} in {part['wall_seconds']} s ({part['cpu_seconds']} s)", flush=True)
    scores = {str(seed): score(record.parts[f"seed {seed}"]) for seed in options.seeds}
    reached = sum(one >= ASKED for one in scores.values())
    record.summarize({"mean_return_of_last_50": scores, "asked": ASKED, "reached": f"{reached} of {len(scores)}"})
    print(f"{reached} of {len(scores)} seeds have a mean return of at least {ASKED:g} over the last {LAST} episodes")
    return 0 if reached == len(scores) else 1


if __name__ == "__main__":
    sys.exit(main())
