"""Driving through a crossroads: does attending to the other cars arrive more often, and crash less, than a plain MLP?

    python -m benchmarks.learning.driving                            5 seeds of three agents on engram/Intersection-v0
    python -m benchmarks.learning.driving --continue --highway 100   and highway-env itself (extra `driving`)
    python -m benchmarks.learning.driving --agents entities --seeds 1 --steps 20000 --out /tmp/quick.json

The agents differ in their encoder only: `entities`, in which the agent's car attends to the others; `mlp`, which reads
the same rows as one vector, with about as many parameters; `uniform`, the control, `entities` with equal weights for
all. Their last parameters then drive 500 greedy episodes on seeds used for nothing else. An episode *arrives* if the
car gets 25 m down its way out unhurt, *crashes* if it touches another, and does neither where its 13 s are over.

Runs lie under .benchmarks/driving; `--continue` takes an interrupted one up at its last checkpoint. `--highway N`
drives the trained agent of the first seed through N episodes of highway-env's intersection-v2, whose observations and
actions are those of the port.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import engram
from benchmarks.learning.workers import EVALUATION_SEED, goes_on
from benchmarks.record import WORK, Record, add_flags
from benchmarks.scores import summary, wilson
from engram import Trainer, recipes
from engram.agents.policy import Seen, begin, greedy, look, still
from engram.bits import next_words
from engram.errors import EngramError
from engram.play.evaluation import evaluation_seed
from engram.run.metrics import read_metrics
from engram.run.plan import holds_run

ENV = "engram/Intersection-v0"
EPISODES, HIGHWAY_MOST = 500, 100
RECIPE = recipes.find(ENV, "entities")  # of the package; its settings were found on seed 0, see docs/results.md
STEPS = RECIPE.steps  # of training, about 10,000 episodes
OUTCOMES = ("arrival", "crash", "neither")
SETTINGS = {path: value for path, value in RECIPE.agent().items() if path != "encoder"}
# Two layers of 139 have 34,614 parameters, head included; the attention over entities has 34,691.
AGENTS: dict[str, dict[str, Any]] = {
    "entities": {"encoder": "entities"},
    "mlp": {"encoder": "vector", "encoder.widths": (139, 139), "encoder.norm": True},
    "uniform": {"encoder": "entities", "encoder.uniform": True},
}


class Progress:
    """A line to standard error for every tenth of a run."""

    def on_metrics(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        told = f"seed {trainer.plan.seed}: step {metrics['step']:,}, {metrics['episodes']:,} episodes, return"
        print(f"{told} {metrics['return_mean']}", file=sys.stderr, flush=True)


def learn(agent: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """One agent, trained (or trained on) in `folder` and then watched."""
    settings = SETTINGS | AGENTS[agent] | {"optimizer.decay_steps": steps, "exploration.steps": steps // 4}
    new: dict[str, Any] = {"env": ENV, "preset": "double-dqn", "seed": seed, "envs": 8, "steps": steps,
                           "overrides": settings, "log_every": max(1, steps // 10)}  # fmt: skip
    found = trained(folder, seed, steps, {"resume": True} if goes_on(folder, new) else new)
    rows = read_metrics(folder)
    return found | {"curve": {"steps": [row["step"] for row in rows], "returns": [row["return_mean"] for row in rows]}}


def trained(folder: Path, seed: int, steps: int, settings: dict[str, Any]) -> dict[str, Any]:
    """What a run comes to, after it was trained (or trained on) to its last step: what it did, and what it took."""
    with Trainer(run=folder, callbacks=(Progress(),), **settings) as trainer:
        if trainer.plan.steps != steps:
            raise SystemExit(f"{folder} is a run of {trainer.plan.steps:,} steps, not {steps:,}; use another --work")
        if trainer.steps < steps:
            trainer.learn()
        rows = read_metrics(folder)
        return watch(trainer, EVALUATION_SEED + seed) | {
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(trainer.runner.minds()[0].network)),
            "training_steps": rows[-1]["step"],
            "training_episodes": rows[-1]["episodes"],
            "updates": rows[-1]["updates"],
            "training_seconds": rows[-1]["seconds"],
        }


def watch(trainer: Trainer, seed: int) -> dict[str, Any]:
    """How greedy episodes end, all driven side by side."""
    env, spec, mind = trainer._environment, trainer.plan.agent, trainer.runner.minds()[0]
    key, bits = next_words(jax.random.PRNGKey(evaluation_seed(seed)), 2 * EPISODES)
    env_state, observation = jax.jit(jax.vmap(env.reset))(bits.reshape(EPISODES, 2))

    @jax.jit
    def step(env_state, observation, state, is_first, reward, key):
        looked = look(spec, mind, state, Seen(observation, is_first, reward), still(mind.network, EPISODES))
        state, action = greedy(looked)
        key, bits = next_words(key, 2 * EPISODES)
        moved, out = jax.vmap(env.step)(env_state, action, bits.reshape(EPISODES, 2))
        return moved, out, state, key

    state, running = begin(spec, mind.network, EPISODES), np.ones(EPISODES, bool)
    crashed, arrived, returns, lengths = (np.zeros(EPISODES) for _ in range(4))
    reward, is_first = np.zeros(EPISODES, np.float32), np.ones(EPISODES, bool)
    while running.any():
        env_state, out, state, key = step(env_state, observation, state, is_first, reward, key)
        reward, observation, is_first = np.asarray(out.reward), out.observation, np.zeros(EPISODES, bool)
        crashed = np.where(running, env_state.crashed, crashed)
        arrived = np.where(running, env_state.arrived, arrived)
        returns, lengths = returns + running * reward, lengths + running
        running = running & ~np.asarray(out.terminated | out.truncated)
    return told_apart(crashed > 0, arrived > 0) | {"mean_return": returns.mean(), "mean_steps": lengths.mean()}


def told_apart(crashed: np.ndarray, arrived: np.ndarray) -> dict[str, Any]:
    """Shares of the outcomes. A car that crashes and slides over the line has crashed."""
    arrived = arrived & ~crashed
    return {"episodes": crashed.size, "arrival": float(arrived.mean()), "crash": float(crashed.mean()),
            "neither": float((~arrived & ~crashed).mean())}  # fmt: skip


def highway(folder: Path, episodes: int) -> dict[str, Any]:
    """How greedy episodes of highway-env itself end, for the agent that was trained in `folder`."""
    try:
        import gymnasium
        import highway_env
    except ImportError as problem:
        raise SystemExit("--highway needs highway-env: uv sync --extra driving") from problem
    if not holds_run(folder):
        raise SystemExit(f"{folder} holds no run; train it first, without --highway, or name its folder by --work")
    gymnasium.register_envs(highway_env)
    env, agent = gymnasium.make("intersection-v2"), engram.load(folder)
    crashed, arrived, returns, lengths, begun = [], [], [], 0, time.monotonic()
    for episode in range(episodes):
        observation, _ = env.reset(seed=EVALUATION_SEED + episode)
        state, over, total = None, False, 0.0
        while not over:
            action, state = agent.predict(np.asarray(observation, np.float32), state)
            observation, reward, terminated, truncated, _ = env.step(int(action))
            over, total, lengths = terminated or truncated, total + float(reward), lengths + 1
        car = env.unwrapped.vehicle
        crashed.append(bool(car.crashed))
        arrived.append(bool(env.unwrapped.has_arrived(car)))
        returns.append(total)
        if (episode + 1) % 10 == 0:
            print(f"highway-env: {episode + 1} episodes, {sum(crashed)} crashes", file=sys.stderr, flush=True)
    seconds = time.monotonic() - begun
    found = told_apart(np.array(crashed), np.array(arrived))
    intervals = {f"{name}_interval_95": wilson(round(found[name] * episodes), episodes) for name in OUTCOMES}
    return found | intervals | {"mean_return": float(np.mean(returns)), "mean_steps": lengths / episodes,
                                "steps_per_second": lengths / seconds}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", default=",".join(AGENTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=10, help="0 was used to find the settings")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each run")
    parser.add_argument("--highway", type=int, default=0, help=f"episodes of highway-env itself, 0 to {HIGHWAY_MOST}")
    parser.add_argument("--work", type=Path, default=WORK / "driving", help="folder of the runs")
    add_flags(parser, "driving")
    options = parser.parse_args()
    chosen = options.agents.split(",")
    if unknown := [name for name in chosen if name not in AGENTS]:
        parser.error(f"no agent is called {unknown[0]!r}; choose from {', '.join(AGENTS)}")
    if not 0 <= options.highway <= HIGHWAY_MOST:
        parser.error(f"--highway {options.highway} was given; expected 0 to {HIGHWAY_MOST}: an episode takes seconds")
    record = Record(options, {"episodes": EPISODES, "steps": options.steps, "settings": SETTINGS, "agents": AGENTS,
                              "evaluation_seeds": f"{EVALUATION_SEED} + seed"})  # fmt: skip
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    try:
        for seed in seeds:  # all agents once before any of them twice: what does not get done is then the least
            for name in chosen:
                part, folder = f"{name}: seed {seed}", options.work / name / f"seed{seed}"
                if part in record.parts:
                    continue
                record.put(part, learn(name, seed, options.steps, record.place(folder)))
                print(part, {one: record.parts[part][one] for one in OUTCOMES}, file=sys.stderr, flush=True)
        if options.highway:
            check = f"highway-env, {chosen[0]} of seed {seeds[0]}"
            record.put(check, highway(options.work / chosen[0] / f"seed{seeds[0]}", options.highway))
    except EngramError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    record.summarize(tables(record.parts))
    return 0


def tables(parts: dict[str, Any]) -> dict[str, Any]:
    """Prints what the parts came to, and returns it."""
    found: dict[str, Any] = {}
    print("| agent | seeds | parameters | training episodes | arrival | crash | neither |\n" + "|---" * 7 + "|")
    for name in AGENTS:
        rows = [part for key, part in parts.items() if key.startswith(f"{name}: ")]
        if rows:
            found[name] = {outcome: summary([row[outcome] for row in rows]) for outcome in OUTCOMES}
            trained = round(np.mean([row["training_episodes"] for row in rows]))
            cells = [name, str(len(rows)), f"{rows[0]['parameters']:,}", f"{trained:,}"]
            cells += [share(found[name][one]["mean"], found[name][one]["mean_interval_95"]) for one in OUTCOMES]
            print(f"| {' | '.join(cells)} |")
    for key, part in parts.items():
        if key.startswith("highway-env"):
            rates = ", ".join(f"{one} {share(part[one], part[f'{one}_interval_95'])}" for one in OUTCOMES)
            print(f"\n{key}, {part['episodes']} episodes: {rates} ({part['steps_per_second']:.1f} steps/s)")
    return found


def share(value: float, bounds: list[float] | None) -> str:
    """A share and its interval."""
    return f"{value:.3f}" + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else "")


if __name__ == "__main__":
    sys.exit(main())
