"""What no rollout agent of this work can go below: its bare environments, its bare network; prints one JSON line.

Environments take random actions that lie ready. The network is the one that Engram makes; it looks once at every
observation, and once forward and back at every row of each epoch, in minibatches. Nothing is chosen, stored, shuffled
or optimised, and no return is computed. On the device each of the two is one compiled loop. `steps_per_second` is what
both together would leave.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from rollouts_engram import trainer_of
from rollouts_job import job_given

from engram import spaces
from engram.envs.device import is_device, make_device


def seconds_of(call: Callable[[], Any]) -> float:
    """Of the second call; the first one compiles."""
    jax.block_until_ready(call())
    before = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - before


def bare_device(name: str, envs: int, steps: int) -> float:
    """Seconds of so many steps of all environments, begun again where an episode ends."""
    env = make_device(name)
    keys = jax.random.bits(jax.random.PRNGKey(0), (steps, envs, 2), jnp.uint32)
    actions = jax.random.randint(jax.random.PRNGKey(1), (steps, envs), 0, env.actions)

    def step(state: Any, given: Any) -> tuple[Any, Any]:
        action, key = given
        moved, out = jax.vmap(env.step)(state, action, key)
        begun, observation = jax.vmap(env.reset)(key)
        done = out.terminated | out.truncated

        def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(done.reshape(-1, *[1] * (old.ndim - 1)), new, old)

        shown = jax.tree.map(chosen, observation, out.observation)
        return jax.tree.map(chosen, begun, moved), (out.reward.sum(), jax.tree.map(lambda leaf: leaf.sum(), shown))

    @jax.jit
    def play(actions: jax.Array, keys: jax.Array) -> Any:
        state = jax.vmap(env.reset)(keys[0])[0]
        return jax.lax.scan(step, state, (actions, keys))

    return seconds_of(lambda: play(actions, keys))


def bare_host(name: str, envs: int, steps: int) -> float:
    """Seconds of so many steps of one environment after the other."""
    made = [gymnasium.make(name) for _ in range(envs)]
    actions = np.random.default_rng(0).integers(gymnasium.spaces.flatdim(made[0].action_space), size=steps).tolist()
    for env in made:
        env.reset(seed=0)
    before = time.perf_counter()
    for action in actions:
        for env in made:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
    return time.perf_counter() - before


def bare_network(network: Any, looks: tuple[int, int], updates: tuple[int, int], looped: bool) -> tuple[float, float]:
    """Seconds of so many looks at so many observations, and of so many gradients by so many rows."""

    def frames_of(count: int) -> Any:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf) + 1, spaces.zeros(network.space, (count, 1)))

    params, rest = eqx.partition(network, eqx.is_inexact_array)

    def numbers(params: Any, frames: Any) -> list[jax.Array]:
        decided = jax.vmap(lambda one: eqx.combine(params, rest)(one, network.still))(frames)
        return [leaf for leaf in jax.tree.leaves(decided) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def look(params: Any, frames: Any) -> Any:
        return sum(leaf.sum() for leaf in numbers(params, frames))

    def update(params: Any, frames: Any) -> Any:
        gradient = jax.grad(lambda params: sum((leaf**2).mean() for leaf in numbers(params, frames)))(params)
        # The next one depends on it, or a compiler would compute one for all.
        return jax.tree.map(lambda param, change: param - 1e-12 * change, params, gradient)

    def timed(call: Callable[[Any, Any], Any], times: int, count: int, carries: bool) -> float:
        frames = frames_of(count)

        def body(carry: Any, _: None) -> tuple[Any, None]:
            params, total = carry
            if carries:
                return (call(params, frames), total), None
            # Likewise: what is looked at depends on the look before.
            moved = jax.tree.map(lambda leaf: leaf + (total * 0).astype(leaf.dtype), frames)
            return (params, total + call(params, moved)), None

        looped_call = jax.jit(lambda params: jax.lax.scan(body, (params, jnp.zeros(())), None, times)[0])
        once = jax.jit(lambda params: body((params, jnp.zeros(())), None)[0])
        return seconds_of(lambda: looped_call(params)) if looped else times * seconds_of(lambda: once(params))

    return timed(look, *looks, False), timed(update, *updates, True)


def main() -> None:
    job = job_given()
    rounds, device = job.rollouts, is_device(job.env)
    with trainer_of(job) as trainer:
        network = trainer.runner.minds()[0].network
    steps, each = rounds * job.steps, job.envs * job.steps
    stepping = (bare_device if device else bare_host)(job.env, job.envs, steps)
    updates = rounds * job.epochs * job.minibatches, each // job.minibatches
    looking, learning = bare_network(network, (steps, job.envs), updates, device)
    found = {"environments": stepping, "looks": looking, "gradients": learning}
    json.dump({"peer": "floor", "steps_per_second": rounds * each / sum(found.values()), "seconds": found}, sys.stdout)


if __name__ == "__main__":
    main()
