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
from typing import Any, Literal

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from engram import spaces
from engram.agents.policy import Mind, Seen, begin, look, still
from engram.agents.q_learning import QLearner
from engram.agents.spec import AgentSpec, ObservationSpec, OptimizerSpec, RecallSpec, ReplaySpec, TargetSpec
from engram.encoders.features import FeaturesSpec
from engram.envs.host.make import HostEnvs, make_host
from engram.errors import SpaceError, SpecError
from engram.exploration.greedy import EpsilonGreedySpec
from engram.external.episodic import EpisodicSpec
from engram.losses.bootstrap import FromMemorySpec
from engram.replay.draw import Replay
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
      missing, normalize: as the settings `observation.missing` and `observation.normalize`.

    `memory` is the external memory: what was met so far, which `train` writes and every call may read.
    """

    def __init__(
        self,
        state_size: int,
        action_size: int,
        hidden_size: int,
        *,
        capacity: int = 10_000,
        seed: int = 0,
        missing: Literal["refuse", "mask"] = "refuse",
        normalize: bool = False,
    ):
        _check_whole(state_size=state_size, action_size=action_size, hidden_size=hidden_size)
        self.spec = AgentSpec(
            observation=ObservationSpec(missing=missing, normalize=normalize),
            encoder=FeaturesSpec(width=hidden_size),
            external=EpisodicSpec(capacity=capacity, neighbours=min(25, capacity // action_size)),
            recall=RecallSpec(n_step=10),
            bootstrap=FromMemorySpec(),
            double=True,
            replay=ReplaySpec(capacity=1_000, batch_size=32, start=200),
            optimizer=OptimizerSpec(learning_rate=1e-3),
            target=TargetSpec(every=1, rate=0.01),
            exploration=EpsilonGreedySpec(start=1.0, end=0.05, steps=2_000),
            learn_every=LEARN_EVERY,
        )
        self.state_size, self.action_size, self.seed = state_size, action_size, seed
        self.space = spaces.Box((state_size,))
        self._agent = agent = QLearner(self.spec, self.space, action_size)
        check_fits({"external memory": agent.nbytes()["external memory"]})
        self._state = agent.init(jax.random.PRNGKey(seed))
        self._acting: tuple[dict[str, np.ndarray], dict[str, Any]] | None = None  # what acting changed, once trained
        self._steps = 0

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

    def __init__(self, capacity: int):
        if not isinstance(capacity, int) or capacity < 32:
            raise SpecError(f"capacity = {capacity!r} was given; expected a whole number of at least 32")
        self.capacity = capacity
        self._replay: Replay | None = None

    def __len__(self) -> int:
        return 0 if self._replay is None else min(int(self._replay.ring.cursor.sum()), self.capacity)


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
    _check_whole(epochs=epochs, batch_size=batch_size)
    envs = make_host(env, seed=model.seed + model._steps)
    with nullcontext() if isinstance(env, gymnasium.Env) else closing(envs):
        _check_sizes(envs, model)
        runner = _runner(envs, model, replay_buffer, batch_size)
        runner.start()
        returns: list[float] = []
        episodes = runner.collector.episodes
        while episodes.finished < epochs:
            before = episodes.finished
            runner.advance(runner.steps + 1, lambda: False)
            returns += list(episodes.returns)[len(episodes.returns) - (episodes.finished - before) :]
        model._acting, model._steps = runner.collector.actor.capture(), runner.steps
        model._state = replace(runner.state(), actor=model._state.actor)
        replay_buffer._replay = model._state.replay
        return returns


def _runner(envs: HostEnvs, model: AttentionDQN, replay_buffer: ReplayBuffer, batch_size: int) -> HostRunner:
    """What goes on with the model and the buffer as they are."""
    fresh = replay_buffer._replay is None
    start = min(200, replay_buffer.capacity // 2)
    if fresh:  # a new buffer fills before it is learned from, however much was played before
        start += model._steps
    replay = replace(model.spec.replay, capacity=replay_buffer.capacity, batch_size=batch_size, start=start)
    agent = QLearner(replace(model.spec, replay=replay), model.space, model.action_size)
    if fresh:
        check_fits({"replay": agent.nbytes()["replay"]})
        replay_buffer._replay = agent.init(jax.random.PRNGKey(0)).replay
    # The runner gives buffers away, and model and buffer must stay whole if it fails.
    state = jax.tree.map(jnp.copy, replace(model._state, replay=replay_buffer._replay))
    runner = HostRunner(agent, envs, model.seed, state=state, steps=model._steps)
    if model._acting is not None:
        runner.collector.actor.restore(*model._acting)
    return runner


def _check_whole(**numbers: int) -> None:
    for name, value in numbers.items():
        if not isinstance(value, int) or value < 1:
            raise SpecError(f"{name} = {value!r} was given; expected a whole number of at least 1")


def _check_sizes(envs: HostEnvs, model: AttentionDQN) -> None:
    if envs.observation_space != model.space or envs.actions != model.action_size:
        raise SpaceError(
            f"the environment has states {envs.observation_space} and {envs.actions} actions, the model was made "
            f"for {model.space} and {model.action_size}; make it with those sizes"
        )


@partial(jax.jit, static_argnums=0)
def _q(spec: AgentSpec, mind: Mind, states: Float[Array, "batch state"]) -> Float[Array, "batch actions"]:
    batch = len(states)
    seen = Seen(states, jnp.ones(batch, bool), jnp.zeros(batch))
    return look(spec, mind, begin(spec, mind.network, batch), seen, still(mind.network, batch)).decision.q
