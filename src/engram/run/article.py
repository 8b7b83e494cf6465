"""The three names that the article's sketch uses, over the library's own parts: a model, a replay buffer, `train`.

>>> model = AttentionDQN(state_size=4, action_size=2, hidden_size=64)
>>> replay_buffer = ReplayBuffer(capacity=10_000)
>>> returns = train(gymnasium.make("CartPole-v1"), model, replay_buffer, epochs=200, batch_size=64)
>>> q = model(state, model.memory)

`Trainer` does more (run directories, resume, many environments); this is for those who come from the article.
"""

from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from engram import spaces
from engram.agents import q_learning
from engram.agents.network import Previous
from engram.agents.q_learning import Agent, Mind
from engram.agents.spec import AgentSpec, OptimizerSpec, RecallSpec, ReplaySpec, TargetSpec
from engram.encoders.features import FeaturesSpec
from engram.envs.host.make import make_host
from engram.errors import SpaceError, SpecError
from engram.exploration.exploration import EpsilonGreedySpec
from engram.external.episodic import EpisodicSpec
from engram.losses.bootstrap import MemorySpec
from engram.replay import ring
from engram.run.machine import check_fits
from engram.runners.host import HostRunner

LEARN_EVERY = 4  # environment steps for each gradient step


class AttentionDQN:
    """Q from attention over the features of the state, and over what similar states came to.

    Args:
      state_size: numbers in a state.
      action_size: discrete actions.
      hidden_size: units of the layer after the attention, and numbers in a key of the memory.
      capacity: experiences that the external memory holds.
      seed: of the parameters, of exploration and of the environment's episodes.

    `memory` is the external memory: what was met so far, which `train` writes and every call may read.
    """

    def __init__(self, state_size: int, action_size: int, hidden_size: int, *, capacity: int = 10_000, seed: int = 0):
        for name, value in (("state_size", state_size), ("action_size", action_size), ("hidden_size", hidden_size)):
            if not isinstance(value, int) or value < 1:
                raise SpecError(f"{name} = {value!r} was given; expected a whole number of at least 1")
        self.spec = AgentSpec(
            encoder=FeaturesSpec(width=hidden_size),
            external=EpisodicSpec(capacity=capacity, neighbours=min(25, capacity // action_size)),
            recall=RecallSpec(n_step=10),
            bootstrap=MemorySpec(),
            double=True,
            replay=ReplaySpec(capacity=1_000, batch_size=32, start=200),
            optimizer=OptimizerSpec(learning_rate=1e-3),
            target=TargetSpec(every=1, rate=0.01),
            exploration=EpsilonGreedySpec(start=1.0, end=0.05, steps=2_000),
            learn_every=LEARN_EVERY,
        )
        self.state_size, self.action_size, self.seed = state_size, action_size, seed
        self.space = spaces.Box((state_size,))
        agent = Agent(self.spec, self.space, action_size)
        check_fits({"external memory": agent.recall_nbytes()})
        self._begun = agent.init(jax.random.PRNGKey(seed))
        self._steps = 0

    @property
    def memory(self) -> PyTree:
        """The external memory as it is now."""
        return self._begun.recall

    def __call__(self, state: Any, memory: PyTree | None = None) -> Float[np.ndarray, "*batch actions"]:
        """Q of every action, for one state [state_size] or a batch of them. `memory`: the model's own if left out.

        Raises SpaceError for states of another size.
        """
        rows = np.asarray(state, np.float32)
        if rows.ndim not in (1, 2) or rows.shape[-1] != self.state_size:
            raise SpaceError(
                f"a state of shape {rows.shape} was given; expected ({self.state_size},), or several in one array"
            )
        mind = Mind(self._begun.learner.params, self.memory if memory is None else memory)
        q = np.asarray(_q(self.spec, mind, jnp.atleast_2d(rows)[:, None]))
        return q if rows.ndim == 2 else q[0]


class ReplayBuffer:
    """The newest steps, from which batches are drawn uniformly. `len` of it is how many it holds."""

    def __init__(self, capacity: int):
        if not isinstance(capacity, int) or capacity < 32:
            raise SpecError(f"capacity = {capacity!r} was given; expected a whole number of at least 32")
        self.capacity = capacity
        self._ring: ring.Ring | None = None

    def __len__(self) -> int:
        return 0 if self._ring is None else min(int(self._ring.cursor.sum()), self.capacity)


def train(
    env: gymnasium.Env | str | Callable[[], gymnasium.Env],
    model: AttentionDQN,
    replay_buffer: ReplayBuffer,
    epochs: int,
    batch_size: int,
) -> list[float]:
    """Plays `epochs` episodes and learns from them: a gradient step after every 4 steps of the environment.

    The model, its memory and the buffer are changed; a second call goes on from there with new episodes. An environment
    that is given as such is left open. Returns the return of every episode.

    Raises SpaceError if the environment's states or actions are not of the model's sizes, SpecError for numbers that
    make no sense.
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise SpecError(f"{name} = {value!r} was given; expected a whole number of at least 1")
    replay = replace(model.spec.replay, capacity=replay_buffer.capacity, batch_size=batch_size,
                     start=min(200, replay_buffer.capacity // 2))  # fmt: skip
    if replay_buffer._ring is None:  # a new buffer fills before it is learned from, however much was played before
        replay = replace(replay, start=replay.start + model._steps)
    envs = make_host(env, seed=model.seed + model._steps)
    with nullcontext() if isinstance(env, gymnasium.Env) else closing(envs):
        if envs.observation_space != model.space or envs.actions != model.action_size:
            raise SpaceError(
                f"the environment has states {envs.observation_space} and {envs.actions} actions, the model was made "
                f"for {model.space} and {model.action_size}; make it with those sizes"
            )
        agent = Agent(replace(model.spec, replay=replay), model.space, model.action_size)
        if replay_buffer._ring is None:
            check_fits({"replay": ring.nbytes(model.space, agent.rows_per_lane)})
            replay_buffer._ring = ring.empty(model.space, agent.rows_per_lane, 1)
        runner = HostRunner(agent, envs, model.seed)
        runner.take_up(replace(model._begun, replay=replay_buffer._ring), model._steps)
        runner.start()
        returns: list[float] = []
        while runner.finished < epochs:
            before = runner.finished
            runner.advance(runner.steps + 1, lambda: False)
            returns += list(runner.returns)[len(runner.returns) - (runner.finished - before) :]
        model._begun, model._steps = runner.state(), runner.steps
        replay_buffer._ring = model._begun.replay
        return returns


@partial(jax.jit, static_argnums=0)
def _q(spec: AgentSpec, mind: Mind, frames: Float[Array, "batch stack state"]) -> Float[Array, "batch actions"]:
    batch = frames.shape[0]
    nothing = Previous(jnp.zeros(batch, jnp.int32), jnp.zeros(batch))
    return q_learning.decide(spec, mind, (), frames, jnp.ones(batch, bool), nothing)[1].q
