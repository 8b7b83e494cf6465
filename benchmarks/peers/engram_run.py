"""One run of Engram through its public interface; prints one JSON line."""

from typing import Any

from meter import Meter, arguments, job_of
from work import Work

from engram import Trainer

PACKAGES = ("engram-rl", "jax", "equinox", "optax", "gymnasium", "ale-py", "numpy")


def settings(job: Work) -> dict[str, Any]:
    """The work as settings of the preset `dqn`, by dotted name. What it leaves open is said in the README."""
    updates_every = job.collect // job.updates_per_call
    return {
        **({"encoder.width": 512} if job.pixels else {"encoder.widths": job.widths}),
        "replay.capacity": job.replay,
        "replay.batch_size": job.batch,
        # Engram learns from step `start` on, peers after step `learning_starts`: one more update would be unequal work.
        "replay.start": job.learning_starts + 1,
        "optimizer.learning_rate": job.learning_rate,
        "optimizer.epsilon": 1e-8,
        "target.every": job.target_every // updates_every,  # counted in updates
        "exploration.end": job.exploration_end,
        "exploration.steps": job.exploration_steps,
        "loss": "squared" if job.task == "device" else "huber",  # as rejax, and as the others
        "discount": job.discount,
        "reward_clip": 0.0,
        "learn_every": updates_every,
    }


class Watch:
    """Shows the meter the counts of every line of metrics, for which the trainer waits until its updates are done."""

    def __init__(self, meter: Meter):
        self.meter, self.steps, self.updates = meter, 0, 0

    def on_metrics(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        self.steps, self.updates = metrics["step"], metrics["updates"]
        self.meter.at(self.steps, self.updates)


def main() -> None:
    options = arguments("Engram")
    job = job_of(options)
    watch = Watch(Meter("engram", job, options.started))
    trainer = Trainer(
        f"engram/{job.environment}" if job.task == "device" else job.environment,
        preset="dqn",
        seed=job.seed,
        envs=job.envs,
        steps=job.steps,
        log_every=500,  # what a run of 50,000 steps has by default; the few steps of Pong would be logged far oftener
        evaluate_every=0,
        callbacks=(watch,),
        overrides=settings(job),
    )
    # Each call of `learn` ends with a line of metrics: after the first update, where the window opens, at the end.
    trainer.learn(job.learning_starts + max(job.collect, job.envs))
    trainer.learn(job.steady_from - trainer.steps)
    trainer.learn(job.steps - trainer.steps)
    watch.meter.report(watch.steps, watch.updates, PACKAGES)


if __name__ == "__main__":
    main()
