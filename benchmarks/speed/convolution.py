"""One training step of the Nature network (Mnih et al. 2015) on CPU: Engram's convolution, XLA's own, and torch's.

    python -m benchmarks.speed.convolution --torch-python /path/to/python/with/torch

A step is: online network on 32 observations of 84 x 84 x 4 bytes, target network on the 32 next ones, squared
TD error, gradient, Adam. 6 actions, float32, 1.7 million parameters. All variants run in one go, one step of each
in turn (A B C A B C ...), because other work on the machine disturbs them all alike then; every variant lives in a
process that sleeps until it is its turn. Times are per training step, also for the scan of four.

The result is JSON: for each variant the minimum, quartile and median of the wall time over all rounds, and the
minimum of the processor time of both threads together. Read the load averages first: with other work on every core
the wall times say little, the processor times of the JAX variants still compare, and neither figure of torch does,
because its threads spin while one of them waits for a core. Only a quiet machine ranks Engram against torch.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

BATCH, ACTIONS, DISCOUNT, LEARNING_RATE, SCAN = 32, 6, 0.99, 1e-4, 4
LAYERS = ((4, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1))  # channels in, channels out, size, stride
FEATURES, HIDDEN = 7 * 7 * 64, 512
THREADS = 2

Run = Callable[[], float]  # does one measured call and returns its (last) loss


def random_batch(leading: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    """A batch of transitions with channels last; the same numbers in every process."""
    generator = np.random.default_rng(0)
    frames = (*leading, BATCH, 84, 84, 4)
    return {
        "observation": generator.integers(0, 256, frames, dtype=np.uint8),
        "following": generator.integers(0, 256, frames, dtype=np.uint8),
        "action": generator.integers(0, ACTIONS, (*leading, BATCH), dtype=np.int32),
        "reward": generator.random((*leading, BATCH), dtype=np.float32),
        "discount": np.full((*leading, BATCH), DISCOUNT, np.float32),
    }


# ---- JAX ------------------------------------------------------------------------------------------------------


def nature_networks() -> dict[str, Any]:
    """The same network twice, equal weights: with Engram's convolutions, and with those of XLA."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    from engram.nn.convolution import Convolution

    class LaxConvolution(eqx.Module):
        weight: jax.Array  # size, size, channels, out: XLA's own order
        bias: jax.Array
        stride: int = eqx.field(static=True)

        def __call__(self, image: jax.Array) -> jax.Array:
            layout = ("NHWC", "HWIO", "NHWC")
            strides = (self.stride, self.stride)
            result = jax.lax.conv_general_dilated(image[None], self.weight, strides, "VALID", dimension_numbers=layout)
            return result[0] + self.bias

    class NatureNetwork(eqx.Module):
        convolutions: tuple
        hidden: eqx.nn.Linear
        head: eqx.nn.Linear

        def __call__(self, frames: jax.Array) -> jax.Array:
            image = frames.astype(jnp.float32) * (1 / 255)
            for convolution in self.convolutions:
                image = jax.nn.relu(convolution(image))
            return self.head(jax.nn.relu(self.hidden(image.reshape(-1))))

    keys = jax.random.split(jax.random.key(0), len(LAYERS) + 2)
    ours = tuple(Convolution(*layer, key=key) for layer, key in zip(LAYERS, keys, strict=False))
    theirs = tuple(LaxConvolution(own.weight.transpose(1, 2, 3, 0), own.bias, own.stride) for own in ours)
    dense = eqx.nn.Linear(FEATURES, HIDDEN, key=keys[-2]), eqx.nn.Linear(HIDDEN, ACTIONS, key=keys[-1])
    return {"engram": NatureNetwork(ours, *dense), "lax": NatureNetwork(theirs, *dense)}


def jax_runs() -> tuple[dict[str, str], dict[str, Run]]:
    """Versions, and the four JAX variants: each network as one jitted call and inside `lax.scan`."""
    import jax
    import jax.numpy as jnp
    import optax

    optimizer = optax.adam(LEARNING_RATE)

    def step(state: tuple, batch: dict[str, jax.Array]) -> tuple[tuple, jax.Array]:
        online, target, moments = state
        following = jax.vmap(target)(batch["following"]).max(axis=1)
        goal = batch["reward"] + batch["discount"] * following

        def loss(network):
            q = jax.vmap(network)(batch["observation"])
            chosen = jnp.take_along_axis(q, batch["action"][:, None], axis=1)[:, 0]
            return jnp.mean((chosen - goal) ** 2)

        value, gradient = jax.value_and_grad(loss)(online)
        updates, moments = optimizer.update(gradient, moments, online)
        return (optax.apply_updates(online, updates), target, moments), value

    def scanned(state, batches):
        return jax.lax.scan(step, state, batches)

    def prepare(function: Callable, network: Any, batch: Any) -> Run:
        compiled = jax.jit(function, donate_argnums=0)
        # Donated buffers must not be shared between the networks nor between the variants.
        state = jax.tree.map(jnp.copy, (network, network, optimizer.init(network)))

        def run() -> float:
            nonlocal state
            state, losses = jax.block_until_ready(compiled(state, batch))
            return float(losses.reshape(-1)[-1])

        return run

    runs = {}
    for name, network in nature_networks().items():
        runs[f"{name}, call"] = prepare(step, network, jax.tree.map(jnp.asarray, random_batch()))
        runs[f"{name}, scan"] = prepare(scanned, network, jax.tree.map(jnp.asarray, random_batch((SCAN,))))
    return {"jax": jax.__version__, "optax": optax.__version__}, runs


# ---- torch ----------------------------------------------------------------------------------------------------


def torch_runs() -> tuple[dict[str, str], dict[str, Run]]:
    """torch as everybody writes it, and with channels last and the fused Adam."""
    # Only in the interpreter that --torch-python names; Engram itself never needs it.
    import torch  # noqa: TID251  # pyright: ignore[reportMissingImports]
    from torch import nn  # noqa: TID251  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    batch = {name: torch.from_numpy(value) for name, value in random_batch().items()}
    frames = [batch[name].permute(0, 3, 1, 2).contiguous() for name in ("observation", "following")]
    actions = batch["action"].long()[:, None]

    def network():
        layers = [part for i, o, size, stride in LAYERS for part in (nn.Conv2d(i, o, size, stride), nn.ReLU())]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, ACTIONS))

    def prepare(layout, fused: bool) -> Run:
        online, target = (network().to(memory_format=layout) for _ in range(2))
        observation, following = (images.contiguous(memory_format=layout) for images in frames)
        optimizer = torch.optim.Adam(online.parameters(), LEARNING_RATE, fused=fused)

        def run() -> float:
            with torch.no_grad():
                goal = batch["reward"] + batch["discount"] * target(following.float() / 255).amax(1)
            chosen = online(observation.float() / 255).gather(1, actions)[:, 0]
            loss = nn.functional.mse_loss(chosen, goal)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.item()

        return run

    plain = prepare(torch.contiguous_format, False)
    tuned = prepare(torch.channels_last, True)
    return {"torch": torch.__version__}, {"torch, call": plain, "torch channels-last fused-Adam, call": tuned}


# ---- taking turns ---------------------------------------------------------------------------------------------


def serve(kind: str) -> None:
    """A worker: answers each variant's name on standard input with the figures of one run, as JSON."""
    versions, runs = {"jax": jax_runs, "torch": torch_runs}[kind]()
    first_losses = {name: run() for name, run in runs.items()}
    for run in runs.values():
        run()
    print(json.dumps({"versions": versions, "first_losses": first_losses}), flush=True)
    for line in sys.stdin:
        name = line.strip()
        steps = SCAN if name.endswith("scan") else 1
        processor, wall = time.process_time(), time.perf_counter()
        runs[name]()
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(json.dumps({"wall_ms": 1e3 * wall / steps, "processor_ms": 1e3 * processor / steps}), flush=True)


class Worker:
    """A process of this file with its own interpreter and one environment setting, asleep except when asked."""

    def __init__(self, python: str, kind: str, setting: str = ""):
        name, _, value = setting.partition("=")
        environment = os.environ | {"JAX_PLATFORMS": "cpu"} | ({name: value} if name else {})
        command = [python, __file__, "--worker", kind]
        self.process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.about = self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self.process.args))} ended early; its message is above")  # pyright: ignore
        return json.loads(line)

    def measure(self, name: str) -> dict[str, float]:
        assert self.process.stdin
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def summary(samples: list[dict[str, float]]) -> dict[str, float]:
    walls = sorted(sample["wall_ms"] for sample in samples)
    figures = {
        "min_ms": walls[0],
        "quartile_ms": statistics.quantiles(walls, n=4)[0],
        "median_ms": statistics.median(walls),
        "min_processor_ms": min(sample["processor_ms"] for sample in samples),
    }
    return {name: round(value, 2) for name, value in figures.items()}


def check_losses(first_losses: dict[str, float]) -> None:
    """Equal weights and data must give equal losses, else the variants do not compute the same thing."""
    for kind in ("call", "scan"):
        ours, theirs = first_losses[f"engram, {kind}"], first_losses[f"lax, {kind}"]
        if abs(ours - theirs) > 1e-3 * abs(theirs):
            raise SystemExit(f"first losses differ ({kind}): {ours} with Engram's convolution, {theirs} with XLA's")


def start(options: argparse.Namespace) -> tuple[list[tuple[str, str, Worker]], dict[str, str]]:
    """(label, variant, worker) of everything to measure in one round, and the versions in use."""
    main = Worker(sys.executable, "jax")
    check_losses(main.about["first_losses"])
    versions = {"python": platform.python_version(), **main.about["versions"]}
    turns = [(name, name, main) for name in main.about["first_losses"]]
    if options.torch_python:
        torch = Worker(options.torch_python, "torch")
        versions |= torch.about["versions"]
        turns += [(name, name, torch) for name in torch.about["first_losses"]]
    for setting in options.environment:
        worker = Worker(sys.executable, "jax", setting)
        turns += [(f"{name}, {setting}", name, worker) for name in ("engram, call", "engram, scan")]
    return turns, versions


def processor() -> str:
    """The processor's name where the system tells it."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description="Times one training step of the Nature network on CPU.")
    parser.add_argument("--repeats", type=int, default=20, help="rounds; each measures every variant once")
    parser.add_argument("--torch-python", help="an interpreter that can import torch; without it torch is left out")
    parser.add_argument(
        "--environment",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an environment variable, such as XLA_FLAGS=..., to measure Engram's variants under as well; repeatable",
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results" / "convolution.json")
    parser.add_argument("--worker", choices=("jax", "torch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return serve(options.worker)
    if options.repeats < 2:
        parser.error(f"--repeats {options.repeats} gives no quartiles; use 2 or more")
    load_before = os.getloadavg()
    turns, versions = start(options)
    samples: dict[str, list[dict[str, float]]] = {label: [] for label, _, _ in turns}
    for _ in range(options.repeats):
        for label, name, worker in turns:
            samples[label].append(worker.measure(name))
    for worker in {id(worker): worker for _, _, worker in turns}.values():
        worker.close()
    arguments = [Path(sys.argv[0]).name, *sys.argv[1:]]
    result = {
        "what": f"milliseconds per training step of the Nature network, batch {BATCH}; scan: {SCAN} steps in one call",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "versions": versions,
        "command": " ".join("PYTHON" if word == options.torch_python else word for word in arguments),
        "repeats": options.repeats,
        "results": {label: summary(found) for label, found in samples.items()},
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    for label, figures in result["results"].items():
        print(f"{label:60} {figures}")


if __name__ == "__main__":
    main()
