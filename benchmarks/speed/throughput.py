"""Environment steps per second of Engram and of its peers on the same work, in the same run, on the same machine.

    python -m benchmarks.speed.throughput                         everything (about 20 minutes on two idle cores)
    python -m benchmarks.speed.throughput --peers sb3,engram --tasks cartpole-1 --repeats 1 --out /tmp/quick.json

Each peer has an environment of its own, built by the first run that needs it. Runs happen one at a time, peers in
turn, again for every repeat, so that a host that changes its speed meets all of them. See benchmarks/README.md.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers import machine
from benchmarks.peers.environments import InstallFault, interpreter
from benchmarks.peers.work import TASKS, work
from benchmarks.record import HERE, ROOT, WORK, add_flags, command, now, write_json


@dataclass(frozen=True)
class Peer:
    """What is measured: a script, the environment that it runs in, and the tasks that it knows."""

    name: str
    library: str  # the name that --peers selects by
    environment: str | None  # of peers/environments.py; None is Engram's own
    script: str
    tasks: tuple[str, ...]
    flags: tuple[str, ...] = ()


PEERS = (
    Peer("sb3", "sb3", "sb3", "sb3_run.py", ("cartpole-1", "cartpole-8", "pong")),
    Peer("sbx", "sbx", "sbx", "sbx_run.py", ("cartpole-1", "cartpole-8", "pong")),
    # The same number of updates, eight after 32 steps: SBX fuses the updates of one call, and gains most.
    Peer("sbx-grouped", "sbx", "sbx", "sbx_run.py", ("cartpole-8",), ("--grouped",)),
    Peer("rejax", "rejax", "rejax", "rejax_run.py", ("device",)),
    Peer("engram", "engram", None, "engram_run.py", TASKS),
)
FLOOR = Peer("floor", "floor", "sbx", "floor.py", ("floor",))
LIBRARIES = tuple(dict.fromkeys(peer.library for peer in PEERS))
WHOLE = 64
SLOW = {("sbx", "pong")}  # minutes for nothing new: it trains convolutions in a compiled loop, 6 to 10 times slower

# Engram should be at least so many times as fast as the fastest of these peers.
GOALS: dict[str, tuple[float, tuple[str, ...]]] = {
    "cartpole-1": (6.0, ("sb3",)),
    "cartpole-8": (2.5, ("sbx", "sbx-grouped")),
    "device": (4.0, ("rejax",)),
    "pong": (1.1, ("sb3", "sbx")),
}


# What is run


def options_given() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = (*TASKS, "floor")
    parser.add_argument("--peers", type=names_of(LIBRARIES), default=LIBRARIES, help=f"of {','.join(LIBRARIES)}")
    parser.add_argument("--tasks", type=names_of(chosen), default=chosen, help=f"of {','.join(chosen)}")
    parser.add_argument("--steps", type=int, default=50_000, help="environment steps of the tasks, see steps_of")
    parser.add_argument("--pong-steps", type=int, default=2_000, help="agent steps of Pong")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, with seeds 0, 1, ...")
    parser.add_argument("--slow", action="store_true", help="also SBX on Pong")
    parser.add_argument("--timeout", type=float, default=1_800, help="seconds after which one run is given up")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the peers' environments")
    add_flags(parser, "throughput")
    options = parser.parse_args()
    try:
        for task in TASKS:
            work(task, steps_of(task, options), seed=0)
    except ValueError as problem:
        parser.error(str(problem))
    if options.steps % 40:
        parser.error(f"--steps must be divisible by 40 for all peers to stop at the same step; got {options.steps}")
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1; got {options.repeats}")
    if options.out.exists() and not (options.resume or options.fresh):
        parser.error(f"{options.out} exists; add --continue to keep its finished runs or --fresh to replace it")
    return options


def names_of(known: tuple[str, ...]) -> Any:
    """An argparse type: names separated by commas, all of them known."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        return names

    return parse


def schedule(options: argparse.Namespace) -> list[tuple[int, str, Peer]]:
    """All runs in their order: (repeat, task, peer), peers taking turns within each task of each repeat."""
    runs: list[tuple[int, str, Peer]] = []
    for repeat in range(options.repeats):
        for task in options.tasks:
            if task == "floor":
                runs.append((repeat, task, FLOOR))
                continue
            for peer in PEERS:
                wanted = peer.library in options.peers and task in peer.tasks
                if wanted and (options.slow or (peer.name, task) not in SLOW):
                    runs.append((repeat, task, peer))
    return runs


def python_of(peer: Peer, folder: Path) -> Path:
    """The interpreter that runs `peer`; builds its environment if there is none yet."""
    if peer.environment is not None:
        return interpreter(peer.environment, folder)
    own = ROOT / ".venv" / "bin" / "python"
    return own if own.exists() else Path(sys.executable)


def surroundings(task: str) -> dict[str, str]:
    """Environment variables of a run: on the processor, with one torch thread (two where there are convolutions)."""
    threads = "2" if task in ("pong", "floor") else "1"
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {"JAX_PLATFORMS": "cpu"} | kept | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}


def run(python: Path, peer: Peer, task: str, steps: int, seed: int, timeout: float) -> dict[str, Any]:
    """One run in a process of its own: its JSON line, or `error` and the end of what it said."""
    words = [str(python), str(HERE / "peers" / peer.script), "--seed", str(seed), *peer.flags]
    if task != "floor":
        words += ["--task", task, "--steps", str(steps)]
    watch = machine.Watch.start()
    words += ["--started", repr(time.time())]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, env=surroundings(task))
    except subprocess.TimeoutExpired:
        return {"peer": peer.name, "task": task, "error": f"not finished after {timeout:g} s; raise --timeout"}
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"peer"')]
    if done.returncode or not lines:
        said = (done.stderr.strip() or done.stdout.strip())[-1_500:]
        return {"peer": peer.name, "task": task, "error": f"exit code {done.returncode}: {said}"}
    return json.loads(lines[-1]) | watch.stop()


# What is kept


def opened(options: argparse.Namespace) -> dict[str, Any]:
    """The record to add runs to: a new one, or with --continue the one in --out without its failed runs."""
    here = machine.description()
    if options.resume and options.out.exists():
        record = json.loads(options.out.read_text())
        if record["machine"] != here:
            raise SystemExit(
                f"{options.out} was measured on {record['machine']}, this is {here}: speeds of two machines do not "
                f"compare; use --out for another file"
            )
        record["runs"] = [run for run in record["runs"] if "error" not in run]
    else:
        record = {"machine": here, "commands": [], "runs": []}
    record["commands"].append(command())
    return record


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Do every scheduled run that the record lacks, saving after each."""
    runs = schedule(options)
    for peer in {peer.environment: peer for _, _, peer in runs}.values():
        python_of(peer, options.work)  # all installations before the first measurement
    record = opened(options)
    finished = {(run["peer"], run["task"], run["repeat"], run["steps_asked"]) for run in record["runs"]}
    for number, (repeat, task, peer) in enumerate(runs, start=1):
        steps = steps_of(task, options)
        if (peer.name, task, repeat, steps) in finished:
            continue
        print(f"[{number}/{len(runs)}] {peer.name} {task}, repeat {repeat + 1}", file=sys.stderr, flush=True)
        result = run(python_of(peer, options.work), peer, task, steps, repeat, options.timeout)
        if "error" in result:
            print(f"  failed: {result['error']}", file=sys.stderr, flush=True)
        record["runs"].append({"repeat": repeat, "steps_asked": steps, "at": now()} | result)
        write_json(options.out, record)
    return record


def steps_of(task: str, options: argparse.Namespace) -> int:
    """Steps that `task` takes; the floor has none.

    On the host a multiple of 64: some learn in groups of 32 or 64, and a group cut short is unequal work.
    """
    whole = -(-options.steps // WHOLE) * WHOLE
    return {"pong": options.pong_steps, "floor": 0, "device": options.steps}.get(task, whole)


# What is shown


def spread(values: list[float]) -> str:
    """Median and range of rates."""
    return f"{median(values):,.0f} [{min(values):,.0f}-{max(values):,.0f}]"


def task_table(task: str, runs: list[dict[str, Any]], bounds: dict[str, list[float]]) -> list[str]:
    """Lines of a Markdown table of one task: one row per peer, ratios of medians."""
    rates: dict[str, list[float]] = {}
    for one in runs:
        rates.setdefault(one["peer"], []).append(one["steps_per_second"])
    middle = {name: median(found) for name, found in rates.items()}
    references = [name for name in ("sb3", "sbx", "sbx-grouped", "rejax") if name in rates]
    head = ["peer", "n", "steps/s", "whole run", *(f"x {name}" for name in references)]
    head += ["updates", "of", "first learned s", "peak MiB", "foreign cores"]
    lines = [f"\n{task}: {runs[0]['steps_asked']:,} steps, rate from step {runs[0]['steady_from']:,}", ""]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in rates:
        mine = [one for one in runs if one["peer"] == name]
        updates = "/".join(f"{count:,}" for count in sorted({one["updates"] for one in mine}))
        starts = [one["startup_to_first_learned_step"] for one in mine]
        busy = [one["cores_foreign"] for one in mine]
        row = [name, str(len(mine)), spread(rates[name]), f"{median(o['steps_per_second_whole'] for o in mine):,.0f}"]
        row += [f"{middle[name] / middle[reference]:.2f}" for reference in references]
        row += [updates, f"{mine[0]['updates_expected']:,}", "-" if None in starts else f"{median(starts):.1f}"]
        row += [f"{median(one['peak_rss_mb'] for one in mine):,.0f}", "-" if None in busy else f"{max(busy):.2f}"]
        lines.append("| " + " | ".join(row) + " |")
    return lines + remarks(task, runs, middle, bounds)


def remarks(
    task: str, runs: list[dict[str, Any]], middle: dict[str, float], bounds: dict[str, list[float]]
) -> list[str]:
    """Lines under a table: unequal work, Engram against its goal, and against the floor."""
    lines = []
    for one in runs:
        if one["updates"] != one["updates_expected"]:
            lines.append(f"UNEQUAL WORK: {one['peer']} made {one['updates']} of {one['updates_expected']} updates")
    if "engram" in middle:
        goal, against = GOALS[task]
        best = max((name for name in against if name in middle), key=lambda name: middle[name], default=None)
        if best is not None:
            lines.append(f"engram is {middle['engram'] / middle[best]:.2f} x {best}; the goal is {goal:g} x")
        for name, found in bounds.items():
            if name.split(",")[0] == task:
                lines.append(f"engram is at {middle['engram'] / median(found):.0%} of the floor ({name})")
    return ["", *lines] if lines else lines


def floor_table(runs: list[dict[str, Any]]) -> list[str]:
    """Lines that list the pieces of the floor and the speeds that they bound."""
    lines = ["\nfloor: microseconds of each piece alone", "", "| piece | us |", "|---|---|"]
    for name in runs[0]["microseconds"]:
        found = [one["microseconds"][name] for one in runs]
        lines.append(f"| {name} | {median(found):,.1f} [{min(found):,.1f}-{max(found):,.1f}] |")
    lines += ["", "| bound | steps/s |", "|---|---|"]
    return lines + [f"| {name} | {spread([one['bounds'][name] for one in runs])} |" for name in runs[0]["bounds"]]


def report(record: dict[str, Any], options: argparse.Namespace) -> str:
    """Everything measured with the steps of `options`, as Markdown."""
    fitting = [
        one for one in record["runs"] if "error" not in one and one["steps_asked"] == steps_of(one["task"], options)
    ]
    floors = [one for one in fitting if one["task"] == "floor"]
    bounds = {name: [one["bounds"][name] for one in floors] for name in (floors[0]["bounds"] if floors else ())}
    lines = [", ".join(f"{name} {value}" for name, value in record["machine"].items())]
    for task in TASKS:
        runs = [one for one in fitting if one["task"] == task]
        if runs:
            lines += task_table(task, runs, bounds)
    if floors:
        lines += floor_table(floors)
    loops = [one["loop_microseconds"] for one in fitting]
    if loops:
        lines.append(f"\nA fixed Python loop took {min(loops):.0f}-{max(loops):.0f} us before the runs.")
    failed = [one for one in record["runs"] if "error" in one]
    lines += [f"FAILED: {one['peer']} {one['task']}: {one['error'].splitlines()[-1]}" for one in failed]
    return "\n".join(lines)


def main() -> int:
    options = options_given()
    try:
        record = measure(options)
    except InstallFault as problem:
        print(problem, file=sys.stderr)
        return 1
    print(report(record, options))
    return 1 if any("error" in one for one in record["runs"]) else 0


if __name__ == "__main__":
    sys.exit(main())
