"""One run of a recurrent Q-learner of Engram on CartPole without velocities; prints one JSON line."""

import argparse
import json
import sys
import time

from engram import Trainer

ENV = "engram/NoVelocityCartPole-v0"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset")
    for name in ("steps", "warm", "every", "window", "batch", "width", "seed"):
        parser.add_argument(f"--{name}", type=int)
    job = parser.parse_args()
    settings = {"working": "lstm", "working.hidden_size": job.width}
    if job.preset != "pqn-rnn":
        settings |= {
            "replay.window": job.window, "replay.burn_in": 0, "replay.batch_size": job.batch, "replay.start": 500,
            "learn_every": job.every,
        }  # fmt: skip
    with Trainer(
        ENV, job.preset, seed=job.seed, steps=2 * (job.warm + job.steps), evaluate_every=0, progress=False,
        overrides=settings,
    ) as trainer:  # fmt: skip
        trainer.learn(job.warm)  # compiles, and fills the replay
        trainer.learn(job.steps)
        start = time.perf_counter()
        trainer.learn(job.steps)
        trainer.runner.report()  # waits for the last update
        seconds = time.perf_counter() - start
    json.dump({"peer": "engram", "steps_per_second": job.steps / seconds}, sys.stdout)


if __name__ == "__main__":
    main()
