"""What a replay of another library costs, in its own environment; prints one JSON line of microseconds a step.

    .benchmarks/replay/bin/python benchmarks/peers/replay_run.py --kind cpprb --rows 1000000

Rows hold an observation of four numbers, an action, a reward and a flag. cpprb and flashbax store each observation
once. flashbax is timed inside one compiled scan, as it is meant to be used, and again with one compiled call for each
step. Stable-Baselines3 has a uniform buffer alone. Windows of successive rows are flashbax's trajectory buffers; the
other two have none.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

WIDTH, BATCHES, ALPHA, BLOCK = 4, (32, 256), 0.6, 10_000
KINDS = ("cpprb", "flashbax", "sb3")


def micros(step: Callable[[], Any], steps: int, repeats: int) -> float:
    """The median over `repeats` of the time of one step, after one pass to warm up."""
    found = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        for _ in range(steps):
            step()
        found.append(time.perf_counter() - began)
    return 1e6 * median(found[1:]) / steps


def cpprb(rows: int, steps: int, repeats: int) -> dict[str, float]:
    from cpprb import PrioritizedReplayBuffer, ReplayBuffer

    fields = {"obs": {"shape": WIDTH}, "act": {"dtype": np.int32}, "rew": {}, "done": {}}
    made: dict[str, Any] = {
        "uniform": ReplayBuffer(rows, fields, next_of="obs"),
        "prioritized": PrioritizedReplayBuffer(rows, fields, next_of="obs", alpha=ALPHA),
    }
    found, random = {}, np.random.default_rng(0)
    one = {"obs": np.ones(WIDTH, np.float32), "act": 0, "rew": 1.0, "next_obs": np.ones(WIDTH, np.float32), "done": 0}
    for name, buffer in made.items():
        many = {key: np.broadcast_to(value, (BLOCK, *np.shape(value))) for key, value in one.items()}
        for _ in range(rows // BLOCK):
            buffer.add(**many)
        if name == "prioritized":
            buffer.update_priorities(np.arange(rows), random.exponential(size=rows).astype(np.float32))
        found[f"add 1, {name}"] = micros(lambda buffer=buffer: buffer.add(**one), steps, repeats)
        for batch in BATCHES:
            found[f"draw {batch}, {name}"] = micros(lambda b=buffer, n=batch: b.sample(n), steps, repeats)
            if name == "prioritized":
                places, errors = random.integers(0, rows, batch), random.exponential(size=batch).astype(np.float32)
                update = partial(buffer.update_priorities, places, errors)
                found[f"update {batch}, {name}"] = micros(update, steps, repeats)
    return found


def flashbax(rows: int, steps: int, repeats: int, window: int) -> dict[str, float]:
    import flashbax as fbx
    import jax
    import jax.numpy as jnp

    one = {"obs": jnp.ones(WIDTH), "act": jnp.int32(0), "rew": jnp.ones(()), "done": jnp.zeros(())}
    found = {}

    def timed(name: str, step: Callable, state: Any) -> None:
        """`step`: (state, key) -> (state, number). In a scan, and one call each."""

        def scanned(state: Any, keys: Any) -> Any:
            end, out = jax.lax.scan(step, state, keys)
            return out.sum(), jax.tree.map(lambda leaf: leaf.reshape(-1)[0], end)  # or nothing would be computed

        scan, keys = jax.jit(scanned), jax.random.split(jax.random.PRNGKey(0), steps)
        whole = micros(lambda: jax.block_until_ready(scan(state, keys)), 1, repeats)
        found[f"{name}, in a scan"] = whole / steps
        # Donated, as flashbax advises: a call would else copy every row of the buffer.
        call, held = jax.jit(step, donate_argnums=0), [jax.tree.map(jnp.copy, state)]

        def once() -> None:
            held[0], out = call(held[0], keys[0])
            jax.block_until_ready(out)

        found[f"{name}, one call each"] = micros(once, max(10, steps // 20), repeats)

    for batch in BATCHES:
        make = {
            "uniform": fbx.make_flat_buffer,
            "prioritized": partial(fbx.make_prioritised_flat_buffer, priority_exponent=ALPHA),
        }
        trajectories: dict[str, Callable] = {
            "uniform": fbx.make_trajectory_buffer,
            "prioritized": partial(fbx.make_prioritised_trajectory_buffer, priority_exponent=ALPHA),
        }
        for name, maker in make.items():
            lead = (BLOCK,) if window == 1 else (1, BLOCK)
            if window == 1:
                buffer = maker(rows, batch, batch, add_sequences=True, add_batch_size=None)
            else:
                buffer = trajectories[name](
                    add_batch_size=1, sample_batch_size=batch, sample_sequence_length=window + 1, period=1,
                    min_length_time_axis=window + 1, max_size=rows,
                )  # fmt: skip
            state = buffer.init(one)
            many = jax.tree.map(lambda leaf, lead=lead: jnp.broadcast_to(leaf, (*lead, *leaf.shape)), one)
            add: Callable = jax.jit(buffer.add, donate_argnums=0)
            for _ in range(rows // BLOCK):
                state = add(state, many)

            def draw(state: Any, key: Any, buffer: Any = buffer) -> Any:
                drawn = buffer.sample(state, key)
                return state, sum(leaf.sum().astype(jnp.float32) for leaf in jax.tree.leaves(drawn.experience))

            timed(f"draw {batch}, {name}", draw, state)
            if name == "prioritized":

                def update(state: Any, key: Any, buffer: Any = buffer, batch: int = batch) -> Any:
                    places = jax.random.randint(key, (batch,), 0, rows - window)
                    state = buffer.set_priorities(state, places, places / rows)
                    return state, jnp.float32(0)

                timed(f"update {batch}, {name}", update, state)
    return found


def sb3(rows: int, steps: int, repeats: int) -> dict[str, float]:
    from gymnasium import spaces
    from stable_baselines3.common.buffers import ReplayBuffer

    space = spaces.Box(-1, 1, (WIDTH,), np.float32)
    buffer = ReplayBuffer(rows, space, spaces.Discrete(2), optimize_memory_usage=True, handle_timeout_termination=False)
    seen, number = np.ones((1, WIDTH), np.float32), np.ones(1)
    add = partial(buffer.add, seen, seen, np.zeros(1), number, np.zeros(1), [{}])
    found = {"add 1, uniform": micros(add, steps, repeats)}
    # As filling it one by one would leave it. Pages that were never written would all be one page, and quick to read.
    for column in (buffer.observations, buffer.actions, buffer.rewards, buffer.dones, buffer.timeouts):
        column[:] = 0
    buffer.full, buffer.pos = True, 0
    for batch in BATCHES:
        found[f"draw {batch}, uniform"] = micros(partial(buffer.sample, batch), steps, repeats)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--window", type=int, default=1)
    options = parser.parse_args()
    if options.window > 1 and options.kind != "flashbax":
        parser.error(f"only flashbax draws windows; got --kind {options.kind} --window {options.window}")
    run = {"cpprb": cpprb, "flashbax": partial(flashbax, window=options.window), "sb3": sb3}[options.kind]
    print(json.dumps(run(options.rows, options.steps, options.repeats)))


if __name__ == "__main__":
    main()
