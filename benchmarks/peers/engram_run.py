"""One run of Engram through its public interface; prints one JSON line."""

from meter import Meter, arguments, job_of
from work import Work

import engram

PACKAGES = ("engram", "jax", "equinox", "optax", "gymnasium", "ale-py", "numpy")


def settings(job: Work) -> dict[str, object]:
    """The work as settings of the preset `dqn`, by dotted name."""
    return {
        "encoder.widths": job.widths,
        "optimizer.learning_rate": job.learning_rate,
        "discount": job.discount,
        "replay.capacity": job.replay,
        "replay.batch": job.batch,
        "learning_starts": job.learning_starts,
        "learn_every": job.collect // job.updates_per_call,
        "target.every": job.target_every,
        "exploration.steps": job.exploration_steps,
        "exploration.end": job.exploration_end,
    }


def main() -> None:
    options = arguments("Engram")
    job = job_of(options)
    meter = Meter("engram", job, options.started)
    trainer = engram.Trainer(job.environment, preset="dqn", seed=job.seed, envs=job.envs, run=None, **settings(job))
    trainer.learn(job.steady_from)
    meter.at(trainer.steps, trainer.updates)
    trainer.learn(job.steps)
    meter.report(trainer.steps, trainer.updates, PACKAGES)


if __name__ == "__main__":
    main()
