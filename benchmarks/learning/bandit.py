"""What a memory saves the second time: regret on pictures never seen before, exposure by exposure.

    python -m benchmarks.learning.bandit                          slots, gru and the control; 5 seeds
    python -m benchmarks.learning.bandit --agents slots --seeds 1 --steps 100000 --out /tmp/quick.json

Agents learn `engram/ContextBandit-v0`, where every episode has pictures and arms of its own, and then play 500 greedy
episodes with their last parameters, on seeds used for nothing else. *Regret* is the number of pulls of an exposure that
did not take the arm that pays. Who searches well regrets 1.5 at the first exposure (random actions: 3); who then
remembers regrets 0 at all later ones. *Second / first* is what is asked to be 0.25 at most.

Beside the agents: each of them with its memory emptied before every step (`emptied`), `slots` with equal weights
(`uniform`). Where slots are read, also the share of decisions, from the second exposure on, whose most attended slot
was written at an earlier step that showed the same picture; a slot at random would make it 0.25.
"""

import argparse
import sys
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.record import Record, add_flags
from benchmarks.scores import summary
from engram import Trainer, recipes
from engram.agents.policy import Seen, begin, greedy, look, still
from engram.bits import next_words
from engram.play.evaluation import evaluation_seed

EPISODES = 500
ENV = "engram/ContextBandit-v0"
RECIPE = recipes.find(ENV, "slots")  # of the package: what `slots` is, and the settings that the others share
ENV_ARGS, STEPS = RECIPE.env_args or {}, RECIPE.steps
COMMON = {path: value for path, value in RECIPE.agent().items() if path.partition(".")[0] != "working"}
SLOTS = {path: value for path, value in RECIPE.agent().items() if path.partition(".")[0] == "working"}
AGENTS = {
    "slots": SLOTS,
    "slots, uniform": SLOTS | {"working.uniform": True},
    "gru": {"working": "gru", "working.hidden_size": 128},
}


def watch(trainer: Trainer, seed: int, emptied: bool) -> dict[str, Any]:
    """Greedy episodes, all of the same length: regret of each exposure, and what was attended."""
    env, spec, mind = trainer._environment, trainer.plan.agent, trainer.runner.minds()[0]
    mind = replace(mind, network=mind.network.forgetful()) if emptied else mind
    key, bits = next_words(jax.random.PRNGKey(evaluation_seed(seed)), 2 * EPISODES)
    env_state, observation = jax.vmap(env.reset)(bits.reshape(EPISODES, 2))

    def step(carry, _):
        env_state, observation, state, is_first, reward, key = carry
        looked = look(spec, mind, state, Seen(observation, is_first, reward), still(mind.network, EPISODES))
        state, action = greedy(looked)
        key, bits = next_words(key, 2 * EPISODES)
        missed, context = action != jax.vmap(env.best)(env_state), jax.vmap(env.context)(env_state)
        moved, out = jax.vmap(env.step)(env_state, action, bits.reshape(EPISODES, 2))
        read = looked.decision.working
        attended = jnp.full_like(action, -1)
        if read.weights.shape[1]:
            best = read.weights.mean(1)[:, 0].argmax(-1)  # over heads; one read for all actions
            attended = jnp.take_along_axis(read.entries[:, 0, 0], best[:, None], -1)[:, 0]
        return (moved, out.observation, state, is_first & False, out.reward, key), (missed, context, attended)

    state = begin(spec, mind.network, EPISODES)
    carry = (env_state, observation, state, jnp.ones(EPISODES, bool), jnp.zeros(EPISODES), key)
    missed, context, attended = jax.jit(lambda carry: jax.lax.scan(step, carry, None, env.max_steps)[1])(carry)
    by_exposure = np.asarray(missed).reshape(env.exposures, env.contexts, env.pulls, EPISODES).sum(2).mean((1, 2))
    context, attended = np.asarray(context), np.asarray(attended)
    same = (np.take_along_axis(context, np.maximum(attended, 0), 0) == context) & (attended >= 0)
    hits = same[env.contexts * env.pulls :]  # the first exposure needs no memory of an earlier one
    found = {f"regret_{name}": float(r) for name, r in zip(("first", "second", "third"), by_exposure, strict=True)}
    found["second_to_first"] = found["regret_second"] / max(found["regret_first"], 1e-9)
    return found | {"attended_same_picture": float(hits.mean())}


def learn(name: str, seed: int, steps: int, changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """One agent, trained, and watched with and without its memory."""
    settings = COMMON | AGENTS[name] | {"exploration.steps": steps // 5} | changes
    trainer = Trainer(ENV, "lru-dqn", seed=seed, steps=steps, envs=8, env_args=ENV_ARGS, overrides=settings)
    with trainer:
        trainer.learn()
        return {
            f"{name}{said}: seed {seed}": watch(trainer, 7_207_000 + seed, emptied)
            for said, emptied in (("", False), (", emptied", True))
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", default=";".join(AGENTS), help="names, with ; between them")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=10)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--set", nargs="*", default=[], metavar="PATH=VALUE", help="settings to change in all agents")
    add_flags(parser, "bandit")
    options = parser.parse_args()
    changes = dict(one.split("=", 1) for one in options.set)
    record = Record(options, {"episodes": EPISODES, "steps": options.steps, "changes": changes})
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for name in options.agents.split(";"):
            if f"{name}, emptied: seed {seed}" not in record.parts:
                for part, found in learn(name, seed, options.steps, changes).items():
                    record.put(part, found)
                    print(part, found, file=sys.stderr, flush=True)
    columns = ("regret_first", "regret_second", "regret_third", "second_to_first", "attended_same_picture")
    print("| agent | first | second | third | second / first | same picture attended |\n" + "|---" * 6 + "|")
    totals: dict[str, Any] = {}
    for group in sorted({part.partition(":")[0] for part in record.parts}):
        rows = [row for part, row in record.parts.items() if part.partition(":")[0] == group]
        totals[group] = {column: summary([row[column] for row in rows]) for column in columns}
        cells = [
            f"{one['mean']:.3f} {[round(end, 3) for end in one['mean_interval_95'] or []] or ''}"
            for one in (totals[group][column] for column in columns)
        ]
        print(f"| {group} | {' | '.join(cells)} |")
    record.summarize(totals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
