"""One run of Stable-Baselines3's PPO; prints one JSON line."""
# pyright: reportMissingImports=false

import json
import sys
import time

from rollouts_job import job_given
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env


def main() -> None:
    job = job_given()
    each = job.envs * job.steps
    agent = PPO(
        "MlpPolicy", make_vec_env(job.env, job.envs, job.seed), n_steps=job.steps, n_epochs=job.epochs,
        batch_size=each // job.minibatches, seed=job.seed, device="cpu",
        policy_kwargs={"net_arch": [job.width, job.width]},
    )  # fmt: skip
    before = time.perf_counter()
    agent.learn(each)
    first, start = time.perf_counter() - before, time.perf_counter()
    agent.learn(job.rollouts * each, reset_num_timesteps=False)
    seconds = time.perf_counter() - start
    json.dump({"peer": "sb3", "steps_per_second": job.rollouts * each / seconds, "first_seconds": first}, sys.stdout)


if __name__ == "__main__":
    main()
