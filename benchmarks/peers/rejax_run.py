"""One run of rejax's DQN on gymnax's CartPole, environment and learner in one program; prints one JSON line.

The program is compiled once for a chunk of steps and called chunk after chunk, each taking the state the last one
left: so the window can open in mid-run, and compilation is timed apart. Evaluation is off.
"""
# pyright: reportMissingImports=false

import math
import time
from typing import Any

import jax
from flax import linen
from meter import Meter, arguments, job_of
from rejax import get_algo
from rejax.networks import DiscreteQNetwork, EpsilonGreedyPolicy
from work import Work

PACKAGES = ("rejax", "gymnax", "jax", "flax", "optax", "numpy")


def algorithm(job: Work, chunk: int) -> Any:
    """rejax's DQN set up for `job`, a call of `train` advancing `chunk` environment steps."""
    dqn = get_algo("dqn").create(
        env=job.environment,
        num_envs=job.envs,
        num_epochs=job.updates_per_call,
        batch_size=job.batch,
        buffer_size=job.replay,
        # rejax compares with the count before the step, others with the count after it.
        fill_buffer=job.learning_starts - job.collect,
        total_timesteps=chunk,
        eval_freq=chunk,
        skip_initial_evaluation=True,
        learning_rate=job.learning_rate,
        gamma=job.discount,
        ddqn=False,
        target_update_freq=job.target_every,
        polyak=0.0,  # the share of the old target that stays: a hard copy
        eps_end=job.exploration_end,
        exploration_fraction=job.exploration_steps / chunk,
    )
    # Its own configuration cannot set the widths: they are given twice and it fails.
    actions = dqn.env.action_space(dqn.env_params).n
    network = EpsilonGreedyPolicy(DiscreteQNetwork)(
        hidden_layer_sizes=job.widths, action_dim=actions, activation=linen.relu
    )
    return dqn.replace(agent=network, eval_callback=lambda algorithm, state, key: ())


def updates_done(state: Any) -> int:
    """Gradient steps that the optimizer itself counted."""
    return int(state.q_ts.step)


def main() -> None:
    options = arguments("rejax DQN")
    job = job_of(options)
    chunk = math.gcd(job.steps, job.steady_from)
    if job.task != "device" or chunk % job.envs:
        raise SystemExit(f"rejax runs the task 'device', with steps divisible by 40; got {job.task!r}, {job.steps}")
    meter = Meter("rejax", job, options.started)
    dqn = algorithm(job, chunk)
    before = time.perf_counter()
    state = jax.jit(dqn.init_state)(jax.random.key(job.seed))
    advance = jax.jit(lambda state: dqn.train(train_state=state)[0]).lower(state).compile()
    compile_seconds = time.perf_counter() - before
    seconds = []
    for _ in range(job.steps // chunk):
        before = time.perf_counter()
        state = jax.block_until_ready(advance(state))
        seconds.append(round(time.perf_counter() - before, 4))
        meter.at(int(state.global_step), updates_done(state))
    meter.report(
        int(state.global_step),
        updates_done(state),
        PACKAGES,
        startup_to_first_learned_step=None,  # lies somewhere inside the first chunk
        compile_seconds=round(compile_seconds, 3),
        chunk_steps=chunk,
        chunk_seconds=seconds,
    )


if __name__ == "__main__":
    main()
