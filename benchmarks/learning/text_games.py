"""Text games of TextWorld: what do attention over commands and a working memory earn, on games that are new?

    python -m benchmarks.learning.text_games                                the coin collector, level 20, 5 seeds
    python -m benchmarks.learning.text_games --games cooking --out benchmarks/results/text-cooking.json
    python -m benchmarks.learning.text_games --agents attention --seeds 1 --level 3 --steps 10000 --out /tmp/quick.json

Needs the extra `text`. Agents: `attention` (the state attends over the commands on offer), `uniform` (the same, equal
weights for all commands), `no memory` (without the recurrent memory) and `emptied` (trained as `attention`, its memory
emptied before every step of the test). `short view` is `attention` with a discount of .9, and `discovery` is that, paid
in training for each place that is new in an episode. Beside them an agent at random. `brief` is `discovery` with eight
words of each text, which hold the last command and not the place; `brief without memory` is the recipe. What ends in
`uniform` has equal weights for all commands. `unaware` and `unaware without memory` do not see their own last command.
Each plays every game of training once, and every game that has another seed: game and agent are deterministic, so once
is all there is to see. The one at random plays each ten times. Asked: .9 of unseen games of level 20 at 100,000 steps;
cooking .6 of the score on games of training and .4 on unseen ones; without attention at most half of it.

Games are kept in the user's cache folder. Runs lie under .benchmarks/text_games; `--continue` takes an interrupted one
up at its last checkpoint.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.learning.workers import EVALUATION_SEED, goes_on
from benchmarks.record import WORK, Record, add_flags
from benchmarks.scores import summary
from engram import Trainer, recipes
from engram.agents.policy import forgetful
from engram.envs.host.make import make_host
from engram.envs.textgames.textworld import number_of
from engram.errors import EngramError
from engram.play.playing import play_host
from engram.run.metrics import read_metrics

ENVS, TIMES = 8, 10  # episodes of each game, of the agent at random
COIN, COOKING = "textworld/CoinCollector-v0", "textworld/Cooking-v0"
# Attention among all words of a text costs their square, and the pooling attends over them without it.
BASE: dict[str, Any] = {"encoder": "tokens", "encoder.layers": 0, "working": "gru", "replay.window": 16}
FREE = {"working": "none", "replay.window": 1, "replay.batch_size": 256}  # as many rows as 16 windows of 16
RECIPE = recipes.find(COIN, "no-memory")
BRIEF = {name: value for name, value in (RECIPE.env_args or {}).items() if name != "level"}
AGENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # arguments of the environment, settings of the agent
    "attention": ({}, {}),
    "uniform": ({}, {"head.uniform": True}),
    "no memory": ({}, FREE),
    "short view": ({}, {"discount": 0.9}),
    "short view without memory": ({}, {"discount": 0.9} | FREE),
    "short view uniform": ({}, {"discount": 0.9, "head.uniform": True}),
    "discovery": ({"discovery": 0.1}, {"discount": 0.9}),
    "brief": (BRIEF, {"discount": 0.9}),
    "brief without memory": (BRIEF, RECIPE.agent()),
    "brief without memory uniform": (BRIEF, RECIPE.agent() | {"head.uniform": True}),
    "unaware": ({"commanded": False}, {}),
    "unaware without memory": ({"commanded": False}, FREE),
}
EMPTIED = ("attention", "short view", "discovery", "brief", "unaware")  # whose memory is also emptied in the test


def learn(env: str, name: str, seed: int, steps: int, args: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One agent, trained (or trained on) in `folder`, and played on games of training and on unseen ones."""
    given, settings = AGENTS[name]
    args = args | given
    new: dict[str, Any] = {"env": env, "env_args": args, "seed": seed, "envs": ENVS, "steps": steps}
    new |= {"evaluate_every": 0, "log_every": max(1, steps // 20), "overrides": BASE | settings}
    begun = goes_on(folder, new)
    with Trainer(run=folder, progress=False, **({"resume": True} if begun else new)) as trainer:
        if trainer.steps < steps:
            trainer.learn()
        row, mind, spec = read_metrics(folder)[-1], trainer.runner.minds()[0], trainer.plan.agent
    found = {"training_steps": row["step"], "training_seconds": row["seconds"]}
    found["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(mind.network))
    for split in ("train", "test"):
        asked = args | {"split": split, "discovery": 0.0}
        found[split] = play(env, asked, EVALUATION_SEED + seed, mind, spec)
        if name in EMPTIED:
            found[f"{split}, emptied"] = play(env, asked, EVALUATION_SEED + seed, forgetful(spec, mind), spec)
    return found


def play(
    env: str, args: dict[str, Any], seed: int, mind: Any, spec: Any, choose: Any = None, times: int = 1
) -> dict[str, Any]:
    """Greedy episodes of every game: the share that was won, the share of the score, commands of an episode."""
    count = number_of(args.get("games"), args["split"])
    won, score, commands = [], [], []
    for game in range(count):
        envs = make_host(env, seed=seed, env_args=args | {"game": game}, envs=1, to_play=True)
        try:
            chosen = choose(envs) if choose is not None else None
            played = play_host(mind, spec, envs, times, choose=chosen)
        finally:
            envs.close()
        won.append(float(np.mean(np.asarray(played.successes, float))))
        score.append(float(np.mean(played.returns)))
        commands.append(float(np.mean(played.lengths)))
    means = {"won": float(np.mean(won)), "score": float(np.mean(score)), "commands": float(np.mean(commands))}
    return means | {"games": count, "won_of_each": won}


def at_random(env: str, args: dict[str, Any]) -> dict[str, Any]:
    """The agent that types any of the commands on offer."""
    generator = np.random.default_rng(EVALUATION_SEED)

    def choose(_: Any) -> Any:
        return lambda seen, *_: np.array([generator.choice(np.flatnonzero(mask)) for mask in seen["action_mask"]])

    return {
        split: play(env, args | {"split": split}, EVALUATION_SEED, None, None, choose, TIMES)
        for split in ("train", "test")
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", choices=("coin", "cooking"), default="coin")
    parser.add_argument("--level", type=int, default=20, help="of the coin collector")
    parser.add_argument("--count", type=int, help="of games in training, and of unseen ones; 20 and 10 by default")
    parser.add_argument("--agents", default=",".join(AGENTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--work", type=Path, default=WORK / "text_games", help="folder of the runs")
    add_flags(parser, "text-games")
    options = parser.parse_args()
    chosen = options.agents.split(",")
    if unknown := [name for name in chosen if name not in AGENTS]:
        parser.error(f"no agent is called {unknown[0]!r}; choose from {', '.join(AGENTS)}")
    env, args = (COIN, {"level": options.level}) if options.games == "coin" else (COOKING, {})
    args |= {} if options.count is None else {"games": options.count}
    record = Record(options, {"env": env, "env_args": args, "steps": options.steps, "times": TIMES, "envs": ENVS,
                              "base": BASE, "agents": {name: list(pair) for name, pair in AGENTS.items()},
                              "evaluation_seeds": f"{EVALUATION_SEED} + seed"})  # fmt: skip
    try:
        if "random" not in record.parts:
            record.put("random", at_random(env, args))
        for seed in range(options.seeds):  # all agents once before any of them twice
            for name in chosen:
                part = f"{name}: seed {seed}"
                if part not in record.parts:
                    kind = f"{options.games}{options.level}-{options.count or 'all'}-{options.steps}"
                    folder = record.place(options.work / kind / name.replace(" ", "-") / f"seed{seed}")
                    record.put(part, learn(env, name, seed, options.steps, args, folder))
                    print(part, record.parts[part], file=sys.stderr, flush=True)
    except EngramError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    record.summarize(tables(record.parts))
    return 0


def tables(parts: dict[str, Any]) -> dict[str, Any]:
    """Prints what the parts came to, and returns it."""
    found: dict[str, Any] = {}
    print("| agent | seeds | games | won | score | commands |\n" + "|---" * 6 + "|")
    for name in ("random", *AGENTS):
        rows = [part for key, part in parts.items() if key == name or key.startswith(f"{name}: seed ")]
        for split in (
            (split for split in rows[0] if split.startswith(("train", "test")) and "_" not in split) if rows else ()
        ):
            told = {about: summary([row[split][about] for row in rows]) for about in ("won", "score", "commands")}
            found[f"{name}: {split}"] = told
            means = " | ".join(f"{told[about]['mean']:.3f}" for about in told)
            print(f"| {name} | {len(rows)} | {split} | {means} |")
    return found


if __name__ == "__main__":
    sys.exit(main())
