"""From nothing to a first result, in every field: a clone, its environment, training, and what the agent then reaches.

    python -m benchmarks.house.first_result                        all fields, about 25 minutes of one core
    python -m benchmarks.house.first_result --fields go smax --continue
    python -m benchmarks.house.first_result --cold                 with an empty cache of packages

Each field is a clone of what is committed, `uv sync --no-dev` with its extra, and the commands of its page, with as few
steps as give a sensible result. What is told is the answer of `engram evaluate`, on episodes that no training saw.
Seconds are of the wall clock, compiling included. Clones lie under .benchmarks/first_result and are made anew.
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
from typing import Any, NamedTuple

from benchmarks.record import ROOT, WORK, Record, add_flags


class Field(NamedTuple):
    """What a field asks for."""

    extra: str | None
    train: list[str]  # words after `engram train`
    evaluate: list[str]  # words after `engram evaluate RUN`
    before: list[list[str]] = []  # noqa: RUF012, commands of Python before the training


FIELDS = {
    "go": Field("board", ["engram/Go-v0", "--preset", "go", "--steps", "400000"], ["--episodes", "200"]),
    "smax": Field("smax", ["smax-3m", "--preset", "smax", "--steps", "200000"], ["--episodes", "512"]),
    "arm": Field("robotics", ["FetchReach-v4", "--preset", "her", "--action-bins", "3", "--steps", "20000"],
                 ["--episodes", "100"]),
    "driving": Field(None, ["engram/Intersection-v0", "--recipe", "best", "--steps", "100000"], ["--episodes", "500"]),
    "translation": Field(
        None,
        ["engram/Translate-v0", "--preset", "cql", "--envs", "8", "--steps", "8000", "--env-arg", "data=data/phrases",
         "--demonstrations", "data/phrases/demonstrations.npz", "demos.ratio=0.5", "conservative.on=demonstrations",
         "conservative.weight=1"],
        ["--env-arg", "split=test", "--episodes", "200"],
        [["-m", "engram.envs.translation", "data/phrases"]],
    ),
    "dialogue": Field(None, ["engram/Dialogue-v0", "--preset", "dialogue", "--steps", "100000"],
                      ["--env-arg", "split=test", "--episodes", "2000"]),
    "text": Field("text", ["textworld/CoinCollector-v0", "--recipe", "best", "--steps", "20000"],
                  ["--env-arg", "split=test", "--episodes", "20"]),
}  # fmt: skip


def measured(name: str, folder: Path, cold: bool) -> dict[str, Any]:
    """One field, from a clone to a score."""
    field = FIELDS[name]
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        around = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
        around |= {"UV_CACHE_DIR": cache} if cold else {}
        around |= {"ENGRAM_CACHE": str(folder / "cache")}

        def run(about: str, words: list[str]) -> str:
            began = time.perf_counter()
            done = subprocess.run(words, cwd=folder, env=around, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name}: {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
            found[about] = round(time.perf_counter() - began, 1)
            print(f"{name}: {about} {found[about]} s", file=sys.stderr, flush=True)
            return done.stdout

        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        extra = ["--extra", field.extra] if field.extra else []
        run("install", ["uv", "sync", "--quiet", "--no-dev", *extra])
        python, engram = ["uv", "run", "--no-sync", "python"], ["uv", "run", "--no-sync", "engram"]
        for words in field.before:
            run("prepare", [*python, *words])
        run("train", [*engram, "train", *field.train, "--run", "runs/first"])
        told = json.loads(run("evaluate", [*engram, "evaluate", "runs/first", *field.evaluate, "--json"]))
    kept = ("mean", "episodes", "success_rate", "step")
    return found | {key: told[key] for key in kept if key in told} | {"command": ["engram", "train", *field.train]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", nargs="+", choices=list(FIELDS), default=list(FIELDS))
    parser.add_argument("--cold", action="store_true", help="install with an empty cache of packages")
    add_flags(parser, "first-result")
    options = parser.parse_args()
    record = Record(options, {"cold": options.cold})
    for name in options.fields:
        if name not in record.parts:
            record.put(name, measured(name, WORK / "first_result" / name, options.cold))
    columns = ("install", "prepare", "train", "evaluate", "success_rate", "mean")
    print(f"| field | {' | '.join(columns)} |\n" + "|---" * (1 + len(columns)) + "|")
    for name, part in record.parts.items():
        print(f"| {name} | {' | '.join(str(part.get(column, '')) for column in columns)} |")
    record.summarize({name: {column: part.get(column) for column in columns} for name, part in record.parts.items()})


if __name__ == "__main__":
    main()
