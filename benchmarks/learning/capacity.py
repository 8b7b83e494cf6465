"""How many entries an external memory needs, what to give up when it is full, and how keys drift.

    python -m benchmarks.learning.capacity                       both parts, 3 seeds
    python -m benchmarks.learning.capacity --part drift --steps 5000 --out /tmp/quick.json

*Sweep*: `attention` of episodic.py on MinAtar Breakout with 100 to 100,000 entries and every eviction. Most situations
come again: 20,000 steps come to some 3,000 entries. The score is the mean return of all episodes of the run (the
curve's area), which is what a memory that helps early is for. Capacities that the run cannot fill have one row: nothing
is given up.

*Drift*: the same agent with 10,000 entries, of which 1, 8, 32 or 128 get fresh keys at every update. At the end, for
500 entries: the share of the 10 entries nearest to the stored key that are also the 10 nearest where all keys are
fresh. All are then computed anew at once, and the share is taken again: just before, and just after.
"""

import argparse
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.learning.episodic import AGENTS, TASKS
from benchmarks.record import Record, add_flags
from benchmarks.scores import summary
from engram import Trainer
from engram.agents.policy import Mind
from engram.agents.recall.keys import key_of
from engram.external.eviction import EVICTIONS

TASK = TASKS["minatar-breakout"]
FULL = (100, 300, 1_000)
LARGE = (10_000, 100_000)
TURNS = (1, 8, 32, 128)  # entries with fresh keys at every update
ASKED, NEAREST = 500, 10


def made(seed: int, steps: int, settings: dict[str, Any], **arguments: Any) -> Trainer:
    """A run of the task."""
    overrides = AGENTS["attention"] | {"exploration.steps": TASK.exploring} | settings
    return Trainer(TASK.env, "double-dqn", seed=seed, steps=steps, envs=TASK.envs, overrides=overrides, **arguments)


class Returns:
    """The sum and number of all episodes' returns, from log lines that each tell the newest hundred."""

    def __init__(self) -> None:
        self.rows: list[float] = []

    def on_metrics(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        if metrics["return_mean"] is not None:
            self.rows.append(metrics["return_mean"])


def sweep(capacity: int, eviction: str, seed: int, steps: int) -> dict[str, float]:
    """The curve's mean and its end."""
    seen = Returns()
    settings = {"external.capacity": capacity, "external.eviction": eviction}
    with made(seed, steps, settings, log_every=steps // 50, callbacks=(seen,)) as trainer:
        trainer.learn()
        entries = int(trainer.runner.minds()[0].recall.store.live.sum())
    return {"curve": float(np.mean(seen.rows)), "end": seen.rows[-1], "entries": entries}


def drift(turn: int, seed: int, steps: int) -> dict[str, float]:
    """The overlap of neighbours between stored and fresh keys, and the same once all keys are fresh."""
    with made(seed, steps, {"recall.refresh": turn}) as trainer:
        trainer.learn()
        spec, mind = trainer.plan.agent, trainer.runner.minds()[0]
        return {"before": overlap(spec, mind), "after": overlap(spec, anew(spec, mind))}


def fresh_keys(spec: Any, mind: Mind) -> jax.Array:
    """The keys that all places would have now, [tables places width]."""
    store = mind.recall.store
    keys = jax.vmap(lambda frames: key_of(spec, mind.network.embed(frames)))
    return jax.jit(lambda seen: jax.lax.map(keys, seen))(store.observation)


def anew(spec: Any, mind: Mind) -> Mind:
    """The mind with all keys fresh."""
    store, external = mind.recall.store, mind.network.external
    ids = jnp.arange(store.live.size)
    renewed = external.rekey(store, ids, fresh_keys(spec, mind).reshape(store.live.size, -1))
    return Mind(mind.network, type(mind.recall)(**vars(mind.recall) | {"store": renewed}), mind.target)


def overlap(spec: Any, mind: Mind) -> float:
    """Mean share of the nearest entries of the same table that stored keys and fresh ones have in common."""
    store, random, shares = mind.recall.store, np.random.default_rng(0), []
    now = np.asarray(fresh_keys(spec, mind))
    for table in range(store.tables):
        live = np.flatnonzero(np.asarray(store.live[table]))
        asked = random.choice(len(live), min(ASKED // store.tables, len(live)), replace=False)
        found = []
        for keys in (np.asarray(store.key[table])[live], now[table][live]):
            distance = ((keys[asked, None] - keys[None]) ** 2).sum(-1)
            distance[np.arange(len(asked)), asked] = np.inf
            found.append(np.argsort(distance, axis=1)[:, :NEAREST])
        shares += [len(set(one) & set(other)) / NEAREST for one, other in zip(*found, strict=True)]
    return float(np.mean(shares))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("sweep", "drift", "both"), default="both")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20_000)
    add_flags(parser, "capacity")
    options = parser.parse_args()
    record = Record(options, {"steps": options.steps, "asked": ASKED, "nearest": NEAREST})
    cells = [(capacity, eviction) for capacity in FULL for eviction in EVICTIONS]
    cells += [(capacity, "least-read") for capacity in LARGE]
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        if options.part != "drift":
            for capacity, eviction in cells:
                keep(record, f"{capacity}, {eviction}: seed {seed}", sweep, capacity, eviction, seed, options.steps)
        if options.part != "sweep":
            for turn in TURNS:
                keep(record, f"{turn} fresh keys: seed {seed}", drift, turn, seed, options.steps)
    found: dict[str, Any] = {}
    for group in dict.fromkeys(name.partition(":")[0] for name in record.parts):
        rows = [part for name, part in record.parts.items() if name.partition(":")[0] == group]
        found[group] = {column: summary([row[column] for row in rows])
                        for column in rows[0] if column not in ("at", "load_averages")}  # fmt: skip
        told = [f"{name} {one['mean']:.3f} {one['mean_interval_95'] or ''}" for name, one in found[group].items()]
        print(f"| {group} | {' | '.join(told)} |")
    record.summarize(found)
    return 0


def keep(record: Record, part: str, measure: Any, *arguments: Any) -> None:
    """Measure and record a part that is not there yet."""
    if part not in record.parts:
        record.put(part, measure(*arguments))
        print(part, record.parts[part], file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
