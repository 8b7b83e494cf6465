"""One run of a rollout agent of Engram; prints one JSON line."""

import argparse
import json
import sys
import time

from rollouts_job import job_given

from engram import Trainer


def trainer_of(job: argparse.Namespace) -> Trainer:
    """A trainer that does the job twice: the first time it compiles."""
    settings = {
        "rollout.steps": job.steps, "rollout.epochs": job.epochs, "rollout.minibatches": job.minibatches,
        "optimizer.final_fraction": 1.0, "optimizer.learning_rate": 3e-4,
    }  # fmt: skip
    if job.layers == "dense":
        settings |= {"encoder": "vector", "encoder.widths": (job.width, job.width)}  # boards too: rejax has no other
    else:
        settings |= {"encoder.width": job.width}  # its preset's own: one 3 x 3 convolution of 16 channels first
    settings |= {"head.width": 0} if job.algorithm == "ppo" else {}
    return Trainer(
        job.env, job.algorithm, envs=job.envs, seed=job.seed, steps=2 * job.rollouts * job.envs * job.steps,
        evaluate_every=0, progress=False, overrides=settings,
    )  # fmt: skip


def main() -> None:
    job = job_given()
    each = job.envs * job.steps
    with trainer_of(job) as trainer:
        before = time.perf_counter()
        trainer.learn(job.rollouts * each)  # compiles
        first, start = time.perf_counter() - before, time.perf_counter()
        trainer.learn(job.rollouts * each)
        trainer.runner.report()  # waits for the last update
        seconds = time.perf_counter() - start
    json.dump({"peer": "engram", "steps_per_second": job.rollouts * each / seconds, "first_seconds": first}, sys.stdout)


if __name__ == "__main__":
    main()
