"""How Stable-Baselines3 and SBX are measured: the same constructor, the same callback."""
# pyright: reportMissingImports=false

from typing import Any

from meter import Meter
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from work import Work

PACKAGES = ("stable-baselines3", "sbx-rl", "torch", "jax", "flax", "gymnasium", "ale-py", "numpy")


class Watch(BaseCallback):
    """Shows the meter the counts after each environment step, before the learning that may follow it."""

    def __init__(self, meter: Meter):
        super().__init__()
        self.meter = meter

    def _on_step(self) -> bool:
        self.meter.at(self.num_timesteps, self.model._n_updates)
        return True


def measure(algorithm: Any, job: Work, meter: Meter, network: dict[str, Any]) -> None:
    """Train `algorithm` (a DQN class of either library) on `job` and print the report.

    `network`: its `policy_kwargs`. What the work leaves open stays at the library's default.
    """
    if job.pixels:
        from pong import make_pong

        environment = make_pong()
    else:
        environment = make_vec_env(job.environment, n_envs=job.envs, seed=job.seed)
    model = algorithm(
        "CnnPolicy" if job.pixels else "MlpPolicy",
        environment,
        learning_rate=job.learning_rate,
        buffer_size=job.replay,
        learning_starts=job.learning_starts,
        batch_size=job.batch,
        gamma=job.discount,
        train_freq=job.collect // job.envs,  # counted in vector steps
        gradient_steps=job.updates_per_call,
        target_update_interval=job.target_every,
        exploration_fraction=min(1.0, job.exploration_steps / job.steps),
        exploration_final_eps=job.exploration_end,
        policy_kwargs=network,
        seed=job.seed,
        device="cpu",
    )
    model.learn(job.steps, callback=Watch(meter))
    meter.report(model.num_timesteps, model._n_updates, PACKAGES)
