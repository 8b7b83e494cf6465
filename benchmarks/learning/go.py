"""Go on small boards: how often an agent that only played itself beats others, and what its parts are worth.

    python -m benchmarks.learning.go                                    5 x 5: the preset and its controls, 5 seeds
    python -m benchmarks.learning.go --continue --engines 0,1,10        and GNU Go (Debian's package gnugo)
    python -m benchmarks.learning.go --agents go --seeds 1 --steps 2e5 --games 40 --out /tmp/quick.json
    python -m benchmarks.learning.go --size 7 --steps 2e7 --out benchmarks/results/go7.json
    python -m benchmarks.learning.go --run runs/go --engines 1 --out /tmp/mine.json     a run that is there already

Agents differ in one thing each: `go` is the preset, `no-symmetry` learns each position as it is, `no-pool` meets nobody
but itself, `attention` reads the board by attention between patches of it instead of an MLP, with an eighth of the
parameters, `uniform` is that with equal weights, and `small-mlp` is one with as many parameters as these two on 5 x 5.
Each plays its last parameters. Every opening of two random moves is played twice, with colours swapped. Against GNU Go
it also plays Black with a first move of its own: without an opening, where nothing but the seed of GNU Go differs from
game to game (how many games did is told), and with a random first reply of White (`black-reply`).

Runs lie under .benchmarks/go; `--continue` takes an interrupted one up at its last checkpoint.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax

import engram
from benchmarks.learning.workers import goes_on
from benchmarks.record import WORK, Record, add_flags
from engram import Trainer
from engram.errors import EngramError
from engram.play.match import Match, play_match
from engram.run.metrics import read_metrics
from engram.run.plan import holds_run

ENV = "engram/Go-v0"
CELLS = {"encoder": "relational", "encoder.trunk": "grid"}
AGENTS: dict[str, dict[str, Any]] = {
    "go": {},
    "no-symmetry": {"symmetry": "off"},
    "no-pool": {"pool.share": 0.0},
    "attention": CELLS,
    "uniform": CELLS | {"encoder.uniform": True},
    "small-mlp": {"encoder.widths": (142, 142)},  # 38,366 parameters; the attention has 38,442
}
SIMPLE = ("random", "capture")


def learned(agent: str, seed: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One agent, trained (or trained on) in `folder`."""
    new: dict[str, Any] = {
        "env": ENV, "preset": "go", "seed": seed, "steps": options.steps, "overrides": AGENTS[agent],
        "env_args": {"size": options.size}, "log_every": max(1, options.steps // 40),
    }  # fmt: skip
    with Trainer(run=folder, **({"resume": True} if goes_on(folder, new) else new)) as trainer:
        if trainer.steps < trainer.plan.steps:
            trainer.learn()
    return told_of(folder)


def told_of(folder: Path) -> dict[str, Any]:
    """What training took, and its curve of greedy games against the player that captures."""
    rows = read_metrics(folder)
    played = [row for row in rows if row.get("evaluation_return") is not None]
    with engram.load(folder) as agent:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(agent.minds[0].network))
    return {
        "parameters": parameters,
        "training_steps": rows[-1]["step"],
        "training_games": rows[-1]["episodes"],
        "training_seconds": rows[-1]["seconds"],
        "pool_return": rows[-1].get("pool_return"),
        "curve": {"steps": [row["step"] for row in played], "capture": [row["evaluation_return"] for row in played]},
    }


def matched(folder: Path, name: str, games: int, seed: int, **more: Any) -> dict[str, Any]:
    """One match of the last parameters."""
    with engram.load(folder) as agent:
        env: Any = agent.device_world()
        rival = env.rival(name, seed)
        try:
            spec = agent.plan.agent
            return in_json(play_match(env, agent.minds[0], spec, rival, games=games, seed=seed, **more)[0])
        finally:
            rival.close()


def in_json(match: Match) -> dict[str, Any]:
    """A match as JSON: rates with their intervals, null without a game."""
    found = dataclasses.asdict(match)
    return {name: value._asdict() if hasattr(value, "_asdict") else value for name, value in found.items()}


def matches(options: argparse.Namespace, folder: Path, record: Record, name: str) -> None:
    """All matches of one run, each a part of the record."""
    games = options.games
    wanted: list[tuple[str, dict[str, Any]]] = [(one, {}) for one in SIMPLE]
    for level in options.engines:
        wanted.append((f"gnugo:{level}", {}))
        wanted.append((f"gnugo:{level}", {"opening_moves": 0, "side": "first"}))
        wanted.append((f"gnugo:{level}", {"free_moves": 1, "opening_moves": 1, "side": "first"}))
    for rival, more in wanted:
        part = f"{name}/{rival}" + ("/black" if more else "") + ("-reply" if "free_moves" in more else "")
        if part not in record.parts:
            found = matched(folder, rival, games, options.match_seed, **more)
            record.put(part, found)
            one = found["all_games"]
            told = f"{part}: {one['won']} of {one['games']} ({one['low']:.3f} to {one['high']:.3f})"
            print(f"{told}, {found['distinct']} different games", file=sys.stderr, flush=True)


def summary(record: Record) -> dict[str, Any]:
    """For each agent and rival the win rate over all games of all seeds, and the least and greatest of a seed."""
    found: dict[str, Any] = {}
    for part, match in record.parts.items():
        agent, _, rival = part.partition("/")
        if "all_games" not in match:
            continue
        name = agent.partition("@")[0]
        row = found.setdefault(f"{name}/{rival}", {"games": 0, "won": 0, "seeds": []})
        row["games"] += match["all_games"]["games"]
        row["won"] += match["all_games"]["won"]
        row["seeds"].append(match["all_games"]["rate"])
    return {name: row | {"rate": row["won"] / row["games"]} for name, row in found.items()}


def read() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", default=",".join(AGENTS), help="which, with commas between them")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="of the agents")
    parser.add_argument("--steps", type=lambda text: int(float(text)), default=4_000_000, help="moves of training")
    parser.add_argument("--size", type=int, default=5)
    parser.add_argument("--games", type=int, default=400, help="of each match")
    parser.add_argument("--engines", default="", help="levels of GNU Go, with commas between them; none by default")
    parser.add_argument("--match-seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="match this run instead of training")
    parser.add_argument("--work", type=Path, default=WORK / "go")
    add_flags(parser, "go")
    options = parser.parse_args()
    options.agents = [name for name in options.agents.split(",") if name]
    if unknown := sorted(set(options.agents) - set(AGENTS)):
        parser.error(f"there is no agent {unknown[0]!r}; choose from {', '.join(AGENTS)}")
    levels = [level for level in options.engines.split(",") if level]
    if not all(level.isdecimal() and int(level) <= 10 for level in levels):
        parser.error(f"--engines {options.engines} was given; expected levels from 0 to 10, such as 0,1,10")
    options.engines = [int(level) for level in levels]
    return options


def main() -> None:
    options = read()
    settings = {name: getattr(options, name) for name in ("size", "steps", "games", "match_seed")}
    record = Record(options, settings)
    if options.run is not None:
        if not holds_run(options.run):
            raise SystemExit(f"{options.run} holds no run")
        name = options.run.name
        if name not in record.parts:
            record.put(name, told_of(options.run))
        matches(options, options.run, record, name)
    for agent in [] if options.run is not None else options.agents:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            name = f"{agent}@{seed}"
            folder = options.work / f"{agent}-{options.size}-{options.steps}" / f"seed{seed}"
            if name not in record.parts:
                record.put(name, learned(agent, seed, options, record.place(folder)))
            matches(options, folder, record, name)
    record.summarize(summary(record))


if __name__ == "__main__":
    try:
        main()
    except EngramError as problem:
        raise SystemExit(str(problem)) from None
