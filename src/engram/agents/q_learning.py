"""The agent: one Q-learner, read from top to bottom as an experience lives: `init`, `act`, `observe`, `learn`.

The state is three trees, so that a runner may let the learner work while the actor acts: `act` touches only the
actor, `observe` only the replay, `learn` only the learner. Each function is pure; batch axes are [envs] when
acting and [batch] when learning.
"""

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram import spaces
from engram.agents import examples
from engram.agents import recall as remembering
from engram.agents.network import Network, Previous, memory_inputs
from engram.agents.spec import AgentSpec
from engram.bits import draw
from engram.errors import SpecError
from engram.heads.attention import AttentionSpec
from engram.registry import name_of
from engram.replay import ring
from engram.types import Decision, Key, Metrics, TimeStep


class ActorState(eqx.Module):
    """What acting changes."""

    frames: PyTree  # the newest observations, leading axes [envs, stack], oldest first
    memory: PyTree  # the working memory, leading axis [envs]
    action: PyTree  # int32 [envs], the newest; () if nothing reads it
    episode: PyTree  # uint32 [envs 2], bits drawn when the running episode began; () if nothing reads them
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


class Mind(eqx.Module):
    """What an agent decides with: what acts, what is evaluated, what predicts."""

    network: Network
    recall: PyTree = ()  # RecallState of an agent with an external memory, else ()
    target: PyTree = ()  # the target network, where keys are its embeddings, else ()


class AgentState(eqx.Module):
    """Everything that changes. Saving it is the checkpoint."""

    actor: ActorState
    learner: LearnerState
    replay: ring.Ring
    recall: PyTree  # RecallState of an agent with an external memory, else ()

    def mind(self, spec: AgentSpec) -> Mind:
        """What acts now."""
        return Mind(self.learner.params, self.recall, self.learner.target if spec.keys_of_target else ())


class Experience(NamedTuple):
    """What one step of every environment brought, to be written as rows.

    `row` is the step itself. Where `done`, its episode is over and `final_observation` becomes a final row.
    `keep` is False for padding. Leading axes [time, envs].
    """

    row: TimeStep
    done: Bool[Array, "time envs"]
    final_observation: PyTree
    keep: Bool[Array, "time envs"]
    noted: PyTree = ()  # what `act` gave for an external memory


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
        needed = self.spec.rows + self.spec.rows_before
        block = 2 * max(1, self.spec.learn_every // self.envs)  # rows written at once, at most
        if self.rows_per_lane <= needed + block:
            raise SpecError(
                f"replay.capacity = {self.spec.replay.capacity} leaves {self.rows_per_lane} rows for each of "
                f"{self.envs} environments, too few for a window of {needed} rows (window, n_step, stack) beside the "
                f"{block} written at once; raise it"
            )
        if self.spec.replay.start < self.envs * self.spec.rows:
            raise SpecError(
                f"replay.start = {self.spec.replay.start} is before the first whole window of {self.spec.rows} rows "
                f"(window and n_step) in {self.envs} environments; raise it to at least {self.envs * self.spec.rows}"
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
        params: PyTree = build(self.spec, self.space, self.actions, keys[0])
        frames = jax.tree.map(jnp.asarray, spaces.zeros(self.space, (self.envs, stack)))
        memory = repeated(params.working.init(), self.envs)
        action = jnp.zeros(self.envs, jnp.int32) if self.spec.observation.previous_action else ()
        episode = jnp.zeros((self.envs, 2), jnp.uint32) if self.spec.exploration.by_episode else ()
        actor = ActorState(frames, memory, action, episode, keys[1], jnp.int32(0))
        target = jax.tree.map(jnp.copy, params)  # buffers of its own: a runner may donate them
        learner = LearnerState(params, target, self.optimizer.init(params), keys[2], jnp.int32(0), jnp.int32(-1))
        replay = ring.empty(self.space, self.rows_per_lane, self.envs, self.row_memory())
        return AgentState(actor, learner, replay, self._new_recall(params, jax.random.fold_in(key, 3)))

    def _new_recall(self, params: Network, key: Key) -> PyTree:
        if not self.spec.has_external:
            return ()
        return remembering.init(self.spec, self.space, self.actions, self.envs, params, key)

    def recall_nbytes(self) -> int:
        """Bytes of the external memory and what belongs to it; allocates nothing, and traces nothing without one."""
        if not self.spec.has_external:
            return 0
        begun = jax.eval_shape(self.init, jax.random.PRNGKey(0)).recall
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(begun))

    def row_memory(self) -> PyTree:
        """Shapes of what a row of replay keeps of the working memory: of all of it, or () for none."""
        if not self.spec.replay.stored_memory:
            return ()
        empty = partial(build, self.spec, self.space, self.actions)
        return jax.eval_shape(lambda: empty(jnp.zeros(2, jnp.uint32)).working.init())

    def act(
        self,
        mind: Mind,
        actor: ActorState,
        observation: PyTree,
        is_first: Bool[Array, "envs"],
        reward: Float[Array, "envs"],
    ) -> tuple[ActorState, Int[Array, "envs"], Decision, PyTree]:
        """Actions for one observation of every environment, what the agent knew, and what it is to remember of them.

        `reward` is that of the step before; it means nothing where `is_first`. Without an external memory there is
        nothing to remember: ().
        """
        frames = push(actor.frames, observation, is_first)
        reads = self.spec.observation.previous_action
        taken = actor.action if reads else jnp.zeros(self.envs, jnp.int32)
        previous = examples.previous_of(self.spec, taken, reward)
        memory, decision, asked = decide(self.spec, mind, actor.memory, frames, is_first, previous)
        kept = self.spec.exploration.by_episode
        key, bits = draw(actor.key, (4 if kept else 2) * self.envs)
        now, *fresh = bits.reshape(-1, self.envs, 2)
        episode = jax.vmap(self.spec.exploration.kept)(actor.episode, is_first, now, fresh[0]) if kept else now
        action = jax.vmap(partial(self.spec.exploration.choose, step=actor.steps))(decision, now, episode)
        state = ActorState(
            frames, memory, action if reads else (), episode if kept else (), key, actor.steps + self.envs
        )
        if asked is None:
            return state, action, decision, ()
        return state, action, decision, jax.vmap(partial(remembering.note, self.spec))(asked, frames, decision, action)

    def noted(self) -> PyTree:
        """Shapes of what `act` gives to be remembered: leaves [envs, ...], or () without an external memory."""
        state = jax.eval_shape(self.init, jax.ShapeDtypeStruct((2,), jnp.uint32))
        leading = partial(jax.ShapeDtypeStruct, (self.envs,))
        observation = jax.tree.map(jnp.asarray, spaces.zeros(self.space, (self.envs,)))
        seen = observation, leading(bool), leading(jnp.float32)
        return jax.eval_shape(self.act, state.mind(self.spec), state.actor, *seen)[3]

    def observe(self, replay: ring.Ring, experience: Experience) -> ring.Ring:
        """Writes the rows of a few successive steps, and the final rows of the episodes that they ended."""
        row, done = experience.row, experience.done
        final = TimeStep(
            observation=experience.final_observation,
            is_first=jnp.zeros_like(done),
            action=jnp.zeros_like(row.action),
            reward=jnp.zeros_like(row.reward),
            terminated=jnp.zeros_like(done),
            memory=jax.tree.map(jnp.zeros_like, row.memory),
        )
        return ring.write(replay, interleave(row, final), interleave(experience.keep, experience.keep & done))

    def remember(self, params: Network, recall: PyTree, experience: Experience) -> PyTree:
        """The external memory after a few successive steps: what they read, and what came of earlier actions."""
        if not self.spec.has_external:
            return recall

        def one(state: PyTree, step: tuple[TimeStep, PyTree, Array, Array]) -> tuple[PyTree, None]:
            row, noted, done, keep = step
            return remembering.remember(self.spec, params.external, state, noted, row, done, keep), None

        row = dataclasses.replace(experience.row, observation=None, memory=())
        return jax.lax.scan(one, recall, (row, experience.noted, experience.done, experience.keep))[0]

    def refresh(self, learner: LearnerState, recall: PyTree) -> PyTree:
        """The external memory after the keys of a few entries were computed anew; see RecallSpec.refresh."""
        if not self.spec.recall.refresh or not self.spec.has_external:
            return recall
        return remembering.refresh(self.spec, learner.target if self.spec.keys_of_target else learner.params, recall)

    def learn(self, learner: LearnerState, replay: ring.Ring, recall: PyTree = ()) -> tuple[LearnerState, Metrics]:
        """One update of the parameters from a batch of replay, and of the target when it is due."""
        chosen = self.spec
        words = examples.words(chosen)
        key, bits = draw(learner.key, words * chosen.replay.batch_size)
        batch = examples.draw(chosen, learner.params, replay, bits.reshape(words, -1).T)
        descend = jax.value_and_grad(partial(examples.loss, chosen, recall), has_aux=True)
        (loss, q), gradient = descend(learner.params, learner.target, batch)
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


def decide(
    spec: AgentSpec, mind: Mind, memory: PyTree, frames: PyTree, is_first: Bool[Array, "envs"], previous: Previous
) -> tuple[PyTree, Decision, PyTree]:
    """One step of the working memory, the decision for every environment, and what it asked of the external memory."""
    memory, decision = jax.vmap(mind.network.step)(memory, frames, is_first, previous)
    if not spec.has_external:
        return memory, decision, None
    target = mind.target if spec.keys_of_target else mind.network
    asked, decision = jax.vmap(partial(remembering.consult, spec, mind.recall, mind.network, target))(frames, decision)
    return memory, decision, asked


def build(spec: AgentSpec, space: spaces.Space, actions: int, key: Key) -> Network:
    """A network with fresh parameters for observations of `space` and `actions` actions.

    Raises: SpecError or SpaceError where a part cannot serve what it is given.
    """
    encoder_key, head_key = jax.random.split(key)
    offered = spaces.offered_features(space, actions)
    if offered and not isinstance(spec.head, AttentionSpec):
        raise SpecError(
            f"the observation offers {actions} actions by their features, which head="
            f"{name_of('head', type(spec.head))} does not read; use head=attention"
        )
    if offered and spec.observation.previous_action:
        raise SpecError(
            "observation.previous_action = true gives a memory the number of the action, which means nothing where "
            "actions are offered by their features; leave it out"
        )
    encoder = spec.encoder.build(spaces.seen(space), spec.observation.stack, encoder_key)
    reads = spec.observation.previous_action, spec.observation.previous_reward
    working = spec.working.build(memory_inputs(encoder.width, actions, *reads), jax.random.fold_in(key, 2))
    width = remembering.key_width(spec, working.width)
    external = spec.external.build(width, actions, offered, jax.random.fold_in(key, 3))
    head = spec.head.build(working.width, actions, head_key, offered)
    return Network(encoder, working, external, head, space, actions, *reads, forget=spec.forget)


def repeated(memory: PyTree, envs: int) -> PyTree:
    """An empty memory for each of several environments."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (envs, *leaf.shape)), memory)


def push(frames: PyTree, observation: PyTree, is_first: Bool[Array, "envs"]) -> PyTree:
    """The stack with the newest observation at its end; older frames are zeros where an episode begins."""

    def one(old: Array, new: Array) -> Array:
        begins = is_first.reshape(-1, *[1] * (old.ndim - 1))
        return jnp.concatenate([jnp.where(begins, jnp.zeros((), old.dtype), old[:, 1:]), new[:, None]], axis=1)

    return jax.tree.map(one, frames, observation)


def interleave(first: PyTree, second: PyTree) -> PyTree:
    """Two trees of [time, ...] as one of [2 * time, ...]: first 0, second 0, first 1, ..."""
    return jax.tree.map(lambda a, b: jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:]), first, second)
