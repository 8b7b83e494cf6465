"""The Q-learner, read from top to bottom as an experience lives: `init`, `act`, `observe`, `learn`.

It implements the protocol of `agents/agent.py`. DQN, DRQN, R2D2, NEC and the rest are values of its one spec
(presets.py).
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from engram import spaces
from engram.agents import demos, examples, statistics, symmetry, teams
from engram.agents.acting import ActorState, act, new_actor, remembered
from engram.agents.agent import Acted, AgentState, Experience, PlainPolicy, Rhythm, shape_of
from engram.agents.learner import LearnerState, fault, first_fault, nbytes, of_turns, report, stepped, with_met
from engram.agents.network import Network, Previous, build, check_mixing
from engram.agents.optimizing import begun_anew, follow, mixed, optimizer_of
from engram.agents.policy import Mind, Seen, begin, decide, still
from engram.agents.recall import state as recalls
from engram.agents.recall.drift import refresh
from engram.agents.recall.taught import taught
from engram.agents.spec import AgentSpec
from engram.agents.timeline import timeline
from engram.bits import TURN, counted, next_words, whole
from engram.errors import SpecError
from engram.goals import goal_size
from engram.precision import all_in_32_bits
from engram.replay import elsewhere, ring
from engram.replay.draw import Growth, Replay
from engram.replay.ring import Rows
from engram.types import Key, Metrics

if TYPE_CHECKING:
    import optax


@all_in_32_bits
@dataclass(frozen=True)
class QLearner:
    """A Q-learner for `envs` environments with one observation space and `actions` discrete actions.

    `demonstrations`: rows of them that it is given, which it keeps where `demos.ratio` is above 0. `agents`: of each
    environment, which share its network; each of them is a lane of its own. `link`: who keeps the observations and
    carries of its replay rows elsewhere (`replay/elsewhere.py`); empty where they are here.
    """

    spec: AgentSpec
    space: spaces.Space
    actions: int
    envs: int = 1
    demonstrations: int = 0
    agents: int = 1
    link: str = ""

    score: ClassVar[examples.Score] = staticmethod(examples.score)  # what one action is taught

    def __post_init__(self):
        if self.spec.draw.relabels:
            goal_size(self.space)
            if not self.spec.draw.distance and self.spec.draw.within < 0:
                raise SpecError(
                    "draw=hindsight was not told how goals are rewarded, and the environment's compute_reward gave no "
                    "rule; set draw.within=0.05 (with draw.reached and draw.missed), or draw.distance=true"
                )
        if self.spec.learn_every % self.envs and self.envs % self.spec.learn_every:
            raise SpecError(
                f"learn_every = {self.spec.learn_every} and {self.envs} environments do not fit: each moment of "
                f"learning falls between two steps of all environments, so one must divide the other; set "
                f"learn_every={self.envs}"
            )
        symmetry.check(self.spec, self.space, self.actions)
        check_mixing(self.spec, self.space)
        needed, who = self.spec.rows + self.spec.rows_before, "environments" if self.agents == 1 else "agents"
        block = 2 * self.rhythm.acts  # rows written at once, at most
        if self.rows_per_lane <= needed + block:
            raise SpecError(
                f"replay.capacity = {self.spec.replay.capacity} leaves {self.rows_per_lane} rows for each of "
                f"{self.lanes} {who}, too few for a window of {needed} rows (window, n_step, stack) beside the "
                f"{block} written at once; raise it"
            )
        if self.spec.replay.start < self.envs * self.spec.rows:
            raise SpecError(
                f"replay.start = {self.spec.replay.start} is before the first whole window of {self.spec.rows} rows "
                f"(window and n_step) in {self.envs} environments; raise it to at least {self.envs * self.spec.rows}"
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        """`q_mean` is of the actions taken, in units of return; with a mixing that of the team."""
        return "loss", "q_mean"

    @property
    def lanes(self) -> int:
        """Agents that act at once, over all environments."""
        return self.envs * self.agents

    @property
    def rows_per_lane(self) -> int:
        """Replay rows of each environment, or of each of its agents."""
        return self.spec.replay.capacity // self.lanes

    @property
    def _together(self) -> int:
        """Agents whose rows are learned from together."""
        return self.agents if self.spec.mixing.present else 1

    @property
    def rhythm(self) -> Rhythm:
        """One moment of learning every `learn_every` environment steps, `envs` of which happen at once."""
        return Rhythm(acts=max(1, self.spec.learn_every // self.envs), first=self.spec.replay.start, lag=1)

    @property
    def missing(self) -> bool:
        """A NaN is a missing number where `observation.missing=mask`."""
        return self.spec.takes_missing

    @property
    def branches(self) -> bool:
        """An external memory has conditions: only where due, only what is new."""
        return self.spec.has_external

    @property
    def updates(self) -> int:
        """Gradient steps at each moment of learning."""
        return self.spec.updates * max(1, self.envs // self.spec.learn_every)

    @property
    def optimizer(self) -> "optax.GradientTransformation":
        """Clipped Adam with its schedule, as a pure value."""
        return optimizer_of(self.spec.optimizer, self.spec.updates_in(self.spec.optimizer.decay_steps, self.envs))

    # -- beginning ---------------------------------------------------------------------------------------------------

    def init(self, key: Key) -> AgentState:
        """A new agent: fresh parameters, an empty replay, step 0."""
        keys = jax.random.split(key, 3)
        params = build(self.spec, self.space, self.actions, keys[0], self.agents)
        actor = new_actor(self.spec, params, self.lanes, keys[1])
        target = jax.tree.map(jnp.copy, params)  # buffers of its own: a runner may donate them
        optimizer = self.optimizer.init(params)  # type: ignore[arg-type]
        met = statistics.begin(self.spec, params.sight, self.lanes)
        counts = jnp.int32(0), jnp.int32(-1), met, self._not_annealed
        learner = LearnerState(params, target, optimizer, keys[2], *counts)
        replay = self._empty(self._stored(params.working.init()))
        recall = None
        if self.spec.has_external:
            network, key = params.seeing(learner.scales), jax.random.fold_in(key, 3)
            recall = recalls.init(self.spec, self.space, self.actions, self.lanes, network, key)
        return AgentState(actor, learner, replay, recall)

    def _empty(self, carry: PyTree) -> Replay:
        """A replay without rows, each of which will keep a carry like this one."""
        rows = ring.empty(self.space, self.rows_per_lane, self.lanes, carry, self.spec.turns)
        rows = elsewhere.without_wide(rows, self.link) if self.link else rows
        given = demos.empty(self.spec, self.space, self.demonstrations, carry)
        return Replay(rows, self.spec.draw.init(self.rows_per_lane, self.lanes), given)

    def _stored(self, carry: PyTree) -> PyTree:
        """What a row keeps of a carry: all of it, or None."""
        return carry if self.spec.replay.stored_carry else None

    def mind(self, state: AgentState) -> Mind:
        """What it decides with now."""
        learner: LearnerState = state.learner
        network = learner.params.seeing(learner.scales)
        return Mind(network, state.recall, learner.target if self.spec.keys_of_target else None)

    # -- acting ------------------------------------------------------------------------------------------------------

    def act(self, mind: Mind, actor: ActorState, seen: Seen) -> Acted:
        """Actions for one observation of every environment, what the agent knew, and what is to be kept of it."""
        return act(self.spec, mind, actor, seen, self.spec.replay.stored_carry, agents=self.agents)

    def plain(self) -> PlainPolicy | None:
        """For networks without any memory over one array of numbers, explored by chance alone."""
        chance: Any = self.spec.exploration.chance
        remembers = self.spec.has_memory or self.spec.has_external
        if remembers or not isinstance(self.space, spaces.Box) or chance(0) is None or self.spec.head.sizes:
            return None
        if shape_of(self).learner.params.words:  # new ones at each look, which a PlainPolicy has not
            return None
        return PlainPolicy(self.spec.observation.stack, chance, self._preference, self.spec.may_be_blank)

    def _preference(self, mind: Mind, frames: PyTree) -> Float[Array, "envs actions"]:
        envs = len(frames)
        nothing = Previous(jnp.zeros(envs, jnp.int32), jnp.zeros(envs))
        bits = still(mind.network, envs)
        carry = begin(self.spec, mind.network, envs).carry
        return decide(self.spec, mind, carry, frames, jnp.ones(envs, bool), nothing, bits)[1].preference

    # -- storing -----------------------------------------------------------------------------------------------------

    def observe(self, state: AgentState, experience: Experience) -> AgentState:
        """Writes the rows of a few successive steps, the final rows of the episodes that they ended, and the entries
        of actions whose return is known now; counts what was met.
        """
        experience, old = of_turns(self.spec, experience), state.replay
        rows, keep = timeline(experience, None if experience.noted is None else experience.noted.carry)
        before = ring.renumbered(old.ring)
        if self.link:
            grown = elsewhere.write(before, rows, keep, state.learner.fault)
        else:
            grown = ring.write(before, rows, keep)
        growth = Growth(before, grown, self.spec.reach, len(keep))
        replay = Replay(grown, self.spec.draw.grown(old.drawing, growth), old.given)
        learner = with_met(self.spec, self.space, state.learner, experience, (rows, keep))
        external, scales = state.learner.params.external, state.learner.scales
        recall = remembered(self.spec, external, state.recall, experience, scales)
        return dataclasses.replace(state, learner=learner, replay=replay, recall=recall)

    # -- learning ----------------------------------------------------------------------------------------------------

    def learn(self, state: AgentState) -> tuple[AgentState, Metrics]:
        """The updates of one moment of learning, and then the keys of a few entries computed anew."""
        replay, recall = state.replay, state.recall

        def one(_: Any, carry: tuple[LearnerState, PyTree, Metrics]) -> tuple[LearnerState, PyTree, Metrics]:
            learner, drawings, metrics = self._update(carry[0], replay.with_drawings(carry[1]), recall)
            return learner, drawings, jax.tree.map(jnp.add, carry[2], metrics)

        if self.updates == 1:  # without a loop around it, which would keep convolutions from using both cores
            learner, drawings, metrics = self._update(state.learner, replay, recall)
        else:
            carry = state.learner, replay.drawings, {name: jnp.zeros(()) for name in self.metrics}
            learner, drawings, sums = jax.lax.fori_loop(0, self.updates, one, carry)
            metrics = jax.tree.map(lambda leaf: leaf / self.updates, sums)
        if recall is not None and self.spec.recall.refresh:
            network = learner.target if self.spec.keys_of_target else learner.params
            recall = refresh(self.spec, network.seeing(learner.scales), recall)
        if recall is not None and self.spec.recall.demonstrations and replay.given is not None:
            network, target = (each.seeing(learner.scales) for each in (learner.params, learner.target))
            recall = taught(self.spec, network, target, replay.given.ring, recall, learner.updates // self.updates)
        return AgentState(state.actor, learner, replay.with_drawings(drawings), recall), metrics

    def _update(self, learner: LearnerState, replay: Replay, recall: PyTree) -> tuple[LearnerState, PyTree, Metrics]:
        """One update of the parameters from a batch of replay, of the target when it is due, and of the drawing."""
        chosen = self.spec
        words = examples.words(chosen, learner.params, self._together)
        key, bits = next_words(learner.key, words * chosen.replay.batch_size)
        network, lagging = (each.seeing(learner.scales) for each in (learner.params, learner.target))
        drawn, batch = demos.draw(
            chosen, network, replay, bits.reshape(words, chosen.replay.batch_size).T, learner.annealed, self._together
        )

        def loss_of(params: Network) -> tuple[Array, examples.Scored]:
            seeing = params.seeing(learner.scales)  # no gradient is for statistics
            if chosen.mixing.present:
                return teams.loss(chosen, self.agents, seeing, lagging, batch)
            return examples.loss(chosen, recall, seeing, lagging, batch, drawn.importance, self.score)

        new = stepped(self.optimizer, learner, loss_of, examples.sound)
        updates = counted(learner.updates, 1, self._turn)
        target = follow(chosen.target, learner.target, new.params, updates)
        fault = first_fault(learner.fault, new.finite, updates)
        annealed = None if learner.annealed is None else jnp.minimum(learner.annealed + 1, chosen.anneal.updates)
        kept = key, updates, fault, learner.statistics, annealed
        after = LearnerState(new.params, target, new.optimizer, *kept)
        if chosen.optimizer.reset_every:
            after = jax.lax.cond(updates % chosen.optimizer.reset_every == 0, self._reset, lambda same: same, after)
        learned = demos.learned(chosen, replay, drawn, examples.surprise(new.told), new.finite)
        return after, learned, {"loss": new.loss, **examples.told(new.told)}

    def _reset(self, learner: LearnerState) -> LearnerState:
        """Shrink and perturb. Adam, the target and what is annealed begin anew; replay and statistics stay."""
        key = jax.random.fold_in(learner.key, 0x5EED)
        fresh = build(self.spec, self.space, self.actions, key, self.agents)
        params = mixed(self.spec.optimizer, learner.params, fresh)
        return dataclasses.replace(
            learner,
            params=params,
            target=jax.tree.map(jnp.copy, params),
            optimizer=begun_anew(self.optimizer, learner.optimizer, params),
            annealed=self._not_annealed,
        )

    @property
    def _not_annealed(self) -> Int[Array, ""] | None:
        return jnp.int32(0) if self.spec.anneal.updates else None

    @property
    def _turn(self) -> int:
        """Updates after which their number begins anew: a multiple of those from one target, or reset, to the next."""
        together = math.lcm(self.spec.target.every, self.spec.optimizer.reset_every or 1)
        return together * max(1, TURN // together)

    def _number(self, update: int, step: int) -> int:
        """The number of an update, over all turns, at a global step."""
        moments = max(0, (step - self.rhythm.first) // (self.rhythm.acts * self.envs) + 1)
        return whole(update, moments * self.updates, self._turn)

    # -- what a runner asks ------------------------------------------------------------------------------------------

    def rows(self, state: AgentState) -> Rows:
        """The rows of the replay."""
        return state.replay.rows

    def with_rows(self, state: AgentState, rows: Rows) -> AgentState:
        """The state with other rows in the replay."""
        return dataclasses.replace(state, replay=state.replay.with_rows(rows))

    def shared(self, state: AgentState) -> Sequence[Any]:
        """The global step and the number of updates."""
        counters = [] if state.actor is None else [state.actor.steps]
        return [*counters, state.learner.updates]

    def fault(self, state: AgentState, step: int, seeds: Sequence[int]) -> str | None:
        """An update that was not finite, or entries that the external memory had to refuse."""
        return fault(state, partial(self._number, step=step), step, seeds)

    def report(self, state: AgentState, step: int) -> dict[str, Any]:
        """Exploration, the external memory, the number of updates, and returns that the head cannot predict."""
        return report(self.spec, state, self._number(int(state.learner.updates), step), step)

    def nbytes(self) -> dict[str, int]:
        """Bytes of the replay and of the external memory; allocates nothing, and builds a network only if it must."""
        builds = self.spec.has_external or self.spec.replay.stored_carry
        shape = shape_of(self) if builds else AgentState(None, None, jax.eval_shape(partial(self._empty, None)), None)
        return nbytes({"replay": shape.replay, "external memory": shape.recall})
