"""Selling cinema tickets: what do attention over acts and a memory of the talk earn, against rules and an MLP?

    python -m benchmarks.learning.dialogue                          5 seeds of every agent, held-out goals
    python -m benchmarks.learning.dialogue --continue --published ../movie-tickets
    python -m benchmarks.learning.dialogue --agents attention --seeds 1 --dialogues 2000 --out /tmp/quick.json

Agents are told apart by one thing each, and learn without a warm start: `attention` (preset `dialogue`: the state
attends over the acts on offer), `uniform` (the same, equal weights for all acts), `mlp` (a fixed set of acts, one
network over what is seen), `raw` (nothing is tracked: the last acts only, and a GRU), `raw without memory` (the same
without it). `errors 5 %`, `errors 10 %` and `errors 10 % + intents 5 %` are `attention` over a line on which slots, and
intents, are heard wrong. Each is asked for 2,000 greedy dialogues on goals that it never trained on, after 10,000 and
50,000 dialogues. Beside them: two agents of rules, and one at random.

`--published FOLDER` (base and goals of the published runs) trains and asks on all 128 goals, as those did, after
10,000, 20,000 and 30,000 dialogues: 100, 200 and 300 epochs of 100.

Runs lie under .benchmarks/dialogue; `--continue` takes an interrupted one up at its last checkpoint.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.learning.workers import EVALUATION_SEED, goes_on
from benchmarks.record import WORK, Record, add_flags, write_json
from benchmarks.scores import summary
from engram import Trainer
from engram.agents.policy import Seen, begin, greedy, look, still
from engram.bits import next_words
from engram.envs.device import make_device, where_done
from engram.envs.tasks import clerk
from engram.envs.tasks.dialogue import Dialogue
from engram.errors import EngramError
from engram.play.evaluation import evaluation_seed
from engram.run.metrics import read_metrics

ENV, PRESET, ENVS = "engram/Dialogue-v0", "dialogue", 64
ASKED, CHUNK = 2_000, 8_192  # dialogues of a test; steps between two looks at how many dialogues are over
STAGES, PUBLISHED = (10_000, 50_000), (10_000, 20_000, 30_000)  # dialogues of training
STEPS, MOST = 8, 20  # of a dialogue: about, which schedules follow, and at most, which no run outlasts
RAW = {"tracked": False}
# Two layers of 235 have about as many parameters as the attention over acts; see `parameters` in the results.
AGENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # arguments of the environment, settings of the agent
    "attention": ({}, {}),
    "uniform": ({}, {"head.uniform": True}),
    "mlp": ({"described": False}, {"encoder.widths": (235, 235)}),
    "raw": (RAW, {"working": "gru"}),
    "raw without memory": (RAW, {}),
    "errors 5 %": ({"slot_error": 0.05}, {}),
    "errors 10 %": ({"slot_error": 0.1}, {}),
    "errors 10 % + intents 5 %": ({"slot_error": 0.1, "intent_error": 0.05}, {}),
}
Choose = Callable[[Any, Any, Any], Any]  # states, observations, random words -> an act for each


def files_of(folder: Path | None) -> dict[str, str]:
    """Arguments for the published base and goals."""
    if folder is None:
        return {}
    base, goals = folder / "knowledge-base-1k.json", folder / "goals-first-turn-v1.json"
    return {"base": str(base), "goals": str(goals), "split": "all"}


def asked(env: Dialogue, begun: Any, choose: Callable[..., Any], key: Any) -> dict[str, float]:
    """How `ASKED` dialogues side by side end: `choose` maps (own state, observations, first, reward, words) to it and
    an act for each.
    """

    def step(_: int, carry: Any) -> Any:
        key, state, observation, own, first, reward, running, won, turns = carry
        key, bits = next_words(key, 3 * ASKED)
        own, action = choose(own, state, observation, first, reward, bits[2 * ASKED :])
        state, out = jax.vmap(env.step)(state, action, bits[: 2 * ASKED].reshape(ASKED, 2))
        won, turns = won | (running & state.success), turns + running
        return key, state, out.observation, own, ~first & False, out.reward, running & ~out.terminated, won, turns

    def all_of_it(key: Any, begun: Any) -> tuple[Any, Any]:
        key, bits = next_words(key, 2 * ASKED)
        state, observation = jax.vmap(env.reset)(bits.reshape(ASKED, 2))
        yes = jnp.ones(ASKED, bool)
        carry = key, state, observation, begun, yes, jnp.zeros(ASKED), yes, ~yes, jnp.zeros(ASKED, jnp.int32)
        return jax.lax.fori_loop(0, env.max_turn // 2, step, carry)[-2:]

    won, turns = jax.jit(all_of_it)(key, begun)
    return {"success": float(won.mean()), "acts": float(turns.mean()), "ceiling": env.ceiling}


def watch(trainer: Trainer, args: dict[str, Any], seed: int) -> dict[str, float]:
    """How greedy dialogues of the newest parameters end."""
    env, spec, mind = make_device(ENV, **args), trainer.plan.agent, trainer.runner.minds()[0]

    def choose(own: Any, state: Any, observation: Any, first: Any, reward: Any, bits: Any) -> Any:
        del state, bits
        return greedy(look(spec, mind, own, Seen(observation, first, reward), still(mind.network, ASKED)))

    assert isinstance(env, Dialogue)
    return asked(env, begin(spec, mind.network, ASKED), choose, jax.random.PRNGKey(evaluation_seed(seed)))


def by_rules(args: dict[str, Any]) -> dict[str, Any]:
    """The agents of rules, and the one at random."""
    env = make_device(ENV, **args)
    assert isinstance(env, Dialogue)

    def rule(name: str) -> Callable[..., Any]:
        chosen = clerk.rule(name)
        return lambda own, state, *_: (own, jax.vmap(lambda heard: chosen(env, heard))(state.heard))

    def anything(own: Any, state: Any, observation: Any, first: Any, reward: Any, bits: Any) -> Any:
        del state, first, reward
        return own, jax.vmap(lambda one, mask: clerk.at_random(env, one, mask))(bits, observation["action_mask"])

    key, nothing = jax.random.PRNGKey(evaluation_seed(EVALUATION_SEED)), jnp.zeros(())
    found = {name: asked(env, nothing, rule(name), key) for name in clerk.RULES}
    return found | {"random": asked(env, nothing, anything, key)}


def speed(envs: int = 256, steps: int = 100_000) -> dict[str, Any]:
    """Acts a second of the environment alone, at random, by CPU time and by the clock: five times 100,000.

    A turn of the user follows each act, so there are twice as many turns.
    """
    env = make_device(ENV)

    def step(_: int, carry: Any) -> Any:
        key, state, _seen, total = carry
        key, bits = next_words(key, 5 * envs)
        words = bits.reshape(envs, 5)
        state, out = jax.vmap(env.step)(state, (words[:, 4] % env.actions).astype(jnp.int32), words[:, :2])
        begun = jax.vmap(env.reset)(words[:, 2:4])
        state, seen = jax.tree.map(partial(where_done, out.terminated), begun, (state, out.observation))
        return key, state, seen, total + out.reward.sum()

    key, bits = next_words(jax.random.PRNGKey(0), 2 * envs)
    state, seen = jax.jit(jax.vmap(env.reset))(bits.reshape(envs, 2))
    run = jax.jit(lambda carry, count: jax.lax.fori_loop(0, count, step, carry))
    carry = jax.block_until_ready(run((key, state, seen, jnp.zeros(())), 2))
    found = []
    for _ in range(5):
        cpu, clock = time.process_time(), time.monotonic()
        carry = jax.block_until_ready(run(carry, steps // envs))
        found.append((steps / (time.process_time() - cpu), steps / (time.monotonic() - clock)))
    by_cpu, by_clock = zip(*found, strict=True)
    return {"acts_per_cpu_second": by_cpu, "acts_per_second": by_clock, "envs": envs}


def learn(name: str, seed: int, stages: tuple[int, ...], files: dict[str, str], folder: Path) -> dict[str, Any]:
    """One agent, trained (or trained on) in `folder`, and asked whenever it has had the dialogues of a stage."""
    given, settings = AGENTS[name]
    args, notes = given | files, folder / "stages.json"
    steps = max(CHUNK, STEPS * stages[-1] // CHUNK * CHUNK)
    # The same schedules for all; agents whose dialogues are longer take more steps for as many of them.
    settings = settings | {"optimizer.decay_steps": steps, "exploration.steps": steps // 10}
    new: dict[str, Any] = {"env": ENV, "preset": PRESET, "seed": seed, "envs": ENVS, "steps": MOST * stages[-1],
                           "env_args": args, "overrides": settings, "log_every": CHUNK,
                           "save_every": 8 * CHUNK}  # fmt: skip
    begun = goes_on(folder, new)
    found = json.loads(notes.read_text()) if begun and notes.exists() else {}
    with Trainer(run=folder, progress=False, **({"resume": True} if begun else new)) as trainer:
        while any(str(stage) not in found for stage in stages):
            trainer.learn(CHUNK)
            row = read_metrics(folder)[-1]
            for stage in stages:
                if row["episodes"] >= stage and str(stage) not in found:
                    test = {**args, "split": files.get("split", "test")}
                    found[str(stage)] = watch(trainer, test, EVALUATION_SEED + seed) | {
                        "steps": row["step"], "training_return": row["return_mean"],
                        "training_seconds": row["seconds"],
                    }  # fmt: skip
                    write_json(notes, found)
                    print(name, seed, stage, found[str(stage)], file=sys.stderr, flush=True)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(trainer.runner.minds()[0].network))
    return {"stages": found, "parameters": parameters}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", default=",".join(AGENTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--dialogues", type=int, help="of training, one stage in place of those above")
    parser.add_argument("--published", type=Path, help="folder with the base and goals of the published runs")
    parser.add_argument("--work", type=Path, default=WORK / "dialogue", help="folder of the runs")
    add_flags(parser, "dialogue")
    options = parser.parse_args()
    chosen = options.agents.split(",")
    if unknown := [name for name in chosen if name not in AGENTS]:
        parser.error(f"no agent is called {unknown[0]!r}; choose from {', '.join(AGENTS)}")
    stages = STAGES if options.dialogues is None else (options.dialogues,)
    record = Record(options, {"asked": ASKED, "stages": stages, "published_stages": PUBLISHED, "preset": PRESET,
                              "envs": ENVS, "agents": {name: list(pair) for name, pair in AGENTS.items()},
                              "evaluation_seeds": f"{EVALUATION_SEED} + seed"})  # fmt: skip
    sources = [("held out", {"split": "test"}, {}, stages)]
    if options.published is not None:
        files = files_of(options.published)
        sources = [("published", files, files, PUBLISHED)]
    try:
        for where, test, files, own_stages in sources:
            for seed in range(options.seeds):  # all agents once before any of them twice
                for name in chosen:
                    part = f"{where}, {name}: seed {seed}"
                    kind = f"{where.replace(' ', '-')}-{own_stages[-1]}"  # what a run was planned for
                    folder = options.work / kind / name.replace(" ", "-") / f"seed{seed}"
                    if part in record.parts:
                        continue
                    record.put(part, learn(name, seed, own_stages, files, record.place(folder)))
                    record.summarize(tables(record.parts, quiet=True))
            for name in (name for name in chosen if "slot_error" in AGENTS[name][0] or name == "attention"):
                if (part := f"{where}, rules: {name}") not in record.parts:
                    record.put(part, by_rules(AGENTS[name][0] | test))
        if "speed" not in record.parts:
            record.put("speed", speed())
    except EngramError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    record.summarize(tables(record.parts))
    return 0


def tables(parts: dict[str, Any], quiet: bool = False) -> dict[str, Any]:
    """Prints what the parts came to, and returns it."""
    found: dict[str, Any] = {}
    lines = ["| goals | agent | seeds | dialogues | success | of the ceiling | acts |\n" + "|---" * 7 + "|"]
    for key in parts:
        if ", rules: " in key:
            for name, row in ((name, row) for name, row in parts[key].items() if isinstance(row, dict)):
                where, _, errors = key.partition(", rules: ")
                told = name if errors == "attention" else f"{name}, {errors}"
                lines.append(f"| {where} | {told} | | | {row['success']:.3f} | {row['success'] / row['ceiling']:.3f} | "
                             f"{row['acts']:.1f} |")  # fmt: skip
    for group in dict.fromkeys(key.rpartition(": seed ")[0] for key in parts if ": seed " in key):
        rows = [part["stages"] for key, part in parts.items() if key.startswith(f"{group}: seed ")]
        for stage in rows[0]:
            each = [row[stage] for row in rows]
            success: dict[str, Any] = summary([one["success"] for one in each])
            share = success["mean"] / each[0]["ceiling"]
            acts = float(np.mean([one["acts"] for one in each]))
            found[f"{group}: {stage}"] = {"success": success, "of_the_ceiling": share, "acts": acts}
            where, _, name = group.partition(", ")
            bounds = success["mean_interval_95"]
            told = f"{success['mean']:.3f}" + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else "")
            lines.append(f"| {where} | {name} | {len(rows)} | {int(stage):,} | {told} | {share:.3f} | {acts:.1f} |")
    if not quiet:
        print("\n".join(lines))
    return found


if __name__ == "__main__":
    sys.exit(main())
