"""The learner from rollouts, read from top to bottom: collect steps, make targets, learn in minibatches, forget.

It implements the protocol of `agents/agent.py`. PQN, PPO and A2C are specs of it (pqn.py, ppo.py): what each knows of
an action when it acts, what it makes of a rollout, and its loss.
"""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram import spaces
from engram.agents import learner as learning
from engram.agents import pool as pools
from engram.agents import rollout as rollouts
from engram.agents import statistics, symmetry, teams
from engram.agents.acting import ActorState, act, new_actor, remembered
from engram.agents.agent import Acted, AgentState, Experience, PlainPolicy, Rhythm, shape_of
from engram.agents.learner import LearnerState, first_fault, stepped
from engram.agents.mind import MindSpec, OptimizerSpec
from engram.agents.network import Network, build, check_mixing
from engram.agents.optimizing import optimizer_of
from engram.agents.policy import Mind, Seen
from engram.agents.pool import PoolSpec
from engram.agents.recall import state as recalls
from engram.agents.rollout import Examples, Rollout, Steps
from engram.bits import TURN, counted, next_words, permutation, whole
from engram.errors import SpecError
from engram.precision import all_in_32_bits
from engram.ranges import OneOf
from engram.replay.ring import Rows
from engram.specs import setting, spec
from engram.types import Decision, Key, Metrics

if TYPE_CHECKING:
    import optax


FEWEST = 8  # steps of a minibatch that nobody asked for: the advantages of very few say little, and of one nothing


@spec
class CollectSpec:
    """How much is collected before an update, and how often it is learned from."""

    steps: int = setting(32, "steps of each environment in a rollout", low=1, search=OneOf(8, 16, 32, 64, 128))
    epochs: int = setting(2, "times that a rollout is learned from", low=1, search=OneOf(1, 2, 4, 8))
    minibatches: int = setting(
        8, "parts of a rollout, each of which is one update; of whole environments with a working memory", low=1,
        search=OneOf(1, 2, 4, 8, 16, 32),
    )  # fmt: skip


class Pooled(NamedTuple):
    """What acting knew, and whose move it was."""

    own: PyTree
    theirs: Bool[Array, "*batch"]  # whether a past self made it


@spec
class RolloutSpec(MindSpec):
    """What is chosen about an agent that learns from rollouts. A kind adds the three functions at the end."""

    rollout: CollectSpec = setting(CollectSpec(), "how much is collected, and how often it is learned from")
    trace: float = setting(
        0.95, "lambda: 0 bootstraps after one step, 1 at the end of the rollout", low=0, high=1,
        search=OneOf(0.5, 0.65, 0.8, 0.9, 0.95, 1.0),
    )  # fmt: skip

    pool: PoolSpec = setting(PoolSpec(), "frozen past selves to play against", later=True)

    def build(
        self, space: spaces.Space, actions: int, envs: int, demonstrations: int = 0, agents: int = 1
    ) -> "RolloutLearner":
        return RolloutLearner(self, space, actions, envs, agents)

    def fitted(self, given: Collection[str], steps: int, envs: int) -> "RolloutSpec":
        """With as many minibatches as divide the examples, at most those of the preset, and none of them of fewer than
        `FEWEST` steps; a rollout ends within the run.

        What was given stays.
        """
        chosen = self.rollout
        if "rollout.steps" not in given:
            chosen = replace(chosen, steps=max(1 if envs > 1 else 2, min(chosen.steps, -(-steps // envs))))
        if "rollout.minibatches" not in given:
            examples, _ = replace(self, rollout=chosen).dealt(envs)
            most = max(1, min(chosen.minibatches, envs * chosen.steps // FEWEST))
            chosen = replace(chosen, minibatches=max(parts for parts in range(1, most + 1) if examples % parts == 0))
        return replace(self, rollout=chosen, pool=self._pool_for(given, envs))

    def _pool_for(self, given: Collection[str], envs: int) -> PoolSpec:
        """The pool with as many past selves as these environments have room for; without any where there is none."""
        pool, sizes = self.pool, range(self.pool.size, 0, -1)
        if not pool.share or "pool.size" in given:
            return pool
        fits = next((one for one in (replace(pool, size=size) for size in sizes) if 0 < one.lanes(envs) <= envs), None)
        if fits is None:
            return replace(pool, size=1) if "pool.share" in given else PoolSpec()
        return fits

    def dealt(self, envs: int) -> tuple[int, str]:
        """What minibatches are made of: how many a rollout of so many environments has, and what they are."""
        return (envs, "environments") if self.has_memory else (envs * self.rollout.steps, "steps")

    def divides(self, envs: int) -> bool:
        return self.dealt(envs)[0] % self.rollout.minibatches == 0

    def updates_in(self, steps: int, envs: int) -> int:
        return steps * self.rollout.epochs * self.rollout.minibatches // (self.rollout.steps * envs)

    @property
    def examples(self) -> str:
        return f"rollouts of {self.rollout.steps}"

    from_rollouts = True
    remembering = "--preset pqn-rnn or ppo-rnn"

    @property
    def kept(self) -> str:
        return f"a rollout of {self.rollout.steps} steps of every environment"

    @property
    def begins(self) -> str:
        return f"rollout.steps={self.rollout.steps} of every environment"

    def check(self) -> None:
        self._check_recall()
        super().check()
        seen = self.observation
        if self.pool.share and (self.has_memory or self.has_external):
            raise SpecError(
                f"pool.share = {self.pool.share} lets past selves play, which have no memory of their own; set "
                f"pool.share=0, or working=none and external=none"
            )
        if self.symmetry != "off" and self.has_memory:
            raise SpecError(
                f"symmetry = {self.symmetry} turns a rollout, but not what a working memory carries into it; set "
                f"symmetry=off, or working=none"
            )
        if not self.has_memory and (seen.previous_action or seen.previous_reward):
            raise SpecError(
                f"observation.previous_action = {seen.previous_action} and observation.previous_reward = "
                f"{seen.previous_reward} are for a working memory; choose one, such as working=gru, or leave them out"
            )
        usual = OptimizerSpec()
        _refuse(
            {
                "reward.rescale": self.reward.rescale,
                "optimizer.reset_every": self.optimizer.reset_every > 0,
                "optimizer.reset_encoder": self.optimizer.reset_encoder != usual.reset_encoder,
                "optimizer.reset_rest": self.optimizer.reset_rest != usual.reset_rest,
            }
        )

    def _check_recall(self) -> None:
        """First of all: what else is said of them leads to settings that only a replay has."""
        recall = self.recall
        _refuse(
            {
                "recall.imitation_weight": recall.imitation_weight > 0,
                "recall.refresh": recall.refresh > 0,
                "recall.train_through_memory": recall.train_through_memory,
                "recall.keys=target": self.keys_of_target,
                "recall.demonstrations": recall.demonstrations > 0,
                "recall.played=false": not recall.played,
            }
        )

    # -- what each kind says ---------------------------------------------------------------------------------

    def check_minibatch(self, steps: int) -> None:
        """Raises SpecError where a minibatch of so many steps cannot be learned from."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of what `loss_of` tells, and "loss" first."""
        raise NotImplementedError

    def known(self, decision: Decision, action: Int[Array, ""]) -> PyTree:
        """What acting knew of one action, with at least the `value` of the observation."""
        raise NotImplementedError

    def targets(self, steps: Steps) -> PyTree:
        """What each step is taught, from a whole rollout: leaves [time, envs]."""
        raise NotImplementedError

    def loss_of(self, decision: Decision, rows: Examples) -> tuple[Float[Array, ""], Metrics]:
        """The loss of a minibatch, and what is reported of it. Leading axis [rows] in all."""
        raise NotImplementedError


def _refuse(unread: dict[str, bool]) -> None:
    """Raises SpecError for a setting that was asked for and is not read here."""
    for what, asked in unread.items():
        if asked:
            raise SpecError(f"{what} is of agents that learn from a replay; leave it out, or set agent=q-learning")


@all_in_32_bits
@dataclass(frozen=True)
class RolloutLearner:
    """An agent that learns from rollouts of `envs` environments with one observation space and discrete actions.

    `agents`: of each environment, which share its network; each of them is a lane of its own.
    """

    spec: RolloutSpec
    space: spaces.Space
    actions: int
    envs: int = 1
    agents: int = 1

    def __post_init__(self):
        symmetry.check(self.spec, self.space, self.actions)
        pools.check(self.spec.pool, self.spec.turns, self.envs, self.agents)
        check_mixing(self.spec, self.space)
        chosen = self.spec.rollout
        if not self.spec.divides(self.envs):
            examples, what = self.spec.dealt(self.envs)
            raise SpecError(
                f"rollout.minibatches = {chosen.minibatches} does not divide the {examples} {what} of a rollout; give "
                f"a number that does, or leave it out"
            )
        self.spec.check_minibatch(self.envs * chosen.steps // chosen.minibatches)

    @property
    def lanes(self) -> int:
        """Agents that act at once, over all environments."""
        return self.envs * self.agents

    @property
    def rhythm(self) -> Rhythm:
        """One moment of learning after each rollout. Acting waits for it: the next rollout is by the new parameters."""
        steps = self.spec.rollout.steps
        return Rhythm(acts=steps, first=steps * self.envs, lag=0)

    @property
    def missing(self) -> bool:
        return self.spec.takes_missing

    @property
    def branches(self) -> bool:
        """As many looks at what came next as are needed. A seed alone is also twice as fast without `vmap`."""
        return True

    @property
    def metrics(self) -> tuple[str, ...]:
        return (*self.spec.metrics, "pool_return") if self._pooled else self.spec.metrics

    @property
    def _pooled(self) -> bool:
        """Whether past selves play."""
        return self.spec.pool.share > 0

    @property
    def optimizer(self) -> "optax.GradientTransformation":
        chosen = self.spec.optimizer
        return optimizer_of(chosen, self.spec.updates_in(chosen.decay_steps, self.envs))

    # -- beginning ---------------------------------------------------------------------------------------------------

    def init(self, key: Key) -> AgentState:
        """A new agent: fresh parameters, an empty rollout, step 0."""
        keys = jax.random.split(key, 3)
        params = build(self.spec, self.space, self.actions, keys[0], self.agents)
        actor = new_actor(self.spec, params, self.lanes, keys[1])
        met = statistics.begin(self.spec, params.sight, self.lanes)
        optimizer = self.optimizer.init(params)  # type: ignore[arg-type]
        pool = pools.begin(self.spec.pool, params) if self._pooled else None
        learner = LearnerState(params, None, optimizer, keys[2], jnp.int32(0), jnp.int32(-1), met, pool=pool)
        if self._pooled:
            actor = dataclasses.replace(actor, side=jnp.ones(self.envs))
        network, recall = params.seeing(learner.scales), None
        if self.spec.has_external:
            key = jax.random.fold_in(key, 3)
            recall = recalls.init(self.spec, self.space, self.actions, self.lanes, network, key)
        return AgentState(actor, learner, self._empty(network), recall)

    def _empty(self, network: Network) -> Rollout:
        carry = network.working.init() if self.spec.has_memory else None
        frames = jax.tree.map(jnp.asarray, spaces.zeros(self.space, (self.spec.observation.stack,)))
        bits = jnp.zeros(network.words, jnp.uint32)
        decision = jax.eval_shape(network.__call__, frames, bits)
        known = jax.eval_shape(self.spec.known, decision, jax.ShapeDtypeStruct((), jnp.int32))
        if self._pooled:
            flag: Any = jax.ShapeDtypeStruct((), jnp.bool_)
            known = Pooled(known, flag)
        stack = self.spec.observation.stack
        about = stack, carry, known, self.spec.turns
        return rollouts.empty(self.space, self.spec.rollout.steps, self.lanes, *about)

    def mind(self, state: AgentState) -> Mind:
        """What it decides with now."""
        learner = state.learner
        past = None if learner.pool is None else learner.pool.past
        return Mind(learner.params.seeing(learner.scales), state.recall, past=past)

    # -- acting ------------------------------------------------------------------------------------------------------

    def act(self, mind: Mind, actor: ActorState, seen: Seen) -> Acted:
        """Actions for one observation of every environment, and what is known of them."""
        if not self._pooled:
            return act(self.spec, mind, actor, seen, self.spec.has_memory, self.spec.known, agents=self.agents)
        assert actor.side is not None  # `init` gave it
        side = pools.side_now(actor.side, seen)
        moves = pools.theirs(self.spec.pool, self.envs, side)
        played = partial(pools.played, self.spec.pool, mind, moves)
        acted = act(self.spec, mind, actor, seen, self.spec.has_memory, self.spec.known, played)
        noted = acted.noted._replace(known=Pooled(acted.noted.known, moves))
        return acted._replace(actor=dataclasses.replace(acted.actor, side=side), noted=noted)

    def plain(self) -> PlainPolicy | None:
        """None: what is known of each action is noted."""
        return None

    # -- storing -----------------------------------------------------------------------------------------------------

    def observe(self, state: AgentState, experience: Experience) -> AgentState:
        """Puts successive steps into the rollout, counts what was met, and remembers what it came to."""
        experience = learning.of_turns(self.spec, experience)
        learner = learning.with_met(self.spec, self.space, state.learner, experience)
        if self._pooled:
            pool = pools.with_results(self.spec.pool, learner.pool, experience, experience.noted.known.theirs)
            learner = dataclasses.replace(learner, pool=pool)
        external, scales = state.learner.params.external, state.learner.scales
        recall = remembered(self.spec, external, state.recall, experience, scales)
        return AgentState(state.actor, learner, rollouts.written(state.replay, experience), recall)

    # -- learning ----------------------------------------------------------------------------------------------------

    def learn(self, state: AgentState) -> tuple[AgentState, Metrics]:
        """The updates from one rollout, which is then forgotten."""
        chosen, mind, rollout, theirs = self.spec, self.mind(state), state.replay, None
        if self._pooled:
            theirs, rollout = rollout.known.theirs, dataclasses.replace(rollout, known=rollout.known.own)
        frames = rollouts.stacked(chosen, rollout)
        steps = rollouts.steps_of(chosen, mind, rollout, frames, rollout.known.value)
        words = mind.network.words
        shape = rollout.done.shape
        key, bits = next_words(state.learner.key, words * rollout.done.size)
        if chosen.mixing.present:
            steps = teams.mixed_steps(mind.network, self.agents, rollout, steps)
        target = jax.lax.stop_gradient(chosen.targets(steps))
        if chosen.mixing.present:
            target = jnp.repeat(target, self.agents, axis=1)
        examples = rollouts.examples_of(chosen, mind.network, rollout, frames, target, bits.reshape(*shape, words))
        if theirs is not None and chosen.head.has_policy:
            examples = pools.own_moves(examples, theirs)
        if chosen.mixing.present:
            examples = teams.together(examples, self.agents)
        count, batches = len(examples.weight), chosen.rollout.minibatches

        def epoch(learner: LearnerState, _: Any) -> tuple[LearnerState, Metrics]:
            turns = chosen.symmetry == "board"
            key, bits = next_words(learner.key, 2 * count if turns else count)
            order = permutation(bits[:count] if turns else bits)
            learner = dataclasses.replace(learner, key=key)
            drawn = rollouts.turned(self.space, self.actions, examples, bits[count:]) if turns else examples
            return jax.lax.scan(self._update, learner, rollouts.shuffled(order, drawn, batches))

        learner = dataclasses.replace(state.learner, key=key)
        learner, told = jax.lax.scan(epoch, learner, None, length=chosen.rollout.epochs)
        metrics = {name: told[name].mean() for name in chosen.metrics}
        if self._pooled:
            pool = pools.after_rollout(chosen.pool, learner.pool, learner.params)
            learner, metrics = dataclasses.replace(learner, pool=pool), metrics | {"pool_return": pool.result}
        replay = rollouts.learned(state.replay, frames)
        return AgentState(state.actor, learner, replay, state.recall), metrics

    def _update(self, learner: LearnerState, batch: Examples) -> tuple[LearnerState, Metrics]:
        """One update of the parameters from a minibatch."""

        def loss_of(params: Network) -> tuple[Array, Metrics]:
            network = params.seeing(learner.scales)
            if self.spec.mixing.present:
                return teams.rollout_loss(self.spec, self.agents, network, batch)
            decision, rows = rollouts.decisions(self.spec, network, batch)
            return self.spec.loss_of(decision, rows)

        new = stepped(self.optimizer, learner, loss_of)
        updates = counted(learner.updates, 1)
        fault = first_fault(learner.fault, new.finite, updates)
        met, pool = learner.statistics, learner.pool
        after = LearnerState(new.params, None, new.optimizer, learner.key, updates, fault, met, pool=pool)
        return after, {"loss": new.loss, **new.told}

    # -- what a runner asks ------------------------------------------------------------------------------------------

    def rows(self, state: AgentState) -> Rows:
        """None: a rollout is small, and overwritten."""
        return ()

    def with_rows(self, state: AgentState, rows: Rows) -> AgentState:
        return state

    def shared(self, state: AgentState) -> Sequence[Any]:
        """The global step and the number of updates."""
        counters = [] if state.actor is None else [state.actor.steps]
        return [*counters, state.learner.updates]

    def _number(self, update: int, step: int) -> int:
        """The number of an update, over all turns of its counter, at a global step."""
        return whole(update, self.spec.updates_in(step, self.envs), TURN)

    def fault(self, state: AgentState, step: int, seeds: Sequence[int]) -> str | None:
        return learning.fault(state, partial(self._number, step=step), step, seeds)

    def report(self, state: AgentState, step: int) -> dict[str, Any]:
        return learning.report(self.spec, state, self._number(int(state.learner.updates), step), step)

    def nbytes(self) -> dict[str, int]:
        """Bytes of the rollout and of the external memory."""
        shape = shape_of(self)
        return learning.nbytes({"rollout": shape.replay, "external memory": shape.recall})
