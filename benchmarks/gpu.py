"""What a GPU gives, in ten minutes: steps per second, the exact read of a large memory, Pong. For owners of one.

    python -m benchmarks.gpu                          all that fits into ten minutes, on JAX's default device
    python -m benchmarks.gpu --parts pqn-cartpole read --minutes 3
    JAX_PLATFORMS=cpu python -m benchmarks.gpu --out CPU.json     the same on the processor, to hold beside it

Every row is a process of its own, so that none inherits another's memory, and is timed after a first call of the same
program, which compiles and is told apart. Where time is up, what is left is named and `--continue` does it. Needs the
repository's environment and JAX for the device: `pip install "jax[cuda12]"` for NVIDIA; nothing else is set. Rows of
MinAtar need the extra `board`, Pong the extra `atari`; without them they are left out, which is said.

*read* is that of `memory/memory_bandwidth.py`: an exact read of a million keys of 64 numbers, as a share of what a
copy moves in a second.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

from benchmarks.record import Record, add_flags

AT_LEAST = 20.0  # seconds that a row needs to begin at all
AIM = 8.0  # seconds of learning that are timed
ENTRIES, READS = 1_000_000, 20


@dataclass(frozen=True)
class Row:
    """What is learned by which agent, in so many environments. `chunk`: steps of the call that compiles."""

    env: str
    preset: str
    envs: int
    chunk: int
    settings: dict[str, Any] = field(default_factory=dict)
    needs: str | None = None  # a package, where an extra brings it


ROWS = {
    "pqn-cartpole": Row("engram/CartPole-v1", "pqn", 1_024, 1_024 * 32 * 4),
    "pqn-cartpole-wide": Row("engram/CartPole-v1", "pqn", 65_536, 65_536 * 32 * 2, {"rollout.epochs": 1}),
    "ppo-cartpole": Row("engram/CartPole-v1", "ppo", 8_192, 8_192 * 64 * 2),
    "pqn-minatar": Row("minatar-breakout", "pqn", 4_096, 4_096 * 32 * 2, needs="pgx"),
    "pqn-rnn": Row("engram/NoVelocityCartPole-v0", "pqn-rnn", 1_024, 1_024 * 32 * 2),
    "rainbow-minatar": Row("minatar-breakout", "rainbow", 64, 2_048, {"replay.start": 1_024}, needs="pgx"),
    "attention-dqn": Row("engram/CartPole-v1", "attention-dqn", 64, 2_048, {"replay.start": 1_024}),
    "pong-pqn": Row("ALE/Pong-v5", "pqn", 32, 32 * 128, needs="ale_py"),
    "pong-dqn": Row("ALE/Pong-v5", "double-dqn", 8, 2_048, {"replay.start": 1_024}, needs="ale_py"),
}
READ = "read"


def learned(row: Row) -> dict[str, Any]:
    """Steps per second of one row, in this process."""
    import jax

    from engram import Trainer

    chunk = row.chunk
    given = {"envs": row.envs, "seed": 0, "steps": 10**9, "log_every": 10**8, "evaluate_every": 0, "progress": False}
    with Trainer(row.env, row.preset, overrides=row.settings, **given) as trainer:
        first = _seconds(trainer, chunk)
        again = _seconds(trainer, chunk)
        steps = max(1, round(AIM / again)) * chunk
        seconds = _seconds(trainer, steps)
    device = jax.devices()[0]
    taken = (device.memory_stats() or {}).get("peak_bytes_in_use")
    rate = steps / seconds
    return {"steps_per_second": rate, "steps": steps, "first_seconds": first, "peak_bytes": taken} | _about(device)


def _seconds(trainer: Any, steps: int) -> float:
    began = time.perf_counter()
    trainer.learn(steps)
    trainer.runner.report()  # waits for the last update
    return time.perf_counter() - began


def read() -> dict[str, Any]:
    """The exact read beside the copy, in this process."""
    from statistics import median

    import jax

    from benchmarks.memory.memory_bandwidth import BATCHES, bandwidth, measure

    copy = median(bandwidth(READS)["copy"])
    found = measure(ENTRIES, READS)
    told: dict[str, Any] = {"copy_bytes_per_second": copy, "entries": ENTRIES}
    for batch in BATCHES:
        seconds = median(found[str(batch)]["in_a_loop_seconds"])
        told[f"batch_{batch}"] = {"ms": 1e3 * seconds, "fraction_of_copy": found["bytes"] / seconds / copy}
    return told | _about(jax.devices()[0])


def _about(device: Any) -> dict[str, Any]:
    return {"platform": device.platform, "device": device.device_kind}


def told_by(name: str, seconds: float) -> dict[str, Any]:
    """What a process of its own measures of one part, or `error` and the end of what it said."""
    words = [sys.executable, "-m", "benchmarks.gpu", "--child", name]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"error": f"not finished in the {seconds:.0f} s that were left"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if done.returncode == 0 and lines else {"error": _why(done)}


def _why(done: "subprocess.CompletedProcess[str]") -> str:
    """The end of what a process said, or how it ended where it said nothing, as one that was killed does."""
    return done.stderr.strip()[-1_000:] or f"its process ended with {done.returncode} and said nothing"


def line_of(name: str, found: dict[str, Any]) -> str:
    """A part as one line."""
    if "error" in found:
        return f"{name}: {found['error'].splitlines()[-1]}"
    if name != READ:
        return (
            f"{name}: {found['steps_per_second']:,.0f} steps/s on {found['device']} "
            f"(the first call {found['first_seconds']:.1f} s)"
        )
    both = "; ".join(
        f"batch {key.removeprefix('batch_')} {value['ms']:.2f} ms, {value['fraction_of_copy']:.0%} of the copy"
        for key, value in found.items()
        if key.startswith("batch_")
    )
    return f"{name}: copy {found['copy_bytes_per_second'] / 1e9:.0f} GB/s on {found['device']}; {both}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", default=[READ, *ROWS], choices=[READ, *ROWS])
    parser.add_argument("--minutes", type=float, default=10.0, help="when it stops beginning parts, and ends the last")
    parser.add_argument("--child", choices=[READ, *ROWS], help=argparse.SUPPRESS)
    add_flags(parser, "gpu")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(read() if options.child == READ else learned(ROWS[options.child])))
        return 0
    ends = time.monotonic() + 60 * options.minutes
    record = Record(options, {"rows": {name: asdict(row) for name, row in ROWS.items()}})
    for name in options.parts:
        missing = ROWS[name].needs if name in ROWS else None
        left = ends - time.monotonic()
        if name in record.parts and "error" not in record.parts[name]:
            continue
        if missing and find_spec(missing) is None:
            print(f"{name}: left out, for {missing} is not installed (docs/extras.md)")
        elif left < AT_LEAST:
            print(f"{name}: left for --continue, for {options.minutes:g} minutes are over")
        else:
            record.put(name, found := told_by(name, left))
            print(line_of(name, found), flush=True)
    rates = {name: part.get("steps_per_second") for name, part in record.parts.items() if name != READ}
    record.summarize({name: rate for name, rate in rates.items() if rate} | {READ: record.parts.get(READ)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
