"""One run of purejaxql's PQN, its authors' own code, on gymnax's environments; prints one JSON line.

purejaxql is on no package index: the variable PUREJAXQL is the folder of a checkout, and its `make_train` is what runs.
A call trains so many rollouts from new parameters, compiled as a whole; the second call is timed. Tests and logs are
off. The work is that of the other peers; what its authors do otherwise is left as it is: RAdam; every next observation
and every value is stored and shuffled with the rest; statistics of episodes and of inputs are kept though nobody asks.
Dense layers are those of `pqn_gymnax.py`, which flattens boards; convolutions those of `pqn_minatar.py`, 128 wide.
"""
# pyright: reportMissingImports=false

import hashlib
import importlib
import json
import os
import sys
import time
from pathlib import Path

import jax
from rollouts_job import job_given

SCRIPTS = {"dense": "pqn_gymnax", "convolution": "pqn_minatar"}


def main() -> None:
    job = job_given()
    if job.algorithm != "pqn":
        raise SystemExit(f"purejaxql has Q-learners only; got {job.algorithm}")
    if job.layers == "convolution" and job.width != 128:
        raise SystemExit(f"the layer after purejaxql's convolution is 128 wide; got {job.width}")
    folder = Path(os.environ.get("PUREJAXQL", "")).resolve()
    if not (folder / "purejaxql").is_dir():
        raise SystemExit(f"PUREJAXQL has to name a checkout of mttga/purejaxql; {folder} is none")
    sys.path.insert(0, str(folder))
    # JAX took this name away after the code was written; the peers of these benchmarks all have the same JAX.
    if not hasattr(jax, "tree_map"):
        jax.tree_map = jax.tree.map  # pyright: ignore[reportAttributeAccessIssue]
    script = importlib.import_module(f"purejaxql.{SCRIPTS[job.layers]}")
    total = job.rollouts * job.envs * job.steps
    train = script.make_train(
        {
            "ENV_NAME": job.env, "NUM_ENVS": job.envs, "NUM_STEPS": job.steps, "NUM_EPOCHS": job.epochs,
            "NUM_MINIBATCHES": job.minibatches, "TOTAL_TIMESTEPS": total, "TOTAL_TIMESTEPS_DECAY": total,
            "HIDDEN_SIZE": job.width, "NUM_LAYERS": 2, "NORM_TYPE": "layer_norm", "NORM_INPUT": False,
            "LR": 3e-4, "LR_LINEAR_DECAY": False, "MAX_GRAD_NORM": 10.0, "GAMMA": 0.99, "LAMBDA": 0.95,
            "EPS_START": 1.0, "EPS_FINISH": 0.05, "EPS_DECAY": 0.1,
            "TEST_DURING_TRAINING": False, "WANDB_MODE": "disabled",
        }
    )  # fmt: skip
    keys = jax.random.split(jax.random.PRNGKey(job.seed))  # it takes keys of the old kind only
    before = time.perf_counter()
    advance = jax.jit(train).lower(keys[0]).compile()
    jax.block_until_ready(advance(keys[0]))
    first, start = time.perf_counter() - before, time.perf_counter()
    found = jax.block_until_ready(advance(keys[1]))
    seconds = time.perf_counter() - start
    told = {"peer": "purejaxql", "steps_per_second": total / seconds, "first_seconds": first}
    told["updates"] = int(found["runner_state"][0].grad_steps)
    told["source"] = hashlib.sha256(Path(str(script.__file__)).read_bytes()).hexdigest()  # a checkout has no version
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
