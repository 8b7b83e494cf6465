"""What no DQN can go below: the bare environments, a bare greedy action and a bare update, each alone.

Microseconds per call, medians over rounds; prints one JSON line. Inputs of the updates lie ready on the device and
nothing is drawn from a replay, so the sums in `bounds` are out of reach on purpose.
"""
# pyright: reportMissingImports=false

import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import torch  # noqa: TID251  (as a peer, in the environment of one)
from jax.flatten_util import ravel_pytree
from meter import arguments, peak_rss_mb, versions
from pong import make_pong

PACKAGES = ("gymnasium", "ale-py", "jax", "torch", "numpy")
DISCOUNT = 0.99


def microseconds(call: Callable[[], Any], seconds: float = 0.4, rounds: int = 5) -> float:
    """Median over `rounds` of the time of one `call`; two calls first, to compile and to see how many fit."""
    call()
    before = time.perf_counter()
    call()
    calls = max(1, int(seconds / (time.perf_counter() - before)))
    found = []
    for _ in range(rounds):
        before = time.perf_counter()
        for _ in range(calls):
            call()
        found.append((time.perf_counter() - before) / calls * 1e6)
    return round(statistics.median(found), 2)


# Environments


def step_time(environment: gymnasium.Env, steps: int) -> float:
    """Microseconds of one step with random actions drawn beforehand; resets are paid for, as in a run."""
    actions = np.random.default_rng(0).integers(gymnasium.spaces.flatdim(environment.action_space), size=steps).tolist()
    environment.reset(seed=0)

    def play() -> None:
        for action in actions:
            _, _, terminated, truncated, _ = environment.step(action)
            if terminated or truncated:
                environment.reset()

    return round(microseconds(play) / steps, 2)


# Networks: lists of (weight, bias)


def dense_parameters(generator: np.random.Generator, sizes: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights of a multi-layer perceptron, He-initialised, float32."""
    return [
        ((generator.normal(size=(fan_in, fan_out)) * (2 / fan_in) ** 0.5).astype(np.float32), np.zeros(fan_out, "f4"))
        for fan_in, fan_out in pairwise(sizes)
    ]


def mlp(parameters: list, inputs: Any, relu: Callable = jax.nn.relu) -> Any:
    """Q-values [batch actions] of vectors [batch features]; the same lines serve NumPy."""
    for weight, bias in parameters[:-1]:
        inputs = relu(inputs @ weight + bias)
    weight, bias = parameters[-1]
    return inputs @ weight + bias


CONVOLUTIONS = ((8, 4, 4, 32), (4, 2, 32, 64), (3, 1, 64, 64))  # size, stride, channels in and out


def nature_parameters(generator: np.random.Generator, actions: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights of the Nature CNN for 84x84x4: convolutions as matrices [patch out], then dense 512 and actions."""
    layers = []
    for size, _, channels, out in CONVOLUTIONS:
        layers += dense_parameters(generator, [size * size * channels, out])
    return layers + dense_parameters(generator, [7 * 7 * 64, 512, actions])


def patches(images: jax.Array, size: int) -> jax.Array:
    """Patches [batch rows columns size*size*channels] at stride 1, by slicing: no convolution, fast in loops."""
    reach = images.shape[1] - size + 1
    parts = [images[:, row : row + reach, column : column + reach] for row in range(size) for column in range(size)]
    return jnp.concatenate(parts, axis=-1)


def blocks(images: jax.Array, stride: int) -> jax.Array:
    """Space to depth: [batch height width channels] -> [batch height/stride width/stride stride*stride*channels]."""
    batch, height, width, channels = images.shape
    images = images.reshape(batch, height // stride, stride, width // stride, stride, channels)
    return images.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // stride, width // stride, -1)


def nature(parameters: list, images: jax.Array, as_products: bool) -> jax.Array:
    """Q-values of uint8 images [batch 84 84 4], either with XLA's convolution or as matrix products."""
    hidden = images.astype(jnp.float32) / 255
    for (size, stride, channels, out), (weight, bias) in zip(CONVOLUTIONS, parameters[:3], strict=True):
        if as_products:
            if stride > 1:  # a strided convolution is an unstrided one over blocks
                hidden = blocks(hidden, stride)
            product = patches(hidden, size // stride) @ weight
        else:
            kernel = weight.reshape(size, size, channels, out)
            product = jax.lax.conv_general_dilated(
                hidden, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        hidden = jax.nn.relu(product + bias)
    return mlp(parameters[3:], hidden.reshape(len(hidden), -1))


# The update


def make_update(forward: Callable, unravel: Callable, rate: float) -> Callable:
    """One DQN step with squared error and Adam over one flat vector: (state, batch) -> (state, loss)."""

    def loss_of(flat: jax.Array, target: jax.Array, batch: tuple) -> jax.Array:
        seen, action, reward, ended, following = batch
        value = jnp.take_along_axis(forward(unravel(flat), seen), action[:, None], axis=1)[:, 0]
        goal = reward + DISCOUNT * (1 - ended) * forward(unravel(target), following).max(axis=1)
        return jnp.mean((value - jax.lax.stop_gradient(goal)) ** 2)

    def update(state: tuple, batch: tuple) -> tuple:
        flat, target, first, second, count = state
        loss, slope = jax.value_and_grad(loss_of)(flat, target, batch)
        count = count + 1
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope**2
        scale = rate * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        return (flat - scale * first / (jnp.sqrt(second) + 1e-8), target, first, second, count), loss

    return update


def update_times(forward: Callable, parameters: list, batches: tuple, rate: float) -> dict[str, float]:
    """Microseconds of one update: as a call of its own, and as one of a compiled loop over `batches`.

    `batches`: arrays [updates batch ...]. The loop needs a different batch each time, or XLA would carry everything
    that depends on the batch and the target network alone out of it.
    """
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, parameters))
    update = make_update(forward, unravel, rate)
    several = jax.device_put(batches)
    one = jax.tree.map(lambda part: part[0], several)

    def timed(advance: Callable, batch: tuple) -> float:
        state = [(flat + 0, flat + 0, flat * 0, flat * 0, jnp.float32(0))]

        def call() -> None:
            state[0], loss = advance(state[0], batch)
            jax.block_until_ready(loss)

        return microseconds(call)

    loop = jax.jit(lambda state, batches: jax.lax.scan(update, state, batches), donate_argnums=0)
    return {
        "call": timed(jax.jit(update, donate_argnums=0), one),
        "scan": round(timed(loop, several) / len(several[1]), 2),
    }


def torch_time(network: torch.nn.Module, batch: Sequence[np.ndarray], rate: float, scale: float = 1.0) -> float:
    """Microseconds of one update in torch with the foreach form of Adam, the faster one on small networks."""
    seen, action, reward, ended, following = (torch.as_tensor(part) for part in batch)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, foreach=True)

    def call() -> None:
        with torch.no_grad():
            goal = reward + DISCOUNT * (1 - ended) * network(following.float() * scale).max(dim=1).values
        value = network(seen.float() * scale).gather(1, action.long()[:, None])[:, 0]
        loss = torch.mean((value - goal) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return microseconds(call)


def random_batches(generator: np.random.Generator, updates: int, shape: tuple[int, ...], actions: int) -> tuple:
    """Observations, actions, rewards, ends, following observations, each [updates, *shape] or [updates, batch].

    Observations are uint8 if `shape` (batch first) is that of images, else float32.
    """
    size = (updates, shape[0])

    def observations() -> np.ndarray:
        if len(shape) == 4:
            return generator.integers(256, size=(updates, *shape), dtype=np.uint8)
        return generator.normal(size=(updates, *shape)).astype(np.float32)

    chosen = generator.integers(actions, size=size).astype(np.int32)
    return observations(), chosen, np.ones(size, np.float32), np.zeros(size, np.float32), observations()


# The report


def cartpole_pieces(generator: np.random.Generator) -> dict[str, float]:
    """The pieces of CartPole with an MLP of 2x128 and batch 64."""
    torch.set_num_threads(1)
    parameters = dense_parameters(generator, [4, 128, 128, 2])
    batches = random_batches(generator, 32, (64, 4), actions=2)
    one, ready = batches[0][0, :1], jax.device_put(parameters)
    act = jax.jit(lambda parameters, seen: mlp(parameters, seen).argmax(axis=1))
    network = torch.nn.Sequential(
        torch.nn.Linear(4, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.ReLU(), torch.nn.Linear(128, 2)
    )
    update = update_times(mlp, parameters, batches, 1e-3)
    numpy_act = partial(mlp, parameters, one, relu=lambda hidden: np.maximum(hidden, 0))
    return {
        "cartpole_step": step_time(gymnasium.make("CartPole-v1"), 2_000),
        "cartpole_act_numpy": microseconds(lambda: int(numpy_act().argmax())),
        "cartpole_act_jax": microseconds(lambda: np.asarray(act(ready, one))),
        "cartpole_update_jax_call": update["call"],
        "cartpole_update_jax_scan": update["scan"],
        "cartpole_update_torch": torch_time(network, [part[0] for part in batches], 1e-3),
    }


def pong_pieces(generator: np.random.Generator) -> dict[str, float]:
    """The pieces of Pong with the Nature CNN and batch 32, torch with two threads."""
    torch.set_num_threads(2)
    environment = make_pong()
    actions = gymnasium.spaces.flatdim(environment.action_space)
    parameters = nature_parameters(generator, actions)
    batches = random_batches(generator, 4, (32, 84, 84, 4), actions=actions)
    one, ready = batches[0][0, :1], jax.device_put(parameters)
    act = jax.jit(lambda parameters, seen: nature(parameters, seen, as_products=True).argmax(axis=1))
    layers: list[torch.nn.Module] = []
    for size, stride, channels, out in CONVOLUTIONS:
        layers += [torch.nn.Conv2d(channels, out, size, stride), torch.nn.ReLU()]
    layers += [torch.nn.Flatten(), torch.nn.Linear(7 * 7 * 64, 512), torch.nn.ReLU(), torch.nn.Linear(512, actions)]
    convolved = update_times(partial(nature, as_products=False), parameters, batches, 1e-4)
    products = update_times(partial(nature, as_products=True), parameters, batches, 1e-4)
    channels_first = [part[0].transpose(0, 3, 1, 2).copy() if part.ndim == 5 else part[0] for part in batches]
    return {
        "pong_step": step_time(environment, 200),
        "pong_act_jax": microseconds(lambda: np.asarray(act(ready, one))),
        "pong_update_jax_convolution_call": convolved["call"],
        "pong_update_jax_convolution_scan": convolved["scan"],
        "pong_update_jax_products_call": products["call"],
        "pong_update_jax_products_scan": products["scan"],
        "pong_update_torch": torch_time(torch.nn.Sequential(*layers), channels_first, 1e-4, scale=1 / 255),
    }


def bounds_of(pieces: dict[str, float]) -> dict[str, float]:
    """Steps per second if nothing but the pieces cost time, at one update per four steps."""
    cartpole = pieces["cartpole_step"] + min(pieces["cartpole_act_numpy"], pieces["cartpole_act_jax"])
    cartpole_call = min(pieces["cartpole_update_jax_call"], pieces["cartpole_update_torch"])
    pong_update = min(time for name, time in pieces.items() if name.startswith("pong_update"))
    per_step = {
        "cartpole-1": cartpole + cartpole_call / 4,
        "cartpole-1, updates in a loop": cartpole + pieces["cartpole_update_jax_scan"] / 4,
        "cartpole-8": pieces["cartpole_step"] + pieces["cartpole_update_jax_scan"] / 4,
        "device": pieces["cartpole_update_jax_scan"] / 4,
        "pong": pieces["pong_step"] + pieces["pong_act_jax"] + pong_update / 4,
        "pong, update alone": pong_update / 4,
    }
    return {name: round(1e6 / time, 1) for name, time in per_step.items()}


def main() -> None:
    options = arguments("the floor under every peer: bare environments, bare actions, bare updates")
    generator = np.random.default_rng(options.seed)
    pieces = cartpole_pieces(generator) | pong_pieces(generator)
    line = {
        "peer": "floor",
        "task": "floor",
        "seed": options.seed,
        "microseconds": pieces,
        "bounds": bounds_of(pieces),
        "seconds_total": round(time.time() - options.started, 3),
        "peak_rss_mb": peak_rss_mb(),
        "versions": versions(PACKAGES),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
