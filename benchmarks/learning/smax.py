"""Battles of SMAX: what adding up the values of a team is worth, and attention between its units.

    python -m benchmarks.learning.smax --map 3m --seeds 5             (extra `smax`)
    python -m benchmarks.learning.smax --map 3m --seeds 5 --continue
    python -m benchmarks.learning.smax --map 3m --agents smax --seeds 1 --steps 100000 --out /tmp/quick.json

Agents: `smax`, the preset; `fixed`, which has a value for each action's number and not for whom it hits
(`described=false`); `mlp`, which in addition reads the rows as one vector, with about as many parameters as `smax`;
`uniform`, which attends to all units and all actions alike; `independent`, without mixing; `qmix`; `blind`, which sees
the time, which unit it is, and the mask. Each plays 512 greedy battles with its last parameters, on seeds used for
nothing else. `random` (among allowed actions) and `script` (jaxmarl's heuristic on both sides) learn nothing.

Runs lie under .benchmarks/smax; `--continue` takes an interrupted one up at its last checkpoint.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.learning.workers import EVALUATION_SEED, goes_on
from benchmarks.record import WORK, Record, add_flags
from benchmarks.scores import summary, wilson
from engram import Trainer
from engram.bits import next_words
from engram.envs.adapters.smax import _played, id_of, package_of
from engram.envs.device import make_device, typed_key
from engram.play.evaluation import evaluation_seed
from engram.run.metrics import read_metrics

EPISODES, LONGEST = 512, 100  # steps after which a battle is truncated
STEPS = {"3m": 2_000_000, "2s3z": 5_000_000, "5m_vs_6m": 10_000_000, "smacv2_5_units": 10_000_000}
# Two layers of these widths have as many parameters as the preset, to a hundredth.
WIDTHS = {"3m": 255, "2s3z": 220, "5m_vs_6m": 210, "smacv2_5_units": 220}
FIXED, BLIND = {"described": False}, {"sees": "time"}
AGENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # arguments of the environment, settings of the agent
    "smax": ({}, {}),
    "fixed": (FIXED, {}),
    "mlp": (FIXED, {"encoder": "vector", "encoder.norm": True}),
    "uniform": ({}, {"encoder.uniform": True, "head.uniform": True}),
    "independent": ({}, {"mixing": "none"}),
    "qmix": ({}, {"mixing": "monotonic"}),
    "blind": (BLIND, {}),
}
SCRIPTS = ("random", "script")


class Progress:
    """A line to standard error for every line of metrics."""

    def on_metrics(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        told = f"seed {trainer.plan.seed}: step {metrics['step']:,}, return {metrics['return_mean']}"
        won = metrics.get("evaluation_success")
        print(told + ("" if won is None else f", won {won:.2f} of greedy battles"), file=sys.stderr, flush=True)


def learn(id: str, agent: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """One agent, trained (or trained on) in `folder`, and its battles."""
    args, settings = AGENTS[agent]
    settings = settings | ({"encoder.widths": (WIDTHS[id.removeprefix("smax-")],) * 2} if agent == "mlp" else {})
    new: dict[str, Any] = {"env": id, "preset": "smax", "seed": seed, "steps": steps, "overrides": settings,
                           "env_args": args, "log_every": max(1, steps // 100), "evaluate_episodes": 64}  # fmt: skip
    begun = goes_on(folder, new)
    with Trainer(run=folder, callbacks=(Progress(),), **({"resume": True} if begun else new)) as trainer:
        if trainer.steps < steps:
            trainer.learn()
        found, rows = trainer.evaluate(EPISODES, EVALUATION_SEED + seed), read_metrics(folder)
        told = [row for row in rows if "evaluation_success" in row]
        network = trainer.runner.minds()[0].network
        return outcome(np.array(found.successes), np.array(found.returns), np.array(found.lengths)) | {
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(network)),
            "training_steps": rows[-1]["step"],
            "training_seconds": rows[-1]["seconds"],
            "curve": {
                "steps": [row["step"] for row in told],
                "won": [row["evaluation_success"] for row in told],
            },
        }


def outcome(won: np.ndarray, returns: np.ndarray, lengths: np.ndarray) -> dict[str, Any]:
    """How battles ended. Those that nobody won in time count as not won, and are told."""
    return {
        "episodes": won.size,
        "unfinished": float((~won.astype(bool) & (lengths >= LONGEST)).mean()),
        "won": float(won.mean()),
        "won_interval_95": wilson(int(won.sum()), won.size),
        "mean_return": float(returns.mean()),
        "mean_steps": float(lengths.mean()),
    }


def scripted(name: str, kind: str) -> dict[str, Any]:
    """Battles of a team that learns nothing."""
    env: Any = make_device(id_of(name))
    heuristic = package_of(name)  # noqa: F841, imported before anything is traced
    from jaxmarl.environments.smax.heuristic_enemy import create_heuristic_policy, get_heuristic_policy_initial_state

    game = _played(name)
    policy = create_heuristic_policy(game._env, 0, shoot=True, attack_mode="closest")

    def choose(state: Any, memory: Any, observation: Any, key: Any) -> tuple[Any, Any]:
        if kind == "random":
            chances = jnp.where(observation["action_mask"], 0.0, -jnp.inf)
            return jax.random.categorical(typed_key(key), chances).astype(jnp.int32), memory
        raw = game.get_obs(state.game)
        seen = jnp.stack([raw[one] for one in game.agents])
        action, memory = jax.vmap(policy)(jax.random.split(typed_key(key), env.agents), memory, seen)
        return action.astype(jnp.int32), memory

    start = get_heuristic_policy_initial_state()
    memory = jax.tree.map(lambda leaf: jnp.broadcast_to(jnp.asarray(leaf), (EPISODES, env.agents, *jnp.shape(leaf))),
                          start)  # fmt: skip
    key, bits = next_words(jax.random.PRNGKey(evaluation_seed(EVALUATION_SEED)), 2 * EPISODES)
    state, observation = jax.jit(jax.vmap(env.reset))(bits.reshape(EPISODES, 2))

    @jax.jit
    def step(state: Any, memory: Any, observation: Any, key: Any) -> Any:
        key, bits = next_words(key, 4 * EPISODES)
        first, second = bits.reshape(2, EPISODES, 2)
        action, memory = jax.vmap(choose)(state, memory, observation, first)
        state, out = jax.vmap(env.step)(state, action, second)
        return state, memory, out, key

    running, won = np.ones(EPISODES, bool), np.zeros(EPISODES, bool)
    returns, lengths = np.zeros(EPISODES), np.zeros(EPISODES)
    while running.any():
        state, memory, out, key = step(state, memory, observation, key)
        observation = out.observation
        returns, lengths = returns + running * np.asarray(out.reward), lengths + running
        won = np.where(running, np.asarray(out.success), won)
        running = running & ~np.asarray(out.terminated | out.truncated)
    return outcome(won, returns, lengths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", choices=list(STEPS), default="3m", dest="name")
    parser.add_argument("--agents", nargs="+", choices=[*AGENTS, *SCRIPTS], default=[*SCRIPTS, *AGENTS])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="100 was used to find the settings")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--work", type=Path, default=WORK / "smax", help="where runs go")
    add_flags(parser, "smax")
    options = parser.parse_args()
    name, steps = options.name, options.steps or STEPS[options.name]
    record = Record(options, {"map": name, "steps": steps, "episodes": EPISODES, "agents": AGENTS,
                              "widths": WIDTHS[name]})  # fmt: skip
    id = id_of(name)
    for agent in options.agents:
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        for seed in seeds[:1] if agent in SCRIPTS else seeds:
            part = agent if agent in SCRIPTS else f"{agent}-{seed}"
            if part in record.parts:
                continue
            folder = options.work / f"{name}-{agent}-{seed}"
            found = scripted(name, agent) if agent in SCRIPTS else learn(id, agent, seed, steps, record.place(folder))
            record.put(part, found)
            print(f"{part}: won {found['won']:.3f}", flush=True)
    won = {agent: [part["won"] for key, part in record.parts.items() if re.fullmatch(rf"{agent}(-\d+)?", key)]
           for agent in (*SCRIPTS, *AGENTS)}  # fmt: skip
    record.summarize({agent: {"won": each} | summary(each) for agent, each in won.items() if each})


if __name__ == "__main__":
    main()
