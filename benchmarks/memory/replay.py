"""Drawing from a replay of a million rows: by priority beside uniformly, and beside the bare gather of the same rows.

    python -m benchmarks.memory.replay                           about 2 minutes
    python -m benchmarks.memory.replay --rows 100000 --lanes 4
    python -m benchmarks.memory.replay --peers cpprb,flashbax,sb3      in the same run; minutes once to install them
    python -m benchmarks.memory.replay --window 80 --peers flashbax    windows of 80 rows, and what follows them
    python -m benchmarks.memory.replay --frame 84 --rows 100000        pictures of 84 x 84 bytes, four to an observation

Each cell is one compiled scan, so that no time of a call is in it: its state goes from one step to the next and is
never copied, as in the compiled loop of the device and in the block of the host. Rows are random numbers that the
compiled program is given: of constants it would gather nothing. Microseconds a step, the median of `--repeats` scans;
cells take turns.

| cell      | one step                                                                  |
|-----------|---------------------------------------------------------------------------|
| gather    | the rows of a batch at places that are known: observation, action, reward |
| draw      | which rows, and the gather of them                                        |
| update    | the priorities of a batch set anew                                        |
| add       | a block of 4 rows in each lane written, and what the draw keeps of them   |
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.environments import interpreter
from benchmarks.record import HERE, WORK, Record, add_flags
from engram import spaces
from engram.bits import next_words
from engram.replay import ring as rings
from engram.replay.draw import Drawn, Growth, Reach, Surprise
from engram.replay.prioritized import PrioritizedSpec
from engram.replay.sampling import rows_from, stacked, stacked_window
from engram.replay.uniform import UniformSpec
from engram.types import TimeStep

PEER = HERE / "peers" / "replay_run.py"
ENVIRONMENTS = {"cpprb": "replay", "flashbax": "replay", "sb3": "sb3"}
BLOCK, WIDTH, STACK = 4, 4, 4
DRAWS: dict[str, Any] = {"uniform": UniformSpec(), "prioritized": PrioritizedSpec()}


@dataclass(frozen=True)
class Rows:
    """What is kept and what a batch reads of it: windows of `window` rows, and the row that follows.

    `frame`: pictures of so many bytes a side, of which `STACK` make an observation; 0 for four numbers.
    """

    window: int = 1
    frame: int = 0

    @property
    def space(self) -> spaces.Box:
        return spaces.Box((self.frame, self.frame), "uint8") if self.frame else spaces.Box((WIDTH,))

    @property
    def stack(self) -> int:
        return STACK if self.frame else 1

    @property
    def reach(self) -> Reach:
        return Reach(self.window, self.stack - 1)

    def random(self, *shape: int) -> TimeStep:
        """Rows [*shape] of one endless episode."""
        random = np.random.default_rng(1)
        whole = (*shape, *self.space.shape)
        seen = random.integers(0, 256, whole, np.uint8) if self.frame else random.random(whole, np.float32)
        action, reward = random.integers(0, 4, shape, np.int32), random.random(shape, np.float32)
        never = np.zeros(shape, bool)
        return jax.tree.map(jnp.asarray, TimeStep(seen, never, action, reward, never))

    def gathered(self, ring: Any, drawn: Drawn) -> Any:
        """What an update reads of a batch. A sum, so that nothing is left out."""

        def one(row: Any, lane: Any) -> Any:
            found = rows_from(ring, row, lane, self.window + 1)
            if self.window == 1:
                both = stacked(ring, row, lane, self.stack), stacked(ring, row + 1, lane, self.stack)
                seen = sum(frames.astype(jnp.float32).sum() for frames in both)
            else:
                seen = stacked_window(ring, row, lane, self.window + 1, self.stack).astype(jnp.float32).sum()
            return seen + found.reward.sum() + found.action.sum() + found.terminated.sum() + found.is_first.sum()

        return jax.vmap(one)(drawn.row, drawn.lane).sum()


def filled(spec: Any, rows: int, lanes: int, kept: Rows) -> tuple[Any, Any]:
    """A full ring, and what the draw keeps of it, with priorities that differ."""
    before = rings.empty(kept.space, rows, lanes)
    ring = rings.Ring(kept.random(rows, lanes), jnp.full(lanes, rows, jnp.int32))
    state = spec.grown(spec.init(rows, lanes), Growth(before, ring, kept.reach, rows))
    if state is None:
        return ring, None
    place = jnp.arange(rows * lanes)
    error = jnp.asarray(np.random.default_rng(0).exponential(size=rows * lanes), jnp.float32)
    keep = place % rows < rows - kept.reach.after
    drawn = Drawn(place, place, None, jnp.where(keep, place, 1 << 30))
    return ring, spec.learned(state, drawn, Surprise(error, error), jnp.bool_(True))


def no_embedding(*_: Any) -> Any:
    raise AssertionError("nothing is compared")


def steps(spec: Any, shape: tuple[int, int], batch: int, kept: Rows) -> dict[str, tuple[bool, Callable]]:
    """By cell: whether it changes what the draw keeps, and one step of it."""
    rows, lanes = shape

    def draw(ring: Any, state: Any, bits: Any) -> Drawn:
        return spec.draw(state, ring, kept.reach, bits.reshape(batch, spec.words), no_embedding)

    def drawing(ring: Any, state: Any, key: Any) -> tuple[Any, Any]:
        key, bits = next_words(key, batch * spec.words)
        drawn = draw(ring, state, bits)
        weight = 0.0 if drawn.importance is None else drawn.importance.sum()
        return key, kept.gathered(ring, drawn) + weight

    def gathering(ring: Any, _: Any, key: Any) -> tuple[Any, Any]:
        key, bits = next_words(key, batch)
        row = (bits % jnp.uint32(rows - kept.window)).astype(jnp.int32)
        return key, kept.gathered(ring, Drawn(row, row % lanes))

    def updating(_: Any, __: Any, carry: Any) -> tuple[Any, Any]:
        key, state = carry
        key, bits = next_words(key, batch)
        place = (bits % jnp.uint32(rows * lanes - lanes * kept.window)).astype(jnp.int32)
        error = place.astype(jnp.float32) / rows
        drawn = Drawn(place % rows, place // rows, None, place)
        return (key, spec.learned(state, drawn, Surprise(error, error), jnp.bool_(True))), error[0]

    return {"gather": (False, gathering), "draw": (False, drawing), "update": (True, updating)}


def adding(spec: Any, kept: Rows) -> Callable:
    """One block of rows more."""

    def step(carry: Any, block: TimeStep) -> Any:
        ring, state = carry
        after = rings.write(ring, block, jnp.ones((BLOCK, ring.envs), bool))
        return after, spec.grown(state, Growth(ring, after, kept.reach, BLOCK))

    return step


def timed(program: Callable, given: list[Any], keeps: bool) -> float:
    """Seconds of one call. `keeps`: what comes back is what the next call is given, whose buffers it writes into."""
    began = time.perf_counter()
    out = jax.block_until_ready(program(*given))
    seconds = time.perf_counter() - began
    if keeps:
        given[: len(out)] = out
    return seconds


def measure(
    rows: int, lanes: int, batches: list[int], count: int, repeats: int, kept: Rows = Rows()
) -> dict[str, float]:
    """Microseconds a step by cell."""
    programs: dict[str, tuple[Callable, list[Any], bool]] = {}
    key = jax.random.PRNGKey(0)
    for name, spec in DRAWS.items():
        ring, state = filled(spec, rows, lanes, kept)
        for batch in batches:
            for cell, (changes, step) in steps(spec, (rows, lanes), batch, kept).items():
                if (cell == "gather" and name != "uniform") or (cell == "update" and state is None):
                    continue

                def scan(ring: Any, state: Any, key: Any, step: Callable = step, changes: bool = changes) -> Any:
                    begins = (key, state) if changes else key
                    end, out = jax.lax.scan(lambda carry, _: step(ring, state, carry), begins, None, length=count)
                    # Of what changes, a number is read at the end, or nothing of it would be computed.
                    read = jax.tree.map(lambda leaf: leaf.reshape(-1)[0], end[1]) if changes else None
                    return end[0] if changes else end, out.sum(), read

                programs[f"{cell} {batch}" + ("" if cell == "gather" else f", {name}")] = (
                    jax.jit(scan),
                    [ring, state, key],
                    False,
                )

        def add(ring: Any, state: Any, block: TimeStep, spec: Any = spec) -> Any:
            return jax.lax.fori_loop(0, count, lambda _, carry: adding(spec, kept)(carry, block), (ring, state))

        written = jax.tree.map(jnp.copy, (ring, state))  # this one is written into, and no other cell's
        given = [*written, kept.random(BLOCK, lanes)]
        programs[f"add {BLOCK} x {lanes}, {name}"] = jax.jit(add, donate_argnums=(0, 1)), given, True
    for program, given, keeps in programs.values():
        timed(program, given, keeps)
    found: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, (program, given, keeps) in programs.items():
            found[name].append(timed(program, given, keeps))
    return {name: 1e6 * median(seconds) / count for name, seconds in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="over all lanes")
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--window", type=int, default=1, help="rows that are learned from together")
    parser.add_argument("--frame", type=int, default=0, help="pictures of so many bytes a side; 0: four numbers")
    parser.add_argument("--steps", type=int, default=2_000, help="of one scan")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", default="", help="other libraries with commas between them")
    add_flags(parser, "replay")
    options = parser.parse_args()
    wanted = set(filter(None, options.peers.split(",")))
    if options.window > 1 and wanted - {"flashbax"}:
        parser.error(f"of the peers only flashbax draws windows; got --window {options.window} --peers {options.peers}")
    if options.frame and options.peers:
        parser.error("peers keep four numbers; got --frame with --peers, give one of both")
    sizes = {name: getattr(options, name) for name in ("rows", "lanes", "window", "frame")}
    record = Record(options, sizes)
    kept = Rows(options.window, options.frame)
    about = f", windows of {kept.window}" if kept.window > 1 else ""
    about += f", frames of {kept.frame} x {kept.frame}" if kept.frame else ""
    found = measure(options.rows // options.lanes, options.lanes, [32, 256], options.steps, options.repeats, kept)
    record.put(f"{options.rows} rows, {options.lanes} lanes{about}", found)
    show("engram", found)
    for kind in filter(None, options.peers.split(",")):
        python = interpreter(ENVIRONMENTS[kind], WORK)
        words = [python, PEER, "--kind", kind, "--rows", options.rows, "--steps", options.steps]
        words += ["--window", options.window]
        result = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True)
        theirs = json.loads(result.stdout.splitlines()[-1])
        record.put(f"{kind}, {options.rows} rows{about}", theirs)
        show(kind, theirs)
    return 0


def show(title: str, found: dict[str, float]) -> None:
    print(f"| {title} | us |\n|---|---|")
    for name, micros in found.items():
        print(f"| {name} | {micros:.1f} |")


if __name__ == "__main__":
    sys.exit(main())
