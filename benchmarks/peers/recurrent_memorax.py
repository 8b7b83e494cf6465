"""One run of a recurrent Q-learner of memorax on CartPole without velocities; prints one JSON line.

The environment is gymnax's, behind memorax's own mask of observations; memorax compiles it with the learner. PQN has
the sizes of Engram's `pqn-rnn`, DQN and R2D2 those of `drqn` and `r2d2`. What memorax does otherwise is left as it is:
windows of a replay begin with an empty carry; a draw goes through the whole replay; every transition of a call is
returned. Previous actions are not shown: its DQN and R2D2 would show the action that is about to be judged.
"""
# pyright: reportMissingImports=false

import argparse
import json
import sys
import time

import flax.linen as nn
import jax
import optax
from memorax.algorithms import DQN, PQN, R2D2, DQNConfig, PQNConfig, R2D2Config
from memorax.buffers import get_full_start_flags, make_episode_buffer, make_prioritised_episode_buffer
from memorax.environments import make
from memorax.networks import MLP, RNN, FeatureExtractor, Network, heads
from memorax.utils.wrappers import MaskObservationWrapper

CAPACITY = 50_000
ENVS, ROLLOUT, EPOCHS, MINIBATCHES = 64, 32, 4, 8  # of `pqn-rnn`


def agent_of(job: argparse.Namespace):
    """The algorithm with its network, and, where it has one, its replay."""
    env, params = make("gymnax::CartPole-v1")
    env = MaskObservationWrapper(env, mask_dims=[0, 2])
    norm = nn.LayerNorm if job.algorithm == "pqn" else None  # as in Engram's presets
    network = Network(
        FeatureExtractor(observation_extractor=MLP(features=(128, 128), normalizer=norm)),
        RNN(cell=nn.OptimizedLSTMCell(job.width)),  # one product for all gates, as in Engram's
        heads.DiscreteQNetwork(2),
    )
    if job.algorithm == "pqn":
        settings = PQNConfig(
            name="pqn", num_envs=ENVS, num_eval_envs=1, num_steps=ROLLOUT, gamma=0.99, td_lambda=0.95,
            num_minibatches=MINIBATCHES, update_epochs=EPOCHS,
        )  # fmt: skip
        optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(5e-4))
        return PQN(settings, env, params, network, optimizer, optax.linear_schedule(1.0, 0.05, 50_000))
    shared = {
        "name": job.algorithm, "learning_rate": 3e-4, "num_envs": 1, "num_eval_envs": 1, "buffer_size": CAPACITY,
        "gamma": 0.99, "tau": 0.005, "target_network_frequency": 1, "batch_size": job.batch, "start_e": 1.0,
        "end_e": 0.05, "exploration_fraction": 0.5, "learning_starts": 500, "train_frequency": job.every,
        "burn_in_length": 0,
    }  # fmt: skip
    replay = {
        "max_length": CAPACITY, "min_length": 500, "sample_batch_size": job.batch, "sample_sequence_length": job.window,
        "add_sequences": True, "add_batch_size": 1, "get_start_flags": get_full_start_flags,  # windows begin anywhere
    }  # fmt: skip
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-4))
    epsilon = optax.linear_schedule(1.0, 0.05, 5_000)
    if job.algorithm == "dqn":
        return DQN(DQNConfig(**shared), env, params, network, optimizer, make_episode_buffer(**replay), epsilon)
    settings = R2D2Config(**shared, sequence_length=job.window)
    buffer = make_prioritised_episode_buffer(**replay, priority_exponent=settings.priority_exponent)
    correction = optax.constant_schedule(settings.importance_sampling_exponent)
    return R2D2(settings, env, params, network, optimizer, buffer, epsilon, correction)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--algorithm", choices=("pqn", "dqn", "r2d2"))
    for name in ("steps", "warm", "every", "window", "batch", "width", "seed"):
        parser.add_argument(f"--{name}", type=int)
    job = parser.parse_args()
    agent = agent_of(job)
    key, state = agent.init(jax.random.key(job.seed))
    key, state = agent.warmup(key, state, job.warm)  # random steps into the replay; of PQN, nothing
    before = time.perf_counter()
    # It compiles twice: types in the state that a call returns are not those in the first state.
    for _ in range(2):
        key, state, _ = jax.block_until_ready(agent.train(key, state, job.steps))
    first, programs, begun = time.perf_counter() - before, type(agent).train._cache_size(), int(state.step)
    start = time.perf_counter()
    key, state, told = jax.block_until_ready(agent.train(key, state, job.steps))
    seconds = time.perf_counter() - start
    if type(agent).train._cache_size() != programs:
        raise SystemExit("the call that was timed compiled again")
    rate = {"peer": "memorax", "steps_per_second": (int(state.step) - begun) / seconds, "first_seconds": first}
    json.dump(rate | {"updates": told.info["losses/loss"].size}, sys.stdout)  # a loss for each update


if __name__ == "__main__":
    main()
