"""Whether attention looks at what matters: the share of decisions whose most attended step is the one that told.

    python -m benchmarks.learning.attended   T-maze with a cue at a random step, RepeatFirst; 5 seeds
    python -m benchmarks.learning.attended --tasks tmaze --seeds 1 --steps 20000 --out /tmp/quick.json

Agents with a causal transformer (one layer, one head: each of several may stand for a single cue, and none for the
other) learn a task in which it is known which earlier step decides. Their last parameters then play 100 greedy
episodes. At every decision that depends on an earlier step, the step with the greatest attention weight is compared
with the known one (`relevant_step` of the environment). Beside it: the share that looking at a fixed number of steps
back, or at a fixed step of the episode, would have got at best, so that a bias of position can be told from attention;
and the same agents with equal weights.
"""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.record import Record, add_flags
from benchmarks.scores import summary
from engram import Trainer
from engram.agents.policy import Seen, begin, greedy, look, still
from engram.bits import next_words
from engram.play.evaluation import evaluation_seed

EPISODES = 100


@dataclass(frozen=True)
class Task:
    """A task, and the settings that learn it."""

    env: str
    env_args: dict[str, Any]
    steps: int
    settings: dict[str, Any]


COMMON = {
    "working.layers": 1, "working.heads": 1, "working.hidden_size": 64,
    "optimizer.learning_rate": 1e-3, "target.rate": 0.02, "replay.batch_size": 16,
}  # fmt: skip
TASKS = {
    "tmaze": Task("engram/PassiveTMaze-v0", {"length": 20, "cue_at": "random"}, 60_000, COMMON | {
        "working.window": 32, "replay.window": 21, "exploration": "parameter-noise", "exploration.scale": 0.3,
        "exploration.final_scale": 0.1, "n_step": 5, "observation.previous_action": True,
        "observation.previous_reward": True,
    }),
    # The first card is told from the others by its place alone, which distances do not say before one stands out.
    "repeat-first": Task("engram/RepeatFirst-v0", {"level": "easy"}, 30_000, COMMON | {
        "working.window": 64, "working.clock": True, "replay.window": 52, "discount": 0.5, "exploration.end": 0.02,
        "reward.normalize": True,
    }),
}  # fmt: skip


def watch(trainer: Trainer, seed: int) -> dict[str, Any]:
    """Greedy episodes: returns, and how often the attended step was the one that the decision depends on."""
    env, spec, mind = trainer._environment, trainer.plan.agent, trainer.runner.minds()[0]
    key, bits = next_words(jax.random.PRNGKey(evaluation_seed(seed)), 2 * EPISODES)
    env_state, observation = jax.vmap(env.reset)(bits.reshape(EPISODES, 2))

    @jax.jit
    def step(env_state, observation, state, is_first, reward, key):
        looked = look(spec, mind, state, Seen(observation, is_first, reward), still(mind.network, EPISODES))
        state, action = greedy(looked)
        key, bits = next_words(key, 2 * EPISODES)
        relevant = jax.vmap(env.relevant_step)(env_state)
        moved, out = jax.vmap(env.step)(env_state, action, bits.reshape(EPISODES, 2))
        read = looked.decision.working
        best = read.weights.mean(-3)[..., 0, :].argmax(-1)  # over heads; one layer, one read for all actions
        attended = jnp.take_along_axis(read.entries[:, 0, 0], best[:, None], -1)[:, 0]
        return moved, out, state, relevant, attended, key

    state = begin(spec, mind.network, EPISODES)
    running, is_first, reward = np.ones(EPISODES, bool), np.ones(EPISODES, bool), np.zeros(EPISODES, np.float32)
    returns, seen, time = np.zeros(EPISODES), [], 0
    while running.any():
        env_state, out, state, relevant, attended, key = step(env_state, observation, state, is_first, reward, key)
        relevant, attended = np.asarray(relevant), np.asarray(attended)
        counted = running & (relevant >= 0) & (relevant < time)  # the present observation needs no memory
        seen += [(time, int(relevant[i]), int(attended[i])) for i in np.flatnonzero(counted)]
        reward = np.asarray(out.reward)
        returns += np.where(running, reward, 0.0)
        running &= ~np.asarray(out.terminated | out.truncated)
        observation, is_first, time = out.observation, np.zeros(EPISODES, bool), time + 1
    steps_back, places = (Counter(t - r for t, r, _ in seen), Counter(r for _, r, _ in seen))
    return {
        "mean_return": float(returns.mean()),
        "decisions": len(seen),
        "attended_is_relevant": sum(r == a for _, r, a in seen) / max(len(seen), 1),
        "best_fixed_distance": max(steps_back.values(), default=0) / max(len(seen), 1),
        "best_fixed_step": max(places.values(), default=0) / max(len(seen), 1),
    }


def trainer_of(task: Task, seed: int, steps: int, uniform: bool, **given: Any) -> Trainer:
    """A trainer of one agent; with `uniform`, of its control."""
    settings = task.settings | {"working.uniform": uniform, "exploration.steps": steps // 5}
    about: dict[str, Any] = {"seed": seed, "steps": steps, "envs": 8, "env_args": task.env_args}
    return Trainer(task.env, "dtqn", overrides=settings, **about, **given)


def learn(task: Task, seed: int, steps: int, uniform: bool) -> dict[str, Any]:
    """One agent, trained and watched."""
    with trainer_of(task, seed, steps, uniform) as trainer:
        trainer.learn()
        return watch(trainer, 7_204_000 + seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=10)
    parser.add_argument("--steps", type=int, help="of each run; the task's own if left out")
    add_flags(parser, "attended")
    options = parser.parse_args()
    record = Record(options, {"episodes": EPISODES, "steps": options.steps})
    found: dict[str, Any] = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for name in options.tasks.split(","):
            for uniform in (False, True):
                part = f"{name}, {'uniform' if uniform else 'attention'}: seed {seed}"
                if part not in record.parts:
                    task = TASKS[name]
                    record.put(part, learn(task, seed, options.steps or task.steps, uniform))
                    print(part, record.parts[part], file=sys.stderr, flush=True)
    print("| task | return | relevant step attended | best fixed distance | best fixed step |\n" + "|---" * 5 + "|")
    columns = ("mean_return", "attended_is_relevant", "best_fixed_distance", "best_fixed_step")
    for group in sorted({part.partition(":")[0] for part in record.parts}):
        rows = [row for part, row in record.parts.items() if part.partition(":")[0] == group]
        found[group] = {column: summary([row[column] for row in rows]) for column in columns}
        cells = [f"{found[group][one]['mean']:.3f} {found[group][one]['mean_interval_95'] or ''}" for one in columns]
        print(f"| {group} | {' | '.join(cells)} |")
    record.summarize(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
