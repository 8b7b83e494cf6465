"""One flipped bit anywhere in a checkpoint: is it noticed?

    python -m benchmarks.safety.bitflips                        500 flips: about a minute
    python -m benchmarks.safety.bitflips --flips 50 --out /tmp/quick.json
    python -m benchmarks.safety.bitflips --kind demonstrations --flips 60   another kind of run

A real run of CartPole-v1 leaves three checkpoints that share segments of replay. For each flip they are copied, one
random bit of one random file of the newest checkpoint is turned over, and the newest checkpoint is loaded. Each kind
of file is as likely as the others: arrays, manifest, the manifest's hash, and the segments that the manifest names.
The outcomes:

- older: it was refused with a sentence, and an older checkpoint was loaded, whose digest is right.
- none: it was refused, and so were the older ones, which name the same damaged segment of replay.
- harmless: it was loaded, and the digest of its state is what it was.
- silent: anything else. The exit code is 1 if there is one.

`verify`, which shares no reader with the store, is asked about each damaged copy too.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import WORK, Record, add_flags, surroundings
from benchmarks.safety.kinds import add_kind, arguments, of_kind
from engram.checkpoint.store import CheckpointStore, state_digest
from engram.errors import CheckpointError

OUTCOMES = ("older", "none", "harmless", "silent")
SETTINGS = {"replay.capacity": 2000, "replay.start": 200}
BATCH = 50  # flips from one save of the result file to the next


def make_run(options: argparse.Namespace, folder: Path) -> None:
    """A run with a checkpoint every tenth of it, of which the store keeps three."""
    words = ["-m", "engram", "train", "CartPole-v1", "--steps", str(options.steps), "--run", str(folder)]
    given = arguments(options.kind, options.work, SETTINGS)
    words += [f"{name}={value}" for name, value in given.pop("overrides").items()]
    words += [f"--{name}={value}" for name, value in given.items()]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=surroundings())
    if done.returncode:
        raise SystemExit(f"the run failed: {done.stderr.strip()[-1_000:]}")


def load(folder: Path) -> tuple[str, str, list[str]]:
    """Id and state digest of the newest checkpoint that loads, and what was passed over for it."""
    loaded = CheckpointStore(folder).load()
    return loaded.id, state_digest(loaded.arrays, loaded.meta["state"], loaded), loaded.passed_over


def sound(folder: Path) -> dict[str, str]:
    """Id -> state digest of every checkpoint of the undamaged run, newest last."""
    store = CheckpointStore(folder)
    found = [store.load(step) for step in store.steps()]
    return {one.id: state_digest(one.arrays, one.meta["state"], one) for one in found}


def files_of_newest(folder: Path) -> list[list[Path]]:
    """The files of the newest checkpoint, relative to `folder`, by kind: each its own, the segments it names one."""
    newest = max(folder.glob("step-*.*"), key=lambda path: int(path.name.rpartition(".")[2]))
    manifest = json.loads((newest / "manifest.json").read_text())
    own = [[path.relative_to(folder)] for path in sorted(newest.iterdir())]
    if manifest["replay"] is None:  # of an agent that learns from rollouts
        return own
    return [*own, [Path("segments", one["file"]) for one in manifest["replay"]["segments"]]]


def flip(path: Path, bit: int) -> None:
    """Turn one bit of a file over."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def outcome(folder: Path, digests: dict[str, str]) -> tuple[str, str]:
    """What loading says of a damaged copy: (one of OUTCOMES, and its sentence)."""
    newest = list(digests)[-1]
    try:
        found, digest, passed_over = load(folder)
    except CheckpointError as problem:
        return "none", str(problem)
    if digests.get(found) != digest or (found != newest and not passed_over):
        return "silent", f"loaded {found} with digest {digest}"
    return ("harmless", "") if found == newest else ("older", passed_over[0])


def trial(original: Path, copy: Path, file: Path, bit: int, digests: dict[str, str]) -> dict[str, Any]:
    """One flip on a copy of its own."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy)
    flip(copy / file, bit)
    name, sentence = outcome(copy, digests)
    kind = "segment" if file.parent.name == "segments" else file.name
    return {"file": str(file), "kind": kind, "bit": bit, "outcome": name, "sentence": sentence.replace(str(copy), "."),
            "verify": bool(CheckpointStore(copy).verify())}  # fmt: skip


def flips(options: argparse.Namespace, record: Record, original: Path) -> list[dict[str, Any]]:
    """All flips, those that the record has included. A second call draws the same ones."""
    digests, kinds = sound(original), files_of_newest(original)
    draw = np.random.default_rng(options.seed)
    drawn = [kinds[kind] for kind in draw.integers(len(kinds), size=options.flips)]
    chosen = [files[int(draw.integers(len(files)))] for files in drawn]
    bits = [int(draw.integers(8 * (original / file).stat().st_size)) for file in chosen]
    done = record.parts.get("flips", {"flips": []})["flips"]
    if done and record.parts["flips"]["digests"] != digests:
        raise SystemExit(f"{options.work} holds another run than the one in {options.out}; use --fresh")
    for index in range(len(done), options.flips):
        done.append(trial(original, options.work / "copy", chosen[index], bits[index], digests))
        if len(done) % BATCH == 0 or len(done) == options.flips:
            record.put("flips", {"digests": digests, "flips": done})
            print(f"{len(done)} flips", file=sys.stderr, flush=True)
    return done


def table(done: list[dict[str, Any]]) -> list[str]:
    """Lines of a Markdown table: outcomes by kind of file."""
    lines = ["| file | flips | refused, older one loaded | refused, none left | harmless | silent | verify notices |"]
    lines.append("|" + "---|" * 7)
    for kind in [*sorted({one["kind"] for one in done}), "all"]:
        mine = [one for one in done if kind in ("all", one["kind"])]
        counts = Counter(one["outcome"] for one in mine)
        cells = [len(mine), *(counts[name] for name in OUTCOMES)]
        lines.append(f"| {kind} | {' | '.join(map(str, cells))} | {sum(one['verify'] for one in mine)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--steps", type=int, default=3_000, help="length of the run whose checkpoints are damaged")
    parser.add_argument("--seed", type=int, default=0, help="seed of the flips")
    parser.add_argument("--work", type=Path, default=WORK / "bitflips", help="folder for the run, emptied at the end")
    add_kind(parser)
    add_flags(parser, "bitflips")
    options = parser.parse_args()
    asked = {name: getattr(options, name) for name in ("flips", "steps", "seed")}
    record = Record(options, asked | of_kind(options, parser))
    if len(record.parts.get("flips", {"flips": []})["flips"]) < options.flips:
        original = options.work / "run" / "checkpoints"
        if not options.resume or not original.exists():
            shutil.rmtree(options.work, ignore_errors=True)
            make_run(options, options.work / "run")
        flips(options, record, original)
        shutil.rmtree(options.work)
    done = record.parts["flips"]["flips"]
    counts = Counter(one["outcome"] for one in done)
    noticed = sum(one["verify"] for one in done)
    record.summarize({name: counts[name] for name in OUTCOMES} | {"noticed_by_verify": noticed})
    print("\n".join(table(done)))
    return 1 if any(one["outcome"] == "silent" for one in done) else 0


if __name__ == "__main__":
    sys.exit(main())
