"""The agent: one Q-learner, read from top to bottom as an experience lives: `init`, `act`, `observe`, `learn`.

DQN, double DQN, dueling DQN and the rest are values of one `AgentSpec` (presets.py), not agents of their own.

The state is three trees, so that a runner may let the learner work while the actor acts: `act` touches only the
actor, `observe` only the replay, `learn` only the learner. Each function is pure; batch axes are [envs] when
acting and [batch] when learning.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram import spaces
from engram.bits import below, draw, uniform
from engram.encoders.vector import VectorSpec
from engram.errors import SpecError
from engram.heads.q import QSpec
from engram.losses import bootstrap
from engram.losses.regression import HuberSpec
from engram.losses.returns import NStep, n_step
from engram.network import Network, build
from engram.replay import ring, sampling
from engram.specs import part, setting, spec
from engram.types import Decision, Key, Metrics, TimeStep


@spec
class ObservationSpec:
    """How an observation reaches the encoder."""

    stack: int = setting(1, "newest observations that the encoder sees together; one is stored per row", low=1)


@spec
class ReplaySpec:
    """What is kept, and how it is drawn."""

    capacity: int = setting(50_000, "rows kept, over all environments", low=8)
    batch_size: int = setting(64, "rows drawn for one update", low=1)
    start: int = setting(1_000, "environment steps before the first update", low=1)


@spec
class OptimizerSpec:
    """Adam (Kingma & Ba 2015)."""

    learning_rate: float = setting(1e-3, "step size at the start", above=0)
    final_fraction: float = setting(1.0, "the step size falls linearly to this fraction of itself", low=0, high=1)
    decay_steps: int = setting(1, "environment steps, from the first update on, over which it falls", low=1)
    epsilon: float = setting(1e-8, "Adam's epsilon", above=0)
    clip_norm: float = setting(10.0, "largest global norm of a gradient; 0 for no limit", low=0)


@spec
class TargetSpec:
    """target <- target + rate * (parameters - target), every so many updates."""

    every: int = setting(125, "updates between two changes of the target network", low=1)
    rate: float = setting(1.0, "1 copies the parameters (hard); 0.005 follows them slowly (soft)", above=0, high=1)


@spec
class ExplorationSpec:
    """Epsilon-greedy: a random action with a probability that falls linearly with the global step."""

    start: float = setting(1.0, "epsilon at step 0", low=0, high=1)
    end: float = setting(0.02, "epsilon from `steps` on", low=0, high=1)
    steps: int = setting(5_000, "environment steps over which epsilon falls", low=1)

    def epsilon(self, step: int | Array) -> float | Array:
        """The probability of a random action at a global step. Works on integers and on arrays."""
        left = 1.0 - step / self.steps
        return self.end + (self.start - self.end) * (left * (left > 0))


@spec
class AgentSpec:
    """Everything that was chosen about an agent."""

    observation: ObservationSpec = setting(ObservationSpec(), "how an observation reaches the encoder")
    encoder: Any = part("encoder", VectorSpec(), "what sees one observation")
    head: Any = part("head", QSpec(), "what gives the return of each action")
    replay: ReplaySpec = setting(ReplaySpec(), "the replay")
    optimizer: OptimizerSpec = setting(OptimizerSpec(), "the optimizer")
    target: TargetSpec = setting(TargetSpec(), "the target network")
    exploration: ExplorationSpec = setting(ExplorationSpec(), "exploration while training")
    loss: Any = part("loss", HuberSpec(), "distance between Q and its target")
    bootstrap: Literal["greedy", "double"] = setting("greedy", "who picks the next action: target or online network")
    n_step: int = setting(1, "rewards in a target before the bootstrap", low=1)
    discount: float = setting(0.99, "gamma", low=0, high=1)
    reward_clip: float = setting(0.0, "rewards are learned from within +- this; 0 for as they are", low=0)
    learn_every: int = setting(4, "environment steps from one moment of learning to the next", low=1)
    updates: int = setting(1, "updates at each moment of learning", low=1)

    def check(self) -> None:
        if self.replay.capacity <= self.n_step + self.observation.stack:
            raise SpecError(
                f"replay.capacity = {self.replay.capacity} cannot hold one window of n_step = {self.n_step} and "
                f"observation.stack = {self.observation.stack}; raise the capacity"
            )


class ActorState(eqx.Module):
    """What acting changes."""

    frames: PyTree  # the newest observations, leading axes [envs, stack], oldest first
    key: Key
    steps: Int[Array, ""]  # environment steps so far, over all environments: the global step


class LearnerState(eqx.Module):
    """What learning changes."""

    params: Network
    target: Network
    optimizer: PyTree
    key: Key
    updates: Int[Array, ""]  # moments of gradient descent so far
    fault: Int[Array, "*seeds"]  # number of the first update that was not finite, or -1


class AgentState(eqx.Module):
    """Everything that changes. Saving it is the checkpoint."""

    actor: ActorState
    learner: LearnerState
    replay: ring.Ring


class Experience(NamedTuple):
    """What one step of every environment brought, to be written as rows.

    `row` is the step itself. Where `done`, its episode is over and `final_observation` becomes a final row.
    `keep` is False for padding. Leading axes [time, envs].
    """

    row: TimeStep
    done: Bool[Array, "time envs"]
    final_observation: PyTree
    keep: Bool[Array, "time envs"]


@dataclass(frozen=True)
class Agent:
    """A Q-learner for `envs` environments with one observation space and `actions` discrete actions."""

    spec: AgentSpec
    space: spaces.Space
    actions: int
    envs: int = 1

    def __post_init__(self):
        if self.spec.learn_every % self.envs and self.envs % self.spec.learn_every:
            raise SpecError(
                f"learn_every = {self.spec.learn_every} and {self.envs} environments do not fit: each moment of "
                f"learning falls between two steps of all environments, so one must divide the other; set "
                f"learn_every={self.envs}"
            )
        block = 2 * max(1, self.spec.learn_every // self.envs)  # rows written at once, at most
        if self.rows_per_lane <= self.spec.n_step + self.spec.observation.stack + block:
            raise SpecError(
                f"replay.capacity = {self.spec.replay.capacity} leaves {self.rows_per_lane} rows for each of "
                f"{self.envs} environments, too few for n_step = {self.spec.n_step} and learn_every = "
                f"{self.spec.learn_every}; raise it"
            )
        if self.spec.replay.start < self.envs * (self.spec.n_step + 1):
            raise SpecError(
                f"replay.start = {self.spec.replay.start} is before the first whole window of n_step = "
                f"{self.spec.n_step} in {self.envs} environments; raise it to at least "
                f"{self.envs * (self.spec.n_step + 1)}"
            )

    @property
    def rows_per_lane(self) -> int:
        """Replay rows of each environment."""
        return self.spec.replay.capacity // self.envs

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Clipped Adam with its schedule, as a pure value."""
        chosen = self.spec.optimizer
        updates = max(1, chosen.decay_steps * self.spec.updates // self.spec.learn_every)
        rate = optax.linear_schedule(chosen.learning_rate, chosen.learning_rate * chosen.final_fraction, updates)
        clip = optax.clip_by_global_norm(chosen.clip_norm) if chosen.clip_norm else optax.identity()
        return optax.chain(
            clip, optax.adam(rate if chosen.final_fraction < 1 else chosen.learning_rate, eps=chosen.epsilon)
        )

    def init(self, key: Key) -> AgentState:
        """A new agent: fresh parameters, an empty replay, step 0."""
        keys = jax.random.split(key, 3)
        stack = self.spec.observation.stack
        params: PyTree = build(self.spec.encoder, self.spec.head, self.space, stack, self.actions, keys[0])
        frames = jax.tree.map(jnp.asarray, spaces.zeros(self.space, (self.envs, stack)))
        actor = ActorState(frames, keys[1], jnp.int32(0))
        target = jax.tree.map(jnp.copy, params)  # buffers of its own: a runner may donate them
        learner = LearnerState(params, target, self.optimizer.init(params), keys[2], jnp.int32(0), jnp.int32(-1))
        return AgentState(actor, learner, ring.empty(self.space, self.rows_per_lane, self.envs))

    def act(
        self, params: Network, actor: ActorState, observation: PyTree, is_first: Bool[Array, "envs"]
    ) -> tuple[ActorState, Int[Array, "envs"], Decision]:
        """Epsilon-greedy actions for one observation of every environment, and what the network knew."""
        frames = push(actor.frames, observation, is_first)
        decision = jax.vmap(params)(frames)
        key, bits = draw(actor.key, 2 * self.envs)
        explore = uniform(bits[: self.envs]) < self.spec.exploration.epsilon(actor.steps)
        action = jnp.where(explore, below(bits[self.envs :], self.actions), decision.returns.q.argmax(-1))
        return ActorState(frames, key, actor.steps + self.envs), action, decision

    def observe(self, replay: ring.Ring, experience: Experience) -> ring.Ring:
        """Writes the rows of a few successive steps, and the final rows of the episodes that they ended."""
        row, done = experience.row, experience.done
        final = TimeStep(
            observation=experience.final_observation,
            is_first=jnp.zeros_like(done),
            action=jnp.zeros_like(row.action),
            reward=jnp.zeros_like(row.reward),
            terminated=jnp.zeros_like(done),
        )
        return ring.write(replay, interleave(row, final), interleave(experience.keep, experience.keep & done))

    def learn(self, learner: LearnerState, replay: ring.Ring) -> tuple[LearnerState, Metrics]:
        """One update of the parameters from a batch of replay, and of the target when it is due."""
        chosen = self.spec
        key, bits = draw(learner.key, chosen.replay.batch_size)
        row, lane = sampling.uniform_rows(replay, bits, chosen.n_step, chosen.observation.stack)
        batch = jax.vmap(partial(self._transition, replay))(row, lane)
        (loss, q), gradient = jax.value_and_grad(self._loss, has_aux=True)(learner.params, learner.target, batch)
        finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradient))
        descended, optimizer = self._descend(learner.params, gradient, learner.optimizer)
        # A bad update must leave no trace; selecting here is free, it fuses with Adam's own arithmetic.
        accept = partial(jax.tree.map, partial(jnp.where, finite))
        params = accept(descended, learner.params)
        updates = learner.updates + 1
        target = self._follow(learner.target, params, updates)
        fault = jnp.where(finite | (learner.fault >= 0), learner.fault, updates)
        new = LearnerState(params, target, accept(optimizer, learner.optimizer), key, updates, fault)
        return new, Metrics(loss, q, finite)

    def _descend(self, params: PyTree, gradient: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        """The parameters after one step of the optimizer, and its new state."""
        changes, state = self.optimizer.update(gradient, state, params)
        return optax.apply_updates(params, changes), state

    def _follow(self, target: Network, params: Network, updates: Int[Array, ""]) -> Network:
        """The target network after this update."""
        rate, every = self.spec.target.rate, self.spec.target.every

        def move(target: Network, params: Network) -> Network:
            if rate == 1.0:
                return params
            return jax.tree.map(lambda old, new: old + rate * (new - old), target, params)

        if every == 1:
            return move(target, params)
        # A branch, not a selection: most updates then leave megabytes of target where they are.
        return jax.lax.cond(updates % every == 0, move, lambda target, params: target, target, params)

    def _transition(self, replay: ring.Ring, row: Int[Array, ""], lane: Int[Array, ""]) -> "Transition":
        """The n-step transition that starts at one row of the replay."""
        chosen = self.spec
        rows = sampling.window(replay, row, lane, chosen.n_step + 1)
        reward = rows.reward[:-1]
        if chosen.reward_clip:
            reward = reward.clip(-chosen.reward_clip, chosen.reward_clip)
        step = n_step(reward, rows.terminated[:-1], rows.is_first[1:], chosen.discount)
        observe = partial(sampling.stacked, replay, lane=lane, stack=chosen.observation.stack)
        weight = 1.0 - rows.is_first[1].astype(jnp.float32)  # a final row teaches nothing
        return Transition(observe(row), rows.action[0], step, observe(row + step.offset), weight)

    def _loss(self, params: Network, target: Network, batch: "Transition") -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The mean loss of a batch and the mean Q of its actions, over the rows that have a successor."""

        def one(example: Transition) -> tuple[Array, Array]:
            following = target(example.following).returns
            if self.spec.bootstrap == "double":
                selected = bootstrap.double(following, params(example.following).returns.q)
            else:
                selected = bootstrap.greedy(following)
            goal = bootstrap.mean(bootstrap.target(example.step, selected))
            q = params(example.observation).returns.q[example.action]
            return self.spec.loss(q, goal), q

        losses, q = jax.vmap(one)(batch)
        total = jnp.maximum(batch.weight.sum(), 1.0)
        return (batch.weight * losses).sum() / total, (batch.weight * q).sum() / total


class Transition(NamedTuple):
    """One example to learn from. Observations carry a leading axis [stack]."""

    observation: PyTree
    action: Int[Array, ""]
    step: NStep
    following: PyTree  # the observation to bootstrap from
    weight: Float[Array, ""]  # 0 or 1


def push(frames: PyTree, observation: PyTree, is_first: Bool[Array, "envs"]) -> PyTree:
    """The stack with the newest observation at its end; older frames are zeros where an episode begins."""

    def one(old: Array, new: Array) -> Array:
        begins = is_first.reshape(-1, *[1] * (old.ndim - 1))
        return jnp.concatenate([jnp.where(begins, jnp.zeros((), old.dtype), old[:, 1:]), new[:, None]], axis=1)

    return jax.tree.map(one, frames, observation)


def interleave(first: PyTree, second: PyTree) -> PyTree:
    """Two trees of [time, ...] as one of [2 * time, ...]: first 0, second 0, first 1, ..."""
    return jax.tree.map(lambda a, b: jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:]), first, second)
