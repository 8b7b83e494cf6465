"""One run of Stable-Baselines3's SAC on a robot arm, with its defaults; prints one JSON line.

Started by learning/arm.py. The episodes at the end are the ones that Engram's agents play.
"""
# pyright: reportMissingImports=false

import argparse
import json
import sys
import time
from importlib.metadata import version

import gymnasium
import numpy as np
from stable_baselines3 import SAC

PACKAGES = ("stable-baselines3", "torch", "gymnasium", "mujoco", "numpy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--evaluation-seed", type=int, required=True)
    parser.add_argument("--episodes", type=int, required=True)
    options = parser.parse_args()
    model = SAC("MlpPolicy", gymnasium.make(options.env), seed=options.seed, device="cpu")
    curve, each, began = [], max(1, options.steps // 10), time.perf_counter()
    while model.num_timesteps < options.steps:
        model.learn(min(each, options.steps - model.num_timesteps), reset_num_timesteps=model.num_timesteps == 0)
        returns = played(model, options.env, options.evaluation_seed + 1_000_000, 20)
        curve.append([model.num_timesteps, float(np.mean(returns))])
        print(curve[-1], file=sys.stderr, flush=True)
    seconds = time.perf_counter() - began
    returns = played(model, options.env, options.evaluation_seed, options.episodes)
    found = {
        "episodes": len(returns),
        "return": float(np.mean(returns)),
        "success_at_the_last_step": None,
        "training_steps": model.num_timesteps,
        "updates": model._n_updates,
        "training_seconds": seconds,
        "curve": curve,
        "versions": {name: version(name) for name in PACKAGES},
    }
    json.dump(found, sys.stdout)


def played(model: SAC, env: str, seed: int, episodes: int) -> list[float]:
    """Returns of whole episodes without noise, with the seeds of `learning/arm.py`."""
    made, returns = gymnasium.make(env), []
    for episode in range(episodes):
        [own] = np.random.SeedSequence([seed, episode]).generate_state(1)
        observation, _ = made.reset(seed=int(own))
        total, over = 0.0, False
        while not over:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = made.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return returns


if __name__ == "__main__":
    main()
