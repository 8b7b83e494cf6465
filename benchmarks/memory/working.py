"""What each working memory costs: training, acting, memory and compilation, and how that grows with the window.

    python -m benchmarks.memory.working                         every kind and floor, 4 windows: about 15 minutes
    python -m benchmarks.memory.working --kinds gru,lru --windows 50,512 --repeats 5 --out /tmp/quick.json

Training is the gradient of a loss on all outputs with respect to parameters and inputs, for a batch of 32 windows of
128 numbers each, at width 128 and the kind's own defaults otherwise; every window has one episode border. *tokens/s*
is one gradient per compiled call, as published speeds are; *in a loop* is 4 of them in one call, as the device runner
does it, where the memory is not asked from the system again each time. *Memory* is XLA's own count of what one
gradient needs beside its arguments. *Acting* is one step of one environment per compiled call.

Floors beside them: `floor-mlp`, two linear layers of the same width and nothing along time; `floor-mingru`, a bare
minGRU by associative scan.

Each kind runs in a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.memory.memory_bandwidth import timed
from benchmarks.peers import machine
from benchmarks.record import Record, add_flags, surroundings

BATCH, WIDTH, IN_A_LOOP, ACTING_STEPS = 32, 128, 4, 200
WINDOWS = (50, 128, 512, 1024)
FLOORS = ("floor-mlp", "floor-mingru")
Unroll = Callable[[Any, Any, Any], Any]  # (parameters, window, is_first) -> outputs of every row


def subject(name: str) -> tuple[Any, Unroll, Any]:
    """Parameters, how a window is gone through, and the memory itself if it is one of Engram's."""
    import jax
    import jax.numpy as jnp

    key = jax.random.PRNGKey(0)
    if name == "floor-mlp":
        from engram.nn.layers import MLP

        return MLP(WIDTH, (WIDTH, WIDTH), key=key), lambda mlp, window, _: jax.vmap(mlp)(window), None
    if name == "floor-mingru":

        def unroll(weight, window, is_first):
            gate, candidate = jnp.split(window @ weight, 2, axis=1)
            keep = jax.nn.sigmoid(gate)
            rows = (jnp.where(is_first[:, None], 0.0, keep), (1 - keep) * candidate)
            return jax.lax.associative_scan(lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1]), rows)[1]

        return jax.random.normal(key, (WIDTH, 2 * WIDTH)) / WIDTH**0.5, unroll, None
    memory = known_kinds()[name](**({} if name == "none" else {"hidden_size": WIDTH})).build(WIDTH, key)
    return memory, lambda memory, window, first: memory.unroll(memory.init(), window, first)[1].vector, memory


def known_kinds() -> dict[str, type]:
    """Every registered working memory."""
    from engram import registry
    from engram.working import fast_weights, history, memory, slots  # noqa: F401, they register them

    return {name: registry.find("working", name) for name in registry.names("working")}


def measure(name: str, windows: tuple[int, ...], repeats: int) -> dict[str, Any]:
    """In a process of its own: what one kind costs at each window."""
    import jax

    parameters, unroll, memory = subject(name)
    count = sum(leaf.size for leaf in jax.tree.leaves(parameters))
    part: dict[str, Any] = {"parameters": count, "windows": {}}
    for window in windows:
        part["windows"][str(window)] = training(parameters, unroll, window, repeats)
    if memory is not None:
        part["acting_microseconds"] = acting(memory, repeats)
    return part


def training(parameters: Any, unroll: Unroll, window: int, repeats: int) -> dict[str, Any]:
    """Speed, memory and compilation of the gradient."""
    import jax
    import jax.numpy as jnp

    inputs = jax.random.normal(jax.random.PRNGKey(1), (BATCH, window, WIDTH))
    is_first = jnp.zeros((BATCH, window), bool).at[:, window // 3].set(True)

    def gradient(parameters, inputs):
        def loss(parameters, inputs):
            return (jax.vmap(unroll, (None, 0, 0))(parameters, inputs, is_first) ** 2).mean()

        return jax.grad(loss, (0, 1))(parameters, inputs)

    def loop(parameters, inputs):
        def once(given, _):  # each gradient depends on the one before, or XLA would compute one only
            return jax.tree.map(lambda old, slope: old - 1e-3 * slope, given, gradient(*given)), None

        return jax.lax.scan(once, (parameters, inputs), None, length=IN_A_LOOP)[0]

    began = time.perf_counter()
    compiled = jax.jit(gradient).lower(parameters, inputs).compile()
    seconds = time.perf_counter() - began
    once = timed(lambda: compiled(parameters, inputs), repeats)
    fused = jax.jit(loop)
    return {
        "tokens_per_second": [round(BATCH * window / found) for found in once],
        "tokens_per_second_in_a_loop": [
            round(IN_A_LOOP * BATCH * window / found) for found in timed(lambda: fused(parameters, inputs), repeats)
        ],
        "memory_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "compile_seconds": round(seconds, 2),
    }


def acting(memory: Any, repeats: int) -> list[float]:
    """Microseconds of a compiled step for one environment."""
    import jax
    import jax.numpy as jnp

    step = jax.jit(lambda memory, carry, inputs, first: memory.step(carry, inputs, first))
    inputs, first = jnp.ones(WIDTH), jnp.array(False)

    def play():
        carry = memory.init()
        for _ in range(ACTING_STEPS):
            carry, read = step(memory, carry, inputs, first)
        return read.vector

    return [round(found / ACTING_STEPS * 1e6, 1) for found in timed(play, repeats)]


def child(name: str, windows: tuple[int, ...], repeats: int) -> dict[str, Any]:
    """`measure` in a new process."""
    words = [sys.executable, "-m", "benchmarks.memory.working", "--one", name, "--windows", ",".join(map(str, windows))]
    done = subprocess.run([*words, "--repeats", str(repeats)], capture_output=True, text=True, env=surroundings())
    if done.returncode:
        raise SystemExit(f"exit code {done.returncode} from: {' '.join(words)}\n{done.stderr.strip()[-1_000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(parts: dict[str, Any], windows: tuple[int, ...]) -> str:
    """Markdown: per kind and window the medians, and how many times as much a token of the longest window takes."""
    heads = [f"{window}: k tokens/s (in a loop), MB, compile s" for window in windows]
    lines = [f"| kind | parameters | acting [us] | {' | '.join(heads)} | cost per token, last / first |"]
    lines += ["|---" * (len(windows) + 4) + "|"]
    for name, part in parts.items():
        cells = []
        for window in windows:
            one = part["windows"][str(window)]
            speed, fused = median(one["tokens_per_second"]), median(one["tokens_per_second_in_a_loop"])
            cells.append(
                f"{speed / 1e3:.0f} ({fused / 1e3:.0f}), {one['memory_bytes'] / 1e6:.0f}, {one['compile_seconds']:.1f}"
            )
        first, final = (
            median(part["windows"][str(w)]["tokens_per_second_in_a_loop"]) for w in (windows[0], windows[-1])
        )
        acts = f"{median(part['acting_microseconds']):.0f}" if "acting_microseconds" in part else "-"
        lines.append(f"| {name} | {part['parameters']:,} | {acts} | {' | '.join(cells)} | {first / final:.2f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", help="separated by commas; all, with floors, if left out")
    parser.add_argument("--windows", default=",".join(map(str, WINDOWS)), help="rows of time, separated by commas")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    add_flags(parser, "working")
    options = parser.parse_args()
    windows = tuple(int(window) for window in options.windows.split(","))
    if options.one:
        print(json.dumps(measure(options.one, windows, options.repeats)))
        return 0
    names = options.kinds.split(",") if options.kinds else [*FLOORS, *known_kinds()]
    settings = {"batch": BATCH, "width": WIDTH, "windows": windows, "repeats": options.repeats, "kinds": names}
    record = Record(options, settings)
    for name in names:
        if name in record.parts:
            continue
        watch = machine.Watch.start()
        record.put(name, child(name, windows, options.repeats) | watch.stop())
        print(f"{name} done", file=sys.stderr, flush=True)
    parts = {name: record.parts[name] for name in names}
    record.summarize(
        {
            name: {w: median(one["tokens_per_second"]) for w, one in part["windows"].items()}
            for name, part in parts.items()
        }
    )
    print(table(parts, windows))
    print(
        f"\nForeign cores: up to {max(part['cores_foreign'] or 0 for part in parts.values()):.2f} of {os.cpu_count()}."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
