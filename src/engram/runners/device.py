"""The device runner: environments, actor, replay and learner in one compiled loop.

One *cycle* is "act a few times, then learn". This is structure, not a condition: under `vmap` over seeds, a condition
on a batched counter would run both branches, and any condition copies the values that it may change. So the global
step is one number for all seeds, and only values that differ between seeds have a leading axis. Stops fall between two
calls of `advance`.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from engram.agents.agent import Agent, AgentState, Experience
from engram.agents.policy import Mind, Seen
from engram.bits import counted, next_words, whole
from engram.envs import teams
from engram.envs.device import DeviceEnv, DeviceStep, has_turns, where_done
from engram.errors import EnvironmentFault, LearningFault, told
from engram.nn.observation import known, mask_of
from engram.precision import all_in_32_bits
from engram.runners.common import (
    PROGRAMS,
    RECENT,
    Captured,
    Ended,
    Rows,
    Store,
    Tally,
    by_observing,
    next_size,
    overlaid,
    repeat,
    summary,
)
from engram.trees import copied, restored
from engram.types import Key, TimeStep


class EpisodeCounts(eqx.Module):
    """Returns and lengths: of the running episodes, and of the newest finished ones."""

    running_return: Float[Array, "*seeds envs"]
    running_length: Int[Array, "*seeds envs"]
    returns: Float[Array, "*seeds recent"]  # where sides take turns, of the side that moved first
    lengths: Int[Array, "*seeds recent"]
    finished: Int[Array, "*seeds envs"]
    # 1 where the side moves that moved first, else -1; None in tasks of one side
    side: Float[Array, "*seeds envs"] | None = None


class DeviceRun(eqx.Module):
    """Everything that changes in a run on the device."""

    agent: AgentState
    env: PyTree
    seen: Seen  # what is acted on next
    key: UInt32[Array, "*seeds 2"]
    steps: Int[Array, ""]  # the global step, as `counted` counts; the runner knows it whole
    episodes: EpisodeCounts
    fault: Int[Array, "*seeds 4"]  # environment, its episode, step and field of the first bad value, or -1


def init(agent: Agent, env: DeviceEnv, key: Key) -> DeviceRun:
    """A run before its first step."""
    agent_key, env_key = jax.random.split(key)
    env_key, bits = next_words(env_key, 2 * agent.envs)
    state, observation = jax.vmap(env.reset)(bits.reshape(agent.envs, 2))
    zeros, recent = jnp.zeros(agent.envs), jnp.zeros(RECENT)
    none = jnp.zeros(agent.envs, jnp.int32)
    side = jnp.ones(agent.envs) if has_turns(env) else None
    episodes = EpisodeCounts(zeros, none, recent, recent.astype(jnp.int32), none, side)
    seen = teams.for_each(env, Seen(None, jnp.ones(agent.envs, bool), zeros, side))
    seen = seen._replace(observation=teams.as_lanes(env, observation))
    fault = jnp.full(4, -1, jnp.int32)
    return DeviceRun(agent.init(agent_key), state, seen, env_key, jnp.int32(0), episodes, fault)


def step(agent: Agent, env: DeviceEnv, run: DeviceRun) -> DeviceRun:
    """One step of every environment: act, step, reset what ended, store."""
    envs, state, seen = agent.envs, run.agent, run.seen
    acted = agent.act(agent.mind(state), state.actor, seen)
    key, bits = next_words(run.key, 4 * envs)
    step_keys, reset_keys = bits.reshape(2, envs, 2)
    env_state, out = jax.vmap(env.step)(run.env, teams.together(env, acted.action), step_keys)
    done = out.terminated | out.truncated
    begin = partial(jax.tree.map, partial(where_done, done))
    env_state, observation = begin(jax.vmap(env.reset)(reset_keys), (env_state, out.observation))
    last, each = teams.as_lanes(env, out.observation), teams.for_each(env, out._replace(observation=None))
    bad = teams.of_any(env, _bad(env, seen, acted.decision.allowed, each._replace(observation=last), agent.missing))
    row = TimeStep(seen.observation, seen.is_first, acted.action, each.reward, each.terminated, sign=each.sign)
    # After the first bad value nothing more is stored: the next row would begin with it.
    keep, over = teams.for_each(env, (~bad.any(0) & (run.fault[0] < 0), done))
    experience = Experience(row, over, last, keep, acted.noted)
    experience = jax.tree.map(lambda leaf: leaf[None], experience)
    return DeviceRun(
        agent=agent.observe(dataclasses.replace(state, actor=acted.actor), experience),
        env=env_state,
        seen=Seen(teams.as_lanes(env, observation), over, each.reward, each.sign),
        key=key,
        steps=counted(run.steps, envs),
        episodes=count(run.episodes, out.reward, done, out.sign),
        fault=_note_fault(run.fault, bad, run.episodes.finished, run.steps),
    )


def _bad(
    env: DeviceEnv, seen: Seen, allowed: Bool[Array, "envs actions"] | None, out: DeviceStep, missing: bool
) -> Bool[Array, "fields envs"]:
    """Which environments gave what must not be stored, for each of FIELDS. `missing`: a NaN is a missing number."""
    envs = len(seen.is_first)
    # The observation of a reset is checked here too, when it is acted on.
    shown = seen.observation, out.observation
    given = [known(env.observation_space, one) for one in shown] if missing else shown
    observation = ~(_finite(given[0], envs) & _finite(given[1], envs))
    final = mask_of(env.observation_space, out.observation, env.actions)
    cut = out.truncated & ~out.terminated  # after a termination nothing is bootstrapped
    nothing_allowed = _nothing_allowed(allowed, envs) | (cut & _nothing_allowed(final, envs))
    return jnp.stack([observation, ~jnp.isfinite(out.reward), nothing_allowed])


def cycle(agent: Agent, env: DeviceEnv, learning: bool, run: DeviceRun, tally: Tally) -> tuple[DeviceRun, Tally]:
    """Acts, then learns if `learning`: two programs, because a branch would copy the learner at every cycle."""
    run = repeat(lambda run: step(agent, env, run), run, agent.rhythm.acts)
    if not learning:
        return run, tally
    state, metrics = agent.learn(run.agent)
    return dataclasses.replace(run, agent=state), tally.add(metrics)


def seed_axes(agent: Agent, run: DeviceRun) -> DeviceRun:
    """Which leaves carry an axis of seeds: all but the global step and what the agent's seeds share."""
    axes = jax.tree.map(lambda _: 0, run)

    def shared(run: DeviceRun) -> tuple[Any, ...]:
        return run.steps, *agent.shared(run.agent)

    return eqx.tree_at(shared, axes, replace_fn=lambda _: None)


def init_seeds(agent: Agent, env: DeviceEnv, keys: UInt32[Array, "seeds 2"]) -> DeviceRun:
    """A run for each key; leaves get a leading axis [seeds], except those that seeds share."""
    return compiled_init(agent, env)(keys)


@lru_cache(maxsize=PROGRAMS)
def compiled_init(agent: Agent, env: DeviceEnv) -> Callable[..., DeviceRun]:
    """`_init_seeds`, compiled, so that every leaf is a buffer of its own and can be donated."""
    return jax.jit(partial(_init_seeds, agent, env))


def _init_seeds(agent: Agent, env: DeviceEnv, keys: UInt32[Array, "seeds 2"]) -> DeviceRun:
    shape = jax.eval_shape(partial(init, agent, env), keys[0])
    return jax.vmap(partial(init, agent, env), out_axes=seed_axes(agent, shape))(keys)


@lru_cache(maxsize=PROGRAMS)
def compiled_observe(agent: Agent, store: Store) -> Callable[[DeviceRun, Experience], DeviceRun]:
    """Compiled: the run once every seed has stored the same steps. It gives away the buffers of the run."""

    def observe(run: DeviceRun, experience: Experience) -> DeviceRun:
        axes = seed_axes(agent, run).agent
        return _with_agent(
            run, jax.vmap(partial(store, agent), in_axes=(axes, None), out_axes=axes)(run.agent, experience)
        )

    return jax.jit(observe, donate_argnums=0)


@lru_cache(maxsize=2 * PROGRAMS)  # an agent has two: before and after learning begins
def compiled_advance(agent: Agent, env: DeviceEnv, learning: bool) -> Callable[..., tuple[DeviceRun, Tally]]:
    """`advance`, compiled, which gives away the buffers of run and tally."""
    return jax.jit(partial(advance, agent, env, learning), donate_argnums=(0, 1))


def advance(
    agent: Agent, env: DeviceEnv, learning: bool, run: DeviceRun, tally: Tally, cycles: Int[Array, ""] | int
) -> tuple[DeviceRun, Tally]:
    """`cycles` cycles of every seed, in place, their metrics added to the tally."""
    one, state = partial(cycle, agent, env, learning), (run, tally)
    axes = seed_axes(agent, run), Tally(dict.fromkeys(agent.metrics, 0), None)  # type: ignore[arg-type,dict-item]
    if len(run.key) > 1 or not agent.branches:
        many = jax.vmap(one, in_axes=axes, out_axes=axes)
        return jax.lax.fori_loop(0, cycles, lambda _, state: many(*state), state)
    # Under `vmap` conditions are selections: both sides are computed, and what they may
    # change is copied. With an external memory MinAtar is a fifth
    # faster without, with a chunked one half; without a memory a sixth slower.
    state = _each(lambda leaf: leaf[0], axes, state)
    state = jax.lax.fori_loop(0, cycles, lambda _, state: one(*state), state)
    return _each(lambda leaf: leaf[None], axes, state)


def _each(change: Callable[[Array], Array], axes: PyTree, state: PyTree) -> PyTree:
    """`change` of every leaf that has an axis of seeds."""
    return jax.tree.map(
        lambda axis, leaf: leaf if axis is None else change(leaf), axes, state, is_leaf=lambda axis: axis is None
    )


def count(
    episodes: EpisodeCounts,
    reward: Float[Array, "envs"],
    done: Bool[Array, "envs"],
    sign: Float[Array, "envs"] | None = None,
) -> EpisodeCounts:
    """Adds one step; finished episodes overwrite the oldest of the newest `RECENT`."""
    side = episodes.side
    if side is not None and sign is not None:
        reward = side * reward
        side = jnp.where(done, 1.0, side * sign)
    returns, lengths = episodes.running_return + reward, episodes.running_length + 1
    number = episodes.finished.sum() + jnp.cumsum(done) - done
    place = jnp.where(done, number % RECENT, RECENT)
    return EpisodeCounts(
        running_return=jnp.where(done, 0.0, returns),
        running_length=jnp.where(done, 0, lengths),
        returns=episodes.returns.at[place].set(returns, mode="drop"),
        lengths=episodes.lengths.at[place].set(lengths, mode="drop"),
        finished=episodes.finished + done,
        side=side,
    )


def _finite(tree: PyTree, envs: int) -> Bool[Array, "envs"]:
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    checks = [jnp.isfinite(leaf).reshape(envs, -1).all(-1) for leaf in floats]
    return jnp.stack(checks).all(0) if checks else jnp.ones(envs, bool)


def _note_fault(
    fault: Int[Array, "4"],
    bad: Bool[Array, "fields envs"],
    episode: Int[Array, "envs"],
    step: Int[Array, ""],
) -> Int[Array, "4"]:
    """The fault that is noted already, or the first of this step: environment, episode, step, place in FIELDS."""
    index = bad.any(0).argmax()
    found = jnp.stack([index, episode[index], step, bad[:, index].argmax()]).astype(jnp.int32)
    return jnp.where((fault[0] < 0) & bad.any(), found, fault)


def _nothing_allowed(allowed: Bool[Array, "envs actions"] | None, envs: int) -> Bool[Array, "envs"]:
    return jnp.zeros(envs, bool) if allowed is None else ~allowed.any(-1)


FIELDS = (
    "an observation that is not finite (a new run with observation.missing=mask takes a NaN as a missing number)",
    "a reward that is not finite",
    "an action_mask that forbids every action",
)


@contextmanager
def _no_exit() -> Iterator[None]:
    """Names an exit out of an environment that is being compiled, which would else end the process without a word."""
    try:
        yield
    except (SystemExit, GeneratorExit) as error:
        raise EnvironmentFault(
            f"{told(error)} was raised while the environment was compiled; report a problem by an ordinary exception"
        ) from error


def _with_agent(run: DeviceRun, agent: AgentState) -> DeviceRun:
    """The run with another state of its agent. Leaves have an axis of seeds, which a run that is made anew may not."""
    return eqx.tree_at(lambda run: run.agent, run, agent)


@all_in_32_bits
class DeviceRunner:
    """Drives one agent per seed through device environments; all seeds advance together."""

    def __init__(self, agent: Agent, env: DeviceEnv, seeds: Sequence[int]):
        self.agent, self.env, self.seeds = agent, env, tuple(seeds)
        with _no_exit():
            self._run = init_seeds(agent, env, jnp.stack([jax.random.PRNGKey(seed) for seed in seeds]))
        self._tally = Tally.empty(agent, len(self.seeds))
        self._cycles = 64  # in the next compiled call
        self._hold_programs()
        self._told = np.zeros(len(self.seeds), int)  # finished episodes of each seed that `ended` has had
        self._ended: list[Ended] | None = None
        self._steps = 0

    def _hold_programs(self) -> None:
        """So that they live as long as this."""
        self._advance = [compiled_advance(self.agent, self.env, learning) for learning in (False, True)]

    @property
    def ended(self) -> list[Ended] | None:
        """See Runner. Of more than 100 episodes of a seed that end within one compiled call (half a second), only the
        newest 100 are known.
        """
        return self._ended

    @ended.setter
    def ended(self, episodes: list[Ended] | None) -> None:
        self._ended, self._told = episodes, np.asarray(self._run.episodes.finished).sum(1)

    @property
    def steps(self) -> int:
        """The global step: actions taken, over all environments of one seed."""
        return self._steps

    def start(self) -> None:
        """Nothing to begin: the first episodes are part of a new run."""

    def advance(self, until: int, stop: Callable[[], bool]) -> None:
        """Whole cycles until the global step is at least `until`; `stop` is asked about every half second."""
        each = self.agent.rhythm.acts * self.agent.envs
        left = -((self.steps - until) // each)
        while left > 0 and not stop():
            cycles, began = min(left, self._cycles), time.perf_counter()
            before = (self.agent.rhythm.first - 1 - self.steps) // each  # cycles that end before learning begins
            if before > 0:
                cycles = min(cycles, before)
            with _no_exit():
                changed = self._advance[before <= 0](self._run, self._tally, cycles)
            self._run, self._tally = jax.block_until_ready(changed)
            self._steps += cycles * each
            left -= cycles
            self._cycles = next_size(self._cycles, cycles, time.perf_counter() - began, growth=2)
            if self._ended is not None:
                self._ended += self._new_episodes()

    def _new_episodes(self) -> list[Ended]:
        """The episodes that ended since the last call, as far as they are kept."""
        episodes, step = self._run.episodes, self.steps
        finished, returns, lengths = map(np.asarray, (episodes.finished, episodes.returns, episodes.lengths))
        before, self._told = self._told, finished.sum(1)
        return [
            Ended(step, seed, float(returns[index, number % RECENT]), int(lengths[index, number % RECENT]), {})
            for index, seed in enumerate(self.seeds)
            for number in range(max(before[index], self._told[index] - RECENT), self._told[index])
        ]

    def report(self) -> dict[str, Any]:
        """The metrics since the last report. What differs between seeds is a list if there are several."""
        self._check()
        run, means = self._run, self._tally.means()
        self._tally = Tally.empty(self.agent, len(self.seeds))
        # Whole arrays are taken and then cut: cutting arrays of the device would be a compiled call each.
        finished, returns, lengths = map(
            np.asarray, (run.episodes.finished, run.episodes.returns, run.episodes.lengths)
        )
        kept = np.minimum(finished.sum(1), RECENT)
        per_seed = [summary(returns[seed, :count], lengths[seed, :count]) for seed, count in enumerate(kept)]
        values = {name: [row[name] for row in per_seed] for name in per_seed[0]}
        return {
            "episodes": int(finished.sum()),
            **{name: value if len(self.seeds) > 1 else value[0] for name, value in values.items()},
            **means,
            **self.agent.report(run.agent, self.steps),
        }

    def _check(self) -> None:
        for seed, fault in zip(self.seeds, np.asarray(self._run.fault).tolist(), strict=True):
            env, episode, step_number, field = fault
            if env >= 0:
                at = whole(step_number, self._steps)
                raise EnvironmentFault(
                    f"environment {env} of seed {seed} gave {FIELDS[field]} in episode {episode}, "
                    f"at step {at}; that row was not stored: mend the environment and resume from the last "
                    f"checkpoint"
                )
        if problem := self.agent.fault(self._run.agent, self.steps, self.seeds):
            raise LearningFault(problem)

    def capture(self) -> Captured:
        """The state, copied, except for the rows. Raises EngramError if something broke: that must not be saved."""
        self._check()
        arrays = copied(self._without_rows()) | copied(self._tally, "tally")
        meta = {"env": {"levels": ["exact"]}, "steps": self._steps}
        return Captured(arrays, meta, self.agent.rows(self._run.agent))

    def _without_rows(self) -> DeviceRun:
        return _with_agent(self._run, self.agent.with_rows(self._run.agent, ()))

    def restore(
        self,
        arrays: Mapping[str, np.ndarray],
        meta: dict[str, Any],
        rows: Callable[[Rows], Rows],
        new_episodes: bool = False,
    ) -> None:
        """Takes a captured state back; see Runner. Device environments can always be taken up."""
        empty = self.agent.rows(self._run.agent)
        run, tally = restored(self._without_rows(), arrays), restored(self._tally, arrays, "tally")
        filled = self.agent.with_rows(run.agent, rows(empty) if empty else ())
        self._run, self._tally = _with_agent(run, filled), tally
        self._steps = int(meta["steps"])

    def follow(self, agent: Agent) -> None:
        """See Runner."""
        self.agent = agent
        self._hold_programs()

    def adopt(self, arrays: Mapping[str, np.ndarray], rows: Callable[[Rows], Rows] | None) -> None:
        """See Runner."""
        own = self.capture()
        held, fill = overlaid(own.arrays, own.rows, arrays, rows)
        self.restore(held, own.meta, fill)

    def observe(self, experience: Experience, store: Store = by_observing) -> None:
        """See Runner."""
        self._run = compiled_observe(self.agent, store)(self._run, experience)

    def finish(self, stopped: bool) -> None:
        """Device environments can be taken up anywhere."""

    def minds(self) -> list[Mind]:
        """The newest parameters of each seed, and what it remembers."""
        mind = self.agent.mind(self._run.agent)
        return [jax.tree.map(lambda leaf, seed=seed: leaf[seed], mind) for seed in range(len(self.seeds))]

    def close(self) -> None:
        """Nothing to let go of."""
