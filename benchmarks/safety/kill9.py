"""A run that is killed again and again, often while it saves, loses nothing that was acknowledged.

    python -m benchmarks.safety.kill9   50 kills, and the run that is never killed: about 5 minutes
    python -m benchmarks.safety.kill9 --kills 4 --in-save 2 --steps 6000 --out /tmp/quick.json
    python -m benchmarks.safety.kill9 --kind rainbow --kills 8 --in-save 4 --steps 12000   another kind of run

First a run of CartPole-v1 goes through undisturbed and tells the digest of its state at every save. Then the same
run is started again and killed with SIGKILL: while it saves, at a random moment of training, or while it starts.
After each kill the newest checkpoint is loaded in this process, and the run is resumed in a new one, which is killed
in its turn: one chain. What is counted:

- lost: a kill after which the newest checkpoint is older than one that had been acknowledged.
- refused: a kill after which a checkpoint is there but damaged, so that loading fell back to an older one.
- silent: a checkpoint that loads with another digest than the undisturbed run had at that step.
- mismatches: a resumed process whose live state, or whose later state, has another digest than it must.

The exit code is 1 if any of these is not 0, or if the end of the chain differs from that of the undisturbed run.
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import WORK, Record, add_flags, surroundings
from benchmarks.safety.kinds import add_kind, arguments, of_kind

SAVE_EVERY = 200  # environment steps
# A network and a replay that make a save last some tens of milliseconds; small enough to train quickly.
SETTINGS = {"encoder.widths": (256, 256), "replay.capacity": 10_000, "replay.start": 500, "replay.batch_size": 32}


# The process that is killed


def train(folder: Path, steps: int, kind: str) -> None:
    """Begin or resume the run in `folder`, with a line to standard output before and after every save."""
    from engram.run.plan import holds_run
    from engram.run.trainer import Trainer

    def say(*words: object) -> None:
        print(*words, flush=True)

    class Announce:
        """Tells of every save that `save` returned from."""

        def on_save(self, trainer: Any, saved: Any) -> None:
            say("saved", saved.step, saved.id, saved.seconds)

    begun = holds_run(folder)
    given: dict[str, Any] = {"resume": True}
    if not begun:
        given = {"env": "CartPole-v1", "steps": steps, "save_every": SAVE_EVERY}
        # Of few kills most fall into the first saves: what other kinds keep has been learned by then.
        given |= arguments(kind, folder.parent, SETTINGS if kind == "plain" else SETTINGS | {"replay.start": 100})
    with Trainer(run=folder, callbacks=(Announce(),), **given) as trainer:
        save = trainer.save

        def announced() -> Any:
            digest = trainer.state_digest()
            say("saving", trainer.steps, digest)
            return save()

        trainer.save = announced  # the trainer has no hook before a save
        say("ready", trainer.steps, trainer.state_digest() if begun else "-")
        trainer.learn()
        say("done", trainer.steps, trainer.state_digest())


# The process that kills


@dataclass
class Life:
    """What one process said between its start and its end."""

    ready: tuple[int, str] | None = None  # step and digest of the state that it resumed
    saving: list[tuple[int, str]] = field(default_factory=list)  # steps and digests, before each save
    saved: list[tuple[int, str, float]] = field(default_factory=list)  # steps, ids and seconds, after each save
    done: tuple[int, str] | None = None
    last: str = ""

    def hear(self, line: str) -> str:
        """Take one line in; its first word. A line that the kill cut short says nothing."""
        words = line.split()
        if not line.endswith("\n") or not words:
            return ""
        if words[0] in ("ready", "done"):
            setattr(self, words[0], (int(words[1]), words[2]))
        elif words[0] == "saving":
            self.saving.append((int(words[1]), words[2]))
        elif words[0] == "saved":
            self.saved.append((int(words[1]), words[2], float(words[3])))
        self.last = words[0]
        return words[0]


@dataclass(frozen=True)
class Kill:
    """When to kill: after the `count`-th line that begins with `word` ("" for the start), and then `seconds` more."""

    kind: str
    word: str
    count: int
    seconds: float


def live(options: argparse.Namespace, folder: Path, kill: Kill | None) -> Life:
    """Start a process and follow it to its end: its own, or the one that `kill` makes."""
    words = [sys.executable, "-m", "benchmarks.safety.kill9", "--child", str(folder)]
    words += ["--steps", str(options.steps), "--kind", options.kind]
    errors = folder.parent / "stderr.txt"
    errors.parent.mkdir(parents=True, exist_ok=True)
    with errors.open("w") as stderr:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=stderr, text=True, env=surroundings())
    try:
        life, output = Life(), process.stdout
        assert output is not None
        if kill is not None:
            heard = 0
            while heard < kill.count and (line := output.readline()):
                heard += life.hear(line) == kill.word
            time.sleep(kill.seconds)
            os.kill(process.pid, signal.SIGKILL)
        for line in output:
            life.hear(line)
        code = process.wait()
    finally:
        process.kill()
        process.wait()
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"the process ended by itself with exit code {code}:\n{errors.read_text()[-1_500:]}")
    return life


def newest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that passes every check, as another process finds it; None if there is none."""
    from engram.checkpoint.store import CheckpointStore, state_digest
    from engram.errors import CheckpointError

    try:
        loaded = CheckpointStore(folder / "checkpoints").load()
    except CheckpointError as problem:
        return None if "holds none" in str(problem) else {"step": -1, "digest": "", "refused": [str(problem)]}
    digest = state_digest(loaded.arrays, loaded.meta["state"], loaded)
    return {"step": loaded.step, "id": loaded.id, "digest": digest, "refused": loaded.passed_over}


def judge(
    life: Life, found: dict[str, Any] | None, earlier: dict[str, Any] | None, digests: dict[str, str]
) -> dict[str, Any]:
    """What one kill did. `earlier`: what the kill before it did; `digests`: those of the undisturbed run."""
    before = earlier or {"acknowledged": 0, "found": 0}
    acknowledged = max([before["acknowledged"], *(step for step, _, _ in life.saved)])
    step = found["step"] if found else 0
    announced = [(life.ready if life.ready and life.ready[1] != "-" else None), life.done, *life.saving]
    wrong = [one for one in announced if one is not None and digests.get(str(one[0])) != one[1]]
    if life.ready is not None and life.ready[0] != before["found"]:
        wrong.append(life.ready)  # it took up another checkpoint than the one that this process found
    return {
        "inside_save": life.last == "saving",
        "complete_but_unannounced": step > acknowledged,
        "acknowledged": acknowledged,
        "found": step,
        "lost": step < acknowledged,
        "refused": found["refused"] if found else [],
        "silent": bool(found) and found["digest"] != digests.get(str(step)),
        "mismatches": wrong,
        "saves": len(life.saved),
    }


def choose(kind: str, draw: np.random.Generator, save_seconds: float, start_seconds: float) -> Kill:
    """A random moment of the kind asked for."""
    if kind == "save":
        return Kill(kind, "saving", int(draw.integers(1, 4)), float(draw.uniform(0, save_seconds)))
    if kind == "training":
        return Kill(kind, "saved", 1, float(draw.uniform(0, 0.3)))
    return Kill(kind, "", 0, float(draw.uniform(0, start_seconds)))


def undisturbed(options: argparse.Namespace, record: Record) -> dict[str, Any]:
    """The run that nobody kills: digests at every save, at the start as a resumed run tells it, and at the end."""
    if "undisturbed" not in record.parts:
        folder = options.work / "undisturbed"
        shutil.rmtree(folder, ignore_errors=True)
        began = time.perf_counter()
        life = live(options, folder, None)
        assert life.done is not None
        seconds = [seconds for _, _, seconds in life.saved]
        digests = {str(step): digest for step, digest in life.saving} | {str(life.done[0]): life.done[1]}
        start = time.perf_counter()
        live(options, folder, Kill("start", "ready", 1, 0.0))  # resumes at the end: how long a start takes
        start = time.perf_counter() - start
        found = newest(folder)
        assert found is not None
        record.put("undisturbed", {
            "digests": digests, "end": list(life.done), "checkpoint_digest": found["digest"], "saves": len(seconds),
            "save_seconds": {"median": statistics.median(seconds), "greatest": max(seconds)},
            "start_seconds": start, "seconds": time.perf_counter() - began,
        })  # fmt: skip
        shutil.rmtree(folder)
    return record.parts["undisturbed"]


def chain(options: argparse.Namespace, record: Record, reference: dict[str, Any]) -> dict[str, Any]:
    """Kill, look, resume, and so on; then let the run end. It starts anew with every call: it is one chain."""
    folder, draw = options.work / "killed", np.random.default_rng(options.seed)
    shutil.rmtree(folder, ignore_errors=True)
    kinds = ["save"] * round(0.6 * options.kills) + ["start"] * round(0.1 * options.kills)
    kinds = list(draw.permutation(kinds + ["training"] * (options.kills - len(kinds))))
    kills: list[dict[str, Any]] = []
    save_seconds, digests = reference["save_seconds"]["median"], reference["digests"]
    while kinds or sum(kill["inside_save"] for kill in kills) < options.in_save:
        if len(kills) >= 3 * options.kills:
            raise SystemExit(
                f"of {len(kills)} kills fewer than {options.in_save} fell into a save; try a quieter machine"
            )
        kill = choose(kinds.pop() if kinds else "save", draw, save_seconds, reference["start_seconds"])
        life = live(options, folder, kill)
        if life.done is not None:
            raise SystemExit(f"the run ended after {len(kills)} kills; give more --steps than {options.steps}")
        found = newest(folder)
        kills.append({"kind": kill.kind} | judge(life, found, kills[-1] if kills else None, digests))
        if found is None:
            shutil.rmtree(folder, ignore_errors=True)  # killed before its first save: there is nothing to resume
        print(f"kill {len(kills)}: {describe(kills[-1])}", flush=True)
        record.put("chain so far", {"kills": kills})
    life = live(options, folder, None)
    last = judge(life, newest(folder), kills[-1], digests)
    return {"kills": kills, "last": last, "end": list(life.done or ())}


def describe(kill: dict[str, Any]) -> str:
    """One kill in one line."""
    where = "inside a save" if kill["inside_save"] else kill["kind"]
    extra = ", complete though not yet acknowledged" if kill["complete_but_unannounced"] else ""
    bad = [name for name in ("lost", "refused", "silent", "mismatches") if kill[name]]
    verdict = f" {', '.join(bad).upper()}" if bad else ""
    return f"{where}; acknowledged step {kill['acknowledged']:,}, found step {kill['found']:,}{extra}{verdict}"


def summary(reference: dict[str, Any], chained: dict[str, Any]) -> dict[str, Any]:
    """The counts, the process that ended the chain included."""
    lives, kills = [*chained["kills"], chained["last"]], chained["kills"]
    return {
        "kills": len(kills),
        "inside_save": sum(kill["inside_save"] for kill in kills),
        "complete_but_unannounced": sum(kill["complete_but_unannounced"] for kill in kills),
        "while_starting": sum(kill["kind"] == "start" for kill in kills),
        "lost": sum(life["lost"] for life in lives),
        "refused": sum(bool(life["refused"]) for life in lives),
        "silent": sum(life["silent"] for life in lives),
        "mismatches": sum(bool(life["mismatches"]) for life in lives),
        "end_equal": chained["end"] == reference["end"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--in-save", type=int, default=20, help="at least so many of them while a save is under way")
    parser.add_argument("--steps", type=int, default=60_000, help="length of the run; it must outlive the kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--work", type=Path, default=WORK / "kill9", help="folder for the runs, emptied at the end")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    add_kind(parser)
    add_flags(parser, "kill9")
    options = parser.parse_args()
    if options.child:
        train(options.child, options.steps, options.kind)
        return 0
    asked = {name: getattr(options, name) for name in ("kills", "in_save", "steps", "seed")}
    record = Record(options, asked | {"save_every": SAVE_EVERY} | of_kind(options, parser))
    reference = undisturbed(options, record)
    if "chain" not in record.parts:
        chained = chain(options, record, reference)
        record.parts.pop("chain so far", None)
        record.put("chain", chained)
        shutil.rmtree(options.work)
    found = summary(reference, record.parts["chain"])
    record.summarize(found)
    print("\n" + "\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in found.items()))
    return 0 if found["end_equal"] and not any(found[n] for n in ("lost", "refused", "silent", "mismatches")) else 1


if __name__ == "__main__":
    sys.exit(main())
