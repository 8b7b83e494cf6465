"""How well agents have learned when their run ends: every seed, no best-of.

    python -m benchmarks.learning.learning --suite foundation     CartPole-v1 and Acrobot-v1, 10 seeds each
    python -m benchmarks.learning.learning --suite classic --first-seed 20   those and MountainCar-v0, one configuration
    python -m benchmarks.learning.learning --suite minatar   MinAtar Breakout, 1,000,000 steps, 5 seeds side by side
    python -m benchmarks.learning.learning --suite presets --first-seed 20   what each other preset comes to
    python -m benchmarks.learning.learning --suite pong         Pong, 2,500,000 steps, stopped in the middle and resumed
    python -m benchmarks.learning.learning --suite atari        Breakout, Freeway, MsPacman, 1,000,000 steps, 3 seeds
    python -m benchmarks.learning.learning --env CartPole-v1 --steps 50000 --seeds 10 --preset auto replay.batch_size=64

Each seed is trained to its end; its last parameters then play 20 whole episodes greedily, on seeds that no training
and no other evaluation uses. Device environments learn all seeds at once, others one after another (--jobs 2: two at
a time). Runs lie under .benchmarks/learning, so that an interrupted benchmark goes on where it was with --continue.
Written are every return of every seed, the mean and the interquartile mean over seeds with 95 % bootstrap intervals,
and the learning curves; docs/img/<env>.png shows them.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.learning.workers import EVALUATION_SEED, RESUME_ME, train_all
from benchmarks.pictures import draw_learning
from benchmarks.record import ROOT, WORK, Record, add_flags, surroundings
from benchmarks.scores import summary


@dataclass(frozen=True)
class Job:
    """One environment, learned from several seeds. `stop`: SIGTERM in the middle of the run, then resume."""

    env: str
    steps: int | None  # None: what the preset plans
    seeds: int
    preset: str = "auto"
    envs: int = 1
    first_seed: int = 0
    stop: bool = False
    beside: bool = False  # other presets learn the same environment in the same file

    @property
    def title(self) -> str:
        """What it is called in the record."""
        return f"{self.env}, {self.preset}" if self.beside else self.env

    @property
    def file(self) -> str:
        """The environment's name as a file's."""
        return re.sub(r"[^\w.-]+", "-", self.env)


SUITES = {
    "foundation": (Job("CartPole-v1", 50_000, 10), Job("Acrobot-v1", 100_000, 10)),
    "classic": (Job("MountainCar-v0", 120_000, 10), Job("CartPole-v1", 50_000, 10), Job("Acrobot-v1", 100_000, 10)),
    # The plain convolutions, for which the published results were made; `auto` has attention over places since.
    "minatar": (Job("minatar-breakout", 1_000_000, 5, "double-dqn"),),
    # Every preset of value learning that no other suite has, and the LSTM of R2D2 where velocities are not seen.
    "presets": (
        *(
            Job("engram/CartPole-v1", 50_000, 5, name, beside=True)
            for name in ("dqn", "per-dqn", "c51", "qr-dqn", "iqn", "m-dqn", "rainbow")
        ),
        Job("engram/NoVelocityCartPole-v0", 50_000, 5, "r2d2", beside=True),
        Job("minatar-breakout", 100_000, 2, "btr", beside=True),
    ),
    "pong": (Job("ALE/Pong-v5", 2_500_000, 1, "pqn", envs=16, stop=True),),
    "atari": tuple(Job(f"ALE/{name}-v5", 1_000_000, 3, "pqn", envs=16) for name in ("Breakout", "Freeway", "MsPacman")),
}


# What is run


@dataclass(frozen=True)
class Run:
    """What one process trains: the part's name in the record, the seeds, and the folder."""

    name: str
    job: Job
    seed: int
    seeds: int
    folder: Path

    options: argparse.Namespace

    def content(self) -> dict[str, Any]:
        """What the worker is told."""
        arguments = {"env": self.job.env, "preset": self.job.preset, "steps": self.job.steps, "seed": self.seed,
                     "seeds": self.seeds, "envs": self.job.envs, "overrides": self.options.settings}  # fmt: skip
        return {"arguments": arguments, "episodes": self.options.episodes,
                "evaluation_seed": EVALUATION_SEED + self.seed}  # fmt: skip


def runs_of(job: Job, options: argparse.Namespace) -> list[Run]:
    """One run for each seed, or one for all of them on the device."""
    from engram.envs.device import is_device

    place = options.work / f"{job.file}-{job.preset}"
    last = job.first_seed + job.seeds - 1
    if is_device(job.env):
        name = f"seeds {job.first_seed} to {last}"
        return [Run(f"{job.title}: {name}", job, job.first_seed, job.seeds, place / name.replace(" ", "-"), options)]
    return [
        Run(f"{job.title}: seed {seed}", job, seed, 1, place / f"seed{seed}", options)
        for seed in range(job.first_seed, last + 1)
    ]


# Stopping and resuming


def stopped_and_resumed(run: Run, record: Record) -> None:
    """Train by the command line: a SIGTERM in the middle, which must end in exit code 75, then to the end."""
    name, folder = f"{run.name}: stop", run.folder / "run"
    if name not in record.parts:
        shutil.rmtree(folder, ignore_errors=True)
        words = [run.job.env, "--preset", run.job.preset, "--seed", str(run.seed), "--envs", str(run.job.envs)]
        words += ["--steps", str(run.job.steps), "--run", str(folder)]
        process = command_line([*words, *(f"{path}={value}" for path, value in run.options.settings.items())])
        try:
            while process.poll() is None and last_step(folder) < (run.job.steps or 0) // 2:
                time.sleep(0.5)
            process.terminate()
            code = process.wait()
        finally:
            process.kill()
            process.wait()
        if code != RESUME_ME:
            raise SystemExit(f"{run.name} was stopped and gave exit code {code}, not {RESUME_ME}")
        record.put(name, {"exit_code": code, "step": resumable_step(folder)})
    process = command_line(["--run", str(folder), "--resume"])
    try:
        code = process.wait()
    finally:
        process.terminate()
        process.wait()
    if code:
        raise SystemExit(f"{run.name} was resumed and gave exit code {code}; --continue goes on where it was")


def command_line(words: list[str]) -> subprocess.Popen[bytes]:
    """`engram train ...` in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "engram", "train", *words], env=surroundings(), stdout=sys.stderr)


def last_step(folder: Path) -> int:
    """The last step in the log of a run that is being written."""
    from engram.run.metrics import read_metrics

    rows = read_metrics(folder) if folder.is_dir() else []
    return rows[-1]["step"] if rows else 0


def resumable_step(folder: Path) -> int:
    """The step of the newest checkpoint."""
    from engram.checkpoint.store import CheckpointStore

    return CheckpointStore(folder / "checkpoints").load().step


def speeds(folder: Path, stop: int) -> dict[str, float | None]:
    """Median steps per second while learning, before and after the stop; the line that it fell into is left out."""
    from engram.run.metrics import read_metrics

    rows = [row for row in read_metrics(folder) if row.get("updates", 0) > 0]  # an evaluation's line has none
    gap = rows[1]["step"] - rows[0]["step"]
    before = [row["steps_per_second"] for row in rows if row["step"] <= stop]
    after = [row["steps_per_second"] for row in rows if row["step"] > stop + gap]
    return {"before": median(before) if before else None, "after": median(after) if after else None}


# What is said


def learn(job: Job, options: argparse.Namespace, record: Record) -> None:
    """Every run of one environment that the record lacks; then its summary and its picture."""
    runs = runs_of(job, options)
    missing = [run for run in runs if run.name not in record.parts]
    for run in missing if job.stop else ():
        record.place(run.folder)
        stopped_and_resumed(run, record)
    train_all(missing, options.jobs, record)
    results = [result for run in runs for result in record.parts[run.name]["runs"]]
    found: dict[str, Any] = {"preset": job.preset, "steps": results[0]["steps"], "episodes_per_seed": options.episodes}
    found |= summary([result["mean"] for result in results])
    stops = [record.parts[f"{run.name}: stop"]["step"] for run in runs] if job.stop else []
    if stops:
        found["stopped_at"] = stops
        found["steps_per_second"] = [speeds(run.folder / "run", stop) for run, stop in zip(runs, stops, strict=True)]
    record.summarize(record.content["summary"] | {job.title: found})
    seeds = "1 seed" if len(results) == 1 else f"{len(results)} seeds"
    drawn = f"{job.file}-{job.preset}" if job.beside else job.file
    draw_learning(options.images / f"{drawn}.png", f"{job.env}, {job.preset}, {seeds}", results, stops)
    print(row(job.env, found), flush=True)


def row(env: str, found: dict[str, Any]) -> str:
    """One line of a Markdown table."""
    cells = [env, found["preset"], f"{found['steps']:,}", str(found["seeds"])]
    for name in ("mean", "iqm"):
        bounds = found[f"{name}_interval_95"]
        cells.append(f"{found[name]:.1f}" + (f" [{bounds[0]:.1f}, {bounds[1]:.1f}]" if bounds else ""))
    return f"| {' | '.join([*cells, format(found['least'], '.1f'), format(found['greatest'], '.1f')])} |"


def options_given() -> argparse.Namespace:
    """The command line, checked; `jobs_asked` are the environments to learn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--suite", choices=SUITES, help="a named set of environments")
    what.add_argument("--env", help="one environment")
    parser.add_argument("--steps", type=int, help="environment steps of each seed (default: the suite's, the preset's)")
    parser.add_argument("--seeds", type=int, help="how many seeds (default: the suite's, 10)")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--preset", help="(default: the suite's, auto)")
    parser.add_argument("--num-envs", type=int, help="environments stepped together (default: the suite's, 1)")
    parser.add_argument("--stop", action="store_true", help="with --env: stop in the middle by SIGTERM, then resume")
    parser.add_argument("--episodes", type=int, default=20, help="greedy episodes of each seed at the end")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--work", type=Path, default=WORK / "learning", help="folder of the runs")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "img", help="folder of the pictures")
    parser.add_argument("settings", nargs="*", metavar="path=value", help="settings of the agent")
    add_flags(parser, "learning-NAME")
    options = parser.parse_args()
    pairs = [text.partition("=") for text in options.settings]
    if wrong := next((text for text, pair in zip(options.settings, pairs, strict=True) if not pair[1]), None):
        parser.error(f"{wrong!r} is not of the form path=value, such as replay.capacity=50000")
    if options.env and options.stop and options.steps is None:
        parser.error("--stop needs --steps, to know where the middle is")
    options.settings = {path: value for path, _, value in pairs}
    asked = SUITES[options.suite] if options.suite else (Job(options.env, None, 10, stop=options.stop),)
    given = {name: getattr(options, name) for name in ("steps", "seeds", "preset")} | {"envs": options.num_envs}
    changes = {name: value for name, value in given.items() if value is not None} | {"first_seed": options.first_seed}
    options.jobs_asked = [replace(job, **changes) for job in asked]
    if options.out.stem == "learning-NAME":
        options.out = options.out.with_stem(f"learning-{options.suite or options.jobs_asked[0].file}")
    options.work /= options.out.stem
    return options


def main() -> int:
    options = options_given()
    record = Record(options, {
        "jobs": [asdict(job) for job in options.jobs_asked], "episodes": options.episodes,
        "evaluation_seeds": f"{EVALUATION_SEED} + seed", "settings": options.settings,
    })  # fmt: skip
    print("| environment | preset | steps | seeds | mean [95 %] | IQM [95 %] | least | greatest |\n" + "|---" * 8 + "|")
    for job in options.jobs_asked:
        learn(job, options, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
