"""The device runner: environments, actor, replay and learner in one compiled loop.

One *cycle* is "act a few times, then learn": that is structure, not a condition: a condition
on a batched counter would run both of its branches under `vmap` over seeds, and any condition copies what it may
change. The global step is therefore one number for all seeds; only what differs between seeds has a leading axis.
Stops fall between two calls of `advance`.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from engram import spaces
from engram.agents import recall as remembering
from engram.agents.q_learning import Agent, AgentState, Experience, LearnerState, Mind
from engram.bits import draw
from engram.envs.device import DeviceEnv
from engram.errors import EnvironmentFault, LearningFault
from engram.replay.ring import Ring
from engram.runners.common import RECENT, Captured, Cycle, Tally, not_finite, not_remembered, repeat, summary
from engram.trees import copied, restored
from engram.types import Key, TimeStep


class Episodes(eqx.Module):
    """Returns and lengths: of the running episodes, and of the newest finished ones."""

    running_return: Float[Array, "*seeds envs"]
    running_length: Int[Array, "*seeds envs"]
    returns: Float[Array, "*seeds recent"]
    lengths: Int[Array, "*seeds recent"]
    finished: Int[Array, "*seeds envs"]


class DeviceRun(eqx.Module):
    """Everything that changes in a run on the device."""

    agent: AgentState
    env: PyTree
    observation: PyTree
    is_first: Bool[Array, "*seeds envs"]
    reward: PyTree  # float32 [envs], of the last step; () if nothing reads it
    key: Key
    episodes: Episodes
    fault: Int[Array, "*seeds 4"]  # environment, its episode, step and field of the first bad value, or -1


def init(agent: Agent, env: DeviceEnv, key: Key) -> DeviceRun:
    """A run before its first step."""
    agent_key, env_key = jax.random.split(key)
    env_key, bits = draw(env_key, 2 * agent.envs)
    state, observation = jax.vmap(env.reset)(bits.reshape(agent.envs, 2))
    zeros, recent = jnp.zeros(agent.envs), jnp.zeros(RECENT)
    none = jnp.zeros(agent.envs, jnp.int32)
    episodes = Episodes(zeros, none, recent, recent.astype(jnp.int32), none)
    fault = jnp.full(4, -1, jnp.int32)
    first, reward = jnp.ones(agent.envs, bool), zeros if agent.spec.observation.previous_reward else ()
    return DeviceRun(agent.init(agent_key), state, observation, first, reward, env_key, episodes, fault)


def step(agent: Agent, env: DeviceEnv, run: DeviceRun) -> DeviceRun:
    """One step of every environment: act, step, reset what ended, write the rows."""
    envs, state = agent.envs, run.agent
    reads_reward = agent.spec.observation.previous_reward
    reward = run.reward if reads_reward else jnp.zeros(envs)
    learner, mind = state.learner, state.mind(agent.spec)
    actor, action, decision, noted = agent.act(mind, state.actor, run.observation, run.is_first, reward)
    key, bits = draw(run.key, 4 * envs)
    step_keys, reset_keys = bits.reshape(2, envs, 2)
    env_state, out = jax.vmap(env.step)(run.env, action, step_keys)
    done = out.terminated | out.truncated
    begin = partial(jax.tree.map, partial(choose, done))
    env_state, observation = begin(jax.vmap(env.reset)(reset_keys), (env_state, out.observation))
    # What a reset gave is looked at here too, when it is acted on.
    bad_observation = ~(_finite(run.observation, envs) & _finite(out.observation, envs))
    bad_reward = ~jnp.isfinite(out.reward)
    final = spaces.mask_of(env.observation_space, out.observation, env.actions)
    cut = out.truncated & ~out.terminated  # what follows an end is not asked for its value
    nothing_allowed = _nothing_allowed(decision.allowed, envs) | (cut & _nothing_allowed(final, envs))
    bad = jnp.stack([bad_observation, bad_reward, nothing_allowed])
    memory = state.actor.memory if agent.spec.replay.stored_memory else ()  # as it was before this step
    row = TimeStep(run.observation, run.is_first, action, out.reward, out.terminated, memory)
    # After the first bad value nothing more is stored: the next row would begin with it.
    experience = Experience(row, done, out.observation, ~bad.any(0) & (run.fault[0] < 0), noted)
    experience = jax.tree.map(lambda leaf: leaf[None], experience)
    replay, recall = agent.observe(state.replay, experience), agent.remember(learner.params, state.recall, experience)
    return DeviceRun(
        agent=AgentState(actor, learner, replay, recall),
        env=env_state,
        observation=observation,
        is_first=done,
        reward=out.reward if reads_reward else (),
        key=key,
        episodes=count(run.episodes, out.reward, done),
        fault=_note_fault(run.fault, bad, run.episodes.finished, state.actor.steps),
    )


def cycle(agent: Agent, env: DeviceEnv, learning: bool, run: DeviceRun, tally: Tally) -> tuple[DeviceRun, Tally]:
    """Acts, then learns if `learning`: two programs, because a branch would copy the learner at every cycle."""
    rhythm = Cycle.of(agent)
    run = repeat(lambda run: step(agent, env, run), run, rhythm.acts)
    if not learning:
        return run, tally
    replay, recall = run.agent.replay, run.agent.recall

    def learn(carry: tuple[LearnerState, Tally]) -> tuple[LearnerState, Tally]:
        learner, metrics = agent.learn(carry[0], replay, recall)
        return learner, carry[1].add(metrics)

    learner, tally = repeat(learn, (run.agent.learner, tally), rhythm.updates)
    recall = agent.refresh(learner, recall)
    return dataclasses.replace(run, agent=dataclasses.replace(run.agent, learner=learner, recall=recall)), tally


def seed_axes(run: DeviceRun) -> DeviceRun:
    """Which leaves carry an axis of seeds: all but the global step and the number of updates."""
    axes = jax.tree.map(lambda _: 0, run)
    return eqx.tree_at(
        lambda run: (run.agent.actor.steps, run.agent.learner.updates), axes, (None, None), is_leaf=lambda x: x is None
    )


@partial(jax.jit, static_argnums=(0, 1))  # compiled, so that every leaf is a buffer of its own and can be donated
def init_seeds(agent: Agent, env: DeviceEnv, keys: UInt32[Array, "seeds 2"]) -> DeviceRun:
    """A run for each key; leaves get a leading axis [seeds], except the global step and the updates."""
    shape = jax.eval_shape(partial(init, agent, env), keys[0])
    return jax.vmap(partial(init, agent, env), out_axes=seed_axes(shape))(keys)


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(3, 4))
def advance(
    agent: Agent, env: DeviceEnv, learning: bool, run: DeviceRun, tally: Tally, cycles: Int[Array, ""] | int
) -> tuple[DeviceRun, Tally]:
    """`cycles` cycles of every seed, in place, their metrics added to the tally."""
    one, state = partial(cycle, agent, env, learning), (run, tally)
    axes = seed_axes(run), Tally(0, 0, None)  # type: ignore[arg-type]
    if len(tally.loss) > 1 or not agent.spec.has_external:
        many = jax.vmap(one, in_axes=axes, out_axes=axes)
        return jax.lax.fori_loop(0, cycles, lambda _, state: many(*state), state)
    # Under `vmap` the conditions of an external memory are selections: both sides are computed, and what they may
    # change is copied. MinAtar is a fifth faster without, with a chunked memory half; without a memory a sixth slower.
    state = _each(lambda leaf: leaf[0], axes, state)
    state = jax.lax.fori_loop(0, cycles, lambda _, state: one(*state), state)
    return _each(lambda leaf: leaf[None], axes, state)


def _each(change: Callable[[Array], Array], axes: PyTree, state: PyTree) -> PyTree:
    """`change` of every leaf that has an axis of seeds."""
    return jax.tree.map(
        lambda axis, leaf: leaf if axis is None else change(leaf), axes, state, is_leaf=lambda axis: axis is None
    )


def count(episodes: Episodes, reward: Float[Array, "envs"], done: Bool[Array, "envs"]) -> Episodes:
    """Adds one step; finished episodes overwrite the oldest of the newest `RECENT`."""
    returns, lengths = episodes.running_return + reward, episodes.running_length + 1
    number = episodes.finished.sum() + jnp.cumsum(done) - done
    place = jnp.where(done, number % RECENT, RECENT)
    return Episodes(
        running_return=jnp.where(done, 0.0, returns),
        running_length=jnp.where(done, 0, lengths),
        returns=episodes.returns.at[place].set(returns, mode="drop"),
        lengths=episodes.lengths.at[place].set(lengths, mode="drop"),
        finished=episodes.finished + done,
    )


def choose(done: Bool[Array, "envs"], fresh: Array, old: Array) -> Array:
    """`fresh` for the environments that are done, `old` for the others, along the leading axis."""
    return jnp.where(done.reshape(-1, *[1] * (old.ndim - 1)), fresh, old)


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


def no_tally(seeds: int) -> Tally:
    """Sums of nothing yet."""
    return Tally(jnp.zeros(seeds), jnp.zeros(seeds), jnp.int32(0))


FIELDS = (
    "an observation that is not finite",
    "a reward that is not finite",
    "an action_mask that forbids every action",
)
CALL_SECONDS = 0.5  # what one compiled call should take: the longest that a stop has to wait


class DeviceRunner:
    """Drives one agent per seed through device environments; all seeds advance together."""

    def __init__(self, agent: Agent, env: DeviceEnv, seeds: Sequence[int]):
        self.agent, self.env, self.seeds = agent, env, tuple(seeds)
        self.cycle = Cycle.of(agent)
        self._run = init_seeds(agent, env, jnp.stack([jax.random.PRNGKey(seed) for seed in seeds]))
        self._tally = no_tally(len(self.seeds))
        self._cycles = 64  # in the next compiled call

    @property
    def steps(self) -> int:
        """The global step: actions taken, over all environments of one seed."""
        return int(self._run.agent.actor.steps)

    def start(self) -> None:
        """Nothing to begin: the first episodes are part of a new run."""

    def advance(self, until: int, stop: Callable[[], bool]) -> None:
        """Whole cycles until the global step is at least `until`; `stop` is asked about every half second."""
        each = self.cycle.acts * self.agent.envs
        left = -((self.steps - until) // each)
        while left > 0 and not stop():
            cycles, began = min(left, self._cycles), time.perf_counter()
            before = (self.agent.spec.replay.start - 1 - self.steps) // each  # cycles that end before learning begins
            if before > 0:
                cycles = min(cycles, before)
            changed = advance(self.agent, self.env, before <= 0, self._run, self._tally, cycles)
            self._run, self._tally = jax.block_until_ready(changed)
            left -= cycles
            # How a run is cut into calls changes nothing in it, so the clock may decide.
            speed = cycles / (time.perf_counter() - began)
            self._cycles = max(1, min(2 * self._cycles, int(CALL_SECONDS * speed)))

    def report(self) -> dict[str, Any]:
        """The metrics since the last report. What differs between seeds is a list if there are several."""
        self._check()
        run, (loss, q, updates) = self._run, map(np.asarray, self._tally)
        self._tally = no_tally(len(self.seeds))
        # Whole arrays are taken and then cut: cutting arrays of the device would be a compiled call each.
        finished, returns, lengths = map(
            np.asarray, (run.episodes.finished, run.episodes.returns, run.episodes.lengths)
        )
        kept = np.minimum(finished.sum(1), RECENT)
        per_seed = [summary(returns[seed, :count], lengths[seed, :count]) for seed, count in enumerate(kept)]
        values = {name: [row[name] for row in per_seed] for name in per_seed[0]}
        values["loss"] = [one / int(updates) if updates else None for one in loss.tolist()]
        values["q_mean"] = [one / int(updates) if updates else None for one in q.tolist()]
        return {
            "episodes": int(finished.sum()),
            **{name: value if len(self.seeds) > 1 else value[0] for name, value in values.items()},
            **self.agent.spec.exploration.report(self.steps),
            **remembering.report(self.agent.spec, run.agent.recall),
            "updates": int(run.agent.learner.updates),
        }

    def _check(self) -> None:
        for seed, fault in zip(self.seeds, np.asarray(self._run.fault).tolist(), strict=True):
            env, episode, step_number, field = fault
            if env >= 0:
                raise EnvironmentFault(
                    f"environment {env} of seed {seed} gave {FIELDS[field]} in episode {episode}, "
                    f"at step {step_number}; that row was not stored: mend the environment and resume from the last "
                    f"checkpoint"
                )
        for fault in np.asarray(self._run.agent.learner.fault).tolist():
            if fault >= 0:
                raise LearningFault(not_finite(fault, self.steps))
        entries, (number, *first) = remembering.refused(self._run.agent.recall)
        if entries:
            raise LearningFault(not_remembered(entries, first, self.steps, self.seeds[number]))

    def capture(self) -> Captured:
        """The state, copied, except for the replay. Raises EngramError if something broke: that must not be saved."""
        self._check()
        without_rows = eqx.tree_at(lambda run: run.agent.replay, self._run, None)
        arrays = copied(without_rows) | copied(self._tally, "tally")
        return Captured(arrays, {"env": {"levels": ["exact"]}}, self._run.agent.replay)

    def restore(
        self,
        arrays: Mapping[str, np.ndarray],
        meta: dict[str, Any],
        replay: Callable[[Ring], Ring],
        new_episodes: bool = False,
    ) -> None:
        """Takes a captured state back; see Runner. Device environments can always be taken up."""
        filled = replay(self._run.agent.replay)
        without_rows = eqx.tree_at(lambda run: run.agent.replay, self._run, None)
        run, self._tally = restored(without_rows, arrays), restored(self._tally, arrays, "tally")
        self._run = eqx.tree_at(lambda run: run.agent.replay, run, filled, is_leaf=lambda node: node is None)

    def finish(self, stopped: bool) -> None:
        """Device environments can be taken up anywhere."""

    def minds(self) -> list[Mind]:
        """The newest parameters of each seed, and what it remembers."""
        mind = self._run.agent.mind(self.agent.spec)
        return [jax.tree.map(lambda leaf, seed=seed: leaf[seed], mind) for seed in range(len(self.seeds))]

    def close(self) -> None:
        """Nothing to let go of."""
