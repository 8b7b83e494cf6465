"""The three names that the article's sketch uses, over the library's own parts: a model, a replay buffer, `train`.

>>> model = AttentionDQN(state_size=4, action_size=2, hidden_size=64)
>>> replay_buffer = ReplayBuffer(capacity=10_000)
>>> returns = train(gymnasium.make("CartPole-v1"), model, replay_buffer, epochs=250, batch_size=32)
>>> q = model(state, model.memory)

The agent is that of the preset `attention-dqn`, with the sizes that are given. `Trainer` does more (run directories,
resume, many environments); this is for those who come from the article.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from engram import spaces, specs
from engram.agents.policy import Mind, Seen, begin, look, still
from engram.agents.q_learning import QLearner
from engram.agents.spec import AgentSpec
from engram.agents.with_memory import attention_dqn
from engram.envs.host.make import HostEnvs, make_host
from engram.errors import EnvironmentFault, Interrupted, SpaceError
from engram.precision import all_in_32_bits
from engram.replay.draw import Replay
from engram.run.machine import check_fits, keep_freed_memory, use_cache
from engram.run.stop import StopRequest
from engram.runners.host import HostRunner
from engram.runners.learner import compiled_init

# The preset's schedules follow a run of so many steps: of CartPole, about what the first 175 episodes take.
STEPS = 20_000
GROUP = 8  # moments of learning in one call, as the trainer has for small networks
LOG = logging.getLogger("engram")
LONGEST = 100_000  # steps of an episode, unless told otherwise


@all_in_32_bits
class AttentionDQN:
    """Q from a network, and from attention over what similar states came to: the agent of the preset `attention-dqn`.

    Args:
      state_size: numbers in a state.
      action_size: discrete actions.
      hidden_size: units of each of the two hidden layers, and numbers in a key of the memory.
      capacity: experiences that the external memory holds.
      seed: of the parameters, of exploration and of the environment's episodes.
      missing, normalize: as the settings `observation.missing` and `observation.normalize`.

    Numbers are scaled by the bounds of the environment, as everywhere in Engram. The first `train` takes them over; a
    call before it sees numbers as they are.

    `memory` is the external memory: what was met so far, which `train` writes and every call may read.

    Raises SpecError for numbers that make no sense.
    """

    def __init__(
        self,
        state_size: specs.Number,
        action_size: specs.Number,
        hidden_size: specs.Number,
        *,
        capacity: specs.Number = 10_000,
        seed: specs.Number = 0,
        missing: Literal["refuse", "mask"] = "refuse",
        normalize: bool = False,
    ):
        self.state_size = specs.whole("state_size", state_size, 1)
        self.action_size = specs.whole("action_size", action_size, 1)
        self.hidden_size, self.seed = specs.whole("hidden_size", hidden_size, 1), specs.whole("seed", seed, 0)
        capacity = specs.whole("capacity", capacity, self.action_size)
        use_cache()
        keep_freed_memory()
        space = spaces.Box((self.state_size,))
        chosen = _spec(space, self.action_size, self.hidden_size, capacity)
        seen = replace(chosen.observation, missing=missing, normalize=normalize)
        self.spec = replace(chosen, observation=seen)
        self._begin(space)
        self._acting: tuple[dict[str, np.ndarray], dict[str, Any]] | None = None  # what acting changed, once trained
        self._steps = 0

    def _begin(self, space: spaces.Box) -> None:
        """A new agent for states of this space; its parameters depend on the seed alone."""
        self.space = space
        self._agent = agent = QLearner(self.spec, space, self.action_size)
        check_fits({"external memory": agent.nbytes()["external memory"]})
        self._state = compiled_init(agent)(jax.random.PRNGKey(self.seed))

    def __repr__(self) -> str:
        return (
            f"AttentionDQN(state_size={self.state_size}, action_size={self.action_size}, "
            f"hidden_size={self.hidden_size}, seed={self.seed}): {self._steps:,} steps learned from, "
            f"{int(self.memory.store.held.sum()):,} of {self.spec.external.capacity:,} experiences in memory"
        )

    @property
    def memory(self) -> PyTree:
        """The external memory as it is now."""
        return self._state.recall

    def __call__(self, state: Any, memory: PyTree | None = None) -> Float[np.ndarray, "*batch actions"]:
        """Q of every action, for one state [state_size] or a batch of them. `memory`: the model's own if left out.

        Raises SpaceError for states of another size.
        """
        rows = np.asarray(state, np.float32)
        if rows.ndim not in (1, 2) or rows.shape[-1] != self.state_size:
            raise SpaceError(
                f"a state of shape {rows.shape} was given; expected ({self.state_size},), or several in one array"
            )
        mind = replace(self._agent.mind(self._state), recall=self.memory if memory is None else memory)
        q = np.asarray(_q(self.spec, mind, jnp.atleast_2d(rows)))
        return q if rows.ndim == 2 else q[0]


class ReplayBuffer:
    """The newest steps, from which batches are drawn uniformly. `len` of it is how many it holds."""

    def __init__(self, capacity: specs.Number):
        self.capacity = specs.whole("capacity", capacity, 32)
        self._replay: Replay | None = None

    def __len__(self) -> int:
        return 0 if self._replay is None else min(int(self._replay.ring.cursor.sum()), self.capacity)

    def __repr__(self) -> str:
        return f"ReplayBuffer(capacity={self.capacity}): {len(self):,} rows"


def train(
    env: gymnasium.Env | str | Callable[[], gymnasium.Env],
    model: AttentionDQN,
    replay_buffer: ReplayBuffer,
    epochs: specs.Number,
    batch_size: specs.Number,
    *,
    max_episode_steps: specs.Number = LONGEST,
) -> list[float]:
    """Plays `epochs` episodes and learns from them: a gradient step after every 2 steps of the environment.

    The model, its memory and the buffer are changed; a second call goes on from there with new episodes. An environment
    that is given as such is left open. Returns the return of every episode. Every fiftieth is logged (`engram`, INFO).

    Raises SpaceError if the environment's states or actions are not of the model's sizes, SpecError for numbers that
    make no sense, EnvironmentFault for an episode that does not end within `max_episode_steps`, Interrupted after a
    signal. After the last two, model and buffer hold what was learned.
    """
    epochs, batch_size = specs.whole("epochs", epochs, 1), specs.whole("batch_size", batch_size, 1)
    longest = specs.whole("max_episode_steps", max_episode_steps, 1)
    envs = make_host(env, seed=model.seed + model._steps)
    with ExitStack() as opened:
        opened.callback(envs.leave if isinstance(env, gymnasium.Env) else envs.close)
        fit_to(envs, model)
        runner = _runner(envs, model, replay_buffer, batch_size)
        runner.start()
        returns, stopped = _play(runner, epochs, longest)
        _take_over(runner, model, replay_buffer)
    if stopped:
        raise Interrupted(
            f"stopped after {len(returns)} of {epochs} episodes; model and buffer hold what was learned, and another "
            f"call of train goes on"
        )
    if len(returns) < epochs:
        raise EnvironmentFault(
            f"episode {len(returns) + 1} had not ended after {longest:,} steps; wrap the environment in "
            f"gymnasium.wrappers.TimeLimit, or pass a larger max_episode_steps"
        )
    return returns


def _play(runner: HostRunner, epochs: int, longest: int) -> tuple[list[float], bool]:
    """The returns of the episodes that were played, and whether a signal ended it."""
    returns: list[float] = []
    episodes, began = runner.collector.episodes, runner.steps
    with StopRequest() as stop:
        while episodes.finished < epochs and runner.steps - began < longest and not stop():
            runner.advance(runner.steps + 1, stop)
            if episodes.finished == len(returns):
                continue
            returns.append(episodes.returns[-1])
            began = runner.steps
            if len(returns) % 50 == 0:
                mean = sum(returns[-50:]) / 50
                LOG.info("episode %d of %d: mean return of the last 50 is %.1f", len(returns), epochs, mean)
        return returns, stop()


def _take_over(runner: HostRunner, model: AttentionDQN, replay_buffer: ReplayBuffer) -> None:
    """Model and buffer hold what the runner learned. EngramError where learning failed."""
    runner.learner.check(runner.steps)
    model._acting, model._steps = runner.collector.actor.capture(), runner.steps
    model._state = replace(runner.state(), actor=model._state.actor)
    replay_buffer._replay = model._state.replay


def _spec(space: spaces.Box, actions: int, hidden_size: int, capacity: int) -> AgentSpec:
    """The preset `attention-dqn` in these sizes, with an update every two steps, as `train` says."""
    chosen = attention_dqn(space, STEPS)
    neighbours = min(chosen.external.neighbours, capacity // actions)
    return replace(
        chosen,
        learn_every=2,
        encoder=replace(chosen.encoder, widths=(hidden_size, hidden_size)),
        external=replace(chosen.external, capacity=capacity, neighbours=neighbours),
    )


def _runner(envs: HostEnvs, model: AttentionDQN, replay_buffer: ReplayBuffer, batch_size: int) -> HostRunner:
    """What goes on with the model and the buffer as they are."""
    fresh = replay_buffer._replay is None
    start = min(model.spec.replay.start, replay_buffer.capacity // 2)
    if fresh:  # a new buffer fills before it is learned from, however much was played before
        start += model._steps
    replay = replace(model.spec.replay, capacity=replay_buffer.capacity, batch_size=batch_size, start=start)
    agent = QLearner(replace(model.spec, replay=replay), model.space, model.action_size)
    if fresh:
        check_fits({"replay": agent.nbytes()["replay"]})
        replay_buffer._replay = jax.jit(lambda: agent.init(jax.random.PRNGKey(0)).replay)()
    # The runner gives buffers away, and model and buffer must stay whole if it fails.
    state = _copy(replace(model._state, replay=replay_buffer._replay))
    runner = HostRunner(agent, envs, model.seed, GROUP, state=state, steps=model._steps)
    if model._acting is not None:
        runner.collector.actor.restore(*model._acting)
    return runner


@jax.jit
def _copy(state: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, state)


def fit_to(envs: HostEnvs, model: AttentionDQN) -> None:
    """A model that has learned nothing yet takes the bounds of the environment. SpaceError for one of other sizes."""
    if not spaces.same(envs.observation_space, model.space) or envs.actions != model.action_size:
        raise SpaceError(
            f"the environment has states {envs.observation_space} and {envs.actions} actions, the model was made "
            f"for {model.space} and {model.action_size}; make it with those sizes"
        )
    if model._acting is None and envs.observation_space != model.space:
        model._begin(envs.observation_space)  # type: ignore[arg-type]


@partial(jax.jit, static_argnums=0)
def _q(spec: AgentSpec, mind: Mind, states: Float[Array, "batch state"]) -> Float[Array, "batch actions"]:
    batch = len(states)
    seen = Seen(states, jnp.ones(batch, bool), jnp.zeros(batch))
    return look(spec, mind, begin(spec, mind.network, batch), seen, still(mind.network, batch)).decision.q
