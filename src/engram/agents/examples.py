"""What one update learns from: examples drawn from replay, and their loss.

Two kinds. Without a working memory an example is a `Transition`: the row it starts at and the row it bootstraps from,
all that a network without memory needs. With one it is a `Window` of successive rows, through which the network is
unrolled: every row after the burn-in is a start, and bootstraps from a later row of the same window.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from engram.agents import recall
from engram.agents.network import Network, Previous
from engram.agents.spec import AgentSpec
from engram.losses import bootstrap
from engram.losses.returns import NStep, n_step
from engram.replay import ring, sampling
from engram.types import Decision


class Transition(NamedTuple):
    """One example to learn from. Observations carry a leading axis [stack]."""

    observation: PyTree
    action: Int[Array, ""]
    step: NStep
    following: PyTree  # the observation to bootstrap from
    weight: Float[Array, ""]  # 0 or 1


class Window(NamedTuple):
    """Successive rows of one lane; leaves have a leading axis [rows], or [window] where so said."""

    memory: PyTree  # before the first row
    frames: PyTree  # [rows, stack, ...]
    is_first: Bool[Array, "rows"]
    previous: Previous
    action: Int[Array, "window"]
    step: NStep  # [window]
    weight: Float[Array, "window"]  # 0 or 1


class Scored(NamedTuple):
    """One prediction beside its target. Leading axes [batch] or [batch, window]."""

    loss: Float[Array, "*batch"]
    q: Float[Array, "*batch"]  # of the action taken, in units of return
    weight: Float[Array, "*batch"]


def words(spec: AgentSpec) -> int:
    """Words of randomness that drawing one example takes: its row, and where its window begins; or its candidates."""
    return 2 if spec.has_memory and spec.replay.align else spec.replay.candidates


def draw(
    spec: AgentSpec, network: Network, replay: ring.Ring, bits: UInt32[Array, "batch words"]
) -> Transition | Window:
    """A batch of examples; leaves have a leading axis [batch]. `bits`: see `words`."""
    drawn = bits[:, 0] if spec.has_memory else bits.reshape(-1)
    row, lane = sampling.uniform_rows(replay, drawn, spec.rows - 1, spec.rows_before)
    if spec.replay.candidates > 1:
        kept = similar(spec, network, replay, row, lane)
        row, lane = row[kept], lane[kept]
    if not spec.has_memory:
        return jax.vmap(partial(transition, spec, replay))(row, lane)
    if spec.replay.align:
        begin = partial(sampling.back_to_start, replay, reach=spec.replay.window - 1, before=spec.rows_before)
        row = jax.vmap(begin)(row, lane, bits[:, 1])
    return jax.vmap(partial(window, spec, replay))(row, lane)


class Nets(NamedTuple):
    """What scores an example: the network that learns, the one that lags behind, and what is remembered."""

    params: Network
    target: Network
    recall: PyTree  # RecallState, or () without an external memory


def loss(
    spec: AgentSpec, recall: PyTree, params: Network, target: Network, batch: Transition | Window
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean loss of a batch and the mean Q of its actions, over the rows that have a successor."""
    one = score_transition if isinstance(batch, Transition) else score_window
    scored = jax.vmap(partial(one, spec, Nets(params, target, recall)))(batch)
    total = jnp.maximum(scored.weight.sum(), 1.0)
    return (scored.weight * scored.loss).sum() / total, (scored.weight * scored.q).sum() / total


def similar(
    spec: AgentSpec, network: Network, replay: ring.Ring, row: Int[Array, "drawn"], lane: Int[Array, "drawn"]
) -> Int[Array, "batch"]:
    """Which of the drawn rows to learn from: those whose embedding is most like that of a newest observation.

    Similarity is the cosine, with several environments to the one that is most alike. Source: Sun et al. 2020
    (attentive experience replay), algorithm 1, there with a number of candidates that falls to 1.
    """

    def embedded(row: Array, lane: Array) -> Array:
        found = network.embed(sampling.stacked(replay, row, lane, spec.observation.stack))
        return found / jnp.maximum(jnp.linalg.norm(found), 1e-6)

    newest = jax.vmap(embedded)(replay.cursor - 1, jnp.arange(replay.envs))
    alike = (jax.vmap(embedded)(row, lane) @ newest.T).max(1)
    return jax.lax.top_k(jax.lax.stop_gradient(alike), spec.replay.batch_size)[1]


# -- transitions -------------------------------------------------------------------------------------------


def transition(spec: AgentSpec, replay: ring.Ring, row: Int[Array, ""], lane: Int[Array, ""]) -> Transition:
    """The n-step transition that starts at one row of the replay."""
    rows = sampling.rows_from(replay, row, lane, spec.rows)
    step = n_step(_clipped(spec, rows.reward[:-1]), rows.terminated[:-1], rows.is_first[1:], spec.discount)
    observe = partial(sampling.stacked, replay, lane=lane, stack=spec.observation.stack)
    weight = 1.0 - rows.is_first[1].astype(jnp.float32)  # a final row teaches nothing
    return Transition(observe(row), rows.action[0], step, observe(row + step.offset), weight)


def score_transition(spec: AgentSpec, nets: Nets, example: Transition) -> Scored:
    """The loss of one transition."""
    lagged = nets.target(example.following)
    online = nets.params(example.following) if needs_online(spec) else lagged
    following = look_ahead(spec, nets, example.following, online, lagged)
    return score(spec, nets, example.observation, nets.params(example.observation), example, following)


# -- windows -----------------------------------------------------------------------------------------------


def window(spec: AgentSpec, replay: ring.Ring, row: Int[Array, ""], lane: Int[Array, ""]) -> Window:
    """The window that begins at one row of the replay, with n-step targets for each of its first `window` rows."""
    size, n = spec.replay.window, spec.n_step
    before = sampling.rows_from(replay, row - 1, lane, spec.rows)
    rows = sampling.rows_from(replay, row, lane, spec.rows)
    starts = jnp.arange(size)[:, None] + jnp.arange(n)
    reward = _clipped(spec, rows.reward)
    returns = jax.vmap(partial(n_step, discount=spec.discount))
    step = returns(reward[starts], rows.terminated[starts], rows.is_first[starts + 1])
    begun = jnp.cumsum(rows.is_first[:size]) > 0  # the memory is as it was when acting, however early that is
    learned = begun | (jnp.arange(size) >= spec.replay.burn_in)
    weight = learned & ~rows.is_first[1 : size + 1]  # a final row teaches nothing
    frames = sampling.stacked_window(replay, row, lane, spec.rows, spec.observation.stack)
    previous = Previous(before.action, _clipped(spec, before.reward))
    memory = sampling.memory_at(replay, row, lane)
    return Window(memory, frames, rows.is_first, previous, rows.action[:size], step, weight.astype(jnp.float32))


def score_window(spec: AgentSpec, nets: Nets, example: Window) -> Scored:
    """The losses of every row of a window, its memory filled from the first row on. Leaves [window].

    The gradient flows back to the first row, the burn-in included: it may hold what a later row needs.

    Sources: Hausknecht & Stone 2015 (arXiv 1507.06527) for windows, Kapturowski et al. 2019 for stored memories and the
    burn-in, Esslinger et al. 2022 (arXiv 2206.01078) for a loss at every row.
    """
    memory = example.memory if spec.replay.stored_memory else nets.params.working.init()
    _, online = nets.params.unroll(memory, example.frames, example.is_first, example.previous)
    _, lagged = nets.target.unroll(memory, example.frames, example.is_first, example.previous)
    following = jax.vmap(partial(look_ahead, spec, nets))(example.frames, online, lagged)
    number = jnp.arange(spec.replay.window)
    following = jax.tree.map(lambda leaf: leaf[number + example.step.offset], following)
    frames, decision = jax.tree.map(lambda leaf: leaf[: spec.replay.window], (example.frames, online))
    steps = Steps(example.action, example.step, example.weight)
    return jax.vmap(partial(score, spec, nets))(frames, decision, steps, following)


# -- both --------------------------------------------------------------------------------------------------


class Steps(NamedTuple):
    """What is known of the action of one row, as a Transition has it."""

    action: Int[Array, "*batch"]
    step: NStep
    weight: Float[Array, "*batch"]


def needs_online(spec: AgentSpec) -> bool:
    """Whether the network that learns must look at the next observation as well: to pick, or to ask the memory."""
    asks = spec.recall.keys == "online" and isinstance(spec.bootstrap, bootstrap.MemorySpec)
    return spec.double or asks


def look_ahead(spec: AgentSpec, nets: Nets, frames: PyTree, online: Decision, lagged: Decision) -> bootstrap.Following:
    """What is known of an observation to bootstrap from."""
    selector = (online if spec.double else lagged).preference
    nothing = jnp.zeros_like(selector)
    if not isinstance(spec.bootstrap, bootstrap.MemorySpec):
        return bootstrap.Following(lagged.returns, selector, nothing, nothing)
    asked = recall.ask(spec, nets.recall, nets.params, nets.target, frames, online.working.vector)
    told = recall.recall(spec, nets.recall, nets.params, asked, online)
    return bootstrap.Following(lagged.returns, selector, told.external.q, told.share)


def score(
    spec: AgentSpec,
    nets: Nets,
    frames: PyTree,
    decision: Decision,
    example: Transition | Steps,
    following: bootstrap.Following,
) -> Scored:
    """The regression of Q on its target, and what an external memory adds to it."""
    target = bootstrap.mean(bootstrap.target(example.step, spec.bootstrap(following)))
    own, action = decision.returns.q[example.action], example.action
    if not recall.read_when_learning(spec):
        return Scored(spec.loss(own, target), own, example.weight)
    told = recall.consult(spec, nets.recall, nets.params, nets.target, frames, decision)[1]
    if isinstance(spec.bootstrap, bootstrap.SuccessorsSpec):
        target = recall.by_successors(nets.recall, nets.target, told, action, target)
    estimate = told.q[action] if spec.recall.through else own
    # No gradient through the read: the loss could be escaped by moving away from what is remembered.
    held, certain = jax.lax.stop_gradient((told.external.q[action], told.external.confidence[action]))
    pull = spec.recall.pull * certain * spec.loss(own, held)
    return Scored(spec.loss(estimate, target) + pull, estimate, example.weight)


def _clipped(spec: AgentSpec, reward: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    return reward.clip(-spec.reward_clip, spec.reward_clip) if spec.reward_clip else reward


def previous_of(spec: AgentSpec, action: Int[Array, "envs"], reward: Float[Array, "envs"]) -> Previous:
    """What acting gives the network of the step before: the reward as learning sees it."""
    return Previous(action, _clipped(spec, reward))
