"""Training and starting are as fast in the new checkout as in the old one, measured in pairs.

    python -m benchmarks.house.speed_kept --old OLD                      every cell, 5 pairs: about 25 minutes
    python -m benchmarks.house.speed_kept --old OLD --cells 'start*'     some of them; --list shows all
    python -m benchmarks.house.speed_kept --old OLD --continue           only what the result file still lacks

A pair is one process of each checkout, one after the other; which one is first alternates: A B, B A, A B. A training
process compiles and learns for a while (`warm` steps), then the clock runs for `steps` more. A start is timed from
outside, with warm compiled programs. One start of each before the first pair is not counted.

The ratio is new to old of steps per second, and old to new of seconds for starts: above 1 the new one is faster. The
table has its median over pairs, the least and the greatest. Two checkouts of one commit show how far pairs scatter.
Each pair records the load before it, and the cores that everything else used: **do not keep pairs above about 0.1**.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.house.pairs import Checkout, add_checkouts, checkouts, chosen, record_of, say
from benchmarks.peers.machine import Watch
from benchmarks.record import Record


@dataclass(frozen=True)
class Training:
    """Steps per second of one preset on one environment, once it learns."""

    env: str
    preset: str
    warm: int
    steps: int
    envs: int = 1
    env_args: dict[str, Any] = field(default_factory=dict)

    def speed(self, side: Checkout, scale: float) -> dict[str, Any]:
        """Steps per second, and how many updates came before the clock and in all.

        Raises SystemExit if the clock began before learning did; a trial of a smaller `scale` may do so.
        """
        arguments = {"preset": self.preset, "seed": 0, "envs": self.envs, "env_args": self.env_args}
        warm, steps = (max(int(scale * number), 16 * self.envs) for number in (self.warm, self.steps))
        found = side.call("speed", env=self.env, arguments=arguments, warm=warm, steps=steps)
        if scale >= 1 and not found["warm_updates"]:
            raise SystemExit(f"{side.name}: no update in {warm} steps of {self.env}; raise its `warm`")
        return found

    def unmeasured(self, side: Checkout) -> None:
        """Nothing: each process warms up by itself."""


@dataclass(frozen=True)
class Start:
    """Starts per second of one command, `{run}` being a new run directory."""

    words: tuple[str, ...]

    def speed(self, side: Checkout, scale: float) -> dict[str, Any]:
        """Starts per second, and how long this one took."""
        folder = Path(tempfile.mkdtemp(prefix="engram-start-"))
        words = [word.format(run=folder / "run") for word in self.words]
        try:
            began = time.perf_counter()
            side.run(words)
            seconds = time.perf_counter() - began
        finally:
            shutil.rmtree(folder)
        return {"rate": 1 / seconds, "seconds": seconds}

    def unmeasured(self, side: Checkout) -> None:
        """Fills the caches of files and of compiled programs."""
        self.speed(side, 1.0)


CELLS: dict[str, Training | Start] = {
    "cartpole host x1": Training("CartPole-v1", "dqn", 20_000, 150_000),
    "cartpole host x8": Training("CartPole-v1", "dqn", 20_000, 200_000, envs=8),
    "cartpole device x4": Training("engram/CartPole-v1", "dqn", 20_000, 200_000, envs=4),
    "pong host": Training("ALE/Pong-v5", "dqn", 800, 1_600),
    "breakout attention-dqn": Training("minatar-breakout", "attention-dqn", 3_000, 4_000),
    "t-maze lru-dqn x8": Training("engram/PassiveTMaze-v0", "lru-dqn", 2_000, 2_400, envs=8, env_args={"length": 100}),
    "start import": Start(("-c", "import engram; engram.Trainer")),
    "start help": Start(("-m", "engram", "--help")),
    "start train": Start(("-m", "engram", "train", "CartPole-v1", "--steps", "100", "--run", "{run}")),
}


def pair(cell: Training | Start, sides: list[Checkout], number: int, scale: float) -> dict[str, Any]:
    """One process of each side, the new one first in every second pair; their ratio and what else used the machine."""
    watch = Watch.start()
    part: dict[str, Any] = {side.name: cell.speed(side, scale) for side in (sides[::-1] if number % 2 else sides)}
    return part | {"ratio": part["new"]["rate"] / part["old"]["rate"]} | watch.stop()


def measure(record: Record, name: str, sides: list[Checkout], pairs: int, scale: float) -> dict[str, Any]:
    """The pairs of a cell that the record lacks, and what all of them say."""
    cell = CELLS[name]
    names = [f"{name}, pair {number}" for number in range(pairs)]
    missing = [number for number, part in enumerate(names) if part not in record.parts]
    for side in sides if missing else []:
        cell.unmeasured(side)
    for number in missing:
        record.put(names[number], pair(cell, sides, number, scale))
        say(f"{names[number]}: {record.parts[names[number]]['ratio']:.3f}")
    return summary([record.parts[part] for part in names], "seconds" if isinstance(cell, Start) else "rate")


def summary(parts: list[dict[str, Any]], told: str) -> dict[str, Any]:
    """Medians of both sides; the ratio's median, least and greatest; the most that other processes used."""
    ratios = [part["ratio"] for part in parts]
    foreign = [part["cores_foreign"] for part in parts if part["cores_foreign"] is not None]
    medians: dict[str, Any] = {side: median(part[side][told] for part in parts) for side in ("old", "new")}
    return medians | {"unit": "s" if told == "seconds" else "steps/s", "ratio": median(ratios), "least": min(ratios),
                      "greatest": max(ratios), "most_cores_foreign": max(foreign, default=None)}  # fmt: skip


def told(name: str, found: dict[str, Any]) -> str:
    """A row of the table."""
    number: Callable[[float], str] = "{:,.2f}".format if found["unit"] == "s" else "{:,.0f}".format
    sides = " | ".join(f"{number(found[side])} {found['unit']}" for side in ("old", "new"))
    scatter = f"{found['least']:.3f} to {found['greatest']:.3f}"
    return f"| {name} | {sides} | {found['ratio']:.3f} | {scatter} | {found['most_cores_foreign']} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="say what the cells are, and do nothing")
    parser.add_argument("--cells", default="*", help="names separated by commas; * stands for anything")
    parser.add_argument("--pairs", type=int, default=5, help="at least 5 for a result")
    parser.add_argument("--scale", type=float, default=1.0, help="times the steps of training: small for a trial")
    add_checkouts(parser, "speed-kept")
    options = parser.parse_args()
    names = chosen(CELLS, options.cells)
    if options.list:
        print("\n".join(f"{name}: {CELLS[name]}" for name in names))
        return 0
    sides = checkouts(options)
    record = record_of(options, sides, {"scale": options.scale})
    print("| cell | old | new | new/old, as speed | over pairs | other cores |\n" + "|---" * 6 + "|", flush=True)
    for name in names:
        found = measure(record, name, sides, options.pairs, options.scale)
        record.summarize(record.content["summary"] | {name: found})
        print(told(name, found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
