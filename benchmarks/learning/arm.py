"""Robot arms: a value for each motor, goals in hindsight, and a proportional controller beside them.

    python -m benchmarks.learning.arm --cells reach reach-joint reach-plain --seeds 3     FetchReach-v4, 20,000 steps
    python -m benchmarks.learning.arm --cells reacher --seeds 5                           Reacher-v5, 500,000 steps
    python -m benchmarks.learning.arm --cells ours ours-plain ours-joint                  no extra needed
    python -m benchmarks.learning.arm --cells reacher --peer --continue                   and Stable-Baselines3's SAC
    python -m benchmarks.learning.arm --list

FetchReach, FetchPush, Reacher and Pusher need the extra `robotics`. A cell is a preset on a task; `-plain` is without
goals in hindsight, `-joint` has a value for each joint action, `-bins5` five values for each motor, `-before` the
preset's earlier targets of three rewards and seven values for each motor. The last parameters play 100 greedy episodes
on seeds used for nothing else. A goal counts as reached where it is reached *at the last step*: one that was passed on
the way is not. The controller pushes the gripper (or the tip) straight to the goal, scaled by a gain; it has learned
nothing, and is what a task has to beat to be hard.

Runs lie under .benchmarks/arm; `--continue` takes an interrupted one up at its last checkpoint.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.learning.driving import Progress
from benchmarks.learning.workers import EVALUATION_SEED, goes_on
from benchmarks.peers.environments import InstallFault, interpreter
from benchmarks.record import HERE, WORK, Record, add_flags, surroundings
from benchmarks.scores import summary
from engram import Trainer
from engram.envs.device import is_device, make_device
from engram.envs.host.build import builder_of
from engram.errors import EngramError
from engram.run.metrics import read_metrics

EPISODES = 100
PLAIN = {"draw": "uniform"}
ONE_Q = {"head": "q"}
OURS, REACH, PUSH = "engram/TwoLinkArm-v0", "FetchReach-v4", "FetchPush-v4"
GAINS = (2.0, 5.0, 10.0, 20.0)  # of the controller; the best is told

Cell = dict[str, Any]
CELLS: dict[str, Cell] = {
    "reach": {"env": REACH, "preset": "her", "steps": 20_000, "action_bins": 3, "envs": 1},
    "reach-plain": {"env": REACH, "preset": "her", "steps": 20_000, "action_bins": 3, "envs": 1, "overrides": PLAIN},
    "reach-joint": {"env": REACH, "preset": "her", "steps": 20_000, "action_bins": 3, "envs": 1, "overrides": ONE_Q},
    "reach-bins5": {"env": REACH, "preset": "her", "steps": 20_000, "action_bins": 5, "envs": 1},
    "push": {"env": PUSH, "preset": "her", "steps": 1_000_000, "action_bins": 3, "envs": 2, "asynchronous": True},
    "push-plain": {
        "env": PUSH,
        "preset": "her",
        "steps": 1_000_000,
        "action_bins": 3,
        "envs": 2,
        "asynchronous": True,
        "overrides": PLAIN,
    },
    "reacher": {"env": "Reacher-v5", "preset": "decqn", "steps": 500_000, "action_bins": 11, "envs": 4},
    "reacher-before": {
        "env": "Reacher-v5",
        "preset": "decqn",
        "steps": 500_000,
        "action_bins": 7,
        "envs": 4,
        "overrides": {"n_step": 3},
    },
    "reacher-joint": {
        "env": "Reacher-v5",
        "preset": "decqn",
        "steps": 500_000,
        "action_bins": 11,
        "envs": 4,
        "overrides": ONE_Q,
    },
    "pusher": {"env": "Pusher-v5", "preset": "decqn", "steps": 500_000, "action_bins": 3, "envs": 4},
    "ours": {"env": OURS, "preset": "her", "steps": 100_000, "envs": 8},
    "ours-plain": {"env": OURS, "preset": "her", "steps": 100_000, "envs": 8, "overrides": PLAIN},
    "ours-joint": {"env": OURS, "preset": "her", "steps": 100_000, "envs": 8, "overrides": ONE_Q},
}


def learn(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """One cell with one seed, trained (or trained on) in `folder` and then played."""
    asked = CELLS[name]
    new = {"seed": seed, "log_every": asked["steps"] // 10, "evaluate_every": 0, **asked}
    begun = goes_on(folder, new)
    with Trainer(run=folder, callbacks=(Progress(),), **({"resume": True} if begun else new)) as trainer:
        if trainer.steps < asked["steps"]:
            trainer.learn()
        rows = read_metrics(folder)
        agent = trainer.trained()
    state: dict[str, Any] = {}

    def act(observation: Any, first: bool) -> Any:
        action, state["policy"] = agent.predict(observation, None if first else state["policy"])
        return action

    played = play(asked["env"], act, EVALUATION_SEED + seed)
    about = {
        "training_steps": rows[-1]["step"],
        "updates": rows[-1]["updates"],
        "training_seconds": rows[-1]["seconds"],
    }
    return played | about


def play(env: str, act: Callable[[Any, bool], Any], seed: int) -> dict[str, Any]:
    """Returns of whole episodes, and in how many the goal was reached at the last step."""
    if is_device(env):
        return play_ours(act, seed)
    made = builder_of(env, {})()
    returns, reached = [], []
    for episode in range(EPISODES):
        [own] = np.random.SeedSequence([seed, episode]).generate_state(1)  # no two runs share an episode
        observation, _ = made.reset(seed=int(own))
        total, over, info = 0.0, False, {}
        while not over:
            action = np.asarray(act(observation, total == 0.0 and not info))
            observation, reward, terminated, truncated, info = made.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
        reached.append(float(info.get("is_success", np.nan)))
    made.close()
    return told(returns, reached)


def play_ours(act: Callable[[Any, bool], Any], seed: int) -> dict[str, Any]:
    """The same on the device's arm, one episode after another."""
    env: Any = make_device(OURS)
    reset, step, returns, reached = jax.jit(env.reset), jax.jit(env.step), [], []
    for episode in range(EPISODES):
        key = jnp.array([seed, episode], jnp.uint32)
        state, observation = reset(key)
        total, over, first = 0.0, False, True
        while not over:
            action = act({name: np.asarray(part) for name, part in observation.items()}, first)
            state, out = step(state, jnp.int32(action), key)
            observation, over, first = out.observation, bool(out.truncated), False
            total += float(out.reward)
        returns.append(total)
        reached.append(float(out.reward == 0))
    return told(returns, reached)


def told(returns: list[float], reached: list[float]) -> dict[str, Any]:
    success = None if np.isnan(reached).any() else float(np.mean(reached))
    return {"episodes": len(returns), "return": float(np.mean(returns)), "success_at_the_last_step": success}


def controller(env: str, gain: float, seed: int) -> dict[str, Any]:
    """Straight to the goal: no learning, no model. On the episodes that the agents of this seed play."""
    if is_device(env):
        return play_ours(lambda seen, _: _torque(seen, gain), EVALUATION_SEED + seed)
    size = builder_of(env, {})().action_space.shape[0]  # type: ignore[index]

    def act(seen: Any, _: bool) -> np.ndarray:
        move = np.zeros(size, np.float32)
        move[:3] = np.clip(gain * (seen["desired_goal"] - seen["achieved_goal"]), -1, 1)
        return move

    return play(env, act, EVALUATION_SEED + seed)


def _torque(seen: Any, gain: float) -> int:
    """The torques, of three of each joint, that are nearest to the pull of the goal less a braking of the joints."""
    (cosine, sine), (bend_cosine, bend_sine) = seen["observation"][:2], seen["observation"][2:4]
    upper = 0.5 * np.array([cosine, sine])
    lower = 0.5 * np.array([cosine * bend_cosine - sine * bend_sine, sine * bend_cosine + cosine * bend_sine])
    pull = np.asarray(seen["desired_goal"]) - np.asarray(seen["achieved_goal"])
    across = np.array([_cross(upper + lower, pull), _cross(lower, pull)])
    wanted = gain * across / np.array([3.0, 1.5]) - 2.0 * np.asarray(seen["observation"][4:6])
    first, second = (int(one) for one in np.clip(np.round(wanted), -1, 1) + 1)
    return 3 * first + second


def _cross(one: np.ndarray, other: np.ndarray) -> float:
    return float(one[0] * other[1] - one[1] * other[0])


def peer(env: str, steps: int, seed: int) -> dict[str, Any]:
    """Stable-Baselines3's SAC with its defaults, in a process and an environment of its own."""
    python = interpreter("sb3-arm", WORK)
    words = ["--env", env, "--steps", str(steps), "--seed", str(seed)]
    words += ["--evaluation-seed", str(EVALUATION_SEED + seed), "--episodes", str(EPISODES)]
    script = HERE / "peers" / "sb3_arm.py"
    around = surroundings() | {"OMP_NUM_THREADS": "1"}  # small products gain nothing from more threads
    done = subprocess.run([str(python), str(script), *words], stdout=subprocess.PIPE, text=True, check=True, env=around)
    return json.loads(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=["ours", "ours-plain", "ours-joint"], help="--list shows all")
    parser.add_argument("--list", action="store_true", help="list the cells and end")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--controllers", action="store_true", help="only the controllers of their tasks")
    only.add_argument("--peer", action="store_true", help="only Stable-Baselines3's SAC, on those without goals")
    parser.add_argument("--peer-steps", type=int, help="of SAC's runs (default: those of the cell)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=10)
    parser.add_argument("--work", type=Path, default=WORK / "arm", help="folder of the runs")
    add_flags(parser, "arm")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{name}: {asked}" for name, asked in CELLS.items()))
        return 0
    if unknown := [name for name in options.cells if name not in CELLS]:
        parser.error(f"no cell is called {unknown[0]!r}; choose from {', '.join(CELLS)}")
    peers = compared(options.cells) if options.peer else {}
    goals = [] if options.peer else [name for name in options.cells if CELLS[name]["preset"] == "her"]
    trained = [] if options.peer or options.controllers else options.cells
    if options.peer and not peers:
        parser.error(f"--peer was given, and {', '.join(options.cells)} have goals; reacher and pusher have none")
    record = Record(options, {"episodes": EPISODES, "cells": CELLS, "gains": GAINS,
                              "evaluation_seeds": f"{EVALUATION_SEED} + seed"})  # fmt: skip
    try:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for env in {CELLS[name]["env"]: None for name in goals}:
                for gain in GAINS:
                    if (part := f"controller on {env}, gain {gain:g}: seed {seed}") not in record.parts:
                        record.put(part, controller(env, gain, seed))
            for env, steps in peers.items():
                steps = options.peer_steps or steps
                if (part := f"sac on {env}, {steps} steps: seed {seed}") not in record.parts:
                    record.put(part, peer(env, steps, seed))
                    print(part, record.parts[part], file=sys.stderr, flush=True)
            for name in trained:
                part = f"{name}: seed {seed}"
                if part not in record.parts:
                    record.put(part, learn(name, seed, record.place(options.work / name / f"seed{seed}")))
                    print(part, record.parts[part], file=sys.stderr, flush=True)
    except (EngramError, InstallFault, gymnasium.error.Error) as problem:
        print(problem, file=sys.stderr)
        return getattr(problem, "exit_code", 1)
    record.summarize(tables(record.parts))
    return 0


def compared(cells: list[str]) -> dict[str, int]:
    """The tasks without goals among some cells, each with its steps."""
    return {CELLS[name]["env"]: CELLS[name]["steps"] for name in cells if CELLS[name]["preset"] != "her"}


def tables(parts: dict[str, Any]) -> dict[str, Any]:
    """Prints what the parts came to, and returns it."""
    found: dict[str, Any] = {}
    print("| cell | seeds | return | reached at the last step |\n" + "|---" * 4 + "|")
    for name in dict.fromkeys(key.partition(": seed ")[0] for key in parts):
        rows = [part for key, part in parts.items() if key.startswith(f"{name}: ")]
        if rows:
            found[name] = {"return": summary([row["return"] for row in rows])}
            cells = [f"{found[name]['return']['mean']:.2f}", "-"]
            if rows[0]["success_at_the_last_step"] is not None:
                found[name]["success"] = summary([row["success_at_the_last_step"] for row in rows])
                cells[1] = f"{found[name]['success']['mean']:.3f}"
            print(f"| {name} | {len(rows)} | {' | '.join(cells)} |")
    return found


if __name__ == "__main__":
    sys.exit(main())
