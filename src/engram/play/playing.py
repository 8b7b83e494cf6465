"""Playing: whole episodes with one policy, on the host and on the device. Evaluating is playing that keeps nothing.

`keep(seen, looked)` may pick out of each step what is to be kept of it: a tree of arrays with a leading axis [envs].
What the environment did beside is told apart. On the host `tell` hears of every step. On the device `watch` picks of
the state before each step and of what the step brought.

No episode is played for ever: one that has not ended after `limit` steps counts as it is then, and is marked `cut`.
`stop()` is asked between steps on the host, and about every half second on the device. Where it is true, Interrupted
is raised.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram.agents import policy
from engram.agents.mind import MindSpec
from engram.agents.policy import Look, Mind, PolicyState, Seen, greedy, look, seen_on_host, still
from engram.bits import next_words
from engram.envs import teams
from engram.envs.device import DeviceEnv, DeviceStep, has_turns, where_done
from engram.envs.host.make import HostEnvs, HostStep
from engram.errors import Interrupted, SpecError
from engram.precision import all_in_32_bits, in_32_bits
from engram.runners.common import PROGRAMS, next_size

Keep = Callable[[Seen, Look], PyTree]
Tell = Callable[[HostStep | None], None]  # hears of the first observations (None), then of what each action led to
Watch = Callable[[PyTree, DeviceStep], PyTree]  # of one environment: its state before a step, and what the step brought
Stop = Callable[[], bool]
Choose = Callable[[PyTree, np.ndarray, np.ndarray], np.ndarray]  # observation, is_first, reward of the step before

# Steps of an evaluated episode, unless a limit is given: half an hour of an Atari game, the longest limit of the field.
LONGEST = 27_000
SUCCESS = "is_success"  # what a host environment's last `info` calls it that an episode met its goal


def never() -> bool:
    """Nobody asks to stop."""
    return False


class Played(NamedTuple):
    """What was played."""

    # Undiscounted and unclipped; where sides take turns, of the side that moved first.
    returns: list[float] | Float[Array, "episodes"]
    lengths: list[int] | Int[Array, "episodes"]
    kept: PyTree  # [steps, envs, ...]; None where nothing was to be kept
    running: np.ndarray | Bool[Array, "steps envs"] | None = None  # which kept rows belong to a counted episode
    cut: int = 0  # how many episodes had not ended after `limit` steps
    watched: PyTree = None  # what `watch` picked: [steps, envs, ...]; None without it, and on the host
    # Which ended with their goal met; None where a task has none.
    successes: np.ndarray | Bool[Array, "episodes"] | None = None


@all_in_32_bits
class Policy:
    """A mind with the state of its frame stack and working memory, for anything with a leading axis [envs]."""

    def __init__(self, mind: Mind, spec: MindSpec):
        self._mind, self._spec = mind, spec
        self.space, self.actions = mind.network.space, mind.network.actions
        self._greedy = greedy_program(spec, None)  # held while this lives
        self._states: dict[int, Any] = {}  # the form of a state, by the number of environments

    def begin(self, envs: int) -> PolicyState:
        """The state before the first observation."""
        return policy.begin(self._spec, self._mind.network, envs)

    def fits(self, state: PyTree, envs: int) -> bool:
        """Whether this is a state of so many environments, as `begin` gives it."""
        if envs not in self._states:
            leaves, tree = jax.tree.flatten(jax.eval_shape(partial(self.begin, envs)))
            self._states[envs] = [leaf.shape for leaf in leaves], tree
        leaves, tree = jax.tree.flatten(state)
        return self._states[envs] == ([np.shape(leaf) for leaf in leaves], tree)

    def act(
        self,
        rows: PyTree,
        state: Any,
        is_first: np.ndarray | None,
        reward: np.ndarray | None,
        generator: np.random.Generator | None,
    ) -> tuple[np.ndarray, PolicyState]:
        """Actions [envs] for stored observations [envs, ...], and the next state.

        They are greedy, or with a `generator` explore as at the end of training. `reward` [envs] is that of the step
        before. Raises SpecError where the agent reads it and it was not given.
        """
        envs = jax.tree.leaves(rows)[0].shape[0]
        if state is not None and not self.fits(state, envs):
            raise SpecError(
                f"the state is not one of this agent and {envs} observation{'s' * (envs > 1)}; pass the state that the "
                f"last call gave for as many, or None at the beginning"
            )
        starts = np.zeros(envs, bool) if is_first is None else _one_each("episode_start", is_first, envs, bool)
        starts = starts | (state is None)
        if reward is None and self._spec.observation.previous_reward and not starts.all():
            raise SpecError(
                "this agent reads the reward of the step before; pass it too, predict(..., reward=reward), or let "
                "`evaluate` play"
            )
        reward = np.zeros(envs, np.float32) if reward is None else _one_each("reward", reward, envs, np.float32)
        current = self.begin(envs) if state is None else state
        seen = seen_on_host(rows, starts, reward)
        if generator is None:
            following, action, _ = self._greedy(self._mind, current, seen)
        else:
            bits = generator.integers(0, 1 << 32, size=(2, envs, 2), dtype=np.uint32)
            words = generator.integers(0, 1 << 32, size=(envs, self._mind.network.words), dtype=np.uint32)
            following, action = explore_program(self._spec)(self._mind, current, seen, bits, words)
        return np.asarray(action), following

    def took(self, state: PolicyState, action: np.ndarray) -> PolicyState:
        """The state that `act` gave, where other actions [envs] were taken than it said."""
        return state if state.action is None else replace(state, action=jnp.asarray(action, state.action.dtype))

    def look(self, state: PolicyState, seen: Seen, keep: Keep | None) -> tuple[PolicyState, np.ndarray, PyTree]:
        """The state after a greedy action, the action, and what `keep` picked."""
        run = self._greedy if keep is None else greedy_program(self._spec, keep)
        state, action, kept = run(self._mind, state, seen)
        return state, np.asarray(action), kept


def _one_each(name: str, values: Any, envs: int, dtype: Any) -> np.ndarray:
    """One value for each environment; SpecError for another number of them."""
    try:
        array = np.asarray(values, dtype)
    except (TypeError, ValueError):
        array = np.empty(0, dtype)
    if array.size != envs:
        raise SpecError(f"{name} = {values!r} was given with {envs} observation(s); expected one value for each")
    return array.reshape(envs)


@lru_cache(maxsize=PROGRAMS)
def greedy_program(spec: MindSpec, keep: Keep | None) -> Callable[..., Any]:
    """Compiled: mind, state and what is seen -> state, greedy actions, and what `keep` picked."""

    def run(mind: Mind, state: PolicyState, seen: Seen) -> tuple[PolicyState, Int[Array, "envs"], PyTree]:
        looked = look(spec, mind, state, seen, still(mind.network, len(seen.is_first)))
        return *greedy(looked), None if keep is None else keep(seen, looked)

    return jax.jit(run)


@lru_cache(maxsize=PROGRAMS)
def explore_program(spec: MindSpec) -> Callable[..., Any]:
    """Compiled: actions that explore as at the end of training, and the state after them."""

    def run(
        mind: Mind, state: PolicyState, seen: Seen, bits: Array, words: Array
    ) -> tuple[PolicyState, Int[Array, "envs"]]:
        looked = look(spec, mind, state, seen, words)
        return policy.explore(spec, looked, seen.is_first, bits, spec.exploration.settled)

    return jax.jit(run)


class _Looking:
    """Chooses greedily through the agent's own compiled policy."""

    def __init__(self, player: Policy, envs: int, keep: Keep | None):
        self._player, self._keep, self._state = player, keep, player.begin(envs)

    def __call__(self, observation: PyTree, is_first: np.ndarray, reward: np.ndarray) -> tuple[np.ndarray, PyTree]:
        seen = seen_on_host(observation, is_first, reward)
        self._state, action, found = self._player.look(self._state, seen, self._keep)
        return action, found


class _Shares:
    """Counts the episodes of environments, each of which plays its share: so short ones count no more."""

    def __init__(self, episodes: int, envs: int, limit: int):
        self._shares = np.array([episodes // envs + (index < episodes % envs) for index in range(envs)])
        self._finished: list[list[tuple[float, int, float | None]]] = [[] for _ in range(envs)]
        self._returns, self._lengths, self._limit = np.zeros(envs), np.zeros(envs, int), limit
        self.running, self.cut = self._shares > 0, 0

    def add(self, step: HostStep, idle: np.ndarray) -> np.ndarray:
        """One step of every environment; where an episode is over."""
        self._returns += step.reward
        self._lengths += ~idle
        late = self._lengths >= self._limit
        over = step.done | late
        for env in np.flatnonzero(over):
            by_itself = step.terminated[env] or (step.done[env] and env not in step.cut)
            self.cut += bool(late[env] and self.running[env] and not by_itself)
            met = step.numbers.get(int(env), {}).get(SUCCESS)
            self._finished[env].append((float(self._returns[env]), int(self._lengths[env]), met))
            self._returns[env] = self._lengths[env] = 0
            self.running = np.array([len(done) for done in self._finished]) < self._shares
        return over

    def played(self, kept: PyTree, counted: np.ndarray | None) -> Played:
        """The episodes that count."""
        counting = [one for done, share in zip(self._finished, self._shares, strict=True) for one in done[:share]]
        returns, lengths, met = ([*column] for column in zip(*counting, strict=True))
        successes = None if None in met else np.array(met) > 0
        return Played(returns, lengths, kept, counted, self.cut, successes=successes)


def play_host(
    mind: Mind,
    spec: MindSpec,
    envs: HostEnvs,
    episodes: int,
    keep: Keep | None = None,
    limit: int = LONGEST,
    stop: Stop = never,
    choose: Choose | None = None,
    tell: Tell | None = None,
) -> Played:
    """Greedy episodes. Each environment plays its share, so that short ones count no more.

    Environments that were made with `max_episode_steps=limit` begin a new episode where one is cut; others go on.
    `choose` gives the actions [envs] in place of the compiled policy; nothing can be kept then.
    """
    if keep is not None and choose is not None:
        raise SpecError("keep was given with choose, which shows nothing to keep; leave one of them out")
    shares, reward = _Shares(episodes, envs.envs, limit), np.zeros(envs.envs, np.float32)
    looking = None if choose else _Looking(Policy(mind, spec), envs.envs, keep)
    observation, is_first = envs.reset(), np.ones(envs.envs, bool)
    kept, counted, none = [], [], np.zeros(envs.envs, bool)
    if tell is not None:
        tell(None)
    while shares.running.any():
        if looking is None:
            action = choose(observation, is_first, reward)  # type: ignore[misc]
        else:
            action, found = looking(observation, is_first, reward)
            if keep is not None:
                kept.append(jax.tree.map(np.asarray, found))
                counted.append(shares.running)
        if stop():
            raise Interrupted("the evaluation was stopped before its end; nothing of it was kept")
        step = envs.step(action)
        if tell is not None:
            tell(step)
        idle = none if step.idle is None else step.idle
        over = shares.add(step, idle)
        observation, is_first, reward = step.observation, over | idle, step.reward
    rows = jax.tree.map(lambda *leaves: np.stack(leaves), *kept) if kept else None
    return shares.played(rows, np.array(counted) if kept else None)


class Playing(NamedTuple):
    """What playing on the device changes. Leading axis [episodes]."""

    key: Array
    env: PyTree
    policy: PolicyState
    seen: Seen
    running: Bool[Array, "episodes"]
    returns: Float[Array, "episodes"]
    lengths: Int[Array, "episodes"]
    cut: Bool[Array, "episodes"]
    time: Int[Array, ""]
    side: Float[Array, "episodes"] | None = None  # 1 where the side moves that moved first, else -1; None of one side
    success: Bool[Array, "episodes"] | None = None  # whether the goal was met at the last step


@in_32_bits
def play_device(
    env: DeviceEnv,
    mind: Mind,
    key: Array,
    *,
    spec: MindSpec,
    episodes: int,
    keep: Keep | None = None,
    steps: int | None = None,
    limit: int = LONGEST,
    stop: Stop = never,
    programs: "DevicePrograms | None" = None,
    watch: Watch | None = None,
) -> Played:
    """Greedy episodes, all played side by side until the longest ends, or for `steps` steps.

    What is kept needs room, so `keep` and `watch` need `steps`: episodes that have not ended by then are cut off there.
    `programs`: those of `device_programs` for the same arguments, of whoever keeps them.
    """
    if steps is None and not keep is watch is None:
        name = "watch" if keep is None else "keep"
        raise SpecError(f"steps = None was given with `{name}`; expected how many steps to keep")
    programs = programs or device_programs(env, spec, episodes, keep, steps, watch)
    now = programs.begin(mind, key)
    if steps is not None:
        end, (kept, running, watched) = programs.record(mind, now, limit)
        return Played(end.returns, end.lengths, kept, running, int(end.cut.sum()), watched, end.success)
    until, chunk, running = 0, 256, True
    while running:
        if stop():
            raise Interrupted("the evaluation was stopped before its end; nothing of it was kept")
        began, until = time.perf_counter(), until + chunk
        now, running = programs.advance(mind, now, limit, until)
        running = bool(running)  # waits for the call
        chunk = next_size(chunk, chunk, time.perf_counter() - began, growth=4)
    return Played(now.returns, now.lengths, None, cut=int(now.cut.sum()), successes=now.success)


def successes_of(played: Sequence[Played]) -> list[bool] | None:
    """Which of all episodes met their goal; None for a task that has none."""
    told = [one.successes for one in played]
    if any(one is None for one in told):
        return None
    return [bool(met) for one in told for met in np.asarray(one)]


class DevicePrograms(NamedTuple):
    """What is compiled to play in one environment."""

    begin: Callable[..., "Playing"]  # mind, key
    advance: Callable[..., Any]  # mind, playing, limit, until -> playing, whether an episode still runs
    record: Callable[..., Any]  # mind, playing, limit -> playing, what was kept


@lru_cache(maxsize=PROGRAMS)
def device_programs(
    env: DeviceEnv, spec: MindSpec, episodes: int, keep: Keep | None, steps: int | None, watch: Watch | None = None
) -> DevicePrograms:
    """Compiled at their first call, and kept for a few environments and agents only."""

    def begin(mind: Mind, key: Array) -> Playing:
        return begin_device(env, mind, spec, episodes, key)

    def advance(mind: Mind, now: Playing, limit: Array, until: Array) -> tuple[Playing, Bool[Array, ""]]:
        def goes_on(now: Playing) -> Bool[Array, ""]:
            return now.running.any() & (now.time < until)

        end = jax.lax.while_loop(
            goes_on, lambda now: step_device(env, mind, spec, None, None, limit, now, None)[0], now
        )
        return end, end.running.any()

    def record(mind: Mind, now: Playing, limit: Array) -> Any:
        return jax.lax.scan(partial(step_device, env, mind, spec, keep, watch, limit), now, None, length=steps)

    return DevicePrograms(jax.jit(begin), jax.jit(advance), jax.jit(record))


def begin_device(env: DeviceEnv, mind: Mind, spec: MindSpec, episodes: int, key: Array) -> Playing:
    """Episodes side by side, before their first step."""
    key, bits = next_words(key, 2 * episodes)
    state, observation = jax.vmap(env.reset)(bits.reshape(episodes, 2))
    first, zeros = jnp.ones(episodes, bool), jnp.zeros(episodes)
    begun = policy.begin(spec, mind.network, episodes * teams.agents_of(env))
    side = jnp.ones(episodes) if has_turns(env) else None
    seen = teams.for_each(env, Seen(None, first, zeros, side))._replace(observation=teams.as_lanes(env, observation))
    none, action = jnp.zeros(episodes, jnp.int32), jnp.zeros(len(seen.is_first), jnp.int32)
    step = jax.eval_shape(jax.vmap(env.step), state, teams.together(env, action), bits.reshape(episodes, 2))[1]
    success = None if step.success is None else ~first
    return Playing(key, state, begun, seen, first, zeros, none, ~first, jnp.int32(0), side, success)


def step_device(
    env: DeviceEnv,
    mind: Mind,
    spec: MindSpec,
    keep: Keep | None,
    watch: Watch | None,
    limit: Int[Array, ""],
    now: Playing,
    _: Any,
) -> tuple[Playing, tuple[PyTree, Bool[Array, "episodes"], PyTree]]:
    """One greedy step of every episode that runs; what `keep` picked of it, which ran, and what `watch` picked.

    An episode that has not ended after `limit` steps is marked `cut`.
    """
    episodes, running = len(now.running), now.running
    looked = look(spec, mind, now.policy, now.seen, still(mind.network, len(now.seen.is_first)))
    state, action = greedy(looked)
    key, bits = next_words(now.key, 2 * episodes)
    moved, out = jax.vmap(env.step)(now.env, teams.together(env, action), bits.reshape(episodes, 2))
    ended = out.terminated | out.truncated
    lengths = now.lengths + running
    late = running & ~out.terminated & (lengths >= limit)
    # An ended environment must not be stepped on: it repeats its last step instead, which counts for nothing.
    env_state = jax.tree.map(partial(where_done, ended | ~running), now.env, moved)
    following = Playing(
        key=key,
        env=env_state,
        policy=state,
        seen=teams.for_each(env, Seen(None, jnp.zeros(episodes, bool), out.reward, out.sign))._replace(
            observation=teams.as_lanes(env, out.observation)
        ),
        running=running & ~ended & ~late,
        returns=now.returns + jnp.where(running, out.reward if now.side is None else now.side * out.reward, 0.0),
        lengths=lengths,
        cut=now.cut | late,
        time=now.time + 1,
        side=None if now.side is None or out.sign is None else now.side * out.sign,
        success=None if now.success is None or out.success is None else jnp.where(running, out.success, now.success),
    )
    kept = None if keep is None else keep(now.seen, looked)
    return following, (kept, running, None if watch is None else jax.vmap(watch)(now.env, out))
