"""The host runner: any Gymnasium environment, and two compiled calls around its `step`.

Steps are gathered in a block of `group` cycles ("act a few times, then learn"). At its end one compiled call goes
through the cycles: it writes the rows of one to the replay and makes its updates, then the next. The call runs on its
own thread while the next block acts. So the actor has the parameters from before the last call: the lag is part of the
algorithm, not of the timing, and a resumed run has the same.

A group of 1 is right where an update takes longer than a cycle. For small networks the call itself costs as much as
its updates, and a few cycles share it.
"""

from collections import deque
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from engram import spaces
from engram.agents import recall as remembering
from engram.agents.network import Network
from engram.agents.q_learning import Agent, AgentState, Experience, LearnerState, Mind
from engram.envs.host.make import HostEnvs
from engram.errors import LearningFault
from engram.replay.ring import Ring
from engram.runners.acting import choose_actor
from engram.runners.common import RECENT, Captured, Cycle, Tally, not_finite, not_remembered, repeat, summary
from engram.trees import copied, restored
from engram.types import TimeStep

Carry = tuple[Ring, PyTree, LearnerState, Tally]  # what a compiled block changes


class Block(NamedTuple):
    """Successive steps, [steps, envs] each: an Experience that packs its small columns into one array."""

    observation: PyTree
    final_observation: PyTree
    memory: PyTree  # the working memory before each step, or ()
    noted: PyTree  # what is to be remembered of each step, or ()
    columns: np.ndarray | Array  # float32 [steps, envs, 5]: see `unpack`


def unpack(block: Block) -> Experience:
    """The block as an Experience. Actions pass through float32 exactly (they are far below 2^24)."""
    is_first, action, reward, terminated, done = jnp.moveaxis(block.columns, -1, 0)
    row = TimeStep(block.observation, is_first > 0, action.astype(jnp.int32), reward, terminated > 0, block.memory)
    return Experience(row, done > 0, block.final_observation, jnp.ones_like(done, bool), block.noted)


@cache
def compiled_init(agent: Agent) -> Callable[..., Any]:
    """The agent's `init`, compiled once for all runners of an agent."""
    return jax.jit(agent.init)


@cache
def compiled_settle(agent: Agent, group: int) -> Callable[..., Any]:
    """The compiled end of a block: `settle(first, ...)` goes through its cycles, and learns in those from `first` on.

    Leaves go in and out flat: flattening modules at every block would cost as much as a small update. All buffers
    but the parameters and the external memory are donated; the actor still reads those.
    """
    shape = jax.eval_shape(agent.init, jax.ShapeDtypeStruct((2,), jnp.uint32))
    trees = tuple(map(jax.tree.structure, (shape.learner, shape.replay, shape.recall)))
    rhythm = Cycle.of(agent)

    # A group of one is not a loop: a loop would keep convolutions from using both cores.
    @partial(jax.jit, static_argnums=0 if group == 1 else (), donate_argnums=(2, 3))
    def settle(
        first: int | Array, params: list, rest: list, replay: list, recall: list, block: Block
    ) -> tuple[list, list, list, list]:
        cycles = jax.tree.map(lambda leaf: leaf.reshape(group, rhythm.acts, *leaf.shape[1:]), block)

        def write(number: int | Array, carry: Carry) -> Carry:
            ring, memory, learner, tally = carry
            one = unpack(jax.tree.map(lambda leaf: leaf[number], cycles))
            return agent.observe(ring, one), agent.remember(learner.params, memory, one), learner, tally

        def write_and_learn(number: int | Array, carry: Carry) -> Carry:
            ring, memory, learner, tally = write(number, carry)

            def learn(carry: tuple[LearnerState, Tally]) -> tuple[LearnerState, Tally]:
                learner, metrics = agent.learn(carry[0], ring, memory)
                return learner, carry[1].add(metrics)

            learner, tally = repeat(learn, (learner, tally), rhythm.updates)
            return ring, agent.refresh(learner, memory), learner, tally

        loop: Any = _python_loop if group == 1 else jax.lax.fori_loop
        learner: LearnerState = jax.tree.unflatten(trees[0], params + rest[:-3])
        ring, memory = jax.tree.unflatten(trees[1], replay), jax.tree.unflatten(trees[2], recall)
        carry = loop(0, first, write, (ring, memory, learner, Tally(*rest[-3:])))
        ring, memory, learner, tally = loop(first, group, write_and_learn, carry)
        leaves = jax.tree.leaves(learner)
        changed = leaves[: len(params)], leaves[len(params) :] + list(tally)
        return *changed, jax.tree.leaves(ring), jax.tree.leaves(memory)

    return settle


@cache
def compiled_write(agent: Agent) -> Callable[..., tuple[Ring, PyTree]]:
    """Replay and external memory after the steps of a block, of any length; nothing is learned."""

    @jax.jit
    def write(params: Network, replay: Ring, recall: PyTree, block: Block) -> tuple[Ring, PyTree]:
        steps = unpack(block)
        return agent.observe(replay, steps), agent.remember(params, recall, steps)

    return write


def _python_loop(first: int, end: int, body: Callable[[int, Any], Any], carry: Any) -> Any:
    for number in range(first, end):
        carry = body(number, carry)
    return carry


class HostRunner:
    """Drives one agent through host environments. Everything that changes is in `capture`.

    `group`: cycles that share one compiled call.
    """

    def __init__(self, agent: Agent, envs: HostEnvs, seed: int, group: int = 1):
        self.agent, self.envs = agent, envs
        self.cycle, self.group = Cycle.of(agent), group
        self._compiled = compiled_settle(agent, group)
        state = compiled_init(agent)(jax.random.PRNGKey(seed))
        self._trees = tuple(map(jax.tree.structure, (state.learner, state.replay, state.recall)))
        self._mind_tree = jax.tree.structure(state.mind(agent.spec))
        self._set(state.learner, state.replay, state.recall, _no_tally())
        self._acting = self._mind()  # the leaves of the mind from before the last call
        self.actor = choose_actor(agent, self.acting, state.actor, seed)
        self._noted_shapes = agent.noted() if agent.spec.has_external else ()
        self.steps, self._phase = 0, 0
        self._memory_shapes = jax.eval_shape(lambda: state.actor.memory) if agent.spec.replay.stored_memory else ()
        self._block = self._new_block()
        self._is_first = np.ones(agent.envs, bool)
        self._reward = np.zeros(agent.envs, np.float32)  # of the last step
        self._observation: PyTree = None
        self.returns: deque[float] = deque(maxlen=RECENT)
        self.lengths: deque[int] = deque(maxlen=RECENT)
        self.finished = 0
        self._running_return = np.zeros(agent.envs, np.float64)
        self._running_length = np.zeros(agent.envs, np.int64)

    # -- running -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins the first episodes. A restored run does not call this."""
        self._observation = self.envs.reset()

    def advance(self, until: int, stop: Callable[[], bool]) -> None:
        """Acts and learns until the global step is at least `until`, or `stop()` is true."""
        while self.steps < until and not stop():
            self._step()

    def _step(self) -> None:
        observation, is_first, time = self._observation, self._is_first, self._phase
        memory = self.actor.memory() if self.agent.spec.replay.stored_memory else ()
        action, noted = self.actor.act(observation, is_first, self._reward, self.steps)
        taken = self.envs.step(action)
        block = self._block
        _put(block.observation, time, observation)
        _put(block.memory, time, memory)
        _put(block.noted, time, noted)
        columns = block.columns[time]
        columns[:, 0], columns[:, 1], columns[:, 2] = is_first, action, taken.reward
        columns[:, 3], columns[:, 4] = taken.terminated, taken.done
        self._running_return += taken.reward
        self._running_length += 1
        if taken.done.any():
            _put(block.final_observation, time, taken.final_observation)
            self._finish(taken.done)
        self._observation, self._is_first, self._reward = taken.observation, taken.done, taken.reward
        self.steps += self.agent.envs
        self._phase += 1
        if self._phase == len(block.columns):
            self._settle()

    def _finish(self, done: np.ndarray) -> None:
        for env in np.flatnonzero(done):
            self.returns.append(float(self._running_return[env]))
            self.lengths.append(int(self._running_length[env]))
        self._running_return[done] = 0
        self._running_length[done] = 0
        self.finished += int(done.sum())

    def _settle(self) -> None:
        """Ends a block: the actor gets the parameters that the last call made, and the next call begins."""
        each = self.cycle.acts * self.agent.envs
        before = self.steps - self.group * each
        first = min(max((self.agent.spec.replay.start - 1 - before) // each, 0), self.group)  # cycles before learning
        if first < self.group or self._recall:
            self._acting = self._mind()
            self.actor.load(self._acting)  # waits for the call that ran while this block acted
        changed = self._compiled(first, self._params, self._rest, self._replay, self._recall, self._block)
        self._params, self._rest, self._replay, self._recall = changed
        self._block, self._phase = self._new_block(), 0  # the old one may still be read

    def _mind(self) -> list[jax.Array]:
        """The leaves of the newest mind. Those of a target network are copied: the next call is given its buffers."""
        target = map(jnp.copy, jax.tree.leaves(self.learner.target)) if self.agent.spec.keys_of_target else ()
        return [*self._params, *self._recall, *target]

    def _new_block(self) -> Block:
        leading = (self.group * self.cycle.acts, self.agent.envs)
        make = partial(spaces.zeros, self.agent.space, leading)
        memory, noted = jax.tree.map(
            lambda leaf: np.zeros((leading[0], *leaf.shape), leaf.dtype), (self._memory_shapes, self._noted_shapes)
        )
        return Block(make(), make(), memory, noted, np.zeros((*leading, 5), np.float32))

    def report(self) -> dict[str, Any]:
        """The metrics since the last report."""
        self._check()
        loss, q, updates = (np.asarray(leaf).item() for leaf in self._rest[-3:])
        self._rest[-3:] = _no_tally()
        return {
            "episodes": self.finished,
            **summary(np.array(self.returns), np.array(self.lengths)),
            "loss": loss / updates if updates else None,
            "q_mean": q / updates if updates else None,
            **self.agent.spec.exploration.report(self.steps),
            **remembering.report(self.agent.spec, self.recall),
            "updates": int(self.learner.updates),
        }

    def _check(self) -> None:
        fault = int(self.learner.fault)
        if fault >= 0:
            raise LearningFault(not_finite(fault, self.steps))
        entries, (_, *first) = remembering.refused(self.recall)
        if entries:
            raise LearningFault(not_remembered(entries, first, self.steps))

    # -- state ---------------------------------------------------------------------------------------------

    def capture(self) -> Captured:
        """The state, copied, except for the replay, which must be read before the next `advance`.

        Raises LearningFault if an update was not finite: a state to resume from must be sound.
        """
        self._check()
        actor_arrays, actor_meta = self.actor.capture()
        env_meta, env_arrays = self.envs.capture()
        arrays = copied(self.learner, "learner") | copied(self.acting, "acting") | copied(self._block, "block")
        arrays |= copied(Tally(*self._rest[-3:]), "tally") | copied(self.recall, "recall")
        arrays |= {f"actor.{name}": array for name, array in actor_arrays.items()}
        arrays |= {f"env.{name}": array for name, array in env_arrays.items()}
        arrays |= {
            "episodes.running_return": self._running_return.copy(),
            "episodes.running_length": self._running_length.copy(),
            "episodes.returns": np.array(self.returns, np.float64),
            "episodes.lengths": np.array(self.lengths, np.int64),
            "is_first": np.array(self._is_first),
        }
        if self.agent.spec.observation.previous_reward:
            arrays["reward"] = np.array(self._reward)
        numbers = {"steps": self.steps, "phase": self._phase, "finished": self.finished}
        return Captured(arrays, {**numbers, "actor": actor_meta, "env": env_meta}, self.replay)

    def restore(
        self,
        arrays: Mapping[str, np.ndarray],
        meta: dict[str, Any],
        replay: Callable[[Ring], Ring],
        new_episodes: bool = False,
    ) -> None:
        """Takes a captured state back; see Runner."""
        learner, recall = restored(self.learner, arrays, "learner"), restored(self.recall, arrays, "recall")
        tally = restored(Tally(*self._rest[-3:]), arrays, "tally")
        self._set(learner, replay(self.replay), recall, tally)
        self._acting = jax.tree.leaves(restored(self.acting, arrays, "acting"))
        self.actor.load(self._acting)
        self._block = jax.tree.map(np.array, restored(self._block, arrays, "block"))
        self.actor.restore(_below("actor", arrays), meta["actor"])
        self.steps, self._phase, self.finished = meta["steps"], meta["phase"], meta["finished"]
        self._running_return = np.array(arrays["episodes.running_return"])
        self._running_length = np.array(arrays["episodes.running_length"])
        self.returns = deque(arrays["episodes.returns"].tolist(), maxlen=RECENT)
        self.lengths = deque(arrays["episodes.lengths"].tolist(), maxlen=RECENT)
        self._is_first = np.array(arrays["is_first"])
        if self.agent.spec.observation.previous_reward:
            self._reward = np.array(arrays["reward"])
        self._observation = self.envs.restore(meta["env"], _below("env", arrays), new_episodes)
        anew = self.envs.anew
        self._is_first |= anew  # those could not be taken up inside their episode and began another
        self._running_return[anew] = 0
        self._running_length[anew] = 0

    def state(self) -> AgentState:
        """All that acting, learning and remembering changed, the steps of an unfinished block written as well."""
        learner, replay = jax.tree.map(jnp.copy, (self.learner, self.replay))
        actor = jax.eval_shape(self.agent.init, jax.random.PRNGKey(0)).actor
        actor, recall = restored(actor, self.actor.capture()[0]), self.recall
        if self._phase:
            cut = jax.tree.map(lambda leaf: leaf[: self._phase], self._block)
            replay, recall = compiled_write(self.agent)(learner.params, replay, recall, cut)
        return AgentState(actor, learner, replay, recall)

    def take_up(self, state: AgentState, steps: int) -> None:
        """Begins new episodes with what another runner of the same agent learned in so many steps."""
        learner, replay = jax.tree.map(jnp.copy, (state.learner, state.replay))
        self._set(learner, replay, state.recall, _no_tally())
        self._acting, self.steps = self._mind(), steps
        self.actor.load(self._acting)
        self.actor.restore(copied(state.actor), {})

    def finish(self, stopped: bool) -> str | None:
        """See Runner, and HostEnvs.level."""
        if self.envs.level != "boundary" or self._is_first.all():
            return None
        if not stopped or self.agent.envs > 1:  # several are hardly ever between episodes together
            return "an environment cannot be taken up inside an episode: resumed from here, it begins a new one"
        while not self._is_first.all():
            self._step()
        return "the environment cannot be taken up inside an episode: it was run to the end of this one"

    def minds(self) -> list[Mind]:
        """The newest parameters, and what is remembered."""
        return [jax.tree.unflatten(self._mind_tree, self._mind())]

    def close(self) -> None:
        """Lets go of the environments."""
        self.envs.close()

    def _set(self, learner: LearnerState, replay: Ring, recall: PyTree, tally: Tally) -> None:
        params = jax.tree.leaves(learner.params)
        leaves = jax.tree.leaves(learner)
        self._params, self._rest = params, leaves[len(params) :] + list(tally)
        self._replay, self._recall = jax.tree.leaves(replay), jax.tree.leaves(recall)

    @property
    def learner(self) -> LearnerState:
        """What learning changes."""
        return jax.tree.unflatten(self._trees[0], self._params + self._rest[:-3])

    @property
    def recall(self) -> PyTree:
        """The external memory and what waits to be written into it; () without one."""
        return jax.tree.unflatten(self._trees[2], self._recall)

    @property
    def acting(self) -> Mind:
        """What acts: parameters and memory of one call ago."""
        return jax.tree.unflatten(self._mind_tree, self._acting)

    @property
    def replay(self) -> Ring:
        """The replay; its buffers are given away at the next step, so nothing may keep them."""
        return jax.tree.unflatten(self._trees[1], self._replay)


def _no_tally() -> Tally:
    return Tally(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32))


def _below(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    start = prefix + "."
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}


def _put(block: PyTree, time: int, observation: PyTree) -> None:
    """Copies one observation of every environment into a block."""
    if isinstance(block, np.ndarray):
        block[time] = observation
    else:
        jax.tree.map(lambda to, new: to.__setitem__(time, new), block, observation)
