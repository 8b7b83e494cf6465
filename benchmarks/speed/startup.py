"""How long it takes from the command to the first learned step of CartPole-v1, with and without compiled programs.

    python -m benchmarks.speed.startup                         5 cold and 5 warm starts, 5 breakdowns: about 3 minutes

A start is one process: `engram train CartPole-v1` with the numbers of a run of 50,000 steps, ended right after its
first updates: those of the block of steps in which the replay reaches 1,000 (docs/architecture.md, the host runner).
The clock starts before the process does and stops when the line of metrics that tells of them is in the log. A cold
start has an empty folder of compiled programs (ENGRAM_CACHE), the warm start after it has the same one. Files are in
the system's memory both times, from one start before the first that counts.

The breakdown is one process too, which imports what Engram stands on one after another and then does the same work.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers import machine
from benchmarks.record import Record, add_flags, surroundings

START = 1_000  # where the replay of `auto` has enough for the first update
STEPS = 1_008  # the end of its block: 8 cycles of 2 steps share a compiled call
LIBRARIES = ("numpy", "gymnasium", "jax", "jax.numpy", "equinox", "optax", "engram.run.trainer")
# What `auto` would choose for 50,000 steps; the run itself is shorter.
PLAN = {"exploration.steps": 5_000, "optimizer.decay_steps": 50_000, "replay.start": START}


def start(folder: Path, cache: Path) -> float:
    """Seconds from the command to its first learned step; `folder` is a new run, `cache` the compiled programs."""
    words = [sys.executable, "-m", "engram", "train", "CartPole-v1", "--steps", str(STEPS), "--log-every", str(STEPS)]
    words += ["--run", str(folder), *(f"{path}={value}" for path, value in PLAN.items())]
    began = time.time()
    call(words, cache)
    log = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    if len(rows) != 1 or not 1 <= rows[0]["updates"] <= (STEPS - START) // 2 + 1:
        raise SystemExit(f"the run was to end with its first updates, but logged {rows}")
    return round(log.stat().st_mtime - began, 3)


def call(words: list[str], cache: Path) -> str:
    """Run a child to its end; its standard output. Raises SystemExit with its last words if it fails."""
    surrounding = surroundings() | {"ENGRAM_CACHE": str(cache)}
    surrounding.pop("JAX_COMPILATION_CACHE_DIR", None)  # it would be used in place of ours
    done = subprocess.run(words, capture_output=True, text=True, env=surrounding)
    if done.returncode:
        raise SystemExit(f"exit code {done.returncode} from: {' '.join(words)}\n{done.stderr.strip()[-1_000:]}")
    return done.stdout


def breakdown(began: float) -> None:
    """In a process of its own: print the seconds of each piece of a start, the interpreter's own first, as JSON."""
    pieces, last = {"python": time.time() - began}, time.perf_counter()

    def done(name: str) -> None:
        nonlocal last
        pieces[name] = time.perf_counter() - last
        last = time.perf_counter()

    for library in LIBRARIES:
        __import__(library)
        done(f"import {library}")
    from engram.run.trainer import Trainer

    trainer = Trainer("CartPole-v1", steps=STEPS, log_every=STEPS, evaluate_every=0, overrides=PLAN)
    done("make the trainer")
    trainer.learn(1)
    done("make the agent, first step")
    trainer.learn(STEPS - 2 - trainer.steps)
    done("fill the replay")
    trainer.learn(STEPS - trainer.steps)
    done("first update")
    print(json.dumps({name: round(seconds, 3) for name, seconds in pieces.items()}))


def measure(record: Record, repeats: int) -> None:
    """Every start that the record lacks: cold, warm and the breakdown of a warm one, in turn."""
    work = Path(tempfile.mkdtemp(prefix="engram-startup-"))
    try:
        if len(record.parts) < repeats:
            start(work / "unmeasured", work / "unmeasured-cache")
        for repeat in range(repeats):
            if str(repeat) in record.parts:
                continue
            cache, watch = work / f"cache{repeat}", machine.Watch.start()
            part: dict[str, Any] = {"cold": start(work / f"cold{repeat}", cache)}
            part["warm"] = start(work / f"warm{repeat}", cache)
            here = [sys.executable, "-m", "benchmarks.speed.startup", "--breakdown"]
            call([*here, repr(time.time())], cache)  # its programs are not all those of the command
            part["breakdown"] = json.loads(call([*here, repr(time.time())], cache))
            record.put(str(repeat), part | watch.stop())
            print(f"start {repeat + 1}: cold {part['cold']} s, warm {part['warm']} s", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(work)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--breakdown", type=float, help=argparse.SUPPRESS)
    add_flags(parser, "startup")
    options = parser.parse_args()
    if options.breakdown:
        breakdown(options.breakdown)
        return 0
    record = Record(options, {"repeats": options.repeats, "steps": STEPS})
    measure(record, options.repeats)
    parts = list(record.parts.values())
    found = {name: median(part[name] for part in parts) for name in ("cold", "warm")}
    pieces = {name: median(part["breakdown"][name] for part in parts) for name in parts[0]["breakdown"]}
    record.summarize({"median_seconds": found, "median_seconds_of_pieces": pieces})
    print(f"| start | median of {len(parts)} [s] | range [s] |\n|---|---|---|")
    for name in ("cold", "warm"):
        values = [part[name] for part in parts]
        print(f"| {name} | {found[name]:.2f} | {min(values):.2f}-{max(values):.2f} |")
    print("\n| piece of a warm start | median [s] |\n|---|---|")
    print("\n".join(f"| {name} | {seconds:.2f} |" for name, seconds in pieces.items()))
    print(f"\nForeign cores: up to {max(part['cores_foreign'] or 0 for part in parts):.2f} of {os.cpu_count()}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
