"""Playing: whole episodes with one policy, on the host and on the device. Evaluating is playing that keeps nothing.

`keep(seen, looked)` may pick out of each step what is to be kept of it: a tree of arrays with a leading axis [envs].
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram.agents import policy
from engram.agents.policy import Look, Mind, PolicyState, Seen, greedy, look, seen_on_host, still
from engram.agents.spec import AgentSpec
from engram.bits import next_words
from engram.envs.device import DeviceEnv, where_done
from engram.envs.host.make import HostEnvs
from engram.errors import SpecError
from engram.precision import all_in_32_bits, in_32_bits

Keep = Callable[[Seen, Look], PyTree]


class Played(NamedTuple):
    """What was played."""

    returns: list[float] | Float[Array, "episodes"]  # undiscounted and unclipped
    lengths: list[int] | Int[Array, "episodes"]
    kept: PyTree  # [steps, envs, ...]; None where nothing was to be kept
    running: np.ndarray | Bool[Array, "steps envs"] | None = None  # which kept rows belong to a counted episode


@all_in_32_bits
class Policy:
    """A mind with the state of its frame stack and working memory, for anything with a leading axis [envs]."""

    def __init__(self, mind: Mind, spec: AgentSpec):
        self._mind, self._spec = mind, spec
        self.space, self.actions = mind.network.space, mind.network.actions

    def begin(self, envs: int) -> PolicyState:
        """The state before the first observation."""
        return policy.begin(self._spec, self._mind.network, envs)

    def act(
        self,
        rows: PyTree,
        state: PolicyState | None,
        is_first: np.ndarray | None,
        reward: np.ndarray | None,
        generator: np.random.Generator | None,
    ) -> tuple[np.ndarray, PolicyState]:
        """Actions [envs] for stored observations [envs, ...], and the next state.

        They are greedy, or with a `generator` explore as at the end of training. `reward` [envs] is that of the step
        before. Raises SpecError where the agent reads it and it was not given.
        """
        envs = jax.tree.leaves(rows)[0].shape[0]
        starts = np.zeros(envs, bool) if is_first is None else np.asarray(is_first, bool).reshape(envs)
        starts = starts | (state is None)
        if reward is None and self._spec.observation.previous_reward and not starts.all():
            raise SpecError(
                "this agent reads the reward of the step before; pass it too, predict(..., reward=reward), or let "
                "`evaluate` play"
            )
        reward = np.zeros(envs, np.float32) if reward is None else np.asarray(reward, np.float32).reshape(envs)
        current = self.begin(envs) if state is None else state
        seen = seen_on_host(rows, starts, reward)
        if generator is None:
            following, action, _ = _greedy(self._spec, None, self._mind, current, seen)
        else:
            bits = generator.integers(0, 1 << 32, size=(2, envs, 2), dtype=np.uint32)
            words = generator.integers(0, 1 << 32, size=(envs, self._mind.network.words), dtype=np.uint32)
            following, action = _explore(self._spec, self._mind, current, seen, bits, words)
        return np.asarray(action), following

    def look(self, state: PolicyState, seen: Seen, keep: Keep | None) -> tuple[PolicyState, np.ndarray, PyTree]:
        """The state after a greedy action, the action, and what `keep` picked."""
        state, action, kept = _greedy(self._spec, keep, self._mind, state, seen)
        return state, np.asarray(action), kept


@partial(jax.jit, static_argnums=(0, 1))
def _greedy(
    spec: AgentSpec, keep: Keep | None, mind: Mind, state: PolicyState, seen: Seen
) -> tuple[PolicyState, Int[Array, "envs"], PyTree]:
    looked = look(spec, mind, state, seen, still(mind.network, len(seen.is_first)))
    return *greedy(looked), None if keep is None else keep(seen, looked)


@partial(jax.jit, static_argnums=0)
def _explore(
    spec: AgentSpec, mind: Mind, state: PolicyState, seen: Seen, bits: Array, words: Array
) -> tuple[PolicyState, Int[Array, "envs"]]:
    """Actions that explore as at the end of training, and the state after them."""
    looked = look(spec, mind, state, seen, words)
    return policy.explore(spec, looked, seen.is_first, bits, spec.exploration.settled)


def play_host(mind: Mind, spec: AgentSpec, envs: HostEnvs, episodes: int, keep: Keep | None = None) -> Played:
    """Greedy episodes. Each environment plays its share, so that short ones count no more."""
    shares = np.array([episodes // envs.envs + (index < episodes % envs.envs) for index in range(envs.envs)])
    finished: list[list[tuple[float, int]]] = [[] for _ in shares]
    returns, lengths = np.zeros(envs.envs), np.zeros(envs.envs, int)
    player = Policy(mind, spec)
    state, reward = player.begin(envs.envs), np.zeros(envs.envs, np.float32)
    observation, is_first = envs.reset(), np.ones(envs.envs, bool)
    kept, counted = [], []
    while (running := np.array([len(done) for done in finished]) < shares).any():
        state, action, found = player.look(state, seen_on_host(observation, is_first, reward), keep)
        if keep is not None:
            kept.append(jax.tree.map(np.asarray, found))
            counted.append(running)
        step = envs.step(action)
        returns += step.reward
        lengths += 1
        for env in np.flatnonzero(step.done):
            finished[env].append((float(returns[env]), int(lengths[env])))
            returns[env] = lengths[env] = 0
        observation, is_first, reward = step.observation, step.done, step.reward
    played = [one for done, share in zip(finished, shares, strict=True) for one in done[:share]]
    rows = jax.tree.map(lambda *leaves: np.stack(leaves), *kept) if kept else None
    return Played(
        [value for value, _ in played], [length for _, length in played], rows, np.array(counted) if kept else None
    )


class Playing(NamedTuple):
    """What playing on the device changes. Leading axis [episodes]."""

    key: Array
    env: PyTree
    policy: PolicyState
    seen: Seen
    running: Bool[Array, "episodes"]
    returns: Float[Array, "episodes"]
    lengths: Int[Array, "episodes"]


@in_32_bits
@partial(jax.jit, static_argnums=0, static_argnames=("spec", "episodes", "keep", "steps"))
def play_device(
    env: DeviceEnv,
    mind: Mind,
    key: Array,
    *,
    spec: AgentSpec,
    episodes: int,
    keep: Keep | None = None,
    steps: int | None = None,
) -> Played:
    """Greedy episodes, all played side by side until the longest ends, or for `steps` steps.

    What is kept needs room, so `keep` needs `steps`: episodes that have not ended by then are cut off there.
    """
    if keep is not None and steps is None:
        raise SpecError("steps = None was given with `keep`; expected how many steps to keep")
    key, bits = next_words(key, 2 * episodes)
    state, observation = jax.vmap(env.reset)(bits.reshape(episodes, 2))
    first, zeros = jnp.ones(episodes, bool), jnp.zeros(episodes)
    begun = policy.begin(spec, mind.network, episodes)
    start = Playing(key, state, begun, Seen(observation, first, zeros), first, zeros, jnp.zeros(episodes, jnp.int32))
    step = partial(step_device, env, mind, spec, keep)
    if steps is None:
        end = jax.lax.while_loop(lambda now: now.running.any(), lambda now: step(now, None)[0], start)
        return Played(end.returns, end.lengths, None)
    end, (kept, running) = jax.lax.scan(step, start, None, length=steps)
    return Played(end.returns, end.lengths, kept, running)


def step_device(
    env: DeviceEnv, mind: Mind, spec: AgentSpec, keep: Keep | None, now: Playing, _: Any
) -> tuple[Playing, tuple[PyTree, Bool[Array, "episodes"]]]:
    """One greedy step of every episode that runs; what `keep` picked of it, and which ran."""
    episodes, running = len(now.running), now.running
    looked = look(spec, mind, now.policy, now.seen, still(mind.network, episodes))
    state, action = greedy(looked)
    key, bits = next_words(now.key, 2 * episodes)
    moved, out = jax.vmap(env.step)(now.env, action, bits.reshape(episodes, 2))
    ended = out.terminated | out.truncated
    # An ended environment must not be stepped on: it repeats its last step instead, which counts for nothing.
    env_state = jax.tree.map(partial(where_done, ended | ~running), now.env, moved)
    following = Playing(
        key=key,
        env=env_state,
        policy=state,
        seen=Seen(out.observation, jnp.zeros(episodes, bool), out.reward),
        running=running & ~ended,
        returns=now.returns + jnp.where(running, out.reward, 0.0),
        lengths=now.lengths + running,
    )
    return following, (None if keep is None else keep(now.seen, looked), running)
