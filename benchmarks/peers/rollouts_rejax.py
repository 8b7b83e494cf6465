"""One run of rejax's PQN or PPO on gymnax's environments, compiled as a whole; prints one JSON line.

Evaluation is off. A call trains so many rollouts; the second call, on the state of the first, is timed.
"""
# pyright: reportMissingImports=false

import json
import sys
import time

import jax
from rejax import get_algo
from rollouts_job import job_given


def main() -> None:
    job = job_given()
    total = job.rollouts * job.envs * job.steps
    agent = get_algo(job.algorithm).create(
        env=job.env, num_envs=job.envs, num_steps=job.steps, num_epochs=job.epochs, num_minibatches=job.minibatches,
        total_timesteps=total, eval_freq=total, skip_initial_evaluation=True, learning_rate=3e-4, gamma=0.99,
    ).replace(eval_callback=lambda algorithm, state, key: ())  # fmt: skip
    # What it makes by itself is 64 wide; another width cannot be given in its own configuration.
    if job.width != 64:
        raise SystemExit(f"rejax's networks are 64 wide; got {job.width}")
    before = time.perf_counter()
    state = jax.jit(agent.init_state)(jax.random.key(job.seed))
    advance = jax.jit(lambda state: agent.train(train_state=state)[0]).lower(state).compile()
    state = jax.block_until_ready(advance(state))
    first, start = time.perf_counter() - before, time.perf_counter()
    jax.block_until_ready(advance(state))
    seconds = time.perf_counter() - start
    json.dump({"peer": "rejax", "steps_per_second": total / seconds, "first_seconds": first}, sys.stdout)


if __name__ == "__main__":
    main()
